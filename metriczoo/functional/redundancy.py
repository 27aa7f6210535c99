"""Losses on two views of a batch that reduce the redundancy between components: not functions of pairs, but of statistics of columns."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import batch_norm

from metriczoo._execution import product

__all__ = ["barlow_twins", "vicreg"]


def vicreg(
    x: Tensor,
    y: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    target: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    r"""VICReg: two views of a sample agree, every component varies over the batch, and no two components vary together.

    .. math::
        L = \lambda \operatorname{mean}(x - y)^2 + \mu \frac{v(x) + v(y)}2 + \nu (c(x) + c(y)), \quad
        v(x) = \frac1d \sum_k \bigl[\gamma - \sqrt{\operatorname{Var} x_k + \epsilon}\bigr]_+, \quad
        c(x) = \frac1d \sum_{k \ne l} \operatorname{Cov}(x_k, x_l)^2

    Variance and covariance are those of samples (divided by n - 1). Of fewer than two samples there are none: their terms are 0.

    Args:
        x: `[n, d]`, a view of each of n samples.
        y: `[n, d]`, another view of them.
        invariance: lambda >= 0.
        variance: mu >= 0; the half beside it is that of the authors' code, the paper has none.
        covariance: nu >= 0.
        target: gamma > 0, the standard deviation that each component should reach.
        eps: epsilon > 0.

    Returns:
        `[]`, >= 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]])
        >>> vicreg(x, x)
        tensor(9.6884)

    Relations:
        `barlow_twins` correlates the components of one view with those of the other; here each view is decorrelated for itself.

    References:
        Bardes, Ponce, LeCun. VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning. ICLR 2022,
        equations 1 to 6.
    """
    n, d = x.shape
    agree = invariance * (x - y).square().sum() / max(1, n * d)
    if n < 2:
        return agree
    spread, overlap = x.new_zeros(()), x.new_zeros(())
    for view in (x - x.mean(0), y - y.mean(0)):
        squares, others = _products(view, view)
        spread = spread + (target - (squares / (n - 1) + eps).sqrt()).relu().mean() / 2
        overlap = overlap + others / ((n - 1) ** 2 * d)
    return agree + variance * spread + covariance * overlap


def barlow_twins(x: Tensor, y: Tensor, *, off_diagonal: float = 0.0051, eps: float = 1e-5) -> Tensor:
    r"""Barlow Twins: the correlations between the components of two views are to be the identity matrix.

    .. math:: L = \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \ne l} C_{kl}^2, \qquad
        C_{kl} = \frac1n \sum_i \hat x_{ik} \hat y_{il}, \quad \hat x_k = \frac{x_k - \bar x_k}{\sqrt{\operatorname{Var} x_k + \epsilon}}

    with the variance divided by n, as in a batch normalisation. Of fewer than two samples there are no correlations: the loss is 0.

    Args:
        x: `[n, d]`, a view of each of n samples.
        y: `[n, d]`, another view of them.
        off_diagonal: lambda >= 0; 0.0051 in the authors' code, 0.005 in the paper.
        eps: epsilon > 0, that of the batch normalisation in the authors' code.

    Returns:
        `[]`, >= 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> barlow_twins(x, x)
        tensor(0.0102)

    Relations:
        `vicreg` decorrelates each view for itself, and draws the views together sample by sample.

    References:
        Zbontar, Jing, Misra, LeCun, Deny. Barlow Twins: Self-Supervised Learning via Redundancy Reduction. ICML 2021, equations 1 and 2.
    """
    n = x.shape[0]
    if n < 2:
        return x[:0].sum() + y[:0].sum()
    x, y = (batch_norm(view, None, None, training=True, eps=eps) for view in (x, y))
    own, others = _products(x, y)
    return (1 - own / n).square().sum() + off_diagonal * others / n**2


def _products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of `x.T @ y`, and the sum of squares off it, by the smaller of two matrices: |x.T y|^2 = <x x.T, y y.T>."""
    n, d = x.shape
    if n < d:
        diagonal, total = (x * y).sum(0), (product(x, x.mT) * product(y, y.mT)).sum()
    else:
        products = product(x.mT, y)
        diagonal, total = products.diagonal(), products.square().sum()
    return diagonal, (total - diagonal.square().sum()).clamp(min=0)
