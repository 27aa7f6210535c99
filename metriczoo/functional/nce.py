"""Noise-contrastive estimation against a memory bank."""

from __future__ import annotations

from torch import Tensor

from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, as_scores

__all__ = ["nce"]


def nce(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    log_z: float | Tensor,
    num_data: int | Tensor,
    temperature: float | Tensor = 0.07,
    proximal: float | Tensor = 0.0,
    negative_log_noise: Tensor | None = None,
    positive_log_noise: Tensor | None = None,
) -> Tensor:
    r"""Noise-contrastive estimation of instance discrimination: is a sample the anchor's own instance, or noise?

    .. math:: L = -\log h(s_p) - \sum_j \log(1 - h(s_n^j)) + 2 \lambda (1 - s_p), \qquad
        h(s) = \frac{P}{P + m P_n} = \sigma\Bigl(\frac s\tau - \log(m P_n Z)\Bigr), \quad P = \frac{e^{s / \tau}}{Z}

    :math:`P_n` is the probability by which noise is the sample that s belongs to, be it the anchor's own: 1 / n unless given.

    The proximal term :math:`\lambda \|v - v_{old}\|^2 = 2 \lambda (1 - s_p)` ties an embedding to its own entry in the bank.

    Args:
        s_n: `[b, m]`, cosines to noise samples; m counts the cells of an anchor that belong to the set.
        s_p: `[b, p]`, cosines to the anchor's own entry; several entries add up.
        log_z: logarithm of the normaliser Z of one row, the sum of exp(s / temperature) over all data.
        num_data: n, size of the data set.
        temperature: :math:`\tau > 0`.
        proximal: :math:`\lambda \ge 0`; the paper uses 30.
        negative_log_noise: :math:`\log P_n` of the noise samples, `[b, m]`, or `[1, m]` where anchors share them. Default: uniform, -log n.
        positive_log_noise: :math:`\log P_n` of the anchor's own entries, `[b, p]`. Default: uniform.

    Returns:
        `[b]`, >= 0.

    Example:
        >>> import math, torch
        >>> nce(torch.tensor([[0.0]]), torch.tensor([[0.0]]), log_z=math.log(8), num_data=8, temperature=1.0)
        tensor([1.3863])
        >>> rare = torch.tensor([[1 / 24]]).log()  # noise takes the sample a third as often: it tells more of the anchor
        >>> nce(torch.tensor([[0.0]]), torch.tensor([[0.0]]), log_z=math.log(8), num_data=8, temperature=1.0, negative_log_noise=rare)
        tensor([2.0794])

    Relations:
        A sigmoid pair loss with temperature and, for uniform noise, a fixed bias -log(m Z / n); the sigmoid loss of SigLIP learns both,
        negative sampling has bias 0. As m grows its gradient tends to that of the full softmax.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018, equations 5 to 9.
        Gutmann, Hyvarinen. Noise-contrastive estimation. AISTATS 2010.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    m = s_n.count().to(s_n.value.dtype).unsqueeze(1)

    def bias(log_noise: Tensor | None) -> Tensor:
        log_odds = (m / num_data).log() if log_noise is None else m.log() + log_noise
        return (log_z + log_odds).to(s_n.value.dtype)

    own, drawn = bias(positive_log_noise), bias(negative_log_noise)
    positive = s_p.map(lambda s: softplus(own - s / temperature) + 2 * proximal * (1 - s))
    negative = s_n.map(lambda s: softplus(s / temperature - drawn))
    return positive.sum() + negative.sum()
