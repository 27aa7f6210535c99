"""Proxies of sampled classes: which are drawn, what a loss on them is, and what an optimiser sees."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import Scores, losses, miners
from metriczoo.references import References
from metriczoo.stores import Proxies
from metriczoo.stores._subsets import others, subset

CLASSES, DIM = 40, 5


def _bits(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda num: torch.randint(2**63 - 1, (num,), generator=generator)


@given(st.integers(0, 50).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size))), st.integers(0, 2**32))
def test_a_subset_has_different_numbers_in_order(drawn: tuple[int, int], seed: int) -> None:
    size, num = drawn
    found = subset(size, num, _bits(seed)).tolist()
    assert found == sorted(set(found)) and len(found) == num
    assert all(0 <= value < size for value in found)


@pytest.mark.parametrize("num", [1, 3, 4])
def test_every_subset_is_as_likely(num: int) -> None:
    """Chi-squared over all subsets of 6: beyond six standard deviations once in 10^9."""
    bits, draws = _bits(0), 6000
    counts = Counter(tuple(subset(6, num, bits).tolist()) for _ in range(draws))
    every = list(itertools.combinations(range(6), num))
    expected = draws / len(every)
    statistic, freedom = sum((counts[s] - expected) ** 2 / expected for s in every), len(every) - 1
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def test_draws_do_not_depend_on_what_is_drawn_from() -> None:
    """No array of 2^50 numbers can be made."""
    assert len(set(subset(2**50, 1000, _bits(1)).tolist())) == 1000


@given(st.sets(st.integers(0, 20)), st.lists(st.integers(0, 15)))
def test_others_are_ranked(taken: set[int], ranks: list[int]) -> None:
    left = [k for k in range(40) if k not in taken]
    found = others(torch.tensor(ranks, dtype=torch.int64), torch.tensor(sorted(taken), dtype=torch.int64))
    assert found.tolist() == [left[rank] for rank in ranks]


def _proxies(**options: Any) -> Proxies:
    torch.manual_seed(3)
    return Proxies(CLASSES, DIM, dtype=torch.float64, **options)


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, DIM, dtype=torch.float64, generator=generator), torch.tensor([3, 3, 39, 0, 17, -1, 5, 21])


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("per_class", [1, 3])
def test_classes_of_the_batch_and_others(correction: bool, per_class: int) -> None:
    proxies, (_, labels) = _proxies(sample=15, correction=correction, per_class=per_class), _batch()
    drawn = set()
    for _ in range(10):
        found = proxies.sampled(labels)
        assert len(found) == 15 * per_class
        classes = found.labels.view(-1, per_class)
        assert bool((classes == classes[:, :1]).all()) and len(classes[:, 0].unique()) == 15
        assert {3, 39, 0, 17, 5, 21} <= set(classes[:, 0].tolist())
        assert torch.equal(found.embeddings.view(-1, per_class, DIM), proxies.weight.view(CLASSES, per_class, DIM)[classes[:, 0]])
        drawn.add(tuple(classes[:, 0].tolist()))
    assert len(drawn) == 10


def test_how_many() -> None:
    labels = torch.arange(10)
    assert len(_proxies(sample=0.5).sampled(labels)) == 20
    assert len(_proxies(sample=4).sampled(labels)) == 10  # those of the batch
    assert len(_proxies(sample=4, correction=True).sampled(labels)) == 11  # and one that stands for all others
    assert len(_proxies(sample=1.0).sampled(labels)) == len(_proxies(sample=100).sampled(labels)) == CLASSES
    assert len(_proxies(sample=4).eval().sampled(labels)) == CLASSES
    assert len(_proxies(sample=4).sampled(torch.tensor([-1, -1]))) == 4


LOSSES = {
    "arc-face": losses.ArcFaceLoss,
    "softmax-bias": lambda **options: losses.SoftmaxLoss(bias=True, **options),
    "sphere-face-2": lambda **options: losses.SphereFace2Loss(bias=0.0, **options),  # whose start depends on the number of classes
    "sub-center": losses.SubCenterArcFaceLoss,
    "soft-triple": lambda **options: losses.SoftTripleLoss(regularization=0.0, **options),
    "curricular": losses.CurricularFaceLoss,
    "large-margin": losses.LargeMarginSoftmaxLoss,
    "triplet": losses.TripletMarginLoss,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("per_class", [1, 2])
@pytest.mark.parametrize("budget", [None, 8 * 50])
def test_it_is_the_loss_on_the_sampled_classes(name: str, per_class: int, budget: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = _batch()
    proxies = _proxies(sample=15, per_class=per_class)
    sampled = proxies.sampled(labels)
    classes = sampled.labels[::per_class]
    number = torch.full((CLASSES,), -1).scatter(0, classes, torch.arange(15))  # of the sampled classes among themselves
    found = []
    for store in (proxies, Proxies(15, DIM, per_class=per_class, dtype=torch.float64)):
        loss = LOSSES[name](proxies=store, memory_budget=budget).double()
        if store is proxies:
            rows = torch.stack([classes * per_class + j for j in range(per_class)], dim=1).flatten()
            monkeypatch.setattr(store, "_bits", lambda num: torch.tensor([], dtype=torch.int64))
            monkeypatch.setattr("metriczoo.stores.proxies.subset", lambda *_: _ranks(classes, labels))
        else:
            store.weight.data = sampled.embeddings.detach().clone()
        if name == "softmax-bias":
            loss.bias.data = torch.linspace(-1, 1, CLASSES * per_class).double()[slice(None) if store is proxies else rows]
        y = x.clone().requires_grad_()
        value = loss(y, labels if store is proxies else torch.where(labels < 0, -1, number[labels]))
        inputs = [y, store.weight] + ([loss.bias] if name == "softmax-bias" else [])
        gradients = [g.to_dense() for g in torch.autograd.grad(value, inputs)]
        if store is proxies:
            outside = torch.ones(CLASSES * per_class, dtype=torch.bool).index_fill(0, rows, False)
            assert not bool(gradients[1][outside].any())
            gradients[1:] = [g[rows] for g in gradients[1:]]
        found.append([value, *gradients])
    torch.testing.assert_close(found[0], found[1])


def _ranks(classes: Tensor, labels: Tensor) -> Tensor:
    """Of the classes that are not of the batch among all such."""
    present = set(labels[labels >= 0].tolist())
    left = [c for c in range(CLASSES) if c not in present]
    return torch.tensor([left.index(c) for c in classes.tolist() if c not in present])


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("budget", [None, 8 * 50])
@pytest.mark.parametrize("name", ["arc-face", "softmax-bias", "sub-center", "soft-triple"])
def test_all_classes_are_all_classes(correction: bool, budget: int | None, name: str) -> None:
    x, labels = _batch()
    found = []
    for options in ({}, {"sample": CLASSES, "correction": correction}):
        proxies = _proxies(per_class=3 if name in ("sub-center", "soft-triple") else 1, **options)
        loss, y = LOSSES[name](proxies=proxies, memory_budget=budget).double(), x.clone().requires_grad_()
        if name == "softmax-bias":
            loss.bias.data = torch.linspace(-1, 1, CLASSES).double()
        value = loss(y, labels)
        found.append([value, *(g.to_dense() for g in torch.autograd.grad(value, [y, proxies.weight]))])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("execution", ["dense", "tiled", "streamed"])
def test_the_correction_is_right_on_average(execution: str) -> None:
    """Sums over negatives, of values and of exponentials, against those over all classes; without it they are too small."""
    x, labels = _batch()
    x, labels = x[labels >= 0], labels[labels >= 0]

    def both(n: Scores, p: Scores) -> Tensor:
        return n.logsumexp(3.0).exp() + n.map(torch.square).sum()

    def totals(proxies: Proxies, repeats: int) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"execution": "auto" if execution == "streamed" else execution}
        options["memory_budget"] = 8 * 50 if execution == "streamed" else None
        fold = losses.from_function(both, reduction="none", proxies=proxies, **options)
        values = torch.stack([fold(x, labels).sum().detach() for _ in range(repeats)])
        return values.mean(), values.std() / math.sqrt(repeats)

    full, _ = totals(_proxies(), 2)
    right, error = totals(_proxies(sample=12, correction=True), 300)
    wrong, _ = totals(_proxies(sample=12), 20)
    assert abs(float(right - full)) < 5 * float(error) < 0.2 * float(full)
    assert float(wrong) < 0.7 * float(full)


def test_the_correction_counts_those_that_are_stood_for() -> None:
    x, labels = _batch()
    counted = []

    def note(n: Scores, p: Scores) -> Tensor:
        counted.append((n.count(), n.mean(), n.max(), n.min()))
        return n.sum() - p.sum()

    for options in ({}, {"sample": 12, "correction": True}):
        losses.from_function(note, proxies=_proxies(**options), reduction="none")(x, labels)
    assert torch.equal(counted[0][0], counted[1][0])
    assert bool((counted[1][2] <= counted[0][2]).all()) and bool((counted[1][3] >= counted[0][3]).all())


def test_optimisers_do_not_touch_the_others() -> None:
    x, labels = _batch()
    proxies = _proxies(sample=12)
    loss, optimiser = losses.ArcFaceLoss(proxies=proxies), torch.optim.SparseAdam([proxies.weight], lr=0.1)
    for _ in range(3):
        before = proxies.weight.detach().clone()
        state = {k: v.clone() for k, v in optimiser.state[proxies.weight].items() if isinstance(v, Tensor)}
        optimiser.zero_grad()
        loss(x, labels).backward()
        gradient = proxies.weight.grad
        assert gradient is not None and gradient.is_sparse
        rows = gradient.coalesce().indices()[0]
        assert len(rows) == 12
        optimiser.step()
        outside = torch.ones(CLASSES, dtype=torch.bool).index_fill(0, rows, False)
        assert torch.equal(proxies.weight[outside], before[outside]) and bool((proxies.weight != before)[~outside].any(1).all())
        for name, value in state.items():
            if value.shape == before.shape:
                assert torch.equal(optimiser.state[proxies.weight][name][outside], value[outside])


def test_sparse_and_dense_gradients_agree() -> None:
    x, labels = _batch()
    weights = []
    for sparse in (True, False):
        proxies = _proxies(sample=12, sparse=sparse)
        loss, optimiser = losses.ArcFaceLoss(proxies=proxies), torch.optim.SGD([proxies.weight], lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            loss(x, labels).backward()
            assert proxies.weight.grad.is_sparse == sparse
            optimiser.step()
        weights.append(proxies.weight.detach())
    torch.testing.assert_close(*weights)


def test_a_resumed_run_draws_the_same() -> None:
    _, labels = _batch()
    first, second = _proxies(sample=12), Proxies(CLASSES, DIM, dtype=torch.float64, sample=12)
    first.sampled(labels)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        assert torch.equal(first.sampled(labels).labels, second.sampled(labels).labels)
    assert set(_proxies().state_dict()) == {"weight"}
    made = [Proxies(CLASSES, DIM, sample=12, generator=torch.Generator().manual_seed(4)).sampled(labels).labels for _ in range(2)]
    assert torch.equal(*made)


def test_transforms_see_all_classes() -> None:
    x, labels = _batch()
    loss = losses.ArcFaceLoss(proxies=_proxies(sample=12))
    found = torch.func.grad(lambda e: loss(e, labels))(x)
    loss.eval()
    y = x.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(loss(y, labels), y)[0])


def test_proxies_for_anchors() -> None:
    """Proxy-Anchor has a loss for each sampled class."""
    x, labels = _batch()
    assert losses.ProxyAnchorLoss(proxies=_proxies(sample=12), reduction="none")(x, labels).shape == (12,)


def test_a_sample_among_other_references() -> None:
    x, labels = _batch()
    proxies = _proxies(sample=12)
    value = losses.UnifiedLoss()(x, labels, [None, proxies])
    value.backward()
    assert proxies.weight.grad is not None and len(proxies.weight.grad.coalesce().indices()[0]) == 12


def test_what_cannot_be() -> None:
    x, labels = _batch()
    for sample in (0, 0.0, 1.5, -1, True, "0.1"):
        with pytest.raises((TypeError, ValueError), match="sample"):
            _proxies(sample=sample)
    corrected = _proxies(sample=12, correction=True)
    with pytest.raises(ValueError, match="correction"):
        losses.UnifiedLoss(miner=miners.HardMiner(), proxies=corrected)(x, labels)
    with pytest.raises(ValueError, match="correction"):
        losses.UnifiedLoss()(x, labels, [None, corrected])
    assert isinstance(corrected.references(), References)
