"""Two sides that are compared with each other in both directions: each direction in tiles of its own, one reduction for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metriczoo._tiles import Tiles
from metriczoo.columns import AcrossColumns
from metriczoo.reduction import Totals

if TYPE_CHECKING:
    from metriczoo.engine import Problem

__all__ = ["Across"]


class Across:
    """The tiles of both directions. In place of `Tiles`, where half of each block would be of points of one side."""

    def __init__(
        self, problem: Problem, points: Tensor, parameters: Sequence[Tensor], wanted: Sequence[bool], weights: Tensor | None = None
    ) -> None:
        columns = problem.columns
        assert isinstance(columns, AcrossColumns) and columns.sides is not None
        x, y = points[: columns.cut], points[columns.cut :]
        self.problem, self.wanted = problem, wanted
        of_sides = (None, None) if weights is None else (weights[: columns.cut], weights[columns.cut :])
        both = (wanted[0], wanted[0], *wanted[2:])
        self.directions = [
            Tiles(replace(problem, columns=own), anchors, references, parameters, both, weight)
            for own, anchors, references, weight in zip(columns.sides, (x, y), (y, x), of_sides, strict=True)
        ]

        for tiles in self.directions:
            tiles.alone = False

    def run(self) -> Tensor:
        """The loss."""
        values = [tiles.run() for tiles in self.directions]
        if self.problem.loss.reduction == "none":
            return torch.cat(values)
        known = [tiles.sums for tiles in self.directions if tiles.sums is not None]
        if len(known) == 2:
            sums = Totals(*(x + y for x, y in zip(*known, strict=True)))
            values = [tiles.reduce(sums) for tiles in self.directions]
        return values[0] if self.directions[0].sums is not None else values[1]

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        if not any(self.wanted):
            return ()
        there, back = (tiles.gradients() for tiles in self.directions)
        if not self.wanted[0]:
            return tuple(x + y for x, y in zip(there, back, strict=True))
        (to_x, to_y), (y_to, x_to) = there[:2], back[:2]
        return torch.cat([to_x + x_to, to_y + y_to]), *(x + y for x, y in zip(there[2:], back[2:], strict=True))
