"""Log-sum-exp of the rows of a block: the fold that most losses spend their time on, in as few passes over the block as there can be."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, threshold_

from metriczoo._execution import tracing

__all__ = ["exponentials_", "logsumexp", "tail"]


def logsumexp(value: Tensor, excluded: Tensor | None, mask: Tensor | None, scale: float | Tensor) -> Tensor:
    """`[b]`: log of the sum of `exp(scale * value)` along each row, without the columns `excluded` or the cells outside of `mask`."""
    if isinstance(scale, Tensor) and scale.dim():  # a scale for each row, `[b, 1]`
        value, scale = value * scale, 1.0
    if tracing(value):
        return _by_operations(value, excluded, mask, scale)
    result: Tensor = _LogSumExp.apply(value, excluded, mask, scale)  # type: ignore[no-untyped-call]
    return result


def _fill(value: Tensor, excluded: Tensor | None, mask: Tensor | None, outside: float) -> Tensor:
    if excluded is not None:
        return value.scatter(1, excluded, outside)
    return value if mask is None else torch.where(mask, value, outside)


def tail(value: Tensor) -> float:
    """Below this exponentials count as 0: half the way to subnormal numbers, on which arithmetic is twenty times slower.

    It leaves room for the factors of a gradient, and is nothing beside the largest term, exp(0).
    """
    return math.log(torch.finfo(value.dtype).tiny) / 2


def _by_operations(value: Tensor, excluded: Tensor | None, mask: Tensor | None, scale: float | Tensor) -> Tensor:
    """By operations that can be traced and differentiated any number of times."""
    filled = _fill(value * scale, excluded, mask, -math.inf)
    largest = filled.detach().amax(1, keepdim=True)
    shift = largest.clamp(min=torch.finfo(value.dtype).min)
    total = (filled - shift).clamp(min=tail(value)).exp().sum(1)
    return torch.where(largest.squeeze(1) == -math.inf, -math.inf, shift.squeeze(1) + total.log())


def _exponentials(value: Tensor, excluded: Tensor | None, mask: Tensor | None, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """`exp(scale * (value - shift))` `[b, n]`, 0 outside of the set, and the shift `[b]`, the largest value."""
    terms = _fill(value, excluded, mask, -math.inf)
    return exponentials_(value.clone() if terms is value else terms, scale)


def exponentials_(terms: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """`exp(scale * (terms - shift))` in place of `terms` `[b, n]`, which are -inf outside of the set, and the shift `[b]`, the largest."""
    shift = terms.amax(1, keepdim=True).clamp_(min=torch.finfo(terms.dtype).min)
    base = math.log2(math.e)  # powers of 2 take a quarter of the time of those of e
    terms.sub_(shift).mul_(scale * base)  # in this order: the product of the shift may overflow, and would cost digits
    return threshold_(terms, tail(terms) * base, -math.inf).exp2_(), shift.squeeze(1)


class _LogSumExp(torch.autograd.Function):
    """Forward leaves the exponentials, and backward scales them in place; a graph that is kept computes them again.

    Not in the form with `setup_context`, whose overhead is that of a dozen operations: it is never transformed.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, excluded: Tensor | None, mask: Tensor | None, scale: float | Tensor) -> Tensor:
        terms, shift = _exponentials(value, excluded, mask, scale)
        total = terms.sum(1)
        ctx.terms = terms if any(ctx.needs_input_grad) else None
        ctx.excluded, ctx.mask, ctx.scale = excluded, mask, scale
        ctx.save_for_backward(value, total)
        return shift * scale + total.log() if isinstance(scale, Tensor) else torch.add(total.log(), shift, alpha=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (value, total), scale = ctx.saved_tensors, ctx.scale
        terms, ctx.terms = ctx.terms, None
        if torch.is_grad_enabled():
            inputs = [t for t, need in ((value, ctx.needs_input_grad[0]), (scale, ctx.needs_input_grad[3])) if need]
            again = _by_operations(value, ctx.excluded, ctx.mask, scale)
            found = iter(torch.autograd.grad(again, inputs, grad, create_graph=True))
            return tuple(next(found) if need else None for need in ctx.needs_input_grad)
        if terms is None:
            terms, _ = _exponentials(value, ctx.excluded, ctx.mask, scale)
        share = torch.where(total > 0, grad / total, 0.0)
        g_scale = (share * (terms * value).sum(1)).sum().reshape(scale.shape) if ctx.needs_input_grad[3] else None
        return terms.mul_((share * scale).unsqueeze(1)), None, None, g_scale
