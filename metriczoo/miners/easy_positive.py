"""Easy positives."""

from __future__ import annotations

import torch

from metriczoo._checks import check_choice
from metriczoo.miners.base import Miner
from metriczoo.miners.hard import first
from metriczoo.miners.nearest import nearest_beyond
from metriczoo.scores import Scores

__all__ = ["EasyPositiveMiner"]


class EasyPositiveMiner(Miner):
    """Keeps for each anchor its nearest positive, and negatives by choice.

    A class may then consist of several clusters: a point is drawn to the one it is in. Of equal scores one is kept.

    Args:
        negatives: `"hard"` keeps the nearest negative (EPHN), `"semi-hard"` the nearest of those beyond the positive (EPSHN), `"all"`
            every negative.

    Example:
        >>> import torch
        >>> s_n, s_p = EasyPositiveMiner("semi-hard")(torch.tensor([[0.1, 0.7]]), torch.tensor([[0.6, 0.4]]))
        >>> s_n.value, s_p.value
        (tensor([[0.1000]]), tensor([[0.6000]]))

    Relations:
        `HardMiner` keeps the farthest positive, which draws all of a class to one point.

    References:
        Xuan, Stylianou, Pless. Improved Embeddings with Easy Positive Triplet Mining. WACV 2020.
    """

    def __init__(self, negatives: str = "hard") -> None:
        super().__init__()
        self.negatives = check_choice("negatives", negatives, ("hard", "semi-hard", "all"))

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """One positive per anchor."""
        s_p = s_p.topk(1)
        if self.negatives == "all":
            return s_n, s_p
        if self.negatives == "hard":
            return first(s_n, largest=True), s_p
        if 0 in s_n.value.shape or 0 in s_p.value.shape:
            return s_n.where(torch.zeros_like(s_n.mask)), s_p
        with torch.no_grad():
            cells, found = nearest_beyond(s_n, s_p)
        return s_n.take(cells, found & s_p.mask), s_p
