"""Two passes over half of the scores: loss and gradient are those of one dense block, and tiles take over where they do not serve."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import Scores, losses
from metriczoo import _halves as halves
from metriczoo.similarity import InnerProduct

REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
BUDGET = 2048  # bytes of a block, of which the batches below take several


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each gradient that was asked for, whether it came from halves."""
    found: list[bool] = []
    gradients = halves.Halves.gradients

    def spy(self: halves.Halves) -> tuple[Tensor, ...]:
        found.append(self.tiles is None)
        return gradients(self)

    monkeypatch.setattr(halves.Halves, "gradients", spy)
    return found


def outcome(loss: losses.Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = loss(leaf, y)
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), leaf)[0]


def batch(n: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(num_classes, (n,), generator=generator)


MAKERS = {
    "SupCon": lambda **o: losses.SupConLoss(temperature=0.2, **o),
    "SupCon in": lambda **o: losses.SupConLoss(temperature=0.2, form="in", **o),
    "NT-Xent": lambda **o: losses.NTXentLoss(**o),
    "circle": lambda **o: losses.CircleLoss(**o),
    "multi-similarity": lambda **o: losses.MultiSimilarityLoss(**o),
    "N-pairs": lambda **o: losses.NPairsLoss(similarity=InnerProduct(), **o),
}


@given(
    st.sampled_from(sorted(MAKERS)), st.integers(17, 60), st.integers(1, 60), st.integers(0, 9), st.sampled_from(["mean", "sum", "none"])
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradient_are_those_of_one_block(name: str, n: int, num_classes: int, seed: int, reduction: str) -> None:
    x, y = batch(n, num_classes, seed)
    expected = outcome(MAKERS[name](reduction=reduction, execution="dense"), x, y)
    found = outcome(MAKERS[name](reduction=reduction, memory_budget=BUDGET), x, y)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_losses_with_one_fold_of_their_negatives_take_them(name: str, served: list[bool]) -> None:
    outcome(MAKERS[name](memory_budget=BUDGET), *batch(40, 8))
    assert served == [True]


def test_no_gradient_takes_one_pass() -> None:
    x, y = batch(40, 8)
    expected = losses.CircleLoss(execution="dense")(x, y)
    with torch.no_grad():
        torch.testing.assert_close(losses.CircleLoss(memory_budget=BUDGET)(x, y), expected)


def test_a_second_derivative_is_that_of_one_block() -> None:
    x, y = batch(20, 5)
    x = x[:, :2].contiguous().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: losses.SupConLoss(memory_budget=BUDGET)(x, y), x)


def two_folds(s_n: Scores, s_p: Scores) -> Tensor:
    return s_n.logsumexp() + s_n.max() - s_p.mean()


def by_anchor(s_n: Scores, s_p: Scores) -> Tensor:
    centre = s_p.mean().unsqueeze(1)
    return s_n.map(lambda s: s - centre).logsumexp(5.0)


def by_cell(s_n: Scores, s_p: Scores) -> Tensor:
    return s_n.fill(-9.0).exp().sum(1) - s_p.mean()


def positives_alone(s_n: Scores, s_p: Scores) -> Tensor:
    return s_n.count() - s_p.mean()


@pytest.mark.parametrize("function", [two_folds, by_anchor, by_cell, positives_alone])
def test_a_loss_that_takes_more_goes_by_tiles_from_then_on(function: object, served: list[bool]) -> None:
    x, y = batch(40, 8)
    loss = losses.from_function(function, memory_budget=BUDGET)  # type: ignore[arg-type]
    expected = outcome(losses.from_function(function, execution="dense"), x, y)  # type: ignore[arg-type]
    for _ in range(2):
        for a, b in zip(outcome(loss, x, y), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert served == [False]


def test_a_loss_that_is_a_constant_has_gradient_0() -> None:
    def constant(s_n: Scores, s_p: Scores) -> Tensor:
        return 0 * s_n.map(torch.zeros_like).logsumexp() + s_p.mean().detach()

    _, gradient = outcome(losses.from_function(constant, memory_budget=BUDGET), *batch(40, 8))
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_whose_scores_are_far_apart_go_by_tiles(dtype: torch.dtype, served: list[bool]) -> None:
    """The negatives of small points score thousands less than those of large ones: relative to these they are 0."""
    x, y = batch(40, 8)
    x = x.to(dtype)
    x[::2] *= 60
    far = outcome(losses.NPairsLoss(similarity=InnerProduct(), memory_budget=BUDGET), x, y)
    expected = outcome(losses.NPairsLoss(similarity=InnerProduct(), execution="dense"), x, y)
    assert served == [False]
    for a, b in zip(far, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_anchors_whose_scores_are_somewhat_apart_keep_their_digits(served: list[bool]) -> None:
    """Each row has its own largest score, up to 20 below that of all, in float32."""
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(64, 8), dim=1) * torch.linspace(1, 4.5, 64).unsqueeze(1)
    y = torch.arange(64) // 4
    found = outcome(losses.NPairsLoss(similarity=InnerProduct(), memory_budget=BUDGET, reduction="none"), x, y)
    exact = outcome(losses.NPairsLoss(similarity=InnerProduct(), execution="dense", reduction="none"), x.double(), y)
    assert all(served)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-5)


def test_a_class_as_large_as_the_batch_is_not_listed_for_each_of_its_points(monkeypatch: pytest.MonkeyPatch, served: list[bool]) -> None:
    monkeypatch.setattr(halves, "_TABLE", 500)
    x, y = batch(40, 8)
    y[:20] = 0
    loss = losses.SupConLoss(memory_budget=BUDGET)
    torch.testing.assert_close(outcome(loss, x, y), outcome(losses.SupConLoss(execution="dense"), x, y))
    assert not served
    assert not loss.needs_tiles
