"""Losses that stand in for ranking metrics, as their papers say them."""

from __future__ import annotations

import math
from functools import partial

from metriczoo import losses
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._lists import hinge, softplus

__all__ = ["SUBJECTS"]

TAU = 0.3


def sigmoid(z):
    return math.exp(-softplus(-z)) if z > -50 else 0.0  # the library ends its tail there


def ahead(others, s, tau):
    return sum(sigmoid((t - s) / tau) for t in others)


def ranks(s_p, own, tau):
    """Of each positive, and of the query itself, if its score `own` is given: its rank among them."""
    found = [*s_p] if own is None else [*s_p, own]
    return [(s, 1 + ahead(found[:i] + found[i + 1 :], s, tau)) for i, s in enumerate(found)]


# Brown et al. 2020, equation 6, as 1 - AP = mean of R^N / (R^P + R^N).
def smooth_ap(s_n, s_p, *, tau, own=None):
    found = ranks(s_p, own, tau)
    return sum(1 / (1 + r / behind) for s, r in found if (behind := ahead(s_n, s, tau))) / len(found)


# Li et al. 2022, equations 8 to 13, with b = 3 and alpha = 1.5: how many negatives are ahead of each positive.
PENALTIES = {
    "o": lambda r: r,
    "iu": lambda r: (1 + r) * math.log1p(r),
    "ib": lambda r: (3 * r - math.log1p(3 * r)) / 9,
    "ds": lambda r: math.log1p(r),
    "dq": lambda r: 1 - (1 + r) ** -1.5,
}


def pnp(s_n, s_p, *, variant, tau, own=None):
    found = ranks(s_p, own, tau)
    return sum(PENALTIES[variant](ahead(s_n, s, tau)) for s, _ in found) / len(found)


# Patel et al. 2022, equations 5 and 6: sum of sigmoids of k - rank, at most k, divided by min(k, |P|).
def recall_at_k(s_n, s_p, *, k, tau, tau_k=1.0, own=None):
    rank = [r + ahead(s_n, s, tau) for s, r in ranks(s_p, own, tau)[: len(s_p)]]
    each = tau_k if isinstance(tau_k, tuple) else (tau_k,) * len(k)
    recalls = [min(m, sum(sigmoid((m - r) / t) for r in rank)) / min(m, len(s_p)) for m, t in zip(k, each, strict=True)]
    return 1 - sum(recalls) / len(recalls) if s_n else 0.0


# Cakir et al. 2019, equation 8, on soft histograms, the nearest node first: 1 - AP = sum of h^+ H^- / H, by |P|.
def fast_ap(s_n, s_p, *, bins, low=-1.0, high=1.0):
    step = (high - low) / bins
    h_p, h_n = ([sum(hinge(1 - abs(s - high + step * m) / step) for s in scores) for m in range(bins + 1)] for scores in (s_p, s_n))
    above_p, above_n = ([sum(h[: m + 1]) for m in range(bins + 1)] for h in (h_p, h_n))
    return sum(h * n / (p + n) for h, p, n in zip(h_p, above_p, above_n, strict=True) if n) / len(s_p)


SUBJECTS = [
    Subject(losses.FastAPLoss(), partial(fast_ap, bins=10)),
    Subject(losses.FastAPLoss(3), partial(fast_ap, bins=3), name="FastAP-3"),
    Subject(losses.SmoothAPLoss(), partial(smooth_ap, tau=0.01)),
    Subject(losses.SmoothAPLoss(TAU), partial(smooth_ap, tau=TAU), name="SmoothAP-soft"),
    Subject(losses.SmoothAPLoss(TAU, include_self=True), partial(smooth_ap, tau=TAU, own=1.0), name="SmoothAP-self"),
    *(
        Subject(losses.PNPLoss(v, temperature=TAU, scale=3.0, power=1.5), partial(pnp, variant=v, tau=TAU), name=f"PNP-{v}")
        for v in PENALTIES
    ),
    Subject(losses.PNPLoss("ds", temperature=TAU, include_self=True), partial(pnp, variant="ds", tau=TAU, own=1.0), name="PNP-self"),
    Subject(losses.RecallAtKLoss(temperature=0.1), partial(recall_at_k, k=(1, 2, 4, 8, 16), tau=0.1)),
    Subject(
        losses.RecallAtKLoss((1, 3), temperature=TAU, rank_temperature=0.5),
        partial(recall_at_k, k=(1, 3), tau=TAU, tau_k=0.5),
        name="RecallAtK-soft",
    ),
    Subject(
        losses.RecallAtKLoss((1, 3), temperature=TAU, rank_temperature=(1, 3)),
        partial(recall_at_k, k=(1, 3), tau=TAU, tau_k=(1, 3)),
        name="RecallAtK-each",
    ),
    Subject(
        losses.RecallAtKLoss(2, temperature=TAU, include_self=True), partial(recall_at_k, k=[2], tau=TAU, own=1.0), name="RecallAtK-self"
    ),
]
