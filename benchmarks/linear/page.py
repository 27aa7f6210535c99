"""The report of the benchmark of linear metrics: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command.files import write_whole
from benchmarks.linear.data import DATA
from benchmarks.linear.runs import View
from benchmarks.linear.systems import SYSTEMS
from benchmarks.linear.tables import html_tables
from benchmarks.report.page import page_of
from benchmarks.report.pictures import attempt, chart
from benchmarks.report.words import text_of
from metriczoo import plots

__all__ = ["write_page"]

_WHAT = """<p class="lead">A metric is a matrix L, learned from points with labels: do nearest neighbours after it tell the class?</p>"""
_HOW = """<p>Test points of the first split on their first two principal components, the largest classes in colour: before (Euclidean), and
after the map of each metric. A direction that the metric lengthens shows more.</p>"""


def write_page(path: Path, *, results: Mapping[str, Any], views: Sequence[View]) -> None:
    """Write the report: tables, and the test points in the plane before and after each map.

    A picture that cannot be drawn is replaced by the reason.

    Args:
        path: the file. It is replaced as a whole or, where writing fails, not at all.
        results: what `results.json` holds.
        views: what is drawn.

    Raises:
        OSError: if the file cannot be written.
    """
    body = [_header(results), html_tables(results["records"]), f'<section id="maps"><h2>Before and after</h2>{_HOW}']
    for data in dict.fromkeys(view.data for view in views):
        body.append(f"<h3>{html.escape(DATA[data].title)}</h3>")
        body += [_map(view) for view in views if view.data == data]
    body.append("</section>")
    write_whole(path, page_of("Linear metrics: metriczoo benchmark", "\n".join(body)))


def _header(results: Mapping[str, Any]) -> str:
    first = results["records"][0]
    facts = {"settings": results["settings"], "versions": first["versions"], "threads": first["threads"]}
    items = "".join(f'<div class="wide"><dt>{name}</dt><dd>{html.escape(text_of(value))}</dd></div>' for name, value in facts.items())
    return f'<p class="kicker">metriczoo benchmark</p><h1>Linear metrics</h1>{_WHAT}<dl class="facts">{items}</dl>'


def _map(view: View) -> str:
    title = SYSTEMS[view.system].title
    draw = partial(plots.embedding_map, view.points, view.labels)
    drawn = attempt("map", lambda: chart(draw, f"Test points of {DATA[view.data].title} after the map of {title}", width=560))
    return f"<h4>{html.escape(title)}</h4>{drawn}"
