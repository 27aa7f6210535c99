"""Folds of the scores of an anchor by the class of the reference: one score per class.

`classes` says which class the cells of a set are of: a tensor `[n]` or `[b, n]` of numbers in 0 ... `num_classes` - 1, or how many adjacent
cells each class has; cells that are left over at the end must then belong to no set.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, threshold_

from metriczoo._execution import tracing
from metriczoo._logsumexp import tail
from metriczoo.scores import HARMLESS, Scores

__all__ = ["max_by_class", "softmax_mean", "softmax_mean_by_class"]

_BASE = math.log2(math.e)  # powers of 2 take a quarter of the time of those of e


def max_by_class(s: Scores, classes: int | Tensor, num_classes: int | None = None) -> Scores:
    """`[b, num_classes]`: the largest score of each class, of those that have a cell. Equal largest scores share the gradient."""
    if isinstance(classes, int):
        return s.groups(classes, lambda v: v.amax(1))
    cells, size = _cells(s, classes, num_classes)
    return _scores(_max(s.fill(-math.inf), cells, size), s)


def softmax_mean_by_class(s: Scores, classes: int | Tensor, num_classes: int | None, temperature: float | Tensor) -> Scores:
    """`[b, num_classes]`: the mean of the scores of each class, weighted by the softmax of scores / temperature."""
    if isinstance(classes, int):
        return s.groups(classes, partial(_softmax_mean, temperature=temperature))
    cells, size = _cells(s, classes, num_classes)
    filled = s.fill(-math.inf)
    inside = filled > -math.inf
    value, peak = torch.where(inside, filled, 0.0), _max(filled.detach(), cells, size)
    below = torch.where(inside, value - peak.gather(1, cells), 0.0)
    weight = torch.where(inside, (below / temperature).exp(), 0.0)
    mean = _sum(weight * value, cells, size) / _sum(weight, cells, size).clamp(min=1)  # the largest score has weight 1
    return _scores(torch.where(peak > -math.inf, mean, -math.inf), s)


def softmax_mean(s: Scores, temperature: float | Tensor) -> Scores:
    """`[b, 1]`: the same for scores that are all of one class."""
    return softmax_mean_by_class(s, max(1, s.value.shape[1]), None, temperature)


def _softmax_mean(value: Tensor, temperature: float | Tensor) -> Tensor:
    """`[b, n]` of `[b, k, n]`."""
    if tracing(value) or isinstance(temperature, Tensor):
        return _by_operations(value, temperature)
    result: Tensor = _SoftmaxMean.apply(value, temperature)  # type: ignore[no-untyped-call]
    return result


def _by_operations(value: Tensor, temperature: float | Tensor) -> Tensor:
    """By operations that can be traced and differentiated any number of times."""
    below = (value - value.detach().amax(1, keepdim=True)) * (_BASE / temperature)
    least = _BASE * tail(value)
    weight = torch.where(below > least, below.clamp(min=least).exp2(), 0.0)
    return (weight * value).sum(1) / weight.sum(1)


class _SoftmaxMean(torch.autograd.Function):
    """Two thirds of the time of the operations, whose backward goes over the scores five times.

    Not in the form with `setup_context`, whose overhead is that of a dozen operations: it is never transformed.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, temperature: float) -> Tensor:
        below = value - value.amax(1, keepdim=True)
        weight = threshold_(below.mul_(_BASE / temperature), _BASE * tail(value), -math.inf).exp2_()
        total = weight.sum(1, keepdim=True)
        mean = (weight * value).sum(1, keepdim=True).div_(total)
        ctx.temperature = temperature
        ctx.save_for_backward(value, weight, total, mean.detach())
        return mean.squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        value, weight, total, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.autograd.grad(_by_operations(value, ctx.temperature), value, grad, create_graph=True)[0], None
        slope = (value - mean).div_(ctx.temperature).add_(1.0)
        return slope.mul_(weight).mul_(grad.unsqueeze(1) / total), None


def _cells(s: Scores, classes: Tensor, num_classes: int | None) -> tuple[Tensor, int]:
    size = int(classes.max()) + 1 if num_classes is None else num_classes
    return classes.expand(s.value.shape), size


def _scores(folded: Tensor, s: Scores) -> Scores:
    there = folded > -math.inf
    return Scores(torch.where(there, folded, HARMLESS), there, block=s.block)


def _max(value: Tensor, cells: Tensor, size: int) -> Tensor:
    return value.new_full((value.shape[0], size), -math.inf).scatter_reduce(1, cells, value, "amax")


def _sum(value: Tensor, cells: Tensor, size: int) -> Tensor:
    return value.new_zeros(value.shape[0], size).scatter_add(1, cells, value)
