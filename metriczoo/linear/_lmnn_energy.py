"""Classification of new points with what LMNN has learned: by nearest neighbours, or by the class of least loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from metriczoo.linear._lmnn_impostors import Classes
from metriczoo.linear._lmnn_objective import Targets

__all__ = ["Labelled"]

Array = npt.NDArray[np.float64]


class Labelled:
    """Training points after their maps, sorted by class: distances of new points to them, and what follows from these.

    Args:
        maps: `[G, r, d]`, G = 1 or the number of classes.
        X: `[n, d]`, training points sorted by class.
        classes: of the points.
    """

    def __init__(self, maps: Array, X: Array, classes: Classes) -> None:
        self.maps, self.classes = maps, classes
        self.center = X.mean(0)
        centred = X - self.center
        self.parts = [centred[rows] @ maps[c % len(maps)].T for c, rows in enumerate(classes.slices())]
        self._rest = [] if len(maps) == 1 else [centred @ L.T for L in maps]  # all points after the map of each class

    def vote(self, X: Array, k: int) -> npt.NDArray[np.int64]:
        """The class `[m]` of most of the k nearest training points, the first of equals."""
        k = min(k, len(self.classes.codes))
        votes = []
        for _, distances in self._distances(X):
            nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
            cells = self.classes.codes[nearest] + len(self.classes) * np.arange(len(nearest))[:, None]
            count = np.bincount(cells.ravel(), minlength=len(nearest) * len(self.classes))
            votes.append(count.reshape(len(nearest), -1).argmax(1))
        return np.concatenate(votes)

    def targets(self, k: int) -> Targets:
        """Target neighbours by the distances that were learned."""
        points = np.concatenate(self.parts)
        return Targets(points if len(self.maps) == 1 else np.broadcast_to(points, (len(self.maps), *points.shape)), self.classes, k)

    def energies(self, X: Array, targets: Targets, *, k: int, mu: float, margin: float, squared: bool) -> Array:
        """What the objective would grow by if each point was one of the training set, by class, `[m, C]`."""
        Z, index = np.concatenate(self.parts), targets.index  # targets are of the point's own class, and so after the same map
        apart = np.stack([((Z - Z[index[:, a]]) ** 2).sum(1) for a in range(index.shape[1])], axis=1)
        thresholds = np.where(targets.real, margin + apart, -np.inf)
        energies = []
        for begin, distances in self._distances(X):
            own = self._targets(distances, k)
            push = self._invaded(distances, margin + own, squared)
            if self._rest:  # each class measures the distance to the new point after the map of the class it may have
                for c, points in enumerate(self._rest):
                    block = (X[begin : begin + len(push)] - self.center) @ self.maps[c].T
                    push[:, c] += self._invades(_squared(block, points), thresholds, squared, c)
            else:
                push += self._invades(distances, thresholds, squared)
            energies.append((1 - mu) * own.sum(2) + mu * push)
        return np.concatenate(energies)

    def _invades(self, distances: Array, thresholds: Array, squared: bool, hypothesis: int | None = None) -> Array:
        """The penalties of the new points within the thresholds of points of other classes, `[b, C]`, or `[b]` for one class of theirs."""
        penalties = np.zeros_like(distances)
        for threshold in thresholds.T:
            violation = (threshold - distances).clip(min=0)
            penalties += violation**2 if squared else violation
        by_class = np.add.reduceat(penalties, self.classes.start[:-1], axis=1)
        others: Array = by_class.sum(1, keepdims=True) - by_class
        return others if hypothesis is None else others[:, hypothesis]

    def _targets(self, distances: Array, k: int) -> Array:
        """Squared distances to the k nearest points of each class `[b, C, k]`; a smaller class repeats the mean of its own."""
        own = np.empty((len(distances), len(self.classes), k))
        for c, rows in enumerate(self.classes.slices()):
            num = min(k, rows.stop - rows.start)
            own[:, c, :num] = np.partition(distances[:, rows], num - 1, axis=1)[:, :num]
            own[:, c, num:] = own[:, c, :num].mean(1, keepdims=True)
        return own

    def _invaded(self, distances: Array, thresholds: Array, squared: bool) -> Array:
        """The penalties of points of other classes within the thresholds `[b, C, k]` of each class, `[b, C]`."""
        everywhere = np.sort(distances, axis=1)
        sums = _prefix(everywhere)
        squares = _prefix(everywhere**2) if squared else None
        push = np.empty(thresholds.shape[:2])
        for b, limits in enumerate(thresholds):
            count = np.searchsorted(everywhere[b], limits)
            if squares is None:
                push[b] = (limits * count - sums[b, count]).sum(1)
            else:
                push[b] = (limits**2 * count - 2 * limits * sums[b, count] + squares[b, count]).sum(1)
        for c, rows in enumerate(self.classes.slices()):  # those of the class itself are no impostors
            for limit in thresholds[:, c].T:
                violation = (limit[:, None] - distances[:, rows]).clip(min=0)
                push[:, c] -= (violation**2 if squared else violation).sum(1)
        return push.clip(min=0)

    def _distances(self, X: Array) -> Iterator[tuple[int, Array]]:
        """Squared distances to all training points, `[b, n]` for some points at a time, and the first of these."""
        n = len(self.classes.codes)
        height = max(1, 2**20 // n)
        for begin in range(0, len(X), height):
            block = X[begin : begin + height] - self.center
            mapped = [block @ L.T for L in self.maps]
            yield begin, np.concatenate([_squared(mapped[c % len(mapped)], part) for c, part in enumerate(self.parts)], axis=1)


def _squared(a: Array, b: Array) -> Array:
    squares: Array = ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(min=0)
    return squares


def _prefix(x: Array) -> Array:
    sums = np.zeros((x.shape[0], x.shape[1] + 1))
    np.cumsum(x, axis=1, out=sums[:, 1:])
    return sums
