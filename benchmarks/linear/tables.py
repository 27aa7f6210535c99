"""The tables of results, a data set each: on the terminal, in the report and in the documentation."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.evaluation.seeds import mean_and_spread
from benchmarks.linear.data import DATA
from benchmarks.linear.paired import sentences
from benchmarks.linear.systems import SYSTEMS

__all__ = ["NOTE", "Row", "html_tables", "plain_tables", "rich_tables", "rows_of"]


@dataclass(frozen=True)
class Column:
    """A number of a record."""

    heading: str
    short: str
    text: Callable[[float], str]
    best: bool  # whether the least is printed bold


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


_COLUMNS = {
    "knn_error": Column("kNN error", "kNN", _percent, best=True),
    "energy_error": Column("Energy error", "Energy", _percent, best=True),
    "objective": Column("LMNN objective", "Objective", lambda value: f"{value:.2f}", best=True),
    "impostors": Column("Impostors", "Impostors", lambda value: f"{value:,.0f}", best=True),
    "seconds": Column("Seconds", "Seconds", lambda value: f"{value:.2f}" if value < 10 else f"{value:.0f}", best=False),
    "steps": Column("Steps", "Steps", lambda value: f"{value:.0f}", best=False),
}
NOTE = (
    "Errors on test points in percent, of the vote of k nearest training points, and of the class with which a point would raise the "
    "objective of LMNN least. On training points: that objective, per point, and the pairs of a point and an impostor, at the best "
    "scale of each metric. Seconds of fit alone. Differences are of the same splits, with their 95 % interval over new data (Nadeau and "
    "Bengio 2003)."
)


@dataclass(frozen=True)
class Row:
    """What all splits of a system add up to; NaN where none has a number."""

    name: str
    runs: int
    mean: dict[str, float]
    spread: dict[str, float]  # standard deviation over splits; NaN of a single one
    error: str | None  # why it did not run, where it never did


def rows_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """By data set: systems in their order."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        found.setdefault(record["data"], {}).setdefault(record["loss"], []).append(record)
    return {data: [_row(name, found[data][name]) for name in SYSTEMS if name in found[data]] for data in DATA if data in found}


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> Row:
    known = {key: [float(r[key]) for r in records if r[key] is not None] for key in _COLUMNS}
    errors = [r["error"] for r in records if r["error"]]
    return Row(
        name,
        len(records) - len(errors),
        *mean_and_spread(known),
        errors[0] if errors else None,
    )


def _cell(row: Row, key: str) -> tuple[str, str]:
    """The mean and, of an error, its spread."""
    if math.isnan(row.mean[key]):
        return "-", ""
    spread = "" if math.isnan(row.spread[key]) or not key.endswith("_error") else f"±{_COLUMNS[key].text(row.spread[key])}"
    return _COLUMNS[key].text(row.mean[key]), spread


def _heading(data: str, records: Sequence[Mapping[str, Any]]) -> str:
    sizes = next(record["split_sizes"] for record in records if record["data"] == data)
    points = f"{sizes['train']:,} training and {sizes['test']:,} test points of {sizes['classes']} classes"
    return f"{DATA[data].title}: {points}, {sizes['features']} features"


def _pairs(data: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = {name: system.title for name, system in SYSTEMS.items()}
    return list(sentences([record for record in records if record["data"] == data], titles))


def _errors(rows: Sequence[Row]) -> list[str]:
    return [f"{SYSTEMS[row.name].title}: {row.error}" for row in rows if row.error]


def rich_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table per data set, for the terminal."""
    tables = []
    for data, rows in rows_of(records).items():
        caption = "\n".join([*_pairs(data, records), *_errors(rows)]) or None
        table = Table(
            title=_heading(data, records), title_justify="left", title_style="bold", box=SIMPLE_HEAD, caption=caption, padding=(0, 0, 0, 1)
        )
        table.caption_justify = "left"
        table.add_column("", no_wrap=True)
        keys = [key for key in _COLUMNS if key != "steps"]  # for want of room
        for key in keys:
            table.add_column(_COLUMNS[key].short, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(SYSTEMS[row.name].title, *(" ".join(filter(None, _cell(row, key))) for key in keys))
        tables.append(table)
    return tables


def plain_tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]], str]]:
    """Title, headings, rows and note of a table per data set, for the documentation."""
    tables = []
    for data, rows in rows_of(results["records"]).items():
        headings = ["", *(column.heading for column in _COLUMNS.values()), "Splits"]
        body = [[SYSTEMS[row.name].title, *(" ".join(filter(None, _cell(row, key))) for key in _COLUMNS), str(row.runs)] for row in rows]
        notes = [*_pairs(data, results["records"]), *_errors(rows)]
        tables.append((_heading(data, results["records"]), headings, body, " ".join(f"{text}." for text in notes)))
    return tables


def html_tables(records: Sequence[Mapping[str, Any]]) -> str:
    """A section with a table per data set, for the report."""
    parts = []
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("", *(column.heading for column in _COLUMNS.values()), "Splits"))
    for data, rows in rows_of(records).items():
        best = {key: _least(rows, key) for key in _COLUMNS}
        body = "".join(_line(row, best) for row in rows)
        notes = "".join(f"<p>{html.escape(text)}.</p>" for text in _pairs(data, records))
        notes += "".join(f'<p class="missing">{html.escape(text)}</p>' for text in _errors(rows))
        heading = html.escape(_heading(data, records))
        table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        parts.append(f'<h3 id="{data}">{heading}</h3>{table}{notes}')
    spread = " Mean ± standard deviation over splits." if any(record["seed"] for record in records) else " Of one split."
    return f'<section id="results"><h2>Results</h2><p>{html.escape(NOTE)}{spread}</p>{"".join(parts)}</section>'


def _least(rows: Sequence[Row], key: str) -> str | None:
    """The least of the column, as it is printed."""
    known = [row for row in rows if not math.isnan(row.mean[key])]
    return _cell(min(known, key=lambda row: row.mean[key]), key)[0] if known and _COLUMNS[key].best else None


def _line(row: Row, best: Mapping[str, str | None]) -> str:
    cells = []
    for key, least in best.items():
        value, spread = _cell(row, key)
        value = f"<b>{value}</b>" if value == least else value
        cells.append(f"<td>{value}{f' <small>{spread}</small>' if spread else ''}</td>")
    return f'<tr><th scope="row">{html.escape(SYSTEMS[row.name].title)}</th>{"".join(cells)}<td>{row.runs}</td></tr>\n'
