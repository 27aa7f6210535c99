"""The objective of a linear estimator on a batch: Mahalanobis metric for clustering."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from metriczoo.functional.mmc import distance_sums, mmc
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeEuclidean, Similarity

__all__ = ["MMCLoss"]


class MMCLoss(Loss):
    """Mahalanobis metric for clustering on a batch: `functional.mmc`, on Euclidean distances of raw embeddings.

    The logarithm is of a mean over all negative pairs of the batch: it couples anchors.

    Args:
        options: as of `Loss`. Reduction "mean" averages positive and negative pairs apart, as the formula does; "sum" has the logarithm
            once for each negative pair.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
        >>> MMCLoss()(x, [0, 0, 1, 1])
        tensor(0.2495)

    References:
        Xing, Ng, Jordan, Russell. Distance Metric Learning with Application to Clustering with Side-Information. NIPS 2002.
    """

    separable = needs_positives = needs_negatives = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def default_similarity(self) -> Similarity:
        """Euclidean distance, negated."""
        return NegativeEuclidean()

    @property
    def tags(self) -> Tags:
        """Squares pull without a bound, and the logarithm never stops to push."""
        return Tags(shift=False, bound=math.inf, saturates=False, needs_positives=False, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
        """Terms of positive and of negative pairs."""
        return mmc(s_n, s_p, sums=self.pooled(s_n, s_p))

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """What the mean distance of negatives is made of."""
        return distance_sums(s_n)
