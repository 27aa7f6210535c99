"""Losses over a positive pair against the negatives of its two ends."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from metriczoo._checks import Bounds
from metriczoo.functional.n_pairs import angular, n_pairs
from metriczoo.losses._learned import number_of
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
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

    @property
    def tags(self) -> Tags:
        """Each positive pulls as the negatives that beat it push: alike and bounded."""
        return Tags(shift=True, bound=lambda n, p: p, saturates=False, needs_positives=True, needs_negatives=True)

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The squared norms of anchors and of references, where they count."""
        return (call.prepared.square().sum(1), call.compared.square().sum(1)) if self._penalised else ()

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return n_pairs(s_n, s_p, penalty=self._penalty(s_p) if self._penalised else 0.0)

    def _penalty(self, s_p: Scores) -> Tensor:
        """`[b, p]`."""
        own, others = s_p.facts
        return self.norm_penalty * (s_p.of_anchors(own).unsqueeze(1) + s_p.of_references(others)) / 2


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
        Each positive is compared with all negatives of its anchor. In a batch compared with itself these scores are there already; with
        other references, behind a miner, or with ids or ignored labels it costs a matrix product per positive.

    References:
        Wang, Zhou, Wen, Liu, Lin. Deep Metric Learning with Angular Loss. ICCV 2017.
    """

    angle: float | Tensor

    compares_positives = True
    bounds: ClassVar = {"angle": Bounds(0, 90, open_low=True, open_high=True)}

    def __init__(self, angle: float = 45.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(angle=angle)

    @property
    def tags(self) -> Tags:
        """Push and pull balance at 30 degrees only."""
        square = math.tan(math.radians(number_of(self.angle))) ** 2
        balanced = math.isclose(square, 1 / 3, rel_tol=1e-12)
        bound = 2 * (1 + square)
        return Tags(shift=balanced, bound=lambda n, p: p * bound, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return angular(s_n, s_p, angle=self.angle)
