"""Put the losses of a library through the conformance kit: `python -m benchmarks.conformance --help`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import metriczoo
from benchmarks.command.arguments import exit_status
from benchmarks.command.files import write_whole
from benchmarks.conformance.libraries import LIBRARIES
from metriczoo.testing import LOSS_CHECKS, Subject
from metriczoo.testing._checks import Check, failures

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kit. Returns the exit status: 0 where every check holds, 1 where one fails, 2 where options are at fault."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: _check(options), interrupted="nothing is kept")


def _check(options: argparse.Namespace) -> int:
    subjects = _chosen(LIBRARIES[options.library](), options.loss)
    console = Console()
    outcome = _run(subjects, console)
    console.print(_table(options.library, outcome))
    for name, faults in outcome.items() if options.details else ():
        for check, message in faults.items():
            if message is not None:
                console.print(f"[bold]{name}[/] {check}: {' '.join(message.split())[:400]}", highlight=False, soft_wrap=True)
    if options.output:
        record = {"library": options.library, "version": _version(options.library), "torch": torch.__version__, "losses": outcome}
        write_whole(Path(options.output), json.dumps(record, indent=1) + "\n")
    return int(any(message is not None for faults in outcome.values() for message in faults.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__.split(":")[0], allow_abbrev=False)
    parser.add_argument("--library", choices=sorted(LIBRARIES), default="metriczoo", help="(default: metriczoo)")
    parser.add_argument("--loss", metavar="NAME[,NAME...]", help="only these (default: all of the library)")
    parser.add_argument("--details", action="store_true", help="how each check failed")
    parser.add_argument("--output", metavar="FILE", help="write the outcome of every check as JSON")
    return parser


def _chosen(subjects: list[Subject], names: str | None) -> list[Subject]:
    if names is None:
        return subjects
    known = {subject.name: subject for subject in subjects}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"Expected `--loss` to name losses among {', '.join(sorted(known))}, but got {', '.join(unknown)}.")
    return [known[name] for name in wanted]


def _run(subjects: list[Subject], console: Console) -> dict[str, dict[str, str | None]]:
    """Of each loss, the checks that apply to it and how they fail."""
    outcome = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(subjects))
        for subject in subjects:
            progress.update(task, description=subject.name)
            outcome[subject.name] = _apart(subject, LOSS_CHECKS)
            progress.advance(task)
    return outcome


def _apart(subject: Subject, checks: Sequence[Check[Subject]]) -> dict[str, str | None]:
    """The outcome of the checks, each in a process that may die of it."""
    outcome: dict[str, str | None] = {}
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    left = list(checks)
    while left:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(there, subject, left))
        process.start()
        there.close()
        done = 0
        with contextlib.suppress(EOFError):
            while done < len(left):
                outcome.update(here.recv())
                done += 1
        process.join()
        if done < len(left):
            outcome[left[done].name] = f"the process died with exit code {process.exitcode}"
        left = left[done + 1 :]
    return outcome


def _work(connection: Connection, subject: Subject, checks: Sequence[Check[Subject]]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for check in checks:
        connection.send(failures(subject, [check]))


def _version(library: str) -> str:
    return metriczoo.__version__ if library == "metriczoo" else importlib.metadata.version(library)


def _table(library: str, outcome: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=f"{library} {_version(library)}")
    for column in ("loss", "passed", "failed checks"):
        table.add_column(column, justify="right" if column == "passed" else "left")
    for name, faults in outcome.items():
        failed = [check.removeprefix("check_") for check, message in faults.items() if message is not None]
        table.add_row(name, f"{len(faults) - len(failed)}/{len(faults)}", ", ".join(failed))
    return table


if __name__ == "__main__":
    sys.exit(main())
