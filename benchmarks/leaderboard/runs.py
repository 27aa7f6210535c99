"""Runs of the comparison, each in a process of the crew, each made once: what the folder holds of one is not made again."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.command.device import deterministic
from benchmarks.command.folder import Folder
from benchmarks.leaderboard.crew import Report
from benchmarks.leaderboard.peers import EXACT, PEER, PeerObjective, with_exact_gradient
from benchmarks.retrieval import runs as retrieval
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.start import start_training

__all__ = ["HOISTED", "Task", "Worker", "prepare_process"]

HOISTED = ("dataset", "protocol", "split_sizes", "device", "threads")  # of a record of the retrieval benchmark: the same in all
_LEFT_OUT = (*HOISTED, "classes")
_CHUNK = 1024  # queries searched at once


@dataclass(frozen=True)
class Task:
    """A run: of a loss, or of its peer, or with the gradient of that one, with a seed, or of a baseline."""

    loss: str
    seed: int | None
    peer: bool = False
    baseline: bool = False
    exact: bool = False

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.loss} ({PEER})" if self.peer else f"{self.loss} ({EXACT})" if self.exact else self.loss

    @property
    def file(self) -> str:
        """What its state is called."""
        if self.baseline:
            return self.loss if self.seed is None else f"{self.loss}-seed{self.seed}"
        return f"{self.loss}{'-peer' if self.peer else '-exact' if self.exact else ''}-seed{self.seed}"

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


class Worker:
    """What does tasks, in a process of its own.

    Args:
        options: of the command line.
        path: of the folder with the states.
    """

    def __init__(self, options: argparse.Namespace, path: Path) -> None:
        prepare_process(options)
        self.experiment = Experiment(options)
        self.experiment.prepare()
        self.folder = _States(path)

    def __call__(self, task: Task, report: Report) -> dict[str, Any]:
        """The record of a task."""
        if task.baseline:
            if task.seed is None and task.loss == "raw":
                retrieval.raw(self.experiment, self.folder)
            else:
                retrieval.untrained(self.experiment, task.seed or 0, self.folder)
            return _lean(self.folder.record)
        state = self.folder.load(task.file)
        if state is None or "record" not in state:
            assert task.seed is not None
            state = self._train(task, task.seed, state, report)
            self.folder.save(task.file, state)
        record: dict[str, Any] = state["record"]
        return record

    def _train(self, task: Task, seed: int, state: dict[str, Any] | None, report: Report) -> dict[str, Any]:
        """Train to the end, from `state` on if there is one, and return what is worth keeping."""
        experiment = self.experiment
        before, _ = retrieval.untrained(experiment, seed, self.folder)
        in_place_of = PeerObjective if task.peer else with_exact_gradient if task.exact else None
        training = start_training(experiment, task.loss, seed, in_place_of=in_place_of)
        found: dict[str, Any] = {"recalls": [experiment.recall_at_1(before)], "cpu_seconds": 0.0, "peak_memory": 0}
        embeddings = before
        if state is not None:
            training.load_state_dict(state)
            found = {name: state[name] for name in found}
        while not training.done:
            _forget_peak(experiment.device)
            start = time.process_time()
            training.train_epoch(lambda loss: report(len(training.losses), loss, found["recalls"][-1]))
            found["cpu_seconds"] += time.process_time() - start
            found["peak_memory"] = max(found["peak_memory"], _peak(experiment.device))
            embeddings = experiment.embeddings(training.encoder)
            found["recalls"].append(experiment.recall_at_1(embeddings))
            if not training.done:
                self.folder.save(task.file, {**training.state_dict(), **found})
        evaluation = experiment.evaluate(embeddings)
        hyper_parameters = {**training.hyper_parameters, **experiment.of_encoder}
        record = _lean(experiment.record(task.name, seed, evaluation, hyper_parameters, training.seconds))
        record |= {name: found[name] for name in ("cpu_seconds", "peak_memory")}
        return {
            "record": record,
            "losses": training.losses,
            "recalls": found["recalls"],
            "embeddings": embeddings.half(),
            "nearest": nearest(embeddings, experiment.is_query).masked_fill(evaluation.per_query["recall@1"].isnan(), -1),
            "per_query": evaluation.per_query,
        }


class _States(Folder):
    """A folder whose results another process writes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, {"records": []})
        self.record: dict[str, Any] = {}

    def add(self, record: dict[str, Any]) -> None:
        """Remember the last one."""
        self.record = record


def prepare_process(options: argparse.Namespace) -> None:
    """Have this process compute the same whenever it is started, however many there are."""
    torch.set_num_threads(options.threads)
    deterministic(options.device)


def _lean(record: dict[str, Any]) -> dict[str, Any]:
    return {"cpu_seconds": None, "peak_memory": None} | {name: value for name, value in record.items() if name not in _LEFT_OUT}


@torch.no_grad()
def nearest(embeddings: Tensor, is_query: NDArray[np.bool_] | None) -> Tensor:
    """For each query the position of the nearest point that it searches, by cosine, `[q]`."""
    unit = nn.functional.normalize(embeddings)
    everything = torch.arange(len(unit))
    if is_query is None:
        queries, gallery = everything, everything
    else:
        asked = torch.from_numpy(is_query)
        queries, gallery = everything[asked], everything[~asked]
    found = []
    for rows in queries.split(_CHUNK):
        scores = unit[rows] @ unit[gallery].T
        if is_query is None:
            scores[torch.arange(len(rows)), rows] = -torch.inf
        found.append(gallery[scores.argmax(1)])
    return torch.cat(found)


def _forget_peak(device: torch.device) -> None:
    """Begin to watch the memory of this process, where the system can begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # of Linux only, and not in every container: then it is the peak of all runs of this process so far
        return


def _peak(device: torch.device) -> int:
    """Most memory that this process had, or that it had on the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
