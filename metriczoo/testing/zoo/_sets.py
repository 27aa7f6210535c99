"""Losses over the sets of an anchor, by log-sum-exp, thresholds and histograms, as their papers say them."""

from __future__ import annotations

import math
from functools import partial

import torch

from metriczoo import losses
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._lists import hinge, lse, softplus

__all__ = ["SUBJECTS"]


# Chen et al. 2020, equation 1: each positive is told from all negatives, by cosines / tau.
def nt_xent(s_n, s_p, *, t):
    return [lse([p / t, *(n / t for n in s_n)]) - p / t for p in s_p] if s_n else []


# Radford et al. 2021, figure 3: the references of a batch are told from the others, too.
def nt_xent_symmetric(embeddings, labels, references=None, ids=(), *, t):
    if references is None:
        own = list(zip(embeddings, labels, range(len(labels)), strict=True))
        return _one_way(own, own, t)
    own = list(zip(embeddings, labels, ids, strict=True))
    others = list(zip(references.rows, references.labels, references.ids, strict=True))
    return _one_way(own, others, t) + _one_way(others, own, t)


def _one_way(anchors, others, t):
    terms = []
    for x, label, own in anchors:
        seen = [(_cosine(x, y), other == label) for y, other, i in others if min(label, other) >= 0 and (i < 0 or i != own)]
        terms += nt_xent([s for s, same in seen if not same], [s for s, same in seen if same], t=t)
    return terms


# Khosla et al. 2020, equations 2 (out) and 3 (in, with the mean over positives): all others are in the denominator.
def supcon_out(s_n, s_p, *, t):
    return sum(lse([a / t for a in s_n + s_p]) - p / t for p in s_p) / len(s_p)


def supcon_in(s_n, s_p, *, t):
    return lse([a / t for a in s_n + s_p]) - lse([p / t for p in s_p]) + math.log(len(s_p))


# Yeh et al. 2022, equations 6 and 7: NT-Xent without the positive in the denominator; w = 2 - exp(s/sigma) / its mean over all pairs.
def decoupled(s_n, s_p, *, t):
    return [lse([n / t for n in s_n]) - p / t for p in s_p] if s_n else []


def decoupled_weighted(anchors, *, t, sigma):
    pairs = [(p, a.s_n) for a in anchors if a.s_n for p in a.s_p]
    mean = sum(math.exp(p / sigma) for p, _ in pairs) / max(1, len(pairs))
    return [lse([n / t for n in s_n]) - (2 - math.exp(p / sigma) / mean) * p / t for p, s_n in pairs]


# Zhai et al. 2023, section 3.2: sum of log(1 + exp(-z (t s + b))), z = 1 for positives and -1 for negatives.
def siglip(s_n, s_p, *, t, b):
    return sum(softplus(-t * p - b) for p in s_p) + sum(softplus(t * n + b) for n in s_n)


# Yi et al. 2014, with the means over positives and over negatives of Wang et al. 2019, section 3.2.
def binomial(s_n, s_p, *, alpha, beta, threshold):
    pull = sum(softplus(-alpha * (p - threshold)) for p in s_p) / len(s_p)
    return pull + sum(softplus(beta * (n - threshold)) for n in s_n) / len(s_n)


# Goldberger et al. 2004, and Frosst et al. 2019, equation 1: the share of the class among all others, by -d^2.
def share(s_n, s_p, *, scale):
    return lse([scale * s for s in s_n + s_p]) - lse([scale * p for p in s_p])


# Zheng et al. 2020: softmax over instances, each the mean of its points.
def instance(embeddings, labels, references=None, *, scale):
    own = _means(embeddings, labels)
    others = own if references is None else _means(references.rows, references.labels)
    terms = []
    for name, x in own.items():
        z = {other: scale * _cosine(x, y) for other, y in others.items()}
        if name in z and len(z) > 1:
            terms.append(lse(list(z.values())) - z[name])
    return terms


def _means(rows, labels):
    groups = {label: [row for row, other in zip(rows, labels, strict=True) if other == label] for label in labels if label >= 0}
    return {label: [sum(column) / len(group) for column in zip(*group, strict=True)] for label, group in groups.items()}


def _inner(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def _cosine(x, y):
    norms = math.hypot(*x) * math.hypot(*y)
    return _inner(x, y) / norms if norms else 0.0


# Sohn 2016, section 3.2: log(1 + sum exp(n - p)) by inner products, and lambda times the mean squared norm of the pair.
def n_pairs(s_n, s_p):
    return [softplus(lse(s_n) - p) for p in s_p] if s_n else []


def n_pairs_penalty(anchor, *, penalty):
    norms = [(_inner(anchor.point, anchor.point) + _inner(p, p)) / 2 for p in anchor.positives]
    return [loss + penalty * norm for loss, norm in zip(n_pairs(anchor.s_n, anchor.s_p), norms, strict=False)]


# Wang et al. 2017, equation 8: f = 4 tan^2(alpha) (a + p).n - 2 (1 + tan^2(alpha)) a.p, on unit vectors.
def angular(s_n, s_p, between, *, angle):
    t2 = math.tan(math.radians(angle)) ** 2
    rows = [[4 * t2 * (n + m) - 2 * (1 + t2) * p for n, m in zip(s_n, row, strict=True)] for p, row in zip(s_p, between, strict=True)]
    return [softplus(lse(row)) for row in rows] if s_n else []


# Song et al. 2016, equation 4, d = -s: both ends of a pair push their negatives. A batch holds each pair twice, hence the half.
def lifted(s_n, s_p, between, *, margin):
    return [hinge(lse([margin + s for s in s_n + row]) - p) ** 2 / 2 for p, row in zip(s_p, between, strict=True)] if s_n else []


# Hermans et al. 2017, "Lifted Generalized", d = -s.
def lifted_generalized(s_n, s_p, *, margin):
    return hinge(lse([-p for p in s_p]) + lse([margin + n for n in s_n]))


# Yu, Tao 2019, tuplet margin: the angle of the positive less a slack beta.
def tuplet(s_n, s_p, *, beta, scale):
    angles = [math.acos(min(1.0, max(-1.0, p))) for p in s_p]
    return [softplus(lse([scale * n for n in s_n]) - scale * math.cos(angle - beta)) for angle in angles] if s_n else []


# Yu, Tao 2019, intra-pair variance: [(1 - e) mu_p - p]_+^2 and [n - (1 + e) mu_n]_+^2, mu the means over all pairs of the batch.
def variance(anchors, *, epsilon):
    positives, negatives = [p for a in anchors for p in a.s_p], [n for a in anchors for n in a.s_n]
    mu_p, mu_n = (sum(s) / max(1, len(s)) for s in (positives, negatives))
    return [hinge((1 - epsilon) * mu_p - p) ** 2 for p in positives], [hinge(n - (1 + epsilon) * mu_n) ** 2 for n in negatives]


# Xing et al. 2002, section 2, d = -s, means in place of sums: that of d^2 over positives, less the logarithm of that of d over negatives.
def mmc(anchors):
    distances = [-n for a in anchors for n in a.s_n]
    push = -math.log(max(sum(distances) / max(1, len(distances)), 1e-18))
    return [p * p for a in anchors for p in a.s_p], [push for _ in distances]


# Wang, Han, Huang, Dong, Scott 2019, equation 13.
def multi_similarity(s_n, s_p, *, alpha, beta, threshold):
    pull = softplus(lse([-alpha * (p - threshold) for p in s_p])) / alpha
    return pull + softplus(lse([beta * (n - threshold) for n in s_n])) / beta


# Wu et al. 2017, section 4.2, d = -s: [alpha + d - beta]_+ and [alpha - d + beta]_+, with beta of the class of the anchor or of all.
def margin(s_n, s_p, *, alpha=0.2, beta=1.2):
    return [hinge(alpha - p - beta) for p in s_p] + [hinge(alpha + n + beta) for n in s_n]


def margin_per_class(anchor, *, betas):
    return margin(anchor.s_n, anchor.s_p, beta=betas[anchor.label % len(betas)])


# Wang et al. 2019 (ranked list), equations 5 to 10, d = -s: weighted means over violations; the weights are those at `at`.
def ranked_list(s_n, s_p, at, *, near=0.8, far=1.2, t_p, t_n, weight):
    pull = _weighted([-p - near for p in s_p], [-p - near for p in at[1]], t_p) if s_p else 0.0
    push = _weighted([far + n for n in s_n], [far + n for n in at[0]], t_n) if s_n else 0.0
    return (1 - weight) * pull + weight * push


def ranked_list_attached(s_n, s_p, **options):
    return ranked_list(s_n, s_p, (s_n, s_p), **options)


def _weighted(violations, held, t):
    weights = [math.exp(t * (v - max(held))) * (v > 0) for v in held]
    return sum(w * v for w, v in zip(weights, violations, strict=True)) / sum(weights) if any(weights) else 0.0


# Zhang et al. 2024, equation 4: means over the pairs that violate one threshold for all.
def threshold_consistent(s_n, s_p, *, near, far, w_p, w_n):
    return [w_p * (near - p) for p in s_p if p <= near], [w_n * (n - far) for n in s_n if n >= far]


# Xuan et al. 2020: the nearest positive against the nearest negative, or the nearest negative beyond it.
def easy_positive(s_n, s_p, *, t):
    return [softplus((max(s_n) - max(s_p)) / t)] if s_n and s_p else []


def easy_positive_semi_hard(s_n, s_p, *, t):
    return easy_positive([n for n in s_n if s_p and n < max(s_p)], s_p, t=t)


# Ustinova, Lempitsky 2016, equations 1 to 5: how likely a positive is farther than a negative, by soft histograms over all pairs.
def histogram(anchors, *, bins):
    positives, negatives = [p for a in anchors for p in a.s_p], [n for a in anchors for n in a.s_n]
    h = _soft_histogram(positives, bins, 1)
    phi = [sum(h[: r + 1]) / len(positives) for r in range(bins + 1)] if positives else []
    return [_inner(_soft_histogram([n], bins, 1), phi) for n in negatives] if positives else []


def _soft_histogram(values, bins, limit):
    width = 2 * limit / bins
    return [sum(hinge(1 - abs(v + limit - r * width) / width) for v in values) for r in range(bins + 1)]


# Zhang, Rusinkiewicz 2019, section 3: F(x) x, x = d_p - min d_n, F the distribution of x over all pairs of the batch.
def dynamic_margin(anchors, *, bins):
    gaps = [max(a.s_n) - p for a in anchors if a.s_n for p in a.s_p]
    return [w * x for w, x in zip(_ranks(gaps, bins), gaps, strict=True)]


def dynamic_margin_weights(s_n, s_p, *, bins):
    w = _ranks([max(s_n) - p for p in s_p], bins)
    return [sum(w) * (k == s_n.index(max(s_n))) for k in range(len(s_n))], [-v for v in w]


def _ranks(gaps, bins):
    gaps = [min(2.0, max(-2.0, x)) for x in gaps]
    h = _soft_histogram(gaps, bins, 2)
    return [sum(h[: math.floor((x + 2) * bins / 4) + 1]) / len(gaps) for x in gaps]


BETAS = [1.25, 1.0, 1.5, 1.125]
per_class = losses.MarginLoss(beta=BETAS[0], num_classes=len(BETAS))
per_class.load_state_dict({"beta": torch.tensor(BETAS)})
ranked = partial(losses.RankedListLoss, positive_scale=1.0, negative_scale=5.0, negative_weight=0.4)

SUBJECTS = [
    Subject(losses.NTXentLoss(), partial(nt_xent, t=0.1)),
    Subject(losses.NTXentLoss(0.3, learn_temperature=True), partial(nt_xent, t=0.3), name="NTXent-learned"),
    Subject(losses.NTXentLoss(0.3, symmetric=True), partial(nt_xent_symmetric, t=0.3), name="NTXent-symmetric"),
    Subject(losses.SupConLoss(0.3), partial(supcon_out, t=0.3)),
    Subject(losses.SupConLoss(0.3, form="in"), partial(supcon_in, t=0.3), name="SupCon-in"),
    Subject(losses.DecoupledContrastiveLoss(0.3), partial(decoupled, t=0.3)),
    Subject(losses.WeightedDecoupledContrastiveLoss(0.3), partial(decoupled_weighted, t=0.3, sigma=0.5)),
    Subject(losses.SigmoidLoss(4.0, -2.0), partial(siglip, t=4.0, b=-2.0)),
    Subject(losses.SigmoidLoss(learnable=False), partial(siglip, t=10.0, b=-10.0), name="Sigmoid-fixed"),
    Subject(losses.BinomialDevianceLoss(2.0, 10.0, 0.4), partial(binomial, alpha=2.0, beta=10.0, threshold=0.4)),
    Subject(losses.NCALoss(0.7), partial(share, scale=0.7)),
    Subject(losses.SoftNearestNeighborLoss(2.0, learn_temperature=True), partial(share, scale=0.5)),
    Subject(losses.InstanceLoss(4.0), partial(instance, scale=4.0)),
    Subject(losses.NPairsLoss(), n_pairs),
    Subject(losses.NPairsLoss(0.3), partial(n_pairs_penalty, penalty=0.3), name="NPairs-penalty"),
    Subject(losses.AngularLoss(40.0), partial(angular, angle=40.0)),
    Subject(losses.AngularLoss(30.0), partial(angular, angle=30.0), name="Angular-balanced"),
    Subject(losses.LiftedStructureLoss(1.5), partial(lifted, margin=1.5)),
    Subject(losses.GeneralizedLiftedStructureLoss(1.5), partial(lifted_generalized, margin=1.5)),
    Subject(losses.TupletMarginLoss(0.1, 5.0), partial(tuplet, beta=0.1, scale=5.0)),
    Subject(losses.IntraPairVarianceLoss(0.05), partial(variance, epsilon=0.05)),
    Subject(losses.MMCLoss(), mmc),
    Subject(losses.MultiSimilarityLoss(2.0, 10.0, 0.4), partial(multi_similarity, alpha=2.0, beta=10.0, threshold=0.4)),
    Subject(losses.MarginLoss(), margin),
    Subject(losses.MarginLoss(learn_beta=False), margin, name="Margin-fixed"),
    Subject(per_class, partial(margin_per_class, betas=BETAS), name="Margin-per-class"),
    Subject(ranked(), partial(ranked_list, t_p=1.0, t_n=5.0, weight=0.4)),
    Subject(ranked(detach_weights=False), partial(ranked_list_attached, t_p=1.0, t_n=5.0, weight=0.4), name="RankedList-attached"),
    Subject(
        losses.ThresholdConsistentMarginLoss(0.9, 0.3, positive_weight=0.5, negative_weight=2.0),
        partial(threshold_consistent, near=0.9, far=0.3, w_p=0.5, w_n=2.0),
    ),
    Subject(losses.EasyPositiveLoss(0.4), partial(easy_positive, t=0.4)),
    Subject(losses.EasyPositiveLoss(0.4, semi_hard=True), partial(easy_positive_semi_hard, t=0.4), name="EasyPositive-semi-hard"),
    Subject(losses.HistogramLoss(9), partial(histogram, bins=9)),
    Subject(losses.DynamicSoftMarginLoss(num_bins=11), partial(dynamic_margin, bins=11), weights=partial(dynamic_margin_weights, bins=11)),
]
