"""Losses by soft histograms of the similarities of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo._execution import product
from metriczoo.functional._folds import pair_terms
from metriczoo.functional._histograms import soft_histogram, soft_histogram_and_cells
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["difference_histogram", "dynamic_soft_margin", "histogram"]


def histogram(s_n: Tensor | Scores, s_p: Tensor | Scores, *, num_bins: int = 100, positive: Tensor | None = None) -> Terms:
    r"""Histogram loss: the probability that a random negative pair is nearer than a random positive one.

    .. math:: L = \sum_{r=1}^R h^-_r \Phi^+_r, \qquad \Phi^+_r = \sum_{q \le r} h^+_q

    :math:`h^\pm` are histograms of the cosines of all positive and all negative pairs, on R nodes from -1 to 1, each pair shared
    linearly by the two nodes around it. They are over all pairs of all anchors: this loss couples anchors.

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        num_bins: R - 1 >= 1, bins between the nodes.
        positive: `[R]`, the histogram of all positive pairs, in any unit, where these anchors are a part of a batch. Default: that
            of these.

    Returns:
        `Terms` over negative pairs, each with the probability, in [0, 1], that a positive is farther. None where there is no positive.

    Example:
        >>> import torch
        >>> histogram(torch.tensor([[-0.5, 0.5]]), torch.tensor([[0.0]]), num_bins=4)
        Terms(total=tensor([1.]), count=tensor([2]), active=tensor([1]))

    Relations:
        No margin and no threshold. Its gradient is 0 where the histogram of the other kind is empty, as in a batch that is separated.

    References:
        Ustinova, Lempitsky. Learning Deep Embeddings with Histogram Loss. NIPS 2016, section 3.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    if positive is None:
        positive = soft_histogram(s_p, num_bins).sum(0)
    number = positive.detach().sum()
    phi = (positive / torch.where(number > 0, number, 1.0)).cumsum(0)
    negative, cells = soft_histogram_and_cells(s_n, num_bins)
    active = torch.where(phi.detach() > 0, cells, 0.0).sum(1)  # from above the last node on where it is 0
    return Terms(product(negative, phi.unsqueeze(1)).squeeze(1), s_n.count() * (number > 0), active.long())


def dynamic_soft_margin(s_n: Tensor | Scores, s_p: Tensor | Scores, *, histogram: Tensor, limit: float = 2.0) -> Terms:
    r"""Dynamic soft margin: a triplet loss whose weights are how hard a triplet is beside all others, on distances :math:`d = -s`.

    .. math:: L_i = F(x_i) \, x_i, \qquad x_i = d_p^i - \min_j d_n^j

    F is the cumulative distribution of x, by a histogram of past triplets. It is a constant to the gradient: the hardest triplet has
    weight 1, the easiest 0, and there is no margin to choose.

    Args:
        s_n: `[b, n]`, negated distances of unit vectors to references of other classes.
        s_p: `[b, p]`, negated distances of unit vectors to references of the anchor's class.
        histogram: `[R]`, of x on R nodes from -limit to limit, in any unit; see `difference_histogram`.
        limit: the largest absolute value that can be: 2 for unit vectors.

    Returns:
        `Terms` over pairs (anchor, positive), of either sign. Anchors without negatives have none.

    Example:
        >>> import torch
        >>> s_n, s_p = torch.tensor([[-1.25, -1.5]]), torch.tensor([[-1.0]])
        >>> dynamic_soft_margin(s_n, s_p, histogram=torch.tensor([1.0, 1.0, 2.0])).total
        tensor([-0.0625])

    Relations:
        `triplet_margin` behind `HardMiner` weighs all triplets beyond a fixed margin alike. The paper takes the negative nearest to
        either end of a pair; here each end of a pair is an anchor with a negative of its own.

    References:
        Zhang, Rusinkiewicz. Learning Local Descriptors with a CDF-Based Dynamic Soft Margin. ICCV 2019.
    """
    s_n, x = as_scores(s_n), _differences(s_n, s_p)
    cdf = (histogram.cumsum(0) / histogram.sum().clamp(min=torch.finfo(histogram.dtype).tiny)).to(x.value.dtype).detach()
    weight = cdf[_place(x.value.detach(), len(histogram) - 1, limit).long()]
    return pair_terms(x.map(lambda v: weight * v), s_n)


def difference_histogram(s_n: Tensor | Scores, s_p: Tensor | Scores, *, num_bins: int = 511, limit: float = 2.0) -> Tensor:
    """Soft histogram of the differences of `dynamic_soft_margin`, on `num_bins` + 1 nodes from -limit to limit: `[num_bins + 1]`, counts.

    Example:
        >>> import torch
        >>> difference_histogram(torch.tensor([[-1.25, -1.5]]), torch.tensor([[-1.0]]), num_bins=4)
        tensor([0.0000, 0.2500, 0.7500, 0.0000, 0.0000])
    """
    with torch.no_grad():
        x = _differences(s_n, s_p)
        some = (as_scores(s_n).count() > 0).unsqueeze(1)
        return soft_histogram(x.where(some), num_bins, -limit, limit).sum(0)


def _differences(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Scores:
    """Of each positive: how much farther it is than the nearest negative of the anchor."""
    nearest = as_scores(s_n).max().unsqueeze(1)
    return as_scores(s_p).map(lambda s: nearest - s)


def _place(x: Tensor, num_bins: int, limit: float) -> Tensor:
    """Where `x` lies among the nodes 0, 1, ..., num_bins, as a real number."""
    return (x.clamp(-limit, limit) + limit) * (num_bins / (2 * limit))
