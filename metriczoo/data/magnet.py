"""Batches of clusters that are near each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from metriczoo._checks import check_count, describe
from metriczoo.stores.clusters import ClusterIndex

__all__ = ["MagnetSampler"]


class MagnetSampler(Sampler[list[int]]):
    """Batches of a cluster and the clusters of other classes that are nearest to it, for `DataLoader(batch_sampler=...)`.

    The first cluster of a batch is drawn with a probability proportional to the mean loss of its samples, as the index has recorded it.
    Of each cluster D different samples are drawn; a smaller one gives whole shuffles of itself, cut at D. Samples of one cluster are
    adjacent, the first cluster comes first, then the others by distance.

    A batch depends only on the seed, the epoch, its number, and the index as it is when the batch is drawn. Every iteration is a new epoch.

    Args:
        index: a `ClusterIndex`, updated at least once before the first batch.
        clusters_per_batch: M, >= 2; fewer where other classes have fewer.
        samples_per_cluster: D, >= 1.
        seed: seed of the draws, >= 0.
        num_batches: batches per epoch; by default as many as have the size of the data, `n // (M * D)`, at least 1.

    Raises:
        TypeError: an `index` that is none.
        ValueError: a count out of range.

    Example:
        >>> import torch
        >>> index = ClusterIndex([0, 0, 1, 1, 2, 2], 1, per_class=1)
        >>> index.update(torch.tensor([[0.0], [0.0], [1.0], [1.0], [9.0], [9.0]]))
        >>> index.record([2, 3, 4, 5], torch.zeros(4))
        >>> sampler = MagnetSampler(index, clusters_per_batch=2, samples_per_cluster=2)
        >>> [sorted(batch) for batch in sampler]
        [[0, 1, 2, 3]]

    Relations:
        `PKSampler` draws classes, whatever their distance. The index changes with `index.update` and `index.record`, and a DataLoader with
        workers takes batches ahead of them.

    References:
        Rippel, Paluri, Dollar, Bourdev. Metric Learning with Adaptive Density Discrimination. ICLR 2016, section 3.2.
    """

    def __init__(
        self,
        index: ClusterIndex,
        clusters_per_batch: int = 12,
        samples_per_cluster: int = 4,
        *,
        seed: int = 0,
        num_batches: int | None = None,
    ) -> None:
        if not isinstance(index, ClusterIndex):
            raise TypeError(f"Expected `index` to be a ClusterIndex, but got {describe(index)}.")
        self.index = index
        self.clusters_per_batch = check_count("clusters_per_batch", clusters_per_batch, low=2)
        self.samples_per_cluster = check_count("samples_per_cluster", samples_per_cluster)
        self.seed = check_count("seed", seed, low=0)
        default = max(1, index.num_samples // (self.clusters_per_batch * self.samples_per_cluster))
        self.num_batches = default if num_batches is None else check_count("num_batches", num_batches)
        self._next = self._position = (0, 0)  # epoch and batch: of the next iteration's start, and reached in this one

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self._next
        self._next, self._position = (epoch + 1, 0), self._next
        for number in range(start, self.num_batches):
            self._position = (epoch, number + 1)
            yield self._batch(np.random.default_rng([self.seed, epoch, number]))

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one; the epoch a loaded state stands in goes on where it stood."""
        if check_count("epoch", epoch, low=0) != self._next[0]:
            self._next = (epoch, 0)
        self._position = self._next

    def state_dict(self) -> dict[str, int]:
        """Where the sampler stands: the epoch, and the batches of it that were given out. The index has a state of its own."""
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch} if batch < self.num_batches else {"epoch": epoch + 1, "batch": 0}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state` stood: the next iteration gives the rest of its epoch."""
        epoch, batch = check_count("epoch", state["epoch"], low=0), check_count("batch", state["batch"], low=0)
        if batch > self.num_batches:
            raise ValueError(f"Expected `batch` to be at most {self.num_batches}, the batches of an epoch, but got {batch}.")
        self._next = self._position = (epoch, batch) if batch < self.num_batches else (epoch + 1, 0)

    def _batch(self, generator: np.random.Generator) -> list[int]:
        index = self.index
        if not bool(index.filled.any()):
            raise RuntimeError("The index has no clusters yet: call its `update` before the first batch.")
        weights = index.cluster_losses().double().clamp(min=0).cpu().numpy()
        if not weights.sum() > 0:
            weights = index.filled.double().cpu().numpy()
        first = int(generator.choice(index.size, p=weights / weights.sum()))
        others = (index.filled & (index.labels != index.labels[first])).nonzero().squeeze(1)
        distance = (index.embeddings[others].float() - index.embeddings[first].float()).square().sum(1)
        nearest = others[distance.topk(min(self.clusters_per_batch - 1, len(others)), largest=False).indices]
        return [i for cluster in [first, *nearest.tolist()] for i in self._draw(cluster, generator)]

    def _draw(self, cluster: int, generator: np.random.Generator) -> list[int]:
        members: NDArray[np.int64] = torch.nonzero(self.index.assignments == cluster).squeeze(1).cpu().numpy()
        count = self.samples_per_cluster
        if len(members) >= count:
            return generator.choice(members, count, replace=False).tolist()  # type: ignore[no-any-return]
        shuffles = [generator.permutation(members) for _ in range(-(-count // len(members)))]
        return np.concatenate(shuffles)[:count].tolist()  # type: ignore[no-any-return]
