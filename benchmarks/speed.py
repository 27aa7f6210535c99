"""Time and memory of losses, miners and metrics, beside other libraries: `python -m benchmarks.speed --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.performance import command

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite. Returns the exit status."""
    return command.main("speed", arguments)


if __name__ == "__main__":
    sys.exit(main())
