"""Compare losses on classes they never saw: `python -m benchmarks.retrieval --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from torch import Tensor

from benchmarks.command.arguments import exit_status
from benchmarks.command.device import deterministic
from benchmarks.command.folder import Folder, open_folder
from benchmarks.command.screen import Screen
from benchmarks.evaluation.comparison import classes_csv, comparisons
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.folds import class_folds
from benchmarks.retrieval.options import is_reality_check, parse, settings_of
from benchmarks.retrieval.page import RunView, write_report
from benchmarks.retrieval.preparation import announce, prepare
from benchmarks.retrieval.reality import METRIC, RealityCheck, of_seeds, seed_intervals
from benchmarks.retrieval.runs import PerQuery, raw, trained, untrained
from benchmarks.retrieval.tables import rich_table

__all__ = ["main"]

_Run = tuple[dict[str, Any], RunView, PerQuery]
_Runs = tuple[list[RunView], dict[str, list[PerQuery]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    return exit_status(lambda: _benchmark(options, Console()))


def _benchmark(options: argparse.Namespace, console: Console) -> None:
    deterministic(options.device)
    with console.status("Reading the data"):
        experiment = Experiment(options)
        if is_reality_check(options.protocol):
            class_folds(experiment.train.labels, options.folds)  # complains before there is a folder
    needed = ("protocol", "intervals")
    absent = ("presets", "backbone_rate", "head_rate", "proxy_rate", "batch_norm", "precision", "chunk")
    before = {"protocol": "finetune", "folds": 4, "trials": 0, "patience": 3, "memory_from_step": 0, **dict.fromkeys(absent)}
    folder = open_folder(options.output, settings_of(options), resume=options.resume, before=before, needed=needed)
    announce(experiment, folder, console)
    prepare(experiment, console)
    runs, per_query = (_checked if is_reality_check(options.protocol) else _plain)(experiment, folder, console)
    with console.status("Comparing the losses"):
        folder.results["comparisons"] = comparisons(per_query, experiment.query_labels)
        folder.write()
        folder.write_text("classes.csv", classes_csv(per_query, experiment.query_labels, experiment.test.class_names))
    console.print(rich_table(folder.results["records"]))
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


def _plain(experiment: Experiment, folder: Folder, console: Console) -> _Runs:
    """Every loss with every seed, and the baselines."""
    losses = experiment.options.losses

    def run(loss: str, seed: int, start: Tensor, screen: Screen) -> Sequence[_Run]:
        screen.begin(f"{loss}, seed {seed}")
        found = trained(experiment, loss, seed, start, folder, screen.step)
        screen.end(found[0])
        return [found]

    with Screen(console, experiment.options.seeds * len(losses), experiment.recipe.steps) as screen:
        return _runs(experiment, folder, screen, losses, run)


def _checked(experiment: Experiment, folder: Folder, console: Console) -> _Runs:
    """As of `_plain`, with the models of a cross-validation in place of one."""
    options, check = experiment.options, RealityCheck(experiment, folder)
    rows = [row for loss in options.losses for row in check.names[loss]]
    with console.status("Searching hyper-parameters") as status:
        check.search(lambda done, total: status.update(f"Searching hyper-parameters: {done} of {total} trainings"))
    with Screen(console, options.seeds * len(options.losses), check.num_steps, (METRIC, "MAP@R held out")) as screen:
        found = _runs(experiment, folder, screen, rows, check.run)
    folder.results["seed_intervals"] = seed_intervals(folder.results["records"], rows)
    return found


def _runs(
    experiment: Experiment, folder: Folder, screen: Screen, rows: Sequence[str], run: Callable[[str, int, Tensor, Screen], Sequence[_Run]]
) -> _Runs:
    """What `run` makes of every loss with every seed, by the rows that it has in the table, and the baselines."""
    views: list[RunView] = []
    per_query: dict[str, list[PerQuery]] = {row: [] for row in (*rows, experiment.protocol.baseline, "raw")}
    screen.status("Baselines")
    per_query["raw"].append(raw(experiment, folder))
    for seed in range(experiment.options.seeds):
        start, of_start = untrained(experiment, seed, folder)
        per_query[experiment.protocol.baseline].append(of_start)
        for loss in experiment.options.losses:
            for record, view, of_loss in run(loss, seed, start, screen):
                views.append(view)
                per_query[record["loss"]].append(of_loss)
    return views, per_query


if __name__ == "__main__":
    sys.exit(main())
