"""The images: of known classes, split into those that train and those held out, and of classes that no training sees."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.images.augmentation import LETTERS, PHOTOGRAPHS, Augmentation
from benchmarks.images.readable import Readable, broken_rows
from benchmarks.images.square import Square
from benchmarks.instance_discrimination.cifar import NAMES, read_cifar10
from metriczoo.data import DATASETS, ImageFolder, LabelledImages, load

__all__ = ["Data", "Defaults", "Samples", "class_balanced", "dataset_names", "defaults_of", "load_data", "stratified"]

_KEPT_BYTES = 2**30  # of pixels, at most, that are kept decoded
_BATCH = 64
_HELD_OUT = ("val", "test", "validation", "valid")  # names of the folder beside `train`


@dataclass(frozen=True)
class Defaults:
    """What suits a data set."""

    backbone: str
    epochs: int
    batch_size: int
    temperature: float
    side: int
    margin: float  # what is read of an image beyond that, as a part of the side
    augmentation: Augmentation


# Batch size, temperature and distortion of letters were chosen on training images of glyphs, held out with --validation.
_LETTERS = Defaults("convnet", epochs=15, batch_size=64, temperature=0.15, side=28, margin=0.0, augmentation=LETTERS)
_CIFAR = Defaults("convnet", epochs=100, batch_size=128, temperature=0.07, side=32, margin=0.0, augmentation=PHOTOGRAPHS)
_OTHERS = Defaults("efficientnet_lite0", epochs=100, batch_size=128, temperature=0.07, side=224, margin=1 / 7, augmentation=PHOTOGRAPHS)
_DEFAULTS = {"glyphs": _LETTERS, "omniglot": _LETTERS, "cifar10": _CIFAR}
_QUICK_CLASSES = 24


def dataset_names() -> list[str]:
    """The data sets that have images."""
    return sorted({*DATASETS, "cifar10"} - {"features"})


def defaults_of(dataset: str) -> Defaults:
    """What suits the data set called `dataset`."""
    return _DEFAULTS.get(dataset, _OTHERS)


class Samples(Dataset[tuple[Tensor, int, int]]):
    """Some images of a data set: each a uint8 tensor `[channels, side, side]`, its label and its position here.

    Args:
        images: all images, `[n, channels, side, side]` uint8 or a data set that gives such tensors first.
        labels: of all images.
        rows: which ones.

    Attributes:
        labels: of these images `[m]`.
    """

    def __init__(self, images: Tensor | Dataset[Any], labels: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.images, self.labels, self.rows = images, labels[rows], rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        found = self.images[int(self.rows[index])]
        return (found if isinstance(found, Tensor) else found[0]), int(self.labels[index]), index

    def of(self, rows: NDArray[np.int64]) -> Samples:
        """Some of these."""
        return Samples(self, self.labels, rows)


@dataclass(frozen=True)
class Data:
    """The images of a benchmark.

    Attributes:
        train: what is trained on, without labels but where it is said.
        held_out: other images of the same classes.
        unseen: images of other classes, if there are any.
        class_names: of the classes of the first two.
        channels: of an image.
        official: whether the data set itself says what is held out.
        complaints: about images that were left out.
    """

    train: Samples
    held_out: Samples
    unseen: Samples | None
    class_names: Sequence[str]
    channels: int
    official: bool
    complaints: Sequence[str]

    def sizes(self) -> dict[str, int]:
        """How many images and classes there are."""
        unseen = (0, 0) if self.unseen is None else (len(self.unseen), len(set(self.unseen.labels.tolist())))
        return {
            "train_images": len(self.train),
            "held_out_images": len(self.held_out),
            "classes": len(self.class_names),
            "unseen_images": unseen[0],
            "unseen_classes": unseen[1],
            "left_out_images": len(self.complaints),
        }


def load_data(options: argparse.Namespace) -> Data:
    """What the options of the command line name.

    Raises:
        ImportError: the data set needs a package that is not installed.
        OSError: its files are missing.
        ValueError: it is malformed, or has no class with two images.
    """
    complaints: list[str] = []
    if options.dataset == "cifar10":
        if options.root is None:
            raise ValueError("--dataset cifar10 needs --root: the folder that holds cifar-10-batches-py or cifar-10-batches-bin.")
        if options.train_classes is not None:
            raise ValueError("--train-classes: cifar10 has a test set of the same classes.")
        sets = [_of_array(*read_cifar10(options.root, split), options.image_size) for split in ("train", "test")]
        class_names: Sequence[str] = NAMES
    else:
        found = [_readable(images, options, complaints) for images in _official(options) or _by_class(options)]
        class_names = found[0].class_names
        sets = [_of_images(images, options) for images in found]
    if options.quick:
        sets, class_names = [_few(samples) for samples in sets], class_names[:_QUICK_CLASSES]
    official = options.dataset == "cifar10" or (len(sets) == 2 and options.dataset == "folder" and options.train_classes is None)
    known, other = sets[0], sets[1] if len(sets) > 1 else None
    if official:
        assert other is not None
        train, held_out, unseen = known, other, None
    else:
        train, held_out = _split(known, options.held_out)
        unseen = other
    if options.validation:  # what is chosen must be chosen without the images held out
        train, held_out = _split(train, options.held_out)
    return Data(train, held_out, unseen, class_names, int(train[0][0].shape[0]), official, complaints)


def _official(options: argparse.Namespace) -> list[LabelledImages] | None:
    """The two sets of a folder with `train` and `val`, of the same classes, as of ImageNet."""
    if options.dataset != "folder" or options.root is None:
        return None
    root = Path(options.root).expanduser()
    beside = next((root / name for name in _HELD_OUT if (root / name).is_dir()), None)
    if beside is None or not (root / "train").is_dir() or {path.name for path in root.iterdir() if path.is_dir()} != {"train", beside.name}:
        return None
    if options.train_classes is not None:
        raise ValueError(f"--train-classes: {root} has a set of the same classes beside train.")
    train, held_out = ImageFolder(root / "train", "all"), ImageFolder(beside, "all")
    if train.class_names != held_out.class_names:
        odd = sorted(set(train.class_names) ^ set(held_out.class_names))
        raise ValueError(f"Expected {root / 'train'} and {beside} to have the same classes, but only one of them has {', '.join(odd[:5])}.")
    return [train, held_out]


def _by_class(options: argparse.Namespace) -> list[LabelledImages]:
    """The images of known classes, and those of others."""
    arguments = inspect.signature(DATASETS[options.dataset]).parameters
    further: dict[str, Any] = {"missing": "skip"} if "missing" in arguments else {}
    further |= {**options.data_options, "train_classes": options.train_classes}
    whole = options.dataset == "folder" and options.train_classes is None
    found = [load(options.dataset, options.root, split, **further) for split in (("all",) if whole else ("train", "test"))]
    return [images for images in found if isinstance(images, LabelledImages)]


def _readable(images: LabelledImages, options: argparse.Namespace, complaints: list[str]) -> LabelledImages:
    if options.on_bad_image == "fail":
        return images
    broken = dict(broken_rows(images, options.workers))
    complaints += broken.values()
    return Readable(images, [row for row in range(len(images)) if row not in broken]) if broken else images


def _of_images(images: LabelledImages, options: argparse.Namespace) -> Samples:
    side = options.image_size + 2 * round(options.image_size * defaults_of(options.dataset).margin / 2)
    square: Dataset[Any] = Square(images, side)
    rows = np.arange(len(images))
    if len(images) * square[0][0].numel() <= _KEPT_BYTES:
        loader = DataLoader(square, batch_size=_BATCH, num_workers=options.workers, generator=torch.Generator())
        return Samples(torch.cat([batch for batch, _, _ in loader]), images.labels, rows)
    return Samples(square, images.labels, rows)


def _of_array(images: NDArray[np.uint8], labels: NDArray[np.int64], side: int) -> Samples:
    pixels = torch.from_numpy(images)
    if side != pixels.shape[-1]:
        resized = torch.nn.functional.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True)
        pixels = resized.round().clamp(0, 255).to(torch.uint8)
    return Samples(pixels, labels, np.arange(len(labels)))


def _few(samples: Samples) -> Samples:
    """The images of the first classes, and not all of many."""
    rows = [np.flatnonzero(samples.labels == label)[:_QUICK_CLASSES] for label in range(_QUICK_CLASSES)]
    return samples.of(np.sort(np.concatenate(rows)))


def _split(samples: Samples, share: float) -> tuple[Samples, Samples]:
    away = stratified(samples.labels, share)
    if not len(away):
        raise ValueError("No class has two images, so that none can be held out.")
    return samples.of(np.setdiff1d(np.arange(len(samples)), away)), samples.of(away)


def stratified(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Rows to hold out, ascending: the nearest whole number to `share` of each class, at least one and never its last."""
    away = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        number = min(max(round(share * len(rows)), 1), len(rows) - 1)
        away.append(np.random.default_rng([0, int(label)]).permutation(rows)[:number])
    return np.sort(np.concatenate(away))


def class_balanced(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Rows whose labels are shown, ascending: a share of all, of each class one before of any a second one.

    A larger share holds the smaller ones of the same seed.
    """
    generator = np.random.default_rng([seed, 1])
    shuffled = generator.permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # of a row among those of its class
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        rank[rows] = np.arange(len(rows))
    order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    return np.sort(order[: max(1, round(share * len(labels)))])
