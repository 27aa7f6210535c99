"""What the command lines of the benchmarks share: errors in one line, and types of options."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

__all__ = ["Parser", "any_of", "count", "exit_status", "hint", "number", "one_line", "one_of", "several_of"]


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line and status 2, and an unknown option with the nearest one."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"usage": "%(prog)s [OPTIONS]", **arguments})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Options from the command line."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            self.error(f"unknown argument {unknown[0]!r}.{hint(unknown[0].split('=')[0], known)}")
        return options


def count(*, low: int = 1) -> Callable[[str], int]:
    """A type of option: whole numbers from `low` on."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, but got {text!r}.")
        return value

    return convert


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A type of option: one of the names `known`."""

    def convert(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"expected {any_of(known)}, but got {text!r}.{hint(text, known)}")
        return text

    return convert


def any_of(names: Iterable[str]) -> str:
    """Names in words: `a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def hint(name: str, known: Iterable[str]) -> str:
    """The nearest of the names `known`, if one is near, as a question that follows a message."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def number(*, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False) -> Callable[[str], float]:
    """A type of option: numbers in an interval."""
    bottom, top = "above" if open_low else "of at least", "below" if open_high else "of at most"
    expected = f"a number {bottom} {low:g}" + ("" if high == math.inf else f" and {top} {high:g}")

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        inside = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
        if not inside or math.isinf(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}.")
        return value

    return convert


def several_of(known: Iterable[str], noun: str) -> Callable[[str], list[str]]:
    """A type of option: names out of `known`, each once, with commas between."""

    def convert(text: str) -> list[str]:
        names = [one_of(known)(name.strip()) for name in text.split(",")]
        if len(set(names)) < len(names):
            raise argparse.ArgumentTypeError(f"expected each {noun} once, but got {text!r}.")
        return names

    return convert


def one_line(error: Exception) -> str:
    """The message, and of an error in a process that reads images only its last line, below the trace of that process."""
    text = str(error)
    if "DataLoader worker" in text:
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def exit_status(run: Callable[[], int | None], *, interrupted: str = "the same command with --resume goes on") -> int:
    """Run a benchmark: what it returns, or 0; 2 where options, data or folders are at fault, 130 after an interruption."""
    try:
        return run() or 0
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Interrupted; {interrupted}.", file=sys.stderr)
        return 130
