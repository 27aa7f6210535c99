"""Runs against each other, query by query."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.evaluation.metrics import MAIN_METRICS, by_class
from metriczoo.metrics._intervals import holm, paired_test

__all__ = ["classes_csv", "comparisons"]

_RESAMPLES = 10_000
_CELLS = 10**8  # resamples times classes, at most

Runs = Mapping[str, Sequence[Mapping[str, Tensor]]]  # for each row of the table its seeds: by metric, `[q]`


def _means(runs: Runs) -> dict[str, dict[str, Tensor]]:
    """For each row the means over seeds of what each query got."""
    return {
        name: {metric: torch.stack([run[metric].double() for run in seeds]).mean(0) for metric in MAIN_METRICS}
        for name, seeds in runs.items()
    }


def comparisons(runs: Runs, labels: NDArray[Any]) -> list[dict[str, Any]]:
    """Every two rows of the table on the same queries: mean difference, its 95 % interval and p-value, by class.

    Args:
        runs: what is compared. Several seeds count as one model, of their mean.
        labels: of the queries.

    Returns:
        For JSON: "metric", "first", "second", "difference" (first minus second), "interval", "p_value", and "p_holm", corrected for all the
        pairs of the metric.
    """
    means, result = _means(runs), []
    resamples = max(999, min(_RESAMPLES, _CELLS // max(1, len(np.unique(labels)))))
    for metric in MAIN_METRICS:
        pairs = list(combinations(means, 2))
        tests = [paired_test(means[a][metric], means[b][metric], groups=labels, resamples=resamples) for a, b in pairs]
        corrected = holm([test["p_value"] for test in tests])
        for (first, second), test, p_holm in zip(pairs, tests, corrected, strict=True):
            numbers = {key: _known(test[key]) for key in ("difference", "low", "high", "p_value")}
            interval = [numbers.pop("low"), numbers.pop("high")]
            result.append({"metric": metric, "first": first, "second": second, **numbers, "interval": interval, "p_holm": _known(p_holm)})
    return result


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def classes_csv(runs: Runs, labels: NDArray[Any], names: Sequence[str]) -> str:
    """A table of all classes, as the text of a CSV file: for each row of the table of results, means over seeds and queries.

    Args:
        runs: the rows.
        labels: of the queries.
        names: of the classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["loss", "class", "queries", *MAIN_METRICS])
    for name, per_query in _means(runs).items():
        table = by_class(per_query, labels)
        for row, label in enumerate(table["label"]):
            writer.writerow([name, names[label], table["queries"][row], *(f"{table[metric][row]:.6f}" for metric in MAIN_METRICS)])
    return text.getvalue()
