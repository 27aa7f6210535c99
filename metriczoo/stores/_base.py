"""What the stores with buffers share: checks of what comes in, and loading that is all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import check_count, check_embeddings, check_finite, describe, suggest_keywords
from metriczoo._execution import checking

__all__ = ["BufferStore", "check_dtype", "check_generator"]


def check_dtype(dtype: Any) -> torch.dtype:
    """Return `dtype` if it is a floating-point dtype of at least 16 bits, else raise."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise TypeError(f"Expected `dtype` to be a floating-point torch.dtype of at least 16 bits, but got {describe(dtype)}.")
    return dtype


def check_generator(generator: Any) -> torch.Generator | None:
    """Return `generator` if it is one or None, else raise."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"Expected `generator` to be a torch.Generator, but got {describe(generator)}.")
    return generator


class BufferStore(nn.Module):
    """A store of `size` rows whose state is buffers, among them `embeddings` `[size, d]`."""

    embeddings: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suggest_keywords(cls)

    def __init__(self, size: int, embedding_dim: int) -> None:
        super().__init__()
        self.size = check_count("size", size)
        self.embedding_dim = check_count("embedding_dim", embedding_dim)

    def _points(self, argument: str, value: Any) -> Tensor:
        """`value`, checked to be `[n, d]` on the device of the store."""
        points = check_embeddings(argument, value)
        if points.shape[1] != self.embedding_dim:
            raise ValueError(
                f"Expected `{argument}` to be of shape [n, {self.embedding_dim}] (`embedding_dim`), but got {describe(points)}."
            )
        if points.device != self.embeddings.device:
            raise ValueError(f"Expected `{argument}` on device {self.embeddings.device}, that of the store, but got {points.device}.")
        return points

    def _finite(self, argument: str, points: Tensor) -> None:
        if checking(points):
            check_finite(argument, points)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As of `nn.Module`, except that a store that does not fit is left as it was, whole."""
        expected = self.state_dict(prefix=prefix)
        missing = [key for key in expected if key not in state_dict]
        wrong = [
            f"expected `{key}` to be a tensor of shape {list(tensor.shape)}, but got {describe(state_dict[key])}"
            for key, tensor in expected.items()
            if key not in missing and (not isinstance(state_dict[key], Tensor) or state_dict[key].shape != tensor.shape)
        ]
        if wrong:
            error_msgs.append(f"{type(self).__name__} of size {self.size} and dimension {self.embedding_dim}: {'; '.join(wrong)}.")
        missing_keys.extend(missing)
        if not wrong and not missing:
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def extra_repr(self) -> str:
        """Size, dimension and dtype."""
        return f"{self.size}, {self.embedding_dim}, dtype={self.embeddings.dtype}"
