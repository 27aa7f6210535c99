"""Folds that several losses are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metriczoo._execution import tracing
from metriczoo.scores import Scores, Terms

__all__ = ["fold_positives", "log_share", "pair_terms", "softmax_mean"]


def pair_terms(losses: Scores, against: Scores | None = None) -> Terms:
    """The terms of a loss per pair. An anchor whose set `against` is empty has no pair that counts."""
    if against is not None:
        losses = losses.where((against.count() > 0).unsqueeze(1))
    return Terms(losses.sum(), losses.count(), losses.map(lambda v: (v != 0).to(v.dtype)).sum())


def log_share(logits_n: Scores, logits_p: Scores) -> Tensor:
    """`[b]`: minus the logarithm of the share that the positives have of the softmax over both sets; 0 where either set is empty."""
    far, near = logits_n.logsumexp(), logits_p.logsumexp()
    return softplus(torch.where(near > -math.inf, far - near, -math.inf))


def softmax_mean(values: Scores, scale: float | Tensor, *, detach_weights: bool) -> Tensor:
    """`[b]`: mean weighted by exp(scale * value), that is by a softmax; 0 for an empty set."""
    weighing = values.map(Tensor.detach) if detach_weights else values
    logits = weighing.map(lambda v: scale * v)
    total = logits.logsumexp().unsqueeze(1)
    # In the set no logit exceeds the total. The bound is for cells outside, whose exponential could overflow.
    weights = logits.map(lambda v: (v - total).clamp(max=0).exp()).value
    return values.map(lambda v: weights * v).sum()


def fold_positives(s_n: Scores, s_p: Scores, fold: Callable[[Scores], Tensor]) -> tuple[Scores, Tensor]:
    """For each positive its similarities to the negatives of the anchor, folded.

    One positive at a time: there is no array of positives x negatives. In a traced program, where it cannot be read how many positives
    there are, every reference takes the time of one.

    Args:
        s_n: `[b, n]`.
        s_p: `[b, p]`.
        fold: takes the similarities of one positive of each anchor to the anchor's negatives, and returns `[b]`.

    Returns:
        The positives, as few columns as they fit in where that may be read, `[b, q]`, and what `fold` returned for each, `[b, q]`.

    Raises:
        ValueError: for scores that come from no references.
    """
    if s_p.block is None or s_p.block.between is None:
        raise ValueError(
            "Expected scores with similarities between references, but these have none: use the loss of the same name, or give `Scores` "
            "with a `Block` that has `between`."
        )
    between, s_p = s_p.block.between, _narrow(s_p)
    rows = torch.zeros(s_p.value.shape[:1], dtype=torch.int64, device=s_p.value.device)
    folded = []
    for k in range(s_p.value.shape[1]):
        reference = rows + k if s_p.columns is None else s_p.columns[:, k]
        folded.append(fold(_holding(s_n, between(reference, s_n.columns))))
    return s_p, torch.stack(folded, dim=1) if folded else s_p.value


def _holding(scores: Scores, value: Tensor) -> Scores:
    """The same set with other values."""
    return scores.map(lambda _: value)


def _narrow(scores: Scores) -> Scores:
    """The same set in as few columns as its largest anchor needs. A wide mask would cost a matrix product per column."""
    if tracing(scores.value) or 0 in scores.value.shape:
        return scores
    width = int(scores.count().amax())
    if 2 * width > scores.value.shape[1]:
        return scores
    cells = scores.mask.to(torch.uint8).topk(width, dim=1).indices
    return scores.take(cells, scores.mask.gather(1, cells))
