"""The command line of `python -m benchmarks.two_head`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.command.arguments import Parser, any_of, count, number, one_of, several_of
from benchmarks.command.options import add_bad_image, add_dataset, add_machine, add_output
from benchmarks.images.augmentation import Augmentation
from benchmarks.retrieval.options import data_options, defaults_of
from benchmarks.two_head.network import TOPS
from benchmarks.two_head.objective import DEFAULT_SYSTEMS, SYSTEMS

__all__ = ["DISTRIBUTIONS", "Defaults", "parse", "settings_of", "two_head_defaults"]

DISTRIBUTIONS = ("balanced", "long_tailed")
_DESCRIPTION = """
Train a classifier with a ranking loss on a second head beside softmax, and compare how well it classifies and retrieves held-out images of
the same classes, after training on images that are evenly spread over the classes and on a long-tailed part of them.
"""
_EPILOG = """
Batches hold P classes with K images each, but for softmax_shuffled, which draws images as they come, and magnet, which draws clusters near
each other. Results are written to results.json after each run, and to report.html in the end; without --output, to a new folder
runs/<dataset>-001, -002 and so on. They are never overwritten: a folder that holds some is an error, unless --resume is given, which makes
the runs that are missing. A run that was interrupted goes on from its last whole epoch, and ends with the numbers it would have had.
"""


@dataclass(frozen=True)
class Defaults:
    """What suits a data set."""

    backbone: str
    epochs: int
    side: int
    margin: float  # what is read of an image beyond the side, as a part of it
    augmentation: Augmentation


def two_head_defaults(dataset: str) -> Defaults:
    """What suits the data set called `dataset`."""
    letters = dataset in ("glyphs", "omniglot")
    of_retrieval = defaults_of("glyphs" if letters else dataset)
    return Defaults(
        of_retrieval.backbone,
        epochs=10 if letters else 8,
        side=28 if letters else 128,
        margin=of_retrieval.margin,
        augmentation=of_retrieval.augmentation,
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""
    parser = Parser(prog="python -m benchmarks.two_head", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    _add_data(parser.add_argument_group("data"))
    _add_training(parser.add_argument_group("training"))
    _add_running(parser.add_argument_group("running"))
    options = parser.parse(arguments)
    try:
        options.data_options = data_options(options.dataset, options.data_options)
    except ValueError as error:
        parser.error(str(error))
    if options.quick:
        options.classes, options.epochs = options.classes or 16, options.epochs or 8
    defaults = two_head_defaults(options.dataset)
    options.backbone = options.backbone or defaults.backbone
    options.epochs = options.epochs or defaults.epochs
    options.image_size = options.image_size or defaults.side
    options.train = options.train or ("top" if options.backbone in TOPS else "all")
    complaint = _complaint(options)
    if complaint:
        parser.error(complaint)
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    settings = {name: value for name, value in vars(options).items() if name not in ("output", "resume", "workers")}
    return {"benchmark": "two_head", **settings}


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_dataset(add)
    add_bad_image(add)
    add("--classes", type=count(low=2), metavar="N", help="only the N lowest class ids (default: all classes of both official splits)")
    add(
        "--test-share",
        default=0.5,
        type=number(low=0, high=1, open_low=True, open_high=True),
        metavar="X",
        help="part of the images of each class that is held out for the test (default: %(default)s)",
    )
    add(
        "--validate",
        action="store_true",
        help="leave the test images alone: hold out a quarter of the training images of each class and test on these, to choose settings",
    )
    add(
        "--data",
        dest="distributions",
        default=[*DISTRIBUTIONS],
        type=several_of(DISTRIBUTIONS, "distribution"),
        metavar="NAME[,NAME]",
        help="balanced: all training images; long_tailed: fewer and fewer of class after class (default: both)",
    )
    add(
        "--ratio",
        default=10.0,
        type=number(low=1),
        metavar="X",
        help="how many times as many images the first class of the long tail keeps as the last, images falling exponentially "
        "(default: %(default)s)",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--system",
        dest="systems",
        default=[*DEFAULT_SYSTEMS],
        type=several_of(SYSTEMS, "system"),
        metavar="NAME[,NAME...]",
        help=f"what is trained beside softmax: {any_of(SYSTEMS)} (default: {','.join(DEFAULT_SYSTEMS)})",
    )
    add(
        "--weight",
        type=number(low=0),
        metavar="X",
        help=f"lambda, of the ranking loss (default: 1, but {SYSTEMS['center'].weight} for center)",
    )
    add(
        "--margin",
        default=0.2,
        type=number(low=0),
        metavar="X",
        help="of hard, semi_hard and triplet_center, on squared distances (default: %(default)s)",
    )
    add(
        "--backbone",
        metavar="NAME",
        help="convnet (default for letters), efficientnet_lite0 (default for photographs) or a convolutional model of timm",
    )
    add(
        "--train",
        type=one_of(("top", "all")),
        metavar="WHAT",
        help=f"all of the backbone; or its top, which is much quicker: what lies below is run once on --views of each image "
        f"(default: top for {any_of(TOPS)}, all for others)",
    )
    add("--views", default=4, type=count(), metavar="N", help="for --train top: an image and N - 1 distorted copies (default: %(default)s)")
    add("--embedding-dim", default=256, type=count(), metavar="N", help="of the second head (default: %(default)s)")
    add("--image-size", type=count(), metavar="N", help="pixels per side (default: 28 for letters, 128 for photographs)")
    add("--epochs", type=count(), metavar="N", help="default: 10 for letters, 8 for photographs")
    add("--max-steps", type=count(), metavar="N", help="end each run after so many batches, if its epochs have more")
    add("--batch-classes", default=8, type=count(low=2), metavar="P", help="classes in a batch (default: %(default)s, or all of fewer)")
    add("--batch-samples", default=4, type=count(low=2), metavar="K", help="images of each class in a batch (default: %(default)s)")
    add("--head-rate", type=number(low=0, open_low=True), metavar="X", help="learning rate of both heads (default: by the backbone)")
    add("--backbone-rate", type=number(low=0), metavar="X", help="learning rate of the backbone (default: by the backbone)")


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--seeds", default=1, type=count(), metavar="N", help="runs of each system, with seeds 0 to N - 1 (default: %(default)s)")
    add_output(add)
    add_machine(add)
    add("--quick", action="store_true", help="16 classes and 8 epochs, to see that it runs")


def _complaint(options: argparse.Namespace) -> str | None:
    """What is wrong with options that are right one by one."""
    if options.train == "top" and options.backbone not in TOPS:
        return f"--train top is for {any_of(TOPS)}; of {options.backbone} all is trained."
    if options.weight is not None and all(SYSTEMS[name].loss is None for name in options.systems):
        return f"--weight does nothing for {', '.join(options.systems)}: it is for a ranking loss."
    if options.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: this PyTorch sees no CUDA device."
    return None
