"""Softmax with a ranking loss beside it: the systems that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metriczoo import losses, miners
from metriczoo.models import TwoHeadOutput
from metriczoo.similarity import NegativeSquaredEuclidean
from metriczoo.stores import ClusterIndex

__all__ = ["DEFAULT_SYSTEMS", "SYSTEMS", "System", "TwoHeadObjective", "title_of"]

_CLUSTERS = 2  # of each class, of magnet loss: a class has few images here


@dataclass(frozen=True)
class System:
    """A way to train.

    Attributes:
        loss: the ranking loss, of the number of classes, the dimension of the embeddings and the margin; None where there is none.
        batches: "pk" (P classes, K images of each), "shuffled" (images, whatever their class) or "magnet" (clusters near each other).
        weight: lambda.
        rate: learning rates, as a multiple of those of the recipe.
        proxy_rate: learning rate of proxies, as a multiple of that of the heads.
    """

    loss: Callable[[int, int, float], losses.Loss] | None
    batches: str = "pk"
    weight: float = 1.0
    rate: float = 1.0
    proxy_rate: float = 1.0


def _triplet(miner: type[miners.Miner]) -> Callable[[int, int, float], losses.Loss]:
    return lambda classes, dim, margin: losses.TripletMarginLoss(margin, similarity=NegativeSquaredEuclidean(), miner=miner())


# Weights, margin and reductions are those of the paper and its code; it mines semi-hard > easy > hard.
SYSTEMS: Mapping[str, System] = {
    "softmax": System(None),
    "softmax_shuffled": System(None, batches="shuffled"),
    "center": System(lambda classes, dim, margin: losses.CenterLoss(classes, dim, rate=0.5, reduction="sum"), weight=0.003),
    "hard": System(_triplet(miners.HardMiner)),
    "semi_hard": System(_triplet(miners.PriorityMiner)),
    "magnet": System(lambda classes, dim, margin: losses.MagnetLoss(reduction="none"), batches="magnet"),
    "triplet_center": System(lambda classes, dim, margin: losses.TripletCenterLoss(classes, dim, margin=margin), proxy_rate=10.0),
}
DEFAULT_SYSTEMS = ("softmax_shuffled", "softmax", "center", "hard", "semi_hard")


def title_of(name: str) -> str:
    """The name of a system, or of a baseline, in a table."""
    if name == "softmax_shuffled":
        return "softmax, shuffled"
    return f"softmax + {name.replace('_', '-')}" if name in SYSTEMS and name != "softmax" else name


class TwoHeadObjective(nn.Module):
    """Softmax loss of the first head, and lambda times a ranking loss of the second.

    Args:
        name: of the system.
        labels: `[n]`, of the training images.
        num_classes: number of classes.
        embedding_dim: of the embeddings.
        margin: of the triplet losses, and of triplet-center loss.
        weight: lambda. Default: that of the system.
        seed: of the clusters of magnet loss.

    Attributes:
        system: the system.
        loss: the ranking loss, if there is one.
        index: the clusters of magnet loss, if it is that.
        hyper_parameters: all that was chosen, for the record.
    """

    sees_labels = True

    def __init__(
        self,
        name: str,
        labels: NDArray[np.int64],
        *,
        num_classes: int,
        embedding_dim: int,
        margin: float,
        weight: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.system = self.preset = SYSTEMS[name]
        self.weight = self.system.weight if weight is None else weight
        build = self.system.loss
        self.loss = None if build is None else build(num_classes, embedding_dim, margin)
        of_clusters = self.system.batches == "magnet"
        self.index = ClusterIndex(labels, embedding_dim, per_class=_CLUSTERS, seed=seed) if of_clusters else None
        self._each: Tensor | None = None  # the ranking loss of each embedding of the batch
        self.hyper_parameters: dict[str, Any] = {"batches": self.system.batches}
        if self.loss is not None:
            chosen = {name: getattr(self.loss, name) for name in self.loss.bounds}
            miner = None if self.loss.miner is None else type(self.loss.miner).__name__
            self.hyper_parameters |= {"ranking_loss": type(self.loss).__name__, "miner": miner, "weight": self.weight, **chosen}

    def begin_epoch(self, embeddings: Callable[[], Tensor]) -> None:
        """Cluster anew, by embeddings `[n, d]` of the training images, if there are clusters."""
        if self.index is not None:
            self.index.update(embeddings().to(self.index.embeddings))

    def forward(self, output: TwoHeadOutput, labels: Tensor, ids: Tensor) -> Tensor:
        """The loss of a batch; `ids` are the positions of its images in the training data."""
        value = cross_entropy(output.logits, labels)
        if self.loss is None:
            return value
        ranking: Tensor = self.loss(output.embeddings, labels if self.index is None else self.index.labels_of(ids))
        self._each = ranking.detach() if self.index is not None else None
        return value + self.weight * ranking.mean()

    @torch.no_grad()
    def remember(self, output: TwoHeadOutput, labels: Tensor, ids: Tensor) -> None:
        """Move centres and note the losses of clusters, after a step."""
        if isinstance(self.loss, losses.CenterLoss) and self.loss.centers is not None:
            self.loss.centers.update(output.embeddings, labels)
        if self.index is not None and self._each is not None:
            self.index.record(ids, self._each)
