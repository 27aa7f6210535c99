"""The pairs of multi-similarity."""

from __future__ import annotations

import torch

from metriczoo._checks import check_number
from metriczoo.miners.base import Miner
from metriczoo.scores import Scores

__all__ = ["MultiSimilarityMiner"]


class MultiSimilarityMiner(Miner):
    r"""Keeps the negatives nearer than the farthest positive, and the positives farther than the nearest negative, with a margin.

    .. math:: s_n^j > \min_i s_p^i - \epsilon, \qquad s_p^i < \max_j s_n^j + \epsilon

    An anchor without positives loses its negatives, and one without negatives its positives.

    Args:
        margin: :math:`\epsilon \ge 0`, in units of the score; 0.1 in the paper.

    Example:
        >>> import torch
        >>> s_n, s_p = MultiSimilarityMiner()(torch.tensor([[0.1, 0.35, 0.7]]), torch.tensor([[0.9, 0.4]]))
        >>> s_n.value[s_n.mask], s_p.value[s_p.mask]
        (tensor([0.3500, 0.7000]), tensor([0.4000]))

    Relations:
        With margin 0 it keeps the pairs that are ranked wrongly by some triplet of their anchor; `HardMiner` keeps the worst of each kind.

    References:
        Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning. CVPR 2019, pair
        mining.
    """

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__()
        self.margin = check_number("margin", margin, low=0)

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """Any number of pairs per anchor."""
        with torch.no_grad():
            keep_n = s_n.value + self.margin > s_p.min().unsqueeze(1)
            keep_p = s_p.value - self.margin < s_n.max().unsqueeze(1)
        return s_n.where(keep_n), s_p.where(keep_p)
