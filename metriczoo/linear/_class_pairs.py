"""Pairs of points of one class, and of two, without a list of all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from metriczoo.linear._base import Array

__all__ = ["across_classes", "scatter_within"]

Codes = npt.NDArray[np.int64]


def scatter_within(X: Array, codes: Codes) -> tuple[Array, int]:
    """Mean of `(x - y)(x - y)^T` over all pairs of points of one class, `[d, d]`, and how many pairs these are."""
    total, number = np.zeros((X.shape[1], X.shape[1])), 0
    for code in range(int(codes.max()) + 1):
        points = X[codes == code]
        size = len(points)
        centred = np.where(np.ptp(points, axis=0) > 0, points - points.mean(0), 0.0)  # the mean of a constant need not be exact
        total += size * centred.T @ centred
        number += size * (size - 1) // 2
    return total / max(number, 1), number


def across_classes(codes: Codes, most: int | None, random: np.random.RandomState) -> tuple[Codes, Codes]:
    """Both ends of the pairs of points of two classes: all of them if no more than `most`, else so many, drawn with replacement."""
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    ends = np.cumsum(sizes)
    n, others = len(codes), len(codes) - sizes
    number = int((sizes * others).sum()) // 2
    if most is not None and number > most:
        first = random.choice(len(sizes), size=most, p=sizes * others / (2 * number))  # the class of one end
        left = ends[first] - 1 - random.randint(0, sizes[first])
        right = random.randint(0, others[first])
        right += (right >= ends[first] - sizes[first]) * sizes[first]
        return order[left], order[right]
    later = n - ends[codes[order]]  # of each point, how many are of later classes
    left = np.repeat(np.arange(n), later)
    right = np.arange(number) - np.repeat(np.cumsum(later) - later, later) + ends[codes[order]][left]
    return order[left], order[right]
