"""Files that are whole at any moment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: str | bytes | memoryview, *, place: str | None = None) -> None:
    """Replace a file as a whole or, where that fails, not at all.

    Args:
        path: of the file.
        content: of it. Names of files may hold what is no text: a question mark stands for it.
        place: what an error says that cannot be written to. Default: the file.

    Raises:
        OSError: it cannot be written: the disk is full, say.
    """
    unfinished = path.with_name(f".{path.name}.part")  # of one name: what a kill leaves is overwritten
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode("utf-8", errors="replace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise OSError(f"Cannot write to {place or path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
