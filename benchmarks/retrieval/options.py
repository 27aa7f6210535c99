"""The command line of `python -m benchmarks.retrieval`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.command.arguments import Parser, any_of, count, hint, number, one_of, several_of
from benchmarks.command.options import add_bad_image, add_dataset, add_machine, add_output
from benchmarks.images.augmentation import DRAWN_LETTERS, LETTERS, PHOTOGRAPHS, Augmentation
from benchmarks.presets.files import read_presets, replaced
from benchmarks.training.losses import DEFAULT_LOSSES, LOSSES, MINERS, Objective
from metriczoo.data import DATASETS

__all__ = ["OF_FOLDS", "Defaults", "base_of", "data_options", "defaults_of", "is_reality_check", "parse", "settings_of"]

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
_PROTOCOLS = {"finetune": "finetune", "frozen": "frozen", "reality-check": "finetune", "reality-check-frozen": "frozen"}
OF_FOLDS = {"folds": 4, "trials": 0, "patience": 3}
_LETTERS = Defaults("convnet", epochs=5, side=28, margin=0.0, augmentation=LETTERS)
# Network and distortion were chosen by Recall@1 of circle loss on the last third of the training characters, held out, after 10 epochs
# on the others; batches of 64 classes and twice the rates were no better. More epochs were better as far as tried (15): 16 are what five
# minutes of a processor allow.
_CHARACTERS = Defaults("convnet_wide", epochs=16, side=28, margin=0.0, augmentation=DRAWN_LETTERS)
_PHOTOGRAPHS = Defaults("efficientnet_lite0", epochs=10, side=224, margin=1 / 7, augmentation=PHOTOGRAPHS)


def base_of(protocol: str) -> str:
    """What is trained under a protocol, however it is evaluated: "finetune" or "frozen"."""
    return _PROTOCOLS[protocol]


def is_reality_check(protocol: str) -> bool:
    """Whether models of a cross-validation are compared."""
    return base_of(protocol) != protocol


def defaults_of(dataset: str, protocol: str = "finetune") -> Defaults:
    """What suits the data set called `dataset`."""
    defaults = {"glyphs": _LETTERS, "omniglot": _CHARACTERS}.get(dataset, _PHOTOGRAPHS)
    if base_of(protocol) == "frozen" and defaults is not _PHOTOGRAPHS:
        defaults = replace(defaults, backbone=_PHOTOGRAPHS.backbone, epochs=_PHOTOGRAPHS.epochs, side=64)
    if is_reality_check(protocol):  # which stops by itself
        defaults = replace(defaults, epochs=2 * defaults.epochs)
    return defaults


def parse(arguments: Sequence[str] | None = None, extend: Callable[[Parser], None] = lambda parser: None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2.

    Args:
        arguments: of the command line. Default: of this process.
        extend: makes the parser that of another benchmark.
    """
    parser = Parser(prog="python -m benchmarks.retrieval", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    add = parser.add_argument_group("what is compared").add_argument
    add(
        "--protocol",
        default="finetune",
        type=one_of(_PROTOCOLS),
        metavar="NAME",
        help="finetune: train backbone and head on images; frozen: keep the features of a pretrained backbone and train a linear head on "
        "them, in seconds, beside the raw features and their principal components; reality-check: four models of a cross-validation within "
        "the training classes, each of which stops at its best epoch on the classes held out, as Musgrave, Belongie and Lim (2020) compare "
        "losses; reality-check-frozen: the same of heads on frozen features (default: %(default)s)",
    )
    add(
        "--loss",
        dest="losses",
        default=[*DEFAULT_LOSSES],
        type=several_of(LOSSES, "loss"),
        metavar="NAME[,NAME...]",
        help=f"any that `python -m benchmarks.presets` lists, with the values of its preset (default: {','.join(DEFAULT_LOSSES)})",
    )
    add("--presets", metavar="FILE", help="values that `python -m benchmarks.tune` wrote, in place of the presets of its losses")
    add("--miner", type=one_of(MINERS), metavar="NAME", help=f"{any_of(MINERS)} (default: that of the preset, none for most losses)")
    add("--memory-bank", type=count(), metavar="N", help="losses over pairs compare with the last N embeddings, too")
    add(
        "--memory-from-step",
        default=0,
        type=count(low=0),
        metavar="N",
        help="remember nothing in the first N steps, while embeddings move fast: 1000 in the code of the cross-batch memory "
        "(default: %(default)s)",
    )
    add("--seeds", default=1, type=count(), metavar="N", help="runs of each loss, with seeds 0 to N - 1 (default: %(default)s)")
    add = parser.add_argument_group("data").add_argument
    add_dataset(add)
    add("--train-classes", type=count(), metavar="N", help="train on the N lowest class ids, test on the others (default: official split)")
    add_bad_image(add)
    add = parser.add_argument_group("training").add_argument
    add(
        "--backbone",
        metavar="NAME",
        help="convnet (default for glyphs), convnet_wide (for omniglot), efficientnet_lite0 (for photographs, and if frozen) or a model of "
        "timm",
    )
    add("--embedding-dim", default=128, type=count(), metavar="N", help="default: %(default)s")
    add("--image-size", type=count(), metavar="N", help="pixels per side (default: 28 for letters, or 64 if frozen, 224 for photographs)")
    add(
        "--epochs",
        type=count(),
        metavar="N",
        help="default: 5 for glyphs, 16 for omniglot, 10 for others, and if frozen; twice that in a reality check",
    )
    add("--max-steps", type=count(), metavar="N", help="end each run after so many batches, if its epochs have more")
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
    add = parser.add_argument_group("reality check").add_argument
    add(
        "--folds",
        type=count(low=2),
        metavar="N",
        help="parts of the training classes, and models (default: 4)",
    )
    add(
        "--trials",
        type=count(low=0),
        metavar="N",
        help="search the hyper-parameters of each loss on these folds, with N trials; 0 takes its preset (default: 0)",
    )
    add(
        "--patience",
        type=count(),
        metavar="N",
        help="epochs without a better one on the classes held out, after which a model stops (default: 3)",
    )
    add = parser.add_argument_group("running").add_argument
    add_output(add)
    add("--cache", default="runs/features", metavar="DIR", help="where the features of frozen backbones are kept (default: %(default)s)")
    add_machine(add)
    extend(parser)
    options = parser.parse(arguments)
    complaint = _complaint(options)
    if complaint:
        parser.error(complaint)
    try:
        options.data_options = data_options(options.dataset, options.data_options)
        options.presets = _presets(options.presets) if options.presets else None
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for name, value in OF_FOLDS.items():
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
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
    if options.dataset == "features" and base_of(options.protocol) == "frozen":
        given = [f"--{name.replace('_', '-')}" for name in ("backbone", "image_size") if getattr(options, name) is not None]
        if given:
            return f"{given[0]} does nothing for --dataset features, which are there already."
    if base_of(options.protocol) == "frozen":
        idle = [name for name in ("backbone_rate", "batch_norm", "precision", "chunk") if getattr(options, name) is not None]
        if idle:
            return f"--{idle[0].replace('_', '-')} does nothing for --protocol {options.protocol}, which trains no backbone."
    of_folds = [name for name in OF_FOLDS if getattr(options, name) is not None]
    if of_folds and not is_reality_check(options.protocol) and not hasattr(options, "search"):
        return f"--{of_folds[0]} does nothing for --protocol {options.protocol}: it is for a reality check."
    if options.precision == "float16" and options.device != "cuda":
        return "--precision float16 needs --device cuda; bfloat16 works on a cpu, too."
    over_pairs = [name for name in options.losses if LOSSES[name].references == "batch"]
    if options.memory_bank and not over_pairs:
        return f"--memory-bank does nothing for {', '.join(options.losses)}: it is for losses over pairs."
    if options.memory_from_step and not options.memory_bank:
        return "--memory-from-step does nothing without a --memory-bank."
    from_start = options.memory_bank and not options.memory_from_step
    if over_pairs and not from_start and (options.batch_samples == 1 or options.batch_classes == 1):
        names = ", ".join(over_pairs)
        return f"--batch-classes and --batch-samples must be at least 2 for {names}, unless there is a --memory-bank from the start."
    if options.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: this PyTorch sees no CUDA device."
    return None


def _presets(path: str) -> dict[str, dict[str, Any]]:
    """What a file says of each loss, each of which can be made of it."""
    values = read_presets(path, LOSSES)
    presets = replaced(LOSSES, values)
    for name in values:
        try:
            one_of(tuple(MINERS))(presets[name].miner)  # of a file it may be anything
            Objective(name, num_classes=2, num_images=2, embedding_dim=2, presets=presets)
        except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
            raise ValueError(f"--presets {path}: {name}: {error}") from error
    return values


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
