"""Tuplet margin loss and its companion, the intra-pair variance."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from metriczoo._checks import Bounds
from metriczoo.functional.tuplet import intra_pair_variance, pair_sums, tuplet_margin
from metriczoo.losses._learned import number_of
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms

__all__ = ["IntraPairVarianceLoss", "TupletMarginLoss"]


class TupletMarginLoss(Loss):
    """Tuplet margin loss: `functional.tuplet_margin`.

    Args:
        margin: slack beta in radians, in [0, pi / 2].
        scale: gamma > 0.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> TupletMarginLoss(scale=1.0)(x, [0, 0, 1, 1])
        tensor(0.9236)

    References:
        Yu, Tao. Deep Metric Learning with Tuplet Margin Loss. ICCV 2019.
    """

    margin: float | Tensor
    scale: float | Tensor

    bounds: ClassVar = {"margin": Bounds(0, math.pi / 2), "scale": Bounds(0, open_low=True)}

    def __init__(self, margin: float = 0.1, scale: float = 64.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin, scale=scale)

    @property
    def tags(self) -> Tags:
        """A positive nearer than the slack is pushed out to it; the slack is of angles, so that cosines may not be shifted."""
        plain = number_of(self.margin) == 0
        return Tags(signs=plain, monotone=plain, shift=False, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return tuplet_margin(s_n, s_p, margin=self.margin, scale=self.scale)


class IntraPairVarianceLoss(Loss):
    """Intra-pair variance: `functional.intra_pair_variance`, a regulariser.

    Its means are over all pairs of the batch: it couples anchors.

    Args:
        margin: epsilon in [0, 1], relative to the means.
        options: as of `Loss`. Reduction "mean" averages positive and negative pairs apart, as the paper does.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> IntraPairVarianceLoss()(x, [0, 0, 1, 1])
        tensor(0.0445)

    References:
        Yu, Tao. Deep Metric Learning with Tuplet Margin Loss. ICCV 2019.
    """

    margin: float | Tensor

    separable = needs_positives = needs_negatives = False
    bounds: ClassVar = {"margin": Bounds(0, 1)}

    def __init__(self, margin: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin)

    @property
    def tags(self) -> Tags:
        """Through the mean, pairs that are good already move, too; below a negative mean the margin counts the other way."""
        equal = number_of(self.margin) == 0
        return Tags(signs=False, monotone=False, shift=equal, saturates=equal, needs_positives=False, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
        """Terms of positive and of negative pairs."""
        return intra_pair_variance(s_n, s_p, margin=self.margin, sums=self.pooled(s_n, s_p))

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """What the means of positives and negatives are made of."""
        return pair_sums(s_n, s_p)
