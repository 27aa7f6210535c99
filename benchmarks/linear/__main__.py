"""Compare linear metrics: `python -m benchmarks.linear --help`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.command.arguments import exit_status
from benchmarks.command.folder import open_folder
from benchmarks.command.screen import Screen
from benchmarks.linear.options import parse, settings_of
from benchmarks.linear.page import write_page
from benchmarks.linear.runs import Experiment
from benchmarks.linear.systems import SYSTEMS
from benchmarks.linear.tables import NOTE, rich_tables

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    return exit_status(lambda: _benchmark(options, Console()))


def _benchmark(options: argparse.Namespace, console: Console) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder = open_folder(options.output, settings_of(options), resume=options.resume, key=("data", "loss", "seed"))
    experiment = Experiment(options, folder)
    for data in options.datasets:
        experiment.split(data, 0)  # a file that is missing is told at once
    console.print(f"Results go to {folder.path}", highlight=False, soft_wrap=True)
    with threadpool_limits(options.threads):
        _run(experiment, console)
    for table in rich_tables(folder.results["records"]):
        console.print(table)
    console.print(NOTE + (" Mean ± standard deviation over splits." if options.splits > 1 else ""), style="dim")
    path = folder.path / "report.html"
    with console.status("Writing the report"):
        write_page(path, results=folder.results, views=experiment.views())
    console.print(f"Report: {path}", soft_wrap=True)


def _run(experiment: Experiment, console: Console) -> None:
    runs = list(experiment.runs())
    with Screen(console, len(runs), 1, metric=("knn_error", "kNN error")) as screen:
        for data, system, seed in runs:
            screen.begin(f"{data}, {SYSTEMS[system].title}, split {seed}")
            record = experiment.run(data, system, seed)
            if record["error"]:
                console.print(f"{screen.run}: {record['error']}", highlight=False, markup=False)
            screen.end({**record, "seconds": record["seconds"] or 0.0})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # which ends what was begun, as Ctrl-C does
    sys.exit(main())
