"""What is compared: each learns a matrix L from training points."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NeighborhoodComponentsAnalysis

from benchmarks.linear.data import Split
from benchmarks.linear.peers import fit_peer
from benchmarks.linear.race import race
from metriczoo.linear import LMNN, MMC, NCA, LinearMetric, Mahalanobis

__all__ = ["SYSTEMS", "Fit", "System"]

Peer = tuple[str | None, float]  # the interpreter that runs other libraries, and the seconds after which one of them is stopped
_MANY = 15_000  # points from which NCA runs in batches
_TOO_MANY = 4000  # points from which scikit-learn's NCA, whose matrices have a row and a column for each, is left out


@dataclass(frozen=True)
class Fit:
    """What a system has learned; L is None of one that was stopped."""

    L: npt.NDArray[np.float64] | None  # [r, d]
    seconds: float
    steps: int | None
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    race: dict[str, Any] | None = None  # of an LMNN of another library, see `race`


@dataclass(frozen=True)
class System:
    """A way to learn L.

    Args:
        title: in tables.
        fit: `(split, neighbours, seed, peer) -> Fit`. It raises where it does not work.
    """

    title: str
    fit: Callable[[Split, int, int, Peer], Fit]


def _euclidean(split: Split, k: int, seed: int, peer: Peer) -> Fit:
    return Fit(np.eye(split.X.shape[1]), 0.0, None)


def _fit(estimator: Any, split: Split) -> Fit:
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the steps that it took are told
        estimator.fit(split.X, split.y)
    seconds = time.perf_counter() - began
    given = {name: value for name, value in estimator.get_params().items() if isinstance(value, (bool, int, float, str))}
    return Fit(np.asarray(estimator.components_), seconds, getattr(estimator, "n_iter_", None), given)


def _ours(make: Callable[[Split, int, int], LinearMetric]) -> Callable[[Split, int, int, Peer], Fit]:
    return lambda split, k, seed, peer: _fit(make(split, k, seed), split)


def _nca(split: Split, k: int, seed: int) -> NCA:
    return NCA(batch_size=512 if len(split.X) > _MANY else None, max_iter=20 if len(split.X) > _MANY else 50, random_state=seed)


def _sklearn_nca(split: Split, k: int, seed: int, peer: Peer) -> Fit:
    if len(split.X) > _TOO_MANY:
        raise MemoryError(f"left out from {_TOO_MANY} training points on, since its matrices have a row and a column for each")
    return _fit(NeighborhoodComponentsAnalysis(max_iter=50, random_state=seed), split)


def _peer(name: str) -> Callable[[Split, int, int, Peer], Fit]:
    def fit(split: Split, k: int, seed: int, peer: Peer) -> Fit:
        found = fit_peer(name, split.X, split.y, k, seed, *peer)
        against = None
        if found.best is not None and found.cpu_seconds is not None:
            against = race(name, found.best, found.cpu_seconds, split, k)
        return Fit(found.L, found.seconds, found.steps, {"version": found.version}, against)

    return fit


SYSTEMS = {
    "euclidean": System("Euclidean", _euclidean),
    "mahalanobis": System("Mahalanobis", _ours(lambda split, k, seed: Mahalanobis(shrinkage="auto"))),
    "mmc": System("MMC", _ours(lambda split, k, seed: MMC(random_state=seed))),
    "mmc_diagonal": System("MMC, diagonal", _ours(lambda split, k, seed: MMC(diagonal=True, random_state=seed))),
    "lmnn": System("LMNN", _ours(lambda split, k, seed: LMNN(k, random_state=seed))),
    "nca": System("NCA", _ours(_nca)),
    "sklearn_nca": System("NCA, scikit-learn", _sklearn_nca),
    "pylmnn": System("LMNN, pylmnn", _peer("pylmnn")),
    "metric_learn_lmnn": System("LMNN, metric-learn", _peer("metric_learn_lmnn")),
    "metric_learn_mmc": System("MMC, metric-learn", _peer("metric_learn_mmc")),
}
