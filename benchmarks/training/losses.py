"""Losses and miners by name, with what they compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.presets import LETTERS, Preset
from metriczoo import miners
from metriczoo.losses import CenterLoss, Loss, SumLoss
from metriczoo.stores import EmbeddingQueue, MemoryBank

__all__ = ["DEFAULT_LOSSES", "LOSSES", "MINERS", "Objective"]

MINERS: Mapping[str, Callable[[], miners.Miner | None]] = {
    "none": lambda: None,
    "hard": miners.HardMiner,
    "semi_hard": miners.SemiHardMiner,
    "distance_weighted": miners.DistanceWeightedMiner,
    "priority": miners.PriorityMiner,
    "multi_similarity": miners.MultiSimilarityMiner,
}
LOSSES = LETTERS
DEFAULT_LOSSES = ("contrastive", "triplet", "nce", "am_softmax", "circle", "lmnn")


class Objective(nn.Module):
    """A loss with what it compares with: the batch, proxies, a bank, a cross-batch memory.

    Args:
        name: of the loss.
        num_classes: of the training data.
        num_images: of the training data, the size of a bank.
        embedding_dim: of the embeddings.
        miner: name of a miner. Default: that of the preset.
        memory_bank: size of the cross-batch memory of a loss that compares with the batch. Default: none.
        memory_from_step: steps before the memory takes in anything, while embeddings still move too fast to be worth remembering.
        presets: where its settings come from.

    Attributes:
        loss: the loss.
        parts: the losses it is made of, the main one first; itself where it is no sum.
        preset: its settings.
        sees_labels: whether it uses the classes of the images.
        hyper_parameters: all that was chosen, for the record.
    """

    num_steps: Tensor

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        num_images: int,
        embedding_dim: int,
        miner: str | None = None,
        memory_bank: int | None = None,
        memory_from_step: int = 0,
        presets: Mapping[str, Preset] = LOSSES,
    ) -> None:
        super().__init__()
        self.preset = preset = presets[name]
        self.sees_labels = preset.references != "bank"
        stores: dict[str, Any] = {"num_classes": num_classes} if preset.per_class else {}
        if preset.references == "proxies":
            stores = {"num_classes": num_classes, "embedding_dim": embedding_dim}
        elif preset.references == "bank":
            stores = {"bank": MemoryBank(num_images, embedding_dim)}
        elif preset.references == "tree":  # batches hold as many images of any class
            stores = {"counts": [1] * num_classes, "embedding_dim": embedding_dim}
        miner = preset.miner if miner is None else miner
        self.loss = preset.loss(miner=MINERS[miner](), **stores, **preset.options)
        self.queue = EmbeddingQueue(memory_bank, embedding_dim) if memory_bank and preset.references == "batch" else None
        self.memory_from_step = memory_from_step
        if self.queue is not None:
            self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.hyper_parameters = {
            **dict(chain.from_iterable(_bounded(part).items() for part in reversed(self.parts))),
            **preset.options,
            "similarity": type(self.parts[0].similarity).__name__,
            "miner": miner,
            "memory_bank": {"bank": num_images, "batch": memory_bank}.get(preset.references),
            **({"memory_from_step": memory_from_step} if self.queue is not None else {}),
            **({} if preset.length is None else {"length": preset.length}),
        }

    @property
    def parts(self) -> list[Loss]:
        """See above; not kept, for parameters are to be counted once."""
        return self.loss.parts() if isinstance(self.loss, SumLoss) else [self.loss]  # type: ignore[list-item]

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """The loss of a batch; `ids` are the positions of its images in the training data."""
        value: Tensor
        embeddings = self._seen(embeddings)
        if self.queue is not None and len(self.queue):  # an image that the queue remembers is not compared with itself
            value = self.loss(embeddings, labels, [None, self.queue], ids=ids)
        elif self.preset.references == "bank":
            value = self.loss(embeddings, labels, ids=ids)
        else:
            value = self.loss(embeddings, labels)
        return value

    def remember(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Take a batch into the memory, after its step."""
        embeddings = self._seen(embeddings)
        if self.queue is not None:
            if int(self.num_steps) >= self.memory_from_step:
                self.queue.enqueue(embeddings, labels, ids)
            self.num_steps += 1
        elif self.preset.references == "bank":
            self.loss.bank.update(ids, embeddings)  # type: ignore[union-attr, operator]
        for part in self.parts:
            if isinstance(part, CenterLoss) and part.centers is not None:
                part.centers.update(embeddings, labels)

    def _seen(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.preset.length is None else self.preset.length * embeddings


def _bounded(loss: Loss) -> dict[str, Any]:
    """The hyper-parameters of a loss that have bounds and are one number, which may be learned."""
    values = {name: getattr(loss, name, None) for name in loss.bounds}
    values = {name: value.detach() if isinstance(value, Tensor) else value for name, value in values.items()}
    several = {name for name, value in values.items() if isinstance(value, tuple) or (isinstance(value, Tensor) and value.numel() > 1)}
    single = {name: value for name, value in values.items() if value is not None and name not in several}
    return {name: value if isinstance(value, (int, float)) else float(value) for name, value in single.items()}
