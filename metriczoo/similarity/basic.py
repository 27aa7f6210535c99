"""Products and Euclidean distances."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn, threshold_

from metriczoo._checks import check_count, check_flag, describe, suggest_keywords
from metriczoo._execution import backward_in_full_precision, product, tracing

__all__ = ["Cosine", "InnerProduct", "Mahalanobis", "NegativeEuclidean", "NegativeSquaredEuclidean", "Similarity", "unit"]


class Similarity(nn.Module):
    """How two points are scored: `prepare` once per point, `score` once per block.

    An author writes the two methods (and `distance`, where the score is not a function of the Euclidean distance of unit vectors). They
    hold for matrices `[n, d]` and for stacks of them, `[..., n, d]`.

    Example:
        >>> x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0], [3.0, 4.0]])
        >>> Cosine()(x, y)
        tensor([[0.9600, 1.0000]])
        >>> NegativeSquaredEuclidean()(x, y)
        tensor([[-2., -0.]])
    """

    is_distance = False  # whether a score is a negated distance, or a negated squared one
    nearest_itself = True  # whether no point scores more with a point than the point itself
    is_product = False  # whether `score(a, r)` is `a @ r.mT` and nothing else: the engine then multiplies into its own buffers
    is_bent = (
        False  # whether `score` is `bend` of negated squared distances, of points that have their squared norm and a number at the end
    )
    distance_power: int | None = None  # p, where it is -||x - y||^p of points that `prepare` gave their squared norm as a last component

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suggest_keywords(cls)
        if "score" in vars(cls):  # what holds of the score of a parent need not hold of another
            cls.is_product, cls.is_bent = vars(cls).get("is_product", False), vars(cls).get("is_bent", False)
            cls.distance_power = vars(cls).get("distance_power")
        elif "prepare" in vars(cls) and "distance_power" not in vars(cls):
            cls.distance_power = None
        if "bend" in vars(cls) or ("prepare" in vars(cls) and "score" not in vars(cls)):
            cls.is_bent = vars(cls).get("is_bent", False)

    @property
    def invariances(self) -> frozenset[str]:
        """What leaves every score as it is, for `testing.check_similarity`, which looks for each of them whether it does.

        `"swap"` of the two points, `"rotation"` and `"translation"` of all points, `"scale"`, a common positive factor, `"lengths"`, a
        positive factor for each point.
        """
        return frozenset()

    def prepare(self, x: Tensor) -> Tensor:
        """What `score` takes, `[n, d']`, of points `x` `[n, d]`."""
        return x

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """`[b, n]`: scores of prepared anchors `a` `[b, d']` to prepared references `r` `[n, d']`."""
        raise NotImplementedError(f"{type(self).__name__} must define `score`.")

    def bend(self, apart: Tensor, a: Tensor, r: Tensor) -> Tensor:
        """`[..., b, n]`: scores of negated squared distances `apart` and of last components `a` `[..., b, 1]` and `r` `[..., n, 1]`."""
        raise NotImplementedError(f"{type(self).__name__} is not bent.")

    def distance(self, score: Tensor) -> Tensor:
        """Euclidean distance at which two points have the score; unless redefined, of unit vectors whose inner product it is."""
        return (2 - 2 * score).clamp(0, 4).sqrt()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`[b, n]`: scores of points `x` `[b, d]` to points `y` `[n, d]`."""
        return self.score(self.prepare(x), self.prepare(y))


def unit(x: Tensor) -> Tensor:
    """`x / ||x||` along the last dimension; 0, with gradient 0, for a vector shorter than 1e-12."""
    if tracing(x):
        return _unit(x)
    result: Tensor = _Unit.apply(x)  # type: ignore[no-untyped-call]
    return result


def _unit(x: Tensor) -> Tensor:
    """By operations that can be traced and differentiated any number of times."""
    # Dividing by the largest component first keeps the square from under- or overflowing; the result does not depend on it, so it has no
    # gradient.
    largest = x.detach().abs().amax(-1, keepdim=True)
    short = largest <= 1e-12
    x = x / torch.where(short, 1.0, largest)
    square = x.square().sum(-1, keepdim=True)
    return x * torch.where(short, 0.0, torch.where(short, 1.0, square).rsqrt())


class _Unit(torch.autograd.Function):
    """`_unit` in a fifth of the passes over the points, each of which takes as long as one over the scores of a tile."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        largest = threshold_(x.abs().amax(-1, keepdim=True), 1e-12, math.inf)  # by which a short vector becomes 0
        y = x / largest
        factor = torch.linalg.vector_norm(y, dim=-1, keepdim=True).clamp_(min=1.0).reciprocal_()  # at least 1, unless the vector is 0
        y.mul_(factor)
        ctx.save_for_backward(x, y, factor.div_(largest))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, y, factor = ctx.saved_tensors
        if torch.is_grad_enabled():
            again: Tensor = torch.autograd.grad(_unit(x), x, grad, create_graph=True)[0]
            return again
        along = (grad * y).sum(-1, keepdim=True)
        return torch.addcmul(grad, along, y, value=-1).mul_(factor)


class Cosine(Similarity):
    r"""Cosine of the angle between two points, in [-1, 1]: \(s = \hat x \cdot \hat y\).

    Invariant to the norms. A zero vector scores 0 with everything and receives no gradient.
    """

    is_product = True

    @property
    def invariances(self) -> frozenset[str]:
        """Angles are what is left."""
        return frozenset({"swap", "rotation", "scale", "lengths"})

    def prepare(self, x: Tensor) -> Tensor:
        """Unit vectors."""
        return unit(x)

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Inner products."""
        return product(a, r.mT)


class InnerProduct(Similarity):
    r"""Inner product of two points, unbounded: \(s = x \cdot y\)."""

    is_product = True
    nearest_itself = False

    @property
    def invariances(self) -> frozenset[str]:
        """Lengths and angles are what is left."""
        return frozenset({"swap", "rotation"})

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Inner products."""
        return product(a, r.mT)


_NEAR = 0.01  # squared distances below this share of the squared norms lose digits in the product form and are computed from differences
_WIDE = 2**22  # elements of an array of differences that may be held at once


def _with_square(x: Tensor) -> Tensor:
    """`[..., n, d + 1]`: points with their squared norm as a last component."""
    if tracing(x):
        return torch.cat([x, x.square().sum(-1, keepdim=True)], dim=-1)
    result: Tensor = _WithSquare.apply(x)  # type: ignore[no-untyped-call]
    return result


class _WithSquare(torch.autograd.Function):
    """By fewer operations than those of autograd, which in a small batch take as long as a product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.cat([x, torch.linalg.vecdot(x, x).unsqueeze(-1)], dim=-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = torch.addcmul(grad[..., :-1], x, grad[..., -1:], value=2)
        return result


def _squared_distances(a: Tensor, r: Tensor) -> Tensor:
    """`[..., b, n]`: squared Euclidean distances of points that carry their squared norm as a last component.

    The matrix product is fast but wrong for near-duplicates, where it subtracts large numbers that are nearly equal: those are computed
    from differences.
    """
    x, y = a[..., :-1], r[..., :-1]
    norms = a[..., -1:] + r[..., -1:].mT
    traced = tracing(norms)
    if x.shape[-2] == 1 or (traced and norms.numel() * x.shape[-1] <= _WIDE):
        return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)
    square = norms - 2 * product(x, y.mT)
    if traced:  # which pairs are near cannot be read
        return square.clamp(min=0)
    near = (square.detach() < _NEAR * norms.detach()).nonzero()
    if near.shape[0] * x.shape[-1] > _WIDE:
        exact: Tensor = _Differences.apply(x, y)  # type: ignore[no-untyped-call]
        return exact
    if near.shape[0]:
        *stack, i, j = near.unbind(1)
        at_x, at_y = (*stack, i), (*stack, j)
        square = square.index_put((*stack, i, j), (x[at_x] - y[at_y]).square().sum(-1))
    return square


class _Differences(torch.autograd.Function):
    """Squared distances from differences, for blocks with many near-duplicates. Unlike that of `torch.cdist` its gradient has one, too."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        centre = y.detach().mean(-2, keepdim=True)  # distances do not depend on it, products lose fewer digits around it
        x, y = x - centre, y - centre
        return 2 * (grad.sum(-1, keepdim=True) * x - grad @ y), 2 * (grad.sum(-2).unsqueeze(-1) * y - grad.mT @ x)


class NegativeSquaredEuclidean(Similarity):
    r"""Negated squared Euclidean distance, in (-inf, 0]: \(s = -\|x - y\|^2\). Near-duplicates are exact.

    Args:
        normalize: whether points are first made unit vectors, but for zero vectors, so that scores are in [-4, 0]: twice the cosine less 2.

    Example:
        >>> x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[8.0, 6.0]])
        >>> NegativeSquaredEuclidean()(x, y), NegativeSquaredEuclidean(normalize=True)(x, y)
        (tensor([[-29.]]), tensor([[-0.0800]]))
    """

    is_distance = True
    distance_power = 2

    def __init__(self, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = check_flag("normalize", normalize)

    @property
    def invariances(self) -> frozenset[str]:
        """Those of the space, or of its unit sphere."""
        return frozenset({"swap", "rotation", "scale", "lengths"} if self.normalize else {"swap", "rotation", "translation"})

    def prepare(self, x: Tensor) -> Tensor:
        """The points, or unit vectors, with their squared norms as a last component."""
        x = unit(x) if self.normalize else x
        return _with_square(x)

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Negated squared distances."""
        return -_squared_distances(a, r)

    def distance(self, score: Tensor) -> Tensor:
        """`sqrt(-s)`."""
        return (-score).clamp(min=0).sqrt()

    def extra_repr(self) -> str:
        """Whether points are normalised."""
        return "normalize=True" if self.normalize else ""


class NegativeEuclidean(NegativeSquaredEuclidean):
    r"""Negated Euclidean distance, in (-inf, 0]: \(s = -\|x - y\|\). Its gradient between two equal points is 0.

    Args:
        normalize: whether points are first made unit vectors, but for zero vectors, so that scores are in [-2, 0].

    Example:
        >>> x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[8.0, 6.0]])
        >>> NegativeEuclidean()(x, y), NegativeEuclidean(normalize=True)(x, y)
        (tensor([[-5.3852]]), tensor([[-0.2828]]))
    """

    distance_power = 1

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Negated distances."""
        square = _squared_distances(a, r)
        same = square < torch.finfo(square.dtype).tiny
        return -torch.where(same, 0.0, torch.where(same, 1.0, square).sqrt())

    def distance(self, score: Tensor) -> Tensor:
        """`-s`."""
        return -score


class Mahalanobis(NegativeSquaredEuclidean):
    r"""Negated squared Mahalanobis distance: \(s = -(x - y)^\top M (x - y)\) with \(M = L^\top L\), so \(M\) is positive semi-definite.

    Args:
        embedding_dim: `d`, the dimension of the points.
        rank: rows of `L`. Default: `embedding_dim`.
        matrix: `M`, `[d, d]`, symmetric positive semi-definite, to start from. Default: the identity (its first `rank` rows).
        learnable: whether `L` is a parameter that the loss trains.

    Example:
        >>> metric = Mahalanobis(2, matrix=torch.diag(torch.tensor([4.0, 1.0])), learnable=False)
        >>> metric(torch.zeros(1, 2), torch.eye(2))
        tensor([[-4., -1.]])
    """

    distance_power = 2

    def __init__(self, embedding_dim: int, *, rank: int | None = None, matrix: Tensor | None = None, learnable: bool = True) -> None:
        super().__init__()
        d = check_count("embedding_dim", embedding_dim)
        rank = d if rank is None else check_count("rank", rank)
        factor = torch.eye(rank, d) if matrix is None else _factor(matrix, d, rank)
        self.factor = nn.Parameter(factor, requires_grad=check_flag("learnable", learnable))  # L [rank, d]

    @property
    def invariances(self) -> frozenset[str]:
        """Those of any linear map."""
        return frozenset({"swap", "translation"})

    @property
    def embedding_dim(self) -> int:
        """Dimension of the points."""
        return self.factor.shape[1]

    def prepare(self, x: Tensor) -> Tensor:
        """`L x` with its squared norm as a last component."""
        if x.shape[-1] != self.factor.shape[1]:
            raise ValueError(f"Expected points of dimension {self.factor.shape[1]} (`embedding_dim`), but got {describe(x)}.")
        return super().prepare(product(x, self.factor.to(x.dtype).mT))

    @property
    def matrix(self) -> Tensor:
        """`M = L^T L`, `[d, d]`."""
        return self.factor.mT @ self.factor


def _factor(matrix: Tensor, d: int, rank: int) -> Tensor:
    """`L` `[rank, d]` of the best approximation `L^T L` of `matrix` of that rank."""
    if matrix.shape != (d, d):
        raise ValueError(f"Expected `matrix` to be of shape [{d}, {d}], but got {describe(matrix)}.")
    values, vectors = torch.linalg.eigh(matrix.double())
    asymmetry = (matrix - matrix.mT).abs().max()
    if asymmetry > 1e-4 * matrix.abs().max() or values[0] < -1e-4 * values.abs().max():
        raise ValueError(
            "Expected `matrix` to be symmetric positive semi-definite, "
            f"but its smallest eigenvalue is {values[0]:.3g} and its asymmetry {asymmetry:.3g}."
        )
    order = values.argsort(descending=True)[:rank]
    factor = torch.zeros(rank, d, dtype=torch.float64)
    factor[: len(order)] = values[order].clamp(min=0).sqrt().unsqueeze(1) * vectors[:, order].mT
    return factor.to(matrix.dtype)
