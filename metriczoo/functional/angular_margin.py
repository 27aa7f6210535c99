"""Margins that are added to the angle between an embedding and its class proxy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import check_number
from metriczoo.functional._angles import add_angle, column, with_margin
from metriczoo.functional._classes import max_by_class
from metriczoo.functional._softplus import softplus
from metriczoo.functional.unified import unified
from metriczoo.scores import Scores, as_scores

__all__ = ["ada_face", "arc_face", "class_size_margins", "curricular_face", "mag_face", "sphere_face2", "sub_center_arc_face"]


def arc_face(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    margin: float | Tensor = 0.5,
    scale: float | Tensor = 64.0,
    gradient: str = "detached",
) -> Tensor:
    r"""ArcFace: softmax cross-entropy on cosines, with a margin on the angle to the own class.

    .. math::
        L = -\log \frac{e^{\gamma \cos(\theta_y + m)}}{e^{\gamma \cos(\theta_y + m)} + \sum_j e^{\gamma s_n^j}}, \qquad
        \theta_y = \arccos s_p

    Where :math:`\theta_y > \pi - m`, :math:`\cos\theta_y - m \sin m` takes the place of :math:`\cos(\theta_y + m)`, which would rise again.

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one. Several count as in `unified`.
        margin: m in [0, pi / 2], radians: a number, or one for each anchor, `[b]`.
        scale: :math:`\gamma > 0`.
        gradient: `"exact"`, or `"detached"`, where the margin is a constant to the gradient, whose size by s_p then stays below `scale`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> arc_face(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), margin=0.5, scale=1.0)
        tensor([0.8336])

    Relations:
        `am_softmax` takes the margin off the cosine; without a margin both are `norm_face`. The exact derivative of the target by the
        cosine is :math:`\sin(\theta + m) / \sin\theta`, unbounded as the angle falls to 0, where it is cut off; the authors' code is
        detached, and lacks the guard.

    References:
        Deng, Guo, Xue, Zafeiriou. ArcFace: Additive Angular Margin Loss for Deep Face Recognition. CVPR 2019, equation 3.
    """
    target = as_scores(s_p).map(lambda s: with_margin(s, lambda c: add_angle(c, column(margin)), gradient))
    return unified(s_n, target, margin=0.0, scale=scale)


def class_size_margins(counts: Any, *, factor: float = 0.5, offset: float = 0.05, power: float = 0.25) -> Tensor:
    r"""Margins that are larger for smaller classes: :math:`m_c = a \, n_c^{-\lambda} + b`.

    Args:
        counts: `[C]`, how many samples each class has; a class without any counts as one of size 1.
        factor: a >= 0.
        offset: b >= 0, the margin of a class without end.
        power: :math:`\lambda \ge 0`.

    Returns:
        `[C]`, float32: the `margin` of `ArcFaceLoss` or `SubCenterArcFaceLoss`.

    Raises:
        ValueError: for a negative number.

    Example:
        >>> class_size_margins([1, 16, 256])
        tensor([0.5500, 0.3000, 0.1750])

    Relations:
        With `offset=0` they are the label-distribution-aware margins of Cao et al., 2019, there on logits.

    References:
        Ha, Liu, Liu, Liao. Google Landmark Recognition 2020 Competition Third Place Solution. 2020.
    """
    numbers = {"factor": factor, "offset": offset, "power": power}
    factor, offset, power = (check_number(name, value, low=0) for name, value in numbers.items())
    return factor * torch.as_tensor(counts, dtype=torch.float32).clamp(min=1).pow(-power) + offset


def sub_center_arc_face(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    classes: int | Tensor,
    *,
    num_classes: int | None = None,
    margin: float | Tensor = 0.5,
    scale: float | Tensor = 64.0,
    gradient: str = "detached",
) -> Tensor:
    r"""Sub-center ArcFace: a class has several proxies, of which the nearest to an embedding counts.

    .. math:: L = \operatorname{ArcFace}\bigl(\{\max_k s_{jk}\}_{j \ne y}, \; \max_k s_{yk}\bigr)

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class.
        classes: how many adjacent cells of `s_n` each class has; or `[n]` or `[b, n]` int64 in [0, num_classes), the class of each cell.
        num_classes: default: the largest of `classes` + 1, which has to be read.
        margin: m in [0, pi / 2], radians: a number, or one for each anchor, `[b]`.
        scale: :math:`\gamma > 0`.
        gradient: `"exact"` or `"detached"`, as of `arc_face`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> sub_center_arc_face(torch.tensor([[0.2, -0.7, 0.1, 0.0]]), torch.tensor([[0.9, 0.3]]), 2, margin=0.5, scale=1.0)
        tensor([0.8336])

    Relations:
        With one proxy per class it is `arc_face`. `soft_triple` averages over the proxies of a class, weighted by nearness.

    References:
        Deng, Guo, Liu, Gong, Zafeiriou. Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces. ECCV 2020,
        section 3.
    """
    nearest = max_by_class(as_scores(s_n), classes, num_classes)
    return arc_face(nearest, as_scores(s_p).topk(1), margin=margin, scale=scale, gradient=gradient)


def curricular_face(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    t: float | Tensor,
    margin: float | Tensor = 0.5,
    scale: float | Tensor = 64.0,
    gradient: str = "detached",
) -> Tensor:
    r"""CurricularFace: ArcFace in which hard negatives weigh more as training goes on.

    .. math::
        L = -\log \frac{e^{\gamma \phi}}{e^{\gamma \phi} + \sum_j e^{\gamma N(s_n^j)}}, \qquad \phi = \cos(\theta_y + m), \quad
        N(s) = \begin{cases} s & s \le \phi \\ s (t + s) & s > \phi \end{cases}

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one. Of several the farthest says which negatives are hard.
        t: a number or `[b]`: the running mean of the cosines to the own class, 0 at the start.
        margin: m in [0, pi / 2], radians; guarded as in `arc_face`.
        scale: :math:`\gamma > 0`.
        gradient: `"exact"` or `"detached"`, of the margin, as of `arc_face`. N is always differentiated.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> curricular_face(torch.tensor([[0.6, 0.1]]), torch.tensor([[0.8]]), t=0.3, margin=0.5, scale=1.0)
        tensor([1.0522])

    Relations:
        Where no negative is hard it is `arc_face`. The authors' code differentiates the margin exactly.

    References:
        Huang, Wang, Tai, Liu, Shen, Li, Li, Huang. CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition. CVPR 2020,
        section 3.
    """
    t = column(t)

    def harden(s: Tensor) -> Tensor:
        hard = (s.detach() - limit).relu().sign()  # 0 or 1: to choose by a mask takes fifteen times as long
        return s * (1 + hard * (s + (t - 1)))

    target = as_scores(s_p).map(lambda s: with_margin(s, lambda c: add_angle(c, column(margin)), gradient))
    limit = target.min().detach().unsqueeze(1)
    return unified(as_scores(s_n).map(harden), target, margin=0.0, scale=scale)


def mag_face(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    norms: Tensor,
    *,
    min_margin: float = 0.45,
    max_margin: float = 0.8,
    min_norm: float = 10.0,
    max_norm: float = 110.0,
    scale: float | Tensor = 64.0,
    regularization: float | Tensor = 35.0,
    gradient: str = "detached",
) -> Tensor:
    r"""MagFace: ArcFace with a margin that grows with the norm of the embedding, and a reward for large norms: norms tell quality.

    .. math::
        L = \operatorname{ArcFace}(m(a)) + \lambda \Bigl(\frac{a}{u^2} + \frac 1 a\Bigr), \qquad
        m(a) = m_l + (m_u - m_l) \frac{a - l}{u - l}, \quad a = \min(\max(\|x\|, l), u)

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one.
        norms: `[b]`, norms of the embeddings. Beyond the bounds they receive no gradient.
        min_margin: :math:`m_l` in [0, pi / 2], radians.
        max_margin: :math:`m_u` in [m_l, pi / 2].
        min_norm: l > 0.
        max_norm: u > l.
        scale: :math:`\gamma > 0`.
        regularization: :math:`\lambda \ge 0`; 35 in the authors' script, 20 as the default of their code.
        gradient: `"exact"` or `"detached"`: of the margin by the cosine, as of `arc_face`. By the norm it is always differentiated.

    Returns:
        `[b]`, > 0.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> mag_face(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), torch.tensor([110.0]), scale=1.0, regularization=55.0)
        tensor([1.9929])

    Relations:
        With equal margins and no regularisation it is `arc_face`. The authors' code differentiates exactly, and by default leaves the
        margin out where the angle exceeds 90 degrees, so that its target falls as the cosine rises past 0.

    References:
        Meng, Zhao, Huang, Zhou. MagFace: A Universal Representation for Face Recognition and Quality Assessment. CVPR 2021,
        section 3.
    """
    a = norms.clamp(min_norm, max_norm)
    margin = min_margin + (max_margin - min_margin) * (a - min_norm) / (max_norm - min_norm)
    return arc_face(s_n, s_p, margin=margin, scale=scale, gradient=gradient) + regularization * (a / max_norm**2 + 1 / a)


def ada_face(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    norms: Tensor,
    *,
    mean: float | Tensor = 20.0,
    std: float | Tensor = 100.0,
    margin: float | Tensor = 0.4,
    concentration: float = 0.333,
    scale: float | Tensor = 64.0,
    gradient: str = "detached",
) -> Tensor:
    r"""AdaFace: a margin on the angle for embeddings of small norm, on the cosine for those of large norm.

    .. math::
        L = -\log \frac{e^{\gamma \phi}}{e^{\gamma \phi} + \sum_j e^{\gamma s_n^j}}, \quad \phi = \cos(\theta_y - m z) - m (1 + z), \quad
        z = \Bigl[h \frac{\|x\| - \mu}{\sigma + 0.001}\Bigr]_{-1}^{1}

    The angle with its margin is kept in :math:`[0, \pi]`; beyond :math:`\pi` the cosine goes on falling as in `arc_face`.

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one.
        norms: `[b]`, norms of the embeddings, taken within [0.001, 100]; they receive no gradient.
        mean: :math:`\mu`, running mean of the norms, a number or `[b]`.
        std: :math:`\sigma \ge 0`, their running standard deviation, a number or `[b]`.
        margin: m in [0, pi / 2].
        concentration: h > 0.
        scale: :math:`\gamma > 0`.
        gradient: `"exact"` or `"detached"`, as of `arc_face`.

    Returns:
        `[b]`, >= 0; 0 where either set is empty.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> ada_face(torch.tensor([[0.2, 0.1]]), torch.tensor([[0.9]]), torch.tensor([20.0]), margin=0.4, scale=1.0)
        tensor([0.8801])

    Relations:
        An embedding of average norm, z = 0, has the loss `am_softmax`; z = -1 gives `arc_face`, and z = 1 an angle that counts as smaller.
        The authors' code differentiates exactly, and cuts angles off at 0.001 and :math:`\pi - 0.001`, with gradient 0 beyond.

    References:
        Kim, Jain, Liu. AdaFace: Quality Adaptive Margin for Face Recognition. CVPR 2022, section 4.
    """
    z = (concentration * (norms.detach().clamp(1e-3, 100.0) - mean) / (std + 1e-3)).clamp(-1, 1).unsqueeze(1)
    target = as_scores(s_p).map(lambda s: with_margin(s, lambda c: add_angle(c, -margin * z) - margin * (1 + z), gradient))
    return unified(s_n, target, margin=0.0, scale=scale)


def sphere_face2(
    s_n: Tensor | Scores,
    s_p: Tensor | Scores,
    *,
    bias: float | Tensor,
    margin: float | Tensor = 0.4,
    scale: float | Tensor = 40.0,
    power: float = 3.0,
    positive_weight: float = 0.7,
    weight: float | Tensor = 50.0,
    gradient: str = "detached",
) -> Tensor:
    r"""SphereFace2: a binary decision for each class, without a softmax over them.

    .. math::
        L = w \Bigl[\frac{\lambda}{\gamma} \log\bigl(1 + e^{-(\gamma (g(s_p) - m) + b)}\bigr)
        + \frac{1 - \lambda}{\gamma} \sum_j \log\bigl(1 + e^{\gamma (g(s_n^j) + m) + b}\bigr)\Bigr], \qquad
        g(s) = 2 \Bigl(\frac{s + 1}{2}\Bigr)^t - 1

    Args:
        s_n: `[b, n]`, cosines to the proxies of other classes.
        s_p: `[b, p]`, cosines to the proxies of the anchor's class; usually one, several add up.
        bias: b, of all decisions; learned.
        margin: m >= 0.
        scale: :math:`\gamma > 0`.
        power: t >= 1, which spreads high cosines.
        positive_weight: :math:`\lambda` in [0, 1].
        weight: w > 0, of the whole loss.
        gradient: `"exact"`, or `"detached"`, where g has derivative 1, as in the authors' code.

    Returns:
        `[b]`, >= 0.

    Raises:
        ValueError: for an unknown `gradient`.

    Example:
        >>> import torch
        >>> sphere_face2(torch.tensor([[0.0]]), torch.tensor([[1.0]]), bias=0.0, margin=0.0, scale=1.0, power=1.0, weight=1.0)
        tensor([0.4272])

    Relations:
        A sigmoid pair loss on class proxies. As classes do not compete, proxies can be split over machines. The authors' code averages over
        anchors and classes and multiplies by the number of classes, which is the same.

    References:
        Wen, Liu, Weller, Raj, Singh. SphereFace2: Binary Classification is All You Need for Deep Face Recognition. ICLR 2022,
        section 2.
    """

    def spread(s: Tensor) -> Tensor:
        return with_margin(s, lambda c: 2 ** (1 - power) * (c + 1).clamp(min=torch.finfo(c.dtype).tiny).pow(power) - 1, gradient)

    pull = as_scores(s_p).map(lambda s: softplus(-(scale * (spread(s) - margin) + bias)))
    push = as_scores(s_n).map(lambda s: softplus(scale * (spread(s) + margin) + bias))
    return weight / scale * (positive_weight * pull.sum() + (1 - positive_weight) * push.sum())
