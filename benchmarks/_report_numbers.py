"""The numbers of a report: the table of results, and what describes the benchmark as a whole."""

from __future__ import annotations

import html
import math
import numbers
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BASELINES", "Row", "header", "heading", "rows_of", "table", "text_of"]

BASELINES = ("untrained", "pca", "raw")
_COLUMNS = {"map@r": "MAP@R", "r_precision": "R-precision", "knn_accuracy": "kNN", "nmi": "NMI", "ami": "AMI"}  # beside Recall@K
_OF_A_RUN = {"records", "dataset", "loss", "seed", "seconds", "hyper_parameters", *_COLUMNS}  # not facts about the whole
_OF_A_RUN |= {"intervals", "health", "classes", "comparisons", "cpu_seconds", "peak_memory"}
_OF_A_RUN |= {"embeddings", "models", "searched", "seed_intervals"}  # of a reality check
_RECALL = "recall@"
_SHORT = 24  # characters of a fact that shares its line with others
_LONGEST_LIST = 12  # longer ones, such as curves, are no facts

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
    return _COLUMNS.get(key) or key.replace(_RECALL, "Recall@")


def _metrics_of(records: Iterable[Record]) -> list[str]:
    """The metrics that records have: Recall@K by K, then the others."""
    known = {"recall@1", *(key for record in records for key in record)}
    places = sorted(int(place) for key in known if key.startswith(_RECALL) and (place := key.removeprefix(_RECALL)).isdecimal())
    return [*(f"{_RECALL}{k}" for k in places), *(key for key in _COLUMNS if key in known)]


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
        {key: statistics.fmean(values) if values else math.nan for key, values in known.items()},
        {key: statistics.stdev(values) if len(values) > 1 else math.nan for key, values in known.items()},
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


def table(rows: Sequence[Row]) -> str:
    """The section with the table."""
    if not rows:
        return '<section id="results"><h2>Results</h2><p class="missing">No run has ended yet.</p></section>'
    best = {key: _best(row.mean[key] for row in rows) for key in rows[0].mean if key != "seconds"}
    best = {key: value for key, value in best.items() if not math.isnan(value)}
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Loss", *map(heading, best), "Seconds", "Seeds"))
    groups = [[row for row in rows if (row.name in BASELINES) == baseline] for baseline in (False, True)]
    bodies = "".join(f"<tbody>{''.join(_line(row, best) for row in group)}</tbody>" for group in groups if group)
    return f"""<section id="results"><h2>Results</h2>
<div class="scroll"><table><thead><tr>{heads}</tr></thead>{bodies}</table></div>
<p class="note">{_notes(rows)}</p></section>"""


_NOTHING = "<td>&ndash;</td>"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _best(values: Iterable[float]) -> float:
    """The largest one that is known, as it is printed, so that equal prints are equally good."""
    known = [float(_percent(value)) for value in values if not math.isnan(value)]
    return max(known, default=math.nan)


def _line(row: Row, best: Mapping[str, float]) -> str:
    cells = "".join(_cell(row, key, highest) for key, highest in best.items())
    seconds = row.mean["seconds"]
    cells += (_NOTHING if math.isnan(seconds) else f"<td>{seconds:.1f}</td>") + f"<td>{row.seeds}</td>"
    return f'<tr><th scope="row">{html.escape(row.name)}</th>{cells}</tr>\n'


def _cell(row: Row, key: str, highest: float) -> str:
    if math.isnan(row.mean[key]):
        return _NOTHING
    mean = _percent(row.mean[key])
    text = f"<b>{mean}</b>" if float(mean) == highest else mean
    spread = "" if math.isnan(row.spread[key]) else f" <small>± {_percent(row.spread[key])}</small>"
    if key in row.interval:
        spread += f" <small>[{_percent(row.interval[key][0])}, {_percent(row.interval[key][1])}]</small>"
    bar = f' class="bar" style="--share:{mean}"' if key == "recall@1" else ""
    return f"<td{bar}>{text}{spread}{'' if row.complete[key] else '†'}</td>"


def _notes(rows: Sequence[Row]) -> str:
    spread = "mean ± standard deviation over seeds" if any(row.seeds > 1 for row in rows) else "of one seed"
    notes = [
        f"Percent, {spread}, on classes that training never saw. The best value of each column is bold.",
        "Recall@K is the share of queries with a point of their class among the K nearest.",
        "NMI is high by chance where classes are many; AMI is corrected for it.",
    ]
    if any(row.name in BASELINES for row in rows):
        notes.append(
            "<i>untrained</i>: the encoder before training; <i>pca</i>: principal components of the features, where a head starts; "
            "<i>raw</i>: features without an encoder."
        )
    if any(row.interval for row in rows):
        notes.append("[ ]: 95 % interval, by a bootstrap of test classes: what another choice of classes would change.")
    if any("knn_accuracy" in row.mean for row in rows):
        notes.append("kNN: accuracy of the vote of the 5 nearest.")
    if any(not row.complete[key] and not math.isnan(row.mean[key]) for row in rows for key in row.mean if key != "seconds"):
        notes.append("†: not every seed has a value.")
    return " ".join(notes)


def header(title: str, results: Mapping[str, Any], rows: Sequence[Row], kicker: str = "metriczoo retrieval benchmark") -> str:
    """The top of the page: what was measured, the result in a sentence, and the facts."""
    facts = "".join(_fact(name, text) for name, text in sorted(_facts(results).items(), key=lambda fact: len(fact[1]) > _SHORT))
    return f"""<header><p class="kicker">{kicker}</p>
<h1>{html.escape(title)}</h1>
{_lead(rows)}{f'<dl class="facts">{facts}</dl>' if facts else ""}</header>"""


def _fact(name: str, text: str) -> str:
    wide = ' class="wide"' if len(text) > _SHORT else ""
    return f"<div{wide}><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"


def _lead(rows: Sequence[Row]) -> str:
    trained = [row for row in rows if row.name not in BASELINES and not math.isnan(row.mean["recall@1"])]
    if not trained:
        return ""
    recall = trained[0].mean["recall@1"]
    above = 100 * (recall - next((row.mean["recall@1"] for row in rows if row.name == "raw"), math.nan))
    than_raw = "" if math.isnan(above) else f", {abs(above):.1f} points {'above' if above >= 0 else 'below'} the raw features"
    return f'<p class="lead">Highest Recall@1: <strong>{html.escape(trained[0].name)}</strong> with {_percent(recall)} %{than_raw}.</p>\n'


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Whatever stands beside the records, and whatever all trained records agree on."""
    records = list(results.get("records", ()))
    trained = [record for record in records if record["loss"] not in BASELINES] or records
    first = trained[0] if trained else {}
    # A number that baselines do not share is a result, not a setting, even where it stands alone.
    common = {k: v for k, v in first.items() if all(record.get(k) == v for record in (records if isinstance(v, float) else trained))}
    facts = {key: text_of(value) for key, value in {**common, **results}.items() if not _is_of_a_run(key)}
    facts.setdefault("seeds", text_of(sorted({record["seed"] for record in trained if "seed" in record})))
    return {key.replace("_", " "): text for key, text in facts.items() if text}


def _is_of_a_run(key: str) -> bool:
    return key in _OF_A_RUN or key.startswith(_RECALL)


def text_of(value: Any) -> str:
    """A value of a JSON file in words."""
    if isinstance(value, Mapping):
        return " · ".join(f"{str(key).replace('_', ' ')} {_text}" for key, part in value.items() if (_text := text_of(part)))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text_of, value)) if len(value) <= _LONGEST_LIST else ""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
