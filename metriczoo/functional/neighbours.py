"""Losses by the share that an anchor's class has among its neighbours, by a softmax."""

from __future__ import annotations

from torch import Tensor

from metriczoo.functional._share import log_share
from metriczoo.scores import Scores, as_scores

__all__ = ["instance", "nca", "soft_nearest_neighbor"]


def nca(s_n: Tensor | Scores, s_p: Tensor | Scores, *, scale: float | Tensor = 1.0) -> Tensor:
    r"""Neighbourhood components analysis: the probability that an anchor picks a neighbour of its own class.

    .. math:: L = -\log \sum_i \pi_i, \qquad \pi = \operatorname{softmax}_{P \cup N}(-\gamma d^2), \qquad d^2 = -s

    Args:
        s_n: `[b, n]`, negated squared distances to references of other classes.
        s_p: `[b, p]`, negated squared distances to references of the anchor's class.
        scale: :math:`\gamma > 0`; 1 in the paper, where the metric is learned.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> nca(torch.tensor([[-2.0]]), torch.tensor([[-1.0, -4.0]]))
        tensor([0.3004])

    Relations:
        `supcon` of form "in", without :math:`\log K`, on squared distances; `soft_nearest_neighbor` with temperature :math:`1/\gamma`. A
        single near positive is enough: others are not drawn closer.

    References:
        Goldberger, Roweis, Hinton, Salakhutdinov. Neighbourhood Components Analysis. NIPS 2004.
    """
    return log_share(as_scores(s_n), as_scores(s_p), scale)


def soft_nearest_neighbor(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Soft nearest neighbour loss: how entangled the classes are around an anchor, at a scale given by the temperature.

    .. math:: L = -\log \frac{\sum_i e^{-d_i^2 / T}}{\sum_{a \in P \cup N} e^{-d_a^2 / T}}, \qquad d^2 = -s

    Args:
        s_n: `[b, n]`, negated squared distances to references of other classes.
        s_p: `[b, p]`, negated squared distances to references of the anchor's class.
        temperature: T > 0; the paper learns it, its code starts from 100.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> soft_nearest_neighbor(torch.tensor([[-2.0]]), torch.tensor([[-1.0, -4.0]]), temperature=2.0)
        tensor([0.4027])

    Relations:
        `nca` with scale 1/T. The paper adds it to a classification loss, on hidden layers with a negative weight: entangled layers
        generalise better.

    References:
        Frosst, Papernot, Hinton. Analyzing and Improving Representations with the Soft Nearest Neighbor Loss. ICML 2019, equation 1.
        Salakhutdinov, Hinton. Learning a Nonlinear Embedding by Preserving Class Neighbourhood Structure. AISTATS 2007.
    """
    return nca(s_n, s_p, scale=1 / temperature)


def instance(s_n: Tensor | Scores, s_p: Tensor | Scores, *, scale: float | Tensor = 32.0) -> Tensor:
    r"""Instance loss: which instance is it? Cross-entropy over the instances of a batch, each a class.

    .. math:: L = -\log \frac{e^{\gamma s_p}}{e^{\gamma s_p} + \sum_j e^{\gamma s_n^j}}

    Args:
        s_n: `[b, n]`, cosines to other instances.
        s_p: `[b, p]`, cosines to the anchor's own instance: usually one. Several add up in the probability.
        scale: :math:`\gamma > 0`; the authors train with 32.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> instance(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), scale=1.0)
        tensor([0.6657])

    Relations:
        On class proxies it is the softmax loss of normalised vectors. `InstanceLoss` merges the points of an instance before it compares.

    References:
        Zheng, Zheng, Garrett, Yang, Xu, Shen. Dual-Path Convolutional Image-Text Embeddings with Instance Loss. ACM TOMM 2020.
    """
    return nca(s_n, s_p, scale=scale)
