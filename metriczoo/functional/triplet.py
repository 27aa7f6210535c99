"""Triplet margin loss, over every triplet."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo._checks import check_choice, check_flag
from metriczoo._execution import reads_are_free
from metriczoo.functional._folds import check_between, narrow_set, of_one_class, rows_of_positives, to_negatives
from metriczoo.functional._pairs import PENALTIES, Penalty, pair_sum
from metriczoo.functional._peers import swap_sum, swap_sum_of_class
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["triplet_margin"]


def triplet_margin(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 0.2, penalty: str = "hinge", swap: bool = False
) -> Terms:
    r"""Triplet loss: each positive is to be closer than each negative, by a margin.

    .. math:: L = \sum_i \sum_j h(s_n^j - s_p^i + m), \qquad h(t) = [t]_+, \; [t]_+^2 \;\text{or}\; \log(1 + e^t)

    Exact over all triplets, in O(positives x negatives) time for few positives and O(negatives x log positives) for many, with no array
    of that size.

    Args:
        s_n: `[b, n]`, similarities to references of other classes.
        s_p: `[b, p]`, similarities to references of the anchor's class.
        margin: :math:`m \ge 0`.
        penalty: `"hinge"`, `"squared"` or `"soft"`.
        swap: whether a negative counts with its similarity to the anchor or to the positive, whichever is larger. Needs scores that an
            engine made, since the similarities between references are not among `s_n` and `s_p`.

    Returns:
        `Terms` over triplets.

    Raises:
        ValueError: for an unknown penalty, or `swap` where there are no scores between references.

    Example:
        >>> import torch
        >>> triplet_margin(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.6, 0.9]]), margin=0.2)
        Terms(total=tensor([0.1000]), count=tensor([4]), active=tensor([1]))

    Relations:
        Behind `HardMiner` it is batch-hard, behind `SemiHardMiner` FaceNet's choice. On unit vectors, FaceNet's margin on squared
        distances is twice the margin on cosines, and so is its loss.

    References:
        Schroff, Kalenichenko, Philbin. FaceNet: A Unified Embedding for Face Recognition and Clustering. CVPR 2015, equation 2.
        Hermans, Beyer, Leibe. In Defense of the Triplet Loss for Person Re-Identification. 2017, equations 5 to 8 (batch-all, batch-hard,
        soft margin).
        Balntas, Riba, Ponsa, Mikolajczyk. Learning local feature descriptors with triplets and shallow convolutional neural networks.
        BMVC 2016 (swap).
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    chosen = PENALTIES[check_choice("penalty", penalty, PENALTIES)]
    return _swapped(s_n, s_p, margin, chosen) if check_flag("swap", swap) else pair_sum(s_n, s_p, margin, chosen)


def _swapped(s_n: Scores, s_p: Scores, margin: float | Tensor, penalty: Penalty) -> Terms:
    """One positive at a time, since each sees other similarities to the negatives."""
    check_between(s_p)
    if (sets := of_one_class(s_n, s_p)) is not None:
        total, active = swap_sum_of_class(*sets, margin, penalty)
        return Terms(total, s_n.count() * s_p.count(), active)
    s_p = narrow_set(s_p)
    rows = rows_of_positives(s_n, s_p)
    if rows is not None and reads_are_free(s_n.value):
        total, active = swap_sum(s_n, s_p, rows, margin, penalty)
        return Terms(total, s_n.count() * s_p.count(), active)
    terms = [Terms(s_n.value.sum(1) * 0, s_n.count() * 0, s_n.count() * 0)]
    for k in range(s_p.value.shape[1]):
        other = to_negatives(s_n, s_p, k)
        nearer = s_n.map(lambda s, other=other: torch.maximum(s, other))  # type: ignore[misc]
        one = Scores(s_p.value[:, k : k + 1], s_p.mask[:, k : k + 1])
        terms.append(pair_sum(nearer, one, margin, penalty))
    return Terms(*(torch.stack(parts).sum(0) for parts in zip(*((t.total, t.count, t.active) for t in terms), strict=True)))
