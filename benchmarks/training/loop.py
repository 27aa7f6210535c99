"""Training of an encoder with one loss, epoch by epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.images.augmentation import Augmentation
from benchmarks.training.losses import Objective
from metriczoo.data import PKSampler
from metriczoo.losses import GradCache

__all__ = ["Recipe", "Training"]

_OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever the loss."""

    epochs: int
    steps: int  # of all epochs, unless the last one is cut short
    batch_classes: int
    batch_samples: int
    image_size: int | None  # None of vectors, not images
    augmentation: Augmentation | None  # None: inputs are taken as they are
    backbone_rate: float  # learning rates at the start
    head_rate: float
    decay: bool = True  # whether rates fall to 0 along a cosine
    optimizer: str = "adam"  # or "sgd", with momentum 0.9
    rates: Mapping[str, float] = field(default_factory=dict)  # "backbone_rate", "head_rate", "proxy_rate": exact, whatever the loss
    precision: str = "float32"  # of the encoder in training; "bfloat16" and "float16" are mixed with float32
    chunk: int | None = None  # inputs that the encoder takes at once, for batches that do not fit; None: all


class Training:
    """Adam or SGD, with learning rates that may fall to 0 along a cosine. Between epochs, `state_dict` holds all it needs to go on.

    Args:
        encoder: what is trained: a module with `net` and `head`.
        objective: with which loss.
        images: on which images, or vectors, each with its label and its position.
        labels: their classes.
        recipe: how.
        seed: of batches and distortions.
        device: where.
        workers: processes that read images beside the main one.
        sampler: of batches, with `set_epoch`. Default: of so many classes as the recipe says, or of any if the objective sees no labels.

    Attributes:
        losses: the loss of each step done.
        epoch: epochs done.
        seconds: that they took.
        hyper_parameters: for the record.
    """

    def __init__(
        self,
        encoder: nn.Module,
        objective: Objective,
        images: Dataset[tuple[Tensor, int, int]],
        labels: NDArray[np.int64],
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        workers: int = 0,
        sampler: Any = None,
    ) -> None:
        self.encoder, self.objective = encoder.to(device), objective.to(device)
        self.recipe, self.seed, self.device = recipe, seed, device
        p, k = recipe.batch_classes, recipe.batch_samples
        if not objective.sees_labels:  # not even in its batches: every image is a class of its own
            labels, p, k = np.arange(len(labels)), p * k, 1
        self.sampler = PKSampler(labels, p, k, seed=seed) if sampler is None else sampler
        self.loader = DataLoader(images, batch_sampler=self.sampler, num_workers=workers, generator=torch.Generator())
        preset = objective.preset
        backbone_rate, head_rate = recipe.backbone_rate * preset.rate, recipe.head_rate * preset.rate
        rates = {"backbone_rate": backbone_rate, "head_rate": head_rate, "proxy_rate": head_rate * preset.proxy_rate}
        rates |= recipe.rates
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        self.encode = encoder if recipe.chunk is None else GradCache(encoder, objective, recipe.chunk).encode
        modules = (encoder.get_submodule("net"), encoder.get_submodule("head"), objective)
        parts = zip(modules, rates.values(), strict=True)
        groups = [{"params": list(part.parameters()), "rate": rate} for part, rate in parts]
        self.optimizer = _OPTIMIZERS[recipe.optimizer](groups)
        self.raw = getattr(preset, "length", None) is not None  # whether the objective wants more than directions of embeddings
        self.losses: list[float] = []
        self.epoch, self.seconds = 0, 0.0
        of_recipe = {name: value for name, value in asdict(recipe).items() if name != "rates"}
        self.hyper_parameters = {**objective.hyper_parameters, **of_recipe, **rates}

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return len(self.losses) >= self.recipe.steps

    def train_epoch(self, advance: Callable[[float], None]) -> None:
        """Train for an epoch, or for what is left, and call `advance(loss)` after each step."""
        start = time.perf_counter()
        self.encoder.train()
        self.sampler.set_epoch(self.epoch)
        with _raw_outputs(self.encoder) if self.raw else nullcontext():
            for images, labels, ids in self.loader:
                self.losses.append(self._step(images.to(self.device), labels.to(self.device), ids.to(self.device)))
                advance(self.losses[-1])
                if self.done:
                    break
        self.epoch += 1
        self.seconds += time.perf_counter() - start

    def _step(self, images: Tensor, labels: Tensor, ids: Tensor) -> float:
        step = len(self.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * ((1 + math.cos(math.pi * step / self.recipe.steps)) / 2 if self.recipe.decay else 1)
        # Distortions depend on nothing but the seed and the step, so that a resumed run sees the same.
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
        if self.recipe.augmentation is not None and self.recipe.image_size is not None:
            images = self.recipe.augmentation(images, self.recipe.image_size, generator)
        with torch.autocast(self.device.type, getattr(torch, self.recipe.precision), enabled=self.recipe.precision != "float32"):
            embeddings = self.encode(images)
        embeddings = _in_float32(embeddings)
        loss = self.objective(embeddings, labels, ids)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.objective.remember(embeddings, labels, ids)
        value: float = loss.item()
        return value

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        return {
            "encoder": self.encoder.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "random_on_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.encoder.load_state_dict(state["encoder"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):  # empty unless training is in float16
            self.scaler.load_state_dict(state["scaler"])
        self.losses, self.epoch, self.seconds = list(state["losses"]), state["epoch"], state["seconds"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_on_device"], self.device)


@contextmanager
def _raw_outputs(encoder: Any) -> Iterator[None]:
    """Embeddings as the head makes them, not brought to unit length, which they are whenever they are compared."""
    before, encoder.head.normalize = encoder.head.normalize, False
    try:
        yield
    finally:
        encoder.head.normalize = before


def _in_float32(outputs: Any) -> Any:
    """Embeddings, or a named tuple of an encoder with several outputs, in float32."""
    return outputs.float() if isinstance(outputs, Tensor) else type(outputs)(*(part.float() for part in outputs))
