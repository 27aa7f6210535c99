"""Labels and embeddings that are none, and the errors they give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from every_loss import D

__all__ = ["BAD_EMBEDDINGS", "BAD_LABELS", "BIG"]

BIG = 10**12

# Of 9 points.
BAD_LABELS: dict[str, tuple[Any, type[Exception]]] = {
    "float32": (torch.arange(9.0), TypeError),
    "float64": (torch.arange(9, dtype=torch.float64), TypeError),
    "float16": (torch.arange(9).half(), TypeError),
    "bfloat16": (torch.arange(9).bfloat16(), TypeError),
    "complex": (torch.arange(9).to(torch.complex64), TypeError),
    "nan": (torch.full((9,), math.nan), TypeError),
    "array of floats": (np.arange(9.0), TypeError),
    "list of floats": ([0.0, 1.0, 2.0] * 3, TypeError),
    "list with nan": ([math.nan] * 9, TypeError),
    "strings": (["a", "b", "c"] * 3, TypeError),
    "none": (None, TypeError),
    "too few": (torch.arange(8), ValueError),
    "too many": (torch.arange(10), ValueError),
    "a number": (torch.tensor(1), ValueError),
    "ragged": ([[1], [1, 2]] * 4 + [[1]], TypeError),
}

BAD_EMBEDDINGS: dict[str, tuple[Any, type[Exception]]] = {
    "one dimension": (torch.ones(9), ValueError),
    "three dimensions": (torch.ones(9, D, 1), ValueError),
    "no column": (torch.ones(9, 0), ValueError),
    "integers": (torch.ones(9, D, dtype=torch.int64), TypeError),
    "bool": (torch.ones(9, D, dtype=torch.bool), TypeError),
    "complex": (torch.ones(9, D, dtype=torch.complex64), TypeError),
    "array": (np.ones((9, D)), TypeError),
    "list": ([[1.0] * D] * 9, TypeError),
    "none": (None, TypeError),
}
