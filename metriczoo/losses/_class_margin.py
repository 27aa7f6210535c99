"""For losses whose margin may differ from class to class."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from metriczoo._checks import describe
from metriczoo.losses._heads import of_own_class
from metriczoo.losses.base import Call, Loss
from metriczoo.scores import Scores

__all__ = ["ClassMarginLoss"]


class ClassMarginLoss(Loss):
    """A loss with a margin for all classes, or one for each, `[C]`: a buffer, or a parameter if it is given as one."""

    margin: float | Tensor
    scale: float | Tensor

    def __init__(self, margin: float | Tensor, scale: float, **options: Any) -> None:
        super().__init__(**options)
        self.margin_per_class = isinstance(margin, Tensor) and margin.numel() > 1
        if self.margin_per_class:
            self._set_margins(margin)
            self._set(scale=scale)
        else:
            self._set(margin=margin, scale=scale)

    def _set_margins(self, margin: Any) -> None:
        classes = None if self.proxies is None else self.proxies.num_classes
        if margin.dim() != 1 or not margin.is_floating_point() or (classes is not None and len(margin) != classes):
            size = "C" if classes is None else str(classes)
            raise ValueError(f"Expected `margin` to be a number or a floating-point tensor of shape [{size}], but got {describe(margin)}.")
        for end in margin.detach().aminmax():
            self.bounds["margin"].check("margin", float(end))
        if isinstance(margin, nn.Parameter):
            self.margin = margin
        else:
            self.register_buffer("margin", margin)

    def facts(self, call: Call) -> tuple[Any, ...]:
        """The margin of the class of each anchor, `[N]`, where classes have margins of their own."""
        if not self.margin_per_class:
            return ()
        assert isinstance(self.margin, Tensor)
        return (of_own_class("margin", self.margin, call).to(call.prepared.dtype),)

    def margin_of(self, s_p: Scores) -> float | Tensor:
        """The margin of all anchors, or of each, `[b]`."""
        return s_p.of_anchors(s_p.facts[0]) if self.margin_per_class else self.margin
