"""Compare ranking losses on a second head beside softmax: `python -m benchmarks.two_head --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.command.arguments import exit_status
from benchmarks.command.device import deterministic
from benchmarks.command.folder import Folder, open_folder
from benchmarks.command.screen import Screen, tell_left_out
from benchmarks.report.words import counted
from benchmarks.two_head.cost import step_costs
from benchmarks.two_head.experiment import Experiment
from benchmarks.two_head.objective import title_of
from benchmarks.two_head.options import parse, settings_of
from benchmarks.two_head.page import write_page
from benchmarks.two_head.runs import RunView, baselines, trained
from benchmarks.two_head.tables import NOTE, cost_lines, rich_tables

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    return exit_status(lambda: _benchmark(options, Console()))


def _benchmark(options: argparse.Namespace, console: Console) -> None:
    deterministic(options.device)
    with console.status("Reading the data"):
        experiment = Experiment(options)
    folder = open_folder(options.output, settings_of(options), resume=options.resume, key=("data", "loss", "seed"))
    _announce(experiment, folder, console)
    with console.status("Running what stays of the backbone") as status:
        experiment.prepare(lambda done, of: status.update(f"Running what stays of the backbone: {done} of {of} images"))
    if "cost" not in folder.results:
        with console.status("Timing a step with and without a second head"):
            folder.results["cost"] = step_costs(experiment, seconds=0.0) if options.quick else step_costs(experiment)
            folder.write()
    runs = _runs(experiment, folder, console)
    for table in rich_tables(folder.results["records"]):
        console.print(table)
    console.print(NOTE + (" Mean ± standard deviation over seeds." if options.seeds > 1 else ""), style="dim")
    for line in cost_lines(folder.results["cost"]):
        console.print(line, highlight=False)
    path = folder.path / "report.html"
    with console.status("Writing the report"):
        write_page(
            path,
            results=folder.results,
            runs=runs,
            test_images=lambda position: experiment.images[int(experiment.test.rows[position])][0],
            test_labels=experiment.test.labels,
            class_names=experiment.images.class_names,
        )
    console.print(f"Report: {path}", soft_wrap=True)


def _announce(experiment: Experiment, folder: Folder, console: Console) -> None:
    kind = "validation" if experiment.options.validate else "test"
    console.print(f"{experiment.images!r}, {counted(experiment.num_classes, 'class', 'classes')} taken", highlight=False, soft_wrap=True)
    for name, part in experiment.train.items():
        sizes = f"{counted(len(part), 'training image')}, {counted(len(experiment.test), f'{kind} image')}"
        console.print(f"{name}: {sizes} of the same classes", highlight=False)
    console.print(f"Results go to {folder.path}", highlight=False, soft_wrap=True)
    tell_left_out(console, experiment.missing, experiment.broken)


def _runs(experiment: Experiment, folder: Folder, console: Console) -> list[RunView]:
    options, runs = experiment.options, []
    of_a_round = len(options.systems) * sum(recipe.steps for recipe in experiment.recipes.values())
    with Screen(console, options.seeds, of_a_round, ("accuracy", "accuracy")) as screen:
        screen.status("Baselines")
        baselines(experiment, options.seeds, folder)
        for seed in range(options.seeds):
            for distribution, recipe in experiment.recipes.items():
                for system in options.systems:
                    screen.begin(f"{title_of(system)}, {distribution.replace('_', '-')}, seed {seed}", recipe.steps)
                    record, run = trained(experiment, distribution, system, seed, folder, screen.step)
                    screen.end(record)
                    runs.append(run)
    return runs


if __name__ == "__main__":
    sys.exit(main())
