"""The unified pair loss and what derives from it: all negatives against all positives of an anchor by log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo._checks import check_choice, check_flag
from metriczoo.functional._angles import column
from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, as_scores

__all__ = ["POOLINGS", "am_softmax", "circle", "unified"]

POOLINGS = ("anchor", "batch")


def unified(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    margin: float | Tensor = 0.25,
    scale: float | Tensor = 256.0,
    pooling: str = "anchor",
    weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""The unified loss of pair and class-level learning.

    .. math:: L = \log\Bigl(1 + \sum_i \sum_j e^{\gamma (s_n^j - s_p^i + m)}\Bigr)
                = \operatorname{softplus}\bigl(\operatorname{LSE}_j \gamma (s_n^j + m) + \operatorname{LSE}_i (-\gamma s_p^i)\bigr)

    Args:
        s_n: `[b, n]`, similarities to references of other classes.
        s_p: `[b, p]`, similarities to references of the anchor's class.
        margin: :math:`m \ge 0`: a number, or one for each anchor, `[b]`.
        scale: :math:`\gamma > 0`.
        pooling: `"anchor"`, a loss for each anchor, or `"batch"`: one for all pairs of all anchors, which couples anchors.
        weights: of pooling "batch": how much each cell counts, `[b, n]` of negatives and `[b, p]` of positives, say 1 / 2 each for a pair
            that is met from both of its ends. Default: 1.

    Returns:
        `[b]`, >= 0; 0 where either set is empty. With pooling "batch" the anchors have equal shares, which add up to the loss.

    Example:
        >>> import torch
        >>> unified(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), margin=0.0, scale=1.0)
        tensor([0.6657])

    Relations:
        With one positive and cosine similarity to class proxies it is `am_softmax`; as `scale` grows, `unified / scale` tends to the
        hinge of the hardest negative and the hardest positive (batch-hard triplet). `circle` weighs each similarity by its distance from
        an optimum.

    References:
        Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020,
        equation 1.
    """
    if pooling == "batch":  # where positives of one anchor meet negatives of another, whose margin counts
        push, pull = as_scores(s_n).map(lambda s: s + column(margin)), as_scores(s_p).map(torch.neg)
    else:  # the margin is for the few scores to take
        push, pull = as_scores(s_n), as_scores(s_p).map(lambda s: column(margin) - s)
    return _pooled(push, pull, scale, pooling, weights)


def am_softmax(s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 0.35, scale: float | Tensor = 30.0) -> Tensor:
    r"""Additive margin softmax (CosFace): softmax cross-entropy over class proxies, with a margin on the cosine to the own class.

    .. math:: L = -\log \frac{e^{\gamma (s_p - m)}}{e^{\gamma (s_p - m)} + \sum_j e^{\gamma s_n^j}}

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one. Several count as in `unified`.
        margin: :math:`m \ge 0`: a number, or one for each anchor, `[b]`.
        scale: :math:`\gamma > 0`. AM-Softmax uses 30, CosFace 64, both with margin 0.35.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> am_softmax(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), margin=0.0, scale=1.0)
        tensor([0.6657])

    Relations:
        It is `unified` with one positive. `margin=0` gives NormFace.

    References:
        Wang, Cheng, Liu, Liu. Additive Margin Softmax for Face Verification. IEEE Signal Processing Letters 2018, equation 6.
        Wang et al. CosFace: Large Margin Cosine Loss for Deep Face Recognition. CVPR 2018, equation 4.
    """
    return unified(s_n, s_p, margin=margin, scale=scale)


def circle(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    margin: float | Tensor = 0.25,
    scale: float | Tensor = 256.0,
    detach_weights: bool = True,
    pooling: str = "anchor",
    weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Circle loss: every similarity is weighted by how far it is from its optimum.

    .. math::
        L = \operatorname{softplus}\bigl(\operatorname{LSE}_j \gamma \alpha_n^j (s_n^j - m)
        + \operatorname{LSE}_i (-\gamma \alpha_p^i (s_p^i - 1 + m))\bigr), \quad
        \alpha_n = [s_n + m]_+, \quad \alpha_p = [1 + m - s_p]_+

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        margin: :math:`m \ge 0`: the loss wants s_p > 1 - m and s_n < m.
        scale: :math:`\gamma > 0`.
        detach_weights: whether the weights :math:`\alpha` are constants to the gradient, as in the paper. Otherwise negatives with s_n in
            (-m, 0) are pulled towards 0.
        pooling: `"anchor"`, a loss for each anchor, or `"batch"`: one for all pairs of all anchors, which couples anchors.
        weights: of pooling "batch": how much each cell counts, `[b, n]` of negatives and `[b, p]` of positives, say 1 / 2 each for a pair
            that is met from both of its ends. Default: 1.

    Returns:
        `[b]`, >= 0; 0 where either set is empty. With pooling "batch" the anchors have equal shares, which add up to the loss.

    Example:
        >>> import torch
        >>> circle(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), margin=0.25, scale=1.0)
        tensor([1.0396])
        >>> circle(torch.tensor([[0.2], [0.1]]), torch.tensor([[0.9], [0.8]]), scale=1.0, pooling="batch").sum()
        tensor(1.5501)

    Relations:
        With weights of 1 it is `unified` with margin 1 - 2m. The decision boundary of one pair is the circle s_n^2 + (1 - s_p)^2 = 2 m^2.

    References:
        Sun, Cheng, Zhang, Zhang, Zheng, Wang, Wei. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020,
        equations 4 and 6. Scale 256 and margin 0.25 for faces; 128 and 0.25 for re-identification, 80 and 0.4 for fine-grained retrieval.
    """
    check_flag("detach_weights", detach_weights)

    def weight(s: Tensor) -> Tensor:
        return s.detach() if detach_weights else s

    push = as_scores(s_n).map(lambda s: (weight(s) + margin).relu() * (s - margin))
    pull = as_scores(s_p).map(lambda s: (1 + margin - weight(s)).relu() * (1 - margin - s))
    return _pooled(push, pull, scale, pooling, weights)


def _pooled(push: Scores, pull: Scores, scale: float | Tensor, pooling: str, weights: tuple[Tensor, Tensor] | None) -> Tensor:
    """`softplus(LSE(scale * push) + LSE(scale * pull))`, over the pairs of each anchor or of all."""
    if check_choice("pooling", pooling, POOLINGS) == "anchor":
        if weights is not None:
            raise ValueError('Expected `weights` with `pooling` "batch" only, but got them with "anchor".')
        return softplus(push.logsumexp(scale) + pull.logsumexp(scale))
    some = push.count() + pull.count() > 0
    if weights is not None:
        push, pull = (s.map(lambda v, w=w: v + w.log() / scale) for s, w in zip((push, pull), weights, strict=True))  # type: ignore[misc]
    push_all, pull_all = (Scores(s.logsumexp(scale).unsqueeze(0), (s.count() > 0).unsqueeze(0)) for s in (push, pull))
    loss = softplus(push_all.logsumexp() + pull_all.logsumexp())  # [1]
    return torch.where(some, loss / some.sum().clamp(min=1), 0.0)
