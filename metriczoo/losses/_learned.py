"""Positive numbers that a loss learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LearnedPositive", "number_of", "value_of"]


class LearnedPositive(nn.Module):
    """A positive number that is learned by its logarithm and used within bounds.

    Args:
        value: where it starts.
        low: lower bound; a start below takes its place.
        high: upper bound; a start above takes its place.
    """

    def __init__(self, value: float | Tensor, *, low: float, high: float) -> None:
        super().__init__()
        start = float(value)
        self.log = nn.Parameter(torch.tensor(math.log(start)))
        self.low, self.high = min(low, start), max(high, start)
        self._lost = math.log(start) - float(self.log.detach())  # what its dtype cannot hold of the start

    def forward(self) -> Tensor:
        """The number, `[]` float64."""
        log = self.log.double() + self._lost
        excess = log.detach() - log.detach().clamp(math.log(self.low), math.log(self.high))
        return (log - excess).exp()  # the gradient of a clamp is 0 beyond a bound: the parameter would never come back

    def __float__(self) -> float:
        return float(self().detach())

    def extra_repr(self) -> str:
        """The number and its bounds."""
        return f"{float(self):.4g}, low={self.low}, high={self.high}"


def value_of(number: float | Tensor | LearnedPositive) -> float | Tensor:
    """The number that a loss computes with."""
    return number() if isinstance(number, LearnedPositive) else number


def number_of(value: float | Tensor | LearnedPositive) -> float:
    """What a hyper-parameter is at present, whoever learns it."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
