"""Points between which a similarity is an inner product or falls with the Euclidean distance, scored pair by pair."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from metriczoo.metrics._blocks import Scores
from metriczoo.metrics._inputs import Scoring
from metriczoo.similarity import NegativeEuclidean, NegativeSquaredEuclidean, Similarity

__all__ = ["Pairs", "euclidean_points", "has_points"]


def has_points(similarity: Scoring) -> bool:
    """Whether `similarity` is an inner product of prepared points, or falls with their Euclidean distance."""
    return _is_euclidean(similarity) or (isinstance(similarity, Similarity) and similarity.is_product)


def _is_euclidean(similarity: Scoring) -> bool:
    """Whether it scores as the Euclidean distances do: a subclass whose score is its own need not."""
    return getattr(type(similarity), "score", None) in (NegativeSquaredEuclidean.score, NegativeEuclidean.score)


def euclidean_points(similarity: Scoring, prepared: Tensor) -> Tensor:
    """Those points `[n, d]` of prepared points `[n, d']`."""
    return prepared[:, :-1] if _is_euclidean(similarity) else prepared  # a distance has the squared norm at the end


class Pairs:
    """Scores of single pairs of points: exact, so that equal points score equally, unlike those of a matrix product.

    Args:
        scores: of a similarity of which `has_points` holds.
    """

    def __init__(self, scores: Scores) -> None:
        self.queries = euclidean_points(scores.similarity, scores.queries)  # [q, d]
        self.symmetric = scores.symmetric  # whether the queries are the references
        if self.symmetric:
            self.references = self.queries  # [n, d]
        else:
            self.references = euclidean_points(scores.similarity, scores.references)
            if scores.columns is not None:
                self.references = self.references[scores.columns]
        self.product = not _is_euclidean(scores.similarity)

    def of(self, rows: Tensor) -> Pairs:
        """The pairs of queries `rows` `[b]` alone."""
        some = copy(self)
        some.queries, some.symmetric = self.queries[rows], False
        return some

    def slack(self, dtype: torch.dtype) -> Tensor:
        """`[q, 1]`: how far apart two scores of a query may be that a matrix product in `dtype` orders the other way.

        That is the rounding of a sum of d terms, and of numbers that are too small.
        """
        norm, largest = self.queries.norm(dim=1, keepdim=True), self.references.norm(dim=1).max()
        scale = norm * largest if self.product else (norm + largest).square()
        number = torch.finfo(dtype)
        slack: Tensor = self.queries.shape[1] ** 0.5 * (4 * number.eps * scale + number.tiny * (1 + norm + largest))
        return slack

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores of queries `rows` `[b]` to references `columns` `[b, m]`: inner products, or negated squared distances."""
        a, r = self.queries[rows].unsqueeze(1), self.references[columns]
        return (a * r).sum(2) if self.product else -(a - r).square().sum(2)
