"""The results of a suite: one JSON file, which always holds what is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.command.files import write_whole
from benchmarks.performance.machine import describe
from benchmarks.performance.measure import Case
from benchmarks.performance.summary import growth
from benchmarks.performance.targets import outcomes

__all__ = ["FIELDS", "KEPT", "Store", "open_store", "read"]

FORMAT = 1
KEPT = Path(__file__).resolve().parents[1] / "results"  # of full runs
FIELDS = (
    "family",
    "work",
    "library",
    "size",
    "expression",
    "cpu_ms",
    "wall_ms",
    "repeats",
    "products_ms",  # CPU time of the matrix products that the work cannot do without
    "ratio",  # of CPU times
    "floor_ms",  # of a loss on ranks: the products, and the comparisons of its definition
    "floor_ratio",
    "peak_mb",
    "value_difference",
    "gradient_difference",
    "agrees",
    "note",  # why there is no number
)
_NUMBERS = ("cpu_ms", "wall_ms", "repeats", "products_ms", "ratio", "floor_ms", "floor_ratio", "peak_mb")


class Store:
    """The file of a suite.

    Args:
        path: of the file.
        results: what it holds.
    """

    def __init__(self, path: Path, results: dict[str, Any]) -> None:
        self.path, self.results = path, results

    @property
    def records(self) -> list[dict[str, Any]]:
        """One for each case."""
        records: list[dict[str, Any]] = self.results["records"]
        return records

    def of(self, case: Case) -> dict[str, Any] | None:
        """The record of a case, if there is one."""
        wanted = (case.work, case.library, case.size)
        return next((r for r in self.records if (r["work"], r["library"], r["size"]) == wanted), None)

    def add(self, family: str, case: Case, expression: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Record what came of a case. Numbers of a library whose outcome is another are left out."""
        found = dict(result)
        if found.get("agrees") is False:
            gradient = found["gradient_difference"]
            by = f"{found['value_difference']:.0e}" + ("" if gradient is None else f", gradient by {gradient:.0e}")
            found |= dict.fromkeys(_NUMBERS) | {"note": f"another outcome: value differs by {by}"}
        known = {"family": family, "work": case.work, "library": case.library, "size": case.size, "expression": expression}
        if "note" in found:
            found |= dict.fromkeys(_NUMBERS)
        record = {name: {**known, **found}.get(name) for name in FIELDS}
        self.records.append({name: _rounded(value) for name, value in record.items()})
        self.write()
        return self.records[-1]

    def write(self) -> None:
        """Write the file."""
        self.results["growth"] = growth(self.records)
        self.results["targets"] = outcomes(self.results)
        write_whole(self.path, json.dumps(self.results, indent=1, allow_nan=False) + "\n")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def open_store(suite: str, output: str | None, settings: Mapping[str, Any], *, resume: bool) -> Store:
    """The results to add to.

    Args:
        suite: its name, and that of the file.
        output: the folder. Default: a new one in `runs`, or with `resume` the latest one there.
        settings: what the numbers depend on.
        resume: whether there may be results of the same settings.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: there are results and `resume` is false, or they are of other settings or another machine.
    """
    folder = _folder(suite, resume) if output is None else Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}.json"
    here = describe()
    if not path.exists():
        results = {
            "format": FORMAT,
            "suite": suite,
            **here,
            "settings": dict(settings),
            "imports": None,  # CPU time of `import torch` and of `import metriczoo.losses`
            "records": [],
            "growth": [],
            "targets": [],
        }
        return Store(path, results)
    if not resume:
        raise ValueError(f"{path} holds results already: pass --resume to go on with them, or another --output.")
    found = read(path)
    commits = [versions.pop("commit", "unknown") for versions in (found["versions"], here["versions"])]
    for what, now in (("settings", dict(settings)), ("machine", here["machine"]), ("versions", here["versions"])):
        if found[what] != now:
            raise ValueError(f"{path} holds results of other {what}: {found[what]}, and not {now}.")
    if commits[1] not in commits[0].split(", "):
        commits[0] += f", {commits[1]}"  # not all numbers are of one state of the checkout
    found["versions"]["commit"] = commits[0]
    return Store(path, found)


def _folder(suite: str, resume: bool) -> Path:
    parent = Path("runs")
    numbers = [int(p.name.rpartition("-")[2]) for p in parent.glob(f"{suite}-*") if p.name.rpartition("-")[2].isdecimal()]
    last = max(numbers, default=0)
    return parent / f"{suite}-{last if resume and last else last + 1:03}"


def read(path: Path) -> dict[str, Any]:
    """The results in a file.

    Raises:
        ValueError: it holds something else.
    """
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if results["format"] != FORMAT or any(set(record) != set(FIELDS) for record in results["records"]):
            raise ValueError("of another format")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold results of this suite ({error}).") from error
    return results
