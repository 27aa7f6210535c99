"""Runs of the benchmark, each made once: one system on one split of one data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.command.folder import Folder
from benchmarks.command.versions import versions
from benchmarks.linear.data import Array, Labels, Split, load, split
from benchmarks.linear.measures import measures
from benchmarks.linear.peers import PeerError
from benchmarks.linear.systems import SYSTEMS

__all__ = ["MEASURES", "Experiment", "View"]

MEASURES = ("knn_error", "energy_error", "objective", "impostors")
_QUICK_CLASSES, _QUICK_POINTS = 3, 20


@dataclass(frozen=True, eq=False)
class View:
    """Test points of one run in the space of its metric."""

    data: str
    system: str
    points: npt.NDArray[np.float64]  # [m, r]
    labels: Labels


class Experiment:
    """All runs that options ask for.

    Args:
        options: of the command line.
        folder: where what is done is kept.
    """

    def __init__(self, options: argparse.Namespace, folder: Folder) -> None:
        self.options, self.folder = options, folder
        self._split = lru_cache(maxsize=1)(self._make_split)
        self._points = lru_cache(maxsize=1)(self._load)

    def runs(self) -> Iterator[tuple[str, str, int]]:
        """Data set, system and seed of each."""
        for data in self.options.datasets:
            for seed in range(self.options.splits):
                for system in self.options.systems:
                    yield data, system, seed

    def split(self, data: str, seed: int) -> Split:
        """The split of a data set by a seed."""
        return self._split(data, seed)

    def run(self, data: str, system: str, seed: int) -> dict[str, Any]:
        """Make a run, unless the folder has its record, and return that."""
        if not self.folder.has(data, system, seed):
            found, state = self._make(data, system, seed)
            if seed == 0 and state is not None:
                self.folder.save(_name(data, system), {"L": torch.from_numpy(state)})
            self.folder.add(found)
        return next(r for r in self.folder.results["records"] if (r["data"], r["loss"], r["seed"]) == (data, system, seed))

    def views(self) -> list[View]:
        """Of each data set and system that ran, the test points of split 0."""
        views = []
        for data in self.options.datasets:
            for system in self.options.systems:
                state = self.folder.load(_name(data, system))
                if state is not None:
                    part = self.split(data, 0)
                    views.append(View(data, system, part.X_test @ state["L"].numpy().T, part.y_test))
        return views

    def _make(self, data: str, system: str, seed: int) -> tuple[dict[str, Any], npt.NDArray[np.float64] | None]:
        part = self.split(data, seed)
        record: dict[str, Any] = {
            "dataset": "linear",
            "data": data,
            "loss": system,
            "seed": seed,
            "split_sizes": part.sizes,
            **dict.fromkeys((*MEASURES, "seconds", "steps", "rank", "race", "error")),
            "hyper_parameters": {},
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        try:
            peer = self.options.peer_python, self.options.peer_seconds
            fit = SYSTEMS[system].fit(part, self.options.neighbors, seed, peer)
        except (PeerError, MemoryError) as error:
            return {**record, "error": " ".join(str(error).split())}, None
        record |= {"race": fit.race, "hyper_parameters": fit.hyper_parameters}
        if fit.L is None:
            return {**record, "error": f"stopped after {self.options.peer_seconds:g} seconds"}, None
        numbers = measures(fit.L, part, self.options.neighbors)
        record |= {**numbers, "seconds": fit.seconds, "steps": fit.steps, "rank": len(fit.L)}
        return record, fit.L

    def _make_split(self, data: str, seed: int) -> Split:
        return split(data, *self._points(data), seed)

    def _load(self, data: str) -> tuple[Array, Labels]:
        quick = self.options.quick
        return load(data, self.options.root, _QUICK_CLASSES if quick else None, _QUICK_POINTS if quick else None)


def _name(data: str, system: str) -> str:
    return f"{data}-{system}"
