"""Two systems on the same splits: which errs less, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t

from benchmarks.report.words import counted

__all__ = ["PAIRS", "Paired", "compare", "sentences"]

PAIRS = {
    "lmnn": ("euclidean", "pylmnn", "metric_learn_lmnn"),
    "mmc": ("metric_learn_mmc",),
    "nca": ("sklearn_nca",),
}  # each of ours, and what it is held against


@dataclass(frozen=True)
class Paired:
    """The error of one system less that of another, over the splits that both have.

    Args:
        mean: of the differences.
        half: of the 95 % interval around the mean; NaN of fewer than two splits.
        better: splits where the first errs less.
        equal: where both err alike.
        worse: where the second errs less.
    """

    mean: float
    half: float
    better: int
    equal: int
    worse: int


def compare(records: Sequence[Mapping[str, Any]], first: str, second: str) -> Paired | None:
    r"""The kNN errors of two systems on one data set; None where they share no split.

    Splits of one data set share points, so differences vary more over new data than over splits. The interval takes that into account by
    the corrected variance :math:`(1 / s + m / n) \sigma^2` of s splits into n training and m test points.

    References:
        Nadeau, Bengio. Inference for the Generalization Error. Machine Learning 52, 2003.
    """
    errors = {(r["loss"], r["seed"]): r["knn_error"] for r in records if r["knn_error"] is not None}
    gaps = [error - errors[second, seed] for (name, seed), error in errors.items() if name == first and (second, seed) in errors]
    if not gaps:
        return None
    sizes = next(r["split_sizes"] for r in records)
    half = math.nan
    if len(gaps) > 1:
        half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) * math.sqrt(1 / len(gaps) + sizes["test"] / sizes["train"])
    signs = [(gap > 0) - (gap < 0) for gap in gaps]
    return Paired(statistics.fmean(gaps), half, signs.count(-1), signs.count(0), signs.count(1))


def sentences(records: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Iterator[str]:
    """What is to be said of the systems of one data set in pairs, without a full stop."""
    for first, others in PAIRS.items():
        for second in others:
            found = compare(records, first, second)
            if found is not None:
                interval = "" if math.isnan(found.half) else f" ± {100 * found.half:.2f}"
                of = counted(found.better + found.equal + found.worse, "split")
                splits = f"better on {found.better}, equal on {found.equal}, worse on {found.worse} of {of}"
                yield f"kNN error of {titles[first]} less that of {titles[second]}: {100 * found.mean:+.2f}{interval} ({splits})"
    for peer in dict.fromkeys(r["loss"] for r in records if r.get("race")):
        yield _race([r["race"] for r in records if r["loss"] == peer and r.get("race")], titles["lmnn"], titles[peer])


def _race(races: Sequence[Mapping[str, Any]], ours: str, peer: str) -> str:
    reached = [r for r in races if r["seconds"] is not None]
    missed = f"; not on {counted(len(races) - len(reached), 'split')}" if len(reached) < len(races) else ""
    if not reached:
        return f"{ours} does not come down to the objective of {peer}"
    theirs, seconds = statistics.fmean(r["peer_seconds"] for r in reached), statistics.fmean(r["seconds"] for r in reached)
    objective = statistics.fmean(r["objective"] for r in reached)
    return (
        f"{ours} is down at the objective of {peer} ({objective:.4g} by its penalty) in {seconds:.2f} CPU seconds, "
        f"{peer} in {theirs:.2f}, {theirs / seconds:.1f} times as many{missed}"
    )
