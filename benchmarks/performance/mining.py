"""Miners: the choice alone, from embeddings and labels, forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.performance.losses_on_batches import PEER
from benchmarks.performance.migration import kind_of, names_of_rows, ours, table, theirs
from benchmarks.performance.work import OURS, Make, Maker, Step, Work, labels_of, points
from metriczoo import miners
from metriczoo.losses import from_function
from metriczoo.scores import Scores

__all__ = ["works"]

_SIMILARITIES = {"cosine": "Cosine()", "distance": "NegativeEuclidean(normalize=True)"}
_OTHERS = {  # without an equal there: what comes nearest, and why it is not compared
    "SemiHardMiner": (
        'TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=CosineSimilarity())',
        "one negative for each pair here, all of them there",
    ),
    "DistanceWeightedMiner": ("DistanceWeightedMiner()", "each makes its own draws"),
    "PriorityMiner": (None, ""),
    "RandomMiner": (None, ""),
}


def works() -> list[Work]:
    """Every miner; those of the table are compared by the loss of NT-Xent behind them."""
    found = []
    for name, row in names_of_rows(table("Miners")).items():
        similarity = _SIMILARITIES[row.where]
        checks = {OURS: _behind_ours(row.ours, similarity), PEER: _behind_theirs(row.theirs, row.where)}
        makers = {OURS: Maker(_ours(row.ours, similarity), row.ours), PEER: Maker(_theirs(row.theirs), row.theirs)}
        found.append(Work(name, "miners", makers, scores=lambda n: (n, n), checks=checks))
    done = {kind_of(work.makers[OURS].expression) for work in found}
    for name in miners.__all__:
        if name not in {*done, "Miner"}:
            other, why = _OTHERS.get(name, (None, ""))
            makers = {OURS: Maker(_ours(f"{name}()", "Cosine()"), f"{name}()")}
            if other is not None:
                makers[PEER] = Maker(_theirs(other), other)
            found.append(Work(name, "miners", makers, scores=lambda n: (n, n), uncompared=why))
    return found


def _kept(s_n: Scores, s_p: Scores) -> Tensor:
    return s_n.sum() + s_p.sum()


def _ours(expression: str, similarity: str) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, y = points(n, dtype, grad=False), labels_of(n)
        loss = from_function(_kept, miner=ours(expression), similarity=ours(similarity), reduction="sum")
        return Step(lambda: loss(x, y))

    return make


def _theirs(expression: str) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, y, miner = points(n, dtype, grad=False), labels_of(n), theirs(expression)
        return Step(lambda: miner(x, y))

    return make


def _behind(loss: Any, n: int, dtype: torch.dtype, miner: Any = None) -> Step:
    x, y = points(n, dtype), labels_of(n)
    return Step(lambda: loss(x, y) if miner is None else loss(x, y, miner(x, y)), (x,))


def _behind_ours(expression: str, similarity: str) -> Make:
    return lambda n, dtype: _behind(ours(f"NTXentLoss(temperature=0.2, similarity={similarity}, miner={expression})"), n, dtype)


def _behind_theirs(expression: str, where: str) -> Make:
    distance = {"cosine": "", "distance": ", distance=LpDistance()"}[where]
    return lambda n, dtype: _behind(theirs(f"NTXentLoss(temperature=0.2{distance})"), n, dtype, theirs(expression))
