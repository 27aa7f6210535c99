"""Folds that several losses are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metriczoo._execution import tracing
from metriczoo.scores import Scores, Terms

__all__ = [
    "check_between",
    "fold_positives",
    "holding",
    "in_one_array",
    "narrow_set",
    "of_one_class",
    "pair_terms",
    "rows_of_positives",
    "to_negatives",
]


def pair_terms(losses: Scores, against: Scores | None = None, *, weight: float | Tensor = 1.0) -> Terms:
    """The terms of a loss per pair, which is `weight` times a value. An anchor whose set `against` is empty has no pair that counts."""
    if against is not None and not against.some:
        losses = losses.where((against.count() > 0).unsqueeze(1))
    if not in_one_array(losses):
        return Terms(_times(weight, losses.sum()), losses.count(), lambda: losses.map(lambda v: v.sign().abs()).sum())
    filled = losses.fill(0.0)
    # Comparisons and masks take several times the time of arithmetic.
    return Terms(_times(weight, filled.sum(1)), losses.count(), lambda: filled.sign().abs_().sum(1))


def _times(weight: float | Tensor, total: Tensor) -> Tensor:
    return total if isinstance(weight, float) and weight == 1 else weight * total


def in_one_array(scores: Scores) -> bool:
    """Whether the cells are there, all in `value`, and no trace forbids to fold them by other than operations of autograd."""
    return type(scores) is Scores and not tracing(scores.value)


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
    check_between(s_p)
    s_p = narrow_set(s_p)
    folded = [fold(holding(s_n, to_negatives(s_n, s_p, k))) for k in range(s_p.value.shape[1])]
    return s_p, torch.stack(folded, dim=1) if folded else s_p.value


def of_one_class(s_n: Scores, s_p: Scores) -> tuple[Scores, Callable[[Callable[[Scores], Tensor]], Tensor], Scores] | None:
    """Where the anchors are a part of one class, `Block.kin`: the sets of which all of its points have the same.

    Returns:
        The scores `[b, m]` of the anchors to their negatives; what folds those `[c, m]` of the whole class to them, which are made by one
        matrix product, in backward again; and the positives `[b, c]`. None of anchors of several classes, and where a miner has taken some.
    """
    block = s_p.block
    if (
        block is None
        or block.kin is None
        or block.between is None
        or s_p.columns is None
        or s_n.columns is not None
        or s_n.excluded is None
    ):
        return None
    kin, n = block.kin, s_n.value.shape[1] - 1  # without the spare column
    size, every = kin.stop - kin.start, torch.arange(n, device=s_p.value.device)
    own, others = every[kin], torch.cat([every[: kin.start], every[kin.stop :]])
    if s_p.columns.shape[1] < size or not bool((s_p.columns[:, :size] == own).all()):
        return None
    far = torch.cat([s_n.value[:, : kin.start], s_n.value[:, kin.stop : n]], dim=1)
    near = Scores(s_p.value[:, :size], s_p.mask[:, :size], columns=s_p.columns[:, :size], block=block)
    between = block.between

    def fold_class(fold: Callable[[Scores], Tensor]) -> Tensor:
        folded: Tensor = checkpoint(lambda: fold(Scores(between(own, others))), use_reentrant=False, preserve_rng_state=False)
        return folded

    return Scores(far, block=block), fold_class, near


def check_between(s_p: Scores) -> None:
    """Raise for scores that come from no references."""
    if s_p.block is None or s_p.block.between is None:
        raise ValueError(
            "Expected scores with similarities between references, but these have none: use the loss of the same name, or give `Scores` "
            "with a `Block` that has `between`."
        )


def rows_of_positives(s_n: Scores, s_p: Scores) -> Tensor | None:
    """`[b, p]`: the row of the block in which each positive is the anchor, with the negatives of its class; None where not all are."""
    if s_p.block is None or s_p.block.peers is None or s_p.columns is None or s_n.columns is not None:
        return None
    return (s_p.columns - s_p.block.peers).clamp(0, max(0, len(s_n.value) - 1))  # a cell of no positive gets any row


def to_negatives(s_n: Scores, s_p: Scores, k: int) -> Tensor:
    """`[b, n]`: similarities of positive `k` of each anchor to the negatives of the anchor."""
    rows = rows_of_positives(s_n, s_p)
    if rows is not None:
        return s_n.value.index_select(0, rows[:, k])
    assert s_p.block is not None and s_p.block.between is not None
    column = torch.zeros_like(s_p.value[:, k], dtype=torch.int64) + k if s_p.columns is None else s_p.columns[:, k]
    return s_p.block.between(column, s_n.columns)


def holding(scores: Scores, value: Tensor) -> Scores:
    """The same set with other values."""
    return scores.map(lambda _: value)


def narrow_set(scores: Scores) -> Scores:
    """The same set in as few columns as its largest anchor needs, in some order, unless a trace forbids to read how many those are.

    Reading it makes the host wait for an accelerator, but where each positive takes a pass over the block, it pays.
    """
    if tracing(scores.value) or 0 in scores.value.shape:
        return scores
    width = int(scores.count().amax())
    if width == scores.value.shape[1]:
        return scores
    cells = scores.mask.to(torch.uint8).topk(width, dim=1).indices
    return scores.take(cells, scores.mask.gather(1, cells))
