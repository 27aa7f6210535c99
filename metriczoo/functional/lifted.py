"""Lifted structured embedding: a positive pair against all negatives by log-sum-exp of distances."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.functional._folds import fold_positives, of_one_class, pair_terms, rows_of_positives
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["generalized_lifted_structure", "lifted_structure"]


def lifted_structure(s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 1.0) -> Terms:
    r"""Lifted structured loss: a positive pair against the negatives of both its ends, on distances :math:`d = -s`.

    .. math:: L_i = \tfrac12 [J_i]_+^2, \qquad
              J_i = \log\Bigl(\sum_j e^{m - d_n^j} + \sum_j e^{m - d_{pn}^{ij}}\Bigr) + d_p^i

    :math:`d_{pn}^{ij}` is the distance of positive i to negative j of the anchor: the negatives of a class are those of both ends. It is
    not among `s_n` and `s_p`, so scores must come from references, as those that a loss makes do.

    Args:
        s_n: `[b, n]`, negated distances to references of other classes.
        s_p: `[b, p]`, negated distances to references of the anchor's class.
        margin: :math:`m`; 1 in the paper.

    Returns:
        `Terms` over pairs (anchor, positive). Anchors without negatives have none.

    Raises:
        ValueError: for scores that come from no references.

    Example:
        >>> import torch
        >>> from metriczoo.scores import Block
        >>> block = Block(torch.tensor([0]), torch.neg, between=lambda i, j: torch.tensor([[-1.0]]))
        >>> lifted_structure(Scores(torch.tensor([[-1.0]]), block=block), Scores(torch.tensor([[-0.5]]), block=block)).total
        tensor([0.7118])

    Relations:
        `generalized_lifted_structure` has one term per anchor, with its own negatives only, and no square.

    References:
        Song, Xiang, Jegelka, Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. CVPR 2016, equation 4.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    own = margin + s_n.logsumexp()

    rows = rows_of_positives(s_n, s_p)
    if rows is None and (sets := of_one_class(s_n, s_p)) is not None:
        _, fold_class, s_p = sets
        others = fold_class(lambda s_pn: margin + s_pn.logsumexp()).expand(s_n.height, -1)
    elif rows is None:
        s_p, others = fold_positives(s_n, s_p, lambda s_pn: margin + s_pn.logsumexp())
    else:
        others = own[rows]  # a class has the same negatives for all of its points
    ends = torch.stack([own.unsqueeze(1).expand_as(others), others], dim=2)
    push = Scores(ends.flatten(0, 1)).logsumexp().view_as(others)
    return pair_terms(s_p.map(lambda s: (push - s).relu().square() / 2), s_n)


def generalized_lifted_structure(s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 1.0) -> Tensor:
    r"""Generalised lifted structured loss: all positives of an anchor against all its negatives, on distances :math:`d = -s`.

    .. math:: L = \Bigl[\log \sum_i e^{d_p^i} + \log \sum_j e^{m - d_n^j}\Bigr]_+

    Args:
        s_n: `[b, n]`, negated distances to references of other classes.
        s_p: `[b, p]`, negated distances to references of the anchor's class.
        margin: :math:`m`; 1 in the paper.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> generalized_lifted_structure(torch.tensor([[-1.0, -1.5]]), torch.tensor([[-0.5]]))
        tensor([0.9741])

    Relations:
        `unified` with scale 1 and a hinge in place of the softplus. `lifted_structure` is the original, one term per positive pair.

    References:
        Hermans, Beyer, Leibe. In Defense of the Triplet Loss for Person Re-Identification. 2017, "Lifted Generalized" loss.
    """
    push = margin + as_scores(s_n).logsumexp()
    pull = as_scores(s_p).map(torch.neg).logsumexp()
    return (push + pull).relu()
