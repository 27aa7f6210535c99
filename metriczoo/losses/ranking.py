"""Losses that stand in for ranking metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from metriczoo._checks import Bounds, check_choice, check_count, check_flag, check_number, describe
from metriczoo.functional import ranking as F
from metriczoo.functional._ranks import TAIL, for_each
from metriczoo.losses._learned import number_of
from metriczoo.losses.base import Loss
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores
from metriczoo.similarity import Cosine, Similarity

__all__ = ["FastAPLoss", "PNPLoss", "RecallAtKLoss", "SmoothAPLoss"]

_POSITIVE = Bounds(0, open_low=True)


class FastAPLoss(Loss):
    """FastAP: `functional.fast_ap`. Average precision by histograms of scores.

    Args:
        num_bins: >= 1; 10 in the paper.
        low: similarity of the lowest node. Default: -1; of a negated distance -4, the squared distance of opposite unit vectors.
        high: similarity of the highest node, above `low`. Default: 1; of a negated distance 0.
        options: as of `Loss`. An anchor without negatives counts, with loss 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> FastAPLoss()(x, [0, 1, 0, 1])
        tensor(0.5833)

    Relations:
        `SmoothAPLoss` tells scores of one bin apart. Batches whose classes are alike, as the authors draw them, make either loss hard.

    References:
        Cakir, He, Xia, Kulis, Sclaroff. Deep Metric Learning to Rank. CVPR 2019.
    """

    needs_negatives = False

    def __init__(self, num_bins: int = 10, *, low: float | None = None, high: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = check_count("num_bins", num_bins)
        lowest, highest = (-4.0, 0.0) if self.similarity.is_distance else (-1.0, 1.0)
        self.low = lowest if low is None else check_number("low", low)
        self.high = highest if high is None else check_number("high", high)
        if not self.low < self.high:
            raise ValueError(f"Expected `low` to be less than `high`, but got {self.low} and {self.high}.")

    @property
    def tags(self) -> Tags:
        """Positives compete, and the bins are at absolute scores."""
        return Tags(signs=False, monotone=False, shift=False, saturates=self.num_bins > 1, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.fast_ap(s_n, s_p, num_bins=self.num_bins, low=self.low, high=self.high)


class SmoothAPLoss(Loss):
    """Smooth-AP: `functional.smooth_ap`. Average precision by sigmoids.

    Args:
        temperature: tau > 0, in units of the score.
        include_self: whether the query counts as a positive of its own, as in the authors' code. Needs cosines or distances, where the
            score of a point with itself is known.
        options: as of `Loss`. An anchor without negatives counts, with loss 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> SmoothAPLoss()(x, [0, 1, 0, 1])
        tensor(0.5833)
        >>> SmoothAPLoss(include_self=True)(x, [0, 1, 0, 1])
        tensor(0.2128)

    Relations:
        The authors' code needs sorted classes of equal size; here classes may have any size and order.

    References:
        Brown, Xie, Kalogeiton, Zisserman. Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval. ECCV 2020.
    """

    temperature: float | Tensor

    needs_negatives = False
    bounds: ClassVar = {"temperature": _POSITIVE}

    def __init__(self, temperature: float = 0.01, *, include_self: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._set(temperature=temperature)
        self.include_self = check_flag("include_self", include_self)
        self.self_score = _self_score(self.similarity, self.include_self)

    @property
    def tags(self) -> Tags:
        """Positives compete. The query itself, where it counts, has a score that does not move with the others."""
        return Tags(
            signs=False,
            monotone=False,
            shift=not self.include_self,
            saturates=_saturates(self.similarity, self.temperature),
            needs_positives=True,
            needs_negatives=True,
        )

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.smooth_ap(s_n, s_p, temperature=self.temperature, include_self=self.include_self, self_score=self.self_score)


class PNPLoss(Loss):
    """Penalising negatives before positives: `functional.pnp`.

    Args:
        variant: `"o"`, `"iu"`, `"ib"`, `"ds"` or `"dq"`: how the number of negatives before a positive is penalised.
        temperature: tau > 0, in units of the score.
        scale: b > 0, of variant `"ib"`.
        power: alpha > 0, of variant `"dq"`.
        include_self: whether the query counts as a positive of its own, as in the authors' code. Needs cosines or distances.
        options: as of `Loss`. An anchor without negatives counts, with loss 0.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> PNPLoss()(x, [0, 1, 0, 1])
        tensor(0.5833)
        >>> PNPLoss("o")(x, [0, 1, 0, 1])
        tensor(1.5000)

    Relations:
        With one positive per class `PNPLoss("dq")` is `SmoothAPLoss`.

    References:
        Li, Min, Song, Zhu, Kang, Wei, Wei, Jiang. Rethinking the Optimization of Average Precision: Only Penalizing Negative Instances
        before Positive Ones is Enough. AAAI 2022.
    """

    temperature: float | Tensor
    scale: float | Tensor
    power: float | Tensor

    needs_negatives = False
    bounds: ClassVar = {"temperature": _POSITIVE, "scale": _POSITIVE, "power": _POSITIVE}

    def __init__(
        self,
        variant: str = "dq",
        *,
        temperature: float = 0.01,
        scale: float = 2.0,
        power: float = 1.0,
        include_self: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.variant = check_choice("variant", variant, F.PNP_VARIANTS)
        self._set(temperature=temperature, scale=scale, power=power)
        self.include_self = check_flag("include_self", include_self)
        self.self_score = _self_score(self.similarity, self.include_self)

    @property
    def tags(self) -> Tags:
        """Only negatives hold a positive up. The query itself, where it counts, has a score that does not move with the others."""
        saturates = _saturates(self.similarity, self.temperature)
        return Tags(shift=not self.include_self, saturates=saturates, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.pnp(
            s_n,
            s_p,
            variant=self.variant,
            temperature=self.temperature,
            scale=self.scale,
            power=self.power,
            include_self=self.include_self,
            self_score=self.self_score,
        )


class RecallAtKLoss(Loss):
    """Recall among the first k, smoothed: `functional.recall_at_k`.

    Args:
        k: number of references, or several, over which recall is averaged.
        temperature: tau > 0, of similarities.
        rank_temperature: tau_k > 0, of ranks: of every k, or one for each. 1 in the paper; in the authors' code each k is its own.
        include_self: whether the query is ranked among the references, ahead of all, as in the authors' code. Needs cosines or distances.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> RecallAtKLoss(k=1)(x, [0, 0, 1, 1])
        tensor(0.6155)
        >>> RecallAtKLoss(k=(1, 2), rank_temperature=(1, 2))(x, [0, 0, 1, 1])
        tensor(0.5271)

    Relations:
        `metriczoo.metrics.recall_at_k` measures a hit rate; this is the share of positives found among the first k. The authors train
        with batches of up to 4000, which `GradCache` makes possible.

    References:
        Patel, Tolias, Matas. Recall@k Surrogate Loss with Large Batches and Similarity Mixup. CVPR 2022.
    """

    temperature: float | Tensor
    rank_temperature: float | Tensor | tuple[float, ...]

    bounds: ClassVar = {"temperature": _POSITIVE, "rank_temperature": _POSITIVE}

    def __init__(
        self,
        k: int | Sequence[int] = (1, 2, 4, 8, 16),
        *,
        temperature: float = 0.01,
        rank_temperature: float | Sequence[float] = 1.0,
        include_self: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.k = tuple(check_count("k", top) for top in (k if isinstance(k, Sequence) and not isinstance(k, str) else [k]))
        if not self.k:
            raise ValueError("Expected `k` to hold at least one number, but got none.")
        self._set(temperature=temperature)
        if isinstance(rank_temperature, Sequence) and not isinstance(rank_temperature, str):
            each = for_each(self.k, rank_temperature)
            self.rank_temperature = tuple(check_number("rank_temperature", tau, low=0, open_low=True) for tau in each)
        else:
            self._set(rank_temperature=rank_temperature)
        self.include_self = check_flag("include_self", include_self)
        self.self_score = _self_score(self.similarity, self.include_self)

    @property
    def tags(self) -> Tags:
        """Positives compete. The query itself, where it counts, has a score that does not move with the others."""
        shift = not self.include_self
        return Tags(signs=False, monotone=False, shift=shift, saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.recall_at_k(
            s_n,
            s_p,
            k=self.k,
            temperature=self.temperature,
            rank_temperature=self.rank_temperature,
            include_self=self.include_self,
            self_score=self.self_score,
        )


def _self_score(similarity: Similarity, needed: bool) -> float:
    """The score of a point with itself."""
    if similarity.is_distance:
        return 0.0
    if isinstance(similarity, Cosine) or not needed:
        return 1.0
    raise ValueError(
        f"Expected `similarity` to be a cosine or a distance for `include_self=True`, so that the score of a point with itself is known, "
        f"but got {describe(similarity)}."
    )


def _saturates(similarity: Similarity, temperature: float | Tensor) -> bool | None:
    """Whether opposite cosines are so many temperatures apart that their sigmoid counts as 0."""
    return 2 / number_of(temperature) >= -TAIL if isinstance(similarity, Cosine) else None
