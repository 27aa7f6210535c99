"""The command line of `python -m benchmarks.instance_discrimination`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.command.arguments import Parser, any_of, count, number, one_of, several_of
from benchmarks.instance_discrimination.data import dataset_names, defaults_of
from benchmarks.instance_discrimination.studies import STUDIES
from benchmarks.retrieval.options import data_options

__all__ = ["parse", "settings_of"]

_DESCRIPTION = """
Instance discrimination (Wu, Xiong, Yu, Lin. CVPR 2018): train an encoder without labels to tell every image from all others, by the
non-parametric softmax or by NCE on a memory bank, and see how well its features tell classes apart: by weighted nearest neighbours during
training, straight from the bank; by linear classifiers; after fine-tuning on a few labels; by retrieval of classes that no training saw.
"""
_EPILOG = """
Accuracies are of images held out: by the data set itself (cifar10, a folder with train and val), else a part of each class, always the
same. Results are written to results.json after each run, and to report.html in the end; without --output, to a new folder
runs/<dataset>-001, -002 and so on. Results are never overwritten: a folder that holds some is an error, unless --resume is given, which
makes the runs that are missing there. A run that was interrupted goes on from its last whole epoch, and ends with the numbers it would have
had. Without --output, --resume takes the latest folder of the same settings. With nothing to go on with, it starts anew.
"""
_DEFAULT_STUDIES = ["overview", "labels"]
_QUICK = {
    "epochs": 2,
    "batch_size": 32,
    "finetune_steps": 4,
    "noises": [1, 16],
    "proximals": [0.0, 1.0],
    "dimensions": [8, 16],
    "shares": [10.0, 50.0],
    "bank_rows": [1000, 4000],
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""
    parser = Parser(prog="python -m benchmarks.instance_discrimination", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    studies = parser.add_argument_group("what is run")
    about = "; ".join(f"{name}: {text}" for name, text in STUDIES.items())
    studies.add_argument(
        "--study",
        dest="studies",
        default=_DEFAULT_STUDIES,
        type=_studies,
        metavar="NAME[,NAME...]",
        help=f"{about}; all: all of these (default: {','.join(_DEFAULT_STUDIES)})",
    )
    add = studies.add_argument
    add("--seeds", default=1, type=count(), metavar="N", help="runs of each kind, with seeds 0 to N - 1 (default: %(default)s)")
    add("--quick", action="store_true", help="a few classes, steps and settings: to see that it works, not for numbers")
    add("--output", metavar="DIR", help="folder of the results")
    add("--resume", action="store_true", help="go on with an interrupted benchmark, see below")
    add("--device", default="cpu", type=one_of(("cpu", "cuda")), metavar="NAME", help="cpu or cuda (default: %(default)s)")
    add("--workers", default=0, type=count(low=0), metavar="N", help="processes that read images (default: 0, the main one does)")
    _add_data(parser)
    _add_training(parser)
    _add_evaluation(parser)
    options = parser.parse(arguments)
    return _completed(options, parser)


def _add_data(parser: Parser) -> None:
    add = parser.add_argument_group("images").add_argument
    known = dataset_names()
    add("--dataset", default="glyphs", type=one_of(known), metavar="NAME", help=f"{any_of(known)} (default: glyphs)")
    add("--root", metavar="DIR", help="where the files of the data set are; for cifar10, of its python or binary version")
    add("--data-option", dest="data_options", default=[], action="append", metavar="NAME=VALUE", help="a further argument of the data set")
    add(
        "--train-classes",
        type=count(),
        metavar="N",
        help="the N lowest class ids are known, the others unseen (default: official split; all are known of cifar10 and folder)",
    )
    add("--held-out", default=0.25, type=number(low=0, high=1, open_low=True, open_high=True), metavar="SHARE", help="default: 0.25")
    add("--validation", action="store_true", help="hold out training images in place of those, to choose settings with")
    add(
        "--on-bad-image",
        default="fail",
        type=one_of(("fail", "skip")),
        metavar="WHAT",
        help="fail at an image that cannot be decoded, or look for such images first and skip them (default: %(default)s)",
    )
    add("--image-size", type=count(), metavar="N", help="pixels per side (default: 28 for letters, 32 for cifar10, 224 for others)")


def _add_training(parser: Parser) -> None:
    add = parser.add_argument_group("training without labels").add_argument
    positive = number(low=0, open_low=True)
    add("--backbone", metavar="NAME", help="convnet (default for letters and cifar10), efficientnet_lite0 or a model of timm; no weights")
    add("--embedding-dim", default=128, type=count(), metavar="N", help="default: %(default)s")
    add("--num-noise", default=4096, type=count(), metavar="M", help="noise samples of NCE (default: %(default)s)")
    add("--temperature", type=positive, metavar="T", help="default: 0.15 for letters, 0.07 for others")
    add("--proximal", default=0.0, type=number(low=0), metavar="LAMBDA", help="weight of the proximal term (default: %(default)s)")
    add("--momentum", default=0.5, type=number(low=0, high=1, open_high=True), metavar="M", help="of the bank (default: %(default)s)")
    add("--bank-dtype", default="float32", type=one_of(("float32", "float16")), metavar="NAME", help="default: %(default)s")
    add(
        "--bank-start",
        default="encoder",
        type=one_of(("encoder", "random")),
        metavar="WHAT",
        help="rows of the bank at first: embeddings by the untrained encoder, or random as in the paper (default: %(default)s)",
    )
    add("--epochs", type=count(), metavar="N", help="default: 15 for letters, 100 for others")
    add("--batch-size", type=count(), metavar="N", help="default: 64 for letters, 128 for others")
    add(
        "--optimizer",
        default="adam",
        type=one_of(("adam", "sgd")),
        metavar="NAME",
        help="adam, or sgd with momentum 0.9 as in the paper (default: %(default)s)",
    )
    add("--rate", type=positive, metavar="R", help="learning rate at the start (default: 0.001 for adam, 0.03 for sgd as in the paper)")
    add(
        "--schedule",
        default="cosine",
        type=one_of(("cosine", "constant")),
        metavar="NAME",
        help="the rate falls to 0 along a cosine, or is constant as in most of the paper's training (default: %(default)s)",
    )


def _add_evaluation(parser: Parser) -> None:
    add = parser.add_argument_group("evaluation and studies").add_argument
    positive = number(low=0, open_low=True)
    add("--neighbours", default=200, type=count(), metavar="K", help="that vote (default: %(default)s)")
    add("--knn-temperature", default=0.07, type=positive, metavar="T", help="default: %(default)s")
    add("--finetune-steps", type=count(), metavar="N", help="of study labels (default: 200)")
    add("--finetune-rate", default=1e-3, type=positive, metavar="R", help="of study labels (default: %(default)s)")
    lists: dict[str, tuple[str, Callable[[str], Any], list[Any], str]] = {
        "--noises": ("noise", count(), [1, 10, 512, 4096], "numbers of noise samples"),
        "--proximals": ("proximal", number(low=0), [0.0, 1.0, 10.0, 30.0], "weights of the proximal term"),
        "--dimensions": ("dimension", count(), [32, 64, 128, 256], "sizes of the embedding"),
        "--shares": ("labels", number(low=0, high=100, open_low=True), [1.0, 2.0, 4.0, 10.0, 20.0], "percents of the labels"),
        "--bank-rows": ("bank", count(), [10_000, 100_000, 500_000, 1_280_000], "rows of the bank"),
    }
    for name, (study, kind, default, what) in lists.items():
        shown = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default)
        add(name, type=_several(kind), metavar="N[,N...]", help=f"{what}, of study {study} (default: {shown})")
    parser.set_defaults(lists={name[2:].replace("-", "_"): values for name, (_, _, values, _) in lists.items()})


def _completed(options: argparse.Namespace, parser: Parser) -> argparse.Namespace:
    """Defaults that depend on other options."""
    defaults = defaults_of(options.dataset)
    full = {**options.lists, "finetune_steps": 200, "epochs": defaults.epochs, "batch_size": defaults.batch_size}
    full |= {"temperature": defaults.temperature, "backbone": defaults.backbone, "image_size": defaults.side}
    full |= {"rate": {"adam": 1e-3, "sgd": 0.03}[options.optimizer]}
    del options.lists
    for name, value in {**full, **(_QUICK if options.quick else {})}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        options.data_options = {} if options.dataset == "cifar10" else data_options(options.dataset, options.data_options)
    except ValueError as error:
        parser.error(str(error))
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this PyTorch sees no CUDA device.")
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    return {"benchmark": "instance_discrimination"} | {k: v for k, v in vars(options).items() if k not in ("output", "resume", "workers")}


def _studies(text: str) -> list[str]:
    return [*STUDIES] if text == "all" else several_of(STUDIES, "study")(text)


def _several(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def convert(text: str) -> list[Any]:
        values = [kind(part.strip()) for part in text.split(",")]
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"expected each number once, but got {text!r}.")
        return values

    return convert
