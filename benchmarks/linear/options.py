"""The command line of `python -m benchmarks.linear`."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from typing import Any

from benchmarks.command.arguments import Parser, any_of, count, one_of, several_of
from benchmarks.linear.data import DATA, EMBEDDED
from benchmarks.linear.systems import SYSTEMS

__all__ = ["PRESETS", "parse", "settings_of"]

PRESETS = {"lmnn-paper": {"datasets": ["iris", "wine", "letter", "isolet", "coil20", "mnist"], "neighbors": 3, "splits": 10}}
_DEFAULT_SYSTEMS = [name for name in SYSTEMS if name != "metric_learn_mmc"]  # which takes minutes on 60 points of 64 features
_DESCRIPTION = """
Learn linear metrics from 70 % of the points of each class, and compare how well nearest neighbours, and least energies, tell the classes of
the other 30 %, over several splits: Mahalanobis, MMC, LMNN and NCA beside the Euclidean metric and other libraries.
"""
_EPILOG = """
Features are scaled by what the training points are like: to variance 1 each where they have units of their own, by one factor elsewhere;
images and sounds are first reduced to principal components (mnist 164, isolet 172, coil20 100). All systems see the same numbers.
Another library that does not run, or not within --peer-seconds, has its error in the table. Where it has an LMNN, as far as that has got,
LMNN here is timed on the way to the same value of the same objective, by CPU seconds: ask for --threads 1. Differences of errors are told
split by split, with an interval, beside the tables. pylmnn 1.6.4, and LMNN of metric-learn 0.7.0,
need older packages than this program, in an environment of their own: with Python 3.9, "pip install numpy==1.22.4 scipy==1.7.3
scikit-learn==1.0.2 six matplotlib" and "pip install --no-deps pylmnn==1.6.4 metric-learn==0.7.0"; name its interpreter by --peer-python.
The package GPyOpt that pylmnn imports is not needed. Results are written to results.json after each run, and to report.html in the end;
without --output, to a new folder runs/linear-001, -002 and so on. They are never overwritten: a folder that holds some is an error, unless
--resume is given, which makes the runs that are missing.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line. A mistake ends the program with one line and status 2."""
    parser = Parser(prog="python -m benchmarks.linear", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    _add_comparison(parser.add_argument_group("comparison"))
    _add_running(parser.add_argument_group("running"))
    options = parser.parse(arguments)
    options.dataset = "linear"
    preset: dict[str, Any] = PRESETS.get(options.preset, {})
    options.datasets = options.datasets or preset.get("datasets") or list(EMBEDDED)
    options.neighbors = options.neighbors or preset.get("neighbors") or 3
    options.splits = options.splits or (1 if options.quick else preset.get("splits") or 3)
    if options.peer_python is not None and shutil.which(options.peer_python) is None:
        parser.error(f"--peer-python {options.peer_python}: there is no such program.")
    if options.threads is not None:
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads)))
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """All options that the numbers depend on."""
    left_out = ("output", "resume", "root", "peer_python")
    return {"benchmark": "linear", **{name: value for name, value in vars(options).items() if name not in left_out}}


def _add_comparison(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--preset",
        type=one_of(PRESETS),
        metavar="NAME",
        help="lmnn-paper: the data sets of the LMNN paper that are at hand, k = 3, 10 splits; other options go before it",
    )
    add(
        "--dataset",
        dest="datasets",
        type=several_of(DATA, "data set"),
        metavar="NAME[,NAME...]",
        help=f"{any_of(DATA)} (default: {','.join(EMBEDDED)}, which need no download)",
    )
    add("--root", metavar="DIR", help="where the files of the others are (default: METRICZOO_DATA, else ../shared/data)")
    add(
        "--system",
        dest="systems",
        default=_DEFAULT_SYSTEMS,
        type=several_of(SYSTEMS, "system"),
        metavar="NAME[,NAME...]",
        help=f"what is compared: {any_of(SYSTEMS)} (default: all but metric_learn_mmc)",
    )
    add("--neighbors", type=count(), metavar="K", help="neighbours that vote, and target neighbours (default: 3)")
    add("--splits", type=count(), metavar="N", help="runs of each system, on splits by seeds 0 to N - 1 (default: 3)")
    add("--peer-python", metavar="PROGRAM", help="the interpreter that runs pylmnn and metric-learn, see below (default: this one)")
    add("--peer-seconds", default=900, type=count(), metavar="N", help="after which one run of these is stopped (default: %(default)s)")


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--threads", type=count(), metavar="N", help="of all systems alike (default: as many as each library takes)")
    add("--output", metavar="DIR", help="folder of the results")
    add("--quick", action="store_true", help="up to 3 classes of 20 points of each data set and one split, to see that it runs")
    add("--resume", action="store_true", help="go on with an interrupted benchmark, see below")
