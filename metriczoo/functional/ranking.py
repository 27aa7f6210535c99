"""Surrogates of ranking metrics: an anchor is a query, its positives are what it should find first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from metriczoo._checks import check_choice, check_flag
from metriczoo.functional._folds import narrow_set
from metriczoo.functional._histograms import soft_histogram
from metriczoo.functional._ranks import count_above, for_each
from metriczoo.scores import Scores, as_scores

__all__ = ["PNP_VARIANTS", "fast_ap", "pnp", "recall_at_k", "smooth_ap"]


def fast_ap(s_n: Tensor | Scores, s_p: Tensor | Scores, *, num_bins: int = 10, low: float = -1.0, high: float = 1.0) -> Tensor:
    r"""FastAP: 1 minus the average precision of a query, by histograms of its scores.

    .. math:: L = 1 - \frac1{|P|} \sum_l \frac{h^+_l H^+_l}{H_l} = \frac1{|P|} \sum_l \frac{h^+_l H^-_l}{H_l}

    Scores are shared out between the two nearest of `num_bins + 1` nodes: h counts them at node l, H at node l and at all higher ones;
    0 / 0 is 0. Scores that share a bin count as tied.

    Args:
        s_n: `[b, n]`, similarities to references of other classes.
        s_p: `[b, p]`, similarities to references of the anchor's class.
        num_bins: >= 1; 10 in the paper.
        low: similarity of the lowest node; scores beyond an end count there, without gradient. With the cosines of unit vectors, -1 and 1
            are the squared distances 4 and 0 of the paper.
        high: similarity of the highest node.

    Returns:
        `[b]`, in [0, 1); 0 where either set is empty.

    Example:
        >>> import torch
        >>> fast_ap(torch.tensor([[0.8, -0.6]]), torch.tensor([[1.0, 0.4]]))
        tensor([0.1667])

    Relations:
        `smooth_ap` ranks every positive by sigmoids instead: it tells scores of one bin apart, at a cost that grows with their number.

    References:
        Cakir, He, Xia, Kulis, Sclaroff. Deep Metric Learning to Rank. CVPR 2019.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    h_p, h_n = (soft_histogram(s, num_bins, low, high).flip(1) for s in (s_p, s_n))
    above_p, above_n = h_p.cumsum(1), h_n.cumsum(1)
    above = above_p + above_n
    return (h_p * above_n / torch.where(above > 0, above, 1.0)).sum(1) / s_p.count().clamp(min=1)


def smooth_ap(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    temperature: float | Tensor = 0.01,
    include_self: bool = False,
    self_score: float = 1.0,
) -> Tensor:
    r"""Smooth-AP: 1 minus the average precision of a query, with sigmoids in place of steps.

    .. math:: L = 1 - \frac1{|P|} \sum_{i \in P} \frac{R_i^P}{R_i^P + R_i^N}, \qquad
        R_i^P = 1 + \sum_{k \in P, k \ne i} \sigma\Bigl(\frac{s_p^k - s_p^i}\tau\Bigr), \quad
        R_i^N = \sum_j \sigma\Bigl(\frac{s_n^j - s_p^i}\tau\Bigr)

    O(positives x references) time per query, and memory for one score block.

    Args:
        s_n: `[b, n]`, similarities to references of other classes.
        s_p: `[b, p]`, similarities to references of the anchor's class.
        temperature: :math:`\tau > 0`. Pairs further apart than a few of them have no gradient.
        include_self: whether the query counts as a positive of its own, found first, as in the authors' code: it raises the average
            precision.
        self_score: similarity of the query to itself, where it counts.

    Returns:
        `[b]`, in [0, 1); 0 where either set is empty.

    Example:
        >>> import torch
        >>> smooth_ap(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9, 0.3]]))
        tensor([0.1667])
        >>> smooth_ap(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9, 0.3]]), include_self=True)
        tensor([0.0833])

    Relations:
        The limit of small temperatures is the average precision that `metriczoo.metrics.mean_average_precision` measures. Positives
        compete with one another here, in `pnp` they do not.

    References:
        Brown, Xie, Kalogeiton, Zisserman. Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval. ECCV 2020.
    """
    s_p = narrow_set(as_scores(s_p))
    found = _with_self(s_p, self_score) if check_flag("include_self", include_self) else s_p
    behind_n = count_above(as_scores(s_n), found.value, temperature)
    behind_p = _count_others_above(found, found, temperature)
    return found.map(lambda _: behind_n / (1 + behind_p + behind_n)).mean()


PNP_VARIANTS: dict[str, Callable[[Tensor, float | Tensor, float | Tensor], Tensor]] = {
    "o": lambda r, b, alpha: r,
    "iu": lambda r, b, alpha: (1 + r) * r.log1p(),
    "ib": lambda r, b, alpha: (b * r - (b * r).log1p()) / b**2,
    "ds": lambda r, b, alpha: r.log1p(),
    "dq": lambda r, b, alpha: -(-alpha * r.log1p()).expm1(),
}


def pnp(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    variant: str = "dq",
    temperature: float | Tensor = 0.01,
    scale: float | Tensor = 2.0,
    power: float | Tensor = 1.0,
    include_self: bool = False,
    self_score: float = 1.0,
) -> Tensor:
    r"""Penalising negatives before positives: a function of the number of negatives ahead of each positive.

    .. math:: L = \frac1{|P|} \sum_{i \in P} f(R_i), \qquad R_i = \sum_j \sigma\Bigl(\frac{s_n^j - s_p^i}\tau\Bigr)

    ======= ================================ =======================================================
    variant f(R)                             emphasis
    ======= ================================ =======================================================
    o       R                                the original: all positives alike
    iu      (1 + R) log(1 + R)               on positives far behind, without bound
    ib      (b R - log(1 + b R)) / b^2       on positives far behind, bounded by 1 / b
    ds      log(1 + R)                       on positives nearly first, slowly decreasing
    dq      1 - (1 + R)^-alpha               on positives nearly first, quickly decreasing
    ======= ================================ =======================================================

    Args:
        s_n: `[b, n]`, similarities to references of other classes.
        s_p: `[b, p]`, similarities to references of the anchor's class.
        variant: one of the above. The authors recommend the decreasing ones.
        temperature: :math:`\tau > 0`.
        scale: b > 0, of variant `"ib"`.
        power: :math:`\alpha > 0`, of variant `"dq"`.
        include_self: whether the query counts as a positive of its own, as in the authors' code.
        self_score: similarity of the query to itself, where it counts.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown variant.

    Example:
        >>> import torch
        >>> pnp(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9, 0.3]]), variant="o")
        tensor([0.5000])
        >>> pnp(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9, 0.3]]), variant="dq")
        tensor([0.2500])

    Relations:
        `smooth_ap` divides by the rank among the positives, too: there, a positive is better off when another one is worse.

    References:
        Li, Min, Song, Zhu, Kang, Wei, Wei, Jiang. Rethinking the Optimization of Average Precision: Only Penalizing Negative Instances
        before Positive Ones is Enough. AAAI 2022.
    """
    penalty = PNP_VARIANTS[check_choice("variant", variant, PNP_VARIANTS)]
    s_p = narrow_set(as_scores(s_p))
    found = _with_self(s_p, self_score) if check_flag("include_self", include_self) else s_p
    behind = count_above(as_scores(s_n), found.value, temperature)
    return found.map(lambda _: penalty(behind, scale, power)).mean()


def recall_at_k(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    k: Sequence[int] = (1, 2, 4, 8, 16),
    temperature: float | Tensor = 0.01,
    rank_temperature: float | Tensor | Sequence[float | Tensor] = 1.0,
    include_self: bool = False,
    self_score: float = 1.0,
) -> Tensor:
    r"""1 minus the recall of a query among the first k references, with sigmoids in place of steps, averaged over several k.

    .. math:: L = 1 - \frac1{|K|} \sum_{k \in K} \frac{\min\bigl(k, \sum_{i \in P} \sigma((k - R_i) / \tau_k)\bigr)}{\min(k, |P|)}, \qquad
        R_i = 1 + \sum_{j \ne i} \sigma\Bigl(\frac{s^j - s_p^i}\tau\Bigr)

    The rank R of a positive is among all references. Since a sigmoid at 0 is 1/2, a positive of rank k counts half at this k, and the loss
    of a perfect ranking is above 0. There is no gradient through a recall that has reached k.

    Args:
        s_n: `[b, n]`, similarities to references of other classes.
        s_p: `[b, p]`, similarities to references of the anchor's class.
        k: numbers of references, >= 1.
        temperature: :math:`\tau > 0`, of similarities.
        rank_temperature: :math:`\tau_k > 0`, of ranks: of every k, or one for each; 1 in the paper, k in the code of the authors.
        include_self: whether the query is ranked among the references, ahead of all, as in the authors' code: then no positive comes first.
        self_score: similarity of the query to itself, where it is ranked.

    Returns:
        `[b]`, in [0, 1].

    Raises:
        ValueError: if there are several rank temperatures, but not one for each k.

    Example:
        >>> import torch
        >>> recall_at_k(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9]]), k=[1, 2])
        tensor([0.3845])
        >>> recall_at_k(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.9]]), k=[1, 2], rank_temperature=[1, 2])
        tensor([0.4388])

    Relations:
        This recall is the share of positives that is found, not the hit rate that metric learning calls Recall@K.

    References:
        Patel, Tolias, Matas. Recall@k Surrogate Loss with Large Batches and Similarity Mixup. CVPR 2022.
    """
    s_n, s_p = as_scores(s_n), narrow_set(as_scores(s_p))
    ranked = _with_self(s_p, self_score) if check_flag("include_self", include_self) else s_p
    rank = 1 + count_above(s_n, s_p.value, temperature) + _count_others_above(ranked, s_p, temperature)
    recalls = []
    for top, tau in zip(k, for_each(k, rank_temperature), strict=True):
        found = s_p.map(lambda _, top=top, tau=tau: ((top - rank) / tau).sigmoid()).sum()  # type: ignore[misc]
        recalls.append(found.clamp(max=top) / s_p.count().clamp(1, top))
    return 1 - torch.stack(recalls).mean(0)


def _with_self(s_p: Scores, self_score: float) -> Scores:
    """The positives and the query itself."""
    return Scores(pad(s_p.value, (0, 1), value=self_score), pad(s_p.mask, (0, 1), value=True), block=s_p.block)


def _count_others_above(ranked: Scores, s_p: Scores, temperature: float | Tensor) -> Tensor:
    """How many of `ranked` lie above each of the positives, which are among them: each would count itself as 1/2."""
    return count_above(ranked, s_p.value, temperature) - 0.5
