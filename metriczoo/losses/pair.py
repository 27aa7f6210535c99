"""Losses over pairs and triplets of an anchor."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from metriczoo import functional as F
from metriczoo._checks import Bounds, check_choice, check_count
from metriczoo.functional._pairs import PENALTIES
from metriczoo.losses.base import Loss
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeEuclidean, NegativeSquaredEuclidean, Similarity

__all__ = ["CircleLoss", "ContrastiveLoss", "LMNNLoss", "TripletMarginLoss", "UnifiedLoss"]

_NOT_NEGATIVE, _POSITIVE = Bounds(0), Bounds(0, open_low=True)


class ContrastiveLoss(Loss):
    """Contrastive loss: `functional.contrastive` on distances (the default, on raw embeddings), `functional.contrastive_cosine` on cosines.

    Args:
        positive_margin: where positives are near enough: a distance (default 0), or a cosine (default 1).
        negative_margin: where negatives are far enough: a distance (default 1), or a cosine (default 0.5).
        options: as of `Loss`. Reduction "mean" averages positive and negative pairs apart, "mean_pairs" together.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.5, 0.0]])
        >>> ContrastiveLoss()(x, [0, 0, 1])
        tensor(2.0625)

    References:
        Hadsell, Chopra, LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006.
    """

    positive_margin: float | Tensor
    negative_margin: float | Tensor

    needs_positives = needs_negatives = False
    bounds: ClassVar = {"positive_margin": _NOT_NEGATIVE, "negative_margin": _NOT_NEGATIVE}

    def __init__(self, positive_margin: float | None = None, negative_margin: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        near, far = (0.0, 1.0) if self.similarity.is_distance else (1.0, 0.5)
        self._set(
            positive_margin=near if positive_margin is None else positive_margin,
            negative_margin=far if negative_margin is None else negative_margin,
        )

    def default_similarity(self) -> Similarity:
        """Euclidean distance, negated."""
        return NegativeEuclidean()

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
        """Terms of positive and of negative pairs."""
        loss = F.contrastive if self.similarity.is_distance else F.contrastive_cosine
        return loss(s_n, s_p, positive_margin=self.positive_margin, negative_margin=self.negative_margin)


class TripletMarginLoss(Loss):
    """Triplet margin loss over every triplet: `functional.triplet_margin`, on cosines unless a similarity is given.

    Args:
        margin: m >= 0, in units of the score.
        penalty: `"hinge"`, `"squared"` or `"soft"`.
        swap: whether a negative counts with its similarity to the anchor or to the positive, whichever is larger.
        options: as of `Loss`. Reduction "mean" is over all triplets, "mean_active" over those with a loss.

    Example:
        >>> import torch
        >>> from metriczoo.miners import HardMiner
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> TripletMarginLoss(margin=0.2)(x, [0, 0, 1, 1])
        tensor(0.0900)
        >>> TripletMarginLoss(margin=0.2, miner=HardMiner())(x, [0, 0, 1, 1])
        tensor(0.1800)

    References:
        Schroff, Kalenichenko, Philbin. FaceNet: A Unified Embedding for Face Recognition and Clustering. CVPR 2015.
        Hermans, Beyer, Leibe. In Defense of the Triplet Loss for Person Re-Identification. 2017.
    """

    margin: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE}

    def __init__(self, margin: float = 0.2, *, penalty: str = "hinge", swap: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin)
        self.penalty, self.swap = check_choice("penalty", penalty, PENALTIES), bool(swap)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over triplets."""
        return F.triplet_margin(s_n, s_p, margin=self.margin, penalty=self.penalty, swap=self.swap)


class UnifiedLoss(Loss):
    """The unified loss of pair and class-level learning: `functional.unified`.

    Args:
        margin: m >= 0.
        scale: gamma > 0.
        options: as of `Loss`; with `num_classes` and `embedding_dim` (or `proxies`) it compares with class proxies.

    Example:
        >>> import torch
        >>> UnifiedLoss(margin=0.0, scale=1.0)(torch.eye(4), [0, 0, 1, 1])
        tensor(1.0986)

    References:
        Sun et al. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020, equation 1.
    """

    margin: float | Tensor
    scale: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE, "scale": _POSITIVE}

    def __init__(self, margin: float = 0.25, scale: float = 256.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin, scale=scale)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.unified(s_n, s_p, margin=self.margin, scale=self.scale)


class CircleLoss(Loss):
    """Circle loss: `functional.circle`, on pairs of a batch or, with proxies, at class level.

    Args:
        margin: m >= 0.
        scale: gamma > 0.
        detach_weights: whether the weights of the similarities are constants to the gradient, as in the paper.
        options: as of `Loss`; with `num_classes` and `embedding_dim` (or `proxies`) it compares with class proxies.

    Example:
        >>> import torch
        >>> CircleLoss(margin=0.25, scale=1.0)(torch.eye(4), [0, 0, 1, 1])
        tensor(1.7575)

    References:
        Sun et al. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020, equations 4 and 6.
    """

    margin: float | Tensor
    scale: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE, "scale": _POSITIVE}

    def __init__(self, margin: float = 0.25, scale: float = 256.0, *, detach_weights: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=margin, scale=scale)
        self.detach_weights = bool(detach_weights)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.circle(s_n, s_p, margin=self.margin, scale=self.scale, detach_weights=self.detach_weights)


class LMNNLoss(Loss):
    """Large margin nearest neighbours on a batch: `functional.lmnn`, on squared Euclidean distances of raw embeddings.

    Args:
        num_targets: k >= 1, target neighbours, the nearest references of the anchor's class at each step.
        mu: weight of the push against the pull, in [0, 1].
        margin: m >= 0.
        options: as of `Loss`. Reduction "sum" is the paper's objective, "mean" divides it by the pairs (anchor, target).

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [1.5]])
        >>> LMNNLoss(num_targets=1, reduction="sum")(x, [0, 0, 1])
        tensor(1.8750)

    References:
        Weinberger, Saul. Distance Metric Learning for Large Margin Nearest Neighbor Classification. JMLR 10, 2009.
    """

    mu: float | Tensor
    margin: float | Tensor

    needs_negatives = False
    bounds: ClassVar = {"mu": Bounds(0, 1), "margin": _NOT_NEGATIVE}

    def __init__(self, num_targets: int = 3, *, mu: float = 0.5, margin: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.num_targets = check_count("num_targets", num_targets)
        self._set(mu=mu, margin=margin)

    def default_similarity(self) -> Similarity:
        """Squared Euclidean distance, negated."""
        return NegativeSquaredEuclidean()

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, target)."""
        return F.lmnn(s_n, s_p, num_targets=self.num_targets, mu=self.mu, margin=self.margin)
