"""One pass over the tiles of a problem: the sums of its loss, and the gradients, accumulated tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metriczoo.columns import LabelColumns
from metriczoo.reduction import Totals, divisors
from metriczoo.scores import HARMLESS, Scores

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
        self.problem, self.wanted, self.weights = problem, wanted, weights
        self.anchors, self.same = anchors.detach(), references is None
        self.references = self.anchors if references is None else references.detach()
        self.parameters = parameters
        self.want_anchors, self.want_references = wanted[0], wanted[0] if self.same else wanted[1]
        self.terms: list[list[Tensor]] = []  # gradients by term: of anchors, references, parameters
        self.sums: Totals | None = None
        similarity, columns = problem.loss.similarity, problem.columns
        self.buffer: Tensor | None = None  # of the scores of a tile, used again by each
        self.product = similarity.is_product and isinstance(columns, LabelColumns)

    def run(self) -> Tensor:
        """The loss."""
        values = []
        for rows in self.problem.tiles(self.anchors):
            with torch.set_grad_enabled(any(self.wanted)):
                every = (self._product_tile if self.product else self._tile)(rows)
            if self.problem.loss.reduction == "none":
                values.append(every.value.detach().sum(1))
            sums = Totals(every.value.detach().double().sum(0), *(part.sum(0) for part in every[1:]))
            self.sums = sums if self.sums is None else Totals(*(x + y for x, y in zip(self.sums, sums, strict=True)))
        if self.sums is None:  # no anchor at all
            return self.anchors.new_zeros(() if self.problem.loss.reduction != "none" else (0,))
        if self.problem.loss.reduction == "none":
            return torch.cat(values)
        return self.problem.value(self.sums).to(self.anchors.dtype)

    def _start(self, num_terms: int) -> None:
        if not self.terms:
            leaves = [self.anchors, self.references, *self.parameters]
            wanted = [self.want_anchors, self.want_references and not self.same, *self.wanted[2:]]
            zeros = [[torch.zeros_like(t) if w else t.new_empty(0) for t, w in zip(leaves, wanted, strict=True)] for _ in range(num_terms)]
            self.terms = [[g[0], g[0], *g[2:]] for g in zeros] if self.same else zeros

    def _objectives(self, every: Totals, rows: slice) -> list[Tensor]:
        weighted = every.value if self.weights is None else every.value * self.weights[rows].unsqueeze(1)
        self._start(weighted.shape[1])
        return [] if not weighted.requires_grad else list(weighted.sum(0).unbind(0))

    def _backward(self, every: Totals, rows: slice, leaves: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], tuple[Tensor | None, ...]]]:
        """For each term: its accumulated gradients, and the gradients of this tile with respect to `leaves` and the wanted parameters."""
        objectives = self._objectives(every, rows)
        inputs = [*leaves, *(p for p, w in zip(self.parameters, self.wanted[2:], strict=True) if w)]
        for k, objective in enumerate(objectives):
            gradients = torch.autograd.grad(objective, inputs, retain_graph=k + 1 < len(objectives), allow_unused=True)
            into = self.terms[k]
            parameters = (g for g, w in zip(into[2:], self.wanted[2:], strict=True) if w)
            for total, gradient in zip(parameters, gradients[len(leaves) :], strict=True):
                if gradient is not None:
                    total += gradient
            yield into, gradients[: len(leaves)]

    def _tile(self, rows: slice) -> Totals:
        """Any similarity and any columns: autograd from the block's points to its sums."""
        a, r = self.anchors[rows].requires_grad_(self.want_anchors), self.references.detach().requires_grad_(self.want_references)
        every = self.problem.totals(a, r, rows)
        leaves = [t for t in (a, r) if t.requires_grad]
        for into, gradients in self._backward(every, rows, leaves):
            found = iter(gradients)
            if self.want_anchors and (g := next(found)) is not None:
                into[0][rows] += g
            if self.want_references and (g := next(found)) is not None:
                into[1] += g
        return every

    def _product_tile(self, rows: slice) -> Totals:
        """Scores that are a matrix product: autograd from the scores only, and products straight into the accumulated gradients."""
        a, n = self.anchors[rows], len(self.references)
        columns = self.problem.columns
        assert isinstance(columns, LabelColumns)
        with torch.no_grad():
            if self.buffer is None:
                self.buffer = a.new_empty(a.shape[0], columns.width)
            scores = self.buffer[: a.shape[0]]
            torch.mm(a, self.references.mT, out=scores[:, :n])
            scores[:, n] = HARMLESS
            r = self.references.detach()
            s_n, s_p = columns.sets(scores, self.problem.block(r, rows, a.device), rows, in_place=True)
        leaves = (s_n.value, s_p.value, r) if self.want_anchors or self.want_references else ()
        for leaf in leaves:
            leaf.requires_grad_()
        every = self.problem.finish(s_n, s_p, rows)
        for into, gradients in self._backward(every, rows, leaves):
            if leaves:
                self._push(into, *gradients, s_n=s_n, s_p=s_p, a=a, rows=rows)
        return every

    def _push(
        self,
        into: list[Tensor],
        g_n: Tensor | None,
        g_p: Tensor | None,
        g_r: Tensor | None,
        *,
        s_n: Scores,
        s_p: Scores,
        a: Tensor,
        rows: slice,
    ) -> None:
        """From the gradients of the scores to those of the points. Positives are excluded columns of `g_n`, where it is 0."""
        n = len(self.references)
        gradient = torch.zeros_like(s_n.value) if g_n is None else g_n.contiguous()
        if g_p is not None and s_p.columns is not None:
            gradient.scatter_(1, s_p.columns, g_p)
        if self.want_anchors:
            into[0][rows].addmm_(gradient[:, :n], self.references)
        if self.want_references:
            into[1].addmm_(gradient[:, :n].mT, a)
            if g_r is not None:
                into[1] += g_r

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        if not any(self.wanted):
            return ()
        if self.sums is None:
            return tuple(
                torch.zeros_like(t) for t, w in zip((self.anchors, self.references, *self.parameters), self.wanted, strict=True) if w
            )
        factors = torch.ones_like(self.sums.value) if self.weights is not None else 1 / divisors(self.problem.loss.reduction, self.sums)
        result = []
        for i, w in enumerate(self.wanted):
            if w:
                scaled = [term[i] * factor.to(term[i].dtype) for term, factor in zip(self.terms, factors, strict=True)]
                result.append(scaled[0] if len(scaled) == 1 else torch.stack(scaled).sum(0))
        return tuple(result)
