"""Folds written by hand: equal to the operations they stand for, in value and in two derivatives, for every way of storing sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metriczoo.columns import LabelColumns, Points
from metriczoo.functional._share import log_share
from metriczoo.functional._violations import hinge_terms, mean_violation
from metriczoo.scores import Scores
from metriczoo.similarity import basic

OUTSIDE = torch.tensor([[0, 0], [1, 5], [2, 2], [3, 3]])
STORES = ("excluded", "mask", "all", "empty")


def _mask(store: str) -> Tensor:
    mask = torch.full((4, 6), store != "empty")
    return mask if store == "all" else mask.scatter(1, OUTSIDE, False)


def _scores(value: Tensor, store: str) -> Scores:
    if store == "excluded":
        return Scores(value, excluded=OUTSIDE, num_excluded=torch.tensor([1, 2, 1, 1]))
    return Scores(value) if store == "all" else Scores(value, _mask(store))


def _values(seed: int, scale: float = 2.0) -> Tensor:
    return (scale * torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).requires_grad_()


def _check(found: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values, gradients, those of a graph that was kept, and second derivatives."""
    results = found(*inputs), expected(*inputs)
    torch.testing.assert_close(*results)
    weights = torch.linspace(-1, 2, len(results[0]), dtype=torch.float64)
    gradients = [torch.autograd.grad(r, inputs, weights, retain_graph=True, materialize_grads=True) for r in results]
    torch.testing.assert_close(*gradients)
    assert all(map(torch.equal, torch.autograd.grad(results[0], inputs, weights, materialize_grads=True), gradients[0]))
    twice = []
    for function in (found, expected):
        first = torch.autograd.grad(function(*inputs), inputs, weights, create_graph=True, materialize_grads=True)
        directions = [torch.cos(torch.arange(g.numel(), dtype=torch.float64)).reshape(g.shape) for g in first]
        total = sum((g * u).sum() for g, u in zip(first, directions, strict=True))
        twice.append(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True) if total.requires_grad else None)
    if twice[0] is None or twice[1] is None:
        assert all(t is None or not any(bool(g.any()) for g in t) for t in twice)
    else:
        torch.testing.assert_close(*twice)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("power", [1, 2])
def test_hinges(power: int, store: str) -> None:
    value, mask = _values(0), _mask(store)
    terms = hinge_terms(_scores(value, store), power=power, weight=0.5)
    assert terms.count.tolist() == mask.sum(1).tolist()
    assert terms.active.tolist() == (mask & (value > 0)).sum(1).tolist()
    _check(
        lambda v: hinge_terms(_scores(v, store), power=power, weight=0.5).total,
        lambda v: 0.5 * torch.where(mask, v.relu() ** power, 0.0).sum(1),
        value,
    )


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("scale", [0.0, 1.5, 400.0])
@pytest.mark.parametrize("detach_weights", [True, False])
def test_weighted_mean_of_violations(scale: float, store: str, detach_weights: bool) -> None:
    value, mask = _values(1), _mask(store)

    def expected(v: Tensor) -> Tensor:
        kept = mask & (v > 0)
        logits = torch.where(kept, scale * (v.detach() if detach_weights else v), -1e9)
        weights = torch.where(kept, logits.softmax(1), 0.0)
        return (weights * v).sum(1)

    _check(lambda v: mean_violation(_scores(v, store), scale, detach_weights=detach_weights), expected, value)


@pytest.mark.parametrize("stores", [("excluded", "mask"), ("all", "all"), ("empty", "mask"), ("excluded", "empty"), ("empty", "empty")])
@pytest.mark.parametrize("scale", [0.7, 30.0])
@pytest.mark.parametrize("apart", [False, True])
def test_share_of_the_positives(apart: bool, scale: float, stores: tuple[str, str]) -> None:
    far, near = _values(2), _values(3)
    some_n, some_p = (_mask(store) for store in stores)

    def expected(v_n: Tensor, v_p: Tensor) -> Tensor:
        x = scale * torch.cat([v_n, v_p], dim=1).masked_fill(~torch.cat([some_n, some_p], dim=1), -1e9)
        each = x.logsumexp(1, keepdim=True) - x[:, 6:]
        if apart:
            return torch.where(some_p, each, 0.0).sum(1) / some_p.sum(1).clamp(min=1)
        both = some_n.any(1) & some_p.any(1)
        return torch.where(both, x.logsumexp(1) - x[:, 6:].logsumexp(1), 0.0)

    _check(lambda v_n, v_p: log_share(_scores(v_n, stores[0]), _scores(v_p, stores[1]), scale, apart=apart), expected, far, near)


def test_share_of_positives_that_win_or_lose_by_far() -> None:
    far, near = torch.tensor([[-900.0, -920.0], [900.0, 1.0]]), torch.tensor([[900.0], [-900.0]])
    for leaf in (far, near):
        leaf.requires_grad_()
    loss = log_share(Scores(far), Scores(near), 10.0)
    assert loss.tolist() == [0.0, 18000.0]
    g_n, g_p = torch.autograd.grad(loss.sum(), (far, near))
    assert g_n.tolist() == [[0.0, 0.0], [10.0, 0.0]]
    assert g_p.tolist() == [[0.0], [-10.0]]


def test_unit_vectors() -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    x = torch.stack([x[0], 1e200 * x[1], 1e-11 * x[2], 1e-13 * x[3], 0 * x[4]])
    _check(lambda v: basic.unit(v).flatten(), lambda v: basic._unit(v).flatten(), x.requires_grad_())
    assert basic.unit(x)[3:].count_nonzero() == 0
    single = x.detach()[:1].float().requires_grad_()
    huge = torch.autograd.grad(basic.unit(1e38 * single / single.detach().abs().max()).sum(), single)[0]
    torch.testing.assert_close(huge, torch.autograd.grad(basic.unit(single).sum(), single)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [torch.arange(40) % 10, torch.tensor([0] * 25 + list(range(1, 16))), torch.arange(40)])
@pytest.mark.parametrize("height", [1, 7, 40])
def test_tables_of_a_block_do_not_depend_on_those_before(labels: Tensor, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made for many blocks at once or for each, they name the same references."""
    monkeypatch.setattr("metriczoo.columns._AHEAD", 16)
    labels = labels[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    points = Points(labels, torch.arange(40), fresh=True)
    columns = LabelColumns(points, points)
    for start in range(0, 40, height):
        rows = slice(start, min(40, start + height))
        positive, there, excluded, num_excluded, num_positives = columns.tables(rows)
        assert num_positives.equal(there.sum(1))
        for i, cells, own, out in zip(range(start, rows.stop), positive, there, excluded, strict=True):
            same = {j for j in range(40) if labels[j] == labels[i]}
            assert set(cells[own].tolist()) == same - {i}
            assert set(out.tolist()) - {40} == same
            assert int(num_excluded[i - start]) == len(same) + 1
