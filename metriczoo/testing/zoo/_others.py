"""Losses of two views, regularisers of points, and sums of losses, as their papers say them."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metriczoo import losses
from metriczoo.losses.tags import Tags
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._lists import cos, d2, dot, hinge, length
from metriczoo.testing.zoo._pairs import circle_attached, triplet

__all__ = ["SUBJECTS"]


def mean(values):
    values = list(values)
    return math.fsum(values) / max(1, len(values))


# ---- two views: the halves of a batch, row by row


def _halves(x: Any) -> tuple[Any, Any]:
    n = len(x) // 2
    return x[:n], x[n : 2 * n]


def _views(loss: Any, x: Tensor, _: Any) -> Tensor:
    value: Tensor = loss(*_halves(x.clamp(-1e4, 1e4)))  # covariances are squared: there is no room in float32 for larger ones
    return value


def centred(rows):
    return [[v - mean(column) for v in column] for column in zip(*rows, strict=True)]


# Bardes et al. 2022, equations 1 to 6, with the authors' halves: v is the mean over both views, c their sum.
def vicreg(embeddings, labels, *, invariance=25.0, variance=25.0, covariance=1.0):
    x, y = _halves(embeddings)
    n, d = len(x), len(x[0])
    total = invariance * mean(d2(a, b) / d for a, b in zip(x, y, strict=True))
    for columns in (centred(x), centred(y)):
        total += variance * mean(hinge(1 - math.sqrt(dot(c, c) / (n - 1) + 1e-4)) for c in columns) / 2
        total += covariance * math.fsum((dot(a, b) / (n - 1)) ** 2 for a, b in itertools.permutations(columns, 2)) / d
    return total


# Zbontar et al. 2021, equations 1 and 2; the eps of batch normalisation is that of PyTorch.
def barlow_twins(embeddings, labels, *, off_diagonal=0.0051):
    x, y = ([[v / math.sqrt(dot(c, c) / len(c) + 1e-5) for v in c] for c in centred(view)] for view in _halves(embeddings))
    correlation = [[dot(a, b) / len(a) for b in y] for a in x]
    own = math.fsum((1 - row[k]) ** 2 for k, row in enumerate(correlation))
    return own + off_diagonal * math.fsum(c**2 for k, row in enumerate(correlation) for m, c in enumerate(row) if m != k)


# ---- regularisers of points


def _of_points(regularizer: Any, x: Tensor, _: Any) -> Tensor:
    value: Tensor = regularizer(x.clamp(-1e4, 1e4))  # squared norms are squared
    return value


# Sohn 2016, section 3.2.2.
def embedding_norm(embeddings, labels, *, power=2.0):
    return mean(length(x) ** power for x in embeddings)


# Yuan et al. 2019, equation 8.
def zero_mean(embeddings, labels):
    return mean(abs(math.fsum(x)) for x in embeddings)


# Wu et al. 2017, equation 5, for every centre.
def center_invariant(embeddings, labels):
    squares = [dot(x, x) for x in embeddings]
    return mean((s - mean(squares)) ** 2 / 4 for s in squares)


# Bansal et al. 2018, section 3.1, of different proxies.
def orthogonality(embeddings, labels):
    return mean(cos(x, y) ** 2 for x, y in itertools.permutations(embeddings, 2))


# Qian et al. 2019, equation 8: pairs of rows are the centres of a class.
def sparse_centers(embeddings, labels):
    x, y = _halves(embeddings)
    return mean(math.sqrt(2 + 1e-5 - 2 * cos(a, b)) for a, b in zip(x, y, strict=True)) / 2


def _pairs(regularizer: Any, x: Tensor, _: Any) -> Tensor:
    value: Tensor = regularizer(torch.stack(_halves(x), 1))
    return value


# ---- sums


# A weight for each; every part averages as it does alone.
def triplet_and_circle(s_n, s_p):
    return triplet(s_n, s_p, margin=0.2), [0.5 * circle_attached(s_n, s_p, margin=0.4, scale=20.0)]


# A batch that meets itself in both directions is the batch; its chunks, encoded apart, are the batch.
def _both_ways(loss: Any, x: Tensor, labels: Any) -> Tensor:
    value: Tensor = loss(x, labels, (x, labels))
    return value


def symmetric(embeddings, labels):
    own = [(x, y) for x, y in zip(embeddings, labels, strict=True) if y >= 0]
    scores = [([cos(x, z) for z, w in own if w != y], [cos(x, z) for z, w in own if w == y]) for x, y in own]
    return [t for s_n, s_p in scores for t in triplet(s_n, s_p)]


SUBJECTS = [
    Subject(losses.SymmetricLoss(losses.TripletMarginLoss()), symmetric, call=_both_ways),
    Subject(losses.VICRegLoss(), vicreg, call=_views),
    Subject(
        losses.VICRegLoss(1.0, 2.0, 30.0),
        partial(vicreg, invariance=1.0, variance=2.0, covariance=30.0),
        name="VICReg-weights",
        call=_views,
    ),
    Subject(losses.BarlowTwinsLoss(), barlow_twins, call=_views),
    Subject(losses.BarlowTwinsLoss(0.75), partial(barlow_twins, off_diagonal=0.75), name="BarlowTwins-weight", call=_views),
    Subject(losses.EmbeddingNormRegularizer(), embedding_norm, call=_of_points),
    Subject(losses.EmbeddingNormRegularizer(1.0), partial(embedding_norm, power=1.0), name="EmbeddingNorm-1", call=_of_points),
    Subject(losses.ZeroMeanRegularizer(), zero_mean, call=_of_points),
    Subject(losses.CenterInvariantRegularizer(), center_invariant, call=_of_points),
    Subject(losses.ProxyOrthogonalityRegularizer(), orthogonality, call=_of_points),
    Subject(losses.SparseCentersRegularizer(), sparse_centers, call=_pairs),
    Subject(
        losses.SumLoss([losses.TripletMarginLoss(), losses.CircleLoss(0.4, 20.0)], [1.0, 0.5]),
        triplet_and_circle,
        Tags(self_paced=True, needs_positives=True, needs_negatives=True),
    ),
]
