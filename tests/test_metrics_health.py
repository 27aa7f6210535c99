"""Health of embeddings against plain Python over pairs, and at the extremes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metriczoo.metrics import embedding_health

GEOMETRY = ("uniformity", "mean_cosine", "spread", "effective_rank", "spectral_decay", "alignment")


def naive(x: np.ndarray, labels: list[int]) -> dict[str, float]:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(len(x)), 2))
    same = [(i, j) for i, j in pairs if labels[i] == labels[j] >= 0]
    singular = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    singular = singular[singular > 1e-7]
    share = singular / singular.sum()
    return {
        "uniformity": math.log(np.mean([math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i, j in pairs])),
        "mean_cosine": float(np.mean([unit[i] @ unit[j] for i, j in pairs])),
        "alignment": float(np.mean([((unit[i] - unit[j]) ** 2).sum() for i, j in same])),
        "spread": float(unit.std(0).mean() * x.shape[1] ** 0.5),
        "effective_rank": math.exp(-(share * np.log(share)).sum()),
        "spectral_decay": -np.polyfit(np.log(np.arange(1, len(singular) + 1)), np.log(singular**2), 1)[0],
        "norm_mean": float(np.linalg.norm(x, axis=1).mean()),
        "norm_std": float(np.linalg.norm(x, axis=1).std()),
    }


@given(n=st.integers(4, 20), d=st.integers(2, 6), seed=st.integers(0, 10**6), budget=st.sampled_from([1, 500, 10**6]))
def test_equals_plain_python(n: int, d: int, seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(n, d)) + rng.normal(size=d), rng.integers(-1, 2, n).tolist()
    labels[:2] = [0, 0]
    result = embedding_health(x, labels, memory_budget=budget)
    for name, value in naive(x, labels).items():
        assert result[name] == pytest.approx(value, rel=1e-7, abs=1e-9), name


@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_turning_and_scaling_change_only_the_norms(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(15, 4)), rng.integers(0, 3, 15)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    plain, turned = embedding_health(x, labels), embedding_health(scale * x @ rotation, labels)
    for name in GEOMETRY:
        if name != "spread":  # the one that looks at components
            assert turned[name] == pytest.approx(plain[name], rel=1e-6, abs=1e-9, nan_ok=True)
    assert turned["norm_mean"] == pytest.approx(scale * plain["norm_mean"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_collapsed_set(dtype: torch.dtype) -> None:
    result = embedding_health(torch.full((50, 7), 0.3, dtype=dtype), torch.arange(50) % 5)
    want = {"uniformity": 0, "mean_cosine": 1, "spread": 0, "effective_rank": 0, "spectral_decay": math.inf, "alignment": 0, "norm_std": 0}
    for name, value in want.items():
        assert result[name] == pytest.approx(value, abs=1e-6), name


def test_a_line_has_one_direction_and_an_isotropic_set_all() -> None:
    line = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]] * 5)
    assert embedding_health(line)["effective_rank"] == pytest.approx(1)
    spread = embedding_health(torch.cat([torch.eye(8), -torch.eye(8)]))
    assert spread["effective_rank"] == pytest.approx(8)
    assert spread["spectral_decay"] == pytest.approx(0, abs=1e-9)
    assert spread["spread"] == pytest.approx(1)


def test_zero_vectors_and_sets_without_pairs() -> None:
    result = embedding_health(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]), [0, 1, 2])
    assert (result["num_zero"], result["norm_min"], result["norm_max"]) == (1, 0, 5)
    assert result["mean_cosine"] == pytest.approx(1 / 3)
    assert result["uniformity"] == pytest.approx(math.log((1 + 2 * math.exp(-2)) / 3), rel=1e-6)
    assert math.isnan(result["alignment"])
    single = embedding_health(torch.ones(1, 3))
    assert math.isnan(single["uniformity"])
    assert math.isnan(single["mean_cosine"])
    assert "alignment" not in single


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="finite"):
        embedding_health(torch.tensor([[math.inf]]))
    with pytest.raises(ValueError, match="3 entries"):
        embedding_health(torch.ones(3, 2), [0])
    with pytest.raises(TypeError, match="floating-point"):
        embedding_health(torch.ones(3, 2).int())
