"""The objective of LMNN against a loop over triples, its search for impostors, and the descents on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriczoo.linear._lmnn_impostors import Classes, Impostors, _operands
from metriczoo.linear._lmnn_minibatch import Batches, Stochastic
from metriczoo.linear._lmnn_objective import Objective, Targets
from metriczoo.linear._lmnn_solvers import Descent, by_map, by_metric, rescaled
from metriczoo.losses import LMNNLoss


def _problem(seed, *, n=40, d=4, num_classes=3, k=3, local=False, mu=0.4, squared=False, singles=False, spread=1.0):
    random = np.random.default_rng(seed)
    codes = np.sort(np.concatenate([np.arange(num_classes).repeat(k + 1), random.integers(0, num_classes, n - num_classes * (k + 1))]))
    if singles:
        codes = np.append(codes, num_classes)
    X = random.normal(size=(len(codes), d)) * spread + codes[:, None] * spread
    X -= X.mean(0)
    classes = Classes(codes)
    objective = Objective(X, classes, Targets(X, classes, k), mu=mu, margin=1.0, squared=squared, local=local)
    maps = random.normal(size=(len(classes) if local else 1, d - 1, d))
    return objective, maps, random


def _naive(objective, maps):
    """The sum over all triples."""
    X, codes, targets, mu = objective.X, objective.classes.codes, objective.targets, objective.mu

    def distance(i, j):
        return float(((maps[codes[j] if objective.local else 0] @ (X[i] - X[j])) ** 2).sum())

    value = 0.0
    for i in range(len(X)):
        for j in targets.index[i][targets.real[i]]:
            value += (1 - mu) * distance(i, j)
            for other in range(len(X)):
                if codes[other] != codes[i]:
                    violation = max(0.0, objective.margin + distance(i, j) - distance(i, other))
                    value += mu * (violation**2 if objective.squared else violation)
    return value


class TestObjective:
    @given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1e-3, 1.0, 1e3]))
    def test_is_the_sum_over_all_triples(self, seed, local, squared, singles, spread):
        objective, maps, _ = _problem(seed, n=24, local=local, squared=squared, singles=singles, spread=spread)
        assert objective(maps)[0] == pytest.approx(_naive(objective, maps), rel=1e-10)

    def test_at_the_identity(self):
        objective, _, _ = _problem(3, n=60, d=5)
        assert objective(np.eye(5)[None])[0] == pytest.approx(_naive(objective, np.eye(5)[None]), rel=1e-12)

    @given(st.integers(0, 10**6), st.booleans(), st.booleans())
    def test_gradient_by_differences(self, seed, local, squared):
        objective, maps, random = _problem(seed, local=local, squared=squared)
        direction = random.normal(size=maps.shape)
        step = 1e-7
        difference = (objective(maps + step * direction)[0] - objective(maps - step * direction)[0]) / (2 * step)
        assert difference == pytest.approx(float(np.vdot(objective(maps)[1], direction)), rel=1e-4, abs=1e-3)

    @given(st.integers(0, 10**6), st.booleans())
    def test_gradient_by_the_metric_is_that_by_the_map(self, seed, local):
        objective, maps, _ = _problem(seed, local=local)
        by_maps, by_metrics = objective(maps)[1], objective(maps, by_metric=True)[1]
        np.testing.assert_allclose(2 * np.einsum("grd,gde->gre", maps, by_metrics), by_maps, atol=1e-9 * np.abs(by_maps).max())

    @given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
    def test_is_the_loss_of_the_zoo_on_a_linear_encoder(self, seed, mu, singles):
        """Its targets are the nearest after the map, so the objective here gets these."""
        objective, maps, _ = _problem(seed, mu=mu, singles=singles)
        classes = objective.classes
        objective.targets = Targets(objective.X @ maps[0].T, classes, 3)
        weight = torch.tensor(maps[0], requires_grad=True)
        loss = LMNNLoss(3, mu=mu, margin=1.0, reduction="sum")(torch.tensor(objective.X) @ weight.T, torch.tensor(classes.codes))
        loss.backward()
        value, gradient = objective(maps)
        assert value == pytest.approx(float(loss.detach()), rel=1e-12)
        np.testing.assert_allclose(gradient[0], weight.grad.numpy(), atol=1e-11 * np.abs(gradient).max())

    def test_is_convex_in_the_metric(self):
        objective, _, random = _problem(5, d=4)
        square = random.normal(size=(2, 4, 4))
        metrics = np.einsum("grd,gre->gde", square, square)
        middle = np.linalg.cholesky(metrics.mean(0)).T
        ends = [objective(np.linalg.cholesky(m).T[None])[0] for m in metrics]
        assert objective(middle[None])[0] <= np.mean(ends)
        value, slope = objective(np.linalg.cholesky(metrics[0]).T[None], by_metric=True)
        assert ends[1] >= value + np.vdot(slope[0], metrics[1] - metrics[0])

    def test_counts_active_pairs(self):
        X = np.array([[0.0], [1.0], [1.5]]) - 2.5 / 3
        classes = Classes(np.array([0, 0, 1]))
        objective = Objective(X, classes, Targets(X, classes, 1), mu=0.5, margin=1.0, squared=False, local=False)
        assert objective(np.eye(1)[None])[0] == pytest.approx(1.875)
        assert objective.num_impostors == 1


class TestTargets:
    @given(st.integers(0, 10**6), st.integers(1, 5))
    def test_nearest_others_of_the_class(self, seed, k):
        random = np.random.default_rng(seed)
        codes = np.sort(random.integers(0, 4, 20))
        X = random.integers(0, 3, (20, 2)).astype(float)  # many duplicates
        targets = Targets(X, Classes(codes, 4), k)
        for i in range(20):
            others = [j for j in range(20) if codes[j] == codes[i] and j != i]
            chosen = targets.index[i][targets.real[i]]
            assert len(set(chosen)) == len(chosen) == min(k, len(others)) and set(chosen) <= set(others)
            expected = sorted(((X[i] - X[j]) ** 2).sum() for j in others)[:k]
            np.testing.assert_allclose(sorted(((X[i] - X[j]) ** 2).sum() for j in chosen), expected, atol=1e-12)


class TestImpostors:
    def _found(self, search, points, radius):
        return {(int(i), int(j)) for pairs in search.chunks(points, radius) for i, j in zip(pairs.anchors(), pairs.others, strict=True)}

    @given(st.integers(0, 10**6), st.sampled_from([None, 0, 1]), st.sampled_from([1e-3, 0.05, 0.5]), st.sampled_from([0.0, 1e3]))
    def test_none_is_missing_while_points_move(self, seed, group, speed, offset):
        random = np.random.default_rng(seed)
        codes = np.sort(random.integers(0, 3, 50))
        points, velocity = random.normal(size=(50, 3)) + offset, random.normal(size=(50, 3)) * speed
        search = Impostors(Classes(codes, 3), group)
        for _ in range(12):
            squared = random.uniform(0.5, 1.5, 50) ** 2
            found = self._found(search, points, squared)
            gaps = ((points[:, None] - points) ** 2).sum(2)
            wanted = (gaps < squared[:, None]) & (codes[:, None] != codes)
            if group is not None:
                wanted &= codes == group
            assert {(int(i), int(j)) for i, j in np.argwhere(wanted)} <= found
            assert all(codes[i] != codes[j] for i, j in found)
            points = 0.95 * points + velocity * random.uniform(0, 1, (50, 1))

    def test_searches_again_only_if_points_have_moved_far(self):
        random = np.random.default_rng(0)
        codes, points = np.arange(4).repeat(50), random.normal(size=(200, 5))
        search, radius = Impostors(Classes(codes)), np.ones(200)
        for step in (0.2, 0.05, 1e-3, 1e-4, 1e-5, 1e-6):
            self._found(search, points, radius)
            points = points + step * random.normal(size=points.shape)
        assert search.searches <= 4
        self._found(search, points + random.normal(size=points.shape), radius)
        assert search.searches <= 5

    def test_a_change_of_scale_needs_no_search(self):
        random = np.random.default_rng(0)
        codes, points = np.arange(4).repeat(50), random.normal(size=(200, 5))
        search = Impostors(Classes(codes))
        search._slack = 0.1
        self._found(search, points, np.ones(200))
        self._found(search, 7 * points, 49 * np.ones(200))
        assert search.searches == 1

    @given(st.integers(0, 10**6), st.sampled_from([1e-18, 1e-3, 1.0, 1e6, 1e17]), st.integers(1, 200))
    def test_distances_of_a_search_are_never_too_large(self, seed, scale, width):
        random = np.random.default_rng(seed)
        points = (random.normal(size=(20, width)) + random.choice([0, 30])) * scale
        gaps = ((points[:, None] - points) ** 2).sum(2)
        left, right, _ = _operands(points, np.full(20, np.median(gaps)))
        assert (left.astype(float) @ right.astype(float) <= gaps + 1e-30).all()
        assert ((left @ right)[gaps > 0] <= gaps[gaps > 0]).all()

    def test_more_pairs_than_are_kept(self, monkeypatch):
        objective, maps, _ = _problem(2, n=60)
        value, gradient = objective(maps)
        monkeypatch.setattr("metriczoo.linear._lmnn_impostors._CHUNK", 7)
        monkeypatch.setattr("metriczoo.linear._lmnn_impostors._CELLS", 50)
        small = Objective(objective.X, objective.classes, objective.targets, mu=0.4, margin=1.0, squared=False, local=False)
        small.impostors[0]._keep = 0
        for _ in range(2):
            again, slope = small(maps)
            assert again == pytest.approx(value, rel=1e-12)
            np.testing.assert_allclose(slope, gradient, atol=1e-10 * np.abs(gradient).max())
        assert small.impostors[0]._stored is None


class TestDescent:
    @pytest.mark.parametrize("descend", [by_map, by_metric])
    @pytest.mark.parametrize("local", [False, True])
    def test_never_rises_and_ends(self, descend, local):
        objective, _, _ = _problem(1, n=60, local=local)
        start = np.repeat(np.eye(4)[None], 3 if local else 1, axis=0)
        descent = Descent(start, [objective(start)[0]], lambda _: None)
        descend(objective, descent, 500, 1e-7)
        values = np.array(descent.objectives)
        assert (np.diff(values) < 0).all() and descent.converged and len(values) == descent.steps + 1
        assert objective(descent.maps)[0] == pytest.approx(values[-1], rel=1e-12) and values[-1] < 0.9 * values[0]

    def test_both_find_the_optimum_of_the_convex_problem(self):
        objective, _, _ = _problem(4, n=60)
        ends = []
        for descend in (by_map, by_metric):
            descent = Descent(np.eye(4)[None], [objective(np.eye(4)[None])[0]], lambda _: None)
            descend(objective, descent, 2000, 1e-9)
            ends.append(descent.objectives[-1])
        assert ends[0] == pytest.approx(ends[1], rel=1e-3)

    def test_stops_at_the_number_of_steps(self):
        objective, _, _ = _problem(1, n=60)
        descent = Descent(np.eye(4)[None], [objective(np.eye(4)[None])[0]], lambda _: None)
        by_map(objective, descent, 3, 0.0)
        assert descent.steps == 3 and not descent.converged

    @pytest.mark.parametrize("factor", [1e-4, 1.0, 1e3])
    @pytest.mark.parametrize("squared", [False, True])
    def test_scale_of_the_start(self, factor, squared):
        objective, _, _ = _problem(7, n=60, squared=squared)
        maps = rescaled(objective, factor * np.eye(4)[None], np.random.RandomState(0))
        best = min(objective(s * np.eye(4)[None])[0] for s in np.geomspace(0.01, 10, 200))
        assert objective(maps)[0] <= 1.01 * best


class TestStochastic:
    @settings(max_examples=8)
    @given(st.integers(0, 10**6), st.booleans(), st.booleans())
    def test_all_anchors_give_the_exact_objective_and_gradient(self, seed, local, squared):
        objective, maps, _ = _problem(seed, local=local, squared=squared, singles=True)
        stochastic = Stochastic(maps, mu=0.4, margin=1.0, squared=squared, learning_rate=1e-9, device=None)
        batches = Batches(objective.X, objective.classes, objective.targets, None)
        half = np.array_split(np.random.default_rng(seed).permutation(len(objective.X)), 2)
        value, gradient = objective(maps)
        parts, slopes = [], []
        for rows in half:
            parts.append(stochastic.step(batches, rows))
            slopes.append(stochastic.maps.grad.numpy() * len(rows))
        assert sum(parts) == pytest.approx(value, rel=1e-4)
        np.testing.assert_allclose(sum(slopes), gradient, atol=1e-3 * np.abs(gradient).max())
