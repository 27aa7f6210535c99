"""`Scores`: the scores of a block of anchors to one set of references, and the mask-safe folds over it.

A loss is written with folds and never sees how a set is stored. There are two ways, and a fold gives the same result for both:

* by `mask`: `value[i, j]` belongs to the set of anchor `i` where `mask[i, j]`;
* by `excluded`: every column belongs to the set but the few that `excluded[i]` lists. No array of the size of the block is needed for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from metriczoo._logsumexp import logsumexp

__all__ = ["HARMLESS", "LOWEST", "Block", "Scores", "Terms", "as_scores", "one_each"]

# What a cell outside the set holds before a loss maps it. It is an ordinary value of a cosine, of an inner product and of a negated
# distance, where square roots, logarithms and arc cosines have finite derivatives: the derivative of a map is never taken at a self-pair.
HARMLESS = -0.5

# What a cell outside the set holds where groups of cells are folded: below all scores, and without weight beside any.
LOWEST = -1e18


class Terms:
    """Sums over the pairs or triplets of each anchor, for a loss that averages over those rather than over anchors.

    Args:
        total: `[b]`, sum of the loss over the anchor's pairs or triplets.
        count: `[b]`, how many pairs or triplets there are.
        active: `[b]`, how many of them have a loss other than 0; or a function that counts them, for a reduction that asks.
    """

    __slots__ = ("_active", "count", "total")

    def __init__(self, total: Tensor, count: Tensor, active: Tensor | Callable[[], Tensor]) -> None:
        self.total, self.count, self._active = total, count, active

    @property
    def active(self) -> Tensor:
        """`[b]`: how many pairs or triplets have a loss other than 0."""
        if not callable(self._active):
            return self._active
        with torch.no_grad():
            return self._active()

    def __repr__(self) -> str:
        return f"Terms(total={self.total}, count={self.count}, active={self.active})"


@dataclass(frozen=True, eq=False)
class Block:
    """Where a block of scores comes from: what a miner or a loss may know beyond the scores themselves."""

    rows: Tensor  # [b] position of each anchor in the batch
    distance: Callable[[Tensor], Tensor]  # Euclidean distance of the points that have a given score
    embedding_dim: int | None = None
    seed: Tensor | None = None  # [] int64, one per forward call: randomness that does not depend on how the batch is cut
    between: Callable[[Tensor, Tensor | None], Tensor] | None = (
        None  # (i [g], j [g, k], [k] or None) -> scores of references i to references j, each to its own or all to the same, or to all
    )
    positions: Tensor | None = None  # [n + 1] int64: which reference of the call each one is, where some were left out
    facts: tuple[Any, ...] = ()  # what `Loss.facts` fixed for the call
    peers: int | None = None  # the first anchor, where anchors are the references and a block holds all of the classes in it
    kin: slice | None = None  # which references are the class of the anchors, where these are a part of it, in the order of classes
    pooled: Tensor | None = None  # what `Loss.pool` made of all anchors of the call, where these are not all of them

    def but(self, **changes: Any) -> Block:
        """The same with other values of some fields. PyTorch 2.6 cannot trace `dataclasses.replace`."""
        return Block(**{**{name: getattr(self, name) for name in _FIELDS}, **changes})


_FIELDS = tuple(field.name for field in fields(Block))


class Scores:
    """Scores of `b` anchors to a set of references, larger = closer.

    Args:
        value: `[b, n]`. Cells outside the set hold any finite value.
        mask: `[b, n]` bool, the cells that belong to the set. Default: all.
        excluded: `[b, e]` int64, columns that do not belong to the set, repeats allowed: in place of `mask`.
        num_excluded: `[b]` how many different columns `excluded` lists.
        num: `[b]` int64, how many cells belong to the set, where that is known. Default: they are counted where it is asked for.
        columns: `[b, n]` int64, which reference each cell scores. Default: cell `j` scores reference `j`.
        block: where the scores come from.
        harmless: whether the cells outside the set are known to hold `HARMLESS`.
        some: whether every anchor is known to have a cell in the set.

    Example:
        >>> s = Scores(torch.tensor([[0.5, 0.1], [0.3, 0.2]]), torch.tensor([[True, True], [False, False]]))
        >>> s.max()
        tensor([0.5000,   -inf])
        >>> s.map(lambda v: 10 * v).sum()
        tensor([6., 0.])
    """

    __slots__ = ("_mask", "_num", "_num_excluded", "block", "columns", "excluded", "harmless", "some", "value")

    def __init__(
        self,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        excluded: Tensor | None = None,
        num_excluded: Tensor | None = None,
        num: Tensor | None = None,
        columns: Tensor | None = None,
        block: Block | None = None,
        harmless: bool = False,
        some: bool = False,
    ) -> None:
        if mask is not None and mask.shape != value.shape:
            raise ValueError(f"Expected `mask` to have the shape of `value`, {list(value.shape)}, but got {list(mask.shape)}.")
        if excluded is not None and (mask is not None or num_excluded is None):
            raise ValueError("Expected `excluded` to come with `num_excluded` and without `mask`.")
        self.value, self._mask, self.excluded, self._num_excluded, self._num = value, mask, excluded, num_excluded, num
        self.columns, self.block, self.harmless, self.some = columns, block, harmless, some

    def __repr__(self) -> str:
        return f"Scores({self.value.shape[0]} anchors x {self.value.shape[1]} references)"

    @property
    def height(self) -> int:
        """How many anchors there are."""
        return self.value.shape[0]

    @property
    def mask(self) -> Tensor:
        """`[b, n]` bool: which cells belong to the set."""
        if self._mask is not None:
            return self._mask
        everything = torch.ones(self.value.shape, dtype=torch.bool, device=self.value.device)
        return everything if self.excluded is None else everything.scatter(1, self.excluded, False)

    @property
    def facts(self) -> tuple[Any, ...]:
        """What `Loss.facts` of the loss that made these scores gave for the call.

        Raises:
            ValueError: for scores that no such loss has made.
        """
        if self.block is None or not self.block.facts:
            raise ValueError(
                "Expected scores that this loss has made, since it needs more than scores, but these come from elsewhere: "
                "call the loss on embeddings and labels, or use its function in `metriczoo.functional`."
            )
        return self.block.facts

    def of_anchors(self, x: Tensor) -> Tensor:
        """`[b, ...]`: of a fact about all anchors of the call, `[N, ...]`, the rows of these scores. A miner may have split anchors."""
        assert self.block is not None
        rows = self.height
        own = x[self.block.rows]
        return own if len(own) == rows else own.repeat_interleave(rows // max(1, len(own)), 0, output_size=rows)

    def of_references(self, x: Tensor) -> Tensor:
        """`[b, n]`: of a fact about all references of the call, `[n]`, that of the reference in each cell; 0 for a cell without."""
        if self.columns is not None:
            return pad(x, (0, 1))[self.columns]
        return pad(x, (0, self.value.shape[1] - len(x))).expand_as(self.value)

    def _with(self, value: Tensor) -> Scores:
        same = Scores(value, self._mask, columns=self.columns, block=self.block, some=self.some)
        same.excluded, same._num_excluded, same._num = self.excluded, self._num_excluded, self._num
        return same

    def fill(self, outside: float) -> Tensor:
        """`[b, n]`: the values, and `outside` in the cells that do not belong to the set."""
        if self.excluded is not None:
            return self.value.scatter(1, self.excluded, outside)
        return self.value if self._mask is None else torch.where(self._mask, self.value, outside)

    def fill_(self, value: Tensor, outside: float) -> Tensor:
        """`value` `[b, n]`, any, with `outside` written into the cells that do not belong to the set."""
        if self.excluded is not None:
            return value.scatter_(1, self.excluded, outside)
        return value if self._mask is None else value.masked_fill_(~self._mask, outside)

    def map(self, f: Callable[[Tensor], Tensor]) -> Scores:
        """The same set with `f`, an elementwise function, applied to its values."""
        value = f(self.value if self.harmless else self.fill(HARMLESS))
        if value.shape != self.value.shape:
            raise ValueError(f"Expected `f` to keep the shape {list(self.value.shape)}, but got {list(value.shape)}.")
        return self._with(value)

    def offset(self, x: Tensor) -> Scores:
        """The same set with `x[j]`, of a fact about all references of the call, `[n]`, added to the scores of each reference `j`."""
        return self._with(self.value + self.of_references(x))

    def groups(self, size: int, fold: Callable[[Tensor], Tensor]) -> Scores:
        """A cell for each `size` adjacent cells, of those that have one in the set; any that are left over at the end must have none.

        `fold` makes `[b, n]` of `[b, size, n]`, in which cells outside the set hold `LOWEST`; of no other cells it must make `LOWEST`.
        """
        n = self.value.shape[1] // size
        folded = fold(self.fill(LOWEST)[:, : n * size].unflatten(1, (n, size)).mT.contiguous())
        there = folded > LOWEST / 2
        return Scores(torch.where(there, folded, HARMLESS), there, block=self.block)

    def where(self, keep: Tensor) -> Scores:
        """The subset of the cells where `keep` `[b, n]` (or `[b, 1]`) is true."""
        return Scores(self.value, self.mask & keep, columns=self.columns, block=self.block)

    def take(self, cells: Tensor, keep: Tensor) -> Scores:
        """The cells `cells[i]` of each anchor `i`, `[b, k]` int64, of which those with `keep` `[b, k]` belong to the set."""
        columns = cells if self.columns is None else self.columns.gather(1, cells)
        return Scores(self.value.gather(1, cells), keep, columns=columns, block=self.block)

    def split(self) -> Scores:
        """Every cell as an anchor of its own: `[b * n, 1]`. With it a miner makes one group of each pair (anchor, positive)."""
        columns = None if self.columns is None else self.columns.reshape(-1, 1)
        if columns is None:
            b, n = self.value.shape
            columns = torch.arange(n, device=self.value.device).repeat(b).unsqueeze(1)
        return Scores(self.value.reshape(-1, 1), self.mask.reshape(-1, 1), columns=columns, block=self.block)

    def count(self) -> Tensor:
        """`[b]` int64: how many cells belong to the set."""
        if self._num is None:
            if self._num_excluded is not None:
                self._num = self.value.shape[1] - self._num_excluded
            elif self._mask is not None:
                self._num = self._mask.sum(1)
            else:
                self._num = torch.full((self.value.shape[0],), self.value.shape[1], dtype=torch.int64, device=self.value.device)
        return self._num

    def sum(self) -> Tensor:
        """`[b]`: sum; 0 for an empty set."""
        return self.fill(0.0).sum(1)

    def mean(self) -> Tensor:
        """`[b]`: mean; 0 for an empty set."""
        return self.sum() / self.count().clamp(min=1)

    def max(self) -> Tensor:
        """`[b]`: largest value; -inf for an empty set. Equal largest values share the gradient."""
        return self._extreme(-math.inf, largest=True)

    def min(self) -> Tensor:
        """`[b]`: smallest value; +inf for an empty set. Equal smallest values share the gradient."""
        return self._extreme(math.inf, largest=False)

    def _extreme(self, empty: float, largest: bool) -> Tensor:
        if self.value.shape[1] == 0:
            return self.value.sum(1) + empty  # attached to the graph
        filled = self.fill(empty)
        return filled.amax(1) if largest else filled.amin(1)

    def logsumexp(self, scale: float | Tensor = 1.0) -> Tensor:
        """`[b]`: log of the sum of exponentials of `scale > 0` times the values; -inf for an empty set, with gradient 0."""
        if self.value.shape[1] == 0:
            return self.value.sum(1) - math.inf  # attached to the graph
        return logsumexp(self.value, self.excluded, self._mask, scale)

    def topk(self, k: int, *, largest: bool = True) -> Scores:
        """The `k` largest (or smallest) values of each anchor; fewer where the set has fewer."""
        k = min(k, self.value.shape[1])
        with torch.no_grad():
            filled = self.fill(-math.inf if largest else math.inf)
            cells = filled.topk(k, dim=1, largest=largest).indices
            keep = filled.gather(1, cells).isfinite()
        return self.take(cells, keep)


@lru_cache(maxsize=16)
def one_each(n: int) -> Tensor:
    """`[n]` int64 of 1 on the host: one tensor for all calls, by which it is known what it holds, and which is never written."""
    with torch.inference_mode(False):
        return torch.ones(n, dtype=torch.int64, device="cpu")


def as_scores(value: Tensor | Scores) -> Scores:
    """`value` as `Scores`: a plain tensor `[b, n]` is a set in which every cell belongs."""
    if isinstance(value, Scores):
        return value
    if not isinstance(value, Tensor) or value.dim() != 2 or not value.is_floating_point():
        raise TypeError(
            f"Expected scores to be a floating-point tensor of shape [b, n] or `Scores`, but got {type(value).__name__} {value!r:.80}."
        )
    return Scores(value if value.dtype.itemsize >= 4 else value.float())
