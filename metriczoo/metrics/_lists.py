"""Measures of ranked lists, from where the positives of each query stand; exact expectations where positives are tied with negatives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Lists", "Ranked", "Standing", "Tied"]


@dataclass(frozen=True, eq=False)
class Standing:
    """Where the positives of each query stand, best first. A block is all the references that share a score."""

    above: Tensor  # [b, P] int64: references above the block of the positive
    block: Tensor  # [b, P] references in its block
    before: Tensor  # [b, P] positives above its block
    peers: Tensor  # [b, P] positives in its block, itself included
    total: Tensor  # [b, 1] positives of the query; columns from there on are padding

    @classmethod
    def of(cls, positive: Tensor, values: Tensor, total: Tensor) -> Standing:
        """The standing.

        Args:
            positive: scores of the positives, `[b, P]`, descending, padded with -inf.
            values: the largest scores of all references, `[b, m]`, ascending.
            total: number of positives, `[b]`, at least 1.

        Raises:
            ValueError: if a score is NaN or infinite.
        """
        lowest = positive.gather(1, total.unsqueeze(1) - 1)
        if not bool((lowest > -math.inf).all() & (values[:, -1] < math.inf).all()):  # NaN sorts as the largest
            raise ValueError(
                "Expected `similarity` to give finite scores, but got NaN or infinity: it cannot score embeddings of this size."
            )
        before, peers = _runs(positive)
        positive, values = positive.contiguous(), values.contiguous()
        m = values.shape[1]
        above = m - torch.searchsorted(values, positive, right=True)
        block = peers.clone()
        # More references share the score than positives do: only then a second search is needed for how many.
        next_below = m - above - peers - 1
        tied = (values.gather(1, next_below.clamp(min=0)) == positive) & (positive > -math.inf)
        rows = tied.any(1).nonzero()[:, 0]
        if len(rows):
            through = m - torch.searchsorted(values[rows], positive[rows])
            block[rows] = (through - above[rows]).maximum(peers[rows])
        return cls(above, block, before, peers, total.unsqueeze(1))

    def __getitem__(self, rows: Tensor) -> Standing:
        return Standing(self.above[rows], self.block[rows], self.before[rows], self.peers[rows], self.total[rows])

    def __setitem__(self, rows: Tensor, other: Standing) -> None:
        for name in ("above", "block", "before", "peers", "total"):
            getattr(self, name)[rows] = getattr(other, name)

    @property
    def real(self) -> Tensor:
        """Which columns are positives, `[b, P]` bool."""
        return torch.arange(self.above.shape[1], device=self.above.device) < self.total

    @property
    def tied(self) -> Tensor:
        """Queries of which a positive shares its score with a negative, `[t]`."""
        return (self.real & (self.block > self.peers)).any(1).nonzero()[:, 0]

    def ranks(self, *, positives_first: bool) -> Tensor:
        """Rank of each positive `[b, P]`, from 1, with the positives of a block before or after its negatives."""
        place = torch.arange(1, self.above.shape[1] + 1, device=self.above.device) - self.before
        return self.above + place if positives_first else self.above + place + self.block - self.peers


def _runs(x: Tensor) -> tuple[Tensor, Tensor]:
    """For each entry of the sorted rows of `x` `[b, P]` where its run of equal entries begins, and how long it is."""
    b, p = x.shape
    place = torch.arange(p, device=x.device).expand(b, p)
    change = x[:, 1:] != x[:, :-1]
    edge = change.new_ones(b, 1)
    start = place.where(torch.cat([edge, change], 1), 0).cummax(1).values
    stop = (place + 1).where(torch.cat([change, edge], 1), p).flip(1).cummin(1).values.flip(1)
    return start, stop - start


class Lists(ABC):
    """Ranked lists of `n` references, one per query. A limit is a number of places: an int, or one per query, `[b, 1]`."""

    total: Tensor  # [b, 1] positives of each query
    real: Tensor  # [b, P] bool, which columns are positives
    n: int

    @abstractmethod
    def hit(self, limit: int) -> Tensor:
        """Whether a positive is within the limit, `[b]`."""

    @abstractmethod
    def found(self, limit: int | Tensor) -> Tensor:
        """Positives within the limit, `[b]`."""

    @abstractmethod
    def precision_sum(self, limit: int | Tensor) -> Tensor:
        """Sum over the positives within the limit of the precision at their rank, `[b]`."""

    @abstractmethod
    def reciprocal(self) -> Tensor:
        """One over the rank of the first positive, `[b]`."""

    @abstractmethod
    def gain(self, limit: int) -> Tensor:
        """Sum over the positives within the limit of `1 / log2(1 + rank)`, `[b]`."""

    def ideal_gain(self, limit: int) -> Tensor:
        """The largest gain possible, `[b]`."""
        place = torch.arange(1, self.real.shape[1] + 1, device=self.real.device)
        return _discount(place).where(self.real & (place <= limit), 0.0).sum(1)


class Ranked(Lists):
    """Lists in which every positive has one rank.

    Args:
        rank: `[b, P]`, ascending within the first `total` columns, the rest is ignored.
        total: `[b, 1]`, at least 1.
        n: number of references.
    """

    def __init__(self, rank: Tensor, total: Tensor, n: int) -> None:
        self.total, self.n = total, n
        self.order = torch.arange(1, rank.shape[1] + 1, device=rank.device)  # [P]
        self.real = self.order <= total
        self.rank = rank.where(self.real, torch.iinfo(torch.int64).max)

    def hit(self, limit: int) -> Tensor:
        return (self.rank[:, 0] <= limit).double()

    def found(self, limit: int | Tensor) -> Tensor:
        return (self.rank <= limit).sum(1).double()

    def precision_sum(self, limit: int | Tensor) -> Tensor:
        return (self.order.double() / self.rank).where(self.rank <= limit, 0.0).sum(1)

    def reciprocal(self) -> Tensor:
        return 1 / self.rank[:, 0].double()

    def gain(self, limit: int) -> Tensor:
        return _discount(self.rank).where(self.rank <= limit, 0.0).sum(1)


class Tied(Lists):
    """Lists in which tied references stand in random order, every order equally likely; each method gives the exact expectation.

    A block of `t` references, `r` of them positive, fills the places `a + 1 ... a + t` below `a` references, of which `h` are positive.
    """

    def __init__(self, standing: Standing, n: int) -> None:
        self.total, self.n = standing.total, n
        self.real = standing.real
        self.a, self.t = standing.above, standing.block
        self.h, self.r = standing.before, standing.peers
        self.tables = torch.arange(1, n + 1, device=self.a.device, dtype=torch.float64)

    def hit(self, limit: int) -> Tensor:
        # Only the first block counts: no positive is above it. Of it the list shows q places; 1 - C(t - r, q) / C(t, q).
        a, t, r = self.a[:, 0], self.t[:, 0], self.r[:, 0]
        q = (limit - a).clamp(min=0).minimum(t)
        left = (t - r - q).clamp(min=0)
        log_miss = _log_factorial(t - r) - _log_factorial(left) - _log_factorial(t) + _log_factorial(t - q)
        return 1 - log_miss.exp().where(q <= t - r, 0.0)

    def found(self, limit: int | Tensor) -> Tensor:
        shown = (limit - self.a).clamp(min=0).minimum(self.t)
        return (shown / self.t.double()).where(self.real, 0.0).sum(1)

    def precision_sum(self, limit: int | Tensor) -> Tensor:
        # A positive stands at place k with probability 1 / t, then below h positives and, on average, (k - a - 1) (r - 1) / (t - 1) more.
        # The sum over k = a + 1 ... e of (h + 1 + slope (k - a - 1)) / k needs nothing but harmonic numbers.
        end = (self.a + self.t).minimum(torch.as_tensor(limit, device=self.a.device)).maximum(self.a)
        slope = (self.r - 1) / (self.t - 1).clamp(min=1).double()
        harmonic = _between(1 / self.tables, self.a, end)
        share = slope * (end - self.a) + (self.h + 1 - slope * (self.a + 1)) * harmonic
        return (share / self.t).where(self.real, 0.0).sum(1)

    def reciprocal(self) -> Tensor:
        blocks, place = torch.stack([self.a[:, 0], self.t[:, 0], self.r[:, 0]], dim=1).unique(dim=0, return_inverse=True)
        rows = max(1, 2**20 // int((blocks[:, 1] - blocks[:, 2]).max() + 1))
        return torch.cat([_expected_reciprocal(*part.unbind(1)) for part in blocks.split(rows)])[place]

    def gain(self, limit: int) -> Tensor:
        end = (self.a + self.t).clamp(max=limit).maximum(self.a)
        return (_between(_discount(self.tables), self.a, end) / self.t).where(self.real, 0.0).sum(1)


def _discount(rank: Tensor) -> Tensor:
    return 1 / (1 + rank.double()).log2()


def _log_factorial(x: Tensor) -> Tensor:
    return torch.lgamma(x.double() + 1)


def _between(terms: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Sum of the terms `start + 1 ... end`, counted from 1."""
    sums = torch.cat([terms.new_zeros(1), terms.cumsum(0)])
    last = terms.shape[0]
    return sums[end.clamp(max=last)] - sums[start.clamp(max=last)]


def _expected_reciprocal(a: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Expectation `[u]` of 1 / (a + q), q the place of the first of r positives among t: P(q) = C(t - q, r - 1) / C(t, r)."""
    a, t, r = (x.unsqueeze(1) for x in (a, t, r))
    q = torch.arange(1, int((t - r).max()) + 2, device=a.device)
    last = t - r + 1
    q = q.minimum(last)  # beyond the last possible place: dropped below
    log_p = _log_factorial(t - q) - _log_factorial(t - q - r + 1) + r.double().log() - _log_factorial(t) + _log_factorial(t - r)
    p = log_p.exp().where(torch.arange(1, q.shape[1] + 1, device=a.device) <= last, 0.0)
    return (p / (a + q)).sum(1)
