"""Similarities of pairs of one class and of pairs of different classes, as histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._checks import as_labels, check_count, describe
from metriczoo.metrics._inputs import Embeddings, Integers, Scoring, as_embeddings, as_similarity
from metriczoo.plots._figure import NEGATIVE, POSITIVE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["similarity_histogram"]

_CHUNK = 2**14  # pairs scored at once
_NARROW = 1e-6  # a range of scores that is rounding and no more

Pairs = tuple[Tensor, Tensor]  # the first points [m] and the second points [m]


def similarity_histogram(
    embeddings: Embeddings,
    labels: Integers,
    *,
    before: Embeddings | None = None,
    similarity: str | Scoring = "cosine",
    bins: int = 60,
    max_pairs: int = 100_000,
    seed: int = 0,
) -> Figure:
    r"""Histograms of the similarities of positive pairs and of negative pairs.

    Each is scaled to area 1, since there are far more negatives. The title of a panel gives their overlap,
    :math:`\int \min(p(s), n(s)) \, ds`: 1 where positives and negatives look alike, 0 where no bin holds both.

    Every pair counts once. Of more than `max_pairs` pairs of a kind so many are drawn at random, with replacement, so that time and
    memory are those of the pairs, however many points there are.

    Args:
        embeddings: `[n, d]`, floating point, finite.
        labels: `[n]`, integers. A label < 0 is ignored.
        before: `[n, d']`, the same points before training, for a panel of their own to the left. It shows the same pairs on the same axis.
        similarity: "cosine", "inner_product", "euclidean" (negated), or a `Similarity`.
        bins: number of bins between the lowest and the highest score of a panel.
        max_pairs: of each kind, at least 1.
        seed: of the draw.

    Returns:
        A figure with one or two axes, each with the outlines of the positives and of the negatives, those of them that there are.

    Raises:
        TypeError: if embeddings are not floating point or labels not integers.
        ValueError: if lengths differ, a value is NaN or infinite, a name is unknown, or there is no pair at all.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> figure = similarity_histogram(points, [0, 0, 1, 1], bins=4)
        >>> [line.get_label() for line in figure.axes[0].patches], figure.axes[0].get_title()
        (['positive pairs', 'negative pairs'], 'overlap 25 %')

    Relations:
        The overlap looks at all pairs at once; `metrics.retrieval_metrics` asks what is nearest to each point, which can be right
        despite a large overlap.

    References:
        Ustinova, Lempitsky. Learning Deep Embeddings with Histogram Loss. NeurIPS 2016.
    """
    points = {"after" if before is not None else "": as_embeddings("embeddings", embeddings)}
    labels = as_labels(labels, length=len(embeddings)).cpu()
    if before is not None:
        points = {"before": as_embeddings("before", before), **points}
        if len(before) != len(embeddings):
            raise ValueError(f"Expected `before` to have {len(embeddings)} rows, one per row of `embeddings`, but got {describe(before)}.")
    scoring = as_similarity(similarity)
    bins, max_pairs = check_count("bins", bins), check_count("max_pairs", max_pairs)
    kinds = _pairs(labels, max_pairs, torch.Generator().manual_seed(check_count("seed", seed, low=0)))
    if not any(len(first) for first, _ in kinds):
        raise ValueError(f"Expected at least two points with labels that are not negative, but got {int((labels >= 0).sum())}.")
    figure = new_figure(4.2 * len(points), 3)
    panels = figure.subplots(1, len(points), sharex=True, squeeze=False)[0]
    for axes, (name, space) in zip(panels, points.items(), strict=True):
        _draw(axes, name, [_scores(space, pairs, scoring) for pairs in kinds], bins)
    figure.legend(handles=panels[-1].patches, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _pairs(labels: Tensor, max_pairs: int, generator: torch.Generator) -> tuple[Pairs, Pairs]:
    """Positive and negative pairs, all or so many of them, each pair of points in one order only."""
    order = labels.argsort(stable=True)
    order = order[labels[order] >= 0]
    place = torch.arange(len(order))
    end = torch.searchsorted(labels[order], labels[order], right=True)  # where the class of each point ends: beyond are its negatives
    positives = _numbered(place + 1, end - place - 1, max_pairs, generator)
    negatives = _numbered(end, len(order) - end, max_pairs, generator)
    return (order[positives[0]], order[positives[1]]), (order[negatives[0]], order[negatives[1]])


def _numbered(start: Tensor, count: Tensor, max_pairs: int, generator: torch.Generator) -> Pairs:
    """Pairs of each place `i` with the `count[i]` places from `start[i]` on: all, or `max_pairs` drawn at random."""
    last = count.cumsum(0)
    total = int(last[-1]) if len(last) else 0
    number = torch.arange(total) if total <= max_pairs else torch.randint(total, (max_pairs,), generator=generator)
    first = torch.searchsorted(last, number, right=True)
    return first, start[first] + number - (last - count)[first]


@torch.no_grad()
def _scores(points: Tensor, pairs: Pairs, scoring: Scoring) -> NDArray[np.float64]:
    """The score of each pair `[m]`."""
    prepared = scoring.prepare(points)
    chunks = zip(*(side.to(points.device).split(_CHUNK) for side in pairs), strict=True)
    scores = [scoring.score(prepared[i].unsqueeze(1), prepared[j].unsqueeze(1)).flatten() for i, j in chunks]
    return torch.cat(scores).double().cpu().numpy()


def _draw(axes: Axes, name: str, kinds: list[NDArray[np.float64]], bins: int) -> None:
    low, high = (extreme(np.concatenate(kinds)) for extreme in (np.min, np.max))
    if high - low <= _NARROW * max(1.0, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    shares = []
    for scores, label, color in zip(kinds, ("positive pairs", "negative pairs"), (POSITIVE, NEGATIVE), strict=True):
        if len(scores):
            count, edges = np.histogram(scores, bins, (low, high))
            shares.append(count / len(scores))
            density = shares[-1] / (edges[1] - edges[0])
            axes.stairs(density, edges, fill=True, facecolor=(color, 0.3), edgecolor=color, linewidth=1.2, label=label)
    overlap = f"overlap {100 * np.minimum(*shares).sum():.0f} %" if len(shares) == 2 else ""
    axes.set(title=", ".join(filter(None, (name, overlap))), xlabel="similarity", ylabel="density", yticks=[])
