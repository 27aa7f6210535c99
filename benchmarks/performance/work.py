"""Works: what is measured, by which libraries, and when their outcomes are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["BATCH", "DIM", "OURS", "PER_CLASS", "Make", "Maker", "Step", "Work", "labels_of", "points"]

DIM = 128
PER_CLASS = 4
BATCH = 256  # anchors, where the size of a work is a number of classes or of rows of a bank
OURS = "metriczoo"


@dataclass(frozen=True, eq=False)
class Step:
    """One call that is measured.

    Attributes:
        forward: the call; it returns a tensor, or whatever else where nothing is compared.
        leaves: what it is differentiated by, in an order that all libraries share. Without any, it runs under `no_grad`.
        compared: how many of their gradients are the same in all libraries. Default: all.
    """

    forward: Callable[[], Any]
    leaves: tuple[Tensor, ...] = ()
    compared: int | None = None

    def run(self) -> tuple[Any, tuple[Tensor | None, ...]]:
        """Value and gradients."""
        if not self.leaves:
            with torch.no_grad():
                return self.forward(), ()
        value = self.forward()
        return value, torch.autograd.grad(value, self.leaves, allow_unused=True)


Make = Callable[[int, torch.dtype], Step]  # from the size; equal data for all libraries


@dataclass(frozen=True, eq=False)
class Maker:
    """How a library does a work: `expression` says it to a reader."""

    make: Make
    expression: str


@dataclass(frozen=True, eq=False)
class Work:
    """Something that libraries do.

    Attributes:
        name: that nothing else has.
        family: with which it is shown.
        makers: by library.
        scores: the shape of the scores of a size. The time of the matrix products that give such scores, and gradients from them, is the
            unit of the ratio. None: the work has no such product.
        checks: what is compared in place of the works themselves, by library.
        tolerance: largest relative difference, in float64, to which outcomes are equal.
        uncompared: why outcomes are not compared, if they are not.
        max_size: beyond which the suite does not measure it unless asked to.
        elements: of a size, how many sigmoids or the like its definition has beside the scores. With the matrix products, they are the
            floor of a loss on ranks. None: the scores are all there is to it.
    """

    name: str
    family: str
    makers: Mapping[str, Maker]
    scores: Callable[[int], tuple[int, int]] | None = None
    checks: Mapping[str, Make] = field(default_factory=dict)
    tolerance: float = 1e-8
    uncompared: str = ""
    max_size: int | None = None
    elements: Callable[[int], int] | None = None


def points(n: int, dtype: torch.dtype, *, seed: int = 0, grad: bool = True, per_class: int = PER_CLASS) -> Tensor:
    """Embeddings `[n, DIM]` of the classes that `labels_of` names: cosines are near 0.43 in a class, and near 0.28 between classes."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, DIM, generator=generator)
    classes = torch.randn(-(-n // per_class), DIM, generator=generator)
    x = 0.7 * common + 0.5 * classes[labels_of(n, per_class=per_class)] + torch.randn(n, DIM, generator=generator)
    return x.to(dtype).requires_grad_(grad)


def labels_of(n: int, *, per_class: int = PER_CLASS, shuffle: bool = True) -> Tensor:
    """Labels `[n]` of classes of `per_class` points each."""
    y = torch.arange(n) // per_class
    return y[torch.randperm(n, generator=torch.Generator().manual_seed(n))] if shuffle else y
