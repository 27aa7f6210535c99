"""Soft ranks: how many scores lie above a threshold, counted by a sigmoid, without an array (anchors x thresholds x scores)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from metriczoo.scores import Scores

__all__ = ["TAIL", "count_above"]

# Elements of an array (anchors x thresholds x scores) that is held at once: on a host it stays in cache, an accelerator it keeps busy.
_WIDE_ON_HOST, _WIDE_ELSEWHERE = 2**18, 2**24
TAIL = -50.0  # where a sigmoid counts as 0: below 2e-22, and far from numbers that are slow for being subnormal


def count_above(scores: Scores, thresholds: Tensor, temperature: float | Tensor) -> Tensor:
    r"""For each anchor and threshold, the soft number of scores above it.

    .. math:: c_i = \sum_j \sigma\Bigl(\frac{s_j - t_i}{\tau}\Bigr)

    Time is O(scores x thresholds); memory, for derivatives of any order too, O(scores + thresholds).

    Args:
        scores: `[b, n]`, those that are counted.
        thresholds: `[b, t]`, finite.
        temperature: tau > 0.

    Returns:
        `[b, t]`; exactly 0 for an empty set.
    """
    counted = scores.map(lambda s: s / temperature).fill(-math.inf)
    sums: Callable[..., tuple[Tensor, Tensor]] = _Sums.apply
    if torch.compiler.is_compiling():
        sums = _opaque_sums
    elif forward_ad._current_level >= 0:
        sums = _Sums.forward
    return sums(counted, thresholds / temperature, None, None, 0)[0]


class _Sums(torch.autograd.Function):
    """Sums of f(y_j - x_i), the derivative of some order of the sigmoid: over j with weights w, and over i with weights u.

    The derivative of such sums is made of such sums of the next order, so it can be taken any number of times, and what is summed is
    computed again rather than kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, x: Tensor, w: Tensor | None, u: Tensor | None, order: int) -> tuple[Tensor, Tensor]:
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
        ctx.order = inputs[4]

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:
        y, x, w, u = ctx.saved_tensors
        rows, columns = _Sums.apply(y, x, w, g, ctx.order + 1)  # type: ignore[no-untyped-call]
        dx, dy = -g * rows, columns if w is None else w * columns
        du, dw = None, None
        if u is not None:
            rows, columns = _Sums.apply(y, x, h, u, ctx.order + 1)  # type: ignore[no-untyped-call]
            dx, dy = dx - u * rows, dy + h * columns
            du, dw = _Sums.apply(y, x, h, g, ctx.order)  # type: ignore[no-untyped-call]
        return dy, dx, None if w is None else dw, du, None


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
    wide = _WIDE_ON_HOST if y.device.type == "cpu" else _WIDE_ELSEWHERE
    step = max(1, wide // max(1, y.numel()))
    weights = [None] * len(x.split(step, 1)) if u is None else u.split(step, 1)
    return zip(x.split(step, 1), weights, strict=True)


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
