"""The start of a training: the encoder of a seed, and a loss with the values of its preset."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.presets import Preset, presets_of
from benchmarks.presets.files import replaced
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.options import base_of
from benchmarks.training.loop import Training
from benchmarks.training.losses import Objective

__all__ = ["objective_of", "presets_for", "start_training"]


def presets_for(options: argparse.Namespace) -> Mapping[str, Preset]:
    """How losses are trained where options say so, by a file or by protocol and data set."""
    return replaced(presets_of(base_of(options.protocol), options.dataset), options.presets)


def objective_of(experiment: Experiment, loss: str, preset: Preset | None = None) -> Objective:
    """The loss called `loss`, with what it compares with; by default with the values that the options name."""
    options = experiment.options
    return Objective(
        loss,
        num_classes=experiment.train.num_classes,
        num_images=len(experiment.train),
        embedding_dim=options.embedding_dim,
        miner=options.miner,
        memory_bank=options.memory_bank,
        memory_from_step=options.memory_from_step,
        presets=presets_for(options) if preset is None else {loss: preset},
    )


def start_training(
    experiment: Experiment, loss: str, seed: int, preset: Preset | None = None, *, in_place_of: Callable[[Objective], Any] | None = None
) -> Training:
    """A training that has done no step.

    Args:
        experiment: that it belongs to.
        loss: its name.
        seed: of the encoder, of batches and of distortions.
        preset: the values of the loss. Default: those that the options name.
        in_place_of: from our loss to one that is trained in its place. Default: ours is trained.
    """
    encoder = experiment.encoder(seed)  # it sets the seed for the objective, too
    objective = objective_of(experiment, loss, preset)
    return Training(
        encoder,
        objective if in_place_of is None else in_place_of(objective),
        experiment.protocol.train_inputs,
        experiment.train.labels,
        experiment.recipe,
        seed=seed,
        device=experiment.device,
        workers=experiment.options.workers,
    )
