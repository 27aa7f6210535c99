"""Class centres that follow the embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import as_labels, check_count, check_number
from metriczoo._execution import checking
from metriczoo.references import References
from metriczoo.stores._base import BufferStore, check_dtype

__all__ = ["Centers"]


class Centers(BufferStore):
    r"""One centre per class, which moves towards the embeddings of the class at every update, and receives no gradient.

    .. math:: c_j \leftarrow c_j - \alpha \frac{\sum_{y_i = j} (c_j - x_i)}{1 + n_j}

    :math:`n_j` is the number of embeddings of class j in the update; a class without any stays where it is.

    Args:
        num_classes: C, >= 1; labels are 0 ... C - 1.
        embedding_dim: `d`, >= 1.
        rate: :math:`\alpha` in [0, 1].
        dtype: of the centres.
        device: where to start. Default: the default device.

    Attributes:
        embeddings: `[C, d]`, the centres, 0 at the start. They are all the state, in `state_dict`.

    Example:
        >>> centers = Centers(2, 1, rate=0.5)
        >>> centers.update(torch.tensor([[3.0], [6.0], [4.0]]), [0, 0, 1])
        >>> centers.embeddings
        tensor([[1.5000],
                [1.0000]])

    Relations:
        `Proxies` are trained by gradients, and `MemoryBank` has a row per sample.

    References:
        Wen, Zhang, Li, Qiao. A Discriminative Feature Learning Approach for Deep Face Recognition. ECCV 2016, equation 4.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        rate: float = 0.5,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(check_count("num_classes", num_classes), embedding_dim)
        self.rate = check_number("rate", rate, low=0, high=1)
        self.register_buffer("embeddings", torch.zeros(self.size, self.embedding_dim, dtype=check_dtype(dtype), device=device))

    @property
    def num_classes(self) -> int:
        """C."""
        return self.size

    def check_labels(self, labels: Any, *, length: int | None = None) -> Tensor:
        """Return `labels` `[n]` as int64 on the device of the centres, if they are below `num_classes`, else raise."""
        checked = as_labels(labels, length=length)
        if checked.numel() and checking(checked) and int(checked.amax()) >= self.size:
            raise ValueError(f"Expected `labels` to be less than {self.size} (`num_classes`), but got {int(checked.amax())}.")
        return checked.to(self.embeddings.device)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Any) -> None:
        """Move the centres towards a batch. They change what `references` gave out, so call it after backward.

        Args:
            embeddings: `[n, d]`, floating point; no gradient ever flows back.
            labels: `[n]` integers; an embedding with a label < 0 is ignored.

        Raises:
            TypeError: of wrong types and dtypes.
            ValueError: of wrong shapes, lengths and devices, of labels out of range, and of embeddings that are not finite. The centres are
                then unchanged.
        """
        points = self._points("embeddings", embeddings)
        points = points.to(torch.promote_types(points.dtype, torch.promote_types(self.embeddings.dtype, torch.float32)))
        labels = self.check_labels(labels, length=len(points))
        self._finite("embeddings", points)
        known = labels >= 0
        classes, row = labels[known].unique(return_inverse=True)  # other centres are not touched, however many there are
        count = points.new_zeros(len(classes)).index_add_(0, row, points.new_ones(len(row))).unsqueeze(1)
        total = points.new_zeros(len(classes), self.embedding_dim).index_add_(0, row, points[known])
        old = self.embeddings[classes].to(points.dtype)
        self.embeddings.index_copy_(0, classes, (old - self.rate * (count * old - total) / (1 + count)).to(self.embeddings.dtype))

    def references(self) -> References:
        """All centres, labelled by their classes, as a view; their ids are -1."""
        return References(self.embeddings, torch.arange(self.size, device=self.embeddings.device))

    def extra_repr(self) -> str:
        """Classes, dimension, dtype and rate."""
        return f"{super().extra_repr()}, rate={self.rate}"
