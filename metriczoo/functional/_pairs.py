"""Sums over all pairs (positive, negative) of an anchor, without an array of that size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from metriczoo._execution import reads_are_free, tracing
from metriczoo.functional._folds import narrow_set
from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, Terms

__all__ = ["PENALTIES", "Penalty", "broadcast_sum", "gradients", "pair_sum"]


class Penalty(NamedTuple):
    """An increasing function of a violation, 0 at -inf."""

    value: Callable[[Tensor], Tensor]
    sum_: Callable[[Tensor], Tensor]  # sums the values of each row, and leaves the derivatives in place of the violations
    slope_: Callable[[Tensor], Tensor]  # the derivatives alone, in place
    power: int | None  # of the hinge, which can be summed by sorting; None for others


def _sum_hinge_(t: Tensor) -> Tensor:
    total = t.clamp_(min=0).sum(1)
    t.sign_()
    return total


def _sum_squared_(t: Tensor) -> Tensor:
    total = t.clamp_(min=0).square().sum(1)
    t.mul_(2)
    return total


def _sum_soft_(t: Tensor) -> Tensor:
    total = softplus(t).sum(1)
    t.sigmoid_()
    return total


PENALTIES = {
    "hinge": Penalty(torch.relu, _sum_hinge_, lambda t: t.clamp_(min=0).sign_(), 1),
    "squared": Penalty(lambda t: t.relu().square(), _sum_squared_, lambda t: t.clamp_(min=0).mul_(2), 2),
    "soft": Penalty(softplus, _sum_soft_, Tensor.sigmoid_, None),
}

_FEW = 48  # positives up to which a loop over them is faster than sorting them
_FUSED = 16  # positives up to which a compiled program has a term for each in one loop over negatives
_REACH = 30.0  # distance of a negative from a threshold up to which exponentials are far from over- and underflow
_LOG_RANGE = 80.0  # logarithm of a number that is far from overflow
_PART = 2**16  # elements of an array that stays in cache
_WIDE = 2**22  # elements of an array (anchors x positives x negatives) that a traced program may hold at once


def pair_sum(s_n: Scores, s_p: Scores, margin: float | Tensor, penalty: Penalty) -> Terms:
    """For each anchor the sum of `penalty(s_n - s_p + margin)` over all its pairs of a negative and a positive.

    Exact in value, count and gradient. Time is O(negatives x positives), or O(negatives x log positives) for a hinge with many positives.
    """
    if reads_are_free(s_p.value):
        s_p = narrow_set(s_p)
    thresholds = torch.where(s_p.mask, s_p.value - margin, math.inf)
    count, traced = s_n.count() * s_p.count(), tracing(s_n.value)
    if not traced and (penalty.power is None or thresholds.shape[1] <= _FEW):
        reach = _reach(s_n, thresholds) if penalty.power is None else None
        total, active = _PairSum.apply(s_n.value, thresholds, s_n, penalty, reach)  # type: ignore[no-untyped-call]
        return Terms(total, count, count if reach is not None else active)
    violation = s_n.fill(-math.inf)
    if traced and thresholds.shape[1] <= _FUSED:
        total, active = _fused_sum(violation, thresholds, penalty)
    elif penalty.power is not None:
        total, active = _sorted_sum(violation, thresholds, penalty.power)
    else:
        total, active = broadcast_sum(violation, thresholds, penalty)
    return Terms(total, count, active)


class _PairSum(torch.autograd.Function):
    """A loop over positives, for so few anchors at a time that they stay in cache. Forward leaves the derivatives.

    Violations are -inf outside of the set, where there is no slope either: so the gradient of `value` needs no mask.

    Not in the form with `setup_context`, whose overhead is that of a dozen operations: it is never transformed.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, thresholds: Tensor, s_n: Scores, penalty: Penalty, reach: tuple[float, float] | None
    ) -> tuple[Tensor, Tensor]:
        ctx.s_n, ctx.penalty, ctx.reach = s_n, penalty, reach
        ctx.save_for_backward(value, thresholds)
        ctx.set_materialize_grads(False)
        total, active, *slopes = _sums(s_n, thresholds, penalty, reach)
        ctx.slopes = slopes if any(ctx.needs_input_grad) else None
        ctx.mark_non_differentiable(active)
        return total, active

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        value, thresholds = ctx.saved_tensors
        if torch.is_grad_enabled() and ctx.penalty.power != 1:  # the slopes of a hinge are constants, others have a derivative of their own
            total = broadcast_sum(ctx.s_n.fill(-math.inf), thresholds, ctx.penalty)[0]
            g_n, g_p = gradients(total, (value, thresholds), grad)
            return g_n, g_p, None, None, None
        (slope_n, slopes_p), ctx.slopes = ctx.slopes or _sums(ctx.s_n, thresholds, ctx.penalty, ctx.reach)[2:], None
        factor = grad.unsqueeze(1)
        return slope_n.mul_(factor) if not torch.is_grad_enabled() else slope_n * factor, -slopes_p * factor, None, None, None


@torch.no_grad()
def _sums(s_n: Scores, thresholds: Tensor, penalty: Penalty, reach: tuple[float, float] | None) -> tuple[Tensor, ...]:
    """Of each anchor the sum and how many are not 0, `[b]`, and how the sum depends on each negative and less each threshold."""
    violation = s_n.fill(-math.inf)
    violation = violation.clone() if violation is s_n.value else violation
    step = max(1, _PART // max(1, violation.shape[1]))
    total, slopes_p = violation.new_zeros(len(violation)), torch.zeros_like(thresholds)
    active = torch.zeros_like(total, dtype=torch.int64)
    for start in range(0, len(violation), step):
        part = slice(start, start + step)
        into = violation[part], thresholds[part], total[part], slopes_p[part]
        if reach is None:
            _loop_sum(*into, active[part], penalty)
        else:
            _factored_sum(*into, *reach)
    return total, active, violation, slopes_p


def _loop_sum(violation: Tensor, thresholds: Tensor, total: Tensor, slopes_p: Tensor, active: Tensor, penalty: Penalty) -> None:
    """Leaves the slopes in place of the violations."""
    num = thresholds.shape[1]
    slope, t = (torch.zeros_like(violation) if num != 1 else violation), torch.empty_like(violation)
    for k in range(num):
        torch.sub(violation, thresholds[:, k : k + 1], out=t if k else slope)
        this = t if k else slope
        total += penalty.sum_(this)
        slopes_p[:, k] = this.sum(1)
        active += slopes_p[:, k].long() if penalty.power == 1 else this.sign().sum(1).long()
        if k:
            slope += t
    violation.copy_(slope)


def gradients(total: Tensor, inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor | None]:
    """Those of `inputs`, to be differentiated again; None for one that is a constant, such as a score of a frozen model."""
    variables = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(total, variables, grad, create_graph=True, allow_unused=True, materialize_grads=True))
    return [next(found) if x.requires_grad else None for x in inputs]


def _reach(s_n: Scores, thresholds: Tensor) -> tuple[float, float] | None:
    """The largest value of `s_n`, and how far at most one is from a threshold, either way; None where that is too far or not to be read."""
    if not reads_are_free(thresholds) or 0 in s_n.value.shape:
        return None
    inside = thresholds.detach()[thresholds.isfinite()]
    if not len(inside):
        return None
    lowest, highest = (float(bound) for bound in s_n.value.detach().aminmax())
    reach = max(highest - float(inside.amin()), float(inside.amax()) - lowest)
    return (highest, reach) if 0 <= reach < _REACH else None


def _factored_sum(violation: Tensor, thresholds: Tensor, total: Tensor, slopes_p: Tensor, highest: float, reach: float) -> None:
    """Of the soft penalty: an exponential for each negative and each positive, rather than for each pair, and few logarithms.

    `e^(v - t)` is a product, and a sum of logarithms that of a product: `prod (1 + x) = 1 + q`. All of it is in reach, so that nothing
    over- or underflows, and every pair has a loss other than 0. Leaves the slopes in place of the violations.
    """
    far, near = (violation - highest).exp_(), (highest - thresholds).exp_()
    slope_n = violation.zero_()
    x, one_more, q = torch.empty_like(far), torch.empty_like(far), torch.zeros_like(far)
    step = max(1, int(_LOG_RANGE / (reach + math.log(2))))  # of so many factors the product does not overflow
    for k in range(thresholds.shape[1]):
        torch.mul(far, near[:, k : k + 1], out=x)
        torch.add(x, 1, out=one_more)
        torch.addcmul(x, q, one_more, out=q)
        slope_n += x.div_(one_more)
        slopes_p[:, k] = x.sum(1)
        if (k + 1) % step == 0 or k + 1 == thresholds.shape[1]:
            total += q.log1p_().sum(1)
            q.zero_()


def _fused_sum(violation: Tensor, thresholds: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """One positive after the other, by operations that a compiler makes one loop of."""
    total, active = torch.zeros_like(violation), torch.zeros_like(violation)
    for k in range(thresholds.shape[1]):
        loss = penalty.value(violation - thresholds[:, k : k + 1])
        total, active = total + loss, active + loss.detach().sign()
    return total.sum(1), active.sum(1).long()


def broadcast_sum(violation: Tensor, thresholds: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """A few positives at a time, by operations that can be traced and differentiated any number of times."""
    b, n = violation.shape
    step = max(1, _WIDE // max(1, b * n))
    total = violation.new_zeros(b)
    active = torch.zeros(b, dtype=torch.int64, device=violation.device)
    inside = violation.isfinite().unsqueeze(1)
    harmless = torch.where(violation.isfinite(), violation, 0.0).unsqueeze(1)
    for chosen in thresholds.split(step, dim=1):
        both = inside & chosen.isfinite().unsqueeze(2)
        t = harmless - torch.where(chosen.isfinite(), chosen, 0.0).unsqueeze(2)
        loss = torch.where(both, penalty.value(t), 0.0)
        total = total + loss.sum((1, 2))
        active = active + (loss != 0).sum((1, 2))
    return total, active


def _sorted_sum(violation: Tensor, thresholds: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """Each negative v meets the thresholds below it, a prefix of the sorted ones: sum (v - t) = c v - sum t, and likewise for squares."""
    inside = thresholds.isfinite()
    # Sums of values near 0 lose fewer digits: the origin cancels.
    origin = (torch.where(inside, thresholds, 0.0).detach().sum(1) / inside.sum(1).clamp(min=1)).unsqueeze(1)
    ordered = (thresholds - origin).sort(dim=1).values
    centred = violation - origin
    below = torch.searchsorted(ordered.detach().contiguous(), centred.detach().contiguous())
    ordered = torch.where(ordered.isfinite(), ordered, 0.0)
    v = torch.where(centred.isfinite(), centred, 0.0)
    sums = F.pad(ordered.cumsum(1), (1, 0)).gather(1, below)
    if power == 1:
        total = (below * v - sums).sum(1)
    else:
        squares = F.pad(ordered.square().cumsum(1), (1, 0)).gather(1, below)
        total = (below * v.square() - 2 * v * sums + squares).clamp(min=0).sum(1)  # rounding can leave a square below 0
    return total, below.sum(1)
