"""Folds of the scores of an anchor by the class of the reference: one score per class.

`classes` says which class the cells of a set are of: a tensor `[n]` or `[b, n]` of numbers in 0 ... `num_classes` - 1, or how many adjacent
cells each class has; cells that are left over at the end must then belong to no set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metriczoo.scores import HARMLESS, Scores

__all__ = ["max_by_class", "softmax_mean", "softmax_mean_by_class"]


def max_by_class(s: Scores, classes: int | Tensor, num_classes: int | None = None) -> Scores:
    """`[b, num_classes]`: the largest score of each class, of those that have a cell. Equal largest scores share the gradient."""
    cells, size = _cells(s, classes, num_classes)
    return _scores(_max(_filled(s, classes), cells, size), s)


def softmax_mean_by_class(s: Scores, classes: int | Tensor, num_classes: int | None, temperature: float | Tensor) -> Scores:
    """`[b, num_classes]`: the mean of the scores of each class, weighted by the softmax of scores / temperature."""
    cells, size = _cells(s, classes, num_classes)
    filled = _filled(s, classes)
    inside = filled > -math.inf
    value, peak = torch.where(inside, filled, 0.0), _max(filled.detach(), cells, size)
    below = torch.where(inside, value - _spread(peak, cells), 0.0)
    weight = torch.where(inside, (below / temperature).exp(), 0.0)
    mean = _sum(weight * value, cells, size) / _sum(weight, cells, size).clamp(min=1)  # the largest score has weight 1
    return _scores(torch.where(peak > -math.inf, mean, -math.inf), s)


def softmax_mean(s: Scores, temperature: float | Tensor) -> Scores:
    """`[b, 1]`: the same for scores that are all of one class."""
    return softmax_mean_by_class(s, max(1, s.value.shape[1]), None, temperature)


def _cells(s: Scores, classes: int | Tensor, num_classes: int | None) -> tuple[int | Tensor, int]:
    b, n = s.value.shape
    if isinstance(classes, int):
        return classes, n // classes
    size = int(classes.max()) + 1 if num_classes is None else num_classes
    return classes.expand(b, n), size


def _filled(s: Scores, classes: int | Tensor) -> Tensor:
    filled = s.fill(-math.inf)
    return filled[:, : filled.shape[1] // classes * classes] if isinstance(classes, int) else filled


def _scores(folded: Tensor, s: Scores) -> Scores:
    there = folded > -math.inf
    return Scores(torch.where(there, folded, HARMLESS), there, block=s.block)


def _max(value: Tensor, cells: int | Tensor, size: int) -> Tensor:
    if isinstance(cells, int):
        return value.reshape(value.shape[0], size, cells).amax(2)
    return value.new_full((value.shape[0], size), -math.inf).scatter_reduce(1, cells, value, "amax")


def _sum(value: Tensor, cells: int | Tensor, size: int) -> Tensor:
    if isinstance(cells, int):
        return value.reshape(value.shape[0], size, cells).sum(2)
    return value.new_zeros(value.shape[0], size).scatter_add(1, cells, value)


def _spread(folded: Tensor, cells: int | Tensor) -> Tensor:
    return folded.repeat_interleave(cells, dim=1) if isinstance(cells, int) else folded.gather(1, cells)
