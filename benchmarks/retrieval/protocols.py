"""What is trained, on what, and from where: an encoder on images, or a head on the features of a frozen backbone."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import Dataset, Subset

from benchmarks.evaluation.embeddings import embed, embed_vectors
from benchmarks.features.cache import FeatureCache, maker_of
from benchmarks.features.extraction import OnProgress, Vectors, extract
from benchmarks.images.square import Square
from benchmarks.retrieval.options import defaults_of
from benchmarks.training.backbones import Encoder, FrozenEncoder, build_backbone
from benchmarks.training.loop import Recipe
from metriczoo.data import Features, LabelledData, LabelledImages, PKSampler

__all__ = ["PROTOCOLS", "Finetuning", "Frozen", "Protocol"]

_PIXELS = 32  # per side, at most, of an image that is its own features
_PCA_IMAGES = 2048  # at most, that the head of a pretrained backbone gets its start from
_RATES = ("backbone_rate", "head_rate", "proxy_rate")
_FROZEN_RATE = 3e-4  # of a head on frozen features, chosen on held-out training classes


class Protocol(ABC):
    """How the benchmark trains and what it sees.

    Args:
        options: of the command line.
        train: the training data.
        test: the test data, of other classes.

    Attributes:
        baseline: what the encoder is called before training.
        recipe: how to train.
        of_encoder: hyper-parameters of the encoder, for the record.
        notes: what to tell about the preparation.
    """

    baseline: str
    recipe: Recipe
    of_encoder: dict[str, Any]

    def __init__(self, options: argparse.Namespace, train: LabelledData, test: LabelledData) -> None:
        self.options, self.train, self.test = options, train, test
        self.device = torch.device(options.device)
        self.notes: list[str] = []

    @abstractmethod
    def prepare(self, on_progress: OnProgress) -> None:
        """Make what takes long and is needed before the first run."""

    @property
    @abstractmethod
    def train_inputs(self) -> Dataset[tuple[Tensor, int, int]]:
        """The training data as tensors, with labels and positions."""

    @abstractmethod
    def encoder(self, seed: int) -> nn.Module:
        """The encoder that runs of this seed start from."""

    @abstractmethod
    def embeddings(self, encoder: nn.Module) -> Tensor:
        """Embeddings `[n, d]` of the test data, on the host."""

    @abstractmethod
    def raw_features(self) -> tuple[Tensor, dict[str, Any]]:
        """Features `[n, f]` of the test data without an encoder, and what they are."""

    def _recipe(self, **parts: Any) -> Recipe:
        options = self.options
        p, k = options.batch_classes or min(32, self.train.num_classes), options.batch_samples
        steps = options.epochs * len(PKSampler(self.train.labels, p, k))
        rates = {name: value for name in _RATES if (value := getattr(options, name)) is not None}
        return Recipe(
            rates=rates, epochs=options.epochs, steps=min(steps, options.max_steps or steps), batch_classes=p, batch_samples=k, **parts
        )


class Finetuning(Protocol):
    """Backbone and head are trained, on distorted images. The head of a pretrained backbone starts from principal components."""

    baseline = "untrained"

    def __init__(self, options: argparse.Namespace, train: LabelledData, test: LabelledData) -> None:
        super().__init__(options, train, test)
        if not (isinstance(train, LabelledImages) and isinstance(test, LabelledImages)):
            raise ValueError(
                f"--dataset {options.dataset}: an encoder is trained on images, not on feature vectors. "
                "Pass --protocol frozen to train a head on them."
            )
        defaults = defaults_of(options.dataset)
        side = _side(options)
        self._train_images, self._test_images = Square(train, side), Square(test, side)
        self.channels = self._train_images[0][0].shape[0]
        self.pretrained = self._fresh_encoder(seed=0).pretrained
        rate = 1e-3 if self.pretrained else 2e-3  # chosen on held-out training classes, of Cars and of glyphs
        self.recipe = self._recipe(
            image_size=options.image_size,
            augmentation=defaults.augmentation,
            head_rate=rate,
            backbone_rate=rate / 10 if self.pretrained else rate,
            precision=options.precision or "float32",
            chunk=options.chunk,
        )
        self.of_encoder = {"backbone": options.backbone, "embedding_dim": options.embedding_dim}
        self._head: dict[str, Any] | None = None

    def prepare(self, on_progress: OnProgress) -> None:
        """Nothing takes long."""

    @property
    def train_inputs(self) -> Dataset[tuple[Tensor, int, int]]:
        """The training images."""
        return self._train_images

    def encoder(self, seed: int) -> Encoder:
        """A backbone with a head."""
        encoder = self._fresh_encoder(seed)
        if self.pretrained:
            if self._head is None:
                some = Subset(self._train_images, range(0, len(self.train), -(-len(self.train) // _PCA_IMAGES)))
                encoder.head.start_from_pca(self._embed(encoder, encoder.features, some))
                self._head = encoder.head.state_dict()
            encoder.head.load_state_dict(self._head)
        return encoder

    def _fresh_encoder(self, seed: int) -> Encoder:
        torch.manual_seed(seed)
        backbone = build_backbone(self.options.backbone, self.channels)
        frozen = {None: None, "frozen": True, "trained": False}[self.options.batch_norm]
        return Encoder(backbone, self.options.image_size, self.options.embedding_dim, frozen_statistics=frozen)

    def embeddings(self, encoder: nn.Module) -> Tensor:
        """Of the middle of each test image."""
        return self._embed(encoder, encoder, self._test_images)

    def raw_features(self) -> tuple[Tensor, dict[str, Any]]:
        """Features by a pretrained backbone, else pixels."""
        encoder = self._fresh_encoder(seed=0)
        if self.pretrained:
            what = {"features": self.options.backbone, "image_size": self.recipe.image_size}
            return self._embed(encoder, encoder.features, self._test_images), what
        side = min(self.options.image_size, _PIXELS)
        pixels = self._embed(encoder, lambda images: adaptive_avg_pool2d(images, side).flatten(1), self._test_images)
        return pixels, {"features": "pixels", "image_size": side}

    def _embed(self, encoder: nn.Module, encode: Callable[[Tensor], Tensor], images: Any) -> Tensor:
        encoder.to(self.device).eval()
        return embed(encode, images, self.options.image_size, device=self.device, workers=self.options.workers)


class Frozen(Protocol):
    """A linear head is trained on features of unit length of a frozen backbone; it starts as projection on their principal components."""

    baseline = "pca"

    def __init__(self, options: argparse.Namespace, train: LabelledData, test: LabelledData) -> None:
        super().__init__(options, train, test)
        self.recipe = self._recipe(image_size=options.image_size, augmentation=None, head_rate=_FROZEN_RATE, backbone_rate=0.0, decay=False)
        self._vectors: tuple[Tensor, Tensor] | None = None
        self._backbone: Encoder | None = None
        self._what: dict[str, Any] = {"features": "given"}
        if isinstance(train, Features) and isinstance(test, Features):
            self._vectors = train.features, test.features
            num_features = train.features.shape[1]
        elif isinstance(train, LabelledImages) and isinstance(test, LabelledImages):
            self._images = Square(train, _side(options)), Square(test, _side(options))
            backbone = build_backbone(options.backbone, self._images[0][0][0].shape[0])
            if not backbone.pretrained:
                raise ValueError(
                    f"--protocol frozen: --backbone {options.backbone} has no weights of its own, so its features tell nothing."
                )
            self._backbone = Encoder(backbone, options.image_size, 1)
            self._maker = maker_of(self._backbone, options.backbone, options.image_size, _side(options) - options.image_size)
            num_features = self._backbone.head.linear.in_features
            self._what = {"features": options.backbone, "weights": self._maker["weights"][:16], "image_size": options.image_size}
        else:
            raise ValueError(f"--dataset {options.dataset} has neither images nor features.")
        if options.embedding_dim > num_features:
            raise ValueError(
                f"--embedding-dim {options.embedding_dim}: expected at most {num_features}, as the head starts from components of "
                f"{num_features} features. Pass --embedding-dim {num_features} or less."
            )
        self.of_encoder = {**self._what, "embedding_dim": options.embedding_dim}
        self._start: dict[str, Any] | None = None

    def prepare(self, on_progress: OnProgress) -> None:
        """Features of all images, from the cache as far as they are there."""
        if self._vectors is not None:
            return
        assert self._backbone is not None
        cache = FeatureCache(Path(self.options.cache), self._maker)
        sizes = [len(images) for images in self._images]
        parts, runtimes = [], set()
        for before, images in zip((0, sizes[0]), self._images, strict=True):
            features, runtime = extract(
                self._backbone,
                images,
                self.options.image_size,
                cache,
                device=self.device,
                workers=self.options.workers,
                on_progress=_later(on_progress, before, sum(sizes)),
            )
            parts.append(features)
            runtimes |= {runtime} - {None}
        self._vectors = parts[0], parts[1]
        self._backbone = None
        where = f"in {cache.folder}"
        self.notes.append(
            f"Features: made by {', '.join(sorted(map(str, runtimes)))}, kept {where}" if runtimes else f"Features: found {where}"
        )
        self.notes += [f"Damaged, and made anew: {path}" for path in cache.damaged]

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Features of the training and of the test data."""
        if self._vectors is None:
            self.prepare(lambda done, total: None)
        assert self._vectors is not None
        return self._vectors

    @property
    def train_inputs(self) -> Dataset[tuple[Tensor, int, int]]:
        """The training features."""
        return Vectors(self.vectors[0], self.train.labels)

    def encoder(self, seed: int) -> FrozenEncoder:
        """A head, which is the same for all seeds."""
        torch.manual_seed(seed)
        encoder = FrozenEncoder(self.vectors[0].shape[1], self.options.embedding_dim)
        if self._start is None:
            encoder.head.start_from_pca(self.vectors[0])
            self._start = {name: value.clone() for name, value in encoder.head.state_dict().items()}
        encoder.head.load_state_dict(self._start)
        return encoder

    def embeddings(self, encoder: nn.Module) -> Tensor:
        """Of the test features."""
        return embed_vectors(encoder.to(self.device).eval(), self.vectors[1], device=self.device)

    def raw_features(self) -> tuple[Tensor, dict[str, Any]]:
        """The test features."""
        return self.vectors[1], self._what


def _later(on_progress: OnProgress, before: int, total: int) -> OnProgress:
    """Progress of a part, after so many images of a total."""
    return lambda done, _: on_progress(before + done, total)


def _side(options: argparse.Namespace) -> int:
    """Of the images that are read: with a margin around what is seen."""
    side: int = options.image_size
    return side + 2 * round(side * defaults_of(options.dataset).margin / 2)


PROTOCOLS: dict[str, type[Protocol]] = {"finetune": Finetuning, "frozen": Frozen}
