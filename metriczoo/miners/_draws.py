"""Random numbers that depend on a seed and on a pair of points, and on nothing else: any cut of a batch into blocks draws the same."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.scores import Block, Scores

__all__ = ["uniform"]


def _mix(x: Tensor) -> Tensor:
    """A bijection of int64 that spreads its bits (the finaliser of SplitMix64, with arithmetic shifts masked to logical ones)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform(scores: Scores, seed: Tensor | None) -> Tensor:
    """`[b, n]` float64: for each cell a number in [0, 1) that only the seed, the anchor and the reference determine."""
    value, block = scores.value, scores.block
    if seed is None:
        seed = torch.randint(2**62, (), device=value.device)
    rows = block.rows if isinstance(block, Block) else torch.arange(value.shape[0], device=value.device)
    columns = scores.columns if scores.columns is not None else torch.arange(value.shape[1], device=value.device)
    bits = _mix(_mix(_mix(seed) ^ rows).unsqueeze(1) ^ columns)
    return ((bits >> 11) & (2**53 - 1)).double() / 2**53
