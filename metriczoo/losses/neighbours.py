"""Losses by the share that an anchor's class has among its neighbours."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metriczoo._checks import Bounds, check_flag
from metriczoo._execution import reads_are_free
from metriczoo.columns import Columns, Points
from metriczoo.functional.neighbours import instance, nca, soft_nearest_neighbor
from metriczoo.losses._learned import LearnedPositive, number_of, value_of
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.references import References, as_references
from metriczoo.scores import Scores
from metriczoo.similarity import NegativeSquaredEuclidean, Similarity
from metriczoo.stores import Proxies

__all__ = ["InstanceLoss", "NCALoss", "SoftNearestNeighborLoss"]

_POSITIVE = Bounds(0, open_low=True)


class NCALoss(Loss):
    """Neighbourhood components analysis on a batch: `functional.nca`, on squared Euclidean distances of raw embeddings.

    Args:
        scale: gamma > 0, of the squared distances.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> NCALoss()(torch.eye(4), [0, 0, 1, 1])
        tensor(1.0986)

    References:
        Goldberger, Roweis, Hinton, Salakhutdinov. Neighbourhood Components Analysis. NIPS 2004.
    """

    scale: float | Tensor

    bounds: ClassVar = {"scale": _POSITIVE}

    def __init__(self, scale: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(scale=scale)

    def default_similarity(self) -> Similarity:
        """Squared Euclidean distance, negated."""
        return NegativeSquaredEuclidean()

    @property
    def tags(self) -> Tags:
        """The share of the class in a softmax: pull and push are alike and bounded."""
        return Tags(shift=True, bound=number_of(self.scale), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return nca(s_n, s_p, scale=self.scale)


class SoftNearestNeighborLoss(Loss):
    """Soft nearest neighbour loss: `functional.soft_nearest_neighbor`, on squared Euclidean distances of raw embeddings.

    Args:
        temperature: T > 0.
        learn_temperature: whether the temperature is a parameter, learned by its logarithm and kept above 0.01, as in the paper.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> SoftNearestNeighborLoss()(torch.eye(4), [0, 0, 1, 1])
        tensor(1.0986)

    References:
        Frosst, Papernot, Hinton. Analyzing and Improving Representations with the Soft Nearest Neighbor Loss. ICML 2019.
    """

    temperature: float | Tensor | LearnedPositive

    bounds: ClassVar = {"temperature": _POSITIVE}

    def __init__(self, temperature: float = 1.0, *, learn_temperature: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature)
        if check_flag("learn_temperature", learn_temperature):
            self.temperature = LearnedPositive(temperature, low=0.01, high=1e4)

    def default_similarity(self) -> Similarity:
        """Squared Euclidean distance, negated."""
        return NegativeSquaredEuclidean()

    @property
    def tags(self) -> Tags:
        """The share of the class in a softmax: pull and push are alike and bounded."""
        return Tags(shift=True, bound=1 / number_of(self.temperature), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return soft_nearest_neighbor(s_n, s_p, temperature=value_of(self.temperature))


class InstanceLoss(Loss):
    """Instance loss: `functional.instance`, on points that are merged by label.

    A label names an instance. The embeddings of one label are merged to their mean, in the batch and in the references, so that an
    instance is one anchor and one reference. A batch without references is compared with itself, an anchor with its own mean included:
    others are pushed away. With `loss(images, ids, (texts, ids))` texts are drawn to their images, too.

    Args:
        scale: gamma > 0.
        options: as of `Loss`. Reduction "mean" is over instances; "none" gives that of an instance at its first embedding and 0 at
            its others.

    Example:
        >>> import torch
        >>> InstanceLoss()(torch.eye(3), [5, 3, 9]) < 1e-12
        tensor(True)
        >>> InstanceLoss(scale=1.0)(torch.eye(3), [5, 3, 9])
        tensor(0.5514)

    References:
        Zheng, Zheng, Garrett, Yang, Xu, Shen. Dual-Path Convolutional Image-Text Embeddings with Instance Loss. ACM TOMM 2020.
    """

    scale: float | Tensor

    bounds: ClassVar = {"scale": _POSITIVE}

    def __init__(self, scale: float = 32.0, **options: Any) -> None:
        super().__init__(**options)
        self._set(scale=scale)

    @property
    def tags(self) -> Tags:
        """A softmax. In a batch compared with itself an instance is a positive of its own."""
        return Tags(shift=True, bound=number_of(self.scale), saturates=False, needs_positives=False, needs_negatives=True, per_point=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per instance."""
        return instance(s_n, s_p, scale=self.scale)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        if labels.dim() != 1:
            raise ValueError(f"Expected `labels` of shape [n], one per instance, but got shape {list(labels.shape)}.")
        references = self.proxies if references is None else references
        merged, instances = _merge(anchors, labels)
        if references is None:
            prepared, points = self.similarity.prepare(merged), Points(instances)  # without ids, since an instance is its own positive
            return self._columns(points, points, prepared, None)
        if not isinstance(references, Proxies):  # which are one per class already
            parts = as_references(references, anchors, labels, None)[0]
            together = torch.cat([part.embeddings.to(anchors.dtype) for part in parts]), torch.cat([part.labels for part in parts])
            references = References(*_merge(*together))
        return super()._meet(merged, instances, references, None)


def _merge(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Means by label in place of the first point of each, and labels -1 for the others."""
    n = len(labels)
    if reads_are_free(labels):
        known = labels.numpy()
        if (known[1:] > known[:-1]).all() or np.diff(np.sort(known)).all():  # nothing to merge
            return x, labels
    ordered, order = labels.sort(stable=True)
    places = torch.arange(n, device=labels.device)
    starts = torch.cat([ordered.new_ones(min(n, 1), dtype=torch.bool), ordered[1:] != ordered[:-1]])
    first = torch.where(starts, places, 0).cummax(0).values if n else places
    heads = torch.empty_like(places).scatter(0, order, order[first])  # of each point, the first with its label
    sums = torch.zeros_like(x).index_add(0, heads, x)
    counts = x.new_zeros(n).index_add(0, heads, x.new_ones(n))
    return sums / counts.clamp(min=1).unsqueeze(1), torch.where(heads == places, labels, -1)
