"""Fit one estimator of another library: `python _peer.py NAME GIVEN.npz FOUND.npz K SEED`.

It is run by the interpreter that has that library, which may be old: it imports nothing of metriczoo, and nothing newer than Python 3.8.
"""

import sys
import time
import types
import warnings

import numpy as np


def pylmnn(k, seed):
    if "GPyOpt" not in sys.modules:  # which pylmnn imports, and needs to tune its settings only
        sys.modules["GPyOpt"] = types.ModuleType("GPyOpt")
        sys.modules["GPyOpt.methods"] = types.ModuleType("GPyOpt.methods")
        sys.modules["GPyOpt.methods"].BayesianOptimization = None
    import pylmnn

    return pylmnn.LargeMarginNearestNeighbor(n_neighbors=k, max_iter=200, random_state=seed)


def metric_learn_lmnn(k, seed):
    import metric_learn

    return metric_learn.LMNN(n_neighbors=k, random_state=seed)


def metric_learn_mmc(k, seed):
    import metric_learn

    return metric_learn.MMC_Supervised(random_state=seed)


def main(name, given, found, k, seed):
    warnings.simplefilter("ignore")
    estimator = {"pylmnn": pylmnn, "metric_learn_lmnn": metric_learn_lmnn, "metric_learn_mmc": metric_learn_mmc}[name](int(k), int(seed))
    with np.load(given) as arrays:
        X, y = arrays["X"], arrays["y"]
    began = time.perf_counter()
    estimator.fit(X, y)
    seconds = time.perf_counter() - began
    steps = getattr(estimator, "n_iter_", -1)
    package = sys.modules[type(estimator).__module__.partition(".")[0]]
    np.savez(found, L=estimator.components_, seconds=seconds, steps=steps, version=getattr(package, "__version__", "unknown"))


if __name__ == "__main__":
    main(*sys.argv[1:])
