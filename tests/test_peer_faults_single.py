"""Faults that other libraries have in single losses (section 12 of the project's specification)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from bad_inputs import BIG
from every_loss import (
    LOSSES,
    C,
    D,
    batch,
    finite,
    gradient_of,
)
from torch import Tensor, nn

from metriczoo import functional as F
from metriczoo import losses, similarity
from metriczoo.stores import Proxies

# ---- 9: low temperatures


SOFTMAXES: dict[str, Callable[[float], losses.Loss]] = {
    "NTXentLoss": lambda tau: losses.NTXentLoss(tau),
    "SupConLoss": lambda tau: losses.SupConLoss(tau),
    "DecoupledContrastiveLoss": lambda tau: losses.DecoupledContrastiveLoss(tau),
    "UnifiedLoss": lambda tau: losses.UnifiedLoss(margin=0.0, scale=1 / tau),
    "EasyPositiveLoss": lambda tau: losses.EasyPositiveLoss(tau),
    "TupletMarginLoss": lambda tau: losses.TupletMarginLoss(margin=0.0, scale=1 / tau),
    "NonParametricSoftmaxLoss": lambda tau: losses.NonParametricSoftmaxLoss(temperature=tau),
    "InstanceLoss": lambda tau: losses.InstanceLoss(scale=1 / tau),
}


@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize(("tau", "dtype"), [(0.01, torch.float32), (0.01, torch.float16), (0.07, torch.float16), (0.001, torch.bfloat16)])
def test_the_hardest_pair_at_a_low_temperature(name: str, tau: float, dtype: torch.dtype) -> None:
    """A positive opposite to its anchor and a negative beside it: a loss of 2 / tau, and the gradient of that."""
    anchor = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    others = torch.tensor([[-0.6, 0.8, 0.0, 0.0, 0.0], [0.8, 0.6, 0.0, 0.0, 0.0]])
    value, gradient = gradient_of(SOFTMAXES[name](tau), anchor.to(dtype), [0], (others, [0, 1]))
    torch.testing.assert_close(value, torch.tensor(1.4 / tau), rtol=1e-3, atol=0)
    expected = (others[1] - others[0]) / tau * torch.tensor([0.0, 1, 1, 1, 1])  # orthogonal to the anchor
    torch.testing.assert_close(gradient[0].float(), expected, rtol=1e-2, atol=1e-2 / tau)


# ---- ranking


def _average_precision(order: list[bool]) -> float:
    """Of relevance in the order of a ranking."""
    found = [k for k, hit in enumerate(order, 1) if hit]
    return math.fsum(i / k for i, k in enumerate(found, 1)) / len(found)


@pytest.mark.parametrize("sizes", [[4, 4, 4], [2, 3, 7], [1, 5, 2, 2], [12]])
@pytest.mark.parametrize("sort", [True, False])
def test_smooth_ap_of_classes_of_any_size_in_any_order(sizes: list[int], sort: bool) -> None:
    """At a low temperature it is 1 minus the mean average precision; here the reference code asks for sorted classes of equal size."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    x, _ = batch(2, len(labels), dtype=torch.float64)
    if not sort:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        x, labels = x[order], labels[order]
    s = similarity.Cosine()(x, x)
    precisions = []
    for i, row in enumerate(s):
        others = [j for j in row.argsort(descending=True).tolist() if j != i]
        hits = [bool(labels[j] == labels[i]) for j in others]
        if any(hits) and not all(hits):
            precisions.append(_average_precision(hits))
    expected = 1 - math.fsum(precisions) / len(precisions) if precisions else 0.0
    assert losses.SmoothAPLoss(temperature=1e-6)(x, labels).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [6, 90])
def test_ranked_list_has_no_bias_that_grows_with_the_batch(n: int) -> None:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(n) % 3
    d = -similarity.NegativeEuclidean()(nn.functional.normalize(x), nn.functional.normalize(x))
    total = 0.0
    for i in range(n):
        own = [float(v) for j, v in enumerate(d[i]) if labels[j] == labels[i] and j != i and v > 0.8]
        others = [float(v) for j, v in enumerate(d[i]) if labels[j] != labels[i] and v < 1.2]
        pull = math.fsum(v - 0.8 for v in own) / len(own) if own else 0.0
        weights = [math.exp(10 * (1.2 - v)) for v in others]
        push = math.fsum(w * (1.2 - v) for w, v in zip(weights, others, strict=True)) / math.fsum(weights) if others else 0.0
        total += (pull + push) / 2
    assert losses.RankedListLoss()(x, labels).item() == pytest.approx(total / n, rel=1e-9)


def test_ranked_list_of_a_collapsed_batch_is_not_zero() -> None:
    assert losses.RankedListLoss()(torch.ones(6, 3), torch.arange(6) % 3).item() == pytest.approx(0.6)


# ---- pairs and triplets


def test_angular_loss_normalises_its_negatives() -> None:
    x, labels = batch(dtype=torch.float64)
    lengths = torch.linspace(0.1, 40, len(x), dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(losses.AngularLoss()(lengths * x, labels), losses.AngularLoss()(x, labels))


@pytest.mark.parametrize("with_references", [False, True])
def test_swap_with_references_uses_the_similarities_of_references(with_references: bool) -> None:
    x, labels = batch(1, 6, dtype=torch.float64)
    refs, ref_labels = batch(2, 10, dtype=torch.float64) if with_references else (x, labels)
    s, between = similarity.Cosine()(x, refs), similarity.Cosine()(refs, refs)
    total, count = 0.0, 0
    for i, p, n in itertools.product(range(len(x)), range(len(refs)), range(len(refs))):
        if (with_references or p != i) and labels[i] == ref_labels[p] and labels[i] != ref_labels[n]:
            total += max(0.0, float(torch.maximum(s[i, n], between[p, n]) - s[i, p]) + 0.2)
            count += 1
    loss = losses.TripletMarginLoss(swap=True)
    got = loss(x, labels, (refs, ref_labels)) if with_references else loss(x, labels)
    assert got.item() == pytest.approx(total / count)


def test_threshold_consistent_margin_with_references() -> None:
    x, labels = batch(1, 6, dtype=torch.float64)
    refs, ref_labels = batch(2, 15, dtype=torch.float64)
    s, same = similarity.Cosine()(x, refs), labels.unsqueeze(1) == ref_labels
    far, near = s[same & (s <= 0.9)], s[~same & (s >= 0.5)]
    expected = (0.9 - far).mean() + (near - 0.5).mean()
    torch.testing.assert_close(losses.ThresholdConsistentMarginLoss()(x, labels, (refs, ref_labels)), expected)


@pytest.mark.parametrize(
    "name", ["GeneralizedLiftedStructureLoss", "MultiSimilarityLoss", "LiftedStructureLoss", "CircleLoss", "RankedListLoss"]
)
@pytest.mark.parametrize("labels", [[0] * 6, list(range(6))], ids=["positives only", "negatives only"])
def test_anchors_that_lack_a_side_have_no_loss(name: str, labels: list[int]) -> None:
    """And they are not in the mean of the others."""
    x, _ = batch(0, 6, dtype=torch.float64)
    loss = LOSSES[name]()
    value, gradient = gradient_of(loss, x, labels)
    assert value == 0
    assert not gradient.any()
    y = torch.tensor([0, 0, 1, 1, 2, 3])
    each = LOSSES[name](reduction="none")(x, y)
    assert not each[4:].any()
    if name != "LiftedStructureLoss":
        torch.testing.assert_close(LOSSES[name]()(x, y), each[:4].mean())


def test_tuplet_of_duplicate_positives_has_a_number() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    finite(*gradient_of(losses.TupletMarginLoss(), x, [0, 0, 1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_histogram_takes_cosines_beyond_one(dtype: torch.dtype) -> None:
    """Equal points, and cosines that rounding puts above 1."""
    x = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).to(dtype).repeat(8, 1) * torch.linspace(0.5, 3, 8).to(
        dtype
    ).unsqueeze(1)
    value, gradient = gradient_of(losses.HistogramLoss(), x, torch.arange(8) % 2)
    finite(value, gradient)
    assert 0 <= value <= 1
    above = torch.tensor([[1.0 + 1e-6, -1.0 - 1e-6]], dtype=torch.float64)
    assert F.histogram(above, above).total.isfinite().all()


def test_margin_loss_without_learning_keeps_its_boundary() -> None:
    loss = losses.MarginLoss(beta=0.9, learn_beta=False)
    other = losses.MarginLoss(beta=0.9, learn_beta=False)
    other.load_state_dict(loss.state_dict())
    x, labels = batch()
    assert torch.equal(loss(x, labels), other(x, labels))


# ---- classes and instances


@pytest.mark.parametrize("labels", [[5, 3, 9], [9, 5, 3], [0, 1, 2], [BIG + 1, BIG, 7]])
def test_instance_loss_of_a_perfect_embedding_is_zero_whatever_the_labels(labels: list[int]) -> None:
    x = 3 * torch.eye(3)
    assert losses.InstanceLoss()(x, labels) < 1e-10
    assert losses.InstanceLoss()(x, labels, (x.clone(), labels)) < 1e-10
    assert losses.InstanceLoss()(x, labels, (x.flip(0), labels)) > 1


def test_instance_loss_of_duplicate_labels_does_not_depend_on_their_order() -> None:
    x, labels = batch(0, 8, dtype=torch.float64)
    order = torch.tensor([7, 3, 1, 0, 2, 6, 5, 4])
    torch.testing.assert_close(losses.InstanceLoss()(x, labels), losses.InstanceLoss()(x[order], labels[order]))


def test_shared_proxies_are_the_same_object() -> None:
    proxies = Proxies(C, D)
    x, labels = batch()
    one = losses.ProxyNCALoss(proxies=proxies)
    assert one.proxies is proxies
    one(x, labels).backward()
    assert proxies.weight.grad is not None


# ---- similarities


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_a_similarity_of_ones_own_is_used_as_it_is(weight: float) -> None:
    """A subclass of a product whose score is another is no product: its score is what losses see, however they are executed."""

    class Weighted(similarity.Cosine):
        def score(self, a: Tensor, r: Tensor) -> Tensor:
            return weight * super().score(a, r)

    x, labels = batch(dtype=torch.float64)
    expected = losses.UnifiedLoss(margin=0.0, scale=weight)(x, labels)
    for execution in ("auto", "dense", "tiled"):
        got = losses.UnifiedLoss(margin=0.0, scale=1.0, similarity=Weighted(), execution=execution)(x, labels)
        torch.testing.assert_close(got, expected)
