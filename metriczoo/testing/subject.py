"""The loss under test, with its specification and its promises, whatever form it came in."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import describe
from metriczoo.losses.base import FunctionLoss, Loss, from_function
from metriczoo.losses.tags import Tags
from metriczoo.reduction import Totals, totals
from metriczoo.scores import Block, Scores, as_scores
from metriczoo.similarity import Cosine, InnerProduct, Similarity
from metriczoo.testing._spec import Spec
from metriczoo.testing.strategies import Batch

__all__ = ["Subject", "pair_weights"]

COSINES, DISTANCES, PRODUCTS = (-1.0, 1.0), (-4.0, 0.0), (-3.0, 3.0)


@dataclass(frozen=True, eq=False)
class Subject:
    """A loss, what it is to compute, and what it promises.

    Args:
        loss: a `metriczoo.losses.Loss`; a function of `(s_n, s_p)`; or any module that is called as `loss(embeddings, labels)`.
        spec: the loss by loops over Python lists, see `check_loss`.
        tags: its promises. Default: the attribute `tags` of the loss, else `Tags()`.
        weights: `(s_n, s_p) -> (dL/ds_n, dL/ds_p)` on lists: the gradient in closed form.
        name: in reports. Default: that of its class or function.
        similarity: of a loss that is not a `Loss`: what its specification takes scores from.
        call: `(loss, embeddings, labels) -> value`, for a module with other arguments.
        domain: least and largest score to be tried. Default: those of its similarity.
    """

    loss: Any
    spec: Callable[..., Any] | None = None
    tags: Tags = None  # type: ignore[assignment]  # None becomes those of the loss
    weights: Callable[[Sequence[float], Sequence[float]], Any] | None = None
    name: str = ""
    similarity: Similarity = None  # type: ignore[assignment]  # None becomes that of the loss
    call: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    domain: tuple[float, float] = None  # type: ignore[assignment]  # None becomes that of the similarity

    def __post_init__(self) -> None:
        given = self.loss
        if isinstance(given, type):
            raise TypeError(f"Expected `loss` to be an instance, but got the class {given.__name__}. Did you mean `{given.__name__}()`?")
        if not isinstance(given, nn.Module):
            if not callable(given):
                raise TypeError(f"Expected `loss` to be a Loss, a module or a function of (s_n, s_p), but got {describe(given)}.")
            object.__setattr__(self, "loss", from_function(given))
        if self.spec is not None:
            Spec(self.spec)  # raises
        inner = given.function if isinstance(given, FunctionLoss) else given
        named = inner.func if isinstance(inner, functools.partial) else inner
        object.__setattr__(self, "name", self.name or getattr(named, "__name__", type(named).__name__))
        object.__setattr__(self, "tags", getattr(given, "tags", None) or Tags() if self.tags is None else self.tags)
        if self.similarity is None:
            object.__setattr__(self, "similarity", getattr(self.loss, "similarity", None) or Cosine())
        if self.domain is None:
            s = self.similarity
            object.__setattr__(self, "domain", DISTANCES if s.is_distance else PRODUCTS if isinstance(s, InnerProduct) else COSINES)

    def __repr__(self) -> str:
        return self.name

    # ---- what it is

    @property
    def is_loss(self) -> bool:
        """Whether it has reductions, executions and references as every `Loss` has."""
        return isinstance(self.loss, Loss)

    @property
    def separable(self) -> bool:
        """Whether it is a sum over anchors."""
        return self.is_loss and bool(self.loss.separable)

    @property
    def tileable(self) -> bool:
        """Whether it runs in tiles."""
        return self.is_loss and bool(self.loss.tileable)

    @functools.cached_property
    def on_scores(self) -> bool:
        """Whether it is a function of scores alone."""
        if not self.is_loss or self.call is not None:
            return False
        low, high = self.domain
        try:
            self.totals([(low + high) / 2], [(low + high) / 2])
        except (ValueError, AssertionError, NotImplementedError):
            return False
        return True

    @functools.cached_property
    def takes_references(self) -> bool:
        """Whether it can be called with references, and is compared with the batch itself without."""
        if self.call is not None or (self.is_loss and self.num_classes is not None):
            return False
        return "references" in inspect.signature(self.loss.forward).parameters

    @functools.cached_property
    def num_classes(self) -> int | None:
        """How many labels it knows; None where any will do."""
        return next((n for m in self._held() if (n := getattr(m, "num_classes", getattr(m, "size", None))) is not None), None)

    @functools.cached_property
    def embedding_dim(self) -> int | None:
        """The only dimension of embeddings that it takes; None where any will do."""
        return next((int(d) for m in self._held() if (d := getattr(m, "embedding_dim", None)) is not None), None)

    def _held(self) -> list[Any]:
        """Its stores, and itself."""
        return [*(v for v in vars(self.loss).values() if not isinstance(v, (Tensor, dict))), *self.loss.modules()]

    # ---- how it is called

    def copy(self, dtype: torch.dtype | None = None, **options: Any) -> Any:
        """The loss as it came, with other options of `Loss`, in a given precision."""
        loss = copy.deepcopy(self.loss)
        for name, value in options.items():
            setattr(loss, name, value)
        return loss if dtype is None or dtype.itemsize < 4 else loss.to(dtype)

    def __call__(self, x: Tensor, labels: Any, references: Any = None, ids: Any = None, **options: Any) -> Tensor:
        """The value of a batch, computed by a fresh copy."""
        return self.value_by(self.copy(x.dtype, **options), x, labels, references, ids)

    def value_by(self, loss: Any, x: Tensor, labels: Any, references: Any = None, ids: Any = None) -> Tensor:
        """The value of a batch by a copy of the loss."""
        if self.call is not None:
            return self.call(loss, x, labels)
        further = {"references": references} if references is not None else {}
        if ids is not None:
            further["ids"] = ids
        value: Tensor = loss(x, labels, **further)
        return value

    def fit(self, batch: Batch) -> Batch:
        """The batch with labels that the loss knows."""
        if self.num_classes is None:
            return batch
        return replace(batch, labels=torch.where(batch.labels < 0, batch.labels, batch.labels % self.num_classes))

    @property
    def dims(self) -> dict[str, Any]:
        """For `strategies.batches`: dimensions that the loss takes."""
        return {} if self.embedding_dim is None else {"min_dim": self.embedding_dim, "max_dim": self.embedding_dim}

    def totals(self, s_n: Any, s_p: Any, between: Any = None) -> Totals:
        """What one anchor with given scores adds up to: lists, tensors `[1, n]` and `[1, p]`, or `Scores`.

        `between` `[p, n]`: scores of its positives to its negatives; by default they are too far apart to matter.
        """
        sets = [s if isinstance(s, (Tensor, Scores)) else torch.tensor([list(s)], dtype=torch.float64) for s in (s_n, s_p)]
        n, p = map(as_scores, sets)
        shape = (p.value.shape[1], n.value.shape[1])
        far = self.domain[0] - 1
        table = n.value.new_full(shape, far) if between is None else torch.as_tensor(between, dtype=n.value.dtype).reshape(shape)
        block = Block(torch.zeros(1, dtype=torch.int64), self.similarity.distance, 4, None, lambda i, _: table[i])
        columns = torch.arange(p.value.shape[1]).unsqueeze(0)
        n = Scores(n.value, n._mask, excluded=n.excluded, num_excluded=n._num_excluded, block=block)
        p = Scores(p.value, p._mask, excluded=p.excluded, num_excluded=p._num_excluded, columns=columns, block=block)
        loss = self.copy(n.value.dtype)
        needs = {"needs_positives": loss.needs_positives, "needs_negatives": loss.needs_negatives}
        return totals(loss.per_anchor(n, p), n, p, torch.ones(1, dtype=torch.bool), **needs)

    def weights_of(self, s_n: Any, s_p: Any, between: Any = None, dtype: torch.dtype = torch.float64) -> tuple[float, Tensor, Tensor]:
        """The loss of one anchor, and its derivatives `[n]` and `[p]`."""
        n, p = (torch.tensor([list(s)], dtype=dtype).requires_grad_() for s in (s_n, s_p))
        total = self.totals(n, p, between).value.sum()
        g_n, g_p = gradients_of(total, n, p)
        return number(total), g_n.flatten(), g_p.flatten()


def number(value: Tensor) -> float:
    """The value of a scalar."""
    return float(value.detach())


def gradients_of(total: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Zeros where the total does not depend on a leaf."""
    if not total.requires_grad:
        return tuple(map(torch.zeros_like, leaves))
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def pair_weights(loss: Any, s_n: Tensor | Scores, s_p: Tensor | Scores) -> tuple[Tensor, Tensor]:
    r"""The weight that a loss gives to each pair: \(\partial L / \partial s_n\) and \(\partial L / \partial s_p\), L summed over anchors.

    To the embeddings, a loss is its pair weights: the sum of similarities times these constants has the same gradient. Looking at them is
    the quickest way to see what a loss does with hard and easy pairs.

    Args:
        loss: a `Loss`, or a function of `(s_n, s_p)`. The similarity and the miner of a loss have no part in it.
        s_n: `[b, n]`: similarities of each anchor to its negatives.
        s_p: `[b, p]`: to its positives.

    Returns:
        `[b, n]`, at least 0 for most losses, and `[b, p]`, at most 0. Cells outside a set have weight 0.

    Raises:
        TypeError: for scores that are no tensors `[b, n]`, and for a loss that is a class.
        ValueError: for a loss that needs more than scores, such as the norms of embeddings.

    Example:
        >>> import torch
        >>> from metriczoo import losses
        >>> w_n, w_p = pair_weights(losses.TripletMarginLoss(margin=0.5), torch.tensor([[0.8, 0.1]]), torch.tensor([[0.9, 0.5]]))
        >>> w_n, w_p
        (tensor([[2., 1.]]), tensor([[-1., -2.]]))

    References:
        Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, 2019, section 3.
    """
    subject = Subject(loss)
    if not subject.is_loss:
        raise TypeError(f"Expected `loss` to be a Loss or a function of (s_n, s_p), but got {describe(loss)}.")
    sets = [as_scores(s) for s in (s_n, s_p)]
    n, p = (
        Scores(s.value.detach().clone().requires_grad_(), s._mask, excluded=s.excluded, num_excluded=s._num_excluded, columns=s.columns)
        for s in sets
    )
    keep = torch.ones(len(n.value), dtype=torch.bool, device=n.value.device)
    needs = {"needs_positives": subject.loss.needs_positives, "needs_negatives": subject.loss.needs_negatives}
    total = totals(subject.loss.per_anchor(n, p), n, p, keep, **needs).value.sum()
    w_n, w_p = gradients_of(total, n.value, p.value)
    return w_n, w_p
