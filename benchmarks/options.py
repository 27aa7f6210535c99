"""The command line of `python -m benchmarks.retrieval`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks._arguments import Parser, any_of, count, hint, number, one_of, several_of
from benchmarks.images import LETTERS, PHOTOGRAPHS, Augmentation
from benchmarks.losses import DEFAULT_LOSSES, LOSSES, MINERS
from metriczoo.data import DATASETS

__all__ = ["Defaults", "data_options", "defaults_of", "parse", "settings_of"]

_DESCRIPTION = "Train an encoder with each of several losses, and compare how well they retrieve images of classes they never saw."
_EPILOG = """
Results are written to results.json after each run, of one loss with one seed, and to report.html in the end; without --output, to a
new folder runs/<dataset>-001, -002 and so on. Results are never overwritten: a folder that holds some is an error, unless --resume is
given, which makes the runs that are missing there. A run that was interrupted goes on from its last whole epoch, and ends with the numbers
it would have had. Without --output, --resume takes the latest folder of the same settings. With nothing to go on with, it starts anew.
"""


@dataclass(frozen=True)
class Defaults:
    """What suits a data set."""

    backbone: str
    epochs: int
    side: int  # of the images that the encoder sees
    margin: float  # what is read of an image beyond that, as a part of the side
    augmentation: Augmentation


# Arguments of data sets that options of their own set, or nothing.
_OWN_ARGUMENTS = ("root", "split", "transform", "missing", "train_classes", "train_ids")
_PROTOCOLS = ("finetune", "frozen")
_LETTERS = Defaults("convnet", epochs=5, side=28, margin=0.0, augmentation=LETTERS)
_PHOTOGRAPHS = Defaults("efficientnet_lite0", epochs=10, side=224, margin=1 / 7, augmentation=PHOTOGRAPHS)


def defaults_of(dataset: str, protocol: str = "finetune") -> Defaults:
    """What suits the data set called `dataset`."""
    defaults = _LETTERS if dataset in ("glyphs", "omniglot") else _PHOTOGRAPHS
    if protocol == "frozen" and defaults is _LETTERS:
        defaults = replace(defaults, backbone=_PHOTOGRAPHS.backbone, epochs=_PHOTOGRAPHS.epochs, side=64)
    return defaults


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""
    parser = Parser(prog="python -m benchmarks.retrieval", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--protocol",
        default="finetune",
        type=one_of(_PROTOCOLS),
        metavar="NAME",
        help="finetune: train backbone and head on images; frozen: keep the features of a pretrained backbone and train a linear head on "
        "them, in seconds, beside the raw features and their principal components (default: %(default)s)",
    )
    add("--dataset", default="glyphs", type=one_of(DATASETS), metavar="NAME", help=f"{any_of(DATASETS)} (default: glyphs)")
    add("--root", metavar="DIR", help="where the files of the data set are")
    add(
        "--data-option",
        dest="data_options",
        default=[],
        action="append",
        metavar="NAME=VALUE",
        help="a further argument of the data set, such as crop=true of cars, evaluation=true of omniglot, label_column=breed of csv",
    )
    add(
        "--loss",
        dest="losses",
        default=[*DEFAULT_LOSSES],
        type=several_of(LOSSES, "loss"),
        metavar="NAME[,NAME...]",
        help=f"{any_of(LOSSES)} (default: {','.join(DEFAULT_LOSSES)})",
    )
    add("--miner", type=one_of(MINERS), metavar="NAME", help=f"{any_of(MINERS)} (default: semi_hard for triplet, none for other losses)")
    add(
        "--backbone",
        metavar="NAME",
        help="convnet (default for letters), efficientnet_lite0 (default for photographs, and if frozen) or a model of timm",
    )
    add("--embedding-dim", default=128, type=count(), metavar="N", help="default: %(default)s")
    add("--image-size", type=count(), metavar="N", help="pixels per side (default: 28 for letters, or 64 if frozen, 224 for photographs)")
    add("--epochs", type=count(), metavar="N", help="default: 5 for letters, 10 for photographs, and if frozen")
    add("--max-steps", type=count(), metavar="N", help="end each run after so many batches, if its epochs have more")
    add("--seeds", default=1, type=count(), metavar="N", help="runs of each loss, with seeds 0 to N - 1 (default: %(default)s)")
    add("--batch-classes", type=count(), metavar="P", help="classes in a batch (default: 32, or all of fewer)")
    add(
        "--batch-samples",
        default=4,
        type=count(),
        metavar="K",
        help="images of each class in a batch (default: %(default)s); nce draws P * K of any class",
    )
    for part, what in (("backbone", "the backbone"), ("head", "the head"), ("proxy", "proxies, centres and other parameters of losses")):
        add(f"--{part}-rate", type=number(low=0), metavar="RATE", help=f"learning rate of {what} (default: by backbone and loss)")
    add(
        "--batch-norm",
        type=one_of(("frozen", "trained")),
        metavar="WHAT",
        help="statistics of batch normalisation: frozen (default of pretrained backbones) or trained",
    )
    add(
        "--precision",
        type=one_of(("float32", "bfloat16", "float16")),
        metavar="TYPE",
        help="of the encoder in training: float32 (default), or bfloat16 or float16 mixed with it; float16 needs --device cuda",
    )
    add(
        "--chunk",
        type=count(),
        metavar="N",
        help="images that the encoder takes at once, for batches beyond memory: same gradients, slower",
    )
    add("--train-classes", type=count(), metavar="N", help="train on the N lowest class ids, test on the others (default: official split)")
    add("--memory-bank", type=count(), metavar="N", help="losses over pairs compare with the last N embeddings, too")
    add("--output", metavar="DIR", help="folder of the results")
    add("--cache", default="runs/features", metavar="DIR", help="where the features of frozen backbones are kept (default: %(default)s)")
    add("--device", default="cpu", type=one_of(("cpu", "cuda")), metavar="NAME", help="cpu or cuda (default: %(default)s)")
    add("--workers", default=0, type=count(low=0), metavar="N", help="processes that read images (default: %(default)s, the main one does)")
    add(
        "--on-bad-image",
        default="fail",
        type=one_of(("fail", "skip")),
        metavar="WHAT",
        help="fail at an image that cannot be decoded, or look for such images first and skip them, which reads all twice "
        "(default: %(default)s)",
    )
    add("--resume", action="store_true", help="go on with an interrupted benchmark, see below")
    options = parser.parse(arguments)
    complaint = _complaint(options)
    if complaint:
        parser.error(complaint)
    try:
        options.data_options = data_options(options.dataset, options.data_options)
    except ValueError as error:
        parser.error(str(error))
    defaults = defaults_of(options.dataset, options.protocol)
    options.epochs = options.epochs or defaults.epochs
    if options.dataset != "features":
        options.backbone = options.backbone or defaults.backbone
        options.image_size = options.image_size or defaults.side
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    return {name: value for name, value in vars(options).items() if name not in ("output", "resume", "workers", "cache")}


def _complaint(options: argparse.Namespace) -> str | None:
    """What is wrong with options that are right one by one."""
    if options.dataset == "features" and options.protocol == "frozen":
        given = [f"--{name.replace('_', '-')}" for name in ("backbone", "image_size") if getattr(options, name) is not None]
        if given:
            return f"{given[0]} does nothing for --dataset features, which are there already."
    if options.protocol == "frozen":
        idle = [name for name in ("backbone_rate", "batch_norm", "precision", "chunk") if getattr(options, name) is not None]
        if idle:
            return f"--{idle[0].replace('_', '-')} does nothing for --protocol frozen, which trains no backbone."
    if options.precision == "float16" and options.device != "cuda":
        return "--precision float16 needs --device cuda; bfloat16 works on a cpu, too."
    over_pairs = [name for name in options.losses if LOSSES[name].references == "batch"]
    if options.memory_bank and not over_pairs:
        return f"--memory-bank does nothing for {', '.join(options.losses)}: it is for losses over pairs."
    if over_pairs and not options.memory_bank and (options.batch_samples == 1 or options.batch_classes == 1):
        return f"--batch-classes and --batch-samples must be at least 2 for {', '.join(over_pairs)}, unless there is a --memory-bank."
    if options.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: this PyTorch sees no CUDA device."
    return None


def data_options(dataset: str, texts: Iterable[str]) -> dict[str, bool | int | str]:
    """`NAME=VALUE` as further arguments of the class of a data set, each of the type that the argument has.

    Raises:
        ValueError: what is no such argument, or a value of another type.
    """
    parameters = inspect.signature(DATASETS[dataset]).parameters
    known = [name for name in parameters if name not in _OWN_ARGUMENTS]
    options: dict[str, bool | int | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in known or not equals:
            expected = f"NAME=VALUE with {any_of(known)}" if known else f"none for {dataset}"
            raise ValueError(f"--data-option: expected {expected}, but got {text!r}.{hint(name, known)}")
        default = parameters[name].default
        if isinstance(default, bool):
            if value.lower() not in ("true", "false"):
                raise ValueError(f"--data-option: expected {name}=true or {name}=false, but got {text!r}.")
            options[name] = value.lower() == "true"
        elif isinstance(default, int):
            if not (value.isascii() and value.isdigit()):
                raise ValueError(f"--data-option: expected a whole number for {name}, but got {text!r}.")
            options[name] = int(value)
        else:
            options[name] = value
    return options
