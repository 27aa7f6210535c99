"""The landscape of a loss over the similarities of one negative and one positive."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._checks import check_count, check_number, describe
from metriczoo._execution import full_precision
from metriczoo.losses.base import Loss
from metriczoo.plots._figure import new_figure
from metriczoo.reduction import totals
from metriczoo.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["loss_landscape"]

_RESOLUTION = 98  # 97 steps, a prime: a usual margin then lies between two scores, not on one, where rounding would decide who pays
_ARROWS = 9  # per side of the plane
_FLAT = 1e-3  # a gradient below this share of the largest one gets no arrow

Array = NDArray[np.float64]


def loss_landscape(loss: Loss, *, limits: tuple[float, float] | None = None, resolution: int = _RESOLUTION) -> Figure:
    r"""The loss of an anchor with one negative and one positive, and its two gradients, over the plane of their similarities.

    Three panels with s_n to the right and s_p upwards: :math:`L(s_n, s_p)`, :math:`\partial L / \partial s_n` and
    :math:`\partial L / \partial s_p`. A well-placed pair is at the top left. Arrows on the first panel point where gradient descent moves
    a pair, wherever it moves it. Both gradients share one scale, symmetric about 0. Only `per_anchor` of the loss takes part: its
    similarity, miner and reduction do not.

    Args:
        loss: the loss. One that learns or estimates something is shown in its present state.
        limits: `(low, high)`, the scores to show. Default: (-2, 0) if the similarity of the loss is a negated distance, else (-1, 1).
        resolution: number of scores per axis, at least 2. Default: 98.

    Returns:
        A figure whose first three axes hold the images, `[resolution, resolution]`, row 0 at the lowest s_p. Points without a finite
        value are blank.

    Raises:
        TypeError: if `loss` is not a `Loss`.
        ValueError: if limits are no interval, or no value is finite: a loss that estimates something on its first call needs that
            call first.

    Example:
        >>> from metriczoo.losses import TripletMarginLoss
        >>> figure = loss_landscape(TripletMarginLoss(margin=0.5), resolution=3)
        >>> figure.axes[0].images[0].get_array().data
        array([[0.5, 1.5, 2.5],
               [0. , 0.5, 1.5],
               [0. , 0. , 0.5]])

    Relations:
        `similarity_histogram` shows where on the two axes the pairs of a data set are.

    References:
        Sun et al. Circle Loss: A Unified Perspective of Pair Similarity Optimization. CVPR 2020, which compares gradients in this plane.
    """
    if not isinstance(loss, Loss):
        raise TypeError(f"Expected `loss` to be a Loss, but got {describe(loss)}. A function becomes one by `losses.from_function`.")
    low, high = _interval(loss, limits)
    scores = torch.linspace(low, high, check_count("resolution", resolution, low=2))
    value, slope_n, slope_p = (np.ma.masked_invalid(surface) for surface in _surfaces(loss, scores))
    if not value.count():
        raise ValueError(
            "Expected `loss` to have finite values on the plane, but all are NaN or infinite. "
            "Is there something that it estimates on its first call? Then call it once before."
        )
    figure = new_figure(10, 2.8)
    figure.set_layout_engine("compressed", w_pad=0.08)  # square panels: the bars keep to their height
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    peak = max(float(np.ma.max(abs(slope))) if slope.count() else 0.0 for slope in (slope_n, slope_p)) or 1.0
    half = (high - low) / (len(scores) - 1) / 2  # pixels lie about their scores
    place: dict[str, Any] = {"origin": "lower", "extent": (low - half, high + half) * 2, "interpolation": "bilinear"}
    image = axes[0].imshow(value, cmap="viridis", **place)
    figure.colorbar(image, ax=axes[0])
    for panel, slope in zip(axes[1:], (slope_n, slope_p), strict=True):
        image = panel.imshow(slope, cmap="RdBu_r", vmin=-peak, vmax=peak, **place)
    figure.colorbar(image, ax=axes[1:])
    _draw_contours(axes[0], scores.numpy(), value)
    _draw_arrows(axes[0], scores.numpy(), slope_n, slope_p)
    for panel, title in zip(axes, ("$L$", r"$\partial L / \partial s_n$", r"$\partial L / \partial s_p$"), strict=True):
        panel.set(title=title, xlabel="$s_n$, negative", xlim=(low, high), ylim=(low, high))
    axes[0].set_ylabel("$s_p$, positive")
    return figure


def _interval(loss: Loss, limits: tuple[float, float] | None) -> tuple[float, float]:
    if limits is None:
        return (-2.0, 0.0) if loss.similarity.is_distance else (-1.0, 1.0)
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise ValueError(f"Expected `limits` to be a pair (low, high), but got {describe(limits)}.")
    low, high = (check_number("limits", limit) for limit in limits)
    if low >= high:
        raise ValueError(f"Expected `limits` to be a pair (low, high) with low < high, but got {describe(limits)}.")
    return low, high


def _surfaces(loss: Loss, scores: Tensor) -> tuple[Array, Array, Array]:
    """Loss and gradients by s_n and s_p, each `[s_p, s_n]`."""
    held = next(itertools.chain(loss.parameters(), loss.buffers()), scores)
    with torch.inference_mode(False), torch.enable_grad(), full_precision(held):
        scores = scores.to(held.device, copy=True)
        s_p, s_n = (s.reshape(-1, 1).requires_grad_() for s in torch.meshgrid(scores, scores, indexing="ij"))
        together = len(s_n) if loss.separable else 1  # anchors that are coupled must not meet
        value = torch.cat([_values(loss, Scores(n), Scores(p)) for n, p in zip(s_n.split(together), s_p.split(together), strict=True)])
        slopes: tuple[Tensor, ...] = (torch.zeros_like(s_n), torch.zeros_like(s_p))
        if value.requires_grad:
            slopes = torch.autograd.grad(value.sum(), (s_n, s_p), materialize_grads=True)
    surfaces = (t.detach().reshape(len(scores), -1).cpu().double().numpy() for t in (value, *slopes))
    return next(surfaces), next(surfaces), next(surfaces)


def _values(loss: Loss, s_n: Scores, s_p: Scores) -> Tensor:
    """`[b]`: the loss of each anchor, its terms averaged apart and added, as reduction "mean" does."""
    keep = torch.ones(len(s_n.value), dtype=torch.bool, device=s_n.value.device)
    result = loss.per_anchor(s_n, s_p)
    sums = totals(result, s_n, s_p, keep, needs_positives=loss.needs_positives, needs_negatives=loss.needs_negatives)
    return (sums.value / sums.groups.clamp(min=1)).sum(1)


def _draw_contours(axes: Axes, scores: Array, value: np.ma.MaskedArray[Any, Any]) -> None:
    if value.min() < value.max():  # matplotlib warns of a plain without contours
        axes.contour(scores, scores, value, levels=8, colors="white", linewidths=0.6, alpha=0.5)


def _draw_arrows(axes: Axes, scores: Array, slope_n: np.ma.MaskedArray[Any, Any], slope_p: np.ma.MaskedArray[Any, Any]) -> None:
    """Directions of descent on a coarse grid, all of one length, since the other panels show the lengths."""
    step = (scores[-1] - scores[0]) / _ARROWS
    at = np.unique(np.linspace(0, len(scores) - 1, 2 * _ARROWS + 1)[1::2].round().astype(int))
    s_n, s_p = np.meshgrid(scores[at], scores[at])
    u, v = (-slope[np.ix_(at, at)].filled(0.0) for slope in (slope_n, slope_p))
    length = np.hypot(u, v)
    steep = length > _FLAT * length.max()
    if steep.any():
        u, v = (0.6 * step * part[steep] / length[steep] for part in (u, v))
        axes.quiver(s_n[steep], s_p[steep], u, v, angles="xy", scale_units="xy", scale=1, pivot="middle", color="white", width=0.006)
