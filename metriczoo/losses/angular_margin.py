"""Losses on class proxies with a margin on the angle."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_choice, check_number
from metriczoo.functional import angular_margin as F
from metriczoo.functional._angles import GRADIENTS
from metriczoo.losses._class_margin import ClassMarginLoss
from metriczoo.losses._heads import class_of, classes_of, mean_positive, norm, proxy_options, writable
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores
from metriczoo.stores import Proxies

__all__ = ["AdaFaceLoss", "ArcFaceLoss", "CurricularFaceLoss", "MagFaceLoss", "SphereFace2Loss", "SubCenterArcFaceLoss"]

_POSITIVE, _NOT_NEGATIVE, _ANGLE = Bounds(0, open_low=True), Bounds(0), Bounds(0, math.pi / 2)


def _follow(statistic: Tensor, new: Tensor, known: Tensor, momentum: float) -> None:
    """Move a running statistic `[1]` towards a new value, if that is known."""
    # Not `[]`: PyTorch 2.13 drops the update of a float64 scalar in compiled programs.
    moved = momentum * statistic + (1 - momentum) * new
    statistic.copy_(torch.where(known, moved, statistic))


class _AngularLoss(Loss):
    """A loss with a margin on the angle, whose gradient is exact or detached."""

    margin: float | Tensor
    scale: float | Tensor

    bounds: ClassVar = {"margin": _ANGLE, "scale": _POSITIVE}

    def __init__(self, gradient: str, **options: Any) -> None:
        super().__init__(**options)
        self.gradient = check_choice("gradient", gradient, GRADIENTS)


class ArcFaceLoss(ClassMarginLoss):
    """ArcFace: `functional.arc_face` on cosines to class proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m in [0, pi / 2], radians; or one for each class, `[C]`, as of `functional.class_size_margins`.
        scale: gamma > 0.
        gradient: `"detached"`, where the margin is a constant to the gradient, or `"exact"`.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> ArcFaceLoss(proxies=proxies, margin=0.5, scale=1.0)(torch.eye(2), [0, 1]).item()
        0.3476...

    Relations:
        `AMSoftmaxLoss` has its margin on the cosine, `SubCenterArcFaceLoss` several proxies per class.

    References:
        Deng, Guo, Xue, Zafeiriou. ArcFace: Additive Angular Margin Loss for Deep Face Recognition. CVPR 2019.
    """

    bounds: ClassVar = {"margin": _ANGLE, "scale": _POSITIVE}

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float | Tensor = 0.5,
        scale: float = 64.0,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(margin, scale, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self.gradient = check_choice("gradient", gradient, GRADIENTS)

    @property
    def tags(self) -> Tags:
        """Without a margin those of NormFace; with one, the detached gradient is that of a constant margin."""
        plain = not bool(torch.as_tensor(self.margin).detach().any())
        paced = self.gradient == "detached" and not plain
        return Tags(
            shift=plain,
            bound=float(self.scale) if paced or plain else None,
            saturates=False,
            self_paced=paced,
            needs_positives=True,
            needs_negatives=True,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.arc_face(s_n, s_p, margin=self.margin_of(s_p), scale=self.scale, gradient=self.gradient)


class SubCenterArcFaceLoss(ArcFaceLoss):
    """Sub-center ArcFace: `functional.sub_center_arc_face` on cosines to several proxies per class.

    With other references than proxies, all references of one label are the sub-centres of their class.

    Args:
        num_classes: C; `per_class` proxies for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with
            other losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        per_class: K >= 1, proxies of each class. Default: 3, or that of `proxies`.
        margin: m in [0, pi / 2], radians; or one for each class, `[C]`, as of `functional.class_size_margins`.
        scale: gamma > 0.
        gradient: `"detached"`, where the margin is a constant to the gradient, or `"exact"`.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2, per_class=2)
        >>> proxies.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> SubCenterArcFaceLoss(proxies=proxies, margin=0.5, scale=1.0)(torch.eye(2), [0, 1]).item()
        0.3476...

    Relations:
        With `per_class=1` it is `ArcFaceLoss`. `dominant_centers` and `outliers` are for the second stage of the paper, which trains again
        with one proxy per class and without mislabelled samples.

    References:
        Deng, Guo, Liu, Gong, Zafeiriou. Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces. ECCV 2020.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        per_class: int | None = None,
        margin: float | Tensor = 0.5,
        scale: float = 64.0,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        options = proxy_options(num_classes, embedding_dim, per_class, 3, options)
        super().__init__(margin=margin, scale=scale, gradient=gradient, **options)

    def facts(self, call: Call) -> tuple[Any, ...]:
        """The margins, and the classes of references."""
        return *super().facts(call), *classes_of(call)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        *_, classes, size = s_p.facts
        own = class_of(s_n, classes, size)
        return F.sub_center_arc_face(s_n, s_p, own, num_classes=size, margin=self.margin_of(s_p), scale=self.scale, gradient=self.gradient)

    @torch.no_grad()
    def dominant_centers(self, embeddings: Tensor, labels: Any) -> Tensor:
        """`[C]` int64: for each class the sub-centre, 0 ... K - 1, that is nearest to most of its samples; -1 for classes without any.

        Args:
            embeddings: `[n, d]`, of the data set.
            labels: `[n]` integers. A label < 0 is ignored.
        """
        proxies, labels = self._labelled(labels)
        centers = self._prepared(proxies.weight).view(proxies.num_classes, proxies.per_class, -1)
        scores = self.similarity.score(self._prepared(embeddings).unsqueeze(1), centers[labels.clamp(min=0)]).squeeze(1)
        votes = labels.new_zeros(proxies.num_classes, proxies.per_class)
        votes.index_put_((labels.clamp(min=0), scores.argmax(1)), (labels >= 0).long(), accumulate=True)
        return torch.where(votes.sum(1) > 0, votes.argmax(1), -1)

    @torch.no_grad()
    def outliers(self, embeddings: Tensor, labels: Any, centers: Tensor, *, angle: float = 75.0) -> Tensor:
        """`[n]` bool: the samples that are farther from the dominant sub-centre of their class than an angle.

        Args:
            embeddings: `[n, d]`.
            labels: `[n]` integers. A label < 0 is no outlier.
            centers: `[C]`, what `dominant_centers` gave.
            angle: degrees; 75 in the paper.
        """
        angle = check_number("angle", angle, low=0, high=180)
        proxies, labels = self._labelled(labels)
        own = labels.clamp(min=0)
        rows = own * proxies.per_class + centers[own].clamp(min=0)
        scores = self.similarity.score(self._prepared(embeddings).unsqueeze(1), self._prepared(proxies.weight[rows]).unsqueeze(1))
        return torch.logical_and(scores.flatten() < math.cos(math.radians(angle)), labels >= 0)

    def _labelled(self, labels: Any) -> tuple[Proxies, Tensor]:
        if self.proxies is None:
            raise ValueError("Expected a loss with proxies, but this one has none: give `num_classes` and `embedding_dim`, or `proxies`.")
        return self.proxies, self.proxies.check_labels(labels)

    def _prepared(self, x: Tensor) -> Tensor:
        return self.similarity.prepare(x if x.dtype.itemsize >= 4 else x.float())


class CurricularFaceLoss(_AngularLoss):
    """CurricularFace: `functional.curricular_face` on cosines to class proxies.

    In training each call first moves `t` towards the mean cosine of its positive pairs; in evaluation, and inside transforms of
    `torch.func`, `t` stays as it is.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m in [0, pi / 2], radians.
        scale: gamma > 0.
        momentum: share in [0, 1] of the old `t` in the new one.
        gradient: `"detached"`, where the margin is a constant to the gradient, or `"exact"`.
        options: as of `Loss`.

    Attributes:
        t: `[1]`, the running mean, in `state_dict`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> loss = CurricularFaceLoss(proxies=proxies, margin=0.5, scale=1.0)
        >>> loss(torch.tensor([[0.6, 0.8]]), [0]).item(), loss.t
        (0.9751..., tensor([0.0060]))

    References:
        Huang et al. CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition. CVPR 2020.
    """

    t: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        momentum: float = 0.99,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(gradient, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(margin=margin, scale=scale)
        self.momentum = check_number("momentum", momentum, low=0, high=1)
        self.register_buffer("t", torch.zeros(1))

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The running mean."""
        if writable(self):
            mean, count = mean_positive(self.similarity, call)
            _follow(self.t, mean, count > 0, self.momentum)
        return (self.t.to(call.prepared.dtype, copy=True),)

    @property
    def tags(self) -> Tags:
        """The weight t + cos of a hard negative may fall as it comes nearer, where its cosine is negative."""
        paced = self.gradient == "detached" and float(self.margin) > 0
        return Tags(signs=False, monotone=False, shift=False, saturates=False, self_paced=paced, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        (t,) = s_p.facts
        return F.curricular_face(s_n, s_p, t=t, margin=self.margin, scale=self.scale, gradient=self.gradient)


class MagFaceLoss(_AngularLoss):
    """MagFace: `functional.mag_face` on cosines to class proxies and on the norms of the embeddings.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        min_margin: in [0, pi / 2], radians, the margin of an embedding of norm `min_norm` or less.
        max_margin: in [min_margin, pi / 2], the margin at `max_norm` or more.
        min_norm: > 0.
        max_norm: > min_norm.
        scale: gamma > 0.
        regularization: weight >= 0 of the reward for large norms.
        gradient: `"detached"`, where the margin is a constant to the gradient by the cosine, or `"exact"`.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> MagFaceLoss(proxies=proxies, scale=1.0, regularization=55.0)(110 * torch.eye(2), [0, 1]).item()
        1.4042...

    Relations:
        `AdaFaceLoss` reads quality off the norms as well, without training them.

    References:
        Meng, Zhao, Huang, Zhou. MagFace: A Universal Representation for Face Recognition and Quality Assessment. CVPR 2021.
    """

    min_margin: float
    max_margin: float
    min_norm: float
    max_norm: float
    regularization: float | Tensor

    bounds: ClassVar = {
        "min_margin": _ANGLE,
        "max_margin": _ANGLE,
        "min_norm": _POSITIVE,
        "max_norm": _POSITIVE,
        "scale": _POSITIVE,
        "regularization": _NOT_NEGATIVE,
    }

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        min_margin: float = 0.45,
        max_margin: float = 0.8,
        min_norm: float = 10.0,
        max_norm: float = 110.0,
        scale: float = 64.0,
        regularization: float = 35.0,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(gradient, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(scale=scale, regularization=regularization)
        ends = {"min_margin": min_margin, "max_margin": max_margin, "min_norm": min_norm, "max_norm": max_norm}
        self._set(**{name: check_number(name, value) for name, value in ends.items()})
        if min_margin > max_margin or min_norm >= max_norm:
            raise ValueError(f"Expected min_margin <= max_margin and min_norm < max_norm, but got {ends}.")

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The norm of each embedding."""
        return (norm(call.anchors),)

    @property
    def tags(self) -> Tags:
        """Those of ArcFace, for each norm."""
        paced = self.gradient == "detached" and self.max_margin > 0
        norms_matter = self.min_margin < self.max_margin or float(self.regularization) > 0
        return Tags(
            shift=False if self.max_margin > 0 else None,
            bound=float(self.scale) if paced else None,
            saturates=False,
            self_paced=paced,
            needs_positives=True,
            needs_negatives=True,
            scale=False if norms_matter else None,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        (norms,) = s_p.facts
        return F.mag_face(
            s_n,
            s_p,
            s_p.of_anchors(norms),
            min_margin=self.min_margin,
            max_margin=self.max_margin,
            min_norm=self.min_norm,
            max_norm=self.max_norm,
            scale=self.scale,
            regularization=self.regularization,
            gradient=self.gradient,
        )


class AdaFaceLoss(_AngularLoss):
    """AdaFace: `functional.ada_face` on cosines to class proxies and on the norms of the embeddings.

    In training each call first moves `mean` and `std` towards those of the norms of its batch; in evaluation, and inside transforms of
    `torch.func`, they stay as they are. A batch of one sample has no standard deviation, and leaves `std` alone.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m in [0, pi / 2].
        concentration: h > 0.
        scale: gamma > 0.
        momentum: share in [0, 1] of the old statistics in the new ones: 0.99 in the authors' script, 0 as the default of their class.
        gradient: `"detached"`, where the margin is a constant to the gradient, or `"exact"`.
        options: as of `Loss`.

    Attributes:
        mean: `[1]`, running mean of the norms, from 20, in `state_dict`.
        std: `[1]`, their running standard deviation, from 100, in `state_dict`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> loss = AdaFaceLoss(proxies=proxies, margin=0.4, scale=1.0, momentum=0.0)
        >>> loss(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), [0, 1]).item(), loss.mean, loss.std
        (0.4392..., tensor([4.]), tensor([1.4142]))

    References:
        Kim, Jain, Liu. AdaFace: Quality Adaptive Margin for Face Recognition. CVPR 2022.
    """

    concentration: float
    mean: Tensor
    std: Tensor

    bounds: ClassVar = {"margin": _ANGLE, "concentration": _POSITIVE, "scale": _POSITIVE}

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float = 0.4,
        concentration: float = 0.333,
        scale: float = 64.0,
        momentum: float = 0.99,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(gradient, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(margin=margin, concentration=concentration, scale=scale)
        self.momentum = check_number("momentum", momentum, low=0, high=1)
        self.register_buffer("mean", torch.tensor([20.0]))
        self.register_buffer("std", torch.tensor([100.0]))

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The norm of each embedding, and the running statistics."""
        norms = norm(call.anchors).detach()
        if writable(self):
            self._update(norms.clamp(1e-3, 100.0), call.columns.keep)
        return norms, *(statistic.to(norms.dtype, copy=True) for statistic in (self.mean, self.std))

    @torch.no_grad()
    def _update(self, norms: Tensor, keep: Tensor) -> None:
        count = keep.sum()
        mean = torch.where(keep, norms, 0.0).sum() / count.clamp(min=1)
        variance = torch.where(keep, (norms - mean).square(), 0.0).sum() / (count - 1).clamp(min=1)
        for buffer, new, known in ((self.mean, mean, count > 0), (self.std, variance.sqrt(), count > 1)):
            _follow(buffer, new, known, self.momentum)

    @property
    def tags(self) -> Tags:
        """Norms are constants to the gradient, and so is the margin to the detached one."""
        some = float(self.margin) > 0
        return Tags(
            shift=not some,
            saturates=False,
            self_paced=some,
            needs_positives=True,
            needs_negatives=True,
            scale=False if some else None,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        norms, mean, std = s_p.facts
        return F.ada_face(
            s_n,
            s_p,
            s_p.of_anchors(norms),
            mean=mean,
            std=std,
            margin=self.margin,
            concentration=self.concentration,
            scale=self.scale,
            gradient=self.gradient,
        )


class SphereFace2Loss(_AngularLoss):
    """SphereFace2: `functional.sphere_face2` on cosines to class proxies, with a learned bias.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m >= 0.
        scale: gamma > 0.
        power: t >= 1.
        positive_weight: lambda in [0, 1].
        weight: w > 0, of the whole loss.
        bias: start of b. Default: where the positive and the negative part balance for cosines of 0, with as many classes as there are
            proxies; 0 without proxies.
        gradient: `"detached"`, where g and the margin are constants to the gradient, or `"exact"`.
        options: as of `Loss`.

    Attributes:
        bias: parameter `[]`, b.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> loss = SphereFace2Loss(proxies=proxies, margin=0.0, scale=1.0, power=1.0, weight=1.0, bias=0.0)
        >>> loss(torch.eye(2), [0, 1]).item()
        0.4272...

    References:
        Wen, Liu, Weller, Raj, Singh. SphereFace2: Binary Classification is All You Need for Deep Face Recognition. ICLR 2022.
    """

    power: float
    positive_weight: float
    weight: float | Tensor

    needs_negatives = False
    bounds: ClassVar = {
        "margin": _NOT_NEGATIVE,
        "scale": _POSITIVE,
        "power": Bounds(1),
        "positive_weight": Bounds(0, 1),
        "weight": _POSITIVE,
        "bias": Bounds(),
    }

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float = 0.4,
        scale: float = 40.0,
        power: float = 3.0,
        positive_weight: float = 0.7,
        weight: float = 50.0,
        bias: float | None = None,
        gradient: str = "detached",
        **options: Any,
    ) -> None:
        super().__init__(gradient, num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(margin=margin, scale=scale, power=power, positive_weight=positive_weight, weight=weight)
        start = self._balance() if bias is None else self.bounds["bias"].check("bias", bias)
        self.bias = start if isinstance(start, nn.Parameter) else nn.Parameter(torch.as_tensor(start).detach().clone())

    def _balance(self) -> float:
        """Where the weighted probabilities of being wrong agree: lambda sigma(-a - b) = (1 - lambda) (C - 1) sigma(c + b)."""
        others = 0 if self.proxies is None else self.proxies.num_classes - 1
        if others == 0 or not 0 < self.positive_weight < 1:
            return 0.0
        ratio = self.positive_weight / ((1 - self.positive_weight) * others)
        middle, margin, scale = 2 * math.pow(0.5, float(self.power)) - 1, float(self.margin), float(self.scale)
        a, c = scale * (middle - margin), scale * (middle + margin)
        # u = e^(b + c) is the positive root of e^(a - c) u^2 + (1 - ratio) u - ratio = 0; of its two forms the one that does not cancel.
        root = math.hypot(1 - ratio, 2 * math.sqrt(ratio) * math.exp((a - c) / 2))
        if ratio <= 1:
            return math.log(2 * ratio) - math.log(1 - ratio + root) - c
        return math.log(ratio - 1 + root) - math.log(2) - a

    @property
    def tags(self) -> Tags:
        """A binary classifier for each class: absolute thresholds."""
        detached, most = self.gradient == "detached", float(self.weight) * self.positive_weight
        return Tags(
            shift=False,
            bound=(lambda n, p: p * most) if detached else None,
            saturates=False,
            self_paced=detached and self.power > 1,
            needs_positives=True,
            needs_negatives=False,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.sphere_face2(
            s_n,
            s_p,
            bias=self.bias,
            margin=self.margin,
            scale=self.scale,
            power=self.power,
            positive_weight=self.positive_weight,
            weight=self.weight,
            gradient=self.gradient,
        )
