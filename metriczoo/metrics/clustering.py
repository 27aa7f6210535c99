"""Clustering: how well clusters of the embeddings recover the classes."""

from __future__ import annotations

from torch import Tensor

from metriczoo._checks import as_labels, check_count, describe
from metriczoo.metrics._blocks import prepare
from metriczoo.metrics._contingency import Contingency
from metriczoo.metrics._faiss import check_similarity, kmeans
from metriczoo.metrics._inputs import Embeddings, Integers, Scoring, as_points, as_similarity
from metriczoo.metrics._pairs import euclidean_points
from metriczoo.metrics._result import MetricResult

__all__ = ["ami", "ari", "clustering_metrics", "nmi", "pairwise_f1"]

_RUNS = 10  # at most
_PRODUCTS = 20_000_000_000  # of all runs; a run may end before its last iteration
_NOTE = "nmi is not corrected for chance and grows with the number of clusters: read it with ami and ari, which are 0 for random clusters."


def clustering_metrics(
    embeddings: Embeddings,
    labels: Integers,
    *,
    num_clusters: int | None = None,
    similarity: str | Scoring = "cosine",
    seed: int = 0,
    niter: int = 20,
    nredo: int | None = None,
) -> MetricResult:
    """Agreement of k-means clusters of the embeddings with the classes: NMI with AMI and ARI, and pairwise F1.

    k-means (by faiss, on all the points, with a seed) is Euclidean and runs where `similarity` is: on unit vectors for "cosine", on the
    mapped points for a Mahalanobis distance, on the embeddings as they are otherwise. Points with a label < 0 are ignored.

    Args:
        embeddings: `[n, d]`, floating point, finite.
        labels: `[n]`, integers.
        num_clusters: at least 1, at most the number of points. Default: the number of classes.
        similarity: as for `retrieval_metrics`, but by inner product or Euclidean distance.
        seed: of the initial centres, which are points drawn at random.
        niter: iterations at most.
        nredo: runs with different initial centres, of which the one with the smallest objective counts. Default: 10, or as many as take
            about half a second on one core, at least one: a single run on a thousand points may be off by several hundredths of NMI, on
            tens of thousands by a few thousandths.

    Returns:
        `nmi`, `ami`, `ari`, `pairwise_f1`, `num_clusters`, `num_points`, `num_ignored`, and what the numbers depend on: `faiss` (its
        version), `seed`, `niter`, `nredo`.

    Raises:
        TypeError: if embeddings are not floating point or labels not integers.
        ValueError: if shapes do not match, a value is NaN or infinite, no label is >= 0, or there are more clusters than points.

    Example:
        >>> import torch
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> result = clustering_metrics(points, [0, 0, 1, 1])
        >>> result["nmi"], result["ami"], result["ari"], result["pairwise_f1"]
        (1.0, 1.0, 1.0, 1.0)

    Relations:
        `retrieval_metrics` needs no clustering, no seed and no number of clusters.

    References:
        Hyun Oh Song, Yu Xiang, Stefanie Jegelka, Silvio Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. CVPR 2016.

        Nguyen Xuan Vinh, Julien Epps, James Bailey. Information Theoretic Measures for Clusterings Comparison. JMLR 11, 2010.
    """
    scoring = as_similarity(similarity)
    check_similarity(scoring)
    every = as_points(embeddings, labels, None)
    points = every.labelled()
    if not len(points):
        raise ValueError("Expected `labels` to hold at least one label that is not negative, but all are ignored.")
    clusters = len(points.labels.unique()) if num_clusters is None else check_count("num_clusters", num_clusters)
    if clusters > len(points):
        raise ValueError(f"Expected `num_clusters` to be at most the number of points, {len(points)}, but got {clusters}.")
    vectors = euclidean_points(scoring, prepare(scoring, points.embeddings))
    seed, niter = check_count("seed", seed, low=0), check_count("niter", niter)
    nredo = _affordable(vectors, clusters, niter) if nredo is None else check_count("nredo", nredo)
    assignments, record = kmeans(vectors, clusters, niter=niter, nredo=nredo, seed=seed)
    table = Contingency.of(points.labels, assignments)
    scores = {"nmi": _nmi(table), "ami": _ami(table), "ari": _ari(table), "pairwise_f1": _pairwise_f1(table)}
    counts = {"num_clusters": clusters, "num_points": len(points), "num_ignored": len(every) - len(points)}
    return MetricResult({**scores, **counts, **record}, note=_NOTE)


def nmi(labels: Integers, assignments: Integers) -> float:
    r"""Normalised mutual information of classes and clusters, \(2 I(U, V) / (H(U) + H(V))\), in [0, 1].

    It is 1 for equal partitions, two of one part each included. It is not corrected for chance: random clusters score high if there are
    many.

    Args:
        labels: `[n]`, integers; points with a label < 0 are ignored.
        assignments: `[n]`, integers: the cluster of each point.

    Returns:
        The value.

    Raises:
        TypeError: if labels or assignments are not integers.
        ValueError: if their lengths differ, or no label is >= 0.

    Example:
        >>> round(nmi([0, 0, 1, 1], [5, 5, 7, 8]), 6)
        0.8

    Relations:
        `sklearn.metrics.normalized_mutual_info_score`; `ami` subtracts what chance gives.
    """
    return _nmi(_contingency(labels, assignments))


def ami(labels: Integers, assignments: Integers) -> float:
    r"""Adjusted mutual information, \((I - E[I]) / (\frac12 (H(U) + H(V)) - E[I])\): at most 1, on average 0 for random clusters.

    Arguments and errors are those of `nmi`.

    Example:
        >>> round(ami([0, 0, 1, 1], [5, 5, 7, 8]), 6)
        0.571429

    Relations:
        `sklearn.metrics.adjusted_mutual_info_score`, but quick with thousands of classes: only distinct pairs of sizes are summed.

    References:
        Nguyen Xuan Vinh, Julien Epps, James Bailey. Information Theoretic Measures for Clusterings Comparison. JMLR 11, 2010.
    """
    return _ami(_contingency(labels, assignments))


def ari(labels: Integers, assignments: Integers) -> float:
    """Adjusted Rand index, the agreement over pairs of points corrected for chance: in [-0.5, 1], on average 0 for random clusters.

    Arguments and errors are those of `nmi`.

    Example:
        >>> round(ari([0, 0, 1, 1], [5, 5, 7, 8]), 6)
        0.571429

    Relations:
        `sklearn.metrics.adjusted_rand_score`.

    References:
        Lawrence Hubert, Phipps Arabie. Comparing partitions. Journal of Classification 2, 1985.
    """
    return _ari(_contingency(labels, assignments))


def pairwise_f1(labels: Integers, assignments: Integers) -> float:
    """F1 over pairs of points: harmonic mean of the share of same-cluster pairs that are same-class, and of the converse, in [0, 1].

    It is 1 if no pair is in one class or one cluster. Arguments and errors are those of `nmi`.

    Example:
        >>> round(pairwise_f1([0, 0, 1, 1], [5, 5, 7, 8]), 6)
        0.666667

    Relations:
        Counts the pairs of `ari` without correcting for chance.
    """
    return _pairwise_f1(_contingency(labels, assignments))


def _affordable(vectors: Tensor, clusters: int, niter: int) -> int:
    """How many runs of k-means there is time for: it depends on sizes only, so that a number can be had again."""
    products = vectors.numel() * clusters * niter
    return max(1, min(_RUNS, _PRODUCTS // products))


def _contingency(labels: Integers, assignments: Integers) -> Contingency:
    label = as_labels(labels)
    cluster = as_labels(assignments, argument="assignments", device=label.device)
    if label.shape != cluster.shape:
        raise ValueError(f"Expected `assignments` to have {label.shape[0]} entries, one per label, but got {cluster.shape[0]}.")
    known = label >= 0
    if not bool(known.any()):
        raise ValueError(f"Expected `labels` to hold at least one label that is not negative, but got {describe(label)}.")
    return Contingency.of(label[known], cluster[known])


def _nmi(table: Contingency) -> float:
    return 1.0 if table.equal else table.mutual_information() / table.mean_entropy()


def _ami(table: Contingency) -> float:
    if table.equal:
        return 1.0
    if len(table.classes) == 1 or len(table.clusters) == 1:
        return 0.0
    expected = table.expected_mutual_information()
    return (table.mutual_information() - expected) / (table.mean_entropy() - expected)


def _ari(table: Contingency) -> float:
    both, cluster_only, class_only, neither = table.pairs()
    if cluster_only == class_only == 0:
        return 1.0
    disagreement = (both + class_only) * (class_only + neither) + (both + cluster_only) * (cluster_only + neither)
    return 2 * (both * neither - class_only * cluster_only) / disagreement


def _pairwise_f1(table: Contingency) -> float:
    both, cluster_only, class_only, _ = table.pairs()
    return 2 * both / (2 * both + cluster_only + class_only) if both + cluster_only + class_only else 1.0
