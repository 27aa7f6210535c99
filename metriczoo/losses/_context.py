"""What a loss may know beyond the scores of an anchor: a few numbers for each anchor, the prepared references, and their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import pad

from metriczoo.columns import Columns, LabelColumns, Points, RelationColumns
from metriczoo.losses._points import by_group
from metriczoo.losses.base import Loss
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Similarity, unit
from metriczoo.stores import Proxies

__all__ = ["Call", "ContextLoss", "class_of", "mean_positive", "norm", "numbers_of", "proxy_options", "reference_norms", "writable"]


class _Classes(NamedTuple):
    """The classes of the references, as numbers from 0."""

    of: Tensor  # [n + 1], with a spare one
    number: int  # how many there may be
    adjacent: int | None  # how many references each class has, where those of a class are adjacent


@dataclass(frozen=True, eq=False)
class _ContextBlock(Block):
    numbers: Tensor | None = None  # [b, k], of the anchors
    references: Tensor | None = None  # [n, d'], prepared
    classes: _Classes | None = None


class _ContextColumns(Columns):
    """Columns whose prepared anchors carry numbers as their last components, with a gradient of their own."""

    def __init__(self, columns: Columns, labels: Tensor) -> None:
        self.columns, self.labels = columns, labels
        self.keep, self.width = columns.keep, columns.width
        self.num_numbers = 0
        self.classes: _Classes | None = None

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        d = a.shape[1] - self.num_numbers
        known = _ContextBlock(**vars(block), numbers=a[:, d:], references=r, classes=self.classes)
        return self.columns.scores(similarity, a[:, :d], r, known, rows)


class Call(NamedTuple):
    """One call of a loss, before it is evaluated."""

    anchors: Tensor  # [N, d]
    labels: Tensor  # [N]
    references: Any  # as given, or the proxies of the loss
    columns: Columns
    prepared: Tensor  # [N, d']
    compared: Tensor  # [n, d']


class ContextLoss(Loss):
    """A loss that knows more than scores. Everything it knows is fixed when it is called, whatever becomes of its buffers later."""

    needs_references: ClassVar[bool] = False  # whether `per_anchor` reads `reference_norms`
    needs_classes: ClassVar[bool] = False  # whether `per_anchor` reads `class_of`

    def numbers(self, call: Call) -> list[Tensor]:
        """Numbers `[N]` of the anchors, or one for all, that `per_anchor` finds in `numbers_of`: once per call."""
        return []

    def _columns(self, anchors: Points, points: Points, prepared: Tensor, compared: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        columns, prepared, compared = super()._columns(anchors, points, prepared, compared)
        labels = points.labels if isinstance(columns, RelationColumns) else points.labels[points.labels >= 0]
        return _ContextColumns(columns, labels), prepared, compared

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.proxies if references is None else references
        columns, prepared, compared = super()._meet(anchors, labels, references, ids)
        assert isinstance(columns, _ContextColumns)
        among = prepared if compared is None else compared
        numbers = self.numbers(Call(anchors, labels, references, columns.columns, prepared, among))
        if not (numbers or self.needs_references or self.needs_classes):
            return columns.columns, prepared, compared
        if self.needs_classes:
            columns.classes = _classes(columns.labels, references)
        columns.num_numbers = len(numbers)
        prepared = torch.cat([prepared, *(number.to(prepared.dtype).expand(len(prepared)).unsqueeze(1) for number in numbers)], dim=1)
        return columns, prepared, among


def proxy_options(
    num_classes: int | None, embedding_dim: int | None, per_class: int | None, default: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Options of `Loss` by which it has `per_class` proxies for each class."""
    given = options.get("proxies")
    if num_classes is not None and embedding_dim is not None and given is None:
        return {**options, "proxies": Proxies(num_classes, embedding_dim, per_class=default if per_class is None else per_class)}
    if per_class is not None and (not isinstance(given, Proxies) or per_class != given.per_class):
        raise ValueError(
            f"Expected `per_class` to be that of `proxies`, or to come with `num_classes` and `embedding_dim`, but got {per_class}."
        )
    return {**options, "num_classes": num_classes, "embedding_dim": embedding_dim}


def _classes(labels: Tensor, references: Any) -> _Classes:
    if isinstance(references, Proxies):
        return _Classes(pad(labels, (0, 1)), references.num_classes, references.per_class)
    if labels.dim() != 1:
        raise ValueError(f"Expected labels of references to be of shape [n], since they are classes, but got {list(labels.shape)}.")
    ordered, order = labels.sort()
    first = ordered != ordered.roll(1)
    first[:1] = False
    return _Classes(pad(torch.zeros_like(labels).scatter(0, order, first.cumsum(0)), (0, 1)), max(1, len(labels)), None)


def _block(s: Scores) -> _ContextBlock:
    if not isinstance(s.block, _ContextBlock):
        raise ValueError(
            "Expected scores that this loss has made, since it needs more than scores, but these come from elsewhere: "
            "call the loss on embeddings, or use its function in `metriczoo.functional`."
        )
    return s.block


def numbers_of(s: Scores) -> tuple[Tensor, ...]:
    """The numbers `[b]` of the anchors whose scores are `s`, one entry for each that `ContextLoss.numbers` gave."""
    numbers = _block(s).numbers
    assert numbers is not None
    return tuple(by_group(number, s) for number in numbers.unbind(1))


def class_of(s: Scores) -> tuple[int | Tensor, int]:
    """The class of the reference in each cell, `[n]` or `[b, n]`, or how many adjacent cells each has, and the number of classes."""
    classes = _block(s).classes
    assert classes is not None
    if s.columns is not None:
        return classes.of[s.columns], classes.number
    return classes.of[: s.value.shape[1]] if classes.adjacent is None else classes.adjacent, classes.number


def reference_norms(s: Scores) -> Tensor:
    """`[b, n]`: norms of the prepared references in each cell."""
    references = _block(s).references
    assert references is not None
    if s.columns is None:
        return norm(references).expand(s.value.shape[0], -1)
    if len(references) == 0:
        return torch.zeros_like(s.value)
    return norm(references[s.columns.clamp(max=len(references) - 1)])


def norm(x: Tensor) -> Tensor:
    """`||x||` along the last dimension, with gradient 0 at 0."""
    return (x * unit(x)).sum(-1)


def writable(loss: Loss) -> bool:
    """Whether a call may update the statistics of `loss`: in training, unless a transform holds its values."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    return loss.training and (torch.compiler.is_compiling() or not transformed)


_BYTES = 2**24  # of the scores that may be held at once


@torch.no_grad()
def mean_positive(similarity: Similarity, call: Call) -> tuple[Tensor, Tensor]:
    """The mean score of all positive pairs, and how many there are."""
    total, count = call.prepared.new_zeros(()), torch.zeros((), dtype=torch.int64, device=call.prepared.device)
    n = max(1, len(call.prepared))
    height = n if torch.compiler.is_compiling() else call.columns.height(_BYTES, call.prepared.element_size())
    for start in range(0, n, height):
        s_p = _positives(similarity, call, slice(start, min(start + height, n)))
        total, count = total + s_p.sum().sum(), count + s_p.count().sum()
    return total / count.clamp(min=1), count


def _positives(similarity: Similarity, call: Call, rows: slice) -> Scores:
    """`s_p` of some anchors; where there are few positives, no other score is computed."""
    a, r, columns = call.prepared[rows], call.compared, call.columns
    if isinstance(columns, LabelColumns) and len(r):
        cells, there, _, _ = columns.tables(rows)
        if cells.shape[1] * r.shape[1] <= len(r):
            return Scores(similarity.score(a.unsqueeze(1), r[cells.clamp(max=len(r) - 1)]).squeeze(1), there)
    block = Block(torch.arange(len(a), device=a.device), similarity.distance)
    return columns.scores(similarity, a, r, block, rows)[1]
