"""Softmax cross-entropy over class weights: plain, on normalised features, and with margins that multiply the angle."""

from __future__ import annotations

import torch
from torch import Tensor

from metriczoo.functional._angles import column, multiply_angle, with_margin
from metriczoo.functional.unified import unified
from metriczoo.scores import Scores, as_scores

__all__ = ["l2_softmax", "large_margin_softmax", "norm_face", "softmax", "sphere_face"]


def softmax(s_n: Tensor | Scores, s_p: Tensor | Scores) -> Tensor:
    r"""Softmax cross-entropy: the class weights are references, and a score is a logit.

    .. math:: L = -\log \frac{e^{s_p}}{e^{s_p} + \sum_j e^{s_n^j}}

    Args:
        s_n: `[b, n]`, logits of other classes, :math:`x \cdot w_j + b_j`.
        s_p: `[b, p]`, logits of the anchor's class; usually one. Several count as in `unified`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> softmax(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]))
        tensor([0.6657])

    Relations:
        It is `unified` with scale 1 and no margin, and PyTorch's `cross_entropy` on the logits. `norm_face` is the form on cosines.

    References:
        Bridle. Probabilistic Interpretation of Feedforward Classification Network Outputs. Neurocomputing, 1990.
    """
    return unified(s_n, s_p, margin=0.0, scale=1.0)


def l2_softmax(s_n: Tensor | Scores, s_p: Tensor | Scores, *, scale: float | Tensor = 24.0) -> Tensor:
    r"""L2-constrained softmax: cross-entropy of features that lie on a sphere, with class weights of any length.

    .. math:: L = -\log \frac{e^{\alpha s_p}}{e^{\alpha s_p} + \sum_j e^{\alpha s_n^j}}, \qquad s_j = \hat x \cdot w_j

    Args:
        s_n: `[b, n]`, inner products of the unit feature with the weights of other classes.
        s_p: `[b, p]`, inner products with the weights of the anchor's class; usually one.
        scale: :math:`\alpha > 0`, the radius of the sphere. For C classes to be told apart with probability p the paper asks for at least
            :math:`\log(p (C - 2) / (1 - p))`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> l2_softmax(torch.tensor([[0.02, 0.01]]), torch.tensor([[0.09]]), scale=10.0)
        tensor([0.6657])

    Relations:
        `norm_face` normalises the class weights, too.

    References:
        Ranjan, Castillo, Chellappa. L2-constrained Softmax Loss for Discriminative Face Verification. 2017.
    """
    return unified(s_n, s_p, margin=0.0, scale=scale)


def norm_face(s_n: Tensor | Scores, s_p: Tensor | Scores, *, scale: float | Tensor = 30.0) -> Tensor:
    r"""NormFace: softmax cross-entropy on cosines.

    .. math:: L = -\log \frac{e^{\gamma s_p}}{e^{\gamma s_p} + \sum_j e^{\gamma s_n^j}}

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one.
        scale: :math:`\gamma > 0`, fixed or learned. With C classes the loss cannot fall below
            :math:`\log(1 + (C - 1) e^{-\gamma C / (C - 1)})`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Example:
        >>> import torch
        >>> norm_face(torch.tensor([[0.02, 0.01]]), torch.tensor([[0.09]]), scale=10.0)
        tensor([0.6657])

    Relations:
        It is `am_softmax` and `arc_face` without a margin, and `proxy_nca_plus_plus` with scale 2 / temperature.

    References:
        Wang, Xiang, Cheng, Yuille. NormFace: L2 Hypersphere Embedding for Face Verification. ACM Multimedia 2017, section 3.
    """
    return unified(s_n, s_p, margin=0.0, scale=scale)


def large_margin_softmax(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    norms: Tensor,
    *,
    margin: float = 4.0,
    annealing: float | Tensor = 0.0,
    gradient: str = "detached",
) -> Tensor:
    r"""Large-margin softmax: the angle to the own class weight counts `margin` times.

    .. math::
        L = -\log \frac{e^{z_p}}{e^{z_p} + \sum_j e^{s_n^j}}, \qquad z_p = \|x\| \|w_y\|
        \frac{\lambda \cos\theta + \psi(\theta)}{\lambda + 1}, \quad
        \psi(\theta) = (-1)^k \cos m\theta - 2k \;\text{ on }\; \bigl[\tfrac{k \pi}{m}, \tfrac{(k + 1) \pi}{m}\bigr]

    Args:
        s_n: `[b, n]`, inner products with the weights of other classes.
        s_p: `[b, p]`, inner products with the weights of the anchor's class; usually one.
        norms: `[b, p]`, :math:`\|x\| \|w_y\|` of each cell of `s_p`.
        margin: m >= 1; whole in the paper, 4 at most.
        annealing: :math:`\lambda \ge 0`, a number or `[b]`; the authors let it fall in training, since the full margin is hard
            to start with.
        gradient: `"exact"`, or `"detached"`, where the margin is a constant to the gradient: dz_p / ds_p = 1.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> large_margin_softmax(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), torch.tensor([[1.0]]), margin=2.0)
        tensor([0.8116])

    Relations:
        `sphere_face` has class weights of unit length. `margin=1` is `softmax`. The authors' layer differentiates exactly.

    References:
        Liu, Wen, Yu, Yang. Large-Margin Softmax Loss for Convolutional Neural Networks. ICML 2016, equations 4 and 6.
    """
    s_p = as_scores(s_p)
    there = norms > 0
    cosines = s_p.map(lambda s: torch.where(there, s / torch.where(there, norms, 1.0), 0.0))
    return unified(s_n, cosines.map(lambda c: norms * _annealed(c, margin, annealing, gradient)), margin=0.0, scale=1.0)


def sphere_face(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    scale: float | Tensor,
    margin: float = 4.0,
    annealing: float | Tensor = 0.0,
    gradient: str = "detached",
) -> Tensor:
    r"""SphereFace (A-Softmax): class weights on the unit sphere, and the angle to the own one counts `margin` times.

    .. math::
        L = -\log \frac{e^{\gamma z_p}}{e^{\gamma z_p} + \sum_j e^{\gamma s_n^j}}, \qquad
        z_p = \frac{\lambda \cos\theta + \psi(\theta)}{\lambda + 1}, \quad
        \psi(\theta) = (-1)^k \cos m\theta - 2k \;\text{ on }\; \bigl[\tfrac{k \pi}{m}, \tfrac{(k + 1) \pi}{m}\bigr]

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one.
        scale: :math:`\gamma`: in the paper the norm of each embedding, `[b]`; a number for normalised embeddings.
        margin: m >= 1; whole in the paper.
        annealing: :math:`\lambda \ge 0`, a number or `[b]`; the authors' code uses max(5, 1000 / (1 + 0.12 t)) at step t.
        gradient: `"exact"`, or `"detached"`, where the margin is a constant to the gradient: dz_p / ds_p = 1.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> sphere_face(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), scale=1.0, margin=2.0)
        tensor([0.8116])

    Relations:
        With a number for `scale` and `margin=1` it is `norm_face`. The exact derivative of :math:`\psi` by the cosine is
        :math:`(-1)^k m \sin m\theta / \sin\theta`, in [0, m^2]. The first code differentiates exactly, the authors' later one (scale 30,
        margin 1.7) is detached.

    References:
        Liu, Wen, Yu, Li, Raj, Song. SphereFace: Deep Hypersphere Embedding for Face Recognition. CVPR 2017, equations 6 and 7.
        Liu, Wen, Raj, Singh, Weller. SphereFace Revived: Unifying Hyperspherical Face Recognition. TPAMI 2022 (detached gradient).
    """
    target = as_scores(s_p).map(lambda c: _annealed(c, margin, annealing, gradient))
    return unified(s_n, target, margin=0.0, scale=column(scale))


def _annealed(cosine: Tensor, margin: float, annealing: float | Tensor, gradient: str) -> Tensor:
    weight = column(annealing)
    return with_margin(cosine, lambda c: (weight * c + multiply_angle(c, margin)) / (weight + 1), gradient)
