"""Large margin nearest neighbours, on a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.functional._pairs import PENALTIES, pair_sum
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["lmnn"]


def lmnn(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, num_targets: int = 3, mu: float | Tensor = 0.5, margin: float | Tensor = 1.0
) -> Terms:
    r"""Large margin nearest neighbours: draw the nearest points of the own class closer, and clear others out of a margin around them.

    .. math:: L = (1 - \mu) \sum_{i \in T} d_i^2 + \mu \sum_{i \in T} \sum_j [m + d_i^2 - d_j^2]_+, \qquad d^2 = -s

    T holds the `num_targets` nearest references of the anchor's class; which they are has no gradient. A negative inside the margin is an
    impostor.

    Args:
        s_n: `[b, n]`, negated squared distances to references of other classes.
        s_p: `[b, p]`, negated squared distances to references of the anchor's class.
        num_targets: k >= 1, target neighbours; fewer where an anchor has fewer positives.
        mu: weight of the push against the pull, in [0, 1].
        margin: m >= 0; 1 in the paper, where it fixes the scale of the metric.

    Returns:
        `Terms` over pairs (anchor, target), each with its pull and the sum over its impostors: reduction "sum" is the paper's objective,
        "mean" divides it by the number of these pairs.

    Example:
        >>> import torch
        >>> lmnn(torch.tensor([[-1.5, -9.0]]), torch.tensor([[-1.0, -4.0]]), num_targets=1)
        Terms(total=tensor([0.7500]), count=tensor([1]), active=tensor([1]))

    Relations:
        With `mu=1` and all references of the class as targets it is the batch-all triplet loss on squared distances with margin 1. The
        linear estimator `metriczoo.linear.LMNN` fixes the targets beforehand.

    References:
        Weinberger, Saul. Distance Metric Learning for Large Margin Nearest Neighbor Classification. JMLR 10, 2009, equations 11 to 13.
    """
    targets = as_scores(s_p).topk(num_targets)
    push = pair_sum(as_scores(s_n), targets, margin, PENALTIES["hinge"])
    pull = targets.map(lambda s: -s).sum()
    with torch.no_grad():  # a target has a push if the nearest negative is an impostor
        nearest = as_scores(s_n).max().unsqueeze(1)
        active = targets.map(lambda s: ((mu - 1) * s + mu * (nearest + margin - s).relu() != 0).to(s.dtype))
    return Terms((1 - mu) * pull + mu * push.total, targets.count(), active.sum().long())
