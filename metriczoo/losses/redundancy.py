"""Losses on two views of a batch that reduce the redundancy between components."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_embeddings, check_finite, describe, suggest_keywords
from metriczoo._execution import checking, full_precision
from metriczoo.functional import redundancy as F

__all__ = ["BarlowTwinsLoss", "VICRegLoss"]

_NOT_NEGATIVE, _POSITIVE = Bounds(0), Bounds(0, open_low=True)


class TwoViewLoss(nn.Module):
    """A loss of two views of the same samples, row by row. It has no labels and no references: it sees statistics of columns.

    Such a loss is no `Loss`: there are no pairs to mine and no scores; it couples all samples, so it cannot be cut into blocks.
    """

    separable: ClassVar[bool] = False
    bounds: ClassVar[dict[str, Bounds]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suggest_keywords(cls)

    def __init__(self, **parameters: float) -> None:
        super().__init__()
        for name, value in parameters.items():
            setattr(self, name, self.bounds[name].check(name, value))

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two views `[n, d]`, at least float32."""
        raise NotImplementedError(f"{type(self).__name__} must define `value(x, y)`.")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            x: `[n, d]` floating point: a view of each sample, or the output of one branch.
            y: `[n, d]`: another view of the same samples in the same order.

        Returns:
            A scalar, at least float32.

        Raises:
            TypeError: of wrong types and dtypes; of labels in place of `y`, above all.
            ValueError: of shapes or devices that differ, and of NaN or infinite values.
        """
        views = []
        with full_precision(check_embeddings("x", x)):
            for name, view in (("x", x), ("y", check_embeddings("y", y))):
                if view.shape != x.shape or view.device != x.device:
                    raise ValueError(
                        f"Expected `y` to have the shape and the device of `x`, {list(x.shape)} on {x.device}, "
                        f"but got {describe(view)} on {view.device}."
                    )
                views.append(view.to(torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)))
                if checking(view):
                    check_finite(name, view)
            return self.value(*views)

    def extra_repr(self) -> str:
        """The hyper-parameters."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.bounds)


class VICRegLoss(TwoViewLoss):
    """Variance, invariance, covariance: `functional.vicreg` of two views. Called as `loss(x, y)`: there are no labels.

    Args:
        invariance: lambda >= 0, weight of the squared difference of the views.
        variance: mu >= 0, weight of the hinge on standard deviations.
        covariance: nu >= 0, weight of the covariances.
        target: gamma > 0, the standard deviation that is wanted.
        eps: > 0, added to variances under the root.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]])
        >>> VICRegLoss()(x, x)
        tensor(9.6884)

    Relations:
        See `functional.vicreg`. Batches of several processes are to be gathered before the call.

    References:
        Bardes, Ponce, LeCun. VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning. ICLR 2022.
    """

    invariance: float
    variance: float
    covariance: float
    target: float
    eps: float

    bounds: ClassVar = {
        "invariance": _NOT_NEGATIVE,
        "variance": _NOT_NEGATIVE,
        "covariance": _NOT_NEGATIVE,
        "target": _POSITIVE,
        "eps": _POSITIVE,
    }

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, *, target: float = 1.0, eps: float = 1e-4
    ) -> None:
        super().__init__(invariance=invariance, variance=variance, covariance=covariance, target=target, eps=eps)

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """The three terms."""
        options: dict[str, Any] = {name: getattr(self, name) for name in self.bounds}
        return F.vicreg(x, y, **options)


class BarlowTwinsLoss(TwoViewLoss):
    """Barlow Twins: `functional.barlow_twins` of two views. Called as `loss(x, y)`: there are no labels.

    Args:
        off_diagonal: lambda >= 0, weight of the correlations between different components.
        eps: > 0, added to variances under the root.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> BarlowTwinsLoss()(x, x)
        tensor(0.0102)

    Relations:
        See `functional.barlow_twins`. The authors' projector ends in 8192 components: for fewer samples than components memory and time
        grow with samples squared, not components squared.

    References:
        Zbontar, Jing, Misra, LeCun, Deny. Barlow Twins: Self-Supervised Learning via Redundancy Reduction. ICML 2021.
    """

    off_diagonal: float
    eps: float

    bounds: ClassVar = {"off_diagonal": _NOT_NEGATIVE, "eps": _POSITIVE}

    def __init__(self, off_diagonal: float = 0.0051, *, eps: float = 1e-5) -> None:
        super().__init__(off_diagonal=off_diagonal, eps=eps)

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Both terms."""
        return F.barlow_twins(x, y, off_diagonal=self.off_diagonal, eps=self.eps)
