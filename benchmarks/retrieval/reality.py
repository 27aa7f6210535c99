"""The protocol of "A Metric Learning Reality Check": models of a cross-validation within the training classes, alone and together.

References:
    K. Musgrave, S. Belongie, S.-N. Lim. A Metric Learning Reality Check. ECCV 2020.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.command.folder import Folder, open_folder
from benchmarks.command.screen import Screen
from benchmarks.evaluation.metrics import MAIN_METRICS, Evaluation
from benchmarks.presets import Preset
from benchmarks.presets.files import as_json
from benchmarks.report.words import percent
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.folds import fold_experiments
from benchmarks.retrieval.page import RunView
from benchmarks.retrieval.runs import PerQuery
from benchmarks.retrieval.start import objective_of, presets_for, start_training
from benchmarks.tune.search import KEY, Search
from benchmarks.tune.trial import Fit
from metriczoo.metrics._intervals import bootstrap_interval

__all__ = ["METRIC", "RealityCheck", "of_seeds", "seed_intervals"]

METRIC = "map@r"  # on the classes held out: chooses epochs and hyper-parameters
_RESAMPLES = 2000
_LEVEL = 0.95
_KEPT = ("ended", "best", "best_epoch", "values", "losses", "seconds", "objective")  # of a model that has ended
_NAMES = {"recall@1": "R@1", "map@r": "MAP@R"}
_FORMS = ("separate", "concatenated")


class RealityCheck:
    """Models of one loss after the other, each trained on the classes that a fold leaves, and stopped by those that it holds out.

    Args:
        experiment: with the test classes, which are embedded by finished models only.
        folder: for models and records.

    Attributes:
        names: what a loss is called in the results, by loss: its models one by one, in the mean, and their embeddings side by side.
        num_steps: of all models of a run, if none stops early.
    """

    def __init__(self, experiment: Experiment, folder: Folder) -> None:
        self.experiment, self.folder, self.options = experiment, folder, experiment.options
        self.folds = fold_experiments(self.options, experiment.train, self.options.folds)
        for fold in self.folds:  # where the end is nobody knows, so rates do not fall towards it
            fold.prepare()
            fold.protocol.recipe = replace(fold.protocol.recipe, decay=False)
        self.names = {loss: (loss, f"{loss} ×{len(self.folds)}") for loss in self.options.losses}  # noqa: RUF001
        self.num_steps = sum(fold.recipe.steps for fold in self.folds)
        self.presets = presets_for(self.options)

    def search(self, on_end: Callable[[int, int], None]) -> None:
        """Search the hyper-parameters of all losses on the folds, if the options say so.

        Args:
            on_end: is called with trainings done, and how many there are.
        """
        if not self.options.trials:
            return
        chosen = {"metric": METRIC, "search": "random", "search_seed": 0, "also_roots": [], "seeds": 1, "jobs": 1}
        options = argparse.Namespace(**{**vars(self.options), **chosen})
        settings = {**self.folder.results["settings"], **chosen}
        folder = open_folder(str(self.folder.path / "search"), settings, resume=True, key=KEY)
        search, done = Search(options, self.presets, [self.folds], folder), 0

        def count(record: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            on_end(done, search.num_tasks)

        search.run(count)
        best = search.best()
        self.presets = {**self.presets, **best}
        self.folder.results["searched"] = as_json(best)["presets"]
        self.folder.write()

    def run(self, loss: str, seed: int, before: Tensor, screen: Screen) -> list[tuple[dict[str, Any], RunView, PerQuery]]:
        """Train the models of a loss, and record what they are worth on the test classes.

        Args:
            loss: its name.
            seed: of the run.
            before: embeddings of the test data by an encoder before training.
            screen: shows how far it is.

        Returns:
            For the models one by one, and for all side by side: the record, what the report shows, and the values of each query.
        """
        name, preset = f"{loss}-seed{seed}", self.presets[loss]
        state = self.folder.load(name)
        if state is None:
            models = [self._model(loss, preset, seed, number, screen) for number in range(len(self.folds))]
            state = self._evaluated(loss, seed, models)
            self.folder.save(name, state)
        objective = objective_of(self.folds[0], loss, preset)
        objective.load_state_dict(state["objective"])
        embeddings = torch.stack(list(state["embeddings"]))
        shown = {"separate": (embeddings[0], state["curves"]), "concatenated": (_joined(embeddings), {})}
        found = []
        for form, row in zip(_FORMS, self.names[loss], strict=True):
            self.folder.add(state["records"][form])
            points, curves = shown[form]
            view = RunView(row, seed, curves, points.numpy(), before.numpy(), objective.parts[0])
            found.append((state["records"][form], view, state["per_query"][form]))
        return found

    def _model(self, loss: str, preset: Preset, seed: int, number: int, screen: Screen) -> dict[str, Any]:
        """The best encoder of a fold, and how it came about."""
        fold, name = self.folds[number], f"{loss}-seed{seed}-model{number}"
        screen.begin(f"{loss}, seed {seed}, model {number + 1} of {len(self.folds)}", fold.recipe.steps)
        state = self.folder.load(name)
        if state is None or not state["ended"]:
            training = start_training(fold, loss, seed * len(self.folds) + number, preset)
            fit = Fit(training, fold, METRIC, self.options.patience)
            if state is not None:
                fit.load_state_dict(state)
            while not fit.ended:
                fit.epoch(lambda value: screen.step(len(training.losses), value, fit.values[-1]))
                state = {**fit.state_dict(), "ended": fit.ended}
                if fit.ended:  # what is needed to go on is needed no more
                    state = {key: state[key] for key in _KEPT}
                    state["hyper_parameters"] = training.hyper_parameters
                self.folder.save(name, state)
        assert state is not None
        screen.end({METRIC: state["values"][state["best_epoch"]], "seconds": state["seconds"]})
        return state

    def _evaluated(self, loss: str, seed: int, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        embeddings = torch.stack([self._embeddings(model, seed, number) for number, model in enumerate(models)])
        each = [self.experiment.evaluate(part) for part in embeddings]
        forms = {"separate": self._averaged(each), "concatenated": self.experiment.evaluate(_joined(embeddings))}
        about = {
            "models": [{"epoch": m["best_epoch"], "held_out": m["values"][m["best_epoch"]], "epochs": len(m["values"]) - 1} for m in models]
        }
        of_models = {**models[0]["hyper_parameters"], **self.experiment.of_encoder}
        records, seconds = {}, sum(model["seconds"] for model in models)
        for form, row in zip(_FORMS, self.names[loss], strict=True):
            dim = self.options.embedding_dim * (1 if form == "separate" else len(models))
            chosen = {**of_models, "embedding_dim": dim}
            records[form] = {**self.experiment.record(row, seed, forms[form], chosen, seconds), "embeddings": form, **about}
        per_query = {form: forms[form].per_query for form in _FORMS}
        curves = {"loss": models[0]["losses"]}
        return {
            "embeddings": embeddings,
            "records": records,
            "per_query": per_query,
            "curves": curves,
            "objective": models[0]["objective"],
        }

    def _embeddings(self, model: Mapping[str, Any], seed: int, number: int) -> Tensor:
        """Of the test classes, by a finished model."""
        encoder = self.folds[number].encoder(seed * len(self.folds) + number)
        encoder.load_state_dict(model["best"])
        return self.experiment.embeddings(encoder)

    def _averaged(self, each: Sequence[Evaluation]) -> Evaluation:
        """What models are worth one by one, in the mean."""
        per_query = {name: torch.stack([one.per_query[name] for one in each]).mean(0) for name in MAIN_METRICS}
        values = {name: _mean([one.values[name] for one in each]) for name in each[0].values if name not in ("classes", "intervals")}
        groups = self.experiment.query_labels
        intervals = {name: bootstrap_interval(query, groups=groups, resamples=_RESAMPLES) for name, query in per_query.items()}
        bounds = {name: [_known(found["low"]), _known(found["high"])] for name, found in intervals.items()}
        return Evaluation({**values, "intervals": bounds, "classes": {"best": [], "worst": []}}, per_query)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _joined(embeddings: Tensor) -> Tensor:
    """Embeddings of several models `[m, n, d]` side by side, `[n, m * d]`, of unit length."""
    return normalize(embeddings.permute(1, 0, 2).flatten(1), dim=1)


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of what numbers are called by name; None where one is unknown. A count that all share stays a count."""
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    if any(value is None for value in values):
        return None
    return copy.copy(values[0]) if all(value == values[0] for value in values) else fmean(values)


def seed_intervals(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each row and main metric the mean over seeds and its 95 % interval by Student's t; without bounds for a single seed."""
    found = []
    for name in names:
        of_row = [record for record in records if record["loss"] == name]
        for metric in MAIN_METRICS:
            values = np.array([record[metric] for record in of_row if record[metric] is not None])
            low, high = _student(values)
            mean = _known(float(values.mean())) if len(values) else None
            found.append({"loss": name, "metric": metric, "seeds": len(values), "mean": mean, "interval": [low, high]})
    return found


def of_seeds(results: Mapping[str, Any]) -> list[str]:
    """What the rows are, and confidence over seeds, in words; nothing for other protocols."""
    if "seed_intervals" not in results:
        return []
    known = [found for found in results.get("seed_intervals", ()) if found["interval"][0] is not None]
    lines = [
        f"{found['loss']}: {_NAMES[found['metric']]} {percent(found['mean'])}, 95 % "
        f"{percent(found['interval'][0])} to {percent(found['interval'][1])} over {found['seeds']} seeds"
        for found in known
    ]
    words = "A loss: its models one by one, in the mean; with a number: the embeddings of so many models side by side."
    return [words, *lines, *(["Intervals over seeds are those of Student's t."] if lines else [])]


def _student(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    half = float(t.ppf((1 + _LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
