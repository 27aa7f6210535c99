"""The only file that imports faiss: exact nearest neighbours, and k-means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import describe
from metriczoo._execution import full_precision
from metriczoo.metrics._inputs import Scoring
from metriczoo.similarity import NegativeEuclidean, NegativeSquaredEuclidean, Similarity

__all__ = ["Neighbours", "check_similarity", "euclidean_points", "kmeans"]


def euclidean_points(similarity: Scoring, x: Tensor) -> Tensor:
    """Points `[n, d']` between which `similarity` is the inner product, or falls with the Euclidean distance."""
    check_similarity(similarity)
    with torch.no_grad(), full_precision(x):
        prepared = similarity.prepare(x)
    return prepared[:, :-1] if _is_euclidean(similarity) else prepared  # a distance has the squared norm at the end


def check_similarity(similarity: Scoring) -> None:
    """Raise unless `similarity` is an inner product or falls with the Euclidean distance of prepared points."""
    if not (_is_euclidean(similarity) or (isinstance(similarity, Similarity) and similarity.is_product)):
        raise ValueError(
            f"Expected `similarity` to be by inner product or Euclidean distance, as faiss needs it, but got {describe(similarity)}."
        )


def _is_euclidean(similarity: Scoring) -> bool:
    """Whether it scores as the Euclidean distances do: a subclass whose score is its own need not."""
    return getattr(type(similarity), "score", None) in (NegativeSquaredEuclidean.score, NegativeEuclidean.score)


class Neighbours:
    """Candidates for the nearest references of queries, found by a flat faiss index and scored again pair by pair.

    faiss works in float32 and expands distances, so its scores are only good to `slack`; the pairwise scores are exact, and equal points
    score equally.
    """

    def __init__(self, similarity: Scoring, queries: Tensor, references: Tensor) -> None:
        import faiss

        self.references = euclidean_points(similarity, references)
        self.queries = self.references if queries is references else euclidean_points(similarity, queries)
        self.product = not _is_euclidean(similarity)
        self.index = (faiss.IndexFlatIP if self.product else faiss.IndexFlatL2)(self.queries.shape[1])
        self.index.add(_array(self.references))
        norm, largest = self.queries.norm(dim=1, keepdim=True), self.references.norm(dim=1).max()
        scale = norm * largest if self.product else (norm + largest).square()
        single = torch.finfo(torch.float32)
        if float(scale.max()) > single.max:
            raise ValueError(
                f"Expected scores that fit in float32, as faiss needs it, but got norms up to {max(float(norm.max()), float(largest)):.3g}."
            )
        # [q, 1]: rounding of a sum of d terms, and of numbers that are too small
        self.slack = self.queries.shape[1] ** 0.5 * (4 * single.eps * scale + single.tiny * (1 + norm + largest))

    def search(self, rows: Tensor, m: int) -> Tensor:
        """The `m` nearest references of queries `rows` `[b]`, `[b, m]`."""
        return torch.from_numpy(self.index.search(_array(self.queries[rows]), m)[1]).to(rows.device)

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores of queries `rows` `[b]` to references `columns` `[b, m]`: inner products, or negated squared distances."""
        a, r = self.queries[rows].unsqueeze(1), self.references[columns]
        return (a * r).sum(2) if self.product else -(a - r).square().sum(2)


def kmeans(points: Tensor, num_clusters: int, *, niter: int, nredo: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
    """Clusters `[n]` of points `[n, d]` by Lloyd's algorithm on all the points, and what to report with a number that depends on it."""
    import faiss

    array = _array(points)
    # Without these bounds faiss warns below 39 points per cluster, and above 256 clusters a sample of the points.
    size = {"min_points_per_centroid": 1, "max_points_per_centroid": array.shape[0]}
    model = faiss.Kmeans(array.shape[1], num_clusters, niter=niter, nredo=nredo, seed=seed, **size)
    model.train(array)
    clusters = torch.from_numpy(model.index.search(array, 1)[1][:, 0])
    return clusters, {"faiss": faiss.__version__, "seed": seed, "niter": niter, "nredo": nredo}


def _array(x: Tensor) -> Any:
    return x.detach().to("cpu", torch.float32).contiguous().numpy()
