"""Losses on the distance of an embedding to the centre of its class or cluster."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo._checks import Bounds, describe
from metriczoo._execution import reads_are_free
from metriczoo.columns import Columns, DrawnColumns
from metriczoo.functional import centers as F
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.references import References, match
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeSquaredEuclidean, Similarity
from metriczoo.stores.centers import Centers

__all__ = ["CenterLoss", "MagnetLoss", "TripletCenterLoss"]

_NOT_NEGATIVE = Bounds(0)


class CenterLoss(Loss):
    """Center loss: `functional.center` on squared distances of raw embeddings to the centres of their classes.

    Centres receive no gradient: they have a rule of their own, `loss.centers.update(embeddings, labels)`, to be called after backward.
    With other references in a call, or learned `proxies` instead of centres, all references of the own label are its centres.

    Args:
        num_classes: C; a centre for each of the labels 0 ... C - 1. With `embedding_dim`; or give `centers`, a store.
        embedding_dim: dimension of the centres.
        rate: alpha in [0, 1], how far centres move at an update.
        centers: a `Centers` store, in place of the three above.
        options: as of `Loss`.

    Raises:
        ValueError: for both `centers` and `num_classes`.

    Example:
        >>> import torch
        >>> loss = CenterLoss(2, 2)
        >>> x, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), [0, 1]
        >>> loss(x, labels)
        tensor(2.)
        >>> loss.centers.update(x, labels)
        >>> loss(x, labels)
        tensor(1.1250)

    Relations:
        A companion of a softmax loss. `TripletCenterLoss` stands alone.

    References:
        Wen, Zhang, Li, Qiao. A Discriminative Feature Learning Approach for Deep Face Recognition. ECCV 2016.
    """

    needs_negatives = False

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        rate: float = 0.5,
        centers: Centers | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if centers is not None and not isinstance(centers, Centers):
            raise TypeError(f"Expected `centers` to be a Centers, but got {describe(centers)}.")
        if sum((centers is not None, num_classes is not None or embedding_dim is not None, self.proxies is not None)) > 1:
            raise ValueError("Expected one of `centers`, `proxies`, and `num_classes` with `embedding_dim`, but got more.")
        if (num_classes is None) != (embedding_dim is None):
            raise ValueError(f"Expected `num_classes` and `embedding_dim` together, but got {num_classes=} and {embedding_dim=}.")
        made = None if num_classes is None or embedding_dim is None else Centers(num_classes, embedding_dim, rate=rate)
        self.centers = made if centers is None else centers

    def default_similarity(self) -> Similarity:
        """Squared Euclidean distance, negated."""
        return NegativeSquaredEuclidean()

    @property
    def tags(self) -> Tags:
        """A constant pull by the score, and no push."""
        return Tags(shift=False, bound=lambda n, p: p / 2, saturates=False, needs_positives=True, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (embedding, centre)."""
        return F.center(s_n, s_p)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        store = self.centers if references is None else references
        if not isinstance(store, Centers):
            return super()._meet(anchors, labels, store, ids)
        store.check_labels(labels)
        if self.relation is not None:
            return super()._meet(anchors, labels, store, ids)
        match(store.references(), anchors)
        # Only the distance to the own centre is ever computed.
        columns = DrawnColumns(labels.clamp(min=0), labels.new_empty(0), store.embeddings, keep=labels >= 0)
        return columns, self.similarity.prepare(anchors), columns.prepare(self.similarity, anchors.dtype)


class TripletCenterLoss(Loss):
    """Triplet-center loss: `functional.triplet_center` on squared distances of raw embeddings to learned centres, which are proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m >= 0, on half the squared distance.
        options: as of `Loss`. The paper adds up a batch, which is reduction "sum".

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 1)
        >>> proxies.weight.data = torch.tensor([[0.0], [4.0]])
        >>> TripletCenterLoss(proxies=proxies, margin=5.0)(torch.tensor([[1.0]]), [0]).item()
        1.0

    References:
        He, Zhou, Zhou, Bai, Bai. Triplet-Center Loss for Multi-View 3D Object Retrieval. CVPR 2018.
    """

    margin: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE}

    def __init__(self, num_classes: int | None = None, embedding_dim: int | None = None, *, margin: float = 5.0, **options: Any) -> None:
        super().__init__(num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(margin=margin)

    def default_similarity(self) -> Similarity:
        """Squared Euclidean distance, negated."""
        return NegativeSquaredEuclidean()

    @property
    def tags(self) -> Tags:
        """The hardest triplet, on halves of the scores; cosines reach a margin of 1 at most."""
        reachable = True if float(self.margin) <= 1 else None
        return Tags(shift=True, bound=0.5, saturates=reachable, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.triplet_center(s_n, s_p, margin=self.margin)


class MagnetLoss(Loss):
    """Magnet loss: `functional.magnet` on squared distances of raw embeddings to the means of the clusters in the batch.

    Labels are `[n, 2]`, class and cluster of each embedding, as `ClusterIndex.labels_of` gives them: the own cluster is the positive,
    clusters of other classes are the negatives, other clusters of the own class are neither. Labels `[n]` make each class one cluster.
    The means have a gradient. References named in a call take their place; of those of the own class, or of the own cluster where their
    labels are `[m, 2]`, the nearest is the positive.

    The variance is that of the batch, so the loss couples anchors.

    Args:
        margin: alpha >= 0, on logits.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
        >>> MagnetLoss()(x, [0, 0, 1, 1])
        tensor(0.)
        >>> MagnetLoss(margin=7.0)(x, torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]]))
        tensor(2.)

    Relations:
        `stores.ClusterIndex` keeps the clusters, `data.MagnetSampler` draws batches of clusters that are near each other.

    References:
        Rippel, Paluri, Dollar, Bourdev. Metric Learning with Adaptive Density Discrimination. ICLR 2016.
    """

    margin: float | Tensor

    separable = False
    bounds: ClassVar = {"margin": _NOT_NEGATIVE}

    def __init__(self, margin: float = 1.0, **options: Any) -> None:
        super().__init__(**{"relation": _clusters, **options})
        self._set(margin=margin)

    def default_similarity(self) -> Similarity:
        """Squared Euclidean distance, negated."""
        return NegativeSquaredEuclidean()

    @property
    def tags(self) -> Tags:
        """The variance couples anchors: what it costs others that an anchor comes nearer, no single anchor tells."""
        return Tags(
            signs=None,
            monotone=None,
            shift=False,
            saturates=True,
            needs_positives=True,
            needs_negatives=True,
            per_point=False,
            scale=True,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.magnet(s_n, s_p, margin=self.margin, sums=self.pooled(s_n, s_p))

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """What the variance is made of."""
        return F.distances_to_own(s_p)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.proxies if references is None else references
        return super()._meet(anchors, labels, _means(anchors, labels) if references is None else references, ids)


def _clusters(anchors: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and negatives, from labels `[n]`, or `[n, 2]`: class and cluster. Negative ones are ignored."""
    x, y = (labels.unsqueeze(1) if labels.dim() == 1 else labels for labels in (anchors, references))
    width = min(x.shape[1], y.shape[1])  # where one side knows of no clusters, classes are compared
    same = (x[:, None, :width] == y[:, :width]).all(2)
    known = (x >= 0).all(1).unsqueeze(1) & (y >= 0).all(1)
    return same & known, (x[:, :1] != y[:, 0]) & known


def _means(x: Tensor, labels: Tensor) -> References:
    """The mean of each cluster in the batch, in the row of its first member. Other rows are ignored."""
    first = _first_members(labels.flatten(1) if labels.dim() > 1 else labels.unsqueeze(1))
    number = torch.zeros_like(x[:, :1]).index_add(0, first, torch.ones_like(x[:, :1]))
    means = torch.zeros_like(x).index_add(0, first, x) / number.clamp(min=1)
    later = first != torch.arange(len(x), device=x.device)
    return References(means, torch.where(later.view(-1, *[1] * (labels.dim() - 1)), -1, labels))


def _first_members(rows: Tensor) -> Tensor:
    """`[n]`: of each row of `rows` `[n, k]` the first that equals it."""
    if not reads_are_free(rows):
        return (rows.unsqueeze(1) == rows).all(2).to(torch.uint8).argmax(1)
    cluster = rows.unique(dim=0, return_inverse=True)[1]
    places = torch.arange(len(rows), device=rows.device)
    return torch.full_like(places, len(rows)).scatter_reduce(0, cluster, places, "amin")[cluster]
