"""Losses at class level, as their papers say them: on class proxies, or on centres."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from metriczoo import losses
from metriczoo.losses import Loss
from metriczoo.stores import Proxies
from metriczoo.stores.centers import Centers
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._lists import by_label, cos, cross_entropy, d2, dot, hinge, length, lse, softplus
from metriczoo.testing.zoo._pairs import circle, unified

__all__ = ["SUBJECTS"]

C, D = 5, 3
BIAS, MARGINS = [0.25, -0.5, 0.125, 0.5, 0.0], [0.125, 0.25, 0.5, 0.75, 1.0]


def _proxies(per_class: int = 1) -> Proxies:
    """Of different lengths, so that it shows who normalises."""
    store = Proxies(C, D, per_class=per_class, generator=torch.Generator().manual_seed(1234))
    store.weight.data.mul_(torch.linspace(0.75, 1.5, C * per_class).unsqueeze(1))
    return store


def _made(kind: Callable[..., Loss], *, per_class: int = 1, **options: Any) -> Loss:
    return kind(proxies=_proxies(per_class), **options)


def _with_bias(loss: Any) -> Loss:
    loss.bias.data = torch.tensor(BIAS)
    made: Loss = loss
    return made


# ---- softmax


# Cross-entropy of a linear layer; Ranjan et al. 2017, equation 3, where embeddings are brought to length alpha.
def linear(anchor, *, radius=None, bias=(0.0,) * C):
    factor = 1.0 if radius is None else radius / length(anchor.point)
    own = [factor * dot(anchor.point, w) + bias[anchor.label] for w in anchor.positives]
    return cross_entropy(
        own, [factor * dot(anchor.point, w) + bias[j] for w, j in zip(anchor.negatives, anchor.negative_labels, strict=True)]
    )


# Wang et al. 2017 (NormFace), equation 6; Wang et al. 2018 (AM-softmax), equation 6: cosines, times a scale, less a margin.
def additive(s_n, s_p, *, margin=0.0, scale):
    return cross_entropy([scale * (p - margin) for p in s_p], [scale * n for n in s_n])


def additive_by_class(anchor, *, scale):
    return additive(anchor.s_n, anchor.s_p, margin=MARGINS[anchor.label], scale=scale)


# ---- margins on the angle


def angle(c: float) -> float:
    return math.acos(min(1.0, max(-1.0, c)))


# Deng et al. 2019: cos(theta + m), and beyond pi - m, as in the authors' code, cos(theta) - m sin(m).
def arc(c, m):
    return math.cos(angle(c) + m) if angle(c) <= math.pi - m else c - m * math.sin(m)


# Liu et al. 2016, equation 6: (-1)^k cos(m theta) - 2 k for theta in [k pi / m, (k + 1) pi / m].
def psi(c, m):
    k = math.floor(angle(c) * m / math.pi)
    return (-1) ** k * math.cos(m * angle(c)) - 2 * k


# Deng et al. 2019, equation 3.
def arc_face(s_n, s_p, *, margin=0.5, scale):
    return cross_entropy([scale * arc(p, margin) for p in s_p], [scale * n for n in s_n])


# The authors' code: the margin, taken at `at`, is a constant to the gradient.
def arc_face_detached(s_n, s_p, at, *, margin=0.5, scale):
    return cross_entropy([scale * (arc(a, margin) + p - a) for p, a in zip(s_p, at[1], strict=True)], [scale * n for n in s_n])


def arc_face_by_class(anchor, *, scale):
    return arc_face(anchor.s_n, anchor.s_p, margin=MARGINS[anchor.label], scale=scale)


# Liu et al. 2016, equation 5: psi in place of the cosine to the own class, vectors of any length.
def large_margin(anchor, *, margin):
    own = [length(anchor.point) * length(w) * psi(cos(anchor.point, w), margin) for w in anchor.positives]
    return cross_entropy(own, [dot(anchor.point, w) for w in anchor.negatives])


# Liu et al. 2017, equation 7, on unit proxies; their code mixes psi with the cosine. Wen et al. 2021: a scale in place of the norm.
def sphere_face(anchor, *, margin, scale=None, annealing=0.0):
    factor = length(anchor.point) if scale is None else scale
    own = [factor * (annealing * p + psi(p, margin)) / (1 + annealing) for p in anchor.s_p]
    return cross_entropy(own, [factor * n for n in anchor.s_n])


# Deng et al. 2020, equation 3: ArcFace of the nearest sub-centre of each class.
def sub_center(anchor, *, scale):
    return arc_face([max(s) for s in by_label(anchor.s_n, anchor.negative_labels)], [max(anchor.s_p)], scale=scale)


# Huang et al. 2020, equations 8 and 9: a negative nearer than the own class with its margin is weighed by t + cos.
def curricular(anchor, *, scale, t):
    (p,) = anchor.s_p
    return cross_entropy([scale * arc(p, 0.5)], [scale * (n if n <= arc(p, 0.5) else n * (t + n)) for n in anchor.s_n])


# Meng et al. 2021, equations 3 to 5: a margin that grows with the norm a, and a / u^2 + 1 / a.
def mag_face(anchor, *, scale, low, high, weight):
    a = min(max(length(anchor.point), low), high)
    margin = 0.45 + (0.8 - 0.45) * (a - low) / (high - low)
    return arc_face(anchor.s_n, anchor.s_p, margin=margin, scale=scale) + weight * (a / high**2 + 1 / a)


# Kim et al. 2022, equations 8 to 10: z is the norm, standardised and clipped; cos(theta - m z) - m (1 + z).
def ada_face(anchor, *, scale, mean, std):
    z = min(max(0.333 * (min(max(length(anchor.point), 1e-3), 100.0) - mean) / (std + 1e-3), -1.0), 1.0)
    own = [(1.0 if angle(p) < 0.4 * z else arc(p, -0.4 * z)) - 0.4 * (1 + z) for p in anchor.s_p]
    return cross_entropy([scale * p for p in own], [scale * n for n in anchor.s_n])


# Wen et al. 2022, equation 5 and section 3.3: a binary classifier for each class, g(z) = 2 ((z + 1) / 2)^t - 1.
def g(c):
    return 2 * max(0.0, (c + 1) / 2) ** 3 - 1


def binary(g_n, g_p, *, scale, bias):
    own = sum(softplus(-(scale * (z - 0.4) + bias)) for z in g_p)
    return 50 * (0.7 * own + 0.3 * sum(softplus(scale * (z + 0.4) + bias) for z in g_n)) / scale


def sphere_face2(s_n, s_p, **constants):
    return binary(map(g, s_n), map(g, s_p), **constants)


# Section 3.4: g and the margin, taken at `at`, are constants to the gradient.
def sphere_face2_detached(s_n, s_p, at, **constants):
    g_n, g_p = ([g(a) + s - a for s, a in zip(*both, strict=True)] for both in ((s_n, at[0]), (s_p, at[1])))
    return binary(g_n, g_p, **constants)


# ---- proxies for neighbours


# Movshovitz-Attias et al. 2017, equation 4, d^2 = 2 - 2 s: the own proxy is not in the denominator.
def proxy_nca(s_n, s_p, *, scale=2.0):
    return lse([scale * n for n in s_n]) - lse([scale * p for p in s_p])


# Teh et al. 2020, equation 6: softmax of -d^2 / T = (2 s - 2) / T.
def proxy_nca_plus_plus(s_n, s_p, *, temperature=1 / 9):
    return cross_entropy([(2 * p - 2) / temperature for p in s_p], [(2 * n - 2) / temperature for n in s_n])


# Kim et al. 2020, equation 4: the first term over the proxies of classes in the batch, the second over all.
def proxy_anchor(embeddings, labels, *, weight, margin, scale):
    near: list[float] = []
    far: list[float] = []
    for c, w in enumerate(weight):
        own = [math.exp(-scale * (cos(x, w) - margin)) for x, y in zip(embeddings, labels, strict=True) if y == c]
        others = [math.exp(scale * (cos(x, w) + margin)) for x, y in zip(embeddings, labels, strict=True) if y >= 0 and y != c]
        near += [math.log1p(sum(own))] if own else []
        far += [math.log1p(sum(others))] if own or others else []
    return near, far


# Qian et al. 2019, equations 5 to 8: the similarity of a class is the softmax-weighted mean of those of its centres, which are to merge.
def soft_triple(anchor, *, margin=0.01, scale=20.0, temperature=0.1, regularization=0.2):
    def mean(s: Sequence[float]) -> float:
        weights = [math.exp(v / temperature) for v in s]
        return dot(weights, s) / sum(weights)

    classes = [anchor.positives, *by_label(anchor.negatives, anchor.negative_labels)]
    spread = sum(math.sqrt(2 + 1e-5 - 2 * cos(w[i], w[j])) for w in classes for j in range(len(w)) for i in range(j))
    k = len(anchor.positives)
    others = [mean(s) for s in by_label(anchor.s_n, anchor.negative_labels)]
    return additive(others, [mean(anchor.s_p)], margin=margin, scale=scale) + regularization * spread / (len(classes) * k * (k - 1))


# Zhang et al. 2019, equation 12: the gradient by each cosine is cos - 1 for the own class, cos for others.
def p2s_grad(s_n, s_p):
    return sum((p - 1) ** 2 for p in s_p) / 2 + sum(n**2 for n in s_n) / 2


# ---- centres


# He et al. 2018, equation 4, D = d^2 / 2.
def triplet_center(s_n, s_p, *, margin):
    return hinge(-min(s_p) / 2 + margin - -max(s_n) / 2)


# Wen et al. 2016, equation 2, s = -d^2.
def center(s_n, s_p):
    return [-p / 2 for p in s_p]


# Rippel et al. 2016, equations 4 and 5, each class one cluster: its mean, or the nearest of the references.
def magnet(embeddings, labels, references, ids, *, margin):
    if references is None:
        classes = zip(sorted({y for y in labels if y >= 0}), by_label(embeddings, labels), strict=True)
        table = [([sum(column) / len(rows) for column in zip(*rows, strict=True)], y, -1) for y, rows in classes]
    else:
        table = list(zip(references.rows, references.labels, references.ids, strict=True))
    anchors = [a for a in zip(embeddings, labels, ids, strict=True) if a[1] >= 0]
    seen = [[(m == y, d2(x, r)) for r, m, k in table if m >= 0 and not (i >= 0 and k == i)] for x, y, i in anchors]
    near = [min((d for own, d in s if own), default=None) for s in seen]
    known = [d for d in near if d is not None]
    twice = 2 * sum(known) / max(1, len(known) - 1) or 1.0
    far = [[-d / twice for own, d in s if not own] for s in seen]
    return [hinge(margin + d / twice + lse(z)) for d, z in zip(near, far, strict=True) if d is not None and z]


def _angular(
    name: str, kind: Callable[..., Loss], spec: Callable[..., Any], *, statistics: dict[str, float] | None = None, **options: Any
) -> list[Subject]:
    """With the exact and with the detached gradient: a loss of more than scores, to which a specification says no more of the second.

    Running `statistics` stand still at given values.
    """
    made = []
    for gradient in ("exact", "detached"):
        loss = _made(kind, gradient=gradient, **options)
        for buffer, value in (statistics or {}).items():
            getattr(loss, buffer).fill_(value)
        made.append(Subject(loss.eval() if statistics else loss, spec, name=f"{name}-{gradient}"))
    return made


def _proxy_anchor(margin: float, scale: float) -> Subject:
    loss = _made(losses.ProxyAnchorLoss, margin=margin, scale=scale)
    assert loss.proxies is not None
    return Subject(loss, partial(proxy_anchor, weight=loss.proxies.weight.tolist(), margin=margin, scale=scale))


def _center() -> Subject:
    store = Centers(C, D)
    store.embeddings.copy_(_proxies().weight.detach())
    return Subject(losses.CenterLoss(centers=store), center)


SUBJECTS = [
    Subject(_made(losses.SoftmaxLoss), linear),
    Subject(_with_bias(_made(losses.SoftmaxLoss, bias=True)), partial(linear, bias=BIAS), name="Softmax-bias"),
    Subject(_made(losses.L2SoftmaxLoss, scale=4.0), partial(linear, radius=4.0)),
    Subject(
        _with_bias(_made(losses.L2SoftmaxLoss, scale=4.0, learnable=True, bias=True)),
        partial(linear, radius=4.0, bias=BIAS),
        name="L2Softmax-learned",
    ),
    Subject(_made(losses.NormFaceLoss), partial(additive, scale=30.0)),
    Subject(_made(losses.AMSoftmaxLoss), partial(additive, margin=0.35, scale=30.0)),
    Subject(_made(losses.AMSoftmaxLoss, margin=torch.tensor(MARGINS), scale=8.0), partial(additive_by_class, scale=8.0), name="AM-margins"),
    *_angular("LargeMargin", losses.LargeMarginSoftmaxLoss, partial(large_margin, margin=3), margin=3),
    *_angular("SphereFace", losses.SphereFaceLoss, partial(sphere_face, margin=4)),
    Subject(
        _made(losses.SphereFaceLoss, annealing=losses.Annealing(start=7.0, decay=0.0), gradient="exact"),
        partial(sphere_face, margin=4, annealing=7.0),
        name="SphereFace-annealed",
    ),
    Subject(
        _made(losses.SphereFaceLoss, margin=1.7, scale=8.0, gradient="exact"),
        partial(sphere_face, margin=1.7, scale=8.0),
        name="SphereFace-scaled",
    ),
    Subject(_made(losses.ArcFaceLoss), partial(arc_face_detached, scale=64.0)),
    Subject(_made(losses.ArcFaceLoss, scale=8.0, gradient="exact"), partial(arc_face, scale=8.0), name="ArcFace-exact"),
    Subject(
        _made(losses.ArcFaceLoss, margin=nn.Parameter(torch.tensor(MARGINS)), scale=8.0, gradient="exact"),
        partial(arc_face_by_class, scale=8.0),
        name="ArcFace-margins",
    ),
    *_angular("SubCenter", losses.SubCenterArcFaceLoss, partial(sub_center, scale=8.0), per_class=2, scale=8.0),
    *_angular("CurricularFace", losses.CurricularFaceLoss, partial(curricular, scale=8.0, t=0.25), statistics={"t": 0.25}, scale=8.0),
    *_angular(
        "MagFace",
        losses.MagFaceLoss,
        partial(mag_face, scale=8.0, low=0.5, high=2.0, weight=3.0),
        min_norm=0.5,
        max_norm=2.0,
        scale=8.0,
        regularization=3.0,
    ),
    *_angular(
        "AdaFace",
        losses.AdaFaceLoss,
        partial(ada_face, scale=8.0, mean=1.0, std=0.25),
        statistics={"mean": 1.0, "std": 0.25},
        scale=8.0,
    ),
    Subject(_made(losses.SphereFace2Loss, scale=8.0, bias=-1.5), partial(sphere_face2_detached, scale=8.0, bias=-1.5)),
    Subject(
        _made(losses.SphereFace2Loss, scale=8.0, bias=-1.5, gradient="exact"),
        partial(sphere_face2, scale=8.0, bias=-1.5),
        name="SphereFace2-exact",
    ),
    Subject(_made(losses.UnifiedLoss, margin=0.25, scale=8.0), partial(unified, margin=0.25, scale=8.0), name="Unified-classes"),
    Subject(_made(losses.CircleLoss, margin=0.4, scale=20.0), partial(circle, margin=0.4, scale=20.0), name="Circle-classes"),
    Subject(_made(losses.ProxyNCALoss), proxy_nca),
    Subject(_made(losses.ProxyNCAPlusPlusLoss), proxy_nca_plus_plus),
    _proxy_anchor(0.125, 8.0),
    Subject(_made(losses.SoftTripleLoss, per_class=3), soft_triple),
    Subject(_made(losses.P2SGradLoss), p2s_grad),
    Subject(_made(losses.TripletCenterLoss), partial(triplet_center, margin=5.0)),
    Subject(_made(losses.TripletCenterLoss, margin=0.75), partial(triplet_center, margin=0.75), name="TripletCenter-near"),
    _center(),
    Subject(losses.MagnetLoss(4.0), partial(magnet, margin=4.0)),
]
