"""What records add up to: growth with the size, and ours beside each peer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.performance.work import OURS

__all__ = ["Comparison", "comparisons", "growth", "is_ours", "slope"]

Record = Mapping[str, Any]


def is_ours(library: str) -> bool:
    """Whether a library is this one, in whichever execution."""
    return library.partition("-")[0] == OURS


def slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The exponent of a power law through the points, by least squares in logarithms."""
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v > 0]
    if len({x for x, _ in points}) < 2:
        return None
    x0, y0 = (sum(part) / len(points) for part in zip(*points, strict=True))
    rise: float = sum((x - x0) * (y - y0) for x, y in points)
    run: float = sum((x - x0) ** 2 for x, _ in points)
    return rise / run


def growth(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Of each work by each library, the exponents by which time and memory grow with the size."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["work"], record["library"]), []).append(record)
    found = []
    for (work, library), group in groups.items():
        exponents = {}
        for name, key in (("time", "cpu_ms"), ("memory", "peak_mb")):
            known = [r for r in group if r[key] is not None]
            exponent = slope([r["size"] for r in known], [r[key] for r in known])
            exponents[name] = None if exponent is None else round(exponent, 2)
        if any(value is not None for value in exponents.values()):
            found.append({"work": work, "library": library, **exponents})
    return found


class Comparison(NamedTuple):
    """A peer beside us, at one size: how many times our time and our memory it takes; None where one is unknown."""

    work: str
    peer: str
    size: int
    time: float | None
    memory: float | None


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Every peer that has numbers, beside the execution of ours that users get."""
    ours = {(r["work"], r["size"]): r for r in records if r["library"] == OURS}
    found = []
    for record in records:
        own = ours.get((record["work"], record["size"]))
        if own is None or is_ours(record["library"]) or record["note"] is not None or own["note"] is not None:
            continue
        time, memory = (_times(record[key], own[key]) for key in ("cpu_ms", "peak_mb"))
        found.append(Comparison(record["work"], record["library"], record["size"], time, memory))
    return found


def _times(theirs: float | None, own: float | None) -> float | None:
    if theirs is None or own is None:
        return None
    return theirs / own if own > 0 else (math.inf if theirs > 0 else 1.0)
