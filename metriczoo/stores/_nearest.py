"""Exact top-k of inner products, chunk by chunk."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["nearest"]


def nearest(
    queries: Tensor, rows: Tensor, k: int, exclude: Tensor | None, keep: Tensor | None, budget: int | None
) -> tuple[Tensor, Tensor]:
    """Scores `[q, k]` and numbers `[q, k]` of the `k` best rows of each query: score descending, then number ascending.

    Where there are no more rows: -inf and -1.

    Args:
        queries: `[q, d]`.
        rows: `[n, d]`, n >= k.
        k: how many.
        exclude: `[q]`, number of a row that does not count for the query, or negative; None for no such rows.
        keep: `[n]` bool, which rows count; None for all.
        budget: bytes of scores held at once. Default: some MiB.
    """
    num, n = queries.shape[0], rows.shape[0]
    elements = (budget or (2**22 if queries.device.type == "cpu" else 2**28)) // queries.element_size()
    height = max(1, min(num, 256, elements // (128 * k)))  # wide chunks when k is large: merging costs by 2k per chunk
    width = max(1, elements // height)
    best = queries.new_full((num, k), -math.inf)
    number = torch.full((num, k), -1, dtype=torch.int64, device=queries.device)
    for start in range(0, n, width):
        part = rows[start : start + width].to(queries.dtype)
        bias = None if keep is None else torch.where(keep[start : start + width], 0.0, -math.inf).to(queries.dtype)
        for block in (slice(begin, begin + height) for begin in range(0, num, height)):
            scores = queries[block] @ part.mT
            if bias is not None:
                scores += bias
            if exclude is not None:
                _strike(scores, exclude[block] - start)
            value, column = _top(scores, k)
            # Stable, so that of equal scores those of lower rows stay first, and the -1 of missing rows before rows that do not count.
            value, order = torch.cat([best[block], value], dim=1).sort(dim=1, descending=True, stable=True)
            best[block] = value[:, :k]
            number[block] = torch.cat([number[block], column + start], dim=1).gather(1, order[:, :k])
    return best, number


def _strike(scores: Tensor, column: Tensor) -> None:
    """Set one cell of each row to -inf, in place, where the column is there."""
    inside = (column >= 0) & (column < scores.shape[1])
    column = column.clamp(0, scores.shape[1] - 1).unsqueeze(1)
    scores.scatter_(1, column, torch.where(inside.unsqueeze(1), -math.inf, scores.gather(1, column)))


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of each row, or all, by column; of equal ones at the end those of lower columns."""
    k = min(k, scores.shape[1])
    if k == scores.shape[1]:
        return scores, torch.arange(k, device=scores.device).expand_as(scores)
    value, column = scores.topk(k + 1, dim=1)  # which of several equal scores: undefined
    column, last = column[:, :k], value[:, k - 1]
    tied = (last == value[:, k]) & (last > -math.inf)
    if bool(tied.any()):
        rows = tied.nonzero().squeeze(1)
        column[rows] = scores[rows].sort(dim=1, descending=True, stable=True).indices[:, :k]
    column = column.sort(dim=1).values
    return scores.gather(1, column), column
