"""Folds of rows of values that come chunk by chunk, and their derivatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metriczoo._logsumexp import tail

__all__ = ["Extreme", "Fold", "LogSumExp", "Sum"]


class Fold:
    """A running fold of rows of values, and its derivative by them: a weight of each value, times a factor of the row."""

    empty: float  # what a cell outside the set holds, and the fold of no cell

    def add(self, value: Tensor) -> Tensor | None:
        """Go on with `value` `[b, w]`, in whose place its weights are left. Returns by what those of before are multiplied, `[b, 1]`."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """`[b]`."""
        raise NotImplementedError

    def factor(self) -> Tensor | float:
        """`[b, 1]`: of the weights, once all values are added."""
        raise NotImplementedError

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """`out` `[b, w]`: derivative by `value` of what has derivative `grad` `[b]` by the result; anything in cells outside the set."""
        raise NotImplementedError


class Sum(Fold):
    """Counted in float64."""

    empty = 0.0
    total: Tensor | float = 0.0

    def add(self, value: Tensor) -> None:
        """All weights are 1."""
        self.total = self.total + value.sum(1).double()
        self.dtype = value.dtype
        value.fill_(1.0)

    def result(self) -> Tensor:
        """`[b]`."""
        assert isinstance(self.total, Tensor)
        return self.total.to(self.dtype)

    def factor(self) -> float:
        """1."""
        return 1.0

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """The same for all."""
        return out.copy_(grad.unsqueeze(1))


class LogSumExp(Fold):
    """Of `scale > 0` times the values. Weights are exponentials."""

    empty = -math.inf

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.total: Tensor | None = None  # [b, 1], of the values so far
        self.shift: Tensor | None = None  # [b, 1], from which values are counted: the largest so far

    def add(self, value: Tensor) -> Tensor | None:
        """Go on; where a larger value than before is met, all before it count for less."""
        last, largest = self.shift, value.amax(1, keepdim=True).clamp_(min=torch.finfo(value.dtype).min)
        self.shift = largest if last is None else torch.maximum(last, largest)
        total = self._exponentials(value.sub_(self.shift)).sum(1, keepdim=True)
        if last is None or self.total is None:
            self.total = total
            return None
        shrink = ((last - self.shift) * self.scale).exp()
        self.total = total.addcmul_(self.total, shrink)
        return shrink

    def result(self) -> Tensor:
        """`[b]`."""
        assert self.shift is not None and self.total is not None
        return (self.shift * self.scale + self.total.log()).squeeze(1)

    def factor(self) -> Tensor:
        """By it exponentials add up to `scale`; 0 for an empty set."""
        assert self.total is not None
        return torch.where(self.total > 0, self.scale / self.total, 0.0)

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """Softmax."""
        assert self.shift is not None
        return self._exponentials(torch.sub(value, self.shift, out=out)).mul_(grad.unsqueeze(1) * self.factor())

    def _exponentials(self, below: Tensor) -> Tensor:
        """In place: `exp(scale * below)`, but 0 near where numbers become subnormal, see `metriczoo._logsumexp`."""
        torch.threshold_(below.mul_(self.scale * math.log2(math.e)), tail(below) * math.log2(math.e), -math.inf)
        return below.exp2_()


class Extreme(Fold):
    """The largest or the smallest value. Cells that tie share the gradient."""

    def __init__(self, empty: float, largest: bool) -> None:
        self.empty, self.largest = empty, largest
        self.best: Tensor | None = None  # [b, 1]
        self.ties: Tensor | None = None  # [b, 1] float64

    def add(self, value: Tensor) -> Tensor | None:
        """Go on; where a better value than before is met, those before it do not count."""
        last, now = self.best, value.amax(1, keepdim=True) if self.largest else value.amin(1, keepdim=True)
        self.best = now if last is None else torch.maximum(last, now) if self.largest else torch.minimum(last, now)
        ties = torch.eq(value, self.best, out=value).sum(1, keepdim=True).double()
        if last is None or self.ties is None:
            self.ties = ties
            return None
        still = (self.best == last).to(value.dtype)
        self.ties = ties + self.ties * still
        return still

    def result(self) -> Tensor:
        """`[b]`."""
        assert self.best is not None
        return self.best.squeeze(1)

    def factor(self) -> Tensor:
        """One share."""
        assert self.best is not None and self.ties is not None
        return self.ties.clamp(min=1).reciprocal().to(self.best.dtype)

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """A share where the value is the result."""
        assert self.best is not None
        return torch.eq(value, self.best, out=out).mul_(grad.unsqueeze(1) * self.factor())
