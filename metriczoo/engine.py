"""The engine: blocks of anchors, gradients, and the memory budget. A loss never knows how it is executed.

Dense is the reference: one block, ordinary autograd. Tiled cuts the anchors into blocks of rows that fit the memory budget and keeps
nothing of size N x n: since the loss is a sum over anchors, divided by a number at the end, value and gradient are accumulated block by
block in the forward pass, with no recomputation. Blocks that stay in cache make this faster than dense, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metriczoo._execution import settings, tracing
from metriczoo._tiles import Tiles
from metriczoo.columns import Columns
from metriczoo.reduction import Totals, divisors, totals
from metriczoo.scores import HARMLESS, Block, Scores

if TYPE_CHECKING:
    from metriczoo.losses.base import Loss

__all__ = ["Problem", "evaluate"]


@dataclass(eq=False)
class Problem:
    """One call of a loss: all but the tensors that gradients flow to."""

    loss: Loss
    columns: Columns
    embedding_dim: int
    seed: Tensor | None
    budget: int | None  # bytes per score block

    def block(self, r: Tensor, rows: slice, device: torch.device) -> Block:
        """What miners may know of the block of anchors `rows`, whose references are `r`."""
        similarity, width = self.loss.similarity, self.columns.width

        def between(i: Tensor, j: Tensor | None) -> Tensor:
            if not len(r):
                return r.new_full((len(i), width if j is None else j.shape[1]), HARMLESS)
            i = i.clamp(max=len(r) - 1)  # the spare column belongs to no set: any score will do
            if j is not None:
                return similarity.score(r[i].unsqueeze(1), r[j.clamp(max=len(r) - 1)]).squeeze(1)
            return F.pad(similarity.score(r[i], r), (0, width - len(r)), value=HARMLESS)

        return Block(torch.arange(rows.start, rows.stop, device=device), similarity.distance, self.embedding_dim, self.seed, between)

    def finish(self, s_n: Scores, s_p: Scores, rows: slice) -> Totals:
        """What the anchors `rows` add up to."""
        if self.loss.miner is not None:
            s_n, s_p = self.loss.miner(s_n, s_p)
        return totals(
            self.loss.per_anchor(s_n, s_p),
            s_n,
            s_p,
            self.columns.keep[rows],
            needs_positives=self.loss.needs_positives,
            needs_negatives=self.loss.needs_negatives,
        )

    def totals(self, a: Tensor, r: Tensor, rows: slice) -> Totals:
        """What the anchors `rows` add up to, by autograd from prepared anchors `a` and references `r`."""
        return self.finish(*self.columns.scores(self.loss.similarity, a, r, self.block(r, rows, a.device), rows), rows)

    def value(self, sums: Totals) -> Tensor:
        """The loss, from the sums over all anchors, `[terms]`."""
        return (sums.value.double() / divisors(self.loss.reduction, sums)).sum()

    def dense(self, anchors: Tensor, references: Tensor | None) -> Tensor:
        """The loss by one block: the reference, differentiable any number of times."""
        every = self.totals(anchors, anchors if references is None else references, slice(0, len(anchors)))
        if self.loss.reduction == "none":
            return every.value.sum(1)
        return self.value(Totals(*(part.sum(0) for part in every))).to(anchors.dtype)

    def tiles(self, anchors: Tensor) -> Iterator[slice]:
        """The blocks of anchors, near-equal in height."""
        budget = next(b for b in (self.budget, settings.memory_budget, _default_budget(anchors.device)) if b is not None)
        n, height = len(anchors), self.columns.height(budget, anchors.element_size())
        count = max(1, -(-n // height))
        height = max(1, -(-n // count))
        return (slice(start, min(start + height, n)) for start in range(0, n, height))


def _default_budget(device: torch.device) -> int:
    """Bytes: a block that stays in the cache of a host; on an accelerator one that keeps it busy."""
    return 2**21 if device.type == "cpu" else 2**28


def evaluate(problem: Problem, anchors: Tensor, references: Tensor | None, parameters: Sequence[Tensor]) -> Tensor:
    """The loss of prepared `anchors` `[N, d]` against prepared `references` `[n, d]`; None means the anchors themselves.

    `parameters` are all other tensors that may require a gradient inside `per_anchor`, the miner and the similarity.
    """
    execution = problem.loss.execution
    if execution == "dense" or not problem.loss.separable or tracing(anchors):
        return problem.dense(anchors, references)
    inputs = (anchors, references, *parameters)
    wanted = tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in inputs)
    if not any(wanted):
        with torch.no_grad():
            return Tiles(problem, anchors, references, parameters, wanted).run()
    value: Tensor = _Tiled.apply(problem, wanted, *inputs)[0]  # type: ignore[no-untyped-call]
    return value


class _Tiled(torch.autograd.Function):
    """Value and gradient by tiles. Backward scales the gradient that forward has accumulated.

    With reduction "none" the factor of each anchor is known in backward only: there the tiles run again. Under `create_graph` backward
    differentiates the dense form, since the gradient accumulated here is a constant to autograd.
    """

    @staticmethod
    def forward(problem: Problem, wanted: tuple[bool, ...], anchors: Tensor, references: Tensor | None, *parameters: Tensor) -> Any:
        per_anchor = problem.loss.reduction == "none"
        tiles = Tiles(problem, anchors, references, parameters, (False,) * len(wanted) if per_anchor else wanted)
        return (tiles.run(), *tiles.gradients())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        problem, wanted, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.problem, ctx.wanted = problem, wanted
        ctx.num_gradients = len(output) - 1
        # A store may be updated between forward and backward: what receives no gradient is kept aside, and checked where it is used again.
        ctx.constants = [None if w or t is None else (t, t._version) for t, w in zip(tensors, wanted, strict=True)]
        ctx.save_for_backward(*output[1:], *(t for t, w in zip(tensors, wanted, strict=True) if w))

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        saved = ctx.saved_tensors
        gradients, differentiable = list(saved[: ctx.num_gradients]), iter(saved[ctx.num_gradients :])
        if torch.is_grad_enabled() or not gradients:
            tensors: list[Any] = [next(differentiable) if w else _unchanged(c) for w, c in zip(ctx.wanted, ctx.constants, strict=True)]
            if torch.is_grad_enabled():
                gradients = _dense_gradients(ctx.problem, tensors, ctx.wanted, grad)
            else:
                tiles = Tiles(ctx.problem, tensors[0], tensors[1], tensors[2:], ctx.wanted, weights=grad)
                tiles.run()
                gradients = list(tiles.gradients())
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
    anchors, references = tensors[0], tensors[1]
    assert anchors is not None
    value = problem.dense(anchors, references)
    inputs = [t for t, w in zip(tensors, wanted, strict=True) if w and t is not None]
    return list(torch.autograd.grad(value, inputs, grad, create_graph=True, allow_unused=True, materialize_grads=True))
