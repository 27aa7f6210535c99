"""`python -m benchmarks.instance_discrimination`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.command.arguments import exit_status
from benchmarks.command.device import deterministic
from benchmarks.command.folder import Folder, open_folder
from benchmarks.command.screen import Screen
from benchmarks.instance_discrimination.bench import Bench
from benchmarks.instance_discrimination.data import load_data
from benchmarks.instance_discrimination.options import parse, settings_of
from benchmarks.instance_discrimination.page import screen_table, write_page
from benchmarks.instance_discrimination.studies import Task, tasks_of
from benchmarks.instance_discrimination.tables import sections_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    return exit_status(lambda: _benchmark(options, Console() if sys.stdout.isatty() else Console(width=150)))  # a file has no width


def _benchmark(options: argparse.Namespace, console: Console) -> None:
    deterministic(options.device)
    with console.status("Reading the images"):
        data = load_data(options)
    folder = open_folder(options.output, settings_of(options), resume=options.resume)
    sizes = data.sizes()
    console.print(
        f"{options.dataset}: {sizes['train_images']:,} images to train on and {sizes['held_out_images']:,} held out, of "
        f"{sizes['classes']:,} classes; {sizes['unseen_images']:,} of {sizes['unseen_classes']:,} unseen ones\nResults go to {folder.path}",
        highlight=False,
        soft_wrap=True,
    )
    for complaint in data.complaints:
        console.print(f"Left out: {complaint}", markup=False, soft_wrap=True)
    tasks = tasks_of(Bench(options, data))
    with Screen(console, 1, sum(task.steps for task in tasks)) as screen:
        for task in tasks:
            _run(task, folder, screen)
    sections = sections_of(folder.results)
    for section in sections:
        console.print(screen_table(section))
    path = folder.path / "report.html"
    with console.status("Writing the report"):
        write_page(path, folder.results, sections)
    console.print(f"Report: {path}", soft_wrap=True)


def _run(task: Task, folder: Folder, screen: Screen) -> None:
    screen.metric = task.metric
    screen.begin(task.name, task.steps)
    task.run(folder, screen.step)
    if task.steps:
        screen.end(next(record for record in folder.results["records"] if (record["loss"], record["seed"]) == task.key))


if __name__ == "__main__":
    sys.exit(main())
