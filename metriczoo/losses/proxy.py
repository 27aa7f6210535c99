"""Losses that were proposed on class proxies: proxy-NCA, Proxy-Anchor, SoftTriple, P2SGrad."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo._checks import Bounds
from metriczoo.columns import Columns
from metriczoo.functional import proxy as F
from metriczoo.functional.regularizers import sparse_centers
from metriczoo.losses._heads import class_of, classes_of, proxy_options
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
from metriczoo.references import References, as_references
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import Cosine
from metriczoo.stores import Proxies

__all__ = ["P2SGradLoss", "ProxyAnchorLoss", "ProxyNCALoss", "ProxyNCAPlusPlusLoss", "SoftTripleLoss"]

_POSITIVE, _NOT_NEGATIVE = Bounds(0, open_low=True), Bounds(0)


class ProxyNCALoss(Loss):
    """Proxy-NCA: `functional.proxy_nca` on squared distances of unit vectors, which is to say on cosines, to class proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        scale: gamma > 0. Default: 2 for cosines, 1 for a similarity that is a distance. The authors' code has 6: proxies of length 3.
        options: as of `Loss`. With `NegativeSquaredEuclidean()` for `similarity`, distances are those of raw embeddings and proxies.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> ProxyNCALoss(proxies=proxies)(torch.eye(2), [0, 1]).item()
        -2.0

    References:
        Movshovitz-Attias, Toshev, Leung, Ioffe, Singh. No Fuss Distance Metric Learning Using Proxies. ICCV 2017.
    """

    scale: float | Tensor

    bounds: ClassVar = {"scale": _POSITIVE}

    def __init__(
        self, num_classes: int | None = None, embedding_dim: int | None = None, *, scale: float | None = None, **options: Any
    ) -> None:
        super().__init__(num_classes=num_classes, embedding_dim=embedding_dim, **options)
        default = 1.0 if self.similarity.is_distance else 2.0
        self._set(scale=default if scale is None else scale)

    @property
    def tags(self) -> Tags:
        """A pull that does not fade, and a push that is as large."""
        return Tags(shift=True, bound=float(self.scale), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.proxy_nca(s_n, s_p, scale=self.scale)


class ProxyNCAPlusPlusLoss(Loss):
    """ProxyNCA++: `functional.proxy_nca_plus_plus` on squared distances of unit vectors, which is to say on cosines, to class proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        temperature: T > 0.
        options: as of `Loss`. With `NegativeSquaredEuclidean()` for `similarity`, distances are those of raw embeddings and proxies.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> ProxyNCAPlusPlusLoss(proxies=proxies, temperature=2.0)(torch.eye(2), [0, 1]).item()
        0.3132...

    Relations:
        `NormFaceLoss` with scale 2 / temperature.

    References:
        Teh, DeVries, Taylor. ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component Analysis. ECCV 2020.
    """

    temperature: float | Tensor

    bounds: ClassVar = {"temperature": _POSITIVE}

    def __init__(
        self, num_classes: int | None = None, embedding_dim: int | None = None, *, temperature: float = 1 / 9, **options: Any
    ) -> None:
        super().__init__(num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(temperature=temperature)

    @property
    def tags(self) -> Tags:
        """Pull and push are alike and bounded."""
        bound = (1.0 if self.similarity.is_distance else 2.0) / float(self.temperature)
        return Tags(shift=True, bound=bound, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        factor = 2.0 if self.similarity.is_distance else 1.0  # a score is then -d^2 itself rather than 1 - d^2 / 2
        return F.proxy_nca_plus_plus(s_n, s_p, temperature=factor * self.temperature)


class ProxyAnchorLoss(Loss):
    """Proxy-Anchor: `functional.proxy_anchor`, with class proxies for anchors and the batch for references.

    The roles are exchanged: a miner chooses embeddings for each proxy, `relation` is called with the labels of proxies first, and
    reduction `"none"` gives one number per proxy, `[C]`. References named in a call take the place of the proxies.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        margin: delta >= 0.
        scale: alpha > 0.
        options: as of `Loss`. Reduction "mean" is the paper's.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> ProxyAnchorLoss(proxies=proxies, margin=0.0, scale=1.0)(torch.eye(2), [0, 1]).item()
        1.0064...

    Relations:
        `ProxyNCALoss` has embeddings for anchors. The authors train proxies at 100 times the rate of the network.

    References:
        Kim, Kim, Cho, Kwak. Proxy Anchor Loss for Deep Metric Learning. CVPR 2020.
    """

    margin: float | Tensor
    scale: float | Tensor

    needs_positives = needs_negatives = False
    bounds: ClassVar = {"margin": _NOT_NEGATIVE, "scale": _POSITIVE}

    def __init__(
        self, num_classes: int | None = None, embedding_dim: int | None = None, *, margin: float = 0.1, scale: float = 32.0, **options: Any
    ) -> None:
        super().__init__(num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self._set(margin=margin, scale=scale)

    @property
    def tags(self) -> Tags:
        """Absolute thresholds, with proxies for anchors."""
        return Tags(shift=False, bound=float(self.scale), saturates=False, needs_positives=False, needs_negatives=False, per_point=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
        """Terms of proxies whose class is in the batch, and of all proxies."""
        return F.proxy_anchor(s_n, s_p, margin=self.margin, scale=self.scale)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.proxies if references is None else references
        if references is None:
            return super()._meet(anchors, labels, None, ids)
        for entry in references if isinstance(references, list) else [references]:
            if isinstance(entry, Proxies):
                entry.check_labels(labels)
        parts, own_ids = as_references(references, anchors, labels, ids)
        if any(part.labels.dim() != labels.dim() for part in parts):
            raise ValueError("Expected `references` with labels of as many dimensions as `labels`.")
        embeddings, names = torch.cat([part.embeddings.to(anchors.dtype) for part in parts]), torch.cat([part.labels for part in parts])
        part_ids = None if own_ids is None else torch.cat([part.ids for part in parts])
        own = References(anchors, labels) if own_ids is None else References(anchors, labels, own_ids)
        return super()._meet(embeddings, names, own, part_ids)


class SoftTripleLoss(Loss):
    """SoftTriple: `functional.soft_triple` on cosines to several proxies per class, and a regulariser that merges those not needed.

    With other references than proxies, all references of one label are the proxies of their class, and there is no regulariser.

    Args:
        num_classes: C; `per_class` proxies for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with
            other losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        per_class: K >= 1, proxies of each class. Default: 10, or that of `proxies`.
        margin: delta >= 0.
        scale: lambda > 0.
        temperature: gamma > 0.
        regularization: tau >= 0, weight of `functional.sparse_centers` of the proxies, which is added to the loss of every embedding.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2, per_class=2)
        >>> proxies.weight.data = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> SoftTripleLoss(proxies=proxies, margin=0.0, scale=1.0, regularization=0.0)(torch.eye(2), [0, 1]).item()
        0.3132...

    Relations:
        With `per_class=1` it is `AMSoftmaxLoss`.

    References:
        Qian, Shang, Sun, Hu, Li, Jin. SoftTriple Loss: Deep Metric Learning Without Triplet Sampling. ICCV 2019.
    """

    margin: float | Tensor
    scale: float | Tensor
    temperature: float | Tensor
    regularization: float | Tensor

    bounds: ClassVar = {"margin": _NOT_NEGATIVE, "scale": _POSITIVE, "temperature": _POSITIVE, "regularization": _NOT_NEGATIVE}

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        per_class: int | None = None,
        margin: float = 0.01,
        scale: float = 20.0,
        temperature: float = 0.1,
        regularization: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(**proxy_options(num_classes, embedding_dim, per_class, 10, options))
        self._set(margin=margin, scale=scale, temperature=temperature, regularization=regularization)

    @property
    def tags(self) -> Tags:
        """Of several proxies of a class, nearer ones gain weight, so that a far one of the own class may be pushed away."""
        single = self.proxies is not None and self.proxies.per_class == 1
        return Tags(
            signs=single,
            monotone=single,
            shift=True,
            bound=float(self.scale) if single else None,
            saturates=False,
            needs_positives=True,
            needs_negatives=True,
        )

    def facts(self, call: Call) -> tuple[Any, ...]:
        """The classes of references, and the regulariser, once for all anchors."""
        store = call.references
        off = isinstance(self.regularization, float) and self.regularization == 0
        if not isinstance(store, Proxies) or store.per_class == 1 or off:
            return *classes_of(call), 0.0
        points = store.weight if len(call.points) == len(store.weight) else call.compared  # of the sampled classes only
        weight = points.view(-1, store.per_class, points.shape[1]).to(call.prepared.dtype)
        return *classes_of(call), self.regularization * sparse_centers(weight)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        classes, size, regularizer = s_p.facts
        own = class_of(s_n, classes, size)
        loss = F.soft_triple(s_n, s_p, own, num_classes=size, margin=self.margin, scale=self.scale, temperature=self.temperature)
        total: Tensor = loss + regularizer
        return total


class P2SGradLoss(Loss):
    """P2SGrad: `functional.p2s_grad` on cosines to class proxies. It has no hyper-parameter.

    Args:
        num_classes: C; a proxy for each of the labels 0 ... C - 1. With `embedding_dim`; or give `proxies`, a store shared with other
            losses, or name the references in each call.
        embedding_dim: dimension of the proxies.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import Proxies
        >>> proxies = Proxies(2, 2)
        >>> proxies.weight.data = torch.eye(2)
        >>> P2SGradLoss(proxies=proxies)(torch.eye(2), [1, 0]).item()
        1.0

    References:
        Zhang et al. P2SGrad: Refined Gradients for Optimizing Deep Face Models. CVPR 2019.
    """

    needs_negatives = False

    def __init__(self, num_classes: int | None = None, embedding_dim: int | None = None, **options: Any) -> None:
        super().__init__(num_classes=num_classes, embedding_dim=embedding_dim, **options)

    @property
    def tags(self) -> Tags:
        """A negative beyond 90 degrees is drawn back to there."""
        bound = (lambda n, p: 2 * p) if isinstance(self.similarity, Cosine) else None
        return Tags(signs=False, monotone=False, shift=False, bound=bound, saturates=False, needs_positives=True, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.p2s_grad(s_n, s_p)
