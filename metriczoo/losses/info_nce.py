"""Contrastive losses by softmax."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo._checks import Bounds, check_choice, check_flag
from metriczoo.columns import AcrossColumns, Columns, Points
from metriczoo.functional.info_nce import (
    SUPCON_FORMS,
    decoupled_contrastive,
    nt_xent,
    pooled_weights,
    supcon,
    weighted_decoupled_contrastive,
    weights_of_positives,
)
from metriczoo.losses._learned import LearnedPositive, number_of, value_of
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores, Terms

__all__ = ["DecoupledContrastiveLoss", "InfoNCELoss", "NTXentLoss", "SupConLoss", "WeightedDecoupledContrastiveLoss"]

_POSITIVE = Bounds(0, open_low=True)


class NTXentLoss(Loss):
    """NT-Xent, also known as InfoNCE: `functional.nt_xent`.

    For two views of n samples in one batch, label them `arange(n).repeat(2)`: this is SimCLR's loss (whose code adds up the means of the
    two views, twice the mean here). For a queue of negatives, as in MoCo, give it as references beside the keys.

    Args:
        temperature: tau > 0.
        symmetric: whether references are anchors, too, with the embeddings as their references: the form of CLIP, for a call
            `loss(images, ids, (texts, ids))`. The anchors are then the embeddings and, after them, the references: that is the order of
            reduction "none". Where the batch is compared with itself, both are the same.
        learn_temperature: whether the temperature is a parameter, learned by its logarithm and kept above 0.01.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
        >>> NTXentLoss(temperature=0.5)(x, [0, 1, 0, 1])
        tensor(0.8707)

    References:
        Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual Representations. ICML 2020.
        van den Oord, Li, Vinyals. Representation Learning with Contrastive Predictive Coding. 2018.
        Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021 (symmetric, learned temperature).
    """

    temperature: float | Tensor | LearnedPositive

    bounds: ClassVar = {"temperature": _POSITIVE}

    def __init__(self, temperature: float = 0.1, *, symmetric: bool = False, learn_temperature: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature)
        self.symmetric = check_flag("symmetric", symmetric)
        if check_flag("learn_temperature", learn_temperature):
            self.temperature = LearnedPositive(temperature, low=0.01, high=100.0)

    @property
    def tags(self) -> Tags:
        """Each positive pulls as the negatives that beat it push: alike and bounded."""
        t = number_of(self.temperature)
        alone = not self.symmetric
        return Tags(shift=True, bound=lambda n, p: p / t, saturates=False, needs_positives=True, needs_negatives=True, per_point=alone)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return nt_xent(s_n, s_p, temperature=value_of(self.temperature))

    def _streams(self, num_references: int, anchors: Tensor) -> bool:
        return not self.symmetric and super()._streams(num_references, anchors)

    def _columns(self, anchors: Points, points: Points, prepared: Tensor, compared: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        if not self.symmetric or compared is None:
            return super()._columns(anchors, points, prepared, compared)
        return AcrossColumns(anchors, points, self.relation), torch.cat([prepared, compared.to(prepared.dtype)]), None


InfoNCELoss = NTXentLoss


class SupConLoss(Loss):
    """Supervised contrastive loss: `functional.supcon`.

    Args:
        temperature: tau > 0; 0.1 in the paper, 0.07 in its code.
        form: `"out"`, the mean over positives outside of the logarithm, or `"in"`.
        options: as of `Loss`. Reduction "mean" is over anchors that have a positive; the authors' code divides by all anchors, and
            multiplies by temperature / 0.07.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
        >>> SupConLoss(temperature=0.5)(x, [0, 1, 0, 1])
        tensor(0.8707)

    References:
        Khosla et al. Supervised Contrastive Learning. NeurIPS 2020.
    """

    temperature: float | Tensor

    needs_negatives = False
    bounds: ClassVar = {"temperature": _POSITIVE}

    def __init__(self, temperature: float = 0.1, *, form: str = "out", **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature)
        self.form = check_choice("form", form, SUPCON_FORMS)

    @property
    def tags(self) -> Tags:
        """Outside of the logarithm positives compete: one with more than its share is pushed away."""
        inside = self.form == "in"
        bound = 1 / number_of(self.temperature) if inside else None
        return Tags(signs=inside, monotone=inside, shift=True, bound=bound, saturates=False, needs_positives=True, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return supcon(s_n, s_p, temperature=self.temperature, form=self.form)


class DecoupledContrastiveLoss(Loss):
    """Decoupled contrastive loss (DCL): `functional.decoupled_contrastive`.

    For two views of n samples in one batch, label them `arange(n).repeat(2)`.

    Args:
        temperature: tau > 0.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive); the code of the paper adds up the means of two views.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
        >>> DecoupledContrastiveLoss(temperature=0.5)(x, [0, 1, 0, 1])
        tensor(0.2899)

    References:
        Yeh, Hong, Hsu, Liu, Chen, LeCun. Decoupled Contrastive Learning. ECCV 2022.
    """

    temperature: float | Tensor

    bounds: ClassVar = {"temperature": _POSITIVE}

    def __init__(self, temperature: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature)

    @property
    def tags(self) -> Tags:
        """The pull never fades."""
        t = number_of(self.temperature)
        return Tags(shift=True, bound=lambda n, p: p / t, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return decoupled_contrastive(s_n, s_p, temperature=self.temperature)


class WeightedDecoupledContrastiveLoss(Loss):
    """Decoupled contrastive loss with weighted positives (DCLW): `functional.weighted_decoupled_contrastive`.

    The weights are relative to all positive pairs of the batch: it couples anchors.

    Args:
        temperature: tau > 0.
        weight_temperature: sigma > 0, how sharply the weights fall with the similarity.
        options: as of `Loss`. Reduction "mean" is over pairs (anchor, positive).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.0, 1.0]])
        >>> WeightedDecoupledContrastiveLoss(temperature=0.5)(x, [0, 1, 0, 1])
        tensor(-0.3823)

    References:
        Yeh, Hong, Hsu, Liu, Chen, LeCun. Decoupled Contrastive Learning. ECCV 2022.
    """

    temperature: float | Tensor
    weight_temperature: float | Tensor

    separable = False
    bounds: ClassVar = {"temperature": _POSITIVE, "weight_temperature": _POSITIVE}

    def __init__(self, temperature: float = 0.1, *, weight_temperature: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature, weight_temperature=weight_temperature)

    @property
    def tags(self) -> Tags:
        """The weights are part of the gradient, so that a near positive may be pushed away."""
        return Tags(signs=False, monotone=False, shift=True, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Terms:
        """Terms over pairs (anchor, positive)."""
        return weighted_decoupled_contrastive(
            s_n, s_p, temperature=self.temperature, weight_temperature=self.weight_temperature, log_sums=self.pooled(s_n, s_p)
        )

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """What the mean weight is made of."""
        return weights_of_positives(s_n, s_p, self.weight_temperature)

    def pool(self, rows: Tensor) -> Tensor:
        """Logarithms, which cannot overflow."""
        return pooled_weights(rows)
