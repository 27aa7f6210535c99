"""HTML files that need nothing beside them."""

from __future__ import annotations

import html
import os
from datetime import datetime, timezone
from pathlib import Path

import metriczoo

__all__ = ["page_of", "write_whole"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
<footer>{footer}</footer>
</body>
</html>
"""


def page_of(title: str, body: str) -> str:
    """A page of a benchmark, with its style inside."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    footer = f"Written {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by metriczoo {metriczoo.__version__}."
    return _PAGE.format(title=html.escape(title), style=style, body=body, footer=footer)


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or, where that fails, not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="replace")  # names of files may hold what is no text
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
