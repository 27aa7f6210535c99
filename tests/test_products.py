"""The tiles that multiply: near-duplicates, terms of positives only, blocks of whole classes; and the fold that most losses are made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metriczoo import _products, engine, losses, similarity
from metriczoo.scores import Scores

GROUPED = {
    "lifted": losses.LiftedStructureLoss,
    "angular": losses.AngularLoss,
    "swap": lambda **options: losses.TripletMarginLoss(swap=True, **options),
}


def _outcome(loss: losses.Loss, x: Tensor, labels: Tensor, references: object = None) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, labels, references)
    (value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)).sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def _near_duplicates(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(24) % 6
    if kind == "pairs":
        x[1::2] = x[::2] + 1e-4 * torch.randn(12, 6, generator=generator, dtype=torch.float64)
    elif kind == "far off":
        x = 300 + 1e-2 * x
    elif kind == "equal":
        x[:8] = x[0]
    else:
        x[:9] = 0
    return x.float().double(), labels


@pytest.mark.parametrize("kind", ["pairs", "far off", "equal", "zero"])
@pytest.mark.parametrize("make", [similarity.NegativeEuclidean, similarity.NegativeSquaredEuclidean])
@pytest.mark.parametrize("rows", [5, 100])
def test_near_duplicates_are_exact_in_single_precision(make: type[similarity.Similarity], kind: str, rows: int) -> None:
    x, labels = _near_duplicates(kind)
    for loss in (losses.GeneralizedLiftedStructureLoss, losses.ContrastiveLoss, losses.TripletMarginLoss):
        options = {"similarity": make(), "memory_budget": rows * 25 * 4}
        exact, exact_gradient = _outcome(loss(similarity=make(), execution="dense"), x, labels)
        value, gradient = _outcome(loss(**options), x.float(), labels)
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient.double(), exact_gradient, rtol=2e-3, atol=2e-3 * float(exact_gradient.abs().max()) + 1e-7)


@pytest.mark.parametrize("make", [losses.ContrastiveLoss, losses.LiftedStructureLoss, losses.MMCLoss])
@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0, 1, 0]], ids=["positives", "negatives"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("budget", [None, 64])
def test_distances_that_underflow_count_as_none(make, labels, many, budget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_products, "_MANY", 1000 if many else 0)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    x[0], x[1], x[4] = 0, 1e-23 * x[1], 3e-21 * x[4]
    expected, found = (
        _outcome(make(**options), x, torch.tensor(labels)) for options in ({"execution": "dense"}, {"memory_budget": budget})
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_batch_as_small_as_to_underflow() -> None:
    x = 1e-20 * torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    for reduction in ("mean", "none"):
        for budget in (None, 64):
            value, gradient = _outcome(losses.MMCLoss(reduction=reduction, memory_budget=budget), x, torch.arange(10) % 3)
            assert value.isfinite().all()
            assert gradient.abs().max() < 1e-18


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])
@pytest.mark.parametrize("per_class", [2, 12])
def test_a_term_of_positives_only(reduction: str, per_class: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few positives it takes no product; with many it does."""
    monkeypatch.setattr(_products, "_FEW", 8)
    x = torch.randn(48, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(48) % (48 // per_class)
    references = (torch.randn(40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(40) % 20)
    x[3], x[5], x[7] = x[2], 2 * x[4], 0.0
    kinds = (
        similarity.Cosine,
        similarity.NegativeEuclidean,
        similarity.NegativeSquaredEuclidean,
        similarity.SignalToNoise,
        similarity.Poincare,
    )
    for kind in (make() for make in kinds):
        for among in (None, references):
            dense, tiled = (
                _outcome(
                    losses.ContrastiveLoss(similarity=kind, reduction=reduction, execution=execution, memory_budget=7 * 49 * 8),
                    x,
                    labels,
                    among,
                )
                for execution in ("dense", "tiled")
            )
            torch.testing.assert_close(tiled, dense, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("rows", [1, 4, 14, 100])
def test_blocks_of_whole_classes(name: str, reduction: str, rows: int) -> None:
    """Classes of 1 to 13 points: in blocks of few rows some are cut, and then positives are compared with negatives once more."""
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0] * 13 + [1] + [2, 3, 4] * 4 + [5, 6] * 7)[torch.randperm(40, generator=torch.Generator().manual_seed(3))]
    dense, tiled = (
        _outcome(GROUPED[name](reduction=reduction, execution=execution, memory_budget=rows * 41 * 8), x, labels)
        for execution in ("dense", "tiled")
    )
    torch.testing.assert_close(tiled, dense, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", GROUPED)
def test_whole_classes_multiply_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(2))
    asked = []
    for kind in (similarity.Cosine, similarity.NegativeEuclidean):
        monkeypatch.setattr(kind, "score", lambda *args: asked.append(args))
    _outcome(GROUPED[name](memory_budget=6 * 25 * 4), x, torch.arange(24) % 8)
    assert not asked


@pytest.mark.parametrize("scale", [0.5, 30.0])
@pytest.mark.parametrize("store", ["excluded", "mask", "all"])
def test_logsumexp_with_a_scale(scale: float, store: str) -> None:
    value = (3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).requires_grad_()
    outside = torch.tensor([[0, 0], [1, 5], [2, 2], [3, 3]])
    mask = torch.ones(4, 6, dtype=torch.bool)
    if store != "all":
        mask.scatter_(1, outside, False)
    sets = {
        "excluded": lambda v: Scores(v, excluded=outside, num_excluded=torch.tensor([1, 2, 1, 1])),
        "mask": lambda v: Scores(v, mask),
        "all": lambda v: Scores(v),
    }
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    expected = torch.logsumexp((factor * value).masked_fill(~mask, -torch.inf), dim=1)
    found = sets[store](value).logsumexp(factor)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(sets[store](value).logsumexp(scale), expected)
    of_expected, of_found = (torch.autograd.grad(result.square().sum(), (value, factor), retain_graph=True) for result in (expected, found))
    torch.testing.assert_close(of_found, of_expected)
    assert torch.equal(torch.autograd.grad(found.square().sum(), value)[0], of_found[0])  # a graph that was kept gives the same again
    assert bool((of_found[0][~mask] == 0).all())
    assert torch.autograd.gradgradcheck(lambda v, f: sets[store](v).logsumexp(f), (value, factor))


def test_a_class_that_outweighs_all_others_stays_whole_or_is_cut_into_few() -> None:
    labels = torch.tensor([0] * 500 + [1] * 4 + [2] * 4)
    whole, cut = ([(s.start, s.stop) for s in engine._of_whole_classes(labels, 96, largest)] for largest in (32 * 96, 4 * 96))
    assert whole == [(0, 500), (500, 508)]
    assert cut == [(0, 250), (250, 500), (500, 508)]  # pieces as tall as they may be: each makes the scores of the whole class again
