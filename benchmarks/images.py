"""Images as tensors: read at one size by a `DataLoader`, distorted a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import Dataset

from metriczoo.data import LabelledImages

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DRAWN_LETTERS", "LETTERS", "PHOTOGRAPHS", "Augmentation", "Square", "center"]


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
        image, label = self.images[index]
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


@dataclass(frozen=True)
class Augmentation:
    """A random affine map of each image of a batch, and perhaps its mirror image."""

    rotation: float = 0.0  # radians, either way
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)  # part of the image that is seen, per axis
    shift: float = 0.0  # of half a side, either way, beyond what the zoom leaves outside
    mirror: bool = False
    padding: str = "zeros"

    def __call__(self, images: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """Distort images.

        Args:
            images: `[n, channels, s, s]` uint8.
            side: of the result.
            generator: of the host, so that draws are the same on any device.

        Returns:
            `[n, channels, side, side]` in [0, 1].
        """
        n = len(images)
        rotation, shear, *place, flip = torch.rand(7, n, generator=generator).mul(2).sub(1)  # each in [-1, 1)
        angle, shear = rotation * self.rotation, shear * self.shear
        low, high = (torch.tensor(z).log() for z in self.zoom)
        zoom = torch.stack([((low + high) / 2 + z * (high - low) / 2).exp() for z in place[:2]])
        x, y = torch.stack(place[2:]) * ((1 - zoom).clamp(min=0) + self.shift)
        zoom_x, zoom_y = torch.where(flip < 0, -zoom[0], zoom[0]) if self.mirror else zoom[0], zoom[1]
        c, s = angle.cos(), angle.sin()
        rows = [c * zoom_x, (shear * c - s) * zoom_y, x, s * zoom_x, (shear * s + c) * zoom_y, y]
        maps = torch.stack(rows, dim=1).view(n, 2, 3).to(images.device)
        grid = affine_grid(maps, [n, images.shape[1], side, side], align_corners=False)
        return grid_sample(images.float() / 255, grid, padding_mode=self.padding, align_corners=False)


LETTERS = Augmentation(rotation=0.25, shear=0.2, zoom=(0.86, 1.16), shift=0.1)
DRAWN_LETTERS = Augmentation(rotation=0.15, shear=0.15, zoom=(0.9, 1.1), shift=0.1)  # no two of which are alike in the first place
PHOTOGRAPHS = Augmentation(rotation=0.1, zoom=(0.6, 1.0), mirror=True, padding="reflection")
