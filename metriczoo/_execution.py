"""How the surrounding program runs us: traced, transformed, or eagerly; and what that allows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "Settings",
    "backward_in_full_precision",
    "checking",
    "full_precision",
    "keep_freed_memory",
    "memory",
    "product",
    "reads_are_free",
    "settings",
    "tracing",
]

_Result = TypeVar("_Result")

_KEPT = 2**24  # bytes; room for the arrays of a tile
_AUTOCAST = {name: torch.amp.is_autocast_available(name) for name in ("cpu", "cuda", "meta", "mps", "xpu")}  # PyTorch 2.6 cannot trace it


@dataclass
class Settings:
    """Defaults of the whole library, to be set once by a program.

    Attributes:
        memory_budget: bytes that the score block of one tile may take. Default (`None`): 2 MiB where the host computes, so that a tile
            stays in cache, and 256 MiB on an accelerator.
        check_values: whether losses look for NaN and infinity in embeddings and for labels out of range. Default (`None`): only where
            reading a value does not make the host wait for an accelerator.
    """

    memory_budget: int | None = None
    check_values: bool | None = None


settings = Settings()


def tracing(*tensors: Tensor) -> bool:
    """Whether values cannot be read: under `torch.compile`, a `torch.func` transform, forward-mode differentiation, on a meta device."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or True in [t.is_meta for t in tensors]
    )


def reads_are_free(tensor: Tensor) -> bool:
    """Whether the host may read values of `tensor` without waiting for an accelerator."""
    return tensor.device.type == "cpu" and not tracing(tensor)


def checking(tensor: Tensor) -> bool:
    """Whether the values of `tensor` are to be checked."""
    return reads_are_free(tensor) if settings.check_values is None else settings.check_values and not tracing(tensor)


def memory(budget: int | None, device: torch.device) -> int:
    """Bytes that a block of scores may take: `budget`, else that of the settings, else what suits the device.

    That is a block that stays in the cache of a host, and one that keeps an accelerator busy.
    """
    default = 2**21 if device.type == "cpu" else 2**28
    return next(b for b in (budget, settings.memory_budget, default) if b is not None)


@cache
def keep_freed_memory() -> None:
    """Have the host's allocator keep what a tile frees for the next one, once per process.

    The one of glibc gives freed memory back to the system beyond twice the largest block that was ever freed, and to touch new memory for
    the first time takes longer than an operation on it. The block here is never touched, so it takes none.
    """
    torch.empty(_KEPT, dtype=torch.uint8)


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Context in which autocast of the device of `tensor` is off."""
    device = tensor.device.type
    available = _AUTOCAST[device] if device in _AUTOCAST else torch.amp.is_autocast_available(device)
    if not available or not (torch.compiler.is_compiling() or torch.is_autocast_enabled(device)):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def backward_in_full_precision(backward: Callable[..., _Result]) -> Callable[..., _Result]:
    """`backward` of an autograd function, without the autocast that it may be called under: that is none of forward's."""

    @wraps(backward)
    def run(ctx: Any, *grads: Any) -> _Result:
        for g in grads:
            if isinstance(g, Tensor):
                with full_precision(g):
                    return backward(ctx, *grads)
        return backward(ctx, *grads)

    return run


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`, whose gradient is in full precision wherever backward is called: autograd's own would be cast by autocast."""
    if tracing(a) or not (a.requires_grad or b.requires_grad):
        return a @ b
    result: Tensor = _Product.apply(a, b)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    """Matrices, or stacks of them of one size."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @backward_in_full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        need_a, need_b = ctx.needs_input_grad
        return _product_like(a, grad, b.mT) if need_a else None, _product_like(b, a.mT, grad) if need_b else None


def _product_like(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in the layout of `x`, whose gradient it is: what comes before `x` reads it several times as fast."""
    return product(b.mT, a.mT).mT if x.stride(-2) == 1 < x.stride(-1) else product(a, b)
