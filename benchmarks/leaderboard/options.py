"""The command line of `python -m benchmarks.leaderboard`: that of the retrieval benchmark, and what is its own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from benchmarks.command.arguments import Parser, any_of, count, one_of
from benchmarks.retrieval import options as retrieval
from benchmarks.training.losses import DEFAULT_LOSSES, LOSSES

__all__ = ["parse", "settings_of"]

_PROTOCOLS = ("finetune", "frozen")
_QUICK_STEPS = 4
_DESCRIPTION = (
    "Train an encoder with every loss, in several processes, and rank them by how well they retrieve images of classes they never saw."
)
_EPILOG = """
Results are written to results.json after each run, of one loss with one seed, and to report.html in the end; without --output, to a
new folder runs/<dataset>-001, -002 and so on. Results are never overwritten: a folder that holds some is an error, unless --resume is
given, which makes the runs that are missing or failed there; it may ask for more losses and seeds than before. A run that was interrupted
goes on from its last whole epoch, and ends with the numbers it would have had, whatever --jobs is. A run that fails, or whose process
dies, is recorded with its error, and the others go on; the exit status is 1 then, 2 where options, data or folders are at fault, 130 after
an interruption.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""
    every = [*LOSSES]

    def extend(parser: Parser) -> None:
        parser.prog, parser.description, parser.epilog = "python -m benchmarks.leaderboard", _DESCRIPTION, _EPILOG
        for action in parser._actions:
            if action.dest == "losses":
                action.default, action.help = every, f"{any_of(LOSSES)} (default: all of them)"
            elif action.dest == "protocol":
                action.type = one_of(_PROTOCOLS)
                action.help = "finetune: train backbone and head on images; frozen: train a linear head on features (default: finetune)"
            elif action.dest in ("folds", "trials", "patience"):  # of a reality check
                action.help = argparse.SUPPRESS
            elif action.dest == "epochs":
                action.help = "default: 5 for glyphs, 16 for omniglot, 10 for others, and if frozen"
        add = parser.add_argument_group("leaderboard").add_argument
        add("--jobs", type=count(), metavar="N", help="runs at a time, a process each (default: processors, or 1 on cuda)")
        add("--threads", default=1, type=count(), metavar="N", help="of each process (default: %(default)s)")
        add("--peer", action="store_true", help="train with the losses of pytorch-metric-learning, too, where it has an equal of ours")
        add(
            "--peer-seeds",
            type=count(),
            metavar="N",
            help="seeds of the comparison with the other library alone, for more than --seeds of its losses (default: that of --seeds)",
        )
        add(
            "--quick",
            action="store_true",
            help=f"see whether everything works: {_QUICK_STEPS} steps each, and six losses unless --loss is given",
        )

    options = retrieval.parse(arguments, extend)
    if options.quick:
        options.max_steps = options.max_steps or _QUICK_STEPS
        options.losses = [*DEFAULT_LOSSES] if options.losses is every else options.losses
    options.losses = [name for name in LOSSES if name in options.losses]  # the order in which they are named means nothing
    options.jobs = options.jobs or (1 if options.device == "cuda" else _processors())
    return options


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    return {name: value for name, value in retrieval.settings_of(options).items() if name not in ("jobs", "quick")}
