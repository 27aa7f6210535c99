"""Reductions: how the losses of anchors, pairs or triplets become one number. All are sums, so any cut of the batch adds up to the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metriczoo._checks import check_choice
from metriczoo._execution import reads_are_free
from metriczoo.scores import Scores, Terms, one_each

__all__ = ["REDUCTIONS", "Totals", "added", "divisors", "reduced", "stacked", "totals", "totals_apart"]

REDUCTIONS = {
    "mean": "sum / number of groups: each term over its own anchors, pairs or triplets, those with loss 0 counted",
    "mean_active": "sum / number of groups whose loss is not 0",
    "mean_pairs": "sum / number of pairs: of all terms together; for a loss per anchor, the pairs of the anchors that count",
    "sum": "sum",
    "none": "the sum of each anchor, [n]",
}


_FEW = 2**10  # numbers that add up as exactly in their own precision as one of them is known


class Totals(NamedTuple):
    """What the anchors of a block, or of several blocks, add up to, one entry per term of the loss."""

    value: Tensor  # [b, terms]
    groups: Tensor  # [b, terms] int64: anchors, pairs or triplets that count
    active: Tensor  # [b, terms] int64
    pairs: Tensor  # [b, terms] int64


def _anchor_terms(
    loss: Tensor, s_n: Scores, s_p: Scores, needs_positives: bool, needs_negatives: bool, reduction: str | None, whole: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A loss of one number per anchor: which anchors count, which have a loss, and over how many pairs."""
    all_valid = (s_p.some or s_n.some) and (s_p.some or not needs_positives) and (s_n.some or not needs_negatives)
    groups = one_each(len(loss)) if whole else torch.ones(loss.shape, dtype=torch.int64, device=loss.device)
    valid = groups
    if not all_valid:
        negatives, positives = s_n.count(), s_p.count()
        either = positives if needs_positives else negatives if needs_negatives else negatives + positives
        valid = (torch.minimum(positives, negatives) if needs_positives and needs_negatives else either) > 0
        groups, all_valid = valid.long(), reads_are_free(valid) and bool(valid.all())
        if not all_valid:
            loss = torch.where(valid, loss, 0.0)
    active, pairs = groups, groups
    if reduction in (None, "mean_active"):
        active = (loss != 0).long()
    if reduction in (None, "mean_pairs"):
        pairs = s_n.count() + s_p.count()
        pairs = pairs if all_valid else torch.where(valid, pairs, 0)
    return loss, groups, active, pairs


def totals(
    result: Tensor | Terms | tuple[Terms, ...], s_n: Scores, s_p: Scores, keep: Tensor, *, needs_positives: bool, needs_negatives: bool
) -> Totals:
    """What `per_anchor` returned, by anchor and term; anchors where `keep` `[b]` is false add nothing.

    A miner may have split anchors into groups: rows `g * i ... g * i + g - 1` then belong to anchor `i`.
    """
    return stacked(totals_apart(result, s_n, s_p, keep, needs_positives=needs_positives, needs_negatives=needs_negatives))


def stacked(terms: Sequence[Totals]) -> Totals:
    """Of the totals of each term, `[b]`, those of all, `[b, terms]`."""
    return Totals(*(torch.stack(column, dim=1) for column in zip(*terms, strict=True)))


def totals_apart(
    result: Tensor | Terms | tuple[Terms, ...],
    s_n: Scores,
    s_p: Scores,
    keep: Tensor | int,
    *,
    needs_positives: bool,
    needs_negatives: bool,
    reduction: str | None = None,
) -> list[Totals]:
    """`totals` of each term by itself, `[b]`: what one does not depend on has no gradient from it.

    Of a known `reduction` the counts that it does not ask for are those of the groups. Where all anchors count, `keep` may be how many.
    """
    if isinstance(result, Tensor):
        if result.shape != (s_n.height,):
            raise ValueError(f"Expected `per_anchor` to return a tensor of shape [{s_n.height}], but got {list(result.shape)}.")
        whole = isinstance(keep, int) and result.device.type == "cpu"
        columns = [_anchor_terms(result, s_n, s_p, needs_positives, needs_negatives, reduction, whole)]
    else:
        columns = []
        for term in (result,) if isinstance(result, Terms) else result:
            count = term.count.long()
            columns.append((term.total, count, term.active.long() if reduction in (None, "mean_active") else count, count))
    b = keep if isinstance(keep, int) else keep.shape[0]
    every = [Totals(*(_by_anchor(column, b) for column in term)) for term in columns]
    if isinstance(keep, int) or (reads_are_free(keep) and bool(keep.all())):
        return every
    return [Totals(*(torch.where(keep, column, 0) for column in term)) for term in every]


def _by_anchor(column: Tensor, b: int) -> Tensor:
    """`[b]`: by anchor, of what may be by group."""
    return column if column.shape[0] == b else column.reshape(b, -1).sum(1)


def added(terms: Sequence[Totals]) -> Totals:
    """`[terms]`: of the totals of each term, `[b]`, the sums over the anchors; values in float64."""
    values = [term.value.detach().sum(dtype=torch.float64) for term in terms]
    counts = {id(count): count for term in terms for count in term[1:]}  # of which some are the same
    sums = {key: count.sum().view(1) for key, count in counts.items()}
    columns = ([sums[id(count)] for count in column] for column in list(zip(*terms, strict=True))[1:])
    return Totals(_joined([value.view(1) for value in values]), *map(_joined, columns))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def divisors(reduction: str, sums: Totals) -> Tensor:
    """`[terms]` float64: what the total of each term is divided by, from the sums over all anchors."""
    _, groups, active, pairs = sums
    if reduction == "mean_pairs":
        return pairs.sum().clamp(min=1).double().expand_as(sums.value)
    if reduction == "sum":
        return torch.ones_like(groups, dtype=torch.float64)
    return (groups if check_choice("reduction", reduction, ("mean", "mean_active")) == "mean" else active).clamp(min=1).double()


def _one_each(groups: Tensor) -> bool:
    """Whether it is known that every anchor, of some, counts once."""
    return reads_are_free(groups) and len(groups) > 0 and groups is one_each(len(groups))


def reduced(reduction: str, terms: Sequence[Totals]) -> Tensor:
    """The loss, of the totals of each term by anchor, `[b]`: float64 where these are many, or `[b]` for reduction "none"."""
    if reduction == "none":
        return terms[0].value if len(terms) == 1 else torch.stack([term.value for term in terms]).sum(0)
    if reduction == "mean" and len(terms) == 1 and _one_each(terms[0].groups):
        value = terms[0].value
        return value.mean(dtype=None if len(value) <= _FEW else torch.float64)
    totals = [term.value.sum(dtype=torch.float64) for term in terms]
    if reduction == "mean_pairs":
        pairs = [term.pairs.sum() for term in terms]
        return sum(totals[1:], totals[0]) / sum(pairs[1:], pairs[0]).clamp(min=1)
    if reduction != "sum":
        counts = ((term.groups if reduction == "mean" else term.active).sum().clamp(min=1) for term in terms)
        totals = [total / count for total, count in zip(totals, counts, strict=True)]
    return sum(totals[1:], totals[0])
