"""Scores of a small batch, all of them at once, as one node of the graph of autograd.

Where one tile holds the batch and its arithmetic takes well under a millisecond, a graph of its own for that tile, with constants to detach
and gradients to accumulate, takes about as long. Here the loss is an ordinary graph on top of the scores, as in dense execution, but those
are products into one buffer, and their gradient is the few products of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._execution import backward_in_full_precision
from metriczoo._products import products_of
from metriczoo.columns import LabelColumns
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Similarity

__all__ = ["scores_of_all"]


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
