"""Runs of an experiment, each made once: what the folder holds of one, finished or not, is not made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.command.folder import Folder
from benchmarks.training.loop import Training
from benchmarks.two_head.experiment import Experiment
from benchmarks.two_head.measures import accuracies
from benchmarks.two_head.objective import SYSTEMS

__all__ = ["RunView", "baselines", "trained"]

OnStep = Callable[[int, float, float], None]  # steps done, the last loss, the last accuracy


@dataclass(frozen=True, eq=False)
class RunView:
    """What the report shows of one run beyond its numbers."""

    distribution: str
    system: str
    seed: int
    curves: dict[str, list[float]]  # "loss" by step, "accuracy" by epoch, from epoch 0 on
    vectors: Tensor  # [n, d] of the test images: embeddings, or pooled features where there are none


def baselines(experiment: Experiment, seeds: int, folder: Folder) -> None:
    """Record what the images are like without a network, and with one before training."""
    for distribution in experiment.train:
        if not folder.has(distribution, "raw", None):
            folder.add(experiment.record(distribution, "raw", None, *experiment.raw(distribution)))
    for seed in range(seeds):
        absent = [distribution for distribution in experiment.train if not folder.has(distribution, "untrained", seed)]
        if absent:
            output = experiment.outputs(experiment.network(seed, second=True), experiment.test)
            for distribution in absent:
                values = experiment.measures(output.logits.argmax(1), output.features, output.embeddings, distribution)
                folder.add(experiment.record(distribution, "untrained", seed, values, {"backbone": experiment.options.backbone}))


def trained(
    experiment: Experiment, distribution: str, system: str, seed: int, folder: Folder, on_step: OnStep
) -> tuple[dict[str, Any], RunView]:
    """Train a system on the images of a distribution, and record what came of it.

    Args:
        experiment: that the run belongs to.
        distribution: of the training images.
        system: its name.
        seed: of the network, of batches and of distortions.
        folder: that gets the state of each epoch, and in the end the record.
        on_step: is called after each step.

    Returns:
        The record, and what the report shows of the run.
    """
    name = f"{distribution}-{system}-seed{seed}"
    state = folder.load(name)
    if state is None or "record" not in state:
        state = _train(experiment, distribution, system, seed, state, lambda state: folder.save(name, state), on_step)
        folder.save(name, state)
    folder.add(state["record"])
    curves = {"loss": state["losses"], "accuracy": state["accuracies"]}
    return state["record"], RunView(distribution, system, seed, curves, state["vectors"].float())


def _train(
    experiment: Experiment,
    distribution: str,
    system: str,
    seed: int,
    state: dict[str, Any] | None,
    save: Callable[[dict[str, Any]], None],
    on_step: OnStep,
) -> dict[str, Any]:
    """Train to the end, from `state` on if there is one, and return what is worth keeping."""
    network = experiment.network(seed, second=SYSTEMS[system].loss is not None)  # it sets the seed for the objective, too
    objective = experiment.objective(system, distribution, seed)
    part = experiment.train[distribution]
    training = Training(
        network,
        objective,  # type: ignore[arg-type]
        part,
        part.labels,
        experiment.recipes[distribution],
        seed=seed,
        device=experiment.device,
        workers=experiment.options.workers,
        sampler=experiment.sampler(objective, distribution, seed),
    )
    found: list[float] = []
    output = None
    if state is None:
        output = experiment.outputs(network, experiment.test)
        found.append(_accuracy(experiment, output.logits))
    else:
        training.load_state_dict(state)
        found += state["accuracies"]
    while not training.done:
        objective.begin_epoch(lambda: experiment.outputs(network, part).embeddings)
        training.train_epoch(lambda loss: on_step(len(training.losses), loss, found[-1]))
        output = experiment.outputs(network, experiment.test)
        found.append(_accuracy(experiment, output.logits))
        if not training.done:
            save({**training.state_dict(), "accuracies": found})
    assert output is not None  # what is saved is never done
    embeddings = output.embeddings if network.second else None
    values = experiment.measures(output.logits.argmax(1), output.features, embeddings, distribution)
    options = experiment.options
    of_network = {"backbone": options.backbone, "train": options.train, "embedding_dim": options.embedding_dim}
    hyper_parameters = {**training.hyper_parameters, **of_network}
    return {
        "losses": training.losses,
        "accuracies": found,
        "vectors": (output.features if embeddings is None else embeddings).to(torch.float16),
        "record": experiment.record(distribution, system, seed, values, hyper_parameters, training.seconds),
    }


def _accuracy(experiment: Experiment, logits: Tensor) -> float:
    value = accuracies(logits.argmax(1).numpy(), experiment.test.labels)["accuracy"]
    assert value is not None
    return value
