"""Sigmoid pair losses: every pair is a binary classification of its own."""

from __future__ import annotations

from torch import Tensor

from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, as_scores

__all__ = ["binomial_deviance", "sigmoid"]


def sigmoid(s_n: Tensor | Scores, s_p: Tensor | Scores, *, scale: float | Tensor = 10.0, bias: float | Tensor = -10.0) -> Tensor:
    r"""Sigmoid loss (SigLIP): is a pair positive or negative? No pair sees another.

    .. math:: L = \sum_i \log\bigl(1 + e^{-(t s_p^i + b)}\bigr) + \sum_j \log\bigl(1 + e^{t s_n^j + b}\bigr)

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        scale: :math:`t > 0`; the paper learns it, from 10.
        bias: b; the paper learns it, from -10, since most pairs are negative. Its public configurations have other starts.

    Returns:
        `[b]`, >= 0. Either set may be empty.

    Example:
        >>> import torch
        >>> sigmoid(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), scale=10.0, bias=-5.0)
        tensor([0.0849])

    Relations:
        `nce` is this loss with scale :math:`1/\tau` and a fixed bias. `nt_xent` divides among the negatives of an anchor, this one does
        not: the loss of a batch is a sum over pairs.

    References:
        Zhai, Mustafa, Kolesnikov, Beyer. Sigmoid Loss for Language Image Pre-Training. ICCV 2023, section 3.2 and algorithm 1.
    """
    positive = as_scores(s_p).map(lambda s: softplus(-(scale * s + bias)))
    negative = as_scores(s_n).map(lambda s: softplus(scale * s + bias))
    return positive.sum() + negative.sum()


def binomial_deviance(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    positive_scale: float | Tensor = 2.0,
    negative_scale: float | Tensor = 50.0,
    threshold: float | Tensor = 0.5,
) -> Tensor:
    r"""Binomial deviance: a smooth hinge of every pair at one threshold, averaged over positives and over negatives.

    .. math:: L = \frac1K \sum_i \log\bigl(1 + e^{-\alpha (s_p^i - \lambda)}\bigr)
                + \frac1L \sum_j \log\bigl(1 + e^{\beta (s_n^j - \lambda)}\bigr)

    Args:
        s_n: `[b, n]`, cosines to references of other classes; L of them.
        s_p: `[b, p]`, cosines to references of the anchor's class; K of them.
        positive_scale: :math:`\alpha > 0`.
        negative_scale: :math:`\beta > 0`: alpha times the cost C of a negative. Yi et al. have C = 2; Ustinova and Lempitsky 25.
        threshold: :math:`\lambda`.

    Returns:
        `[b]`, >= 0, to be left out where either set is empty.

    Example:
        >>> import torch
        >>> binomial_deviance(torch.tensor([[0.2, 0.5]]), torch.tensor([[0.9]]))
        tensor([0.7177])

    Relations:
        `multi_similarity` takes the log-sum-exp of what is averaged here, so that near negatives weigh more. The average over all pairs
        of a batch, as Yi et al. have it, is the same where classes are of equal size.

    References:
        Yi, Lei, Li. Deep Metric Learning for Practical Person Re-Identification. ICPR 2014.
        Ustinova, Lempitsky. Learning Deep Embeddings with Histogram Loss. NIPS 2016, section 4, for the costs.
        Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning. CVPR 2019, for the form.
    """
    pull = as_scores(s_p).map(lambda s: softplus(-positive_scale * (s - threshold)))
    push = as_scores(s_n).map(lambda s: softplus(negative_scale * (s - threshold)))
    return pull.mean() + push.mean()
