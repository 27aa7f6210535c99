"""For losses that need more of their points than scores: labels of anchors, or the prepared points themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metriczoo.columns import Columns
from metriczoo.scores import Block, Scores
from metriczoo.similarity import NegativeEuclidean, Similarity, unit

__all__ = ["PointBlock", "PointColumns", "UnitEuclidean", "by_group", "points_of"]


@dataclass(frozen=True, eq=False)
class PointBlock(Block):
    """A block of scores that knows its points."""

    labels: Tensor = None  # type: ignore[assignment]  # [b] of the anchors
    anchors: Tensor = None  # type: ignore[assignment]  # [b, d'] prepared
    references: Tensor = None  # type: ignore[assignment]  # [n, d'] prepared


class PointColumns(Columns):
    """Columns whose scores come with a `PointBlock`. Gradients may flow from the loss to the points directly."""

    def __init__(self, columns: Columns, labels: Tensor) -> None:
        self.columns, self.labels = columns, labels
        self.keep, self.width = columns.keep, columns.width

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """As the columns do."""
        known = PointBlock(block.rows, block.distance, block.embedding_dim, block.seed, block.between, self.labels[rows], a, r)
        return self.columns.scores(similarity, a, r, known, rows)


def points_of(scores: Scores) -> PointBlock:
    """The block of scores that a loss with `PointColumns` made.

    Raises:
        ValueError: for other scores.
    """
    if not isinstance(scores.block, PointBlock):
        raise ValueError("Expected scores that this loss made from embeddings and labels, but these know of none: call the loss.")
    return scores.block


def by_group(of_anchors: Tensor, scores: Scores) -> Tensor:
    """`[rows]`: numbers `[b]` of anchors, for each row of `scores`. A miner may have split each anchor into as many groups."""
    rows = scores.value.shape[0]
    return of_anchors.repeat_interleave(rows // max(1, of_anchors.shape[0]), output_size=rows)


class UnitEuclidean(NegativeEuclidean):
    r"""Negated Euclidean distance of unit vectors, in [-2, 0]: \(s = -\|\hat x - \hat y\|\)."""

    def prepare(self, x: Tensor) -> Tensor:
        """Unit vectors, with their squared norms as a last component."""
        return super().prepare(unit(x))
