"""Runs of an experiment, each made once: what the folder holds of one, finished or not, is not made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.command.folder import Folder
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.page import RunView
from benchmarks.retrieval.start import objective_of, start_training
from benchmarks.training.loop import Training

__all__ = ["PerQuery", "raw", "trained", "untrained"]

PerQuery = dict[str, Tensor]  # by metric, `[q]`

OnStep = Callable[[int, float, float], None]  # steps done, the last loss, the last Recall@1


def raw(experiment: Experiment, folder: Folder) -> PerQuery:
    """Record what the test data are like without an encoder."""
    state = folder.load("raw")
    if state is None:
        features, what = experiment.raw_features()
        evaluation = experiment.evaluate(features)
        state = {"record": experiment.record("raw", None, evaluation, what), "per_query": evaluation.per_query}
        folder.save("raw", state)
    folder.add(state["record"])
    return state["per_query"]  # type: ignore[no-any-return]


def untrained(experiment: Experiment, seed: int, folder: Folder) -> tuple[Tensor, PerQuery]:
    """Record the encoder before training, and return its embeddings of the test data."""
    baseline = experiment.protocol.baseline
    of_seed = seed if baseline == "untrained" else None  # principal components are the same for all seeds
    name = baseline if of_seed is None else f"{baseline}-seed{seed}"
    state = folder.load(name)
    if state is None or "per_query" not in state:
        embeddings = experiment.embeddings(experiment.encoder(seed)) if state is None else state["embeddings"]
        evaluation = experiment.evaluate(embeddings)
        record = experiment.record(baseline, of_seed, evaluation, experiment.of_encoder)
        state = {"embeddings": embeddings, "record": record, "per_query": evaluation.per_query}
        folder.save(name, state)
    folder.add(state["record"])
    return state["embeddings"], state["per_query"]


def trained(
    experiment: Experiment, loss: str, seed: int, before: Tensor, folder: Folder, on_step: OnStep
) -> tuple[dict[str, Any], RunView, PerQuery]:
    """Train with a loss, and record what came of it.

    Args:
        experiment: that the run belongs to.
        loss: its name.
        seed: of the encoder, of batches and of distortions.
        before: embeddings of the test data by the encoder before training.
        folder: that gets the state of each epoch, and in the end the record.
        on_step: is called after each step.

    Returns:
        The record, what the report shows of the run, and the values of each query.
    """
    name = f"{loss}-seed{seed}"
    state = folder.load(name)
    if state is None or "record" not in state:
        training = start_training(experiment, loss, seed)
        objective = training.objective
        state = _finish(training, state, experiment, before, lambda state: folder.save(name, state), on_step)
        hyper_parameters = {**training.hyper_parameters, **experiment.of_encoder}
        folder.save(name, _evaluated(experiment, loss, seed, state, hyper_parameters, training.seconds))
    else:
        if "per_query" not in state:  # written before there was an evaluation by query
            folder.save(name, _evaluated(experiment, loss, seed, state, state["record"]["hyper_parameters"], state["record"]["seconds"]))
        objective = objective_of(experiment, loss)
        objective.load_state_dict(state["objective"])
    folder.add(state["record"])
    curves = {"loss": state["losses"], "recall@1": state["recalls"]}
    view = RunView(loss, seed, curves, state["embeddings"].numpy(), before.numpy(), objective.cpu().parts[0])
    return state["record"], view, state["per_query"]


def _evaluated(
    experiment: Experiment, loss: str, seed: int, state: dict[str, Any], hyper_parameters: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The state of a run that has ended, with what its embeddings are worth."""
    evaluation = experiment.evaluate(state["embeddings"])
    state["record"] = experiment.record(loss, seed, evaluation, hyper_parameters, seconds)
    state["per_query"] = evaluation.per_query
    return state


def _finish(
    training: Training,
    state: dict[str, Any] | None,
    experiment: Experiment,
    before: Tensor,
    save: Callable[[dict[str, Any]], None],
    on_step: OnStep,
) -> dict[str, Any]:
    """Train to the end, from `state` on if there is one, and return what is worth keeping."""
    recalls, embeddings = [experiment.recall_at_1(before)], before
    if state is not None:
        training.load_state_dict(state)
        recalls = list(state["recalls"])
    while not training.done:
        training.train_epoch(lambda loss: on_step(len(training.losses), loss, recalls[-1]))
        embeddings = experiment.embeddings(training.encoder)
        recalls.append(experiment.recall_at_1(embeddings))
        if not training.done:
            save({**training.state_dict(), "recalls": recalls})
    kept = {key: part for key, part in training.state_dict().items() if key in ("encoder", "objective", "losses")}
    return {**kept, "recalls": recalls, "embeddings": embeddings}
