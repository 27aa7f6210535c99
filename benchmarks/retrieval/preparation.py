"""What the terminal shows before the first run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.command.folder import Folder
from benchmarks.command.screen import tell_left_out
from benchmarks.retrieval.experiment import Experiment
from benchmarks.training.losses import LOSSES

__all__ = ["announce", "prepare"]


def announce(experiment: Experiment, folder: Folder, console: Console) -> None:
    """Tell what the data are, what of them is left out, and where results go."""
    console.print(f"{experiment.train!r}\n{experiment.test!r}\nResults go to {folder.path}", highlight=False, soft_wrap=True)
    tell_left_out(console, experiment.missing, experiment.broken)
    options = experiment.options
    unmoved = [loss for loss in options.losses if LOSSES[loss].references != "batch"]
    if options.memory_bank and unmoved:
        console.print(f"--memory-bank changes nothing for {', '.join(unmoved)}: it is for losses over pairs.")


def prepare(experiment: Experiment, console: Console) -> None:
    """Make what takes long before the first run."""
    columns = (TextColumn("Features"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("", total=None)

    def show(done: int, total: int) -> None:
        progress.start()  # once there is something to show
        progress.update(task, completed=done, total=total)

    try:
        notes = experiment.prepare(show)
    finally:
        progress.stop()
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
