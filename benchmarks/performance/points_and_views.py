"""Losses on two views of each point, and regularisers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from benchmarks.performance.losses_on_batches import PEER, executions
from benchmarks.performance.migration import ours, theirs
from benchmarks.performance.work import DIM, OURS, Make, Maker, Step, Work, points
from metriczoo import losses

__all__ = ["works"]

_OF_PROXIES = ("CenterInvariantRegularizer", "ProxyOrthogonalityRegularizer", "SparseCentersRegularizer")


def works() -> list[Work]:
    """Losses on two views, then every regulariser."""
    clip, siglip = "NTXentLoss(temperature=0.07, symmetric=True)", "SigmoidLoss(scale=10.0, bias=-10.0, learnable=False)"
    vicreg = "VICRegLoss(invariance_lambda=25, variance_mu=25, covariance_v=1)"
    return [
        _towers(
            "NTXentLoss of two towers",
            clip,
            {
                "torch": Maker(_two(_clip), "the mean of cross_entropy by rows and by columns"),
                "sentence-transformers": _multiple_negatives(("query_to_doc", "doc_to_query"), "per_direction"),
            },
        ),
        _towers(
            "NTXentLoss from one tower to the other",
            "NTXentLoss(temperature=0.07)",
            {
                "torch": Maker(_two(_one_way), "cross_entropy by rows"),
                "sentence-transformers": _multiple_negatives(("query_to_doc",), "joint"),
            },
        ),
        _towers(
            "SigmoidLoss of two towers",
            siglip,
            {"torch": Maker(_two(_siglip), "binary_cross_entropy_with_logits, identity as target")},
        ),
        _self_supervised("NTXentLoss", 0.5, {"torch": Maker(_halves(_simclr), "cross_entropy, the diagonal masked")}),
        _self_supervised("DecoupledContrastiveLoss", 0.1, {}, name_in_lightly="DCLLoss"),
        Work(
            "VICRegLoss",
            "points",
            {**_views("VICRegLoss()"), PEER: Maker(_two_of_peer(vicreg), vicreg), "lightly": _of_lightly("VICRegLoss()", _two)},
            tolerance=1e-7,
        ),
        Work(
            "BarlowTwinsLoss",
            "points",
            {
                **_views("BarlowTwinsLoss(off_diagonal=0.005)"),
                "torch": Maker(_two(_barlow), "correlations of standardised views"),
                "lightly": _of_lightly("BarlowTwinsLoss(lambda_param=0.005)", _two),
            },
        ),
        *(Work(name, "points", {OURS: Maker(_regularizer(name), f"{name}()")}) for name in losses.__all__ if _regularizes(name)),
    ]


def _regularizes(name: str) -> bool:
    return name.endswith("Regularizer") and name != "ProximalRegularizer"  # which reads a bank


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, r = points(n, dtype), points(n, dtype, seed=1)
        return Step(lambda: function(x, r), (x, r))

    return make


def _views(expression: str) -> dict[str, Maker]:
    return {OURS: Maker(_two(ours(expression)), expression)}


def _two_of_peer(expression: str) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, r = points(n, dtype), points(n, dtype, seed=1)
        loss = theirs(expression)
        return Step(lambda: loss(x, ref_emb=r), (x, r))

    return make


def _towers(name: str, expression: str, peers: dict[str, Maker]) -> Work:
    def make(text: str, n: int, dtype: torch.dtype) -> Step:
        x, r, rows, loss = points(n, dtype), points(n, dtype, seed=1), torch.arange(n), ours(text)
        return Step(lambda: loss(x, rows, (r, rows)), (x, r))

    makers = {**executions(expression, lambda text: partial(make, text)), **peers}
    return Work(name, "points", makers, scores=lambda n: (n, n))


def _self_supervised(kind: str, temperature: float, peers: dict[str, Maker], *, name_in_lightly: str = "") -> Work:
    """A loss on two views of n / 2 points, each view an anchor to all others."""
    options = f"(temperature={temperature})"

    def make(text: str) -> Make:
        def step(n: int, dtype: torch.dtype) -> Step:
            x, y, loss = points(n, dtype, per_class=2), torch.arange(n // 2).repeat(2), ours(text)
            return Step(lambda: loss(x, y), (x,))

        return step

    theirs_too = {**peers, "lightly": _of_lightly((name_in_lightly or kind) + options, _halves)}
    return Work(f"{kind} of two views", "points", {**executions(kind + options, make), **theirs_too}, scores=lambda n: (n, n))


def _halves(function: Callable[[Tensor, Tensor], Tensor]) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x = points(n, dtype, per_class=2)
        return Step(lambda: function(*x.chunk(2)), (x,))

    return make


def _of_lightly(expression: str, step: Callable[[Callable[[Tensor, Tensor], Tensor]], Make]) -> Maker:
    def make(n: int, dtype: torch.dtype) -> Step:
        from lightly import loss

        return step(eval(expression, {**vars(loss)}))(n, dtype)

    return Maker(make, expression)


def _multiple_negatives(directions: tuple[str, ...], partition: str) -> Maker:
    def make(n: int, dtype: torch.dtype) -> Step:
        from sentence_transformers.sentence_transformer import losses as others

        x, r, rows = points(n, dtype), points(n, dtype, seed=1), torch.arange(n)
        loss = others.MultipleNegativesRankingLoss(nn.Identity(), scale=1 / 0.07, directions=directions, partition_mode=partition)
        return Step(lambda: loss.compute_loss_from_embeddings([x, r], rows), (x, r))

    return Maker(make, f"MultipleNegativesRankingLoss(scale=1 / 0.07, directions={directions})")


def _one_way(x: Tensor, r: Tensor) -> Tensor:
    return cross_entropy(normalize(x) @ normalize(r).T / 0.07, torch.arange(len(x)))


def _clip(x: Tensor, r: Tensor) -> Tensor:
    logits = normalize(x) @ normalize(r).T / 0.07
    rows = torch.arange(len(x))
    return (cross_entropy(logits, rows) + cross_entropy(logits.T, rows)) / 2


def _simclr(x: Tensor, r: Tensor) -> Tensor:
    z = normalize(torch.cat([x, r]))
    n, eye = len(x), torch.eye(len(z), dtype=torch.bool)
    return cross_entropy((z @ z.T / 0.5).masked_fill(eye, -torch.inf), torch.arange(2 * n).roll(n))


def _siglip(x: Tensor, r: Tensor) -> Tensor:
    logits = 10 * normalize(x) @ normalize(r).T - 10
    return binary_cross_entropy_with_logits(logits, torch.eye(len(x), dtype=x.dtype), reduction="sum") / len(x)


def _barlow(x: Tensor, r: Tensor) -> Tensor:
    x, r = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (x, r))
    correlation = x.T @ r / len(x)
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum() + 0.005 * (correlation.square().sum() - diagonal.square().sum())


def _regularizer(name: str) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        from metriczoo.stores import Proxies

        regularizer: Any = getattr(losses, name)()
        if name not in _OF_PROXIES:
            x = points(n, dtype)
            return Step(lambda: regularizer(x), (x,))
        proxies = Proxies(n, DIM, per_class=2) if name.startswith("Sparse") else Proxies(n, DIM)
        proxies = proxies.to(dtype)
        return Step(lambda: regularizer(proxies), (proxies.weight,))

    return make
