"""A plot of two metrics against each other, a link from each point to its loss."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Point", "scatter"]

_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 46
_LETTER, _LINE = 6.1, 12  # of a label, about
_TICKS = 6
# Where a label may stand, best first: away from its point, and which part of it is there.
_SIDES = (
    *((9, 4, "start"), (-9, 4, "end"), (0, -9, "middle"), (0, 18, "middle")),
    *((8, -7, "start"), (-8, -7, "end"), (8, 15, "start"), (-8, 15, "end")),
)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """What is drawn at one place.

    Attributes:
        name: beside it, if there is room.
        x: in percent; `y` likewise.
        spread: of x and of y, drawn as lines both ways; 0 for none.
        kind: "loss", "peer" or "baseline", which look different.
        target: where it leads, on the page; empty for nowhere.
        text: what the pointer and the keyboard tell of it.
    """

    name: str
    x: float
    y: float
    spread: tuple[float, float]
    kind: str
    target: str
    text: str


def scatter(points: Sequence[Point], xlabel: str, ylabel: str, title: str) -> str:
    """The plot as part of a page: labels where there is room for them, those of the first points first."""
    of_x = _Axis([p.x for p in points], [p.spread[0] for p in points], _LEFT, _WIDTH - _RIGHT)
    of_y = _Axis([p.y for p in points], [p.spread[1] for p in points], _HEIGHT - _BOTTOM, _TOP)
    places = [(of_x(p.x), of_y(p.y)) for p in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    marks, labels = [], []
    for point, (x, y) in zip(points, places, strict=True):
        marks.append(_mark(point, x, y, of_x, of_y))
        labels.append(_label(point.name, x, y, taken) if point.kind != "peer" else "")
    parts = "\n".join([*_grid(of_x, of_y, xlabel, ylabel), *reversed(marks), *filter(None, labels)])  # the first ones on top
    return (
        f'<figure class="chart scatter"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{html.escape(title)}" '
        f'style="max-width:{_WIDTH}px">{parts}</svg></figure>'
    )


class _Axis:
    """From values to places along an axis."""

    def __init__(self, values: Iterable[float], spreads: Iterable[float], start: float, end: float) -> None:
        pairs = list(zip(values, spreads, strict=True))
        low, high = min(value - spread for value, spread in pairs), max(value + spread for value, spread in pairs)
        margin = 0.05 * (high - low) or 1.0
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end
        step = 10 ** math.floor(math.log10((self.high - self.low) / _TICKS))
        step = next(step * factor for factor in (1, 2, 5, 10, 20) if (self.high - self.low) / (step * factor) <= _TICKS)
        self.ticks = [step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _grid(of_x: _Axis, of_y: _Axis, xlabel: str, ylabel: str) -> Iterable[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in of_x.ticks:
        x = f"{of_x(tick):.1f}"
        yield f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>'
        yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
    for tick in of_y.ticks:
        y = of_y(tick)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(xlabel)}</text>'
    middle = (_TOP + bottom) / 2
    yield f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{html.escape(ylabel)}</text>'


def _mark(point: Point, x: float, y: float, of_x: _Axis, of_y: _Axis) -> str:
    lines = ""
    if any(point.spread):
        (left, right), (low, high) = (
            (axis(value - spread), axis(value + spread))
            for axis, value, spread in ((of_x, point.x, point.spread[0]), (of_y, point.y, point.spread[1]))
        )
        lines = f'<path d="M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}"/>'
    shape = f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    shape = shape if point.kind == "baseline" else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    text = html.escape(point.text)
    mark = f"<title>{text}</title>{lines}{shape}"
    if not point.target:
        return f'<g class="{point.kind}" role="img" aria-label="{text}">{mark}</g>'
    return f'<a class="{point.kind}" href="#{point.target}" aria-label="{text}">{mark}</a>'


def _label(name: str, x: float, y: float, taken: list[Box]) -> str:
    width = _LETTER * len(name)
    for dx, dy, anchor in _SIDES:
        left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        box = (left, y + dy - _LINE + 2, left + width, y + dy + 2)
        inside = box[0] >= _LEFT and box[2] <= _WIDTH - 2 and box[1] >= 0 and box[3] <= _HEIGHT - _BOTTOM
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            return f'<text class="label" x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">{html.escape(name)}</text>'
    return ""
