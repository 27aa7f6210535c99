"""What losses share whose references are the rows of one table, row `i` being the own one of label `i`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metriczoo._execution import backward_in_full_precision, reads_are_free
from metriczoo.columns import Columns
from metriczoo.references import References, match
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Similarity
from metriczoo.stores import MemoryBank

__all__ = ["PooledColumns", "TableColumns", "check_bank", "check_below", "check_rows"]


def check_bank(bank: Any) -> MemoryBank | None:
    """Return `bank` if it is a `MemoryBank` or None, else raise."""
    if bank is not None and not isinstance(bank, MemoryBank):
        raise TypeError(f"Expected `bank` to be a MemoryBank, but got {type(bank).__name__}.")
    return bank


def check_below(rows: Tensor, size: int) -> Tensor:
    """Return `rows` `[n]`, the own row of each anchor, a negative one for none, if they are below `size`, else raise."""
    if reads_are_free(rows) and len(rows) and int(rows.max()) >= size:
        raise ValueError(f"Expected `ids` (or `labels`, where none are given) to be below {size}, but got {int(rows.max())}.")
    return rows


def check_rows(rows: Tensor, table: References, anchors: Tensor) -> Tensor:
    """As `check_below`, of a table of references that the anchors `[n, d]` must fit, too."""
    match(table, anchors)
    return check_below(rows, len(table))


class TableColumns(Columns):
    """A few cells of a table for each anchor, some in `s_n`, some in `s_p`.

    Args:
        cells: `[N, k]` int64, rows of the table. The prepared references are these rows, `[N * k, d]`, so that no tile reads the others.
        negative: `[N, k]` bool, which of them count as negatives.
        positive: `[N, k]` bool.
        keep: `[N]` bool, anchors that take part.
    """

    def __init__(self, cells: Tensor, negative: Tensor, positive: Tensor, keep: Tensor) -> None:
        self.cells, self.negative, self.positive, self.keep = cells, negative, positive, keep
        self.width = cells.shape[1]

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """Both sets as masks over the cells of each anchor."""
        points = r.reshape(*self.cells.shape, r.shape[1])[rows]
        value = similarity.score(a.unsqueeze(1), points).squeeze(1)
        columns, block = self.cells[rows], block.but(between=None)
        s_n = Scores(value, self.negative[rows], columns=columns, block=block)
        return s_n, Scores(value, self.positive[rows], columns=columns, block=block)


class PooledColumns(Columns):
    """The own row of each anchor, and all other rows of a table pooled into one score, which has the same log-sum-exp as they have.

    The table is read once, in chunks, so nothing of its size is made. For a loss that sees negatives through
    `logsumexp(s / temperature)` alone, and a similarity that is an inner product of prepared points.

    Args:
        own: `[N]` int64, the own row of each anchor.
        table: `[n, d]`, not prepared. It receives no gradient.
        keep: `[N]` bool, anchors that take part.
        temperature: tau > 0.
        budget: bytes that the scores of a chunk may take.
    """

    width = 1

    def __init__(self, own: Tensor, table: Tensor, keep: Tensor, temperature: float | Tensor, budget: int) -> None:
        self.own, self.table, self.keep = own, table.detach(), keep
        self.temperature, self.budget = temperature, budget

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """Negatives `[b, 1]`, none of a table of one row, and positives `[b, 1]`."""
        own, block = self.own[rows].unsqueeze(1), block.but(between=None)

        def points(at: slice | Tensor) -> Tensor:
            return similarity.prepare(self.table[at].to(a.dtype))

        near = (a * points(own.squeeze(1))).sum(1, keepdim=True)
        height = max(1, self.budget // max(1, a.shape[0] * a.element_size()))
        x = a / self.temperature
        pooled: Tensor = _LogSumExp.apply(x, own, points, len(self.table), height, x.requires_grad)[0]  # type: ignore[no-untyped-call]
        far = (self.temperature * pooled).unsqueeze(1) if len(self.table) > 1 else a.new_empty(a.shape[0], 0)
        return Scores(far, block=block), Scores(near, columns=own, block=block)


class _LogSumExp(torch.autograd.Function):
    """Of the inner products of `x` `[b, d]` with all rows of a table but one. The gradient of `x` is gathered in the same pass."""

    @staticmethod
    def forward(
        x: Tensor, own: Tensor, points: Callable[[slice], Tensor], size: int, height: int, want_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        largest = x.new_full((x.shape[0], 1), torch.finfo(x.dtype).min)
        total, mean = torch.zeros_like(largest), torch.zeros_like(x)
        least = math.log(torch.finfo(x.dtype).tiny) / 2  # see `Scores.logsumexp`
        for start in range(0, size, height):
            r = points(slice(start, start + height))
            inside = (own >= start) & (own < start + len(r))
            z = x.new_empty(x.shape[0], len(r) + 1)  # with a spare column for the anchors whose own row is elsewhere
            torch.mm(x, r.mT, out=z[:, :-1])
            z.scatter_(1, torch.where(inside, own - start, len(r)), -math.inf)
            last, largest = largest, torch.maximum(largest, z[:, :-1].amax(1, keepdim=True))
            weight = z[:, :-1].sub_(largest).clamp_(min=least).exp_()
            shrink = (last - largest).exp()
            total = total * shrink + weight.sum(1, keepdim=True)
            if want_gradient:
                mean = torch.addmm(mean * shrink, weight, r)
        return (largest + total.log()).squeeze(1), mean / total if want_gradient else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None]) -> None:
        x, own, ctx.points, ctx.size, _, _ = inputs
        ctx.save_for_backward(x, own, output[1])
        if output[1] is not None:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, own, mean = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative needs all scores at once
            value = (x @ ctx.points(slice(None)).mT).scatter(1, own, -math.inf).logsumexp(1)
            return torch.autograd.grad(value, x, grad, create_graph=True)[0], None, None, None, None, None
        return mean * grad.unsqueeze(1), None, None, None, None, None
