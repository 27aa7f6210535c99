"""A network with a head that classifies and a head that embeds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from metriczoo._checks import check_count, describe, suggest_keywords

__all__ = ["TwoHead", "TwoHeadOutput"]


class TwoHeadOutput(NamedTuple):
    """What `TwoHead` makes of images."""

    logits: Tensor  # [n, num_classes], of the first head, for a softmax loss
    embeddings: Tensor  # [n, embedding_dim], of the second head, of unit length, for a ranking loss
    features: Tensor  # [n, c], what the first head sees: the average of each channel of the feature map


@suggest_keywords
class TwoHead(nn.Module):
    r"""A classifier with a second head, for a ranking loss beside softmax: the two-head ranking regulariser.

    .. math:: z = W_1 \, \mathrm{mean}(F) + b_1, \qquad e = \frac{W_2 \, \mathrm{flatten}(F) + b_2}{\|W_2 \, \mathrm{flatten}(F) + b_2\|},
              \qquad L = L_{\mathrm{softmax}}(z) + \lambda L_{\mathrm{ranking}}(e)

    F is the feature map of the backbone. The first head averages it over positions, as classifiers do; the second one is flattened, so that
    embeddings tell positions apart, and starts from Xavier's initialisation. Each head can be left out: `classify` is the classifier that
    the backbone would be without the second head, at the same cost, and `embed` does without the first.

    The second head has a weight for every position, so the network is for images of one size. Heads take their sizes from `example`, or
    from the first batch; without `example` call the network once before parameters are given to an optimizer or to DistributedDataParallel.

    Args:
        backbone: a module from images to feature maps `[n, c, h, w]`: a convolutional network without pooling and classifier.
        num_classes: number of classes, >= 1.
        embedding_dim: dimension of the embeddings, >= 1.
        example: images of the size to come, one is enough. They change no statistics of the backbone.

    Attributes:
        backbone: the backbone.
        classifier: the linear map of the first head.
        embedder: the linear map of the second head.
        map_shape: `(c, h, w)`, once it is known. It is part of `state_dict`.

    Raises:
        TypeError: if the backbone is no module, or gives no tensor.
        ValueError: if it gives no feature map, or one of another size than before; or a count is out of range.

    Example:
        >>> from metriczoo.losses import TripletMarginLoss
        >>> from metriczoo.models import ConvNet
        >>> net = TwoHead(ConvNet(grid=None), num_classes=10, embedding_dim=64, example=torch.rand(1, 1, 28, 28))
        >>> labels = torch.tensor([0, 0, 7, 7])
        >>> logits, embeddings, features = net(torch.rand(4, 1, 28, 28))
        >>> logits.shape, embeddings.shape, features.shape, net.map_shape
        (torch.Size([4, 10]), torch.Size([4, 64]), torch.Size([4, 128]), (128, 3, 3))
        >>> loss = nn.functional.cross_entropy(logits, labels) + TripletMarginLoss(margin=0.2)(embeddings, labels)

    Relations:
        Backbones without their pooling: `ConvNet(grid=None)`, `timm.create_model(name, num_classes=0, global_pool="")`, and for a ResNet of
        torchvision `nn.Sequential(*list(net.children())[:-2])`. `EmbeddingHead` makes embeddings of pooled features. The paper's ranking
        loss is `TripletMarginLoss` on squared distances with `PriorityMiner` or `HardMiner`, in batches of `PKSampler`.

    References:
        Taha, Chen, Misu, Shrivastava, Davis. Boosting Standard Classification Architectures Through a Ranking Regularizer. WACV 2020,
        figure 2.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, embedding_dim: int = 256, *, example: Tensor | None = None) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"Expected `backbone` to be a torch.nn.Module, but got {describe(backbone)}.")
        self.backbone = backbone
        self.classifier: nn.Linear = nn.LazyLinear(check_count("num_classes", num_classes))
        self.embedder: nn.Linear = _LazyXavier(check_count("embedding_dim", embedding_dim))
        self.map_shape: tuple[int, ...] | None = None
        if example is not None:
            self._size_by(example)

    def forward(self, images: Tensor) -> TwoHeadOutput:
        """Logits, embeddings and pooled features of images.

        Args:
            images: `[n, ...]`, as the backbone takes them.
        """
        cells = self.feature_map(images)
        features = cells.mean((2, 3))
        return TwoHeadOutput(self.classifier(features), self._embed(cells), features)

    def classify(self, images: Tensor) -> Tensor:
        """Logits `[n, num_classes]` of images, without the second head."""
        logits: Tensor = self.classifier(self.feature_map(images).mean((2, 3)))
        return logits

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `[n, embedding_dim]` of images, without the first head."""
        return self._embed(self.feature_map(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """Feature maps `[n, c, h, w]` of images, without either head."""
        cells = self.backbone(images)
        if not isinstance(cells, Tensor):
            raise TypeError(f"Expected `backbone` to give a tensor [n, c, h, w], a feature map, but got {describe(cells)}.")
        if cells.dim() != 4:
            hint = " A backbone that pools already has to be cut before its pooling." if cells.dim() == 2 else ""
            raise ValueError(f"Expected `backbone` to give a feature map of shape [n, c, h, w], but got {describe(cells)}.{hint}")
        shape = tuple(cells.shape[1:])
        if 0 in shape:
            raise ValueError(f"Expected images large enough to leave a feature map, but got one of shape {list(cells.shape)}.")
        if self.map_shape is None:
            self.map_shape = shape
        if shape != self.map_shape:
            made_for = ", ".join(map(str, self.map_shape))
            raise ValueError(
                f"Expected images that give a feature map of shape [n, {made_for}], which the heads are made for, "
                f"but got {list(cells.shape)}: images must be of one size."
            )
        return cells

    def _embed(self, cells: Tensor) -> Tensor:
        return unit(self.embedder(cells.flatten(1)), dim=1)

    @torch.no_grad()
    def _size_by(self, example: Tensor) -> None:
        modes = [(module, module.training) for module in self.backbone.modules()]
        self.backbone.eval()  # an example must not move running statistics
        try:
            cells = self.feature_map(example)
        finally:
            for module, mode in modes:
                module.training = mode
        for head in (self.classifier, self.embedder):
            head.to(cells.device, cells.dtype)
        self.classifier(cells.mean((2, 3)))
        self._embed(cells)

    def get_extra_state(self) -> Tensor:
        """The shape of the feature map, for `state_dict`; empty before it is known."""
        return torch.tensor(self.map_shape or (), dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the shape of the feature map from a `state_dict`."""
        self.map_shape = tuple(state.tolist()) or None


class _LazyXavier(nn.LazyLinear):
    """A linear map that learns its input size from its first input, and starts from Xavier's uniform weights and no bias."""

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_features:
            nn.init.xavier_uniform_(self.weight)
            nn.init.zeros_(self.bias)
