"""Learnable points that stand for classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import as_labels, check_count
from metriczoo._execution import checking
from metriczoo.references import References
from metriczoo.similarity import unit
from metriczoo.stores._base import check_dtype

__all__ = ["Proxies"]


class Proxies(nn.Module):
    """One or more learnable points per class: the weight matrix of a classifier, seen as references.

    Args:
        num_classes: >= 1; labels are 0 ... `num_classes` - 1.
        embedding_dim: `d`, >= 1.
        per_class: proxies of each class, >= 1: sub-centres, or the centres of SoftTriple.
        generator: source of the start. Default: the global one.
        dtype: of the proxies. Default: the default dtype.
        device: where to start. Default: the default device.

    Attributes:
        weight: parameter `[num_classes * per_class, d]`, row `c * per_class + j` is proxy `j` of class `c`. It starts uniform on the unit
            sphere, and is all the state.

    Example:
        >>> proxies = Proxies(3, 8, per_class=2)
        >>> proxies.references().labels
        tensor([0, 0, 1, 1, 2, 2])
        >>> torch.allclose(proxies.weight.norm(dim=1), torch.ones(6))
        True

    Relations:
        `MemoryBank` and `EmbeddingQueue` hold points that were computed and receive no gradient; proxies are trained, often with a learning
        rate of their own.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        per_class: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes)
        self.embedding_dim = check_count("embedding_dim", embedding_dim)
        self.per_class = check_count("per_class", per_class)
        dtype = torch.get_default_dtype() if dtype is None else check_dtype(dtype)
        self.weight = nn.Parameter(torch.empty(self.num_classes * self.per_class, self.embedding_dim, dtype=dtype, device=device))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all proxies anew, uniformly from the unit sphere."""
        device = self.weight.device if generator is None else generator.device
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        self.weight.copy_(unit(torch.randn(self.weight.shape, dtype=dtype, device=device, generator=generator)))

    def references(self) -> References:
        """All proxies, labelled by their classes; their ids are -1, so no anchor is one of them. Gradients reach `weight`."""
        labels = torch.arange(self.num_classes, device=self.weight.device).repeat_interleave(self.per_class)
        return References(self.weight, labels)

    def check_labels(self, labels: Any) -> Tensor:
        """Return `labels` `[n]` as int64 on the device of the proxies; negative ones (ignored) may be among them.

        Raises:
            TypeError: if they are not integers.
            ValueError: if there is a label of `num_classes` or more. Labels on an accelerator are looked at only if
                `metriczoo.settings.check_values` says so.
        """
        checked = as_labels(labels)
        if checked.numel() and checking(checked) and int(checked.amax()) >= self.num_classes:
            raise ValueError(f"Expected `labels` to be less than {self.num_classes} (`num_classes`), but got {int(checked.amax())}.")
        return checked.to(self.weight.device)

    def extra_repr(self) -> str:
        """Classes, dimension and proxies per class."""
        return f"{self.num_classes}, {self.embedding_dim}, per_class={self.per_class}"
