"""How good a linear map is: errors on test points, and where it leaves the objective of LMNN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.linear.data import Split
from metriczoo.linear._lmnn_energy import Labelled
from metriczoo.linear._lmnn_impostors import Classes
from metriczoo.linear._lmnn_objective import Objective, Targets
from metriczoo.linear._lmnn_solvers import rescaled

__all__ = ["measures", "objective_of"]

_MU, _MARGIN = 0.5, 1.0


def measures(L: npt.NDArray[np.float64], split: Split, k: int) -> dict[str, float | int]:
    """Errors on test points, in [0, 1], of k nearest neighbours and of least energies; on training points objective of LMNN, and impostors.

    Energies, objective and impostors depend on the scale of a map, which other methods choose by other ends: they are those of the scale
    at which the objective is least.
    """
    order = np.argsort(split.y, kind="stable")
    X, classes = split.X[order], Classes(split.y[order])
    objective = objective_of(split, k)
    maps = rescaled(objective, np.ascontiguousarray(L)[None], np.random.RandomState(0))
    value, _ = objective(maps)
    labelled = Labelled(maps, X, classes)
    energies = labelled.energies(split.X_test, labelled.targets(k), k=k, mu=_MU, margin=_MARGIN, squared=False)
    neighbours = KNeighborsClassifier(k).fit(split.X @ L.T, split.y)
    return {
        "knn_error": float((neighbours.predict(split.X_test @ L.T) != split.y_test).mean()),
        "energy_error": float((energies.argmin(1) != split.y_test).mean()),
        "objective": value / len(X),
        "impostors": objective.num_impostors,
    }


def objective_of(split: Split, k: int, *, squared: bool = False) -> Objective:
    """The objective of LMNN on training points, with hinges or their squares."""
    order = np.argsort(split.y, kind="stable")
    X, classes = split.X[order], Classes(split.y[order])
    X = X - X.mean(0)
    return Objective(X, classes, Targets(X, classes, k), mu=_MU, margin=_MARGIN, squared=squared, local=False)
