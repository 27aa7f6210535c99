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

from benchmarks._report_numbers import BASELINES, Row, rows_of

__all__ = ["Screen", "table"]

_COLUMNS = {
    "recall@1": "R@1",
    "recall@2": "R@2",
    "recall@4": "R@4",
    "recall@8": "R@8",
    "map@r": "MAP@R",
    "r_precision": "R-P",
    "nmi": "NMI",
    "ami": "AMI",
}


class Screen:
    """A terminal with a progress bar over all runs, as a context manager.

    Args:
        console: where to write.
        num_runs: how many runs there are.
        num_steps: how many steps each has.
    """

    def __init__(self, console: Console, num_runs: int, num_steps: int) -> None:
        self.console, self.num_steps = console, num_steps
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console)
        self.task = self.progress.add_task("", total=num_runs * num_steps)
        self.runs_done, self.run = 0, ""

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

    def begin(self, run: str) -> None:
        """Begin a run."""
        self.run = run
        self.status(run)

    def step(self, steps: int, loss: float, recall: float) -> None:
        """Show how far the run is: steps done, the last loss, the last Recall@1."""
        text = f"{self.run}: loss {loss:.3f}, Recall@1 {_percent(recall)}"
        self.progress.update(self.task, completed=self.runs_done * self.num_steps + steps, description=text)

    def end(self, record: Mapping[str, Any]) -> None:
        """Print what came of the run."""
        self.runs_done += 1
        self.progress.update(self.task, completed=self.runs_done * self.num_steps)
        recall = math.nan if record["recall@1"] is None else record["recall@1"]
        self.console.print(f"{self.run}: Recall@1 {_percent(recall)} after {record['seconds']:.1f} s of training", highlight=False)


def table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The table of results: losses by Recall@1, best first, then the baselines."""
    rows = rows_of(records)
    many = any(row.seeds > 1 for row in rows)
    skipped = sum(record["num_skipped"] for record in records if record["loss"] == "raw")
    caption = "Percent, on classes that training never saw; R@K: Recall@K, R-P: R-precision"
    if many:
        caption += "; mean ± standard deviation over seeds"
    if skipped:
        caption += f"; {skipped} test images without another of their class asked nothing"
    result = Table(caption=f"{caption}.", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    result.add_column("Loss", no_wrap=True)
    for name in (*_COLUMNS.values(), "Time"):
        result.add_column(name, justify="right")
    for number, row in enumerate(rows):
        last = number + 1 < len(rows) and (rows[number + 1].name in BASELINES) != (row.name in BASELINES)
        seconds = "" if math.isnan(row.mean["seconds"]) else f"{row.mean['seconds']:.0f} s"
        result.add_row(row.name, *(_cell(row, key) for key in _COLUMNS), seconds, end_section=last)
    return result


def _cell(row: Row, key: str) -> str:
    spread = row.spread[key]
    return _percent(row.mean[key]) + ("" if math.isnan(spread) else f" ±{_percent(spread)}")


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
