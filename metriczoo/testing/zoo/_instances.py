"""Losses in which an instance, or a class among very many, meets its own row of a table and a few others, as their papers say them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from metriczoo import losses
from metriczoo.losses import Loss
from metriczoo.stores import MemoryBank, Proxies
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._lists import cross_entropy, dot, softplus

__all__ = ["SUBJECTS"]

N, D = 5, 3
LOG_Z, NUM_DATA = 3.0, 25  # of NCE, kept fixed so that the loss is a function of its arguments
RARE, COMMON = 2.0**-30, 3  # weights of all rows but one: the draws are sure to be of that one


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(4321)


def _bank() -> MemoryBank:
    return MemoryBank(N, D, dtype=torch.float64, generator=_generator())


def _proxies(rows: int) -> Proxies:
    return Proxies(rows, D, generator=_generator())


def _noise() -> list[float]:
    return [1.0 if row == COMMON else RARE for row in range(N)]


# ---- noise-contrastive estimation


# Wu et al. 2018, equations 6 to 9: h = P / (P + q), P = exp(s / tau) / Z, q = m P_n; -log h = log(1 + q / P), -log(1 - h) = log(1 + P / q).
# Section 3.3: lambda times the squared distance to the own row, 2 - 2 s.
def nce(s_n, s_p, *, temperature, proximal=0.0, noise=1 / NUM_DATA, own_noise=1 / NUM_DATA):
    def p(s):
        return math.exp(s / temperature - LOG_Z)

    m = len(s_n)
    own = [math.log1p(m * own_noise / p(s)) + proximal * (2 - 2 * s) for s in s_p]
    return sum(own) + sum(math.log1p(p(s) / (m * noise)) for s in s_n)


# Noise that is not uniform: all the draws are of one row, be it the own one.
def nce_drawn(anchor, *, draws, **constants):
    total = 1 + (N - 1) * RARE
    drawn = dict(zip((anchor.label, *anchor.negative_labels), (*anchor.s_p, *anchor.s_n), strict=True))[COMMON]
    own_noise = _noise()[anchor.label] / total
    return nce([drawn] * draws, anchor.s_p, noise=1 / total, own_noise=own_noise, **constants)


def _nce(num_data: int, **options: Any) -> Loss:
    loss = losses.NCELoss(**options)
    loss.load_state_dict({**loss.state_dict(), "log_z": torch.tensor([LOG_Z]), "num_data": torch.tensor(num_data)})
    loss(torch.zeros(0, D), [])  # Z is known from here on, without a look at the buffer
    return loss


# ---- the whole bank, its own row, a draw, a tree


# Wu et al. 2018, equation 2.
def nonparametric_softmax(s_n, s_p, *, temperature):
    return cross_entropy([p / temperature for p in s_p], [n / temperature for n in s_n])


# Wu et al. 2018, section 3.3, of unit vectors.
def proximal(s_n, s_p, *, weight):
    return weight * sum(2 - 2 * p for p in s_p)


# Mikolov et al. 2013, equation 4: draws of the own class do not count.
def negative_sampling(anchor, *, draws):
    drawn = [n for n, m in zip(anchor.s_n, anchor.negative_labels, strict=True) if m == COMMON]
    return sum(softplus(-p) for p in anchor.s_p) + draws * sum(softplus(n) for n in drawn)


# Mikolov et al. 2013, equation 3: a logistic regression at each turn on the way to the class.
def hierarchical(embeddings, labels, *, nodes, path, turns):
    return [
        sum(softplus(-side * dot(x, nodes[node])) for node, side in zip(path[y], turns[y], strict=True) if side)
        for x, y in zip(embeddings, labels, strict=True)
        if y >= 0
    ]


def _hierarchical() -> Subject:
    loss = losses.HierarchicalSoftmaxLoss([8, 4, 4, 2, 1, 1], proxies=_proxies(N))
    assert loss.proxies is not None
    tree = {"nodes": loss.proxies.weight.tolist(), "path": loss.path.tolist(), "turns": loss.turns.tolist()}
    return Subject(loss, partial(hierarchical, **tree))


def _with_bank(kind: Callable[..., Loss], spec: Callable[..., Any], **options: Any) -> Subject:
    return Subject(kind(_bank(), **options), partial(spec, **options))


SUBJECTS = [
    Subject(_nce(NUM_DATA, temperature=0.2), partial(nce, temperature=0.2)),
    Subject(_nce(NUM_DATA, temperature=0.2, proximal=1.5), partial(nce, temperature=0.2, proximal=1.5), name="NCE-proximal"),
    Subject(
        _nce(N, bank=_bank(), num_noise=4, temperature=0.2, proximal=1.5, noise=_noise(), generator=_generator()),
        partial(nce_drawn, draws=4, temperature=0.2, proximal=1.5),
        name="NCE-bank",
    ),
    _with_bank(losses.NonParametricSoftmaxLoss, nonparametric_softmax, temperature=0.2),
    _with_bank(losses.ProximalRegularizer, proximal, weight=30.0),
    Subject(
        losses.NegativeSamplingLoss(proxies=_proxies(N), noise=_noise(), power=1.0, num_noise=2, generator=_generator()),
        partial(negative_sampling, draws=2),
    ),
    _hierarchical(),
]
