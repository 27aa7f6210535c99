"""Random negatives."""

from __future__ import annotations

import torch

from metriczoo.miners._cells import draw
from metriczoo.miners._draws import uniform
from metriczoo.miners.base import Miner
from metriczoo.miners.nearest import _nothing, grouped, narrowed
from metriczoo.scores import Scores

__all__ = ["RandomMiner"]


class RandomMiner(Miner):
    """For each pair of an anchor and a positive a negative of the anchor, each with equal chance.

    Args:
        generator: source of randomness.

    Example:
        >>> import torch
        >>> miner = RandomMiner(generator=torch.Generator().manual_seed(0))
        >>> s_n, s_p = miner(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.8]]))
        >>> s_n.value.flatten(), s_p.value.flatten()
        (tensor([0.5000, 0.5000]), tensor([0.9000, 0.8000]))

    Relations:
        In high dimension random points are nearly orthogonal, so random negatives soon teach little: `DistanceWeightedMiner` makes all
        distances equally likely, `SemiHardMiner(select="random")` draws among those that matter.

    References:
        Wu, Manmatha, Smola, Krahenbuhl. Sampling Matters in Deep Embedding Learning. ICCV 2017, section 3, on what random draws miss.
    """

    draws = True

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator=generator)

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """One negative per pair."""
        s_p = narrowed(s_p)
        if 0 in s_n.value.shape or s_p.value.shape[1] == 0:
            return _nothing(s_n, s_p)
        with torch.no_grad():
            cells = draw(s_n.map(torch.ones_like).fill(0.0), uniform(s_p, self.seed_of(s_p)))
            found = (s_n.count() > 0).unsqueeze(1)
        return grouped(s_n, s_p, cells, found.expand_as(cells))
