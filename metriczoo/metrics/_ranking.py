"""The chunked pass: where the positives of every query stand among the references, without a matrix of all queries and references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metriczoo.metrics._blocks import Matches, Scores, largest_, same_ids
from metriczoo.metrics._faiss import Neighbours
from metriczoo.metrics._inputs import Points, Scoring
from metriczoo.metrics._lists import Lists, Ranked, Standing, Tied

__all__ = ["Need", "Ranking"]

_POSITIVE_BYTES = 128  # what the measures hold per positive of a query


@dataclass(frozen=True)
class Need:
    """How much of each ranked list the measures read."""

    places: int = 0  # the first so many places
    relevant: bool = False  # as many first places as the query has positives
    first: bool = False  # the rank of the first positive, wherever it stands
    every: bool = False  # the rank of every positive

    def depth(self, positives: int) -> int:
        """Places to look at for queries with at most so many positives."""
        return max(self.places, positives if self.relevant else 0, 16 if self.first else 0)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What has been seen of the scores of some queries."""

    positive: Tensor  # [b, P] scores of the positives, descending, -inf beyond the last
    values: Tensor  # [b, m] the largest scores, ascending
    edge: Tensor  # [b, 1] no score that has not been seen is above this


class Ranking:
    """Queries that have at least one positive, ranked against all references.

    Two facts keep it quick. The rank of a positive is one more than the number of higher scores, so sorted *values* and a binary search do,
    without indices. And a measure that reads the first places only needs the largest values: rows where those leave a rank or a tie open
    are sorted in full.
    """

    def __init__(
        self, queries: Points, references: Points, similarity: Scoring, *, ties: str, need: Need, faiss: bool, budget: int
    ) -> None:
        self.query, self.reference, self.similarity = queries, references, similarity
        self.ties, self.need, self.budget = ties, need, budget
        self.positives = Matches(queries.labels, references.labels)
        self.same = same_ids(queries, references)
        self.total = self.positives.count - self._count_hidden()  # [q]
        self.neighbours = Neighbours(similarity, queries.embeddings, references.embeddings) if faiss and not need.every else None

    @cached_property
    def scores(self) -> Scores:
        """Scores of the queries to the references."""
        return Scores(self.similarity, self.query.embeddings, self.reference.embeddings)

    def _count_hidden(self) -> Tensor:
        """For each query the references that have its label and its id, `[q]`."""
        sides = (self.query, self.reference)
        _, label = torch.cat([side.labels for side in sides]).unique(return_inverse=True)
        ids, number = torch.cat([side.ids for side in sides]).unique(return_inverse=True)
        key = label * ids.shape[0] + number
        return Matches(key[: len(self.query)], key[len(self.query) :]).count.masked_fill(self.query.ids < 0, 0)

    def evaluate(self, measure: Callable[[Lists], Tensor], num_measures: int) -> Tensor:
        """`measure(lists)`, `[num_measures, b]`, of all queries, `[num_measures, q]`; 0 for those without a positive."""
        values = torch.zeros(num_measures, len(self.query), dtype=torch.float64, device=self.total.device)
        n = len(self.reference)
        for rows in self._chunks():
            standing = self._standing(rows)
            ranks = standing.ranks(positives_first=self.ties != "pessimistic")
            tied = standing.tied if self.ties in ("expected", "index") else rows[:0]
            if self.ties == "index" and len(tied):
                ranks[tied] = self._ranks_by_index(rows[tied])[:, : ranks.shape[1]]
            values[:, rows] = measure(Ranked(ranks, standing.total, n))
            if self.ties == "expected" and len(tied):
                values[:, rows[tied]] = measure(Tied(standing[tied], n))
        return values

    def _chunks(self) -> Iterator[Tensor]:
        """Queries, those with like numbers of positives together, so many at a time as the budget allows."""
        rows = (self.total > 0).nonzero()[:, 0]
        rows = rows[self.positives.count[rows].argsort(stable=True)]
        width = self.positives.count[rows].tolist()
        start = 0
        while start < len(rows):
            stop = min(start + max(1, self.budget // self._row_bytes(width[start])), len(rows))
            stop = min(stop, start + max(1, self.budget // self._row_bytes(width[stop - 1])))
            yield rows[start:stop]
            start = stop

    def _row_bytes(self, positives: int) -> int:
        embeddings = self.reference.embeddings
        if self.neighbours is None:
            return len(self.reference) * embeddings.element_size() + positives * _POSITIVE_BYTES
        candidates = min(self.need.depth(positives) + 1, len(self.reference)) + positives
        return candidates * 2 * embeddings.shape[1] * embeddings.element_size() + positives * _POSITIVE_BYTES

    def _standing(self, rows: Tensor) -> Standing:
        """Standing of the positives of queries `rows` `[b]`, right as far as the measures read it."""
        columns, real = self.positives.table(rows)
        total = self.total[rows]
        depth = len(self.reference) if self.need.every else self.need.depth(int(total.max()))
        dense = self._dense(rows) if self.neighbours is None else None
        seen = self._search(rows, columns, real, depth) if dense is None else _look(dense, _positive(dense, columns, real), depth)
        standing = Standing.of(seen.positive, seen.values, total)
        left_open = self._left_open(seen, standing.above, depth).nonzero()[:, 0]
        if len(left_open):
            if dense is None:
                some = self._dense(rows[left_open])
                positive = _positive(some, columns[left_open], real[left_open])
            else:
                some, positive = dense[left_open], seen.positive[left_open]
            full = _look(some, positive, len(self.reference))
            standing[left_open] = Standing.of(full.positive, full.values, total[left_open])
        return standing

    def _dense(self, rows: Tensor) -> Tensor:
        """Scores `[b, n]` of queries `rows`, -inf where a reference has the id of the query."""
        scores = self.scores(rows)
        scores[self.same.cells(rows)] = -math.inf
        return scores

    def _search(self, rows: Tensor, columns: Tensor, real: Tensor, depth: int) -> _Seen:
        """As `_look`, from candidates that faiss finds."""
        assert self.neighbours is not None
        n, hidden = len(self.reference), int(self.same.count[rows].max())
        m = min(n, depth + 1 + hidden)
        columns = torch.cat([self.neighbours.search(rows, m), columns], dim=1)
        scores = self.neighbours.scores(rows, columns)
        edge = scores[:, :m].amin(1, keepdim=True) + self.neighbours.slack[rows] if m < n else scores.new_full((len(rows), 1), -math.inf)
        ids = self.query.ids[rows].unsqueeze(1)
        scores = scores.masked_fill((self.reference.ids[columns] == ids) & (ids >= 0), -math.inf)
        positive = scores[:, m:].masked_fill(~real, -math.inf)
        return _Seen(_descending_(positive), largest_(scores[:, :m].contiguous(), m), edge)

    def _left_open(self, seen: _Seen, above: Tensor, depth: int) -> Tensor:
        """Queries `[b]` of which a rank or a tie that is needed may depend on scores that have not been seen."""
        hazy = seen.positive <= seen.edge
        near = (hazy & (above < depth) & (seen.positive > -math.inf)).any(1)
        return near | hazy[:, 0] if self.need.first else near

    def _ranks_by_index(self, rows: Tensor) -> Tensor:
        """Ranks `[b, P]` of the positives, ascending, where equal scores stand in the order of their columns."""
        dense = self._dense(rows)
        columns, real = self.positives.table(rows)
        order = dense.argsort(dim=1, descending=True, stable=True)
        place = torch.arange(1, dense.shape[1] + 1, device=dense.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, place).gather(1, columns)
        real = real & (dense.gather(1, columns) > -math.inf)
        return rank.masked_fill(~real, torch.iinfo(torch.int64).max).sort(dim=1).values


def _positive(dense: Tensor, columns: Tensor, real: Tensor) -> Tensor:
    """Scores of the positives, descending, `[b, P]`."""
    return _descending_(dense.gather(1, columns).masked_fill_(~real, -math.inf))


def _descending_(x: Tensor) -> Tensor:
    return largest_(x, x.shape[1]).flip(1)


def _look(dense: Tensor, positive: Tensor, depth: int) -> _Seen:
    """What of scores `dense` `[b, n]`, which are overwritten, is needed to know the first `depth` places, and whether they suffice."""
    n = dense.shape[1]
    values = largest_(dense, min(n, depth + 1))
    edge = values[:, :1] if values.shape[1] < n else values.new_full((values.shape[0], 1), -math.inf)
    return _Seen(positive, values, edge)
