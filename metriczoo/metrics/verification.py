"""Verification: how well one threshold on the similarity tells pairs of one class from pairs of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metriczoo._checks import as_labels, check_finite, check_number, describe
from metriczoo.metrics._blocks import largest_, prepare_distinct, score
from metriczoo.metrics._inputs import Embeddings, Integers, Points, Scoring, as_points, as_similarity, budget_of
from metriczoo.metrics._result import MetricResult
from metriczoo.similarity import Cosine

__all__ = ["verification_metrics"]

_CELL_BYTES = 16  # what a block holds per pair
Block = tuple[Tensor, Tensor, Tensor]  # scores, which of them are of same pairs, which of different pairs


def verification_metrics(
    inputs: Embeddings | Sequence[float],
    targets: Integers | Sequence[bool],
    *,
    ids: Integers | None = None,
    similarity: str | Scoring = "cosine",
    far: float | Sequence[float] = (0.001, 0.01),
    memory_budget: int | None = None,
) -> MetricResult:
    r"""Verification metrics of pairs: area under the ROC curve, equal error rate, true acceptance at a false acceptance rate, accuracy.

    A pair is accepted at a threshold T if its score is at least T. FAR(T) is the share of different pairs that are accepted, TAR(T) that of
    same pairs.

    ================ ==========================================================================================================
    `roc_auc`        probability that a same pair scores above a different one, ties counting one half
    `eer`            where FAR = 1 - TAR on the ROC curve, its vertices joined by straight lines
    `accuracy`       share of pairs told right at the best threshold, which is `threshold`
    `tar@far=f`      TAR at the smallest score T with FAR(T) <= f, which is `threshold@far=f`, without interpolation; the FAR that
                     it attains is `attained@far=f`. NaN where f is below one over the number of different pairs
    ================ ==========================================================================================================

    Args:
        inputs: scores of pairs, `[m]`, larger for closer; or embeddings `[n, d]`, of which every pair is taken once, in chunks.
        targets: of scores: whether each pair is of one class, `[m]`, bool or 0 and 1. Of embeddings: labels `[n]`; points with a label < 0
            are ignored.
        ids: `[n]`, integers, of embeddings: points with equal ids >= 0 are no pair.
        similarity: of embeddings, as for `retrieval_metrics`.
        far: false acceptance rates f, each in (0, 1].
        memory_budget: bytes that the scores of one chunk may take, as for `retrieval_metrics`.

    Returns:
        The values above, and `num_same` and `num_different`. Memory grows with the number of same pairs and with the largest f times that
        of different pairs.

    Raises:
        TypeError: if embeddings or scores are not floating point, or targets of the wrong kind.
        ValueError: if shapes do not match, a value is NaN or infinite, a rate is out of range, or pairs of one kind are missing.

    Example:
        >>> result = verification_metrics([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 0], far=0.4)
        >>> round(result["roc_auc"], 6), round(result["eer"], 6), round(result["accuracy"], 6), result["tar@far=0.4"]
        (0.888889, 0.333333, 0.833333, 1.0)

    Relations:
        `retrieval_metrics` compares scores of one query only; here one threshold holds for all.
        `sklearn.metrics.roc_auc_score` gives the same area.

    References:
        Gary B. Huang, Manu Ramesh, Tamara Berg, Erik Learned-Miller. Labeled Faces in the Wild. Technical Report 07-49, University of
        Massachusetts, 2007.
    """
    rates = [check_number("far", f, low=0, high=1, open_low=True) for f in (far if isinstance(far, Sequence) else [far])]
    if not rates:
        raise ValueError(f"Expected at least one rate in `far`, but got {describe(far)}.")
    blocks = _given_pairs(inputs, targets, ids) if is_flat(inputs) else _all_pairs(inputs, targets, ids, similarity, memory_budget)
    first_pass = [(scores[same], int(other.sum())) for scores, same, other in blocks()]
    genuine, different = torch.cat([part for part, _ in first_pass]), sum(count for _, count in first_pass)
    if not len(genuine) or not different:
        raise ValueError(f"Expected pairs of one class and pairs of two, but got {len(genuine)} and {different} of them.")
    curve = _Curve(genuine, different, keep=1 + max(_allowed(f, different) for f in rates))
    for scores, _, other in blocks():
        curve.add(scores[other])
    values = {"roc_auc": curve.area(), "eer": curve.equal_error(), **curve.best()}
    for f in rates:
        values |= {f"{name}@far={f:g}": value for name, value in curve.at(f).items()}
    return MetricResult({**values, "num_same": len(genuine), "num_different": different})


def is_flat(inputs: Any) -> bool:
    """Whether `inputs` are scores of pairs rather than embeddings."""
    return not hasattr(inputs, "ndim") or inputs.ndim == 1


def as_pairs(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Checked scores `[m]` of pairs and which pairs are of one class, `[m]` bool."""
    scores = inputs.detach() if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs))  # a list of floats is float64
    if scores.dim() != 1 or not scores.is_floating_point():
        raise TypeError(
            f"Expected `inputs` to be scores of shape [m] or embeddings of shape [n, d], floating point, but got {describe(inputs)}."
        )
    check_finite("inputs", scores.unsqueeze(1))
    flags = as_labels(targets, argument="targets", device=scores.device)
    if flags.shape != scores.shape:
        raise ValueError(f"Expected `targets` to have {len(scores)} entries, one per score, but got {len(flags)}.")
    if not bool(((flags == 0) | (flags == 1)).all()):
        raise ValueError(f"Expected `targets` of scores to be 0 or 1, but got values from {int(flags.min())} to {int(flags.max())}.")
    return scores.to(torch.promote_types(scores.dtype, torch.float32)), flags == 1


def _given_pairs(inputs: Any, targets: Any, ids: Any) -> Callable[[], Iterator[Block]]:
    if ids is not None:
        raise ValueError("Expected `ids` with embeddings only, but got them with the scores of pairs.")
    scores, same = as_pairs(inputs, targets)
    return lambda: iter([(scores, same, ~same)])


def _all_pairs(inputs: Any, targets: Any, ids: Any, similarity: str | Scoring, memory_budget: int | None) -> Callable[[], Iterator[Block]]:
    points = as_points(inputs, targets, ids).labelled()
    if not len(points):
        raise ValueError("Expected `targets` to hold at least one label that is not negative, but all are ignored.")
    scoring = as_similarity(similarity)
    budget = budget_of(memory_budget, points.labels.device)
    return lambda: _pair_blocks(points, scoring, budget)


def _pair_blocks(points: Points, similarity: Scoring, budget: int) -> Iterator[Block]:
    """Scores of points to all points, block by block; distinct pairs are scored once, so that equal pairs score exactly equally."""
    n, device = len(points), points.labels.device
    rows, place = prepare_distinct(similarity, points.embeddings)
    order = torch.arange(n, device=device) if place is None else place.argsort(stable=True)
    place, label, number = (order if place is None else place[order]), points.labels[order], points.ids[order]
    column = torch.arange(n, device=device)
    height = max(1, budget // (n * _CELL_BYTES))
    cosines = all(getattr(type(similarity), name, None) is getattr(Cosine, name) for name in ("prepare", "score"))
    for start in range(0, len(rows), height):
        scores = score(similarity, rows[start : start + height], rows[start:])
        if cosines:
            _settle_ends(scores, rows[start : start + height], rows[start:], budget)
        if not bool(scores.isfinite().all()):
            raise ValueError(
                "Expected `similarity` to give finite scores, but got NaN or infinity: it cannot score embeddings of this size."
            )
        first, last = torch.searchsorted(place, torch.tensor([start, start + height], device=device)).tolist()
        for row in column[first:last].split(height):  # more than once only where points are repeated
            block = scores if len(rows) == n else scores[place[row] - start][:, place[first:] - start]
            same = label[row].unsqueeze(1) == label[first:]
            pair = column[first:] > row.unsqueeze(1)
            pair &= (number[row].unsqueeze(1) != number[first:]) | (number[row].unsqueeze(1) < 0)
            yield block, pair & same, pair & ~same


def _settle_ends(cosines: Tensor, a: Tensor, r: Tensor, budget: int) -> None:
    """Compute cosines near 1 and -1 again, in place, from differences of the unit vectors: those of parallel points are then exactly equal.

    A product gives 1 but for a rounding that differs from pair to pair and from block to block, and pairs of equal points would not tie.
    """
    d = a.shape[1]
    near = (cosines.abs() > 1 - d * torch.finfo(a.dtype).eps).nonzero()
    for i, j in (pairs.unbind(1) for pairs in near.split(max(1, budget // (2 * d * a.element_size())))):
        sign = cosines[i, j].sign()
        apart = (a[i] - sign.unsqueeze(1) * r[j]).square().sum(1)
        cosines[i, j] = sign * (1 - apart / 2)


def _allowed(f: float, different: int) -> int:
    """The largest number of accepted different pairs whose share is at most f."""
    count = int(f * different)
    return count + 1 if (count + 1) / different <= f else count  # the product may round below a whole number


class _Curve:
    """The ROC curve at the scores of same pairs, between which it is level; different pairs come in any number of parts."""

    def __init__(self, genuine: Tensor, different: int, keep: int) -> None:
        self.value, count = genuine.unique(return_counts=True)  # [u], ascending
        self.num_same, self.num_different, self.keep = len(genuine), different, min(keep, different)
        self.same_from = count.flip(0).cumsum(0).flip(0)  # [u] same pairs at or above each value
        self.same_above = self.same_from - count
        self.different_from, self.different_above = torch.zeros_like(count), torch.zeros_like(count)
        self.top = genuine.new_empty(0)  # at least the `keep` largest scores of different pairs, of those that were added
        self.bound = -math.inf  # smaller scores of different pairs are not kept

    def add(self, scores: Tensor) -> None:
        """Count different pairs `[m]`."""
        scores = largest_(scores.unsqueeze(0), len(scores))[0] if len(scores) else scores
        self.different_from += len(scores) - torch.searchsorted(scores, self.value)
        self.different_above += len(scores) - torch.searchsorted(scores, self.value, right=True)
        scores = scores[-self.keep :]
        self.top = torch.cat([self.top, scores[scores >= self.bound]])
        if len(self.top) > 2 * self.keep:  # not each time: it costs as much as all the rest
            self.top = self.largest()
            self.bound = float(self.top[0])

    def largest(self) -> Tensor:
        """The `keep` largest scores of different pairs, ascending."""
        return largest_(self.top.unsqueeze(0), self.keep)[0]

    def area(self) -> float:
        """Area under the curve."""
        below = self.num_different - (self.different_from + self.different_above).double() / 2
        return float(((self.same_from - self.same_above) * below).sum() / self.num_same / self.num_different)

    def equal_error(self) -> float:
        """False acceptance rate where it equals the false rejection rate."""
        # From the strictest threshold on: just above each value, then at it.
        accepted = torch.stack([self.different_above, self.different_from], 1).flip(0).flatten().double() / self.num_different
        rejected = 1 - torch.stack([self.same_above, self.same_from], 1).flip(0).flatten().double() / self.num_same
        one, zero = accepted.new_ones(1), accepted.new_zeros(1)
        accepted, rejected = torch.cat([zero, accepted, one]), torch.cat([one, rejected, zero])
        i = int((accepted >= rejected).nonzero()[0])
        gap_before, gap = float(rejected[i - 1] - accepted[i - 1]), float(accepted[i] - rejected[i])
        share = gap_before / (gap_before + gap)
        return float(accepted[i - 1] + share * (accepted[i] - accepted[i - 1]))

    def best(self) -> dict[str, float]:
        """The best accuracy, and the largest threshold that reaches it."""
        right = torch.cat([self.same_from - self.different_from, self.same_from.new_zeros(1)]) + self.num_different
        value = torch.cat([self.value, self.value.new_full((1,), math.inf)])
        best = right.max()
        return {"accuracy": float(best) / (self.num_same + self.num_different), "threshold": float(value[right == best][-1])}

    def at(self, f: float) -> dict[str, float]:
        """True acceptance at false acceptance f, its threshold, and the false acceptance attained."""
        allowed = _allowed(f, self.num_different)
        if allowed == 0:
            return dict.fromkeys(("tar", "threshold", "attained"), math.nan)
        top = self.largest()
        limit = float(top[-1 - allowed]) if allowed < self.num_different else -math.inf  # the largest score that must be rejected
        same, other = self.value[self.value > limit], top[top > limit]
        accepted = int(self.same_from[-len(same)]) if len(same) else 0
        threshold = min([float(x[0]) for x in (same, other) if len(x)], default=math.inf)
        return {"tar": accepted / self.num_same, "threshold": threshold, "attained": len(other) / self.num_different}
