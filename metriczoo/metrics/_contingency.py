"""How two partitions of the same points meet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Contingency"]


@dataclass(frozen=True, eq=False)
class Contingency:
    """The non-empty cells of the contingency table of two partitions. Memory is O(points), never classes x clusters."""

    cells: Tensor  # [c] points that are in one class and one cluster
    rows: Tensor  # [c] size of the class of the cell
    columns: Tensor  # [c] size of its cluster
    classes: Tensor  # [u] sizes of the classes
    clusters: Tensor  # [v] sizes of the clusters

    @classmethod
    def of(cls, labels: Tensor, assignments: Tensor) -> Contingency:
        """From labels `[n]` and cluster numbers `[n]`."""
        _, label, classes = labels.cpu().unique(return_inverse=True, return_counts=True)
        _, cluster, clusters = assignments.cpu().unique(return_inverse=True, return_counts=True)
        keys, cells = (label * clusters.shape[0] + cluster).unique(return_counts=True)
        return cls(cells, classes[keys // clusters.shape[0]], clusters[keys % clusters.shape[0]], classes, clusters)

    @property
    def n(self) -> int:
        """Number of points."""
        return int(self.cells.sum())

    @property
    def equal(self) -> bool:
        """Whether the two partitions are the same but for names."""
        return self.cells.shape == self.classes.shape == self.clusters.shape

    def mutual_information(self) -> float:
        """Mutual information of the two partitions, in nats."""
        cells = self.cells.double()
        return max(
            0.0, float((cells / self.n * (cells.log() + math.log(self.n) - self.rows.double().log() - self.columns.double().log())).sum())
        )

    def mean_entropy(self) -> float:
        """Arithmetic mean of their entropies, in nats."""
        return (_entropy(self.classes) + _entropy(self.clusters)) / 2

    def expected_mutual_information(self) -> float:
        """Mean of the mutual information over all partitions with these sizes: each pair of sizes is a hypergeometric distribution.

        Few sizes are distinct, so each pair of distinct ones is summed once.
        """
        n = self.n
        factorial = torch.lgamma(torch.arange(1, n + 2, dtype=torch.float64))  # log of 0! ... n!
        columns, column_count = self.clusters.unique(return_counts=True)
        b = columns.unsqueeze(1)
        total = 0.0
        for a, count in zip(*(x.tolist() for x in self.classes.unique(return_counts=True)), strict=True):
            k = torch.arange(1, min(a, int(columns[-1])) + 1)
            possible = (k <= b) & (k >= a + b - n)
            low, rest = (b - k).clamp(min=0), (n - a - b + k).clamp(min=0)
            log_p = factorial[a] + factorial[b] + factorial[n - a] + factorial[n - b] - factorial[n]
            log_p = log_p - factorial[k] - factorial[a - k] - factorial[low] - factorial[rest]
            gain = k.double() / n * (math.log(n) - math.log(a) + k.double().log() - b.double().log())
            total += count * float(((log_p.exp() * gain).where(possible, 0.0).sum(1) * column_count).sum())
        return total

    def pairs(self) -> tuple[int, int, int, int]:
        """Pairs of points: in one class and one cluster, in one cluster only, in one class only, in neither."""
        both, class_pairs, cluster_pairs = (int((x * (x - 1) // 2).sum()) for x in (self.cells, self.classes, self.clusters))
        every = self.n * (self.n - 1) // 2
        return both, cluster_pairs - both, class_pairs - both, every - class_pairs - cluster_pairs + both


def _entropy(sizes: Tensor) -> float:
    p = sizes.double() / sizes.sum()
    return float(-(p * p.log()).sum())
