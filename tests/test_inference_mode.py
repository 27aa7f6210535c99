"""Losses under `torch.inference_mode`, as in validation: the same value, nothing to save, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from every_loss import LOSSES, D, batch

from metriczoo import losses, similarity
from metriczoo.losses import Loss

BLOCKS = {"auto": {}, "dense": {"execution": "dense"}, "tiles": {"execution": "tiled", "memory_budget": 200}}
SIMILARITIES = {
    "cosine": similarity.Cosine,
    "inner product": similarity.InnerProduct,
    "euclidean": similarity.NegativeEuclidean,
    "squared": similarity.NegativeSquaredEuclidean,
    "lp": lambda: similarity.NegativeLp(3.0),
    "mahalanobis": lambda: similarity.Mahalanobis(D),
    "signal to noise": similarity.SignalToNoise,
    "poincare": similarity.Poincare,
}


def same(loss: Loss, *arguments: object) -> None:
    """The value of evaluation, in which running statistics rest, and a gradient afterwards."""
    loss.eval()
    x, *rest = arguments
    assert isinstance(x, torch.Tensor)
    with torch.inference_mode():
        value = loss(x, *rest)
    assert not value.requires_grad
    torch.testing.assert_close(value.clone(), loss(x, *rest).detach())
    leaf = x.clone().requires_grad_()
    loss(leaf, *rest).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("NCELoss", "NegativeSamplingLoss")])
def test_any_loss(name):
    same(LOSSES[name](), *batch(n=12))


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("scored", SIMILARITIES)
@pytest.mark.parametrize("kind", [losses.TripletMarginLoss, losses.SupConLoss, losses.ContrastiveLoss])
def test_any_similarity_in_any_blocks(kind, scored, blocks):
    same(kind(similarity=SIMILARITIES[scored](), **BLOCKS[blocks]), *batch(n=12))


@pytest.mark.parametrize("scored", SIMILARITIES)
@pytest.mark.parametrize("kind", [losses.TripletMarginLoss, losses.SupConLoss])
def test_streamed_references(kind, scored):
    same(kind(similarity=SIMILARITIES[scored](), memory_budget=400), *batch(n=12), batch(1, n=50))
