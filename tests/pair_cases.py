"""The log-sum-exp and threshold losses under test: how each is made, and what its paper says, by loops over Python lists.

A specification takes all anchors of a batch and returns, for each term of the loss, the losses of the groups (anchors or pairs) that are
averaged. It imports nothing from metriczoo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metriczoo import losses as zoo
from metriczoo.losses.easy_positive import EasyPositiveLoss
from metriczoo.losses.histogram import DynamicSoftMarginLoss, HistogramLoss
from metriczoo.losses.info_nce import DecoupledContrastiveLoss, NTXentLoss, SupConLoss, WeightedDecoupledContrastiveLoss
from metriczoo.losses.lifted import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from metriczoo.losses.n_pairs import AngularLoss, NPairsLoss
from metriczoo.losses.neighbours import InstanceLoss, NCALoss, SoftNearestNeighborLoss
from metriczoo.losses.sigmoid import BinomialDevianceLoss, SigmoidLoss
from metriczoo.losses.thresholds import MarginLoss, MultiSimilarityLoss, RankedListLoss, ThresholdConsistentMarginLoss
from metriczoo.losses.tuplet import IntraPairVarianceLoss, TupletMarginLoss

__all__ = ["CASES", "Anchor", "Case", "anchors_of", "averaged", "differences", "inner"]

Vector = Sequence[float]
Groups = list[list[float]]  # by term
Spec = Callable[..., Groups]


@dataclass
class Anchor:
    """The scores of one anchor to its negatives and positives, those of the positives to the negatives, and what else a loss may read."""

    s_n: list[float]
    s_p: list[float]
    between: list[list[float]]
    label: int
    point: Vector
    positives: list[Vector]


@dataclass(frozen=True)
class Case:
    """One loss."""

    name: str
    make: Callable[..., zoo.Loss]  # takes the options of `Loss`
    spec: Spec  # anchors -> groups; with `at`, weights that are constants to the gradient are those of other anchors
    score: Callable[[Vector, Vector], float]
    separable: bool = True
    held: bool = False  # whether `spec` takes `at`
    own_point: bool = False  # whether an anchor is compared with itself, too

    def __repr__(self) -> str:
        return self.name


# ---- similarities


def inner(x: Vector, y: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def unit(x: Vector) -> Vector:
    norm = math.hypot(*x)
    return [a / norm for a in x] if norm else list(x)


def cosine(x: Vector, y: Vector) -> float:
    return inner(unit(x), unit(y))


def euclidean(x: Vector, y: Vector) -> float:
    return -math.dist(x, y)


def squared(x: Vector, y: Vector) -> float:
    return -math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def spherical(x: Vector, y: Vector) -> float:
    return -math.dist(unit(x), unit(y))


# ---- specifications


def each(of_anchor: Callable[..., Any], *, between: bool = False) -> Spec:
    """The specification of a loss whose anchors are apart: `of_anchor(s_n, s_p)` gives the groups of an anchor, a tuple if by term."""

    def spec(anchors: Sequence[Anchor], at: Sequence[Anchor] | None = None) -> Groups:
        terms: Groups = []
        for k, a in enumerate(anchors):
            held = {} if at is None else {"at": (at[k].s_n, at[k].s_p)}
            groups = of_anchor(a.s_n, a.s_p, a.between) if between else of_anchor(a.s_n, a.s_p, **held)
            groups = groups if isinstance(groups, tuple) else (groups,)
            terms = terms or [[] for _ in groups]
            for term, more in zip(terms, groups, strict=True):
                term += more
        return terms or [[]]

    return spec


def nt_xent(s_n, s_p, t=0.3):
    return [-math.log(math.exp(p / t) / (math.exp(p / t) + sum(math.exp(n / t) for n in s_n))) for p in s_p] if s_n else []


def supcon_out(s_n, s_p, t=0.3):
    total = sum(math.exp(a / t) for a in s_n + s_p)
    return [-sum(math.log(math.exp(p / t) / total) for p in s_p) / len(s_p)] if s_p else []


def supcon_in(s_n, s_p, t=0.3):
    total = sum(math.exp(a / t) for a in s_n + s_p)
    return [-math.log(sum(math.exp(p / t) / total for p in s_p) / len(s_p))] if s_p else []


def decoupled(s_n, s_p, t=0.3):
    return [-p / t + math.log(sum(math.exp(n / t) for n in s_n)) for p in s_p] if s_n else []


def weighted_decoupled(anchors, t=0.3, sigma=0.5):
    pairs = [p for a in anchors if a.s_n for p in a.s_p]
    mean = sum(math.exp(p / sigma) for p in pairs) / max(1, len(pairs))
    return [
        [-(2 - math.exp(p / sigma) / mean) * p / t + math.log(sum(math.exp(n / t) for n in a.s_n)) for a in anchors if a.s_n for p in a.s_p]
    ]


def siglip(s_n, s_p, t=4.0, b=-2.0):
    pairs = [(s, 1) for s in s_p] + [(s, -1) for s in s_n]
    return [-sum(math.log(1 / (1 + math.exp(-z * (t * s + b)))) for s, z in pairs)] if pairs else []


def binomial(s_n, s_p, a=2.0, b=10.0, threshold=0.4):
    pull, push = ([math.log(1 + math.exp(c * (s - threshold))) for s in side] for c, side in ((-a, s_p), (b, s_n)))
    return [sum(pull) / len(pull) + sum(push) / len(push)] if pull and push else []


def nca(s_n, s_p, scale=0.7):
    share = [sum(math.exp(scale * s) for s in side) for side in (s_p, s_n)]
    return [-math.log(share[0] / sum(share))] if s_n and s_p else []


def n_pairs(anchors, penalty=0.0):
    norms = [[(inner(a.point, a.point) + inner(p, p)) / 2 for p in a.positives] for a in anchors]
    return [
        [
            math.log(1 + sum(math.exp(n - p) for n in a.s_n)) + penalty * norm
            for a, own in zip(anchors, norms, strict=True)
            if a.s_n
            for p, norm in zip(a.s_p, own, strict=True)
        ]
    ]


def instance(anchors, scale=4.0):
    """On points merged by label: with `own_point`, the anchor's own mean is a positive."""
    return each(partial(nca, scale=scale))(anchors)


def angular(s_n, s_p, between, degrees=40.0):
    t2 = math.tan(math.radians(degrees)) ** 2
    f = [[4 * t2 * (n + m) - 2 * (1 + t2) * p for n, m in zip(s_n, row, strict=True)] for p, row in zip(s_p, between, strict=True)]
    return [math.log(1 + sum(math.exp(v) for v in row)) for row in f] if s_n else []


def lifted(s_n, s_p, between, m=1.5):
    if not s_n:
        return []
    j = [math.log(sum(math.exp(m + s) for s in s_n + row)) - p for p, row in zip(s_p, between, strict=True)]
    return [max(v, 0) ** 2 / 2 for v in j]


def lifted_general(s_n, s_p, m=1.5):
    return [max(0, math.log(sum(math.exp(-p) for p in s_p)) + math.log(sum(math.exp(m + n) for n in s_n)))] if s_n and s_p else []


def tuplet(s_n, s_p, beta=0.1, scale=5.0):
    return [math.log(1 + sum(math.exp(scale * (n - math.cos(math.acos(p) - beta))) for n in s_n)) for p in s_p] if s_n else []


def variance(anchors, e=0.05):
    positives, negatives = [p for a in anchors for p in a.s_p], [n for a in anchors for n in a.s_n]
    mu_p, mu_n = (sum(s) / max(1, len(s)) for s in (positives, negatives))
    return [[max(0, (1 - e) * mu_p - p) ** 2 for p in positives], [max(0, n - (1 + e) * mu_n) ** 2 for n in negatives]]


def multi_similarity(s_n, s_p, a=2.0, b=10.0, threshold=0.4):
    pull = math.log(1 + sum(math.exp(-a * (p - threshold)) for p in s_p)) / a
    push = math.log(1 + sum(math.exp(b * (n - threshold)) for n in s_n)) / b
    return [pull + push] if s_n and s_p else []


def margin(anchors, alpha=0.2, betas=(1.2,), nu=0.0):
    groups = []
    for a in anchors:
        beta = betas[a.label % len(betas)]
        groups += [max(0, alpha - p - beta) + nu * beta for p in a.s_p] + [max(0, alpha + n + beta) for n in a.s_n]
    return [groups]


def ranked_list(s_n, s_p, near=0.8, far=1.2, t_p=1.0, t_n=5.0, weight=0.4, at=None):
    if not (s_n and s_p):
        return []

    def mean(violations, held, t):
        w = [math.exp(t * v) * (v > 0) for v in held]
        return sum(a * b for a, b in zip(w, violations, strict=True)) / sum(w) if any(w) else 0.0

    held_n, held_p = at or (s_n, s_p)
    pull = mean([-p - near for p in s_p], [-p - near for p in held_p], t_p)
    push = mean([far + n for n in s_n], [far + n for n in held_n], t_n)
    return [(1 - weight) * pull + weight * push]


def threshold_consistent(s_n, s_p, m_p=0.9, m_n=0.3, w_p=0.5, w_n=2.0):
    return [w_p * (m_p - p) for p in s_p if p <= m_p], [w_n * (n - m_n) for n in s_n if n >= m_n]


def easy_positive(s_n, s_p, t=0.4, semi_hard=False):
    near = max(s_p, default=math.nan)
    negatives = [n for n in s_n if n < near or not semi_hard]
    return [-math.log(math.exp(near / t) / (math.exp(near / t) + math.exp(max(negatives) / t)))] if s_p and negatives else []


def histogram(anchors, bins=9):
    nodes, width = [-1 + 2 * r / bins for r in range(bins + 1)], 2 / bins

    def soft(values):
        return [sum(max(0.0, 1 - abs(v - t) / width) for v in values) / max(1, len(values)) for t in nodes]

    positives, negatives = [p for a in anchors for p in a.s_p], [n for a in anchors for n in a.s_n]
    h = soft(positives)
    phi = [sum(h[: r + 1]) for r in range(bins + 1)]
    return [[sum(a * b for a, b in zip(soft([n]), phi, strict=True)) for n in negatives] if positives else []]


def dynamic_margin(anchors, bins=11, at=None):
    """The first call of the loss: the histogram is that of the batch."""
    nodes, width = [-2 + 4 * r / bins for r in range(bins + 1)], 4 / bins

    def gaps(of):
        return [max(a.s_n) - p for a in of if a.s_n for p in a.s_p]

    held = gaps(at or anchors)
    pdf = [sum(max(0.0, 1 - abs(v - t) / width) for v in held) / max(1, len(held)) for t in nodes]
    weights = [sum(pdf[: min(bins, math.floor((v + 2) / width)) + 1]) for v in held]
    return [[w * v for w, v in zip(weights, gaps(anchors), strict=True)]]


def _case(name: str, make: Callable[..., zoo.Loss], spec: Spec, score: Callable[..., float] = cosine, **more: Any) -> Case:
    return Case(name, make, spec, score, **more)


def _rll(**options: Any) -> zoo.Loss:
    return RankedListLoss(positive_scale=1.0, negative_scale=5.0, negative_weight=0.4, **options)


CASES = [
    _case("nt_xent", partial(NTXentLoss, 0.3), each(nt_xent)),
    _case("nt_xent_learned", partial(NTXentLoss, 0.3, learn_temperature=True), each(nt_xent)),
    _case("supcon_out", partial(SupConLoss, 0.3), each(supcon_out)),
    _case("supcon_in", partial(SupConLoss, 0.3, form="in"), each(supcon_in)),
    _case("decoupled", partial(DecoupledContrastiveLoss, 0.3), each(decoupled)),
    _case("decoupled_weighted", partial(WeightedDecoupledContrastiveLoss, 0.3), weighted_decoupled, separable=False),
    _case("sigmoid", partial(SigmoidLoss, 4.0, -2.0), each(siglip)),
    _case("sigmoid_fixed", partial(SigmoidLoss, 4.0, -2.0, learnable=False), each(siglip)),
    _case("binomial", partial(BinomialDevianceLoss, 2.0, 10.0, 0.4), each(binomial)),
    _case("nca", partial(NCALoss, 0.7), each(nca), squared),
    _case("soft_nearest", partial(SoftNearestNeighborLoss, 1 / 0.7, learn_temperature=True), each(nca), squared),
    _case("instance", partial(InstanceLoss, 4.0), instance, own_point=True),
    _case("n_pairs", NPairsLoss, n_pairs, inner),
    _case("n_pairs_penalty", partial(NPairsLoss, 0.3), partial(n_pairs, penalty=0.3), inner),
    _case("angular", partial(AngularLoss, 40.0), each(angular, between=True)),
    _case("lifted", partial(LiftedStructureLoss, 1.5), each(lifted, between=True), euclidean),
    _case("lifted_general", partial(GeneralizedLiftedStructureLoss, 1.5), each(lifted_general), euclidean),
    _case("tuplet", partial(TupletMarginLoss, 0.1, 5.0), each(tuplet)),
    _case("variance", partial(IntraPairVarianceLoss, 0.05), variance, separable=False),
    _case("multi_similarity", partial(MultiSimilarityLoss, 2.0, 10.0, 0.4), each(multi_similarity)),
    _case("margin", MarginLoss, margin, spherical),
    _case("margin_fixed", partial(MarginLoss, learn_beta=False), margin, spherical),
    _case("margin_per_class", partial(MarginLoss, nu=0.25, num_classes=4), partial(margin, nu=0.25), spherical),
    _case("ranked_list", _rll, each(ranked_list), spherical, held=True),
    _case("ranked_list_full", partial(_rll, detach_weights=False), each(ranked_list), spherical),
    _case(
        "threshold_consistent",
        partial(ThresholdConsistentMarginLoss, 0.9, 0.3, positive_weight=0.5, negative_weight=2.0),
        each(threshold_consistent),
    ),
    _case("easy_positive", partial(EasyPositiveLoss, 0.4), each(easy_positive)),
    _case("easy_positive_semi_hard", partial(EasyPositiveLoss, 0.4, semi_hard=True), each(partial(easy_positive, semi_hard=True))),
    _case("histogram", partial(HistogramLoss, 9), histogram, separable=False),
    _case("dynamic_margin", partial(DynamicSoftMarginLoss, num_bins=11), dynamic_margin, spherical, separable=False, held=True),
]


# ---- a batch by loops


def anchors_of(case: Case, x: Tensor, labels: Sequence[int], y: Tensor | None = None, other: Sequence[int] | None = None) -> list[Anchor]:
    """The anchors of a batch `x` against itself, or against references `y`. Labels below 0 are ignored."""
    own = y is None
    rows, columns = x.tolist(), (x if own else y).tolist()
    theirs = labels if own else other
    if case.own_point:  # merged by label
        rows, labels = _merged(rows, labels)
        columns, theirs = _merged(columns, theirs)
    result = []
    for i, (a, label) in enumerate(zip(rows, labels, strict=True)):
        if label < 0:
            continue
        itself = i if own and not case.own_point else -1
        kept = [(b, c == label) for j, (b, c) in enumerate(zip(columns, theirs, strict=True)) if c >= 0 and j != itself]
        negatives, positives = [b for b, same in kept if not same], [b for b, same in kept if same]
        s = case.score
        between = [[s(p, n) for n in negatives] for p in positives]
        result.append(Anchor([s(a, n) for n in negatives], [s(a, p) for p in positives], between, label, a, positives))
    return result


def _merged(rows: list[Vector], labels: Sequence[int]) -> tuple[list[Vector], list[int]]:
    names = sorted({label for label in labels if label >= 0})
    groups = [[row for row, label in zip(rows, labels, strict=True) if label == name] for name in names]
    return [[sum(column) / len(group) for column in zip(*group, strict=True)] for group in groups], names


def averaged(case: Case, groups: Groups, reduction: str = "mean") -> float:
    """Each term by its own number of groups, or by those that are not 0."""
    counts = [len(term) if reduction == "mean" else sum(v != 0 for v in term) for term in groups]
    return math.fsum(math.fsum(term) / max(1, count) for term, count in zip(groups, counts, strict=True))


def differences(value: Callable[[Tensor], float], x: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of a function of `x`."""
    gradient = torch.zeros_like(x)
    for k in range(x.numel()):
        ends = []
        for h in (step, -step):
            moved = x.clone()
            moved.view(-1)[k] += h
            ends.append(value(moved))
        gradient.view(-1)[k] = (ends[0] - ends[1]) / (2 * step)
    return gradient
