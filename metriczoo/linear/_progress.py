"""A progress bar in plain text."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]

_WIDTH = 24


class Progress:
    """Shows on stderr how far an optimisation is, if `verbose`: a bar, the objective, and the seconds that have passed.

    On a terminal the line is rewritten in place, elsewhere (a file, a notebook) a new one is begun for every tenth of the whole.

    Args:
        title: what is running.
        total: steps at most.
        verbose: whether to show anything.

    Example:
        >>> progress = Progress("NCA", total=50, verbose=False)
        >>> progress.step(-12.5)
        >>> progress.close()
    """

    def __init__(self, title: str, total: int, verbose: bool | int) -> None:
        self.title, self.total, self.verbose = title, max(total, 1), bool(verbose)
        self.done = 0
        self._start, self._terminal, self._shown = time.perf_counter(), sys.stderr.isatty(), 0

    def step(self, objective: float, note: str = "") -> None:
        """One more step is done, and the objective is now `objective`."""
        self.done += 1
        if not self.verbose:
            return
        tenth = 10 * self.done // self.total
        if self._terminal or self.done == 1 or tenth > self._shown:
            self._shown = tenth
            self._write(objective, note)

    def _write(self, objective: float, note: str) -> None:
        filled = min(_WIDTH, _WIDTH * self.done // self.total)
        bar = "#" * filled + "-" * (_WIDTH - filled)
        line = f"{self.title} [{bar}] {self.done}/{self.total}  objective {objective:.6g}  {time.perf_counter() - self._start:.1f} s{note}"
        print(f"\r\033[K{line}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self.verbose and self._terminal and self.done:
            print(file=sys.stderr)
