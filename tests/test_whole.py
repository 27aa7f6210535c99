"""Small batches, whose scores are one node of an ordinary graph: as dense execution in value, gradient and second derivative."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metriczoo import References, _whole, engine, losses, miners, similarity
from metriczoo.scores import Scores

N, D = 14, 5
SIMILARITIES: dict[str, Callable[[], similarity.Similarity]] = {
    "cosine": similarity.Cosine,
    "inner": similarity.InnerProduct,
    "euclidean": similarity.NegativeEuclidean,
    "squared": similarity.NegativeSquaredEuclidean,
    "mahalanobis": lambda: similarity.Mahalanobis(D, rank=3),
}
LOSSES: dict[str, Callable[..., losses.Loss]] = {
    "nca": losses.NCALoss,
    "n-pairs": losses.NPairsLoss,
    "nt-xent": losses.NTXentLoss,
    "circle": lambda **k: losses.CircleLoss(scale=8.0, **k),
    "triplet": lambda **k: losses.TripletMarginLoss(margin=0.3, **k),
    "mined": lambda **k: losses.TripletMarginLoss(miner=miners.HardMiner(), **k),
}


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the path that is tested here was taken."""
    count = [0]

    def counted(*args: object) -> object:
        count[0] += 1
        return _whole.scores_of_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "scores_of_all", counted)
    return count


def _batch(*, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, dtype=torch.float64, generator=generator), torch.randint(-1, 4, (N,), generator=generator)


@pytest.mark.parametrize(
    ("kind", "reduction"),
    [*((kind, "mean") for kind in SIMILARITIES), *(("euclidean", r) for r in ("mean_active", "mean_pairs", "sum", "none"))],
)
@pytest.mark.parametrize("name", LOSSES)
def test_is_as_dense(name: str, kind: str, reduction: str, calls: list[int]) -> None:
    x, y = _batch()
    others, names = _batch(seed=1)
    for references in (None, others, others.clone().requires_grad_()):
        outcomes = []
        for execution in ("auto", "dense"):
            torch.manual_seed(0)
            loss = LOSSES[name](similarity=SIMILARITIES[kind](), reduction=reduction, execution=execution).double()
            leaf = x.clone().requires_grad_()
            given = () if references is None else ((references, names),)
            inputs = [leaf, *(r for r, _ in given if r.requires_grad), *loss.parameters()]
            value = loss(leaf, y, *given)
            weights = torch.arange(1.0, 1 + value.numel(), dtype=torch.float64).view(value.shape)
            first = torch.autograd.grad(value, inputs, weights, create_graph=True)
            plain = torch.autograd.grad(loss(leaf, y, *given), inputs, weights)
            square = sum((g**2).sum() for g in first) + 0 * leaf.sum()  # of constant gradients, too
            second = torch.autograd.grad(square, inputs, allow_unused=True, materialize_grads=True)
            outcomes.append((value, *first, *plain, *second))
        for found, expected in zip(*outcomes, strict=True):
            torch.testing.assert_close(found, expected)
    assert calls[0] == 6


def test_references_may_depend_on_anchors() -> None:
    y = torch.arange(N) % 3
    outcomes = []
    for execution in ("auto", "dense"):
        x = _batch()[0].requires_grad_()
        value = losses.NPairsLoss(execution=execution)(x, y, (x * 2, y))
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        outcomes.append((first, *torch.autograd.grad(first.square().sum(), x)))
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_that_others_share_are_not_written_to() -> None:
    x, y = _batch()[0].requires_grad_(), torch.arange(N) % 4
    offset = torch.zeros(N, N + 1, dtype=torch.float64, requires_grad=True)
    loss = losses.from_function(lambda s_n, s_p: (s_n.value + offset).square().sum(1) + s_p.sum(), parameters=[offset])
    found = torch.autograd.grad(loss(x, y), (offset, x))
    loss.execution = "dense"
    for one, other in zip(found, torch.autograd.grad(loss(x, y), (offset, x)), strict=True):
        torch.testing.assert_close(one, other)


def test_cells_outside_the_set_have_no_gradient() -> None:
    class OfAllCells(losses.InstanceLoss):
        def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
            return (1 - s_n.value.clamp(max=0.6)).log().sum(1) + s_p.value.square().sum(1)

    x, y = _batch()[0].requires_grad_(), torch.arange(N)
    by = similarity.InnerProduct()  # of cosines, points with themselves have no gradient either
    found, expected = (torch.autograd.grad(OfAllCells(execution=e, similarity=by)(x, y), x)[0] for e in ("auto", "dense"))
    torch.testing.assert_close(found, expected)


class _Of(losses.NTXentLoss):
    """Of negatives ("n"), positives ("p") or both."""

    def __init__(self, sets: str, **options: Any) -> None:
        super().__init__(symmetric=True, similarity=similarity.InnerProduct(), **options)
        self.sets = sets

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:  # type: ignore[override]
        far, near = s_n.map(torch.tanh).sum(), s_p.map(torch.tanh).sum()
        return far * near if self.sets == "np" else near.exp() if self.sets == "p" else far


@pytest.mark.parametrize("ids", [None, [8, 2, 0, 9, 3, 5, 7]])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 2, 2, 1, 4]])
@pytest.mark.parametrize("sets", ["np", "n", "p"])
def test_both_ways_of_two_sides(sets: str, labels: list[int], ids: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    count = []
    monkeypatch.setattr(engine, "scores_both_ways", lambda *call: count.append(1) or _whole.scores_both_ways(*call))
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(n, D, dtype=torch.float64, generator=generator).requires_grad_() for n in (7, 9 if ids else 7))
    there = References(y, torch.tensor([3, 1, 4, 0, 2, 6, 5, 1, 8])[: len(y)], None if ids is None else torch.arange(9))
    for reduction in ("mean", "sum", "none"):
        outcomes = []
        for execution in ("auto", "dense"):
            loss = _Of(sets, reduction=reduction, execution=execution)
            value = loss(x, labels, there, ids=ids)
            weights = torch.arange(1.0, 1 + value.numel(), dtype=torch.float64).view(value.shape)
            first = torch.autograd.grad(value, (x, y), weights, create_graph=True)
            plain = torch.autograd.grad(loss(x, labels, there, ids=ids), (x, y), weights)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, y))
            outcomes.append((value, *first, *plain, *second))
        for found, expected in zip(*outcomes, strict=True):
            torch.testing.assert_close(found, expected)
    assert len(count) == 6


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_references_may_be_written_before_backward(reduction: str) -> None:
    x, y = _batch()
    references, loss = _batch(seed=1)[0], losses.NPairsLoss(reduction=reduction)
    gradients = []
    for factor in (1, 2):
        leaf, given = x.clone().requires_grad_(), references.clone()
        value = loss(leaf, y, (given, y)).sum()
        given.mul_(factor)
        gradients.append(torch.autograd.grad(value, leaf)[0])
    assert torch.equal(*gradients)


def test_a_graph_goes_with_its_value() -> None:
    x, y = _batch()[0].requires_grad_(), torch.arange(N) % 4
    losses.NTXentLoss()(x, y)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o) is Tensor for o in gc.get_objects())
        value = losses.NTXentLoss()(x, y)
        torch.autograd.grad(value, x)
        del value
        assert sum(type(o) is Tensor for o in gc.get_objects()) == before
    finally:
        gc.enable()


def test_settings_and_sizes_that_ask_for_tiles_get_them(calls: list[int]) -> None:
    x, y = _batch()
    losses.NTXentLoss(execution="tiled")(x, y)
    losses.NTXentLoss(memory_budget=64)(x, y)
    wide = torch.randn(400, 4)
    losses.NTXentLoss()(wide, torch.arange(400) // 4)
    assert calls[0] == 0


_PAIRED = {
    "in order": ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    "in one order": ([4, 1, 9, 3, 7, 0], [4, 1, 9, 3, 7, 0]),
    "in two orders": ([4, 1, 9, 3, 7, 0], [0, 1, 3, 4, 7, 9]),
    "two positives each": ([0, 1, 1, 2, 2, 0], [0, 0, 2, 2, 1, 1]),
    "some without": ([0, 1, 2, 7, 4, -1], [0, 1, 2, 3, 4, 5]),
    "one class": ([3, 3, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3]),
}


@pytest.mark.parametrize("labels", _PAIRED)
@pytest.mark.parametrize("name", LOSSES)
def test_anchors_with_as_many_positives_each(name: str, labels: str, calls: list[int]) -> None:
    x, r, weights = (torch.randn(6, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    for reduction in ("mean", "mean_active", "mean_pairs", "sum", "none"):
        outcomes = []
        for execution in ("auto", "dense", "tiled"):
            a, b = x.clone().requires_grad_(), r.clone().requires_grad_()
            loss = LOSSES[name](reduction=reduction, execution=execution)
            value = loss(a, _PAIRED[labels][0], (b, _PAIRED[labels][1])).sum()
            first = torch.autograd.grad(value, (a, b), create_graph=True)
            second = torch.autograd.grad(
                torch.stack([(g * weights).sum() for g in first]).sum(), (a, b), allow_unused=True, materialize_grads=True
            )
            outcomes.append(
                (value, *first, *second, *torch.autograd.grad(loss(a, _PAIRED[labels][0], (b, _PAIRED[labels][1])).sum(), (a, b)))
            )
        assert calls[0] > 0
        for other in outcomes[1:]:
            torch.testing.assert_close(outcomes[0], other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [191, 192, 203, 320])
def test_a_mirrored_quarter_is_what_a_product_gives(n: int) -> None:
    x, y = torch.randn(n, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(n)), torch.arange(n) // 3
    found = []
    for execution in ("auto", "dense"):
        a = x.clone().requires_grad_()
        value = losses.NCALoss(execution=execution)(a, y)
        found.append((value, *torch.autograd.grad(value, (a,))))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def test_tables_of_one_positive_each_are_shared_by_batches_under_inference_mode() -> None:
    x, y = torch.randn(11, D, dtype=torch.float64), torch.arange(11)
    with torch.inference_mode():
        value = losses.NTXentLoss()(x, y, (x, y))
    a = x.clone().requires_grad_()
    again = losses.NTXentLoss()(a, y, (x, y))
    again.backward()
    assert a.grad is not None
    assert float(again.detach()) == float(value)
