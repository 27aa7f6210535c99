"""`StreamedScores`: what a loss sees of scores that are never there all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from metriczoo._stream.anchors import Anchors
from metriczoo._stream.folds import Extreme, Fold, LogSumExp, Sum
from metriczoo._stream.needs import NeedsCells
from metriczoo._stream.steps import Groups, Map, Offset, Step
from metriczoo.scores import Scores

__all__ = ["StreamedScores"]


class StreamedScores(Scores):
    """Scores of a block of anchors to all references but a few, of which only folds are ever known."""

    __slots__ = ("_anchors", "_kept", "_span", "_steps")

    columns = None
    some = False

    def __init__(self, anchors: Anchors, span: slice, steps: Sequence[Step] = (), kept: Tensor | None = None) -> None:
        self._anchors, self._span, self._steps, self._kept = anchors, span, steps, kept
        self.block = anchors.block

    def _cells(self, *_: Any, **__: Any) -> NoReturn:
        raise NeedsCells

    value = mask = excluded = harmless = property(_cells)
    fill = split = of_references = _cells

    def __repr__(self) -> str:
        return f"StreamedScores({self.height} anchors)"

    @property
    def height(self) -> int:
        """How many anchors there are."""
        return len(self._anchors.points)

    @property
    def _grouped(self) -> bool:
        return any(isinstance(step, Groups) for step in self._steps)

    def _then(self, step: Step) -> Scores:
        return StreamedScores(self._anchors, self._span, (*self._steps, step), self._kept)

    def map(self, f: Callable[[Tensor], Tensor]) -> Scores:
        """The same set with `f`, an elementwise function, applied to its values."""
        return self._then(Map(f))

    def offset(self, x: Tensor) -> Scores:
        """The same set with `x[j]` added to the score of each reference `j`."""
        if self._grouped:
            raise NeedsCells
        return self._then(Offset(x))

    def groups(self, size: int, fold: Callable[[Tensor], Tensor]) -> Scores:
        """One value for each `size` adjacent references."""
        if self._grouped:
            raise NeedsCells
        self._anchors.group(size)
        return self._then(Groups(size, fold))

    def where(self, keep: Tensor) -> Scores:
        """The set of those anchors where `keep` `[b, 1]` is true."""
        if keep.shape[1] != 1:
            raise NeedsCells
        return StreamedScores(self._anchors, self._span, self._steps, keep if self._kept is None else keep & self._kept)

    def take(self, cells: Tensor, keep: Tensor) -> Scores:
        """The cells `cells[i]` of each anchor `i`, `[b, k]` int64, of which those with `keep` `[b, k]` belong to the set."""
        taken = self._anchors.narrow(cells, keep if self._kept is None else keep & self._kept)
        for step in self._steps:
            if isinstance(step, Map):
                taken = taken.map(step.function)
            elif isinstance(step, Offset):
                taken = taken.offset(step.x)
            else:
                raise NeedsCells
        return taken

    def count(self) -> Tensor:
        """`[b]` int64: how many cells belong to the set."""
        if self._grouped:
            raise NeedsCells
        count = self._anchors.count(self._span)
        return count if self._kept is None else torch.where(self._kept.squeeze(1), count, 0)

    def sum(self) -> Tensor:
        """`[b]`: sum; 0 for an empty set."""
        return self._fold(Sum())

    def logsumexp(self, scale: float | Tensor = 1.0) -> Tensor:
        """`[b]`: log of the sum of exponentials of `scale > 0` times the values; -inf for an empty set, with gradient 0."""
        if isinstance(scale, Tensor):  # it may have a gradient, or differ from anchor to anchor
            scaled = self.map(lambda v: v * scale)
            return scaled.logsumexp()
        return self._fold(LogSumExp(scale))

    def _extreme(self, empty: float, largest: bool) -> Tensor:
        return self._fold(Extreme(empty, largest))

    def _fold(self, fold: Fold) -> Tensor:
        result = self._anchors.fold(fold, self._span, self._steps)
        return result if self._kept is None else torch.where(self._kept.squeeze(1), result, fold.empty)

    @torch.no_grad()
    def topk(self, k: int, *, largest: bool = True) -> Scores:
        """The `k` largest (or smallest) values of each anchor; fewer where the set has fewer."""
        if self._grouped:
            raise NeedsCells
        empty, k = -math.inf if largest else math.inf, min(k, self._span.stop - self._span.start + 1)
        best = cells = None
        for start, value in self._anchors.values(self._span, self._steps, empty):
            value, found = value.topk(min(k, value.shape[1]), dim=1, largest=largest)
            found += start
            if best is not None and cells is not None:
                value, found = torch.cat([best, value], dim=1), torch.cat([cells, found], dim=1)
                value, order = value.topk(min(k, value.shape[1]), dim=1, largest=largest)
                found = found.gather(1, order)
            best, cells = value, found
        assert best is not None and cells is not None
        with torch.enable_grad():
            return self.take(cells, best.isfinite())
