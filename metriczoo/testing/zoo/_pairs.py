"""Losses over the pairs and triplets of an anchor, as their papers say them."""

from __future__ import annotations

import math
from functools import partial

from metriczoo import losses
from metriczoo.similarity import Cosine
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._lists import cos, hinge, lse, softplus

__all__ = ["SUBJECTS"]


# Hadsell, Chopra, LeCun 2006: 1/2 d^2 on positives, 1/2 [m - d]_+^2 on negatives, d = -s; with a margin for positives, too.
def contrastive(s_n, s_p, *, positive_margin=0.0, negative_margin=1.0):
    return [hinge(-s - positive_margin) ** 2 / 2 for s in s_p], [hinge(negative_margin + s) ** 2 / 2 for s in s_n]


# As PyTorch's CosineEmbeddingLoss and the code of cross-batch memory.
def contrastive_cosine(s_n, s_p, *, positive_margin=1.0, negative_margin=0.5):
    return [hinge(positive_margin - s) for s in s_p], [hinge(s - negative_margin) for s in s_n]


# Schroff et al. 2015 and Hermans et al. 2017, over every triplet.
def triplet(s_n, s_p, *, margin=0.2, penalty=hinge):
    return [penalty(n - p + margin) for p in s_p for n in s_n]


# Balntas et al. 2016: the negative is compared with the nearer end of the positive pair.
def triplet_swap(s_n, s_p, between, *, margin=0.2):
    return [hinge(max(n, between[i][j]) - p + margin) for i, p in enumerate(s_p) for j, n in enumerate(s_n)]


# Sun et al. 2020, equation 1: log(1 + sum of exp over all pairs of a negative and a positive).
def unified(s_n, s_p, *, margin, scale):
    return softplus(lse([scale * (n - p + margin) for n in s_n for p in s_p]))


# Sun et al. 2020, equation 6, with O_p = 1 + m, O_n = -m, D_p = 1 - m, D_n = m; the weights are those at `at`.
def circle(s_n, s_p, at, *, margin, scale):
    a_n, a_p = [hinge(s + margin) for s in at[0]], [hinge(1 + margin - s) for s in at[1]]
    z_n = [scale * a * (n - margin) for a, n in zip(a_n, s_n, strict=True)]
    z_p = [-scale * a * (p - 1 + margin) for a, p in zip(a_p, s_p, strict=True)]
    return softplus(lse([n + p for n in z_n for p in z_p]))


def circle_attached(s_n, s_p, *, margin, scale):
    return circle(s_n, s_p, (s_n, s_p), margin=margin, scale=scale)


# The same over all pairs of the batch: a pair that is met from both of its ends counts once.
def unified_pooled(embeddings, labels, references=None, ids=(), *, margin, scale):
    ids = range(len(labels)) if references is None else ids or [-1] * len(labels)
    rows, names, others = (embeddings, labels, ids) if references is None else (references.rows, references.labels, references.ids)
    sides: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for x, y, i in zip(embeddings, labels, ids, strict=True):
        for z, w, j in zip(rows, names, others, strict=True):
            if y >= 0 and w >= 0 and (i != j or i < 0):
                both = references is None or (i >= 0 and j >= 0 and i in others and j in ids)
                sides[y == w].append((cos(x, z), 0.5 if both else 1.0))
    push, pull = ([(weight, sign * scale * s) for s, weight in sides[same]] for same, sign in ((False, 1), (True, -1)))
    if not (push and pull):
        return []
    return [softplus(sum(lse([z + math.log(weight) for weight, z in side]) for side in (push, pull)) + scale * margin)]


# Weinberger, Saul 2009, equations 11 to 13, d^2 = -s: a pull on each target, a push on its impostors.
def lmnn(s_n, s_p, *, num_targets=3, mu=0.5, margin=1.0):
    targets = sorted(s_p, reverse=True)[:num_targets]
    return [(1 - mu) * -t + mu * sum(hinge(margin - t + n) for n in s_n) for t in targets]


SUBJECTS = [
    Subject(losses.ContrastiveLoss(), contrastive),
    Subject(losses.ContrastiveLoss(0.25, 1.5), partial(contrastive, positive_margin=0.25, negative_margin=1.5), name="Contrastive-margins"),
    Subject(losses.ContrastiveLoss(similarity=Cosine()), contrastive_cosine, name="Contrastive-cosine"),
    Subject(losses.TripletMarginLoss(), triplet),
    Subject(losses.TripletMarginLoss(penalty="squared"), partial(triplet, penalty=lambda z: hinge(z) ** 2), name="Triplet-squared"),
    Subject(losses.TripletMarginLoss(penalty="soft"), partial(triplet, penalty=softplus), name="Triplet-soft"),
    Subject(losses.TripletMarginLoss(swap=True), triplet_swap, name="Triplet-swap"),
    Subject(losses.UnifiedLoss(0.25, 8.0), partial(unified, margin=0.25, scale=8.0)),
    Subject(losses.UnifiedLoss(), partial(unified, margin=0.25, scale=256.0), name="Unified-faces"),
    Subject(losses.CircleLoss(0.4, 20.0), partial(circle, margin=0.4, scale=20.0)),
    Subject(losses.CircleLoss(), partial(circle, margin=0.25, scale=256.0), name="Circle-faces"),
    Subject(losses.CircleLoss(0.4, 20.0, detach_weights=False), partial(circle_attached, margin=0.4, scale=20.0), name="Circle-attached"),
    Subject(losses.UnifiedLoss(0.25, 8.0, pooling="batch"), partial(unified_pooled, margin=0.25, scale=8.0), name="Unified-pooled"),
    Subject(losses.CircleLoss(0.4, 20.0, pooling="batch"), name="Circle-pooled"),
    Subject(losses.LMNNLoss(2, mu=0.6), partial(lmnn, num_targets=2, mu=0.6)),
    Subject(losses.LMNNLoss(100, mu=1.0), partial(lmnn, num_targets=100, mu=1.0), name="LMNN-push"),
]
