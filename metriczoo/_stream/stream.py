"""`Stream`: one call of a loss, executed chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metriczoo._execution import memory
from metriczoo._strata import StratifiedScores
from metriczoo._stream.anchors import Anchors
from metriczoo._stream.chunks import Chunks
from metriczoo._stream.gradients import Gradients
from metriczoo._stream.needs import NeedsCells
from metriczoo._stream.scores import StreamedScores
from metriczoo.columns import LabelColumns
from metriczoo.reduction import Totals, divisors
from metriczoo.scores import Scores

if TYPE_CHECKING:
    from metriczoo.engine import Problem

__all__ = ["Stream"]


class Stream:
    """One pass over the references, and a second one for gradients. It has the methods of `Tiles`."""

    def __init__(
        self,
        problem: Problem,
        anchors: Tensor,
        references: Tensor,
        parameters: Sequence[Tensor],
        wanted: Sequence[bool],
        weights: Tensor | None = None,
    ) -> None:
        self.wanted, self.weights = wanted, weights
        self.anchors, self.references = anchors.detach(), references.detach()
        # Facts are leaves here: autograd goes on from their gradients, which must not reach parameters twice.
        num = len(problem.inputs())
        facts = [fact.detach().requires_grad_(w) for fact, w in zip(parameters[:num], wanted[2:], strict=False)]
        self.problem = problem.given(facts)
        self.parameters = [p for p, w in zip([*facts, *parameters[num:]], wanted[2:], strict=True) if w]
        self.blocks: list[tuple[Anchors, Totals]] = []
        self.sums: Totals | None = None
        n, strata = len(references), problem.columns.strata
        self.spans = [slice(0, n)] if strata is None else [slice(0, strata[0]), slice(strata[0], n)]
        budget = memory(problem.budget, anchors.device)
        self.chunks = Chunks(problem.loss.similarity, self.anchors, self.references, self.spans, budget)

    def run(self) -> Tensor:
        """The loss."""
        values, height = [], self.chunks.height
        for start in range(0, len(self.anchors), height):
            rows = slice(start, min(start + height, len(self.anchors)))
            anchors, s_n, s_p = self._sets(rows)
            with torch.set_grad_enabled(any(self.wanted)):
                every = self.problem.finish(s_n, s_p(), rows)
            if self.problem.loss.reduction == "none":
                values.append(every.value.detach().sum(1))
            if any(self.wanted):
                self.blocks.append((anchors, every))
            sums = Totals(every.value.detach().double().sum(0), *(part.sum(0) for part in every[1:]))
            self.sums = sums if self.sums is None else Totals(*(x + y for x, y in zip(self.sums, sums, strict=True)))
        assert self.sums is not None  # there are anchors, see `Loss._streams`
        if self.problem.loss.reduction == "none":
            return torch.cat(values)
        return self.problem.value(self.sums).to(self.anchors.dtype)

    def _sets(self, rows: slice) -> tuple[Anchors, Scores, Callable[[], Scores]]:
        columns = self.problem.columns
        assert isinstance(columns, LabelColumns)
        positive, same_class, excluded, num_excluded, _ = columns.tables(rows)

        def between(i: Tensor, j: Tensor | None) -> Tensor:
            raise NeedsCells

        block = self.problem.block(self.references, rows, self.anchors.device).but(between=between)
        num_excluded = num_excluded - 1  # not to count the spare column
        anchors = Anchors(self.chunks, rows, self.anchors[rows], block, excluded, num_excluded, only=not any(self.wanted[1:]))
        first, *others = (StreamedScores(anchors, span) for span in self.spans)
        s_n = first if columns.strata is None else StratifiedScores(first, others[0], columns.strata[1])
        return anchors, s_n, lambda: anchors.narrow(positive, same_class)

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        if not any(self.wanted):
            return ()
        # Blocks know their graphs. Whoever gets the gradients is to be the only one that holds them.
        blocks, self.blocks = self.blocks, []
        of_anchors, of_references = self.wanted[:2]
        gradients = Gradients(self.chunks, [a for a, _ in blocks], self.parameters, of_anchors=of_anchors, of_references=of_references)
        for anchors, every in blocks:
            gradients.start(anchors, self._objective(anchors.rows, every))
        return gradients.run()

    @torch.enable_grad()
    def _objective(self, rows: slice, every: Totals) -> Tensor:
        """What the anchors `rows` add to the loss, or to its sum with `weights`."""
        if self.weights is not None:
            return (every.value.sum(1) * self.weights[rows]).sum()
        assert self.sums is not None
        factors = 1 / divisors(self.problem.loss.reduction, self.sums)
        return (every.value * factors.to(every.value.dtype)).sum()
