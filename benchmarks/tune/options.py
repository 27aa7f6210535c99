"""The command line of `python -m benchmarks.tune`: that of the retrieval benchmark, and what is its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.command.arguments import Parser, any_of, count, one_of
from benchmarks.retrieval import options as retrieval
from benchmarks.tune.trial import METRICS

__all__ = ["parse", "settings_of"]

_DESCRIPTION = """
Search the hyper-parameters of losses, with learning rates, by cross-validation within the training classes: each trial trains on the
classes of all folds but one and is scored on the classes of that one, in turn. Test classes are not even read.
"""
_EPILOG = """
The first trial is the preset as it stands. Each training is written to results.json when it ends, the best values of each loss to
presets.json, which --presets of the other benchmarks takes. A search that was interrupted goes on with --resume, and ends with the values
it would have had. Without --output, results go to a new folder runs/<dataset>-001, -002 and so on.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""

    def extend(parser: Parser) -> None:
        parser.prog, parser.description, parser.epilog = "python -m benchmarks.tune", _DESCRIPTION, _EPILOG
        for action in parser._actions:
            if action.dest == "protocol":
                action.type, action.help = one_of(("finetune", "frozen")), "finetune or frozen (default: %(default)s)"
            elif action.dest == "losses":
                action.default, action.help = ["circle"], "any that `python -m benchmarks.presets` lists (default: circle)"
            elif action.dest == "seeds":
                action.help = "seeds that each trial is trained with (default: %(default)s)"
            elif action.dest == "trials":
                action.default, action.help, action.type = 10, "trials of each loss (default: %(default)s)", count()
            elif action.dest == "patience":
                action.help = argparse.SUPPRESS
            elif action.dest == "epochs":
                action.help = "default: 5 for glyphs, 16 for omniglot, 10 for others, and if frozen"
            elif action.dest == "folds":
                action.help = "parts of the training classes, each of which is held out once (default: 4)"
        add = parser.add_argument_group("search").add_argument
        add("--metric", default="map@r", type=one_of(METRICS), metavar="NAME", help=f"{any_of(METRICS)}, their mean (default: %(default)s)")
        add(
            "--search",
            default="random",
            type=one_of(("random", "tpe")),
            metavar="NAME",
            help="random, or tpe: tree-structured Parzen estimators of optuna, which `pip install optuna` brings (default: %(default)s)",
        )
        add("--search-seed", default=0, type=count(low=0), metavar="N", help="seed of the search (default: %(default)s)")
        add(
            "--also-root",
            dest="also_roots",
            default=[],
            action="append",
            metavar="DIR",
            help="files of a further data set of the same kind, for values that are good on both",
        )
        add("--jobs", default=1, type=count(), metavar="N", help="trainings at a time, a process each (default: %(default)s)")

    return retrieval.parse(arguments, extend)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    return {name: value for name, value in retrieval.settings_of(options).items() if name != "jobs"}
