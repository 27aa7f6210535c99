"""What the terminal shows: progress, and the table in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks._report_numbers import BASELINES, Row, heading, rows_of

__all__ = ["Screen", "table"]

_LEFT_OUT = ("r_precision", "knn_accuracy", "seconds")  # of the columns, for want of room: results.json and the report have them


class Screen:
    """A terminal with a progress bar over all runs, as a context manager.

    Args:
        console: where to write.
        num_runs: how many runs there are.
        num_steps: how many steps each has.
        metric: what is shown of a run, by its name in a record and in words.
    """

    def __init__(self, console: Console, num_runs: int, num_steps: int, metric: tuple[str, str] = ("recall@1", "Recall@1")) -> None:
        self.console, self.num_steps, self.metric = console, num_steps, metric
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console)
        self.task = self.progress.add_task("", total=num_runs * num_steps)
        self.steps_done, self.run = 0, ""  # steps of runs that have ended

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.status("All runs")
        self.progress.stop()

    def status(self, text: str) -> None:
        """Say what is going on."""
        self.progress.update(self.task, description=text)

    def begin(self, run: str, num_steps: int | None = None) -> None:
        """Begin a run, of its own number of steps if it is not that of all."""
        self.run, self.num_steps = run, self.num_steps if num_steps is None else num_steps
        self.status(run)

    def step(self, steps: int, loss: float, value: float) -> None:
        """Show how far the run is: steps done, the last loss, the last value of the metric."""
        text = f"{self.run}: loss {loss:.3f}, {self.metric[1]} {_percent(value)}"
        self.progress.update(self.task, completed=self.steps_done + steps, description=text)

    def end(self, record: Mapping[str, Any]) -> None:
        """Print what came of the run."""
        self.steps_done += self.num_steps
        self.progress.update(self.task, completed=self.steps_done)
        name, words = self.metric
        value = math.nan if record[name] is None else record[name]
        self.console.print(f"{self.run}: {words} {_percent(value)} after {record['seconds']:.1f} s of training", highlight=False)


def table(records: Sequence[Mapping[str, Any]]) -> Table:
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
        caption += f"; {skipped} test images without another of their class asked nothing"
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
        cells = [_cell(row, key) for key in metrics]
        if intervals:
            cells.insert(metrics.index("recall@1") + 1, _interval(row))
        result.add_row(row.name, *cells, seconds, end_section=last)
    return result


def _interval(row: Row) -> str:
    low, high = row.interval.get("recall@1", (math.nan, math.nan))
    return "" if math.isnan(low) else f"{_percent(low)}-{_percent(high)}"


def _cell(row: Row, key: str) -> str:
    spread = row.spread[key]
    return _percent(row.mean[key]) + ("" if math.isnan(spread) else f" ±{_percent(spread)}")


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
