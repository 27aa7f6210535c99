"""Random numbers that depend on a seed and on a pair of points, and on nothing else: any cut of a batch into blocks draws the same."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo._random import split_mix
from metriczoo.scores import Block, Scores

__all__ = ["uniform"]


def uniform(scores: Scores, seed: Tensor) -> Tensor:
    """`[b, n]` float64: for each cell a number in [0, 1) that only the seed, the anchor and the reference determine."""
    value, block = scores.value, scores.block
    rows = block.rows if isinstance(block, Block) else torch.arange(value.shape[0], device=value.device)
    columns = scores.columns if scores.columns is not None else torch.arange(value.shape[1], device=value.device)
    if block is not None and block.positions is not None:
        columns = block.positions[columns]
    bits = split_mix(split_mix(split_mix(seed) ^ rows).unsqueeze(1) ^ columns)
    return ((bits >> 11) & (2**53 - 1)).double() / 2**53
