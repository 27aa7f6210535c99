"""Similarities: how two points are scored. Larger is always closer."""

from metriczoo.similarity.basic import (
    Cosine,
    InnerProduct,
    Mahalanobis,
    NegativeEuclidean,
    NegativeSquaredEuclidean,
    Similarity,
    unit,
)
from metriczoo.similarity.further import NegativeLp, Poincare, SignalToNoise

__all__ = [
    "Cosine",
    "InnerProduct",
    "Mahalanobis",
    "NegativeEuclidean",
    "NegativeLp",
    "NegativeSquaredEuclidean",
    "Poincare",
    "SignalToNoise",
    "Similarity",
    "unit",
]
