"""Lifted structured embedding."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from metriczoo._checks import Bounds
from metriczoo.functional.lifted import generalized_lifted_structure, lifted_structure
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeEuclidean, Similarity

__all__ = ["GeneralizedLiftedStructureLoss", "LiftedStructureLoss"]

_NOT_NEGATIVE = Bounds(0)


class LiftedStructureLoss(Loss):
    """Lifted structured loss: `functional.lifted_structure`, on Euclidean distances of raw embeddings.

    Args:
        margin: m >= 0, a distance.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive); in a batch compared with itself, where each pair comes
            twice, that is the paper's half of the mean, 1 / (2P) times the sum over pairs.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
        >>> LiftedStructureLoss()(x, [0, 0, 1])
        tensor(0.1694)

    Relations:
        Each positive is compared with all negatives of its anchor. In a batch compared with itself these scores are there already; with
        other references, behind a miner, or with ids or ignored labels it costs a matrix product per positive.

    References:
        Song, Xiang, Jegelka, Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. CVPR 2016.
    """

    margin: float | Tensor

    compares_positives = True
    bounds: ClassVar = {"margin": _NOT_NEGATIVE}

    def __init__(self, margin: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin)

    def default_similarity(self) -> Similarity:
        """Euclidean distance, negated."""
        return NegativeEuclidean()

    @property
    def tags(self) -> Tags:
        """A squared hinge: distances of a pair and of its negatives may grow together, and the pull has no bound."""
        return Tags(shift=True, bound=math.inf, saturates=True, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return lifted_structure(s_n, s_p, margin=self.margin)


class GeneralizedLiftedStructureLoss(Loss):
    """Generalised lifted structured loss: `functional.generalized_lifted_structure`, on Euclidean distances of raw embeddings.

    Args:
        margin: m >= 0, a distance.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
        >>> GeneralizedLiftedStructureLoss(margin=2.0)(x, [0, 0, 1])
        tensor(0.8820)

    References:
        Hermans, Beyer, Leibe. In Defense of the Triplet Loss for Person Re-Identification. 2017.
    """

    margin: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE}

    def __init__(self, margin: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin)

    def default_similarity(self) -> Similarity:
        """Euclidean distance, negated."""
        return NegativeEuclidean()

    @property
    def tags(self) -> Tags:
        """A hinge on the smooth difference of the farthest positive and the nearest negative."""
        return Tags(shift=True, bound=1.0, saturates=True, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return generalized_lifted_structure(s_n, s_p, margin=self.margin)
