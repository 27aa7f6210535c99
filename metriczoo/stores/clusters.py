"""Clusters of the classes of a data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_count, describe
from metriczoo._execution import checking
from metriczoo.references import References
from metriczoo.stores._base import BufferStore, check_dtype

__all__ = ["ClusterIndex"]


class ClusterIndex(BufferStore):
    """K clusters within each class of a data set, by k-means, and how hard their samples are: the index of magnet loss.

    Clusters are numbered through all classes. A class of fewer than K samples has as many clusters as samples.

    Args:
        labels: `[n]` integers, the class of each sample of the data set; those with a label < 0 are in no cluster.
        embedding_dim: `d`, >= 1.
        per_class: K, >= 1.
        seed: of k-means, >= 0.
        dtype: of the centroids.
        device: where to start. Default: the default device.

    Attributes:
        embeddings: `[m, d]`, the centroids, 0 before the first update.
        labels: `[m]` int64, the class of each cluster.
        filled: `[m]` bool, which clusters have a sample.
        assignments: `[n]` int64, the cluster of each sample; -1 before the first update.
        losses: `[n]`, the latest loss of each sample, 1 at the start.

    These are all the state, and all in `state_dict`.

    Example:
        >>> index = ClusterIndex([0, 0, 0, 1], 1, per_class=2)
        >>> index.update(torch.tensor([[0.0], [0.2], [9.0], [5.0]]))
        >>> index.labels, index.embeddings[index.assignments].flatten()
        (tensor([0, 0, 1]), tensor([0.1000, 0.1000, 9.0000, 5.0000]))
        >>> index.labels_of([3])
        tensor([[1, 2]])

    Relations:
        `MagnetLoss` takes its labels from `labels_of`, `data.MagnetSampler` draws batches of clusters that are near each other. `Centers`
        are one per class, and learned.

    References:
        Rippel, Paluri, Dollar, Bourdev. Metric Learning with Adaptive Density Discrimination. ICLR 2016, section 3.2.
    """

    labels: Tensor
    filled: Tensor
    assignments: Tensor
    losses: Tensor

    def __init__(
        self,
        labels: Any,
        embedding_dim: int,
        *,
        per_class: int = 3,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        checked = as_labels(labels).cpu()
        classes, sizes = checked[checked >= 0].unique(return_counts=True)
        counts = sizes.clamp(max=check_count("per_class", per_class))
        if not len(classes):
            raise ValueError(f"Expected `labels` to hold at least one label >= 0, but got {describe(labels)}.")
        super().__init__(int(counts.sum()), embedding_dim)
        self.per_class, self.seed = per_class, check_count("seed", seed, low=0)
        self.num_samples = len(checked)
        order = checked.argsort(stable=True)[int((checked < 0).sum()) :]
        self._members = list(zip(order.split(sizes.tolist()), counts.tolist(), strict=True))
        self.register_buffer("embeddings", torch.zeros(self.size, self.embedding_dim, dtype=check_dtype(dtype), device=device))
        self.register_buffer("labels", classes.repeat_interleave(counts).to(self.embeddings.device))
        self.register_buffer("filled", torch.zeros(self.size, dtype=torch.bool, device=device))
        self.register_buffer("assignments", torch.full((self.num_samples,), -1, dtype=torch.int64, device=device))
        self.register_buffer("losses", torch.ones(self.num_samples, dtype=torch.float32, device=device))

    def __len__(self) -> int:
        return self.size

    @torch.no_grad()
    def update(self, embeddings: Tensor) -> None:
        """Cluster each class anew.

        Args:
            embeddings: `[n, d]`, floating point, of all samples of the data set, in its order.

        Raises:
            TypeError: of wrong types and dtypes.
            ValueError: of wrong shapes and devices, and of embeddings that are not finite. The index is then unchanged.
        """
        points = self._points("embeddings", embeddings)
        if len(points) != self.num_samples:
            raise ValueError(f"Expected `embeddings` of all {self.num_samples} samples, but got {describe(embeddings)}.")
        self._finite("embeddings", points)
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        assignments = torch.full((self.num_samples,), -1, dtype=torch.int64)
        start = 0
        for samples, k in self._members:
            assignments[samples] = start + self._clusters(points[samples.to(points.device)], k)
            start += k
        self.assignments.copy_(assignments)
        rows = torch.where(self.assignments < 0, self.size, self.assignments)  # a spare row for samples of no class
        count = points.new_zeros(self.size + 1).index_add_(0, rows, torch.ones_like(points[:, 0]))[:-1]
        total = points.new_zeros(self.size + 1, self.embedding_dim).index_add_(0, rows, points)[:-1]
        self.embeddings.copy_(total / count.clamp(min=1).unsqueeze(1))
        self.filled.copy_(count > 0)

    def _clusters(self, points: Tensor, k: int) -> Tensor:
        if len(points) == k:
            return torch.arange(k)
        from metriczoo.metrics._faiss import kmeans

        return kmeans(points, k, niter=20, nredo=1, seed=self.seed)[0]

    def labels_of(self, ids: Any) -> Tensor:
        """`[k, 2]` int64: class and cluster of samples `ids` `[k]`; -1 for both before the first update, and for samples of no class."""
        clusters = self.assignments[self._rows(ids)]
        classes = torch.where(clusters < 0, -1, self.labels[clusters.clamp(min=0)])
        return torch.stack([classes, clusters], dim=1)

    @torch.no_grad()
    def record(self, ids: Any, losses: Tensor) -> None:
        """Remember the losses `[k]` of samples `ids` `[k]`, such as reduction "none" gives; of one id that comes often, the average."""
        rows, values = self._rows(ids), losses.to(self.losses)
        if values.shape != rows.shape:
            raise ValueError(f"Expected `losses` of shape {list(rows.shape)}, one per id, but got {describe(losses)}.")
        count = torch.zeros_like(self.losses).index_add_(0, rows, torch.ones_like(values))
        total = torch.zeros_like(self.losses).index_add_(0, rows, values)
        self.losses.copy_(torch.where(count > 0, total / count.clamp(min=1), self.losses))

    def cluster_losses(self) -> Tensor:
        """`[m]`: the mean loss of the samples of each cluster, 0 for one that has none."""
        rows = torch.where(self.assignments < 0, self.size, self.assignments)
        count = self.losses.new_zeros(self.size + 1).index_add_(0, rows, torch.ones_like(self.losses))
        total = self.losses.new_zeros(self.size + 1).index_add_(0, rows, self.losses)
        return (total / count.clamp(min=1))[:-1]

    def references(self) -> References:
        """All centroids, labelled by their classes; -1, which is ignored, where a cluster has no sample."""
        return References(self.embeddings, torch.where(self.filled, self.labels, -1))

    def _rows(self, ids: Any) -> Tensor:
        rows = as_ids(ids, device=self.assignments.device)
        if rows.numel() and checking(rows) and not 0 <= int(rows.amin()) <= int(rows.amax()) < self.num_samples:
            raise IndexError(f"Expected `ids` to be in [0, {self.num_samples}), but got {int(rows.amin())} to {int(rows.amax())}.")
        return rows

    def extra_repr(self) -> str:
        """Clusters, dimension, dtype and clusters per class."""
        return f"{super().extra_repr()}, per_class={self.per_class}"
