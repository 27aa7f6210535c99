"""Easy positive triplets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metriczoo._checks import check_flag
from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["easy_positive"]


def easy_positive(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 0.1, semi_hard: bool = False) -> Terms:
    r"""Easy positive loss: the nearest positive against the nearest negative; other positives may stay where they are.

    .. math:: L = \log\bigl(1 + e^{(\max_j s_n^j - \max_i s_p^i) / \tau}\bigr)

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        temperature: :math:`\tau > 0`; 0.1 in the authors' code.
        semi_hard: whether the negative is the nearest one beyond that positive (EPSHN) rather than the nearest of all (EPHN).

    Returns:
        `Terms` over anchors, those that have both a positive and such a negative.

    Example:
        >>> import torch
        >>> easy_positive(torch.tensor([[0.3, 0.5]]), torch.tensor([[0.4, -0.8]])).total
        tensor([1.3133])
        >>> easy_positive(torch.tensor([[0.3, 0.5]]), torch.tensor([[0.4, -0.8]]), semi_hard=True).total
        tensor([0.3133])

    Relations:
        `nt_xent` behind `EasyPositiveMiner`. The authors' code leaves out positives with a cosine above 0.9999, taking them for the
        anchor itself, and anchors whose positive or negative has a cosine below 0; here neither is.

    References:
        Xuan, Stylianou, Pless. Improved Embeddings with Easy Positive Triplet Mining. WACV 2020.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    near = s_p.max()
    far = (s_n.where(s_n.value < near.unsqueeze(1)) if check_flag("semi_hard", semi_hard) else s_n).max()
    found = (near > -math.inf) & (far > -math.inf)
    loss = softplus(torch.where(found, (far - near) / temperature, -math.inf))
    return Terms(loss, found.long(), loss != 0)
