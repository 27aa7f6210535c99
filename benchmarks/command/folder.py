"""The folder of a benchmark: `results.json`, which always holds what is finished, and the states of its runs."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.command.files import write_whole

__all__ = ["Folder", "open_folder"]

_RESULTS = "results.json"
_RUNS = "runs"  # where folders are made that nobody named


class Folder:
    """A folder with results. Every file in it is replaced as a whole or not at all, so that it can be read whenever the benchmark dies.

    Args:
        path: the folder, which exists.
        results: what `results.json` is to hold.
        key: names of the parts of a record that no two have alike.

    Attributes:
        results: what `results.json` holds: "dataset", "settings" and "records".
    """

    def __init__(self, path: Path, results: dict[str, Any], key: Sequence[str] = ("loss", "seed")) -> None:
        self.path, self.results, self.key = path, results, tuple(key)

    def has(self, *key: Any) -> bool:
        """Whether there is a record of a run: by default of a loss and a seed."""
        return any(tuple(record[name] for name in self.key) == key for record in self.results["records"])

    def add(self, record: dict[str, Any]) -> None:
        """Add a record to `results.json`, unless it is there."""
        if not self.has(*(record[name] for name in self.key)):
            self.results["records"].append(record)
            self.write()

    def write(self) -> None:
        """Write `results.json`."""
        text = json.dumps(self.results, indent=2, allow_nan=False) + "\n"
        self._write(_RESULTS, text)

    def write_text(self, name: str, text: str) -> None:
        """Write the text file called `name`."""
        self._write(name, text)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep the state of the run called `name`."""
        content = io.BytesIO()  # written by ourselves, for a full disk is an OSError then
        torch.save(dict(state), content)
        self._write(f"{name}.pt", content.getbuffer())

    def load(self, name: str) -> dict[str, Any] | None:
        """The state of the run called `name`, on the host, if there is one."""
        path = self.path / f"{name}.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is not a readable checkpoint; remove it to make this run anew.") from error
        return state

    def _write(self, name: str, content: str | memoryview) -> None:
        write_whole(self.path / name, content, place=f"the output folder {self.path}")


def open_folder(
    output: str | None,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    key: Sequence[str] = ("loss", "seed"),
    before: Mapping[str, Any] | None = None,
    needed: Sequence[str] = (),
    growing: Sequence[str] = (),
) -> Folder:
    """The folder to write to, made if need be.

    Args:
        output: its path. Default: a new one in `runs`, or with `resume` the latest one there with the same settings, if any.
        settings: what the numbers depend on.
        resume: whether it may hold results of the same settings.
        key: as of `Folder`.
        before: settings that older folders do not hold, and what they were then.
        needed: names that a record has. An older one without them is left out, for its run to be evaluated anew.
        growing: settings that only say which runs there are, lists or numbers. There may be more of them than there were.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: it holds results and `resume` is false; or results of other settings, or something else under their name.
    """
    settings = json.loads(json.dumps(settings))
    path = Path(output or _RUNS)
    try:
        if output is None:
            path = (_latest(path, settings, before or {}) if resume else None) or _new_folder(path, settings["dataset"])
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    folder = Folder(path, {"dataset": settings["dataset"], "settings": settings, "records": []}, key)
    found = _read(path / _RESULTS) if (path / _RESULTS).exists() else None
    if found is not None and not _is_blank(path, found):
        if not resume:
            raise ValueError(f"{path} holds results already: pass --resume to go on with them, or another --output.")
        found["settings"] = {**(before or {}), **found["settings"]}
        found["records"] = [record for record in found["records"] if record.keys() >= set(needed)]
        different = sorted(key for key in {*settings, *found["settings"]} if settings.get(key) != found["settings"].get(key))
        different = [key for key in different if not (key in growing and _is_more(settings.get(key), found["settings"].get(key)))]
        if different:
            was = ", ".join(f"{key} was {found['settings'].get(key)!r} and is {settings.get(key)!r}" for key in different)
            raise ValueError(f"{path} holds results of other settings: {was}.")
        folder.results = found | {"settings": settings}
    folder.write()
    return folder


def _is_more(now: Any, before: Any) -> bool:
    """Whether a setting asks for all the runs that it asked for before, and for more."""
    return set(now) >= set(before) if isinstance(now, list) else (now or 0) >= (before or 0)


def _is_blank(path: Path, results: Mapping[str, Any]) -> bool:
    """Whether a run that failed before it had anything to keep left the folder: it may begin anew with any settings."""
    return not results["records"] and all(found.name in (_RESULTS, f".{_RESULTS}.part") for found in path.iterdir())


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(f"Cannot write to the output folder {path}: {error.strerror or error}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(results["settings"], dict) and all({"loss", "seed"} <= record.keys() for record in results["records"])):
            raise ValueError("no settings")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold results of this benchmark: choose another --output.") from error
    return dict(results)


def _numbered(parent: Path, dataset: str) -> dict[int, Path]:
    paths = {path.name.removeprefix(f"{dataset}-"): path for path in parent.glob(f"{dataset}-*")}
    return {int(number): path for number, path in paths.items() if number.isdecimal()}


def _latest(parent: Path, settings: Mapping[str, Any], before: Mapping[str, Any]) -> Path | None:
    for _, path in sorted(_numbered(parent, settings["dataset"]).items(), reverse=True):
        with contextlib.suppress(OSError, ValueError):  # of another kind
            if {**before, **_read(path / _RESULTS)["settings"]} == settings:
                return path
    return None


def _new_folder(parent: Path, dataset: str) -> Path:
    path = parent / f"{dataset}-{max(_numbered(parent, dataset), default=0) + 1:03}"
    try:
        path.mkdir(parents=True)
    except FileExistsError:  # made by another process a moment ago
        return _new_folder(parent, dataset)
    return path
