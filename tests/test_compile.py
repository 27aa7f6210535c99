"""`compile=True`: value and gradients are those of eager execution, programs are kept, and a missing compiler is an error."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from metriczoo import _body, losses, miners
from metriczoo.losses import Loss, from_function
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import Mahalanobis, NegativeEuclidean
from metriczoo.stores import MemoryBank

N, DIM, BUDGET = 24, 5, 25 * 4 * 9  # three tiles, the last of which begins before the end of the second


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the generation of code, which takes most of the time."""
    monkeypatch.setattr(_body, "_BACKEND", "aot_eager")


def _batch(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(n) // 3, torch.tensor([0, 0, -1])])[torch.randperm(n, generator=generator)]
    return torch.randn(n, DIM, generator=generator).requires_grad_(), labels


def _outcome(loss: Loss, x: Tensor, labels: Tensor, *references: Any) -> list[Tensor]:
    torch.manual_seed(0)
    value = loss(x, labels, *references)
    weights = torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape)
    leaves = [x, *(p for p in loss.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(value, leaves, weights, allow_unused=True)
    return [value, *(torch.zeros(()) if g is None else g for g in gradients)]


def _expect_equal(make: Callable[..., Loss], *references: Any, **options: Any) -> Loss:
    """Of two batches, so that something is done with what is kept."""
    torch.manual_seed(0)
    eager = make(**{"memory_budget": BUDGET, **options})
    compiled = copy.deepcopy(eager)
    compiled.compiled = True
    for seed in range(2):
        x, labels = _batch(seed=seed)
        for expected, got in zip(_outcome(eager, x, labels, *references), _outcome(compiled, x, labels, *references), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    return compiled


def _two_terms(s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
    push, pull = s_n.map(lambda s: (s - 0.1).relu()), s_p.map(lambda s: 1 - s)
    return Terms(push.sum(), s_n.count(), (push.fill(0.0) > 0).sum(1)), Terms(pull.sum(), s_p.count(), s_p.count())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(losses.CircleLoss, id="circle"),
        pytest.param(losses.TripletMarginLoss, id="triplet"),
    ],
)
def test_by_the_real_compiler(make: Callable[..., Loss]) -> None:
    _expect_equal(make)


MADE: dict[str, Callable[..., Loss]] = {
    "contrastive of two terms": losses.ContrastiveLoss,
    "NT-Xent": losses.NTXentLoss,
    "a function": lambda **options: from_function(_two_terms, **options),
    "learned boundary": lambda **options: losses.MarginLoss(**options),
    "soft triplet of a parameter": lambda **options: losses.TripletMarginLoss(penalty="soft", similarity=Mahalanobis(DIM), **options),
    "facts": lambda **options: losses.AdaFaceLoss(9, DIM, **options),
    "between positives and negatives": lambda **options: losses.TripletMarginLoss(swap=True, **options),
    "distances": lambda **options: losses.CircleLoss(scale=2.0, similarity=NegativeEuclidean(), **options),
}


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", MADE)
def test_equals_eager(name: str) -> None:
    _expect_equal(MADE[name])


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("reduction", ["mean_active", "mean_pairs", "sum", "none"])
def test_equals_eager_by_every_reduction(reduction: str) -> None:
    _expect_equal(losses.ContrastiveLoss, reduction=reduction)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("miner", [miners.HardMiner(), miners.DistanceWeightedMiner()])
def test_behind_a_miner(miner: miners.Miner) -> None:
    _expect_equal(losses.TripletMarginLoss, miner=miner)


@pytest.mark.usefixtures("traced")
def test_other_references() -> None:
    labels = torch.arange(30) // 3
    _expect_equal(losses.SupConLoss, (torch.randn(30, DIM, generator=torch.Generator().manual_seed(2)), labels), memory_budget=None)


@pytest.mark.usefixtures("traced")
def test_noise_of_a_bank() -> None:
    loss = losses.NCELoss(num_noise=7, compile=True, reduction="sum")
    eager = losses.NCELoss(num_noise=7, reduction="sum")
    x, ids = _batch()[0], torch.arange(N)
    for seed in range(2):  # Z is estimated by the first
        banks = (MemoryBank(40, DIM, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
        outcomes = [_outcome(own, x, ids, bank) for own, bank in zip((eager, loss), banks, strict=True)]
        for expected, got in zip(*outcomes, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("traced")
def test_a_relation_by_masks() -> None:
    _expect_equal(losses.CircleLoss, relation=lambda a, b: (a.unsqueeze(1) - b).abs() <= 1)


@pytest.mark.usefixtures("traced")
def test_no_gradient() -> None:
    x, labels = _batch()
    with torch.no_grad():
        got = losses.CircleLoss(compile=True, memory_budget=BUDGET)(x, labels)
        torch.testing.assert_close(got, losses.CircleLoss()(x, labels))
    assert not got.requires_grad


@pytest.mark.usefixtures("traced")
def test_programs_are_kept() -> None:
    loss = losses.CircleLoss(compile=True, memory_budget=BUDGET)
    loss(*_batch()).backward()
    compiled = counters["stats"]["unique_graphs"]
    for seed in range(4):
        loss(*_batch(seed=seed)).backward()
    assert counters["stats"]["unique_graphs"] == compiled == 1


@pytest.mark.usefixtures("traced")
def test_several_terms_and_sizes() -> None:
    loss = losses.ContrastiveLoss(compile=True)
    for n in (18, 24, 30):
        x, labels = _batch(n)
        torch.testing.assert_close(_outcome(loss, x, labels), _outcome(losses.ContrastiveLoss(), x, labels), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("traced")
def test_few_programs_for_batches_of_many_sizes() -> None:
    loss = losses.CircleLoss(compile=True)
    for n in range(20, 44, 2):
        x, labels = _batch(n)
        torch.testing.assert_close(loss(x, labels), losses.CircleLoss()(x, labels))
    assert counters["stats"]["unique_graphs"] <= 3


@pytest.mark.usefixtures("traced")
def test_losses_do_not_share_programs() -> None:
    """A compiler gives up on a function that it has compiled too often."""
    x, labels = _batch()
    for k in range(9):
        loss = losses.CircleLoss(margin=0.02 * k, compile=True)
        torch.testing.assert_close(loss(x.detach(), labels), losses.CircleLoss(margin=0.02 * k)(x.detach(), labels))


@pytest.mark.usefixtures("traced")
def test_hyper_parameters_may_change() -> None:
    loss, (x, labels) = losses.CircleLoss(compile=True), _batch()
    for margin in (0.25, 0.1, 0.4):
        loss.margin = margin
        torch.testing.assert_close(loss(x, labels), losses.CircleLoss(margin=margin)(x, labels))


@pytest.mark.usefixtures("traced")
def test_copies_and_pickles_after_a_call() -> None:
    loss, (x, labels) = losses.CircleLoss(compile=True), _batch()
    value = loss(x, labels)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(x, labels) == value


@pytest.mark.usefixtures("traced")
def test_second_derivatives_and_transforms() -> None:
    loss, eager, (x, labels) = losses.CircleLoss(compile=True, scale=2.0), losses.CircleLoss(scale=2.0), _batch()

    def second(f: Loss) -> Tensor:
        gradient = torch.autograd.grad(f(x, labels), x, create_graph=True)[0]
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    torch.testing.assert_close(second(loss), second(eager))
    got, expected = (torch.func.grad(lambda v, f=f: f(v, labels))(x.detach()) for f in (loss, eager))
    torch.testing.assert_close(got, expected)
    outer = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outer(x, labels), eager(x, labels))


@pytest.mark.usefixtures("traced")
def test_in_a_sum() -> None:
    x, labels = _batch()
    parts = [losses.CircleLoss, losses.MultiSimilarityLoss]
    compiled = losses.SumLoss([make(compile=True) for make in parts])(x, labels)
    assert counters["stats"]["unique_graphs"] == 2
    torch.testing.assert_close(compiled, losses.SumLoss([make() for make in parts])(x, labels))
    mixed = losses.SumLoss([losses.CircleLoss(compile=True), losses.MultiSimilarityLoss(execution="dense")])
    torch.testing.assert_close(mixed(x, labels), compiled)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise OSError("no g++ here")

    monkeypatch.setattr(_body, "_BACKEND", missing)
    loss = losses.CircleLoss(compile=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"`compile=True`.*no g\+\+ here.*C\+\+ compiler"):
            loss(*_batch())


def test_on_a_platform_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any, **__: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    monkeypatch.setattr(torch, "compile", unsupported)
    with pytest.raises(RuntimeError, match=r"CircleLoss.*`compile=True`.*3\.99"):
        losses.CircleLoss(compile=True)(*_batch())


@pytest.mark.usefixtures("traced")
def test_faults_of_a_loss_are_told_as_ever() -> None:
    with pytest.raises(ValueError, match="per_anchor"):
        from_function(lambda s_n, s_p: s_n.value, compile=True)(*_batch())


@pytest.mark.usefixtures("traced")
def test_what_cannot_be_traced_is_an_error() -> None:
    loss = from_function(lambda s_n, s_p: s_n.sum() if s_n.value.sum() > 0 else s_n.max(), compile=True)
    with pytest.raises(RuntimeError, match="`compile=True`"):
        loss(*_batch())


def test_where_no_tile_is_cut() -> None:
    with pytest.raises(ValueError, match=r"`compile` of CircleLoss to be False, since its `execution` is 'dense'"):
        losses.CircleLoss(execution="dense", compile=True)
    with pytest.raises(ValueError, match=r"`compile` of CircleLoss to be False, since it couples anchors"):
        losses.CircleLoss(pooling="batch", compile=True)
    with pytest.raises(TypeError, match=r"`compile` to be True or False"):
        losses.CircleLoss(compile="yes")
