"""Sums over the pairs that violate a threshold, by what hinges have: a derivative that is the value's own leftover.

The general way maps the scores and then folds them, where each map and each mask is a pass over the block, forward and backward. Here
forward leaves the derivative in one array, and backward scales it: half of the passes or fewer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metriczoo._logsumexp import tail
from metriczoo.functional._folds import holding, in_one_array, pair_terms
from metriczoo.scores import Scores, Terms

__all__ = ["hinge_terms", "mean_violation"]


def hinge_terms(violations: Scores, *, power: int = 1, weight: float | Tensor = 1.0, of_violating: bool = False) -> Terms:
    """The terms of a loss per pair that is `weight` times a power, 1 or 2, of the part of a value above 0.

    `of_violating`: only the pairs count that are not below 0.
    """
    if not in_one_array(violations):
        if of_violating:
            violations = violations.where(violations.value >= 0)
        return pair_terms(violations.map(lambda v: v.relu() ** power), weight=weight)
    balance = _balance(violations) if of_violating else None
    total, active = _HingeSum.apply(violations.value, violations, power)  # type: ignore[no-untyped-call]
    count = violations.count()
    return Terms(weight * total, count if balance is None else count - (active - balance).long(), active)


@torch.no_grad()
def _balance(scores: Scores) -> Tensor:
    """`[b]`: how many more values are above 0 than below: comparisons and masks take several times the time of signs."""
    return scores.fill_(scores.value.sign(), 0.0).sum(1)


class _HingeSum(torch.autograd.Function):
    """Sum, and how many are above 0."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, cells: Scores, power: int) -> tuple[Tensor, Tensor]:
        ctx.cells, ctx.power = cells, power
        ctx.save_for_backward(value)
        ctx.set_materialize_grads(False)
        slope = cells.fill_(value.clamp(min=0), 0.0)
        total = slope.sum(1) if power == 1 else torch.linalg.vector_norm(slope, dim=1).square_()
        sign = slope.sign_() if power == 1 else slope.sign()  # comparisons and masks take several times the time of arithmetic
        active = sign.sum(1)
        ctx.slope = slope if ctx.needs_input_grad[0] else None
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        (value,), factor = ctx.saved_tensors, (ctx.power * grad).unsqueeze(1)
        slope, ctx.slope = ctx.slope, None
        if slope is None or torch.is_grad_enabled():  # of a graph that was kept, or for a further derivative
            slope = ctx.cells.fill_(value.clamp(min=0), 0.0)
            slope = slope.detach().sign() if ctx.power == 1 else slope
            return slope * factor, None, None
        return slope.mul_(factor), None, None


def mean_violation(violations: Scores, scale: float | Tensor, *, detach_weights: bool) -> Tensor:
    """`[b]`: mean of the values above 0, each weighted by exp(scale * value); 0 where there is none."""
    if not in_one_array(violations) or isinstance(scale, Tensor) or not violations.value.shape[1]:
        return _mean_violation(violations, scale, detach_weights=detach_weights)
    result: Tensor = _MeanViolation.apply(violations.value, violations, scale, detach_weights)  # type: ignore[no-untyped-call]
    return result


def _mean_violation(violations: Scores, scale: float | Tensor, *, detach_weights: bool) -> Tensor:
    """By operations that can be traced and differentiated any number of times."""
    chosen = violations.where(violations.value > 0)
    weighing = chosen.map(Tensor.detach) if detach_weights else chosen
    logits = weighing.map(lambda v: scale * v)
    total = logits.logsumexp().unsqueeze(1)
    # In the set no logit exceeds the total. The bound is for cells outside, whose exponential could overflow.
    weights = logits.map(lambda v: (v - total).clamp(max=0).exp()).value
    return chosen.map(lambda v: weights * v).sum()


class _MeanViolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, cells: Scores, scale: float, detach_weights: bool) -> Tensor:
        ctx.cells, ctx.scale, ctx.detach_weights = cells, scale, detach_weights
        weights = _weights(value, cells, scale)
        mean = (weights * value).sum(1)
        ctx.weights = weights if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(value, mean)
        return mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, mean = ctx.saved_tensors
        weights, ctx.weights = ctx.weights, None
        if torch.is_grad_enabled():
            again = _mean_violation(holding(ctx.cells, value), ctx.scale, detach_weights=ctx.detach_weights)
            return *torch.autograd.grad(again, value, grad, create_graph=True), None, None, None
        if weights is None:
            weights = _weights(value, ctx.cells, ctx.scale)
        if not ctx.detach_weights:
            weights.mul_(1 + ctx.scale * (value - mean.unsqueeze(1)))
        return weights.mul_(grad.unsqueeze(1)), None, None, None


def _weights(value: Tensor, cells: Scores, scale: float) -> Tensor:
    """`[b, n]`: those of the mean, which add up to 1 where any value is above 0; 0 for all others."""
    above = cells.fill_(value.clamp(min=0), 0.0)
    largest = above.amax(1, keepdim=True)
    base = math.log2(math.e)  # powers of 2 take a quarter of the time of those of e
    weights = (value - largest).mul_(scale * base).clamp_(min=tail(value) * base, max=0).exp2_().mul_(above.sign_())
    total = weights.sum(1, keepdim=True)
    return weights.div_(torch.where(total > 0, total, 1.0))
