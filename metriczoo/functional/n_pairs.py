"""Losses over a positive pair against the negatives of its two ends."""

from __future__ import annotations

import math

from torch import Tensor

from metriczoo.functional._folds import pair_terms
from metriczoo.functional._peers import logsumexp_of_sums
from metriczoo.functional._share import pair_shares
from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["angular", "n_pairs"]


def n_pairs(s_n: Tensor | Scores, s_p: Tensor | Scores, *, penalty: float | Tensor = 0.0) -> Terms:
    r"""Multi-class N-pair loss: softmax cross-entropy of a positive among the negatives of its anchor, by inner products.

    .. math:: L_i = \log\Bigl(1 + \sum_j e^{s_n^j - s_p^i}\Bigr) + r_i

    Args:
        s_n: `[b, n]`, inner products with references of other classes.
        s_p: `[b, p]`, inner products with references of the anchor's class.
        penalty: r, a number, or `[b, p]`: what each pair adds, such as a multiple of its squared norms, which are not among its scores.

    Returns:
        `Terms` over pairs (anchor, positive). Anchors without negatives have none.

    Example:
        >>> import torch
        >>> n_pairs(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]])).total
        tensor([0.6657])

    Relations:
        `nt_xent` on inner products with temperature 1: unnormalised, so norms grow unless they are penalised.

    References:
        Sohn. Improved Deep Metric Learning with Multi-class N-pair Loss Objective. NIPS 2016, section 3.2.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    if isinstance(penalty, float) and not penalty:
        return pair_shares(s_n, s_p, 1.0)
    push = s_n.logsumexp().unsqueeze(1)
    return pair_terms(s_p.map(lambda s: softplus(push - s)).map(lambda v: v + penalty), s_n)


def angular(s_n: Tensor | Scores, s_p: Tensor | Scores, *, angle: float | Tensor = 45.0) -> Terms:
    r"""Angular loss: bounds the angle at the negative of the triangle that it forms with a positive pair.

    .. math:: L_i = \log\Bigl(1 + \sum_j e^{4 t^2 (s_n^j + s_{pn}^{ij}) - 2 (1 + t^2) s_p^i}\Bigr), \qquad t = \tan \alpha

    :math:`s_{pn}^{ij}` is the similarity of positive i to negative j. It is not among `s_n` and `s_p`, so scores must come from
    references, as those that a loss makes do.

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        angle: :math:`\alpha` in degrees, in (0, 90); the paper tries 36 to 55.

    Returns:
        `Terms` over pairs (anchor, positive). Anchors without negatives have none.

    Raises:
        ValueError: for scores that come from no references.

    Example:
        >>> import torch
        >>> from metriczoo.scores import Block
        >>> block = Block(torch.tensor([0]), torch.sqrt, between=lambda i, j: torch.tensor([[0.1, 0.2]]))
        >>> angular(Scores(torch.tensor([[0.3, 0.4]]), block=block), Scores(torch.tensor([[0.9]]), block=block)).total
        tensor([0.3622])

    Relations:
        At 30 degrees push and pull balance, as in `n_pairs`, to which it is usually added. Invariant to the scale of the triangle, where
        the margin of a triplet is not.

    References:
        Wang, Zhou, Wen, Liu, Lin. Deep Metric Learning with Angular Loss. ICCV 2017, section 3.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    square = angle.deg2rad().tan().square() if isinstance(angle, Tensor) else math.tan(math.radians(angle)) ** 2
    s_p, push = logsumexp_of_sums(s_n, s_p, 4 * square)
    return pair_terms(s_p.map(lambda s: softplus(push - 2 * (1 + square) * s)), s_n)
