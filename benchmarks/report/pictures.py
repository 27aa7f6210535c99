"""The pictures of a report: charts as SVG and images as base64, inside the page."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metriczoo import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Examples", "attempt", "chart"]

_EXAMPLES = 5  # right ones, and as many wrong ones
_NEIGHBOURS = 6  # the style sheet counts on it
_THUMBNAIL = 112  # pixels on the longer side, for 64 on the page
_INK = "#010203"  # what charts are drawn in before it becomes the colour of the text around them, light or dark
_STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK),
    "axes.facecolor": "none",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.15,
    "svg.fonttype": "none",
}


def attempt(what: str, draw: Callable[[], str]) -> str:
    """What `draw` returns, or why there is none."""
    try:
        return draw()
    except Exception as error:  # of whatever kind: the numbers of a long run must reach their reader without this picture
        return f'<p class="missing">No {html.escape(what)}: {html.escape(str(error) or type(error).__name__)}</p>'


def chart(draw: Callable[[], Figure], label: str, *, width: int, grid: bool = False) -> str:
    """The figure that `draw` returns as part of the page: its text is text and has the colour of the page. No two may have one `label`."""
    import matplotlib

    stream = io.StringIO()
    settings: Any = {**_STYLE, "axes.grid": grid, "svg.hashsalt": label}
    with matplotlib.rc_context(settings):
        draw().savefig(stream, format="svg", transparent=True, dpi=100, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r' id="[A-Za-z][\w.]*?_\d{1,4}"', "", svg)  # parts by number, which nothing refers to and every chart has
    opening = svg[: svg.index(">")]
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None
    start = f'<svg {box[0]} role="img" aria-label="{html.escape(label)}" style="max-width:{width}px"'
    return f'<figure class="chart">{start}{svg[len(opening) :]}</figure>'


@dataclass(eq=False)
class Examples:
    """Queries with their nearest neighbours."""

    images: Callable[[int], Image] | None
    labels: NDArray[Any]  # [n]
    class_names: Sequence[str] | None
    is_query: NDArray[np.bool_] | None = None  # [n], which of them ask for the others; None: each asks for all others
    encoded: dict[int, tuple[str, str]] = field(default_factory=dict)  # position -> address with the data, or why there is none

    def draw(self, embeddings: NDArray[Any], number: int = _EXAMPLES) -> str:
        """A group of queries whose nearest neighbour is right beside one of queries where it is wrong, so many of each."""
        found = plots.retrieval_examples(
            embeddings, self.labels, num_right=number, num_wrong=number, num_neighbours=_NEIGHBOURS, is_query=self.is_query
        )
        queries, neighbours = (t.tolist() for t in found)
        groups: dict[bool, list[str]] = {True: [], False: []}
        for query, others in zip(queries, neighbours, strict=True):
            groups[bool(self.labels[others[0]] == self.labels[query])].append(self._query(query, others))
        titles = {True: "Nearest neighbour right", False: "Nearest neighbour wrong"}
        none = "<p>None among the queries tried.</p>"
        parts = (f"<div><h4>{titles[right]}</h4>{''.join(rows) or none}</div>" for right, rows in groups.items())
        return f'<div class="pairs">{"".join(parts)}</div>'

    def of_class(self, position: int) -> str:
        """An image of a class, with its name; the name alone where there are no images."""
        name = html.escape(self._name(int(self.labels[position])))
        return f"<b>{name}</b>" if self.images is None else self._cell(position, "example")

    def _query(self, query: int, others: Sequence[int]) -> str:
        cells = [self._cell(query, "asked")]
        cells += [self._cell(other, "right" if self.labels[other] == self.labels[query] else "wrong") for other in others]
        return f'<div class="query">{"".join(cells)}</div>\n'

    def _cell(self, position: int, kind: str) -> str:
        name = html.escape(self._name(int(self.labels[position])))
        if position not in self.encoded:
            self.encoded[position] = self._encode(position)
        source, fault = self.encoded[position]
        picture = f'<img alt="{kind}" src="{source}">' if source else f'<div class="blank" role="img" aria-label="{kind}, {fault}">?</div>'
        return f'<figure class="{kind}" title="{name}{fault and f", {fault}"}">{picture}<figcaption>{name}</figcaption></figure>'

    def _name(self, label: int) -> str:
        names = self.class_names
        return names[label] if names is not None and 0 <= label < len(names) else f"class {label}"

    def _encode(self, position: int) -> tuple[str, str]:
        assert self.images is not None  # or no query would have been drawn
        try:
            return _address(self.images(position)), ""
        except Exception as error:  # a file that was moved or is broken costs one image, not the rest
            return "", html.escape(f"no image: {error}")


def _address(image: Image) -> str:
    """Photographs as JPEG, a fifth of the bytes; drawings in grey as PNG, which is exact."""
    grey = image.mode in ("1", "L")
    small = image.convert("L" if grey else "RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    options: dict[str, Any] = {"format": "PNG", "optimize": True} if grey else {"format": "JPEG", "quality": 80}
    small.save(stream, **options)
    return f"data:image/{'png' if grey else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
