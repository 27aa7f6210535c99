"""Losses by soft histograms of the similarities of a batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo._checks import Bounds, check_count
from metriczoo._execution import tracing
from metriczoo.functional._histograms import soft_histogram
from metriczoo.functional.histogram import difference_histogram, dynamic_soft_margin, histogram
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeEuclidean, Similarity

__all__ = ["DynamicSoftMarginLoss", "HistogramLoss"]


class HistogramLoss(Loss):
    """Histogram loss: `functional.histogram`.

    Its histograms are over all pairs of the batch: it couples anchors.

    Args:
        num_bins: >= 1, bins of the cosines from -1 to 1.
        options: as of `Loss`. Reduction "mean", over negative pairs, is the probability of the paper.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> HistogramLoss(num_bins=10)(x, [0, 0, 1, 1])
        tensor(0.2500)

    References:
        Ustinova, Lempitsky. Learning Deep Embeddings with Histogram Loss. NIPS 2016.
    """

    separable = False

    def __init__(self, num_bins: int = 100, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = check_count("num_bins", num_bins)

    @property
    def tags(self) -> Tags:
        """The bins are at absolute cosines; where no positive and no negative share a bin nothing is left."""
        return Tags(shift=False, saturates=self.num_bins > 1, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over negative pairs."""
        return histogram(s_n, s_p, num_bins=self.num_bins, positive=self.pooled(s_n, s_p))

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """The histogram of the positives of these anchors."""
        return soft_histogram(s_p, self.num_bins).sum(0, keepdim=True)


class DynamicSoftMarginLoss(Loss):
    """Dynamic soft margin: `functional.dynamic_soft_margin`, on Euclidean distances of unit vectors.

    A histogram of the differences met so far is kept in a buffer. In training mode each call adds its own before it weighs them, so the
    loss couples anchors. In evaluation mode the histogram stays as it is. Inside `torch.func` transforms, where a buffer
    cannot be written, each call weighs with its own differences added and forgets them.

    Args:
        num_bins: >= 1, bins of the differences of distances from -2 to 2.
        momentum: in (0, 1], weight of a batch against all before. The first one fills the histogram.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> DynamicSoftMarginLoss()(x, [0, 0, 1, 1])
        tensor(0.0972)

    References:
        Zhang, Rusinkiewicz. Learning Local Descriptors with a CDF-Based Dynamic Soft Margin. ICCV 2019.
    """

    momentum: float | Tensor
    histogram: Tensor

    separable = False
    bounds: ClassVar = {"momentum": Bounds(0, 1, open_low=True)}

    def __init__(self, *, num_bins: int = 511, momentum: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = check_count("num_bins", num_bins)
        self._set(momentum=momentum)
        self.register_buffer("histogram", torch.zeros(self.num_bins + 1))  # sums to 1; to 0 before the first batch

    def default_similarity(self) -> Similarity:
        """Euclidean distance of unit vectors, negated."""
        return NegativeEuclidean(normalize=True)

    @property
    def tags(self) -> Tags:
        """The weights are ranks among past triplets, and constants."""
        return Tags(
            monotone=False,
            shift=True,
            bound=lambda n, p: p,
            saturates=False,
            self_paced=True,
            needs_positives=True,
            needs_negatives=True,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return dynamic_soft_margin(s_n, s_p, histogram=self.pooled(s_n, s_p))

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """The histogram of the differences of these anchors."""
        return difference_histogram(s_n, s_p, num_bins=self.num_bins).unsqueeze(0)

    @torch.no_grad()
    def pool(self, rows: Tensor) -> Tensor:
        """The running histogram, with that of the call."""
        counts = rows.sum(0).to(self.histogram.dtype)
        total, momentum = counts.sum(), self.momentum if self.training else 0.0
        weight = torch.where(self.histogram.sum() > 0, momentum, 1.0) * (total > 0)
        updated = self.histogram + weight.to(counts.dtype) * (counts / total.clamp(min=1) - self.histogram)
        if self.training and (torch.compiler.is_compiling() or not tracing(counts)):
            self.histogram.copy_(updated)
        return updated
