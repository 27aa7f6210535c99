"""Soft ranks: how many scores lie above a threshold, counted by a sigmoid, without an array (anchors x thresholds x scores)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, threshold_
from torch.autograd import forward_ad
from torch.nn import functional as F

from metriczoo._execution import backward_in_full_precision, reads_are_free
from metriczoo.scores import Scores

__all__ = ["TAIL", "count_above", "for_each"]

_IN_CACHE = 2**17  # elements of the buffer of a host
_WIDE = 2**24  # elements of an array (anchors x thresholds x scores) that is held at once elsewhere, to keep an accelerator busy
TAIL = -50.0  # where a sigmoid counts as 0: below 2e-22, and far from numbers that are slow for being subnormal


def for_each(k: Sequence[int], rank_temperature: float | Tensor | Sequence[float | Tensor]) -> Sequence[float | Tensor]:
    """The temperature of ranks that goes with each `k`."""
    if not isinstance(rank_temperature, Sequence):
        return [rank_temperature] * len(k)
    if len(rank_temperature) != len(k):
        raise ValueError(f"Expected `rank_temperature` to be one number or {len(k)}, one for each `k`, but got {len(rank_temperature)}.")
    return rank_temperature


def count_above(scores: Scores, thresholds: Tensor, temperature: float | Tensor) -> Tensor:
    r"""For each anchor and threshold, the soft number of scores above it.

    .. math:: c_i = \sum_j \sigma\Bigl(\frac{s_j - t_i}{\tau}\Bigr)

    Time is O(scores x thresholds); memory, for derivatives of any order too, O(scores + thresholds). Forward takes one sigmoid of each
    score and threshold, and backward another and its derivative: 1.1 ns together on a host, where the three matrix products of the scores
    take 9 ns. To keep what forward knows would save 0.3 ns of it for few thresholds, and cost 2 for many.

    Args:
        scores: `[b, n]`, those that are counted.
        thresholds: `[b, t]`, finite.
        temperature: tau > 0.

    Returns:
        `[b, t]`; exactly 0 for an empty set.
    """
    if reads_are_free(scores.value) and not isinstance(temperature, Tensor):
        outside = scores._mask if scores.excluded is None else scores.excluded
        result: Tensor = _Sums.apply(scores.value, thresholds, None, None, 0, 1 / temperature, outside)[0]  # type: ignore[no-untyped-call]
        return result
    counted = scores.map(lambda s: s / temperature).fill(-math.inf)
    sums: Callable[..., tuple[Tensor, Tensor]] = _Sums.apply
    if torch.compiler.is_compiling():
        sums = _opaque_sums
    elif forward_ad._current_level >= 0:
        sums = _Sums.forward
    return sums(counted, thresholds / temperature, None, None, 0)[0]


class _Sums(torch.autograd.Function):
    """Sums of f(y_j - x_i), the derivative of some order of sigmoid(scale z): over j with weights w, and over i with weights u.

    The derivative of such sums is made of such sums of the next order, so it can be taken any number of times, and what is summed is
    computed again rather than kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        y: Tensor, x: Tensor, w: Tensor | None, u: Tensor | None, order: int, scale: float = 1.0, outside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if reads_are_free(y):
            return _in_cache(y, x, w, u, order, scale, outside)
        over_y, over_x = [], y.new_zeros(0 if u is None else y.shape[0], y.shape[1])
        for part, weight in _parts(y, x, u):
            f = _derivative(y.unsqueeze(1) - part.unsqueeze(2), order)  # [b, some, n]
            over_y.append(f.sum(2) if w is None else (f @ w.unsqueeze(2)).squeeze(2))
            if weight is not None:
                over_x = over_x + (weight.unsqueeze(1) @ f).squeeze(1)
        return torch.cat(over_y, dim=1), over_x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.order, ctx.fixed = inputs[4], inputs[5:]

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        y, x, w, u = ctx.saved_tensors
        rows, columns = _Sums.apply(y, x, w, g, ctx.order + 1, *ctx.fixed)  # type: ignore[no-untyped-call]
        dx, dy = -g * rows, columns if w is None else w * columns
        du, dw = None, None
        if u is not None:
            rows, columns = _Sums.apply(y, x, h, u, ctx.order + 1, *ctx.fixed)  # type: ignore[no-untyped-call]
            dx, dy = dx - u * rows, dy + h * columns
            du, dw = _Sums.apply(y, x, h, g, ctx.order, *ctx.fixed)  # type: ignore[no-untyped-call]
        return dy, dx, None if w is None else dw, du, None, *(None for _ in ctx.fixed)


# To a compiler one operation: the loop over thresholds does not become a graph, and what is summed is not kept for backward.
_opaque_sums = torch.library.custom_op(
    "metriczoo::sigmoid_sums",
    _Sums.forward,
    mutates_args=(),
    schema="(Tensor y, Tensor x, Tensor? w, Tensor? u, int order) -> (Tensor, Tensor)",
)


@_opaque_sums.register_fake
def _(y: Tensor, x: Tensor, w: Tensor | None, u: Tensor | None, order: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), y.new_empty(0 if u is None else y.shape[0], y.shape[1])


def _opaque_slopes(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    rows, columns = _opaque_sums(*ctx.saved_tensors, None, g, 1)
    return columns, -g * rows, None, None, None


_opaque_sums.register_autograd(_opaque_slopes, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]))


def _parts(y: Tensor, x: Tensor, u: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A few thresholds at a time, with their weights."""
    step = max(1, _WIDE // max(1, y.numel()))
    weights = [None] * len(x.split(step, 1)) if u is None else u.split(step, 1)
    return zip(x.split(step, 1), weights, strict=True)


def _in_cache(
    y: Tensor, x: Tensor, w: Tensor | None, u: Tensor | None, order: int, scale: float, outside: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A threshold of a few anchors at a time, in a buffer that stays in cache. What is `outside`, by mask or by columns, counts as -inf."""
    over_y, over_x = torch.empty_like(x), y.new_zeros(0 if u is None else y.shape[0], y.shape[1])
    step = max(1, min(len(y), _IN_CACHE // max(1, y.shape[1])))
    buffers = y.new_empty(2, step, y.shape[1])
    x = x * scale
    for first in range(0, len(y), step):
        rows = slice(first, min(first + step, len(y)))
        counted, f = buffers[:, : rows.stop - first]
        torch.mul(y[rows], scale, out=counted)
        if outside is not None and outside.dtype == torch.bool:
            counted.masked_fill_(~outside[rows], -math.inf)
        elif outside is not None:
            counted.scatter_(1, outside[rows], -math.inf)
        for i in range(x.shape[1]):
            torch.sub(counted, x[rows, i : i + 1], out=f)
            f = _derivative_(f, order)
            over_y[rows, i] = f.sum(1) if w is None else torch.linalg.vecdot(f, w[rows])
            if u is not None:
                over_x[rows].addcmul_(f, u[rows, i : i + 1])
    if order:
        over_y.mul_(scale**order)
        over_x.mul_(scale**order)
    return over_y, over_x


def _derivative_(z: Tensor, order: int) -> Tensor:
    """`_derivative`, that of order 0 and 1 in place."""
    if order > 1:
        return _derivative(z, order)
    s = threshold_(z, TAIL, -math.inf).sigmoid_()
    return s if order == 0 else s.addcmul_(s, s, value=-1)


def _derivative(z: Tensor, order: int) -> Tensor:
    """Of the sigmoid, of some order; 0 in the tail."""
    s = F.threshold(z, TAIL, -math.inf).sigmoid()
    if order == 0:
        return s
    *others, last = _coefficients(order)
    result = last * s
    for coefficient in reversed(others):
        result = (result + coefficient) * s
    return result


def _coefficients(order: int) -> tuple[int, ...]:
    """The derivative as a polynomial in s = sigmoid: the coefficients of s, s^2, ..., from s' = s - s^2."""
    if order == 0:
        return (1,)
    last = _coefficients(order - 1)
    own = [(k + 1) * c for k, c in enumerate(last)]
    return tuple(a - b for a, b in zip([*own, 0], [0, *own], strict=True))
