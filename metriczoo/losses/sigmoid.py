"""Sigmoid pair losses."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_flag
from metriczoo.functional.sigmoid import binomial_deviance, sigmoid
from metriczoo.losses._learned import LearnedPositive, number_of, value_of
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores

__all__ = ["BinomialDevianceLoss", "SigmoidLoss"]

_ANY, _POSITIVE = Bounds(), Bounds(0, open_low=True)


class SigmoidLoss(Loss):
    """Sigmoid loss (SigLIP): `functional.sigmoid`, with a learned scale and bias.

    Give `loss.parameters()` to the optimizer, too. The texts of images are references: `loss(images, ids, (texts, ids))`; several pairs
    of a label are all positive.

    Args:
        scale: t > 0 at the start.
        bias: b at the start.
        learnable: whether scale (by its logarithm, kept between 0.01 and 1000) and bias are parameters, as in the paper.
        options: as of `Loss`. Reduction "mean" adds up the pairs of an anchor and averages over anchors, as the paper does.

    Example:
        >>> import torch
        >>> SigmoidLoss(learnable=False)(torch.eye(3), [0, 1, 2], (torch.eye(3), [0, 1, 2]))
        tensor(0.6932)

    References:
        Zhai, Mustafa, Kolesnikov, Beyer. Sigmoid Loss for Language Image Pre-Training. ICCV 2023.
    """

    scale: float | Tensor | LearnedPositive
    bias: float | Tensor

    needs_positives = needs_negatives = False
    bounds: ClassVar = {"scale": _POSITIVE, "bias": _ANY}

    def __init__(self, scale: float = 10.0, bias: float = -10.0, *, learnable: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._set(scale=scale, bias=bias)
        if check_flag("learnable", learnable):
            self.scale = LearnedPositive(scale, low=0.01, high=1000.0)
            self.bias = nn.Parameter(torch.tensor(float(bias)))

    @property
    def tags(self) -> Tags:
        """Absolute thresholds, smooth: every pair counts, for ever."""
        t = number_of(self.scale)
        return Tags(shift=False, bound=lambda n, p: p * t, saturates=False, needs_positives=False, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return sigmoid(s_n, s_p, scale=value_of(self.scale), bias=self.bias)


class BinomialDevianceLoss(Loss):
    """Binomial deviance: `functional.binomial_deviance`.

    Args:
        positive_scale: alpha > 0.
        negative_scale: beta > 0.
        threshold: lambda, the cosine that separates positives from negatives.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> BinomialDevianceLoss()(torch.eye(4), [0, 0, 1, 1])
        tensor(1.3133)

    References:
        Yi, Lei, Li. Deep Metric Learning for Practical Person Re-Identification. ICPR 2014.
        Ustinova, Lempitsky. Learning Deep Embeddings with Histogram Loss. NIPS 2016.
    """

    positive_scale: float | Tensor
    negative_scale: float | Tensor
    threshold: float | Tensor

    bounds: ClassVar = {"positive_scale": _POSITIVE, "negative_scale": _POSITIVE, "threshold": _ANY}

    def __init__(self, positive_scale: float = 2.0, negative_scale: float = 50.0, threshold: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self._set(positive_scale=positive_scale, negative_scale=negative_scale, threshold=threshold)

    @property
    def tags(self) -> Tags:
        """An absolute threshold, smooth; positives are averaged."""
        bound = number_of(self.positive_scale)
        return Tags(shift=False, bound=bound, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return binomial_deviance(s_n, s_p, positive_scale=self.positive_scale, negative_scale=self.negative_scale, threshold=self.threshold)
