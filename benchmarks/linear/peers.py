"""Estimators of other libraries, each fit in a process of its own, by another interpreter if need be."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["PeerError", "PeerFit", "fit_peer"]

Array = npt.NDArray[np.float64]
_SCRIPT = Path(__file__).with_name("_peer.py")
_UNTRACED = ("metric_learn_mmc",)  # which cannot end with what they have


class PeerError(RuntimeError):
    """A peer does not run: what it says."""


@dataclass(frozen=True)
class PeerFit:
    """What a peer has learned.

    Args:
        L: `[r, d]`, or None if it was stopped.
        seconds: of its `fit` alone.
        steps: if it tells them.
        version: of the library.
        best: of an LMNN, the map of the least objective that it has tried.
        cpu_seconds: in which it had found that.
    """

    L: Array | None
    seconds: float
    steps: int | None
    version: str
    best: Array | None
    cpu_seconds: float | None


def fit_peer(name: str, X: Array, y: npt.NDArray[np.int64], k: int, seed: int, python: str | None, limit: float) -> PeerFit:
    """Fit a peer. It ends with the process that waits for it, in whatever way that ends.

    Args:
        name: of the peer, as in `_peer.py`.
        X: `[n, d]`, training points.
        y: `[n]`, labels.
        k: target neighbours.
        seed: of the peer.
        python: the interpreter that runs it. None: the present one.
        limit: seconds after which it is stopped.

    Raises:
        PeerError: it is not installed there, fails, or takes too long and has nothing to show.
        OSError: there is no such interpreter.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(given, X=X, y=y)
        command = [python or sys.executable, str(_SCRIPT), name, str(given), str(found), *map(str, (k, seed, limit))]
        patience = limit if name in _UNTRACED else 3 * limit + 30  # an LMNN is stopped between two evaluations of its objective
        _run(command, patience)
        with np.load(found) as arrays:
            steps = int(arrays["steps"])
            best = (arrays["best"], float(arrays["cpu_seconds"])) if "best" in arrays else (None, None)
            return PeerFit(
                arrays["L"] if arrays["done"] else None,
                float(arrays["seconds"]),
                steps if steps >= 0 else None,
                str(arrays["version"]),
                *best,
            )


def _run(command: list[str], limit: float) -> None:
    inlet, held = os.pipe()  # its standard input ends when nobody holds the other end any more
    try:
        done = subprocess.run(command, stdin=inlet, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        raise PeerError(f"given up after {limit:g} seconds") from None
    finally:
        os.close(inlet)
        os.close(held)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise PeerError(lines[-1] if lines else f"ended with status {done.returncode}")
