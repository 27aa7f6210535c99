"""What the metrics take: points as tensors or arrays, their labels and ids, a gallery, a similarity by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_choice, check_count, check_embeddings, check_finite, describe
from metriczoo._execution import settings
from metriczoo.references import References, Store
from metriczoo.similarity import Cosine, InnerProduct, NegativeEuclidean

__all__ = [
    "Embeddings",
    "Gallery",
    "Integers",
    "Points",
    "Scoring",
    "as_embeddings",
    "as_points",
    "as_queries",
    "as_similarity",
    "budget_of",
]

Embeddings = Tensor | NDArray[Any]
Integers = Tensor | NDArray[Any] | Sequence[int]
Gallery = Embeddings | References | Store

_QUERIES, _REFERENCES = ("queries", "query_labels", "query_ids"), ("references", "reference_labels", "reference_ids")
_SIMILARITIES = {"cosine": Cosine, "inner_product": InnerProduct, "euclidean": NegativeEuclidean}


class Scoring(Protocol):
    """What the metrics need of a similarity. Larger scores are closer."""

    def prepare(self, x: Tensor) -> Tensor:
        """Prepared points `[n, d']` of points `[n, d]`."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Scores `[b, n]` of prepared points `[b, d']` to prepared points `[n, d']`."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points with labels and ids, checked."""

    embeddings: Tensor  # [n, d], float32 or float64
    labels: Tensor  # [n] int64
    ids: Tensor  # [n] int64; an id < 0 equals none

    def __len__(self) -> int:
        return self.labels.shape[0]

    def to(self, dtype: torch.dtype) -> Points:
        """The points in that floating-point type."""
        return Points(self.embeddings.to(dtype), self.labels, self.ids)

    def labelled(self) -> Points:
        """The points whose label is not negative."""
        keep = self.labels >= 0
        return self if bool(keep.all()) else Points(self.embeddings[keep], self.labels[keep], self.ids[keep])


def as_similarity(value: str | Scoring) -> Scoring:
    """The similarity of that name, or `value` itself if it has `prepare` and `score`."""
    if isinstance(value, str):
        return _SIMILARITIES[check_choice("similarity", value, _SIMILARITIES)]()
    if isinstance(value, type) or not (hasattr(value, "prepare") and hasattr(value, "score")):
        names = sorted(_SIMILARITIES)
        raise TypeError(f"Expected `similarity` to be one of {names} or an object with `prepare` and `score`, but got {describe(value)}.")
    return value


def as_embeddings(argument: str, value: Any, *, low: int = 1) -> Tensor:
    """`value` as a finite tensor `[n, d]`, of at least `low` points, of dtype float32 or float64."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        if value.dtype.kind == "f":
            value = np.ascontiguousarray(value, dtype=np.float32 if value.dtype.itemsize <= 4 else np.float64)
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    embeddings = check_embeddings(argument, value).detach()
    if embeddings.shape[0] < low:
        raise ValueError(f"Expected `{argument}` to hold at least one point, but got {describe(embeddings)}.")
    check_finite(argument, embeddings)
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def as_points(
    embeddings: Any,
    labels: Any,
    ids: Any,
    *,
    names: tuple[str, str, str] = ("embeddings", "labels", "ids"),
    default_label: int | None = None,
    default_ids: bool = True,
) -> Points:
    """Checked points. Ids default to positions, or to -1 (equal to none)."""
    points = as_embeddings(names[0], embeddings)
    n, device = points.shape[0], points.device
    if labels is None:
        if default_label is None:
            raise TypeError(f"Expected `{names[1]}` to be {n} integers, one per point of `{names[0]}`, but got None.")
        labels = torch.full((n,), default_label, device=device)
    if ids is None:
        ids = torch.arange(n, device=device) if default_ids else torch.full((n,), -1, device=device)
    return Points(
        points, as_labels(labels, argument=names[1], length=n, device=device), as_ids(ids, argument=names[2], length=n, device=device)
    )


def as_queries(
    queries: Any,
    query_labels: Any,
    references: Gallery | None,
    reference_labels: Any,
    query_ids: Any,
    reference_ids: Any,
    *,
    default_label: int | None = None,
) -> tuple[Points, Points]:
    """Queries and gallery; without `references` the queries are the gallery."""
    if references is None:
        if reference_labels is not None or reference_ids is not None:
            raise ValueError(
                "Expected `references` with `reference_labels` and `reference_ids`, but got None: without it the queries are the gallery."
            )
        points = as_points(queries, query_labels, query_ids, names=_QUERIES)
        return points, points
    if isinstance(references, (References, Store)):
        if reference_labels is not None or reference_ids is not None:
            raise ValueError("Expected no `reference_labels` and `reference_ids` beside references that carry their own.")
        stored = references if isinstance(references, References) else references.references()
        references, reference_labels, reference_ids = stored.embeddings, stored.labels, stored.ids
    elif (query_ids is None) != (reference_ids is None):
        raise ValueError(
            "Expected `query_ids` and `reference_ids` together: a point is recognised by equal ids on both sides, but got only one of them."
        )
    query = as_points(queries, query_labels, query_ids, names=_QUERIES, default_label=default_label, default_ids=False)
    reference = as_points(references, reference_labels, reference_ids, names=_REFERENCES, default_ids=False)
    _check_same_space(query.embeddings, reference.embeddings)
    dtype = torch.promote_types(query.embeddings.dtype, reference.embeddings.dtype)
    return query.to(dtype), reference.to(dtype)


def _check_same_space(queries: Tensor, references: Tensor) -> None:
    """Raise unless both have one dimension and one device."""
    if queries.shape[1] != references.shape[1]:
        raise ValueError(f"Expected `references` to have the dimension {queries.shape[1]} of `queries`, but got {describe(references)}.")
    if queries.device != references.device:
        raise ValueError(f"Expected `references` on the device {queries.device} of `queries`, but got {references.device}.")


def budget_of(memory_budget: int | None, device: torch.device) -> int:
    """Bytes that the scores of one chunk may take: the argument, else the library's setting, else 16 MiB on a CPU and 256 MiB elsewhere."""
    if memory_budget is not None:
        return check_count("memory_budget", memory_budget)
    return settings.memory_budget or (2**24 if device.type == "cpu" else 2**28)
