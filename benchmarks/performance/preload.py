"""Read by the process that those of all cases start from."""

from __future__ import annotations

import contextlib
import gc
import importlib
import warnings

from benchmarks.performance import command
from benchmarks.performance.registry import LIBRARIES, all_works

__all__ = ["command"]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for module in LIBRARIES.values():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    all_works()
gc.freeze()  # what is there already need not be looked through by the process of each case
