"""Columns: which references are positives and which negatives of each anchor, one class per way of saying so.

The engine asks for the scores of one block of anchors at a time; `height` tells it how many rows fit into a budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metriczoo._execution import reads_are_free
from metriczoo.scores import HARMLESS, Block, Scores, one_each
from metriczoo.similarity import Similarity

__all__ = ["AcrossColumns", "Columns", "DrawnColumns", "LabelColumns", "Points", "Relation", "RelationColumns", "any_ignored", "columns_of"]

_AHEAD = 2**13  # rows whose tables are made at once

Relation = Callable[[Tensor, Tensor], "Tensor | tuple[Tensor, Tensor]"]
_Integers = np.ndarray[Any, np.dtype[np.int64]]
_Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class Points:
    """Labels and ids of anchors or references. Ids are None where no point of one side can be a point of the other."""

    labels: Tensor  # [n] int64, or [n, ...] with a relation of the user's own
    ids: Tensor | None = None  # [n] int64
    fresh: bool = False  # whether ids are 0, ..., n - 1


class Columns:
    """Which cells of a block of scores are `s_n` and which `s_p`."""

    keep: Tensor  # [N] bool: anchors that take part
    everyone: bool = False  # whether all of them are known to
    no_positives: bool = False  # whether no anchor is known to have any
    no_negatives: bool = False
    width: int  # how many scores a row of a block has
    labels: Tensor | None = None  # [n] of the references, where they are compared by labels
    positions: Tensor | None = None  # [n + 1] int64: which reference of the call each one is, where some were left out
    ids: tuple[Tensor, Tensor] | None = None  # [N] and [n], of anchors and of references, where a point may be both
    grouped: bool = False  # whether anchors are the references, in the order of their classes, so that a block can hold whole classes
    strata: tuple[int, float] | None = None  # how many references, the first ones, stand for themselves, and for how many each other does
    streamed: bool = False  # whether references are not prepared yet: they are so many that they are read in chunks

    def height(self, budget: int, itemsize: int) -> int:
        """How many anchors a block may have so that its scores take at most `budget` bytes; at least one."""
        return max(1, budget // max(1, self.width * itemsize))

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """`(s_n, s_p)` of prepared anchors `a` `[b, d]`, which are rows `rows` of the batch, to prepared references `r` `[n, d]`."""
        raise NotImplementedError


class RelationColumns(Columns):
    """By a relation on label blocks, as N x n masks, block by block. No value is read: it can be traced."""

    def __init__(self, anchors: Points, references: Points, relation: Relation | None = None) -> None:
        self.anchors, self.references = anchors, references
        self.relation = relation
        self.width, self.labels = references.labels.shape[0], references.labels
        self.ids = _ids(anchors, references)
        labels = anchors.labels
        self.keep = labels >= 0 if labels.dim() == 1 else torch.ones(labels.shape[0], dtype=torch.bool, device=labels.device)

    def masks(self, rows: slice) -> tuple[Tensor, Tensor]:
        """`[b, n]` bool: the negatives and the positives of anchors `rows`."""
        x, y = self.anchors.labels[rows], self.references.labels
        if self.relation is None:
            positive = x.unsqueeze(1) == y
            negative = ~positive
        else:
            related = self.relation(x, y)
            positive, negative = related if isinstance(related, tuple) else (related, ~related)
            for mask in (positive, negative):
                if mask.dtype != torch.bool or mask.shape != (x.shape[0], y.shape[0]):
                    raise ValueError(
                        f"Expected `relation` to return a bool tensor of shape [{x.shape[0]}, {y.shape[0]}] or a pair of them, "
                        f"but got {mask.dtype} of shape {list(mask.shape)}."
                    )
        allowed = self.keep[rows].unsqueeze(1)
        if y.dim() == 1:
            allowed = allowed & (y >= 0)
        if self.ids is not None:
            i, j = self.ids[0][rows].unsqueeze(1), self.ids[1]
            allowed = allowed & ((i != j) | (i < 0))
        return negative & allowed, positive & allowed

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """Both sets as masks over all references."""
        negative, positive = self.masks(rows)
        value = torch.where(negative | positive, similarity.score(a, r), HARMLESS)
        return Scores(value, negative, block=block), Scores(value, positive, block=block)


class AcrossColumns(RelationColumns):
    """Points of two sides in one list, each compared with those of the other side only.

    Attributes:
        cut: how many are of the first side.
        sides: the columns of either side as anchors, where such blocks can be computed apart; None where not.
    """

    def __init__(self, x: Points, y: Points, relation: Relation | None = None) -> None:
        labels = torch.cat([x.labels, y.labels])
        ids = None if x.ids is None or y.ids is None else torch.cat([x.ids, y.ids])
        places = torch.arange(len(labels), device=labels.device)
        self.cut, self.sides = len(x.labels), None

        def across(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
            negative, positive = RelationColumns(Points(labels[i]), Points(labels[j]), relation).masks(slice(0, len(i)))
            apart = (i < self.cut).unsqueeze(1) != (j < self.cut)
            return positive & apart, negative & apart

        super().__init__(Points(places, ids), Points(places, ids), across)
        if relation is None and reads_are_free(labels) and bool((labels >= 0).all()):
            self.sides = LabelColumns(x, y), LabelColumns(y, x)


class LabelColumns(Columns):
    """By equality of labels: the positives of an anchor as a narrow table, the negatives as all columns but a few.

    References are sorted by label once, so that a class is a range; no N x n mask is ever built. Column `n` is a spare one that belongs
    to no set: the tables are padded with it, but for those of positives where all anchors have as many and none is a reference. Values
    are read by the host (the width of a block's table), so this is for devices where that is free, and tables are made by NumPy, whose
    calls cost less than those of PyTorch. All labels of references must be >= 0.
    """

    def __init__(self, anchors: Points, references: Points) -> None:
        self.width, self.labels = references.labels.shape[0] + 1, references.labels
        self._labels = _Ranges(anchors.labels, references.labels)
        if self._labels.keys is self._labels.references:
            self.keep, self.everyone = _all(self.width - 1), True
        else:
            known = self._labels.keys >= 0
            self.keep, self.everyone = torch.from_numpy(known), bool(known.all())
        self.ids = _ids(anchors, references)
        self.steps = False  # whether tables have one of few widths, so that there are few sizes to compile for
        self._itself = anchors is references and anchors.fresh
        self._ids = None if self.ids is None or self._itself else _Ranges(*self.ids)
        alone = self._ids is None  # what is known of classes is then known of sets
        least, most = self._labels.least, self._labels.most
        self._some_p = alone and least > self._itself
        self._some_n = alone and most < self.width - 1
        self.no_positives, self.no_negatives = alone and most <= self._itself, alone and least >= self.width - 1
        self._even = alone and not self._itself and 0 < least == most  # whether tables of positives have no gaps
        self._ahead: tuple[slice, tuple[Tensor, ...]] = slice(0, -1), ()  # of which rows tables are known, and these

    @property
    def itself(self) -> bool:
        """Whether anchors are the references, of which each knows itself by its place."""
        return self._itself

    @property
    def largest(self) -> int:
        """How many references a table of positives has room for, for each anchor."""
        return 1 + self._labels.most

    def height(self, budget: int, itemsize: int) -> int:
        """Without the spare column, so that powers of 2 are cut into powers of 2."""
        return max(1, budget // max(1, (self.width - 1) * itemsize))

    def tables(self, rows: slice) -> tuple[Tensor, ...]:
        """Positives `[b, p]`, which of them count, excluded columns `[b, e]`, how many different ones, and how many positives, `[b]`."""
        if rows.start == 0 and rows.stop == len(self.keep):
            return self._tables(rows)
        known, tables = self._ahead
        if not known.start <= rows.start <= rows.stop <= known.stop:
            # To make those of many rows takes as long as to make those of a block, but all are as wide as the largest class.
            known = slice(rows.start, max(rows.stop, rows.start + _AHEAD))
            length = self._labels.length[known]
            cells = int(length.max(initial=0)) * len(length)
            if cells > min(2 * int(length.sum()), 8 * _AHEAD):
                known = rows
            tables = self._tables(known)
            self._ahead = known, tables
        return tuple(table[rows.start - known.start : rows.stop - known.start] for table in tables)

    @property
    def _full(self) -> bool:
        """Whether all cells of the tables of positives count."""
        return self._even and not self.steps

    def _tables(self, rows: slice) -> tuple[Tensor, ...]:
        if self._full:
            return self._full_tables(rows)
        positive, same_class = self._labels.table(rows, self.steps)
        num_positives = num_excluded = self._labels.length[rows]
        excluded = positive
        if self._itself:  # an anchor is a reference of its class, and no other
            same_class &= positive != np.arange(rows.start, rows.start + len(positive))[:, None]
            num_positives = num_positives - 1
        if self._ids is not None:
            known = self._ids.keys[rows, None] >= 0
            own, same_point = self._ids.table(rows, self.steps)
            same_point &= known
            own = np.where(same_point, own, self.width - 1)
            same_class &= ~(known & self._ids.match(rows, positive))
            num_positives = same_class.sum(1)
            elsewhere = same_point & ~self._labels.match(rows, own)
            if elsewhere.any():
                excluded, num_excluded = np.concatenate([excluded, own], axis=1), num_excluded + elsewhere.sum(1)
        columns = torch.from_numpy(positive)
        others = columns if excluded is positive else torch.from_numpy(excluded)
        num = num_excluded + 1  # and the spare column
        return columns, torch.from_numpy(same_class), others, torch.from_numpy(num), torch.from_numpy(num_positives)

    def _full_tables(self, rows: slice) -> tuple[Tensor, ...]:
        """Those of positives without the spare column."""
        if self._labels.distinct and self.width <= _AHEAD:
            known = _diagonal(self.width - 1)
            return known if rows.start == 0 and rows.stop >= len(self.keep) else tuple(table[rows] for table in known)
        excluded, num = torch.from_numpy(self._labels.even_table(rows)), self._labels.length[rows]
        positive = excluded[:, :-1]
        there = torch.ones(positive.shape, dtype=torch.bool, device="cpu")
        return positive, there, excluded, torch.from_numpy(num + 1), torch.from_numpy(num)

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block | None, rows: slice) -> tuple[Scores, Scores]:
        """Positives gathered, negatives as the whole row."""
        value, tables = torch.nn.functional.pad(similarity.score(a, r), (0, 1), value=HARMLESS), self.tables(rows)
        positive, same_class, excluded, *_ = tables
        near = torch.where(same_class, value.gather(1, positive), HARMLESS)
        return self.named(value.scatter(1, excluded, HARMLESS), near, tables, block)

    def cells_(self, value: Tensor, tables: tuple[Tensor, ...], outside: float) -> tuple[Tensor, Tensor]:
        """Of the scores `value` `[b, n + 1]`, whose last column is the spare one, those of negatives, in place, and of positives `[b, p]`.

        Cells of no set hold `outside`.
        """
        positive, same_class, excluded, *_ = tables
        near = value.gather(1, positive)
        if not self._full:
            near = torch.where(same_class, near, outside)
        return value.scatter_(1, excluded, outside), near

    def named(self, value: Tensor, near: Tensor, tables: tuple[Tensor, ...], block: Block | None) -> tuple[Scores, Scores]:
        """`(s_n, s_p)` of the cells of either."""
        positive, same_class, excluded, num_excluded, num_positives = tables
        s_n = Scores(value, excluded=excluded, num_excluded=num_excluded, block=block, harmless=True, some=self._some_n)
        there = None if self._full else same_class
        return s_n, Scores(near, there, num=num_positives, columns=positive, block=block, harmless=True, some=self._some_p)


@lru_cache(maxsize=8)
def _diagonal(n: int) -> tuple[Tensor, ...]:
    """Tables of `n` anchors, the positive of each of which is the reference in its place: the same for every batch, and never written."""
    with torch.inference_mode(False):
        own = torch.arange(n, device="cpu")
        there, excluded = torch.ones(n, 1, dtype=torch.bool, device="cpu"), torch.stack([own, torch.full_like(own, n)], dim=1)
        return own.unsqueeze(1), there, excluded, one_each(n) + 1, one_each(n)


@lru_cache(maxsize=8)
def _all(n: int) -> Tensor:
    """`[n]` bool, all true; never written."""
    with torch.inference_mode(False):
        return torch.ones(n, dtype=torch.bool, device="cpu")


@lru_cache(maxsize=8)
def _each(n: int) -> tuple[_Integers, _Integers]:
    """Where the range of each of `n` keys starts, and its length, if it is that of one; never written."""
    return np.arange(n), np.ones(n, dtype=np.int64)


def any_ignored(labels: Tensor) -> bool:
    """Whether some of `labels` `[n]`, which may be read, are < 0."""
    return bool(labels.numpy().min(initial=0) < 0)


def _ids(anchors: Points, references: Points) -> tuple[Tensor, Tensor] | None:
    return None if anchors.ids is None or references.ids is None else (anchors.ids, references.ids)


class _Ranges:
    """For each anchor the references with its key, as tables padded with column `n`, at least once.

    References that come in order of their keys, as class proxies do, are not sorted.
    """

    order: _Integers | None  # [n + 1], column `n` at the end
    least: int  # how many references an anchor has, and the most; of no anchors more than there are, and none
    most: int
    distinct: bool  # whether keys are those of the references, and each is of one

    def __init__(self, keys: Tensor, references: Tensor) -> None:
        self.keys: _Integers = keys.numpy()
        self.references: _Integers = self.keys if keys is references else references.numpy()
        ordered, self.order, order = self.references, None, None
        own = self.keys is ordered or (len(self.keys) == len(ordered) and bool((self.keys == ordered).all()))
        if own and (ordered[1:] > ordered[:-1]).all():
            self.start, self.length, self.least, self.most, self.distinct = *_each(len(ordered)), 1, 1, True
            return
        if (ordered[1:] < ordered[:-1]).any():
            order = ordered.argsort(kind="stable")
            ordered, self.order = ordered[order], np.append(order, len(order))
        # Their own keys are sought in order, which takes a fraction of the time.
        sought = ordered if own else self.keys
        self.start = ordered.searchsorted(sought, side="left")
        self.length = ordered.searchsorted(sought, side="right") - self.start
        if own and order is not None:
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            self.start, self.length = self.start[place], self.length[place]
        self.least, self.most = int(self.length.min(initial=len(ordered) + 1)), int(self.length.max(initial=0))
        self.distinct = own and self.most == 1

    def even_table(self, rows: slice) -> _Integers:
        """`[b, p + 1]` columns, all of them there but the last one, where every anchor has as many."""
        start, width = self.start[rows], self.most
        place = np.empty((len(start), width + 1), dtype=np.int64)
        np.add(start[:, None], np.arange(width), out=place[:, :width])
        place[:, width] = len(self.references)
        return place if self.order is None else self.order[place]

    def table(self, rows: slice, steps: bool = False) -> tuple[_Integers, _Flags]:
        """`[b, p]` columns and which of them are there; with `steps` p is one of few numbers, of which there are four between x and 2 x."""
        length = self.length[rows, None]
        width = 1 + int(length.max(initial=0))
        if steps:
            step = 1 << max(0, (width - 1).bit_length() - 3)
            width = -(-width // step) * step
        offset = np.arange(width)
        there = offset < length
        place = np.where(there, self.start[rows, None] + offset, len(self.references))
        return place if self.order is None else self.order[place], there

    def match(self, rows: slice, columns: _Integers) -> _Flags:
        """`[b, p]` bool: whether the references in `columns` have the key of their anchor, which column `n` has not."""
        n = len(self.references)
        if not n:
            return np.zeros(columns.shape, dtype=bool)
        same: _Flags = (self.references[np.minimum(columns, n - 1)] == self.keys[rows, None]) & (columns < n)
        return same


class DrawnColumns(Columns):
    """By draws from a store: the positive of an anchor is one row of its own, its negatives are `num` drawn rows.

    Args:
        positives: `[N]` int64, row of each anchor's positive.
        noise: `[num]` int64, rows that all anchors share, or `[N, num]`, rows of each anchor.
        embeddings: `[n, d]`, not prepared: only drawn rows are ever touched. They receive no gradient.
        keep: `[N]` bool, anchors that take part.
        log_noise: `[n]`, how likely each row is to be drawn. None: all alike.
    """

    def __init__(self, positives: Tensor, noise: Tensor, embeddings: Tensor, keep: Tensor, log_noise: Tensor | None = None) -> None:
        self.positives, self.noise, self.embeddings, self.keep = positives, noise, embeddings.detach(), keep
        self.log_noise = log_noise
        # A row of its own for each anchor takes space for the points, too.
        self.width = noise.shape[-1] + 1 if noise.dim() == 1 else noise.shape[1] * (embeddings.shape[1] + 1)

    def prepare(self, similarity: Similarity, dtype: torch.dtype) -> Tensor:
        """The prepared references of the shared negatives, `[num, d']`; none where each anchor has its own."""
        rows = self.noise if self.noise.dim() == 1 else self.noise[:0, 0]
        return similarity.prepare(self.embeddings[rows].to(dtype))

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """Positives `[b, 1]` and negatives `[b, num]`, all of which count."""
        own, columns = self.positives[rows].unsqueeze(1), self.noise[rows] if self.noise.dim() == 2 else self.noise.expand(a.shape[0], -1)
        points = similarity.prepare(self.embeddings[own].to(a.dtype))
        near = similarity.score(a.unsqueeze(1), points).squeeze(1)
        if self.noise.dim() == 1:
            far = similarity.score(a, r)
        else:
            far = similarity.score(a.unsqueeze(1), similarity.prepare(self.embeddings[columns].to(a.dtype))).squeeze(1)
        block = block.but(between=None)
        return Scores(far, columns=columns, block=block), Scores(near, columns=own, block=block)


def columns_of(anchors: Points, references: Points, relation: Relation | None) -> Columns:
    """The cheapest columns that the device and the relation allow."""
    if relation is None and reads_are_free(references.labels):
        return LabelColumns(anchors, references)
    return RelationColumns(anchors, references, relation)
