"""What losses on class proxies share: numbers by class, norms, running statistics, and several proxies per class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from metriczoo._checks import describe
from metriczoo._execution import checking
from metriczoo.columns import LabelColumns
from metriczoo.losses.base import Call, Loss
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Similarity, unit
from metriczoo.stores import Proxies

__all__ = ["class_of", "classes_of", "mean_positive", "norm", "norms_of_positives", "of_own_class", "proxy_options", "writable"]


def norm(x: Tensor) -> Tensor:
    """`||x||` along the last dimension, with gradient 0 at 0."""
    return (x * unit(x)).sum(-1)


def norms_of_positives(call: Call) -> Tensor:
    """`[n]`: norms of the prepared references, 0 for those that are no anchor's positives where that can be read."""
    columns = call.columns
    if not isinstance(columns, LabelColumns) or not len(call.points):
        return norm(call.compared)
    cells, there, *_ = columns.tables(slice(0, len(call.prepared)))
    own = cells[there].unique()  # so that the others, which may be a million, cost nothing
    return call.prepared.new_zeros(len(call.points)).index_copy(0, own, norm(call.rows(own)))


def of_own_class(argument: str, x: Tensor, call: Call) -> Tensor:
    """`[N]`: of an argument with one number per class, `[C]`, that of the class of each anchor."""
    labels = call.labels
    if labels.dim() != 1:
        raise ValueError(f"Expected `labels` of shape [n], since classes have a `{argument}` of their own, but got {describe(labels)}.")
    if len(labels) and checking(labels) and int(labels.max()) >= len(x):
        raise ValueError(
            f"Expected `labels` to be less than {len(x)} (`num_classes`), the length of `{argument}`, but got {int(labels.max())}."
        )
    return x[labels.clamp(min=0)]


def writable(loss: Loss) -> bool:
    """Whether a call may update the statistics of `loss`: in training, unless a transform holds its values."""
    if torch.compiler.is_compiling():
        return loss.training
    return loss.training and torch._C._functorch.peek_interpreter_stack() is None and forward_ad._current_level < 0


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


def classes_of(call: Call) -> tuple[int | Tensor, int]:
    """The class of each reference, `[n]` numbers from 0, or how many adjacent references each class has; and how many classes at most."""
    if isinstance(call.references, Proxies):
        return call.references.per_class, call.references.num_classes
    labels = call.columns.labels
    if labels is None or labels.dim() != 1:
        raise ValueError(f"Expected labels of references to be of shape [n], since they are classes, but got {describe(labels)}.")
    ordered, order = labels.sort()
    first = ordered != ordered.roll(1)
    first[:1] = False
    return torch.zeros_like(labels).scatter(0, order, first.cumsum(0)), max(1, len(labels))


def class_of(s: Scores, classes: int | Tensor, num_classes: int) -> int | Tensor:
    """The class of the reference in each cell, `[b, n]`, or how many adjacent cells each has."""
    if isinstance(classes, Tensor):
        return s.of_references(classes)
    return classes if s.columns is None else (s.columns // classes).clamp(max=num_classes - 1)


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
    a, n, columns = call.prepared[rows], len(call.points), call.columns
    if isinstance(columns, LabelColumns) and n:
        cells, there, *_ = columns.tables(rows)
        if cells.shape[1] * call.points.shape[1] <= n:
            return Scores(similarity.score(a.unsqueeze(1), call.rows(cells.clamp(max=n - 1))).squeeze(1), there)
    r = call.compared
    block = Block(torch.arange(len(a), device=a.device), similarity.distance)
    return columns.scores(similarity, a, r, block, rows)[1]
