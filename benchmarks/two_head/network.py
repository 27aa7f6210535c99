"""A backbone with two heads, whole or only its top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.training.backbones import Backbone, build_backbone, freeze_statistics
from metriczoo.models import TwoHead, TwoHeadOutput

__all__ = ["TOPS", "Network", "build"]

# Of how many of its stages a backbone is kept as it is if only its top is trained: those before its map is halved for the last time.
TOPS = {"efficientnet_lite0": 12}


class Network(nn.Module):
    """`TwoHead` on a backbone. The statistics of batch normalisation of a pretrained one stay.

    Args:
        backbone: gives feature maps.
        num_classes: number of classes.
        embedding_dim: of the embeddings.
        example: an input, for the sizes of the heads.
        keep_statistics: whether batch normalisation stays as it is.
        second: whether there is use for the second head. Without, embeddings have no columns, and cost nothing.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, embedding_dim: int, example: Tensor, *, keep_statistics: bool, second: bool
    ) -> None:
        super().__init__()
        self.two = TwoHead(backbone, num_classes, embedding_dim, example=example)
        self.keep_statistics, self.second = keep_statistics, second
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def net(self) -> nn.Module:
        """The backbone."""
        return self.two.backbone

    @property
    def head(self) -> nn.Module:
        """Both heads, or the first where there is no use for the second."""
        return nn.ModuleList([self.two.classifier, *([self.two.embedder] if self.second else [])])

    def forward(self, inputs: Tensor) -> TwoHeadOutput:
        """Logits, embeddings and pooled features."""
        if self.second:
            output: TwoHeadOutput = self.two(inputs)
            return output
        features = self.two.feature_map(inputs).mean((2, 3))
        return TwoHeadOutput(self.two.classifier(features), features[:, :0], features)

    def train(self, mode: bool = True) -> Network:
        """As of `nn.Module`, except for kept statistics."""
        super().train(mode)
        if self.keep_statistics:
            freeze_statistics(self)
        return self


class _Scaled(nn.Module):
    """Images in [0, 1] as a backbone wants to see them, where one channel stands for three."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.channels = channels
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.expand(-1, self.channels, -1, -1) - self.mean) / self.std


def build(name: str, channels: int, train: str) -> tuple[nn.Sequential, nn.Module, bool]:
    """A backbone that gives feature maps of images in [0, 1], in two parts.

    Args:
        name: of the backbone.
        channels: of the images.
        train: "all" of it, or only its "top".

    Returns:
        What stays as it is, empty for "all"; what is trained; and whether it is pretrained.
    """
    backbone: Backbone = build_backbone(name, channels, pooled=False)
    scaled = _Scaled(backbone.channels, backbone.mean, backbone.std)
    if train == "all":
        return nn.Sequential(), nn.Sequential(scaled, backbone.net), backbone.pretrained
    assert isinstance(backbone.net, nn.Sequential)
    cut = TOPS[name]
    frozen = nn.Sequential(scaled, *list(backbone.net)[:cut]).eval().requires_grad_(False)
    return frozen.to(memory_format=torch.channels_last), backbone.net[cut:], backbone.pretrained  # type: ignore[call-overload]
