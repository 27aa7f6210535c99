"""Any loss, any miner, any similarity, any references, any execution: the full product, dense against tiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metriczoo import References, losses, miners, similarity
from metriczoo.stores import EmbeddingQueue, MemoryBank, Proxies

D, N = 6, 15
LOSSES: dict[str, Callable[..., losses.Loss]] = {
    "contrastive": losses.ContrastiveLoss,
    "triplet": losses.TripletMarginLoss,
    "triplet-squared": lambda **k: losses.TripletMarginLoss(penalty="squared", **k),
    "triplet-soft": lambda **k: losses.TripletMarginLoss(penalty="soft", **k),
    "triplet-swap": lambda **k: losses.TripletMarginLoss(swap=True, **k),
    "unified": lambda **k: losses.UnifiedLoss(scale=8.0, **k),
    "circle": lambda **k: losses.CircleLoss(scale=8.0, **k),
    "am-softmax": lambda **k: losses.AMSoftmaxLoss(scale=8.0, **k),
    "nce": lambda **k: losses.NCELoss(temperature=0.5, num_noise=7, proximal=0.1, **k),
    "lmnn": losses.LMNNLoss,
}
MINERS: dict[str, Callable[[], miners.Miner | None]] = {
    "all": lambda: None,
    "hard": miners.HardMiner,
    "semi-hard": lambda: miners.SemiHardMiner(0.5),
    "semi-hard-random": lambda: miners.SemiHardMiner(0.5, select="random", generator=torch.Generator().manual_seed(7)),
    "distance-weighted": lambda: miners.DistanceWeightedMiner(generator=torch.Generator().manual_seed(7)),
    "priority": miners.PriorityMiner,
}
SIMILARITIES: dict[str, Callable[[], similarity.Similarity]] = {
    "cosine": similarity.Cosine,
    "inner": similarity.InnerProduct,
    "euclidean": similarity.NegativeEuclidean,
    "squared": similarity.NegativeSquaredEuclidean,
    "mahalanobis": lambda: similarity.Mahalanobis(D, rank=4),
}


def _points(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, dtype=torch.float64, generator=generator) / 2, torch.randint(-1, 4, (n,), generator=generator)


def _bank() -> MemoryBank:
    bank = MemoryBank(20, D, dtype=torch.float64, labels=torch.arange(20) % 4, generator=torch.Generator().manual_seed(0))
    bank.update(torch.arange(N), _points(N, 3)[0])
    return bank


def _queue() -> EmbeddingQueue:
    queue = EmbeddingQueue(12, D, dtype=torch.float64)
    points, labels = _points(17, 4)
    queue.enqueue(points, labels, torch.arange(17))
    return queue


def _proxies() -> Proxies:
    return Proxies(4, D, generator=torch.Generator().manual_seed(0)).double()


def _pair() -> tuple[Tensor, Tensor]:
    points, labels = _points(11, 5)
    return points.requires_grad_(), labels


REFERENCES: dict[str, Callable[[], Any]] = {
    "batch": lambda: None,
    "pair": _pair,
    "references": lambda: References(*_pair(), torch.arange(11)),
    "bank": _bank,
    "queue": _queue,
    "proxies": _proxies,
    "list": lambda: [None, _queue(), _pair(), _bank()],
}


def _outcome(name: str, miner: str, kind: str, references: str, execution: str, reduction: str, ids: bool) -> list[Tensor]:
    """Value and every gradient, with fresh stores and generators."""
    torch.manual_seed(0)
    loss = LOSSES[name](
        miner=MINERS[miner](), similarity=SIMILARITIES[kind](), execution=execution, reduction=reduction, memory_budget=8 * 40 * 4
    ).double()
    compared = REFERENCES[references]()
    points, labels = _points(N, 1)
    points.requires_grad_()
    labels = torch.arange(N) if name == "nce" and references == "bank" else labels
    value = loss(points, labels, compared, ids=torch.arange(N) if ids else None)
    inputs = [points, *loss.parameters()]
    for entry in compared if isinstance(compared, list) else [compared]:
        inputs += [entry[0]] if isinstance(entry, tuple) else [entry.embeddings] if isinstance(entry, References) else []
        inputs += list(entry.parameters()) if isinstance(entry, Proxies) else []
    gradients = torch.autograd.grad((value * torch.arange(1, value.numel() + 1).reshape(value.shape)).sum(), inputs, materialize_grads=True)
    return [value.detach(), *gradients]


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("name", LOSSES)
def test_tiled_equals_dense(name: str, references: str) -> None:
    for miner, kind in itertools.product(MINERS, SIMILARITIES):
        for reduction, ids in [("mean", True), ("none", False)]:
            setting = (name, miner, kind, references)
            dense = _outcome(*setting, "dense", reduction, ids)
            tiled = _outcome(*setting, "auto", reduction, ids)
            for x, y in zip(dense, tiled, strict=True):
                assert x.isfinite().all(), setting
                torch.testing.assert_close(y, x, rtol=1e-9, atol=1e-10, msg=lambda m, s=setting: f"{s}: {m}")


@pytest.mark.parametrize("name", LOSSES)
def test_every_miner_leaves_something_to_learn(name: str) -> None:
    """The product above would hold for losses that are 0 throughout."""
    for miner, references in itertools.product(MINERS, REFERENCES):
        value, gradient, *_ = _outcome(name, miner, "cosine", references, "auto", "mean", False)
        assert value != 0, (name, miner, references)
        assert gradient.abs().max() > 0, (name, miner, references)


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "mean_pairs", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_reductions_do_not_depend_on_the_tiles(name: str, reduction: str) -> None:
    for miner in MINERS:
        dense = _outcome(name, miner, "cosine", "pair", "dense", reduction, False)
        for x, y in zip(dense, _outcome(name, miner, "cosine", "pair", "auto", reduction, False), strict=True):
            torch.testing.assert_close(y, x, rtol=1e-9, atol=1e-10)
