"""Losses of other libraries as subjects of the conformance kit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metriczoo.testing import Subject, Tags

__all__ = ["LIBRARIES", "pytorch_metric_learning"]

NUM_CLASSES, EMBEDDING_DIM = 3, 3


class _ByReferences(nn.Module):
    """A pair loss of pytorch-metric-learning, called as ours are."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Any, references: tuple[Tensor, Any] | None = None) -> Tensor:
        labels = torch.as_tensor(labels, device=embeddings.device)
        if references is None:
            value: Tensor = self.loss(embeddings, labels)
            return value
        others = torch.as_tensor(references[1], device=embeddings.device)
        value = self.loss(embeddings, labels, ref_emb=references[0], ref_labels=others)
        return value


class _ByLabels(nn.Module):
    """A loss of pytorch-metric-learning that takes no references; one with weights for each class knows few labels, of one dimension."""

    def __init__(self, loss: nn.Module, num_classes: int | None = None, embedding_dim: int | None = None) -> None:
        super().__init__()
        self.loss, self.num_classes, self.embedding_dim = loss, num_classes, embedding_dim

    def forward(self, embeddings: Tensor, labels: Any) -> Tensor:
        value: Tensor = self.loss(embeddings, torch.as_tensor(labels, device=embeddings.device))
        return value


_BOTH = Tags(needs_positives=True, needs_negatives=True)
_EITHER = Tags(needs_positives=False, needs_negatives=False)
_POSITIVES = Tags(needs_positives=True)
# Name -> promises of its paper: what an anchor needs to have a loss.
_PAIRS = {
    "AngularLoss": _BOTH,
    "CircleLoss": replace(_BOTH, self_paced=True),
    "ContrastiveLoss": _EITHER,
    "DynamicSoftMarginLoss": replace(_BOTH, self_paced=True),
    "FastAPLoss": _POSITIVES,
    "GeneralizedLiftedStructureLoss": _BOTH,
    "HistogramLoss": _BOTH,
    "InstanceLoss": Tags(),
    "IntraPairVarianceLoss": Tags(),
    "LiftedStructureLoss": _BOTH,
    "MarginLoss": Tags(),
    "MultiSimilarityLoss": Tags(),
    "NCALoss": _BOTH,
    "NPairsLoss": _BOTH,
    "NTXentLoss": _BOTH,
    "PNPLoss": _POSITIVES,
    "RankedListLoss": Tags(self_paced=True),
    "SignalToNoiseRatioContrastiveLoss": _EITHER,
    "SmoothAPLoss": _POSITIVES,
    "SupConLoss": _POSITIVES,
    "ThresholdConsistentMarginLoss": Tags(),
    "TripletMarginLoss": _BOTH,
    "TupletMarginLoss": _BOTH,
}
_BATCH_ONLY = {"FastAPLoss", "HistogramLoss", "InstanceLoss", "NPairsLoss", "PNPLoss", "SmoothAPLoss"}
_CLASSES = (
    "ArcFaceLoss",
    "CosFaceLoss",
    "LargeMarginSoftmaxLoss",
    "NormalizedSoftmaxLoss",
    "P2SGradLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
)
_ARGUMENTS: dict[str, dict[str, Any]] = {"HistogramLoss": {"n_bins": 100}, "RankedListLoss": {"margin": 0.4, "Tn": 5.0}}


def pytorch_metric_learning() -> list[Subject]:
    """Every loss on batches of pytorch-metric-learning, with the defaults that it documents.

    Raises:
        ImportError: where it is not installed.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        from pytorch_metric_learning import losses

        subjects = []
        for name, tags in _PAIRS.items():
            loss = getattr(losses, name)(**_ARGUMENTS.get(name, {}))
            subjects.append(Subject((_ByLabels if name in _BATCH_ONLY else _ByReferences)(loss), tags=tags, name=name))
        for name in _CLASSES:
            dimension = "descriptors_dim" if name == "P2SGradLoss" else "embedding_size"
            loss = getattr(losses, name)(**{"num_classes": NUM_CLASSES, dimension: EMBEDDING_DIM})
            subjects.append(Subject(_ByLabels(loss, NUM_CLASSES, EMBEDDING_DIM), name=name))
    return subjects


def _metriczoo() -> list[Subject]:
    from metriczoo.testing.zoo import ZOO

    return ZOO


LIBRARIES: dict[str, Callable[[], list[Subject]]] = {"metriczoo": _metriczoo, "pytorch-metric-learning": pytorch_metric_learning}
