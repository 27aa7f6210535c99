"""A queue of the embeddings of recent batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels
from metriczoo.references import References
from metriczoo.stores._base import BufferStore, check_dtype

__all__ = ["EmbeddingQueue"]


class EmbeddingQueue(BufferStore):
    """The last `size` embeddings that came in, first in, first out, with their labels and ids: cross-batch memory.

    Args:
        size: number of points kept, >= 1.
        embedding_dim: `d`, >= 1.
        dtype: of the stored embeddings; half precision halves the memory.
        device: where to start. Default: the default device.

    Attributes:
        embeddings: `[size, d]`, a ring: the `i`-th point that ever came in is in row `i % size`.
        labels: `[size]` int64; -1 in empty rows.
        ids: `[size]` int64; -1 in empty rows and for points that came without.
        num_enqueued: `[]` int64, how many points came in since the start or `clear`. With the above it is all the state, and all in
            `state_dict`.

    Example:
        >>> queue = EmbeddingQueue(3, 2)
        >>> queue.enqueue(torch.eye(2), [7, 8])
        >>> queue.enqueue(-torch.eye(2), [9, 10])
        >>> len(queue), queue.references().labels
        (3, tensor([10,  8,  9]))

    Relations:
        `MemoryBank` keeps one row per sample of a data set rather than the latest points. To have the current batch in the memory, as in
        the paper, enqueue it before the loss, and give both the same ids, so that no point is compared with itself.

    References:
        Wang, Zhang, Huang, Scott. Cross-Batch Memory for Embedding Learning. CVPR 2020.
        He, Fan, Wu, Xie, Girshick. Momentum Contrast for Unsupervised Visual Representation Learning. CVPR 2020.
    """

    labels: Tensor
    ids: Tensor
    num_enqueued: Tensor

    def __init__(
        self, size: int, embedding_dim: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        super().__init__(size, embedding_dim)
        self.register_buffer("embeddings", torch.zeros(self.size, self.embedding_dim, dtype=check_dtype(dtype), device=device))
        self.register_buffer("labels", torch.full((self.size,), -1, dtype=torch.int64, device=device))
        self.register_buffer("ids", torch.full((self.size,), -1, dtype=torch.int64, device=device))
        self.register_buffer("num_enqueued", torch.zeros((), dtype=torch.int64, device=device))
        self._num_enqueued = 0  # the same number, where the host reads it without waiting for a device

    def __len__(self) -> int:
        return min(self._num_enqueued, self.size)

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        """Put copies of points into the queue; the oldest ones make room. Of more than `size` points only the last `size` stay.

        Args:
            embeddings: `[n, d]`, floating point; no gradient ever flows back.
            labels: `[n]` integers; a point with a label < 0 is ignored by losses.
            ids: `[n]` integers, by which losses know a point from itself. Default: -1, unknown.

        Raises:
            TypeError: of wrong types and dtypes.
            ValueError: of wrong shapes, lengths and devices, and of embeddings that are not finite in the dtype of the queue. The queue is
                then unchanged.
        """
        points = self._points("embeddings", embeddings).to(self.embeddings.dtype)
        n, device = points.shape[0], points.device
        labels = as_labels(labels, length=n, device=device)
        ids = torch.full((n,), -1, dtype=torch.int64, device=device) if ids is None else as_ids(ids, length=n, device=device)
        self._finite("embeddings", points)
        kept = min(n, self.size)
        begin = (self._num_enqueued + n - kept) % self.size
        head = min(kept, self.size - begin)  # what fits before the end of the ring; the rest goes to its start
        for buffer, new in ((self.embeddings, points), (self.labels, labels), (self.ids, ids)):
            new = new[n - kept :]
            buffer[begin : begin + head] = new[:head]
            buffer[: kept - head] = new[head:]
        self._num_enqueued += n
        self.num_enqueued.fill_(self._num_enqueued)

    def references(self) -> References:
        """The points in the queue, in the order of the ring, not of their age.

        A view: it changes with the queue, so enqueue before the loss or after backward.
        """
        n = len(self)
        return References(self.embeddings[:n], self.labels[:n], self.ids[:n])

    @torch.no_grad()
    def clear(self) -> None:
        """Empty the queue."""
        self.embeddings.zero_()
        self.labels.fill_(-1)
        self.ids.fill_(-1)
        self.num_enqueued.zero_()
        self._num_enqueued = 0

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not self.num_enqueued.is_meta:
            self._num_enqueued = int(self.num_enqueued)
