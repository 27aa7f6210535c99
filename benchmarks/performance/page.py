"""What is shown of a suite: one HTML file that needs nothing beside it, and a PNG of each plot."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command.files import write_whole
from benchmarks.performance.registry import FAMILIES, LIBRARIES
from benchmarks.performance.summary import Comparison, comparisons, is_ours
from benchmarks.performance.tables import TARGET_HEADINGS, WORDS, headings, number, rows, target_rows
from benchmarks.performance.targets import verdict
from benchmarks.report.pictures import attempt, chart
from benchmarks.report.words import text_of
from metriczoo.plots._figure import MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot", "write_page"]

_COLUMNS = 4
_QUANTITIES = {"cpu_ms": ("time", "CPU time, ms"), "peak_mb": ("memory", "peak memory, MB")}
_SHOWN = {"speed": ("cpu_ms", "peak_mb"), "memory": ("peak_mb",)}  # what a suite measures with care
_MARKS = "osD^vPX*h"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>metriczoo {suite} benchmark</title>
<style>
{style}td.name, th.name {{ text-align: left; }}
td.words, th.words {{ text-align: left; white-space: normal; }}
tr.missed td:last-child {{ color: var(--wrong); font-weight: 600; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
_HOW = """<p>Each case ran in a process of its own on one thread, forward and backward (miners and metrics forward only), on
embeddings of dimension 128. CPU time is the least of several calls; a call of more than 1 s is the first and only one.
The ratio is to the matrix products that the work cannot do without, timed in the same process; the floor of a loss on
ranks has the comparisons of its definition besides. Memory is the peak of the resident set above what the process held
before the first call. Values and gradients were compared with ours in float64, on smaller data of the same kind; where
they differ there is no number. Plots have logarithmic axes.</p>"""


def write_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write `<suite>.html`, and `<suite>-<family>-time.png` and `-memory.png` of each family that has results."""
    suite = results["suite"]
    families = [name for name in FAMILIES if any(r["family"] == name for r in results["records"])]
    sections = [_section(folder, family, results) for family in families]
    links = "".join(f'<a href="#{name}">{html.escape(FAMILIES[name].title)}</a>' for name in families)
    targets = "" if results["settings"]["quick"] else _targets(results["targets"])
    links = ('<a href="#targets">Targets</a>' if targets else "") + links
    body = f"{_header(suite, results)}<nav>{links}</nav>{_HOW}{targets}{''.join(sections)}"
    style = (Path(__file__).resolve().parents[1] / "report" / "style.css").read_text(encoding="utf-8")
    path = folder / f"{suite}.html"
    write_whole(path, _PAGE.format(suite=suite, style=style, body=body))
    return path


def _header(suite: str, results: Mapping[str, Any]) -> str:
    facts = {name: text_of(results[name]) for name in ("machine", "versions", "settings")}
    items = "".join(f'<div class="wide"><dt>{name}</dt><dd>{html.escape(text)}</dd></div>' for name, text in facts.items())
    against = comparisons(results["records"])
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in (_verdict(against, _QUANTITIES[key][0]) for key in _SHOWN[suite]) if line)
    title = f"metriczoo: {'time and memory' if suite == 'speed' else 'memory'}"
    return f'<header><p class="kicker">metriczoo {suite} benchmark</p><h1>{title}</h1>{lines}<dl class="facts">{items}</dl></header>'


def _verdict(against: Sequence[Comparison], what: str) -> str:
    """How often peers take more than us, and where they take less."""
    known = [(c, value) for c in against if (value := getattr(c, what)) is not None]
    if not known:
        return ""
    lost = sorted((value, c) for c, value in known if value < 1)
    middle = sorted(value for _, value in known)[len(known) // 2]
    won = f"In {what}, peers take more than metriczoo in {len(known) - len(lost)} of {len(known)} cases"
    text = f"{won}; the median is {number(middle)} times as much."
    if lost:
        text += " They take less in: " + "; ".join(f"{c.work}, {c.peer}, {c.size:,} ({value:.2f})" for value, c in lost) + "."
    return text


def _targets(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """What was promised, met or not."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f'<{tag} class="words">{html.escape(text)}</{tag}>' for text in cells)

    lines = []
    for outcome, row in zip(outcomes, target_rows(outcomes), strict=True):
        kind = ' class="missed"' if outcome["met"] is False else ""
        lines.append(f"<tr{kind}>{line(row, 'td')}</tr>\n")
    table = f"<table><thead><tr>{line(TARGET_HEADINGS, 'th')}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    title = f"<h2>Targets</h2><p>{html.escape(verdict(outcomes))}</p>"
    return f'<section id="targets">{title}<div class="scroll">{table}</div></section>'


def _section(folder: Path, family: str, results: Mapping[str, Any]) -> str:
    pictures = []
    for key in _SHOWN[results["suite"]]:
        name, label = _QUANTITIES[key]
        if not any(r["family"] == family and r[key] is not None for r in results["records"]):
            continue
        draw = partial(plot, family, results, key)

        def save(draw: Any = draw, name: str = name) -> str:
            draw().savefig(folder / f"{results['suite']}-{family}-{name}.png", dpi=110)
            return chart(draw, f"{FAMILIES[family].title}: {name} by size", width=1100, grid=True)

        pictures.append(f"<h4>{label}</h4>{attempt(label, save)}")
    return f'<section id="{family}"><h2>{html.escape(FAMILIES[family].title)}</h2>{"".join(pictures)}{_table(family, results)}</section>'


def _table(family: str, results: Mapping[str, Any]) -> str:
    titles = headings(family, results["suite"])

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = (' class="name"' if title in WORDS else "" for title in titles)
        return "".join(f"<{tag}{kind}>{html.escape(text)}</{tag}>" for kind, text in zip(kinds, cells, strict=True))

    bodies = []
    for _, group in groupby(rows(family, results), key=lambda row: row[0]):
        lines = (f"<tr>{line(row, 'td')}</tr>" for row in group)
        bodies.append(f"<tbody>{''.join(lines)}</tbody>\n")
    head = f"<thead><tr>{line(titles, 'th')}</tr></thead>"
    table = f'<div class="scroll"><table>{head}{"".join(bodies)}</table></div>'
    return f"<details><summary>All numbers</summary>{table}</details>"


def plot(family: str, results: Mapping[str, Any], key: str) -> Figure:
    """A panel for each work, a line for each library: `key` by size, both axes logarithmic."""
    records = [r for r in results["records"] if r["family"] == family and r[key] is not None and r[key] > 0]
    works = list(dict.fromkeys(r["work"] for r in records))
    libraries = [name for name in LIBRARIES if any(r["library"] == name for r in records)]
    height = max(1, math.ceil(len(works) / _COLUMNS))
    figure = new_figure(11, 0.7 + 2.1 * height)
    handles: dict[str, Any] = {}
    for position, work in enumerate(works):
        axes = figure.add_subplot(height, _COLUMNS, position + 1)
        for library in libraries:
            of_library = sorted((r["size"], r[key]) for r in records if (r["work"], r["library"]) == (work, library))
            if of_library:
                (handles[library],) = axes.plot(*zip(*of_library, strict=True), **_style(library))
        axes.set(xscale="log", yscale="log")
        axes.set_title(work, fontsize=8, wrap=True)
        axes.tick_params(labelsize=7)
        _tick(axes, sorted({r["size"] for r in records if r["work"] == work}))
    figure.supxlabel(FAMILIES[family].size, fontsize=9)
    figure.supylabel(_QUANTITIES[key][1], fontsize=9)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _tick(axes: Axes, sizes: Sequence[int]) -> None:
    """Each size on the horizontal axis, powers of ten on the other, of which there is more than one."""
    from matplotlib.ticker import NullFormatter

    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    low, high = (math.log10(bound) for bound in axes.get_ylim())
    axes.set_ylim(10 ** math.floor(low), 10 ** max(math.ceil(high), math.floor(low) + 1))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _style(library: str) -> dict[str, Any]:
    number = list(LIBRARIES).index(library)
    if is_ours(library):
        return {"color": SERIES[0], "linestyle": ("-", "--", ":", "-.")[number], "marker": "o", "markersize": 4}
    others = (*SERIES[1:], MUTED)
    return {"color": others[(number - 4) % len(others)], "marker": _MARKS[number % len(_MARKS)], "markersize": 4}
