"""The studies on the screen and on the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.command.files import write_whole
from benchmarks.instance_discrimination.tables import Plot, Section
from benchmarks.report.page import page_of
from benchmarks.report.pictures import attempt, chart
from benchmarks.report.words import text_of

__all__ = ["screen_table", "write_page"]

_WHAT = """<p class="lead">An encoder is trained without labels to tell each image from all others, which stand in a memory bank: what do
its features know of classes?</p>"""


def screen_table(section: Section) -> Table:
    """The table of a section for the terminal."""
    table = Table(
        title=section.title, title_justify="left", caption=section.note, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1)
    )
    for number, heading in enumerate(section.headings):
        table.add_column(heading, justify="left" if number < section.num_names else "right", no_wrap=number < section.num_names)
    for row in section.rows:
        table.add_row(*row)
    return table


def write_page(path: Path, results: Mapping[str, Any], sections: Sequence[Section]) -> None:
    """Write the report, one HTML file that needs nothing beside it. A picture that cannot be drawn is replaced by the reason.

    Args:
        path: the file. It is replaced as a whole or, where writing fails, not at all.
        results: what `results.json` holds.
        sections: what to show of it.

    Raises:
        OSError: if the file cannot be written.
    """
    links = "".join(f'<a href="#{_anchor(number)}">{html.escape(section.title)}</a>' for number, section in enumerate(sections))
    body = [_header(results), f"<nav>{links}</nav>", *(_section(number, section) for number, section in enumerate(sections))]
    write_whole(path, page_of(f"{results['dataset']}: instance discrimination, metriczoo benchmark", "\n".join(body)))


def _header(results: Mapping[str, Any]) -> str:
    first: Mapping[str, Any] = next(iter(results["records"]), {})
    settings = {key: value for key, value in results["settings"].items() if key not in ("benchmark", "dataset")}
    facts = {"images": first.get("split_sizes"), "settings": settings, "versions": first.get("versions"), "threads": first.get("threads")}
    items = "".join(
        f'<div class="wide"><dt>{name}</dt><dd>{html.escape(text)}</dd></div>' for name, value in facts.items() if (text := text_of(value))
    )
    kicker = '<p class="kicker">metriczoo instance discrimination benchmark</p>'
    return f'<header>{kicker}<h1>{html.escape(results["dataset"])}</h1>{_WHAT}<dl class="facts">{items}</dl></header>'


def _anchor(number: int) -> str:
    return f"section-{number}"


def _section(number: int, section: Section) -> str:
    head = "".join(f'<th scope="col"{_side(section, n)}>{html.escape(heading)}</th>' for n, heading in enumerate(section.headings))
    lines = "".join(f"<tr>{_cells(section, row)}</tr>\n" for row in section.rows)
    drawn = (f"<h4>{html.escape(plot.label)}</h4>{attempt(plot.label, lambda plot=plot: _drawn(plot))}" for plot in section.plots)  # type: ignore[misc]
    return f"""<section id="{_anchor(number)}"><h2>{html.escape(section.title)}</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>
<p class="note">{html.escape(section.note)}</p>
{"".join(drawn)}</section>"""


def _cells(section: Section, row: Sequence[str]) -> str:
    names = "".join(f'<th scope="row"{_side(section, n)}>{html.escape(text)}</th>' for n, text in enumerate(row[: section.num_names]))
    return names + "".join(f"<td>{html.escape(text)}</td>" for text in row[section.num_names :])


def _side(section: Section, column: int) -> str:
    """Names are words, which stand to the left."""
    return ' style="text-align: left"' if column < section.num_names else ""


def _drawn(plot: Plot) -> str:
    return chart(plot.draw, plot.label, width=plot.width, grid=True)
