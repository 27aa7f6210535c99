"""The body of a tile: from the scores of a block of anchors to the sums of each term of the loss, eagerly or by `torch.compile`.

Only the body is compiled. Products of points stay outside, since no compiler makes them faster. Each term is a function of its own, since
the gradient of one would else take the passes of all; and each loss has its own functions, since the programs that one function was
compiled to are tried one after another.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._functorch import config
from torch.nn import functional as F

from metriczoo._execution import reads_are_free
from metriczoo._strata import stratified
from metriczoo.reduction import Totals, totals_apart
from metriczoo.scores import HARMLESS, Block, Scores
from metriczoo.similarity import Similarity

if TYPE_CHECKING:
    from metriczoo.losses.base import Loss

__all__ = ["apart", "between_references", "compiled_apart", "compiling", "sets", "terms"]

Strata = tuple[int, float]
_Parts = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, bool]


def apart(loss: Loss, s_n: Scores, s_p: Scores, keep: Tensor | int, strata: Strata | None) -> list[Totals]:
    """What the anchors of a block add up to, term by term; those where `keep` `[b]` is false add nothing. An int: so many, and all do."""
    return terms(loss, *sets(loss, s_n, s_p, keep, strata), keep)


def sets(loss: Loss, s_n: Scores, s_p: Scores, keep: Tensor | int, strata: Strata | None) -> tuple[Scores, Scores]:
    """The scores that the loss is to see."""
    if isinstance(keep, Tensor) and not loss.separable and not (reads_are_free(keep) and bool(keep.all())):
        # No anchor may see one that is ignored.
        column = keep.unsqueeze(1)
        s_n, s_p = s_n.where(column), s_p.where(column)
    if strata is not None:
        s_n = stratified(s_n, *strata)
    if loss.miner is not None:
        s_n, s_p = loss.miner(s_n, s_p)
    return s_n, s_p


def terms(loss: Loss, s_n: Scores, s_p: Scores, keep: Tensor | int) -> list[Totals]:
    """What `apart` does with the scores that the loss is to see."""
    result = loss.per_anchor(s_n, s_p)
    needs = {"needs_positives": loss.needs_positives, "needs_negatives": loss.needs_negatives}
    return totals_apart(result, s_n, s_p, keep, **needs, reduction=loss.reduction)


def between_references(similarity: Similarity, r: Tensor, width: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """`Block.between` of prepared references `r` `[n, d]`, for blocks of `width` columns."""

    def between(i: Tensor, j: Tensor | None) -> Tensor:
        if not len(r):
            return r.new_full((len(i), width if j is None else j.shape[-1]), HARMLESS)
        i = i.clamp(max=len(r) - 1)  # the spare column belongs to no set: any score will do
        if j is not None and j.dim() == 1:
            return similarity.score(r[i], r[j])
        if j is not None:
            return similarity.score(r[i].unsqueeze(1), r[j.clamp(max=len(r) - 1)]).squeeze(1)
        return F.pad(similarity.score(r[i], r), (0, width - len(r)), value=HARMLESS)

    return between


# ---- compiled

_BACKEND = "inductor"
_numbers = itertools.count()
_bodies: WeakKeyDictionary[Loss, list[Callable[..., tuple[Tensor, ...]]]] = WeakKeyDictionary()
_distances: WeakKeyDictionary[Loss, Callable[[Tensor], Tensor]] = WeakKeyDictionary()


def compiled_apart(loss: Loss, s_n: Scores, s_p: Scores, keep: Tensor, strata: Strata | None) -> list[Totals]:
    """`apart` compiled where it was not yet for such a loss and such shapes.

    Raises:
        RuntimeError: if it cannot be compiled.
    """
    block = s_n.block
    assert block is not None
    if loss not in _bodies:
        with torch.no_grad():  # what is wrong with the loss itself is raised here, as it would be in eager execution
            count = len(apart(loss, s_n, s_p, keep, strata))
        with _naming_compile(loss):
            _bodies[loss] = [_compile(loss) for _ in range(count)]
    if _distances.get(loss) != block.distance:
        _distances[loss] = block.distance
    # A bound method is made anew where it is asked for: PyTorch 2.6 would compile for each.
    block, wide, narrow = block.but(distance=_distances[loss]), _parts(s_n), _parts(s_p)
    bodies = _bodies[loss]
    with _quiet_of_grad(s_n.value), compiling(loss, len(bodies)):
        return [Totals(*body(loss, k, wide, narrow, block, keep, strata)) for k, body in enumerate(bodies)]


def _compile(loss: Loss) -> Callable[..., tuple[Tensor, ...]]:
    # What it is compiled to is kept with the code, and which sizes vary by its name.
    code = _body.__code__.replace(co_name=f"{type(loss).__name__}_{next(_numbers)}")
    own = FunctionType(code, _body.__globals__)
    compiled: Callable[..., tuple[Tensor, ...]] = torch.compile(own, fullgraph=True, backend=_BACKEND)
    return compiled


@contextlib.contextmanager
def compiling(loss: Loss, num_terms: int) -> Iterator[None]:
    """Around what runs compiled programs, forwards or backwards, since some are compiled when they are first needed."""
    # What a term keeps for backward may not be given away where the graph of the scores is run backwards once for each of several.
    keeping = config.patch(donated_buffer=False) if num_terms > 1 and hasattr(config, "donated_buffer") else contextlib.nullcontext()
    with _naming_compile(loss), keeping:
        yield


@contextlib.contextmanager
def _quiet_of_grad(value: Tensor) -> Iterator[None]:
    """What is compiled for a tensor that is no leaf asks for its `grad`, of which PyTorch warns."""
    if value.is_leaf:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        yield


def _parts(s: Scores) -> _Parts:
    """Scores as tensors. Excluded cells hold -inf, which a compiled program reads faster than a mask and far faster than indices."""
    value = s.value
    if s.excluded is not None:
        if value.is_leaf:
            value.detach().scatter_(1, s.excluded, -math.inf)
        else:
            value = value.scatter(1, s.excluded, -math.inf)
    return value, s._mask, s._num_excluded, s.columns, s.harmless


def _scores(parts: _Parts, block: Block) -> Scores:
    value, mask, num_excluded, columns, harmless = parts
    if num_excluded is not None:
        mask = value > -math.inf
        value = torch.where(mask, value, HARMLESS)
    return Scores(value, mask, num_excluded=num_excluded, columns=columns, block=block, harmless=harmless)


def _body(
    loss: Loss,
    term: int,
    wide: _Parts,
    narrow: _Parts,
    block: Block,
    keep: Tensor,
    strata: Strata | None,
) -> tuple[Tensor, ...]:
    return tuple(apart(loss, _scores(wide, block), _scores(narrow, block), keep, strata)[term])


@contextlib.contextmanager
def _naming_compile(loss: Loss) -> Iterator[None]:
    """Errors of the compiler say which option asked for it."""
    try:
        yield
    except Exception as error:
        if not _of_compiler(error):
            raise
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"Expected the tiles of {type(loss).__name__} to compile, as `compile=True` asks for, but torch.compile failed: {reason:.300} "
            "It needs a C++ compiler on the host, and a platform that it supports; `compile=False` runs without."
        ) from error


def _of_compiler(error: BaseException) -> bool:
    modules = ("torch._dynamo", "torch._inductor", "torch._functorch")
    unsupported = isinstance(error, RuntimeError) and "torch.compile" in str(error)
    return unsupported or any(kind.__module__.startswith(modules) for kind in type(error).__mro__)
