"""Losses that couple anchors through a statistic of the batch, in tiles.

Such a loss is a sum over anchors once `T`, what `Loss.pool` makes of the `Loss.statistic` of all of them, is known:

    L = sum over anchors a of f(scores of a, T) / number,        T = pool(statistics of all anchors)

so three passes over the tiles do what one does for other losses:

1. the rows of the statistic, without gradient, and `T` from them;
2. L, and how it depends on `T`, to which `pool` adds, by a small graph, how it depends on each row;
3. the gradient: that of f, whose `T` is a constant now, and that of the statistic, weighted by the result of pass 2.

A tile's scores are computed again in each pass, so that these are five matrix products in place of three. Nothing of size N x n is kept.
Where one tile holds the batch, its graph says all of it in one pass. Where `pool` has no gradient, pass 3 is pass 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metriczoo._body import sets, terms
from metriczoo._checks import describe
from metriczoo._execution import memory, settings
from metriczoo._tiles import Tiles
from metriczoo.reduction import Totals, divisors, stacked
from metriczoo.scores import Scores

if TYPE_CHECKING:
    from metriczoo.engine import Problem
    from metriczoo.losses.base import Loss

__all__ = ["Coupled", "pool_of", "statistic_of"]

_TALL = 4  # times the size of a tile that pays, since one that holds the batch is computed once


def statistic_of(loss: Loss, s_n: Scores, s_p: Scores) -> Tensor:
    """`[m, ...]`: what the loss says of these anchors."""
    rows = loss.statistic(s_n, s_p)
    if not isinstance(rows, Tensor) or rows.dim() == 0 or not rows.is_floating_point():
        raise TypeError(
            f"Expected `statistic` of {type(loss).__name__} to return a floating-point tensor of shape [m, ...], but got {describe(rows)}."
        )
    return rows


def pool_of(loss: Loss, rows: Tensor) -> Tensor:
    """What the loss makes of the statistics of all anchors."""
    pooled = loss.pool(rows)
    if not isinstance(pooled, Tensor):
        raise TypeError(f"Expected `pool` of {type(loss).__name__} to return a tensor, but got {describe(pooled)}.")
    return pooled


class Coupled:
    """All passes over the tiles of a problem whose anchors are coupled by a statistic. In place of `Tiles`."""

    def __init__(
        self,
        problem: Problem,
        anchors: Tensor,
        references: Tensor | None,
        parameters: Sequence[Tensor],
        wanted: Sequence[bool],
        weights: Tensor | None = None,
    ) -> None:
        self.call, self.problem = problem, replace(problem, budget=_budget(problem, anchors.device))
        self.points, self.parameters, self.wanted, self.weights = (anchors, references), parameters, wanted, weights
        self.last: Tiles | None = None  # the pass that has the gradients

    def run(self) -> Tensor:
        """The loss."""
        cuts = list(self.problem.tiles(self.points[0]))
        if self.problem.pooled is None and len(cuts) == 1:
            self.last = _Whole(self.problem, *self.points, self.parameters, self.wanted, self.weights)
            value = self.last.run()
            self.call.pooled = self.last.constant
            return value
        if self.problem.pooled is not None or not cuts:
            self.last = Tiles(self.problem, *self.points, self.parameters, self.wanted, self.weights)
            return self.last.run()
        return self._passes()

    def _passes(self) -> Tensor:
        nothing = (False,) * len(self.wanted)
        first = _Statistics(self.problem, *self.points, self.parameters, nothing)
        with torch.no_grad():
            first.run()
        rows = torch.cat(first.rows).requires_grad_()
        with torch.enable_grad():
            pooled = pool_of(self.problem.loss, rows)
        if not pooled.requires_grad:
            self.call.pooled = self.problem.pooled = pooled
            return self.run()
        leaf = pooled.detach().requires_grad_()
        fixed = replace(self.problem, pooled=leaf)
        if not any(self.wanted):
            self.last = Tiles(fixed, *self.points, self.parameters, nothing)
            with torch.no_grad():
                return self.last.run()
        second = Tiles(fixed, *self.points, (*self.parameters, leaf), (*nothing, True), self.weights)
        value = second.run()
        assert second.sums is not None
        factors = torch.ones_like(second.sums.value) if self.weights is not None else 1 / divisors(self.problem.loss.reduction, second.sums)
        slope = torch.autograd.grad(pooled, rows, second.gradients()[0])[0]
        fixed.pooled = pooled.detach()
        self.last = last = _Slopes(fixed, *self.points, self.parameters, self.wanted, torch.ones_like(self.points[0][:, 0]))
        last.factors = factors if self.weights is None else factors * self.weights.unsqueeze(1)
        last.slopes = iter(slope.split([len(part) for part in first.rows]))
        last.run()
        return value

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        assert self.last is not None
        return self.last.gradients()


def _budget(problem: Problem, device: torch.device) -> int | None:
    """Bytes of a tile: on a host more than of a loss whose tiles are computed once, unless the user has said how many."""
    if problem.budget is not None or settings.memory_budget is not None or device.type != "cpu":
        return problem.budget
    return _TALL * memory(None, device)


class _Whole(Tiles):
    """One tile that holds all anchors."""

    constant: Tensor | None = None  # what was pooled, where it has no gradient, so that it is not to be pooled again

    def _apart(self, s_n: Scores, s_p: Scores, rows: slice) -> list[Totals]:
        s_n, s_p = _sets(self.problem, s_n, s_p, rows)
        loss = self.problem.loss
        statistics = statistic_of(loss, s_n, s_p)
        if not statistics.requires_grad:
            statistics = statistics.detach().requires_grad_()
        with torch.enable_grad():
            pooled = pool_of(loss, statistics)
        if not pooled.requires_grad:
            self.constant = pooled
        assert s_p.block is not None
        s_n.block = s_p.block = s_p.block.but(pooled=pooled if torch.is_grad_enabled() else pooled.detach())
        return terms(self.problem.loss, s_n, s_p, self.problem.columns.keep[rows])


class _Statistics(Tiles):
    """The pass that gathers the rows of the statistic, tile by tile."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.rows: list[Tensor] = []

    def _apart(self, s_n: Scores, s_p: Scores, rows: slice) -> list[Totals]:
        self.rows.append(statistic_of(self.problem.loss, *_sets(self.problem, s_n, s_p, rows)).detach())
        return [_sums(self.anchors.new_zeros(rows.stop - rows.start))]


class _Slopes(Tiles):
    """The pass whose gradient is that of the loss: one term, whose value is of no use."""

    factors: Tensor  # [terms] or [N, terms], what each term counts
    slopes: Iterator[Tensor]  # tile by tile, how the loss depends on the rows of the statistic

    def _apart(self, s_n: Scores, s_p: Scores, rows: slice) -> list[Totals]:
        s_n, s_p = _sets(self.problem, s_n, s_p, rows)
        loss, keep = self.problem.loss, self.problem.columns.keep[rows]
        through_pool = (statistic_of(loss, s_n, s_p) * next(self.slopes)).sum()
        every = stacked(terms(loss, s_n, s_p, keep)).value
        factors = self.factors if self.factors.dim() == 1 else self.factors[rows]
        return [_sums((every * factors.to(every.dtype)).sum(1) + through_pool / len(keep))]


def _sets(problem: Problem, s_n: Scores, s_p: Scores, rows: slice) -> tuple[Scores, Scores]:
    return sets(problem.loss, s_n, s_p, problem.columns.keep[rows], problem.columns.strata)


def _sums(value: Tensor) -> Totals:
    nothing = torch.zeros_like(value, dtype=torch.int64)
    return Totals(value, nothing, nothing, nothing)
