"""One training on the classes that a fold leaves, scored on those that it holds out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.presets import Preset
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.start import start_training
from benchmarks.training.loop import Training
from metriczoo.metrics import retrieval_metrics

__all__ = ["METRICS", "Fit", "score", "trial_score"]

METRICS = ("recall@1", "map@r", "both")


def score(embeddings: Tensor, experiment: Experiment, metric: str) -> float:
    """How good embeddings of the classes held out are; "both" is the mean of Recall@1 and MAP@R."""
    names = ("recall@1", "map@r") if metric == "both" else (metric,)
    if not embeddings.isfinite().all():  # values far off may make a training diverge
        return 0.0
    values = retrieval_metrics(embeddings, experiment.test.labels, metrics=names)
    return float(sum(values[name] for name in names)) / len(names)


class Fit:
    """A training that is scored on the classes held out after each epoch, and may stop when no epoch has been better for a while.

    Args:
        training: the training.
        experiment: its fold.
        metric: a name in `METRICS`.
        patience: epochs without a better one after which it ends. Default: it goes on to its last step.

    Attributes:
        values: the score of each epoch, from epoch 0 on, before training.
        best_epoch: of the highest, the earliest of equals.
        best: the state of the encoder then.
    """

    def __init__(self, training: Training, experiment: Experiment, metric: str, patience: int | None = None) -> None:
        self.training, self.experiment, self.metric, self.patience = training, experiment, metric, patience
        self.values: list[float] = [self._score()]
        self.best_epoch, self.best = 0, self._encoder()

    @property
    def ended(self) -> bool:
        """Whether there is no further epoch."""
        tired = self.patience is not None and self.training.epoch - self.best_epoch >= self.patience
        return self.training.done or tired or not all(map(math.isfinite, self.training.losses))

    def epoch(self, on_step: Callable[[float], None] = lambda loss: None) -> None:
        """Train for an epoch, and score it."""
        self.training.train_epoch(on_step)
        self.values.append(self._score())
        if self.values[-1] > self.values[self.best_epoch]:
            self.best_epoch, self.best = self.training.epoch, self._encoder()

    def _score(self) -> float:
        return score(self.experiment.embeddings(self.training.encoder), self.experiment, self.metric)

    def _encoder(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.training.encoder.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """All that the rest depends on."""
        return {**self.training.state_dict(), "values": self.values, "best_epoch": self.best_epoch, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.training.load_state_dict(state)
        self.values, self.best_epoch, self.best = list(state["values"]), state["best_epoch"], state["best"]


def trial_score(experiment: Experiment, name: str, preset: Preset, seed: int, metric: str, patience: int | None = None) -> float:
    """The score at the end of a training, or of its best epoch where there is a patience; 0 of one that diverges."""
    training = start_training(experiment, name, seed, preset)
    if patience is not None:
        fit = Fit(training, experiment, metric, patience)
        while not fit.ended:
            fit.epoch()
        return fit.values[fit.best_epoch]
    while not training.done:
        training.train_epoch(lambda loss: None)
    return score(experiment.embeddings(training.encoder), experiment, metric) if all(map(math.isfinite, training.losses)) else 0.0
