"""Mahalanobis metric for clustering, on a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["mmc"]

_LEAST = 1e-18  # mean distance whose logarithm is taken where all negatives coincide; squares of smaller ones underflow in float32


def mmc(s_n: Tensor | Scores, s_p: Tensor | Scores, *, sums: Tensor | None = None) -> tuple[Terms, Terms]:
    r"""Mahalanobis metric for clustering: similar pairs near in the mean square, dissimilar ones far in the mean.

    .. math:: L = \frac{1}{|P|} \sum_P d^2 - \log \Bigl( \frac{1}{|N|} \sum_N d \Bigr), \qquad d = -s

    Both means are over all pairs of all anchors: the logarithm couples anchors. Gradients flow through it.

    Args:
        s_n: `[b, n]`, negated distances to references of other classes.
        s_p: `[b, p]`, negated distances to references of the anchor's class.
        sums: `[2]`, sum and number of the distances of all negative pairs, where these anchors are a part of a batch; see `distance_sums`.
            Default: of these.

    Returns:
        Two `Terms`, of the positive and of the negative pairs. Each negative pair has the logarithm as its loss, so that reduction "mean"
        is L. Where all negatives are at distance 0 the loss is large but finite, and its gradient is 0.

    Example:
        >>> import torch
        >>> positive, negative = mmc(torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0]]))
        >>> positive.total, negative.total / negative.count
        (tensor([4.]), tensor([-0.6931]))

    Relations:
        The objective that the estimator `metriczoo.linear.MMC` minimises over linear maps. The paper has sums in place of means, which
        changes the best metric by a scale only. `contrastive` pushes each negative apart up to a margin, here the sum of all counts: one
        far pair can stand for many.

    References:
        Xing, Ng, Jordan, Russell. Distance Metric Learning with Application to Clustering with Side-Information. NIPS 2002, section 2.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    total, number = (distance_sums(s_n).sum(0) if sums is None else sums).unbind()
    log_mean = (total / number.clamp(min=1)).clamp(min=_LEAST).log()
    pairs, pulled = s_n.count(), s_p.map(lambda s: s * s)
    with torch.no_grad():
        drawn = s_p.map(lambda s: (s != 0).to(s.dtype)).sum().long()
    return Terms(pulled.sum(), s_p.count(), drawn), Terms(-log_mean * pairs, pairs, pairs * (log_mean != 0))


def distance_sums(s_n: Tensor | Scores) -> Tensor:
    """`[b, 2]`: of each anchor sum and number of the distances of its negatives: what the logarithm of `mmc` is made of."""
    s_n = as_scores(s_n)
    return torch.stack([-s_n.sum(), s_n.count().to(s_n.value.dtype)], dim=1)
