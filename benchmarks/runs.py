"""Runs of an experiment, each made once: what the folder holds of one, finished or not, is not made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.evaluation import recall_at_1
from benchmarks.experiment import Experiment
from benchmarks.losses import Objective
from benchmarks.report import RunView
from benchmarks.results import Folder
from benchmarks.training import Training

__all__ = ["raw", "trained", "untrained"]

OnStep = Callable[[int, float, float], None]  # steps done, the last loss, the last Recall@1


def raw(experiment: Experiment, folder: Folder) -> None:
    """Record what the test images are like without an encoder."""
    if not folder.has("raw", None):
        folder.add(experiment.record("raw", None, *experiment.raw_features()))


def untrained(experiment: Experiment, seed: int, folder: Folder) -> Tensor:
    """Record the encoder before training, and return its embeddings of the test images."""
    name = f"untrained-seed{seed}"
    state = folder.load(name)
    if state is None:
        embeddings = experiment.embeddings(experiment.encoder(seed))
        state = {"embeddings": embeddings, "record": experiment.record("untrained", seed, embeddings, experiment.of_encoder)}
        folder.save(name, state)
    folder.add(state["record"])
    return state["embeddings"]  # type: ignore[no-any-return]


def trained(
    experiment: Experiment, loss: str, seed: int, before: Tensor, folder: Folder, on_step: OnStep
) -> tuple[dict[str, Any], RunView]:
    """Train with a loss, and record what came of it.

    Args:
        experiment: that the run belongs to.
        loss: its name.
        seed: of the encoder, of batches and of distortions.
        before: embeddings of the test images by the encoder before training.
        folder: that gets the state of each epoch, and in the end the record.
        on_step: is called after each step.

    Returns:
        The record, and what the report shows of the run.
    """
    name = f"{loss}-seed{seed}"
    state = folder.load(name)
    if state is None or "record" not in state:
        encoder = experiment.encoder(seed)  # it sets the seed for the objective, too
        objective = _objective(experiment, loss)
        training = Training(
            encoder,
            objective,
            experiment.train_images,
            experiment.train.labels,
            experiment.recipe,
            seed=seed,
            device=experiment.device,
            workers=experiment.options.workers,
        )
        state = _finish(training, state, experiment, before, lambda state: folder.save(name, state), on_step)
        hyper_parameters = {**training.hyper_parameters, **experiment.of_encoder}
        state["record"] = experiment.record(loss, seed, state["embeddings"], hyper_parameters, training.seconds)
        folder.save(name, state)
    else:
        objective = _objective(experiment, loss)
        objective.load_state_dict(state["objective"])
    folder.add(state["record"])
    curves = {"loss": state["losses"], "recall@1": state["recalls"]}
    return state["record"], RunView(loss, seed, curves, state["embeddings"].numpy(), before.numpy(), objective.loss.cpu())


def _objective(experiment: Experiment, loss: str) -> Objective:
    options = experiment.options
    return Objective(
        loss,
        num_classes=experiment.train.num_classes,
        num_images=len(experiment.train),
        embedding_dim=options.embedding_dim,
        miner=options.miner,
        memory_bank=options.memory_bank,
    )


def _finish(
    training: Training,
    state: dict[str, Any] | None,
    experiment: Experiment,
    before: Tensor,
    save: Callable[[dict[str, Any]], None],
    on_step: OnStep,
) -> dict[str, Any]:
    """Train to the end, from `state` on if there is one, and return what is worth keeping."""
    labels = experiment.test.labels
    recalls, embeddings = [recall_at_1(before, labels)], before
    if state is not None:
        training.load_state_dict(state)
        recalls = list(state["recalls"])
    while not training.done:
        training.train_epoch(lambda loss: on_step(len(training.losses), loss, recalls[-1]))
        embeddings = experiment.embeddings(training.encoder)
        recalls.append(recall_at_1(embeddings, labels))
        if not training.done:
            save({**training.state_dict(), "recalls": recalls})
    kept = {key: part for key, part in training.state_dict().items() if key in ("encoder", "objective", "losses")}
    return {**kept, "recalls": recalls, "embeddings": embeddings}
