"""Miners that choose, for each pair of an anchor and a positive, a negative by where it lies relative to the positive."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metriczoo._checks import check_choice, check_number
from metriczoo._execution import reads_are_free
from metriczoo.functional._folds import narrow_set
from metriczoo.miners._cells import argmax, draw
from metriczoo.miners._draws import uniform
from metriczoo.miners.base import Miner
from metriczoo.scores import Scores

__all__ = ["PriorityMiner", "SemiHardMiner"]

_FEW = 64  # positives up to which a pass over the negatives for each is faster than sorting the negatives


def nearest_beyond(s_n: Scores, s_p: Scores) -> tuple[Tensor, Tensor]:
    """For each positive the cell of the nearest negative that is farther than it, `[b, p]`, and whether there is one."""
    negatives, positives = s_n.fill(-math.inf), s_p.value
    if positives.shape[1] > _FEW:
        ordered, cells = negatives.sort(dim=1)
        below = torch.searchsorted(ordered, positives.contiguous())  # how many negatives score less than the positive
        last = (below - 1).clamp(min=0)
        return cells.gather(1, last), (below > 0) & ordered.gather(1, last).isfinite()
    low = torch.finfo(negatives.dtype).min / 2  # added to a score it leaves nothing of it
    # A mask takes several times the time of arithmetic.
    best = [argmax((negatives - p).ge_(0).mul_(low).add_(negatives)) for p in positives.split(1, dim=1)]
    cells = torch.cat(best, dim=1) if best else positives.long()
    chosen = negatives.gather(1, cells)
    return cells, (chosen < positives) & chosen.isfinite()


def grouped(s_n: Scores, s_p: Scores, cells: Tensor, found: Tensor) -> tuple[Scores, Scores]:
    """One group per pair of an anchor and a positive: that positive against the negative in cell `cells` `[b, p]`, where one was found."""
    return s_n.take(cells, found & s_p.mask).split(), s_p.where(found).split()


def narrowed(s_p: Scores) -> Scores:
    """The positives in no more columns than they fill, where that can be read without waiting: each takes a pass over the negatives."""
    return narrow_set(s_p) if reads_are_free(s_p.value) else s_p


def _nothing(s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
    """No pair at all: what a choice among no negatives or for no positives leaves."""
    return s_n.where(torch.zeros_like(s_n.mask)), s_p.where(torch.zeros_like(s_p.mask))


class SemiHardMiner(Miner):
    r"""For each pair of an anchor and a positive, a negative beyond the positive but within the margin: :math:`s_p - m < s_n < s_p`.

    Pairs without such a negative are left out.

    Args:
        margin: m > 0, in units of the score.
        select: `"hardest"` takes the nearest of them, `"random"` any with equal chance.
        generator: source of randomness for `"random"`.

    Example:
        >>> import torch
        >>> s_n, s_p = SemiHardMiner(margin=0.2)(torch.tensor([[0.9, 0.7, 0.1]]), torch.tensor([[0.8, 0.5]]))
        >>> s_n.value[s_n.mask], s_p.value[s_p.mask]
        (tensor([0.7000]), tensor([0.8000]))

    Relations:
        `PriorityMiner` never leaves a pair out: it falls back on easy, then on hard negatives.

    References:
        Schroff, Kalenichenko, Philbin. FaceNet: A Unified Embedding for Face Recognition and Clustering. CVPR 2015, equation 4.
    """

    def __init__(self, margin: float = 0.2, *, select: str = "hardest", generator: torch.Generator | None = None) -> None:
        super().__init__(generator=generator)
        self.margin = check_number("margin", margin, low=0, open_low=True)
        self.draws = check_choice("select", select, ("hardest", "random")) == "random"

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """One negative per pair."""
        s_p = narrowed(s_p)
        if 0 in s_n.value.shape or s_p.value.shape[1] == 0:
            return _nothing(s_n, s_p)
        with torch.no_grad():
            if self.draws:
                cells, found = self._random(s_n, s_p)
            else:
                cells, found = nearest_beyond(s_n, s_p)
                found = found & (s_n.value.gather(1, cells) > s_p.value - self.margin)
        return grouped(s_n, s_p, cells, found)

    def _random(self, s_n: Scores, s_p: Scores) -> tuple[Tensor, Tensor]:
        """Of those in the band all weigh the same."""
        negatives = s_n.fill(-math.inf)
        draws = uniform(s_p, self.seed_of(s_p))
        chosen = []
        for p, at in zip(s_p.value.split(1, dim=1), draws.split(1, dim=1), strict=True):
            semi_hard = (negatives - p).lt_(0).mul_((negatives - (p - self.margin)).gt_(0))
            chosen.append(draw(semi_hard, at))
        cells = torch.cat(chosen, dim=1)
        found = negatives.gather(1, cells)
        return cells, (found < s_p.value) & (found > s_p.value - self.margin)


class PriorityMiner(Miner):
    """For each pair of an anchor and a positive the first that exists: the nearest negative beyond the positive, else the least hard one.

    The nearest negative beyond the positive is semi-hard if it lies within the margin of the loss and easy (loss 0) otherwise: semi-hard
    > easy > hard.

    Example:
        >>> import torch
        >>> s_n, s_p = PriorityMiner()(torch.tensor([[0.9, 0.7]]), torch.tensor([[0.8, 0.5]]))
        >>> s_n.value.flatten(), s_p.value.flatten()
        (tensor([0.7000, 0.7000]), tensor([0.8000, 0.5000]))

    Relations:
        `SemiHardMiner` leaves out the pairs for which this one falls back.

    References:
        Taha, Chen, Misu, Shrivastava, Davis. Boosting Standard Classification Architectures Through a Ranking Regularizer. WACV 2020,
        section 3.2.
    """

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """One negative per pair."""
        s_p = narrowed(s_p)
        if 0 in s_n.value.shape or s_p.value.shape[1] == 0:
            return _nothing(s_n, s_p)
        with torch.no_grad():
            cells, beyond = nearest_beyond(s_n, s_p)
            filled = s_n.fill(math.inf)
            farthest = argmax(-filled)
            exists = filled.gather(1, farthest).isfinite()
            cells = torch.where(beyond, cells, farthest)
        return grouped(s_n, s_p, cells, beyond | exists)
