"""What the terminal shows while a benchmark runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.report.words import counted, percent

__all__ = ["Screen", "tell_left_out"]


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


def tell_left_out(console: Console, missing: int, broken: Sequence[str]) -> None:
    """Tell which images are left out.

    Args:
        console: where to write.
        missing: how many listed images have no file.
        broken: what is wrong with each file that cannot be decoded.
    """
    if missing:
        console.print(f"Left out for want of a file: {counted(missing, 'image')} of the index.", highlight=False)
    for complaint in broken:
        console.print(f"Left out: {complaint}", markup=False, soft_wrap=True)
    if broken:
        console.print(f"Left out, as nothing can decode them: {counted(len(broken), 'image')}.", highlight=False)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else percent(value)
