"""Scores of a small batch, all of them at once, as one node of the graph of autograd.

Where one tile holds the batch and its arithmetic takes well under a millisecond, a graph of its own for that tile, with constants to detach
and gradients to accumulate, takes about as long. Here the loss is an ordinary graph on top of the scores, as in dense execution, but those
are products into one buffer, and their gradient is the few products of a tile. Two sides that are compared in both directions share these
products, which halves their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._execution import backward_in_full_precision
from metriczoo._products import products_of
from metriczoo.columns import LabelColumns
from metriczoo.scores import HARMLESS, Block, Scores
from metriczoo.similarity import Similarity

__all__ = ["scores_both_ways", "scores_of_all"]

_Tables = tuple[Tensor, ...]
_Sides = tuple[LabelColumns, LabelColumns]


def scores_of_all(similarity: Similarity, columns: LabelColumns, a: Tensor, r: Tensor | None, block: Block) -> tuple[Scores, Scores]:
    """`(s_n, s_p)` of prepared anchors `a` `[N, d]` to prepared references `r` `[n, d]`; None means the anchors themselves."""
    # Constants may be written before backward, as those of a store are.
    a = a if a.requires_grad else a.clone()
    r = r if r is None or r.requires_grad else r.clone()
    tables = columns.tables(slice(0, a.shape[0]))
    wide, narrow = _Scored.apply(a, r, similarity, columns, tables)  # type: ignore[no-untyped-call]
    return columns.named(wide, narrow, tables, block)


class _Scored(torch.autograd.Function):
    """Not in the form with `setup_context`, whose overhead is that of a dozen operations: it is never transformed."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, r: Tensor | None, similarity: Similarity, columns: LabelColumns, tables: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        points = a.detach()
        products = products_of(similarity, points, points if r is None else r.detach())
        assert products is not None
        rows, wide = slice(0, a.shape[0]), a.new_empty(a.shape[0], columns.width)
        products.multiply(rows, out=wide[:, :-1])
        s_n, s_p = columns.named(*columns.cells_(wide, tables, products.outside), tables, None)
        products.finish(s_n, s_p, rows)
        ctx.set_materialize_grads(False)
        ctx.call = similarity, columns, tables, products
        ctx.save_for_backward(a, r, s_n.value, s_p.value)
        return s_n.value, s_p.value

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, g_n: Tensor | None, g_p: Tensor | None) -> tuple[Tensor | None, ...]:
        if g_n is None and g_p is None:
            return (None,) * 5
        a, r, wide, narrow = ctx.saved_tensors
        similarity, columns, tables, products = ctx.call
        wanted, rows = ctx.needs_input_grad[:2], slice(0, a.shape[0])
        if torch.is_grad_enabled():
            points = [None if x is None else x.view_as(x) for x in (a, r)]  # of which one may depend on the other
            again = columns.scores(similarity, points[0], points[0] if r is None else points[1], None, rows)
            pairs = [(s.value, g) for s, g in zip(again, (g_n, g_p), strict=True) if g is not None]
            inputs = [x for x, want in zip(points, wanted, strict=True) if want and x is not None]
            found = iter(torch.autograd.grad([s for s, _ in pairs], inputs, [g for _, g in pairs], create_graph=True))
            return *(next(found) if want else None for want in wanted), None, None, None
        found = products.pull(g_n, g_p, *columns.named(wide, narrow, tables, None), a if wanted[0] else None, r if wanted[1] else None)
        return *found, None, None, None


def scores_both_ways(similarity: Similarity, sides: _Sides, points: Tensor, blocks: tuple[Block, Block]) -> list[tuple[Scores, Scores]]:
    """`(s_n, s_p)` of either side of prepared `points` `[n + m, d]` to the other, of a similarity that is their inner product.

    `sides` are the columns of either. One matrix of scores serves both, and one of their gradients.
    """
    points = points if points.requires_grad else points.clone()
    tables = tuple(own.tables(slice(0, own.keep.shape[0])) for own in sides)
    values = _BothWays.apply(points, similarity, sides, tables)  # type: ignore[no-untyped-call]
    every = zip(sides, values[::2], values[1::2], tables, blocks, strict=True)
    return [own.named(wide, narrow, of_side, block) for own, wide, narrow, of_side, block in every]


class _BothWays(torch.autograd.Function):
    """As `_Scored`."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, similarity: Similarity, sides: _Sides, tables: tuple[_Tables, _Tables]) -> tuple[Tensor, ...]:
        n, m = (own.keep.shape[0] for own in sides)
        x, y = points.detach().split([n, m])
        there, back = points.new_empty(n, m + 1), points.new_empty(m, n + 1)
        torch.mm(x, y.mT, out=there[:, :-1])
        back[:, :-1] = there[:, :-1].mT
        ctx.set_materialize_grads(False)
        ctx.call = similarity, sides, tables
        ctx.save_for_backward(points)
        found = (own.cells_(wide, of_side, HARMLESS) for own, wide, of_side in zip(sides, (there, back), tables, strict=True))
        return tuple(value for cells in found for value in cells)

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (points,), (similarity, sides, tables) = ctx.saved_tensors, ctx.call
        if all(g is None for g in grads) or not ctx.needs_input_grad[0]:
            return (None,) * 4
        n, m = (own.keep.shape[0] for own in sides)
        if torch.is_grad_enabled():
            points = points.view_as(points)
            x, y = points.split([n, m])
            there, back = (own.scores(similarity, *p, None, slice(0, k)) for own, p, k in zip(sides, ((x, y), (y, x)), (n, m), strict=True))
            pairs = [(s.value, g) for s, g in zip((*there, *back), grads, strict=True) if g is not None]
            (found,) = torch.autograd.grad([s for s, _ in pairs], points, [g for _, g in pairs], create_graph=True)
            return found, None, None, None
        (positive, _, excluded, *_), (positive_back, *_) = tables
        there_n, there_p, back_n, back_p = grads
        both = points.new_zeros(n + 1, m + 1)  # the spare cells of either side are the last ones
        if there_n is not None:
            both[:-1, :-1] = there_n[:, :-1]
        if back_n is not None:
            both[:-1, :-1] += back_n[:, :-1].mT
        both[:-1].scatter_(1, excluded, 0.0)  # cells of no set have no gradient, and those of positives that of their own
        if there_p is not None:
            both[:-1].scatter_add_(1, positive, there_p)
        if back_p is not None:
            both[:, :-1].scatter_add_(0, positive_back.mT, back_p.mT)
        gradient, (x, y) = both[:-1, :-1], points.split([n, m])
        found = torch.empty_like(points)
        torch.mm(gradient, y, out=found[:n])
        torch.mm(gradient.mT, x, out=found[n:])
        return found, None, None, None
