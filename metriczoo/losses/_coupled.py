"""For losses that couple anchors."""

from __future__ import annotations

from torch import Tensor

from metriczoo.columns import Columns, Points
from metriczoo.losses.base import Loss
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Similarity

__all__ = ["CoupledLoss"]


class CoupledLoss(Loss):
    """A loss that sees all anchors at once: it runs dense, and the anchors that are ignored have empty sets, so that no other sees them."""

    separable = False

    def _columns(self, anchors: Points, points: Points, prepared: Tensor, compared: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        columns, prepared, compared = super()._columns(anchors, points, prepared, compared)
        return _KeptColumns(columns), prepared, compared


class _KeptColumns(Columns):
    """Columns with empty sets for the anchors that do not take part."""

    def __init__(self, columns: Columns) -> None:
        self.columns, self.keep, self.width = columns, columns.keep, columns.width

    def scores(self, similarity: Similarity, a: Tensor, r: Tensor, block: Block, rows: slice) -> tuple[Scores, Scores]:
        """As the columns do."""
        s_n, s_p = self.columns.scores(similarity, a, r, block, rows)
        keep = self.keep[rows].unsqueeze(1)
        return s_n.where(keep), s_p.where(keep)
