"""All works, and the sizes at which a family is measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.performance import banks, evaluation, losses_on_batches, losses_on_classes, mining, points_and_views
from benchmarks.performance.work import OURS, Work

__all__ = ["FAMILIES", "LIBRARIES", "Family", "all_works", "available", "seconds_of", "sizes_of"]

# Library -> the module that must be there for it.
LIBRARIES = {
    OURS: "metriczoo",
    f"{OURS}-dense": "metriczoo",
    f"{OURS}-compiled": "metriczoo",
    f"{OURS}-faiss": "faiss",
    "pytorch-metric-learning": "pytorch_metric_learning",
    "lightly": "lightly",
    "sentence-transformers": "sentence_transformers",
    "torch": "torch",
    "lemniscate-style": "torch",
    "scikit-learn": "sklearn",
    "faiss": "faiss",
}


@dataclass(frozen=True)
class Family:
    """Works that are shown together.

    Attributes:
        title: what they are.
        size: what their size counts.
        sizes: of a full run, by suite.
        quick: sizes of a run that only shows that all works.
        check: the size at which outcomes are compared.
        warm: the size from which on our code takes the same path, so that a call at that size warms up for all larger ones.
        products: how many matrix products of the shape of the scores there are at least.
    """

    title: str
    size: str
    sizes: Mapping[str, Sequence[int]]
    quick: Sequence[int]
    check: int
    warm: int
    products: int = 3


_PAIRS = {"speed": (256, 1024, 4096), "memory": (256, 4096, 16_384)}
_RANKS = {"speed": _PAIRS["speed"], "memory": (256, 4096, 8192)}
_CLASSES = {"speed": (10_000, 100_000, 1_000_000), "memory": (10_000, 100_000, 1_000_000)}
_METRICS = {"speed": (5_000, 20_000, 60_000), "memory": (5_000, 20_000, 60_000)}
_BANKS = {"speed": (10_000, 100_000, 1_280_000), "memory": (10_000, 100_000, 1_280_000)}
_VAST = (*_PAIRS["memory"], 65_536)
_SIZES = {  # of works that are measured at sizes of their own
    "speed": {
        "LiftedStructureLoss": (256, 512, 1024, 4096),
        "NCELoss": (*_BANKS["speed"], 5_000_000),
        "NTXentLoss": (256, 512, 1024, 4096),
        "TripletMarginLoss of 8 per class": (4096,),
    },
    "memory": {
        "CircleLoss": _VAST,
        "ContrastiveLoss": _VAST,
        "MultiSimilarityLoss": _VAST,
        "NCELoss": (*_BANKS["memory"], 5_000_000),
        "NTXentLoss": _VAST,
        "Recall@1 + R-precision + MAP@R": (*_METRICS["memory"], 200_000),
        "SupConLoss": _VAST,
        "TripletMarginLoss hardest": _VAST,
        "TripletMarginLoss of 8 per class": (4096, 32_768),
    },
}
_PATIENCE = 6  # times as long may a call take that is larger than all of its family
FAMILIES = {
    "pairs": Family("Losses on pairs, triplets and sets", "points in the batch", _PAIRS, (16, 36), 64, 2048),
    "ranking": Family("Losses on ranks", "points in the batch", _RANKS, (16, 36), 64, 2048),
    "points": Family("Two views, and regularisers", "points in the batch", _PAIRS, (16, 36), 64, 2048),
    "classes": Family("Losses on classes, 256 points", "classes", _CLASSES, (20, 50), 50, 50_000),
    "bank": Family("Losses on a memory bank, 256 points", "rows of the bank", _BANKS, (300, 600), 500, 50_000),
    "miners": Family("Miners", "points in the batch", _PAIRS, (16, 36), 64, 2048, products=1),
    "metrics": Family("Metrics", "points", _METRICS, (100, 200), 300, 5_000, products=1),
}


@cache
def all_works() -> Mapping[str, Work]:
    """Every work by name."""
    modules = (losses_on_batches, points_and_views, losses_on_classes, banks, mining, evaluation)
    works = [work for module in modules for work in module.works()]
    named = {work.name: work for work in works}
    assert len(named) == len(works), "two works have one name"
    return dict(sorted(named.items(), key=lambda item: list(FAMILIES).index(item[1].family)))


def sizes_of(work: Work, suite: str) -> Sequence[int]:
    """Sizes of a full run."""
    sizes = _SIZES[suite].get(work.name, FAMILIES[work.family].sizes[suite])
    return [size for size in sizes if work.max_size is None or size <= work.max_size]


def seconds_of(work: Work, suite: str, size: int, seconds: float) -> float:
    """How long one call may take, of those that usually may take `seconds`."""
    return seconds * (_PATIENCE if size > max(FAMILIES[work.family].sizes[suite]) else 1)


@cache
def available(library: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(LIBRARIES[library]) is not None
