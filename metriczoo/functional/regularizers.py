"""Regularisers: of embeddings, of class proxies, and of the distance to a memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._execution import product, tracing
from metriczoo.scores import Scores, as_scores
from metriczoo.similarity import unit

__all__ = ["center_invariant", "embedding_norm", "proximal", "proxy_orthogonality", "sparse_centers", "zero_mean"]

_BLOCK = 2**18  # numbers that are worked on together, so that they stay in cache


def embedding_norm(x: Tensor, *, power: float = 2.0) -> Tensor:
    r"""Mean norm of embeddings, to some power, which keeps losses on inner products bounded.

    .. math:: L = \frac1n \sum_i \|x_i\|^q

    Args:
        x: `[n, d]`.
        power: q > 0. The N-pair paper has 2, some of its implementations 1.

    Returns:
        `[]`, >= 0; 0 for no embeddings. A zero vector receives no gradient.

    Example:
        >>> import torch
        >>> embedding_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor(12.5000)

    References:
        Sohn. Improved Deep Metric Learning with Multi-class N-pair Loss Objective. NIPS 2016.
    """
    square = x.square().sum(1)
    some = square > 0
    return torch.where(some, torch.where(some, square, 1.0) ** (power / 2), 0.0).sum() / max(1, x.shape[0])


def zero_mean(x: Tensor) -> Tensor:
    r"""Mean absolute sum of the components of embeddings: those of the signal-to-noise distance should have mean zero.

    .. math:: L = \frac1n \sum_i \Bigl| \sum_k x_{ik} \Bigr|

    Args:
        x: `[n, d]`.

    Returns:
        `[]`, >= 0; 0 for no embeddings.

    Example:
        >>> import torch
        >>> zero_mean(torch.tensor([[1.0, -3.0], [0.5, -0.5]]))
        tensor(1.)

    References:
        Yuan, Deng, Tang, Tang, Chen. Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning. CVPR 2019.
    """
    return x.sum(1).abs().sum() / max(1, x.shape[0])


def center_invariant(proxies: Tensor) -> Tensor:
    r"""Mean squared deviation of the squared norms of class centres from their average: no class is to be favoured for its norm.

    .. math:: L = \frac1{4 C} \sum_c \Bigl( \|w_c\|^2 - \frac1C \sum_k \|w_k\|^2 \Bigr)^2

    Args:
        proxies: `[C, d]`.

    Returns:
        `[]`, >= 0.

    Example:
        >>> import torch
        >>> center_invariant(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor(0.5625)

    Relations:
        The paper takes the term of the class of each sample; here every class has the same weight.

    References:
        Wu, Liu, Li, Fu. Deep Face Recognition with Center Invariant Loss. ACM Multimedia, thematic workshops 2017.
    """
    square, c = proxies.square().sum(1), max(1, proxies.shape[0])
    return (square - square.sum() / c).square().sum() / (4 * c)


def sparse_centers(proxies: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""Mean distance between the centres of a class: superfluous ones merge.

    .. math:: L = \frac1{C K (K - 1)} \sum_c \sum_{j < k} \sqrt{2 + \epsilon - 2 \cos(w_{cj}, w_{ck})}

    Args:
        proxies: `[C, K, d]`.
        eps: epsilon > 0, which bounds the gradient where centres have merged; that of the authors' code.

    Returns:
        `[]`, >= 0; 0 for one centre per class.

    Example:
        >>> import torch
        >>> sparse_centers(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor(0.7071)

    Relations:
        Part of SoftTriple, which weighs it by 0.2. Computed class by class, so with C K^2 cosines, not (C K)^2.

    References:
        Qian, Shang, Sun, Hu, Li, Jin. SoftTriple Loss: Deep Metric Learning Without Triplet Sampling. ICCV 2019.
    """
    c, k, _ = proxies.shape
    return _sum_of_distances(proxies, eps) / max(1, c * k * (k - 1))


def _sum_of_distances(proxies: Tensor, eps: float) -> Tensor:
    if tracing(proxies):
        return _distances(proxies, eps)
    if not (proxies.requires_grad and torch.is_grad_enabled()):
        return _Distances.by_class(proxies, eps, False)[0]
    total: Tensor = _Distances.apply(proxies, eps)  # type: ignore[no-untyped-call]
    return total


def _distances(proxies: Tensor, eps: float) -> Tensor:
    """`[]`: the sum of the distances between proxies `[C, K, d]` of one class."""
    w = unit(proxies)
    return (2 + eps - 2 * product(w, w.mT)).clamp(min=eps / 2).sqrt().triu(1).sum()


class _Distances(torch.autograd.Function):
    """`_distances` of some classes after others, with the gradient on the way: nothing else is of the size of the proxies.

    There is room for the gradient once: the first backward gives it away, and any further one of a retained graph computes it again.
    """

    @staticmethod
    def forward(ctx: Any, proxies: Tensor, eps: float) -> Tensor:
        total, ctx.gradient = _Distances.by_class(proxies, eps, True)
        ctx.eps = eps
        ctx.save_for_backward(proxies)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        (proxies,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.autograd.grad(_distances(proxies, ctx.eps), proxies, grad, create_graph=True)[0], None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient = _Distances.by_class(proxies, ctx.eps, True)
        assert gradient is not None
        return gradient.mul_(grad), None

    @staticmethod
    @torch.no_grad()
    def by_class(proxies: Tensor, eps: float, want_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """The sum, and its gradient."""
        total, gradient = proxies.new_zeros((), dtype=torch.float64), torch.empty_like(proxies) if want_gradient else None
        step = max(1, _BLOCK // max(1, proxies[:1].numel()))
        for start in range(0, len(proxies), step):
            some = proxies.detach()[start : start + step]
            with torch.set_grad_enabled(want_gradient):
                part = _distances(some.requires_grad_(want_gradient), eps)
            if gradient is not None:
                gradient[start : start + step] = torch.autograd.grad(part, some)[0]
            total += part.detach()
        return total.to(proxies.dtype), gradient


def proxy_orthogonality(proxies: Tensor) -> Tensor:
    r"""Mean squared cosine between different proxies: classes are to point in orthogonal directions.

    .. math:: L = \frac1{C (C - 1)} \sum_{j \ne k} \cos(w_j, w_k)^2

    Args:
        proxies: `[C, d]`.

    Returns:
        `[]`, in [0, 1]; 0 for one proxy.

    Example:
        >>> import torch
        >>> proxy_orthogonality(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        tensor(0.3333)

    Relations:
        For more proxies than dimensions it cannot reach 0; its minimum, (C - d) / (d (C - 1)), is a tight frame.

    References:
        Bansal, Chen, Wang. Can We Gain More from Orthogonality Regularizations in Training Deep CNNs? NeurIPS 2018.
    """
    c, d = proxies.shape
    w = unit(proxies)
    gram = product(w.mT, w) if d < c else product(w, w.mT)  # either has the same sum of squares
    own = w.square().sum(1).square().sum()
    return (gram.square().sum() - own).clamp(min=0) / max(1, c * (c - 1))


def proximal(s_n: Tensor | Scores, s_p: Tensor | Scores, *, weight: float | Tensor = 30.0) -> Tensor:
    r"""Proximal regularisation: the squared distance of an embedding to its own entry in a memory, of unit vectors.

    .. math:: L = \lambda \|v - v_{old}\|^2 = 2 \lambda (1 - s_p)

    Args:
        s_n: not used.
        s_p: `[b, p]`, cosines to the anchor's own entry; several entries add up.
        weight: lambda >= 0; 30 in the paper. The authors' code has no such term.

    Returns:
        `[b]`, >= 0; 0 where there is no entry.

    Example:
        >>> import torch
        >>> proximal(torch.empty(1, 0), torch.tensor([[0.9]]), weight=1.0)
        tensor([0.2000])

    Relations:
        `functional.nce` has it as its argument `proximal`.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018, section 3.3.
    """
    return as_scores(s_p).map(lambda s: 2 * weight * (1 - s)).sum()
