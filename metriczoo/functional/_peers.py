"""Sums over the negatives that an anchor shares with its positives, where each of these is an anchor of the same block.

What a row receives as a positive comes from its own positives. So in backward each row looks up the factors of these, `_turned`, and
nothing is scattered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metriczoo._execution import backward_in_full_precision, product, reads_are_free
from metriczoo.functional._folds import check_between, fold_positives, narrow_set, of_one_class, rows_of_positives
from metriczoo.functional._pairs import Penalty, broadcast_sum, gradients
from metriczoo.scores import Scores

__all__ = ["logsumexp_of_sums", "swap_sum", "swap_sum_of_class"]

_PART = 2**16  # elements of an array that stays in cache
_MANY = 16  # times as many rows as positives: of more, row by row is quicker
_RANGE = 80.0  # logarithm of a number that is far from overflow


def logsumexp_of_sums(s_n: Scores, s_p: Scores, scale: float | Tensor) -> tuple[Scores, Tensor]:
    """For each positive i the log-sum-exp of `scale * (s_n^j + s_pn^ij)` over the negatives j; the positives, `[b, q]`, and it, `[b, q]`.

    The exponential of a sum is a product: where positives are anchors of the block, one exponential for each score is enough, and the rest
    are inner products of rows. Not where exponentials could underflow.
    """
    check_between(s_p)
    if (sets := of_one_class(s_n, s_p)) is not None:
        s_n, fold_class, s_p = sets
        return s_p, fold_class(lambda s_pn: _of_sums(s_n, s_pn, scale))
    s_p = narrow_set(s_p)
    rows = rows_of_positives(s_n, s_p)
    top = None if rows is None else _top(s_n, scale)
    if rows is None or top is None:
        return fold_positives(s_n, s_p, lambda s_pn: s_n.map(lambda s: s + s_pn.value).logsumexp(scale))
    terms = s_n.map(lambda s: (s * scale).sub_(top * scale).exp_()).fill(0.0)
    sums: Tensor = _Products.apply(terms, rows, s_p.mask)  # type: ignore[no-untyped-call]
    some = sums > 0
    return s_p, torch.where(some, torch.where(some, sums, 1.0).log() + 2 * scale * top, -math.inf)


def _of_sums(s_n: Scores, s_pn: Scores, scale: float | Tensor) -> Tensor:
    """`[b, c]`: for each anchor and each positive, where all of them have the same negatives."""
    tops = _top(s_n, scale), _top(s_pn, scale)
    if tops[0] is None or tops[1] is None:
        return torch.stack([s_n.map(lambda s, row=row: s + row).logsumexp(scale) for row in s_pn.fill(0.0)], dim=1)  # type: ignore[misc]
    near, far = (s.map(lambda v, top=top: ((v - top) * scale).exp()).fill(0.0) for s, top in zip((s_n, s_pn), tops, strict=True))  # type: ignore[misc]
    sums = product(near, far.mT)
    some = sums > 0
    return torch.where(some, torch.where(some, sums, 1.0).log() + scale * (tops[0] + tops[1]), -math.inf)


def _top(s_n: Scores, scale: float | Tensor) -> float | None:
    """The largest score; None where it must not be read, or where the least is so far below that its exponential could underflow."""
    if not reads_are_free(s_n.value) or not s_n.value.numel():
        return None
    low, high = (float(bound) for bound in s_n.value.detach().aminmax())
    factor = float(scale.detach() if isinstance(scale, Tensor) else scale)
    return high if 2 * factor * (high - low) < _RANGE else None


class _Products(torch.autograd.Function):
    """`[b, q]`: inner products of each row of `[b, n]` with the rows of its positives, which are positives of one another.

    All rows with all rows, in one matrix product, takes less time where positives are not many times fewer than rows.
    """

    @staticmethod
    def forward(x: Tensor, rows: Tensor, there: Tensor) -> Tensor:
        if _are_many(rows):
            return (x @ x.mT).gather(1, rows)
        found = [torch.linalg.vecdot(x, x.index_select(0, row)) for row in rows.unbind(1)]
        return torch.stack(found, dim=1) if found else x[:, :0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, rows, there = ctx.saved_tensors
        grad = torch.where(there, grad, 0.0)
        if _are_many(rows):
            square = _square(grad, rows, 0.0)
            return (square + square.mT) @ x, None, None
        factors = grad + _turned(grad, rows, there, 0.0)
        gradient = torch.zeros_like(x)
        for k, row in enumerate(rows.unbind(1)):
            gradient.addcmul_(x.index_select(0, row), factors[:, k : k + 1])
        return gradient, None, None


def _are_many(rows: Tensor) -> bool:
    return rows.shape[0] <= _MANY * rows.shape[1]


def swap_sum(s_n: Scores, s_p: Scores, rows: Tensor, margin: float | Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """`[b]` each: the sum of `penalty(max(s_n, s_pn) - s_p + margin)` over the triplets of each anchor, and how many are not 0.

    `rows` `[b, p]` are those in which the positives are anchors.
    """
    thresholds = torch.where(s_p.mask, s_p.value - margin, math.inf)
    low = torch.finfo(s_n.value.dtype).min / 4  # no number, but one that may be subtracted from itself
    total, active = _SwapSum.apply(s_n.value, s_n.fill(low).detach(), thresholds, rows, s_p.mask, penalty)[:2]  # type: ignore[no-untyped-call]
    return total, active


def swap_sum_of_class(
    s_n: Scores, fold_class: Callable[[Callable[[Scores], Tensor]], Tensor], s_p: Scores, margin: float | Tensor, penalty: Penalty
) -> tuple[Tensor, Tensor]:
    """`swap_sum` of the sets of `of_one_class`."""
    thresholds = torch.where(s_p.mask, s_p.value - margin, math.inf)

    def fold(s_pn: Scores) -> Tensor:
        sums: Tensor = _SwapBetween.apply(s_n.value, s_pn.value, thresholds, penalty)  # type: ignore[no-untyped-call]
        return sums

    totals = fold_class(fold).sum(1, dtype=torch.float64)
    return totals[:, 0].to(thresholds.dtype), totals[:, 1].detach().long()


class _SwapBetween(torch.autograd.Function):
    """`[b, g, 2]`: the sums of rows `x` `[b, n]` and `y` `[g, n]`, pair by pair, and how many are not 0. In backward again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, thresholds: Tensor, penalty: Penalty) -> Tensor:
        ctx.penalty = penalty
        sums, slopes = x.new_empty(*thresholds.shape, 2), torch.empty_like(thresholds)
        for part in _parts(x):
            for k, other in enumerate(y.unbind(0)):
                t = torch.maximum(x[part], other).sub_(thresholds[part, k : k + 1])
                sums[part, k, 0] = penalty.sum_(t)
                slopes[part, k] = t.sum(1)
                sums[part, k, 1] = slopes[part, k] if penalty.power == 1 else t.sign_().sum(1)
        ctx.save_for_backward(x, y, thresholds, slopes)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, thresholds, slopes = ctx.saved_tensors
        grad = grad[:, :, 0]
        g_x, g_y = torch.zeros_like(x), torch.zeros_like(y)
        for part in _parts(x):
            for k, other in enumerate(y.unbind(0)):
                share = (x[part] - other).sign_().add_(1)  # of the half: equal ones share the gradient
                slope = torch.maximum(x[part], other).sub_(thresholds[part, k : k + 1])
                ctx.penalty.slope_(slope).mul_(grad[part, k : k + 1])
                half = share.mul_(slope).mul_(0.5)
                g_x[part] += half
                g_y[k] += slope.sub_(half).sum(0)
        return g_x, g_y, -slopes * grad, None


class _SwapSum(torch.autograd.Function):
    """A loop over positives, in backward again, so that no array per positive is kept.

    `violation` is `value`, and so low outside of the set that there is no slope.
    """

    @staticmethod
    def forward(value: Tensor, violation: Tensor, thresholds: Tensor, rows: Tensor, there: Tensor, penalty: Penalty) -> tuple[Tensor, ...]:
        total = violation.new_zeros(len(violation))
        active, slopes_p = torch.zeros(len(violation), dtype=torch.int64, device=violation.device), torch.zeros_like(thresholds)
        for part in _parts(violation):
            for k in range(thresholds.shape[1]):
                t = violation.index_select(0, rows[part, k])
                torch.maximum(violation[part], t, out=t).sub_(thresholds[part, k : k + 1])
                total[part] += penalty.sum_(t)
                slopes_p[part, k] = t.sum(1)
                active[part] += slopes_p[part, k].long() if penalty.power == 1 else t.sign_().sum(1).long()
        return total, active, slopes_p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.penalty = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        value, violation, thresholds, rows, there, slopes_p = ctx.saved_tensors
        own, num = grad.unsqueeze(1), thresholds.shape[1]
        if torch.is_grad_enabled():
            violation = torch.where(violation > torch.finfo(value.dtype).min / 8, value, violation)
            parts = [(torch.maximum(violation, violation[rows[:, k]]), thresholds[:, k : k + 1]) for k in range(num)]
            parts.append((violation, thresholds[:, num:]))  # without any positive, too, the total is attached to the graph
            total = torch.stack([broadcast_sum(*part, ctx.penalty)[0] for part in parts]).sum(0)
            g_n, g_p = gradients(total, (value, thresholds), grad)
            return g_n, None, g_p, None, None, None
        others, theirs = _turned(own.expand(-1, num), rows, there, 0.0), _turned(thresholds, rows, there, math.inf)
        gradient = torch.zeros_like(violation)
        for part in _parts(violation):
            for k in range(num):
                other = violation.index_select(0, rows[part, k])
                share = (violation[part] - other).sign_().add_(1)  # of the half: equal ones, unless rounded apart, share the gradient
                torch.maximum(violation[part], other, out=other)
                both = ctx.penalty.slope_(other - thresholds[part, k : k + 1]).mul_(own[part] / 2)
                both.addcmul_(ctx.penalty.slope_(other.sub_(theirs[part, k : k + 1])), others[part, k : k + 1], value=0.5)
                gradient[part].addcmul_(both, share)
        return gradient, None, -slopes_p * own, None, None, None


def _parts(x: Tensor) -> list[slice]:
    """Rows of `x`, so few that what is computed of them stays in cache."""
    height = max(1, _PART // max(1, x.shape[1]))
    return [slice(start, start + height) for start in range(0, len(x), height)]


def _turned(x: Tensor, rows: Tensor, there: Tensor, outside: float) -> Tensor:
    """`[b, q]`: for each positive what it has for the anchor, which is a positive of its own; `outside` where there is no positive."""
    return torch.where(there, _square(torch.where(there, x, outside), rows, outside).T.gather(1, rows), outside)


def _square(x: Tensor, rows: Tensor, outside: float) -> Tensor:
    """`[b, b]`: of each row and its positive what `x` `[b, q]` says, and `outside` elsewhere, as `x` does where there is no positive."""
    square = torch.full((len(x), len(x)), outside, dtype=x.dtype, device=x.device)
    return square.scatter_reduce(1, rows, x, "amin" if outside else "sum")
