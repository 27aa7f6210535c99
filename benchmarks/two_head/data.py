"""Images of the same classes for training and for the test, evenly spread or with a long tail; and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from benchmarks.images.augmentation import Augmentation
from benchmarks.images.square import Square, center

__all__ = ["Activations", "Part", "Pixels", "ShuffledBatches", "Views", "long_tailed", "stratified", "views_of"]

Rows = NDArray[np.int64]

_KEPT_BYTES = 2**29  # of images that are read once and kept


def stratified(labels: NDArray[np.int64], share: float, seed: int = 0) -> tuple[Rows, Rows]:
    """Part the rows of each class at random: what stays, and what is held out.

    Args:
        labels: `[n]`.
        share: of each class that is held out, rounded, at least one row; but one row always stays.
        seed: of the choice.

    Returns:
        Both in ascending order. A class of one row has nothing held out.
    """
    generator = np.random.default_rng([seed, 1])
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def long_tailed(labels: NDArray[np.int64], ratio: float, seed: int = 0) -> Rows:
    r"""Rows of a subsample with a long tail: of the class of rank r, a part `ratio ** -(r / (C - 1))` of its rows, rounded, at least one.

    Ranks are drawn at random, and rows within classes. The first class stays whole, and the last keeps one of `ratio` rows.
    """
    generator = np.random.default_rng([seed, 2])
    classes = generator.permutation(np.unique(labels))
    kept = []
    for rank, label in enumerate(classes):
        rows = generator.permutation(np.flatnonzero(labels == label))
        kept.append(rows[: max(1, round(len(rows) * ratio ** -(rank / max(1, len(classes) - 1))))])
    return np.sort(np.concatenate(kept))


class Pixels:
    """Images by row, as uint8 tensors. They are read once and kept while there is room."""

    def __init__(self, images: Square) -> None:
        self.images = images
        self._kept: dict[int, Tensor] = {}
        self._room = _KEPT_BYTES

    def __getitem__(self, row: int) -> Tensor:
        if row in self._kept:
            return self._kept[row]
        pixels = self.images[row][0]
        self._room -= pixels.numel()
        if self._room >= 0:
            self._kept[row] = pixels
        return pixels


class Activations:
    """What the frozen part of a backbone makes of images, by row: `[views, c, h, w]`, first of the middle, then of distorted copies."""

    def __init__(self) -> None:
        self.by_row: dict[int, Tensor] = {}

    def add(self, rows: Rows, views: Tensor) -> None:
        """Take the views `[n, views, c, h, w]` of `rows` `[n]`."""
        self.by_row.update(zip(map(int, rows), views, strict=True))

    def __getitem__(self, row: int) -> Tensor:
        return self.by_row[row]


class Part(Dataset[tuple[Tensor, int, int]]):
    """Some rows of a source: items are an input, its label, and its position in the part.

    Args:
        source: inputs by row.
        rows: of the source `[n]`.
        labels: their labels `[n]`.
    """

    def __init__(self, source: Pixels | Activations, rows: Rows, labels: NDArray[np.int64]) -> None:
        self.source, self.rows, self.labels = source, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.source[int(self.rows[index])], int(self.labels[index]), index


@dataclass(frozen=True)
class Views:
    """One of the views of each image of a batch, at random: what stands for distortion where activations are made once."""

    count: int

    def __call__(self, inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """`[n, views, ...]` to `[n, ...]`."""
        choice = torch.randint(inputs.shape[1], (len(inputs),), generator=generator).to(inputs.device)
        return inputs[torch.arange(len(inputs), device=inputs.device), choice]


@torch.no_grad()
def views_of(
    frozen: Callable[[Tensor], Tensor], images: Tensor, side: int, views: int, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Run the frozen part of a backbone on the middle of each image, and on `views - 1` distorted copies of it.

    Args:
        frozen: from images `[n, channels, side, side]` in [0, 1] to activations `[n, c, h, w]`.
        images: `[n, channels, s, s]` uint8.
        side: of the images that it sees.
        views: of each image, >= 1.
        augmentation: distorts copies.
        generator: of the distortions, on the host.

    Returns:
        `[n, views, c, h, w]`, on the host.
    """
    copies = [center(images, side), *(augmentation(images, side, generator) for _ in range(views - 1))]
    return torch.stack([frozen(copy).contiguous().cpu() for copy in copies], dim=1)


class ShuffledBatches(Sampler[list[int]]):
    """Batches of all images in random order, whatever their classes; the few left over at the end of an epoch are left out.

    Args:
        num_images: number of images.
        batch_size: images in a batch; all of fewer.
        seed: of the order.
    """

    def __init__(self, num_images: int, batch_size: int, *, seed: int) -> None:
        self.num_images, self.batch_size, self.seed, self.epoch = num_images, min(batch_size, num_images), seed, 0

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_images)
        for number in range(len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one."""
        self.epoch = epoch
