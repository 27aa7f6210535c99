"""Choices of one cell of a row, in two steps: of a group of neighbouring cells, then of a cell in it.

What tells the cells of a row apart, such as cumulative sums or the index of the largest value, takes many times as long as a plain sum or
maximum. So only those are taken of the whole row, and the rest is for the groups and for the cells of one group.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["argmax", "draw"]

_GROUP = 32  # cells


def argmax(x: Tensor) -> Tensor:
    """`[b, 1]`: the first cell of each row that holds its largest value. `x` is `[b, n]`, n > 0."""
    n = x.shape[1]
    if n < 2 * _GROUP:
        return torch.argmax(x, 1, keepdim=True)
    whole = n - n % _GROUP
    largest = x[:, :whole].unflatten(1, (-1, _GROUP)).amax(2)
    if whole < n:
        largest = torch.cat([largest, x[:, whole:].amax(1, keepdim=True)], dim=1)
    cells: Tensor = largest.argmax(1, keepdim=True) * _GROUP + torch.arange(_GROUP, device=x.device)
    cells = cells.clamp(max=n - 1)
    return cells.gather(1, x.gather(1, cells).argmax(1, keepdim=True))


def draw(weights: Tensor, at: Tensor) -> Tensor:
    """`[b, k]`: cells with probabilities proportional to `weights` `[b, n]`, n > 0, by draws `at` `[b, k]` float64 from [0, 1).

    A row of zeros has no cell to draw, and gives any.
    """
    n = weights.shape[1]
    if at.shape[1] * _GROUP > n:
        return _land(weights.cumsum(1, dtype=torch.float64), at)[0]
    grouped = pad(weights, (0, -n % _GROUP)).unflatten(1, (-1, _GROUP))
    sums = grouped.sum(2)
    ladder = sums.cumsum(1, dtype=torch.float64)
    group, height = _land(ladder, at)
    step = sums.gather(1, group)
    left = 1 - (ladder.gather(1, group) - height) / step.clamp(min=torch.finfo(step.dtype).tiny)  # of the draw, in [0, 1)
    left.clamp_(min=0)  # rounding of the ladder
    inside = grouped.gather(1, group.unsqueeze(2).expand(-1, -1, _GROUP)).cumsum(2, dtype=torch.float64)
    return (group * _GROUP + _land(inside, left.unsqueeze(2))[0].squeeze(2)).clamp(max=n - 1)


def _land(ladder: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """`[..., k]`: the step of `ladder` `[..., n]` on which draws `at` `[..., k]` from [0, 1) land, and at which height."""
    top = ladder[..., -1:]
    height = torch.minimum(at * top, torch.nextafter(top, torch.zeros_like(top)))
    # `right`: a step of height 0 is never landed on. A ladder without height has no step at all.
    return torch.searchsorted(ladder, height, right=True).clamp(max=ladder.shape[-1] - 1), height
