"""Contrastive loss: pairs against absolute thresholds."""

from __future__ import annotations

from torch import Tensor

from metriczoo.functional._violations import hinge_terms
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["contrastive", "contrastive_cosine"]


def contrastive(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, positive_margin: float | Tensor = 0.0, negative_margin: float | Tensor = 1.0
) -> tuple[Terms, Terms]:
    r"""Contrastive loss on distances :math:`d = -s`: positives are drawn together, negatives pushed beyond a margin.

    .. math:: L_p = \tfrac12 [d_p - m_p]_+^2, \qquad L_n = \tfrac12 [m_n - d_n]_+^2

    Args:
        s_n: `[b, n]`, negated distances to references of other classes.
        s_p: `[b, p]`, negated distances to references of the anchor's class.
        positive_margin: :math:`m_p \ge 0`, a distance; 0 in the paper.
        negative_margin: :math:`m_n \ge 0`, a distance.

    Returns:
        Two `Terms`, of the positive and of the negative pairs: reduction "mean" averages them apart, "mean_pairs" together as the paper
        does.

    Example:
        >>> import torch
        >>> positive, negative = contrastive(torch.tensor([[-0.5, -2.0]]), torch.tensor([[-1.0]]))
        >>> positive.total, negative.total
        (tensor([0.5000]), tensor([0.1250]))

    Relations:
        `contrastive_cosine` is the form on cosines. Unlike `triplet_margin` the thresholds are absolute: the loss changes when all scores
        shift.

    References:
        Hadsell, Chopra, LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006, equations 1 and 4.
    """
    far = as_scores(s_p).map(lambda s: -s - positive_margin)
    near = as_scores(s_n).map(lambda s: negative_margin + s)
    return hinge_terms(far, power=2, weight=0.5), hinge_terms(near, power=2, weight=0.5)


def contrastive_cosine(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, positive_margin: float | Tensor = 1.0, negative_margin: float | Tensor = 0.5
) -> tuple[Terms, Terms]:
    r"""Contrastive loss on cosines: linear, not squared.

    .. math:: L_p = [m_p - s_p]_+, \qquad L_n = [s_n - m_n]_+

    Args:
        s_n: `[b, n]`, cosines to references of other classes.
        s_p: `[b, p]`, cosines to references of the anchor's class.
        positive_margin: :math:`m_p`, the cosine above which a positive is near enough; 1 draws it all the way.
        negative_margin: :math:`m_n`, the cosine below which a negative is far enough.

    Returns:
        Two `Terms`, of the positive and of the negative pairs.

    Example:
        >>> import torch
        >>> positive, negative = contrastive_cosine(torch.tensor([[0.75, 0.1]]), torch.tensor([[0.5]]))
        >>> positive.total, negative.total
        (tensor([0.5000]), tensor([0.2500]))

    Relations:
        PyTorch's `CosineEmbeddingLoss` with margin `negative_margin`. The code of cross-batch memory adds s_n rather than s_n - m_n above
        the threshold: the same gradient, and a value that jumps.

    References:
        Hadsell, Chopra, LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006, for the two terms.
        Wang, Zhang, Huang, Scott. Cross-Batch Memory for Embedding Learning. CVPR 2020, for the form on cosines.
    """
    far = as_scores(s_p).map(lambda s: positive_margin - s)
    near = as_scores(s_n).map(lambda s: s - negative_margin)
    return hinge_terms(far), hinge_terms(near)
