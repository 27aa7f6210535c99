"""What the numbers were made on: the machine, and the memory of this process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.command.versions import versions

__all__ = ["PeakMemory", "describe", "give_back_memory", "limit_memory"]

_PEERS = ("lightly", "pytorch-metric-learning", "sentence-transformers")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def describe() -> dict[str, Any]:
    """The machine and the versions, without names of hosts and folders."""
    found = versions()
    for name in _PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    machine = {"processor": _processor(), "cores": os.cpu_count(), "memory_gb": _memory(), "system": platform.system()}
    return {"machine": machine, "versions": {name: text for name, text in found.items() if text != "unknown"}}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


class PeakMemory:
    """The most memory that this process has held since the object was made, above what it held then.

    On Linux it is the peak of the resident set, set back at the start. Elsewhere the peak cannot be set back: what a call needs beyond all
    that came before it in a fresh process, which is less. Where not even that is known, `megabytes` gives None.
    """

    def __init__(self) -> None:
        self.exact = False
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5", encoding="ascii")
            self.exact = True
        self.start = _status("VmRSS") if self.exact else _highest()

    def megabytes(self) -> float | None:
        """The peak above the start."""
        now = _status("VmHWM") if self.exact else _highest()
        return None if now is None or self.start is None else max(0.0, (now - self.start) / 2**20)


def give_back_memory() -> None:
    """Free what nothing refers to, and have the allocator hand it back to the system, where it can (glibc).

    What the allocator kept would be taken again without the peak growing.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int | None:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _highest() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def limit_memory(gigabytes: float) -> None:
    """Let this process take so much memory above what it has now, where the system can see to it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = (_status("VmSize") or 0) + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
