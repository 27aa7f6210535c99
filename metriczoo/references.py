"""What an anchor is compared with: one interface for the batch, stores, proxies and other ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_embeddings, check_finite, describe
from metriczoo._execution import checking

__all__ = ["References", "Store", "as_references", "match"]


@dataclass(frozen=True, eq=False)
class References:
    """Points that anchors are compared with.

    Args:
        embeddings: `[n, d]`, floating point. Gradients reach them if they require one.
        labels: `[n]`, integers, or a tensor `[n, ...]` for a relation of the user's own. A label < 0 is ignored: neither positive nor negative.
        ids: `[n]`, integers. A pair with equal ids is the same point and never compared; an id < 0 equals no other id. Default: all -1.
    """

    embeddings: Tensor  # [n, d]
    labels: Tensor  # [n]
    ids: Tensor | None = None  # [n]

    def __post_init__(self) -> None:
        embeddings = check_embeddings("references.embeddings", self.embeddings)
        n, device = embeddings.shape[0], embeddings.device
        ids = torch.full((n,), -1, dtype=torch.int64, device=device) if self.ids is None else self.ids
        object.__setattr__(self, "labels", as_labels(self.labels, argument="references.labels", length=n, device=device, flat=False))
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
    parts = [None if entry is None else _one(entry, batch) for entry in entries]
    ids = batch.ids
    if fresh:
        others = [part.ids for part in parts if part is not None and len(part)]
        start = torch.cat(others).amax().clamp(min=-1) + 1 if others else 0
        ids = torch.arange(len(batch), device=batch.embeddings.device) + start
    own = References(batch.embeddings, batch.labels, ids)
    return [own if part is None else part for part in parts], None if fresh and None not in parts else own.ids


def _one(entry: Any, batch: References) -> References:
    if isinstance(entry, Store):
        part = entry.references()
    elif isinstance(entry, References):
        part = entry
    elif isinstance(entry, tuple) and len(entry) == 2:
        part = References(*entry)
    else:
        raise TypeError(f"Expected `references` to be None, a store, a pair (embeddings, labels), a References, or a list of these, but got {describe(entry)}.")
    match(part, batch.embeddings)
    if not isinstance(entry, Store) and checking(part.embeddings):  # a store looks at what it is given
        check_finite("references", part.embeddings)
    return part


def match(part: References, anchors: Tensor) -> None:
    """Raise unless references can be compared with `anchors` `[n, d]`."""
    if part.embeddings.shape[1] != anchors.shape[1]:
        raise ValueError(f"Expected `references` of dimension {anchors.shape[1]}, that of `embeddings`, but got {describe(part.embeddings)}.")
    if part.embeddings.device != anchors.device:
        raise ValueError(f"Expected `references` on device {anchors.device}, that of `embeddings`, but got {part.embeddings.device}.")
