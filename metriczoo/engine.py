"""The engine: blocks of anchors, gradients, and the memory budget. A loss never knows how it is executed.

Dense is the reference: one block, ordinary autograd. Tiled cuts the anchors into blocks of rows that fit the memory budget and keeps
nothing of size N x n: since the loss is a sum over anchors, divided by a number at the end, value and gradient are accumulated block by
block in the forward pass, with no recomputation. Blocks that stay in cache make this faster than dense, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metriczoo._across import Across
from metriczoo._body import apart, between_references
from metriczoo._coupled import Coupled
from metriczoo._execution import backward_in_full_precision, keep_freed_memory, memory, settings, tracing
from metriczoo._halves import Halves
from metriczoo._stream import THIN, NeedsCells, Stream, prepared
from metriczoo._tiles import Tiles
from metriczoo._whole import scores_both_ways, scores_of_all
from metriczoo.columns import AcrossColumns, Columns, LabelColumns
from metriczoo.reduction import Totals, divisors, reduced, stacked
from metriczoo.scores import Block, Scores

if TYPE_CHECKING:
    from metriczoo.losses.base import Loss

__all__ = ["Problem", "evaluate"]

_SMALL = 2**17  # scores of a batch that is small
_SHARED = 2**20  # scores of two sides that one product for both of their directions is made of
_TALL = 4  # times the height of a block that it may have to hold the whole of a class; parts of one look at all of it once more each


@dataclass(eq=False)
class Problem:
    """One call of a loss: all but its points and its parameters."""

    loss: Loss
    columns: Columns
    embedding_dim: int
    seed: Tensor | None
    budget: int | None  # bytes per score block
    facts: tuple[Any, ...] = ()  # what the loss fixed
    pooled: Tensor | None = None  # what the loss knows of the whole batch, once it does

    def inputs(self) -> list[Tensor]:
        """The facts that gradients flow to."""
        return [fact for fact in self.facts if _differentiable(fact)]

    def given(self, facts: Iterable[Tensor]) -> Problem:
        """The same call with other tensors in place of `inputs`."""
        new = iter(facts)
        if not self.facts:
            return self
        return replace(self, facts=tuple(next(new) if _differentiable(fact) else fact for fact in self.facts))

    def block(self, r: Tensor, rows: slice, device: torch.device, places: Tensor | None = None) -> Block:
        """What may be known of the block of anchors `rows`, whose references are `r`. `places`: these rows, where they are known."""
        return Block(
            torch.arange(rows.start, rows.stop, device=device) if places is None else places,
            self.loss.similarity.distance,
            self.embedding_dim,
            self.seed,
            between_references(self.loss.similarity, r, self.columns.width),
            self.columns.positions,
            self.facts,
            *self._peers(rows),
            self.pooled,
        )

    def _peers(self, rows: slice) -> tuple[int | None, slice | None]:
        """`Block.peers` of a block of whole classes, or `Block.kin` of one that is a part of a class."""
        labels = self.columns.labels
        if not self.columns.grouped or labels is None or rows.start == rows.stop:
            return None, None
        ends = labels[rows.start], labels[rows.stop - 1]
        first, last = (int(torch.searchsorted(labels, end, right=right)) for end, right in zip(ends, (False, True), strict=True))
        if (first, last) == (rows.start, rows.stop):
            return first, None
        return None, slice(first, last) if bool(ends[0] == ends[1]) else None

    def finish(self, s_n: Scores, s_p: Scores, rows: slice) -> Totals:
        """What the anchors `rows` add up to."""
        return stacked(apart(self.loss, s_n, s_p, self.columns.keep[rows], self.columns.strata))

    def value(self, sums: Totals) -> Tensor:
        """The loss, from the sums over all anchors, `[terms]`."""
        return (sums.value.double() / divisors(self.loss.reduction, sums)).sum()

    def dense(self, anchors: Tensor, references: Tensor | None) -> Tensor:
        """The loss by one block: the reference, differentiable any number of times."""
        if self.columns.streamed and references is not None:
            references = prepared(self.loss.similarity, references, anchors.dtype)
        rows, r = slice(0, len(anchors)), anchors if references is None else references
        block = self.block(r, rows, anchors.device)
        return self._whole(*self.columns.scores(self.loss.similarity, anchors, r, block, rows), anchors.dtype)

    def small(self, anchors: Tensor, references: Tensor | None) -> Tensor:
        """The same with the products of a tile."""
        if isinstance(self.columns, AcrossColumns):
            return self._both_ways(anchors, self.columns)
        assert isinstance(self.columns, LabelColumns)
        n = len(anchors)
        block = self.block(anchors if references is None else references, slice(0, n), anchors.device, _places(n))
        return self._whole(*scores_of_all(self.loss.similarity, self.columns, anchors, references, block), anchors.dtype)

    def _both_ways(self, points: Tensor, columns: AcrossColumns) -> Tensor:
        assert columns.sides is not None
        x, y = points[: columns.cut], points[columns.cut :]
        there, back = (replace(self, columns=own) for own in columns.sides)
        blocks = there.block(y, slice(0, len(x)), points.device), back.block(x, slice(0, len(y)), points.device)
        scores = scores_both_ways(self.loss.similarity, columns.sides, points, blocks)
        of_sides = [side._terms(*own) for side, own in zip((there, back), scores, strict=True)]
        terms = [Totals(*map(torch.cat, zip(*term, strict=True))) for term in zip(*of_sides, strict=True)]
        return reduced(self.loss.reduction, terms).to(points.dtype)

    def _whole(self, s_n: Scores, s_p: Scores, dtype: torch.dtype) -> Tensor:
        return reduced(self.loss.reduction, self._terms(s_n, s_p)).to(dtype)

    def _terms(self, s_n: Scores, s_p: Scores) -> list[Totals]:
        keep = len(self.columns.keep) if self.columns.everyone else self.columns.keep
        return apart(self.loss, s_n, s_p, keep, self.columns.strata)

    @property
    def is_small(self) -> bool:
        """Whether the whole batch is one block whose arithmetic takes no longer than a graph for a tile would, or two that share theirs."""
        loss, columns, similarity = self.loss, self.columns, self.loss.similarity
        if loss.execution == "tiled" or loss.compiled or self.budget is not None or settings.memory_budget is not None:
            return False
        if isinstance(columns, AcrossColumns) and columns.sides is not None:
            there, back = columns.sides
            return loss.miner is None and similarity.is_product and there.keep.shape[0] * back.keep.shape[0] <= _SHARED
        if not isinstance(columns, LabelColumns) or columns.streamed or columns.width * columns.keep.shape[0] > _SMALL:
            return False
        return similarity.is_product or similarity.distance_power is not None

    def _symmetric(self) -> bool:
        """Whether the gradients of a block of all scores take one matrix product for both of their sides."""
        similarity = self.loss.similarity
        product = similarity.is_product or similarity.is_bent or similarity.distance_power is not None
        return product and isinstance(self.columns, LabelColumns) and self.columns.itself

    def tiles(self, anchors: Tensor) -> Iterator[slice]:
        """The blocks of anchors, near-equal in height; of whole classes where anchors are in the order of these, unless some are huge.

        There is none where each anchor lacks a side that the loss needs, as in a batch of one class, or of nothing but different ones.
        """
        if (self.loss.needs_positives and self.columns.no_positives) or (self.loss.needs_negatives and self.columns.no_negatives):
            return iter(())
        n, budget = len(anchors), memory(self.budget, anchors.device)
        ours = self.budget is None and settings.memory_budget is None
        if ours and self.loss.compiled:  # which makes no array of the size of the scores but their gradient
            budget *= 2
        if ours and n * n * anchors.element_size() <= 2 * budget and self._symmetric():
            return iter([slice(0, n)] if n else [])
        height = self.columns.height(budget, anchors.element_size())
        if ours and isinstance(self.columns, LabelColumns):
            height = max(height, THIN)
        count = max(1, -(-n // height))
        height = min(height, max(1, -(-n // count) + 7 & ~7))  # of multiples of 8 products take up to a tenth less
        if self.columns.grouped and self.columns.labels is not None:
            height = max(1, height * 3 // 4)  # there are further arrays of the size of the block
            return _of_whole_classes(self.columns.labels, height, height * _TALL)
        return (slice(start, min(start + height, n)) for start in range(0, n, height))


@lru_cache(maxsize=8)
def _places(n: int) -> Tensor:
    """`[n]` int64 on the host, 0, ..., n - 1; never written."""
    with torch.inference_mode(False):
        return torch.arange(n, device="cpu")


def _of_whole_classes(labels: Tensor, height: int, largest: int) -> Iterator[slice]:
    """Blocks of sorted `labels` of about `height` rows. A class of more than `largest` is cut."""
    start, stop = 0, 0
    for size in labels.unique_consecutive(return_counts=True)[1].tolist():
        if stop > start and stop + size > start + height:
            yield from _cut(start, stop, largest)
            start = stop
        stop += size
    if stop > start:
        yield from _cut(start, stop, largest)


def _cut(start: int, stop: int, largest: int) -> Iterator[slice]:
    step = -(-(stop - start) // -(-(stop - start) // largest))
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))


def _differentiable(fact: Any) -> bool:
    return isinstance(fact, Tensor) and fact.requires_grad


def evaluate(problem: Problem, anchors: Tensor, references: Tensor | None, learnable: Callable[[], Sequence[Tensor]]) -> Tensor:
    """The loss of prepared `anchors` `[N, d]` against `references` `[n, d]`; None means the anchors themselves.

    References are prepared, unless they are to be streamed. `learnable` gives all other tensors that may require a gradient inside
    `per_anchor`, the miner and the similarity.
    """
    execution = problem.loss.execution
    if execution == "dense" or not problem.loss.tileable or tracing(anchors):
        return problem.dense(anchors, references)
    if anchors.device.type == "cpu":
        keep_freed_memory()
    if problem.is_small:
        return problem.small(anchors, references)
    parameters = learnable()
    if problem.columns.streamed and references is not None:
        try:
            return _by_blocks(problem, anchors, references, parameters)
        except NeedsCells:
            problem.loss.needs_cells, problem.columns.streamed = True, False
            references = prepared(problem.loss.similarity, references, anchors.dtype)
    return _by_blocks(problem, anchors, references, parameters)


def _by_blocks(problem: Problem, anchors: Tensor, references: Tensor | None, parameters: Sequence[Tensor]) -> Tensor:
    parameters = (*problem.inputs(), *parameters)
    inputs = (anchors, references, *parameters)
    wanted = tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in inputs)
    if not any(wanted):
        with torch.no_grad():
            return _blocks(problem, anchors, references, parameters, wanted).run()
    value: Tensor = _Tiled.apply(problem, wanted, *inputs)  # type: ignore[no-untyped-call]
    return value


def _blocks(
    problem: Problem,
    anchors: Tensor,
    references: Tensor | None,
    parameters: Sequence[Tensor],
    wanted: Sequence[bool],
    weights: Tensor | None = None,
) -> Tiles | Stream | Coupled | Across | Halves:
    if problem.columns.streamed and references is not None:
        return Stream(problem, anchors, references, parameters, wanted, weights)
    if isinstance(problem.columns, AcrossColumns) and problem.columns.sides is not None and problem.loss.miner is None:
        return Across(problem, anchors, parameters, wanted, weights)
    if Halves.serve(problem, anchors, references, wanted):
        return Halves(problem, anchors, parameters, wanted, weights)
    return (Tiles if problem.loss.separable else Coupled)(problem, anchors, references, parameters, wanted, weights)


class _Tiled(torch.autograd.Function):
    """Value and gradient by tiles. Backward scales the gradient that forward has accumulated.

    With reduction "none" the factor of each anchor is known in backward only: there the tiles run again. Under `create_graph` backward
    differentiates the dense form, since the gradient accumulated here is a constant to autograd.

    The gradient of streamed references is so large that there is room for it once: the first backward gives it away, and any further one
    of a retained graph streams again.

    Not in the form with `setup_context`, whose overhead is that of a dozen operations: it is never transformed.
    """

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, wanted: tuple[bool, ...], anchors: Tensor, references: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        tensors = (anchors, references, *parameters)
        per_anchor, streamed = problem.loss.reduction == "none", problem.columns.streamed
        tiles = _blocks(problem, anchors, references, parameters, (False,) * len(wanted) if per_anchor else wanted)
        value, gradients = tiles.run(), tiles.gradients()
        ctx.problem, ctx.wanted = problem, wanted
        ctx.once = list(gradients) if streamed else []
        saved = () if streamed else gradients
        ctx.set_materialize_grads(False)
        ctx.num_gradients = len(saved)
        # A store may be updated between forward and backward: what receives no gradient is kept aside, and checked where it is used again.
        ctx.constants = [None if w or t is None else (t, t._version) for t, w in zip(tensors, wanted, strict=True)]
        ctx.save_for_backward(*saved, *(t for t, w in zip(tensors, wanted, strict=True) if w))
        return value

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:  # nothing depends on the value
            return (None,) * (2 + len(ctx.wanted))
        saved = ctx.saved_tensors
        gradients, differentiable = list(saved[: ctx.num_gradients]), iter(saved[ctx.num_gradients :])
        if ctx.once and not torch.is_grad_enabled():
            gradients, ctx.once = [g.mul_(grad) for g in ctx.once], []
        elif torch.is_grad_enabled() or not gradients:
            tensors: list[Any] = [next(differentiable) if w else _unchanged(c) for w, c in zip(ctx.wanted, ctx.constants, strict=True)]
            if torch.is_grad_enabled():
                gradients = _dense_gradients(ctx.problem, tensors, ctx.wanted, grad)
            else:
                per_anchor = ctx.problem.loss.reduction == "none"
                tiles = _blocks(ctx.problem, tensors[0], tensors[1], tensors[2:], ctx.wanted, weights=grad if per_anchor else None)
                tiles.run()
                gradients = list(tiles.gradients())
                gradients = gradients if per_anchor else [g.mul_(grad) for g in gradients]
        else:
            gradients = [g * grad for g in gradients]
        result = iter(gradients)
        return (None, None, *(next(result) if w else None for w in ctx.wanted))


def _unchanged(constant: tuple[Tensor, int] | None) -> Tensor | None:
    if constant is None:
        return None
    tensor, version = constant
    if tensor._version != version:
        raise RuntimeError(
            "References were modified in place (a store was updated) between the forward call of the loss and a backward pass that needs "
            "them again (reduction='none' or create_graph=True). Update the store after backward."
        )
    return tensor


def _dense_gradients(problem: Problem, tensors: list[Tensor | None], wanted: Sequence[bool], grad: Tensor) -> list[Tensor]:
    # Points and facts may depend on the same parameters as the loss, or on one another. That is for autograd to add up, behind the gates.
    gate, num = _Gate(), 2 + len(problem.inputs())
    tensors = [t if t is None or k >= num else _Gated.apply(t, gate) for k, t in enumerate(tensors)]  # type: ignore[no-untyped-call]
    anchors, references, *facts = tensors[:num]
    assert anchors is not None
    value = problem.given(fact for fact in facts if fact is not None).dense(anchors, references)
    inputs = [t for t, w in zip(tensors, wanted, strict=True) if w and t is not None]
    gate.shut = True
    gradients = torch.autograd.grad(value, inputs, grad, create_graph=True, allow_unused=True, materialize_grads=True)
    gate.shut = False  # further derivatives pass
    return list(gradients)


@dataclass(eq=False)
class _Gate:
    shut: bool = False


class _Gated(torch.autograd.Function):
    """Identity; gradients stop here while the gate is shut."""

    @staticmethod
    def forward(x: Tensor, gate: _Gate) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Gate], output: Tensor) -> None:
        ctx.gate = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        return None if ctx.gate.shut else grad, None
