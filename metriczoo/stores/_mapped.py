"""The state of a memory bank in one memory-mapped file: a header, then the arrays, one after the other."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["map_file"]

_HEADER = 128  # bytes
_KIND = b"metriczoo MemoryBank 1: "


def map_file(path: str, layout: Sequence[tuple[torch.dtype, tuple[int, ...]]], start: Callable[..., None]) -> list[Tensor]:
    """Tensors of these dtypes and shapes that share their memory with the file. Wider dtypes come first, so that all are aligned.

    A file that does not exist, or is empty, is made, and its tensors are given to `start`; any other must hold tensors of this very layout.
    """
    header = (_KIND + ", ".join(f"{dtype}".removeprefix("torch.") + str(list(shape)) for dtype, shape in layout).encode()).ljust(_HEADER)
    size = _HEADER + sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout)
    new = not os.path.exists(path) or os.path.getsize(path) == 0
    if new:
        _reserve(path, size)
    else:
        _check(path, header, size)
    tensors, offset = [], _HEADER
    for dtype, shape in layout:
        array = np.memmap(path, dtype=f"i{dtype.itemsize}", mode="r+", offset=offset, shape=shape)
        tensors.append(torch.from_numpy(array).view(dtype))
        offset += array.nbytes
    if new:
        start(*tensors)
        with open(path, "r+b") as file:  # last, so that a file whose making was cut short is known by it
            file.write(header)
    return tensors


def _reserve(path: str, size: int) -> None:
    """Make the file that large. A full disk is then an error here, not a crash when a page is written."""
    with open(path, "wb") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError:
            file.truncate(0)
            raise


def _check(path: str, header: bytes, size: int) -> None:
    with open(path, "r+b") as file:
        found = file.read(_HEADER)
    if found != header or os.path.getsize(path) != size:
        held = (
            found.decode(errors="replace").rstrip() if found.startswith(_KIND) else "something else, or a bank whose making was cut short"
        )
        got = f"{held!r} in {os.path.getsize(path)} bytes"
        raise ValueError(f"Expected `path` to hold {header.decode().rstrip()!r} in {size} bytes, but {path!r} holds {got}.")
