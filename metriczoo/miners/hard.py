"""The hardest pairs."""

from __future__ import annotations

import torch

from metriczoo.miners._cells import argmax
from metriczoo.miners.base import Miner
from metriczoo.scores import Scores

__all__ = ["HardMiner"]


class HardMiner(Miner):
    """Keeps for each anchor its hardest negative, the nearest, and its hardest positive, the farthest.

    With `TripletMarginLoss` this is the batch-hard triplet loss. Of equal scores the first is kept.

    Example:
        >>> import torch
        >>> s_n, s_p = HardMiner()(torch.tensor([[0.1, 0.7]]), torch.tensor([[0.9, 0.4]]))
        >>> s_n.value, s_p.value
        (tensor([[0.7000]]), tensor([[0.4000]]))

    Relations:
        `SemiHardMiner` avoids the hardest negatives, which are often mislabelled and can collapse an embedding early in training.

    References:
        Hermans, Beyer, Leibe. In Defense of the Triplet Loss for Person Re-Identification. 2017, equation 5.
    """

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """One negative and one positive per anchor."""
        return first(s_n, largest=True), first(s_p, largest=False)


def first(scores: Scores, *, largest: bool) -> Scores:
    """The largest or smallest value of each anchor; of equal ones the first."""
    if scores.value.shape[1] == 0:
        return scores
    with torch.no_grad():
        filled = scores.fill(-torch.inf if largest else torch.inf)
        cell = argmax(filled if largest else -filled)
        found = filled.gather(1, cell).isfinite()
    return scores.take(cell, found)
