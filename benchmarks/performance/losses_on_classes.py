"""Losses of `BATCH` points on vectors of many classes; the size is the number of classes."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from benchmarks.performance.losses_on_batches import PEER, executions, on_classes
from benchmarks.performance.migration import kind_of, names_of_rows, ours, table, theirs
from benchmarks.performance.work import BATCH, DIM, OURS, Make, Maker, Step, Work, points
from metriczoo import losses

__all__ = ["works"]

_LARGE = ("ArcFaceLoss", "SoftmaxLoss")  # which are measured with a million classes
_SPARSE = ("CenterLoss", "HierarchicalSoftmaxLoss", "NegativeSamplingLoss")  # a point meets few classes: no matrix product
_ALIASES = ("AMSoftmaxLoss",)  # of CosFaceLoss

Textbook = Callable[[Tensor, Tensor, Tensor], Tensor]  # of points, weights [C, d], labels


def works() -> list[Work]:
    """Every loss on classes, those of the table beside the peer."""
    found = []
    for name, row in names_of_rows(table("Losses on class weights")).items():
        peer = {PEER: Maker(_step(partial(theirs, row.theirs)), row.theirs)}
        found.append(_work(name, row.ours, peer, tolerance=10 * row.tolerance))
    done = {kind_of(work.makers[OURS].expression) for work in found}
    for name in losses.__all__:
        kind = getattr(losses, name)
        if inspect.isclass(kind) and issubclass(kind, losses.Loss) and on_classes(kind) and name not in {*done, *_ALIASES, "Loss"}:
            expression = _EXPRESSIONS.get(name, f"{name}(C, d)")
            found.append(_work(name, expression, _PEERS.get(name, {}), tolerance=1e-6))
    return [*found, _sampled(next(work for work in found if work.name == "ArcFaceLoss"))]


def _work(name: str, expression: str, peers: dict[str, Maker], tolerance: float) -> Work:
    makers = {**executions(expression, lambda text: _step(partial(ours, text))), **peers, **_textbook(name)}
    rows = int(found[1]) if (found := re.search(r"per_class=(\d+)", expression)) else 1
    scores = None if kind_of(expression) in _SPARSE else lambda n: (BATCH, rows * n)
    drawn = "each draws its own classes" if kind_of(expression) == "NegativeSamplingLoss" else ""
    limit = None if name in _LARGE else 100_000
    return Work(name, "classes", makers, scores=scores, tolerance=max(tolerance, 1e-8), max_size=limit, uncompared=drawn)


def _sampled(whole: Work) -> Work:
    """ArcFace on a tenth of the classes, drawn at each call, beside others on all."""
    expression = 'ArcFaceLoss(proxies=Proxies(C, d, sample=0.1), margin=radians(28.6), scale=64, gradient="exact")'
    others = {library: maker for library, maker in whole.makers.items() if not library.startswith(OURS)}
    makers = {**executions(expression, lambda text: _step(partial(ours, text))), **others}
    why = "a tenth of the classes here, all of them there"
    return Work("ArcFaceLoss on a tenth of the classes", "classes", makers, scores=lambda n: (BATCH, n // 10), uncompared=why)


def _data(num_classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    return points(BATCH, dtype), torch.randint(num_classes, (BATCH,), generator=generator)


def _weights(rows: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(rows)).to(dtype)


def _step(build: Callable[[int, int], Any], compared: int | None = None) -> Make:
    def make(num_classes: int, dtype: torch.dtype) -> Step:
        x, y = _data(num_classes, dtype)
        loss = build(num_classes, DIM).to(dtype)
        for parameter in loss.parameters():
            if parameter.dim() == 2:
                w = _weights(parameter.numel() // DIM, dtype)
                parameter.data.copy_(w if parameter.shape == w.shape else w.T)
        return Step(lambda: loss(x, y), (x, *loss.parameters()), compared)

    return make


# ---- the form of textbooks, which is what margin heads of face recognition do


def _textbook(name: str) -> dict[str, Maker]:
    if name not in _TEXTBOOK:
        return {}
    text, function = _TEXTBOOK[name]

    def make(num_classes: int, dtype: torch.dtype) -> Step:
        x, y = _data(num_classes, dtype)
        w = _weights(num_classes, dtype).requires_grad_()
        return Step(lambda: function(x, w, y), (x, w))

    return {"torch": Maker(make, text)}


def _arc_face(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    cosine = linear(normalize(x), normalize(w))
    own = cosine.gather(1, y[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
    return cross_entropy(64 * cosine.scatter(1, y[:, None], (own.acos() + math.radians(28.6)).cos()), y)


def _cos_face(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    cosine = linear(normalize(x), normalize(w))
    margin = torch.zeros_like(cosine).scatter_(1, y[:, None], 0.35)
    return cross_entropy(64 * (cosine - margin), y)


_TEXTBOOK: dict[str, tuple[str, Textbook]] = {
    "CosFaceLoss": ("cross_entropy(64 * (cosines - margins))", _cos_face),
    "ArcFaceLoss": ("cross_entropy(64 * cos(acos(cosines) + margins))", _arc_face),
    "NormFaceLoss as NormalizedSoftmaxLoss": (
        "cross_entropy(20 * linear(normalize(x), normalize(w)))",
        lambda x, w, y: cross_entropy(20 * linear(normalize(x), normalize(w)), y),
    ),
    "SoftmaxLoss": ("cross_entropy(linear(x, w))", lambda x, w, y: cross_entropy(linear(x, w), y)),
}


# ---- one whose value differs by a factor, and that takes its weights as they are for unit vectors


class _Scaled(torch.nn.Module):
    def __init__(self, loss: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.loss, self.factor = loss, factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = self.factor * self.loss(x, y)
        return value


def _p2s_grad(num_classes: int, dim: int) -> torch.nn.Module:
    return _Scaled(theirs("P2SGradLoss(d, C)", num_classes, dim), num_classes / 2)


_EXPRESSIONS = {"HierarchicalSoftmaxLoss": "HierarchicalSoftmaxLoss(range(1, C + 1), d)"}
_PEERS = {"P2SGradLoss": {PEER: Maker(_step(_p2s_grad, compared=1), "P2SGradLoss(d, C), times C / 2")}}
