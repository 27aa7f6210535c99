"""The nearest references of every query, from tiles of scores of which few are above the worst that is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from metriczoo._execution import full_precision
from metriczoo.metrics._pairs import Pairs

__all__ = ["Nearest"]

_GROUP = 16  # scores of which only the largest is looked at, unless it is high enough
_WAITING = 2**17  # finds that wait to be merged


class Nearest:
    """The `m` nearest references of each query, but for the rounding of a matrix product.

    The product of a tile is most of the work: of its scores only the maxima of groups are compared with the m-th best of the query so far,
    and few groups hold one that is above it. Where the queries are the references, each tile serves its columns as queries and its rows,
    so that half of the products do. References come in random order, or sorted ones could each be nearer than all before.

    Args:
        pairs: the points.
        m: number of references per query, at most all.
        budget: bytes that a chunk may take.
    """

    def __init__(self, pairs: Pairs, m: int, budget: int) -> None:
        n, device = len(pairs.references), pairs.references.device
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
        self.m = m
        self.values = pairs.queries.new_full((len(pairs.queries), m), -math.inf)  # [q, m], descending
        self.columns = torch.zeros(len(pairs.queries), m, dtype=torch.int64, device=device)
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # queries, references and scores of finds
        self.num_waiting = 0
        with torch.no_grad(), full_precision(pairs.references):
            self._sweep(pairs, order, budget // 4)
        del self.values
        if pairs.symmetric:
            self.columns = self.columns[order.argsort()]
        self.columns = order[self.columns]

    def search(self, rows: Tensor, m: int) -> Tensor:
        """The `m` nearest references of queries `rows` `[b]`, `[b, m]`."""
        return self.columns[rows, :m]

    def _sweep(self, pairs: Pairs, order: Tensor, tile_bytes: int) -> None:
        queries = pairs.references[order] if pairs.symmetric else pairs.queries
        n, q = len(order), len(queries)
        cells = tile_bytes // queries.element_size()
        width = min(_whole(math.isqrt(cells)), q)
        height = min(_whole(cells // max(width, queries.shape[1])), n)  # few queries take a tall tile, but of no more than that many points
        buffer = queries.new_empty(height * width)
        shift = None if pairs.product else queries.square().sum(1) / -2
        for i in range(0, n, height):
            r = queries[i : i + height] if pairs.symmetric else pairs.references[order[i : i + height]]
            for j in range(i if pairs.symmetric else 0, q, width):
                a = queries[j : j + width]
                scores = torch.mm(r, a.mT, out=buffer[: len(r) * len(a)].view(len(r), len(a)))
                if shift is not None:  # minus half of the squared distance
                    scores.add_(shift[j : j + width]).sub_(r.square().sum(1, keepdim=True), alpha=0.5)
                if i == 0:
                    self._start(scores, j)
                else:
                    self._offer(scores, j, i, 0)
                beyond = max(0, i + height - j)
                if pairs.symmetric and beyond < len(a):
                    self._offer(scores[:, beyond:], i, j + beyond, 1)
        self._merge()

    def _start(self, scores: Tensor, query: int) -> None:
        """Keep the best of scores `[b, w]` of the first references to queries from `query` on."""
        k = min(self.m, len(scores))
        rows = slice(query, query + scores.shape[1])
        self.values[rows, :k], self.columns[rows, :k] = (x.mT for x in scores.topk(k, dim=0))

    def _offer(self, scores: Tensor, query: int, reference: int, dim: int) -> None:
        """Take what is near enough of scores of queries from `query` on to references from `reference` on, which are in dimension `dim`."""
        least = self.values[query : query + scores.shape[1 - dim], -1]
        group = math.gcd(scores.shape[dim], _GROUP)
        best = scores.unflatten(dim, (group, -1)).amax(dim)
        cell = (best > least.unsqueeze(dim)).nonzero().unbind(1)
        line = scores.stride(0)
        member = torch.arange(group, device=scores.device) * best.shape[dim]
        place = (cell[0] * line + cell[1]).unsqueeze(1) + member * (1 if dim else line)
        values = _flat(scores).index_select(0, place.flatten()).view(-1, group)
        found = (values > least.index_select(0, cell[1 - dim]).unsqueeze(1)).flatten().nonzero().squeeze(1)
        i, j = found // group, found % group
        queries, references = (index.index_select(0, i) for index in (cell[1 - dim], cell[dim]))
        self.waiting.append((queries + query, references + member.index_select(0, j) + reference, values.flatten().index_select(0, found)))
        self.num_waiting += len(found)
        if self.num_waiting > min(_WAITING, self.m * len(self.values)):
            self._merge()

    def _merge(self) -> None:
        """Keep the best of what was kept and what waits."""
        if not self.num_waiting:
            return
        query, reference, value = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting, self.num_waiting = [], 0
        query, order = query.sort(stable=True)
        reference, value = reference.index_select(0, order), value.index_select(0, order)
        while len(query):  # the first m of each query that waits
            rows, row, count = query.unique_consecutive(return_inverse=True, return_counts=True)
            place = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count).index_select(0, row)
            now, later = ((place < self.m).nonzero().squeeze(1), (place >= self.m).nonzero().squeeze(1))
            cell = (row * (2 * self.m) + self.m + place).index_select(0, now)
            values = pad(self.values.index_select(0, rows), (0, self.m), value=-math.inf)
            columns = pad(self.columns.index_select(0, rows), (0, self.m))
            values.view(-1).index_copy_(0, cell, value.index_select(0, now))
            columns.view(-1).index_copy_(0, cell, reference.index_select(0, now))
            best, place = values.topk(self.m, dim=1)
            self.values.index_copy_(0, rows, best)
            self.columns.index_copy_(0, rows, columns.gather(1, place))
            query, reference, value = (x.index_select(0, later) for x in (query, reference, value))


def _whole(size: int) -> int:
    """At least 1 and at most `size`: whole groups, where one fits."""
    size = max(1, size)
    return size - size % min(size, _GROUP)


def _flat(x: Tensor) -> Tensor:
    """The memory of `x` `[b, n]`, whose rows are contiguous, from its first cell to its last."""
    return x.as_strided(((len(x) - 1) * x.stride(0) + x.shape[1],), (1,))
