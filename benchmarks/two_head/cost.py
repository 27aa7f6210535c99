"""What the second head costs: the time of a training step with and without it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.two_head.experiment import Experiment
from benchmarks.two_head.objective import SYSTEMS

__all__ = ["step_costs"]

_ROUNDS = 7  # at least
_SECONDS = 3.0  # that quick steps are timed for


def step_costs(experiment: Experiment, *, rounds: int = _ROUNDS, seconds: float = _SECONDS) -> dict[str, dict[str, Any]]:
    """Time of a step that trains the whole backbone, without a second head and with each ranking loss, on one batch of images.

    In each round every system makes a step, so that what slows down the machine for a while slows down all of them.

    Args:
        experiment: the backbone, the batch and the losses.
        rounds: steps of each system, at least; one before them is not timed.
        seconds: that rounds go on for, at least.

    Returns:
        By system: the least and the median time of a step in "milliseconds" and "median_milliseconds", the "share" of the step that the
        second head and its loss take, of least times, and the number of "parameters" that are trained.
    """
    names = ["softmax", *(name for name in experiment.options.systems if SYSTEMS[name].loss is not None)]
    steps = {name: _Step(experiment, name) for name in names}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    begin = time.perf_counter()
    while len(times["softmax"]) < rounds or time.perf_counter() - begin < seconds:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {
        name: {
            "milliseconds": 1e3 * min(times[name]),
            "median_milliseconds": 1e3 * statistics.median(times[name]),
            "share": 1 - min(times["softmax"]) / min(times[name]),
            "parameters": sum(parameter.numel() for group in steps[name].optimizer.param_groups for parameter in group["params"]),
        }
        for name in names
    }


class _Step:
    """A training step of one system."""

    def __init__(self, experiment: Experiment, system: str) -> None:
        distribution = next(iter(experiment.train))
        recipe, part = experiment.recipes[distribution], experiment.train[distribution]
        self.objective = experiment.objective(system, distribution, seed=0).to(experiment.device)
        self.network = experiment.network(0, second=self.objective.loss is not None, train="all").train()
        generator = torch.Generator().manual_seed(0)
        self.objective.begin_epoch(lambda: torch.randn(len(part), experiment.options.embedding_dim, generator=generator))
        rows = next(iter(experiment.sampler(self.objective, distribution, 0)))
        self.images = experiment.some_images(recipe.batch_classes * recipe.batch_samples)[: len(rows)].to(experiment.device)
        self.ids = torch.tensor(rows, device=experiment.device)
        self.labels = torch.from_numpy(part.labels[rows]).to(experiment.device)
        parameters = [*self.network.net.parameters(), *self.network.head.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-6)

    def __call__(self) -> None:
        output = self.network(self.images)
        loss = self.objective(output, self.labels, self.ids)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.objective.remember(output, self.labels, self.ids)
        loss.item()  # an accelerator has done its work
