"""Further similarities: Lp distances, the signal-to-noise ratio, and hyperbolic distance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import check_flag, check_number
from metriczoo._execution import reads_are_free, tracing
from metriczoo.similarity.basic import _WIDE, NegativeSquaredEuclidean, Similarity, unit

__all__ = ["NegativeLp", "Poincare", "SignalToNoise"]


class NegativeLp(Similarity):
    r"""Negated Lp distance, in (-inf, 0]: :math:`s = -\|x - y\|_p`. Near-duplicates are exact.

    No array of all differences is made, but for second derivatives. The gradient between two equal points is 0.

    Args:
        p: at least 1; 1 is the Manhattan distance, 2 the Euclidean one (`NegativeEuclidean` is faster), `math.inf` the largest difference.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> NegativeLp(1)(x, y)
        tensor([[-7., -1.]])
        >>> NegativeLp(math.inf)(x, y)
        tensor([[-4., -1.]])
    """

    is_distance = True

    def __init__(self, p: float = 1.0) -> None:
        super().__init__()
        self.p = math.inf if p == math.inf else check_number("p", p, low=1)

    @property
    def invariances(self) -> frozenset[str]:
        """Only the Euclidean distance is the same in all directions."""
        return frozenset({"swap", "translation", "rotation"} if self.p == 2 else {"swap", "translation"})

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Negated distances."""
        # Powers above the second leave the range of single precision.
        wide = (a.double(), r.double()) if 2 < self.p < math.inf else (a, r)
        if tracing(a, r):
            small = a.shape[-2] * r.shape[-2] * a.shape[-1] <= _WIDE
            distance = _by_differences(*wide, self.p) if small else torch.cdist(*wide, self.p, _EXACT)
        else:
            distance = _Distances.apply(*wide, self.p)  # type: ignore[no-untyped-call]
        return -distance.to(a.dtype)

    def distance(self, score: Tensor) -> Tensor:
        """`-s`: the Lp distance itself."""
        return -score

    def extra_repr(self) -> str:
        """The power."""
        return f"p={self.p:g}"


_EXACT = "donot_use_mm_for_euclid_dist"


class _Distances(torch.autograd.Function):
    """`torch.cdist`, which has no second derivative of its own."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, p: float) -> Tensor:
        return torch.cdist(x, y, p, _EXACT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, ctx.p = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if not again:
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        with torch.enable_grad():
            distance = _by_differences(x, y, ctx.p) if again else torch.cdist(x, y, ctx.p, _EXACT)
            gradients = torch.autograd.grad(distance, (x, y), grad, create_graph=again, allow_unused=True, materialize_grads=True)
        return *gradients, None


def _by_differences(x: Tensor, y: Tensor, p: float) -> Tensor:
    """The same by elementary operations, differentiable any number of times, from an array of all differences."""
    difference = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == math.inf:
        return difference.amax(-1)
    if p == 1:
        return difference.sum(-1)
    inside = difference > 0
    power = torch.where(inside, torch.where(inside, difference, 1.0) ** p, 0.0).sum(-1)
    apart = power > 0
    return torch.where(apart, torch.where(apart, power, 1.0) ** (1 / p), 0.0)


def _length(x: Tensor) -> Tensor:
    """`[..., 1]`: the norm; 0, with gradient 0, of a vector that `unit` takes for 0."""
    largest = x.detach().abs().amax(-1, keepdim=True)  # divided out, see `unit`
    short = largest < 1e-12
    square = (x / torch.where(short, 1.0, largest)).square().sum(-1, keepdim=True)
    return torch.where(short, 0.0, torch.where(short, 1.0, square).sqrt() * largest)


_LOG_OF_NOTHING = -1e4
_LARGEST_LOG_RATIO = 20.0  # of the lengths of two points, where squares are still far from overflow


class SignalToNoise(NegativeSquaredEuclidean):
    r"""Negated inverse signal-to-noise ratio, in (-inf, 0]: \(s = -\operatorname{Var}(x - y) / \operatorname{Var}(x)\).

    The anchor `x` is the signal, and its difference from `y` the noise; variances are over components, so the score is not symmetric, and
    invariant to a common factor and to a constant added to all components of a point. An anchor of variance 0 scores 0 with everything and
    receives no gradient. Beyond a ratio of e^20 of standard deviations the score no longer changes.

    Example:
        >>> x, y = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, -2.0], [1.0, -1.0], [5.0, 5.0]])
        >>> SignalToNoise()(x, y)
        tensor([[-1., -0., -1.]])
        >>> SignalToNoise()(y[:1], x)
        tensor([[-0.2500]])

    Relations:
        For centred points of one length it is the squared Euclidean distance over the squared length. Computed from one matrix product;
        see `losses.ZeroMeanRegularizer`.

    References:
        Yuan, Deng, Tang, Tang, Chen. Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning. CVPR 2019, equation 3.
    """

    is_bent = True

    @property
    def invariances(self) -> frozenset[str]:
        """A common factor leaves the ratio."""
        return frozenset({"scale"})

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, x: Tensor) -> Tensor:
        """The direction of each point from its mean with its squared norm, 1 or 0, and the logarithm of its length."""
        centred = x - x.mean(-1, keepdim=True)
        length = _length(centred)
        some = length > 0
        log_length = torch.where(some, torch.where(some, length, 1.0).log(), _LOG_OF_NOTHING)
        return torch.cat([super().prepare(unit(centred)), log_length], dim=-1)

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Of directions and lengths."""
        return self.bend(super().score(a[..., :-1], r[..., :-1]), a[..., -1:], r[..., -1:])

    def bend(self, apart: Tensor, a: Tensor, r: Tensor) -> Tensor:
        """Var(x - y) / Var(x) = (1 - q)^2 + q d(u, v)^2 for directions u, v and the ratio q of lengths."""
        if not reads_are_free(apart) or not _are_ordinary(a, r):
            return _noise(apart, a, r)
        result: Tensor = _Noise.apply(apart, a, r)  # type: ignore[no-untyped-call]
        return result


def _noise(apart: Tensor, a: Tensor, r: Tensor) -> Tensor:
    """By operations that can be traced and differentiated any number of times."""
    log_ratio = (r.mT - a).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    beyond = log_ratio.expm1()
    some = (a > _LOG_OF_NOTHING).to(apart.dtype)
    return some * torch.addcmul(apart, beyond, apart - beyond)


def _are_ordinary(*logs: Tensor) -> bool:
    """Whether no ratio of lengths is beyond the largest, and none is of nothing."""
    return all(not log.numel() or float(log.detach().abs().amax()) < _LARGEST_LOG_RATIO / 2 for log in logs)


class _Noise(torch.autograd.Function):
    """`_noise` with an exponential for each point rather than for each score, and a third of the passes over these."""

    @staticmethod
    def forward(ctx: Any, apart: Tensor, a: Tensor, r: Tensor) -> Tensor:
        length = a.exp()
        beyond = (r.mT.exp() - length).div_(length)
        ctx.save_for_backward(apart, a, r, beyond)
        return torch.addcmul(apart, beyond, apart - beyond)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        apart, a, r, beyond = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = [t for t, need in zip((apart, a, r), ctx.needs_input_grad, strict=True) if need]
            found = iter(torch.autograd.grad(_noise(apart, a, r), inputs, grad, create_graph=True))
            return tuple(next(found) if need else None for need in ctx.needs_input_grad)
        of_apart = torch.addcmul(grad, grad, beyond)
        of_log_ratio = torch.sub(apart, beyond, alpha=2).mul_(of_apart)
        of_a = of_log_ratio.sum(-1, keepdim=True).neg_().sum_to_size(a.shape)
        return of_apart.sum_to_size(apart.shape), of_a, of_log_ratio.sum(-2).unsqueeze(-1).sum_to_size(r.shape)


_EDGE = 1 - 1e-5  # how far from the centre of the unit ball a point may be
_FARTHEST = 40.0  # hyperbolic distance from the centre, where squares of hyperbolic sines are still far from overflow


class Poincare(NegativeSquaredEuclidean):
    r"""Negated hyperbolic distance of two points of the Poincaré ball, in (-inf, 0].

    .. math:: s = -\frac1{\sqrt c} \operatorname{arcosh}\Bigl(1 + \frac{2 c \|x - y\|^2}{(1 - c \|x\|^2)(1 - c \|y\|^2)}\Bigr)

    The ball has the radius \(1 / \sqrt c\). Points outside, or within 1e-5 of its edge, are taken for the nearest ones inside, and are not
    moved along the radius by the gradient. Outputs of an encoder know no ball: let `exponential=True` map them into it. A zero vector is
    the centre and receives no gradient; nor do two equal points from each other.

    Args:
        curvature: c > 0, that of the space is -c. As c tends to 0, distances tend to twice the Euclidean ones.
        exponential: whether points are vectors at the centre, mapped by \(x = \tanh(\sqrt c \|v\|) v / (\sqrt c \|v\|)\). Distances from
            the centre are then \(2 \|v\|\).
        max_norm: > 0, longer vectors are cut to that length before they are mapped. Default: none. Ermolov et al. use 2.3 with c = 0.1.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 0.8]])
        >>> Poincare()(x, y)
        tensor([[-1.0986, -2.1972]])
        >>> Poincare(exponential=True)(x, y)
        tensor([[-1.0000, -1.6000]])

    Relations:
        Hierarchies fit: the room at some distance from the centre grows exponentially. With `NTXentLoss`, the hyperbolic metric learning
        of Ermolov et al.

    References:
        Nickel, Kiela. Poincaré Embeddings for Learning Hierarchical Representations. NIPS 2017, equation 1.
        Ermolov, Mirvakhabova, Khrulkov, Sebe, Oseledets. Hyperbolic Vision Transformers: Combining Improvements in Metric Learning.
        CVPR 2022.
    """

    def __init__(self, curvature: float = 1.0, *, exponential: bool = False, max_norm: float | None = None) -> None:
        super().__init__()
        self.curvature = check_number("curvature", curvature, low=0, open_low=True)
        self.exponential = check_flag("exponential", exponential)
        self.max_norm = None if max_norm is None else check_number("max_norm", max_norm, low=0, open_low=True)

    is_bent = True

    @property
    def invariances(self) -> frozenset[str]:
        """The ball has a centre."""
        return frozenset({"swap", "rotation"})

    def prepare(self, x: Tensor) -> Tensor:
        """Polar coordinates: direction with its squared norm, and distance from the centre in a space of curvature -1."""
        radius = _length(x)
        if self.max_norm is not None:
            radius = radius.clamp(max=self.max_norm)
        radius = radius * math.sqrt(self.curvature)
        far = (2 * radius).clamp(max=_FARTHEST) if self.exponential else 2 * radius.clamp(max=_EDGE).atanh()
        return torch.cat([super().prepare(unit(x)), far], dim=-1)

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """Of directions and distances from the centre."""
        return self.bend(super().score(a[..., :-1], r[..., :-1]), a[..., -1:], r[..., -1:])

    def bend(self, apart: Tensor, a: Tensor, r: Tensor) -> Tensor:
        """By the law of cosines, in a form that cancels nothing: sinh^2(d / 2) = sinh^2((p - q) / 2) + sinh p sinh q d(u, v)^2 / 4."""
        p, q = a, r.mT
        square = ((p - q) / 2).sinh().square() - p.sinh() * q.sinh() * apart / 4
        # Below the bound clamp stops the gradient.
        return square.clamp(min=torch.finfo(square.dtype).tiny).sqrt().asinh() * (-2 / math.sqrt(self.curvature))

    def distance(self, score: Tensor) -> Tensor:
        """`-s`: the hyperbolic distance itself."""
        return -score

    def extra_repr(self) -> str:
        """Curvature and map."""
        return f"curvature={self.curvature:g}, exponential={self.exponential}, max_norm={self.max_norm}"
