"""What is trained without labels: every image is a class of its own, kept in a memory bank."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.presets import Preset
from metriczoo import losses
from metriczoo.stores import MemoryBank

__all__ = ["CrossEntropy", "InstanceObjective", "Variant"]

DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Variant:
    """A way to tell instances apart.

    Attributes:
        num_noise: m, rows of the bank that stand against each image; None: all, the softmax itself.
        proximal: lambda, the weight of the proximal term.
        embedding_dim: of the embeddings.
        temperature: tau.
        momentum: share of its old row that the bank keeps.
        bank_dtype: of its rows.
    """

    num_noise: int | None
    proximal: float
    embedding_dim: int
    temperature: float
    momentum: float
    bank_dtype: str

    @classmethod
    def of(cls, options: argparse.Namespace, **changes: Any) -> Variant:
        """The one that the options name, changed."""
        fields = ("num_noise", "proximal", "embedding_dim", "temperature", "momentum", "bank_dtype")
        return cls(**{**{name: getattr(options, name) for name in fields}, **changes})

    @property
    def name(self) -> str:
        """Of the run."""
        loss = "softmax" if self.num_noise is None else f"nce-m{self.num_noise}"
        return f"{loss}-lambda{self.proximal:g}-d{self.embedding_dim}"

    def bank(self, rows: int, *, generator: torch.Generator | None = None) -> MemoryBank:
        """A bank for so many images."""
        return MemoryBank(rows, self.embedding_dim, momentum=self.momentum, dtype=DTYPES[self.bank_dtype], generator=generator)

    def loss(self, bank: MemoryBank, reduction: str = "mean") -> losses.Loss:
        """The loss, without the proximal term."""
        if self.num_noise is None:
            return losses.NonParametricSoftmaxLoss(bank, temperature=self.temperature, reduction=reduction)
        return losses.NCELoss(bank, num_noise=self.num_noise, temperature=self.temperature, reduction=reduction)


class InstanceObjective(nn.Module):
    """A variant, with its bank and what is observed at each step.

    Args:
        variant: which one.
        num_images: rows of the bank.
        steps: that there will be.

    Attributes:
        observed: `[steps, 3]`, at each step done, as means over the batch: the loss without the proximal term; how far the embeddings are
            from their rows, as a squared distance; half the square of what the loss of an image has changed by since its last visit, NaN
            where there was none.
        last: `[num_images]`, the loss of each image at its last visit.
    """

    sees_labels = False
    preset = Preset(losses.NCELoss, references="bank")
    observed: Tensor
    last: Tensor
    done: Tensor

    def __init__(self, variant: Variant, num_images: int, steps: int) -> None:
        super().__init__()
        self.bank = variant.bank(num_images)
        self.loss = variant.loss(self.bank, "none")
        self.proximal = losses.ProximalRegularizer(self.bank, weight=1.0)
        self.weight = variant.proximal
        self.hyper_parameters = asdict(variant)
        self.register_buffer("observed", torch.zeros(steps, 3))
        self.register_buffer("last", torch.full((num_images,), math.nan))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """The loss of a batch; `ids` are the positions of its images in the training data. Labels are not looked at."""
        of_images = self.loss(embeddings, ids)
        value, moved = of_images.mean(), self.proximal(embeddings, ids)
        seen = of_images.detach()
        changed = (seen - self.last[ids]).square().nanmean() / 2
        self.observed[self.done] = torch.stack([value.detach(), moved.detach(), changed])
        self.last[ids] = seen
        self.done += 1
        return value + self.weight * moved if self.weight else value  # type: ignore[no-any-return]

    def remember(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Move the rows of a batch, after its step."""
        self.bank.update(ids, embeddings)


class CrossEntropy(nn.Module):
    """Classification of a few images whose labels are shown."""

    sees_labels = False  # in the choice of batches
    preset = Preset(losses.SoftmaxLoss)

    def __init__(self) -> None:
        super().__init__()
        self.hyper_parameters: dict[str, Any] = {}

    def forward(self, logits: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """The mean over a batch."""
        return cross_entropy(logits, labels)

    def remember(self, logits: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Nothing is remembered."""
