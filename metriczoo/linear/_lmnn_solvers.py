"""Descent on the objective of LMNN: quasi-Newton steps in the map, or projected gradient steps in the matrix of the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

from metriczoo.linear._lmnn_objective import Objective

__all__ = ["Descent", "by_map", "by_metric", "rescaled"]

Array = npt.NDArray[np.float64]
_CELLS = 2**23  # distances from the sample of anchors
_HALVINGS = 50  # of a step
_PATIENCE = 3  # small steps in a row that end a projected descent, whose steps vary in length


@dataclass
class Descent:
    """Where a descent has got to: maps `[G, r, d]`, the values at the start and after each step, and how it ended."""

    maps: Array
    objectives: list[float]
    report: Callable[[float], None]
    converged: bool = False
    steps: int = field(default=0, init=False)

    def accept(self, maps: Array, value: float) -> None:
        """One step is done."""
        self.maps = maps
        self.objectives.append(value)
        self.steps += 1
        self.report(value)


def rescaled(objective: Objective, maps: Array, random: np.random.RandomState) -> Array:
    """`maps` times the scale that minimises the objective of a sample of anchors, over impostors up to the 64th of each."""
    points = [objective.X @ L.T for L in maps]
    apart, _ = objective.thresholds(points)
    n = len(objective.X)
    anchors = np.sort(random.choice(n, min(n, 512, max(32, _CELLS // n)), replace=False))
    others = np.empty((len(anchors), n))
    for c, columns in enumerate(objective.classes.slices()):
        Z = points[c if objective.local else 0]
        gaps = (Z[anchors] ** 2).sum(1)[:, None] + (Z[columns] ** 2).sum(1) - 2 * Z[anchors] @ Z[columns].T
        others[:, columns] = np.where(objective.classes.codes[anchors, None] == c, np.inf, gaps.clip(min=0))
    others = np.partition(others, min(63, others.shape[1] - 1), axis=1)[:, :64]
    pulled, real = apart[anchors], objective.targets.real[anchors]
    size = float(pulled[real].mean()) if real.any() else 0.0
    if size <= 0 or objective.mu == 1:  # no scale is too large
        return maps
    pulled, others = pulled / size, np.where(np.isinf(others), 1e30, others / size)[:, :, None]

    def value(log_scale: float) -> float:
        scale = np.exp(log_scale)
        violation = (objective.margin + scale * (pulled[:, None, :] - others)).clip(min=0) * real[:, None, :]
        push = (violation**2).sum() if objective.squared else violation.sum()
        return float((1 - objective.mu) * scale * pulled.sum() + objective.mu * push)

    middle = np.log(objective.margin)
    best = minimize_scalar(value, bounds=(middle - 12, middle + 12), method="bounded")
    return maps * float(np.sqrt(np.exp(best.x) / size))


def by_map(objective: Objective, descent: Descent, max_iter: int, tol: float) -> None:
    """L-BFGS in the map L. Each step meets the Wolfe conditions, so the objective falls; it is not convex in L."""
    shape = descent.maps.shape
    last: list[tuple[Array, float]] = []
    unit = _unit(objective, descent)

    def evaluate(flat: Array) -> tuple[float, Array]:
        value, gradient = objective(flat.reshape(shape))
        last[:] = [(flat.copy(), value)]
        return value / unit, gradient.ravel() / unit

    def accept(flat: Array) -> None:
        if not np.array_equal(last[0][0], flat):
            evaluate(flat)
        descent.accept(flat.reshape(shape).copy(), last[0][1])

    left = max_iter
    while left > 0 and not descent.converged:
        before = descent.steps
        options = {"maxiter": left, "maxfun": 100 * left, "maxls": 30, "ftol": tol, "gtol": 0.0}
        result = minimize(evaluate, descent.maps.ravel(), jac=True, method="L-BFGS-B", callback=accept, options=options)
        done = descent.steps - before
        left -= done
        # A line search may fail at a kink of the hinge: it begins again from there, and has converged if that does not help.
        descent.converged = result.status == 0 or (result.status != 1 and done == 0)


def by_metric(objective: Objective, descent: Descent, max_iter: int, tol: float) -> None:
    """Projected gradient in M = L^T L, in which the objective is convex, by steps of Barzilai and Borwein, halved until it falls."""
    metric, maps = _project(np.einsum("grd,gre->gde", descent.maps, descent.maps))
    value, gradient = objective(maps, by_metric=True)
    slope = float(np.linalg.norm(gradient))
    length = float(np.linalg.norm(metric)) / slope if slope else 0.0
    small, unit = 0, _unit(objective, descent)
    while descent.steps < max_iter and length and small < _PATIENCE:
        for _ in range(_HALVINGS):
            new_metric, new_maps = _project(metric - length * gradient)
            change = new_metric - metric
            new_value, new_gradient = objective(new_maps, by_metric=True)
            if new_value < value - 1e-4 / length * float(np.vdot(change, change)):
                break
            length /= 2
        else:  # at a kink, or at the optimum
            small = _PATIENCE
            break
        small = small + 1 if value - new_value <= tol * max(value, unit) else 0
        curvature = float(np.vdot(change, new_gradient - gradient))
        length = float(np.vdot(change, change)) / curvature if curvature > 0 else 2 * length
        metric, value, gradient = new_metric, new_value, new_gradient
        descent.accept(new_maps, value)
    descent.converged = small >= _PATIENCE or not length


def _unit(objective: Objective, descent: Descent) -> float:
    """What a decrease is relative to where the objective is smaller: it grows with the margin, squared for squared hinges."""
    return min(objective.margin ** (2 if objective.squared else 1), descent.objectives[-1]) or 1.0


def _project(metrics: Array) -> tuple[Array, Array]:
    """The nearest positive semidefinite matrices, and maps L with L^T L = M, rows of the largest eigenvalues first."""
    values, vectors = np.linalg.eigh((metrics + metrics.transpose(0, 2, 1)) / 2)
    maps = np.ascontiguousarray((vectors * np.sqrt(values.clip(min=0))[:, None, :]).transpose(0, 2, 1)[:, ::-1])
    return np.einsum("grd,gre->gde", maps, maps), maps
