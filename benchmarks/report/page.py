"""HTML files that need nothing beside them."""

from __future__ import annotations

import html
from datetime import datetime, timezone
from pathlib import Path

import metriczoo

__all__ = ["page_of"]

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
