"""Losses that hold similarities against thresholds."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_count, check_flag
from metriczoo.functional.thresholds import margin as margin_loss
from metriczoo.functional.thresholds import multi_similarity, ranked_list, threshold_consistent_margin
from metriczoo.losses._heads import of_own_class
from metriczoo.losses._learned import number_of
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeEuclidean, Similarity

__all__ = ["MarginLoss", "MultiSimilarityLoss", "RankedListLoss", "ThresholdConsistentMarginLoss"]

_ANY, _NOT_NEGATIVE, _POSITIVE = Bounds(), Bounds(0), Bounds(0, open_low=True)


class MultiSimilarityLoss(Loss):
    """Multi-similarity loss: `functional.multi_similarity`. The method includes `miners.MultiSimilarityMiner`.

    Args:
        positive_scale: alpha > 0.
        negative_scale: beta > 0; 50 in the paper, 40 in its code.
        threshold: lambda, a cosine; 1 in the paper, 0.5 in its code.
        options: as of `Loss`. Reduction "mean" is over the anchors that have positives and negatives left; the authors' code divides by
            all anchors.

    Example:
        >>> import torch
        >>> MultiSimilarityLoss(threshold=0.5)(torch.eye(4), [0, 0, 1, 1])
        tensor(0.6566)

    References:
        Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning. CVPR 2019.
    """

    positive_scale: float | Tensor
    negative_scale: float | Tensor
    threshold: float | Tensor

    bounds: ClassVar = {"positive_scale": _POSITIVE, "negative_scale": _POSITIVE, "threshold": _ANY}

    def __init__(self, positive_scale: float = 2.0, negative_scale: float = 50.0, threshold: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(positive_scale=positive_scale, negative_scale=negative_scale, threshold=threshold)

    @property
    def tags(self) -> Tags:
        """An absolute threshold, smooth; positives share a bounded pull."""
        return Tags(shift=False, bound=1.0, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return multi_similarity(s_n, s_p, positive_scale=self.positive_scale, negative_scale=self.negative_scale, threshold=self.threshold)


class MarginLoss(Loss):
    """Margin loss: `functional.margin`, on Euclidean distances of unit vectors. The method includes `miners.DistanceWeightedMiner`.

    The boundary between positives and negatives is learned, one for all or one per class. Give `loss.parameters()` to the optimizer, too,
    with a learning rate of their own: the paper's code has 0.1.

    Args:
        margin: alpha >= 0, a distance.
        beta: the boundary, a distance; where it is learned, at the start. A tensor is used as it is.
        nu: nu >= 0, weight of the boundary itself, once per positive pair.
        learn_beta: whether the boundary is a parameter.
        num_classes: number of classes, each with a boundary of its own to learn, that of the anchor's label. Default: one boundary for
            all. With `embedding_dim` it also makes `proxies`, as in `Loss`.
        embedding_dim: dimension of the proxies.
        reduction: as of `Loss`. The paper divides by the number of pairs whose hinge is not 0: `"mean_active"`.
        options: as of `Loss`.

    Raises:
        ValueError: in a call, for labels of `num_classes` or more.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> MarginLoss(learn_beta=False)(x, [0, 0, 1, 1])
        tensor(0.7094)

    References:
        Wu, Manmatha, Smola, Krahenbuhl. Sampling Matters in Deep Embedding Learning. ICCV 2017.
    """

    margin: float | Tensor
    nu: float | Tensor
    beta: float | Tensor

    needs_positives = needs_negatives = False
    bounds: ClassVar = {"margin": _NOT_NEGATIVE, "beta": _NOT_NEGATIVE, "nu": _NOT_NEGATIVE}

    def __init__(
        self,
        margin: float = 0.2,
        beta: float = 1.2,
        *,
        nu: float = 0.0,
        learn_beta: bool = True,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        reduction: str = "mean_active",
        **options: Any,
    ) -> None:
        of_proxies = None if embedding_dim is None else num_classes
        super().__init__(num_classes=of_proxies, embedding_dim=embedding_dim, reduction=reduction, **options)
        self._set(margin=margin, nu=nu, beta=beta)
        self.num_classes = None if num_classes is None else check_count("num_classes", num_classes)
        self._lost = 0.0
        if check_flag("learn_beta", learn_beta) and not isinstance(beta, Tensor):
            start = torch.tensor(float(beta))
            self.beta = nn.Parameter(start if self.num_classes is None else start.repeat(self.num_classes))
            self._lost = beta - float(start)  # what the dtype cannot hold of the start

    def default_similarity(self) -> Similarity:
        """Euclidean distance of unit vectors, negated."""
        return NegativeEuclidean(normalize=True)

    @property
    def tags(self) -> Tags:
        """Hinges at absolute distances, each of slope 1."""
        within = number_of(self.margin) <= float(torch.as_tensor(self.beta).detach().min()) and number_of(self.nu) == 0
        return Tags(shift=False, bound=lambda n, p: p, saturates=within, needs_positives=False, needs_negatives=False)

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The boundary of the class of each anchor, where classes have boundaries of their own."""
        beta = self._boundary()
        return (of_own_class("beta", beta, call),) if isinstance(beta, Tensor) and beta.dim() > 0 else ()

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs."""
        beta = self._boundary()
        if isinstance(beta, Tensor) and beta.dim() > 0:
            beta = s_p.of_anchors(s_p.facts[0])
        return margin_loss(s_n, s_p, margin=self.margin, beta=beta, nu=self.nu)

    def _boundary(self) -> float | Tensor:
        """One number, or one per class, `[C]`."""
        return self.beta.double() + self._lost if isinstance(self.beta, nn.Parameter) else self.beta


class RankedListLoss(Loss):
    """Ranked list loss: `functional.ranked_list`, on Euclidean distances of unit vectors.

    Args:
        positive_margin: alpha - m >= 0, distance within which positives are near enough.
        negative_margin: alpha >= 0, distance beyond which negatives are far enough.
        positive_scale: T_p >= 0, how much the farthest positives outweigh others.
        negative_scale: T_n >= 0, how much the nearest negatives outweigh others.
        negative_weight: lambda in [0, 1].
        detach_weights: whether the weights are constants to the gradient.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> RankedListLoss()(x, [0, 0, 1, 1])
        tensor(0.3053)

    References:
        Wang, Hua, Kodirov, Hu, Garnier, Robertson. Ranked List Loss for Deep Metric Learning. CVPR 2019.
    """

    positive_margin: float | Tensor
    negative_margin: float | Tensor
    positive_scale: float | Tensor
    negative_scale: float | Tensor
    negative_weight: float | Tensor

    bounds: ClassVar = {
        "positive_margin": _NOT_NEGATIVE,
        "negative_margin": _NOT_NEGATIVE,
        "positive_scale": _NOT_NEGATIVE,
        "negative_scale": _NOT_NEGATIVE,
        "negative_weight": Bounds(0, 1),
    }

    def __init__(
        self,
        positive_margin: float = 0.8,
        negative_margin: float = 1.2,
        *,
        positive_scale: float = 0.0,
        negative_scale: float = 10.0,
        negative_weight: float = 0.5,
        detach_weights: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set(positive_margin=positive_margin, negative_margin=negative_margin)
        self._set(positive_scale=positive_scale, negative_scale=negative_scale, negative_weight=negative_weight)
        self.detach_weights = check_flag("detach_weights", detach_weights)

    def default_similarity(self) -> Similarity:
        """Euclidean distance of unit vectors, negated."""
        return NegativeEuclidean(normalize=True)

    @property
    def tags(self) -> Tags:
        """Violations are averaged: a mild one may lower the mean, which shows in the gradient where weights are part of it."""
        share = number_of(self.negative_weight)
        flat = (share == 1 or number_of(self.positive_scale) == 0) and (share == 0 or number_of(self.negative_scale) == 0)
        held = self.detach_weights or flat
        return Tags(
            signs=held,
            monotone=False,
            shift=False,
            bound=1 - share if held else None,
            saturates=True,
            self_paced=self.detach_weights and not flat,
            needs_positives=True,
            needs_negatives=True,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return ranked_list(
            s_n,
            s_p,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            positive_scale=self.positive_scale,
            negative_scale=self.negative_scale,
            negative_weight=self.negative_weight,
            detach_weights=self.detach_weights,
        )


class ThresholdConsistentMarginLoss(Loss):
    """Threshold-consistent margin (TCM): `functional.threshold_consistent_margin`, a regulariser to be added to another loss.

    Args:
        positive_margin: cosine above which positives are near enough.
        negative_margin: cosine below which negatives are far enough.
        positive_weight: weight >= 0 of the positive term.
        negative_weight: weight >= 0 of the negative term.
        options: as of `Loss`. Reduction "mean" is over the pairs that violate their margin, positives and negatives apart.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> ThresholdConsistentMarginLoss()(x, [0, 0, 1, 1])
        tensor(0.3200)

    References:
        Zhang et al. Threshold-Consistent Margin Loss for Open-World Deep Metric Learning. ICLR 2024.
    """

    positive_margin: float | Tensor
    negative_margin: float | Tensor
    positive_weight: float | Tensor
    negative_weight: float | Tensor

    needs_positives = needs_negatives = False
    bounds: ClassVar = {
        "positive_margin": _ANY,
        "negative_margin": _ANY,
        "positive_weight": _NOT_NEGATIVE,
        "negative_weight": _NOT_NEGATIVE,
    }

    def __init__(
        self,
        positive_margin: float = 0.9,
        negative_margin: float = 0.5,
        *,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._set(positive_margin=positive_margin, negative_margin=negative_margin)
        self._set(positive_weight=positive_weight, negative_weight=negative_weight)

    @property
    def tags(self) -> Tags:
        """Absolute thresholds."""
        weight = number_of(self.positive_weight)
        within = number_of(self.positive_margin) < 1 and number_of(self.negative_margin) > -1
        return Tags(shift=False, bound=lambda n, p: p * weight, saturates=within, needs_positives=False, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
        """Terms of positive and of negative pairs."""
        return threshold_consistent_margin(
            s_n,
            s_p,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            positive_weight=self.positive_weight,
            negative_weight=self.negative_weight,
        )
