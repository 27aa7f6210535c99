"""Mahalanobis metric for clustering: a metric from pairs that are similar and pairs that are not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from metriczoo._checks import check_choice, check_count, check_flag, check_number, describe
from metriczoo.linear._base import Array, SupervisedLinearMetric
from metriczoo.linear._checks import as_classes, as_data, as_labelled, as_pairs
from metriczoo.linear._class_pairs import across_classes, scatter_within
from metriczoo.linear._progress import Progress

__all__ = ["MMC"]

_SHRINKAGE = 1e-3  # where "auto" finds that the problem has no solution without
_NOTHING = 1e-12  # share of the largest eigenvalue below which one is rounding
_LEAST = 1e-150  # length that is divided by in place of 0
_SHORTEST = 1e-12  # share of a step, or of the mean length, that counts as nothing
_State = tuple[Array, float, float]  # a map, the logarithm of the mean, and by how much that may be below the best, as a share


class MMC(SupervisedLinearMetric):
    r"""Mahalanobis metric for clustering: similar pairs near, dissimilar pairs far.

    .. math:: \min_{M \succeq 0} \; \frac{1}{|S|} \sum_S d_M^2 - \log \Bigl( \frac{1}{|D|} \sum_D d_M \Bigr)

    It is convex in M, and its solution that of the paper's problem, the largest :math:`\sum_D d_M` under a bound on
    :math:`\sum_S d_M^2`, up to a scale: the mean of :math:`d_M^2` over similar pairs is 1/2 here.

    In coordinates where the scatter of similar pairs is the identity both constraints of the paper, the bound and :math:`M \succeq 0`, are
    kept by one rule, so that no alternating projections are needed: from L to L G, scaled to the bound, where G is the gradient by
    M of the sum over D. Each step raises the sum, which stays below :math:`\lambda_{\max}(G)` times a known number: the gap between
    both says how far the best metric can be. A diagonal M is found by Newton's method on the nonnegative diagonals, with the same gap.

    Args:
        diagonal: whether M is diagonal: a weight for each feature.
        shrinkage: gamma in [0, 1], how far to draw the scatter of similar pairs to a multiple of the identity. "auto" is 0 where the
            problem has a solution, and 0.001 where dissimilar pairs differ in a direction in which no similar pair does, and could be
            drawn apart for nothing.
        max_pairs: dissimilar pairs that `fit` looks at, drawn at random if there are more; None is all of them. All similar ones count.
        max_iter: steps at most.
        tol: relative duality gap at which the search ends: by so much the mean distance of dissimilar pairs is below the best one.
        verbose: whether to show a progress bar.
        random_state: seed, or generator, of the pairs that are drawn.

    Attributes:
        components_: L, `[r, d]`, a row for each direction in which similar pairs differ, the longest first; for each such feature, in
            their order, if `diagonal`.
        n_iter_: steps.
        objectives_: `[n_iter_ + 1]`, the objective before and after each step; it never rises.
        gap_: the relative duality gap that was reached.
        shrinkage_: the gamma that was used.

    Raises:
        ValueError: by `fit`, of samples that are not finite, of one class, of no similar pair but of equal points.

    Warns:
        ConvergenceWarning: if `max_iter` steps do not reach `tol`.

    Example:
        >>> X, y = [[0, 0], [1, 2], [1, 0], [4, 1], [5, 3], [4, 0]], [0, 0, 0, 1, 1, 1]
        >>> metric = MMC().fit(X, y)
        >>> metric.get_mahalanobis_matrix().round(3)
        array([[ 1.687, -0.511],
               [-0.511,  0.155]])
        >>> MMC(diagonal=True).fit(X, y).get_mahalanobis_matrix().round(3)
        array([[0.75, 0.  ],
               [0.  , 0.  ]])

    Relations:
        `losses.MMCLoss` is the same objective on a batch, for any encoder. The best M often has a low rank: most directions do not help to
        tell dissimilar pairs apart on the whole. `LMNN` and `NCA` look at near neighbours only.

    References:
        Xing, Ng, Jordan, Russell. Distance Metric Learning with Application to Clustering with Side-Information. NIPS 2002.
    """

    def __init__(
        self,
        *,
        diagonal: bool = False,
        shrinkage: float | str = "auto",
        max_pairs: int | None = 100_000,
        max_iter: int = 1000,
        tol: float = 1e-5,
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.diagonal = diagonal
        self.shrinkage = shrinkage
        self.max_pairs = max_pairs
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> MMC:
        """Learn from points with labels: points of one class are similar, points of two are not. Or from pairs, as `fit_pairs` does.

        Args:
            X: `[n, d]`; or `[m, 2, d]`, pairs.
            y: `[n]`, class labels of any type; or `[m]`, 1 for a similar pair, -1 for a dissimilar one.

        Returns:
            The estimator itself.

        Raises:
            TypeError: of parameters of a wrong type.
            ValueError: of wrong parameters, of values that are not finite, of one class, of classes of equal points.
        """
        if (X if hasattr(X, "ndim") else np.asarray(X)).ndim == 3:
            return self.fit_pairs(X, y)
        X, y = as_labelled(self, X, y)
        classes, codes = as_classes(y)
        most = None if self.max_pairs is None else check_count("max_pairs", self.max_pairs)
        scatter, number = scatter_within(X, codes)
        if number == 0:
            raise ValueError(f"Expected `y` to have a class of at least 2 samples, but all {len(classes)} classes have one.")
        left, right = across_classes(codes, most, check_random_state(self.random_state))
        return self._solve(scatter, X[left] - X[right])

    def fit_pairs(self, pairs: Any, y: Any) -> MMC:
        """Learn from pairs.

        Args:
            pairs: `[m, 2, d]`.
            y: `[m]`, 1 for a similar pair, -1 for a dissimilar one; both must occur.

        Returns:
            The estimator itself.

        Raises:
            TypeError: of parameters of a wrong type.
            ValueError: of wrong parameters, shapes, labels, of values that are not finite, of similar pairs that are all of equal points.
        """
        pairs, signs = as_pairs(pairs), np.asarray(y)
        if signs.shape != pairs.shape[:1] or not np.isin(signs, (-1, 1)).all() or len(np.unique(signs)) != 2:
            raise ValueError(f"Expected `y` to hold 1 and -1, one per pair, and both of them, but got {describe(signs)}.")
        as_data(self, pairs.reshape(-1, pairs.shape[2]), reset=True)
        differences = pairs[:, 0] - pairs[:, 1]
        similar = differences[signs == 1]
        return self._solve(similar.T @ similar / len(similar), differences[signs == -1])

    def _solve(self, scatter: Array, differences: Array) -> MMC:
        if not scatter.any():
            raise ValueError("Expected some points of a similar pair to differ, but all similar pairs are of equal points.")
        if not differences.any():
            raise ValueError("Expected some points of a dissimilar pair to differ, but all dissimilar pairs are of equal points.")
        steps = _newton if check_flag("diagonal", self.diagonal) else _ascent
        coordinates = self._coordinates(scatter, differences)
        mapped = differences @ coordinates
        apart = mapped[np.linalg.norm(mapped, axis=1) > _NOTHING * np.abs(mapped).max()]  # pairs of equal points count in the mean only
        share = math.log(len(apart) / len(differences))
        most, tol = check_count("max_iter", self.max_iter), check_number("tol", self.tol, low=0)
        progress, objectives = Progress("MMC", most, self.verbose), []
        for L, log_mean, self.gap_ in steps(apart):  # noqa: B007
            objectives.append(0.5 - log_mean - share)
            if len(objectives) > 1:
                progress.step(objectives[-1], f"  gap {self.gap_:.1e}")
            if self.gap_ <= tol or len(objectives) > most:
                break
        progress.close()
        self.objectives_, self.n_iter_ = np.array(objectives), len(objectives) - 1
        if self.gap_ > tol:
            warnings.warn(
                f"MMC did not converge: after {self.n_iter_} steps the relative gap to the best metric may be {self.gap_:.2g}, not {tol}."
                " Raise `max_iter` or `tol`.",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.components_ = L @ coordinates.T if self.diagonal else _sorted(L @ coordinates.T)
        return self

    def _coordinates(self, scatter: Array, differences: Array) -> Array:
        """`[d, r]`: the map to coordinates in which the scatter of similar pairs, shrunk if needed, is the identity."""
        automatic = isinstance(self.shrinkage, str)
        if automatic:
            check_choice("shrinkage", self.shrinkage, ["auto"])
        self.shrinkage_ = 0.0 if automatic else check_number("shrinkage", self.shrinkage, low=0, high=1)
        found = _whitening(_shrunk(scatter, self.shrinkage_), differences, self.diagonal)
        if found is None and automatic:
            self.shrinkage_ = _SHRINKAGE
            found = _whitening(_shrunk(scatter, self.shrinkage_), differences, self.diagonal)
        if found is None:
            raise ValueError(
                f"Expected similar pairs to differ in all directions in which dissimilar ones do, since those could be drawn apart for "
                f"nothing otherwise, but got a scatter of a lower rank with shrinkage={self.shrinkage_}. Raise `shrinkage`."
            )
        return found


def _shrunk(scatter: Array, shrinkage: float) -> Array:
    shrunk: Array = (1 - shrinkage) * scatter + shrinkage * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    return shrunk


def _whitening(scatter: Array, differences: Array, diagonal: bool) -> Array | None:
    """`[d, r]`, T with T^T scatter T = I; None where differences leave the directions of the scatter."""
    lengths = np.sqrt((differences**2).mean(0))
    units = np.where(lengths > 0, lengths, 1.0)  # a feature of small numbers counts like any other
    scatter = scatter / np.outer(units, units)
    if diagonal:
        values, vectors = np.diag(scatter), np.eye(len(units))
    else:
        values, vectors = np.linalg.eigh((scatter + scatter.T) / 2)
    there = values > _NOTHING * values.max()
    outside = differences / units @ vectors[:, ~there]
    if (outside**2).sum() > _NOTHING * differences.size:
        return None
    coordinates: Array = vectors[:, there] / np.sqrt(values[there]) / units[:, None]
    return coordinates


def _ascent(differences: Array) -> Iterator[_State]:
    """Maps `[r, r]` of squared norm 1/2, each with a larger mean of the lengths of mapped differences, and what is known of that mean."""
    r = differences.shape[1]
    L, last = np.eye(r) / math.sqrt(2 * r), 0.0
    while True:
        lengths = np.maximum(np.linalg.norm(differences @ L.T, axis=1), _LEAST)
        mean = float(lengths.mean())
        if mean <= last:  # by rounding
            return
        slope = (differences / lengths[:, None]).T @ differences / len(differences)
        yield L, math.log(mean), float(np.linalg.eigvalsh(slope)[-1]) / (4 * mean) - 0.5
        L, last = L @ slope, mean
        L /= math.sqrt(2) * np.linalg.norm(L)


def _newton(differences: Array) -> Iterator[_State]:
    """As `_ascent`, of diagonal maps."""
    squares = differences**2
    weights = np.full(squares.shape[1], 0.5 / squares.shape[1])
    objective = _value(squares, weights)
    while True:
        slope, curvature = _slopes(squares, weights)
        yield np.diag(np.sqrt(weights)), 0.5 - objective, float((1 - slope).max()) / 2 - 0.5
        direction = _direction(weights, slope, curvature)
        for length in 0.5 ** np.arange(40):
            # a weight that may not fall to 0, since a pair differs in nothing else, falls to a hundredth
            moves = (_half(np.maximum(weights + length * direction, least * weights)) for least in (0.0, 0.01))
            better = next(((moved, found) for moved in moves if (found := _value(squares, moved)) < objective), None)
            if better is not None:
                break
        else:
            return
        weights, objective = better


def _half(weights: Array) -> Array:
    """At the best scale."""
    scaled: Array = weights / (2 * weights.sum())
    return scaled


def _value(squares: Array, weights: Array) -> float:
    """Objective at nonnegative weights of the features; infinity where a pair has length 0."""
    lengths = np.sqrt(squares @ weights)
    mean = float(lengths.mean())
    if lengths.min() < _SHORTEST * mean:  # such a pair has a slope without bound: no solution is there
        return math.inf
    return float(weights.sum()) - math.log(mean)


def _slopes(squares: Array, weights: Array) -> tuple[Array, Array]:
    """Gradient and Hessian of `_value`, where that is finite."""
    lengths = np.sqrt(squares @ weights)
    mean = float(lengths.mean())
    slope = squares.T @ (0.5 / lengths) / (len(squares) * mean)
    curvature = (squares.T * (0.25 / lengths**3)) @ squares / (len(squares) * mean) + np.outer(slope, slope)
    return 1 - slope, curvature


def _direction(weights: Array, slope: Array, curvature: Array) -> Array:
    """Newton's direction among the weights that are free to move: those at 0 that would fall stay there."""
    near = min(1e-6, float(np.linalg.norm(weights - np.maximum(weights - slope, 0.0))))
    free = (weights > near) | (slope <= 0)
    direction = np.where(free, 0.0, -weights)
    scale = 1 / np.sqrt(np.diag(curvature)[free])  # curvatures may grow without bound as a weight falls
    scaled = curvature[np.ix_(free, free)] * np.outer(scale, scale)
    direction[free] = -scale * np.linalg.lstsq(scaled, scale * slope[free], rcond=None)[0]
    return direction


def _sorted(L: Array) -> Array:
    """A map to the same metric with orthogonal rows, the longest first."""
    values, vectors = np.linalg.svd(L, full_matrices=False)[1:]
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1))
    rows: Array = values[:, None] * vectors * signs
    return rows
