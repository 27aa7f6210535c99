"""Softmax over a whole bank, negative sampling, hierarchical softmax, and what they draw from. See the zoo, too: `zoo.instances`."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo.losses._huffman import huffman
from metriczoo.losses.sampling import HierarchicalSoftmaxLoss, NegativeSamplingLoss, NonParametricSoftmaxLoss
from metriczoo.miners import HardMiner
from metriczoo.similarity import Cosine, InnerProduct, NegativeSquaredEuclidean
from metriczoo.stores import MemoryBank, Proxies
from metriczoo.stores._alias import AliasSampler


def points(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), x, materialize_grads=True)[0]


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


# ---- the alias table

WEIGHTS = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0, 1e-9]), min_size=1, max_size=12).filter(lambda w: max(w) > 0)


@given(WEIGHTS)
def test_alias_table_has_the_probabilities_that_it_was_made_for(weights: list[float]) -> None:
    sampler = AliasSampler(weights)
    assert ((sampler.threshold >= 0) & (sampler.threshold <= 1)).all()
    for got, weight in zip(sampler.probabilities().tolist(), weights, strict=True):
        assert got == pytest.approx(weight / math.fsum(weights), rel=1e-9, abs=1e-14)
        assert weight > 0 or got == 0


def test_alias_table_of_many_rows_is_exact() -> None:
    weights = 1 / torch.arange(1, 200_001, dtype=torch.float64) ** 1.5
    got = AliasSampler(weights).probabilities()
    torch.testing.assert_close(got, weights / weights.sum(), rtol=1e-9, atol=0)


def test_draws_follow_the_probabilities() -> None:
    weights = torch.tensor([5.0, 0.0, 1.0, 0.5, 3.5])
    sampler = AliasSampler(weights, generator=torch.Generator().manual_seed(0))
    n = 40_000
    counts = torch.bincount(sampler.sample(n), minlength=5).double()
    expected = n * weights.double() / 10
    some = expected > 0
    assert counts[1] == 0
    assert float(((counts - expected)[some] ** 2 / expected[some]).sum()) < 18.5  # chi-square of 3 degrees of freedom, 0.9997
    successive = torch.bincount(sampler.sample(n)[:-1] * 5 + sampler.sample(n)[1:], minlength=25).double()
    assert float((successive / n - torch.outer(expected, expected).flatten() / n**2).abs().max()) < 0.01
    assert sampler.sample(0).shape == (0,)


def test_draws_go_on_where_they_stopped() -> None:
    sampler = AliasSampler([1, 2, 3])
    sampler.sample(7)
    state = sampler.state_dict()
    copy = AliasSampler([1, 1, 1])
    copy.load_state_dict(state)
    assert torch.equal(copy.sample(20), sampler.sample(20))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(*(sampler.sample(20, generator=g) for g in generators))
    assert sampler.double().half().threshold.dtype == torch.float64  # half the digits would be other probabilities


@pytest.mark.parametrize("wrong", [[], [0.0, 0.0], [1.0, -1.0], [math.nan], [math.inf], [[1.0]]])
def test_wrong_weights(wrong: Any) -> None:
    with pytest.raises(ValueError, match="weights"):
        AliasSampler(wrong)


def test_wrong_types_of_weights() -> None:
    for wrong in ("abc", ["a"], [[1.0], [1.0, 2.0]], None):
        with pytest.raises((TypeError, ValueError), match="weights"):
            AliasSampler(wrong)
    with pytest.raises(ValueError, match="num"):
        AliasSampler([1.0]).sample(-1)


# ---- the tree


def heap_cost(weights: list[float]) -> float:
    """The sum of the weights of inner nodes, by the textbook algorithm."""
    heap, cost = list(weights), 0.0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        cost += both
        heapq.heappush(heap, both)
    return cost


@given(st.lists(st.integers(0, 20), min_size=1, max_size=14).filter(lambda w: max(w) > 0))
def test_huffman_trees(weights: list[int]) -> None:
    path, turns = huffman(torch.tensor(weights))
    lengths = (turns != 0).sum(1)
    assert float((lengths * torch.tensor(weights)).sum()) == heap_cost([float(w) for w in weights])
    n = len(weights)
    if n == 1:
        assert path.shape == (1, 0)
        return
    assert sum(2.0 ** -int(k) for k in lengths) == 1  # every inner node has two children
    codes = set()
    for nodes, sides in zip(path.tolist(), turns.tolist(), strict=True):
        way = [(node, side) for node, side in zip(nodes, sides, strict=True) if side]
        assert way[-1][0] == n - 2  # the root
        assert all(side in (-1, 1) for _, side in way)
        codes.add(tuple(way))
    assert len(codes) == n
    assert {node for way in codes for node, _ in way} == set(range(n - 1))


def test_huffman_of_a_steep_distribution() -> None:
    path, turns = huffman(torch.tensor([2.0**k for k in range(60)]))
    assert path.shape == (60, 59)
    assert (turns != 0).sum(1).tolist() == [59, *range(59, 0, -1)]


# ---- hierarchical softmax


def test_hierarchical_softmax_is_a_distribution() -> None:
    counts = [50, 20, 20, 5, 3, 1, 0]
    for execution in ("dense", "tiled"):
        loss = HierarchicalSoftmaxLoss(counts, 4, reduction="none", execution=execution).double()
        for x in points(0, 3, 4):
            log_p = -loss(3 * x.expand(7, 4), range(7))
            assert float(log_p.exp().sum().detach()) == pytest.approx(1)


def test_hierarchical_softmax_of_one_class() -> None:
    assert HierarchicalSoftmaxLoss([3], 3)(points(1, 6, 3), [0] * 6) == 0


def test_hierarchical_softmax_on_other_references() -> None:
    """Positives and negatives are then those of the labels: the sigmoid loss of every pair."""
    x, labels = points(2, 4, 3), [0, 1, 1, 0]
    loss = HierarchicalSoftmaxLoss([1, 1], 3, reduction="sum")
    scores = x @ x.mT
    expected = sum(
        softplus(-float(scores[i, j]) if labels[i] == labels[j] else float(scores[i, j])) for i, j in itertools.permutations(range(4), 2)
    )
    assert loss(x, labels, [None]).item() == pytest.approx(expected)


# ---- negative sampling


def test_negative_sampling_of_the_drawn_classes() -> None:
    counts = [60.0, 30.0, 9.0, 0.0, 1.0]
    x, labels = points(3, 5, 3), [0, 1, -1, 4, 3]
    for execution in ("dense", "tiled"):
        loss = NegativeSamplingLoss(5, 3, noise=counts, num_noise=3, reduction="none", execution=execution).double()
        weight, state = loss.proxies.weight.detach(), {k: v.clone() for k, v in loss.state_dict().items()}
        values = loss(x, labels)
        loss.load_state_dict(state)
        drawn = loss.noise.sample(15).view(5, 3)
        assert not (drawn == 3).any()  # no count, no draw
        for value, row, label, noise in zip(values.tolist(), x, labels, drawn.tolist(), strict=True):
            scores = weight @ row
            expected = softplus(-float(scores[label])) + sum(softplus(float(scores[k])) for k in noise if k != label)
            assert value == pytest.approx(expected if label >= 0 else 0)
        assert not torch.equal(loss(x, labels), values)  # new draws
        loss.load_state_dict(state)
        assert not torch.equal(loss(x, labels), loss(x, labels))
    torch.testing.assert_close(
        loss.noise.probabilities(), (p := torch.tensor(counts, dtype=torch.float64) ** 0.75 * (torch.tensor(counts) > 0)) / p.sum()
    )


def test_gradients_of_negative_sampling_reach_the_drawn_classes_only() -> None:
    loss = NegativeSamplingLoss(50, 3, num_noise=2).double()
    state = {k: v.clone() for k, v in loss.state_dict().items()}
    x = points(4, 2, 3).requires_grad_()
    loss(x, [7, 8]).backward()
    loss.load_state_dict(state)
    drawn = set(loss.noise.sample(4).tolist())
    assert set(loss.proxies.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == drawn | {7, 8}


def test_negative_sampling_on_a_bank() -> None:
    bank = MemoryBank(6, 3, dtype=torch.float64)
    loss = NegativeSamplingLoss(noise=[1, 2, 3, 4, 5, 6], num_noise=4, similarity=Cosine())
    x = points(5, 2, 3).requires_grad_()
    state = {k: v.clone() for k, v in loss.state_dict().items()}
    value = loss(x, [3, 0], bank)
    loss.load_state_dict(state)
    drawn = loss.noise.sample(8).view(2, 4)
    scores = torch.nn.functional.normalize(x.detach(), dim=1) @ bank.embeddings.mT
    expected = [softplus(-float(scores[i, own])) for i, own in enumerate([3, 0])]
    expected += [softplus(float(scores[i, k])) for i, own in enumerate([3, 0]) for k in drawn[i].tolist() if k != own]
    assert value.item() == pytest.approx(sum(expected) / 2)
    loss.load_state_dict(state)
    torch.testing.assert_close(loss(x, [0, 0], bank, ids=[3, 0]), value)
    assert bank.embeddings.grad is None


def test_wrong_negative_sampling() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="`noise` to have 4"):
        NegativeSamplingLoss(4, 3, noise=[1, 2, 3])
    with pytest.raises(ValueError, match="num_noise"):
        NegativeSamplingLoss(4, 3, num_noise=0)
    with pytest.raises(ValueError, match="power"):
        NegativeSamplingLoss(4, 3, power=-1.0)
    with pytest.raises(ValueError, match="noise"):
        NegativeSamplingLoss(4, 3, noise=[0, 0, 0, 0])
    with pytest.raises(ValueError, match="`noise` distribution over 5 rows"):
        NegativeSamplingLoss()(x, [0, 1], Proxies(5, 3))
    with pytest.raises(ValueError, match="one row per class"):
        NegativeSamplingLoss(noise=[1, 1])(x, [0, 1], Proxies(2, 3, per_class=2))
    with pytest.raises(ValueError, match="below 4"):
        NegativeSamplingLoss(4, 3)(x, [0, 4])
    with pytest.raises(ValueError, match="dimension"):
        NegativeSamplingLoss(4, 2)(x, [0, 1])
    with pytest.raises(ValueError, match="below 3"):
        HierarchicalSoftmaxLoss([1, 2, 3], 3)(x, [0, 3])
    with pytest.raises(ValueError, match="inner nodes"):
        HierarchicalSoftmaxLoss([1, 2, 3], proxies=Proxies(3, 3))
    with pytest.raises(ValueError, match="either"):
        HierarchicalSoftmaxLoss([1, 2, 3], 3, proxies=Proxies(2, 3))
    with pytest.raises(TypeError, match="embedding_dim"):
        HierarchicalSoftmaxLoss([1, 2, 3])
    with pytest.raises(ValueError, match="dimension"):
        HierarchicalSoftmaxLoss([1, 2, 3], 4)(x, [0, 1])


# ---- non-parametric softmax


@pytest.mark.parametrize("reduction", ["mean_pairs", "none"])
def test_non_parametric_softmax_is_cross_entropy(reduction: str) -> None:
    bank = MemoryBank(23, 4, dtype=torch.float64)
    x, ids = points(6, 5, 4), torch.tensor([22, 3, -1, 0, 3])
    logits = torch.nn.functional.normalize(x, dim=1) @ bank.embeddings.mT / 0.2
    each = torch.where(ids >= 0, torch.nn.functional.cross_entropy(logits, ids.clamp(min=0), reduction="none"), 0.0)
    expected = each if reduction == "none" else each.sum() / (4 * 23)
    for options in ({}, {"execution": "dense"}, {"memory_budget": 1}, {"memory_budget": 8 * 5 * 7}):
        loss = NonParametricSoftmaxLoss(bank, temperature=0.2, reduction=reduction, **options)
        torch.testing.assert_close(loss(x, ids), expected)
        torch.testing.assert_close(loss(x, [0] * 5, ids=ids), expected)


def test_derivatives_of_the_pooled_softmax() -> None:
    bank, ids = MemoryBank(11, 3, dtype=torch.float64), torch.tensor([4, 0, 10, -1])
    x, tau = points(7, 4, 3).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor, tau: Tensor, **options: Any) -> Tensor:
        return NonParametricSoftmaxLoss(bank, temperature=tau, memory_budget=8 * 4 * 3, **options)(x, ids)

    for got, expected in zip(*(torch.autograd.grad(f(x, tau, execution=e), (x, tau)) for e in ("auto", "dense")), strict=True):
        torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(f, (x, tau))
    assert torch.autograd.gradgradcheck(f, (x, tau))


def test_the_pooled_softmax_with_extreme_scores() -> None:
    bank = MemoryBank(3, 2, momentum=0.0)
    bank.update([0, 1, 2], torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    for similarity, scale in ((Cosine(), 1.0), (InnerProduct(), 1e4)):
        x = torch.tensor([[scale, 0.0], [-scale, 0.0], [0.0, 0.0]], requires_grad=True)
        loss = NonParametricSoftmaxLoss(bank, temperature=0.001, similarity=similarity, reduction="none", memory_budget=1)
        values = loss(x, [0, 0, 1])
        assert values.tolist() == pytest.approx([0, 2000 * scale, math.log(3)])
        assert gradient(values, x).isfinite().all()
    alone = MemoryBank(1, 2)
    x = torch.ones(2, 2, requires_grad=True)
    assert NonParametricSoftmaxLoss(alone)(x, [0, 0]) == 0
    assert not gradient(NonParametricSoftmaxLoss(alone)(x, [0, 0]), x).any()
    assert NonParametricSoftmaxLoss(bank)(x[:0], []) == 0


def test_the_bank_is_never_copied() -> None:
    """Neither scores nor prepared rows of the size of the bank are made."""
    size, d = 20_000, 8
    bank = MemoryBank(size, d, dtype=torch.float64)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() != bank.embeddings.untyped_storage().data_ptr():
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    loss, x = NonParametricSoftmaxLoss(bank, memory_budget=2**16), points(8, 16, d).requires_grad_()
    with Watch():
        loss(x, range(16)).backward()
    assert largest <= size * 8  # row numbers, and chunks of scores


@pytest.mark.parametrize("options", [{"miner": HardMiner()}, {"similarity": NegativeSquaredEuclidean()}, {"reduction": "mean_pairs"}])
def test_non_parametric_softmax_takes_any_setting(options: dict[str, Any]) -> None:
    bank, x = MemoryBank(9, 3, dtype=torch.float64), points(9, 4, 3)
    values = []
    for execution in ("dense", "auto"):
        y = x.clone().requires_grad_()
        value = NonParametricSoftmaxLoss(bank, temperature=0.5, execution=execution, memory_budget=100, **options)(y, [3, 1, 4, 1])
        values.append((value.detach(), gradient(value, y)))
    for got, expected in zip(*values, strict=True):
        torch.testing.assert_close(got, expected)
    batch = NonParametricSoftmaxLoss(temperature=0.5, **options)(x, [0, 0, 1, 1])
    assert batch > 0
