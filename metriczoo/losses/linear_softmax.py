"""Softmax losses without a margin: on inner products, on normalised features, and on cosines."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_flag
from metriczoo.columns import Columns
from metriczoo.functional.linear_softmax import l2_softmax, norm_face, softmax
from metriczoo.losses._learned import LearnedPositive, value_of
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
from metriczoo.references import References
from metriczoo.scores import Scores
from metriczoo.similarity import InnerProduct, Similarity, unit

__all__ = ["L2SoftmaxLoss", "NormFaceLoss", "SoftmaxLoss"]


class _ScaledLoss(Loss):
    """A loss with a scale that may be learned."""

    scale: float | Tensor | LearnedPositive

    bounds: ClassVar = {"scale": Bounds(0, open_low=True)}

    def __init__(self, scale: float | Tensor, learnable: bool, **options: Any) -> None:
        super().__init__(**options)
        self._set(scale=scale)
        if check_flag("learnable", learnable):
            self.scale = LearnedPositive(scale, low=0.01, high=1000.0)


class _LinearLoss(Loss):
    """A loss on inner products with class weights of any length, and perhaps a bias for each class."""

    scale: float | Tensor | LearnedPositive

    def __init__(self, bias: bool, **options: Any) -> None:
        super().__init__(**options)
        self.bias: nn.Parameter | None = None
        if check_flag("bias", bias):
            if self.proxies is None or not self.similarity.is_product:
                raise ValueError("Expected `bias=True` to come with proxies and with an inner product for `similarity`.")
            self.bias = nn.Parameter(torch.zeros_like(self.proxies.weight[:, 0]))

    def default_similarity(self) -> Similarity:
        """Inner product."""
        return InnerProduct()

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The bias of each reference, if there are any."""
        if self.bias is None:
            return ()
        if call.references is not self.proxies:
            raise ValueError("Expected no `references` in a call of a loss with `bias=True`, since only its proxies have biases.")
        bias: Tensor = self.bias
        if self.proxies is not None and self.proxies.sample is not None:  # some proxies, in some order, those of a class side by side
            assert call.columns.labels is not None
            per_class = self.proxies.per_class
            bias = bias[call.columns.labels * per_class + torch.arange(len(call.points), device=bias.device) % per_class]
        return (bias.to(call.prepared.dtype),)

    def _biased(self, s: Scores) -> Scores:
        return s if self.bias is None else s.offset(s.facts[0])


class SoftmaxLoss(_LinearLoss):
    """Softmax cross-entropy over class weights: `functional.softmax` on inner products of raw embeddings with the proxies.

    Args:
        num_classes: C; a proxy, its weight, for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared
            with other losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        bias: whether classes have a learned bias, as in `torch.nn.Linear`, from 0. Calls can then name no other references.
        options: as of `Loss`.

    Raises:
        ValueError: for `bias=True` without proxies.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> SoftmaxLoss(proxies=proxies)(torch.eye(2), [0, 1]).item()
        0.3132...

    Relations:
        `L2SoftmaxLoss` normalises embeddings, `NormFaceLoss` proxies as well.

    References:
        Bridle. Probabilistic Interpretation of Feedforward Classification Network Outputs. Neurocomputing, 1990.
    """

    def __init__(self, num_classes: int | None = None, embedding_dim: int | None = None, *, bias: bool = False, **options: Any) -> None:
        super().__init__(bias, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self.scale = 1.0

    @property
    def tags(self) -> Tags:
        """Pull and push are alike and bounded."""
        return Tags(shift=True, bound=1.0, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return softmax(self._biased(s_n), self._biased(s_p))


class L2SoftmaxLoss(_ScaledLoss, _LinearLoss):
    """L2-constrained softmax: `functional.l2_softmax` on inner products of unit embeddings with proxies of any length.

    Args:
        num_classes: C; a proxy, its weight, for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared
            with other losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        scale: alpha > 0, the radius of the sphere that embeddings lie on.
        learnable: whether the scale is learned (by its logarithm, kept between 0.01 and 1000).
        bias: whether classes have a learned bias, from 0, as in the paper. Calls can then name no other references.
        options: as of `Loss`.

    Raises:
        ValueError: for `bias=True` without proxies.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> L2SoftmaxLoss(proxies=proxies, scale=1.0)(3 * torch.eye(2), [0, 1]).item()
        0.3132...

    References:
        Ranjan, Castillo, Chellappa. L2-constrained Softmax Loss for Discriminative Face Verification. 2017.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        scale: float = 24.0,
        learnable: bool = False,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(scale, learnable, bias=bias, num_classes=num_classes, embedding_dim=embedding_dim, **options)

    @property
    def tags(self) -> Tags:
        """As of the softmax, times the scale."""
        return Tags(shift=True, bound=float(self.scale), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        scale = value_of(self.scale)
        if self.bias is None:
            return l2_softmax(s_n, s_p, scale=scale)
        return softmax(*(self._biased(s.map(lambda v: scale * v)) for s in (s_n, s_p)))

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        entries = references if isinstance(references, list) else [self.proxies if references is None else references]
        if any(entry is None for entry in entries):  # in the place of class weights the batch keeps its norms
            ids = torch.arange(len(anchors), device=anchors.device) if ids is None else ids
            references = [References(anchors, labels, ids) if entry is None else entry for entry in entries]
        return super()._meet(unit(anchors), labels, references, ids)


class NormFaceLoss(_ScaledLoss):
    """NormFace: `functional.norm_face`, softmax cross-entropy on cosines to class proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        scale: gamma > 0.
        learnable: whether the scale is learned (by its logarithm, kept between 0.01 and 1000).
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = 2 * torch.eye(2)
        >>> NormFaceLoss(proxies=proxies, scale=1.0)(3 * torch.eye(2), [0, 1]).item()
        0.3132...

    References:
        Wang, Xiang, Cheng, Yuille. NormFace: L2 Hypersphere Embedding for Face Verification. ACM Multimedia 2017.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        scale: float = 30.0,
        learnable: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(scale, learnable, num_classes=num_classes, embedding_dim=embedding_dim, **options)

    @property
    def tags(self) -> Tags:
        """As of the softmax, times the scale."""
        return Tags(shift=True, bound=float(self.scale), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return norm_face(s_n, s_p, scale=value_of(self.scale))
