"""Embeddings of a data set, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.images import Square, center
from metriczoo.metrics import clustering_metrics, retrieval_metrics

__all__ = ["embed", "evaluate", "recall_at_1"]

_BATCH = 128


@torch.no_grad()
def embed(encode: Callable[[Tensor], Tensor], images: Square, side: int, *, device: torch.device, workers: int = 0) -> Tensor:
    """What `encode` makes of every image, `[n, d]` on the host, in the order of the data set.

    Args:
        encode: from images `[b, channels, side, side]` in [0, 1] to vectors `[b, d]`.
        images: the data set, of which the middle is seen.
        side: of the images to encode.
        device: where to encode.
        workers: processes that read images.
    """
    # A generator of its own: reading data must not move the global one, which training draws from.
    loader = DataLoader(images, batch_size=_BATCH, num_workers=workers, generator=torch.Generator())
    return torch.cat([encode(center(batch.to(device), side)).float().cpu() for batch, _, _ in loader])


def recall_at_1(embeddings: Tensor, labels: NDArray[Any]) -> float:
    """Recall@1 by cosine."""
    value: float = retrieval_metrics(embeddings, labels, metrics="recall@1")["recall@1"]
    return value


def evaluate(embeddings: Tensor, labels: NDArray[Any]) -> dict[str, float | int | None]:
    """All metrics of the benchmark by cosine, each image a query to all others; None where no image has another one of its class."""
    retrieval = retrieval_metrics(embeddings, labels, k=(1, 2, 4, 8), metrics=("recall@k", "map@r", "r_precision"))
    clusters = clustering_metrics(embeddings, labels)
    values = {**retrieval, "nmi": clusters["nmi"], "ami": clusters["ami"]}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
