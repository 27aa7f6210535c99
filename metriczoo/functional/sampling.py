"""Softmax over many classes or instances, in full, by sampling, and by a tree."""

from __future__ import annotations

from torch import Tensor

from metriczoo.functional._softplus import softplus
from metriczoo.scores import Scores, as_scores

__all__ = ["hierarchical_softmax", "negative_sampling", "nonparametric_softmax"]


def nonparametric_softmax(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 0.07) -> Tensor:
    r"""Non-parametric softmax: cross-entropy of an instance against all instances, whose embeddings are the classifier's weights.

    .. math:: L = -\log \frac{e^{s_p / \tau}}{e^{s_p / \tau} + \sum_j e^{s_n^j / \tau}}

    Args:
        s_n: `[b, n]`, cosines to the entries of other instances.
        s_p: `[b, p]`, cosines to the anchor's own entry; usually one. Several count as in `unified`.
        temperature: :math:`\tau > 0`; 0.07 in the paper.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> nonparametric_softmax(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), temperature=1.0)
        tensor([0.6657])

    Relations:
        `unified` with margin 0 and scale 1 / temperature. `nce` estimates it from a few samples.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018, equation 2.
    """
    others = as_scores(s_n).map(lambda s: s / temperature).logsumexp()
    own = as_scores(s_p).map(lambda s: -s / temperature).logsumexp()
    return softplus(others + own)


def negative_sampling(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Tensor:
    r"""Negative sampling: is a class the anchor's own, or one that was drawn from noise?

    .. math:: L = -\sum_i \log \sigma(s_p^i) - \sum_j \log \sigma(-s_n^j)

    Args:
        s_n: `[b, n]`, inner products with the vectors of drawn classes.
        s_p: `[b, p]`, inner products with the vectors of the anchor's own class.

    Returns:
        `[b]`, >= 0; 0 where both sets are empty.

    Example:
        >>> import torch
        >>> negative_sampling(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0]]))
        tensor([2.0794])

    Relations:
        `nce` with temperature 1 and a bias of 0, that is with m P_n Z taken for 1: it learns features, not probabilities.

    References:
        Mikolov, Sutskever, Chen, Corrado, Dean. Distributed Representations of Words and Phrases and their Compositionality. NIPS 2013,
        equation 4.
    """
    return as_scores(s_p).map(lambda s: softplus(-s)).sum() + as_scores(s_n).map(softplus).sum()


def hierarchical_softmax(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Tensor:
    r"""Hierarchical softmax: the probability of a class is that of the turns on the way to it in a binary tree.

    .. math:: L = -\sum_{\text{left turns}} \log \sigma(s_p) - \sum_{\text{right turns}} \log \sigma(-s_n)

    Args:
        s_n: `[b, n]`, inner products with the vectors of the inner nodes where the way to the anchor's class turns right.
        s_p: `[b, p]`, those where it turns left.

    Returns:
        `[b]`, >= 0: minus a log-probability, and the probabilities of all classes add up to 1.

    Example:
        >>> import torch
        >>> hierarchical_softmax(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
        tensor([1.3863])

    Relations:
        The formula of `negative_sampling`, on nodes of a tree in place of classes.

    References:
        Morin, Bengio. Hierarchical Probabilistic Neural Network Language Model. AISTATS 2005.
        Mikolov, Sutskever, Chen, Corrado, Dean. Distributed Representations of Words and Phrases and their Compositionality. NIPS 2013,
        equation 3.
    """
    return negative_sampling(s_n, s_p)
