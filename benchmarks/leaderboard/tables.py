"""What all runs of the comparison add up to, for `results.json` and for the terminal."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from benchmarks.evaluation.comparison import comparisons
from benchmarks.evaluation.metrics import MAIN_METRICS
from benchmarks.leaderboard.peers import EXACT, PEER
from benchmarks.report.words import counted, percent, points
from benchmarks.retrieval.rows import BASELINES, heading
from metriczoo.metrics._intervals import bootstrap_interval, holm

__all__ = [
    "about_verdicts",
    "against_the_first",
    "confusions",
    "difference",
    "peer_verdicts",
    "plain_tables",
    "rich_table",
    "summary",
    "tied",
]

_RESAMPLES = 2000
_LEVEL = 0.05
_FOLDED = {"R@1": 4, "MAP@R": 5, "NMI": 4, "AMI": 4}  # columns that a narrow terminal folds, and how far
_REST, _LOSS = 65, 15  # of a narrow terminal: what all columns but that of the loss take, and what that has at least
_PAIRS = 5  # of classes, by loss
_MARKS = {True: "", False: " !", None: " ?"}  # of verdicts
_OVERALL = ("nmi", "ami")  # metrics of a whole clustering: no query has one

PerQuery = Mapping[str, Tensor]


def summary(
    records: Iterable[Mapping[str, Any]], per_query: Mapping[str, Sequence[PerQuery]], labels: NDArray[Any]
) -> list[dict[str, Any]]:
    """A line for each loss, by Recall@1, best first, then one for each baseline.

    Args:
        records: of all runs.
        per_query: for each loss what each query got, by seed.
        labels: of the queries.

    Returns:
        For JSON, for each metric its mean over seeds, their standard deviation, its 95 % interval by the spread of seeds (Student's t), and
        that by a bootstrap of test classes, of the mean of seeds; and what training cost.
    """
    by_loss: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_loss.setdefault(record["loss"], []).append(record)
    lines = [_line(name, of_loss, per_query.get(name, ()), labels) for name, of_loss in by_loss.items()]
    return sorted(lines, key=_place)


def _line(name: str, records: Sequence[Mapping[str, Any]], per_query: Sequence[PerQuery], labels: NDArray[Any]) -> dict[str, Any]:
    metrics = {metric: _over_seeds([record[metric] for record in records]) for metric in (*MAIN_METRICS, *_OVERALL)}
    for metric in MAIN_METRICS if per_query else ():
        values = torch.stack([run[metric].double() for run in per_query]).mean(0)
        found = bootstrap_interval(values, groups=labels, resamples=_RESAMPLES)
        metrics[metric]["of_classes"] = [_known(found["low"]), _known(found["high"])]
    costs = {key: [record[key] for record in records if record.get(key) is not None] for key in ("seconds", "cpu_seconds", "peak_memory")}
    return {
        "loss": name,
        "seeds": len(records),
        **metrics,
        **{key: statistics.fmean(costs[key]) if costs[key] else None for key in ("seconds", "cpu_seconds")},
        "peak_memory": max(costs["peak_memory"], default=None),
    }


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    from scipy.stats import t

    known = [value for value in values if value is not None]
    result: dict[str, Any] = {"mean": statistics.fmean(known) if known else None, "deviation": None, "of_seeds": None}
    if len(known) > 1:
        deviation = statistics.stdev(known)
        half = float(t.ppf(0.975, len(known) - 1)) * deviation / math.sqrt(len(known))
        result |= {"deviation": deviation, "of_seeds": [result["mean"] - half, result["mean"] + half]}
    return result


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _place(line: Mapping[str, Any]) -> tuple[int, float, str]:
    recall = line["recall@1"]["mean"]
    of_baselines = BASELINES.index(line["loss"]) + 1 if line["loss"] in BASELINES else 0
    return of_baselines, math.inf if recall is None else -recall, line["loss"]


def against_the_first(
    lines: Sequence[Mapping[str, Any]], per_query: Mapping[str, Sequence[PerQuery]], labels: NDArray[Any]
) -> list[dict[str, Any]]:
    """The first loss against each other loss, on the same queries, as `benchmarks.comparison`, corrected for their number (Holm)."""
    names = [line["loss"] for line in lines if line["loss"] not in BASELINES and per_query.get(line["loss"])]
    found: list[dict[str, Any]] = []
    for name in names[1:]:
        found += comparisons({names[0]: per_query[names[0]], name: per_query[name]}, labels)
    for metric in MAIN_METRICS:
        of_metric = [test for test in found if test["metric"] == metric]
        for test, p in zip(of_metric, holm([math.nan if t["p_value"] is None else t["p_value"] for t in of_metric]), strict=True):
            test["p_holm"] = _known(p)
    return found


def peer_verdicts(records: Iterable[Mapping[str, Any]], losses: Iterable[str]) -> list[dict[str, Any]]:
    """For each loss with a peer and each metric, whether both reach the same, by runs in pairs of one seed.

    Two runs of a pair start and go through their batches alike, so their difference varies less than either: its mean over pairs has a
    95 % interval (Student's t). The spread is the standard deviation over seeds, of both sides pooled.

    Returns:
        For JSON: "loss", "metric", "ours", "theirs" (means), "differences" (ours minus theirs, by seed), "difference" (their mean),
        "interval", "p_value" (of a paired t-test), "p_holm" (corrected for all tests there are), "spread" and "agrees": true where the
        whole interval lies within the spread, else false where the difference is told from 0 at the 5 % level after the correction, else
        None: more seeds are wanted. That all agree needs no correction, for it is said only where each of them is shown to.
    """
    by_run = {(record["loss"], record["seed"]): record for record in records}
    verdicts = []
    for ours, theirs in [(name, f"{loss} ({PEER})") for loss in losses for name in (loss, f"{loss} ({EXACT})")]:
        seeds = sorted(seed for name, seed in by_run if name == ours and (theirs, seed) in by_run)
        for metric in (*MAIN_METRICS, "nmi") if seeds else ():
            sides = [[by_run[name, seed][metric] for seed in seeds] for name in (ours, theirs)]
            if all(value is not None for side in sides for value in side):
                verdicts.append({"loss": ours, "metric": metric, **_paired(*sides)})
    corrected = holm([math.nan if verdict["p_value"] is None else verdict["p_value"] for verdict in verdicts])
    return [verdict | {"p_holm": _known(p), "agrees": _agree(verdict, p)} for verdict, p in zip(verdicts, corrected, strict=True)]


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """What is known of two sides, seed by seed: see `peer_verdicts`. Of a single seed, only the difference."""
    from scipy.stats import t

    differences, n = [a - b for a, b in zip(ours, theirs, strict=True)], len(ours)
    over_seeds = _over_seeds(differences)
    mean, deviation = over_seeds["mean"], over_seeds["deviation"]
    p_value = None
    if deviation:
        p_value = float(2 * t.sf(abs(mean) * math.sqrt(n) / deviation, n - 1))
    elif n > 1 and mean == 0:
        p_value = 1.0
    spread = math.sqrt(statistics.fmean(statistics.variance(side) for side in (ours, theirs))) if n > 1 else None
    return {
        "ours": statistics.fmean(ours),
        "theirs": statistics.fmean(theirs),
        "differences": differences,
        "difference": mean,
        "interval": over_seeds["of_seeds"],
        "p_value": p_value,
        "spread": spread,
    }


def _agree(verdict: Mapping[str, Any], p_holm: float) -> bool | None:
    if verdict["interval"] is None:
        return None
    if max(map(abs, verdict["interval"])) <= verdict["spread"]:
        return True
    return False if p_holm <= _LEVEL else None


def confusions(
    nearest: Iterable[Tensor], labels: NDArray[Any], query_labels: NDArray[Any], names: Sequence[str], most: int = _PAIRS
) -> list[dict[str, Any]]:
    """The pairs of classes that are mistaken for one another most, worst first.

    Args:
        nearest: for each run the position of what is nearest to each query, `[q]`; -1 for one that has no answer.
        labels: of all positions.
        query_labels: `[q]`.
        names: of the classes.
        most: pairs, at most.

    Returns:
        For JSON: "classes", two names; "mistakes", queries of either whose nearest is of the other; "queries", of both.
    """
    mistakes: Counter[tuple[int, int]] = Counter()
    runs = 0
    for positions in nearest:
        found = labels[positions.numpy()]
        wrong = (found != query_labels) & (positions.numpy() >= 0)
        pairs = np.sort(np.stack([query_labels[wrong], found[wrong]], axis=1), axis=1)
        mistakes.update(map(tuple, pairs.tolist()))
        runs += 1
    sizes = Counter(query_labels.tolist())
    worst = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [{"classes": [names[a], names[b]], "mistakes": count, "queries": runs * (sizes[a] + sizes[b])} for (a, b), count in worst]


def _cell(metric: Mapping[str, Any]) -> str:
    """A metric as mean and deviation, in percent."""
    deviation = metric["deviation"]
    return _percent(metric["mean"]) + ("" if deviation is None else f" ±{_percent(deviation)}")


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def rich_table(results: Mapping[str, Any], width: int) -> Table:
    """The table of a terminal of so many columns, 80 or more."""
    headings, rows = _ranking(results)
    of_loss = min(max(len(row[1]) for row in rows), max(_LOSS, width - _REST))
    result = Table(caption=_note(results), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for name in headings:
        if name == "Loss":
            result.add_column(name, overflow="fold", width=of_loss)
        else:
            result.add_column(name, justify="right", overflow="fold", min_width=_FOLDED.get(name), no_wrap=name not in _FOLDED)
    first_baseline = next((place for place, line in enumerate(results["summary"]) if line["loss"] in BASELINES), 0)
    for place, row in enumerate(rows, 1):
        result.add_row(*row, end_section=place == first_baseline)
    return result


def plain_tables(results: Mapping[str, Any]) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]], str]]:
    """The tables of results, for documentation: of each its title, headings, rows and what is to be said below."""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]], str]] = [("Ranking", *_ranking(results), _note(results))]
    if results["peers"]:
        of_loss: dict[str, dict[str, Mapping[str, Any]]] = {}
        for verdict in results["peers"]:
            of_loss.setdefault(verdict["loss"], {})[verdict["metric"]] = verdict
        metrics = list(dict.fromkeys(verdict["metric"] for verdict in results["peers"]))
        headings = ["Loss", *(text for metric in metrics for text in (f"{heading(metric)}: ours", "theirs", "difference"))]
        rows = [[loss, *(cell for metric in metrics for cell in _of_verdict(found.get(metric)))] for loss, found in of_loss.items()]
        tables.append((f"The same training with {PEER}", headings, rows, about_verdicts(results["peers"])))
    if results["failures"]:
        failed = [[failure["loss"], str(failure["seed"]), failure["error"]] for failure in results["failures"]]
        tables.append(("Failures", ["Loss", "Seed", "Error"], failed, ""))
    return tables


def _of_verdict(verdict: Mapping[str, Any] | None) -> list[str]:
    if verdict is None:
        return ["", "", ""]
    words = {True: " agrees", False: " DIFFERS", None: " open"}[verdict["agrees"]]
    return [_percent(verdict["ours"]), _percent(verdict["theirs"]), f"{difference(verdict)}{words}"]


def difference(verdict: Mapping[str, Any]) -> str:
    """The mean difference in points, and how far its interval reaches to either side."""
    low, high = verdict["interval"] or (None, None)
    return points(verdict["difference"]) + ("" if low is None or high is None else f" ±{_percent((high - low) / 2)}")


def about_verdicts(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many comparisons with the peer came out how, and what that means."""
    agree, differ, open_ = (sum(verdict["agrees"] is found for verdict in verdicts) for found in (True, False, None))
    seeds = sorted({len(verdict["differences"]) for verdict in verdicts})
    told = [
        f"Of {counted(len(verdicts), 'comparison')}, {agree} agree, {differ} differ, {open_} are open.",
        f"Percent, means over {' or '.join(map(str, seeds))} seeds; ours minus theirs in runs of one seed, ± its 95 % interval.",
        "Agrees: the whole interval lies within the spread, the standard deviation over seeds.",
        "Differs: it does not, and the difference is told from 0",
        f"(paired t-test, 5 %, Holm's correction for {len(verdicts)} tests).",
        "Open: neither, more seeds would tell; of one seed nothing can be told.",
    ]
    if any(EXACT in verdict["loss"] for verdict in verdicts):
        told += [f"Margins on angles have the gradient that their authors compute, not that of their value, which {PEER} has;"]
        told += [f"those that are named {EXACT!r} have it, too."]
    return " ".join(told)


def _ranking(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table of all losses."""
    verdicts = {verdict["loss"]: verdict for verdict in results["peers"] if verdict["metric"] == "recall@1"}
    equals, rows = tied(results), []
    for place, line in enumerate(results["summary"], 1):
        loss = line["loss"]
        cells = ["" if loss in BASELINES else str(place), loss.replace(PEER, "PML") + (" =" if loss in equals else "")]
        cells += [_cell(line["recall@1"]), _interval(line["recall@1"].get("of_classes"))]
        cells += [_cell(line[metric]) for metric in ("map@r", *_OVERALL)]
        cells.append("" if line["cpu_seconds"] is None else f"{line['cpu_seconds']:.1f}")
        cells.append("" if line["peak_memory"] is None else f"{line['peak_memory'] / 2**20:.0f}")
        if verdicts:
            cells.append(f"{points(found['difference'])}{_MARKS[found['agrees']]}" if (found := verdicts.get(loss)) else "")
        rows.append(cells)
    return ["#", "Loss", "R@1", "95 %", "MAP@R", "NMI", "AMI", "CPU", "MiB", *(["Peer"] if verdicts else [])], rows


def tied(results: Mapping[str, Any]) -> set[str]:
    """Losses whose Recall@1 is not told from that of the first at the 5 % level."""
    tests = [test for test in results["comparisons"] if test["metric"] == "recall@1"]
    return {test["second"] for test in tests if test["p_holm"] is not None and test["p_holm"] > _LEVEL}


def _note(results: Mapping[str, Any]) -> str:
    lines = results["summary"]
    parts = [
        "Percent, on classes that training never saw" + ("; mean ± deviation over seeds" if any(x["seeds"] > 1 for x in lines) else "")
    ]
    parts += ["95 %: interval by a bootstrap of test classes", "CPU: seconds of training", "MiB: most memory of a process in training"]
    parts += ["=: not told from the first at the 5 % level"] if tied(results) else []
    peer = f"Peer: R@1 above the same training with {PEER} (PML), with ! where both differ, ? where they may, by more than seeds do"
    parts += [peer] if results["peers"] else []
    return "; ".join(parts) + "."


def _interval(bounds: Sequence[float | None] | None) -> str:
    return "" if bounds is None or None in bounds else "-".join(_percent(bound) for bound in bounds)
