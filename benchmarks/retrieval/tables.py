"""The table of results, on the terminal and in the report."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.report.words import counted, percent
from benchmarks.retrieval.rows import BASELINES, Row, heading, rows_of

__all__ = ["html_table", "rich_table"]

_LEFT_OUT = ("r_precision", "knn_accuracy", "seconds")  # of the columns, for want of room: results.json and the report have them


def rich_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The table of results: losses by Recall@1, best first, then the baselines."""
    rows = rows_of(records)
    many = any(row.seeds > 1 for row in rows)
    skipped = sum(record["num_skipped"] for record in records if record["loss"] == "raw")
    intervals = any("recall@1" in row.interval for row in rows)
    caption = "Percent, on classes that training never saw; R@K: Recall@K"
    if many:
        caption += "; mean ± standard deviation over seeds"
    if intervals:
        caption += "; 95 %: interval of R@1 by a bootstrap of test classes"
    if skipped:
        caption += f"; {counted(skipped, 'query', 'queries')} left out, since no other image has their class"
    result = Table(caption=f"{caption}.", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    result.add_column("Loss", no_wrap=True)
    metrics = [key for key in rows[0].mean if key not in _LEFT_OUT]
    for key in metrics:
        result.add_column(heading(key).replace("Recall@", "R@"), justify="right")
        if key == "recall@1" and intervals:
            result.add_column("95 %", justify="right", no_wrap=True)
    result.add_column("Time", justify="right")
    for number, row in enumerate(rows):
        last = number + 1 < len(rows) and (rows[number + 1].name in BASELINES) != (row.name in BASELINES)
        seconds = "" if math.isnan(row.mean["seconds"]) else f"{row.mean['seconds']:.0f} s"
        cells = [_plain(row, key) for key in metrics]
        if intervals:
            cells.insert(metrics.index("recall@1") + 1, _interval(row))
        result.add_row(row.name, *cells, seconds, end_section=last)
    return result


def _interval(row: Row) -> str:
    low, high = row.interval.get("recall@1", (math.nan, math.nan))
    return "" if math.isnan(low) else f"{percent(low)}-{percent(high)}"


def _plain(row: Row, key: str) -> str:
    spread = row.spread[key]
    return _known(row.mean[key]) + ("" if math.isnan(spread) else f" ±{percent(spread)}")


def _known(value: float) -> str:
    return "-" if math.isnan(value) else percent(value)


def html_table(rows: Sequence[Row]) -> str:
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


def _best(values: Iterable[float]) -> float:
    """The largest one that is known, as it is printed, so that equal prints are equally good."""
    known = [float(percent(value)) for value in values if not math.isnan(value)]
    return max(known, default=math.nan)


def _line(row: Row, best: Mapping[str, float]) -> str:
    cells = "".join(_cell(row, key, highest) for key, highest in best.items())
    seconds = row.mean["seconds"]
    cells += (_NOTHING if math.isnan(seconds) else f"<td>{seconds:.1f}</td>") + f"<td>{row.seeds}</td>"
    return f'<tr><th scope="row">{html.escape(row.name)}</th>{cells}</tr>\n'


def _cell(row: Row, key: str, highest: float) -> str:
    if math.isnan(row.mean[key]):
        return _NOTHING
    mean = percent(row.mean[key])
    text = f"<b>{mean}</b>" if float(mean) == highest else mean
    spread = "" if math.isnan(row.spread[key]) else f" <small>± {percent(row.spread[key])}</small>"
    if key in row.interval:
        spread += f" <small>[{percent(row.interval[key][0])}, {percent(row.interval[key][1])}]</small>"
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
