"""The share that positives have of the softmax over both sets, which several losses are the logarithm of, by hand.

Made of two log-sum-exps it takes as many passes over the block, but some forty small operations more, and their derivatives: for each tile
they take a quarter of the time of its products.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metriczoo._logsumexp import exponentials_
from metriczoo.functional._folds import holding, in_one_array, pair_terms
from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, Terms

__all__ = ["log_share", "pair_shares"]


def pair_shares(s_n: Scores, s_p: Scores, scale: float | Tensor) -> Terms:
    """Terms over pairs: minus the logarithm of the share of each positive in the softmax of `scale > 0` times it and the negatives."""
    if s_n.some and _single(s_p) and in_one_array(s_n):
        losses = log_share(s_n, s_p, scale)
        return Terms(losses, s_p.count(), lambda: losses.sign().abs_())
    push = s_n.logsumexp(scale).unsqueeze(1)
    return pair_terms(s_p.map(lambda s: softplus(push - s * scale)), s_n)


def log_share(s_n: Scores, s_p: Scores, scale: float | Tensor, *, apart: bool = False) -> Tensor:
    """`[b]`: minus the logarithm of the share of the positives in the softmax of `scale > 0` times the scores over both sets.

    It is 0 where either set is empty. `apart`: of the share of each positive, the mean over positives, which without negatives compete.
    """
    if isinstance(scale, Tensor) or not (in_one_array(s_n) and in_one_array(s_p)) or 0 in (s_n.value.shape[1], s_p.value.shape[1]):
        return _log_share(s_n, s_p, scale, apart)
    result: Tensor = _LogShare.apply(s_n.value, s_p.value, s_n, s_p, scale, apart)  # type: ignore[no-untyped-call]
    return result


def _log_share(s_n: Scores, s_p: Scores, scale: float | Tensor, apart: bool) -> Tensor:
    """By operations that can be traced and differentiated any number of times."""
    far, near = s_n.logsumexp(scale), s_p.logsumexp(scale)
    together = softplus(torch.where(near > -math.inf, far - near, -math.inf))
    if not apart:
        return together
    some = s_p.count() > 0
    return torch.where(some, together + torch.where(some, near, 0.0) - scale * s_p.mean(), 0.0)


class _LogShare(torch.autograd.Function):
    """Forward leaves the exponentials, and backward scales them in place."""

    @staticmethod
    def forward(ctx: Any, far: Tensor, near: Tensor, s_n: Scores, s_p: Scores, scale: float, apart: bool) -> Tensor:
        ctx.sets, ctx.scale, ctx.apart = (s_n, s_p), scale, apart
        terms_n, shift_n = _exponentials(s_n, scale)
        sum_n = terms_n.sum(1)
        if _single(s_p):
            gap = torch.add(sum_n.log(), shift_n - near.squeeze(1), alpha=scale)
            ctx.save_for_backward(far, near, gap, sum_n, None)
            ctx.terms = (terms_n, None) if any(ctx.needs_input_grad[:2]) else None
            return softplus(gap)
        terms_p, shift_p = _exponentials(s_p, scale)
        sum_p = terms_p.sum(1)
        gap = scale * (shift_n - shift_p) + (sum_n / sum_p).log_()
        gap = gap if s_p.some else torch.where(sum_p > 0, gap, -math.inf)
        ctx.save_for_backward(far, near, gap, sum_n, sum_p)
        ctx.terms = (terms_n, terms_p) if any(ctx.needs_input_grad[:2]) else None
        loss = softplus(gap)
        if not apart:
            return loss
        mean = s_p.fill_(near.clone(), 0.0).sum(1) / s_p.count()
        return torch.where(sum_p > 0, loss + scale * (shift_p - mean) + sum_p.log(), 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (far, near, gap, sum_n, sum_p), (s_n, s_p) = ctx.saved_tensors, ctx.sets
        terms, ctx.terms = ctx.terms, None
        if torch.is_grad_enabled():
            inputs = [t for t, need in zip((far, near), ctx.needs_input_grad, strict=False) if need]
            again = _log_share(holding(s_n, far), holding(s_p, near), ctx.scale, ctx.apart)
            found = iter(torch.autograd.grad(again, inputs, grad, create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:2]), None, None, None, None
        terms_n, terms_p = terms or (_exponentials(s, ctx.scale)[0] for s in (s_n, s_p))
        grad = ctx.scale * grad
        push = grad * gap.sigmoid()
        if sum_p is None:
            return terms_n.mul_(_share(push, sum_n, s_n)), push.neg_().unsqueeze(1), None, None, None, None
        pull = push - grad if ctx.apart else push
        g_n, g_p = terms_n.mul_(_share(push, sum_n, s_n)), terms_p.mul_(_share(-pull, sum_p, s_p))
        if ctx.apart:
            each = grad / s_p.count().clamp(min=1)
            g_p.sub_(s_p.fill_(each.unsqueeze(1).repeat(1, g_p.shape[1]), 0.0))
        return g_n, g_p, None, None, None, None


def _single(scores: Scores) -> bool:
    """Whether every anchor has one cell and no other, of which the share is 1."""
    return scores.value.shape[1] == 1 and scores._mask is None and scores.excluded is None


def _share(x: Tensor, total: Tensor, scores: Scores) -> Tensor:
    share = x / total
    return (share if scores.some else torch.where(total > 0, share, 0.0)).unsqueeze(1)


def _exponentials(scores: Scores, scale: float) -> tuple[Tensor, Tensor]:
    terms = scores.fill(-math.inf)
    return exponentials_(terms.clone() if terms is scores.value else terms, scale)
