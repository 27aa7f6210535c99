"""Random distortions of images, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["DRAWN_LETTERS", "LETTERS", "PHOTOGRAPHS", "Augmentation"]


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
