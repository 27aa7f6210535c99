"""Margins on the angle between a point and its class: finite at cosines of -1 and 1, and never falling as the cosine grows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metriczoo._checks import check_choice

__all__ = ["GRADIENTS", "add_angle", "column", "multiply_angle", "with_margin"]

GRADIENTS = ("detached", "exact")


def column(x: float | Tensor) -> float | Tensor:
    """A number for each anchor, `[b]`, as `[b, 1]`, so that it meets scores `[b, n]`; one number for all as it is."""
    return x.unsqueeze(1) if isinstance(x, Tensor) and x.dim() == 1 else x


def with_margin(cosine: Tensor, margin: Callable[[Tensor], Tensor], gradient: str) -> Tensor:
    """`margin(cosine)`, whose derivative by the cosine is its own, or 1 where `gradient` is "detached"."""
    if check_choice("gradient", gradient, GRADIENTS) == "exact":
        return margin(cosine)
    constant = cosine.detach()
    return margin(constant) + (cosine - constant)


def add_angle(cosine: Tensor, angle: float | Tensor) -> Tensor:
    """`cos(theta + angle)`, for angles in [-pi / 2, pi / 2].

    Where theta + angle exceeds pi it is `cos(theta) - angle sin(angle)`, which goes on falling; where it is below 0 it is 1.
    """
    shift = torch.as_tensor(angle, dtype=cosine.dtype, device=cosine.device)
    along, across = shift.cos(), shift.sin()
    added = cosine * along - _sine(cosine) * across
    added = torch.where((shift > 0) & (cosine < -along), cosine - shift * across, added)
    return torch.where((shift < 0) & (cosine > along), 1.0, added)


def _sine(cosine: Tensor) -> Tensor:
    """`sin(theta)`, with derivative 0 where it is 0."""
    square = (1 - cosine) * (1 + cosine)
    inside = square > 0
    return torch.where(inside, torch.where(inside, square, 1.0).sqrt(), 0.0)


def multiply_angle(cosine: Tensor, factor: float) -> Tensor:
    """`(-1)^k cos(m theta) - 2 k` for theta in [k pi / m, (k + 1) pi / m], m = `factor` >= 1: falls with theta from 1 on."""
    turns = sum(((cosine < math.cos(k * math.pi / factor)).to(cosine.dtype) for k in range(1, math.ceil(factor))), torch.zeros_like(cosine))
    return (1 - 2 * (turns % 2)) * _cosine_of_multiple(cosine, factor) - 2 * turns


def _cosine_of_multiple(cosine: Tensor, factor: float) -> Tensor:
    if factor == int(factor):  # a polynomial of Chebyshev, which has no singular derivative
        before, now = torch.ones_like(cosine), cosine
        for _ in range(int(factor) - 1):
            before, now = now, 2 * cosine * now - before
        return now
    inside = cosine.abs() < 1
    angle = torch.where(inside, torch.where(inside, cosine, 0.0).acos(), torch.where(cosine > 0, 0.0, math.pi))
    return (factor * angle).cos()
