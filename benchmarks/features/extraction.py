"""Features of a frozen backbone: those of images that the cache knows, and the others made and added to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from benchmarks.features.cache import FeatureCache, digests_of
from benchmarks.features.onnx import faster
from benchmarks.images.square import Square, center
from benchmarks.training.backbones import Encoder

__all__ = ["OnProgress", "Vectors", "extract"]

_SHARD = 128  # images in a file, and in a batch
_WORTH_EXPORT = 1000  # images, below which ONNX Runtime is not worth its preparation

OnProgress = Callable[[int, int], None]  # images done, of how many


class Vectors(Dataset[tuple[Tensor, int, int]]):
    """A data set whose items are a vector of features, its label and its position."""

    def __init__(self, features: Tensor, labels: NDArray[np.int64]) -> None:
        self.features, self.labels = features, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.features[index], self.labels[index], index


@torch.no_grad()
def extract(
    encoder: Encoder,
    images: Square,
    side: int,
    cache: FeatureCache,
    *,
    device: torch.device,
    workers: int = 0,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Tensor, str | None]:
    """Features `[n, f]` of all images, those that the cache has not yet computed and added to it some at a time.

    Args:
        encoder: with the backbone.
        images: the data set, of which the middle is seen.
        side: of the images that the backbone sees.
        cache: of the features of this backbone.
        device: where to compute.
        workers: processes that read images.
        on_progress: is called as features get there.

    Returns:
        The features, on the host, and what computed those that were missing.

    Raises:
        OSError: an image cannot be read, or the cache cannot be written.
    """
    digests = digests_of(images.images)
    rows = cache.find(digests)
    first = {digest: row for row, digest in reversed(list(enumerate(digests)))}  # equal images need one
    missing = sorted(row for digest, row in first.items() if digest not in rows)
    total, runtime = len(digests), None
    done = sum(digest in rows for digest in digests)
    on_progress(done, total)
    if missing:
        cache.sweep()
        compute: Callable[[Tensor], Tensor] | None = None
        loader = DataLoader(Subset(images, missing), batch_size=_SHARD, num_workers=workers, generator=torch.Generator())
        for batch, _, positions in loader:
            seen = center(batch.to(device), side)
            if compute is None:
                compute, runtime = _runtime(encoder, seen, total)
            features = compute(seen).float().cpu().numpy()
            cache.add(of_shard := [digests[row] for row in positions.tolist()], features)
            rows |= zip(of_shard, features, strict=True)
            done += len(of_shard)
            on_progress(min(done, total), total)
        on_progress(total, total)
    return torch.from_numpy(np.stack([rows[digest] for digest in digests])), runtime


class _Features(nn.Module):
    """The part of an encoder that is frozen."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.features(images)


def _runtime(encoder: Encoder, images: Tensor, total: int) -> tuple[Callable[[Tensor], Tensor], str]:
    encoder.to(images.device).eval()
    if images.device.type != "cpu" or total < _WORTH_EXPORT:
        return encoder.features, "torch"
    return faster(_Features(encoder).eval(), images)
