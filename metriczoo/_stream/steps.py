"""What a loss does to scores before it folds them, step by step, on one chunk of references at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from metriczoo.scores import HARMLESS, LOWEST

__all__ = ["Groups", "Map", "Offset", "Step", "filler", "group_size", "owned", "probed", "stepped"]


class Step(Protocol):
    """From the values of a chunk to others. The last column is a spare one, of no set."""

    def __call__(self, value: Tensor, outside: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        """Values `[b, w' + 1]` and the cells outside of the set `[b, e]`, from those before, of the references `chunk`."""
        ...


class Map:
    """An elementwise function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, value: Tensor, outside: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        """The function of each value."""
        result = self.function(value)
        if result.shape != value.shape:
            raise ValueError(f"Expected `f` to keep the shape {list(value.shape)}, but got {list(result.shape)}.")
        return result, outside


class Offset:
    """A number of each reference, `[n]`, which is added to its scores."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.piece: Tensor | None = None  # [w] of the last chunk, a leaf

    def __call__(self, value: Tensor, outside: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        """The sums."""
        piece = self.x.detach()[chunk]
        if torch.is_grad_enabled() and self.x.requires_grad:
            self.piece = piece = piece.requires_grad_()
        return value + pad(piece.to(value.dtype), (0, 1)), outside


class Groups:
    """A fold of each `size` adjacent cells: a chunk holds whole groups."""

    def __init__(self, size: int, fold: Callable[[Tensor], Tensor]) -> None:
        self.size, self.fold = size, fold

    def __call__(self, value: Tensor, outside: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        """One value per group. A group is outside where all of its cells are."""
        folded = self.fold(value[:, :-1].unflatten(1, (-1, self.size)).mT.contiguous())
        spare = folded.shape[1]
        folded = pad(folded, (0, 1), value=LOWEST)
        group = outside // self.size
        return folded, torch.where(folded.detach().gather(1, group) > LOWEST / 2, spare, group)


def stepped(steps: Sequence[Step], value: Tensor, outside: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """The values that are folded, and the cells outside, from scores that hold `filler(steps)` there."""
    for number, step in enumerate(steps):
        if isinstance(step, Groups) and number:
            value = value.scatter(1, outside, LOWEST)
        value, outside = step(value, outside, chunk)
        if isinstance(step, Groups):
            value = value.scatter(1, outside, HARMLESS)
    return value, outside


def filler(steps: Sequence[Step]) -> float:
    """What the cells outside of the set hold before the first step."""
    return LOWEST if steps and isinstance(steps[0], Groups) else HARMLESS


def group_size(steps: Sequence[Step]) -> int:
    """Of how many references a chunk has to hold a multiple; 0 where there is no such number."""
    sizes = {step.size for step in steps if isinstance(step, Groups)}
    return 0 if len(sizes) > 1 else max(sizes, default=1)


def probed(steps: Sequence[Step], like: Tensor) -> Tensor:
    """`[b, 1]`: a value whose graph says what the steps hold, for as many anchors as `like` has rows."""
    size = group_size(steps)
    outside = torch.full((len(like), 1), size, device=like.device)
    return stepped(steps, like.new_full((len(like), size + 1), HARMLESS), outside, slice(0, size))[0][:, :1]


def owned(value: Tensor, scores: Tensor) -> Tensor:
    """`value` with storage that may be written to: a map may have returned a number of its own, made wide."""
    return value if value is scores or 0 not in value.stride() else value.clone(memory_format=torch.contiguous_format)
