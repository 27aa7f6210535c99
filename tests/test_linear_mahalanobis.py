"""The inverse covariance as a metric."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance, LedoitWolf, shrunk_covariance

from metriczoo.linear import Mahalanobis

sizes = st.tuples(st.integers(2, 30), st.integers(1, 8), st.integers(0, 2**31 - 1))


def points(n, d, seed):
    random = np.random.RandomState(seed)
    return random.randn(n, d) @ random.randn(d, d) + random.randn(d) * 10


@settings(deadline=None, max_examples=40)
@given(sizes)
def test_the_pseudo_inverse_of_the_covariance(size):
    X = points(*size)
    metric = Mahalanobis().fit(X)
    covariance = np.cov(X.T, bias=True).reshape(size[1], size[1])
    rank = min(size[0] - 1, size[1])
    assert metric.components_.shape == (rank, size[1])
    M = metric.get_mahalanobis_matrix()
    scale = np.abs(M).max() * np.abs(covariance).max()
    np.testing.assert_allclose(M @ covariance @ M, M, atol=1e-9 * scale * np.abs(M).max())
    np.testing.assert_allclose(covariance @ M @ covariance, covariance, atol=1e-9 * scale * np.abs(covariance).max())
    np.testing.assert_allclose(M @ covariance, (M @ covariance).T, atol=1e-9 * scale)


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_whitened_data_have_the_identity_as_covariance(size):
    X = points(*size)
    white = Mahalanobis().fit_transform(X)
    np.testing.assert_allclose(np.cov(white.T, bias=True).reshape(white.shape[1], -1), np.eye(white.shape[1]), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(sizes, st.floats(0.01, 1.0))
def test_shrinkage_is_that_of_scikit_learn(size, gamma):
    X = points(*size)
    M = Mahalanobis(shrinkage=gamma).fit(X).get_mahalanobis_matrix()
    covariance = shrunk_covariance(np.cov(X.T, bias=True).reshape(size[1], size[1]), gamma)
    np.testing.assert_allclose(M @ covariance, np.eye(size[1]), atol=1e-9)


@pytest.mark.parametrize("shape", [(40, 5), (10, 25)])
def test_automatic_shrinkage_is_that_of_ledoit_and_wolf(shape):
    X = points(*shape, 0)
    metric, known = Mahalanobis(shrinkage="auto").fit(X), LedoitWolf().fit(X)
    assert metric.shrinkage_ == pytest.approx(known.shrinkage_)
    np.testing.assert_allclose(metric.get_mahalanobis_matrix(), known.precision_, rtol=1e-8, atol=1e-10)


def test_distances_are_those_of_scipy_and_scikit_learn():
    X = points(50, 4, 1)
    metric = Mahalanobis().fit(X)
    inverse = np.linalg.inv(np.cov(X.T, bias=True))
    pairs = np.stack([X[:20], X[20:40]], axis=1)
    np.testing.assert_allclose(metric.pair_distance(pairs), [mahalanobis(a, b, inverse) for a, b in pairs])
    centre = np.stack([X, np.broadcast_to(X.mean(0), X.shape)], axis=1)
    np.testing.assert_allclose(metric.pair_distance(centre) ** 2, EmpiricalCovariance().fit(X).mahalanobis(X))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_an_invertible_map_of_the_data_changes_no_distance(seed):
    random = np.random.RandomState(seed)
    X, A = points(30, 4, seed), random.randn(4, 4) + 3 * np.eye(4)
    if np.linalg.cond(A) > 1e3:
        return
    pairs = np.stack([X[:15], X[15:]], axis=1)
    moved = Mahalanobis().fit(X @ A + 5).pair_distance(pairs @ A + 5)
    np.testing.assert_allclose(moved, Mahalanobis().fit(X).pair_distance(pairs), rtol=1e-6)


def test_features_that_do_not_vary_have_no_weight():
    X = points(20, 3, 0)
    wide = np.insert(X, 1, 0.1, axis=1)
    M = Mahalanobis().fit(wide).get_mahalanobis_matrix()
    assert np.abs(M[1]).max() < 1e-12 and np.abs(M[:, 1]).max() < 1e-12
    np.testing.assert_allclose(np.delete(np.delete(M, 1, 0), 1, 1), Mahalanobis().fit(X).get_mahalanobis_matrix(), rtol=1e-9, atol=1e-12)
    repeated = np.hstack([X, X[:, :1]])
    assert Mahalanobis().fit(repeated).components_.shape == (3, 4)


def test_a_feature_of_large_numbers_does_not_hide_another():
    random = np.random.default_rng(0)
    X = np.column_stack([1.7e9 + random.integers(0, 10**6, 1000), random.normal(size=1000) * 1e-4, random.normal(size=1000)])
    metric = Mahalanobis().fit(X).get_mahalanobis_matrix()
    np.testing.assert_allclose(np.diag(metric) * X.var(0), 1, rtol=0.02)
    assert Mahalanobis().fit(np.column_stack([X, X[:, 0] + 1])).components_.shape == (3, 4)


def test_nothing_varies():
    with pytest.raises(ValueError, match="all of its 3 samples are equal"):
        Mahalanobis().fit(np.full((3, 2), 0.1))


def test_labels_are_ignored():
    X = points(20, 3, 0)
    np.testing.assert_array_equal(Mahalanobis().fit(X, np.arange(20)).components_, Mahalanobis().fit(X).components_)
