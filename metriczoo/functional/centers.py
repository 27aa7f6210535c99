"""Losses on the distance of an embedding to the centre of its class or cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["center", "magnet", "triplet_center"]


def center(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Terms:
    r"""Center loss: half the squared distance to the centre of the own class.

    .. math:: L = \tfrac12 \|x - c_y\|^2, \qquad \|x - c\|^2 = -s

    Args:
        s_n: `[b, n]`: has no part in it.
        s_p: `[b, p]`, negated squared distances to the centres of the anchor's class; usually one.

    Returns:
        `Terms` over pairs (embedding, centre).

    Example:
        >>> import torch
        >>> center(torch.empty(1, 0), torch.tensor([[-3.0]]))
        Terms(total=tensor([1.5000]), count=tensor([1]), active=tensor([1.]))

    Relations:
        Collapse of all embeddings to one point is perfect to it: it goes with a softmax loss, at a weight of 0.003 in the paper (0.008 in
        the authors' example). `triplet_center` pushes from other centres as well.

    References:
        Wen, Zhang, Li, Qiao. A Discriminative Feature Learning Approach for Deep Face Recognition. ECCV 2016, equation 2.
    """
    distance = as_scores(s_p).map(lambda s: -s / 2)
    return Terms(distance.sum(), distance.count(), distance.map(lambda d: (d > 0).to(d.dtype)).sum())


def triplet_center(s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 5.0) -> Tensor:
    r"""Triplet-center loss: the own centre is to be nearer than any other, by a margin.

    .. math:: L = \bigl[D_y + m - \min_j D_j\bigr]_+, \qquad D = \tfrac12 \|x - c\|^2 = -\tfrac s2

    Args:
        s_n: `[b, n]`, negated squared distances to the centres of other classes.
        s_p: `[b, p]`, negated squared distances to the centres of the anchor's class; usually one, of several the farthest counts.
        margin: :math:`m \ge 0`, on D.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> triplet_center(torch.tensor([[-4.0, -9.0]]), torch.tensor([[-2.0]]), margin=1.5)
        tensor([0.5000])

    Relations:
        The batch-hard triplet loss, with centres for positives and negatives.

    References:
        He, Zhou, Zhou, Bai, Bai. Triplet-Center Loss for Multi-View 3D Object Retrieval. CVPR 2018, section 3.
    """
    return (margin + (as_scores(s_n).max() - as_scores(s_p).min()) / 2).relu()


def magnet(s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 1.0, sums: Tensor | None = None) -> Tensor:
    r"""Magnet loss: the own cluster against the clusters of other classes, in units of the variance within clusters.

    .. math::
        L = \Bigl[\alpha + \frac{d_p^2}{2 \sigma^2} + \log \sum_j e^{-d_j^2 / 2 \sigma^2}\Bigr]_+, \qquad
        \sigma^2 = \frac{1}{b - 1} \sum_{\text{anchors}} d_p^2, \quad d^2 = -s

    The variance is that of all anchors given, and has a gradient: anchors are coupled.

    Args:
        s_n: `[b, n]`, negated squared distances to the centres of clusters of other classes.
        s_p: `[b, p]`, negated squared distances to the centre of the own cluster; of several the nearest is the own one.
        margin: :math:`\alpha \ge 0`, on logits.
        sums: `[2]`, sum of :math:`d_p^2` over all anchors and their number, where these are a part of a batch. Default: of these.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> magnet(torch.tensor([[-3.0], [-4.0]]), torch.tensor([[-1.0], [-1.0]]))
        tensor([0.5000, 0.2500])

    Relations:
        Unlike `triplet_center` a class may have several clusters, far apart, and its other ones neither draw nor push.

    References:
        Rippel, Paluri, Dollar, Bourdev. Metric Learning with Adaptive Density Discrimination. ICLR 2016, section 3.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    there, distance = s_p.count() > 0, _distance(s_p)
    total, number = (distances_to_own(s_p).sum(0) if sums is None else sums).unbind()
    variance = total / (number - 1).clamp(min=1)
    least = (16 * torch.finfo(variance.dtype).eps) ** 2  # what rounding leaves of unit vectors that are at their centres
    fixed, twice = variance <= least, 2 * variance.clamp(min=least)  # then any unit will do, but a gradient would be of rounding alone

    def logit(s: Tensor) -> Tensor:
        return torch.where(fixed, s.detach(), s) / twice

    return torch.where(there, (margin + logit(distance) + s_n.map(logit).logsumexp()).relu(), 0.0)


def distances_to_own(s_p: Scores) -> Tensor:
    """`[b, 2]`: squared distance of each anchor to its own cluster, and 1, or zeros: what the variance of `magnet` is made of."""
    return torch.stack([_distance(s_p), (s_p.count() > 0).to(s_p.value.dtype)], dim=1)


def _distance(s_p: Scores) -> Tensor:
    return torch.where(s_p.count() > 0, -s_p.max(), s_p.sum())  # the sum of an empty set is 0, attached to the graph
