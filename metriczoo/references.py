"""What an anchor is compared with: one interface for the batch, stores, proxies and other ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_embeddings, describe

__all__ = ["References", "Store", "as_references"]


@dataclass(frozen=True, eq=False)
class References:
    """Points that anchors are compared with.

    Args:
        embeddings: `[n, d]`, floating point. Gradients reach them if they require one.
        labels: `[n]`, integers. A label < 0 is ignored: neither positive nor negative.
        ids: `[n]`, integers. A pair with equal ids is the same point and never compared; an id < 0 equals no other id. Default: all -1.
    """

    embeddings: Tensor  # [n, d]
    labels: Tensor  # [n]
    ids: Tensor | None = None  # [n]

    def __post_init__(self) -> None:
        embeddings = check_embeddings("references.embeddings", self.embeddings)
        n, device = embeddings.shape[0], embeddings.device
        ids = torch.full((n,), -1, dtype=torch.int64, device=device) if self.ids is None else self.ids
        object.__setattr__(self, "labels", as_labels(self.labels, argument="references.labels", length=n, device=device))
        object.__setattr__(self, "ids", as_ids(ids, argument="references.ids", length=n, device=device))

    def __len__(self) -> int:
        return int(self.embeddings.shape[0])


@runtime_checkable
class Store(Protocol):
    """Anything that gives references: memory banks, queues, proxies."""

    def references(self) -> References: ...


def as_references(given: Any, batch: References, *, fresh: bool) -> tuple[list[References], Tensor | None]:
    """What a caller gives as references, as a list of `References`, and the ids of the anchors.

    Args:
        given: `None` (the batch), a store, `(embeddings, labels)`, a `References`, or a list of these.
        batch: the anchors.
        fresh: whether the caller gave the anchors no ids. They then equal no id but their own.

    Returns:
        The references, and the ids of the anchors; None where they cannot equal any.

    Raises:
        TypeError: if an entry is none of those.
        ValueError: if the list is empty.
    """
    entries = given if isinstance(given, list) else [given]
    if not entries:
        raise ValueError("Expected `references` to hold at least one entry, but got an empty list.")
    parts = [None if entry is None else _one(entry) for entry in entries]
    ids = batch.ids
    if fresh:
        others = [part.ids for part in parts if part is not None and len(part)]
        start = torch.cat(others).amax().clamp(min=-1) + 1 if others else 0
        ids = torch.arange(len(batch), device=batch.embeddings.device) + start
    own = References(batch.embeddings, batch.labels, ids)
    return [own if part is None else part for part in parts], None if fresh and None not in parts else own.ids


def _one(entry: Any) -> References:
    if isinstance(entry, References):
        return entry
    if isinstance(entry, Store):
        return entry.references()
    if isinstance(entry, tuple) and len(entry) == 2:
        return References(*entry)
    raise TypeError(f"Expected `references` to be None, a store, a pair (embeddings, labels), a References, or a list of these, but got {describe(entry)}.")
