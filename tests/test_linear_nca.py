"""Neighbourhood components analysis: the objective of scikit-learn's, in less memory, whole or in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NeighborhoodComponentsAnalysis

from metriczoo import losses
from metriczoo.linear import NCA
from metriczoo.linear.nca import _Problem

unconverged = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def naive(L, X, y):
    """Each p by a loop."""
    Z, shares = X @ L.T, []
    for i in range(len(Z)):
        squared = ((Z - Z[i]) ** 2).sum(1)
        squared[i] = np.inf
        weights = np.exp(squared.min() - squared)
        shares.append(weights[y == y[i]].sum() / weights.sum())
    return np.array(shares)


def points(seed, n=14, d=3, classes=3):
    random = np.random.RandomState(seed)
    return random.randn(n, d), np.append(random.randint(classes, size=n - 4), [0, 0, 1, 1])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 1), st.integers(1, 3))
def test_value_and_gradient_are_those_of_scikit_learn(seed, rank):
    X, y = points(seed)
    start = np.random.RandomState(seed).randn(rank, 3) / 2
    L = torch.tensor(start, requires_grad=True)
    problem = _Problem(X - X.mean(0), y, "expected", "cpu", torch.float64)
    value = problem(L)
    (gradient,) = torch.autograd.grad(value, L)
    for cells in (2**18, 30):  # one tile, or several
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("metriczoo.linear.nca._CELLS", cells)
            closed, in_closed_form = problem.slope(L.detach())
        assert closed == pytest.approx(value.item())
        torch.testing.assert_close(in_closed_form, gradient)
    peer = NeighborhoodComponentsAnalysis()
    peer.n_iter_ = 1
    expected, slope = peer._loss_grad_lbfgs(start.ravel(), X, y[:, None] == y[None], -1.0)
    assert value.item() == pytest.approx(expected)
    assert value.item() == pytest.approx(-naive(start, X, y).sum())
    np.testing.assert_allclose(gradient.numpy().ravel(), slope, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31 - 1), st.integers(1, 7))
def test_slopes_of_any_rank_are_those_of_the_loss(seed, rank):
    """Low ranks sum over points after the map, others before it."""
    random = np.random.RandomState(seed)
    problem = _Problem(random.randn(16, 7), np.arange(16) // 6, "expected", "cpu", torch.float64)
    L = torch.tensor(random.randn(rank, 7) / 3, requires_grad=True)
    value = problem(L)
    (gradient,) = torch.autograd.grad(value, L)
    closed, in_closed_form = problem.slope(L.detach())
    assert closed == pytest.approx(value.item())
    torch.testing.assert_close(in_closed_form, gradient)


@unconverged
@pytest.mark.parametrize(
    "options", [{}, {"n_components": 2}, {"init": "random"}, {"init": "pca"}, {"objective": "log"}, {"batch_size": 64}], ids=str
)
def test_the_scale_of_the_input_does_not_matter(options):
    X, y = load_iris(return_X_y=True)
    metric = NCA(max_iter=15, random_state=0, **options).fit(X, y)
    assert metric.n_iter_ > 3 and metric.objectives_[-1] < metric.objectives_[0]
    for scale in (2.0**-30, 2.0**30, 2.0**500):
        other = NCA(max_iter=15, random_state=0, **options).fit(X * scale, y)
        np.testing.assert_allclose(other.components_ * scale, metric.components_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other.objectives_, metric.objectives_)
    for scale in (1e-6, 1e6):  # not exact, so rounding sends the descent on another way
        other = NCA(max_iter=15, random_state=0, **options).fit(X * scale, y)
        assert other.objectives_[-1] == pytest.approx(metric.objectives_[-1], rel=0.02)


def test_a_given_map_and_its_input_may_have_any_scale_together():
    X, y = load_iris(return_X_y=True)
    start = np.array([[0.1, 0.2, 0.9, 1.1]])
    metric, other = NCA(init=start).fit(X, y), NCA(init=start * 2.0**20).fit(X / 2.0**20, y)
    np.testing.assert_allclose(other.components_, metric.components_ * 2.0**20, rtol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31 - 1))
def test_the_logarithm_is_the_loss_of_the_zoo(seed):
    X, y = points(seed)
    y[y == 2] = 0  # no class of one
    L = torch.eye(3, dtype=torch.float64, requires_grad=True)
    value = _Problem(X - X.mean(0), y, "log", "cpu", torch.float64)(L)
    (gradient,) = torch.autograd.grad(value, L)
    assert value.item() == pytest.approx(-np.log(naive(np.eye(3), X, y)).sum())
    other = torch.eye(3, dtype=torch.float64, requires_grad=True)
    loss = losses.NCALoss(reduction="sum")(torch.tensor(X) @ other.T, torch.tensor(y))
    torch.testing.assert_close(torch.autograd.grad(loss, other)[0], gradient)
    torch.testing.assert_close(loss, value)


@unconverged
@pytest.mark.parametrize("load", [load_iris, load_wine, load_digits])
@pytest.mark.parametrize("rank", [2, None])
def test_at_least_as_good_as_scikit_learn(load, rank):
    """On points of the scale that ours divides by, so that both descend from one start: there are several local optima."""
    X, y = (a[:400] for a in load(return_X_y=True))
    X = X - X.mean(0)
    X *= 4 / np.sqrt(np.square(X).sum(1).mean())
    ours, peer = NCA(rank, max_iter=30).fit(X, y), NeighborhoodComponentsAnalysis(rank, max_iter=30).fit(X, y)
    reached = naive(peer.components_, X, y).sum()
    assert -ours.objectives_[-1] >= reached * (1 - 1e-6)
    assert naive(ours.components_, X, y).sum() == pytest.approx(-ours.objectives_[-1])


@unconverged
@pytest.mark.parametrize("objective", ["expected", "log"])
def test_the_objective_never_rises(objective):
    X, y = load_wine(return_X_y=True)
    metric = NCA(objective=objective, init="identity", max_iter=40).fit(X / X.std(0), y)
    assert (np.diff(metric.objectives_) <= 0).all()
    assert len(metric.objectives_) == metric.n_iter_ + 1
    assert metric.objectives_[-1] < metric.objectives_[0]
    shares = naive(metric.components_, X / X.std(0), y)
    assert metric.objectives_[-1] == pytest.approx(-(shares if objective == "expected" else np.log(shares)).sum())


def test_batches_of_all_points_have_the_gradient_of_the_whole():
    X, y = points(3, n=20)
    problem = _Problem(X, y, "expected", "cpu", torch.float64)
    L = torch.tensor(np.random.RandomState(0).randn(2, 3), requires_grad=True)
    whole = torch.autograd.grad(problem(L), L)[0]
    parts = [torch.autograd.grad(problem(L, anchors), L)[0] for anchors in torch.randperm(20).split(6)]
    torch.testing.assert_close(sum(parts), whole)
    assert sum(problem(L, anchors) for anchors in torch.arange(20).split(7)).item() == pytest.approx(problem(L).item())


@unconverged
def test_batches_come_near_the_whole_and_depend_on_the_seed_alone():
    X, y = load_wine(return_X_y=True)
    X = X / X.std(0)
    fits = [NCA(2, batch_size=32, max_iter=15, random_state=s).fit(X, y) for s in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].components_, fits[1].components_)
    assert not np.array_equal(fits[0].components_, fits[2].components_)
    whole = NCA(2, max_iter=30).fit(X, y)
    assert naive(fits[0].components_, X, y).sum() > 0.97 * -whole.objectives_[-1]
    assert len(fits[0].objectives_) == fits[0].n_iter_


def test_memory_does_not_grow_with_pairs():
    """Scores of a tile are kept, not of all pairs: those would be 72 MB, and there would be several of them."""
    X = np.random.RandomState(0).randn(3000, 3)
    y = np.arange(3000) % 3
    problem = _Problem(X, y, "expected", "cpu", torch.float64)
    L = torch.eye(3, dtype=torch.float64, requires_grad=True)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        problem(L).backward()
        problem.slope(L.detach())
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 24e6


def test_a_start_that_cannot_be_improved():
    X, y = np.random.RandomState(0).randn(20, 2) + 1000 * (np.arange(20)[:, None] % 2), np.arange(20) % 2
    metric = NCA().fit(X, y)
    assert metric.n_iter_ == 1 and metric.objectives_.tolist() == [-20, -20]


def test_few_steps_warn():
    X, y = load_iris(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 steps") as caught:
        assert NCA(max_iter=2).fit(X, y).n_iter_ == 2
    assert caught[0].filename == __file__
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 epochs"):
        assert NCA(max_iter=2, batch_size=50).fit(X, y).n_iter_ == 2


def test_low_rank_and_a_map_to_start_from():
    X, y = load_iris(return_X_y=True)
    start = np.array([[0.0, 0.0, 1.0, 1.0]])
    metric = NCA(init=start).fit(X, y)
    assert metric.components_.shape == (1, 4)
    assert metric.objectives_[0] == pytest.approx(-naive(start, X, y).sum())
    assert np.linalg.matrix_rank(metric.get_mahalanobis_matrix()) == 1
    np.testing.assert_array_equal(start, [[0, 0, 1, 1]])


def test_a_class_of_one_counts_nothing():
    X, y = points(0)
    metric = NCA(max_iter=200, init=np.eye(3)).fit(np.vstack([X, [[50.0, 0, 0]]]), np.append(y, 9))
    alone = NCA(max_iter=200, init=np.eye(3)).fit(X, y)
    assert metric.objectives_[0] == pytest.approx(alone.objectives_[0])
