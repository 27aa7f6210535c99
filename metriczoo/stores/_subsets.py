"""Uniform draws without replacement, in a time that does not grow with what is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["others", "subset"]


def subset(size: int, num: int, bits: Callable[[int], Tensor]) -> Tensor:
    """`[num]` int64, ascending: a set of numbers below `size`, each such set being as likely as any other.

    The first `num` different ones of a sequence of draws with replacement, O(num log num). Where it is more than half, those are drawn
    that stay out.

    Args:
        size: >= num.
        num: >= 0.
        bits: `bits(k)` gives `k` random numbers in [0, 2^63).
    """
    if 2 * num > size:
        inside = torch.ones(size, dtype=torch.bool, device=bits(0).device)
        inside[subset(size, size - num, bits)] = False
        return inside.nonzero().squeeze(1)
    expected = -size * math.log1p(-num / size) if size else 0.0  # how many draws have `num` different values
    drawn = bits(math.ceil(expected + 4 * math.sqrt(expected))) % max(1, size)
    while True:
        value, place = drawn.sort(stable=True)
        first = torch.ones_like(value, dtype=torch.bool)
        first[1:] = value[1:] != value[:-1]
        value, place = value[first], place[first]
        if len(value) >= num:
            return value[place < place.sort().values[num]] if len(value) > num else value
        drawn = torch.cat([drawn, bits(num - len(value) + 8) % size])


def others(ranks: Tensor, taken: Tensor) -> Tensor:
    """The numbers that have these ranks, from 0, among those not `taken` `[t]`, which are different and ascending."""
    ahead = taken - torch.arange(len(taken), device=taken.device)  # numbers below each taken one that are not taken
    return ranks + torch.searchsorted(ahead, ranks, right=True)
