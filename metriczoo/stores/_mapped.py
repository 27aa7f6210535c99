"""A memory bank's rows, labels and flags in one memory-mapped file: a header, then the three arrays, one after the other."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["map_file"]

_HEADER = 128  # bytes
_KIND = b"metriczoo MemoryBank 1:"


def map_file(path: str, size: int, embedding_dim: int, dtype: torch.dtype, start: Callable[[Tensor, Tensor, Tensor], None]) -> list[Tensor]:
    """`embeddings` `[size, embedding_dim]`, `labels` `[size]` and `filled` `[size]`, shared with the file.

    A file that does not exist, or is empty, is made and given to `start`; any other must hold a bank of this size, dimension and dtype.
    """
    header = (_KIND + f" size={size}, embedding_dim={embedding_dim}, dtype={dtype}".encode()).ljust(_HEADER)
    layout = [(torch.int64, (size,)), (dtype, (size, embedding_dim)), (torch.bool, (size,))]  # widest items first: all are aligned
    total = _HEADER + sum(kind.itemsize * math.prod(shape) for kind, shape in layout)
    new = not os.path.exists(path) or os.path.getsize(path) == 0
    with open(path, "w+b" if new else "r+b") as file:
        if new:
            _reserve(file.fileno(), total)
        elif (found := file.read(_HEADER)) != header or os.fstat(file.fileno()).st_size != total:
            raise ValueError(
                f"Expected `path` to hold {_content(header, total)}, but {path!r} holds {_content(found, os.path.getsize(path))}."
            )
    arrays, offset = [], _HEADER
    for kind, shape in layout:
        arrays.append(np.memmap(path, dtype=f"i{kind.itemsize}", mode="r+", offset=offset, shape=shape))
        offset += arrays[-1].nbytes
    labels, embeddings, filled = (torch.from_numpy(array).view(kind) for array, (kind, _) in zip(arrays, layout, strict=True))
    if new:
        start(embeddings, labels, filled)
        with open(path, "r+b") as file:  # last, so that a file whose making was cut short is known by it
            file.write(header)
    return [embeddings, labels, filled]


def _reserve(file: int, size: int) -> None:
    """Make the file that large; a full disk is then an error here, not a crash when a page is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def _content(header: bytes, size: int) -> str:
    known = header.startswith(_KIND)
    return f"{header.decode(errors='replace').rstrip() if known else 'something else, or a bank whose making was cut short'} ({size} bytes)"
