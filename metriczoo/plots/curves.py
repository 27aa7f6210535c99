"""What is measured while training, by step or epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metriczoo._checks import check_count, check_flag, describe
from metriczoo.plots._figure import MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["training_curves"]

_STYLES = ("-", "--", ":")  # for the second and the third round of colours
_COLUMNS = 3  # panels side by side

Array = NDArray[np.float64]


def training_curves(
    curves: Mapping[str, Sequence[float] | Sequence[Sequence[float]]],
    *,
    xlabel: str = "epoch",
    ylabel: str = "recall@1",
    smooth: int = 1,
    separate: bool = False,
    baselines: Mapping[str, float] | None = None,
) -> Figure:
    """Curves by name, each the mean over runs with a band from the lowest to the highest run.

    The first value stands at 0. A value that is NaN or infinite leaves a gap. Runs may end at different places: the mean is over those
    that have a value.

    Args:
        curves: for each name the values of one run, or a sequence of such sequences, one per run. At least one name.
        xlabel: what is counted to the right.
        ylabel: what is measured.
        smooth: length of the running mean, at least 1. It is centred and shorter at both ends.
        separate: whether each name gets a panel with a scale of its own, as losses need; else all share one.
        baselines: values by name, drawn as horizontal lines in every panel.

    Returns:
        A figure. The lines of an axes carry the names as labels, in the order of `curves`, then of `baselines`.

    Raises:
        TypeError: if a curve does not hold numbers.
        ValueError: if there is no curve, or one has no run.

    Example:
        >>> figure = training_curves({"circle": [[0.3, 0.5], [0.3, 0.7]], "triplet": [0.3, 0.4]}, baselines={"raw": 0.35})
        >>> [(line.get_label(), float(line.get_ydata()[-1])) for line in figure.axes[0].lines]
        [('circle', 0.6), ('triplet', 0.4), ('raw', 0.35)]
    """
    check_count("smooth", smooth)
    check_flag("separate", separate)
    runs = {name: _runs(name, values, smooth) for name, values in curves.items()}
    if not runs:
        raise ValueError("Expected `curves` to hold at least one name, but got none.")
    styles: list[dict[str, Any]] = [{"color": color, "linestyle": style} for style, color in itertools.product(_STYLES, SERIES)]
    figure, panels = _panels(len(runs) if separate else 1)
    for number, (name, table) in enumerate(runs.items()):
        axes = panels[number if separate else 0]
        _draw(axes, name, table, styles[0 if separate else number % len(styles)])
        axes.set_title(name if separate else "", parse_math=False)
    for number, axes in enumerate(panels):
        for label, value in (baselines or {}).items():
            axes.axhline(value, color=MUTED, linestyle="-.", linewidth=1, label=label)
        axes.set_xlabel(xlabel if number + _COLUMNS >= len(panels) else "")
        axes.set_ylabel(ylabel if number % _COLUMNS == 0 else "")
        axes.locator_params(axis="x", integer=True)
    if not separate or baselines:
        _draw_legend(panels[min(_COLUMNS, len(panels)) - 1])
    return figure


def _runs(name: str, values: Any, smooth: int) -> Array:
    """`[runs, length]`, NaN where a run has no value."""
    try:
        runs = [np.asarray(run, dtype=np.float64) for run in (values if np.ndim(values[0]) else [values])] if len(values) else []
    except (TypeError, ValueError) as error:
        raise TypeError(f"Expected `curves[{name!r}]` to hold numbers, or such a sequence per run, but got {describe(values)}.") from error
    if not runs or any(run.ndim != 1 for run in runs) or not any(map(len, runs)):
        raise ValueError(f"Expected `curves[{name!r}]` to hold the values of at least one run, but got {describe(values)}.")
    table = np.full((len(runs), max(map(len, runs))), np.nan)
    for row, run in zip(table, runs, strict=True):
        row[: len(run)] = _smoothed(np.where(np.isfinite(run), run, np.nan), smooth)
    return table


def _smoothed(run: Array, length: int) -> Array:
    """Mean of what is known of the `length` values about each; gaps stay."""
    if length == 1:
        return run
    known = np.isfinite(run)
    window = np.ones(min(length, 2 * len(run) - 1))
    start = (len(window) - 1) // 2
    sums, counts = (np.convolve(part, window)[start : start + len(run)] for part in (np.where(known, run, 0.0), known.astype(float)))
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    if number == 1:
        figure = new_figure(7.5, 3.4)
        return figure, [figure.add_subplot()]
    columns = min(number, _COLUMNS)
    rows = -(-number // columns)
    figure = new_figure(3.3 * columns, 2.2 * rows)
    figure.set_layout_engine("constrained", h_pad=0.1)  # so that titles keep clear of the panel above
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(number)]


def _draw(axes: Axes, name: str, table: Array, style: dict[str, Any]) -> None:
    known = np.isfinite(table)
    some = known.any(0)
    mean = np.where(some, np.where(known, table, 0.0).sum(0) / known.sum(0).clip(1), np.nan)
    steps = np.arange(len(mean))
    axes.plot(steps, mean, label=name, marker="" if len(mean) > 30 else "o", markersize=3, linewidth=1.5, **style)
    if len(table) > 1:
        low, high = np.where(known, table, np.inf).min(0), np.where(known, table, -np.inf).max(0)
        axes.fill_between(steps, low, high, where=some, color=style["color"], alpha=0.15, linewidth=0)


def _draw_legend(axes: Axes) -> None:
    legend = axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)
