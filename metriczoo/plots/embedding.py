"""Embeddings in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metriczoo._checks import as_labels, check_count, describe
from metriczoo.metrics._inputs import Embeddings, Integers, as_embeddings
from metriczoo.plots._figure import MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["embedding_map"]

_MARKERS = "osD^v"


def embedding_map(
    embeddings: Embeddings,
    labels: Integers,
    *,
    num_classes: int = 6,
    class_names: Sequence[str] | None = None,
    max_points: int = 5000,
    seed: int = 0,
) -> Figure:
    r"""Embeddings on their first two principal components, the largest classes in colour.

    The projection is linear: what is apart in the map is apart in the space, but not the reverse. The axes say how much of the variance
    each shows.

    Args:
        embeddings: `[n, d]`, n >= 2 and d >= 2, floating point, finite. Project unit vectors where only angles count.
        labels: `[n]`, integers. A point with a label < 0 is left out.
        num_classes: how many classes get a colour and a marker, the largest first, of equal ones those with lower labels. The others
            are grey.
        class_names: the name of each label, for the legend. Default: the label.
        max_points: of more points so many are drawn at random, and the components are theirs.
        seed: of the draw.

    Returns:
        A figure with one axes: first the grey points, if any, then one collection per class with its name as label.

    Raises:
        TypeError: if embeddings are not floating point or labels not integers.
        ValueError: if lengths differ, a value is NaN or infinite, there are fewer than two points or dimensions, or a label has no name.

    Example:
        >>> points = np.array([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 3.0, 1.0], [4.0, 3.0, 1.0]])
        >>> axes = embedding_map(points, [0, 0, 1, 1]).axes[0]
        >>> axes.get_xlabel(), [classes.get_label() for classes in axes.collections]
        ('component 1 (64 % of variance)', ['0', '1'])

    Relations:
        t-SNE and UMAP show neighbourhoods better and distances not at all; this map is the same on every run and costs little.

    References:
        Jolliffe. Principal Component Analysis. Springer, 2002.
    """
    from sklearn.decomposition import PCA

    points = as_embeddings("embeddings", embeddings).cpu().numpy()
    known = as_labels(labels, length=len(points)).cpu().numpy()
    rows = _sample(np.flatnonzero(known >= 0), check_count("max_points", max_points, low=2), check_count("seed", seed, low=0))
    points, known = points[rows].astype(np.float64), known[rows]
    if min(points.shape) < 2:
        raise ValueError(f"Expected `embeddings` to have at least two labelled points and two dimensions, but got {describe(points)}.")
    pca = PCA(2, random_state=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # points that are all equal have no variance to share
        plane = pca.fit_transform(points)
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    classes, sizes = np.unique(known, return_counts=True)
    classes = classes[np.argsort(-sizes, kind="stable")][: check_count("num_classes", num_classes)]
    figure = new_figure(6, 4.5)
    axes = figure.add_subplot()
    others = ~np.isin(known, classes)
    if others.any():
        axes.scatter(plane[others, 0], plane[others, 1], s=6, color=MUTED, alpha=0.35, linewidth=0, label="other classes")
    for number, label in enumerate(classes):
        color, marker = SERIES[number % len(SERIES)], _MARKERS[number // len(SERIES) % len(_MARKERS)]
        x, y = plane[known == label].T
        axes.scatter(x, y, s=16, color=color, marker=marker, linewidth=0, label=_name(class_names, int(label)))
    axes.set(xlabel=f"component 1 ({100 * shares[0]:.0f} % of variance)", ylabel=f"component 2 ({100 * shares[1]:.0f} %)")
    axes.set_aspect("equal", adjustable="datalim")
    for text in axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)).get_texts():
        text.set_parse_math(False)
    return figure


def _sample(rows: NDArray[np.int64], number: int, seed: int) -> NDArray[np.int64]:
    return rows if len(rows) <= number else np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))


def _name(class_names: Sequence[str] | None, label: int) -> str:
    if class_names is None:
        return str(label)
    if label >= len(class_names):
        raise ValueError(f"Expected `class_names` to have a name for label {label}, but got {len(class_names)} names.")
    return class_names[label]
