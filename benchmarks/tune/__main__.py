"""Search hyper-parameters within the training classes: `python -m benchmarks.tune --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.command.arguments import exit_status
from benchmarks.command.folder import open_folder
from benchmarks.presets import Preset
from benchmarks.presets.files import as_json
from benchmarks.presets.preset import values_in_words
from benchmarks.report.words import counted, percent
from benchmarks.retrieval.start import presets_for
from benchmarks.tune.options import parse, settings_of
from benchmarks.tune.search import KEY, Search, all_folds, import_optuna

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Search. Returns the exit status: 0, 2 where options, data or folders are at fault, 130 after an interruption."""
    options = parse(arguments)
    return exit_status(lambda: _search(options, Console()))


def _search(options: argparse.Namespace, console: Console) -> None:
    if options.search == "tpe":
        import_optuna()
    with console.status("Reading the training classes") as status:
        folds = all_folds(options, lambda done, total: status.update(f"Features: {done} of {total} images"))
    folder = open_folder(options.output, settings_of(options), resume=options.resume, key=KEY)  # of data that can be searched
    for of_root in folds:
        halves = of_root[0].train, of_root[0].test
        size = counted(sum(map(len, halves)), of_root[0].train._noun.removesuffix("s"))
        classes = counted(sum(half.num_classes for half in halves), "training class", "training classes")
        console.print(f"{options.dataset}: {size} of {classes}, in {options.folds} folds", highlight=False, soft_wrap=True)
    console.print(f"Results go to {folder.path}", highlight=False, soft_wrap=True)
    search = Search(options, presets_for(options), folds, folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("trainings"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Searching", total=search.num_tasks)
        search.run(lambda record: progress.update(task, advance=1, description=f"{record['loss']}, trial {record['trial']}"))
    best = search.best()
    folder.results["best"] = as_json(best)["presets"]
    folder.write()
    folder.write_text("presets.json", json.dumps(as_json(best), indent=2, allow_nan=False) + "\n")
    console.print(_table(best, folder.results["baseline"], options.metric))
    console.print(f"Presets: {folder.path / 'presets.json'}", soft_wrap=True)


def _table(best: Mapping[str, Preset], baseline: Mapping[str, Any], metric: str) -> Table:
    name = {"both": "mean of Recall@1 and MAP@R", "map@r": "MAP@R", "recall@1": "Recall@1"}[metric]
    caption = f"Percent of {name}, on training classes held out; {baseline['what']}: {percent(baseline['score'])}."
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in ("Loss", "Before", "Best", "Trial", "Values"):
        table.add_column(heading, justify="left" if heading in ("Loss", "Values") else "right", no_wrap=heading != "Values")
    for loss, preset in sorted(best.items(), key=lambda item: -item[1].source.record["score"]):
        record = preset.source.record
        before, after = (percent(record[key]) for key in ("score_before", "score"))
        table.add_row(loss, before, after, str(record["best_trial"]), values_in_words(preset))
    return table


if __name__ == "__main__":
    sys.exit(main())
