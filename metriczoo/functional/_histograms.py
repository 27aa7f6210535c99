"""Soft histograms: each score is shared linearly by the two nodes around it, so that counts have a derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metriczoo._execution import tracing
from metriczoo.scores import Scores

__all__ = ["soft_histogram", "soft_histogram_and_cells"]

_IN_CACHE = 2**16  # scores that are shared out at once


def soft_histogram(scores: Scores, num_bins: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """`[b, num_bins + 1]`: of each anchor's scores, on nodes from `low` to `high`. Scores beyond an end count there, without gradient."""
    return soft_histogram_and_cells(scores, num_bins, low, high)[0]


def soft_histogram_and_cells(scores: Scores, num_bins: int, low: float = -1.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    """The soft histogram, and how many scores are at each node and down to the one below, likewise `[b, num_bins + 1]`."""
    if tracing(scores.value):
        return _shared(scores.value, scores.mask, num_bins, low, high), _counted(scores, num_bins, low, high)
    result: tuple[Tensor, Tensor] = _Shares.apply(scores.value, scores, num_bins, low, high)  # type: ignore[no-untyped-call]
    return result


def _shared(value: Tensor, mask: Tensor, num_bins: int, low: float, high: float) -> Tensor:
    """The soft histogram by operations that can be traced and differentiated any number of times."""
    place = (value.clamp(low, high) - low) * (num_bins / (high - low))
    upper = place.detach().ceil().clamp(min=1)
    share = torch.where(mask, place - (upper - 1), 0.0)
    empty, node = place.new_zeros(place.shape[0], num_bins + 1), upper.long()
    return empty.scatter_add(1, node, share).scatter_add(1, node - 1, mask.to(share.dtype) - share)


def _counted(scores: Scores, num_bins: int, low: float, high: float) -> Tensor:
    node = ((scores.value.detach().clamp(low, high) - low) * (num_bins / (high - low))).ceil().long()
    mask = scores.mask.to(scores.value.dtype)
    return mask.new_zeros(mask.shape[0], num_bins + 1).scatter_add(1, node, mask)


class _Shares(torch.autograd.Function):
    """A few anchors at a time, whose scores stay in cache: no array holds a node or a share of each score.

    The shares follow from how many scores there are between two nodes and how far below the upper one they are in sum. On a host forward
    takes 2 ns for each score and backward 1.3, where the three matrix products of the scores take 9.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, scores: Scores, num_bins: int, low: float, high: float) -> tuple[Tensor, Tensor]:
        ctx.scores, ctx.nodes = scores, (num_bins, low, high)
        ctx.save_for_backward(value)
        ctx.set_materialize_grads(False)
        places = _Places(value, scores, num_bins, low, high)
        cells, below = (value.new_zeros(len(value), num_bins + 3) for _ in range(2))
        one = value.new_ones(1, 1)
        for rows in places.parts():
            node, distance = places.at(rows)
            cells[rows].scatter_add_(1, node, one.expand_as(distance))
            below[rows].scatter_add_(1, node, distance)
        cells[:, num_bins] += cells[:, num_bins + 1]  # beyond the last node
        cells, below = cells[:, :-2], below[:, 1:-2]
        shares = cells.clone()
        shares[:, 1:] -= below
        shares[:, :-1] += below
        ctx.mark_non_differentiable(cells)
        return shares.clamp_(min=0), cells  # where rounding left less

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None
        (value,), (num_bins, low, high) = ctx.saved_tensors, ctx.nodes
        if torch.is_grad_enabled():  # for a further derivative
            shares = _shared(value, ctx.scores.mask, num_bins, low, high)
            return torch.autograd.grad(shares, value, grad, create_graph=True)[0], None, None, None, None
        slopes = F.pad(grad.diff() * (num_bins / (high - low)), (1, 2))  # 0 below the first node, beyond the last, and of no score
        result, places = torch.empty_like(value), _Places(value, ctx.scores, num_bins, low, high)
        for rows in places.parts():
            torch.gather(slopes[rows], 1, places.at(rows, inwards=1e-30)[0], out=result[rows])  # the first node is an end, too
        return result, None, None, None, None


class _Places:
    """For each score the node at or above it, and how far below that it is, in buffers.

    Two nodes follow the last one: that of scores beyond it, and that of cells without a score.
    """

    def __init__(self, value: Tensor, scores: Scores, num_bins: int, low: float, high: float) -> None:
        self.value, self.num_bins, self.low, self.scale = value, num_bins, low, num_bins / (high - low)
        self.excluded, self.mask = scores.excluded, scores._mask
        self.step = max(1, min(len(value), _IN_CACHE // max(1, value.shape[1])))
        self.place, self.distance = (value.new_empty(self.step, value.shape[1]) for _ in range(2))
        self.node = torch.empty_like(self.place, dtype=torch.int64)

    def parts(self) -> list[slice]:
        """A few anchors at a time."""
        return [slice(first, min(first + self.step, len(self.value))) for first in range(0, len(self.value), self.step)]

    def at(self, rows: slice, inwards: float = 0.0) -> tuple[Tensor, Tensor]:
        """Nodes and distances of anchors `rows`, until the next call. A score that is less than `inwards` above `low` has node 1."""
        place, distance, node = (buffer[: rows.stop - rows.start] for buffer in (self.place, self.distance, self.node))
        torch.sub(self.value[rows], self.low, out=place).mul_(self.scale)
        if inwards:
            place.add_(inwards)
        torch.ceil(place, out=distance).clamp_(0, self.num_bins + 1)
        node.copy_(distance)
        if self.excluded is not None:
            node.scatter_(1, self.excluded[rows], self.num_bins + 2)
        elif self.mask is not None:
            node.masked_fill_(~self.mask[rows], self.num_bins + 2)
        return node, distance.sub_(place)
