"""The command line of `python -m benchmarks.retrieval`."""

from __future__ import annotations

import argparse
import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

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
_LETTERS = Defaults("convnet", epochs=5, side=28, margin=0.0, augmentation=LETTERS)
_PHOTOGRAPHS = Defaults("efficientnet_lite0", epochs=10, side=224, margin=1 / 7, augmentation=PHOTOGRAPHS)


def defaults_of(dataset: str) -> Defaults:
    """What suits the data set called `dataset`."""
    return _LETTERS if dataset in ("glyphs", "omniglot") else _PHOTOGRAPHS


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""
    parser = _Parser(prog="python -m benchmarks.retrieval", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--dataset", default="glyphs", type=_one_of(DATASETS), metavar="NAME", help=f"{_or(DATASETS)} (default: glyphs)")
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
        type=_losses,
        metavar="NAME[,NAME...]",
        help=f"{_or(LOSSES)} (default: {','.join(DEFAULT_LOSSES)})",
    )
    add("--miner", type=_one_of(MINERS), metavar="NAME", help=f"{_or(MINERS)} (default: semi_hard for triplet, none for other losses)")
    add("--backbone", metavar="NAME", help="convnet (default for letters), efficientnet_lite0 (default for photographs) or a model of timm")
    add("--embedding-dim", default=128, type=_count(), metavar="N", help="default: %(default)s")
    add("--image-size", type=_count(), metavar="N", help="pixels per side (default: 28 for letters, 224 for photographs)")
    add("--epochs", type=_count(), metavar="N", help="default: 5 for letters, 10 for photographs")
    add("--max-steps", type=_count(), metavar="N", help="end each run after so many batches, if its epochs have more")
    add("--seeds", default=1, type=_count(), metavar="N", help="runs of each loss, with seeds 0 to N - 1 (default: %(default)s)")
    add("--batch-classes", type=_count(), metavar="P", help="classes in a batch (default: 32, or all of fewer)")
    add(
        "--batch-samples",
        default=4,
        type=_count(),
        metavar="K",
        help="images of each class in a batch (default: %(default)s); nce draws P * K of any class",
    )
    add("--train-classes", type=_count(), metavar="N", help="train on the N lowest class ids, test on the others (default: official split)")
    add("--memory-bank", type=_count(), metavar="N", help="losses over pairs compare with the last N embeddings, too")
    add("--output", metavar="DIR", help="folder of the results")
    add("--device", default="cpu", type=_one_of(("cpu", "cuda")), metavar="NAME", help="cpu or cuda (default: %(default)s)")
    add(
        "--workers", default=0, type=_count(low=0), metavar="N", help="processes that read images (default: %(default)s, the main one does)"
    )
    add(
        "--on-bad-image",
        default="fail",
        type=_one_of(("fail", "skip")),
        metavar="WHAT",
        help="fail at an image that cannot be decoded, or look for such images first and skip them, which reads all twice "
        "(default: %(default)s)",
    )
    add("--resume", action="store_true", help="go on with an interrupted benchmark, see below")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        parser.error(f"unknown argument {unknown[0]!r}.{_hint(unknown[0].split('=')[0], known)}")
    complaint = _complaint(options)
    if complaint:
        parser.error(complaint)
    defaults = defaults_of(options.dataset)
    try:
        options.data_options = data_options(options.dataset, options.data_options)
    except ValueError as error:
        parser.error(str(error))
    options.backbone = options.backbone or defaults.backbone
    options.epochs = options.epochs or defaults.epochs
    options.image_size = options.image_size or defaults.side
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    return {name: value for name, value in vars(options).items() if name not in ("output", "resume", "workers")}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _complaint(options: argparse.Namespace) -> str | None:
    """What is wrong with options that are right one by one."""
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
            expected = f"NAME=VALUE with {_or(known)}" if known else f"none for {dataset}"
            raise ValueError(f"--data-option: expected {expected}, but got {text!r}.{_hint(name, known)}")
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


def _count(*, low: int = 1) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, but got {text!r}.")
        return value

    return convert


def _one_of(known: Iterable[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"expected {_or(known)}, but got {text!r}.{_hint(text, known)}")
        return text

    return convert


def _losses(text: str) -> list[str]:
    names = [_one_of(LOSSES)(name.strip()) for name in text.split(",")]
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected each loss once, but got {text!r}.")
    return names


def _or(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""
