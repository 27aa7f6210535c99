"""Every class of `metriczoo.losses`, each with a way to make it for the batches of a test: nothing that is public is left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metriczoo import losses
from metriczoo.losses import Loss

__all__ = [
    "BATCH",
    "DRAWS",
    "HEADS",
    "KEEPS_SELF",
    "LOSSES",
    "NO_PAIR_NO_LOSS",
    "OTHERS",
    "REGULARIZERS",
    "TWO_VIEWS",
    "C",
    "D",
    "batch",
    "finite",
    "gradient_of",
    "with_ids",
]

C, D = 6, 5  # classes and dimension of class-level losses

OTHERS = (
    "Annealing",
    "Call",
    "FunctionLoss",
    "GradCache",
    "Loss",
    "SumLoss",
    "SymmetricLoss",
    "Tags",
    "from_function",
)  # made of a function, of losses, abstract, or records
TWO_VIEWS = ("BarlowTwinsLoss", "VICRegLoss")
REGULARIZERS = tuple(n for n in losses.__all__ if n.endswith("Regularizer") and n != "ProximalRegularizer")


def _made(kind: type[Loss], *arguments: object) -> Callable[..., Loss]:
    def make(**options: object) -> Loss:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return kind(*arguments, **options)

    return make


def _losses() -> dict[str, Callable[..., Loss]]:
    """Called as `loss(embeddings, labels)`, labels in 0 ... C - 1, embeddings `[n, D]`."""
    found: dict[str, Callable[..., Loss]] = {}
    for name in losses.__all__:
        if name in (*OTHERS, *TWO_VIEWS, *REGULARIZERS):
            continue
        kind = getattr(losses, name)
        if not issubclass(kind, Loss):
            continue  # a test says so
        if name == "HierarchicalSoftmaxLoss":
            found[name] = _made(kind, range(1, C + 1), D)
        else:
            head = next(iter(inspect.signature(kind).parameters)) == "num_classes"
            found[name] = _made(kind, C, D) if head else _made(kind)
    return found


LOSSES = _losses()
HEADS = tuple(
    n for n in LOSSES if n == "HierarchicalSoftmaxLoss" or next(iter(inspect.signature(getattr(losses, n)).parameters)) == "num_classes"
)
BATCH = tuple(n for n in LOSSES if n not in HEADS)  # compare the batch with itself
KEEPS_SELF = ("InstanceLoss", "MagnetLoss", "ProximalRegularizer")  # compare with means of classes, or take labels for rows of a bank
NO_PAIR_NO_LOSS = tuple(
    n for n in BATCH if getattr(losses, n).needs_positives and getattr(losses, n).needs_negatives and n not in KEEPS_SELF
)
DRAWS = ("NegativeSamplingLoss",)  # a value depends on the draws


def batch(seed: int = 0, n: int = 9, *, dtype: torch.dtype = torch.float32, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Generic embeddings `[n, D]` and labels."""
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype), torch.arange(n) % classes


def gradient_of(loss: nn.Module, x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """Value and gradient of the embeddings; the value is attached to the graph."""
    x = x.detach().clone().requires_grad_()
    value = loss(x, *rest)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def finite(value: Tensor, gradient: Tensor) -> None:
    assert value.isfinite().all()
    assert gradient.isfinite().all()


class _WithIds(nn.Module):
    """A loss whose batches have given ids."""

    def __init__(self, loss: nn.Module, ids: Any) -> None:
        super().__init__()
        self.loss, self.ids = loss, ids

    def forward(self, *arguments: Any) -> Tensor:
        return self.loss(*arguments, ids=self.ids)


def with_ids(loss: nn.Module, ids: Any) -> nn.Module:
    """`loss`, called with `ids`."""
    return _WithIds(loss, ids)
