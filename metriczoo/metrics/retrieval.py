"""Retrieval: how high the references of a query's class stand among all references, in one chunked pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from metriczoo._checks import check_choice, check_count, check_flag, describe, unknown_name
from metriczoo.metrics._faiss import check_similarity
from metriczoo.metrics._inputs import Embeddings, Gallery, Integers, Points, Scoring, as_queries, as_similarity, budget_of
from metriczoo.metrics._lists import Lists
from metriczoo.metrics._ranking import Need, Ranking
from metriczoo.metrics._result import MetricResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "RetrievalOptions",
    "map_at_r",
    "mean_average_precision",
    "mrr",
    "ndcg",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "retrieval_metrics",
]

_NOTE = "recall@k is the hit rate of metric learning: the share of queries with at least one positive among their k nearest."

# What each name computes of ranked lists, and what it needs to know of them.
_MEASURES: dict[str, Callable[[Lists, int], Tensor]] = {
    "recall@k": lambda lists, k: lists.hit(k),
    "precision@k": lambda lists, k: lists.found(k) / k,
    "r_precision": lambda lists, _: lists.found(lists.total) / lists.total[:, 0],
    "map@r": lambda lists, _: lists.precision_sum(lists.total) / lists.total[:, 0],
    "map": lambda lists, _: lists.precision_sum(lists.n) / lists.total[:, 0],
    "mrr": lambda lists, _: lists.reciprocal(),
    "ndcg@k": lambda lists, k: lists.gain(k) / lists.ideal_gain(k),
}


class RetrievalOptions(TypedDict, total=False):
    """Options of `retrieval_metrics` that every single metric takes too."""

    query_ids: Integers | None
    reference_ids: Integers | None
    similarity: str | Scoring
    ties: str
    no_positive: str
    average: str
    backend: str
    memory_budget: int | None


def retrieval_metrics(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    *,
    query_ids: Integers | None = None,
    reference_ids: Integers | None = None,
    similarity: str | Scoring = "cosine",
    k: int | Sequence[int] = (1, 2, 4, 8),
    metrics: str | Sequence[str] = tuple(_MEASURES),
    ties: str = "expected",
    no_positive: str = "skip",
    average: str = "micro",
    backend: str = "torch",
    per_query: bool = False,
    memory_budget: int | None = None,
) -> MetricResult:
    r"""Retrieval metrics of queries against a gallery, or of a set against itself, exactly and in one chunked pass.

    A reference is a *positive* of a query if they have one label; R is the number of positives of a query. With the references in order of
    their score:

    ============== =========================================================================================
    `recall@k`     1 if a positive is among the first k, else 0: the hit rate, or CMC, of metric learning
    `precision@k`  positives among the first k, divided by k
    `r_precision`  positives among the first R, divided by R
    `map@r`        \(\frac1R \sum_{i=1}^R \mathrm{rel}(i)\, P@i\) (Musgrave et al. 2020); never above `r_precision`
    `map`          average precision: \(\frac1R \sum_i \mathrm{rel}(i)\, P@i\) over the whole list
    `mrr`          one over the rank of the first positive
    `ndcg@k`       \(\sum_{i \le k} \mathrm{rel}(i) / \log_2(1 + i)\), divided by the largest value possible
    ============== =========================================================================================

    Only the order of the scores counts: a negative score counts as any other, and an increasing map of the scores changes nothing.
    A label < 0 is ignored: such a query is not evaluated, such a reference is not in the gallery.

    Memory is that of the points and of one chunk of scores, whatever the number of queries.

    Args:
        queries: `[q, d]`, floating point, finite.
        query_labels: `[q]`, integers.
        references: `[n, d]`, or an object that carries labels and ids of its own: a memory bank, a queue, `References`. Default: the
            queries are the gallery.
        reference_labels: `[n]`, integers.
        query_ids: `[q]`, integers. A reference with the id of the query is not in its gallery; an id < 0 equals none, not even itself.
            Default: the positions, where the queries are the gallery, so that each leaves out itself; else no id, and nothing is left out.
        reference_ids: `[n]`, integers, with `query_ids`.
        similarity: "cosine", "inner_product", "euclidean" (negated), or an object with `prepare(x)` and `score(a, r)`, larger for closer.
            Half-precision embeddings are scored in float32.
        k: numbers of places, each at least 1, of the metrics named with `@k`.
        metrics: which of the above. "recall@10" stands for that alone, whatever `k`. `map` ranks every positive and is the only costly one.
        ties: where references with equal scores stand. "expected": in random order, and the result is the exact expectation; "index": in
            order of their position; "optimistic", "pessimistic": positives first, or last. Equal points score exactly equally.
        no_positive: what a query with R = 0 does. "skip": it is left out, and counted; "zero": it counts 0; "error".
        average: "micro", the mean over queries, or "macro", the mean over classes of their means over queries.
        backend: "torch", or "faiss": a flat index finds the candidates; same result. `map` is always ranked by torch.
        per_query: whether the result carries `per_query`, the values of each query by name, NaN for those that are left out.
        memory_budget: bytes that the scores of one chunk may take. Default: `metriczoo.settings.memory_budget`, else 16 MiB on a CPU and
            256 MiB elsewhere.

    Returns:
        Values by name, such as `"recall@1"`, and `num_queries` (averaged over), `num_skipped` (no positive), `num_ignored` (label < 0) and
        `num_references`. All values are NaN if every query is skipped.

    Raises:
        TypeError: if embeddings are not floating point, or labels or ids not integers.
        ValueError: if shapes do not match, a set is empty, a value is NaN or infinite, a name is unknown, a k is below 1, or
            `no_positive="error"` finds one.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]])
        >>> result = retrieval_metrics(points, [0, 0, 1, 0, 1], similarity="euclidean", k=(1, 2))
        >>> result["recall@1"], result["recall@2"], result["num_queries"]
        (0.4, 0.6, 5)

        Equal points tell nothing, so they score what chance scores:

        >>> round(retrieval_metrics(torch.ones(5, 2), [0, 0, 1, 1, 1])["recall@1"], 6)
        0.4

    Relations:
        Information retrieval means by recall the share of the R positives that is found; that is not `recall@k` here.
        `clustering_metrics` judges the same embeddings by groups, `knn_classify` by votes of neighbours, `verification_metrics` by a global
        threshold.

    References:
        Kevin Musgrave, Serge Belongie, Ser-Nam Lim. A Metric Learning Reality Check. ECCV 2020.

        Frank McSherry, Marc Najork. Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores. ECIR
        2008.
    """
    wanted = _parse(metrics, k)
    for argument, value, known in (
        ("ties", ties, ("expected", "index", "optimistic", "pessimistic")),
        ("no_positive", no_positive, ("skip", "zero", "error")),
        ("average", average, ("micro", "macro")),
        ("backend", backend, ("torch", "faiss")),
    ):
        check_choice(argument, value, known)
    check_flag("per_query", per_query)
    scoring = as_similarity(similarity)
    if backend == "faiss":
        check_similarity(scoring)
    query, reference = as_queries(queries, query_labels, references, reference_labels, query_ids, reference_ids)
    budget = budget_of(memory_budget, query.embeddings.device)
    known_query, known_reference = _labelled(query, reference)
    ranking = Ranking(known_query, known_reference, scoring, ties=ties, need=_need(wanted), faiss=backend == "faiss", budget=budget)
    answered = ranking.total > 0
    skipped = len(known_query) - int(answered.sum())
    if skipped and no_positive == "error":
        raise ValueError(f"Expected every query to have a positive reference, but {skipped} of {len(known_query)} have none.")
    values = ranking.evaluate(lambda lists: torch.stack([_MEASURES[name](lists, places) for name, places in wanted.values()]), len(wanted))
    counted = answered if no_positive == "skip" else torch.ones_like(answered)
    means = _average(values[:, counted], known_query.labels[counted], average)
    counts = {
        "num_queries": int(counted.sum()),
        "num_skipped": len(known_query) - int(counted.sum()),
        "num_ignored": len(query) - len(known_query),
        "num_references": len(known_reference),
    }
    details = _scatter(values.masked_fill(~counted, torch.nan), query.labels >= 0) if per_query else None
    return MetricResult(
        {**dict(zip(wanted, means, strict=True)), **counts},
        note=_NOTE if any(name == "recall@k" for name, _ in wanted.values()) else "",
        per_query=None if details is None else dict(zip(wanted, details, strict=True)),
    )


def _parse(metrics: str | Sequence[str], k: int | Sequence[int]) -> dict[str, tuple[str, int]]:
    """For each key of the result the measure and its number of places."""
    places = [check_count("k", value) for value in ([k] if isinstance(k, int) or not isinstance(k, Sequence) else k)]
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names or not places:
        raise ValueError(f"Expected at least one name in `metrics` and one number in `k`, but got {describe(metrics)} and {describe(k)}.")
    wanted: dict[str, tuple[str, int]] = {}
    for given in names:
        number = re.fullmatch(r"(\w+@)([1-9]\d*)", given) if isinstance(given, str) else None
        name = f"{number[1]}k" if number else given
        if name not in _MEASURES:
            raise unknown_name("metrics", given, _MEASURES)
        if not name.endswith("@k"):
            wanted[name] = name, 0
            continue
        wanted |= {name.replace("@k", f"@{p}"): (name, p) for p in ([int(number[2])] if number else places)}
    return wanted


def _need(wanted: dict[str, tuple[str, int]]) -> Need:
    names = {name for name, _ in wanted.values()}
    places = max(p for _, p in wanted.values())
    return Need(places, relevant=bool(names & {"r_precision", "map@r"}), first="mrr" in names, every="map" in names)


def _labelled(query: Points, reference: Points) -> tuple[Points, Points]:
    known = query.labelled()
    known_reference = known if reference is query else reference.labelled()
    for argument, points in (("query_labels", known), ("reference_labels", known_reference)):
        if not len(points):
            raise ValueError(f"Expected `{argument}` to hold at least one label that is not negative, but all are ignored.")
    return known, known_reference


def _average(values: Tensor, labels: Tensor, average: str) -> list[float]:
    """Means of `values` `[m, q]` over queries, or over classes."""
    if average == "macro" and values.shape[1]:
        classes, index, count = labels.unique(return_inverse=True, return_counts=True)
        values = values.new_zeros(values.shape[0], classes.shape[0]).index_add_(1, index, values) / count
    return values.mean(dim=1).tolist()


def _scatter(values: Tensor, kept: Tensor) -> Tensor:
    """`values` `[m, kept]` in the places of the kept queries, `[m, q]`, NaN elsewhere."""
    if values.shape[1] == kept.shape[0]:
        return values
    return values.new_full((values.shape[0], kept.shape[0]), torch.nan).masked_scatter_(kept, values)


def _single(metric: str, arguments: tuple[Embeddings, Integers, Gallery | None, Integers | None], options: RetrievalOptions) -> float:
    value: float = retrieval_metrics(*arguments, metrics=metric, **options)[metric]
    return value


def recall_at_k(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    *,
    k: int = 1,
    **options: Unpack[RetrievalOptions],
) -> float:
    """Recall@K of metric learning, the hit rate: the share of queries with a positive among their k nearest references, in [0, 1].

    Arguments, ties and errors are those of `retrieval_metrics`.

    Example:
        >>> recall_at_k(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], k=2, similarity="euclidean")
        0.6

    Relations:
        Not the recall of information retrieval, which is the share of the positives that is found.
    """
    return _single(f"recall@{check_count('k', k)}", (queries, query_labels, references, reference_labels), options)


def precision_at_k(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    *,
    k: int = 1,
    **options: Unpack[RetrievalOptions],
) -> float:
    """Mean share of positives among the k nearest references, in [0, 1].

    The divisor is k even where a query has fewer positives or references. Arguments, ties and errors are those of `retrieval_metrics`.

    Example:
        >>> precision_at_k(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], k=2, similarity="euclidean")
        0.3

    Relations:
        Equal to `recall_at_k` for k = 1.
    """
    return _single(f"precision@{check_count('k', k)}", (queries, query_labels, references, reference_labels), options)


def r_precision(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    **options: Unpack[RetrievalOptions],
) -> float:
    """Mean share of positives among the R nearest references, R the number of positives of the query, in [0, 1].

    Arguments, ties and errors are those of `retrieval_metrics`.

    Example:
        >>> r_precision(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], similarity="euclidean")
        0.2

    Relations:
        `map_at_r` looks at the same references and also at their order.
    """
    return _single("r_precision", (queries, query_labels, references, reference_labels), options)


def map_at_r(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    **options: Unpack[RetrievalOptions],
) -> float:
    r"""MAP@R: mean of \(\frac1R \sum_{i=1}^R \mathrm{rel}(i)\, P@i\), R the number of positives of the query, in [0, 1].

    Arguments, ties and errors are those of `retrieval_metrics`.

    Example:
        >>> map_at_r(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], similarity="euclidean")
        0.2

    Relations:
        At most `r_precision`; `mean_average_precision` goes on beyond the first R references.

    References:
        Kevin Musgrave, Serge Belongie, Ser-Nam Lim. A Metric Learning Reality Check. ECCV 2020.
    """
    return _single("map@r", (queries, query_labels, references, reference_labels), options)


def mean_average_precision(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    **options: Unpack[RetrievalOptions],
) -> float:
    r"""Mean average precision over the whole list: mean of \(\frac1R \sum_i \mathrm{rel}(i)\, P@i\), in (0, 1].

    Arguments, ties and errors are those of `retrieval_metrics`.

    Example:
        >>> round(mean_average_precision(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], similarity="euclidean"), 6)
        0.566667

    Relations:
        Without ties the mean of `sklearn.metrics.average_precision_score` over queries, which resolves ties by threshold instead.
    """
    return _single("map", (queries, query_labels, references, reference_labels), options)


def mrr(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    **options: Unpack[RetrievalOptions],
) -> float:
    """Mean reciprocal rank: mean of one over the rank of the first positive, in (0, 1].

    Arguments, ties and errors are those of `retrieval_metrics`.

    Example:
        >>> round(mrr(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], similarity="euclidean"), 6)
        0.616667

    Relations:
        At least `recall_at_k` for k = 1.
    """
    return _single("mrr", (queries, query_labels, references, reference_labels), options)


def ndcg(
    queries: Embeddings,
    query_labels: Integers,
    references: Gallery | None = None,
    reference_labels: Integers | None = None,
    *,
    k: int | None = None,
    **options: Unpack[RetrievalOptions],
) -> float:
    r"""Normalised discounted cumulative gain: mean of \(\sum_{i \le k} \mathrm{rel}(i) / \log_2(1 + i)\) over its largest value.

    Arguments, ties and errors are those of `retrieval_metrics`, but k may be None, the default: the whole list.

    Example:
        >>> round(ndcg(torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]]), [0, 0, 1, 0, 1], k=2, similarity="euclidean"), 6)
        0.371445

    Relations:
        Without ties `sklearn.metrics.ndcg_score`; with ties both average over their orders.

    References:
        Kalervo Järvelin, Jaana Kekäläinen. Cumulated gain-based evaluation of IR techniques. ACM TOIS 20(4), 2002.
    """
    places = 2**62 if k is None else check_count("k", k)  # no list is longer
    return _single(f"ndcg@{places}", (queries, query_labels, references, reference_labels), options)
