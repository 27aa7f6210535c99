"""Losses by loops over Python lists: every anchor, every reference, every pair. The reference that everything is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from zoo import Entry, Groups

from metriczoo import similarity as zoo

__all__ = ["MATRIX", "SIMILARITIES", "Anchor", "Points", "anchors_of", "differences", "naive", "reduced", "score_of"]

Score = Callable[[Sequence[float], Sequence[float]], float]
MATRIX = [[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 1.5]]  # positive definite


def inner(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def cosine(x: Sequence[float], y: Sequence[float]) -> float:
    norms = math.hypot(*x) * math.hypot(*y)
    return inner(x, y) / norms if norms else 0.0


def squared(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def mahalanobis(x: Sequence[float], y: Sequence[float]) -> float:
    difference = [a - b for a, b in zip(x, y, strict=True)]
    return inner(difference, [inner(row, difference) for row in MATRIX])


# name: (the similarity under test, for points of dimension 3; the same on two lists)
SIMILARITIES: dict[str, tuple[Callable[[], zoo.Similarity], Score]] = {
    "cosine": (zoo.Cosine, cosine),
    "inner product": (zoo.InnerProduct, inner),
    "euclidean": (zoo.NegativeEuclidean, lambda x, y: -math.dist(x, y)),
    "squared euclidean": (zoo.NegativeSquaredEuclidean, lambda x, y: -squared(x, y)),
    "mahalanobis": (lambda: zoo.Mahalanobis(3, matrix=torch.tensor(MATRIX, dtype=torch.float64)), lambda x, y: -mahalanobis(x, y)),
}


def score_of(entry: Entry) -> Score:
    """The similarity of the paper, on two lists."""
    return SIMILARITIES[entry.similarity][1]


@dataclass
class Points:
    """References, or a batch: a label < 0 is ignored, an id < 0 equals no other."""

    rows: list[list[float]]
    labels: list[int]
    ids: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, ids: Sequence[int] | None = None) -> Points:
        return cls(embeddings.detach().double().tolist(), labels.tolist(), [-1] * len(labels) if ids is None else list(ids))

    def __add__(self, other: Points) -> Points:
        return Points(self.rows + other.rows, self.labels + other.labels, self.ids + other.ids)


@dataclass
class Anchor:
    """The scores of one anchor, and of its positives to its negatives."""

    s_n: list[float]
    s_p: list[float]
    between: list[list[float]]


def anchors_of(score: Score, batch: Points, references: Points) -> list[Anchor | None]:
    """By two loops; None for an anchor that is ignored."""
    result: list[Anchor | None] = []
    for x, label, i in zip(batch.rows, batch.labels, batch.ids, strict=True):
        others = [
            (y, other == label)
            for y, other, j in zip(references.rows, references.labels, references.ids, strict=True)
            if other >= 0 and not (i == j and i >= 0)
        ]
        negatives, positives = [y for y, same in others if not same], [y for y, same in others if same]
        between = [[score(p, n) for n in negatives] for p in positives]
        result.append(None if label < 0 else Anchor([score(x, y) for y in negatives], [score(x, y) for y in positives], between))
    return result


def groups_of(entry: Entry, anchors: list[Anchor | None], at: list[Anchor | None] | None = None) -> list[Groups | None]:
    """The losses of the groups of each anchor; weights that are constants to the gradient are those of `at`."""
    result: list[Groups | None] = []
    for anchor, base in zip(anchors, anchors if at is None else at, strict=True):
        if anchor is None or base is None:
            result.append(None)
        else:
            spec = entry.spec_at(base.s_n, base.s_p)
            result.append(spec(anchor.s_n, anchor.s_p, anchor.between) if entry.between else spec(anchor.s_n, anchor.s_p))
    return result


def reduced(entry: Entry, anchors: list[Anchor | None], groups: list[Groups | None], reduction: str) -> list[float]:
    """One number, or one per anchor for "none"."""
    if reduction == "none":
        return [0.0 if g is None else math.fsum(map(math.fsum, g)) for g in groups]
    kept = [(a, g) for a, g in zip(anchors, groups, strict=True) if a is not None and g is not None]
    terms = list(zip(*(g for _, g in kept), strict=True)) or [()]
    totals = [math.fsum(map(math.fsum, term)) for term in terms]
    counts = [sum(map(len, term)) for term in terms]
    if entry.counts_together:
        active = [sum(len(group) * (math.fsum(group) != 0) for group in term) for term in terms]
    else:
        active = [sum(loss != 0 for group in term for loss in group) for term in terms]
    pairs = sum(len(a.s_n) + len(a.s_p) for a, g in kept if g[0]) if entry.per_anchor else sum(counts)
    divisors = {"sum": [1] * len(terms), "mean": counts, "mean_active": active, "mean_pairs": [pairs] * len(terms)}[reduction]
    return [math.fsum(total / max(1, divisor) for total, divisor in zip(totals, divisors, strict=True))]


def naive(entry: Entry, score: Score, batch: Points, references: Points, reduction: str = "mean") -> list[float]:
    """The loss of a batch."""
    anchors = anchors_of(score, batch, references)
    return reduced(entry, anchors, groups_of(entry, anchors), reduction)


def differences(
    entry: Entry, score: Score, batch: Points, extra: Points, *, own: bool, reduction: str = "mean", step: float = 1e-6
) -> Tensor:
    """Central differences of the loss in the coordinates of the batch and then of the other references `extra`, `[n + m, d]`.

    `own`: whether the batch is among the references.
    """
    n = len(batch.rows)
    every = batch + extra

    def anchors(rows: list[list[float]]) -> list[Anchor | None]:
        points = Points(rows, every.labels, every.ids)
        here = Points(rows[:n], batch.labels, batch.ids)
        return anchors_of(score, here, points if own else Points(rows[n:], extra.labels, extra.ids))

    base = anchors(every.rows)

    def value(rows: list[list[float]]) -> float:
        moved = anchors(rows)
        return reduced(entry, moved, groups_of(entry, moved, base), reduction)[0]

    gradient = torch.zeros(len(every.rows), len(every.rows[0]), dtype=torch.float64)
    for i, row in enumerate(every.rows):
        for k in range(len(row)):
            ends = [value([*every.rows[:i], [*row[:k], row[k] + h, *row[k + 1 :]], *every.rows[i + 1 :]]) for h in (step, -step)]
            gradient[i, k] = (ends[0] - ends[1]) / (2 * step)
    return gradient
