"""Linear maps to start from."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

__all__ = ["initial_map", "map_of_metric", "without_mean"]

Array = npt.NDArray[np.float64]


def initial_map(init: str | Array, X: Array, codes: npt.NDArray[np.int64], rank: int, random: np.random.RandomState) -> Array:
    """A matrix `[rank, d]`: `init` itself, or the one that a name of `INITS` stands for.

    As in scikit-learn "auto" is "lda" if `rank` is below the number of classes, else "pca" if below both sides of `X`, else "identity".
    """
    if not isinstance(init, str):
        given: Array = init.copy()
        return given
    n, d = X.shape
    if init == "auto":
        classes = int(codes.max()) + 1
        init = "lda" if rank <= min(d, classes - 1) else "pca" if rank < min(d, n) else "identity"
    if init == "identity":
        return np.eye(rank, d)
    if init == "random":
        drawn: Array = random.standard_normal((rank, d)) / np.sqrt(d)
        return drawn
    X = without_mean(X)
    if init == "pca":
        with np.errstate(invalid="ignore"):  # shares of the variance, where there is none
            return _pad(PCA(min(rank, n, d), random_state=random).fit(X).components_, rank)
    return _pad(_discriminants(X, codes, rank), rank)


def without_mean(X: Array) -> Array:
    """The points less their mean, of a constant feature exactly 0: a large offset would cost digits in products."""
    moved: Array = np.where(np.ptp(X, axis=0) > 0, X - X.mean(0), 0.0)
    return moved


def _discriminants(X: Array, codes: npt.NDArray[np.int64], rank: int) -> Array:
    if not X.any():  # no direction tells equal points apart
        return np.eye(rank, X.shape[1])
    number = min(rank, X.shape[1], int(codes.max()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variables are collinear")
        rows: Array = LinearDiscriminantAnalysis(n_components=number).fit(X, codes).scalings_.T[:number]
    return rows


def _pad(rows: Array, rank: int) -> Array:
    """The rows, and zeros below them: data of a low rank have fewer directions than were asked for."""
    return np.vstack([rows, np.zeros((rank - len(rows), rows.shape[1]))])


def map_of_metric(M: Array) -> Array:
    """The symmetric square root L of a positive semidefinite matrix, L^T L = M; negative eigenvalues, due to rounding, count as zero."""
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
