"""What the seeds of each loss add up to: the rows of a table."""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.evaluation.seeds import mean_and_spread

__all__ = ["BASELINES", "METRICS", "RECALL", "Row", "heading", "rows_of"]

BASELINES = ("untrained", "pca", "raw")
METRICS = {"map@r": "MAP@R", "r_precision": "R-precision", "knn_accuracy": "kNN", "nmi": "NMI", "ami": "AMI"}  # beside Recall@K
RECALL = "recall@"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """What all seeds of a loss add up to, by name of the metric; NaN where no seed has a value."""

    name: str
    seeds: int
    mean: dict[str, float]
    spread: dict[str, float]  # standard deviation over seeds; NaN of a single one
    complete: dict[str, bool]  # whether every seed has a value
    interval: dict[str, tuple[float, float]]  # 95 %, by resampling of test classes; means over seeds


def heading(key: str) -> str:
    """The name of a metric in words."""
    return METRICS.get(key) or key.replace(RECALL, "Recall@")


def _metrics_of(records: Iterable[Record]) -> list[str]:
    """The metrics that records have: Recall@K by K, then the others."""
    known = {"recall@1", *(key for record in records for key in record)}
    places = sorted(int(place) for key in known if key.startswith(RECALL) and (place := key.removeprefix(RECALL)).isdecimal())
    return [*(f"{RECALL}{k}" for k in places), *(key for key in METRICS if key in known)]


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Losses by Recall@1, best first, then the baselines."""
    by_loss: dict[str, list[Record]] = {}
    for record in (records := list(records)):
        by_loss.setdefault(str(record["loss"]), []).append(record)
    keys = _metrics_of(records)
    return sorted((_row(name, of_loss, [*keys, "seconds"]) for name, of_loss in by_loss.items()), key=_place)


def _row(name: str, records: Sequence[Record], keys: Iterable[str]) -> Row:
    known = {key: [v for v in (_number(r.get(key)) for r in records) if not math.isnan(v)] for key in keys}
    bounds = {key: [b for b in (_bounds(r, key) for r in records) if not math.isnan(sum(b))] for key in keys}
    return Row(
        name,
        len(records),
        *mean_and_spread(known),
        {key: len(values) == len(records) for key, values in known.items()},
        {key: (statistics.fmean(b[0] for b in of_key), statistics.fmean(b[1] for b in of_key)) for key, of_key in bounds.items() if of_key},
    )


def _bounds(record: Record, key: str) -> tuple[float, float]:
    low, high = (record.get("intervals") or {}).get(key) or (None, None)
    return _number(low), _number(high)


def _place(row: Row) -> tuple[int, float]:
    recall = row.mean["recall@1"]
    return BASELINES.index(row.name) + 1 if row.name in BASELINES else 0, math.inf if math.isnan(recall) else -recall


def _number(value: Any) -> float:
    """NaN for whatever is not a finite number, such as the null of a JSON file."""
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    return number if math.isfinite(number) else math.nan
