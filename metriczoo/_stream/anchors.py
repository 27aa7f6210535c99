"""A block of anchors, and what `per_anchor` has asked of their scores: the nodes of the graph by which the loss depends on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metriczoo._stream.chunks import Chunks
from metriczoo._stream.folds import Fold
from metriczoo._stream.steps import Step, filler, owned, probed, stepped
from metriczoo.scores import HARMLESS, Block, Scores

__all__ = ["Anchors", "Folded", "Narrow"]


@dataclass(eq=False)
class Folded:
    """A fold that a loss has made."""

    fold: Fold
    span: slice
    steps: Sequence[Step]
    result: Tensor  # [b], a leaf
    of_anchors: Tensor | None = None  # [b, d'] derivative of each result by its anchor, where it is known already
    grad: Tensor | None = None  # [b]
    uses: list[Tensor] = field(default_factory=list)  # what its steps hold that gradients flow to


@dataclass(eq=False)
class Narrow:
    """Scores to a few references of each anchor."""

    cells: Tensor  # [b, k] int64
    result: Tensor  # [b, k], a leaf
    grad: Tensor | None = None  # [b, k]


@dataclass(eq=False)
class Anchors:
    """A block of anchors, and what a loss was made of."""

    chunks: Chunks
    rows: slice
    points: Tensor  # [b, d'] prepared
    block: Block
    excluded: Tensor  # [b, e] int64, references that are not in `s_n`
    num_excluded: Tensor  # [b] int64, how many different ones there are among the first ones, where there are strata
    only: bool  # whether no reference and no parameter has a gradient
    folded: list[Folded] = field(default_factory=list)
    narrowed: list[Narrow] = field(default_factory=list)

    def count(self, span: slice) -> Tensor:
        """`[b]` int64: how many references of a span are in `s_n`."""
        all_there = torch.full_like(self.num_excluded, span.stop - span.start)
        return all_there - self.num_excluded if span.start == 0 else all_there

    def outside(self, chunk: slice) -> Tensor:
        """`[b, e]`: cells of a chunk that are not in `s_n`, the spare one among them."""
        inside = (self.excluded >= chunk.start) & (self.excluded < chunk.stop)
        return torch.where(inside, self.excluded - chunk.start, chunk.stop - chunk.start)

    def fold(self, fold: Fold, span: slice, steps: Sequence[Step]) -> Tensor:
        """`[b]`: a fold over the references of a span."""
        if span.start == span.stop:
            return self.points.new_full((len(self.points),), fold.empty)
        of_anchors = None
        if self.only and self.chunks.is_product and torch.is_grad_enabled() and not probed(steps, self.points).requires_grad:
            of_anchors = self._fold_at_once(fold, span, steps)
        else:
            with torch.no_grad():
                for _, value in self.values(span, steps, fold.empty):
                    fold.add(value)
        result = fold.result()
        if torch.is_grad_enabled():
            self.folded.append(Folded(fold, span, steps, result.requires_grad_(), of_anchors))
        return result

    def _fold_at_once(self, fold: Fold, span: slice, steps: Sequence[Step]) -> Tensor:
        """`[b, d']`: go through a span with `fold`, and gather the derivative by the anchors on the way, so no second pass is needed."""
        total = torch.zeros_like(self.points)
        for chunk in self.chunks.of(span):
            r, outside = self.chunks.points(chunk), self.outside(chunk)
            scores = self.chunks.scores(self.points, r).scatter_(1, outside, filler(steps))
            with torch.enable_grad():
                leaf = scores.detach().requires_grad_(bool(steps))
                value, outside = stepped(steps, leaf, outside, chunk)
            weight = value.detach() if value is leaf else self.chunks.gradient(value).copy_(value.detach())
            shrink = fold.add(weight.scatter_(1, outside, fold.empty))
            if shrink is not None:
                total *= shrink
            weight.scatter_(1, outside, 0.0)
            if value is not leaf:
                if not value.requires_grad:
                    continue
                weight = torch.autograd.grad(value, leaf, weight)[0]
            total.addmm_(weight[:, :-1], r)
        return total.mul_(fold.factor())

    def values(self, span: slice, steps: Sequence[Step], empty: float) -> Iterator[tuple[int, Tensor]]:
        """For each chunk where it starts, and `[b, w + 1]`: mapped scores, `empty` outside of the set. To be used without gradients."""
        for chunk in self.chunks.of(span):
            outside = self.outside(chunk)
            scores = self.chunks.scores(self.points, self.chunks.points(chunk)).scatter_(1, outside, filler(steps))
            value, outside = stepped(steps, scores, outside, chunk)
            yield chunk.start, owned(value, scores).scatter_(1, outside, empty)

    def group(self, size: int) -> None:
        """From now on let no chunk cut groups of `size` adjacent references."""
        self.chunks.group(size)

    def narrow(self, cells: Tensor, there: Tensor) -> Scores:
        """Scores to a few references of each anchor."""
        chunks = self.chunks
        with torch.no_grad():
            score = torch.cat([chunks.near(self.points, chunks.take(part)) for part in chunks.parts(cells)], dim=1)
        if torch.is_grad_enabled():
            self.narrowed.append(Narrow(cells, score.requires_grad_()))
        return Scores(torch.where(there, score, HARMLESS), there, columns=cells, block=self.block, harmless=True)

    def parts(self) -> list[Folded | Narrow]:
        """What the loss of these anchors was made of."""
        return [*self.folded, *self.narrowed]
