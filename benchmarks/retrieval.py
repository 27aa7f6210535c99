"""Compare losses on classes they never saw: `python -m benchmarks.retrieval --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks._arguments import exit_status
from benchmarks.comparison import classes_csv, comparisons
from benchmarks.experiment import Experiment
from benchmarks.folds import class_folds
from benchmarks.losses import LOSSES
from benchmarks.options import is_reality_check, parse, settings_of
from benchmarks.reality import METRIC, RealityCheck, of_seeds, seed_intervals
from benchmarks.report import RunView, write_report
from benchmarks.results import Folder, open_folder
from benchmarks.runs import PerQuery, raw, trained, untrained
from benchmarks.screen import Screen, table

__all__ = ["announce", "main", "prepare"]

_Runs = tuple[list[RunView], dict[str, list[PerQuery]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    return exit_status(lambda: _benchmark(options, Console()))


def _benchmark(options: argparse.Namespace, console: Console) -> None:
    if options.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    with console.status("Reading the data"):
        experiment = Experiment(options)
        if is_reality_check(options.protocol):
            class_folds(experiment.train.labels, options.folds)  # complains before there is a folder
    needed = ("protocol", "intervals")
    absent = ("presets", "backbone_rate", "head_rate", "proxy_rate", "batch_norm", "precision", "chunk")
    before = {"protocol": "finetune", "folds": 4, "trials": 0, "patience": 3, **dict.fromkeys(absent)}
    folder = open_folder(options.output, settings_of(options), resume=options.resume, before=before, needed=needed)
    announce(experiment, folder, console)
    prepare(experiment, console)
    runs, per_query = (_checked if is_reality_check(options.protocol) else _runs)(experiment, folder, console)
    with console.status("Comparing the losses"):
        folder.results["comparisons"] = comparisons(per_query, experiment.query_labels)
        folder.write()
        folder.write_text("classes.csv", classes_csv(per_query, experiment.query_labels, experiment.test.class_names))
    console.print(table(folder.results["records"]))
    for line in of_seeds(folder.results):
        console.print(line, highlight=False)
    path = folder.path / "report.html"
    with console.status("Writing the report"):
        write_report(
            path,
            results=folder.results,
            runs=runs,
            test_images=experiment.test_images,
            test_labels=experiment.test.labels,
            class_names=experiment.test.class_names,
            is_query=experiment.is_query,
        )
    console.print(f"Report: {path}", soft_wrap=True)


def _runs(experiment: Experiment, folder: Folder, console: Console) -> _Runs:
    """Every loss with every seed, and the baselines."""
    options, runs = experiment.options, []
    per_query: dict[str, list[PerQuery]] = {loss: [] for loss in (*options.losses, experiment.protocol.baseline, "raw")}
    with Screen(console, options.seeds * len(options.losses), experiment.recipe.steps) as screen:
        screen.status("Baselines")
        per_query["raw"].append(raw(experiment, folder))
        for seed in range(options.seeds):
            start, of_start = untrained(experiment, seed, folder)
            per_query[experiment.protocol.baseline].append(of_start)
            for loss in options.losses:
                screen.begin(f"{loss}, seed {seed}")
                record, run, of_loss = trained(experiment, loss, seed, start, folder, screen.step)
                screen.end(record)
                runs.append(run)
                per_query[loss].append(of_loss)
    return runs, per_query


def _checked(experiment: Experiment, folder: Folder, console: Console) -> _Runs:
    """As of `_runs`, with the models of a cross-validation in place of one."""
    options, check, runs = experiment.options, RealityCheck(experiment, folder), []
    rows = [row for loss in options.losses for row in check.names[loss]]
    per_query: dict[str, list[PerQuery]] = {row: [] for row in (*rows, experiment.protocol.baseline, "raw")}
    with console.status("Searching hyper-parameters") as status:
        check.search(lambda done, total: status.update(f"Searching hyper-parameters: {done} of {total} trainings"))
    with Screen(console, options.seeds * len(options.losses), check.num_steps, (METRIC, "MAP@R held out")) as screen:
        screen.status("Baselines")
        per_query["raw"].append(raw(experiment, folder))
        for seed in range(options.seeds):
            start, of_start = untrained(experiment, seed, folder)
            per_query[experiment.protocol.baseline].append(of_start)
            for loss in options.losses:
                for record, run, of_loss in check.run(loss, seed, start, screen):
                    runs.append(run)
                    per_query[record["loss"]].append(of_loss)
    folder.results["seed_intervals"] = seed_intervals(folder.results["records"], rows)
    return runs, per_query


def announce(experiment: Experiment, folder: Folder, console: Console) -> None:
    """Tell what the data are, what of them is left out, and where results go."""
    console.print(f"{experiment.train!r}\n{experiment.test!r}\nResults go to {folder.path}", highlight=False, soft_wrap=True)
    if experiment.missing:
        console.print(f"{experiment.missing} images that the index lists are not there, and are left out.")
    for complaint in experiment.broken:
        console.print(f"Left out: {complaint}", markup=False, soft_wrap=True)
    if experiment.broken:
        console.print(f"{len(experiment.broken)} images cannot be decoded, and are left out.")
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


if __name__ == "__main__":
    sys.exit(main())
