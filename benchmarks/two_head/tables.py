"""The table of results, on the terminal and in the report."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.evaluation.seeds import mean_and_spread
from benchmarks.report.words import percent
from benchmarks.two_head.objective import SYSTEMS, title_of

__all__ = ["NOTE", "Row", "cost_lines", "html_tables", "plain_tables", "rich_tables", "rows_of"]

BASELINES = ("untrained", "raw")
Key = tuple[str, ...]  # of a number in a record
_COLUMNS: Mapping[Key, tuple[str, str]] = {
    ("accuracy",): ("Accuracy", "Acc"),
    ("accuracy_macro",): ("Macro", "Macro"),
    ("accuracy_rare",): ("Rare classes", "Rare"),
    ("pooled", "recall@1"): ("Head 1: R@1", "1:R@1"),
    ("pooled", "recall@4"): ("R@4", "R@4"),
    ("pooled", "nmi"): ("NMI", "NMI"),
    ("pooled", "ami"): ("AMI", "AMI"),
    ("embedding", "recall@1"): ("Head 2: R@1", "2:R@1"),
    ("embedding", "recall@4"): ("R@4", "R@4"),
    ("embedding", "nmi"): ("NMI", "NMI"),
    ("embedding", "ami"): ("AMI", "AMI"),
}
_ON_THE_TERMINAL = [key for key in _COLUMNS if key[-1] not in ("recall@4", "ami")]
_SECONDS: Key = ("seconds",)
NOTE = (
    "Percent, on held-out images of the classes that were trained on. Accuracy: over images, and over classes (macro); of raw features "
    "that of the nearest training image. R@K: Recall@K among held-out images by cosine, NMI of k-means; head 1: pooled features, "
    "head 2: embeddings."
)


@dataclass(frozen=True)
class Row:
    """What all seeds of a system add up to, by key; NaN where a number does not exist for any."""

    name: str
    seeds: int
    mean: dict[Key, float]
    spread: dict[Key, float]  # standard deviation over seeds; NaN of a single one


def rows_of(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """By distribution: systems in their order, then the baselines."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        found.setdefault(record["data"], {}).setdefault(record["loss"], []).append(record)
    order = [*SYSTEMS, *BASELINES]
    return {
        distribution: [_row(name, of_name) for name, of_name in sorted(by_name.items(), key=lambda item: order.index(item[0]))]
        for distribution, by_name in found.items()
    }


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> Row:
    known = {key: [value for record in records if (value := _value(record, key)) is not None] for key in (*_COLUMNS, _SECONDS)}
    return Row(
        name,
        len(records),
        *mean_and_spread(known),
    )


def _value(record: Mapping[str, Any], key: Key) -> float | None:
    part: Any = record
    for name in key:
        part = None if part is None else part[name]
    return None if part is None else float(part)


def _cell(row: Row, key: Key) -> str:
    if math.isnan(row.mean[key]):
        return "-"
    spread = "" if math.isnan(row.spread[key]) else f" ±{percent(row.spread[key])}"
    return f"{percent(row.mean[key])}{spread}"


def _heading(distribution: str, records: Iterable[Mapping[str, Any]]) -> str:
    sizes = next(record["split_sizes"] for record in records if record["data"] == distribution)
    least, most = sizes["smallest_class"], sizes["largest_class"]
    of_each = str(least) if least == most else f"{least} to {most}"
    return (
        f"{distribution.replace('_', '-')}: {sizes['train_images']} training images of {sizes['classes']} classes, {of_each} of each; "
        f"{sizes['test_images']} held out"
    )


def rich_tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table per distribution, for the terminal."""
    tables = []
    for distribution, rows in rows_of(records).items():
        keys = [key for key in _ON_THE_TERMINAL if any(not math.isnan(row.mean[key]) for row in rows)]
        title = _heading(distribution, records)
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
        table.add_column("", no_wrap=True)
        for heading in (*(_COLUMNS[key][1] for key in keys), "Time"):
            table.add_column(heading, justify="right")
        for number, row in enumerate(rows):
            last = number + 1 < len(rows) and (rows[number + 1].name in BASELINES) != (row.name in BASELINES)
            seconds = row.mean[_SECONDS]
            time = "" if math.isnan(seconds) else f"{seconds:.0f} s"
            table.add_row(title_of(row.name), *(_cell(row, key) for key in keys), time, end_section=last)
        tables.append(table)
    return tables


def plain_tables(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]], str]]:
    """Title, headings, rows and note of a table per distribution, and of what the second head costs, for the documentation."""
    tables = []
    for distribution, rows in rows_of(results["records"]).items():
        keys = [key for key in _COLUMNS if any(not math.isnan(row.mean[key]) for row in rows)]
        headings = ["", *(_COLUMNS[key][0] for key in keys), "Seeds"]
        body = [[title_of(row.name), *(_cell(row, key) for key in keys), str(row.seeds)] for row in rows]
        tables.append((_heading(distribution, results["records"]), headings, body, NOTE))
    plain = results["cost"]["softmax"]
    costs = [
        [title_of(name), f"{cost['milliseconds']:.1f}", f"{100 * cost['share']:.1f}", f"{cost['parameters'] - plain['parameters']:,}"]
        for name, cost in results["cost"].items()
    ]
    note = "Of a training step of the whole backbone; percent are the share of the second head and its loss."
    tables.append(("Cost", ["", "Milliseconds", "Percent", "Further parameters"], costs, note))
    return tables


def html_tables(records: Sequence[Mapping[str, Any]]) -> str:
    """A section with a table per distribution, for the report."""
    parts = []
    for distribution, rows in rows_of(records).items():
        keys = [key for key in _COLUMNS if any(not math.isnan(row.mean[key]) for row in rows)]
        heads = "".join(f'<th scope="col">{name}</th>' for name in ("", *(_COLUMNS[key][0] for key in keys), "Seconds", "Seeds"))
        best = {key: percent(max(row.mean[key] for row in rows if not math.isnan(row.mean[key]))) for key in keys}
        groups = [[row for row in rows if (row.name in BASELINES) == baseline] for baseline in (False, True)]
        bodies = "".join(f"<tbody>{''.join(_line(row, best) for row in group)}</tbody>" for group in groups if group)
        heading = html.escape(_heading(distribution, records))
        parts.append(f'<h3>{heading}</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead>{bodies}</table></div>')
    spread = " Mean ± standard deviation over seeds." if any(record["seed"] for record in records) else " Of one seed."
    return f'<section id="results"><h2>Results</h2><p>{html.escape(NOTE)}{spread}</p>{"".join(parts)}</section>'


def _line(row: Row, best: Mapping[Key, str]) -> str:
    cells = []
    for key, highest in best.items():
        text = _cell(row, key)
        value, _, spread = text.partition(" ")
        value = f"<b>{value}</b>" if value == highest else value
        cells.append(f"<td>{value}{f' <small>{spread}</small>' if spread else ''}</td>")
    seconds = row.mean[_SECONDS]
    cells.append("<td>-</td>" if math.isnan(seconds) else f"<td>{seconds:.1f}</td>")
    return f'<tr><th scope="row">{html.escape(title_of(row.name))}</th>{"".join(cells)}<td>{row.seeds}</td></tr>\n'


def cost_lines(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the second head costs, a line for each ranking loss."""
    plain = costs["softmax"]
    lines = [f"A training step of the whole backbone takes {plain['milliseconds']:.1f} ms without a second head."]
    for name, cost in costs.items():
        if name != "softmax":
            more = cost["parameters"] - plain["parameters"]
            lines.append(
                f"{title_of(name)}: {cost['milliseconds']:.1f} ms, of which the second head and its loss are {100 * cost['share']:.1f} %; "
                f"{more:,} further parameters."
            )
    return lines
