"""Softmax losses in which the angle to the own class counts several times."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_choice, check_number, describe, suggest_keywords
from metriczoo.functional._angles import GRADIENTS
from metriczoo.functional.linear_softmax import large_margin_softmax, sphere_face
from metriczoo.losses._heads import norm, norms_of_positives, writable
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores
from metriczoo.similarity import InnerProduct, Similarity

__all__ = ["Annealing", "LargeMarginSoftmaxLoss", "SphereFaceLoss"]

_POSITIVE, _NOT_NEGATIVE = Bounds(0, open_low=True), Bounds(0)


@suggest_keywords
class Annealing(nn.Module):
    r"""The weight of the plain cosine beside the margin, which falls from one training step to the next.

    .. math:: \lambda_t = \max\bigl(\lambda_{min}, \lambda_0 (1 + \gamma t)^{-p}\bigr)

    Args:
        start: :math:`\lambda_0 \ge 0`.
        decay: :math:`\gamma \ge 0`.
        power: :math:`p \ge 0`.
        minimum: :math:`\lambda_{min} \ge 0`.

    Attributes:
        step: `[]` int64, t: calls of the loss in training. It is all the state.

    Example:
        >>> Annealing()(training=True)
        tensor(892.8571)

    References:
        Liu et al. SphereFace: Deep Hypersphere Embedding for Face Recognition. CVPR 2017. The defaults are those of the authors' code; that
        of large-margin softmax has decay 0.000025, power 35 and minimum 0 on MNIST.
    """

    step: Tensor

    def __init__(self, start: float = 1000.0, decay: float = 0.12, power: float = 1.0, minimum: float = 5.0) -> None:
        super().__init__()
        self.start, self.decay = check_number("start", start, low=0), check_number("decay", decay, low=0)
        self.power, self.minimum = check_number("power", power, low=0), check_number("minimum", minimum, low=0)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, training: bool) -> Tensor:
        """Lambda, `[]`; in training that of the next step."""
        if training:
            self.step += 1
        return (self.start * (1 + self.decay * self.step).pow(-self.power)).clamp(min=self.minimum)


class _MultipliedAngleLoss(Loss):
    annealing: Annealing | None
    margin: float

    bounds: ClassVar = {"margin": Bounds(1), "scale": _POSITIVE}

    def __init__(self, margin: float, annealing: Annealing | None, gradient: str, **options: Any) -> None:
        super().__init__(**options)
        self._set(margin=check_number("margin", margin))
        if annealing is not None and not isinstance(annealing, Annealing):
            raise TypeError(f"Expected `annealing` to be an Annealing, but got {describe(annealing)}.")
        self.annealing = annealing
        self.gradient = check_choice("gradient", gradient, GRADIENTS)

    def _weight(self, like: Tensor) -> Tensor:
        return like.new_zeros(()) if self.annealing is None else self.annealing(training=writable(self)).to(like.dtype)


class LargeMarginSoftmaxLoss(_MultipliedAngleLoss):
    """Large-margin softmax: `functional.large_margin_softmax` on inner products of raw embeddings with proxies of any length.

    Args:
        num_classes: C; a proxy, its weight, for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared
            with other losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m >= 1; whole in the paper, 4 at most.
        annealing: an `Annealing`; the authors train with one.
        gradient: `"detached"` or `"exact"`.
        options: as of `Loss`. The similarity must be an inner product, or the cosine.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = 2 * torch.eye(2)
        >>> LargeMarginSoftmaxLoss(proxies=proxies, margin=2)(torch.tensor([[3.0, 4.0]]), [1]).item()
        3.2399...

    Relations:
        `SphereFaceLoss` keeps class weights on the unit sphere.

    References:
        Liu, Wen, Yu, Yang. Large-Margin Softmax Loss for Convolutional Neural Networks. ICML 2016.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float = 4.0,
        annealing: Annealing | None = None,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(margin, annealing, gradient, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        if not self.similarity.is_product:
            raise ValueError(f"Expected `similarity` to be an inner product, but got {describe(self.similarity)}.")

    def default_similarity(self) -> Similarity:
        """Inner product."""
        return InnerProduct()

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The norms of embeddings and of their own proxies, and the annealing."""
        return norm(call.prepared), norms_of_positives(call), self._weight(call.prepared)

    @property
    def tags(self) -> Tags:
        """An angle that counts several times: not the same under a shift, and a constant to the detached gradient."""
        paced = self.gradient == "detached" and self.margin > 1
        return Tags(
            shift=None if self.margin == 1 else False, saturates=False, self_paced=paced, needs_positives=True, needs_negatives=True
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        own, others, annealing = s_p.facts
        norms = s_p.of_anchors(own).unsqueeze(1) * s_p.of_references(others)
        return large_margin_softmax(s_n, s_p, norms, margin=self.margin, annealing=annealing, gradient=self.gradient)


class SphereFaceLoss(_MultipliedAngleLoss):
    """SphereFace (A-Softmax): `functional.sphere_face` on cosines to class proxies and on the norms of the embeddings.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m >= 1; whole in the paper.
        scale: a number > 0 for normalised embeddings. Default: the norm of each embedding, as in the paper.
        annealing: an `Annealing`; the authors train with one, since the full margin is hard to start with.
        gradient: `"detached"` or `"exact"`.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = 2 * torch.eye(2)
        >>> SphereFaceLoss(proxies=proxies, margin=2)(torch.tensor([[3.0, 4.0]]), [1]).item()
        1.7839...

    Relations:
        `LargeMarginSoftmaxLoss` lets class weights have any length. The authors' later code has scale 30 and margin 1.7.

    References:
        Liu, Wen, Yu, Li, Raj, Song. SphereFace: Deep Hypersphere Embedding for Face Recognition. CVPR 2017.
    """

    scale: float | Tensor | None

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float = 4.0,
        scale: float | None = None,
        annealing: Annealing | None = None,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(margin, annealing, gradient, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        if scale is None:
            self.scale = None
        else:
            self._set(scale=scale)

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The norm of each embedding, and the annealing."""
        return norm(call.anchors), self._weight(call.prepared)

    @property
    def tags(self) -> Tags:
        """An angle that counts several times: not the same under a shift, and a constant to the detached gradient."""
        paced = self.gradient == "detached" and self.margin > 1
        shift, scale = (None if self.margin == 1 else False), (False if self.scale is None else None)
        return Tags(shift=shift, saturates=False, self_paced=paced, needs_positives=True, needs_negatives=True, scale=scale)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        norms, annealing = s_p.facts
        scale = s_p.of_anchors(norms) if self.scale is None else self.scale
        return sphere_face(s_n, s_p, scale=scale, margin=self.margin, annealing=annealing, gradient=self.gradient)
