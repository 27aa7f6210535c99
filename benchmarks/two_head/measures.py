"""How well images are classified, and how well both heads' features retrieve and cluster them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metriczoo.metrics import clustering_metrics, retrieval_metrics

__all__ = ["accuracies", "measures", "rare_classes"]


def accuracies(predicted: NDArray[np.int64], labels: NDArray[np.int64], rare: NDArray[np.int64] | None = None) -> dict[str, float | None]:
    """Accuracy over images (micro), over classes (macro: the mean of the accuracies of the classes), and over images of rare classes.

    Args:
        predicted: `[n]`.
        labels: `[n]`.
        rare: the rare classes. Default: there are none.
    """
    right = predicted == labels
    images = np.bincount(labels)
    seen = images > 0
    of_class = np.bincount(labels, weights=right)[seen] / images[seen]
    among = np.isin(labels, [] if rare is None else rare)
    return {
        "accuracy": float(right.mean()),
        "accuracy_macro": float(of_class.mean()),
        "accuracy_rare": float(right[among].mean()) if among.any() else None,
    }


def rare_classes(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The third of the classes, rounded down but at least one, that have the fewest training images `counts` `[C]`."""
    order: NDArray[np.int64] = np.argsort(counts, kind="stable")[: max(1, len(counts) // 3)]
    return order


def measures(
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    features: Tensor,
    embeddings: Tensor | None,
    counts: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """All numbers of a run.

    Args:
        predicted: class of each test image `[n]`.
        labels: its true class `[n]`.
        features: pooled, of the first head `[n, c]`.
        embeddings: of the second head `[n, d]`; None where there is no use for it.
        counts: training images of each class, if some classes are rare.

    Returns:
        Accuracies; "pooled" and "embedding", by cosine, each test image a query to all others.
    """
    return {
        **accuracies(predicted, labels, None if counts is None else rare_classes(counts)),
        "pooled": _retrieval(features, labels),
        "embedding": None if embeddings is None else _retrieval(embeddings, labels),
    }


def _retrieval(vectors: Tensor, labels: NDArray[np.int64]) -> dict[str, float | int | None]:
    """By cosine; None where no image has another one of its class."""
    retrieval = retrieval_metrics(vectors, labels, k=(1, 2, 4, 8), metrics=("recall@k", "map@r"))
    clusters = clustering_metrics(vectors, labels)
    values = {**retrieval, "nmi": clusters["nmi"], "ami": clusters["ami"]}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
