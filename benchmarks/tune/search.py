"""A search: which trials there are, which trainings they take, and what is best."""

from __future__ import annotations

import argparse
import multiprocessing
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.command.folder import Folder
from benchmarks.command.versions import versions
from benchmarks.presets import Preset, Source
from benchmarks.report.words import counted
from benchmarks.retrieval.experiment import Experiment, load_half
from benchmarks.retrieval.folds import fold_experiments
from benchmarks.retrieval.options import is_reality_check
from benchmarks.retrieval.start import presets_for
from benchmarks.tune.spaces import Choice, drawn, space_of, with_values
from benchmarks.tune.trial import score, trial_score

__all__ = ["KEY", "Search", "Task", "all_folds", "import_optuna"]

KEY = ("loss", "trial", "root", "fold", "seed")


@dataclass(frozen=True)
class Task:
    """A training.

    Attributes:
        root: which of the data sets; `fold`: which part of its training classes is held out.
    """

    loss: str
    trial: int
    root: int
    fold: int
    seed: int
    preset: Preset
    values: Mapping[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        return tuple(getattr(self, name) for name in KEY)


def all_folds(options: argparse.Namespace, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[list[Experiment]]:
    """For each data set that options name its folds. Of a data set only the training half is read."""
    found = []
    for root in (options.root, *options.also_roots):
        of_root = argparse.Namespace(**{**vars(options), "root": root})
        experiments = fold_experiments(of_root, load_half(of_root, "train")[0], options.folds)
        for experiment in experiments:
            experiment.prepare(on_progress)
        found.append(experiments)
    return found


class Search:
    """A search for the best values of some losses.

    Args:
        options: of the command line.
        presets: how the losses are trained before it.
        folds: of each data set, as of `all_folds`.
        folder: for what comes of each training.
    """

    def __init__(
        self, options: argparse.Namespace, presets: Mapping[str, Preset], folds: Sequence[Sequence[Experiment]], folder: Folder
    ) -> None:
        self.options, self.presets, self.folds, self.folder = options, presets, folds, folder
        self.values: dict[tuple[str, int], dict[str, Any]] = {}  # of each trial

    @property
    def num_tasks(self) -> int:
        """How many trainings there are."""
        options = self.options
        number: int = len(options.losses) * options.trials * sum(map(len, self.folds)) * options.seeds
        return number

    def run(self, on_end: Callable[[dict[str, Any]], None]) -> None:
        """Make all trainings that the folder does not hold, and call `on_end` with the record of each."""
        if "baseline" not in self.folder.results:
            before = [score(e.embeddings(e.encoder(0)), e, self.options.metric) for folds in self.folds for e in folds]
            self.folder.results["baseline"] = {"what": self.folds[0][0].protocol.baseline, "score": fmean(before)}
            self.folder.write()
        known = {tuple(record[name] for name in KEY): record for record in self.folder.results["records"]}
        for tasks in self._rounds():
            for task in tasks:
                if task.key in known:
                    on_end(known[task.key])
            self._make([task for task in tasks if task.key not in known], on_end)
        self.folder.results["records"].sort(key=lambda record: tuple(record[name] for name in KEY))
        self.folder.write()

    def _rounds(self) -> Iterator[list[Task]]:
        """Trainings that may be made in any order, before the next ones."""
        options = self.options
        if options.search == "random":
            yield [task for loss in options.losses for trial in range(options.trials) for task in self._tasks(loss, trial, self._drawn)]
            return
        studies = {loss: _Study(space_of(loss, self.presets[loss]), _seed(options.search_seed, loss)) for loss in options.losses}
        for trial in range(options.trials):
            yield [task for loss in options.losses for task in self._tasks(loss, trial, lambda loss, trial: studies[loss].ask(trial))]
            for loss, study in studies.items():
                study.tell(trial, self.values[loss, trial], self.score(loss, trial))

    def _drawn(self, loss: str, trial: int) -> dict[str, Any]:
        generator = np.random.default_rng([_seed(self.options.search_seed, loss), trial])
        return drawn(space_of(loss, self.presets[loss]), generator)

    def _tasks(self, loss: str, trial: int, ask: Callable[[str, int], dict[str, Any]]) -> list[Task]:
        values = self.values[loss, trial] = ask(loss, trial) if trial else {}  # at first the preset as it stands
        preset = with_values(self.presets[loss], values)
        return [
            Task(loss, trial, root, fold, seed, preset, values)
            for root, folds in enumerate(self.folds)
            for fold in range(len(folds))
            for seed in range(self.options.seeds)
        ]

    def _make(self, tasks: Sequence[Task], on_end: Callable[[dict[str, Any]], None]) -> None:
        if self.options.jobs == 1 or len(tasks) < 2:
            for task in tasks:
                on_end(self._add(task, *_train(self.folds, task, self.options)))
            return
        context = multiprocessing.get_context("spawn")  # threads of PyTorch do not survive a fork
        with ProcessPoolExecutor(min(self.options.jobs, len(tasks)), context, _start, (self.options,)) as pool:
            futures = {pool.submit(_in_process, _without_code(task)): task for task in tasks}
            try:
                for future in as_completed(futures):
                    on_end(self._add(futures[future], *future.result()))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _add(self, task: Task, value: float, seconds: float) -> dict[str, Any]:
        record = {**dict(zip(KEY, task.key, strict=True)), "values": dict(task.values), "score": value, "seconds": seconds}
        self.folder.add(record)
        return record

    def score(self, loss: str, trial: int) -> float:
        """Of a trial: the mean over data sets, folds and seeds."""
        return fmean(r["score"] for r in self.folder.results["records"] if (r["loss"], r["trial"]) == (loss, trial))

    def best(self) -> dict[str, Preset]:
        """Of each loss the trial of the highest score, the earliest of equals, as a preset."""
        return {loss: self._best(loss) for loss in self.options.losses}

    def _best(self, loss: str) -> Preset:
        options = self.options
        scores = [self.score(loss, trial) for trial in range(options.trials)]
        trial = scores.index(max(scores))
        names = [_name_of(options.dataset, root) for root in (options.root, *options.also_roots)]
        record = {
            "data": names,
            "protocol": options.protocol,
            "metric": options.metric,
            "search": options.search,
            "search_seed": options.search_seed,
            "folds": options.folds,
            "seeds": options.seeds,
            "trials": options.trials,
            "best_trial": trial,
            "score": scores[trial],
            "score_before": scores[0],
            "baseline": self.folder.results["baseline"],
            "epochs": options.epochs,
            "versions": versions(),
            "tried": [{**self.values[loss, number], "score": float(f"{value:.5g}")} for number, value in enumerate(scores)],
        }
        text = (
            f"{' and '.join(names)}, {options.protocol}: {_WORDS[options.metric]} on training classes held out in {options.folds} folds, "
            f"{options.search} search, {counted(options.trials, 'trial')}"
        )
        return _replaced(with_values(self.presets[loss], self.values[loss, trial]), Source("search", text, record))


_WORDS = {"both": "mean of Recall@1 and MAP@R", "map@r": "MAP@R", "recall@1": "Recall@1"}


def _replaced(preset: Preset, source: Source) -> Preset:
    return Preset(**{**vars(preset), "source": source})


def _name_of(dataset: str, root: str | None) -> str:
    """A data set without the path of anybody's files."""
    return Path(root).stem if dataset in ("features", "folder", "csv") and root else dataset


def _seed(seed: int, loss: str) -> int:
    """A seed for a loss, the same whichever others are searched."""
    return zlib.crc32(f"{seed} {loss}".encode())


def import_optuna() -> Any:
    """The module.

    Raises:
        ImportError: it is not installed, in words that say what to do.
    """
    try:
        import optuna  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(f"--search tpe needs optuna: `pip install optuna` ({error}).") from error
    return optuna


class _Study:
    """Of optuna, one trial after the other."""

    def __init__(self, space: Mapping[str, Any], seed: int) -> None:
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        self.trials: dict[int, Any] = {}

    def ask(self, number: int) -> dict[str, Any]:
        """The values of a trial."""
        self.trials[number] = trial = self.study.ask()
        return {name: self._suggested(trial, name, part) for name, part in self.space.items()}

    def _suggested(self, trial: Any, name: str, part: Any) -> Any:
        if isinstance(part, Choice):
            return part.values[trial.suggest_categorical(name, range(len(part.values)))]
        return trial.suggest_float(name, part.low, part.high, log=part.log)

    def tell(self, number: int, values: Mapping[str, Any], value: float) -> None:
        """The score of a trial. Of the preset itself optuna hears nothing: it may be out of bounds."""
        del values
        if number in self.trials:
            self.study.tell(self.trials[number], value)


# -- what a process does ----------------------------------------------------------

_STATE: dict[str, Any] = {}


def _start(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    _STATE["options"], _STATE["folds"] = options, all_folds(options)


def _without_code(task: Task) -> tuple[Any, ...]:
    """What another process makes the task of: functions without a name cannot be sent."""
    return (*task.key, dict(task.values))


def _in_process(task: tuple[Any, ...]) -> tuple[float, float]:
    options = _STATE["options"]
    loss, trial, root, fold, seed, values = task
    preset = with_values(presets_for(options)[loss], values)
    return _train(_STATE["folds"], Task(loss, trial, root, fold, seed, preset, values), options)


def _train(folds: Sequence[Sequence[Experiment]], task: Task, options: argparse.Namespace) -> tuple[float, float]:
    """The score of a training, and its seconds."""
    start = time.perf_counter()
    patience = options.patience if is_reality_check(options.protocol) else None
    value = trial_score(folds[task.root][task.fold], task.loss, task.preset, task.seed, options.metric, patience)
    return value, time.perf_counter() - start
