"""The objective of LMNN over all points, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from metriczoo.linear._lmnn_impostors import Classes, Impostors

__all__ = ["Objective", "Targets"]

Array = npt.NDArray[np.float64]


class Targets:
    """Target neighbours: of each point the k nearest others of its class, fewer where the class is smaller.

    Args:
        points: `[n, r]` or, one map per class, `[C, n, r]`, sorted by class.
        classes: of the points.
        k: how many.
    """

    def __init__(self, points: Array, classes: Classes, k: int) -> None:
        n = len(classes.codes)
        self.index = np.tile(np.arange(n)[:, None], (1, k))  # [n, k], the point itself where there is none
        self.real = np.zeros((n, k), dtype=bool)
        for c, rows in enumerate(classes.slices()):
            own = points[c, rows] if points.ndim == 3 else points[rows]
            num = min(k, len(own) - 1)
            if num > 0:
                self.index[rows, :num] = rows.start + _nearest(own - own.mean(0), num)
                self.real[rows, :num] = True

    def __eq__(self, other: object) -> bool:
        """Whether each point has the same targets."""
        return isinstance(other, Targets) and np.array_equal(np.sort(self.index), np.sort(other.index))

    __hash__ = None  # type: ignore[assignment]


def _nearest(points: Array, k: int) -> npt.NDArray[np.int64]:
    """The k nearest others of each point, `[n, k]`."""
    n = len(points)
    norms = np.einsum("nr,nr->n", points, points)
    nearest = np.empty((n, k), dtype=np.int64)
    height = max(1, 2**21 // n)
    for begin in range(0, n, height):
        rows = np.arange(begin, min(begin + height, n))
        distances = norms - 2 * points[rows] @ points.T
        distances[rows - begin, rows] = np.inf
        nearest[rows] = np.argpartition(distances, k - 1, axis=1)[:, :k]
    return nearest


class Objective:
    r"""Pull to the target neighbours, push on the impostors, exactly, with memory that is linear in the points.

    .. math:: (1 - \mu) \sum_{i, j \in T_i} d(i, j)^2 + \mu \sum_{i, j \in T_i} \sum_{l:\, y_l \ne y_i} \phi(m + d(i, j)^2 - d(i, l)^2)

    The gradient is a Laplacian: with :math:`w_{ij}` the derivative of the objective by :math:`d(i, j)^2`,

    .. math:: \partial / \partial M = X^T (D_W - W) X, \qquad \partial / \partial L = 2 L X^T (D_W - W) X, \qquad W = w + w^T

    and `W` is sparse: targets and active impostors only.

    Args:
        X: `[n, d]`, centred, sorted by class.
        classes: of the points.
        targets: of the points.
        mu: weight of the push, in [0, 1].
        margin: m > 0.
        squared: whether :math:`\phi` is the squared hinge, as in pylmnn, not the hinge of the paper.
        local: whether each class has a map of its own, for distances to its points.
    """

    def __init__(self, X: Array, classes: Classes, targets: Targets, *, mu: float, margin: float, squared: bool, local: bool) -> None:
        self.X, self.classes, self.targets = X, classes, targets
        self.mu, self.margin, self.squared, self.local = mu, margin, squared, local
        self.impostors = [Impostors(classes, c) for c in range(len(classes))] if local else [Impostors(classes)]
        self.num_impostors = 0

    def __call__(self, maps: Array, *, by_metric: bool = False) -> tuple[float, Array]:
        """Value at `maps` `[G, r, d]`, G = 1 or the number of classes, and gradient of the same shape, or `[G, d, d]` by the matrices M."""
        points = [self.X @ L.T for L in maps]
        apart, thresholds = self.thresholds(points)
        radius = thresholds.max(axis=1)
        carried = [self.X] * len(points) if by_metric else points
        value, self.num_impostors = (1 - self.mu) * float(apart.sum()), 0
        flow = [np.zeros_like(Y) for Y in carried]
        pushed = np.zeros_like(apart)
        for g, Z in enumerate(points):
            norms = np.einsum("nr,nr->n", Z, Z)
            for pairs in self.impostors[g].chunks(Z, radius):
                anchors, distances = pairs.squared_distances(Z, norms)
                active = distances < radius[anchors]
                anchors, others, distances = anchors[active], pairs.others[active], distances[active]
                self.num_impostors += len(anchors)
                push, weights = self._push(thresholds, anchors, distances, pushed)
                value += self.mu * push
                _add_laplacian(flow[g], -self.mu * weights, anchors, others, carried[g])
        weights = ((1 - self.mu) + self.mu * pushed) * self.targets.real
        self._pull(flow, weights, carried)
        gradient = np.stack([self.X.T @ f for f in flow])
        return value, gradient if by_metric else 2 * gradient.transpose(0, 2, 1)

    def thresholds(self, points: list[Array]) -> tuple[Array, Array]:
        """Squared distances to the targets `[n, k]`, 0 where there is none, and with the margin, minus infinity where there is none."""
        num = self.targets.index.shape[1]
        apart = np.empty((len(self.X), num))
        for g, rows in self._anchors():
            Z = points[g]
            for a in range(num):
                gap = Z[rows] - Z[self.targets.index[rows, a]]
                apart[rows, a] = np.einsum("nr,nr->n", gap, gap)
        return apart, np.where(self.targets.real, self.margin + apart, -np.inf)

    def _anchors(self) -> list[tuple[int, slice]]:
        """The points whose targets are measured by each map."""
        return list(enumerate(self.classes.slices())) if self.local else [(0, slice(0, len(self.X)))]

    def _push(self, thresholds: Array, anchors: Any, distances: Array, pushed: Array) -> tuple[float, Array]:
        """Penalties of some pairs, summed, and their derivatives by the distances; those by the targets' are added to `pushed`."""
        value, weights = 0.0, np.zeros(len(anchors))
        for a in range(thresholds.shape[1]):
            violation = (thresholds[anchors, a] - distances).clip(min=0)
            slope = 2 * violation if self.squared else (violation > 0).astype(float)
            value += float(violation @ violation) if self.squared else float(violation.sum())
            pushed[:, a] += np.bincount(anchors, slope, minlength=len(pushed))
            weights += slope
        return value, weights

    def _pull(self, flow: list[Array], weights: Array, carried: list[Array]) -> None:
        for g, rows in self._anchors():
            index = self.targets.index[rows] - rows.start
            anchors = np.repeat(np.arange(len(index)), index.shape[1])
            _add_laplacian(flow[g][rows], weights[rows].ravel(), anchors, index.ravel(), carried[g][rows])


def _add_laplacian(flow: Array, weights: Array, anchors: Any, others: Any, points: Array) -> None:
    """Add `(D_W - W) points` to `flow`, where `W` is the symmetric matrix of the weights of pairs (anchor, other), sorted by anchor."""
    n = len(points)
    begin = np.concatenate([[0], np.cumsum(np.bincount(anchors, minlength=n))])
    w = sp.csr_matrix((weights, others, begin), shape=(n, n))
    degree = np.bincount(anchors, weights, minlength=n) + np.bincount(others, weights, minlength=n)
    flow += degree[:, None] * points - w @ points - w.T @ points
