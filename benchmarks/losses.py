"""Losses and miners by name, with the settings that this benchmark trains them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from metriczoo import losses, miners, similarity
from metriczoo.stores import EmbeddingQueue, MemoryBank

__all__ = ["DEFAULT_LOSSES", "LOSSES", "MINERS", "Objective", "Preset", "presets_of"]

MINERS: Mapping[str, Callable[[], miners.Miner | None]] = {
    "none": lambda: None,
    "hard": miners.HardMiner,
    "semi_hard": miners.SemiHardMiner,
    "distance_weighted": miners.DistanceWeightedMiner,
    "priority": miners.PriorityMiner,
}


@dataclass(frozen=True)
class Preset:
    """How a loss is trained here.

    Attributes:
        loss: its class.
        options: its hyper-parameters, where they differ from the papers', which are the defaults of the library.
        miner: name of the miner, unless another one is asked for.
        references: what it compares with: "batch" (to which a cross-batch memory can be added), "proxies" or "bank".
        rate: learning rates, as a multiple of those of the encoder's recipe.
        proxy_rate: learning rate of proxies, as a multiple of that of the head.
    """

    loss: Callable[..., losses.Loss]
    options: Mapping[str, Any] = field(default_factory=dict)
    miner: str = "none"
    references: str = "batch"
    rate: float = 1.0
    proxy_rate: float = 1.0


# Chosen on glyphs, by Recall@1 on 60 of the 200 training letters, held out, after training on the other 140. No test letter was looked at.
LOSSES: Mapping[str, Preset] = {
    "contrastive": Preset(
        lambda **options: losses.ContrastiveLoss(similarity=similarity.Cosine(), **options),
        {"positive_margin": 0.9, "negative_margin": 0.4, "reduction": "mean_active"},
    ),
    "triplet": Preset(losses.TripletMarginLoss, {"margin": 0.2}, miner="semi_hard"),
    "nce": Preset(losses.NCELoss, {"num_noise": 2048, "temperature": 0.15}, references="bank", rate=0.5),
    "am_softmax": Preset(losses.AMSoftmaxLoss, {"margin": 0.2, "scale": 16.0}, references="proxies", proxy_rate=25.0),
    "circle": Preset(losses.CircleLoss, {"margin": 0.4, "scale": 32.0}),
    "lmnn": Preset(losses.LMNNLoss, {"num_targets": 3, "margin": 0.5}),
    "unified": Preset(losses.UnifiedLoss, {"margin": 0.25, "scale": 16.0}),
    # Not searched: the values of the papers, with proxies as quick as those of am_softmax.
    "multi_similarity": Preset(losses.MultiSimilarityLoss),
    "proxy_anchor": Preset(losses.ProxyAnchorLoss, references="proxies", proxy_rate=25.0),
}
# Where only a head on frozen features is trained. Chosen by the mean gain in Recall@1 and MAP@R over principal components on thirds of the
# training classes of Cars (odd ids) and of CUB (100 classes), held out, after training on the others. No test class was looked at.
_FROZEN: Mapping[str, Preset] = {
    **LOSSES,
    "am_softmax": replace(LOSSES["am_softmax"], options={"margin": 0.2, "scale": 8.0}, proxy_rate=100.0),
    "circle": replace(LOSSES["circle"], options={"margin": 0.6, "scale": 16.0}, rate=3.0),
    "multi_similarity": replace(LOSSES["multi_similarity"], options={"negative_scale": 10.0, "threshold": 0.3}, rate=2.0),
}
DEFAULT_LOSSES = ("contrastive", "triplet", "nce", "am_softmax", "circle", "lmnn")


def presets_of(protocol: str) -> Mapping[str, Preset]:
    """How each loss is trained under a protocol."""
    return _FROZEN if protocol == "frozen" else LOSSES


class Objective(nn.Module):
    """A loss with what it compares with: the batch, proxies, a bank, a cross-batch memory.

    Args:
        name: of the loss.
        num_classes: of the training data.
        num_images: of the training data, the size of a bank.
        embedding_dim: of the embeddings.
        miner: name of a miner. Default: that of the preset.
        memory_bank: size of the cross-batch memory of a loss that compares with the batch. Default: none.
        presets: where its settings come from.

    Attributes:
        loss: the loss.
        preset: its settings.
        sees_labels: whether it uses the classes of the images.
        hyper_parameters: all that was chosen, for the record.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        num_images: int,
        embedding_dim: int,
        miner: str | None = None,
        memory_bank: int | None = None,
        presets: Mapping[str, Preset] = LOSSES,
    ) -> None:
        super().__init__()
        self.preset = preset = presets[name]
        self.sees_labels = preset.references != "bank"
        stores: dict[str, Any] = {}
        if preset.references == "proxies":
            stores = {"num_classes": num_classes, "embedding_dim": embedding_dim}
        elif preset.references == "bank":
            stores = {"bank": MemoryBank(num_images, embedding_dim)}
        miner = preset.miner if miner is None else miner
        self.loss = preset.loss(miner=MINERS[miner](), **stores, **preset.options)
        self.queue = EmbeddingQueue(memory_bank, embedding_dim) if memory_bank and preset.references == "batch" else None
        self.hyper_parameters = {
            **{name: getattr(self.loss, name) for name in self.loss.bounds},
            **preset.options,
            "similarity": type(self.loss.similarity).__name__,
            "miner": miner,
            "memory_bank": {"bank": num_images, "batch": memory_bank}.get(preset.references),
        }

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """The loss of a batch; `ids` are the positions of its images in the training data."""
        value: Tensor
        if self.queue is not None:  # an image that the queue remembers is not compared with itself
            value = self.loss(embeddings, labels, [None, self.queue], ids=ids)
        elif self.preset.references == "bank":
            value = self.loss(embeddings, labels, ids=ids)
        else:
            value = self.loss(embeddings, labels)
        return value

    def remember(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Take a batch into the memory, after its step."""
        if self.queue is not None:
            self.queue.enqueue(embeddings, labels, ids)
        elif self.preset.references == "bank":
            self.loss.bank.update(ids, embeddings)  # type: ignore[union-attr, operator]
