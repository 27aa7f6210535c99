"""Relations: which pairs are positive and which negative where labels are more than one number per point.

A relation is given to a loss as `relation=`, and is called on the labels of a block of anchors and of references. Losses, miners and
reductions then see sets of scores, as ever.

Stores, proxies and class samplers know one number per point. `Lookup` takes such numbers for rows of a table of labels, so that relations
work with them, too.

Example:
    >>> from metriczoo.relations import Jaccard, SharedLabel
    >>> import torch
    >>> from metriczoo.losses import TripletMarginLoss
    >>> tags = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
    >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    >>> TripletMarginLoss(relation=SharedLabel())(x, tags)
    tensor(0.)
    >>> TripletMarginLoss(relation=Jaccard(0.5, negative_threshold=0.0))(x, tags)
    tensor(0.)
    >>> TripletMarginLoss(relation=Jaccard(0.5))(x, tags)
    tensor(0.0900)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import check_count, check_number, describe
from metriczoo._execution import checking, full_precision

__all__ = ["Hierarchy", "Jaccard", "Lookup", "SharedLabel"]


@dataclass(frozen=True)
class SharedLabel:
    """Several labels per point: a pair is positive if it shares enough of them, and negative otherwise.

    Labels are `[n, k]`, of any dtype: point `i` has label `c` where entry `[i, c]` is above 0. A row with an entry below 0 is unknown: its
    point is neither positive nor negative. A row of zeros has no label and shares none.

    Args:
        count: how many labels must be shared, >= 1.

    Example:
        >>> import torch
        >>> tags = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, -1]])
        >>> positive, negative = SharedLabel()(tags[:1], tags)
        >>> positive, negative
        (tensor([[ True,  True, False, False]]), tensor([[False, False,  True, False]]))

    Relations:
        `Jaccard` compares what is shared with all that both have.
    """

    count: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count("count", self.count))

    def __call__(self, anchors: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Positives and negatives, `[b, n]` bool, of labels `[b, k]` and `[n, k]`."""
        shared, _, known = _overlap(anchors, references)
        positive = shared >= self.count
        return positive & known, ~positive & known


@dataclass(frozen=True)
class Jaccard:
    r"""Several labels per point: a pair is positive if the share of common labels among all labels of both is large.

    .. math:: J(x, y) = \frac{\lvert x \cap y \rvert}{\lvert x \cup y \rvert}, \qquad
              \text{positive: } J \ge t_p, \qquad \text{negative: } J < t_p, \text{ or } J \le t_n \text{ if there is a } t_n

    Labels are as of `SharedLabel`. Two points without any label have J = 0.

    Args:
        positive_threshold: t_p in (0, 1]; 1 asks for equal sets.
        negative_threshold: t_n in [0, t_p): pairs between both are neither positive nor negative. Default: there is no such band.

    Raises:
        ValueError: of thresholds out of range.

    Example:
        >>> import torch
        >>> tags = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]])  # J = 1, 2/3, 1/3 and 0 with the first
        >>> Jaccard(0.6, negative_threshold=0.2)(tags[:1], tags)
        (tensor([[ True,  True, False, False]]), tensor([[False, False, False,  True]]))

    Relations:
        `SharedLabel` takes any overlap for a positive, however many labels the two points have that are not shared.
    """

    positive_threshold: float = 0.5
    negative_threshold: float | None = None

    def __post_init__(self) -> None:
        high = check_number("positive_threshold", self.positive_threshold, low=0, high=1, open_low=True)
        object.__setattr__(self, "positive_threshold", high)
        if self.negative_threshold is not None:
            low = check_number("negative_threshold", self.negative_threshold, low=0, high=high, open_high=True)
            object.__setattr__(self, "negative_threshold", low)

    def __call__(self, anchors: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Positives and negatives, `[b, n]` bool, of labels `[b, k]` and `[n, k]`."""
        shared, total, known = _overlap(anchors, references)
        index = shared / total.clamp(min=1)  # right to the last digit, so that a quotient equals the same one given as a threshold
        positive = index >= self.positive_threshold
        negative = ~positive if self.negative_threshold is None else index <= self.negative_threshold
        return positive & known, negative & known


@dataclass(frozen=True)
class Hierarchy:
    """Labels on several levels, such as order, family and species: a pair is positive if it agrees down to a level.

    Labels are integers `[n, levels]`, from the coarsest to the finest. Two points agree down to a level if they have equal labels on it and
    on all coarser ones, so the numbers of a level need not differ from branch to branch. A label below 0 is unknown: a pair is positive
    only if it is known to agree, and negative only if it is known to differ.

    Args:
        level: down to which level positives agree; as an index of the levels, so that -1 is the finest.
        negative_level: negatives differ on this level or a coarser one: it must not be finer than `level`. Pairs that agree so far and are
            not positive are then neither. Default: `level`, so that a pair is one or the other.

    Raises:
        ValueError: of a level that is finer for negatives than for positives.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0], [0, -1]])
        >>> Hierarchy()(labels[:1], labels)
        (tensor([[ True,  True, False, False, False]]), tensor([[False, False,  True,  True, False]]))
        >>> Hierarchy(negative_level=0)(labels[:1], labels)
        (tensor([[ True,  True, False, False, False]]), tensor([[False, False, False,  True, False]]))
        >>> Hierarchy(level=0)(labels[:1], labels)
        (tensor([[ True,  True,  True, False,  True]]), tensor([[False, False, False,  True, False]]))

    Relations:
        With one level it is equality of labels. A `SumLoss` of losses with different levels teaches all of them.
    """

    level: int = -1
    negative_level: int | None = None

    def __post_init__(self) -> None:
        for name in ("level", "negative_level"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"Expected `{name}` to be a whole number, but got {describe(value)}.")
        if self.negative_level is not None and (self.level < 0) == (self.negative_level < 0) and self.negative_level > self.level:
            raise self._finer()

    def _finer(self) -> ValueError:
        return ValueError(f"Expected `negative_level` not to be finer than `level`, {self.level}, but got {self.negative_level}.")

    def __call__(self, anchors: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """Positives and negatives, `[b, n]` bool, of labels `[b, levels]` and `[n, levels]`."""
        _check_labels(anchors, references, "levels")
        levels = anchors.shape[1]
        deep = self._place("level", self.level, levels)
        shallow = deep if self.negative_level is None else self._place("negative_level", self.negative_level, levels)
        if shallow > deep:
            raise self._finer()
        positive = torch.ones(len(anchors), len(references), dtype=torch.bool, device=anchors.device)
        negative = torch.zeros_like(positive)
        for k in range(deep + 1):
            x, y = anchors[:, k].unsqueeze(1), references[:, k]
            same, known = x == y, (x >= 0) & (y >= 0)
            positive = positive & same & known
            if k <= shallow:
                negative = negative | (~same & known)
        return positive, negative

    @staticmethod
    def _place(argument: str, level: int, levels: int) -> int:
        if not -levels <= level < levels:
            raise ValueError(f"Expected `{argument}` to be one of {levels} levels, those of the labels, but got {level}.")
        return level % levels


class Lookup(nn.Module):
    """A relation on rows of a table of labels: the labels of points are then single numbers, as stores and proxies have them.

    Labels are `[n]` integers. In a table with a row per class they are classes; with a row per sample of a data set, numbers of samples. A
    label below 0 is ignored, as without a relation.

    The table belongs to the loss: it moves to a device with it, and is no part of its `state_dict`.

    Args:
        table: `[N, ...]`, labels as the relation takes them: a tensor, or nested sequences of numbers.
        relation: a relation.

    Raises:
        TypeError: if the relation is not callable.
        ValueError: of a table without columns, and of labels beyond the table. Labels on an accelerator are looked at only if
            `metriczoo.settings.check_values` says so.

    Example:
        >>> import torch
        >>> from metriczoo.losses import CircleLoss
        >>> from metriczoo.stores import MemoryBank
        >>> families = Lookup([[0, 0], [0, 1], [1, 2]], Hierarchy(negative_level=0))  # three classes in two families
        >>> families(torch.tensor([0]), torch.tensor([0, 1, 2]))
        (tensor([[ True, False, False]]), tensor([[False, False,  True]]))
        >>> loss, bank = CircleLoss(relation=families), MemoryBank(4, 2, labels=[0, 1, 2, 2])
        >>> loss(torch.eye(2), [0, 2], bank) > 0
        tensor(True)
    """

    table: Tensor

    def __init__(self, table: Any, relation: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        if not callable(relation):
            raise TypeError(f"Expected `relation` to be callable on two label blocks, but got {describe(relation)}.")
        rows = torch.as_tensor(table)
        if rows.dim() < 2 or not len(rows):
            raise ValueError(f"Expected `table` to be of shape [N, ...] with a row of labels for each number, but got {describe(table)}.")
        self.register_buffer("table", rows, persistent=False)
        self.relation = relation

    def forward(self, anchors: Tensor, references: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What the relation says of the rows `anchors` `[b]` and `references` `[n]`."""
        return self.relation(self._rows(anchors), self._rows(references))

    def _rows(self, labels: Tensor) -> Tensor:
        if labels.dim() != 1:
            raise ValueError(f"Expected labels of shape [n], numbers of rows of the table, but got {describe(labels)}.")
        if len(labels) and checking(labels) and int(labels.max()) >= len(self.table):
            raise ValueError(f"Expected labels below {len(self.table)}, the number of rows of the table, but got {int(labels.max())}.")
        return self.table.to(labels.device)[labels.clamp(min=0)]

    def extra_repr(self) -> str:
        """Shape of the table, and a relation that is no module."""
        own = "" if isinstance(self.relation, nn.Module) else f", relation={self.relation}"
        return f"table={list(self.table.shape)}{own}"


def _check_labels(anchors: Tensor, references: Tensor, columns: str) -> None:
    if anchors.dim() != 2 or references.dim() != 2 or anchors.shape[1] != references.shape[1] or not anchors.shape[1]:
        raise ValueError(
            f"Expected labels of shape [n, {columns}], as wide for references as for anchors, but got {describe(anchors)} for anchors and "
            f"{describe(references)} for references. Stores keep one number per point: wrap the relation in `Lookup`."
        )


def _overlap(anchors: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[b, n]`: how many labels both have, how many either has, and whether both are known."""
    _check_labels(anchors, references, "k")
    x, y = ((labels > 0).float() for labels in (anchors, references))
    with full_precision(x):
        shared = x @ y.T  # counts: exact up to 2^24
    total = x.sum(1).unsqueeze(1) + y.sum(1) - shared
    known = (anchors >= 0).all(1).unsqueeze(1) & (references >= 0).all(1)
    return shared, total, known
