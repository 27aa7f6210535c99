"""What all runs of a benchmark share: data, recipe, and the encoders that training starts from."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import Subset

from benchmarks._data_readable import Readable, broken_rows
from benchmarks.backbones import Encoder, build_backbone
from benchmarks.evaluation import embed, evaluate
from benchmarks.images import Square
from benchmarks.options import defaults_of
from benchmarks.results import versions
from benchmarks.training import Recipe
from metriczoo.data import DATASETS, LabelledImages, PKSampler, load

__all__ = ["Experiment"]

_PIXELS = 32  # per side, at most, of an image that is its own features
_PCA_IMAGES = 2048  # at most, that the head of a pretrained backbone gets its start from


class Experiment:
    """What the options of the command line stand for.

    Args:
        options: of the command line.

    Attributes:
        train: the training data; `test` are the test data, of other classes.
        missing: number of listed images without a file, in either.
        broken: what is wrong with each image that was left out since it cannot be decoded.
        train_images: the training data as tensors; `test_images` are the test data as tensors.
        recipe: how to train.
        of_encoder: hyper-parameters of the encoder.

    Raises:
        ImportError: the backbone or the data set needs a package that is not installed.
        OSError: data or weights are missing.
        ValueError: the data set is malformed, or options do not fit it.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.broken: list[str] = []
        arguments = inspect.signature(DATASETS[options.dataset]).parameters
        subsets = {"missing": "skip"} if "missing" in arguments else {}  # a full index beside a part of the images will do
        train, test = (
            load(options.dataset, options.root, split, train_classes=options.train_classes, **subsets, **options.data_options)
            for split in ("train", "test")
        )
        if not (isinstance(train, LabelledImages) and isinstance(test, LabelledImages)):
            raise ValueError(f"--dataset {options.dataset}: an encoder is trained on images, not on feature vectors.")
        self.missing = getattr(train, "skipped", 0)
        self.train, self.test = self._readable(train), self._readable(test)
        defaults = defaults_of(options.dataset)
        side = options.image_size + 2 * round(options.image_size * defaults.margin / 2)
        self.train_images, self.test_images = Square(self.train, side), Square(self.test, side)
        self.channels = self.train_images[0][0].shape[0]
        self.pretrained = self._fresh_encoder(seed=0).pretrained
        p, k = options.batch_classes or min(32, self.train.num_classes), options.batch_samples
        steps = options.epochs * len(PKSampler(self.train.labels, p, k))
        rate = 1e-3 if self.pretrained else 2e-3  # chosen on held-out training classes, of Cars and of glyphs
        self.recipe = Recipe(
            epochs=options.epochs,
            steps=min(steps, options.max_steps or steps),
            batch_classes=p,
            batch_samples=k,
            image_size=options.image_size,
            augmentation=defaults.augmentation,
            head_rate=rate,
            backbone_rate=rate / 10 if self.pretrained else rate,
        )
        self.of_encoder = {"backbone": options.backbone, "embedding_dim": options.embedding_dim}
        self._head: dict[str, Any] | None = None

    def _readable(self, images: LabelledImages) -> LabelledImages:
        """`images`, without those that cannot be decoded if these are to be skipped."""
        if self.options.on_bad_image == "fail":
            return images
        broken = dict(broken_rows(images, self.options.workers))
        self.broken += broken.values()
        return Readable(images, [row for row in range(len(images)) if row not in broken]) if broken else images

    def encoder(self, seed: int) -> Encoder:
        """The encoder that runs of this seed start from. The head of a pretrained one projects on principal components of its features."""
        encoder = self._fresh_encoder(seed)
        if self.pretrained:
            if self._head is None:
                some = Subset(self.train_images, range(0, len(self.train), -(-len(self.train) // _PCA_IMAGES)))
                encoder.head.start_from_pca(self._embed(encoder, encoder.features, some))
                self._head = encoder.head.state_dict()
            encoder.head.load_state_dict(self._head)
        return encoder

    def _fresh_encoder(self, seed: int) -> Encoder:
        torch.manual_seed(seed)
        backbone = build_backbone(self.options.backbone, self.channels)
        return Encoder(backbone, self.options.image_size, self.options.embedding_dim)

    def embeddings(self, encoder: Encoder) -> Tensor:
        """Embeddings `[n, d]` of the test images."""
        return self._embed(encoder, encoder, self.test_images)

    def raw_features(self) -> tuple[Tensor, dict[str, Any]]:
        """Features `[n, f]` of the test images, by a pretrained backbone, else their pixels; and what they are."""
        encoder = self._fresh_encoder(seed=0)
        if self.pretrained:
            what = {"features": self.options.backbone, "image_size": self.recipe.image_size}
            return self._embed(encoder, encoder.features, self.test_images), what
        side = min(self.recipe.image_size, _PIXELS)
        pixels = self._embed(encoder, lambda images: adaptive_avg_pool2d(images, side).flatten(1), self.test_images)
        return pixels, {"features": "pixels", "image_size": side}

    def _embed(self, encoder: Encoder, encode: Callable[[Tensor], Tensor], images: Any) -> Tensor:
        encoder.to(self.device).eval()
        return embed(encode, images, self.recipe.image_size, device=self.device, workers=self.options.workers)

    def record(
        self, loss: str, seed: int | None, embeddings: Tensor, hyper_parameters: dict[str, Any], seconds: float | None = None
    ) -> dict[str, Any]:
        """A record of `results.json`.

        Args:
            loss: name of the loss, or "raw" or "untrained".
            seed: None for "raw".
            embeddings: of the test images.
            hyper_parameters: that led to them.
            seconds: of training.
        """
        images = {"train_images": len(self.train), "test_images": len(self.test)}
        images |= {"missing_images": self.missing, "broken_images": len(self.broken)}
        classes = {"train_classes": self.train.num_classes, "test_classes": self.test.num_classes}
        return {
            "dataset": self.options.dataset,
            "split_sizes": {**images, **classes},
            "loss": loss,
            "seed": seed,
            "hyper_parameters": hyper_parameters,
            "seconds": seconds,
            **evaluate(embeddings, self.test.labels),
            "device": self.options.device,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
