"""A loss by loops over Python lists: every anchor, every reference, every pair. What every implementation is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from metriczoo import reduction as reductions
from metriczoo.similarity import Similarity
from metriczoo.testing._spec import Anchor, Groups, Spec, groups_by
from metriczoo.testing.subject import Subject, number

__all__ = ["Points", "anchors_of", "batch_groups", "by_spec", "needs_of", "reduced"]


@dataclass
class Points:
    """A batch, or references: a label < 0 is ignored, an id < 0 equals no other."""

    rows: list[list[float]]
    labels: list[int]
    ids: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, embeddings: Tensor, labels: Any, ids: Sequence[int] | None = None) -> Points:
        """Of tensors; ids -1 unless given."""
        labels = torch.as_tensor(labels).tolist()
        return cls(embeddings.detach().double().tolist(), labels, [-1] * len(labels) if ids is None else list(ids))


def anchors_of(similarity: Similarity, batch: Points, references: Points, dtype: torch.dtype = torch.float64) -> list[Anchor | None]:
    """By two loops; None for an anchor that is ignored."""
    d = max((len(row) for row in (*batch.rows, *references.rows)), default=1)
    x, y = (torch.tensor(p.rows, dtype=dtype).reshape(-1, d) for p in (batch, references))
    with torch.no_grad():
        similarity = similarity.to(dtype)
        scores, among = similarity(x, y).double().tolist(), similarity(y, y).double().tolist()
    result: list[Anchor | None] = []
    for k, (point, label, i) in enumerate(zip(batch.rows, batch.labels, batch.ids, strict=True)):
        others = [j for j, m in enumerate(references.labels) if m >= 0 and not (i >= 0 and references.ids[j] == i)]
        far, near = ([j for j in others if (references.labels[j] == label) is same] for same in (False, True))
        rows, labels = references.rows, references.labels
        seen = Anchor(
            [scores[k][j] for j in far],
            [scores[k][j] for j in near],
            [[among[p][n] for n in far] for p in near],
            label,
            point,
            [rows[j] for j in near],
            [rows[j] for j in far],
            [labels[j] for j in far],
        )
        result.append(None if label < 0 else seen)
    return result


def batch_groups(subject: Subject, batch: Points, references: Points | None) -> tuple[Groups, int]:
    """The losses of all groups, by term, and over how many pairs a loss of one number per anchor goes."""
    assert subject.spec is not None
    spec = Spec(subject.spec)
    if spec.form == "embeddings":
        more = {name: value for name, value in (("references", references), ("ids", batch.ids)) if name in spec.takes}
        found = spec.function(embeddings=batch.rows, labels=batch.labels, **more)
        return groups_by(lambda: found, False), 0
    own = batch if references is not None else replace(batch, ids=list(range(len(batch.rows))))
    anchors = [a for a in anchors_of(subject.similarity, own, own if references is None else references) if a is not None]
    if spec.form == "anchors":
        return groups_by(lambda: spec.function(anchors=anchors), not anchors), 0
    needs = needs_of(subject)
    groups = [spec.of_anchor(a, needs) for a in anchors]
    pairs = sum(len(a.s_n) + len(a.s_p) for a, g in zip(anchors, groups, strict=True) if g[0])
    terms = max((len(g) for g in groups), default=1)
    return tuple([v for g in groups for v in (g[k] if k < len(g) else [])] for k in range(terms)), pairs


def needs_of(subject: Subject) -> tuple[bool, bool]:
    """Whether an anchor without positives, or without negatives, is left out."""
    if subject.is_loss:
        return subject.loss.needs_positives, subject.loss.needs_negatives
    return subject.tags.needs_positives is not False, subject.tags.needs_negatives is not False


def by_spec(subject: Subject, batch: Points, references: Points | None = None, reduction: str | None = None) -> float:
    """The loss of a batch: each term the mean of its groups, the mean of those that are not 0, or the sum."""
    groups, _ = batch_groups(subject, batch, references)
    chosen = reduction or str(getattr(subject.loss, "reduction", "mean"))
    counts = {"sum": [1] * len(groups), "mean_active": [sum(v != 0 for v in term) for term in groups]}
    divisors = counts.get(chosen, [len(term) for term in groups])
    return math.fsum(math.fsum(term) / max(1, divisor) for term, divisor in zip(groups, divisors, strict=True))


def reduced(subject: Subject, anchors: Sequence[Anchor | None]) -> float:
    """The loss of anchors whose scores are given, by the loss itself, one anchor at a time."""
    sums = [subject.totals(a.s_n, a.s_p, a.between) for a in anchors if a is not None]
    if not sums:
        return 0.0
    every = type(sums[0])(*(torch.cat(part).sum(0) for part in zip(*sums, strict=True)))
    return number((every.value.double() / reductions.divisors(subject.loss.reduction, every)).sum())
