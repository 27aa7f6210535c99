"""Get data sets into place: `python -m benchmarks.data --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.command.arguments import Parser, any_of, count, exit_status, one_of
from benchmarks.data.catalogue import CATALOGUE, Entry, Part
from benchmarks.data.check import Findings, broken_images, check
from benchmarks.data.unpack import unpack
from benchmarks.report.words import counted
from benchmarks.retrieval.options import data_options

__all__ = ["main"]

_SHOWN = 20  # missing files that are named


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for a data set with problems, 2 for anything else that fails, 130 if interrupted."""
    options = _parse(arguments)
    console = Console(soft_wrap=True, highlight=False) if sys.stdout.isatty() else Console(width=150, soft_wrap=True, highlight=False)
    command = {"list": _list, "check": _check, "unpack": _unpack}[options.command]
    return exit_status(lambda: command(options, console), interrupted="nothing was left half done")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    prog, about = "python -m benchmarks.data", "Data sets: what there is, whether it is whole, unpacking. No downloads."
    parser = Parser(prog=prog, usage="%(prog)s COMMAND [OPTIONS]", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser, prog=prog)
    commands.add_parser("list", help="all data sets: page, size, terms, files", description="All data sets that the readers know.")
    checks = commands.add_parser("check", help="what is there, what is missing, what is broken", description="Look a data set over.")
    checks.add_argument("--dataset", required=True, type=one_of(sorted(CATALOGUE)), metavar="NAME", help=any_of(sorted(CATALOGUE)))
    checks.add_argument("--root", metavar="DIR", help="where its files are")
    checks.add_argument("--train-classes", type=int, metavar="N", help="of a subset: the N lowest class ids train, the others test")
    checks.add_argument("--decode", action="store_true", help="read every image, and list the broken ones")
    checks.add_argument(
        "--workers", type=count(low=0), default=0, metavar="N", help="processes that read images (default: %(default)s, the main one)"
    )
    checks.add_argument(
        "--data-option",
        dest="data_options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further argument of the reader, such as label_column=breed of csv or evaluation=true of omniglot",
    )
    unpacks = commands.add_parser(
        "unpack",
        usage="%(prog)s ARCHIVE --to DIR [--force]",
        help="unpack a tar or zip archive safely",
        description="Unpack an archive to a folder, all of it or nothing. What would leave the folder, links and devices are refused.",
    )
    unpacks.add_argument("archive", type=Path, metavar="ARCHIVE", help="tar, tar.gz, tgz, tar.bz2, tar.xz or zip")
    unpacks.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for the files; what is there already stays")
    unpacks.add_argument("--force", action="store_true", help="replace files that are there already")
    options = parser.parse_args(arguments)
    if options.command == "check" and options.root is None and options.dataset != "glyphs":
        parser.error("--root: expected the folder of the data set.")
    if options.command == "check":
        try:
            options.data_options = data_options(options.dataset, options.data_options)
        except ValueError as error:
            parser.error(str(error))
    return options


def _list(options: argparse.Namespace, console: Console) -> int:
    del options
    for name, entry in sorted(CATALOGUE.items()):
        console.print(f"[bold]{name}[/]  {entry.title}")
        for line in _description(entry):
            console.print(f"    {line}", markup=False)
    return 0


def _description(entry: Entry) -> list[str]:
    counts = [f"{split} {images:,} images, {classes:,} classes" for split, (images, classes) in entry.counts.items()]
    files = [f"{layout}: {', '.join(_part(part) for part in parts)}" for layout, parts in entry.layouts.items()]
    lines = {
        "page": [entry.page],
        "size": [entry.size],
        "terms": [entry.terms],
        "splits": ["; ".join(counts)],
        "files": files,
        "note": [entry.note],
    }
    return [f"{key + ':':7} {text}" for key, texts in lines.items() for text in texts if text]


def _part(part: Part) -> str:
    return " or ".join(part.names) + (f" (for {part.optional_for} only)" if part.optional_for else "")


def _check(options: argparse.Namespace, console: Console) -> int:
    further: dict[str, Any] = {**options.data_options}
    if options.train_classes is not None:
        further["train_classes"] = options.train_classes
    findings = check(options.dataset, options.root, further)
    _show(options.dataset, findings, console)
    problems = list(findings.problems)
    if options.decode and options.dataset == "features":
        console.print("There is nothing to decode: these are features.")
    elif options.decode and any(split.images > split.absent for split in findings.splits):
        with _progress(console, MofNCompleteColumn()) as progress:
            task = progress.add_task("Decoding", total=None)
            broken = broken_images(
                options.dataset, options.root, further, options.workers, lambda done, of: progress.update(task, completed=done, total=of)
            )
        problems += [f"broken: {line}" for line in broken]
        console.print(counted(len(broken), "broken image") if broken else "Every image that is there can be read.")
    for problem in problems:
        console.print(f"problem: {problem}", markup=False, style="red")
    absent = [" or ".join(part.names) for part, found in findings.parts if found is None and not part.optional_for]
    if not problems:
        console.print(f"Readable, but without {', '.join(absent)}." if absent else "All is well.", markup=False)
    return 1 if problems else 0


def _show(name: str, findings: Findings, console: Console) -> None:
    entry = CATALOGUE[name]
    console.print(f"{entry.title}{f' in {findings.folder}, layout {findings.layout!r}' if findings.folder else ''}", markup=False)
    for part, found in findings.parts:
        console.print(f"  {'there  ' if found else 'missing'}  {found or _part(part)}", markup=False)
    if findings.splits:
        console.print(_table(findings, "Rows" if name == "features" else "Images"))
    for path in findings.absent[:_SHOWN]:
        console.print(f"  missing  {path}", markup=False)
    if len(findings.absent) > _SHOWN:
        console.print(f"  missing  and {len(findings.absent) - _SHOWN:,} more")
    if findings.whole:
        console.print("These are all official images.")
    elif any(split.official for split in findings.splits):
        console.print("This is a part of the official images, or another set of them.")


def _table(findings: Findings, noun: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("Split")
    for title in (noun, "Official", "Classes", "Official", "Not there", "Classes of one image"):
        table.add_column(title, justify="right")
    for split in findings.splits:
        official = [f"{number:,}" for number in split.official] if split.official else ["", ""]
        numbers = (f"{split.images:,}", official[0], f"{split.classes:,}", official[1], f"{split.absent:,}", f"{split.singles:,}")
        table.add_row(split.split, *numbers)
    return table


def _unpack(options: argparse.Namespace, console: Console) -> int:
    size = options.archive.stat().st_size if options.archive.is_file() else None
    with _progress(console, DownloadColumn()) as progress:
        task = progress.add_task(f"Unpacking {options.archive.name}", total=size)
        files = unpack(options.archive, options.to, force=options.force, on_bytes=lambda place: progress.update(task, completed=place))
    console.print(f"{counted(files, 'file')} in {options.to}", markup=False)
    return 0


def _progress(console: Console, counter: ProgressColumn) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), counter, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)  # which would leave an empty line


if __name__ == "__main__":
    sys.exit(main())
