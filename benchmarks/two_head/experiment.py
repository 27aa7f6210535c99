"""What all runs share: data, recipe, and the networks that training starts from."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, Sampler

from benchmarks.command.versions import versions
from benchmarks.images.present import load_present
from benchmarks.images.readable import Readable, broken_rows
from benchmarks.images.square import Square, center
from benchmarks.training.loop import Recipe
from benchmarks.two_head.data import Activations, Part, Pixels, ShuffledBatches, Views, long_tailed, stratified, views_of
from benchmarks.two_head.measures import measures
from benchmarks.two_head.network import Network, build
from benchmarks.two_head.objective import SYSTEMS, TwoHeadObjective
from benchmarks.two_head.options import two_head_defaults
from metriczoo.data import LabelledImages, MagnetSampler, PKSampler
from metriczoo.metrics import knn_classify
from metriczoo.models import TwoHeadOutput

__all__ = ["Experiment"]

_PIXELS = 32  # per side, at most, of an image that is its own features
_VALIDATION_SHARE = 0.25  # of the training images
_BATCH = 128


class Rates(NamedTuple):
    """Learning rates at the start."""

    backbone: float
    head: float


# Chosen with --validate, on Cars crops and on 60 letters, by the accuracy of softmax alone, and used for every system.
_RATES = {"pretrained": Rates(1e-4, 3e-3), "fresh": Rates(5e-3, 2e-2)}


class Experiment:
    """What the options of the command line stand for. `prepare` comes before any run.

    Args:
        options: of the command line.

    Attributes:
        images: the data set, both of its official splits.
        missing: number of listed images without a file.
        broken: what is wrong with each image that was left out since it cannot be decoded.
        train: the training images of each distribution.
        test: the images that are held out, of the same classes.
        recipes: how to train on each distribution.

    Raises:
        ImportError: the backbone or the data set needs a package that is not installed.
        OSError: data or weights are missing.
        ValueError: the data set is malformed, or options do not fit it.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.broken: list[str] = []
        self.images = self._read()
        self.missing = getattr(self.images, "skipped", 0)
        self.num_classes = min(options.classes or self.images.num_classes, self.images.num_classes)
        if self.num_classes < 2:
            raise ValueError(f"--dataset {options.dataset}: a classifier needs two classes at least, but there is only one.")
        self.defaults = two_head_defaults(options.dataset)
        side = options.image_size + 2 * round(options.image_size * self.defaults.margin / 2)
        self.pixels = Pixels(Square(self.images, side))
        rows = np.flatnonzero(self.images.labels < self.num_classes)
        labels = self.images.labels[rows]
        train, test = stratified(labels, options.test_share)
        if options.validate:
            stays, held = stratified(labels[train], _VALIDATION_SHARE)
            train, test = train[stays], train[held]
        if not len(test):
            raise ValueError(f"--dataset {options.dataset}: no class has two images, one to train on and one to test with.")
        by_name = {"balanced": train, "long_tailed": train[long_tailed(labels[train], options.ratio)]}
        self._seen = [rows[np.unique(np.concatenate([by_name[name] for name in options.distributions]))], rows[test]]
        self._activations = Activations()
        source = self.pixels if options.train == "all" else self._activations
        self.train = {name: Part(source, rows[by_name[name]], labels[by_name[name]]) for name in options.distributions}
        self.test = Part(source, rows[test], labels[test])
        self.channels = int(self.pixels[int(rows[0])].shape[0])
        self.pretrained = self._try_network().keep_statistics
        self.recipes = {name: self._recipe(part) for name, part in self.train.items()}

    def _read(self) -> LabelledImages:
        options = self.options
        images = load_present(options.dataset, options.root, "all", **options.data_options)
        if not isinstance(images, LabelledImages):
            raise ValueError(f"--dataset {options.dataset}: a network is trained on images, not on feature vectors.")
        if options.on_bad_image == "fail":
            return images
        broken = dict(broken_rows(images, options.workers))
        self.broken += broken.values()
        return Readable(images, [row for row in range(len(images)) if row not in broken]) if broken else images

    def _try_network(self) -> Network:
        try:
            return self.network(0, second=True)
        except (AssertionError, RuntimeError, ValueError) as error:
            size = self.options.image_size
            raise ValueError(f"The backbone does not take images of {size} by {size} pixels (--image-size): {error}") from error

    def prepare(self, on_image: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Run what stays of the backbone on all images, if only its top is trained.

        Args:
            on_image: is called with the number of images done and of all.
        """
        if self.options.train == "all":
            return
        frozen = build(self.options.backbone, self.channels, "top")[0].to(self.device)
        done, total = 0, sum(map(len, self._seen))
        for rows, views in zip(self._seen, (self.options.views, 1), strict=True):
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                images = torch.stack([self.pixels[int(row)] for row in batch]).to(self.device)
                generator = torch.Generator().manual_seed(start)
                side, augmentation = self.options.image_size, self.defaults.augmentation
                self._activations.add(batch, views_of(frozen, images, side, views, augmentation, generator))
                done += len(batch)
                on_image(done, total)

    def _recipe(self, part: Part) -> Recipe:
        options = self.options
        p, k = min(options.batch_classes, self.num_classes), options.batch_samples
        steps = options.epochs * max(1, len(part) // (p * k))
        rates = _RATES["pretrained" if self.pretrained else "fresh"]
        return Recipe(
            epochs=options.epochs,
            steps=min(steps, options.max_steps or steps),
            batch_classes=p,
            batch_samples=k,
            image_size=options.image_size,
            augmentation=Views(options.views) if options.train == "top" else self.defaults.augmentation,  # type: ignore[arg-type]
            backbone_rate=rates.backbone if options.backbone_rate is None else options.backbone_rate,
            head_rate=options.head_rate or rates.head,
        )

    def network(self, seed: int, *, second: bool, train: str | None = None) -> Network:
        """The network that runs of this seed start from, the same with and without use for the second head."""
        torch.manual_seed(seed)
        frozen, backbone, pretrained = build(self.options.backbone, self.channels, train or self.options.train)
        with torch.no_grad():
            example = frozen(self.some_images(1))
        options = self.options
        network = Network(backbone, self.num_classes, options.embedding_dim, example, keep_statistics=pretrained, second=second)
        return network.to(self.device)

    def objective(self, system: str, distribution: str, seed: int) -> TwoHeadObjective:
        """The objective of a system, on the images of a distribution."""
        return TwoHeadObjective(
            system,
            self.train[distribution].labels,
            num_classes=self.num_classes,
            embedding_dim=self.options.embedding_dim,
            margin=self.options.margin,
            weight=self.options.weight if SYSTEMS[system].loss is not None else None,
            seed=seed,
        )

    def sampler(self, objective: TwoHeadObjective, distribution: str, seed: int) -> Sampler[list[int]]:
        """Batches of the kind that the objective wants."""
        part, recipe = self.train[distribution], self.recipes[distribution]
        p, k = recipe.batch_classes, recipe.batch_samples
        if objective.index is not None:
            return MagnetSampler(objective.index, p, k, seed=seed)
        if objective.system.batches == "shuffled":
            return ShuffledBatches(len(part), p * k, seed=seed)
        return PKSampler(part.labels, p, k, seed=seed)

    def some_images(self, number: int) -> Tensor:
        """Test images `[number, channels, side, side]` in [0, 1], over again where there are fewer."""
        rows = [int(self.test.rows[i % len(self.test)]) for i in range(number)]
        return center(torch.stack([self.pixels[row] for row in rows]), self.options.image_size)

    def inputs(self, batch: Tensor) -> Tensor:
        """What a network sees of a batch of a part: the middle of images, or their first view."""
        batch = batch.to(self.device)
        return batch[:, 0] if self.options.train == "top" else center(batch, self.options.image_size)

    @torch.no_grad()
    def outputs(self, network: Network, part: Part) -> TwoHeadOutput:
        """Logits, embeddings and pooled features of all images of a part, on the host."""
        network.to(self.device).eval()
        loader = DataLoader(part, batch_size=_BATCH, num_workers=self.options.workers, generator=torch.Generator())
        found = [network(self.inputs(batch)) for batch, _, _ in loader]
        logits, embeddings, features = (torch.cat([out[i].float().cpu() for out in found]) for i in range(3))
        return TwoHeadOutput(logits, embeddings, features)

    def raw(self, distribution: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the images are like before training: pooled features of a pretrained backbone, else pixels; and what these are.

        Each image counts as of the class of its nearest neighbour among the training images.
        """
        part = self.train[distribution]
        side = min(self.options.image_size, _PIXELS)
        if self.pretrained:
            network = self.network(0, second=False)
            one, other = (self.outputs(network, p).features for p in (part, self.test))
            what = {"features": self.options.backbone, "image_size": self.options.image_size}
        else:
            one, other = (self._pixels(p, side) for p in (part, self.test))
            what = {"features": "pixels", "image_size": side}
        nearest = knn_classify(other, one, part.labels, k=1)
        return self.measures(nearest, other, None, distribution), {**what, "classifier": "nearest neighbour"}

    def _pixels(self, part: Part, side: int) -> Tensor:
        images = [center(part.source[int(row)].unsqueeze(0), self.options.image_size) for row in part.rows]
        return torch.cat([adaptive_avg_pool2d(image, side).flatten(1) for image in images])

    def measures(self, predicted: Tensor, features: Tensor, embeddings: Tensor | None, distribution: str) -> dict[str, Any]:
        """How good predictions and features of the test images are."""
        counts = np.bincount(self.train[distribution].labels, minlength=self.num_classes)
        rare = counts if distribution == "long_tailed" else None
        return measures(predicted.numpy(), self.test.labels, features, embeddings, rare)

    def record(
        self,
        distribution: str,
        loss: str,
        seed: int | None,
        values: dict[str, Any],
        hyper_parameters: dict[str, Any],
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """A record of `results.json`."""
        sizes: NDArray[np.int64] = np.bincount(self.train[distribution].labels, minlength=self.num_classes)
        split = {"train_images": len(self.train[distribution]), "test_images": len(self.test), "classes": self.num_classes}
        split |= {"largest_class": int(sizes.max()), "smallest_class": int(sizes.min())}
        split |= {"missing_images": self.missing, "broken_images": len(self.broken)}
        return {
            "dataset": self.options.dataset,
            "data": distribution,
            "split_sizes": split,
            "loss": loss,
            "seed": seed,
            "hyper_parameters": hyper_parameters,
            "seconds": seconds,
            **values,
            "device": self.options.device,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
