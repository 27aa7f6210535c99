"""Lp distances, signal-to-noise ratio and hyperbolic distance: against loops, at their edges, and in every loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import losses
from metriczoo.miners import HardMiner
from metriczoo.similarity import NegativeEuclidean, NegativeLp, NegativeSquaredEuclidean, Poincare, SignalToNoise, Similarity
from metriczoo.testing.strategies import Batch, batches, generic

Point = Sequence[float]


def lp(p: float) -> Callable[[Point, Point], float]:
    def score(x: Point, y: Point) -> float:
        differences = [abs(a - b) for a, b in zip(x, y, strict=True)]
        return -max(differences) if p == math.inf else -(math.fsum(d**p for d in differences) ** (1 / p))

    return score


def variance(x: Point) -> float:
    mean = math.fsum(x) / len(x)
    return math.fsum((a - mean) ** 2 for a in x) / len(x)


def signal_to_noise(x: Point, y: Point) -> float:
    return -variance([a - b for a, b in zip(x, y, strict=True)]) / variance(x)


def poincare(c: float) -> Callable[[Point, Point], float]:
    def score(x: Point, y: Point) -> float:
        square = math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        edges = (1 - c * math.fsum(a * a for a in x)) * (1 - c * math.fsum(b * b for b in y))
        return -math.acosh(1 + 2 * c * square / edges) / math.sqrt(c)

    return score


def exponential(c: float, max_norm: float = math.inf) -> Callable[[Point, Point], float]:
    def into_ball(v: Point) -> list[float]:
        norm = math.hypot(*v)
        return [a / norm * math.tanh(math.sqrt(c) * min(norm, max_norm)) / math.sqrt(c) for a in v]

    return lambda x, y: poincare(c)(into_ball(x), into_ball(y))


CASES: dict[str, tuple[Callable[[], Similarity], Callable[[Point, Point], float]]] = {
    **{f"l{p:g}": (lambda p=p: NegativeLp(p), lp(p)) for p in (1, 1.5, 2, 3, 7, math.inf)},  # type: ignore[misc]
    "snr": (SignalToNoise, signal_to_noise),
    "poincare": (Poincare, poincare(1.0)),
    "poincare-flat": (lambda: Poincare(0.2), poincare(0.2)),
    "exponential": (lambda: Poincare(0.5, exponential=True), exponential(0.5)),
    "exponential-cut": (lambda: Poincare(0.1, exponential=True, max_norm=0.6), exponential(0.1, 0.6)),
}
every_case = pytest.mark.parametrize("name", CASES)


def inside(seed: int, n: int, d: int) -> Tensor:
    """Points of the unit ball."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=draw)
    return x / x.norm(dim=1, keepdim=True) * torch.rand(n, 1, dtype=torch.float64, generator=draw) * 0.95


@every_case
def test_scores(name: str) -> None:
    make, score = CASES[name]
    x, y = inside(0, 6, 3), inside(1, 5, 3)
    expected = torch.tensor([[score(a, b) for b in y.tolist()] for a in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(make()(x, y), expected, rtol=1e-10, atol=1e-12)
    stacked = make().score(make().prepare(x).unsqueeze(1), make().prepare(y))  # [6, 1, d] with [5, d]
    torch.testing.assert_close(stacked.squeeze(1), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(make()(x.float(), y.float()), expected.float(), rtol=1e-4, atol=1e-5)


@every_case
def test_derivatives(name: str) -> None:
    similarity = CASES[name][0]()
    x, y = inside(2, 4, 3).requires_grad_(), inside(3, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(similarity, (x, y))
    assert torch.autograd.gradgradcheck(similarity, (x, y))


@every_case
def test_finite_and_never_above_the_score_of_equal_points(name: str) -> None:
    similarity = CASES[name][0]()

    @given(batches(dtypes=(torch.float32, torch.float64)), st.booleans())
    def run(batch: Batch, loss: bool) -> None:
        x = batch.fresh()
        if loss:
            value = losses.CircleLoss(scale=0.01, similarity=similarity)(x, batch.labels) * 1e-15
        else:
            scores = similarity(x, x)
            assert (scores <= 0).all()
            assert scores.isfinite().all()
            assert (scores.diagonal() >= -1e-15).all()
            value = scores.clamp(min=-1e6).sum()
        assert torch.autograd.grad(value, x, materialize_grads=True)[0].isfinite().all()

    run()


@every_case
def test_near_duplicates_are_exact(name: str) -> None:
    similarity = CASES[name][0]()
    x = inside(4, 5, 3)
    y = (x + 1e-4 * inside(5, 5, 3)).float().double()
    x = x.float().double()
    exact = similarity(x, y).diagonal()
    single = similarity(x.float(), y.float()).diagonal().double()
    torch.testing.assert_close(single, exact, rtol=2e-2, atol=0)


@every_case
def test_equal_points_and_zero_vectors_do_not_pull(name: str) -> None:
    similarity = CASES[name][0]()
    x = torch.tensor([[0.3, 0.4], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    scores = similarity(x, x)
    (gradient,) = torch.autograd.grad(scores[0, 1] + scores[2, 3], x)
    assert not gradient.any()


@every_case
def test_in_a_loss_tiled_and_transformed(name: str) -> None:
    similarity, batch = CASES[name][0](), generic(0, 11, 3)
    x = inside(6, 11, 3)
    results = []
    for execution in ("dense", "tiled"):
        y = x.clone().requires_grad_()
        loss = losses.TripletMarginLoss(similarity=similarity, execution=execution, miner=HardMiner(), memory_budget=8 * 12 * 2)
        value = loss(y, batch.labels)
        results.append((value.detach(), torch.autograd.grad(value, y)[0]))
    for tiled, dense in zip(*results, strict=True):
        torch.testing.assert_close(tiled, dense)
    torch.testing.assert_close(torch.func.grad(lambda e: loss(e, batch.labels))(x), results[0][1])
    swap = losses.TripletMarginLoss(similarity=similarity, swap=True)  # scores between references
    assert swap(x, batch.labels).isfinite()
    assert similarity(x.to("meta"), x.to("meta")).shape == (11, 11)


@pytest.mark.parametrize("name", ["l3", "poincare"])
def test_compiled(name: str) -> None:
    similarity = CASES[name][0]()
    x, y = inside(7, 4, 3).requires_grad_(), inside(8, 3, 3)
    torch._dynamo.reset()
    compiled: Any = torch.compile(similarity, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), similarity(x, y))
    torch.testing.assert_close(torch.autograd.grad(compiled(x, y).sum(), x), torch.autograd.grad(similarity(x, y).sum(), x))


def test_l2_is_euclidean() -> None:
    x, y = inside(9, 5, 4), inside(10, 3, 4)
    torch.testing.assert_close(NegativeLp(2)(x, y), NegativeEuclidean()(x, y))
    torch.testing.assert_close(NegativeLp(2).distance(NegativeLp(2)(x, y)), torch.cdist(x, y))


def test_large_powers_of_large_and_small_numbers() -> None:
    x = torch.tensor([[0.0, 0.0], [1e12, 1e12], [1e-6, 0.0]])
    scores = NegativeLp(6)(x, x)
    assert scores[0, 1].item() == pytest.approx(-1e12 * 2 ** (1 / 6), rel=1e-6)
    assert scores[0, 2].item() == pytest.approx(-1e-6, rel=1e-6)


def test_invariance_of_the_signal_to_noise_ratio() -> None:
    x, y = inside(11, 4, 5), inside(12, 3, 5)
    similarity = SignalToNoise()
    torch.testing.assert_close(similarity(3 * x + 1, 3 * y - 2), similarity(x, y))
    assert not torch.allclose(similarity(x, x), similarity(x, x).mT)  # the anchor is the signal
    centred = x - x.mean(1, keepdim=True)
    sphere = centred / centred.norm(dim=1, keepdim=True)
    torch.testing.assert_close(similarity(sphere, sphere), NegativeSquaredEuclidean()(sphere, sphere))


def test_an_anchor_without_signal() -> None:
    x = torch.tensor([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]], requires_grad=True)
    scores = SignalToNoise()(x, x)
    assert scores[0].tolist() == [0, 0]
    assert scores[1].tolist() == pytest.approx([-1, 0], abs=1e-6)  # a constant removes the signal, and nothing else
    assert not torch.autograd.grad(scores[0].sum(), x)[0].any()
    assert SignalToNoise()(torch.ones(2, 1), torch.ones(3, 1)).tolist() == [[0] * 3] * 2  # one component has no variance


def test_memory_of_the_signal_to_noise_ratio() -> None:
    """No array of all differences."""
    held = []

    def pack(t: Tensor) -> Tensor:
        held.append(t.numel())
        return t

    x = generic(0, 64, 256).fresh()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        SignalToNoise()(x, x)
        NegativeLp(3)(x, x)
    assert max(held) <= 64 * 259


def test_the_geometry_of_the_ball() -> None:
    centre, x = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)
    assert Poincare()(centre, x).tolist() == [pytest.approx([-2 * math.atanh(0.5)] * 2)]
    assert Poincare(exponential=True)(centre, x).tolist() == [pytest.approx([-1.0, -1.0])]
    near_flat = Poincare(1e-10)(x[:1], x[1:])
    assert float(near_flat) == pytest.approx(-2 * math.sqrt(0.5))
    far = Poincare(exponential=True)(100 * x[:1], 100 * x[1:])  # cut at distance 40 from the centre
    assert float(far) == pytest.approx(-(2 * 40 + 2 * math.log(math.sin(math.pi / 4))), rel=1e-6)
    edge = Poincare()(3 * x, centre)  # outside: drawn to the edge
    assert edge.flatten().tolist() == pytest.approx([-2 * math.atanh(1 - 1e-5)] * 2)


def test_wrong_settings() -> None:
    for make, name, values in [
        (NegativeLp, "p", (0.5, math.nan, -math.inf)),
        (Poincare, "curvature", (0, -1.0, math.inf)),
        (lambda max_norm: Poincare(max_norm=max_norm), "max_norm", (0.0, math.nan)),
    ]:
        for value in values:
            with pytest.raises(ValueError, match=name):
                make(**{name: value})
    with pytest.raises(TypeError, match="`p`"):
        NegativeLp("1")  # type: ignore[arg-type]
