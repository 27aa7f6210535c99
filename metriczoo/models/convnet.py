"""A small convolutional network, to train from scratch on letters and the like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metriczoo._checks import check_count, describe, suggest_keywords

__all__ = ["ConvNet"]


@suggest_keywords
class ConvNet(nn.Module):
    """A small convolutional network: features of images, by blocks of convolution, batch normalisation, ReLU and pooling by 2.

    What the blocks leave of height and width is averaged to `grid` by `grid` cells, so that features say where something is, too. In the
    end each feature is brought to mean 0 and variance 1 over the batch: out of a ReLU all are positive, and before any training the cosine
    of any two images would be near 1. Parameters and activations are stored channels last, in which a CPU convolves faster.

    Args:
        in_channels: channels of the images, >= 1.
        widths: channels of each block, >= 1.
        grid: cells per side, >= 1; 1 is global average pooling. With None features are the feature map as the blocks leave it, each channel
            brought to mean 0 and variance 1.

    Attributes:
        num_features: dimension of the features, `widths[-1] * grid ** 2`, or of a map the number of its channels.

    Example:
        >>> net = ConvNet(in_channels=1, widths=(8, 16), grid=2)
        >>> net(torch.rand(5, 1, 28, 28)).shape, net.num_features
        (torch.Size([5, 64]), 64)

    Relations:
        `EmbeddingHead` makes embeddings of its features, `TwoHead` logits and embeddings of its feature map.
    """

    def __init__(self, in_channels: int = 1, widths: Sequence[int] = (32, 64, 128), *, grid: int | None = 3) -> None:
        super().__init__()
        self.in_channels, self.grid = check_count("in_channels", in_channels), None if grid is None else check_count("grid", grid)
        widths = [check_count("widths", width) for width in widths]
        if not widths:
            raise ValueError("Expected `widths` to name at least one block, but got none.")
        self.num_features = widths[-1] * (self.grid or 1) ** 2
        self.blocks = nn.Sequential(*(_block(i, o) for i, o in zip([self.in_channels, *widths], widths, strict=False)))
        self.standardize = (nn.BatchNorm2d if self.grid is None else nn.BatchNorm1d)(self.num_features, affine=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: `[n, in_channels, height, width]`, floating point; sides of at least `2 ** len(widths)` pixels.

        Returns:
            `[n, num_features]`, or `[n, num_features, height, width]` of the map where there is no `grid`.

        Raises:
            ValueError: of a wrong shape.
        """
        least = 2 ** len(self.blocks)
        if images.dim() != 4 or images.shape[1] != self.in_channels or min(images.shape[2:]) < least:
            expected = f"[n, {self.in_channels}, height, width] with sides of at least {least}"
            raise ValueError(f"Expected `images` to be of shape {expected}, but got {describe(images)}.")
        cells: Tensor = self.blocks(images.contiguous(memory_format=torch.channels_last))
        if self.grid is not None:
            if cells.shape[2:] != (self.grid, self.grid):
                cells = nn.functional.adaptive_avg_pool2d(cells, self.grid)
            cells = cells.flatten(1)
        features: Tensor = self.standardize(cells)
        return features


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
