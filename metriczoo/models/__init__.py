"""Networks and parts of networks that embeddings come from."""

from metriczoo.models.convnet import ConvNet
from metriczoo.models.head import EmbeddingHead
from metriczoo.models.two_head import TwoHead, TwoHeadOutput

__all__ = ["ConvNet", "EmbeddingHead", "TwoHead", "TwoHeadOutput"]
