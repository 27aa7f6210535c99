"""Images as tensors, read at one size by a `DataLoader`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from metriczoo.data import LabelledImages

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Square", "center"]

_KEPT = 2**25  # bytes of images, at most: all letters of a data set, few photographs


class Square(Dataset[tuple[Tensor, int, int]]):
    """A data set whose items are an image as uint8 tensor `[channels, side, side]`, its label and its position.

    So many as fit into little memory are kept once they are read: to unpack a letter takes longer than to train on it.
    """

    def __init__(self, images: LabelledImages, side: int) -> None:
        self.images, self.side = images, side
        self._kept: dict[int, tuple[Tensor, int]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        if index in self._kept:
            return *self._kept[index], index
        try:
            image, label = self.images[index]
        except OSError as error:
            raise OSError(f"{str(error).removesuffix('.')}. With --on-bad-image skip, such images are left out.") from error
        pixels = torch.from_numpy(np.array(_square(image, self.side)))
        pixels = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        if pixels.numel() * (len(self._kept) + 1) <= _KEPT:
            self._kept[index] = pixels, label
        return pixels, label, index


def _square(image: Image, side: int) -> Image:
    """The middle of an image, its shorter side brought to `side`."""
    from PIL.Image import Resampling

    if image.size == (side, side):
        return image
    width, height = image.size
    half = min(width, height) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return image.resize((side, side), Resampling.BICUBIC, box=box)


def center(images: Tensor, side: int) -> Tensor:
    """The middle of uint8 images `[n, channels, s, s]`, `[n, channels, side, side]` in [0, 1]."""
    margin = (images.shape[-1] - side) // 2
    return images[..., margin : margin + side, margin : margin + side].float() / 255
