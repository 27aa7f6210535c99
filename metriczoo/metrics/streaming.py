"""Streaming metrics: they collect what a loop gives them, batch by batch, and compute the exact value at the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_flag, check_keywords, describe
from metriczoo.metrics import clustering, health, neighbours, retrieval, verification
from metriczoo.metrics._inputs import Embeddings, Integers, as_embeddings, as_similarity
from metriczoo.metrics.verification import as_pairs, is_flat

__all__ = [
    "Ami",
    "Ari",
    "ClusteringMetrics",
    "EmbeddingHealth",
    "KnnClassify",
    "MapAtR",
    "MeanAveragePrecision",
    "Mrr",
    "Ndcg",
    "Nmi",
    "PairwiseF1",
    "PrecisionAtK",
    "RPrecision",
    "RecallAtK",
    "RetrievalMetrics",
    "StreamingMetric",
    "VerificationMetrics",
]

_FROM_UPDATE = ("query_ids", "reference_ids", "ids")  # options of the functions that here come with the batches
_OF_DATA = ("similarity", "num_clusters", "num_classes")  # options that may not fit the two points on which the others are tried


class _Columns:
    """Batches of columns of equal length, joined on demand."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def append(self, **columns: Tensor | None) -> None:
        given = {name: column.detach().clone() for name, column in columns.items() if column is not None}
        if self.parts and given.keys() != self.parts.keys():
            raise ValueError(f"Expected every update to give {sorted(self.parts)}, as the first did, but got {sorted(given)}.")
        for name, column in given.items():
            first = self.parts.setdefault(name, [column])[0]
            if first.shape[1:] != column.shape[1:]:
                raise ValueError(f"Expected `{name}` of every update to be of shape {['n', *first.shape[1:]]}, but got {describe(column)}.")
            if first is not column:
                self.parts[name].append(column)

    def joined(self) -> dict[str, Tensor]:
        if not self.parts:
            raise ValueError("Expected at least one `update` before `compute`.")
        return {name: torch.cat(parts) for name, parts in self.parts.items()}


class StreamingMetric:
    """A metric of batches: `update` collects one, `compute` gives the value for all of them together, `reset` forgets them.

    The value is that of the function of the same name on the joined batches. It is exact: no average over batches. Batches are copied,
    without gradient, and stay on their device.

    Args:
        options: those of the function, but for ids, which come with the batches.

    Raises:
        TypeError: if the function has no such option.
        ValueError: if the value of an option is not one that the function takes.

    Example:
        >>> metric = RecallAtK(k=2, similarity="euclidean")
        >>> metric.update(torch.tensor([[0.0], [1.0], [3.0]]), [0, 0, 1])
        >>> metric.update(torch.tensor([[6.0], [7.0]]), [0, 1])
        >>> metric.compute()
        0.6
    """

    _function: Callable[..., Any]

    def __init__(self, **options: Any) -> None:
        for name in _FROM_UPDATE:
            if name in options:
                raise TypeError(f"Expected `{name}` with the batches, as `ids` of `update`, but got it as an option.")
        check_keywords(type(self).__name__, options, _options_of(type(self)._function))
        if "similarity" in options:
            as_similarity(options["similarity"])
        self._try({name: value for name, value in options.items() if name not in _OF_DATA})
        self.options = options
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._columns = _Columns()
        self._references = _Columns()

    def compute(self) -> Any:
        """The value for all batches since the last `reset`."""
        return type(self)._function(**self._columns.joined(), **self.options)

    def _try(self, options: dict[str, Any]) -> None:
        """Raise now what the options would raise when everything has been collected."""
        type(self)._function(torch.eye(3), [0, 0, 1], **options)


def _options_of(function: Callable[..., Any]) -> set[str]:
    """The names of its options, those among them that all retrieval metrics share."""
    parameters = inspect.signature(function).parameters.values()
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    shared = set(retrieval.RetrievalOptions.__annotations__) if any(p.kind is p.VAR_KEYWORD for p in parameters) else set()
    return (names | shared) - set(_FROM_UPDATE)


class _OfEmbeddings(StreamingMetric):
    """Metrics of embeddings and labels."""

    def update(self, embeddings: Embeddings, labels: Integers) -> None:
        """Collect `embeddings` `[n, d]` and their `labels` `[n]`."""
        self._columns.append(**_points(embeddings, labels, None))


class _OfAssignments(StreamingMetric):
    """Metrics of classes and clusters. They have no options."""

    def _try(self, options: dict[str, Any]) -> None:
        type(self)._function([0], [0], **options)

    def update(self, labels: Integers, assignments: Integers) -> None:
        """Collect `labels` `[n]` and the clusters of the same points, `assignments` `[n]`."""
        label = as_labels(labels)
        self._columns.append(
            labels=label, assignments=as_labels(assignments, argument="assignments", length=len(label), device=label.device)
        )


class _OfNeighbours(StreamingMetric):
    """Metrics of queries and a gallery, which is the queries themselves unless references are given."""

    def update(self, embeddings: Embeddings, labels: Integers, ids: Integers | None = None, *, references: bool = False) -> None:
        """Collect `embeddings` `[n, d]`, `labels` `[n]` and `ids` `[n]`, as queries, or as references of a gallery of their own."""
        columns = self._references if check_flag("references", references) else self._columns
        columns.append(**_points(embeddings, labels, ids))

    def compute(self) -> Any:
        """The value for all batches since the last `reset`."""
        query = self._columns.joined()
        arguments = {"queries": query["embeddings"], "query_labels": query["labels"], "query_ids": query.get("ids")}
        if self._references.parts:
            reference = self._references.joined()
            arguments |= {
                "references": reference["embeddings"],
                "reference_labels": reference["labels"],
                "reference_ids": reference.get("ids"),
            }
        return type(self)._function(**arguments, **self.options)


def _points(embeddings: Any, labels: Any, ids: Any) -> dict[str, Tensor | None]:
    points = as_embeddings("embeddings", embeddings, low=0)
    n, device = points.shape[0], points.device
    return {
        "embeddings": points,
        "labels": None if labels is None else as_labels(labels, length=n, device=device),
        "ids": None if ids is None else as_ids(ids, length=n, device=device),
    }


class RetrievalMetrics(_OfNeighbours):
    """Streaming `retrieval_metrics`."""

    _function = staticmethod(retrieval.retrieval_metrics)


class RecallAtK(_OfNeighbours):
    """Streaming `recall_at_k`."""

    _function = staticmethod(retrieval.recall_at_k)


class PrecisionAtK(_OfNeighbours):
    """Streaming `precision_at_k`."""

    _function = staticmethod(retrieval.precision_at_k)


class RPrecision(_OfNeighbours):
    """Streaming `r_precision`."""

    _function = staticmethod(retrieval.r_precision)


class MapAtR(_OfNeighbours):
    """Streaming `map_at_r`."""

    _function = staticmethod(retrieval.map_at_r)


class MeanAveragePrecision(_OfNeighbours):
    """Streaming `mean_average_precision`."""

    _function = staticmethod(retrieval.mean_average_precision)


class Mrr(_OfNeighbours):
    """Streaming `mrr`."""

    _function = staticmethod(retrieval.mrr)


class Ndcg(_OfNeighbours):
    """Streaming `ndcg`."""

    _function = staticmethod(retrieval.ndcg)


class KnnClassify(StreamingMetric):
    """Streaming `knn_classify`: `compute` gives the predictions for all queries; without references the others classify each query."""

    _function = staticmethod(neighbours.knn_classify)

    def _try(self, options: dict[str, Any]) -> None:
        neighbours.knn_classify(torch.eye(3), torch.eye(3), [0, 0, 1], **options)

    def update(
        self, embeddings: Embeddings, labels: Integers | None = None, ids: Integers | None = None, *, references: bool = False
    ) -> None:
        """Collect `embeddings` `[n, d]`, `labels` `[n]` and `ids` `[n]`; labels of queries are needed only without references."""
        columns = self._references if check_flag("references", references) else self._columns
        columns.append(**_points(embeddings, labels, ids))

    def compute(self) -> Any:
        """The predictions for all queries since the last `reset`."""
        query = self._columns.joined()
        ids = query.get("ids")
        if self._references.parts:
            reference = self._references.joined()
        else:
            ids = torch.arange(len(query["embeddings"]), device=query["embeddings"].device) if ids is None else ids
            reference = {**query, "ids": ids}
        return neighbours.knn_classify(
            query["embeddings"],
            reference["embeddings"],
            reference.get("labels"),
            query_ids=ids,
            reference_ids=reference.get("ids"),
            **self.options,
        )


class ClusteringMetrics(_OfEmbeddings):
    """Streaming `clustering_metrics`."""

    _function = staticmethod(clustering.clustering_metrics)


class Nmi(_OfAssignments):
    """Streaming `nmi`."""

    _function = staticmethod(clustering.nmi)


class Ami(_OfAssignments):
    """Streaming `ami`."""

    _function = staticmethod(clustering.ami)


class Ari(_OfAssignments):
    """Streaming `ari`."""

    _function = staticmethod(clustering.ari)


class PairwiseF1(_OfAssignments):
    """Streaming `pairwise_f1`."""

    _function = staticmethod(clustering.pairwise_f1)


class VerificationMetrics(StreamingMetric):
    """Streaming `verification_metrics`."""

    _function = staticmethod(verification.verification_metrics)

    def update(self, inputs: Embeddings, targets: Integers, ids: Integers | None = None) -> None:
        """Collect scores of pairs `[m]` and whether each is of one class, or embeddings `[n, d]`, labels `[n]` and ids `[n]`."""
        if not is_flat(inputs):
            points = _points(inputs, targets, ids)
            self._columns.append(inputs=points["embeddings"], targets=points["labels"], ids=points["ids"])
        elif ids is not None:
            raise ValueError("Expected `ids` with embeddings only, but got them with the scores of pairs.")
        else:
            scores, same = as_pairs(inputs, targets)
            self._columns.append(inputs=scores, targets=same)


class EmbeddingHealth(StreamingMetric):
    """Streaming `embedding_health`."""

    _function = staticmethod(health.embedding_health)

    def update(self, embeddings: Embeddings, labels: Integers | None = None) -> None:
        """Collect `embeddings` `[n, d]` and, in every batch or in none, their `labels` `[n]`."""
        self._columns.append(**_points(embeddings, labels, None))
