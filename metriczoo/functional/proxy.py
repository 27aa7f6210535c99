"""Losses that were proposed on class proxies: proxy-NCA, Proxy-Anchor, SoftTriple, P2SGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.functional._classes import softmax_mean, softmax_mean_by_class
from metriczoo.functional._softplus import softplus
from metriczoo.functional.unified import unified
from metriczoo.scores import Scores, Terms, as_scores

__all__ = ["p2s_grad", "proxy_anchor", "proxy_nca", "proxy_nca_plus_plus", "soft_triple"]


def proxy_nca(s_n: Tensor | Scores, s_p: Tensor | Scores, *, scale: float | Tensor = 2.0) -> Tensor:
    r"""Proxy-NCA: neighbourhood components analysis with proxies for neighbours. The own proxy is not in the denominator.

    .. math:: L = -\log \frac{\sum_i e^{\gamma s_p^i}}{\sum_j e^{\gamma s_n^j}}

    Args:
        s_n: `[b, n]`, similarities to the proxies of other classes.
        s_p: `[b, p]`, similarities to the proxies of the anchor's class; usually one.
        scale: :math:`\gamma > 0`: 1 for negated squared distances. On cosines it is twice the product of the lengths to which embeddings
            and proxies are scaled: 2 for unit vectors, as in the paper.

    Returns:
        `[b]`, of any sign; 0 where either set is empty.

    Example:
        >>> import torch
        >>> proxy_nca(torch.tensor([[0.25, 0.25]]), torch.tensor([[0.75]]))
        tensor([-0.3069])

    Relations:
        `proxy_nca_plus_plus` has the own proxy in the denominator, too. The pull does not fade: dL / ds_p is -scale, however near the
        proxy. Much code of this name computes `norm_face` with scale 6.

    References:
        Movshovitz-Attias, Toshev, Leung, Ioffe, Singh. No Fuss Distance Metric Learning Using Proxies. ICCV 2017, section 3.
    """
    push, pull = as_scores(s_n).logsumexp(scale), as_scores(s_p).logsumexp(scale)
    return torch.where(push.isfinite() & pull.isfinite(), push - pull, 0.0)


def proxy_nca_plus_plus(s_n: Tensor | Scores, s_p: Tensor | Scores, *, temperature: float | Tensor = 1 / 9) -> Tensor:
    r"""ProxyNCA++: the probability of the own proxy among all, at a low temperature.

    .. math:: L = -\log \frac{e^{-d_p^2 / T}}{e^{-d_p^2 / T} + \sum_j e^{-d_j^2 / T}}, \qquad d^2 = 2 - 2 s

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one.
        temperature: T > 0.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> proxy_nca_plus_plus(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), temperature=2.0)
        tensor([0.6657])

    Relations:
        It is `norm_face` with scale 2 / temperature, 18 by default. The rest of the method, a layer norm before, maximum pooling,
        class-balanced batches and fast proxies, is for the network, the sampler and the optimiser. The authors' code smooths labels by 0.1
        in its ProxyNCA.

    References:
        Teh, DeVries, Taylor. ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component Analysis. ECCV 2020, section 3.
    """
    return unified(s_n, s_p, margin=0.0, scale=2 / temperature)


def proxy_anchor(
    s_n: Tensor | Scores, s_p: Tensor | Scores, *, margin: float | Tensor = 0.1, scale: float | Tensor = 32.0
) -> tuple[Terms, Terms]:
    r"""Proxy-Anchor: the anchors are proxies, compared with the embeddings of a batch.

    .. math::
        L_p = \log\bigl(1 + \textstyle\sum_i e^{-\alpha (s_p^i - \delta)}\bigr), \qquad
        L_n = \log\bigl(1 + \textstyle\sum_j e^{\alpha (s_n^j + \delta)}\bigr)

    Args:
        s_n: `[b, n]`, cosines of each proxy to the embeddings of other classes.
        s_p: `[b, p]`, cosines of each proxy to the embeddings of its class.
        margin: :math:`\delta \ge 0`.
        scale: :math:`\alpha > 0`.

    Returns:
        Two `Terms`: reduction "mean" averages the first over the proxies whose class is in the batch and the second over all, as the paper
        does.

    Example:
        >>> import torch
        >>> positive, negative = proxy_anchor(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0]]), margin=0.0, scale=1.0)
        >>> positive.total, negative.total
        (tensor([0.6931]), tensor([1.0986]))

    Relations:
        The two halves of multi-similarity loss, with proxies for anchors and without the factors 1 / scale.

    References:
        Kim, Kim, Cho, Kwak. Proxy Anchor Loss for Deep Metric Learning. CVPR 2020, equation 4.
    """
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    positive = softplus(s_p.map(lambda s: -scale * (s - margin)).logsumexp())
    negative = softplus(s_n.map(lambda s: scale * (s + margin)).logsumexp())
    present = s_p.count() > 0
    every = present | (s_n.count() > 0)  # a proxy that meets no embedding at all is a row that a miner left empty
    return Terms(positive, present.long(), (positive != 0).long()), Terms(negative, every.long(), (negative != 0).long())


def soft_triple(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    classes: int | Tensor,
    *,
    num_classes: int | None = None,
    margin: float | Tensor = 0.01,
    scale: float | Tensor = 20.0,
    temperature: float | Tensor = 0.1,
) -> Tensor:
    r"""SoftTriple: a class has several proxies, and its similarity is their mean, weighted by nearness.

    .. math::
        L = -\log \frac{e^{\lambda (S_y - \delta)}}{e^{\lambda (S_y - \delta)} + \sum_{j \ne y} e^{\lambda S_j}}, \qquad
        S_j = \sum_k \frac{e^{s_{jk} / \gamma}}{\sum_l e^{s_{jl} / \gamma}} s_{jk}

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class.
        classes: how many adjacent cells of `s_n` each class has; or `[n]` or `[b, n]` int64 in [0, num_classes), the class of each cell.
        num_classes: default: the largest of `classes` + 1, which has to be read.
        margin: :math:`\delta \ge 0`.
        scale: :math:`\lambda > 0`.
        temperature: :math:`\gamma > 0`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> soft_triple(torch.tensor([[0.2, 0.2, 0.1, 0.1]]), torch.tensor([[0.9, 0.9]]), 2, margin=0.0, scale=1.0)
        tensor([0.6657])

    Relations:
        With one proxy per class it is `am_softmax`. As the temperature falls it tends to the nearest proxy of each class, as in
        `sub_center_arc_face`. `sparse_centers` merges proxies that are not needed.

    References:
        Qian, Shang, Sun, Hu, Li, Jin. SoftTriple Loss: Deep Metric Learning Without Triplet Sampling. ICCV 2019, section 4.
    """
    others = softmax_mean_by_class(as_scores(s_n), classes, num_classes, temperature)
    return unified(others, softmax_mean(as_scores(s_p), temperature), margin=margin, scale=scale)


def p2s_grad(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Tensor:
    r"""P2SGrad: the gradient by each cosine is its distance from where it belongs, 1 for the own class and 0 for others.

    .. math:: L = \tfrac12 \sum_i (s_p^i - 1)^2 + \tfrac12 \sum_j (s_n^j)^2

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one.

    Returns:
        `[b]`, >= 0.

    Example:
        >>> import torch
        >>> p2s_grad(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0]]))
        tensor([1.1250])

    Relations:
        The paper gives the gradient only; this is its integral. There is no hyper-parameter. A mean over anchors and classes, as elsewhere,
        divides it by half the number of classes.

    References:
        Zhang et al. P2SGrad: Refined Gradients for Optimizing Deep Face Models. CVPR 2019, section 4.
    """
    return (as_scores(s_p).map(lambda s: (s - 1).square()).sum() + as_scores(s_n).map(torch.square).sum()) / 2
