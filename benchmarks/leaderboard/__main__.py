"""Rank every loss that has a preset on one data set: `python -m benchmarks.leaderboard --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.command.arguments import exit_status
from benchmarks.command.folder import Folder, open_folder
from benchmarks.leaderboard.crew import crew
from benchmarks.leaderboard.options import parse, settings_of
from benchmarks.leaderboard.page import write_page
from benchmarks.leaderboard.peers import PEER, equal_of, is_detached
from benchmarks.leaderboard.runs import HOISTED, Task, Worker, prepare_process
from benchmarks.leaderboard.tables import against_the_first, confusions, peer_verdicts, rich_table, summary
from benchmarks.report.words import percent
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.preparation import announce, prepare
from benchmarks.retrieval.start import objective_of

__all__ = ["main"]

_GROWING = ("losses", "seeds", "peer", "peer_seeds")  # settings that say which runs there are
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Returns:
        The exit status: 0, 1 where runs failed, 2 where options, data or folders are at fault, 130 after an interruption.
    """
    options = parse(arguments)
    failures: list[Any] = []
    status = exit_status(lambda: failures.extend(_benchmark(options, Console())))
    return status or (1 if failures else 0)


def _benchmark(options: argparse.Namespace, console: Console) -> list[Any]:
    os.environ |= dict.fromkeys(_THREADS, str(options.threads))  # of the processes to come
    prepare_process(options)
    with console.status("Reading the data"):
        experiment = Experiment(options)
        tasks = _tasks(experiment)
    settings, before = settings_of(options), {"peer_seeds": None, "memory_from_step": 0}
    folder = open_folder(options.output, settings, resume=options.resume, before=before, growing=_GROWING)
    folder.results |= {"failures": [], "summary": [], "comparisons": [], "peers": [], "confusions": {}}
    announce(experiment, folder, console)
    prepare(experiment, console)
    folder.results |= {name: experiment.facts[name] for name in HOISTED}
    with _Board(console, experiment.recipe.steps, tasks, folder) as board:
        for of_phase in ([task for task in tasks if task.baseline], [task for task in tasks if not task.baseline]):
            _run(of_phase, tasks, options, folder, board)
    ranked = [task for task in tasks if task.seed is None or task.seed < options.seeds]  # all losses by the same seeds
    with console.status("Comparing the losses"):
        _conclude(ranked, experiment, folder)
    console.print(rich_table(folder.results, console.width))
    for failure in folder.results["failures"]:
        console.print(f"Failed: {failure['loss']}, seed {failure['seed']}: {failure['error']}", markup=False, soft_wrap=True)
    path = folder.path / "report.html"
    with console.status("Writing the report"):
        write_page(path, folder, ranked, experiment)
    console.print(f"Report: {path}", soft_wrap=True)
    return list(folder.results["failures"])


def _tasks(experiment: Experiment) -> list[Task]:
    """All runs, in the order of `results.json`: seed by seed, so that what is there after a while is fair."""
    options, baseline = experiment.options, experiment.protocol.baseline
    compared = {loss: objective_of(experiment, loss).loss for loss in options.losses if options.peer}
    peers = {loss: is_detached(ours) for loss, ours in compared.items() if equal_of(ours) is not None}
    if options.peer and not peers:
        raise ValueError(f"--peer: {PEER} has no equal of {', '.join(options.losses)}.")
    if peers and options.memory_bank:
        raise ValueError(f"--peer and --memory-bank exclude each other: {PEER} remembers in another way.")
    if options.peer_seeds is not None and (not peers or options.peer_seeds < options.seeds):
        raise ValueError("--peer-seeds needs --peer, and is at least --seeds.")
    tasks = [Task("raw", None, baseline=True)]
    for seed in range(options.peer_seeds or options.seeds):
        if baseline == "untrained" or seed == 0:
            tasks.append(Task(baseline, seed if baseline == "untrained" else None, baseline=True))
        for loss in options.losses:
            tasks += [Task(loss, seed)] if seed < options.seeds or loss in peers else []
            tasks += [Task(loss, seed, peer=True)] if loss in peers else []
            tasks += [Task(loss, seed, exact=True)] if peers.get(loss) else []
    return tasks


def _run(of_phase: Sequence[Task], tasks: Sequence[Task], options: argparse.Namespace, folder: Folder, board: _Board) -> None:
    """Make the runs that the folder does not hold."""
    order = {(task.name, task.seed): place for place, task in enumerate(tasks)}
    absent = [task for task in of_phase if not folder.has(task.name, task.seed)]
    with closing(crew(Worker, (options, folder.path), absent, options.jobs)) as events:
        for task, kind, content in events:
            if kind == "report":
                board.step(task, *content)
            elif kind == "done":
                _keep(content, "records", order, folder)
                board.end(task, content)
            elif kind == "stopped":
                raise OSError(content)
            elif task.baseline:
                raise ValueError(f"{task}: {content}")
            else:
                _keep({"loss": task.name, "seed": task.seed, "error": content}, "failures", order, folder)
                board.fail(task, content)


def _keep(entry: Mapping[str, Any], part: str, order: Mapping[tuple[str, int | None], int], folder: Folder) -> None:
    """Write what came of a run to `results.json`, where it belongs."""
    folder.results[part].append(entry)
    folder.results[part].sort(key=lambda each: order[each["loss"], each["seed"]])
    folder.write()


def _conclude(tasks: Sequence[Task], experiment: Experiment, folder: Folder) -> None:
    """What all runs say together."""
    per_query: dict[str, list[Any]] = {}
    nearest: dict[str, list[Any]] = {}
    for task in tasks:
        if folder.has(task.name, task.seed):
            state = folder.load(task.file)
            if state is None:
                raise ValueError(f"{folder.path / task.file}.pt is gone, though results.json has its record: remove both to begin anew.")
            per_query.setdefault(task.name, []).append(state["per_query"])
            if not task.baseline:
                nearest.setdefault(task.name, []).append(state["nearest"])
    results, labels, queries = folder.results, experiment.test.labels, experiment.query_labels
    results["summary"] = summary(_of(tasks, folder), per_query, queries)
    results["comparisons"] = against_the_first(results["summary"], per_query, queries)
    results["peers"] = peer_verdicts(results["records"], experiment.options.losses)
    names = experiment.test.class_names
    results["confusions"] = {name: confusions(of_loss, labels, queries, names) for name, of_loss in nearest.items()}
    folder.write()


def _of(tasks: Sequence[Task], folder: Folder) -> list[Mapping[str, Any]]:
    """The records of tasks."""
    names = {(task.name, task.seed) for task in tasks}
    return [record for record in folder.results["records"] if (record["loss"], record["seed"]) in names]


class _Board:
    """A terminal with a bar over all runs, and a line for each that ends, as a context manager."""

    def __init__(self, console: Console, num_steps: int, tasks: Sequence[Task], folder: Folder) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
        self.console, self.num_steps = console, num_steps
        self.progress = Progress(*columns, console=console)
        trained = [task for task in tasks if not task.baseline]
        self.ended = num_steps * sum(folder.has(task.name, task.seed) for task in trained)
        self.steps: dict[Task, int] = {}
        self.bar = self.progress.add_task("Baselines", total=num_steps * len(trained), completed=self.ended)

    def __enter__(self) -> _Board:
        self.progress.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.progress.update(self.bar, description="All runs")
        self.progress.stop()

    def step(self, task: Task, steps: int, loss: float, recall: float) -> None:
        """Show how far a run is."""
        self.steps[task] = steps
        more = f" and {len(self.steps) - 1} more" if len(self.steps) > 1 else ""
        self._show(f"{task}: loss {loss:.3f}, Recall@1 {_percent(recall)}{more}")

    def end(self, task: Task, record: Mapping[str, Any]) -> None:
        """Print what came of a run."""
        cost = "" if record["cpu_seconds"] is None else f" after {record['cpu_seconds']:.1f} CPU seconds of training"
        self._leave(task, f"{task}: Recall@1 {_percent(record['recall@1'])}{cost}")

    def fail(self, task: Task, error: str) -> None:
        """Print why there is nothing of a run."""
        self._leave(task, f"{task}: failed. {error}")

    def _leave(self, task: Task, text: str) -> None:
        self.steps.pop(task, None)
        self.ended += 0 if task.baseline else self.num_steps
        self._show()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _show(self, text: str | None = None) -> None:
        self.progress.update(self.bar, completed=self.ended + sum(self.steps.values()), description=text)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else percent(value)


if __name__ == "__main__":
    sys.exit(main())
