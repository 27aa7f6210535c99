"""What specifications on lists are written with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["by_label", "cos", "cross_entropy", "d2", "dot", "hinge", "length", "lse", "softplus"]

T = TypeVar("T")


def hinge(z: float) -> float:
    """`[z]_+`."""
    return max(z, 0.0)


def softplus(z: float) -> float:
    """`log(1 + exp(z))`."""
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def lse(u: Sequence[float]) -> float:
    """`log sum exp`."""
    return max(u) + math.log(sum(math.exp(v - max(u)) for v in u))


def cross_entropy(own: Sequence[float], others: Sequence[float]) -> float:
    """Of the logits of the own class and of others; of several own ones, as in equation 1 of Sun et al. 2020."""
    return softplus(lse([z - y for z in others for y in own]))


def dot(x: Sequence[float], y: Sequence[float]) -> float:
    """Inner product."""
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def length(x: Sequence[float]) -> float:
    """Euclidean norm."""
    return math.sqrt(dot(x, x))


def cos(x: Sequence[float], y: Sequence[float]) -> float:
    """Cosine."""
    return dot(x, y) / (length(x) * length(y))


def d2(x: Sequence[float], y: Sequence[float]) -> float:
    """Squared Euclidean distance."""
    return math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def by_label(values: Sequence[T], labels: Sequence[int]) -> list[list[T]]:
    """The values of each label that is not ignored."""
    return [[v for v, m in zip(values, labels, strict=True) if m == label] for label in sorted(set(labels)) if label >= 0]
