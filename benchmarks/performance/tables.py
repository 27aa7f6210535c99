"""The table of a family, for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.performance.registry import FAMILIES
from benchmarks.performance.summary import is_ours
from benchmarks.performance.work import OURS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["TARGET_HEADINGS", "WORDS", "headings", "number", "rows", "table", "target_rows", "targets_table"]

Record = Mapping[str, Any]

WORDS = ("Work", "Library", "Note")  # columns that hold no numbers


def headings(family: str, suite: str) -> tuple[str, ...]:
    """Of the columns."""
    what = FAMILIES[family]
    unit = "/ product" if what.products == 1 else f"/ {what.products} products"
    floor = ("/ floor",) if family == "ranking" and suite == "speed" else ()
    numbers = ("CPU ms", unit, "Peak MB", "Time / ours", "Memory / ours", "Time grows as", "Memory grows as")
    return ("Work", what.size.capitalize(), "Library", *_of_suite(suite, numbers), *floor, "Note")


def rows(family: str, results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each work, by size and library."""
    records = [r for r in results["records"] if r["family"] == family]
    order = {name: k for k, name in enumerate(dict.fromkeys(r["work"] for r in records))}
    records.sort(key=lambda r: (order[r["work"]], r["size"], not is_ours(r["library"])))
    exponents = {(g["work"], g["library"]): g for g in results["growth"]}
    own = {(r["work"], r["size"]): r for r in records if r["library"] == OURS}
    return [_row(r, own.get((r["work"], r["size"])), exponents.get((r["work"], r["library"]), {}), results["suite"]) for r in records]


def _row(record: Record, own: Record | None, exponents: Mapping[str, Any], suite: str) -> tuple[str, ...]:
    other = None if record["library"] == OURS else own
    figures = [number(record[key]) for key in ("cpu_ms", "ratio", "peak_mb")]
    figures += [_over(record[key], other[key] if other else None) for key in ("cpu_ms", "peak_mb")]
    powers = (None if record["note"] else exponents.get(name) for name in ("time", "memory"))
    figures += ["" if power is None else f"N^{power:.1f}" for power in powers]
    floor = (number(record["floor_ratio"]),) if record["family"] == "ranking" and suite == "speed" else ()
    note = record["note"] or ("" if record["agrees"] is not None or record["library"] == OURS else "not compared")
    return (record["work"], f"{record['size']:,}", record["library"], *_of_suite(suite, figures), *floor, note)


def _of_suite(suite: str, columns: Sequence[str]) -> tuple[str, ...]:
    """A single call has a peak; its time is that of the first."""
    return tuple(columns) if suite == "speed" else (columns[2], columns[4], columns[6])


def _over(value: float | None, own: float | None) -> str:
    return "" if value is None or own is None or own <= 0 else f"{number(value / own)}x"


def number(value: float | None) -> str:
    """Three digits, or more where they are whole."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(family: str, results: Mapping[str, Any]) -> Table:
    """For the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(title=FAMILIES[family].title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for heading in headings(family, results["suite"]):
        words = heading in WORDS
        result.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=heading == "Library")
    last = None
    for row in rows(family, results):
        if last is not None and row[0] != last:
            result.add_section()
        result.add_row("" if row[0] == last else row[0], *row[1:])
        last = row[0]
    return result


# ---- what was promised

TARGET_HEADINGS = ("Target", "Size", "Wanted", "Measured", "Met")
_MET = {True: "yes", False: "no", None: ""}


def target_rows(outcomes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of each target, in the order of the list."""
    rows: list[tuple[str, ...]] = []
    for outcome in outcomes:
        missed = f"; missed by {', '.join(outcome['missed'])}" if outcome["missed"] else ""
        rows.append((outcome["work"], outcome["size"], outcome["wanted"], outcome["measured"] + missed, _MET[outcome["met"]]))
    return rows


def targets_table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(title="Targets", box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for heading in TARGET_HEADINGS:
        result.add_column(heading, overflow="fold")
    for row in target_rows(outcomes):
        result.add_row(*row)
    return result
