"""Sums of losses on one block of scores, and losses behind an encoder that takes a batch in chunks."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metriczoo import losses
from metriczoo.losses.combine import GradCache, SumLoss
from metriczoo.losses.ranking import SmoothAPLoss
from metriczoo.losses.redundancy import VICRegLoss
from metriczoo.miners import DistanceWeightedMiner, HardMiner, SemiHardMiner
from metriczoo.similarity import Cosine, Mahalanobis, NegativeEuclidean
from metriczoo.stores import EmbeddingQueue, MemoryBank, Proxies
from metriczoo.testing.strategies import generic

D = 4
LABELS = torch.tensor([0, 1, 1, 2, 0, 0, -1, 3, 1, 0, 3, 2, 1])


class CountedCosine(Cosine):
    """Counts how many scores were computed."""

    is_product = False  # so that the engine asks for every score

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        self.counted += a.shape[-2] * r.shape[-2]
        return super().score(a, r)


def gradient(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), x, materialize_grads=True)[0]


def parts(reduction: str | None = None, **options: Any) -> list[losses.Loss]:
    """Losses that differ in everything but the similarity."""

    def by(other: str) -> str:
        return other if reduction is None else reduction

    return [
        losses.TripletMarginLoss(reduction=by("mean_active"), miner=SemiHardMiner(0.5), **options),
        losses.ContrastiveLoss(
            similarity=options.get("similarity", Cosine()), reduction=by("mean"), **{k: v for k, v in options.items() if k != "similarity"}
        ),
        losses.CircleLoss(scale=8.0, reduction=by("sum"), miner=HardMiner(), **options),
        losses.UnifiedLoss(scale=8.0, reduction=by("mean_pairs"), **options),
        losses.ContrastiveLoss(
            similarity=options.get("similarity", Cosine()),
            reduction=by("mean_pairs"),
            **{k: v for k, v in options.items() if k != "similarity"},
        ),
        SmoothAPLoss(0.2, reduction=by("mean"), **options),
    ]


WEIGHTS = [1.0, 0.5, 0.1, 2.0, 0.7, 3.0]


def one_by_one(sum_loss: SumLoss, *args: Any, **kwargs: Any) -> Tensor:
    return sum(w * loss(*args, **kwargs) for w, loss in zip(sum_loss.weights, sum_loss.parts(), strict=True))  # type: ignore[return-value]


REFERENCES: dict[str, Callable[[], Any]] = {
    "batch": lambda: None,
    "pair": lambda: (generic(8, 7, D).embeddings.detach(), torch.arange(7) % 4),
    "bank": lambda: MemoryBank(9, D, dtype=torch.float64, labels=torch.arange(9) % 4),
    "list": lambda: [None, (generic(8, 7, D).embeddings.detach(), torch.arange(7) % 4)],
}


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_value_and_gradient_are_those_of_the_losses_one_by_one(execution: str, references: str) -> None:
    loss = SumLoss(parts(execution=execution, memory_budget=8 * 14 * 3), WEIGHTS)
    assert len(loss._blocks[True]) == 1
    batch, compared = generic(0, 13, D), REFERENCES[references]()
    x = batch.fresh()
    got, expected = loss(x, LABELS, compared), one_by_one(loss, x, LABELS, compared)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(got, x), gradient(expected, x), rtol=1e-10, atol=1e-12)


def test_no_reduction() -> None:
    loss, x = SumLoss(parts("none"), WEIGHTS), generic(1, 13, D).fresh()
    got, expected = loss(x, LABELS), one_by_one(loss, x, LABELS)
    assert got.shape == (13,)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient(got * torch.arange(13), x), gradient(expected * torch.arange(13), x))
    with pytest.raises(ValueError, match="none of them"):
        SumLoss([losses.CircleLoss(), losses.CircleLoss(reduction="none")])


def test_second_derivatives() -> None:
    x = generic(2, 6, 3)
    loss = SumLoss([losses.CircleLoss(scale=2.0, detach_weights=False), losses.UnifiedLoss(scale=2.0, reduction="sum")], [1.0, 0.3])
    assert torch.autograd.gradcheck(lambda e: loss(e, x.labels), x.fresh())
    assert torch.autograd.gradgradcheck(lambda e: loss(e, x.labels), x.fresh())


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_one_similarity_matrix_is_computed(execution: str) -> None:
    shared = CountedCosine()
    loss = SumLoss(parts(similarity=shared, execution=execution, memory_budget=8 * 14 * 3), WEIGHTS)
    shared.counted = 0
    loss(generic(0, 13, D).fresh(), LABELS).backward()
    assert shared.counted == 13 * 12  # the ignored point is an anchor that does not count, and no reference


def test_what_can_share_shares() -> None:
    """By similarity, relation and proxies; what finds its references itself stands alone."""

    def blocks(*given: losses.Loss, own: bool = True) -> list[list[int]]:
        return [members for _, members in SumLoss(given)._blocks[own]]

    mahalanobis, proxies = Mahalanobis(D), Proxies(4, D)
    cosine, distance = losses.CircleLoss(), losses.TripletMarginLoss(similarity=NegativeEuclidean())
    assert blocks(cosine, distance, losses.UnifiedLoss(), losses.ContrastiveLoss()) == [[0, 2], [1, 3]]
    learned = [
        losses.UnifiedLoss(similarity=mahalanobis),
        losses.UnifiedLoss(similarity=Mahalanobis(D)),
        losses.CircleLoss(similarity=mahalanobis),
    ]
    assert blocks(*learned) == [[0, 2], [1]]
    softmax = [losses.AMSoftmaxLoss(proxies=proxies), losses.AMSoftmaxLoss(4, D), losses.CircleLoss(proxies=proxies)]
    assert blocks(*softmax, cosine) == [[0, 2], [1], [3]]
    assert blocks(*softmax, cosine, own=False) == [[0, 1, 2, 3]]
    assert blocks(losses.NCELoss(), cosine, losses.UnifiedLoss()) == [[0], [1, 2]]

    def relation(x: Tensor, y: Tensor) -> Tensor:
        return x.unsqueeze(1) % 2 == y % 2

    assert blocks(losses.UnifiedLoss(relation=relation), cosine, losses.CircleLoss(relation=relation)) == [[0, 2], [1]]


def test_losses_with_references_of_their_own() -> None:
    """Softmax over proxies and a triplet loss in the batch: the two-head network with one head."""
    proxies = Proxies(4, D, dtype=torch.float64)
    bank = MemoryBank(20, D, dtype=torch.float64)
    nce = losses.NCELoss(bank, num_noise=5)
    loss = SumLoss(
        [losses.AMSoftmaxLoss(proxies=proxies), losses.TripletMarginLoss(), losses.CircleLoss(proxies=proxies), nce], [1.0, 0.5, 0.2, 0.1]
    )
    x, labels = generic(3, 8, D).fresh(), torch.arange(8) % 4
    loss(x, labels)  # Z is estimated once
    state = bank.state_dict()["draws"].clone()
    got = loss(x, labels)
    got_gradients = torch.autograd.grad(got, [x, proxies.weight])
    bank.draws.copy_(state)
    expected = one_by_one(loss, x, labels)
    torch.testing.assert_close(got, expected)
    for a, b in zip(got_gradients, torch.autograd.grad(expected, [x, proxies.weight]), strict=True):
        torch.testing.assert_close(a, b)


def test_heads() -> None:
    """One tensor of embeddings per loss."""
    softmax, triplet = losses.AMSoftmaxLoss(4, D).double(), losses.TripletMarginLoss()
    features, embeddings, labels = generic(4, 8, D).fresh(), generic(5, 8, 2).fresh(), torch.arange(8) % 4
    loss = SumLoss([softmax, triplet], [1.0, 0.3])
    torch.testing.assert_close(loss([features, embeddings], labels), softmax(features, labels) + 0.3 * triplet(embeddings, labels))
    with pytest.raises(ValueError, match="one per loss"):
        loss([features], labels)


def test_random_miners_draw_what_they_draw_alone() -> None:
    def make(seed: int) -> DistanceWeightedMiner:
        return DistanceWeightedMiner(generator=torch.Generator().manual_seed(seed))

    loss = SumLoss(
        [losses.TripletMarginLoss(miner=make(1)), losses.CircleLoss(miner=HardMiner()), losses.UnifiedLoss(scale=8.0, miner=make(2))]
    )
    alone = SumLoss(
        [losses.TripletMarginLoss(miner=make(1)), losses.CircleLoss(miner=HardMiner()), losses.UnifiedLoss(scale=8.0, miner=make(2))]
    )
    x = generic(6, 13, D).fresh()
    for _ in range(3):  # streams go on alike
        torch.testing.assert_close(loss(x, LABELS), one_by_one(alone, x, LABELS))


def test_learnable_parameters() -> None:
    """A parameter that two losses share receives its gradient once from each."""
    margin = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    loss = SumLoss([losses.TripletMarginLoss(margin), losses.UnifiedLoss(margin, 8.0)], [1.0, 0.5])
    assert {id(p) for p in loss.parameters()} == {id(margin)}
    x = generic(7, 9, D).embeddings.detach()
    got = gradient(loss(x, torch.arange(9) % 3), margin)
    torch.testing.assert_close(got, gradient(one_by_one(loss, x, torch.arange(9) % 3), margin))


def test_sums_of_sums_and_changing_weights() -> None:
    inner = SumLoss([losses.CircleLoss(scale=4.0), losses.TripletMarginLoss()], [0.5, 2.0])
    outer = SumLoss([inner, losses.UnifiedLoss(scale=4.0)], [3.0, 1.0])
    assert outer.weights == [1.5, 6.0, 1.0]
    x = generic(8, 9, D).embeddings.detach()
    torch.testing.assert_close(outer(x, torch.arange(9) % 3), one_by_one(outer, x, torch.arange(9) % 3))
    outer.weights[1] = 0.0
    torch.testing.assert_close(outer(x, torch.arange(9) % 3), one_by_one(outer, x, torch.arange(9) % 3))
    alone = SumLoss(losses.CircleLoss(scale=4.0), [0.5])  # type: ignore[arg-type]
    torch.testing.assert_close(alone(x, torch.arange(9) % 3), 0.5 * losses.CircleLoss(scale=4.0)(x, torch.arange(9) % 3))


def test_copies_and_state() -> None:
    loss = SumLoss([losses.AMSoftmaxLoss(4, D), losses.CircleLoss(scale=4.0), losses.TripletMarginLoss()], [1.0, 0.5, 0.5])
    x, labels = generic(9, 8, D, dtype=torch.float32).embeddings.detach(), torch.arange(8) % 4
    assert set(loss.state_dict()) == {"losses.0.proxies.weight"}
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, labels), loss(x, labels))
        other.parts()[0].proxies.weight.data.neg_()
        assert not torch.equal(other(x, labels), loss(x, labels))
    assert loss.double()(x.double(), labels).dtype == torch.float64


def test_nothing_to_learn() -> None:
    loss = SumLoss(parts(), WEIGHTS)
    for points, labels in [(torch.empty(0, 2), []), (torch.ones(1, 2), [0]), (torch.ones(3, 2), [-1, -1, -1])]:
        x = points.clone().requires_grad_()
        value = loss(x, labels)
        assert value == 0
        assert not gradient(value, x).any()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_compiled_and_transformed() -> None:
    loss = SumLoss([losses.TripletMarginLoss(miner=HardMiner()), losses.CircleLoss(scale=4.0, reduction="sum")], [1.0, 0.5])
    x, labels = generic(10, 8, D).fresh(), torch.arange(8) % 3
    expected = gradient(loss(x, labels), x)
    torch._dynamo.reset()
    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled(x, labels), x), expected)
    torch.testing.assert_close(torch.func.grad(lambda e: loss(e, labels))(x.detach()), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda e: loss(e, labels)))(torch.stack([x.detach()] * 2))[0], expected)


def test_wrong_sums() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SumLoss([])
    with pytest.raises(ValueError, match="2 entries"):
        SumLoss([losses.CircleLoss(), losses.CircleLoss()], [1.0])
    with pytest.raises(ValueError, match="weights"):
        SumLoss([losses.CircleLoss()], [-1.0])
    with pytest.raises(TypeError, match="weights"):
        SumLoss([losses.CircleLoss()], ["1"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="hold losses"):
        SumLoss([losses.CircleLoss(), VICRegLoss()])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="hold losses"):
        SumLoss([losses.CircleLoss])  # type: ignore[list-item]


# ---- gradient caching


def encoder(*, dropout: float = 0.0, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(5, 16), nn.ReLU()]
    layers += [nn.BatchNorm1d(16)] if norm else []
    layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(16, D)).double()


def inputs(n: int = 10) -> Tensor:
    return torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(module: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(module.parameters())))


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 10, 99])
def test_gradients_are_those_of_the_whole_batch(chunk_size: int) -> None:
    network, labels = encoder(), torch.arange(10) % 3
    loss = losses.CircleLoss(scale=8.0)
    x = inputs().requires_grad_()
    expected_value = loss(network(x), labels)
    value = GradCache(network, loss, chunk_size)(x, labels)
    torch.testing.assert_close(value, expected_value)
    for got, expected in zip(
        torch.autograd.grad(value, [x, *network.parameters()]), torch.autograd.grad(expected_value, [x, *network.parameters()]), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_random_numbers_are_replayed() -> None:
    network, labels = encoder(dropout=0.5), torch.arange(10) % 3
    cached = GradCache(network, losses.TripletMarginLoss(), 4)
    torch.manual_seed(5)
    value = cached(inputs(), labels)
    after = torch.get_rng_state()
    got = gradients(network, value)
    assert torch.equal(torch.get_rng_state(), after)  # backward takes nothing from the stream
    torch.manual_seed(5)
    parts = [network(chunk) for chunk in inputs().split(4)]
    expected_value = losses.TripletMarginLoss()(torch.cat(parts), labels)
    assert torch.equal(value, expected_value)
    for a, b in zip(got, gradients(network, expected_value), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_running_statistics_are_updated_once() -> None:
    network, plain = encoder(norm=True), encoder(norm=True)
    labels = torch.arange(10) % 3
    value = GradCache(network, losses.CircleLoss(scale=8.0), 5)(inputs(), labels)
    got = gradients(network, value)
    expected_value = losses.CircleLoss(scale=8.0)(torch.cat([plain(chunk) for chunk in inputs().split(5)]), labels)
    for a, b in zip(got, gradients(plain, expected_value), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)
    network.eval()
    expected_value = losses.CircleLoss(scale=8.0)(network(inputs()), labels)
    value = GradCache(network, losses.CircleLoss(scale=8.0), 5)(inputs(), labels)
    for a, b in zip(gradients(network, value), gradients(network, expected_value), strict=True):
        torch.testing.assert_close(a, b)


class Witness(nn.Module):
    """Knows how many of the activations it ever made are alive, and how many were at most."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 64), nn.Linear(64, D)
        self.alive: set[int] = set()
        self.most, self.numbers = 0, itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x).tanh()
        number = next(self.numbers)
        self.alive.add(number)
        weakref.finalize(hidden, self.alive.discard, number)
        self.most = max(self.most, len(self.alive))
        return self.outer(hidden)


def test_one_chunk_is_held_at_a_time() -> None:
    witness, labels = Witness().double(), torch.arange(24) % 3
    gc.collect()
    value = GradCache(witness, losses.TripletMarginLoss(), 2)(inputs(24), labels)
    assert len(witness.alive) == 0  # nothing but embeddings is kept
    value.backward()
    assert witness.most <= 2
    whole = Witness().double()
    value = losses.TripletMarginLoss()(torch.cat([whole(chunk) for chunk in inputs(24).split(2)]), labels)
    assert whole.most == 12  # what it would be without
    del value


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, D)

    def forward(self, x: Tensor, mask: Tensor, factor: float = 1.0) -> Tensor:
        return factor * self.linear(x * mask)


def test_inputs_of_several_parts() -> None:
    network = TwoInputs().double()
    x, mask, labels = inputs(), (inputs() > 0).double(), torch.arange(10) % 3
    cached = GradCache(network, losses.CircleLoss(scale=4.0), 3)
    expected = losses.CircleLoss(scale=4.0)(network(x, mask, 2.0), labels)
    for given in ((x, mask, 2.0), [x, mask, 2.0], {"x": x, "mask": mask, "factor": 2.0}):
        value = cached(given, labels)
        torch.testing.assert_close(value, expected)
        for a, b in zip(
            gradients(network, value), gradients(network, losses.CircleLoss(scale=4.0)(network(x, mask, 2.0), labels)), strict=True
        ):
            torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="same length"):
        cached((x, mask[:9], 1.0), labels)
    with pytest.raises(TypeError, match="`inputs`"):
        cached("text", labels)
    with pytest.raises(TypeError, match="`inputs`"):
        cached({"x": 1.0}, labels)


def test_two_views_and_references() -> None:
    """Losses with other arguments: a second view, a queue, ids."""
    network, labels = encoder(), torch.arange(10) % 3
    cached = GradCache(network, VICRegLoss(), 4)
    value = cached(inputs(), cached.encode(2 * inputs()))
    expected = VICRegLoss()(network(inputs()), network(2 * inputs()))
    for a, b in zip(gradients(network, value), gradients(network, expected), strict=True):
        torch.testing.assert_close(a, b)
    queue = EmbeddingQueue(8, D, dtype=torch.float64)
    queue.enqueue(torch.ones(8, D, dtype=torch.float64), torch.arange(8) % 3)
    loss = losses.TripletMarginLoss()
    torch.testing.assert_close(GradCache(network, loss, 4)(inputs(), labels, queue), loss(network(inputs()), labels, queue))
    torch.testing.assert_close(GradCache(network, loss, 4)(inputs(), labels, ids=[1] * 10), loss(network(inputs()), labels, ids=[1] * 10))


def test_training_with_mixed_precision_and_without_gradient() -> None:
    network, labels = encoder().float(), torch.arange(10) % 3
    cached = GradCache(network, losses.CircleLoss(scale=4.0), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, expected = cached(inputs().float(), labels), losses.CircleLoss(scale=4.0)(network(inputs().float()), labels)
    assert torch.equal(value, expected)
    for a, b in zip(gradients(network, value), gradients(network, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)  # the weights gather their gradients in half precision, in another order
    with torch.no_grad():
        assert not cached(inputs().float(), labels).requires_grad
    buffer = io.BytesIO()
    torch.save(cached.state_dict(), buffer)
    assert set(cached.state_dict()) == {f"encoder.{name}" for name in network.state_dict()}


def test_an_empty_batch() -> None:
    value = GradCache(encoder(), losses.TripletMarginLoss(), 3)(inputs(0), [])
    assert value == 0
    value.backward()


def test_wrong_caches() -> None:
    network, loss = encoder(), losses.TripletMarginLoss()
    with pytest.raises(ValueError, match="chunk_size"):
        GradCache(network, loss, 0)
    with pytest.raises(TypeError, match="`encoder` to be a network"):
        GradCache(loss, network, 2)
    with pytest.raises(TypeError, match="`loss`"):
        GradCache(network, losses.TripletMarginLoss, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="embeddings"):
        GradCache(nn.LSTM(5, D).double(), loss, 2)(inputs(), torch.arange(10))


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_losses_that_need_more_than_scores_share_them(execution: str) -> None:
    """Each with facts of its own: a miner that draws, margins by class, norms, classes of proxies, a running mean."""
    proxies = Proxies(4, 5, per_class=2, dtype=torch.float64)
    x = 20 * torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(12) % 4
    options: dict[str, Any] = {"proxies": proxies, "execution": execution, "memory_budget": 8 * 9 * 4}

    def made() -> list[losses.Loss]:
        margins = nn.Parameter(torch.linspace(0.1, 0.4, 4, dtype=torch.float64))
        return [
            losses.ArcFaceLoss(margin=margins, scale=4.0, gradient="exact", **options),
            losses.NormFaceLoss(scale=4.0, miner=DistanceWeightedMiner(generator=torch.Generator().manual_seed(1)), **options),
            losses.MagFaceLoss(scale=4.0, **options),
            losses.SubCenterArcFaceLoss(scale=4.0, **options),
            losses.CurricularFaceLoss(scale=4.0, momentum=0.5, **options),
        ]

    together, apart = SumLoss(made(), [1.0, 2.0, 0.5, 1.0, 3.0]), made()
    assert len(together._blocks[True]) == 1
    found = []
    for members in (together.parts(), apart):
        y = x.clone().requires_grad_()
        weighted = zip(apart, together.weights, strict=True)
        value = sum(weight * part(y, labels) for part, weight in weighted) if members is apart else together(y, labels)
        found.append([value, *torch.autograd.grad(value, [y, proxies.weight, members[0].margin]), members[4].t])
    torch.testing.assert_close(found[0], found[1])
