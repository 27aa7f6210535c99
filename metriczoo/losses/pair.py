"""Losses over pairs and triplets of an anchor."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo import functional as F
from metriczoo._checks import Bounds, check_choice, check_count, check_flag
from metriczoo.functional._pairs import PENALTIES
from metriczoo.functional.unified import POOLINGS
from metriczoo.losses._learned import number_of
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
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

    @property
    def tags(self) -> Tags:
        """Absolute thresholds: not the same under a shift of all scores."""
        bound = math.inf if self.similarity.is_distance else lambda n, p: p
        return Tags(shift=False, bound=bound, saturates=True, needs_positives=False, needs_negatives=False)

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
        self.penalty, self.swap = check_choice("penalty", penalty, PENALTIES), check_flag("swap", swap)
        self.compares_positives = self.swap

    @property
    def tags(self) -> Tags:
        """Each triplet pulls and pushes alike."""
        bound = math.inf if self.penalty == "squared" else lambda n, p: n * p
        return Tags(shift=True, bound=bound, saturates=self.penalty != "soft", needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over triplets."""
        return F.triplet_margin(s_n, s_p, margin=self.margin, penalty=self.penalty, swap=self.swap)


class _PooledLoss(Loss):
    """What the unified and the circle loss share: one group per anchor, or one for all pairs of the batch."""

    margin: float | Tensor
    scale: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE, "scale": _POSITIVE}

    def __init__(self, margin: float, scale: float, pooling: str, **options: Any) -> None:
        self.separable = check_choice("pooling", pooling, POOLINGS) == "anchor"  # which `Loss` looks at
        super().__init__(**options)
        self._set(margin=margin, scale=scale)
        self.pooling = pooling

    def facts(self, call: Call) -> tuple[Any, ...]:
        """Of pooling over the batch: which anchors are references, too, `[N]`, and which references anchors, `[n]`."""
        return () if self.separable else _twins(call)

    def _weights(self, s_n: Scores, s_p: Scores) -> tuple[Tensor, Tensor] | None:
        """A pair that is met from both of its ends counts once in all, as in the code that pools over the batch."""
        if s_p.block is None or not s_p.block.facts:  # of scores that no call has made, every cell is a pair
            return None
        rows, cells = s_p.facts
        half_n, half_p = (s.of_anchors(rows).unsqueeze(1) & s.of_references(cells) for s in (s_n, s_p))
        return 1 - 0.5 * half_n.to(s_n.value.dtype), 1 - 0.5 * half_p.to(s_p.value.dtype)

    def _reduced(self, loss: Tensor, s_n: Scores, s_p: Scores) -> Tensor | Terms:
        if self.separable:
            return loss
        some = s_n.count() + s_p.count() > 0
        first = (some & (some.cumsum(0) == 1)).long()  # there is one group, which some anchor has to count
        return Terms(loss, first, first * (loss != 0))


class UnifiedLoss(_PooledLoss):
    """The unified loss of pair and class-level learning: `functional.unified`.

    Args:
        margin: m >= 0.
        scale: gamma > 0.
        pooling: `"anchor"`, a loss for each anchor, as in the paper, or `"batch"`: one for all pairs of the batch, where a pair that is met
            from both of its ends counts once. It couples anchors and runs dense. There is one group, so all reductions are the same but
            "none", where the anchors share the loss equally.
        options: as of `Loss`; with `num_classes` and `embedding_dim` (or `proxies`) it compares with class proxies.

    Example:
        >>> import torch
        >>> UnifiedLoss(margin=0.0, scale=1.0)(torch.eye(4), [0, 0, 1, 1])
        tensor(1.0986)

    References:
        Sun et al. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020, equation 1.
    """

    def __init__(self, margin: float = 0.25, scale: float = 256.0, *, pooling: str = "anchor", **options: Any) -> None:
        super().__init__(margin, scale, pooling, **options)

    @property
    def tags(self) -> Tags:
        """A smooth hardest triplet: pull and push are alike and bounded."""
        return Tags(shift=True, bound=number_of(self.scale), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor | Terms:
        """One number per anchor, or the terms of the batch."""
        weights = self._weights(s_n, s_p)
        return self._reduced(F.unified(s_n, s_p, margin=self.margin, scale=self.scale, pooling=self.pooling, weights=weights), s_n, s_p)


class CircleLoss(_PooledLoss):
    """Circle loss: `functional.circle`, on pairs of a batch or, with proxies, at class level.

    Args:
        margin: m >= 0.
        scale: gamma > 0.
        detach_weights: whether the weights of the similarities are constants to the gradient, as in the paper.
        pooling: `"anchor"`, a loss for each anchor, as in the paper, or `"batch"`: one for all pairs of the batch, where a pair that is met
            from both of its ends counts once. It couples anchors and runs dense. There is one group, so all reductions are the same but
            "none", where the anchors share the loss equally.
        options: as of `Loss`; with `num_classes` and `embedding_dim` (or `proxies`) it compares with class proxies.

    Example:
        >>> import torch
        >>> CircleLoss(margin=0.25, scale=1.0)(torch.eye(4), [0, 0, 1, 1])
        tensor(1.7575)

    References:
        Sun et al. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020, equations 4 and 6.
    """

    def __init__(
        self, margin: float = 0.25, scale: float = 256.0, *, detach_weights: bool = True, pooling: str = "anchor", **options: Any
    ) -> None:
        super().__init__(margin, scale, pooling, **options)
        self.detach_weights = check_flag("detach_weights", detach_weights)

    @property
    def tags(self) -> Tags:
        """Weights grow with the distance from the optimum, so that the gradient is not that of the value."""
        paced = self.detach_weights
        return Tags(signs=paced, monotone=False, shift=False, saturates=False, self_paced=paced, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor | Terms:
        """One number per anchor, or the terms of the batch."""
        loss = F.circle(
            s_n,
            s_p,
            margin=self.margin,
            scale=self.scale,
            detach_weights=self.detach_weights,
            pooling=self.pooling,
            weights=self._weights(s_n, s_p),
        )
        return self._reduced(loss, s_n, s_p)


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

    @property
    def tags(self) -> Tags:
        """A pull of its own on each target."""
        push_only = number_of(self.mu) == 1
        return Tags(shift=push_only, saturates=push_only, needs_positives=True, needs_negatives=push_only)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, target)."""
        return F.lmnn(s_n, s_p, num_targets=self.num_targets, mu=self.mu, margin=self.margin)


def _twins(call: Call) -> tuple[Tensor, Tensor]:
    """Which anchors are references, too, `[N]` bool, and which references anchors, `[n]`: their pairs are met from both ends."""
    ids, (num, width) = call.columns.ids, (len(call.prepared), len(call.compared))
    if call.references is None or ids is None:
        itself = torch.tensor(call.references is None, device=call.prepared.device)
        return itself.expand(num), itself.expand(width)
    same = (ids[0].unsqueeze(1) == ids[1]) & ((ids[0] >= 0) & call.columns.keep).unsqueeze(1)
    return same.any(1), same.any(0)
