"""Health of embeddings: whether they use the space they have, or collapse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metriczoo._checks import as_labels
from metriczoo._execution import full_precision
from metriczoo.metrics._inputs import Embeddings, Integers, as_embeddings, budget_of
from metriczoo.metrics._result import MetricResult
from metriczoo.similarity import unit

__all__ = ["embedding_health"]

_SHARPNESS = 2.0  # t of the uniformity, as in the paper
_CELL_BYTES = 16  # what the uniformity holds per pair


def embedding_health(embeddings: Embeddings, labels: Integers | None = None, *, memory_budget: int | None = None) -> MetricResult:
    r"""Alignment, uniformity, signs of collapse, spectrum and norms of embeddings.

    All but the norms are of the unit vectors \(\hat x\). Pairs are of different points.

    ================ =====================================================================================================
    `uniformity`     \(\log E\, e^{-2 \|\hat x - \hat y\|^2}\) over all pairs: 0 for a collapsed set, -4 at best for large d
    `mean_cosine`    mean cosine of all pairs: 1 for a collapsed set, 0 for a spread one
    `spread`         \(\sqrt d\) times the mean standard deviation of a component: 0 for a collapsed set, near 1 for a spread one
    `effective_rank` exponential of the entropy of the singular values (of the centred set, as shares of their sum): from
                     1 to d, and 0 for a collapsed set
    `spectral_decay` exponent \(\alpha\) of \(\lambda_i \propto i^{-\alpha}\), fitted to the eigenvalues of the covariance: 0 if all
                     directions are alike, infinite if there is one at most
    `norm_*`         mean, standard deviation, smallest and largest norm; `num_zero` counts zero vectors
    `alignment`      with labels: \(E \|\hat x - \hat y\|^2\) over pairs of one class: 0 if each class is one point
    ================ =====================================================================================================

    Args:
        embeddings: `[n, d]`, floating point, finite.
        labels: `[n]`, integers, for the alignment; points with a label < 0 have no class.
        memory_budget: bytes that the scores of one chunk may take, as for `retrieval_metrics`.

    Returns:
        The values above, `num_points` and `embedding_dim`. A mean over no pairs is NaN.

    Raises:
        TypeError: if embeddings are not floating point or labels not integers.
        ValueError: if shapes do not match, the set is empty, or a value is NaN or infinite.

    Example:
        >>> health = embedding_health(torch.eye(4), [0, 0, 1, 1])
        >>> health["alignment"], health["mean_cosine"], round(health["effective_rank"], 6), health["norm_mean"]
        (2.0, 0.0, 3.0, 1.0)

    Relations:
        `retrieval_metrics` says whether the neighbours are right, this whether the space is used; a collapsed set has perfect alignment.

    References:
        Tongzhou Wang, Phillip Isola. Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere.
        ICML 2020.

        Olivier Roy, Martin Vetterli. The effective rank: A measure of effective dimensionality. EUSIPCO 2007.

        Kumar Krishna Agrawal, Arnab Kumar Mondal, Arna Ghosh, Blake Richards. alpha-ReQ: Assessing Representation Quality in
        Self-Supervised Learning by measuring eigenspectrum decay. NeurIPS 2022.
    """
    points = as_embeddings("embeddings", embeddings)
    n, d = points.shape
    label = None if labels is None else as_labels(labels, length=n, device=points.device)
    height = max(1, budget_of(memory_budget, points.device) // (_CELL_BYTES * max(n, d)))
    with torch.no_grad(), full_precision(points):
        x = unit(points)
        mean = sum((part.double().sum(0) for part in x.split(height)), points.new_zeros(d, dtype=torch.float64)) / n
        covariance = _covariance(x, mean, height)
        values = {
            "uniformity": _uniformity(x, height),
            "mean_cosine": _mean_cosine(x, mean),
            "spread": d**0.5 * float(covariance.diagonal().sqrt().mean()),
            **_spectrum(covariance, torch.finfo(x.dtype).eps),
            **_norms(points),
        }
        if label is not None:
            values["alignment"] = _alignment(x, label)
    return MetricResult({**values, "num_points": n, "embedding_dim": d})


def _covariance(x: Tensor, mean: Tensor, height: int) -> Tensor:
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=x.device)
    for part in x.split(height):
        centred = part.double() - mean
        covariance += centred.mT @ centred
    return covariance / len(x)


def _uniformity(x: Tensor, height: int) -> float:
    n = len(x)
    square = x.square().sum(1)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, n, height):
        rows = slice(start, start + height)
        distance = (square[rows].unsqueeze(1) + square[start:] - 2 * (x[rows] @ x[start:].mT)).clamp(min=0)
        total += distance.mul_(-_SHARPNESS).exp_().triu(diagonal=1).sum(dtype=torch.float64)
    return float((total / (n * (n - 1) / 2)).log()) if n > 1 else math.nan


def _mean_cosine(x: Tensor, mean: Tensor) -> float:
    n = len(x)
    own = float(x.square().sum(dtype=torch.float64))
    return (float((n * mean).square().sum()) - own) / (n * (n - 1)) if n > 1 else math.nan


def _spectrum(covariance: Tensor, eps: float) -> dict[str, float]:
    values = torch.linalg.eigvalsh(covariance).flip(0)
    noise = max(eps**2, len(values) * torch.finfo(values.dtype).eps * float(values[0]))  # rounding of unit vectors, and of this
    values = values[values > noise]
    if len(values) < 2:
        return {"effective_rank": float(len(values)), "spectral_decay": math.inf}
    share = values.sqrt() / values.sqrt().sum()
    place, height = torch.arange(1, len(values) + 1, device=values.device).double().log(), values.log()
    place, height = place - place.mean(), height - height.mean()
    return {
        "effective_rank": float(torch.exp(-(share * share.log()).sum())),
        "spectral_decay": -float((place * height).sum() / place.square().sum()),
    }


def _norms(points: Tensor) -> dict[str, float]:
    norms = torch.linalg.vector_norm(points, dim=1, dtype=torch.float64)
    values = {"mean": norms.mean(), "std": norms.std(correction=0), "min": norms.min(), "max": norms.max()}
    return {**{f"norm_{name}": float(value) for name, value in values.items()}, "num_zero": int((norms == 0).sum())}


def _alignment(x: Tensor, label: Tensor) -> float:
    x, label = x[label >= 0], label[label >= 0]
    classes, index, count = label.unique(return_inverse=True, return_counts=True)
    pairs = int((count * (count - 1) // 2).sum())
    if pairs == 0:
        return math.nan
    # The squared distances of all pairs of a class of m points add up to m times those to its mean.
    centre = torch.zeros(len(classes), x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, index, x.double()) / count.unsqueeze(
        1
    )
    return float(((x - centre[index]).square().sum(1) * count[index]).sum() / pairs)
