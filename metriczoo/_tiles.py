"""One pass over the tiles of a problem: the sums of its loss, and the gradients, accumulated tile by tile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from metriczoo._body import apart, compiled_apart, compiling
from metriczoo._products import Gradients, products_of
from metriczoo.columns import LabelColumns
from metriczoo.reduction import Totals, added, divisors, stacked
from metriczoo.scores import Scores

if TYPE_CHECKING:
    from metriczoo.engine import Problem

__all__ = ["Tiles"]


class Tiles:
    """One pass over the tiles: sums of the loss, and its gradient.

    The terms of a loss are divided by numbers that are known at the end only, so each has a gradient of its own until then. Where these
    are known in time, which is where one tile holds the batch or where anchors have weights, there is one gradient for all.
    """

    alone = True  # whether the sums over these anchors are those of the loss

    def __init__(
        self,
        problem: Problem,
        anchors: Tensor,
        references: Tensor | None,
        parameters: Sequence[Tensor],
        wanted: Sequence[bool],
        weights: Tensor | None = None,
    ) -> None:
        self.wanted, self.weights = wanted, weights
        self.anchors, self.same = anchors.detach(), references is None
        self.references = self.anchors if references is None else references.detach()
        # Facts are leaves here: autograd goes on from their gradients, which must not reach parameters twice.
        num = len(problem.inputs())
        facts = [fact.detach().requires_grad_(w) for fact, w in zip(parameters[:num], wanted[2:], strict=False)]
        self.problem, self.parameters = problem.given(facts), [*facts, *parameters[num:]]
        self.want_anchors, self.want_references = wanted[0], wanted[0] if self.same else wanted[1]
        self.parts: list[list[Tensor]] = []  # gradients of anchors, references and parameters: by term, or of all terms together
        self.points: list[Gradients] = []  # likewise those of the points for `products`
        self.sums: Totals | None = None
        self.shares: Tensor | None = None  # what the sums of each term count in the loss
        self.together = weights is not None  # whether all terms have one gradient
        self.done = 0  # anchors whose sums are known
        similarity, columns = problem.loss.similarity, problem.columns
        self.buffer: Tensor | None = None  # of the scores of a tile, used again by each
        if isinstance(columns, LabelColumns):
            columns.steps = problem.loss.compiled
        self.products = products_of(similarity, self.anchors, self.references) if isinstance(columns, LabelColumns) else None

    def run(self) -> Tensor:
        """The loss."""
        per_anchor, differentiable = self.problem.loss.reduction == "none", any(self.wanted)
        tiles, values, value = list(self._rows()), [], None
        whole = self.alone and len(tiles) == 1 and not per_anchor
        self.together = self.together or whole
        for rows in tiles:
            with torch.set_grad_enabled(differentiable):
                terms, back = (self._product_tile if self.products is not None else self._tile)(rows)
                sums = added(terms)
                self.sums = sums if self.sums is None else Totals(*(x + y for x, y in zip(self.sums, sums, strict=True)))
                if whole:
                    value = self.reduce(self.sums)
                if differentiable:
                    self._backward(terms, rows, back)
            if per_anchor:
                values.append(stacked(terms).value.detach()[self.done - rows.start :].sum(1))
            self.done = rows.stop
        if self.sums is None:  # no anchor that has a loss
            return self.anchors.new_zeros((len(self.anchors),) if per_anchor else ())
        if per_anchor:
            return torch.cat(values)
        return self.reduce(self.sums) if value is None else value

    def reduce(self, sums: Totals) -> Tensor:
        """The loss, from the sums over all anchors, here and elsewhere."""
        self.shares = divisors(self.problem.loss.reduction, sums).reciprocal()
        return (sums.value * self.shares).sum().to(self.anchors.dtype)

    def _rows(self) -> Iterator[slice]:
        """The tiles; those of a compiled loss have one height, so that the last begins before the end of the one before it."""
        height = None
        for rows in self.problem.tiles(self.anchors):
            if height is None or not self.problem.loss.compiled:
                height = rows.stop - rows.start
            yield slice(rows.stop - height, rows.stop)

    def _apart(self, s_n: Scores, s_p: Scores, rows: slice) -> list[Totals]:
        """What the anchors of a tile add up to, term by term."""
        loss, columns = self.problem.loss, self.problem.columns
        keep = columns.keep[rows]
        if not loss.compiled:
            return apart(loss, s_n, s_p, keep, columns.strata)
        if rows.start < self.done:  # the first of them were in the tile before
            keep = keep.clone()
            keep[: self.done - rows.start] = False
        return compiled_apart(loss, s_n, s_p, keep, columns.strata)

    def _start(self, count: int) -> None:
        if not self.parts:
            leaves = [self.anchors, self.references, *self.parameters]
            wanted = [self.want_anchors, self.want_references and not self.same, *self.wanted[2:]]
            zeros = [[torch.zeros_like(t) if w else t.new_empty(0) for t, w in zip(leaves, wanted, strict=True)] for _ in range(count)]
            self.parts = [[g[0], g[0], *g[2:]] for g in zeros] if self.same else zeros
            self.points = [Gradients(g[0] if self.want_anchors else None, g[1] if self.want_references else None) for g in self.parts]

    def _backward(self, terms: Sequence[Totals], rows: slice, back: _Back) -> None:
        """Add the gradients of this tile to those of the tiles before it."""
        every = [(k, term.value) for k, term in enumerate(terms) if term.value.requires_grad]
        self._start(1 if self.together else len(terms))
        objectives = [every] if self.together and every else [[one] for one in every]
        loss, parameters = self.problem.loss, [p for p, w in zip(self.parameters, self.wanted[2:], strict=True) if w]
        for number, objective in enumerate(objectives):
            part = 0 if self.together else objective[0][0]
            inputs, seeds = [*back.leaves, *parameters], [self._seed(k, value, rows) for k, value in objective]
            with compiling(loss, len(terms)) if loss.compiled else contextlib.nullcontext():
                gradients = torch.autograd.grad(
                    [value for _, value in objective], inputs, seeds, retain_graph=number + 1 < len(objectives), allow_unused=True
                )
            totals = (g for g, w in zip(self.parts[part][2:], self.wanted[2:], strict=True) if w)
            for total, gradient in zip(totals, gradients[len(back.leaves) :], strict=True):
                if gradient is not None:
                    total += gradient
            with torch.no_grad():
                back.push(part, gradients[: len(back.leaves)])

    def _seed(self, term: int, value: Tensor, rows: slice) -> Tensor:
        """What each anchor of a term counts in the objective."""
        if self.weights is not None:
            return self.weights[rows].to(value.dtype)
        if self.together and self.shares is not None:
            return self.shares.to(value.dtype)[term : term + 1].expand_as(value)
        return value.new_ones(()).expand_as(value)

    def _tile(self, rows: slice) -> tuple[list[Totals], _Back]:
        """Any similarity and any columns: autograd from the block's points to its sums."""
        a, r = self.anchors[rows].requires_grad_(self.want_anchors), self.references.detach().requires_grad_(self.want_references)
        block = self.problem.block(r, rows, a.device)
        terms = self._apart(*self.problem.columns.scores(self.problem.loss.similarity, a, r, block, rows), rows)

        def push(part: int, gradients: Sequence[Tensor | None]) -> None:
            into, found = self.parts[part], iter(gradients)
            if self.want_anchors and (g := next(found)) is not None:
                into[0][rows] += g
            if self.want_references and (g := next(found)) is not None:
                into[1] += g

        return terms, _Back([t for t in (a, r) if t.requires_grad], push)

    def _product_tile(self, rows: slice) -> tuple[list[Totals], _Back]:
        """Scores by a matrix product: autograd from the scores only, and products straight into the accumulated gradients."""
        height, columns, products = rows.stop - rows.start, self.problem.columns, self.products
        assert isinstance(columns, LabelColumns) and products is not None
        with torch.no_grad():
            if self.buffer is None or len(self.buffer) < height:
                self.buffer = self.anchors.new_empty(height, columns.width)
            scores, r = self.buffer[:height], self.references.detach()
            products.multiply(rows, out=scores[:, :-1])
            block = self.problem.block(r, rows, r.device)
            tables = columns.tables(rows)
            s_n, s_p = columns.named(*columns.cells_(scores, tables, products.outside), tables, block)
            products.finish(s_n, s_p, rows)
        leaves = [s_n.value, s_p.value, r] if self.want_anchors or self.want_references else []
        for leaf in leaves:
            leaf.requires_grad_()

        def push(part: int, gradients: Sequence[Tensor | None]) -> None:
            if gradients:
                g_n, g_p, g_r = gradients
                products.push(g_n, g_p, s_n, s_p, rows, self.points[part])
                if self.want_references and g_r is not None:
                    self.parts[part][1] += g_r

        return self._apart(s_n, s_p, rows), _Back(leaves, push)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        if not any(self.wanted):
            return ()
        if self.sums is None:
            return tuple(
                torch.zeros_like(t) for t, w in zip((self.anchors, self.references, *self.parameters), self.wanted, strict=True) if w
            )
        if self.products is not None:
            for points in self.points:
                self.products.close(points)
        if self.together:
            return tuple(gradient for gradient, w in zip(self.parts[0], self.wanted, strict=True) if w)
        assert self.shares is not None
        result = []
        for own, w in zip(zip(*self.parts, strict=True), self.wanted, strict=True):
            if w:
                total, *others = (gradient.mul_(share.to(gradient.dtype)) for gradient, share in zip(own, self.shares, strict=True))
                for other in others:
                    total += other
                result.append(total)
        return tuple(result)


class _Back(NamedTuple):
    """How the gradients of a tile are found, and what becomes of them."""

    leaves: Sequence[Tensor]
    push: Callable[[int, Sequence[Tensor | None]], None]  # takes the number of the objective and the gradients of `leaves`
