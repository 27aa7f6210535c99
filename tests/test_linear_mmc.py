"""The metric of MMC is the best one: against other solvers, by its duality gap, and as the loss of the zoo says."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning

from metriczoo import losses
from metriczoo.linear import MMC
from metriczoo.linear._class_pairs import across_classes, scatter_within

seeds = st.integers(0, 2**31 - 1)


def points(seed, n=12, d=3, classes=3):
    random = np.random.RandomState(seed)
    return random.randn(n, d) * [1, 3, 0.5][:d], np.arange(n) % classes


def naive(X, y, M):
    """The objective by a loop over all pairs."""
    similar, dissimilar = [], []
    for i, j in itertools.combinations(range(len(X)), 2):
        squared = float((X[i] - X[j]) @ M @ (X[i] - X[j]))
        (similar if y[i] == y[j] else dissimilar).append(squared)
    return np.mean(similar) - np.log(np.mean(np.sqrt(np.maximum(dissimilar, 1e-300))))


def exact(**options):
    return MMC(**{"tol": 1e-7, "max_iter": 20_000, "shrinkage": 0.0, **options})


@settings(deadline=None, max_examples=15)
@given(seeds, st.booleans())
def test_the_objective_falls_to_what_a_loop_says(seed, diagonal):
    X, y = points(seed)
    metric = exact(diagonal=diagonal).fit(X, y)
    assert metric.objectives_[-1] == pytest.approx(naive(X, y, metric.get_mahalanobis_matrix()), abs=1e-9)
    assert (np.diff(metric.objectives_) <= 1e-12).all()
    assert len(metric.objectives_) == metric.n_iter_ + 1
    assert metric.gap_ <= 1e-7


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("diagonal", [False, True])
def test_no_other_solver_finds_a_better_metric(seed, diagonal):
    X, y = points(seed)
    metric = exact(diagonal=diagonal).fit(X, y)
    if diagonal:
        tries = [(lambda w: naive(X, y, np.diag(w)), random.rand(3)) for random in map(np.random.RandomState, range(3))]
    else:
        tries = [
            (lambda f: naive(X, y, f.reshape(3, 3).T @ f.reshape(3, 3)), random.randn(9) / 3)
            for random in map(np.random.RandomState, range(3))
        ]
    bounds = [(0, None)] * 3 if diagonal else None
    others = [minimize(f, start, method="SLSQP", bounds=bounds, options={"ftol": 1e-12}) for f, start in tries]
    best = min(other.fun for other in others)
    assert metric.objectives_[-1] == pytest.approx(best, abs=2e-6)
    assert metric.objectives_[-1] <= best + 1e-7


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_optimality_conditions(seed):
    """The slope of the objective by M has no direction down within the cone, and none along M."""
    X, y = points(seed)
    M = exact().fit(X, y).get_mahalanobis_matrix()
    slope, distances, count = np.zeros((3, 3)), [], 0
    for i, j in itertools.combinations(range(len(X)), 2):
        v = X[i] - X[j]
        if y[i] == y[j]:
            slope += np.outer(v, v)
            count += 1
        else:
            distances.append((np.sqrt(v @ M @ v), v))
    slope /= count
    slope -= sum(np.outer(v, v) / (2 * d) for d, v in distances) / sum(d for d, _ in distances)
    scale = np.abs(slope).max() + 1
    assert np.linalg.eigvalsh(slope).min() > -1e-4 * scale
    assert abs((slope * M).sum()) < 1e-6


def test_optimality_conditions_of_the_diagonal():
    X, y = points(5)
    weights = np.diag(exact(diagonal=True).fit(X, y).get_mahalanobis_matrix())
    step = 1e-6
    for k in range(3):
        ahead = naive(X, y, np.diag(weights + step * (np.arange(3) == k))) - naive(X, y, np.diag(weights))
        assert ahead / step > -1e-3
        if weights[k] > 1e-3:
            assert abs(ahead / step) < 1e-3


@settings(deadline=None, max_examples=10)
@given(seeds, st.booleans())
def test_the_loss_of_the_zoo_is_the_objective(seed, diagonal):
    """Value and gradient of a linear encoder: at the start, where the gradient by the encoder is known, and at the end, where it is 0."""
    X, y = points(seed)
    metric = exact(diagonal=diagonal).fit(X, y)
    L = torch.tensor(metric.components_, requires_grad=True)
    value = losses.MMCLoss()(torch.tensor(X) @ L.T, torch.tensor(y))
    assert value.item() == pytest.approx(metric.objectives_[-1], abs=1e-9)
    if not diagonal:
        (gradient,) = torch.autograd.grad(value, L)
        assert gradient.abs().max() < 1e-3

    start = torch.eye(3, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.MMCLoss()(torch.tensor(X) @ start.T, torch.tensor(y)), start)
    for k, h in itertools.product(range(3), range(3)):
        step = 1e-6 * (np.arange(9).reshape(3, 3) == 3 * k + h)
        up, down = ((np.eye(3) + s * step).T @ (np.eye(3) + s * step) for s in (1, -1))
        assert gradient[k, h].item() == pytest.approx((naive(X, y, up) - naive(X, y, down)) / 2e-6, abs=1e-5)


# ---- pairs


def test_pairs_and_labels_that_say_the_same_give_the_same_metric():
    X, y = points(0)
    pairs, signs = zip(*(((X[i], X[j]), 1 if y[i] == y[j] else -1) for i, j in itertools.combinations(range(len(X)), 2)), strict=True)
    for diagonal in (False, True):
        of_pairs, of_labels = exact(diagonal=diagonal).fit_pairs(pairs, signs), exact(diagonal=diagonal).fit(X, y)
        np.testing.assert_allclose(of_pairs.get_mahalanobis_matrix(), of_labels.get_mahalanobis_matrix(), atol=1e-5)
        assert of_pairs.n_features_in_ == 3
        np.testing.assert_array_equal(exact(diagonal=diagonal).fit(pairs, signs).components_, of_pairs.components_)
        assert of_pairs.objectives_[-1] == pytest.approx(of_labels.objectives_[-1])


@pytest.mark.parametrize(
    ("pairs", "signs", "message"),
    [
        (np.zeros((2, 3)), [1, -1], r"\[m, 2, d\]"),
        (np.random.RandomState(0).randn(2, 2, 3), [1, 0], "1 and -1"),
        (np.random.RandomState(0).randn(2, 2, 3), [1, 1], "both of them"),
        (np.random.RandomState(0).randn(2, 2, 3), [1, -1, 1], "one per pair"),
        (np.array([[[0.0], [0.0]], [[1.0], [0.0]]]), [1, -1], "similar pairs are of equal points"),
        (np.array([[[0.0], [1.0]], [[1.0], [1.0]]]), [1, -1], "dissimilar pairs are of equal points"),
    ],
)
def test_wrong_pairs(pairs, signs, message):
    with pytest.raises(ValueError, match=message):
        MMC().fit_pairs(pairs, signs)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=25), seeds)
def test_pairs_across_classes_are_all_pairs_or_a_fair_draw(labels, seed):
    codes = np.unique(labels, return_inverse=True)[1]
    expected = {frozenset(p) for p in itertools.combinations(range(len(codes)), 2) if codes[p[0]] != codes[p[1]]}
    left, right = across_classes(codes, None, np.random.RandomState(seed))
    assert len(left) == len(expected)
    assert {frozenset(p) for p in zip(left.tolist(), right.tolist(), strict=True)} == expected
    if len(expected) > 3:
        drawn = across_classes(codes, len(expected) - 1, np.random.RandomState(seed))
        assert len(drawn[0]) == len(expected) - 1
        assert {frozenset(p) for p in zip(drawn[0].tolist(), drawn[1].tolist(), strict=True)} <= expected


def test_every_pair_is_as_likely_as_any_other():
    codes = np.array([0, 0, 0, 0, 1, 1, 2])
    most = 13  # of 14 pairs
    counts = np.zeros((7, 7))
    for seed in range(3000):
        left, right = across_classes(codes, most, np.random.RandomState(seed))
        np.add.at(counts, (np.minimum(left, right), np.maximum(left, right)), 1)
    share = counts[counts > 0] / counts.sum()
    assert len(share) == 14
    np.testing.assert_allclose(share, 1 / 14, rtol=0.08)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_scatter_of_the_pairs_of_a_class(seed):
    X, y = points(seed)
    differences = [X[i] - X[j] for i, j in itertools.combinations(range(len(X)), 2) if y[i] == y[j]]
    scatter, number = scatter_within(X, y)
    assert number == len(differences)
    np.testing.assert_allclose(scatter, sum(np.outer(v, v) for v in differences) / number, atol=1e-12)


# ---- hard cases


def test_directions_that_could_be_drawn_apart_for_nothing():
    X, y = np.array([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0]]), [0, 0, 1, 1]
    for diagonal in (False, True):
        with pytest.raises(ValueError, match="Raise `shrinkage`"):
            MMC(shrinkage=0.0, diagonal=diagonal).fit(X, y)
        metric = MMC(diagonal=diagonal).fit(X, y)
        assert metric.shrinkage_ == 1e-3
        assert metric.pair_distance([[[0, 0], [1, 0]]])[0] > 5 * metric.pair_distance([[[0, 0], [0, 1]]])[0]
    assert MMC().fit(*points(0)).shrinkage_ == 0


def test_a_constant_feature_has_no_weight_and_changes_nothing():
    X, y = points(1)
    wide = np.insert(X, 1, 0.1, axis=1)
    for diagonal in (False, True):
        M = exact(diagonal=diagonal).fit(wide, y).get_mahalanobis_matrix()
        assert np.abs(M[1]).max() < 1e-12
        np.testing.assert_allclose(
            np.delete(np.delete(M, 1, 0), 1, 1), exact(diagonal=diagonal).fit(X, y).get_mahalanobis_matrix(), atol=1e-6
        )


@pytest.mark.parametrize("diagonal", [False, True])
def test_equal_points_of_two_classes_count_in_the_mean_only(diagonal):
    X, y = points(3)
    X, y = np.vstack([X, X[:1]]), np.append(y, y[0] + 1)
    metric = exact(diagonal=diagonal).fit(X, y)
    assert metric.objectives_[-1] == pytest.approx(naive(X, y, metric.get_mahalanobis_matrix()), abs=1e-9)
    assert metric.gap_ <= 1e-7


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_unit_of_a_feature_does_not_matter(diagonal):
    X, y = points(2)
    units = np.array([1e-5, 1.0, 1e4])
    metric, other = exact(diagonal=diagonal).fit(X, y), exact(diagonal=diagonal).fit(X * units, y)
    np.testing.assert_allclose(other.get_mahalanobis_matrix() * np.outer(units, units), metric.get_mahalanobis_matrix(), atol=1e-5)


def test_features_that_only_some_pairs_differ_in():
    """Weights that would fall to 0 if no pair depended on them."""
    random = np.random.RandomState(4)
    X, y = (random.rand(14, 3) < 0.5).astype(float), np.arange(14) % 2
    metric = exact(diagonal=True).fit(X, y)
    assert metric.gap_ < 1e-6
    assert metric.objectives_[-1] <= naive(X, y, np.eye(3) / (2 * scatter_within(X, y)[0].trace())) + 1e-12


def test_too_few_steps_warn():
    with pytest.warns(ConvergenceWarning, match="did not converge: after 1 steps") as caught:
        metric = MMC(max_iter=1).fit(*load_wine(return_X_y=True))
    assert metric.n_iter_ == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MMC().fit(*load_wine(return_X_y=True))


def test_drawn_pairs_depend_on_the_seed_alone():
    X, y = load_wine(return_X_y=True)
    first, again, other = (MMC(max_pairs=200, random_state=s).fit(X, y).components_ for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    every = MMC(max_pairs=None).fit(X, y)
    assert MMC(max_pairs=10_000, random_state=0).fit(X, y).objectives_[-1] == pytest.approx(every.objectives_[-1], abs=0.05)


def test_neighbours_on_wine():
    """Raw wine has features of very different units, which a metric must put right."""
    X, y = load_wine(return_X_y=True)
    mapped = MMC().fit_transform(X, y)
    assert _error(X, y) > 0.2 > 0.1 > _error(mapped, y)


def _error(X, y):
    squared = ((X[:, None] - X[None]) ** 2).sum(2)
    np.fill_diagonal(squared, np.inf)
    return (y[squared.argmin(1)] != y).mean()
