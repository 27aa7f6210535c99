"""Losses over class proxies: the softmax family."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from metriczoo import functional as F
from metriczoo._checks import Bounds
from metriczoo.losses._class_margin import ClassMarginLoss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores

__all__ = ["AMSoftmaxLoss"]


class AMSoftmaxLoss(ClassMarginLoss):
    """Additive margin softmax (CosFace): `functional.am_softmax` on class proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: m >= 0; or one for each class, `[C]`, as of `functional.class_size_margins`.
        scale: gamma > 0.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> AMSoftmaxLoss(proxies=proxies, margin=0.0, scale=1.0)(torch.eye(2), [0, 1]).detach()
        tensor(0.3133)
        >>> AMSoftmaxLoss(proxies=proxies, margin=torch.tensor([0.0, 1.0]), scale=1.0, reduction="none")(torch.eye(2), [0, 1]).tolist()
        [0.313..., 0.693...]

    Relations:
        `ArcFaceLoss` has its margin on the angle; without a margin both are `NormFaceLoss`.

    References:
        Wang, Cheng, Liu, Liu. Additive Margin Softmax for Face Verification. IEEE Signal Processing Letters 2018.
        Wang et al. CosFace: Large Margin Cosine Loss for Deep Face Recognition. CVPR 2018.
    """

    bounds: ClassVar = {"margin": Bounds(0), "scale": Bounds(0, open_low=True)}

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        margin: float | Tensor = 0.35,
        scale: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(margin, scale, num_classes=num_classes, embedding_dim=embedding_dim, **options)

    @property
    def tags(self) -> Tags:
        """Pull and push are alike and bounded."""
        return Tags(shift=True, bound=float(self.scale), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.am_softmax(s_n, s_p, margin=self.margin_of(s_p), scale=self.scale)
