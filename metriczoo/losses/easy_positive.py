"""Easy positive triplets."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from metriczoo._checks import Bounds, check_flag
from metriczoo.functional.easy_positive import easy_positive
from metriczoo.losses._learned import number_of
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms

__all__ = ["EasyPositiveLoss"]


class EasyPositiveLoss(Loss):
    """Easy positive loss: `functional.easy_positive`.

    Args:
        temperature: tau > 0.
        semi_hard: whether the negative is the nearest one beyond the positive (EPSHN) rather than the nearest of all (EPHN).
        options: as of `Loss`. Reduction "mean" is over the anchors that have both a positive and such a negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> EasyPositiveLoss()(x, [0, 0, 1, 1])
        tensor(0.9554)

    References:
        Xuan, Stylianou, Pless. Improved Embeddings with Easy Positive Triplet Mining. WACV 2020.
    """

    temperature: float | Tensor

    bounds: ClassVar = {"temperature": Bounds(0, open_low=True)}

    def __init__(self, temperature: float = 0.1, *, semi_hard: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature)
        self.semi_hard = check_flag("semi_hard", semi_hard)

    @property
    def tags(self) -> Tags:
        """One triplet per anchor. Beyond the positive, a negative that comes nearer may drop out."""
        bound = None if self.semi_hard else 1 / number_of(self.temperature)
        return Tags(monotone=not self.semi_hard, shift=True, bound=bound, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over anchors."""
        return easy_positive(s_n, s_p, temperature=self.temperature, semi_hard=self.semi_hard)
