"""Where a benchmark computes."""

from __future__ import annotations

import os

import torch

__all__ = ["deterministic"]


def deterministic(device: str) -> None:
    """Have this process compute the same whenever it is started."""
    if device == "cuda":  # a processor does as it is
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
