"""Queries with what is nearest to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_count, describe
from metriczoo.metrics._inputs import Embeddings, Integers, Scoring, as_embeddings, as_similarity
from metriczoo.plots._figure import MUTED, NEGATIVE, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["retrieval_examples", "retrieval_grid"]

_CHUNK = 256  # queries searched at once
_MAX_SCORES = 2**26  # after so many scores the search for right and wrong queries ends, so that it stays quick on large sets
_RIGHT, _WRONG = SERIES[2], NEGATIVE
_GAP = 0.35  # between a query and its neighbours, in widths of an image


def retrieval_examples(
    embeddings: Embeddings,
    labels: Integers,
    *,
    num_right: int = 4,
    num_wrong: int = 4,
    num_neighbours: int = 8,
    similarity: str | Scoring = "cosine",
    seed: int = 0,
    is_query: Tensor | NDArray[Any] | Sequence[bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """A few queries whose nearest neighbour has their label, and a few whose has not, with the neighbours of each.

    Queries are tried in random order and are of different classes as far as possible. Every other point is in the gallery, unless
    `is_query` tells both apart. A point whose class is not in its gallery is no query.

    Args:
        embeddings: `[n, d]`, floating point, finite.
        labels: `[n]`, integers. A point with a label < 0 is neither query nor neighbour.
        num_right: at most so many queries with a right nearest neighbour, >= 0.
        num_wrong: at most so many with a wrong one, >= 0.
        num_neighbours: k, at least 1; fewer where there are fewer points.
        similarity: "cosine", "inner_product", "euclidean" (negated), or a `Similarity`.
        seed: of the order.
        is_query: `[n]`, which points may be queries; the others are the gallery. Default: each point is both.

    Returns:
        Positions of the queries `[q]`, those that are right first, and of their neighbours `[q, k]`, nearest first. Fewer queries, or
        none, where no more are found among those tried: all in a small set, some 2**26 / n in a large one.

    Raises:
        TypeError: if embeddings are not floating point or labels not integers.
        ValueError: if lengths differ, a value is NaN or infinite, or a name is unknown.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0], [0.2, 0.8]])
        >>> retrieval_examples(points, [0, 0, 1, 0, 1], num_right=1, num_wrong=1, num_neighbours=2)
        (tensor([4, 3]), tensor([[2, 3],
                [2, 4]]))

    Relations:
        `metrics.retrieval_metrics(..., per_query=True)` tells of every query whether it is right.
    """
    points = as_embeddings("embeddings", embeddings)
    known = as_labels(labels, length=len(points), device=points.device)
    wanted = [check_count("num_wrong", num_wrong, low=0), check_count("num_right", num_right, low=0)]
    k, scoring = check_count("num_neighbours", num_neighbours), as_similarity(similarity)
    gallery = (known >= 0).nonzero().squeeze(1)
    known, asks = known[gallery], None if is_query is None else _flags(is_query, points)[gallery]
    neighbours = _Neighbours(scoring, points[gallery], k, asks)
    found: list[list[tuple[int, list[int]]]] = [[], []]  # wrong, right
    candidates = _candidates(known, check_count("seed", seed, low=0), asks)
    for start in range(0, len(candidates), _CHUNK):
        rows = candidates[start : start + _CHUNK]
        nearest = neighbours.of(rows)
        for is_right, row, columns in zip((known[nearest[:, 0]] == known[rows]).tolist(), rows.tolist(), nearest.tolist(), strict=True):
            found[is_right].append((row, columns))
        if all(len(some) >= number for some, number in zip(found, wanted, strict=True)):
            break
    chosen = [*_varied(found[1], known)[: wanted[1]], *_varied(found[0], known)[: wanted[0]]]
    queries = torch.tensor([row for row, _ in chosen], dtype=torch.int64, device=points.device)
    columns = torch.tensor([columns for _, columns in chosen], dtype=torch.int64, device=points.device)
    return gallery[queries], gallery[columns.reshape(len(chosen), neighbours.k)]


def _flags(is_query: Any, points: Tensor) -> Tensor:
    flags = torch.as_tensor(is_query, device=points.device)
    if flags.dtype != torch.bool or flags.shape != points.shape[:1]:
        raise ValueError(f"Expected `is_query` to hold {len(points)} booleans, one per row of `embeddings`, but got {describe(is_query)}.")
    return flags


class _Neighbours:
    """The `k` nearest other points of each point, or those of the others that do not ask, if any do; fewer where there are fewer."""

    def __init__(self, scoring: Scoring, points: Tensor, k: int, asks: Tensor | None) -> None:
        self.scoring, self.asks = scoring, asks
        self.k = min(k, max(len(points) - 1, 0) if asks is None else int((~asks).sum()))
        with torch.no_grad():
            self.prepared = scoring.prepare(points)

    @torch.no_grad()
    def of(self, rows: Tensor) -> Tensor:
        """`[b, k]`, nearest first."""
        scores = self.scoring.score(self.prepared[rows], self.prepared)
        scores.scatter_(1, rows.unsqueeze(1), -torch.inf)
        if self.asks is not None:
            scores.masked_fill_(self.asks, -torch.inf)
        return scores.topk(self.k, dim=1).indices


def _candidates(labels: Tensor, seed: int, asks: Tensor | None) -> Tensor:
    """Points that share their label with another one, or with one of the gallery, in random order, so many as may be tried."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    if asks is None:
        _, of_class, size = labels.unique(return_inverse=True, return_counts=True)
        order = order[size[of_class[order]] > 1]
    else:
        order = order[(asks & torch.isin(labels, labels[~asks]))[order]]
    return order[: max(_CHUNK, _MAX_SCORES // max(len(labels), 1))]


def _varied(found: Iterable[tuple[int, list[int]]], labels: Tensor) -> list[tuple[int, list[int]]]:
    """The first of each class, then the second of each class, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for example in found:
        label = int(labels[example[0]])
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], example))
    return [example for _, example in sorted(turns, key=lambda turn: turn[0])]


def retrieval_grid(
    images: Callable[[int], Any] | Sequence[Any],
    labels: Integers,
    queries: Integers,
    neighbours: Tensor | NDArray[Any] | Sequence[Sequence[int]],
    *,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """A row for each query: its image, then those of its neighbours, framed.

    The frame is solid and green if the label is that of the query, dashed and orange if not.

    Args:
        images: the image of a position, by call or by index: a Pillow image, an array `[h, w]` or `[h, w, c]`, or a tensor `[h, w]` or
            `[c, h, w]`, c one of 1, 3 and 4; floating point in [0, 1] or uint8.
        labels: `[n]`, integers.
        queries: `[q]`, positions, at least one.
        neighbours: `[q, k]`, positions, nearest first.
        class_names: the name of each label, written above the images. Default: none is written.

    Returns:
        A figure with one axes, in which the images are in the order of the rows, the query of each first.

    Raises:
        TypeError: if labels or positions are not integers, or an image is none of those.
        ValueError: if a shape does not match, there is no query, or a position or a label with a name is out of range.

    Example:
        >>> figure = retrieval_grid(torch.rand(4, 8, 8), labels=[0, 0, 1, 1], queries=[0, 3], neighbours=[[1, 2], [2, 0]])
        >>> [frame.get_linestyle() for frame in figure.axes[0].patches]
        ['solid', 'dashed', 'solid', 'dashed']

    Relations:
        `retrieval_examples` finds queries and neighbours to show.
    """
    known = as_labels(labels).tolist()
    rows = as_ids(queries, argument="queries").tolist()
    table = _table(neighbours, len(rows))
    for argument, position in (*(("queries", i) for i in rows), *(("neighbours", i) for row in table for i in row)):
        if not 0 <= position < len(known):
            raise ValueError(f"Expected `{argument}` to hold positions in [0, {len(known) - 1}], but got {position}.")
    k, pitch = len(table[0]), 1.0 if class_names is None else 1.25
    figure = new_figure(1.05 * (k + 1 + _GAP), 1.05 * pitch * len(rows))
    axes = figure.add_subplot()
    for number, (query, others) in enumerate(zip(rows, table, strict=True)):
        for column, position in enumerate((query, *others)):
            corner = (column + _GAP * (column > 0), pitch * number)
            _draw_image(axes, _pixels(images(position) if callable(images) else images[position]), corner)
            if column:
                _draw_frame(axes, corner, right=known[position] == known[query])
            if class_names is not None:
                _draw_name(axes, corner, _name(class_names, known[position]))
    axes.set(xlim=(-0.05, k + 1 + _GAP + 0.05), ylim=(pitch * (len(rows) - 1) + 1.05, 0.95 - pitch), aspect="equal")
    axes.set_axis_off()
    return figure


def _table(neighbours: Any, num_queries: int) -> list[list[int]]:
    array = neighbours.cpu().numpy() if isinstance(neighbours, Tensor) else np.asarray(neighbours)
    if array.dtype.kind not in "iu":
        raise TypeError(f"Expected `neighbours` to hold integers, but got {describe(neighbours)}.")
    if num_queries == 0 or array.ndim != 2 or len(array) != num_queries:
        raise ValueError(f"Expected `neighbours` to be of shape [q, k] with q = {num_queries} >= 1 queries, but got {describe(array)}.")
    rows: list[list[int]] = array.tolist()
    return rows


def _name(class_names: Sequence[str], label: int) -> str:
    if not 0 <= label < len(class_names):
        raise ValueError(f"Expected `class_names` to have a name for label {label}, but got {len(class_names)} names.")
    return class_names[label]


def _pixels(image: Any) -> NDArray[Any]:
    """`[h, w]` or `[h, w, 3 or 4]`, uint8 or in [0, 1]."""
    if isinstance(image, Tensor):
        channels_last = image.detach().cpu()
        pixels = (channels_last.movedim(0, -1) if image.dim() == 3 else channels_last).numpy()
    elif isinstance(image, np.ndarray):
        pixels = image
    elif hasattr(image, "convert"):
        pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    else:
        raise TypeError(f"Expected `images` to give Pillow images, arrays or tensors, but got {describe(image)}.")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if 0 in pixels.shape or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(f"Expected `images` to give images with 1, 3 or 4 channels, but got {describe(image)}.")
    return pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0.0, 1.0)


def _draw_image(axes: Axes, pixels: NDArray[Any], corner: tuple[float, float]) -> None:
    """In the middle of a unit square, in its own proportions. The y axis points down."""
    height, width = pixels.shape[:2]
    half_width, half_height = (0.46 * side / max(height, width) for side in (width, height))
    x, y = corner[0] + 0.5, corner[1] + 0.5
    extent = (x - half_width, x + half_width, y + half_height, y - half_height)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1, extent=extent)


def _draw_frame(axes: Axes, corner: tuple[float, float], *, right: bool) -> None:
    from matplotlib.patches import Rectangle

    style: dict[str, Any] = {"edgecolor": _RIGHT, "linestyle": "solid"} if right else {"edgecolor": _WRONG, "linestyle": "dashed"}
    axes.add_patch(Rectangle((corner[0] + 0.03, corner[1] + 0.03), 0.94, 0.94, fill=False, linewidth=2, **style))


def _draw_name(axes: Axes, corner: tuple[float, float], name: str) -> None:
    short = name if len(name) <= 16 else f"{name[:15]}…"
    axes.text(corner[0] + 0.5, corner[1] - 0.02, short, ha="center", va="bottom", fontsize=6, color=MUTED, parse_math=False)
