"""Scores to references of which some are certain to be there, and others were drawn to stand for more: estimates of sums over all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from metriczoo.scores import Scores

__all__ = ["StratifiedScores", "stratified"]


class StratifiedScores(Scores):
    """Two sets in one: `certain`, and `drawn`, each of whose cells stands for `weight` cells.

    Sums, counts, means and sums of exponentials are those of all that the draw stands for, in expectation. The largest and the smallest
    value are those of the cells that are there.
    """

    __slots__ = ("certain", "drawn", "weight")

    def __init__(self, certain: Scores, drawn: Scores, weight: float) -> None:
        self.certain, self.drawn, self.weight = certain, drawn, weight
        self.block = certain.block

    def _cells(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(
            "Expected a loss that is made of folds of the scores, such as `logsumexp` and `sum`, and no miner, with `Proxies` that have "
            "`correction=True`, since a drawn class stands for several: give them `correction=False`."
        )

    columns = None
    some = False

    value = mask = excluded = harmless = property(_cells)
    fill = split = take = topk = of_references = _cells

    def __repr__(self) -> str:
        return f"StratifiedScores({self.certain!r}, {self.drawn!r}, {self.weight:.4g})"

    @property
    def height(self) -> int:
        """How many anchors there are."""
        return self.certain.height

    def map(self, f: Callable[[Tensor], Tensor]) -> Scores:
        """The same set with `f`, an elementwise function, applied to its values."""
        return StratifiedScores(self.certain.map(f), self.drawn.map(f), self.weight)

    def offset(self, x: Tensor) -> Scores:
        """The same set with `x[j]` added to the score of each reference `j`."""
        return StratifiedScores(self.certain.offset(x), self.drawn.offset(x), self.weight)

    def groups(self, size: int, fold: Callable[[Tensor], Tensor]) -> Scores:
        """One value for each `size` adjacent references, all certain or all drawn."""
        return StratifiedScores(self.certain.groups(size, fold), self.drawn.groups(size, fold), self.weight)

    def where(self, keep: Tensor) -> Scores:
        """The set of those anchors where `keep` `[b, 1]` is true."""
        if keep.shape[1] != 1:
            self._cells()
        return StratifiedScores(self.certain.where(keep), self.drawn.where(keep), self.weight)

    def count(self) -> Tensor:
        """`[b]` int64: how many cells there are, with those that are stood for."""
        return self.certain.count() + (self.weight * self.drawn.count().double()).round().long()

    def sum(self) -> Tensor:
        """`[b]`: sum; 0 for an empty set."""
        return self.certain.sum() + self.weight * self.drawn.sum()

    def logsumexp(self, scale: float | Tensor = 1.0) -> Tensor:
        """`[b]`: log of the sum of exponentials; -inf for an empty set, with gradient 0."""
        parts = [self.certain.logsumexp(scale), self.drawn.logsumexp(scale) + math.log(self.weight)]
        return Scores(torch.stack(parts, dim=1)).logsumexp()

    def _extreme(self, empty: float, largest: bool) -> Tensor:
        parts = torch.stack([self.certain._extreme(empty, largest), self.drawn._extreme(empty, largest)], dim=1)
        return parts.amax(1) if largest else parts.amin(1)


def stratified(s: Scores, certain: int, weight: float) -> Scores:
    """`s` `[b, n]`, of whose references the first ones are certain to be there; unless it is known already."""
    if isinstance(s, StratifiedScores):
        return s
    value, mask = s.value, s.mask
    columns = torch.arange(value.shape[1], device=value.device).expand_as(value)
    parts = (slice(certain), slice(certain, None))
    first, others = (Scores(value[:, at], mask[:, at], columns=columns[:, at], block=s.block) for at in parts)
    return StratifiedScores(first, others, weight)
