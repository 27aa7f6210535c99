"""Blocks of scores: queries by rows, references by columns, never all queries at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._execution import full_precision
from metriczoo.metrics._inputs import Points, Scoring

__all__ = ["Matches", "Scores", "distinct", "largest_", "prepare", "prepare_distinct", "same_ids", "score"]

_MULTIPLIER = 6364136223846793005  # odd: multiplying by it permutes the 64-bit integers
_PART = 2**20  # components of points that are prepared at a time


class Matches:
    """For each row the columns that have its key, found by one sort: memory is O(rows + columns)."""

    def __init__(self, row_keys: Tensor, column_keys: Tensor) -> None:
        keys, self.order = column_keys.sort(stable=True)
        self.start = torch.searchsorted(keys, row_keys)
        self.count = torch.searchsorted(keys, row_keys, right=True) - self.start

    def table(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Columns `[b, P]` of rows `[b]`, in ascending order and padded to the largest count, and which of them are real `[b, P]`."""
        count = self.count[rows].unsqueeze(1)
        offset = torch.arange(int(count.max()) if len(rows) else 0, device=rows.device)
        index = self.start[rows].unsqueeze(1) + offset
        return self.order[index.clamp(max=len(self.order) - 1)], offset < count

    def cells(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The matches of rows `[b]` as positions in `rows` and columns, one entry per match."""
        columns, real = self.table(rows)
        return real.nonzero()[:, 0], columns[real]


def same_ids(queries: Points, references: Points) -> Matches:
    """For each query the references that have its id, none for an id < 0."""
    matches = Matches(queries.ids, references.ids)
    matches.count.masked_fill_(queries.ids < 0, 0)
    return matches


def distinct(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The distinct rows of `x` `[n, d]` and the place `[n]` of each row among them; `x` and None if no two rows are equal."""
    bits = torch.int32 if x.dtype == torch.float32 else torch.int64
    key = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    for column in x.unbind(1):
        word = (column + 0.0).view(bits).long()  # -0.0 + 0.0 is 0.0: equal numbers get equal bits
        key = key * _MULTIPLIER + (word ^ (word >> 17))
    keys, place = key.unique(return_inverse=True)
    if keys.shape[0] == x.shape[0]:
        return x, None
    n = torch.arange(x.shape[0], device=x.device)
    first = n.new_full(keys.shape, x.shape[0]).scatter_reduce_(0, place, n, "amin")
    rows = x[first]
    if torch.equal(rows[place], x):
        return rows, place
    unique, place = x.unique(dim=0, return_inverse=True)  # different rows met in one key
    return (x, None) if unique.shape[0] == x.shape[0] else (unique, place)


def prepare(similarity: Scoring, x: Tensor) -> Tensor:
    """`similarity.prepare(x)`, without gradient, part by part: on the way it may hold several times the points."""
    with torch.no_grad(), full_precision(x):
        parts = x.split(max(1, _PART // x.shape[1]))
        first = similarity.prepare(parts[0])
        if first is parts[0]:
            return x
        prepared = first.new_empty(x.shape[0], first.shape[1])
        for part, rows in zip(parts, prepared.split(parts[0].shape[0]), strict=True):
            rows.copy_(first if part is parts[0] else similarity.prepare(part))
    return prepared


def prepare_distinct(similarity: Scoring, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Distinct prepared points of `x` `[n, d]`, and the place `[n]` of each point among them (None: its own)."""
    points, first = distinct(x)
    prepared, second = distinct(prepare(similarity, points))
    if first is None or second is None:
        return prepared, first if second is None else second
    return prepared, second[first]


class Scores:
    """Scores of some queries to all references: `similarity.score` of prepared points, but equal references score exactly equally.

    A matrix product rounds differently at its edges, so two equal columns may differ in the last digit and a tie would be missed. Therefore
    each distinct reference is scored once, and its column repeated.
    """

    def __init__(self, similarity: Scoring, queries: Tensor, references: Tensor) -> None:
        self.similarity = similarity
        self.references, self.columns = prepare_distinct(similarity, references)
        self.symmetric = queries is references
        if self.symmetric:
            self.queries = self.references if self.columns is None else self.references[self.columns]
        else:
            self.queries = prepare(similarity, queries)

    def __call__(self, rows: Tensor) -> Tensor:
        """`[b, n]`: scores of queries `rows` `[b]` to the references, the caller's to overwrite."""
        scores = score(self.similarity, self.queries[rows], self.references)
        return scores if self.columns is None else scores[:, self.columns]


def score(similarity: Scoring, a: Tensor, r: Tensor) -> Tensor:
    """`similarity.score(a, r)` in at least float32, contiguous, without gradient."""
    with torch.no_grad(), full_precision(r):
        scores = similarity.score(a, r)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).contiguous()


def largest_(x: Tensor, m: int) -> Tensor:
    """The `m` largest values of each row of `x` `[b, n]`, ascending, NaN as the largest, `[b, m]`. `x` may be overwritten."""
    n = x.shape[1]
    if x.device.type != "cpu":
        return x.topk(m, dim=1).values.flip(1) if 2 * m < n else x.sort(dim=1).values[:, n - m :]
    # NumPy sorts and selects with vector instructions, many times faster than torch does on a CPU, but on one thread only.
    array = x.numpy()
    parts = min(torch.get_num_threads(), x.shape[0]) if x.numel() > 2**18 else 1
    if parts <= 1:
        _put_largest_last(array, m)
    else:
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(_put_largest_last, np.array_split(array, parts), [m] * parts))
    return x[:, n - m :]


def _put_largest_last(array: NDArray[Any], m: int) -> None:
    n = array.shape[1]
    if 2 * m < n:
        array.partition(n - m, axis=1)
        array[:, n - m :].sort(axis=1)
    else:
        array.sort(axis=1)
