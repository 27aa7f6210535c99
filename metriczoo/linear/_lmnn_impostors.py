"""Impostors of LMNN: which points of other classes lie within a radius of which anchor, found again only when they may have changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Classes", "Impostors", "Pairs"]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int32]

_CELLS = 2**21  # distances of a block that are held at a time
_CHUNK = 2**18  # pairs that are worked on at a time


class Classes:
    """Points sorted by class, of `num` classes, some of which may be empty: class c is the slice `[start[c], start[c + 1])`."""

    def __init__(self, codes: npt.NDArray[np.int64], num: int = 0) -> None:
        self.codes = codes
        self.sizes = np.bincount(codes, minlength=num)
        self.start = np.concatenate([[0], np.cumsum(self.sizes)])

    def __len__(self) -> int:
        return len(self.sizes)

    def slices(self) -> Iterator[slice]:
        """The slice of each class."""
        for begin, end in zip(self.start[:-1], self.start[1:], strict=True):
            yield slice(int(begin), int(end))


@dataclass(frozen=True)
class Pairs:
    """Pairs (anchor, other point) in compressed rows: the others of anchor i are `others[begin[i] : begin[i + 1]]`."""

    begin: Indices  # [n + 1]
    others: Indices  # [p]

    @classmethod
    def of(cls, anchors: npt.NDArray[Any], others: npt.NDArray[Any], num: int) -> Pairs:
        """The pairs of two lists, in the order of the anchors."""
        order = np.argsort(anchors, kind="stable")
        begin = np.concatenate([[0], np.cumsum(np.bincount(anchors, minlength=num))])
        return cls(begin.astype(np.int32), others[order].astype(np.int32))

    def anchors(self) -> Indices:
        """`[p]`, the anchor of each pair."""
        return np.repeat(np.arange(len(self.begin) - 1, dtype=np.int32), np.diff(self.begin))

    def squared_distances(self, points: Array, norms: Array) -> tuple[Indices, Array]:
        """The anchors, and the squared distances of the pairs, from `points` `[n, r]` and their squared `norms`."""
        anchors = self.anchors()
        return anchors, norms[anchors] + norms[self.others] - 2 * self._products(points)

    def _products(self, points: Array) -> Array:
        if not len(self.others):
            return np.empty(0)
        rows = torch.from_numpy(np.ascontiguousarray(points))
        with warnings.catch_warnings():  # torch calls the layout a beta
            warnings.simplefilter("ignore", UserWarning)
            begin, others = torch.from_numpy(self.begin), torch.from_numpy(self.others)
            where = torch.sparse_csr_tensor(begin, others, torch.zeros(len(others), dtype=rows.dtype), (len(rows), len(rows)))
            products: Array = torch.sparse.sampled_addmm(where, rows, rows.T, beta=0).values().numpy()
        return products


class Impostors:
    r"""Pairs (anchor, point of another class) with a squared distance below the anchor's radius, exactly, without all pairs in memory.

    A search collects every pair within :math:`\rho_i`, a little more than the radius :math:`R_i` of anchor i, at points :math:`z^0`. For
    points z later, any scale s and :math:`\delta_i = \|z_i - s z_i^0\|`, a pair that was not collected is still apart by

    .. math:: \|z_i - z_l\| \ge s \|z_i^0 - z_l^0\| - \delta_i - \delta_l \ge s \rho_i - \delta_i - \max_l \delta_l

    by the triangle inequality. While that is at least :math:`R_i` for all anchors, no impostor can be missing and nothing is searched; else
    all of them are searched again. Distances of a search are rounded, so each is lowered by a bound of its error: candidates may be too
    many, never too few. More pairs than can be kept are handed on block by block and forgotten.

    Args:
        classes: of the points, which are sorted by class.
        group: a class, for pairs with points of that class only; None for all.
    """

    def __init__(self, classes: Classes, group: int | None = None) -> None:
        self.classes, self.group = classes, group
        self.searches = 0
        self._keep = 64 * len(classes.codes) + _CHUNK
        self._stored: list[Pairs] | None = None
        self._points: Array | None = None
        self._reach = np.empty(0)
        self._radius = np.empty(0)
        self._slack, self._limit = 0.0, 0.3

    def chunks(self, points: Array, squared_radius: Array) -> Iterator[Pairs]:
        """Pairs that hold all impostors at `points` `[n, r]`, no pair twice, in parts of bounded size."""
        radius = np.sqrt(squared_radius.clip(min=0))
        if self._holds(points, radius) and self._stored is not None:
            yield from self._stored
            return
        self.searches += 1
        self._points, self._radius, self._reach = points, radius, radius * (1 + self._slack)
        self._stored = None
        stored: list[Pairs] | None = []
        kept = 0
        for pairs in _gather(_near(self.classes, self.group, points, self._reach**2), len(points)):
            yield pairs
            kept += len(pairs.others)
            if stored is not None and kept <= self._keep:
                stored.append(pairs)
            else:
                stored = None
        self._stored = stored
        if kept > self._keep // 2:
            self._limit /= 2

    def _holds(self, points: Array, radius: Array) -> bool:
        """Whether the stored pairs hold all impostors. It also sets how far beyond the radius the next search should reach."""
        old = self._points
        if old is None or old.shape != points.shape or not old.any():
            return False
        scale = float(np.vdot(points, old) / np.vdot(old, old))
        moved = np.linalg.norm(points - scale * old, axis=1)
        moved = moved + moved.max() + 1e-9 * np.abs(points).max()
        if scale <= 0:
            return False
        holds = bool((scale * self._reach - moved >= radius).all())
        if not holds:
            need = float(np.max((radius + moved) / np.maximum(scale * self._radius, 1e-300))) - 1
            self._slack = min(need, self._limit) if need < 2 * self._limit else 0.0
        return holds


def _gather(found: Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]], num: int) -> Iterator[Pairs]:
    """Pairs of many small lists in few larger parts."""
    anchors, others, count = [], [], 0
    for a, o in found:
        anchors.append(a)
        others.append(o)
        count += len(a)
        if count >= _CHUNK:
            yield Pairs.of(np.concatenate(anchors), np.concatenate(others), num)
            anchors, others, count = [], [], 0
    if count:
        yield Pairs.of(np.concatenate(anchors), np.concatenate(others), num)


def _near(classes: Classes, group: int | None, points: Array, squared_reach: Array) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Anchors and points of other classes (of class `group` only) nearer than the anchor's reach, block by block."""
    left, right, reach = _operands(points, squared_reach)
    n, slices = len(points), list(classes.slices())
    if group is None:  # a pair of classes is met once, for the anchors of both
        blocks = [(rows, slice(rows.stop, n)) for rows in slices[:-1]]
    else:
        to = slices[group]
        blocks = [(rows, to) for rows in (slice(0, to.start), slice(to.stop, n)) if rows.stop > rows.start]
    for rows, columns in blocks:
        for i, j in _tiles(rows, columns):
            distances = left[i] @ right[:, j]
            width = distances.shape[1]
            near = distances < reach[i, None]
            if group is None:
                near |= distances < reach[j]
            cells = np.flatnonzero(near)
            a, b = cells // width, cells % width
            value = distances.ravel()[cells]
            a, b = a + i.start, b + j.start
            forward = value < reach[a]
            yield a[forward], b[forward]
            if group is None:
                backward = value < reach[b]
                yield b[backward], a[backward]


def _tiles(rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    width = min(columns.stop - columns.start, 4096)
    height = max(1, _CELLS // width)
    for i in range(rows.start, rows.stop, height):
        for j in range(columns.start, columns.stop, width):
            yield slice(i, min(i + height, rows.stop)), slice(j, min(j + width, columns.stop))


def _operands(points: Array, squared_reach: Array) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Matrices `[n, r + 2]` and `[r + 2, n]` whose product is squared distances, lowered by more than their error; and the reach."""
    norms = np.einsum("nr,nr->n", points, points)
    dtype: Any = np.float32
    bound = (points.shape[1] + 8) * 2.0**-22  # of the error, relative to the sum of the squared norms
    if bound * norms.mean() > 0.02 * squared_reach.mean() or norms.max(initial=0) > 1e30:
        dtype, bound = np.float64, (points.shape[1] + 8) * 2.0**-51
    lowered = norms * (1 - bound)
    one = np.ones(len(points))
    left = np.column_stack([-2 * points, lowered, one]).astype(dtype)
    right = np.ascontiguousarray(np.column_stack([points, one, lowered]).T.astype(dtype))
    return left, right, np.nextafter(squared_reach.astype(dtype), dtype(np.inf))
