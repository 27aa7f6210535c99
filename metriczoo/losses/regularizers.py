"""Regularisers: terms to be added to a loss."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metriczoo._checks import Bounds, check_finite, check_number, describe, suggest_keywords
from metriczoo._execution import checking, full_precision
from metriczoo.columns import Columns, DrawnColumns
from metriczoo.functional import regularizers as F
from metriczoo.losses._rows import check_bank, check_rows
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores
from metriczoo.stores import MemoryBank, Proxies

__all__ = [
    "CenterInvariantRegularizer",
    "EmbeddingNormRegularizer",
    "ProximalRegularizer",
    "ProxyOrthogonalityRegularizer",
    "SparseCentersRegularizer",
    "ZeroMeanRegularizer",
]


class Regularizer(nn.Module):
    """A penalty on points alone, whatever their labels: embeddings, or class proxies. Called as `regularizer(points)`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suggest_keywords(cls)

    def value(self, x: Tensor) -> Tensor:
        """The penalty of points `[c, k, d]`, k of each of c classes (1 for embeddings), at least float32."""
        raise NotImplementedError(f"{type(self).__name__} must define `value(x)`.")

    def forward(self, points: Tensor | Proxies) -> Tensor:
        """The penalty.

        Args:
            points: a tensor `[n, d]`, floating point: embeddings, or one proxy per class; a tensor `[c, k, d]`: k proxies per class; or
                a `Proxies` store.

        Returns:
            A scalar, at least float32.

        Raises:
            TypeError: of anything else.
            ValueError: of another number of dimensions, and of NaN or infinite values.
        """
        x = points.weight.unflatten(0, (-1, points.per_class)) if isinstance(points, Proxies) else points
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"Expected `points` to be a floating-point tensor or a Proxies store, but got {describe(points)}.")
        if x.dim() not in (2, 3) or x.shape[-1] == 0:
            raise ValueError(f"Expected `points` to be of shape [n, d] or [c, k, d] with d >= 1, but got {describe(points)}.")
        with full_precision(x):
            if checking(x):
                check_finite("points", x)
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return self.value(x.unsqueeze(1) if x.dim() == 2 else x)


class EmbeddingNormRegularizer(Regularizer):
    """Mean norm of embeddings, to some power: `functional.embedding_norm`.

    Args:
        power: > 0.

    Example:
        >>> import torch
        >>> EmbeddingNormRegularizer()(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor(12.5000)

    References:
        Sohn. Improved Deep Metric Learning with Multi-class N-pair Loss Objective. NIPS 2016.
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = check_number("power", power, low=0, open_low=True)

    def value(self, x: Tensor) -> Tensor:
        """Over all points."""
        return F.embedding_norm(x.flatten(0, 1), power=self.power)


class ZeroMeanRegularizer(Regularizer):
    """Mean absolute sum of the components of embeddings: `functional.zero_mean`, for use with `SignalToNoise`.

    Example:
        >>> import torch
        >>> ZeroMeanRegularizer()(torch.tensor([[1.0, -3.0], [0.5, -0.5]]))
        tensor(1.)

    References:
        Yuan, Deng, Tang, Tang, Chen. Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning. CVPR 2019.
    """

    def value(self, x: Tensor) -> Tensor:
        """Over all points."""
        return F.zero_mean(x.flatten(0, 1))


class CenterInvariantRegularizer(Regularizer):
    """Deviation of the squared norms of proxies from their average: `functional.center_invariant`.

    Example:
        >>> import torch
        >>> CenterInvariantRegularizer()(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor(0.5625)

    References:
        Wu, Liu, Li, Fu. Deep Face Recognition with Center Invariant Loss. ACM Multimedia, thematic workshops 2017.
    """

    def value(self, x: Tensor) -> Tensor:
        """Over all points."""
        return F.center_invariant(x.flatten(0, 1))


class SparseCentersRegularizer(Regularizer):
    """Mean distance between the proxies of a class: `functional.sparse_centers`, for use with several proxies per class.

    Args:
        eps: > 0, added to squared distances under the root.

    Example:
        >>> import torch
        >>> SparseCentersRegularizer()(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor(0.7071)

    References:
        Qian, Shang, Sun, Hu, Li, Jin. SoftTriple Loss: Deep Metric Learning Without Triplet Sampling. ICCV 2019.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = check_number("eps", eps, low=0, open_low=True)

    def value(self, x: Tensor) -> Tensor:
        """Class by class."""
        return F.sparse_centers(x, eps=self.eps)


class ProxyOrthogonalityRegularizer(Regularizer):
    """Mean squared cosine between different proxies: `functional.proxy_orthogonality`.

    Example:
        >>> import torch
        >>> ProxyOrthogonalityRegularizer()(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        tensor(0.3333)

    References:
        Bansal, Chen, Wang. Can We Gain More from Orthogonality Regularizations in Training Deep CNNs? NeurIPS 2018.
    """

    def value(self, x: Tensor) -> Tensor:
        """Over all points."""
        return F.proxy_orthogonality(x.flatten(0, 1))


class ProximalRegularizer(Loss):
    r"""Squared distance of embeddings to their own rows of a memory bank: `functional.proximal`.

    Called as `regularizer(embeddings, ids)`: a `Loss` without negatives, whose positive is the row that `ids` (or `labels`, where no ids
    are given) name. The bank receives no gradient. With other references, positives are those of the labels.

    Args:
        bank: a `MemoryBank` to compare with where a call names no references.
        weight: lambda >= 0.
        options: as of `Loss`. With a similarity that is a negated distance, the loss is lambda times that distance.

    Example:
        >>> import torch
        >>> from metriczoo.stores import MemoryBank
        >>> bank = MemoryBank(4, 2, momentum=0.0)
        >>> bank.update([2], torch.tensor([[0.0, 1.0]]))
        >>> ProximalRegularizer(bank, weight=0.5)(torch.tensor([[3.0, 4.0]]), [2])
        tensor(0.2000)

    Relations:
        `NCELoss(proximal=...)` is `NCELoss` plus this.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018, section 3.3.
    """

    weight: float | Tensor

    needs_negatives = False
    bounds: ClassVar = {"weight": Bounds(0)}

    def __init__(self, bank: MemoryBank | None = None, weight: float = 30.0, **options: Any) -> None:
        super().__init__(**options)
        self.bank = check_bank(bank)
        self._set(weight=weight)

    @property
    def tags(self) -> Tags:
        """A constant pull by the cosine."""
        pull = float(self.weight) * (1 if self.similarity.is_distance else 2)
        return Tags(shift=pull == 0, bound=lambda n, p: pull * p, saturates=pull == 0, needs_positives=True, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        if self.similarity.is_distance:
            s_p = s_p.map(lambda s: 1 + s / 2)  # the cosine of unit vectors at that squared distance
        return F.proximal(s_n, s_p, weight=self.weight)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.bank if references is None else references
        if not isinstance(references, MemoryBank):
            return super()._meet(anchors, labels, references, ids)
        rows = check_rows(labels if ids is None else ids, references.instances(), anchors)
        columns = DrawnColumns(rows.clamp(min=0), rows[:0], references.embeddings, keep=rows >= 0)
        return columns, self.similarity.prepare(anchors), columns.prepare(self.similarity, anchors.dtype)
