"""Stochastic descent on the objective of LMNN with PyTorch, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metriczoo.linear._lmnn_impostors import Classes
from metriczoo.linear._lmnn_objective import Targets

__all__ = ["Batches", "Stochastic"]

_CELLS = 2**22  # distances of a tile


class Batches:
    """Points on a device, with their classes and target neighbours."""

    def __init__(self, X: npt.NDArray[np.float64], classes: Classes, targets: Targets, device: Any) -> None:
        self.X = torch.as_tensor(X, dtype=torch.float32, device=device)
        self.codes = torch.as_tensor(classes.codes, device=device)
        self.index = torch.as_tensor(targets.index, device=device)
        self.real = torch.as_tensor(targets.real, device=device)
        self.slices = list(classes.slices())


class Stochastic:
    r"""Adam on the map: each step takes some anchors, their targets, and all their impostors among the points.

    Times n, the mean over the anchors is an unbiased estimate of the objective and its gradient. Impostors are searched without a graph in
    tiles of the distances, and only active pairs are differentiated.

    Args:
        maps: `[G, r, d]` to start from.
        mu: weight of the push.
        margin: m.
        squared: whether the hinge is squared.
        learning_rate: of Adam, relative to the root mean square of the entries of `maps`.
        device: of PyTorch.
    """

    def __init__(
        self, maps: npt.NDArray[np.float64], *, mu: float, margin: float, squared: bool, learning_rate: float, device: Any
    ) -> None:
        self.maps = torch.tensor(maps, dtype=torch.float32, device=device, requires_grad=True)
        self.mu, self.margin, self.squared = mu, margin, squared
        scale = float(np.sqrt(np.mean(np.square(maps)))) or 1.0
        self.optimizer = torch.optim.Adam([self.maps], lr=learning_rate * scale)

    def array(self) -> npt.NDArray[np.float64]:
        """The maps, `[G, r, d]`."""
        return np.asarray(self.maps.detach().cpu().numpy(), dtype=np.float64)

    def slow_down(self) -> None:
        """Halve the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] /= 2

    def step(self, data: Batches, anchors: npt.NDArray[np.int64]) -> float:
        """One step on some anchors; the sum of their objective before it."""
        rows = torch.as_tensor(anchors, device=data.X.device)
        points = torch.einsum("nd,grd->gnr", data.X, self.maps)
        leaf = points.detach().requires_grad_()
        value = self._descend(leaf, data, rows)
        self.optimizer.zero_grad()
        assert leaf.grad is not None  # the pull reaches it
        points.backward(leaf.grad / len(anchors))
        self.optimizer.step()
        return value

    def _descend(self, Z: Tensor, data: Batches, rows: Tensor) -> float:
        """Accumulate the gradient of the anchors' objective in `Z.grad`."""
        own = data.codes[rows] if len(Z) > 1 else torch.zeros_like(rows)
        real = data.real[rows]
        gaps = Z[own, rows].unsqueeze(1) - Z[own.unsqueeze(1), data.index[rows]]
        apart = gaps.square().sum(2)
        pull = (1 - self.mu) * (apart * real).sum()
        leaf = apart.detach().requires_grad_()
        value = pull.detach()
        for group, columns in self._tiles(data, len(rows), len(Z)):
            push = self._push(Z[group], leaf, real, data, rows, columns)
            if push is not None:
                push.backward()
                value = value + push.detach()
        through = torch.zeros_like(apart) if leaf.grad is None else leaf.grad
        torch.autograd.backward([pull, apart], [torch.ones_like(pull), through])
        return float(value)

    def _tiles(self, data: Batches, num: int, groups: int) -> list[tuple[int, slice]]:
        width = max(1, _CELLS // num)
        parts = list(enumerate(data.slices)) if groups > 1 else [(0, slice(0, len(data.X)))]
        return [(g, slice(j, min(j + width, s.stop))) for g, s in parts for j in range(s.start, s.stop, width)]

    def _push(self, Z: Tensor, apart: Tensor, real: Tensor, data: Batches, rows: Tensor, columns: slice) -> Tensor | None:
        """The push of the points of a tile on the anchors."""
        with torch.no_grad():
            thresholds = torch.where(real, apart + self.margin, -torch.inf)
            other = data.codes[rows].unsqueeze(1) != data.codes[columns]
            near = torch.cdist(Z[rows], Z[columns]).square() < thresholds.amax(1, keepdim=True) * (1 + 1e-4)
            a, j = (near & other).nonzero(as_tuple=True)
        if not len(a):
            return None
        distances = (Z[rows[a]] - Z[columns][j]).square().sum(1)
        violation = (self.margin + apart[a] - distances.unsqueeze(1)).relu() * real[a]
        return self.mu * (violation.square() if self.squared else violation).sum()
