"""Tuplet margin loss and its companion, the intra-pair variance."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.functional._folds import pair_terms
from metriczoo.functional._softplus import softplus
from metriczoo.functional._violations import hinge_terms
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["intra_pair_variance", "tuplet_margin"]


def tuplet_margin(s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 0.1, scale: float | Tensor = 64.0) -> Terms:
    r"""Tuplet margin loss: a positive against all negatives, with a slack on the angle that makes positives easier.

    .. math:: L_i = \log\Bigl(1 + \sum_j e^{\gamma (\cos \theta_n^j - \cos(\theta_p^i - \beta))}\Bigr)

    The slack keeps the hardest positives, often mislabelled, from ruling; a positive nearer than it is pushed out to it. At
    :math:`\theta_p = 0` and :math:`\pi`, where the cosine has no derivative, the gradient is 0.

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        margin: slack :math:`\beta \ge 0` in radians; 0.1 in the paper.
        scale: :math:`\gamma > 0`; 64 in the paper.

    Returns:
        `Terms` over pairs (anchor, positive). Anchors without negatives have none.

    Example:
        >>> import torch
        >>> tuplet_margin(torch.tensor([[0.2]]), torch.tensor([[0.5]]), scale=1.0).total
        tensor([0.5195])

    Relations:
        `nt_xent` with temperature :math:`1/\gamma` where the slack is 0. The margin of ArcFace has the other sign: it makes positives
        harder. The paper adds half of `intra_pair_variance`.

    References:
        Yu, Tao. Deep Metric Learning with Tuplet Margin Loss. ICCV 2019.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    push = s_n.logsumexp(scale).unsqueeze(1)
    return pair_terms(s_p.map(lambda s: softplus(push - scale * _turned(s, margin))), s_n)


def _turned(cosine: Tensor, angle: float | Tensor) -> Tensor:
    """Cosine of the angle whose cosine is given, less `angle`. Derivative 0 at the ends."""
    turn = torch.as_tensor(angle, dtype=cosine.dtype, device=cosine.device)
    cosine = cosine.clamp(-1, 1)
    inside = cosine.abs() < 1
    sine = torch.where(inside, (1 - cosine) * (1 + cosine), 1.0).sqrt()
    return torch.where(inside, cosine * turn.cos() + sine * turn.sin(), cosine.detach() * turn.cos())


def intra_pair_variance(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 0.01, sums: Tensor | None = None
) -> tuple[Terms, Terms]:
    r"""Intra-pair variance: positives below, and negatives above, the mean of their kind over the batch.

    .. math:: L_p = \bigl[(1 - \varepsilon) \mu_p - s_p\bigr]_+^2, \qquad L_n = \bigl[s_n - (1 + \varepsilon) \mu_n\bigr]_+^2

    The means :math:`\mu` are over all pairs of all anchors: this loss couples anchors. Gradients flow through them.

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        margin: :math:`\varepsilon \in [0, 1]`, relative to the mean; 0.01 in the paper. Where :math:`\mu_n < 0` it moves the other way:
            that is the paper's formula.
        sums: `[4]`, sum and number of all positive and of all negative pairs, where these anchors are a part of a batch; see `pair_sums`.
            Default: of these.

    Returns:
        Two `Terms`, of the positive and of the negative pairs.

    Example:
        >>> import torch
        >>> positive, negative = intra_pair_variance(torch.tensor([[0.1, 0.3]]), torch.tensor([[0.9, 0.5]]), margin=0.0)
        >>> positive.total, negative.total
        (tensor([0.0400]), tensor([0.0100]))

    Relations:
        A regulariser: a batch that has collapsed to a point has none, so add it to another loss; the paper adds half of it to
        `tuplet_margin`.

    References:
        Yu, Tao. Deep Metric Learning with Tuplet Margin Loss. ICCV 2019.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    positives, num_positives, negatives, num_negatives = (pair_sums(s_n, s_p).sum(0) if sums is None else sums).unbind()
    low, high = (1 - margin) * positives / num_positives.clamp(min=1), (1 + margin) * negatives / num_negatives.clamp(min=1)
    return hinge_terms(s_p.map(lambda s: low - s), power=2), hinge_terms(s_n.map(lambda s: s - high), power=2)


def pair_sums(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Tensor:
    """`[b, 4]`: of each anchor sum and number of positives, and of negatives: what the means of `intra_pair_variance` are made of."""
    sets = [as_scores(s) for s in (s_p, s_n)]
    return torch.stack([part for s in sets for part in (s.sum(), s.count().to(s.value.dtype))], dim=1)
