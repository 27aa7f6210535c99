"""How soon LMNN here is where an LMNN of another library has got to."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from benchmarks.linear.data import Split
from benchmarks.linear.measures import objective_of
from metriczoo.linear import LMNN

__all__ = ["PENALTIES", "race"]

PENALTIES = {"pylmnn": "squared", "metric_learn_lmnn": "hinge"}  # of the objective that each descends on
_MOST = 1280  # steps


def race(peer: str, L: npt.NDArray[np.float64], cpu_seconds: float, split: Split, k: int) -> dict[str, Any]:
    """What a record says of a peer and LMNN here on the way down the same objective, from the same start but for its scale.

    Args:
        peer: one of `PENALTIES`.
        L: the best map that the peer has tried, `[r, d]`.
        cpu_seconds: in which it had found it.
        split: with the points it was given.
        k: target neighbours.

    Returns:
        "objective", that of L per point, as of this library and exact; "peer_seconds", which are `cpu_seconds`; "seconds", those of
        a `fit` of LMNN here with as many "steps" as take it there or below, on the same clock; both None where it does not get there.
    """
    value = objective_of(split, k, squared=PENALTIES[peer] == "squared")(np.ascontiguousarray(L)[None])[0]
    steps = _steps_to(value, peer, split, k)
    found: dict[str, Any] = {"objective": value / len(split.X), "peer_seconds": cpu_seconds, "seconds": None, "steps": steps}
    if steps is not None:
        began = time.process_time()
        _fit(peer, split, k, steps)
        found["seconds"] = time.process_time() - began
    return found


def _steps_to(value: float, peer: str, split: Split, k: int) -> int | None:
    most = 10
    while most <= _MOST:
        lmnn = _fit(peer, split, k, most)
        before = len(lmnn.objectives_) - lmnn.n_iter_  # values of the start
        reached = next((i for i, objective in enumerate(lmnn.objectives_) if objective <= value), None)
        if reached is not None:
            return max(1, reached - before + 1)
        if lmnn.n_iter_ < most:
            return None
        most *= 2
    return None


def _fit(peer: str, split: Split, k: int, steps: int) -> LMNN:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is to stop early
        return LMNN(k, penalty=PENALTIES[peer], max_iter=steps, tol=0.0, random_state=0).fit(split.X, split.y)
