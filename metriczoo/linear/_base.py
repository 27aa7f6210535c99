"""What all linear metrics share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from metriczoo.linear._checks import as_data, as_pairs

__all__ = ["LinearMetric"]

Array = npt.NDArray[np.float64]


class LinearMetric(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""A metric that is Euclidean after a linear map: the base of the estimators of this module.

    .. math:: d(x, y) = \|L x - L y\|_2, \qquad M = L^T L

    A subclass has a `fit` that sets `components_`, the matrix L of shape `[r, d]`, after `as_data` or `as_labelled` have checked the input;
    if it iterates, `n_iter_`, and `objectives_`, the value of its objective at the start and after each accepted step.

    Relations:
        `metriczoo.similarity.Mahalanobis` scores with a matrix L in PyTorch, within losses and metrics.
    """

    components_: Array

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def transform(self, X: Any) -> Any:
        r"""Map points to where the metric is Euclidean.

        Args:
            X: `[n, d]`, array or data frame.

        Returns:
            `[n, r]`, the rows :math:`L x`, not centred: an array of float64, or a data frame if `set_output` asks for one.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if the features are not those of `fit`, or not finite.
        """
        check_is_fitted(self)
        return as_data(self, X, reset=False) @ self.components_.T

    def get_mahalanobis_matrix(self) -> Array:
        r"""The matrix :math:`M = L^T L` of the metric.

        Returns:
            `[d, d]`, symmetric and positive semidefinite.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        metric: Array = self.components_.T @ self.components_
        return metric

    def pair_distance(self, pairs: Any) -> Array:
        """Distances within pairs, by the learned metric.

        Args:
            pairs: `[m, 2, d]`.

        Returns:
            `[m]`, >= 0: `d`, not squared.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if the shape or the number of features is another, or a value is not finite.
        """
        check_is_fitted(self)
        pairs = as_pairs(pairs, self.n_features_in_)
        distances: Array = np.linalg.norm((pairs[:, 0] - pairs[:, 1]) @ self.components_.T, axis=1)
        return distances

    def score_pairs(self, pairs: Any) -> Array:
        """Similarities of pairs, larger is closer: the distances of `pair_distance`, negated.

        Args:
            pairs: `[m, 2, d]`.

        Returns:
            `[m]`, <= 0.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if the shape or the number of features is another, or a value is not finite.
        """
        return -self.pair_distance(pairs)


class SupervisedLinearMetric(LinearMetric):
    """A linear metric whose `fit` needs labels."""

    def _more_tags(self) -> dict[str, Any]:  # scikit-learn < 1.6
        return {"requires_y": True}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
