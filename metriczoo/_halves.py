"""Losses that fold the negatives of an anchor once, in two passes over half of the scores.

Points that are compared with themselves have symmetric scores, and all but a few of them are of negatives. A loss by a log-sum-exp over
these, `r_i = log sum_j exp(f(s_ij))`, has the gradient

    dL/ds_ij + dL/ds_ji = f'(s_ij) exp(f(s_ij)) (a_i + a_j),        a_i = dL/dr_i exp(-r_i)

so that strips of the upper half do: a first pass adds them up along either side, the loss itself is computed for all anchors at once,
and a second pass makes the same strips again and multiplies them with the points on either side. Those are two matrix products in place
of three, half of the passes over the scores, and no operation per tile that is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metriczoo._execution import memory
from metriczoo._stream import NeedsCells
from metriczoo._stream.anchors import Anchors
from metriczoo._stream.folds import Fold, LogSumExp
from metriczoo._stream.scores import StreamedScores
from metriczoo._stream.steps import Map, Step, owned
from metriczoo._tiles import Tiles
from metriczoo.columns import LabelColumns
from metriczoo.reduction import Totals, divisors
from metriczoo.scores import HARMLESS, Scores

if TYPE_CHECKING:
    from metriczoo.engine import Problem

__all__ = ["Halves"]

_TABLE = 2**20  # cells that the table of positives may have, besides that it is no larger than the points
_LEAST = 8  # strips of more than so small a share of the scores are mostly of the upper half
_WIDE = 2**18  # elements of an array of points that may be held at once
_BASE = math.log2(math.e)  # powers of 2 take a quarter of the time of those of e


class Halves:
    """One call of a loss. In place of `Tiles`, which take over where it makes another fold, or exponentials would underflow."""

    def __init__(
        self, problem: Problem, anchors: Tensor, parameters: Sequence[Tensor], wanted: Sequence[bool], weights: Tensor | None = None
    ) -> None:
        self.problem, self.points, self.parameters, self.wanted, self.weights = problem, anchors.detach(), parameters, wanted, weights
        self.tiles: Tiles | None = None
        self.every: Totals | None = None
        self.sums: Totals | None = None

    @staticmethod
    def serve(problem: Problem, anchors: Tensor, references: Tensor | None, wanted: Sequence[bool]) -> bool:
        """Whether they are worth a try."""
        loss, columns = problem.loss, problem.columns
        if references is not None or not isinstance(columns, LabelColumns) or not columns.itself or columns.grouped or any(wanted[1:]):
            return False
        if not loss.similarity.is_product or not loss.separable or loss.miner is not None or loss.compiled or loss.needs_tiles:
            return False
        cells = memory(problem.budget, anchors.device) // anchors.element_size()
        table = len(anchors) * columns.largest
        return len(anchors) ** 2 > cells and table <= min(_TABLE, anchors.numel())

    def run(self) -> Tensor:
        """The loss."""
        try:
            return self._run()
        except NeedsCells:
            self.problem.loss.needs_tiles = True
        self.tiles = Tiles(self.problem, self.points, None, self.parameters, self.wanted, self.weights)
        return self.tiles.run()

    def _run(self) -> Tensor:
        problem, columns, rows = self.problem, self.problem.columns, slice(0, len(self.points))
        assert isinstance(columns, LabelColumns)
        positive, same_class, excluded, num_excluded, _ = columns.tables(rows)
        block = problem.block(self.points, rows, self.points.device).but(between=_between)
        strips = _Strips(self.points, excluded, memory(problem.budget, self.points.device))
        self.strips, self.anchors = strips, _Everyone(strips, block, num_excluded - 1)  # not to count the spare column
        self.positive = positive, same_class
        with torch.no_grad():
            self.near = self._near(positive.clamp(max=rows.stop - 1))
        with torch.set_grad_enabled(any(self.wanted)):
            s_p = Scores(
                torch.where(same_class, self.near.requires_grad_(any(self.wanted)), HARMLESS),
                same_class,
                columns=positive,
                block=block,
                harmless=True,
            )
            self.every = every = problem.finish(StreamedScores(self.anchors, rows), s_p, rows)
        if self.anchors.fold_made is None:
            raise NeedsCells
        if problem.loss.reduction == "none":
            return every.value.detach().sum(1)
        self.sums = Totals(every.value.detach().double().sum(0), *(part.sum(0) for part in every[1:]))
        return problem.value(self.sums).to(self.points.dtype)

    def _near(self, cells: Tensor) -> Tensor:
        """`[N, p]`: scores to a few points each."""
        step = max(1, _WIDE // max(1, cells.shape[1] * self.points.shape[1]))
        parts = zip(self.points.split(step), cells.split(step), strict=True)
        return torch.cat([(self.points.index_select(0, c.flatten()).unflatten(0, c.shape).mul_(a.unsqueeze(1))).sum(2) for a, c in parts])

    # ---- the second pass

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        if self.tiles is not None:
            return self.tiles.gradients()
        if not any(self.wanted):
            return ()
        folded = self.anchors.fold_made
        assert folded is not None and self.every is not None
        objective = self._objective(self.every)
        if not objective.requires_grad:
            return (torch.zeros_like(self.points),)
        of_positives, of_result = torch.autograd.grad(objective, (self.near, folded.result), allow_unused=True)
        factors = None if of_result is None else folded.factors(of_result)
        return (self.strips.products(folded, factors, None if of_positives is None else self._both(of_positives)),)

    @torch.enable_grad()
    def _objective(self, every: Totals) -> Tensor:
        """The loss, or its sum with `weights`."""
        if self.weights is not None:
            return (every.value.sum(1) * self.weights).sum()
        assert self.sums is not None
        return (every.value * (1 / divisors(self.problem.loss.reduction, self.sums)).to(every.value.dtype)).sum()

    def _both(self, g_p: Tensor) -> Tensor:
        """`[N, p]`: gradients of the scores of positives, and those of the same scores where the positive is the anchor.

        The tables of a class list it in one order, so that an anchor has the same place in all of them.
        """
        positive, same_class = self.positive
        g_p = torch.where(same_class, g_p, 0.0)
        itself = torch.arange(len(positive), device=positive.device).unsqueeze(1)
        place = (positive == itself).to(torch.uint8).argmax(1, keepdim=True)
        there = positive.clamp(max=len(positive) - 1) * positive.shape[1] + place
        return torch.where(same_class, g_p + g_p.flatten()[there], 0.0)


def _between(i: Tensor, j: Tensor | None) -> Tensor:
    raise NeedsCells


@dataclass(eq=False)
class _Folded:
    """The fold that a loss has made."""

    maps: Sequence[Map]
    scale: float  # of the exponents, to base 2
    top: float  # largest value
    total: Tensor  # [N] sums of the exponentials, relative to that of `top`
    result: Tensor  # [N], a leaf

    def factors(self, grad: Tensor) -> Tensor:
        """`[N]`: of the exponentials, from the gradient of the result."""
        return torch.where(self.total > 0, grad * (self.scale / _BASE) / self.total, 0.0)


class _Everyone(Anchors):
    """All points as the anchors of one block, of whose scores there is a fold."""

    def __init__(self, strips: _Strips, block: object, num_excluded: Tensor) -> None:
        self.strips, self.points, self.block, self.num_excluded = strips, strips.points, block, num_excluded  # type: ignore[assignment]
        self.fold_made: _Folded | None = None

    def group(self, size: int) -> None:
        """Groups are of cells."""
        raise NeedsCells

    def values(self, span: slice, steps: Sequence[Step], empty: float) -> Iterator[tuple[int, Tensor]]:
        """Those are cells."""
        raise NeedsCells

    def narrow(self, cells: Tensor, there: Tensor) -> Scores:
        """Those are cells."""
        raise NeedsCells

    def fold(self, fold: Fold, span: slice, steps: Sequence[Step]) -> Tensor:
        """`[N]`: the one log-sum-exp that there may be, of functions of the scores that hold nothing else."""
        maps = [step for step in steps if isinstance(step, Map)]
        if not isinstance(fold, LogSumExp) or self.fold_made is not None or len(maps) < len(steps):
            raise NeedsCells
        probe = self.points.new_full((1, 2), HARMLESS)
        for step in maps:
            probe = step.function(probe)
            if probe.shape != (1, 2) or probe.requires_grad:
                raise NeedsCells
        with torch.no_grad():
            top, total = self.strips.sums(maps, fold.scale * _BASE)
        far = total < 2.0 ** (0.6 * self.strips.least)  # so far below those of others that further ones of the same anchor would be lost
        if bool((far & (self.count(span) > 0)).any()):
            raise NeedsCells
        result = total.log() + top * fold.scale
        self.fold_made = _Folded(maps, fold.scale * _BASE, top, total, result.requires_grad_(torch.is_grad_enabled()))
        return result


class _Strips:
    """The upper half of the scores of points `[N, d]`, strip by strip: some rows, from their first point on.

    Args:
        points: prepared.
        excluded: `[N, e]` int64, cells of each row that are no negatives: the point itself is among them.
        budget: bytes of a strip and of an array of factors for it.
    """

    def __init__(self, points: Tensor, excluded: Tensor, budget: int) -> None:
        n, start = len(points), 0
        most = min(budget // (2 * points.element_size()), n * n // _LEAST)
        self.points = points
        self.rows: list[slice] = []
        while start < n:
            height = min(n - start, max(1, most // (n - start)) + 7 & ~7)  # products like multiples of 8
            self.rows.append(slice(start, start + height))
            start += height
        self.most = max((rows.stop - rows.start) * (n - rows.start) for rows in self.rows)
        self.memory: list[Tensor] = []  # used again by each strip
        first = torch.cat([excluded.new_full((rows.stop - rows.start, 1), rows.start) for rows in self.rows])
        itself = torch.arange(n, device=points.device).unsqueeze(1)
        self.there = (excluded >= first) & (excluded < n)  # [N, e] whether the cell of a row is in its strip
        self.cells = torch.where(self.there, excluded, itself).sub_(first)  # [N, e] where it is; else the cell of the point itself

    def _strip(self, number: int, rows: slice) -> Tensor:
        """`[h, w]`: memory for values of a strip."""
        if number == len(self.memory):
            self.memory.append(self.points.new_empty(self.most))
        height, width = rows.stop - rows.start, len(self.points) - rows.start
        return self.memory[number][: height * width].view(height, width)

    def _scores(self, rows: slice) -> Tensor:
        out = self._strip(0, rows)
        torch.mm(self.points[rows], self.points[rows.start :].mT, out=out)
        return out

    def _exponentials_(self, below: Tensor, scale: float) -> Tensor:
        """Powers of 2, in place; 0 for those that are nothing, since arithmetic on subnormal numbers is twenty times slower."""
        return torch.threshold_(below.mul_(scale), self.least, -math.inf).exp2_()

    @property
    def least(self) -> float:
        """The smallest exponent, with room for the factors of a gradient."""
        return 0.85 * math.log2(torch.finfo(self.points.dtype).tiny)

    def sums(self, maps: Sequence[Map], scale: float) -> tuple[float, Tensor]:
        """The largest value, and of each row the sum of 2 to the `scale` times how far values are below it, `[N]`."""
        top, total = -math.inf, self.points.new_zeros(len(self.points))
        for rows in self.rows:
            cells = self.cells[rows]
            value = scores = self._scores(rows)
            if maps:
                value.scatter_(1, cells, HARMLESS)
                for step in maps:
                    value = step.function(value)
                value = owned(value, scores)
            value.scatter_(1, cells, -math.inf)
            last, top = top, max(top, float(value.amax()))
            if top == -math.inf:  # no negative yet
                continue
            if last < top:
                total *= 2.0 ** (scale * (last - top))
            self._exponentials_(value.sub_(top), scale)
            total[rows] += value.sum(1)
            total[rows.stop :] += value[:, rows.stop - rows.start :].sum(0)
        return top, total

    def products(self, folded: _Folded, factors: Tensor | None, positives: Tensor | None) -> Tensor:
        """`[N, d]`: gradient of the points, from `factors` `[N]` of the exponentials and the gradients `[N, e]` of cells `excluded`."""
        points, positives = self.points, None if positives is None else torch.where(self.there, positives, 0.0)
        result = torch.zeros_like(points)
        for rows in self.rows:
            height, cells = rows.stop - rows.start, self.cells[rows]
            weights = self._strip(0, rows).zero_() if factors is None else self._weights(folded, factors, rows, cells)
            if positives is not None:
                weights.scatter_(1, cells, positives[rows])
            result[rows].addmm_(weights, points[rows.start :])
            result[rows.stop :].addmm_(weights[:, height:].mT, points[rows])
        return result

    def _weights(self, folded: _Folded, factors: Tensor, rows: slice, cells: Tensor) -> Tensor:
        """`[h, w]`: gradient of the scores of a strip, of both of their rows."""
        scores = self._scores(rows)
        both = factors[rows].unsqueeze(1), factors[rows.start :]
        if not folded.maps:
            weights = self._exponentials_(scores.scatter_(1, cells, -math.inf).sub_(folded.top), folded.scale)
            return weights.mul_(torch.add(*both, out=self._strip(1, rows)))
        leaf = scores.scatter_(1, cells, HARMLESS).detach().requires_grad_()
        value = leaf
        with torch.enable_grad():
            for step in folded.maps:
                value = step.function(value)
        weights = torch.sub(value.detach(), folded.top, out=self._strip(1, rows)).scatter_(1, cells, -math.inf)
        self._exponentials_(weights, folded.scale).mul_(torch.add(*both, out=self._strip(2, rows)))
        if value is leaf:
            return weights
        return torch.autograd.grad(value, leaf, weights)[0].contiguous() if value.requires_grad else weights.zero_()
