"""Distance-weighted sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metriczoo._checks import check_count, check_number
from metriczoo._execution import reads_are_free
from metriczoo.miners._cells import draw
from metriczoo.miners._draws import uniform
from metriczoo.miners.base import Miner
from metriczoo.miners.nearest import _nothing, grouped, narrowed
from metriczoo.scores import Scores
from metriczoo.similarity import Cosine

__all__ = ["DistanceWeightedMiner"]

_PART = 2**16  # scores, so few that what is computed from them stays in cache


def _leave_out(weights: Tensor, scores: Scores) -> Tensor:
    """`weights` of `scores`, with -inf in the cells that do not belong to the set: in place."""
    if scores.excluded is not None:
        return weights.scatter_(1, scores.excluded, -math.inf)
    return weights.masked_fill_(~scores.mask, -math.inf)


class DistanceWeightedMiner(Miner):
    r"""For each pair of an anchor and a positive a negative drawn so that all distances are equally likely.

    On the unit sphere in :math:`\mathbb R^n` the distance of two random points has density

    .. math:: q(d) \propto d^{n - 2} (1 - d^2 / 4)^{(n - 3) / 2}

    so negatives are drawn with probability proportional to :math:`1 / q(\max(d, c))`, and never beyond `nonzero_loss_cutoff`. Weights are
    taken in log space and relative to the largest *of the anchor*, so that no anchor loses its negatives in high dimension. An anchor
    whose negatives all lie beyond the cutoff draws from all of them with equal chance.

    Args:
        cutoff: c in (0, 2): nearer negatives weigh as much as one at this distance.
        nonzero_loss_cutoff: distance in (0, 2] beyond which negatives have no weight.
        embedding_dim: n >= 2. Default: the dimension of the embeddings of the loss.
        generator: source of randomness.

    Example:
        >>> import torch
        >>> miner = DistanceWeightedMiner(embedding_dim=8, generator=torch.Generator().manual_seed(0))
        >>> s_n, s_p = miner(torch.tensor([[0.5, -0.9]]), torch.tensor([[0.9, 0.8]]))
        >>> s_n.value.flatten()
        tensor([0.5000, 0.5000])

    Relations:
        Semi-hard mining draws from a narrow band of distances; random mining, in high dimension, almost only from around the square root
        of 2.

    References:
        Wu, Manmatha, Smola, Krahenbuhl. Sampling Matters in Deep Embedding Learning. ICCV 2017, section 3 and equation 5.
    """

    draws = True

    def __init__(
        self,
        *,
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        embedding_dim: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator=generator)
        self.cutoff = check_number("cutoff", cutoff, low=0, high=2, open_low=True, open_high=True)
        self.nonzero_loss_cutoff = check_number("nonzero_loss_cutoff", nonzero_loss_cutoff, low=0, high=2, open_low=True)
        self.embedding_dim = None if embedding_dim is None else check_count("embedding_dim", embedding_dim, low=2)

    @torch.no_grad()
    def log_weights(self, s_n: Scores) -> Tensor:
        """`[b, n]`: logarithm of the weight of each negative, up to a constant per anchor; -inf for those that are never drawn."""
        block = s_n.block
        n = self.embedding_dim or (block.embedding_dim if block is not None else None)
        if n is None:
            raise ValueError("Expected `embedding_dim` for scores that come from no embeddings, but got None.")
        distance = block.distance if block is not None else Cosine().distance
        value = s_n.value.detach()
        weights = torch.empty_like(value)
        step = max(1, _PART // max(1, value.shape[1]))
        for part, into in zip(value.split(step), weights.split(step), strict=True):
            self._log_weight(distance(part), max(n, 2), into)
        none = _leave_out(weights, s_n).amax(1, keepdim=True) == -math.inf
        if reads_are_free(none) and not bool(none.any()):
            return weights
        return _leave_out(weights.clamp_(min=torch.where(none, 0.0, -math.inf)), s_n)

    def _log_weight(self, d: Tensor, n: int, out: Tensor) -> None:
        """Of distances; -inf beyond the cutoff, by arithmetic, since a mask takes several times the time."""
        beyond = torch.threshold(self.nonzero_loss_cutoff - d, 0.0, -math.inf).clamp_(max=0.0)
        d = d.clamp(self.cutoff, 2 - 1e-6)
        log_density = d.square().div_(-4).log1p_().mul_((n - 3) / 2).add_(d.sub_(1).log1p_(), alpha=n - 2)
        torch.sub(beyond, log_density, out=out)

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """One negative per pair."""
        s_p = narrowed(s_p)
        if 0 in s_n.value.shape or s_p.value.shape[1] == 0:
            return _nothing(s_n, s_p)
        with torch.no_grad():
            log_weight = self.log_weights(s_n)
            largest = log_weight.amax(1, keepdim=True)
            found = largest > -math.inf
            # Powers of 2 take a quarter of the time of those of e. What is below 2^-64 of the largest no draw of 53 bits can tell from 0.
            weights = log_weight.sub_(torch.where(found, largest, 0.0)).mul_(math.log2(math.e))
            cells = draw(torch.threshold_(weights, -64.0, -math.inf).exp2_(), uniform(s_p, self.seed_of(s_p)))
        return grouped(s_n, s_p, cells, found.expand_as(cells))
