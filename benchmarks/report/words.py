"""Numbers and values of JSON files in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["counted", "percent", "points", "text_of"]

_LONGEST_LIST = 12  # longer ones, such as curves, are no facts


def percent(value: float) -> str:
    """A part of 1 in percent."""
    return f"{_rounded(value):.1f}"


def points(value: float) -> str:
    """A difference of parts of 1 in percent, with its sign."""
    return f"{_rounded(value):+.1f}"


def _rounded(value: float) -> float:
    return round(100 * value, 1) + 0.0  # what rounds to -0 is 0


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """How many there are of a thing, whose plural has an s unless it is given."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def text_of(value: Any) -> str:
    """A value of a JSON file in words."""
    if isinstance(value, Mapping):
        return " · ".join(f"{str(key).replace('_', ' ')} {_text}" for key, part in value.items() if (_text := text_of(part)))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text_of, value)) if len(value) <= _LONGEST_LIST else ""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
