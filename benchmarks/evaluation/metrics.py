"""How good embeddings of a data set are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo.metrics import clustering_metrics, embedding_health, knn_classify, retrieval_metrics
from metriczoo.metrics._intervals import bootstrap_interval

__all__ = ["MAIN_METRICS", "Evaluation", "by_class", "evaluate", "ranks_of", "recall_at_1"]

MAIN_METRICS = ("recall@1", "map@r")  # whose values by query are kept
_RANKS = {"sop": (1, 10, 100, 1000), "inshop": (1, 10, 20, 30)}  # of the literature
_NEIGHBOURS = 5  # that vote on the class of a query: as few as small classes have
_RESAMPLES = 2000
_SHOWN = 5  # best and worst classes
_HEALTH = ("uniformity", "alignment", "mean_cosine", "spread", "effective_rank", "spectral_decay")


@dataclass(frozen=True)
class Evaluation:
    """How good embeddings are.

    Attributes:
        values: of all metrics, for JSON.
        per_query: `[q]` of each main metric, NaN for a query that has no answer.
    """

    values: dict[str, Any]
    per_query: dict[str, Tensor]


def ranks_of(dataset: str) -> tuple[int, ...]:
    """The K of the Recall@K that the literature shows of a data set."""
    return _RANKS.get(dataset, (1, 2, 4, 8))


def recall_at_1(embeddings: Tensor, labels: NDArray[Any], is_query: NDArray[np.bool_] | None = None) -> float:
    """Recall@1 by cosine."""
    value: float = retrieval_metrics(*_sides(embeddings, labels, is_query), metrics="recall@1")["recall@1"]
    return value


def _sides(embeddings: Tensor, labels: NDArray[Any], is_query: NDArray[np.bool_] | None) -> tuple[Any, ...]:
    """Queries with labels, and the gallery with labels if it is another."""
    if is_query is None:
        return embeddings, labels
    asked = torch.from_numpy(is_query)
    return embeddings[asked], labels[is_query], embeddings[~asked], labels[~is_query]


def evaluate(
    embeddings: Tensor,
    labels: NDArray[Any],
    *,
    is_query: NDArray[np.bool_] | None = None,
    ranks: Sequence[int] = (1, 2, 4, 8),
    class_names: Sequence[str] | None = None,
) -> Evaluation:
    """All metrics of the benchmark by cosine; None where no query has a reference of its class.

    Args:
        embeddings: `[n, d]`.
        labels: `[n]`.
        is_query: `[n]`, which are queries to the others. Default: each is a query to all others.
        ranks: the K of the Recall@K.
        class_names: of each label, for the best and the worst classes.
    """
    sides = _sides(embeddings, labels, is_query)
    retrieval = retrieval_metrics(*sides, k=ranks, metrics=("recall@k", "map@r", "r_precision"), per_query=True)
    assert retrieval.per_query is not None
    per_query = {**retrieval.per_query, "knn_accuracy": _knn(sides, retrieval.per_query["recall@1"])}
    groups = sides[1]
    intervals = {name: bootstrap_interval(values, groups=groups, resamples=_RESAMPLES) for name, values in per_query.items()}
    clusters = clustering_metrics(embeddings, labels)
    health = embedding_health(embeddings, labels)
    values = {
        **retrieval,
        "knn_accuracy": intervals["knn_accuracy"]["mean"],
        "nmi": clusters["nmi"],
        "ami": clusters["ami"],
        "intervals": {name: [interval["low"], interval["high"]] for name, interval in intervals.items()},
        "health": {name: health[name] for name in _HEALTH},
        "classes": _extremes(per_query, groups, class_names),
    }
    return Evaluation(_for_json(values), {name: per_query[name].float() for name in MAIN_METRICS})


def _knn(sides: tuple[Any, ...], hits: Tensor) -> Tensor:
    """Whether the nearest references vote for the class of each query, `[q]`, NaN where there is none of it."""
    queries, labels, *gallery = sides
    if gallery:
        found = knn_classify(queries, *gallery, k=_NEIGHBOURS)
    else:
        ids = torch.arange(len(labels))
        found = knn_classify(queries, queries, labels, k=_NEIGHBOURS, query_ids=ids, reference_ids=ids)
    right = (found == torch.as_tensor(labels)).to(hits.dtype)
    return right.masked_fill(hits.isnan(), torch.nan)


def by_class(per_query: dict[str, Tensor], labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """For each class with an answer its "label", number of "queries", and mean of each metric, all `[c]`."""
    answered = ~per_query[MAIN_METRICS[0]].isnan().numpy()
    classes, index, count = np.unique(labels[answered], return_inverse=True, return_counts=True)
    means = {name: np.bincount(index, per_query[name].double().numpy()[answered]) / count for name in MAIN_METRICS} if len(classes) else {}
    return {"label": classes, "queries": count, **means}


def _extremes(per_query: dict[str, Tensor], labels: NDArray[Any], names: Sequence[str] | None) -> dict[str, list[dict[str, Any]]]:
    """The best and the worst classes."""
    table = by_class(per_query, labels)
    if not len(table["label"]):
        return {"best": [], "worst": []}
    order = np.lexsort([table["label"], *(-table[name] for name in reversed(MAIN_METRICS))])
    lines = [
        {
            "class": str(table["label"][row]) if names is None else names[table["label"][row]],
            "queries": int(table["queries"][row]),
            **{name: float(table[name][row]) for name in MAIN_METRICS},
        }
        for row in (*order[:_SHOWN], *order[::-1][:_SHOWN])
    ]
    return {"best": lines[: len(lines) // 2], "worst": lines[len(lines) // 2 :]}


def _for_json(value: Any) -> Any:
    """`value` with None for what is not finite."""
    if isinstance(value, dict):
        return {name: _for_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_for_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
