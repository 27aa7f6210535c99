"""Losses over a positive pair against the negatives of its two ends."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import pad

from metriczoo._checks import Bounds
from metriczoo.columns import Columns, Points
from metriczoo.functional.n_pairs import angular, n_pairs
from metriczoo.losses._points import PointColumns, by_group, points_of
from metriczoo.losses.base import Loss
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import InnerProduct, Similarity

__all__ = ["AngularLoss", "NPairsLoss"]


class NPairsLoss(Loss):
    """Multi-class N-pair loss: `functional.n_pairs`, on inner products of raw embeddings.

    The paper's batch is one pair of each class: `loss(anchors, labels, (positives, labels))`. In a batch compared with itself every
    positive pair is a term and all embeddings of other classes are its negatives.

    Args:
        norm_penalty: lambda >= 0: each pair adds lambda times the mean of the squared norms of its two ends. Inner products are unbounded,
            and this is what bounds them; the paper's weight comes to 0.01. For inner products only.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive).

    Example:
        >>> import torch
        >>> NPairsLoss()(torch.eye(3), [0, 1, 2], (torch.eye(3), [0, 1, 2]))
        tensor(0.5514)
        >>> NPairsLoss(norm_penalty=0.1)(torch.eye(3), [0, 1, 2], (torch.eye(3), [0, 1, 2]))
        tensor(0.6514)

    References:
        Sohn. Improved Deep Metric Learning with Multi-class N-pair Loss Objective. NIPS 2016.
    """

    norm_penalty: float | Tensor

    bounds: ClassVar = {"norm_penalty": Bounds(0)}

    def __init__(self, norm_penalty: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(norm_penalty=norm_penalty)
        self._penalised = isinstance(norm_penalty, Tensor) or norm_penalty > 0
        if self._penalised and not isinstance(self.similarity, InnerProduct):
            raise ValueError(f"Expected `similarity` to be InnerProduct() with a `norm_penalty`, but got {self.similarity}.")

    def default_similarity(self) -> Similarity:
        """Inner product."""
        return InnerProduct()

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return n_pairs(s_n, s_p, penalty=self._penalty(s_p) if self._penalised else 0.0)

    def _penalty(self, s_p: Scores) -> Tensor:
        """`[b, p]`, or what can be expanded to it."""
        points = points_of(s_p)
        own, others = (x.square().sum(1) for x in (points.anchors, points.references))
        near = pad(others, (0, 1))[s_p.columns] if s_p.columns is not None else others
        return self.norm_penalty * (by_group(own, s_p).unsqueeze(1) + near) / 2

    def _columns(self, anchors: Points, points: Points, prepared: Tensor, compared: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        columns, prepared, compared = super()._columns(anchors, points, prepared, compared)
        return PointColumns(columns, anchors.labels) if self._penalised else columns, prepared, compared


class AngularLoss(Loss):
    """Angular loss: `functional.angular`.

    Args:
        angle: alpha in degrees, in (0, 90).
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive).

    Example:
        >>> import torch
        >>> AngularLoss()(torch.eye(4), [0, 0, 1, 1])
        tensor(1.0986)

    Relations:
        Each positive is compared with all negatives of its anchor, which costs a matrix product per positive: with k references of a
        class, about k times the time of a loss on `s_n` and `s_p` alone.

    References:
        Wang, Zhou, Wen, Liu, Lin. Deep Metric Learning with Angular Loss. ICCV 2017.
    """

    angle: float | Tensor

    bounds: ClassVar = {"angle": Bounds(0, 90, open_low=True, open_high=True)}

    def __init__(self, angle: float = 45.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(angle=angle)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return angular(s_n, s_p, angle=self.angle)
