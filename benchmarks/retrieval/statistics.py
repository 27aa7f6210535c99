"""What a report says about how sure its numbers are: losses against each other, and class by class."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.words import percent, points
from benchmarks.retrieval.rows import Row, heading

__all__ = ["classes", "comparison", "over_seeds"]

_LEVEL = 0.05


def comparison(results: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The section that compares every two rows of the table on the same queries; empty where nothing was compared."""
    tests = list(results.get("comparisons") or ())
    names = [row.name for row in rows]
    known = {test[side] for test in tests for side in ("first", "second")}
    names = [name for name in names if name in known]
    if len(names) < 2:
        return ""
    tables = [
        _matrix(metric, [test for test in tests if test["metric"] == metric], names) for metric in dict.fromkeys(t["metric"] for t in tests)
    ]
    return f"""<section id="comparison"><h2>Losses against each other</h2>{"".join(tables)}
<p class="note">Points that the loss of the line is ahead of the loss of the column, on the same queries, seeds averaged. Bold: a difference
that a sign-flip test by class finds at the 5 % level, corrected for the number of pairs (Holm). The interval and the p-value of each pair
show where the pointer rests, and are in results.json.</p></section>"""


def _matrix(metric: str, tests: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    by_pair = {(test["first"], test["second"]): (test, 1) for test in tests}
    by_pair |= {(test["second"], test["first"]): (test, -1) for test in tests}
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    lines = []
    for first in names:
        cells = "".join(_difference(*by_pair.get((first, second), (None, 0))) for second in names)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return f"""<h4>{html.escape(heading(metric))}</h4>
<div class="scroll"><table class="matrix"><thead><tr><th scope="col">minus</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"""


def _difference(test: Mapping[str, Any] | None, sign: int) -> str:
    if test is None or test["difference"] is None:
        return "<td>&ndash;</td>"
    text = points(sign * test["difference"])
    if test["p_holm"] is not None and test["p_holm"] <= _LEVEL:
        text = f"<b>{text}</b>"
    bounds = [sign * bound for bound in test["interval"] if bound is not None]
    about = f"95 % interval {points(min(bounds))} to {points(max(bounds))}, " if bounds else ""
    about += f"p {test['p_value']:.2g}, corrected {test['p_holm']:.2g}" if test["p_value"] is not None else ""
    return f'<td title="{html.escape(about)}">{text}</td>'


def over_seeds(results: Mapping[str, Any]) -> str:
    """A table of means over seeds with their intervals; empty where there are none."""
    known = [found for found in results.get("seed_intervals") or () if found["mean"] is not None]
    if not known:
        return ""
    by_loss: dict[str, list[Mapping[str, Any]]] = {}
    for found in known:
        by_loss.setdefault(found["loss"], []).append(found)
    head = "".join(f'<th scope="col">{html.escape(heading(found["metric"]))}</th>' for found in next(iter(by_loss.values())))
    lines = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(map(_bounds, of_loss))}</tr>' for name, of_loss in by_loss.items()
    )
    return f"""<section id="seeds"><h2>Models of a cross-validation</h2>
<div class="scroll"><table><thead><tr><th scope="col">Loss</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>
<p class="note">A loss by its name: its models one by one, in the mean. With a number: the embeddings of so many models side by side.
Means over {known[0]["seeds"]} seeds, with their 95 % intervals by Student's t where there are several.</p></section>"""


def _bounds(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    if low is None:
        return f"<td>{percent(found['mean'])}</td>"
    return f"<td>{percent(found['mean'])} ({percent(low)} to {percent(high)})</td>"


def classes(record: Mapping[str, Any]) -> str:
    """The best and the worst test classes of a run; empty where they are not known."""
    extremes = record.get("classes") or {}
    if not extremes.get("worst"):
        return ""
    metrics = [key for key in extremes["worst"][0] if key not in ("class", "queries")]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Class", "Queries", *map(heading, metrics)))
    parts = []
    for title in ("worst", "best"):
        lines = "\n".join(
            f'<tr><th scope="row">{html.escape(line["class"])}</th><td>{line["queries"]}</td>'
            + "".join(f"<td>{percent(line[key])}</td>" for key in metrics)
            + "</tr>"
            for line in extremes[title]
        )
        parts.append(
            f'<h4>The {title} classes</h4><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        )
    return f'{"".join(parts)}<p class="note">All classes are in classes.csv.</p>'
