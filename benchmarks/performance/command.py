"""The command lines of `python -m benchmarks.speed` and `python -m benchmarks.memory`."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmarks.performance.measure import Case, Limits, imports, run
from benchmarks.performance.page import write_page
from benchmarks.performance.registry import FAMILIES, LIBRARIES, all_works, available, seconds_of, sizes_of
from benchmarks.performance.store import KEPT, Store, open_store, read
from benchmarks.performance.summary import is_ours, slope
from benchmarks.performance.tables import number, table, targets_table
from benchmarks.performance.targets import UNMEASURED, verdict
from benchmarks.performance.work import DIM, OURS, PER_CLASS, Work

__all__ = ["main"]

_DESCRIPTION = {
    "speed": "Measure time and memory of losses, miners and metrics, beside other libraries and the matrix products that it takes.",
    "memory": "Measure the peak memory of losses, miners and metrics, at larger sizes than `benchmarks.speed`, beside other libraries.",
}
_EPILOG = """
A full run takes about half an hour on one core of a quiet machine. Results are written after each case to <suite>.json, and in
the end to <suite>.html and a PNG for each plot; without --output, to a new folder runs/<suite>-001, -002 and so on. --resume goes on where
a run was interrupted, or its --minutes were over; without --output, in the latest folder. The results of the last full run are kept in
benchmarks/results.
"""
_COMPILED = ("CircleLoss", "MultiSimilarityLoss", "SupConLoss")  # others are where --library asks for it
_ATTEMPTS = 3  # of a case that seems worse than it was
_FAR = 8  # times as large is a size from whose growth that to larger ones is foreseen
_MANY = 10_000  # of classes or rows of a bank, up to which dense execution is measured unasked
_IMPORTS = 5  # fresh interpreters for each import that is timed


def main(suite: str, arguments: Sequence[str] | None = None) -> int:
    """Run a suite. Returns the exit status: 0, 1 where --check finds it worse, 2 where options are at fault, 130 if interrupted."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes of the cases
    options = _parse(suite, arguments)
    console = Console() if sys.stdout.isatty() else Console(width=150)  # a file has no width
    try:
        if options.profile is not None:
            return _profile(options, console)
        return _check(suite, options, console) if options.check else _suite(suite, options, console)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command with --resume goes on.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _parse(suite: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog=f"python -m benchmarks.{suite}", description=_DESCRIPTION[suite], epilog=_EPILOG, allow_abbrev=False)
    add = parser.add_argument
    several = "NAME[,NAME...]"
    add("--quick", action="store_true", help="a few works, so small that the numbers say nothing: shows in seconds that all is well")
    add("--family", type=_names, metavar=several, help=f"only of {', '.join(FAMILIES)}")
    add("--loss", type=_names, metavar=several, help="only these losses, miners or metrics, by class, or by the name in the table")
    add("--library", type=_names, metavar=several, help=f"only by {', '.join(LIBRARIES)}")
    add("--sizes", type=_sizes, metavar="N[,N...]", help="in place of those of each family")
    add("--output", metavar="DIR", help="folder of the results")
    add("--resume", action="store_true", help="keep the results that are there, and measure what is missing")
    add("--minutes", type=_positive, metavar="M", help="begin no case after so long")
    add("--seconds", type=_positive, default=60.0, metavar="S", help="one call may take so long (default: %(default)g)")
    add("--gigabytes", type=_positive, default=10.0, metavar="G", help="and so much memory (default: %(default)g)")
    add(
        "--check",
        action="store_true",
        help="compare with the results kept in benchmarks/results, or --kept; exit with 1 where ours are worse",
    )
    add("--kept", metavar="FILE", help=f"what --check compares with (default: benchmarks/results/{suite}.json)")
    add(
        "--tolerance",
        type=_positive,
        default=0.3,
        metavar="T",
        help="worse is: by more than this part (default: %(default)g, that is 30 %%)",
    )
    if suite == "speed":
        add("--profile", metavar="LOSS", help="show where the time of one loss, miner or metric goes, and measure nothing else")
    else:
        parser.set_defaults(profile=None)
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 16:
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 16, but got {text!r}.")
    return sizes


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, but got {text!r}.")
    return value


# ---- what to measure


def _chosen(options: argparse.Namespace) -> list[Work]:
    families = options.family or list(FAMILIES)
    _known("--family", families, FAMILIES)
    _known("--library", options.library or [], LIBRARIES)
    works = [work for work in all_works().values() if work.family in families]
    if options.loss is None:
        return works
    _known("--loss", options.loss, {word for work in works for word in (work.name, *_classes(work))})
    return [work for work in works if any(name == work.name or name in _classes(work) for name in options.loss)]


def _classes(work: Work) -> list[str]:
    """Words of a name by which it may be chosen."""
    words = work.name.split()
    return [words[0], words[2]] if words[1:2] == ["as"] else [words[0]]


def _known(option: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Expected `{option}` to name some of {', '.join(known)}, but got {name!r}.{hint}")


def _sample(works: Sequence[Work]) -> list[Work]:
    """Of each family, works enough for each of its libraries to have one."""
    seen: set[tuple[str, str]] = set()
    chosen = []
    for work in works:
        new = {(work.family, library) for library in work.makers} - seen
        chosen += [work] if new else []
        seen |= new
    return chosen


def _cases(suite: str, works: Sequence[Work], options: argparse.Namespace) -> Iterator[Case]:
    for work in _sample(works) if options.quick and options.loss is None else works:
        family = FAMILIES[work.family]
        sizes = options.sizes or (family.quick if options.quick else sizes_of(work, suite))
        for size in sizes:
            for library in work.makers:
                if not available(library) or (options.library is not None and library not in options.library):
                    continue
                if options.library is None and not _usual(suite, work, library, size, options):
                    continue
                yield Case(work.name, library, size)


def _usual(suite: str, work: Work, library: str, size: int, options: argparse.Namespace) -> bool:
    """Whether a run has this execution unasked: compiling takes long, and dense execution at large sizes says little that is new."""
    sizes = FAMILIES[work.family].sizes[suite]
    if library == f"{OURS}-compiled":
        return size == sizes[-1] and suite == "speed" and not options.quick and work.name in _COMPILED
    if options.quick or options.sizes is not None or library == OURS or not is_ours(library):
        return True
    return size <= sizes[-1] if library == f"{OURS}-faiss" else size < sizes[-1] and size <= _MANY


def _foreseen(case: Case, store: Store, limits: Limits) -> str | None:
    """Why a case need not be tried: it took too much when it was smaller, or took so long that it would now."""
    before = [r for r in store.records if (r["work"], r["library"]) == (case.work, case.library) and r["size"] < case.size]
    if not before:
        return None
    last = max(before, key=lambda r: r["size"])
    if last["note"] is not None:
        return str(last["note"]).partition(" at ")[0] + f" at {last['size']:,} already" if last["note"].startswith("exceeds") else None
    first = min(before, key=lambda r: r["size"])
    for key, unit, limit, name in (("cpu_ms", 1000, limits.seconds, "s"), ("peak_mb", 1024, limits.gigabytes, "GB")):
        if last[key] is not None and last[key] * (case.size / last["size"]) ** _power(first, last, key) > limit * unit:
            return f"exceeds {limit:g} {name}, judging by {last['size']:,}"
    return None


def _power(first: Mapping[str, Any], last: Mapping[str, Any], key: str) -> float:
    """By which a quantity grows at least: as it has grown, where sizes are far apart; between near ones, a library may change its way."""
    if last["size"] < _FAR * first["size"] or not first[key]:
        return 1.0
    return max(1.0, slope([first["size"], last["size"]], [first[key], last[key]]) or 1.0)


# ---- the suite


def _suite(suite: str, options: argparse.Namespace, console: Console) -> int:
    works = _chosen(options)
    limits = _limits(options)
    settings = {
        "quick": options.quick,
        "seconds": limits.seconds,
        "gigabytes": limits.gigabytes,
        "dim": DIM,
        "per_class": PER_CLASS,
        "threads": 1,
    }
    store = open_store(suite, options.output, settings, resume=options.resume)
    cases = list(_cases(suite, works, options))
    if not cases:
        raise ValueError("No case is left by these options, with the libraries that are installed.")
    missing = [name for name in LIBRARIES if not available(name)]
    console.print(f"{len(cases)} cases; results go to {store.path.parent}", highlight=False, soft_wrap=True)
    if missing:
        console.print(f"Not installed, and left out: {', '.join(missing)}.")
    end = time.monotonic() + 60 * (options.minutes or float("inf"))
    left = 0
    with _progress(console) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.work}, {case.size:,}, {case.library}")
            if store.of(case) is None:
                if time.monotonic() > end:
                    left += 1
                else:
                    _measure(suite, case, limits, store)
            progress.advance(task)
    if suite == "speed" and options.family is None and options.loss is None and store.results["imports"] is None:
        store.results["imports"] = imports(1 if options.quick else _IMPORTS)
        store.write()
    for family in dict.fromkeys(work.family for work in works):
        console.print(table(family, store.results))
    if not options.quick:
        console.print(targets_table([target for target in store.results["targets"] if target["measured"] != UNMEASURED]))
        console.print(verdict(store.results["targets"]), highlight=False)
    console.print(f"Report: {write_page(store.path.parent, store.results)}", soft_wrap=True)
    if left:
        console.print(f"The time is over with {left} cases left; --resume goes on with them.")
    return 0


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(seconds=options.seconds, gigabytes=options.gigabytes, repeat=0.02 if options.quick else Limits.repeat)


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True)


def _measure(suite: str, case: Case, limits: Limits, store: Store) -> dict[str, Any]:
    work = all_works()[case.work]
    limits = replace(limits, seconds=seconds_of(work, suite, case.size, limits.seconds))
    note = _foreseen(case, store, limits)
    result = run(case, limits, timed=suite == "speed") if note is None else {"note": note}
    return store.add(work.family, case, work.makers[case.library].expression, result)


# ---- the guard


def _check(suite: str, options: argparse.Namespace, console: Console) -> int:
    path = Path(options.kept) if options.kept else KEPT / f"{suite}.json"
    if not path.exists():
        raise ValueError(f"There are no kept results to compare with: {path} does not exist.")
    kept = {(r["work"], r["library"], r["size"]): r for r in read(path)["records"]}
    chosen = {work.name for work in _chosen(options)}
    libraries = options.library or [name for name in LIBRARIES if is_ours(name) and name != f"{OURS}-compiled"]
    wanted = [
        (Case(*key), record)
        for key, record in kept.items()
        if key[0] in chosen and key[1] in libraries and available(key[1]) and record["note"] is None
        if options.sizes is None or key[2] in options.sizes
    ]
    if not wanted:
        raise ValueError(f"{path} holds nothing that these options ask for.")
    end = time.monotonic() + 60 * (options.minutes or float("inf"))
    worse, done = [], 0
    with _progress(console) as progress:
        task = progress.add_task("", total=len(wanted))
        for case, record in wanted:
            progress.update(task, description=f"{case.work}, {case.size:,}, {case.library}")
            if time.monotonic() < end:
                complaint = _compare(suite, case, record, options)
                worse += [complaint] if complaint else []
                done += 1
            progress.advance(task)
    for complaint in worse:
        console.print(complaint, highlight=False, soft_wrap=True)
    console.print(f"{done} of {len(wanted)} cases compared, tolerance {options.tolerance:g}: {len(worse)} worse than kept.")
    return int(bool(worse))


def _compare(suite: str, case: Case, record: dict[str, Any], options: argparse.Namespace) -> str | None:
    """What is worse than it was. A machine that is busy is given further attempts; the best of each number counts."""
    best: dict[str, float] = {}
    complaints: list[str] = []
    for _ in range(_ATTEMPTS):
        limits = _limits(options)
        limits = replace(limits, seconds=seconds_of(all_works()[case.work], suite, case.size, limits.seconds))
        result = run(case, limits, timed=suite == "speed")
        if "note" in result or result["agrees"] is False:
            return f"{case.work}, {case.size:,}, {case.library}: {result.get('note', 'value or gradient is another')}"
        complaints = []
        for key, slack in (("ratio", 0.0), ("peak_mb", 2.0)):  # megabytes by which peaks differ from run to run
            if record[key] is None or result.get(key) is None:
                continue
            best[key] = min(best.get(key, float("inf")), result[key])
            if best[key] > record[key] * (1 + options.tolerance) + slack:
                complaints.append(f"{key} {number(best[key])}, was {number(record[key])}")
        if not complaints:
            return None
    return f"{case.work}, {case.size:,}, {case.library}: {'; '.join(complaints)}"


# ---- the profile


def _profile(options: argparse.Namespace, console: Console) -> int:
    """The operators that take the most time in a work, by each library asked for."""
    options.loss = _names(options.profile)
    torch.set_num_threads(1)
    for work in _chosen(options):
        for library in options.library or [OURS]:
            if library not in work.makers or not available(library):
                continue
            size = (options.sizes or [FAMILIES[work.family].sizes["speed"][1]])[-1]
            step = work.makers[library].make(size, torch.float32)
            step.run()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                step.run()
            console.print(f"[bold]{work.name}[/], {size:,}, {library}: {work.makers[library].expression}", highlight=False, soft_wrap=True)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))
    return 0
