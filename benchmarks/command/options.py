"""Options that several benchmarks have: which data, where to run, where results go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.command.arguments import any_of, count, one_of
from metriczoo.data import DATASETS

__all__ = ["add_bad_image", "add_dataset", "add_machine", "add_output"]

Add = Callable[..., Any]  # what adds an option to a group


def add_dataset(add: Add) -> None:
    """Add what names a data set."""
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


def add_bad_image(add: Add) -> None:
    """Add what happens to images that cannot be decoded."""
    add(
        "--on-bad-image",
        default="fail",
        type=one_of(("fail", "skip")),
        metavar="WHAT",
        help="fail at an image that cannot be decoded, or look for such images first and skip them, which reads all twice "
        "(default: %(default)s)",
    )


def add_output(add: Add) -> None:
    """Add where results go."""
    add("--output", metavar="DIR", help="folder of the results")
    add("--resume", action="store_true", help="go on with an interrupted benchmark, see below")


def add_machine(add: Add) -> None:
    """Add what computes."""
    add("--device", default="cpu", type=one_of(("cpu", "cuda")), metavar="NAME", help="cpu or cuda (default: %(default)s)")
    add("--workers", default=0, type=count(low=0), metavar="N", help="processes that read images (default: %(default)s, the main one does)")
