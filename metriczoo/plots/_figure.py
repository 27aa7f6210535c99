"""What all plots share: how a figure is made, and colours that people of every colour vision can tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MUTED", "NEGATIVE", "POSITIVE", "SERIES", "new_figure"]

# The palette of Okabe and Ito, without its yellow and black, which vanish on a light or a dark page.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
POSITIVE, NEGATIVE = SERIES[:2]
MUTED = "#8C8C8C"


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that no pyplot knows of. It takes its style from matplotlib's settings."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"metriczoo.plots needs matplotlib; `pip install metriczoo[plots]` brings it: {error}") from error
    return Figure(figsize=(width, height), layout="constrained")
