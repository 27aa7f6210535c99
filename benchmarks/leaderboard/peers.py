"""Losses of pytorch-metric-learning that are equal to ours, with the same settings and the same start."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from math import degrees
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.losses import Objective
from metriczoo import losses
from metriczoo.miners import SemiHardMiner
from metriczoo.similarity import Cosine, NegativeEuclidean, NegativeSquaredEuclidean

__all__ = ["EXACT", "PEER", "PeerObjective", "equal_of", "is_detached", "with_exact_gradient"]

PEER = "pytorch-metric-learning"
EXACT = "exact gradient"  # of a loss whose own is another, as its authors compute it
_WEIGHTS = ("W", "proxies", "fc")  # what class weights are called there


class PeerObjective(nn.Module):
    """The loss of the other library in the place of one of ours.

    Args:
        ours: which one, with its settings.

    Raises:
        ImportError: the library is not installed.
        ValueError: it has no equal.
    """

    def __init__(self, ours: Objective) -> None:
        super().__init__()
        found = equal_of(ours.loss)
        if found is None or ours.hyper_parameters.get("memory_bank"):
            raise ValueError(f"{PEER} has no loss that is equal to {type(ours.loss).__name__} with these settings.")
        self.loss = found
        self.preset, self.sees_labels = ours.preset, ours.sees_labels
        self.hyper_parameters = {**ours.hyper_parameters, "library": f"{PEER} {version(PEER)}"}

    def forward(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """The loss of a batch."""
        embeddings = embeddings if self.preset.length is None else self.preset.length * embeddings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about how the other library calls it
            value: Tensor = self.loss(embeddings, labels)
        return value

    def remember(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Nothing."""


def equal_of(ours: nn.Module) -> nn.Module | None:
    """The loss of the other library that gives the same value for unit vectors, or None.

    It gives the same gradient as well, unless ours `is_detached`, and it starts with the same class weights, as far as it has some.

    Raises:
        ImportError: the library is not installed.
    """
    make = _EQUALS.get(type(ours).__name__)
    if make is None:
        return None
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # the draws of training stay those that it has with ours
            warnings.simplefilter("ignore")
            modules = (import_module(f"pytorch_metric_learning.{name}") for name in ("losses", "distances", "regularizers"))
            library = _Library(*modules)
            found = make(ours, library) if _is_plain(ours) else None
    except ImportError as error:
        raise ImportError(f"--peer needs `pip install metriczoo[peers]`: {error}.") from error
    if found is not None and getattr(ours, "proxies", None) is not None:
        _start_alike(found, ours.proxies.weight)  # type: ignore[union-attr, arg-type]
    return found


def is_detached(ours: nn.Module) -> bool:
    """Whether the gradient of a loss is not that of its value, which the other library has: see `metriczoo.functional.arc_face`."""
    return getattr(ours, "gradient", None) == "detached"


def with_exact_gradient(ours: Objective) -> Objective:
    """A loss that `is_detached`, changed to the gradient of its value."""
    ours.loss.gradient = "exact"  # type: ignore[assignment]
    ours.hyper_parameters["gradient"] = "exact"
    return ours


class _Library:
    """The modules of the other library."""

    def __init__(self, losses: ModuleType, distances: ModuleType, regularizers: ModuleType) -> None:
        self.losses, self.distances, self.regularizers = losses, distances, regularizers


def _is_plain(ours: Any) -> bool:
    """Whether a loss compares what the other library compares, as far as that is the same for all losses."""
    semi_hard = isinstance(ours.miner, SemiHardMiner) and isinstance(ours, losses.TripletMarginLoss)
    reductions = ("mean", "mean_active") if isinstance(ours, (losses.ContrastiveLoss, losses.TripletMarginLoss)) else ("mean",)
    return (ours.miner is None or semi_hard) and ours.reduction in reductions


@torch.no_grad()
def _start_alike(theirs: nn.Module, weight: Tensor) -> None:
    (own,) = (parameter for name, parameter in theirs.named_parameters() if name in _WEIGHTS)
    own.copy_(weight if own.shape == weight.shape else weight.T)


def _sizes(ours: Any) -> tuple[int, int]:
    return ours.proxies.num_classes, ours.proxies.embedding_dim


def _is_fixed(value: Any) -> bool:
    """Whether a hyper-parameter is a number, and not learned."""
    return not isinstance(value, nn.Module)


def _on_distances(ours: Any) -> bool:
    return isinstance(ours.similarity, NegativeEuclidean) and ours.similarity.normalize


def _contrastive(ours: Any, peer: _Library) -> nn.Module | None:
    if not isinstance(ours.similarity, Cosine) or ours.reduction != "mean_active":
        return None
    distance = peer.distances.CosineSimilarity()
    found: nn.Module = peer.losses.ContrastiveLoss(pos_margin=ours.positive_margin, neg_margin=ours.negative_margin, distance=distance)
    return found


class _SemiHard(nn.Module):
    """A triplet loss behind the rule of FaceNet, which the other library does not have: of each pair the nearest semi-hard negative."""

    def __init__(self, loss: nn.Module, margin: float) -> None:
        super().__init__()
        self.loss, self.margin = loss, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            unit = nn.functional.normalize(embeddings)
            scores = unit @ unit.T
            same = labels[:, None] == labels
            anchors, positives = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero(as_tuple=True)
            of_pair = scores[anchors, positives][:, None]
            negatives = scores[anchors].masked_fill(same[anchors] | (scores[anchors] >= of_pair), -torch.inf)
            best, columns = negatives.max(1)
            kept = best > of_pair[:, 0] - self.margin
        value: Tensor = self.loss(embeddings, labels, (anchors[kept], positives[kept], columns[kept]))
        return value


def _triplet(ours: Any, peer: _Library) -> nn.Module | None:
    if ours.penalty != "hinge" or ours.swap:
        return None
    semi_hard = ours.miner is not None
    if isinstance(ours.similarity, Cosine) and (ours.reduction == "mean_active" or (semi_hard and ours.miner.margin <= ours.margin)):
        loss: nn.Module = peer.losses.TripletMarginLoss(margin=ours.margin, distance=peer.distances.CosineSimilarity())
        return _SemiHard(loss, ours.miner.margin) if semi_hard and not ours.miner.draws else None if semi_hard else loss
    if _on_distances(ours) and ours.reduction == "mean_active" and not semi_hard:
        loss = peer.losses.TripletMarginLoss(margin=ours.margin)
        return loss
    return None


def _if(condition: Callable[[Any], bool], make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], nn.Module | None]:
    return lambda ours, peer: make(ours, peer.losses) if condition(ours) else None


def _on_cosines(make: Callable[[Any, Any], Any], more: Callable[[Any], bool] = lambda ours: True) -> Callable[[Any, Any], nn.Module | None]:
    return _if(lambda ours: isinstance(ours.similarity, Cosine) and more(ours), make)


def _nca(ours: Any, peer: _Library) -> nn.Module | None:
    squared = isinstance(ours.similarity, NegativeSquaredEuclidean) and ours.similarity.normalize
    factor = 1.0 if squared else 0.5 if isinstance(ours.similarity, Cosine) else None
    return None if factor is None else peer.losses.NCALoss(softmax_scale=factor * ours.scale)


def _soft_triple(ours: Any, peer: _Library) -> nn.Module | None:
    classes, dim = _sizes(ours)
    per_class = ours.proxies.per_class
    options: dict[str, Any] = {"centers_per_class": per_class, "la": ours.scale, "gamma": ours.temperature, "margin": ours.margin}
    if ours.regularization and per_class > 1:
        options |= {"weight_regularizer": peer.regularizers.SparseCentersRegularizer(classes, per_class)}
        options |= {"weight_reg_weight": ours.regularization}
    found: nn.Module = peer.losses.SoftTripleLoss(classes, dim, **options)
    return found


# By the name of our class, and only with settings that the other library has: docs/migration.rst has the same names side by side.
_EQUALS: dict[str, Callable[[Any, Any], nn.Module | None]] = {
    "AMSoftmaxLoss": _on_cosines(lambda o, p: p.CosFaceLoss(*_sizes(o), margin=o.margin, scale=o.scale)),
    "AngularLoss": _if(lambda o: True, lambda o, p: p.AngularLoss(alpha=o.angle)),
    "ArcFaceLoss": _on_cosines(lambda o, p: p.ArcFaceLoss(*_sizes(o), margin=degrees(o.margin), scale=o.scale)),
    "CircleLoss": _on_cosines(lambda o, p: p.CircleLoss(m=o.margin, gamma=o.scale), lambda o: o.pooling == "anchor"),
    "ContrastiveLoss": _contrastive,
    "CosFaceLoss": _on_cosines(lambda o, p: p.CosFaceLoss(*_sizes(o), margin=o.margin, scale=o.scale)),
    "FastAPLoss": _if(lambda o: True, lambda o, p: p.FastAPLoss(num_bins=o.num_bins)),
    "GeneralizedLiftedStructureLoss": _if(_on_distances, lambda o, p: p.GeneralizedLiftedStructureLoss(neg_margin=o.margin)),
    "HistogramLoss": _on_cosines(lambda o, p: p.HistogramLoss(n_bins=o.num_bins)),
    "IntraPairVarianceLoss": _on_cosines(lambda o, p: p.IntraPairVarianceLoss(pos_eps=o.margin, neg_eps=o.margin)),
    "LargeMarginSoftmaxLoss": _if(lambda o: o.annealing is None, lambda o, p: p.LargeMarginSoftmaxLoss(*_sizes(o), margin=o.margin)),
    "LiftedStructureLoss": _if(_on_distances, lambda o, p: p.LiftedStructureLoss(neg_margin=o.margin)),
    "MultiSimilarityLoss": _on_cosines(
        lambda o, p: p.MultiSimilarityLoss(alpha=o.positive_scale, beta=o.negative_scale, base=o.threshold),
    ),
    "NCALoss": _nca,
    "NormFaceLoss": _on_cosines(lambda o, p: p.NormalizedSoftmaxLoss(*_sizes(o), temperature=1 / o.scale), lambda o: _is_fixed(o.scale)),
    "NTXentLoss": _on_cosines(lambda o, p: p.NTXentLoss(temperature=o.temperature), lambda o: not o.symmetric and _is_fixed(o.temperature)),
    "ProxyAnchorLoss": _on_cosines(lambda o, p: p.ProxyAnchorLoss(*_sizes(o), margin=o.margin, alpha=o.scale)),
    "ProxyNCAPlusPlusLoss": _if(lambda o: True, lambda o, p: p.ProxyNCALoss(*_sizes(o), softmax_scale=1 / o.temperature)),
    "SoftTripleLoss": _soft_triple,
    "SphereFaceLoss": _if(
        lambda o: o.annealing is None, lambda o, p: p.SphereFaceLoss(*_sizes(o), margin=o.margin, scale=1.0 if o.scale is None else o.scale)
    ),
    "SubCenterArcFaceLoss": _on_cosines(
        lambda o, p: p.SubCenterArcFaceLoss(
            num_classes=_sizes(o)[0],
            embedding_size=_sizes(o)[1],
            sub_centers=o.proxies.per_class,
            margin=degrees(o.margin),
            scale=o.scale,
        )
    ),
    "SupConLoss": _on_cosines(lambda o, p: p.SupConLoss(temperature=o.temperature), lambda o: o.form == "out"),
    "ThresholdConsistentMarginLoss": _on_cosines(
        lambda o, p: p.ThresholdConsistentMarginLoss(
            margin_plus=o.positive_margin, margin_minus=o.negative_margin, lambda_plus=o.positive_weight, lambda_minus=o.negative_weight
        )
    ),
    "TripletMarginLoss": _triplet,
    "TupletMarginLoss": _on_cosines(lambda o, p: p.TupletMarginLoss(margin=degrees(o.margin), scale=o.scale)),
}
