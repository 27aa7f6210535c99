"""Estimators of other libraries, each fit in a process of its own, by another interpreter if need be."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PeerError", "fit_peer"]

_SCRIPT = Path(__file__).with_name("_peer.py")


class PeerError(RuntimeError):
    """A peer does not run: what it says."""


def fit_peer(
    name: str, X: npt.NDArray[np.float64], y: npt.NDArray[np.int64], k: int, seed: int, python: str | None, limit: float
) -> tuple[npt.NDArray[np.float64], float, int | None, dict[str, Any]]:
    """The matrix L that a peer learns, the seconds of its `fit` alone, its steps if it tells them, and its version.

    Args:
        name: of the peer, as in `_peer.py`.
        X: `[n, d]`, training points.
        y: `[n]`, labels.
        k: target neighbours.
        seed: of the peer.
        python: the interpreter that runs it. None: the present one.
        limit: seconds after which it is given up.

    Raises:
        PeerError: it is not installed there, fails, or takes too long.
        OSError: there is no such interpreter.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(given, X=X, y=y)
        command = [python or sys.executable, str(_SCRIPT), name, str(given), str(found), str(k), str(seed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired:
            raise PeerError(f"given up after {limit:g} seconds") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise PeerError(lines[-1] if lines else f"ended with status {done.returncode}")
        with np.load(found) as arrays:
            steps = int(arrays["steps"])
            return arrays["L"], float(arrays["seconds"]), steps if steps >= 0 else None, {"version": str(arrays["version"])}
