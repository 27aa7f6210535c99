"""Verification metrics against plain Python over every threshold, and scikit-learn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from metriczoo.metrics import verification_metrics
from metriczoo.similarity import Cosine

RATES = (0.05, 0.1, 0.29, 0.5, 1.0)


def naive(scores: list[float], same: list[bool]) -> dict[str, float]:
    genuine, impostor = ([s for s, flag in zip(scores, same, strict=True) if flag is kind] for kind in (True, False))
    wins = sum((g > i) + 0.5 * (g == i) for g in genuine for i in impostor)
    values = {"roc_auc": wins / len(genuine) / len(impostor)}
    vertices = []
    for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
        accepted = sum(s >= threshold for s in impostor) / len(impostor)
        vertices.append((threshold, accepted, sum(s >= threshold for s in genuine) / len(genuine)))
    for (_, x0, y0), (_, x1, y1) in itertools.pairwise(vertices):
        before, after = (1 - y0) - x0, (1 - y1) - x1
        if before > 0 >= after:
            values["eer"] = x0 + before / (before - after) * (x1 - x0)
    right = [(1 - a) * len(impostor) + t * len(genuine) for _, a, t in vertices]
    values["accuracy"] = max(right) / len(scores)
    for f in RATES:
        undefined = f * len(impostor) < 1 - 1e-9
        chosen = (math.nan, math.nan, math.nan) if undefined else [v for v in vertices if v[1] <= f][-1]
        values |= {f"threshold@far={f:g}": chosen[0], f"attained@far={f:g}": chosen[1], f"tar@far={f:g}": chosen[2]}
    return values


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[float], list[bool]]:
    n = draw(st.integers(2, 25))
    scores = draw(st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n))
    same = draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))
    return scores, [True, False, *same]


@given(pairs())
def test_equals_plain_python(case: tuple[list[float], list[bool]]) -> None:
    result = verification_metrics(*case, far=RATES)
    for name, value in naive(*case).items():
        assert result[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
    scores, same = np.array(case[0]), np.array(case[1])
    assert result["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(same, scores), abs=1e-12)
    assert result["accuracy"] == pytest.approx(((scores >= result["threshold"]) == same).mean(), abs=1e-12)
    assert (result["num_same"], result["num_different"]) == (sum(case[1]), len(case[1]) - sum(case[1]))


@given(
    n=st.integers(4, 12),
    grid=st.integers(0, 2),
    budget=st.sampled_from([1, 200, 1000, 10**6]),
    seed=st.integers(0, 10**6),
    similarity=st.sampled_from(["inner_product", "euclidean"]),
)
def test_all_pairs_of_embeddings_equal_the_pairs_one_by_one(n: int, grid: int, budget: int, seed: int, similarity: str) -> None:
    rng = np.random.default_rng(seed)
    x, labels, ids = rng.integers(-grid, grid + 1, (n, 2)).astype(np.float64), rng.integers(-1, 3, n), rng.integers(-1, 2, n)
    labels[:3], ids[:3] = [0, 0, 1], [11, 12, 13]
    scores, same = [], []
    for i in range(n):
        for j in range(i):
            if labels[i] >= 0 and labels[j] >= 0 and not (ids[i] >= 0 and ids[i] == ids[j]):
                distance = math.dist(x[i], x[j])
                scores.append(float(x[i] @ x[j]) if similarity == "inner_product" else -max(distance, float(np.finfo(float).tiny) ** 0.5))
                same.append(bool(labels[i] == labels[j]))
    result = verification_metrics(x, labels, ids=ids, similarity=similarity, far=RATES, memory_budget=budget)
    want = verification_metrics(torch.tensor(scores, dtype=torch.float64), same, far=RATES)
    assert result == pytest.approx(want, abs=1e-9, nan_ok=True)


def test_equals_scikit_learn_on_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 20
    x = torch.randn(20, 16, generator=generator)[labels] + 1.5 * torch.randn(200, 16, generator=generator)
    rows, columns = torch.triu_indices(200, 200, 1)
    scores, same = Cosine()(x.double(), x.double())[rows, columns].numpy(), (labels[rows] == labels[columns]).numpy()
    result = verification_metrics(x.double(), labels, memory_budget=20_000)
    assert result["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(same, scores), abs=1e-12)
    accepted, found, _ = sklearn.metrics.roc_curve(same, scores, drop_intermediate=False)
    for f in (0.001, 0.01):
        assert result[f"tar@far={f:g}"] == pytest.approx(found[accepted <= f].max(), abs=1e-12)
        assert result[f"attained@far={f:g}"] == pytest.approx(accepted[accepted <= f].max(), abs=1e-12)
    crossing = np.interp(0, (accepted - (1 - found)), accepted)
    assert result["eer"] == pytest.approx(crossing, abs=1e-9)


def test_equal_embeddings_tell_nothing() -> None:
    for n in (7, 100):
        result = verification_metrics(torch.full((n, 37), 0.3), torch.arange(n) % 3, memory_budget=5000)
        assert (result["roc_auc"], result["eer"]) == (0.5, 0.5)
    twins = torch.randn(30, 37, generator=torch.Generator().manual_seed(1)).repeat(4, 1)  # each point twice in either class
    result = verification_metrics(twins, torch.arange(120) // 60, memory_budget=3000)
    scores = Cosine()(twins.double(), twins.double()).round(decimals=6)
    rows, columns = torch.triu_indices(120, 120, 1)
    want = verification_metrics(scores[rows, columns], (rows // 60 == columns // 60))
    assert result["roc_auc"] == pytest.approx(want["roc_auc"], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (3.0, 0.1), (-3.0, -0.1)])
def test_pairs_of_parallel_points_tie(dtype: torch.dtype, factors: tuple[float, float]) -> None:
    """Whatever the blocks: a product rounds their cosines, all 1 or all -1, one way or the other."""
    x = torch.randn(40, 37, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    x[3] = 0
    points = torch.cat([x, factors[0] * x, factors[1] * x[:15]])
    labels = torch.cat([torch.arange(40), torch.arange(40), torch.arange(15) + 100])  # a copy of the same class, and one of another
    results = [verification_metrics(points, labels, far=0.5, memory_budget=budget) for budget in (1, 5_000, 30_000, 10**7)]
    rows, columns = torch.triu_indices(95, 95, 1)
    exact = Cosine()(points.double(), points.double())[rows, columns]
    exact = torch.where(exact.abs() > 1 - 1e-6, exact.round(), exact)
    want = verification_metrics(exact, labels[rows] == labels[columns], far=0.5)
    for result in results:
        assert result["roc_auc"] == pytest.approx(want["roc_auc"], abs=1e-12)
        assert result["threshold@far=0.5"] == pytest.approx(want["threshold@far=0.5"], abs=1e-6)
    if factors[0] > 0:
        assert want["roc_auc"] < 1


def test_points_a_fraction_of_a_degree_apart_do_not_tie() -> None:
    """What is near 1 is not taken for 1."""
    angle = 1e-3 * torch.tensor([0.0, 1.0, 4.0, 10.0, 12.0, 17.0])  # no two differences are equal
    x = torch.zeros(6, 256)
    x[:, 0], x[:, 1] = angle.cos(), angle.sin()
    x = x @ torch.linalg.qr(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)))[0]
    labels = torch.arange(6) // 2
    rows, columns = torch.triu_indices(6, 6, 1)
    want = verification_metrics(-(angle[rows] - angle[columns]).abs(), labels[rows] == labels[columns], far=0.1)
    result = verification_metrics(x, labels, far=0.1)
    for name in ("roc_auc", "accuracy", "tar@far=0.1", "attained@far=0.1"):
        assert result[name] == want[name]


def test_a_rate_that_is_a_whole_number_of_pairs_is_reached() -> None:
    different = list(range(100))  # 0.29 * 100 is 28.999999999999996
    result = verification_metrics([*map(float, different), 70.5, 69.5], [False] * 100 + [True] * 2, far=0.29)
    assert (result["attained@far=0.29"], result["tar@far=0.29"], result["threshold@far=0.29"]) == (0.29, 0.5, 70.5)


def test_a_perfect_and_a_reversed_order() -> None:
    best = verification_metrics([3.0, 2.0, 1.0, 0.0], [True, True, False, False], far=0.5)
    assert (best["roc_auc"], best["eer"], best["accuracy"], best["threshold"], best["tar@far=0.5"]) == (1, 0, 1, 2, 1)
    worst = verification_metrics([3.0, 2.0, 1.0, 0.0], [False, False, True, True], far=0.5)
    assert (worst["roc_auc"], worst["eer"], worst["accuracy"], worst["tar@far=0.5"]) == (0, 1, 0.5, 0)


X, Y = torch.eye(4), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, "pairs of one class and pairs of two", (X, [1] * 4), {}),
        (ValueError, "pairs of one class and pairs of two", (X, range(4)), {}),
        (ValueError, "all are ignored", (X, [-1] * 4), {}),
        (ValueError, "pairs of one class and pairs of two", ([0.5], [True]), {}),
        (ValueError, "pairs of one class and pairs of two", (X, Y), {"ids": [5] * 4}),
        (ValueError, "`far`", (X, Y), {"far": 0}),
        (ValueError, "`far`", (X, Y), {"far": (0.1, 1.1)}),
        (ValueError, "at least one", (X, Y), {"far": ()}),
        (ValueError, "'cosine'", (X, Y), {"similarity": "cosines"}),
        (ValueError, "`inputs`.*finite", ([0.1, math.nan], [True, False]), {}),
        (TypeError, "`inputs`", ([1, 2], [True, False]), {}),
        (ValueError, r"\[n, d\]", (torch.ones(2, 2, 2), [True, False]), {}),
        (ValueError, "`targets`.*2 entries", ([0.1, 0.2], [True]), {}),
        (ValueError, "0 or 1", ([0.1, 0.2], [0, 2]), {}),
        (TypeError, "`targets`", ([0.1, 0.2], [0.0, 1.0]), {}),
        (ValueError, "`ids`", ([0.1, 0.2], [0, 1]), {"ids": [0, 1]}),
        (ValueError, "finite scores", (torch.full((4, 2), 1e30), Y), {"similarity": "inner_product"}),
    ],
)
def test_bad_input(error: type[Exception], message: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        verification_metrics(*arguments, **options)
