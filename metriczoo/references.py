"""What an anchor is compared with: one interface for the batch, stores, proxies and other ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_embeddings, check_finite, describe
from metriczoo._execution import checking

__all__ = ["References", "SampledReferences", "Sampler", "Store", "as_references", "match"]


@dataclass(frozen=True, eq=False)
class References:
    """Points that anchors are compared with.

    Args:
        embeddings: `[n, d]`, floating point. Gradients reach them if they require one.
        labels: `[n]`, integers, or a tensor `[n, ...]` for a relation of the user's own. A label < 0 is ignored: neither positive nor
            negative.
        ids: `[n]`, integers. A pair with equal ids is the same point and never compared; an id < 0 equals no other id. Default: all -1.
    """

    embeddings: Tensor  # [n, d]
    labels: Tensor  # [n]
    ids: Tensor = None  # type: ignore[assignment]  # [n]; None becomes -1

    def __post_init__(self) -> None:
        embeddings = check_embeddings("references.embeddings", self.embeddings)
        n, device = embeddings.shape[0], embeddings.device
        if self.ids is None:
            ids = torch.full((n,), -1, dtype=torch.int64, device=device)
        else:
            ids = as_ids(self.ids, argument="references.ids", length=n, device=device)
        object.__setattr__(self, "labels", as_labels(self.labels, argument="references.labels", length=n, device=device, flat=False))
        object.__setattr__(self, "ids", ids)

    def __len__(self) -> int:
        return int(self.embeddings.shape[0])


@dataclass(frozen=True, eq=False)
class SampledReferences(References):
    """Points of some classes, such as proxies: those of a batch, and others that were drawn.

    Args:
        certain: how many references, the first ones, are of classes of the batch. None: in any order, and each stands for itself.
        weight: how many references each of the others stands for.
    """

    certain: int | None = None
    weight: float = 1.0


@runtime_checkable
class Store(Protocol):
    """Anything that gives references: memory banks, queues, proxies."""

    def references(self) -> References:
        """What anchors are compared with, as it is now."""
        ...


@runtime_checkable
class Sampler(Store, Protocol):
    """A store that may give some of its points only."""

    def sampled(self, labels: Tensor) -> References:
        """What a batch with `labels` `[n]` is compared with."""
        ...


def as_references(given: Any, anchors: Tensor, labels: Tensor, ids: Tensor | None) -> tuple[list[References], Tensor | None]:
    """What a caller gives as references, as a list of `References`, and the ids of the anchors.

    Args:
        given: a store, `(embeddings, labels)`, a `References`, or a list of these, where `None` stands for the batch.
        anchors: `[n, d]`, the batch.
        labels: `[n]`.
        ids: `[n]`; None makes fresh ones, which equal no id but their own.

    Returns:
        The references, and the ids of the anchors; None where they cannot equal any.

    Raises:
        TypeError: if an entry is none of those.
        ValueError: if the list is empty, or an entry cannot be compared with the anchors.
    """
    entries = given if isinstance(given, list) else [given]
    if not entries:
        raise ValueError("Expected `references` to hold at least one entry, but got an empty list.")
    parts = [None if entry is None else _one(entry, anchors, labels) for entry in entries]
    if None not in parts and ids is None:
        return [part for part in parts if part is not None], None
    if ids is None:  # the batch equals itself only, so the ids of the others do not matter
        ids = torch.arange(len(anchors), device=anchors.device)
        parts = [None if part is None else References(part.embeddings, part.labels) for part in parts]
    own = References(anchors, labels, ids)
    return [own if part is None else part for part in parts], ids


def _one(entry: Any, anchors: Tensor, labels: Tensor) -> References:
    stored = type(entry) not in (tuple, References, SampledReferences) and isinstance(entry, Store)  # to ask a protocol takes long
    if stored:
        part = entry.sampled(labels) if isinstance(entry, Sampler) else entry.references()
    elif isinstance(entry, References):
        part = entry
    elif isinstance(entry, tuple) and len(entry) == 2:
        part = References(*entry)
    else:
        raise TypeError(
            "Expected `references` to be None, a store, a pair (embeddings, labels), a References, or a list of these, "
            f"but got {describe(entry)}."
        )
    match(part, anchors)
    if not stored and checking(part.embeddings):  # a store looks at what it is given
        check_finite("references", part.embeddings)
    return part


def match(part: References, anchors: Tensor) -> None:
    """Raise unless references can be compared with `anchors` `[n, d]`."""
    if part.embeddings.shape[1] != anchors.shape[1]:
        raise ValueError(
            f"Expected `references` of dimension {anchors.shape[1]}, that of `embeddings`, but got {describe(part.embeddings)}."
        )
    if part.embeddings.device != anchors.device:
        raise ValueError(f"Expected `references` on device {anchors.device}, that of `embeddings`, but got {part.embeddings.device}.")
