"""Losses on a batch that meets itself: pairs, triplets, sets, ranks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.performance.migration import Row, kind_of, names_of_rows, ours, table, theirs, with_options
from benchmarks.performance.work import OURS, PER_CLASS, Make, Maker, Step, Work, labels_of, points
from metriczoo import losses

__all__ = ["PEER", "RANKING", "executions", "works"]

PEER = "pytorch-metric-learning"
_SQUARE = "n classes of n points"
_BINNED = ("FastAPLoss", "HistogramLoss")
RANKING = ("FastAPLoss", "HistogramLoss", "PNPLoss", "RecallAtKLoss", "SmoothAPLoss")
# Beside those of the table, and those that their defaults make.
_FURTHER = {
    "MarginLoss hardest": "MarginLoss(margin=0.2, beta=1.25, miner=HardMiner())",
    "TripletMarginLoss hardest": "TripletMarginLoss(margin=0.2, miner=HardMiner())",
    "TripletMarginLoss squared": 'TripletMarginLoss(margin=0.2, penalty="squared")',
    "TripletMarginLoss of unscaled distances": 'TripletMarginLoss(margin=5, similarity=NegativeEuclidean(), reduction="mean_active")',
    "TripletMarginLoss hardest of unscaled distances": "TripletMarginLoss(margin=5, similarity=NegativeEuclidean(), miner=HardMiner())",
    "TripletMarginLoss hardest (soft)": 'TripletMarginLoss(margin=0, penalty="soft", similarity=NegativeEuclidean(), miner=HardMiner())',
}
_ELSEWHERE = {  # classes of other families
    "Annealing",
    "BarlowTwinsLoss",
    "FunctionLoss",
    "GradCache",
    "InfoNCELoss",  # another name of NTXentLoss
    "Loss",
    "NCELoss",
    "NonParametricSoftmaxLoss",
    "ProximalRegularizer",
    "SumLoss",
    "SymmetricLoss",
    "VICRegLoss",
}

Build = Callable[[], Any]


def works() -> list[Work]:
    """Every loss on a batch, those of the table beside the peer."""
    found = [_of_row(name, row) for name, row in names_of_rows(table("Losses on pairs and triplets")).items()]
    done = {kind_of(work.makers[OURS].expression) for work in found}
    further = dict(_FURTHER)
    for name in losses.__all__:
        kind = getattr(losses, name)
        if inspect.isclass(kind) and issubclass(kind, losses.Loss) and name not in {*done, *further, *_ELSEWHERE} and not on_classes(kind):
            further[name] = f"{name}()"
    return [*found, *_special(), *(_work(name, expression, _PEERS.get(name, {})) for name, expression in further.items())]


def on_classes(kind: type) -> bool:
    """Whether a loss is made for a number of classes."""
    return "embedding_dim" in inspect.signature(kind).parameters


def executions(expression: str, make: Callable[[str], Make]) -> dict[str, Maker]:
    """A loss of ours as it comes, on one dense block, and compiled, where it can be."""
    kind = getattr(losses, kind_of(expression))
    variants = {OURS: expression}
    if kind.separable:
        variants[f"{OURS}-dense"] = with_options(expression, execution="dense")
        if "compile" in inspect.signature(losses.Loss.__init__).parameters:
            variants[f"{OURS}-compiled"] = with_options(expression, compile=True)
    return {library: Maker(make(text), text) for library, text in variants.items()}


def _of_row(name: str, row: Row) -> Work:
    square = _SQUARE in row.where
    unit = "unit vectors only" in row.where
    make = partial(_step, square=square)
    peer = Maker(make(partial(theirs, row.theirs), normalize if unit else None), row.theirs)
    return _work(name, row.ours, {PEER: peer}, lambda text: make(partial(ours, text), normalize if row.on_unit else None), row)


def _work(name: str, expression: str, peers: dict[str, Maker], make: Callable[[str], Make] | None = None, row: Row | None = None) -> Work:
    makers = executions(expression, make or (lambda text: _step(partial(ours, text))))
    kind = kind_of(expression)
    tolerance = max(1e-8, 10 * row.tolerance if row else 0)
    square = row is not None and _SQUARE in row.where
    elements = partial(_elements, kind in _BINNED, square) if kind in RANKING else None
    family = "ranking" if kind in RANKING else "pairs"
    return Work(name, family, {**makers, **peers}, scores=lambda n: (n, n), tolerance=tolerance, elements=elements)


def _elements(binned: bool, square: bool, n: int) -> int:
    """A loss on histograms puts each score in a bin, one on ranks compares it with each positive of its anchor."""
    return n * n * (1 if binned else (isqrt(n) if square else PER_CLASS) - 1)


def _step(build: Build, prepare: Callable[[Tensor], Tensor] | None = None, *, square: bool = False, per_class: int = PER_CLASS) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        count = isqrt(n) if square else per_class
        y = labels_of(n, per_class=count, shuffle=not square)
        x = points(n, dtype, per_class=count)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = build().to(dtype)
        return Step(lambda: loss(x if prepare is None else prepare(x), y), (x, *loss.parameters()))

    return make


# ---- peers that the table does not have


def _torch_triplets(n: int, dtype: torch.dtype) -> Step:
    x, y = points(n, dtype), labels_of(n)
    loss = nn.TripletMarginLoss(margin=5, eps=0, reduction="none")

    def forward() -> Tensor:
        same = y[:, None] == y
        a, p, k = ((same & ~torch.eye(n, dtype=torch.bool))[:, :, None] & ~same[:, None, :]).nonzero().unbind(1)
        each = loss(x[a], x[p], x[k])
        value: Tensor = each.sum() / (each > 0).sum().clamp(min=1)
        return value

    return Step(forward, (x,))


def _sentence_transformers(name: str, **options: float) -> Maker:
    def make(n: int, dtype: torch.dtype) -> Step:
        from sentence_transformers.sentence_transformer import losses as others

        x, y = points(n, dtype), labels_of(n)
        loss = getattr(others, name)(model=nn.Identity(), **options)
        return Step(lambda: loss.compute_loss_from_embeddings([x], y), (x,))

    return Maker(make, f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})")


def _named_pairs(build: Build, named: bool) -> Make:
    """N-pairs: the first point of each class is an anchor, the second its positive."""

    def make(n: int, dtype: torch.dtype) -> Step:
        x, y = points(n, dtype, per_class=2), labels_of(n, per_class=2, shuffle=False)
        loss = build()
        return Step(lambda: loss(x[0::2], y[0::2], (x[1::2], y[1::2])) if named else loss(x, y), (x,))

    return make


def _instances(build: Build) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, loss = points(n, dtype), build()
        return Step(lambda: loss(x, torch.arange(n)), (x,))

    return make


def _behind(build: Build, miner: Build) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, y = points(n, dtype), labels_of(n)
        loss, choose = build().to(dtype), miner()
        return Step(lambda: loss(x, y, choose(x, y)), (x, *loss.parameters()))

    return make


_UNSCALED = "TripletMarginLoss(margin=5, distance=LpDistance(normalize_embeddings=False))"
_PRODUCT = "NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False))"
_MARGIN = "MarginLoss(margin=0.2, beta=1.25, learn_beta=True)"
_HARDEST = "TripletMarginLoss(margin=0.2, distance=CosineSimilarity(), reducer=MeanReducer())"
_BY_COSINE = "BatchHardMiner(distance=CosineSimilarity())"
_PEERS = {
    "TripletMarginLoss hardest": {
        PEER: Maker(_behind(partial(theirs, _HARDEST), partial(theirs, _BY_COSINE)), f"{_HARDEST}, {_BY_COSINE}")
    },
    "MarginLoss hardest": {
        PEER: Maker(_behind(partial(theirs, _MARGIN), partial(theirs, "BatchHardMiner()")), f"{_MARGIN}, BatchHardMiner()")
    },
    "TripletMarginLoss of unscaled distances": {
        PEER: Maker(_step(partial(theirs, _UNSCALED)), _UNSCALED),
        "sentence-transformers": _sentence_transformers("BatchAllTripletLoss", margin=5),
        "torch": Maker(_torch_triplets, "nn.TripletMarginLoss(margin=5, eps=0) on all triplets, listed by a mask"),
    },
    "TripletMarginLoss hardest of unscaled distances": {
        "sentence-transformers": _sentence_transformers("BatchHardTripletLoss", margin=5),
    },
    "TripletMarginLoss hardest (soft)": {"sentence-transformers": _sentence_transformers("BatchHardSoftMarginTripletLoss")},
}


def _special() -> list[Work]:
    """Losses whose calls or batches differ from those of others, or from library to library."""
    row = names_of_rows(table("Losses on pairs and triplets"))["TripletMarginLoss"]
    larger = {
        **executions(row.ours, lambda text: _step(partial(ours, text), per_class=8)),
        PEER: Maker(_step(partial(theirs, row.theirs), per_class=8), row.theirs),
    }
    pairs = {
        **executions("NPairsLoss()", lambda text: _named_pairs(partial(ours, text), named=True)),
        PEER: Maker(_named_pairs(partial(theirs, _PRODUCT), named=False), _PRODUCT),
    }
    instances = {
        **executions("InstanceLoss(scale=8.0)", lambda text: _instances(partial(ours, text))),
        PEER: Maker(_instances(partial(theirs, "InstanceLoss(gamma=8)")), "InstanceLoss(gamma=8)"),
    }
    return [
        Work("TripletMarginLoss of 8 per class", "pairs", larger, scores=lambda n: (n, n)),
        Work("NPairsLoss of named pairs", "pairs", pairs, scores=lambda n: (n // 2, n // 2)),
        Work("InstanceLoss of instances", "pairs", instances, scores=lambda n: (n, n)),
    ]
