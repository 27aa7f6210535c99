"""The losses under test: how each is made, what its paper says on two Python lists, and what it promises.

A specification takes the similarities of one anchor to its negatives and to its positives and returns, for each term of the loss, the list
of the losses of its groups: one number per anchor, per pair or per triplet. Every reduction is a sum over such groups, divided by a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.similarity import Cosine

__all__ = ["ZOO", "Entry", "Groups", "Tags", "lse", "softplus"]

Groups = tuple[list[float], ...]
Spec = Callable[..., Groups]

LOG_Z, NUM_DATA = 3.0, 25  # of the NCE entries, kept fixed so that the loss is a function of its arguments
COSINES, DISTANCES = (-1.0, 1.0), (-4.0, 0.0)


@dataclass(frozen=True)
class Tags:
    """What a loss promises of its value L on the scores of one anchor, and of its default similarity. Every one is checked both ways."""

    signs: bool = True  # dL/ds_p <= 0 <= dL/ds_n
    shift: bool = True  # L(s + c) = L(s)
    bound: Callable[[int, int], float] | None = None  # (negatives, positives) -> least upper bound of sum |dL/ds_p|, if any
    saturates: bool = False  # value and gradient exactly 0 where positives are perfect and negatives far
    self_paced: bool = False  # the gradient is not the derivative of the value
    scale: bool = True  # L(a x) = L(x)
    translation: bool = False  # L(x + t) = L(x)


@dataclass(frozen=True)
class Entry:
    """One loss of the zoo."""

    name: str
    make: Callable[..., losses.Loss]  # takes the options of `Loss`
    function: Callable[..., Any]  # the same on plain scores
    spec: Spec
    tags: Tags
    similarity: str = "cosine"  # of the paper
    domain: tuple[float, float] = COSINES
    per_anchor: bool = False  # one group per anchor, rather than one per pair or triplet
    counts_together: bool = False  # the groups of an anchor are active together
    between: bool = False  # the specification takes the similarities of positives to negatives as a third argument
    frozen: Callable[[Sequence[float], Sequence[float]], Spec] | None = None  # the specification with the weights of given scores
    variant: bool = False  # of another entry: only what depends on its parameters is checked

    def __repr__(self) -> str:
        return self.name

    def spec_at(self, s_n: Sequence[float], s_p: Sequence[float]) -> Spec:
        """The function whose derivative at `(s_n, s_p)` the gradient is."""
        return self.spec if self.frozen is None else self.frozen(s_n, s_p)

    def mutant(self, name: str, **changes: Any) -> Entry:
        """The same promises about another implementation."""
        return replace(self, name=f"{self.name}:{name}", **changes)


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def lse(u: Sequence[float]) -> float:
    return max(u) + math.log(sum(math.exp(v - max(u)) for v in u))


def hinge(z: float) -> float:
    return max(z, 0.0)


# Hadsell, Chopra, LeCun 2006: 1/2 d^2 on positives, 1/2 [m - d]_+^2 on negatives, d = -s; with a margin for positives, too.
def contrastive(s_n, s_p, *, positive_margin=0.0, negative_margin=1.0):
    return [hinge(-s - positive_margin) ** 2 / 2 for s in s_p], [hinge(negative_margin + s) ** 2 / 2 for s in s_n]


# As PyTorch's CosineEmbeddingLoss and the code of cross-batch memory.
def contrastive_cosine(s_n, s_p, *, positive_margin=1.0, negative_margin=0.5):
    return [hinge(positive_margin - s) for s in s_p], [hinge(s - negative_margin) for s in s_n]


# Schroff et al. 2015 and Hermans et al. 2017, over every triplet.
def triplet(s_n, s_p, *, margin=0.2, penalty=hinge):
    return ([penalty(n - p + margin) for p in s_p for n in s_n],)


# Balntas et al. 2016: the negative is compared with the nearer end of the positive pair.
def triplet_swap(s_n, s_p, between, *, margin=0.2):
    return ([hinge(max(n, between[i][j]) - p + margin) for i, p in enumerate(s_p) for j, n in enumerate(s_n)],)


# Sun et al. 2020, equation 1: log(1 + sum of exp over all pairs of a negative and a positive).
def unified(s_n, s_p, *, margin, scale):
    return ([softplus(lse([scale * (n - p + margin) for n in s_n for p in s_p]))] if s_n and s_p else [],)


# Sun et al. 2020, equation 6, with O_p = 1 + m, O_n = -m, D_p = 1 - m, D_n = m; the weights are those at `at`.
def circle(s_n, s_p, at=None, *, margin, scale):
    a_n, a_p = ([hinge(s + margin) for s in (at or (s_n, s_p))[0]], [hinge(1 + margin - s) for s in (at or (s_n, s_p))[1]])
    z = [scale * (a * (n - margin) - b * (p - 1 + margin)) for a, n in zip(a_n, s_n, strict=True) for b, p in zip(a_p, s_p, strict=True)]
    return ([softplus(lse(z))] if z else [],)


# Wang et al. 2018, equation 6: softmax cross-entropy with s_p - m for the own class; several positives as in equation 1 of Sun et al.
def am_softmax(s_n, s_p, *, margin=0.35, scale=30.0):
    return ([math.log1p(sum(math.exp(scale * n - scale * (p - margin)) for n in s_n for p in s_p))] if s_n and s_p else [],)


# Wu et al. 2018, equations 6 to 9: h = P / (P + q), P = exp(s / tau) / Z, q = m / n; -log h = log(1 + q / P), -log(1 - h) = log(1 + P / q).
def nce(s_n, s_p, *, temperature, proximal=0.0, log_z=LOG_Z, num_data=NUM_DATA):
    p, q = (lambda s: math.exp(s / temperature - log_z)), len(s_n) / num_data
    own = [math.log1p(q / p(s)) + proximal * (2 - 2 * s) for s in s_p]
    return ([sum(own) + sum(math.log1p(p(s) / q) for s in s_n)] if s_p else [],)


# Weinberger, Saul 2009, equations 11 to 13, d^2 = -s: a pull on each target, a push on its impostors.
def lmnn(s_n, s_p, *, num_targets=3, mu=0.5, margin=1.0):
    targets = sorted(s_p, reverse=True)[:num_targets]
    return ([(1 - mu) * -t + mu * sum(hinge(margin - t + n) for n in s_n) for t in targets],)


def _make_nce(**options: Any) -> losses.Loss:
    loss = losses.NCELoss(**options)
    loss.load_state_dict({**loss.state_dict(), "log_z": torch.tensor(LOG_Z), "num_data": torch.tensor(NUM_DATA)})
    return loss


def _entry(
    name: str, make: Callable[..., losses.Loss], function: Callable[..., Any], spec: Spec, tags: Tags, *, own: Any = None, **parameters: Any
) -> Entry:
    """An entry whose factory, function and specification share their parameters; `own` are fields of the entry."""
    return Entry(name, partial(make, **parameters), partial(function, **parameters), partial(spec, **parameters), tags, **(own or {}))


def _triplet(name: str, penalty: str, spec_penalty: Callable[[float], float], tags: Tags) -> Entry:
    parameters = {"margin": 0.2, "penalty": penalty}
    spec = partial(triplet, margin=0.2, penalty=spec_penalty)
    return Entry(name, partial(losses.TripletMarginLoss, **parameters), partial(F.triplet_margin, **parameters), spec, tags)


def _circle(name: str, tags: Tags, *, detach_weights: bool = True, margin: float = 0.4, scale: float = 20.0, **own: Any) -> Entry:
    parameters = {"margin": margin, "scale": scale, "detach_weights": detach_weights}
    spec = partial(circle, margin=margin, scale=scale)
    frozen = (lambda s_n, s_p: partial(spec, at=(s_n, s_p))) if detach_weights else None
    make, function = partial(losses.CircleLoss, **parameters), partial(F.circle, **parameters)
    return Entry(name, make, function, spec, tags, per_anchor=True, frozen=frozen, **own)


_ANCHOR = {"per_anchor": True}
_DISTANCE = {"similarity": "euclidean", "domain": DISTANCES}
_SQUARED = {"similarity": "squared euclidean", "domain": DISTANCES, "counts_together": True}
_ON_DISTANCES = {"shift": False, "scale": False, "translation": True}

ZOO = [
    _entry("contrastive", losses.ContrastiveLoss, F.contrastive, contrastive, Tags(saturates=True, **_ON_DISTANCES), own=_DISTANCE),
    _entry(
        "contrastive_margins",
        losses.ContrastiveLoss,
        F.contrastive,
        contrastive,
        Tags(saturates=True, **_ON_DISTANCES),
        own={**_DISTANCE, "variant": True},
        positive_margin=0.25,
        negative_margin=1.5,
    ),
    Entry(
        "contrastive_cosine",
        lambda **options: losses.ContrastiveLoss(**{"similarity": Cosine(), **options}),
        F.contrastive_cosine,
        contrastive_cosine,
        Tags(shift=False, bound=lambda n, p: p, saturates=True),
    ),
    _triplet("triplet", "hinge", hinge, Tags(bound=lambda n, p: n * p, saturates=True)),
    _triplet("triplet_squared", "squared", lambda z: hinge(z) ** 2, Tags(bound=lambda n, p: 2 * 2.2 * n * p, saturates=True)),
    _triplet("triplet_soft", "soft", softplus, Tags(bound=lambda n, p: n * p)),
    _entry(
        "triplet_swap",
        partial(losses.TripletMarginLoss, swap=True),
        partial(F.triplet_margin, swap=True),
        triplet_swap,
        Tags(bound=lambda n, p: n * p, saturates=True),
        own={"between": True},
        margin=0.2,
    ),
    _entry("unified", losses.UnifiedLoss, F.unified, unified, Tags(bound=lambda n, p: 8), own=_ANCHOR, margin=0.25, scale=8.0),
    _entry(
        "unified_faces",
        losses.UnifiedLoss,
        F.unified,
        unified,
        Tags(bound=lambda n, p: 256),
        own={**_ANCHOR, "variant": True},
        margin=0.25,
        scale=256.0,
    ),
    _circle("circle", Tags(shift=False, bound=lambda n, p: 20 * 2.4, self_paced=True)),
    _circle("circle_faces", Tags(shift=False, bound=lambda n, p: 256 * 2.25, self_paced=True), margin=0.25, scale=256.0, variant=True),
    _circle("circle_attached", Tags(signs=False, shift=False, bound=lambda n, p: 2 * 20 * 2), detach_weights=False),
    _entry("am_softmax", losses.AMSoftmaxLoss, F.am_softmax, am_softmax, Tags(bound=lambda n, p: 30), own=_ANCHOR, margin=0.35, scale=30.0),
    Entry(
        "nce",
        partial(_make_nce, temperature=0.2),
        partial(F.nce, temperature=0.2, log_z=LOG_Z, num_data=NUM_DATA),
        partial(nce, temperature=0.2),
        Tags(shift=False, bound=lambda n, p: p / 0.2),
        per_anchor=True,
    ),
    Entry(
        "nce_proximal",
        partial(_make_nce, temperature=0.2, proximal=1.5),
        partial(F.nce, temperature=0.2, proximal=1.5, log_z=LOG_Z, num_data=NUM_DATA),
        partial(nce, temperature=0.2, proximal=1.5),
        Tags(shift=False, bound=lambda n, p: p * (1 / 0.2 + 2 * 1.5)),
        per_anchor=True,
        variant=True,
    ),
    _entry(
        "lmnn",
        losses.LMNNLoss,
        F.lmnn,
        lmnn,
        Tags(bound=lambda n, p: min(2, p) * (0.4 + 0.6 * n), **_ON_DISTANCES),
        own=_SQUARED,
        num_targets=2,
        mu=0.6,
        margin=1.0,
    ),
    _entry(
        "lmnn_push",
        losses.LMNNLoss,
        F.lmnn,
        lmnn,
        Tags(bound=lambda n, p: n * p, saturates=True, scale=False, translation=True),
        own={**_SQUARED, "variant": True},
        num_targets=100,
        mu=1.0,
        margin=1.0,
    ),
]
