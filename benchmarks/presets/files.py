"""Presets as JSON files: what a search writes, and `--presets` takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.command.arguments import hint
from benchmarks.presets.preset import KINDS, Preset, Source

__all__ = ["as_json", "fields_of", "read_presets", "replaced"]

_FORMAT = "metriczoo-presets-1"
_NUMBERS = ("rate", "proxy_rate")
_FIELDS = ("options", "miner", *_NUMBERS, "length", "source")
_OF_A_FILE = {"kind": "choice", "text": "a file"}


def as_json(presets: Mapping[str, Preset]) -> dict[str, Any]:
    """What a file of these presets holds."""
    return {"format": _FORMAT, "presets": {name: fields_of(preset) for name, preset in presets.items()}}


def fields_of(preset: Preset) -> dict[str, Any]:
    """What can be chosen of a preset, and where it is from, for JSON."""
    return {**{field: getattr(preset, field) for field in _FIELDS}, "options": dict(preset.options), "source": asdict(preset.source)}


def read_presets(path: str | Path, known: Mapping[str, Preset]) -> dict[str, dict[str, Any]]:
    """What a file says of each loss.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no file of presets, of losses in `known`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--presets: there is no file {path}.") from error
    except OSError as error:
        raise OSError(f"--presets {path}: this cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"--presets {path}: this is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("presets"), dict):
        raise ValueError(f"--presets {path}: expected a file that `python -m benchmarks.tune` wrote, with format {_FORMAT!r}.")
    for name, values in content["presets"].items():
        complaint = _complaint(name, values, known)
        if complaint:
            raise ValueError(f"--presets {path}: {complaint}")
    return content["presets"]  # type: ignore[no-any-return]


def _complaint(name: str, values: Any, known: Mapping[str, Preset]) -> str | None:
    if name not in known:
        return f"there is no loss {name!r}.{hint(name, known)}"
    if not isinstance(values, dict) or not isinstance(values.get("options", {}), dict):
        return f"expected values of {name} by name, but got {values!r}."
    unknown = [field for field in values if field not in _FIELDS]
    if unknown:
        return f"{name} has an unknown field {unknown[0]!r}.{hint(unknown[0], _FIELDS)}"
    wrong = [field for field in _NUMBERS if not _positive(values.get(field, 1.0))]
    if values.get("length") is not None and not _positive(values["length"]):
        wrong.append("length")
    if wrong:
        return f"expected {wrong[0]} of {name} to be a number above 0, but got {values[wrong[0]]!r}."
    source = values.get("source", _OF_A_FILE)
    known_parts = isinstance(source, dict) and "text" in source and source.keys() <= {field.name for field in fields(Source)}
    if not known_parts or source.get("kind") not in KINDS:
        return f"expected the source of {name} to have a text, and a kind in {KINDS}, but got {source!r}."
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def replaced(presets: Mapping[str, Preset], values: Mapping[str, Mapping[str, Any]] | None) -> Mapping[str, Preset]:
    """Presets, with the values of a file in place of theirs where it has some."""
    if not values:
        return presets
    made = {}
    for name, of_loss in values.items():
        chosen = {field: value for field, value in of_loss.items() if field != "source"}
        made[name] = replace(presets[name], **chosen, source=Source(**of_loss.get("source", _OF_A_FILE)))
    return {**presets, **made}
