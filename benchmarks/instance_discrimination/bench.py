"""What all runs share: images, encoders to start from, how to train, and how to tell what came of it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.command.versions import versions
from benchmarks.evaluation.embeddings import embed
from benchmarks.instance_discrimination.classifiers import knn_accuracy, linear_accuracy
from benchmarks.instance_discrimination.data import Data, Samples, defaults_of
from benchmarks.training.backbones import Encoder, build_backbone
from benchmarks.training.loop import Recipe
from metriczoo.metrics import retrieval_metrics

__all__ = ["Bench"]


class Bench:
    """What all runs share.

    Args:
        options: of the command line.
        data: the images.

    Attributes:
        batch: images in a batch.
        steps: of training without labels.
    """

    def __init__(self, options: argparse.Namespace, data: Data) -> None:
        self.options, self.data, self.device = options, data, torch.device(options.device)
        self.batch = min(options.batch_size, len(data.train))
        self.steps = options.epochs * (len(data.train) // self.batch)

    def encoder(self, embedding_dim: int, seed: int) -> Encoder:
        """A new one: none of its weights has seen an image."""
        torch.manual_seed(seed)
        backbone = build_backbone(self.options.backbone, self.data.channels, pretrained=False)
        return Encoder(backbone, self.options.image_size, embedding_dim)

    def recipe(self, *, steps: int, batch: int, rate: float) -> Recipe:
        """How to train, with batches drawn whatever the labels."""
        options = self.options
        return Recipe(
            epochs=options.epochs,
            steps=steps,
            batch_classes=batch,
            batch_samples=1,
            image_size=options.image_size,
            augmentation=defaults_of(options.dataset).augmentation,
            backbone_rate=rate,
            head_rate=rate,
        )

    def embed(self, encoder: Encoder, encode: Callable[[Tensor], Tensor], images: Samples) -> Tensor:
        """What `encode` makes of each image, on the host."""
        encoder.to(self.device).eval()
        source: Any = images
        return embed(encode, source, self.options.image_size, device=self.device, workers=self.options.workers)

    def record(self, name: str, kind: str, seed: int | None, **values: Any) -> dict[str, Any]:
        """A record of `results.json`."""
        return {
            "dataset": self.options.dataset,
            "kind": kind,
            "loss": name,
            "seed": seed,
            **values,
            "split_sizes": self.data.sizes(),
            "device": self.options.device,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def worth(self, train: Tensor, held_out: Tensor, unseen: Tensor | None) -> dict[str, float | None]:
        """What features are worth: accuracies on images held out, and retrieval on classes never seen."""
        data, options = self.data, self.options
        values: dict[str, float | None] = {
            "knn": knn_accuracy(
                train, data.train.labels, held_out, data.held_out.labels, k=options.neighbours, temperature=options.knn_temperature
            ),
            "linear": linear_accuracy(train, data.train.labels, held_out, data.held_out.labels),
            "unseen_recall@1": None,
            "unseen_map@r": None,
        }
        if data.unseen is not None and unseen is not None:
            found = retrieval_metrics(unseen, data.unseen.labels, metrics=("recall@1", "map@r"))
            values |= {f"unseen_{name}": None if math.isnan(found[name]) else found[name] for name in ("recall@1", "map@r")}
        return values
