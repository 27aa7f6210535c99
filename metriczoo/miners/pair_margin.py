"""Pairs beyond fixed thresholds."""

from __future__ import annotations

from metriczoo._checks import check_number
from metriczoo.miners.base import Miner
from metriczoo.scores import Scores

__all__ = ["PairMarginMiner"]


class PairMarginMiner(Miner):
    r"""Keeps the positives that score less than one threshold, and the negatives that score more than another.

    .. math:: s_p < m_p, \qquad s_n > m_n

    Args:
        positive_margin: :math:`m_p`, the score, in units of the similarity, from which on a positive is near enough. Minus a distance
            where scores are negated distances.
        negative_margin: :math:`m_n`, the score up to which a negative is far enough.

    Example:
        >>> import torch
        >>> s_n, s_p = PairMarginMiner(positive_margin=0.8, negative_margin=0.2)(torch.tensor([[0.1, 0.7]]), torch.tensor([[0.9, 0.4]]))
        >>> s_n.value[s_n.mask], s_p.value[s_p.mask]
        (tensor([0.7000]), tensor([0.4000]))

    Relations:
        `MultiSimilarityMiner` takes its thresholds from the anchor's own pairs. Hinge losses with these margins leave the same pairs
        without gradient, but count them in their mean.
    """

    def __init__(self, *, positive_margin: float = 0.9, negative_margin: float = 0.5) -> None:
        super().__init__()
        self.positive_margin = check_number("positive_margin", positive_margin)
        self.negative_margin = check_number("negative_margin", negative_margin)

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """Any number of pairs per anchor."""
        return s_n.where(s_n.value > self.negative_margin), s_p.where(s_p.value < self.positive_margin)
