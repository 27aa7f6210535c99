"""The Mahalanobis distance of the data: its inverse covariance as a metric."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from metriczoo._checks import check_choice, check_number
from metriczoo.linear._base import Array, LinearMetric
from metriczoo.linear._checks import as_data

__all__ = ["Mahalanobis"]


class Mahalanobis(LinearMetric):
    r"""The Mahalanobis distance: the inverse of the covariance of the data as the metric. No labels are needed.

    .. math:: M = \Sigma_\gamma^{-1}, \qquad \Sigma_\gamma = (1 - \gamma) \Sigma + \gamma \tfrac{\operatorname{tr} \Sigma}{d} I, \qquad
        \Sigma = \tfrac{1}{n} \sum_i (x_i - \bar x)(x_i - \bar x)^T

    A singular covariance has its pseudo-inverse: directions in which the data do not vary have length 0.

    Args:
        shrinkage: gamma in [0, 1], how far to draw the covariance to a multiple of the identity; "auto" estimates it as Ledoit and Wolf do.

    Attributes:
        components_: L, `[r, d]`, the principal components divided by their standard deviations, the largest first; r is the rank of the
            covariance.
        shrinkage_: the gamma that was used.

    Raises:
        ValueError: by `fit`, if there are fewer than 2 samples, all are equal, or one is not finite.

    Example:
        >>> metric = Mahalanobis().fit([[0, 0], [2, 0], [0, 4], [2, 4]])
        >>> metric.get_mahalanobis_matrix().round(4)
        array([[1.  , 0.  ],
               [0.  , 0.25]])
        >>> metric.pair_distance([[[0, 0], [3, 8]]])
        array([5.])

    Relations:
        Without shrinkage distances are the same after any invertible linear map of the data. `transform` is whitening by principal
        components, without their mean. `sklearn.covariance.EmpiricalCovariance` and `LedoitWolf` measure the same, squared and to the mean.

    References:
        Mahalanobis. On the Generalized Distance in Statistics. Proc. National Institute of Sciences of India 2, 1936.
        Ledoit, Wolf. A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices. J. Multivariate Analysis 88, 2004.
    """

    def __init__(self, *, shrinkage: float | str = 0.0) -> None:
        self.shrinkage = shrinkage

    def fit(self, X: Any, y: Any = None) -> Mahalanobis:
        """Measure the covariance.

        Args:
            X: `[n, d]`, n >= 2.
            y: ignored.

        Returns:
            The estimator itself.

        Raises:
            TypeError: if `shrinkage` is neither a number nor text.
            ValueError: of fewer than 2 samples, of samples that are all equal, of values that are not finite, of a wrong `shrinkage`.
        """
        X = as_data(self, X, reset=True, min_samples=2)
        centred = np.where(np.ptp(X, axis=0) > 0, X - X.mean(0), 0.0)  # the mean of a constant need not be exact
        self.shrinkage_ = self._shrinkage(centred)
        variances, directions = _principal(centred, np.abs(X).max(0), complete=self.shrinkage_ > 0)
        if not variances.any():
            raise ValueError(f"Expected `X` to vary, but all of its {len(X)} samples are equal, but for rounding.")
        variances = (1 - self.shrinkage_) * variances + self.shrinkage_ * variances.sum() / X.shape[1]
        self.components_ = directions / np.sqrt(variances)[:, None]
        return self

    def _shrinkage(self, centred: Array) -> float:
        if isinstance(self.shrinkage, str):
            check_choice("shrinkage", self.shrinkage, ["auto"])
            return float(ledoit_wolf_shrinkage(centred, assume_centered=True))
        return check_number("shrinkage", self.shrinkage, low=0, high=1)


def _principal(centred: Array, largest: Array, *, complete: bool) -> tuple[Array, Array]:
    """Variances, largest first, and directions `[r, d]`: those above rounding, of features up to `largest`, or all d if `complete`."""
    n, d = centred.shape
    triangle = np.linalg.qr(centred, mode="r")  # of few rows, where the samples are many
    singular, directions = np.linalg.svd(triangle, full_matrices=complete)[1:]
    directions *= np.where(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1) < 0, -1, 1)  # whatever LAPACK says
    variances = singular**2 / n
    if complete:
        return np.append(variances, np.zeros(d - len(variances))), directions
    rounded = np.linalg.norm(directions * largest, axis=1) * n**0.5  # a large feature is rounded in the directions that it has a part in
    kept = singular > np.maximum(singular[0], rounded) * max(n, d) * np.finfo(float).eps
    return variances[kept], directions[kept]
