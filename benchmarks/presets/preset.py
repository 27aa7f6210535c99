"""What a preset is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["KINDS", "Preset", "Source", "values_in_words"]

KINDS = ("paper", "code", "search", "choice")


@dataclass(frozen=True)
class Source:
    """Where the values of a preset are from.

    Attributes:
        kind: "paper", "code" (of the authors), "search" (our own, on held-out training classes) or "choice" (ours, unsearched).
        text: which paper or code, or what was searched on what.
        record: of a search: data, folds, trials, score, versions.
        training: what the paper or code trained with, where it says so; the recipe of the benchmark is another.
    """

    kind: str
    text: str
    record: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """How a loss is trained here.

    Attributes:
        loss: its class, or what makes it.
        options: its hyper-parameters, where they differ from the papers', which are the defaults of the library.
        miner: name of the miner, unless another one is asked for.
        references: what it compares with: "batch" (to which a cross-batch memory can be added), "proxies" (a vector per class), "bank" (one
            per image) or "tree" (one per inner node of a tree of classes).
        rate: learning rates, as a multiple of those of the encoder's recipe.
        proxy_rate: learning rate of proxies and other parameters of the loss, as a multiple of that of the head.
        length: None if the loss sees embeddings of unit length; else a factor of the raw output of the head, which it sees instead.
        per_class: whether a loss that compares with the batch has something of its own for each class, and wants to know their number.
        source: where the values are from.
    """

    loss: Callable[..., nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)
    miner: str = "none"
    references: str = "batch"
    rate: float = 1.0
    proxy_rate: float = 1.0
    length: float | None = None
    per_class: bool = False
    source: Source = Source("choice", "none given")


def values_in_words(preset: Preset) -> str:
    """What was chosen of a preset."""
    values = {**preset.options, **({} if preset.miner == "none" else {"miner": preset.miner}), "rate": preset.rate}
    if preset.references in ("proxies", "tree") or preset.per_class:
        values["proxy_rate"] = preset.proxy_rate
    if preset.length is not None:
        values["length"] = preset.length
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
