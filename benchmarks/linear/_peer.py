"""Fit one estimator of another library: `python _peer.py NAME GIVEN.npz FOUND.npz K SEED SECONDS`.

It is run by the interpreter that has that library, which may be old: it imports nothing of metriczoo, and nothing newer than Python 3.8.
An LMNN that is not done after SECONDS ends with the best map that it has tried. The end of standard input ends everything, so that nothing
is left behind by a program that is killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


class Stopped(Exception):
    """The seconds are over."""


class Trace:
    """The best map of all that a method of an estimator is asked for the objective of, and when it was found."""

    def __init__(self, estimator: Any, method: str, read: Callable[[Any, Any], tuple[float, Any]], limit: float) -> None:
        self.objective, self.L, self.cpu_seconds = np.inf, None, np.nan
        evaluate, began, cpu_began = getattr(estimator, method), time.perf_counter(), time.process_time()

        def traced(*arguments: Any) -> Any:
            found = evaluate(*arguments)
            objective, L = read(arguments, found)
            if objective < self.objective:
                self.objective, self.L, self.cpu_seconds = objective, np.array(L), time.process_time() - cpu_began
            if time.perf_counter() - began > limit:
                raise Stopped
            return found

        setattr(estimator, method, traced)


def pylmnn(k: int, seed: int, limit: float) -> tuple[Any, Trace | None]:
    if "GPyOpt" not in sys.modules:  # which pylmnn imports, and needs to tune its settings only
        sys.modules["GPyOpt"] = types.ModuleType("GPyOpt")
        sys.modules["GPyOpt.methods"] = methods = types.ModuleType("GPyOpt.methods")
        methods.__dict__["BayesianOptimization"] = None
    import pylmnn

    estimator = pylmnn.LargeMarginNearestNeighbor(n_neighbors=k, max_iter=200, random_state=seed)
    return estimator, Trace(estimator, "_loss_grad_lbfgs", lambda given, found: (found[0], given[0].reshape(-1, given[1].shape[1])), limit)


def metric_learn_lmnn(k: int, seed: int, limit: float) -> tuple[Any, Trace | None]:
    import metric_learn

    estimator = metric_learn.LMNN(n_neighbors=k, random_state=seed)
    return estimator, Trace(estimator, "_loss_grad", lambda given, found: (found[1], given[1]), limit)


def metric_learn_mmc(k: int, seed: int, limit: float) -> tuple[Any, Trace | None]:
    import metric_learn

    return metric_learn.MMC_Supervised(random_state=seed), None


def end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def main(name: str, given: str, found: str, k: str, seed: str, limit: str) -> None:
    warnings.simplefilter("ignore")
    threading.Thread(target=end_with_input, daemon=True).start()
    with np.load(given) as arrays:
        X, y = arrays["X"], arrays["y"]
    make = {"pylmnn": pylmnn, "metric_learn_lmnn": metric_learn_lmnn, "metric_learn_mmc": metric_learn_mmc}[name]
    estimator, trace = make(int(k), int(seed), float(limit))
    began = time.perf_counter()
    try:
        estimator.fit(X, y)
        L = estimator.components_
    except Stopped:
        L = None
    seconds = time.perf_counter() - began
    package = sys.modules[type(estimator).__module__.partition(".")[0]]
    version = getattr(package, "__version__", "unknown")
    numbers: dict[str, Any] = {"seconds": seconds, "steps": getattr(estimator, "n_iter_", -1), "version": version}
    numbers["done"] = L is not None
    if trace is not None and trace.L is not None:
        numbers["best"], numbers["cpu_seconds"] = trace.L, trace.cpu_seconds
    np.savez(found, L=np.empty((0, 0)) if L is None else L, **numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
