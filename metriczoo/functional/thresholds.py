"""Losses that hold similarities against thresholds, weighing pairs by how far they are beyond."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo._checks import check_flag
from metriczoo.functional._softplus import softplus
from metriczoo.functional._violations import hinge_terms, mean_violation
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["margin", "multi_similarity", "ranked_list", "threshold_consistent_margin"]


def multi_similarity(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    positive_scale: float | Tensor = 2.0,
    negative_scale: float | Tensor = 50.0,
    threshold: float | Tensor = 1.0,
) -> Tensor:
    r"""Multi-similarity loss: soft maxima of positives below, and of negatives above, a threshold.

    .. math:: L = \frac1\alpha \log\Bigl(1 + \sum_i e^{-\alpha (s_p^i - \lambda)}\Bigr)
                + \frac1\beta \log\Bigl(1 + \sum_j e^{\beta (s_n^j - \lambda)}\Bigr)

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        positive_scale: :math:`\alpha > 0`; 2 in the paper and in its code.
        negative_scale: :math:`\beta > 0`; 50 in the paper, 40 in its code.
        threshold: :math:`\lambda`; 1 in the paper, 0.5 in its code.

    Returns:
        `[b]`, >= 0, to be left out where either set is empty. The authors' code divides by all anchors.

    Example:
        >>> import torch
        >>> multi_similarity(torch.tensor([[0.2, 0.5]]), torch.tensor([[0.9]]), threshold=0.5)
        tensor([0.1994])

    Relations:
        `binomial_deviance` averages where this takes a log-sum-exp. The method includes `MultiSimilarityMiner`.

    References:
        Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning. CVPR 2019, equation 15.
    """
    pull = as_scores(s_p).map(lambda s: -positive_scale * (s - threshold)).logsumexp()
    push = as_scores(s_n).logsumexp(negative_scale) - negative_scale * threshold
    return softplus(pull) / positive_scale + softplus(push) / negative_scale


def margin(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 0.2, beta: float | Tensor = 1.2, nu: float | Tensor = 0.0
) -> Terms:
    r"""Margin loss: distances :math:`d = -s` of positives below, and of negatives above, a boundary that may be learned.

    .. math:: L_p = [\alpha + d_p - \beta]_+ + \nu \beta, \qquad L_n = [\alpha - d_n + \beta]_+

    Args:
        s_n: `[b, n]`, negated distances of unit vectors to references of other classes.
        s_p: `[b, p]`, negated distances of unit vectors to references of the anchor's class.
        margin: :math:`\alpha \ge 0`; 0.2 in the paper.
        beta: the boundary: a number, or `[b]`, one per anchor. 1.2 at the start in the paper.
        nu: :math:`\nu \ge 0` draws the boundary inwards, once per positive pair, as the authors' code has it per triplet; 0 there.

    Returns:
        `Terms` over all pairs. Those with a hinge other than 0 are active: reduction "mean_active" is the paper's.

    Example:
        >>> import torch
        >>> margin(torch.tensor([[-0.9, -1.6]]), torch.tensor([[-1.25]]))
        Terms(total=tensor([0.7500]), count=tensor([3]), active=tensor([2.]))

    Relations:
        `contrastive` with margins :math:`\beta \mp \alpha` and without squares. The method includes `DistanceWeightedMiner`.

    References:
        Wu, Manmatha, Smola, Krahenbuhl. Sampling Matters in Deep Embedding Learning. ICCV 2017.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    boundary = beta.to(s_p.value.dtype).reshape(-1, 1) if isinstance(beta, Tensor) else beta
    pull = hinge_terms(s_p.map(lambda s: margin - s - boundary))
    push = hinge_terms(s_n.map(lambda s: margin + boundary + s))
    inwards = nu * s_p.map(lambda s: torch.zeros_like(s) + boundary).sum()
    return Terms(pull.total + push.total + inwards, pull.count + push.count, lambda: pull.active + push.active)


def ranked_list(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    positive_margin: float | Tensor = 0.8,
    negative_margin: float | Tensor = 1.2,
    positive_scale: float | Tensor = 0.0,
    negative_scale: float | Tensor = 10.0,
    negative_weight: float | Tensor = 0.5,
    detach_weights: bool = True,
) -> Tensor:
    r"""Ranked list loss: distances :math:`d = -s` of positives inside a ball and of negatives outside a larger one, the worst weighted.

    .. math::
        L = (1 - \lambda) \operatorname{mean}_{w_p} [d_p - m_p]_+ + \lambda \operatorname{mean}_{w_n} [m_n - d_n]_+, \qquad
        w_p = e^{T_p (d_p - m_p)}, \quad w_n = e^{T_n (m_n - d_n)}

    The weighted means are over the pairs that violate their margin.

    Args:
        s_n: `[b, n]`, negated distances of unit vectors to references of other classes.
        s_p: `[b, p]`, negated distances of unit vectors to references of the anchor's class.
        positive_margin: :math:`m_p = \alpha - m`, radius within which positives are near enough; 0.8 by the paper's 1.2 and 0.4.
        negative_margin: :math:`m_n = \alpha`, radius beyond which negatives are far enough; 1.2 in the paper.
        positive_scale: :math:`T_p \ge 0`; 0, equal weights, in the paper's simpler form.
        negative_scale: :math:`T_n \ge 0`; 10 in the paper.
        negative_weight: :math:`\lambda \in [0, 1]`; 0.5 in the paper.
        detach_weights: whether the weights are constants to the gradient. Otherwise a mild violation may be rewarded for growing.

    Returns:
        `[b]`, >= 0, to be left out where either set is empty.

    Example:
        >>> import torch
        >>> ranked_list(torch.tensor([[-1.0, -1.5]]), torch.tensor([[-1.1, -0.5]]))
        tensor([0.2500])

    Relations:
        `contrastive` with both margins, linear, and with weights that single out the violating pairs.

    References:
        Wang, Hua, Kodirov, Hu, Garnier, Robertson. Ranked List Loss for Deep Metric Learning. CVPR 2019.
    """
    check_flag("detach_weights", detach_weights)
    far = as_scores(s_p).map(lambda s: -s - positive_margin)
    near = as_scores(s_n).map(lambda s: negative_margin + s)
    pull = mean_violation(far, positive_scale, detach_weights=detach_weights)
    push = mean_violation(near, negative_scale, detach_weights=detach_weights)
    return (1 - negative_weight) * pull + negative_weight * push


def threshold_consistent_margin(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    positive_margin: float | Tensor = 0.9,
    negative_margin: float | Tensor = 0.5,
    positive_weight: float | Tensor = 1.0,
    negative_weight: float | Tensor = 1.0,
) -> tuple[Terms, Terms]:
    r"""Threshold-consistent margin: positives above one cosine and negatives below another, the same for all classes.

    .. math:: L_p = \lambda_p \operatorname{mean}_{s_p \le m_p} (m_p - s_p), \qquad
              L_n = \lambda_n \operatorname{mean}_{s_n \ge m_n} (s_n - m_n)

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        positive_margin: :math:`m_p`; 0.9 in the paper.
        negative_margin: :math:`m_n`; 0.5 in the paper.
        positive_weight: :math:`\lambda_p \ge 0`.
        negative_weight: :math:`\lambda_n \ge 0`.

    Returns:
        Two `Terms`, of the positive and of the negative pairs that violate their margin: reduction "mean" averages over these, in all of
        the batch, as the paper does.

    Example:
        >>> import torch
        >>> positive, negative = threshold_consistent_margin(torch.tensor([[0.75, 0.1]]), torch.tensor([[0.5, 0.95]]))
        >>> positive.total, positive.count, negative.total, negative.count
        (tensor([0.4000]), tensor([1]), tensor([0.2500]), tensor([1]))

    Relations:
        `contrastive_cosine` averages over all pairs, so that its gradient fades as pairs are satisfied. This one is a regulariser, to be
        added to a loss that ranks: it makes one threshold serve all classes.

    References:
        Zhang et al. Threshold-Consistent Margin Loss for Open-World Deep Metric Learning. ICLR 2024.
    """
    pull, push = as_scores(s_p).map(lambda s: positive_margin - s), as_scores(s_n).map(lambda s: s - negative_margin)
    return hinge_terms(pull, weight=positive_weight, of_violating=True), hinge_terms(push, weight=negative_weight, of_violating=True)
