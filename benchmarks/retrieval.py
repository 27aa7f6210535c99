"""Compare losses on classes they never saw: `python -m benchmarks.retrieval --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks.experiment import Experiment
from benchmarks.losses import LOSSES
from benchmarks.options import parse, settings_of
from benchmarks.report import write_report
from benchmarks.results import open_folder
from benchmarks.runs import raw, trained, untrained
from benchmarks.screen import Screen, table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    try:
        _benchmark(options, Console())
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command with --resume goes on.", file=sys.stderr)
        return 130
    return 0


def _one_line(error: Exception) -> str:
    """The message, and of an error in a process that reads images only its last line, below the trace of that process."""
    text = str(error)
    if "DataLoader worker" in text:
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _benchmark(options: argparse.Namespace, console: Console) -> None:
    if options.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    with console.status("Reading the data"):
        experiment = Experiment(options)
    folder = open_folder(options.output, settings_of(options), resume=options.resume)
    console.print(f"{experiment.train!r}\n{experiment.test!r}\nResults go to {folder.path}", highlight=False, soft_wrap=True)
    if experiment.missing:
        console.print(f"{experiment.missing} images that the index lists are not there, and are left out.")
    for complaint in experiment.broken:
        console.print(f"Left out: {complaint}", markup=False, soft_wrap=True)
    if experiment.broken:
        console.print(f"{len(experiment.broken)} images cannot be decoded, and are left out.")
    unmoved = [loss for loss in options.losses if LOSSES[loss].references != "batch"]
    if options.memory_bank and unmoved:
        console.print(f"--memory-bank changes nothing for {', '.join(unmoved)}: it is for losses over pairs.")
    runs = []
    with Screen(console, options.seeds * len(options.losses), experiment.recipe.steps) as screen:
        screen.status("Baselines")
        raw(experiment, folder)
        for seed in range(options.seeds):
            before = untrained(experiment, seed, folder)
            for loss in options.losses:
                screen.begin(f"{loss}, seed {seed}")
                record, run = trained(experiment, loss, seed, before, folder, screen.step)
                screen.end(record)
                runs.append(run)
    console.print(table(folder.results["records"]))
    path = folder.path / "report.html"
    with console.status("Writing the report"):
        write_report(
            path,
            results=folder.results,
            runs=runs,
            test_images=lambda position: experiment.test[position][0],
            test_labels=experiment.test.labels,
            class_names=experiment.test.class_names,
        )
    console.print(f"Report: {path}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
