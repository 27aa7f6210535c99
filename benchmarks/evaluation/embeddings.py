"""Embeddings of a data set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.images.square import Square, center

__all__ = ["embed", "embed_vectors"]

_BATCH = 128


@torch.no_grad()
def embed(encode: Callable[[Tensor], Tensor], images: Square, side: int, *, device: torch.device, workers: int = 0) -> Tensor:
    """What `encode` makes of every image, `[n, d]` on the host, in the order of the data set.

    Args:
        encode: from images `[b, channels, side, side]` in [0, 1] to vectors `[b, d]`.
        images: the data set, of which the middle is seen.
        side: of the images to encode.
        device: where to encode.
        workers: processes that read images.
    """
    # A generator of its own: reading data must not move the global one, which training draws from.
    loader = DataLoader(images, batch_size=_BATCH, num_workers=workers, generator=torch.Generator())
    return torch.cat([encode(center(batch.to(device), side)).float().cpu() for batch, _, _ in loader])


@torch.no_grad()
def embed_vectors(encoder: nn.Module, vectors: Tensor, *, device: torch.device) -> Tensor:
    """What an encoder makes of vectors `[n, f]`, `[n, d]` on the host."""
    return torch.cat([encoder(part.to(device)).float().cpu() for part in vectors.split(64 * _BATCH)])
