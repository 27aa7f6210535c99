"""One pass over the tiles of a problem: the sums of its loss, and the gradients, accumulated tile by tile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

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
    """One pass over the tiles: sums of the loss, and the gradient of each of its terms.

    The terms of a loss are divided by numbers that are known at the end only, so each has a gradient of its own until then.
    """

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
        self.terms: list[list[Tensor]] = []  # gradients by term: of anchors, references, parameters
        self.points: list[Gradients] = []  # by term, those of the points for `products`
        self.sums: Totals | None = None
        self.shares: Tensor | None = None  # what the sums of each term count in the loss
        self.done = 0  # anchors whose sums are known
        similarity, columns = problem.loss.similarity, problem.columns
        self.buffer: Tensor | None = None  # of the scores of a tile, used again by each
        if isinstance(columns, LabelColumns):
            columns.steps = problem.loss.compiled
        self.products = products_of(similarity, self.anchors, self.references) if isinstance(columns, LabelColumns) else None

    def run(self) -> Tensor:
        """The loss."""
        values = []
        for rows in self._rows():
            with torch.set_grad_enabled(any(self.wanted)):
                terms = (self._product_tile if self.products is not None else self._tile)(rows)
            if self.problem.loss.reduction == "none":
                values.append(stacked(terms).value.detach()[self.done - rows.start :].sum(1))
            sums = added(terms)
            self.sums = sums if self.sums is None else Totals(*(x + y for x, y in zip(self.sums, sums, strict=True)))
            self.done = rows.stop
        if self.sums is None:  # no anchor at all
            return self.anchors.new_zeros(() if self.problem.loss.reduction != "none" else (0,))
        if self.problem.loss.reduction == "none":
            return torch.cat(values)
        return self.reduce(self.sums)

    def reduce(self, sums: Totals) -> Tensor:
        """The loss, from the sums over all anchors, here and elsewhere."""
        self.shares = 1 / divisors(self.problem.loss.reduction, sums)
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

    def _start(self, num_terms: int) -> None:
        if not self.terms:
            leaves = [self.anchors, self.references, *self.parameters]
            wanted = [self.want_anchors, self.want_references and not self.same, *self.wanted[2:]]
            zeros = [[torch.zeros_like(t) if w else t.new_empty(0) for t, w in zip(leaves, wanted, strict=True)] for _ in range(num_terms)]
            self.terms = [[g[0], g[0], *g[2:]] for g in zeros] if self.same else zeros
            self.points = [Gradients(g[0] if self.want_anchors else None, g[1] if self.want_references else None) for g in self.terms]

    def _objectives(self, terms: Sequence[Totals], rows: slice) -> dict[int, Tensor]:
        """By number, those terms that have a gradient."""
        self._start(len(terms))
        values = {k: term.value for k, term in enumerate(terms) if term.value.requires_grad}
        return {k: (value if self.weights is None else value * self.weights[rows]).sum() for k, value in values.items()}

    def _backward(self, every: Sequence[Totals], rows: slice, leaves: Sequence[Tensor]) -> Iterator[tuple[int, tuple[Tensor | None, ...]]]:
        """For each term: its number, and the gradients of this tile with respect to `leaves` and the wanted parameters."""
        loss = self.problem.loss
        objectives = self._objectives(every, rows)
        inputs = [*leaves, *(p for p, w in zip(self.parameters, self.wanted[2:], strict=True) if w)]
        for k, objective in objectives.items():
            with compiling(loss, len(every)) if loss.compiled else contextlib.nullcontext():
                gradients = torch.autograd.grad(objective, inputs, retain_graph=k + 1 < len(every), allow_unused=True)
            into = self.terms[k]
            parameters = (g for g, w in zip(into[2:], self.wanted[2:], strict=True) if w)
            for total, gradient in zip(parameters, gradients[len(leaves) :], strict=True):
                if gradient is not None:
                    total += gradient
            yield k, gradients[: len(leaves)]

    def _tile(self, rows: slice) -> list[Totals]:
        """Any similarity and any columns: autograd from the block's points to its sums."""
        a, r = self.anchors[rows].requires_grad_(self.want_anchors), self.references.detach().requires_grad_(self.want_references)
        block = self.problem.block(r, rows, a.device)
        every = self._apart(*self.problem.columns.scores(self.problem.loss.similarity, a, r, block, rows), rows)
        leaves = [t for t in (a, r) if t.requires_grad]
        for k, gradients in self._backward(every, rows, leaves):
            into, found = self.terms[k], iter(gradients)
            if self.want_anchors and (g := next(found)) is not None:
                into[0][rows] += g
            if self.want_references and (g := next(found)) is not None:
                into[1] += g
        return every

    def _product_tile(self, rows: slice) -> list[Totals]:
        """Scores by a matrix product: autograd from the scores only, and products straight into the accumulated gradients."""
        height, columns, products = rows.stop - rows.start, self.problem.columns, self.products
        assert isinstance(columns, LabelColumns) and products is not None
        with torch.no_grad():
            if self.buffer is None or len(self.buffer) < height:
                self.buffer = self.anchors.new_empty(height, columns.width)
            scores, r = self.buffer[:height], self.references.detach()
            products.multiply(rows, out=scores[:, :-1])
            block = self.problem.block(r, rows, r.device)
            s_n, s_p = columns.sets(scores, block, rows, in_place=True, outside=products.outside)
            products.finish(s_n, s_p, rows)
        leaves = (s_n.value, s_p.value, r) if self.want_anchors or self.want_references else ()
        for leaf in leaves:
            leaf.requires_grad_()
        every = self._apart(s_n, s_p, rows)
        for k, gradients in self._backward(every, rows, leaves):
            if leaves:
                g_n, g_p, g_r = gradients
                with torch.no_grad():
                    products.push(g_n, g_p, s_n, s_p, rows, self.points[k])
                if self.want_references and g_r is not None:
                    self.terms[k][1] += g_r
        return every

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
        factors = torch.ones_like(self.sums.value) if self.weights is not None or self.shares is None else self.shares
        result = []
        for i, w in enumerate(self.wanted):
            if w:
                total, *others = (term[i].mul_(factor.to(term[i].dtype)) for term, factor in zip(self.terms, factors, strict=True))
                for other in others:
                    total += other
                result.append(total)
        return tuple(result)
