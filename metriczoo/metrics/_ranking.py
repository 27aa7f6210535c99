"""The chunked pass: where the positives of every query stand among the references, without a matrix of all queries and references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metriczoo.metrics._blocks import Matches, Scores, largest_, same_ids
from metriczoo.metrics._faiss import Index
from metriczoo.metrics._inputs import Points, Scoring
from metriczoo.metrics._lists import Lists, Ranked, Standing, Tied
from metriczoo.metrics._nearest import Nearest
from metriczoo.metrics._pairs import Pairs, has_points

__all__ = ["Need", "Ranking"]

_POSITIVE_BYTES = 128  # what the measures hold per positive of a query
_ENTRY_BYTES = 16  # what a nearest reference of a query takes
_FEW = 1000  # nearest references are few where there are so many times more references: to search for them in tiles is then quicker
_SORTED_BYTES = 32  # what the sorting of a score with its column takes


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

    def depths(self, positives: Tensor) -> Tensor:
        """The same for each of several queries."""
        return (positives if self.relevant else torch.zeros_like(positives)).clamp(min=self.depth(0))


@dataclass(frozen=True, eq=False)
class _Seen:
    """What has been seen of the scores of some queries."""

    positive: Tensor  # [b, P] scores of the positives, descending, -inf beyond the last
    values: Tensor  # [b, m] the largest scores, ascending
    edge: Tensor  # [b, 1] no score that has not been seen is above this


class Ranking:
    """Queries that have at least one positive, ranked against all references.

    Three facts keep it quick. The rank of a positive is one more than the number of higher scores, so sorted *values* and a binary search
    do, without indices. A measure that reads the first places only needs the largest values: rows where those leave a rank or a tie open
    are sorted in full. And where points are compared by a product, the candidates for the first places come from tiles that are hardly
    looked at.
    """

    def __init__(
        self, queries: Points, references: Points, similarity: Scoring, *, ties: str, need: Need, faiss: bool, budget: int
    ) -> None:
        self.query, self.reference, self.similarity = queries, references, similarity
        self.ties, self.need, self.budget = ties, need, budget
        self.positives = Matches(queries.labels, references.labels)
        self.same = same_ids(queries, references)
        self.total = self.positives.count - self._count_hidden()  # [q]
        self.scores = Scores(similarity, queries.embeddings, references.embeddings)
        self.pairs: Pairs | None = None
        self.neighbours: Index | Nearest | None = None
        if not need.every and has_points(similarity):
            self.pairs = Pairs(self.scores)
            self.needed = (need.depths(self.total) + 1 + self.same.count).clamp(max=len(references))  # [q] candidates
            self.slack = self.pairs.slack(torch.float32 if faiss else self.pairs.references.dtype)
            self.neighbours, self.width = (Index(self.pairs), len(references)) if faiss else self._nearest(self.pairs)

    def _count_hidden(self) -> Tensor:
        """For each query the references that have its label and its id, `[q]`."""
        sides = (self.query, self.reference)
        _, label = torch.cat([side.labels for side in sides]).unique(return_inverse=True)
        ids, number = torch.cat([side.ids for side in sides]).unique(return_inverse=True)
        key = label * ids.shape[0] + number
        return Matches(key[: len(self.query)], key[len(self.query) :]).count.masked_fill(self.query.ids < 0, 0)

    def _nearest(self, pairs: Pairs) -> tuple[Nearest | None, int]:
        """The nearest references of all queries, and how many; none if most queries need more than is quick or than memory allows."""
        n, d = pairs.references.shape
        limit = min(n // _FEW, max(d // 4, self.budget // (_ENTRY_BYTES * len(self.query))))
        few = self.needed[(self.total > 0) & (self.needed <= limit)]
        if 2 * len(few) <= len(self.query):
            return None, 0
        width = int(few.max())
        return Nearest(pairs, width, self.budget), width

    def evaluate(self, measure: Callable[[Lists], Tensor], num_measures: int) -> Tensor:
        """`measure(lists)`, `[num_measures, b]`, of all queries, `[num_measures, q]`; 0 for those without a positive."""
        values = torch.zeros(num_measures, len(self.query), dtype=torch.float64, device=self.total.device)
        rows = (self.total > 0).nonzero()[:, 0]
        if self.neighbours is not None:
            near = self.needed[rows] <= self.width
            left = [rows[~near]]
            for part in self._chunks(rows[near], self._candidate_bytes):
                standing, open_rows = self._search(part)
                closed = (~open_rows).nonzero()[:, 0]
                left.append(part[open_rows])
                self._enter(values, part[closed], standing[closed], measure)
            rows = torch.cat(left)
        for part in self._chunks(rows, lambda _: len(self.reference) * self.reference.embeddings.element_size()):
            self._enter(values, part, self._standing(part), measure)
        return values

    def _enter(self, values: Tensor, rows: Tensor, standing: Standing, measure: Callable[[Lists], Tensor]) -> None:
        """Measure queries `rows` `[b]` into `values`."""
        n = len(self.reference)
        ranks = standing.ranks(positives_first=self.ties != "pessimistic")
        tied = standing.tied if self.ties in ("expected", "index") else rows[:0]
        if self.ties == "index" and len(tied):
            height = max(1, self.budget // (_SORTED_BYTES * n))
            for some in tied.split(height):
                ranks[some] = self._ranks_by_index(rows[some], ranks.shape[1])
        values[:, rows] = measure(Ranked(ranks, standing.total, n))
        if self.ties == "expected" and len(tied):
            values[:, rows[tied]] = measure(Tied(standing[tied], n))

    def _chunks(self, rows: Tensor, row_bytes: Callable[[int], int]) -> Iterator[Tensor]:
        """Queries `rows`, those with like numbers of positives together, so many at a time as the budget allows."""
        rows = rows[self.positives.count[rows].argsort(stable=True)]
        width = self.positives.count[rows].tolist()

        def height(positives: int) -> int:
            return max(1, self.budget // (row_bytes(positives) + positives * _POSITIVE_BYTES))

        start = 0
        while start < len(rows):
            stop = min(start + height(width[start]), len(rows))
            stop = min(stop, start + height(width[stop - 1]))
            yield rows[start:stop]
            start = stop

    def _candidate_bytes(self, positives: int) -> int:
        embeddings = self.reference.embeddings
        candidates = min(self.need.depth(positives) + 1, len(self.reference)) + positives
        return candidates * 2 * embeddings.shape[1] * embeddings.element_size()

    def _standing(self, rows: Tensor) -> Standing:
        """Standing of the positives of queries `rows` `[b]`, right as far as the measures read it."""
        columns, real = self.positives.table(rows)
        total = self.total[rows]
        depth = len(self.reference) if self.need.every else self.need.depth(int(total.max()))
        dense = self._dense(rows)
        seen = _look(dense, _positive(dense, columns, real), depth)
        standing = Standing.of(seen.positive, seen.values, total)
        left_open = self._left_open(seen, standing.above, depth).nonzero()[:, 0]
        if len(left_open):
            full = _look(dense[left_open], seen.positive[left_open], len(self.reference))
            standing[left_open] = Standing.of(full.positive, full.values, total[left_open])
        return standing

    def _dense(self, rows: Tensor) -> Tensor:
        """Scores `[b, n]` of queries `rows`, -inf where a reference has the id of the query."""
        scores = self.scores(rows)
        scores[self.same.cells(rows)] = -math.inf
        return scores

    def _search(self, rows: Tensor) -> tuple[Standing, Tensor]:
        """As `_standing`, from candidates, and for which queries that is not enough, `[b]`."""
        assert self.pairs is not None and self.neighbours is not None
        columns, real = self.positives.table(rows)
        total = self.total[rows]
        depth, m = self.need.depth(int(total.max())), int(self.needed[rows].max())
        columns = torch.cat([self.neighbours.search(rows, m), columns], dim=1)
        scores = self.pairs.scores(rows, columns)
        if m < len(self.reference):
            edge = scores[:, :m].amin(1, keepdim=True) + self.slack[rows]
        else:
            edge = scores.new_full((len(rows), 1), -math.inf)
        ids = self.query.ids[rows].unsqueeze(1)
        scores = scores.masked_fill((self.reference.ids[columns] == ids) & (ids >= 0), -math.inf)
        positive = _descending_(scores[:, m:].masked_fill(~real, -math.inf))
        seen = _Seen(positive, largest_(scores[:, :m].contiguous(), m), edge)
        standing = Standing.of(seen.positive, seen.values, total)
        return standing, self._left_open(seen, standing.above, depth)

    def _left_open(self, seen: _Seen, above: Tensor, depth: int) -> Tensor:
        """Queries `[b]` of which a rank or a tie that is needed may depend on scores that have not been seen."""
        hazy = seen.positive <= seen.edge
        near = (hazy & (above < depth) & (seen.positive > -math.inf)).any(1)
        return near | hazy[:, 0] if self.need.first else near

    def _ranks_by_index(self, rows: Tensor, width: int) -> Tensor:
        """Ranks `[b, width]` of the positives, ascending, where equal scores stand in the order of their columns."""
        dense = self._dense(rows)
        columns, real = self.positives.table(rows)
        order = dense.argsort(dim=1, descending=True, stable=True)
        place = torch.arange(1, dense.shape[1] + 1, device=dense.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, place).gather(1, columns)
        real = real & (dense.gather(1, columns) > -math.inf)
        ranks = rank.new_full((len(rank), width), torch.iinfo(torch.int64).max)
        ranks[:, : rank.shape[1]].copy_(rank.masked_fill(~real, torch.iinfo(torch.int64).max).sort(dim=1).values)
        return ranks


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
