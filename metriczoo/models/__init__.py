"""Networks and parts of networks that embeddings come from."""

from metriczoo.models.convnet import ConvNet
from metriczoo.models.head import EmbeddingHead

__all__ = ["ConvNet", "EmbeddingHead"]
