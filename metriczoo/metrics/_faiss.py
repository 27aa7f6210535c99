"""The only file that imports faiss: exact nearest neighbours, and k-means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import describe
from metriczoo.metrics._inputs import Scoring
from metriczoo.metrics._pairs import Pairs, has_points

__all__ = ["Index", "check_similarity", "kmeans"]


def check_similarity(similarity: Scoring) -> None:
    """Raise unless `similarity` is an inner product or falls with the Euclidean distance of prepared points."""
    if not has_points(similarity):
        raise ValueError(
            f"Expected `similarity` to be by inner product or Euclidean distance, as faiss needs it, but got {describe(similarity)}."
        )


class Index:
    """The nearest references of queries by a flat faiss index, which works in float32 and expands distances."""

    def __init__(self, pairs: Pairs) -> None:
        import faiss

        self.queries = pairs.queries
        norms = [float(points.norm(dim=1).max()) for points in (pairs.queries, pairs.references)]
        scale = norms[0] * norms[1] if pairs.product else sum(norms) ** 2
        if scale > torch.finfo(torch.float32).max:
            raise ValueError(f"Expected scores that fit in float32, as faiss needs it, but got norms up to {max(norms):.3g}.")
        self.index = (faiss.IndexFlatIP if pairs.product else faiss.IndexFlatL2)(pairs.references.shape[1])
        self.index.add(_array(pairs.references))

    def search(self, rows: Tensor, m: int) -> Tensor:
        """The `m` nearest references of queries `rows` `[b]`, `[b, m]`."""
        return torch.from_numpy(self.index.search(_array(self.queries[rows]), m)[1]).to(rows.device)


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
