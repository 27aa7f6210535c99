"""Half precision and autocast: what is computed is that of float32, and is rounded once, at the end."""

from __future__ import annotations

import pytest
import torch
from every_loss import LOSSES, batch
from torch import Tensor, nn

from metriczoo import losses, similarity

SIMILARITIES = {
    "inner": similarity.InnerProduct,
    "euclidean": similarity.NegativeEuclidean,
    "mahalanobis": lambda: similarity.Mahalanobis(5),
    "noise": similarity.SignalToNoise,
    "poincare": similarity.Poincare,
}


def _gradients(loss: nn.Module, x: Tensor, labels: Tensor, autocast: torch.dtype | None = None) -> list[Tensor]:
    """Value and gradients, backward too under `autocast`, as in a program that calls `backward` within the context."""
    x = x.clone().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        value = loss(x, labels)
        weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)
        (value * weights).sum().backward()
    inputs = [x, *(p for p in loss.parameters() if p.requires_grad)]
    return [value.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad.to_dense() for t in inputs)]


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"execution": "dense"}], ids=["auto", "none", "dense"])
@pytest.mark.parametrize("name", LOSSES)
def test_backward_under_autocast(name: str, options: dict[str, str]) -> None:
    x, labels = batch(n=12)
    plain, cast = LOSSES[name](**options), LOSSES[name](**options)
    for got, expected in zip(_gradients(cast, x, labels, torch.bfloat16), _gradients(plain, x, labels), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("execution", ["auto", "dense", "tiled"])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_under_autocast(name: str, execution: str) -> None:
    x, labels = batch(n=12)
    both = [losses.MultiSimilarityLoss(similarity=SIMILARITIES[name](), execution=execution) for _ in range(2)]
    for got, expected in zip(_gradients(both[0], x, labels, torch.bfloat16), _gradients(both[1], x, labels), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_second_derivative_under_autocast() -> None:
    x, labels = batch(n=12, dtype=torch.float32)
    found = []
    for enabled in (True, False):
        y = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            (first,) = torch.autograd.grad(losses.UnifiedLoss(scale=4.0, execution="dense")(y, labels), y, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), y)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [losses.VICRegLoss, losses.BarlowTwinsLoss])
def test_two_views_under_autocast(kind: type[nn.Module]) -> None:
    x, y = batch(n=12)[0], batch(1, n=12)[0]
    for n in (12, 4):  # more and fewer points than dimensions
        found = [_gradients(kind(), x[:n], y[:n], cast) for cast in (torch.bfloat16, None)]
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1e-4, 0.01, 30.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_half_precision_is_rounded_once(name: str, dtype: torch.dtype, length: float) -> None:
    """It overflows where the true one is beyond the range of the type: that of a cosine grows as 1 / length."""
    x, labels = batch(n=12)
    x = (length * torch.nn.functional.normalize(x)).to(dtype)
    low, full = (_gradients(LOSSES[name](), points, labels) for points in (x, x.float()))
    assert low[0].dtype == torch.float32
    assert low[0].isfinite()
    assert torch.equal(low[0], full[0])
    assert torch.equal(low[1], full[1].to(dtype))
