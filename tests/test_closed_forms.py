"""The gradients by scores that the project's specification writes down (sections 0 and 2 to 8), on Python lists, one line of a table each.

A closed form takes the scores of one anchor and returns `dL/ds_n` and `dL/ds_p` of the sum of its groups.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.scores import Block, Scores, Terms
from metriczoo.similarity import Cosine, InnerProduct, Mahalanobis, NegativeEuclidean, NegativeSquaredEuclidean

List = list[float]
Slopes = tuple[List, List]
COSINES, DISTANCES = (-0.95, 0.95), (-2.0, -0.05)


@dataclass(frozen=True)
class Case:
    name: str
    loss: Callable[[Tensor, Tensor], Any]
    slopes: Callable[[List, List], Slopes]
    domain: tuple[float, float] = COSINES
    positives: Sequence[int] = (1, 2, 4)

    def __repr__(self) -> str:
        return self.name


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def lse(u: Sequence[float]) -> float:
    return max(u) + math.log(math.fsum(math.exp(v - max(u)) for v in u))


def softmax(u: Sequence[float]) -> List:
    return [math.exp(v - lse(u)) for v in u]


def each_positive(slopes: Callable[[List, float], tuple[List, float]]) -> Callable[[List, List], Slopes]:
    """The sum over groups of one positive and all negatives."""

    def of(n: List, p: List) -> Slopes:
        groups = [slopes(n, s) for s in p]
        return [math.fsum(g[0][j] for g in groups) for j in range(len(n))], [g[1] for g in groups]

    return of


# ---- section 2: pairs and triplets


def contrastive(n: List, p: List) -> Slopes:  # by distances dL/dd_p = d, dL/dd_n = -(m - d)_+, and s = -d
    return [max(1.0 + s, 0) for s in n], list(p)


def triplet(n: List, p: List, m: float = 0.2) -> Slopes:
    active = [[a - b + m > 0 for b in p] for a in n]
    return [float(sum(row)) for row in active], [-float(sum(row[i] for row in active)) for i in range(len(p))]


def soft_triplet(n: List, p: List, m: float = 0.2) -> Slopes:
    g = [[sigmoid(a - b + m) for b in p] for a in n]
    return [math.fsum(row) for row in g], [-math.fsum(row[i] for row in g) for i in range(len(p))]


def n_pairs(n: List, s_p: float, tau: float = 1.0) -> tuple[List, float]:
    own, *others = softmax([s / tau for s in (s_p, *n)])
    return [q / tau for q in others], -(1 - own) / tau


def generalized_lifted(n: List, p: List, m: float = 1.0) -> Slopes:
    if lse([-s for s in p]) + lse([m + s for s in n]) <= 0:
        return [0.0] * len(n), [0.0] * len(p)
    return softmax(n), [-w for w in softmax([-s for s in p])]


def margin(n: List, p: List, alpha: float = 0.2, beta: float = 1.2) -> Slopes:
    return [float(alpha + s + beta > 0) for s in n], [-float(alpha - s - beta > 0) for s in p]


def multi_similarity(n: List, p: List, a: float = 2.0, b: float = 50.0, t: float = 0.5) -> Slopes:
    e_n, e_p = [math.exp(b * (s - t)) for s in n], [math.exp(-a * (s - t)) for s in p]
    return [e / (1 + math.fsum(e_n)) for e in e_n], [-e / (1 + math.fsum(e_p)) for e in e_p]


def unified(n: List, p: List, m: float = 0.25, g: float = 16.0) -> Slopes:
    z = sigmoid(lse([g * (s + m) for s in n]) + lse([-g * s for s in p]))
    return [g * z * w for w in softmax([g * s for s in n])], [-g * z * w for w in softmax([-g * s for s in p])]


def circle(n: List, p: List, m: float = 0.25, g: float = 16.0, *, detached: bool = True) -> Slopes:
    a_n, a_p = [max(s + m, 0) for s in n], [max(1 + m - s, 0) for s in p]
    u_n = [g * a * (s - m) for a, s in zip(a_n, n, strict=True)]
    u_p = [-g * a * (s - (1 - m)) for a, s in zip(a_p, p, strict=True)]
    z = sigmoid(lse(u_n) + lse(u_p))
    by_n = a_n if detached else [2 * s if s > -m else 0.0 for s in n]
    by_p = a_p if detached else [2 * (1 - s) for s in p]
    return (
        [g * z * w * a for w, a in zip(softmax(u_n), by_n, strict=True)],
        [-g * z * w * a for w, a in zip(softmax(u_p), by_p, strict=True)],
    )


def tuplet(n: List, s_p: float, beta: float = 0.1, s: float = 8.0) -> tuple[List, float]:
    theta = math.acos(s_p)
    own, *others = softmax([s * math.cos(theta - beta), *(s * v for v in n)])
    return [s * q for q in others], -s * (1 - own) * math.sin(theta - beta) / math.sin(theta)


def ranked_list(
    n: List, p: List, *, detached: bool = True, low: float = 0.8, high: float = 1.2, t_p: float = 2.0, t_n: float = 10.0
) -> Slopes:
    def side(z: List, t: float) -> List:
        w = [math.exp(t * v) if v > 0 else 0.0 for v in z]
        total = math.fsum(w)
        if total == 0:
            return [0.0] * len(z)
        mean = math.fsum(a * b for a, b in zip(w, z, strict=True)) / total
        return [a / total * (1 if detached else 1 + t * (v - mean)) for a, v in zip(w, z, strict=True)]

    return [0.5 * w for w in side([high + s for s in n], t_n)], [-0.5 * w for w in side([-s - low for s in p], t_p)]


def easy_positive(n: List, p: List, tau: float = 0.1) -> Slopes:  # NT-Xent of the nearest positive and the nearest negative
    g = (1 - sigmoid((max(p) - max(n)) / tau)) / tau
    return [g * (s == max(n)) for s in n], [-g * (s == max(p)) for s in p]


def threshold_consistent(n: List, p: List) -> Slopes:
    far, near = [s <= 0.9 for s in p], [s >= 0.5 for s in n]
    return [v / 1.0 for v in near], [-v / 1.0 for v in far]  # totals; `mean` divides by the numbers of violations


def binomial_deviance(n: List, p: List, a: float = 2.0, b: float = 50.0, t: float = 0.5) -> Slopes:
    return [b * sigmoid(b * (s - t)) / len(n) for s in n], [-a * sigmoid(-a * (s - t)) / len(p) for s in p]


def histogram_slopes(n: List, p: List, bins: int = 10) -> Slopes:
    step = 2 / bins

    def soft(scores: List) -> List:
        return [math.fsum(max(0.0, 1 - abs(s + 1 - r * step) / step) for s in scores) / len(scores) for r in range(bins + 1)]

    h_n, h_p = soft(n), soft(p)

    def node(s: float) -> int:
        return math.floor((s + 1) / step)

    return [h_p[node(s) + 1] / (step * len(n)) for s in n], [-h_n[node(s)] / (step * len(p)) for s in p]


def lmnn(n: List, p: List, mu: float = 0.5) -> Slopes:
    push_n, push_p = triplet(n, p, 1.0)
    return [mu * v for v in push_n], [-(1 - mu) + mu * v for v in push_p]


# ---- section 3: classes


def head(phi: Callable[[float], float], slope: Callable[[float], float], s: float = 8.0) -> Callable[[List, float], tuple[List, float]]:
    """dL/dcos_y = -s (1 - p_y) phi', dL/dcos_j = s p_j."""

    def of(n: List, s_p: float) -> tuple[List, float]:
        own, *others = softmax([s * phi(s_p), *(s * v for v in n)])
        return [s * q for q in others], -s * (1 - own) * slope(s_p)

    return of


def arc(c: float, m: float = 0.5) -> float:
    theta = math.acos(c)
    return math.cos(theta + m) if theta + m <= math.pi else c - m * math.sin(m)


def arc_slope(c: float, m: float = 0.5) -> float:
    theta = math.acos(c)
    return math.sin(theta + m) / math.sin(theta) if theta + m <= math.pi else 1.0


def psi(c: float, m: int = 4) -> float:
    k = math.floor(m * math.acos(c) / math.pi)
    return (-1) ** k * math.cos(m * math.acos(c)) - 2 * k


def psi_slope(c: float, m: int = 4) -> float:
    k = math.floor(m * math.acos(c) / math.pi)
    return (-1) ** k * m * math.sin(m * math.acos(c)) / math.sin(math.acos(c))


def ada(c: float, m: float = 0.4, z: float = 0.5) -> float:
    return math.cos(max(math.acos(c) - m * z, 0)) - m * (1 + z)


def ada_slope(c: float, m: float = 0.4, z: float = 0.5) -> float:
    theta = math.acos(c)
    return math.sin(theta - m * z) / math.sin(theta) if theta > m * z else 0.0


def constant(c: float) -> float:
    return 1.0


def curricular(n: List, s_p: float, t: float = 0.3, s: float = 8.0) -> tuple[List, float]:
    target = arc(s_p)
    own, *others = softmax([s * target, *(s * (v if v <= target else v * (t + v)) for v in n)])
    by_n = [s * q * (1 if v <= target else t + 2 * v) for q, v in zip(others, n, strict=True)]
    return by_n, -s * (1 - own) * arc_slope(s_p)


def sphere_face2(
    n: List, p: List, *, exact: bool, m: float = 0.4, r: float = 10.0, t: float = 3.0, lam: float = 0.7, b: float = -2.0
) -> Slopes:
    def g(c: float) -> float:
        return 2 * ((c + 1) / 2) ** t - 1

    def slope(c: float) -> float:
        return t * ((c + 1) / 2) ** (t - 1) if exact else 1.0

    by_n = [(1 - lam) * sigmoid(r * (g(s) + m) + b) * slope(s) for s in n]
    return by_n, [-lam * sigmoid(-(r * (g(s) - m) + b)) * slope(s) for s in p]


def proxy_anchor(n: List, p: List, a: float = 32.0, d: float = 0.1) -> Slopes:
    h_p, h_n = [math.exp(-a * (s - d)) for s in p], [math.exp(a * (s + d)) for s in n]
    return [a * h / (1 + math.fsum(h_n)) for h in h_n], [-a * h / (1 + math.fsum(h_p)) for h in h_p]


def triplet_center(n: List, p: List, m: float = 1.0) -> Slopes:
    active = m + (max(n) - min(p)) / 2 > 0
    return [0.5 * active * (s == max(n)) for s in n], [-0.5 * active * (s == min(p)) for s in p]


# ---- section 5: instances


def nce(n: List, p: List, tau: float = 0.1, log_z: float = 2.0, num: int = 20, proximal: float = 0.0) -> Slopes:
    b = -(log_z + math.log(len(n) / num))
    return [sigmoid(s / tau + b) / tau for s in n], [-(1 - sigmoid(s / tau + b)) / tau - 2 * proximal for s in p]


def siglip(n: List, p: List, t: float = 10.0, b: float = -3.0) -> Slopes:
    return [t * sigmoid(t * s + b) for s in n], [-t * sigmoid(-(t * s + b)) for s in p]


def supcon(n: List, p: List, tau: float = 0.2, *, inside: bool = False) -> Slopes:
    pi = softmax([s / tau for s in (*p, *n)])
    own = softmax([s / tau for s in p]) if inside else [1 / len(p)] * len(p)
    return [q / tau for q in pi[len(p) :]], [(q - o) / tau for q, o in zip(pi, own, strict=False)]


def nca(n: List, p: List) -> Slopes:
    return supcon(n, p, 1.0, inside=True)


def decoupled(n: List, s_p: float, tau: float = 0.2) -> tuple[List, float]:
    return [q / tau for q in softmax([s / tau for s in n])], -1 / tau


# ---- section 6: ranks


def pnp(n: List, p: List, tau: float = 0.1) -> Slopes:  # of the original form: the mean over positives of the negatives before them
    g = [[sigmoid((a - b) / tau) * sigmoid((b - a) / tau) / tau / len(p) for b in p] for a in n]
    return [math.fsum(row) for row in g], [-math.fsum(row[i] for row in g) for i in range(len(p))]


def mean(terms: Terms) -> Tensor:
    return terms.total.sum() / terms.count.sum()


NORMS = torch.tensor([15.0], dtype=torch.float64)
ONE = (1,)

CASES = [
    Case("contrastive", F.contrastive, contrastive, DISTANCES),
    Case(
        "contrastive on cosines", F.contrastive_cosine, lambda n, p: ([float(s > 0.5) for s in n], [-1.0] * len(p))
    ),  # the hinge [s_n - m]_+, whose gradient is that of the jump in the authors' code
    Case("triplet", F.triplet_margin, triplet),
    Case("triplet on distances", F.triplet_margin, triplet, DISTANCES),
    Case("triplet, soft", lambda n, p: F.triplet_margin(n, p, penalty="soft"), soft_triplet),
    Case("n-pairs", F.n_pairs, each_positive(n_pairs)),
    Case("generalized lifted structure", F.generalized_lifted_structure, generalized_lifted, DISTANCES),
    Case("margin", F.margin, margin, DISTANCES),
    Case("multi-similarity", lambda n, p: F.multi_similarity(n, p, threshold=0.5), multi_similarity),
    Case("unified", lambda n, p: F.unified(n, p, scale=16.0), unified),
    Case("circle", lambda n, p: F.circle(n, p, scale=16.0), circle),
    Case(
        "circle, not detached",
        lambda n, p: F.circle(n, p, scale=16.0, detach_weights=False),
        lambda n, p: circle(n, p, detached=False),
    ),
    Case("tuplet", lambda n, p: F.tuplet_margin(n, p, scale=8.0), each_positive(tuplet)),
    Case("ranked list", lambda n, p: F.ranked_list(n, p, positive_scale=2.0), ranked_list, DISTANCES),
    Case(
        "ranked list, not detached",
        lambda n, p: F.ranked_list(n, p, positive_scale=2.0, detach_weights=False),
        lambda n, p: ranked_list(n, p, detached=False),
        DISTANCES,
    ),
    Case("easy positive", F.easy_positive, easy_positive),
    Case("threshold-consistent margin", F.threshold_consistent_margin, threshold_consistent),
    Case("binomial deviance", F.binomial_deviance, binomial_deviance),
    Case("histogram", lambda n, p: mean(F.histogram(n, p, num_bins=10)), histogram_slopes),
    Case("lmnn", lambda n, p: F.lmnn(n, p, num_targets=9), lmnn, DISTANCES),
    Case("softmax", F.softmax, each_positive(head(lambda c: c, constant, 1.0)), (-3.0, 3.0), ONE),
    Case("l2-softmax", lambda n, p: F.l2_softmax(n, p, scale=8.0), each_positive(head(lambda c: c, constant)), (-3.0, 3.0), ONE),
    Case("normface", lambda n, p: F.norm_face(n, p, scale=8.0), each_positive(head(lambda c: c, constant)), COSINES, ONE),
    Case("am-softmax", lambda n, p: F.am_softmax(n, p, scale=8.0), each_positive(head(lambda c: c - 0.35, constant)), COSINES, ONE),
    Case("arcface", lambda n, p: F.arc_face(n, p, scale=8.0, gradient="exact"), each_positive(head(arc, arc_slope)), COSINES, ONE),
    Case("arcface, detached", lambda n, p: F.arc_face(n, p, scale=8.0), each_positive(head(arc, constant)), COSINES, ONE),
    Case(
        "sphereface", lambda n, p: F.sphere_face(n, p, scale=2.0, gradient="exact"), each_positive(head(psi, psi_slope, 2.0)), COSINES, ONE
    ),
    Case("sphereface, detached", lambda n, p: F.sphere_face(n, p, scale=2.0), each_positive(head(psi, constant, 2.0)), COSINES, ONE),
    Case(
        "curricularface",
        lambda n, p: F.curricular_face(n, p, t=0.3, scale=8.0, gradient="exact"),
        each_positive(curricular),
        COSINES,
        ONE,
    ),
    Case(  # z = 1/2
        "adaface",
        lambda n, p: F.ada_face(n, p, NORMS, mean=10.0, std=9.999, concentration=1.0, scale=8.0, gradient="exact"),
        each_positive(head(ada, ada_slope)),
        COSINES,
        ONE,
    ),
    Case(  # the margin is in the middle of [0.45, 0.8] at a norm in the middle of [10, 20]
        "magface",
        lambda n, p: F.mag_face(n, p, NORMS, max_norm=20.0, scale=8.0, gradient="exact"),
        each_positive(head(lambda c: arc(c, 0.625), lambda c: arc_slope(c, 0.625))),
        COSINES,
        ONE,
    ),
    *(
        Case(
            f"sphereface2, {gradient}",
            lambda n, p, gradient=gradient: F.sphere_face2(n, p, bias=-2.0, scale=10.0, weight=1.0, gradient=gradient),
            lambda n, p, gradient=gradient: sphere_face2(n, p, exact=gradient == "exact"),
        )
        for gradient in ("exact", "detached")
    ),
    Case("p2sgrad", F.p2s_grad, lambda n, p: (list(n), [s - 1 for s in p])),
    Case("proxy-nca", F.proxy_nca, lambda n, p: ([2 * q for q in softmax([2 * s for s in n])], [-2.0]), COSINES, ONE),
    Case("proxy-nca++", F.proxy_nca_plus_plus, each_positive(head(lambda c: c, constant, 18.0)), COSINES, ONE),
    Case("proxy-anchor", F.proxy_anchor, proxy_anchor),
    Case("center", F.center, lambda n, p: ([0.0] * len(n), [-0.5] * len(p)), DISTANCES),
    Case("triplet-center", lambda n, p: F.triplet_center(n, p, margin=1.0), triplet_center, DISTANCES),
    Case("nca", F.nca, nca, DISTANCES),
    Case("nt-xent", lambda n, p: F.nt_xent(n, p, temperature=0.2), each_positive(lambda n, s: n_pairs(n, s, 0.2))),
    Case("supcon", lambda n, p: F.supcon(n, p, temperature=0.2), supcon),
    Case("supcon, in", lambda n, p: F.supcon(n, p, temperature=0.2, form="in"), lambda n, p: supcon(n, p, inside=True)),
    Case("decoupled", lambda n, p: F.decoupled_contrastive(n, p, temperature=0.2), each_positive(decoupled)),
    Case("siglip", lambda n, p: F.sigmoid(n, p, scale=10.0, bias=-3.0), siglip),
    Case("nce", lambda n, p: F.nce(n, p, log_z=2.0, num_data=20, temperature=0.1), nce),
    Case(
        "nce, proximal",
        lambda n, p: F.nce(n, p, log_z=2.0, num_data=20, temperature=0.1, proximal=1.5),
        lambda n, p: nce(n, p, proximal=1.5),
    ),
    Case("proximal", lambda n, p: F.proximal(n, p, weight=1.5), lambda n, p: ([0.0] * len(n), [-3.0] * len(p))),
    Case("negative sampling", F.negative_sampling, lambda n, p: siglip(n, p, 1.0, 0.0), (-3.0, 3.0)),
    Case("hierarchical softmax", F.hierarchical_softmax, lambda n, p: siglip(n, p, 1.0, 0.0), (-3.0, 3.0)),
    Case("non-parametric softmax", F.nonparametric_softmax, each_positive(lambda n, s: n_pairs(n, s, 0.07)), COSINES, ONE),
    Case("instance", lambda n, p: F.instance(n, p, scale=8.0), each_positive(head(lambda c: c, constant)), COSINES, ONE),
    Case("pnp", lambda n, p: F.pnp(n, p, variant="o", temperature=0.1), pnp),
]


def leaf(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def total(result: Any) -> Tensor:
    terms = result if isinstance(result, tuple) and not isinstance(result, Terms) else (result,)
    return sum(((t.total if isinstance(t, Terms) else t).sum() for t in terms), torch.zeros(()))


@pytest.mark.parametrize("negatives", [1, 3, 6])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_gradient_is_the_closed_form(case: Case, negatives: int) -> None:
    source = random.Random(negatives)
    for positives in case.positives:
        for _ in range(4):
            n, p = ([source.uniform(*case.domain) for _ in range(k)] for k in (negatives, positives))
            s_n, s_p = leaf([n]), leaf([p])
            got = torch.autograd.grad(total(case.loss(s_n, s_p)), (s_n, s_p), allow_unused=True, materialize_grads=True)
            for name, gradient, expected in zip(("s_n", "s_p"), got, case.slopes(n, p), strict=True):
                assert gradient.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11), (name, n, p)


# ---- with scores between references


@pytest.mark.parametrize("seed", range(4))
def test_lifted_structure(seed: int) -> None:
    """dL/dd_ij = [J]_+, dL/dd_ik = -[J]_+ pi_k, of the sum over pairs of half the square: negatives of both ends."""
    source = random.Random(seed)
    n, p, between = ([source.uniform(0.2, 1.5) for _ in range(k)] for k in (3, 2, 6))
    s_n, s_p, s_pn = leaf([[-d for d in n]]), leaf([[-d for d in p]]), leaf([-d for d in between])
    block = Block(torch.zeros(1, dtype=torch.int64), torch.neg, between=lambda i, j: s_pn.view(2, 3)[torch.as_tensor(i)])
    columns = torch.arange(2).unsqueeze(0)
    value = F.lifted_structure(Scores(s_n, block=block), Scores(s_p, columns=columns, block=block)).total.sum()
    got = torch.autograd.grad(value, (s_n, s_p, s_pn))
    by_n, by_p, by_between = [0.0] * 3, [], []
    for i, d in enumerate(p):
        others = [1 - v for v in (*n, *between[3 * i : 3 * i + 3])]
        j = max(lse(others) + d, 0)
        by_p.append(-j)
        pi = softmax(others)
        by_n = [a + j * b for a, b in zip(by_n, pi[:3], strict=True)]
        by_between += [j * q for q in pi[3:]]
    for gradient, expected in zip(got, (by_n, by_p, by_between), strict=True):
        assert gradient.flatten().tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("degrees", [30.0, 45.0, 55.0])
def test_angular(degrees: float) -> None:
    """dL/ds_p = -2 (1 + t^2) g; dL/ds(a, n_k) = dL/ds(p, n_k) = 4 t^2 g pi_k; balanced at 30 degrees."""
    source = random.Random(1)
    n, between, s = [source.uniform(-0.9, 0.9) for _ in range(3)], [source.uniform(-0.9, 0.9) for _ in range(3)], 0.4
    s_n, s_p, s_pn = leaf([n]), leaf([[s]]), leaf([between])
    block = Block(torch.zeros(1, dtype=torch.int64), torch.neg, between=lambda i, j: s_pn)
    value = F.angular(Scores(s_n, block=block), Scores(s_p, columns=torch.zeros(1, 1, dtype=torch.int64), block=block), angle=degrees)
    got = [g.flatten().tolist() for g in torch.autograd.grad(value.total.sum(), (s_n, s_p, s_pn))]
    square = math.tan(math.radians(degrees)) ** 2
    f = [4 * square * (a + b) - 2 * (1 + square) * s for a, b in zip(n, between, strict=True)]
    g = sigmoid(lse(f))
    push = [4 * square * g * q for q in softmax(f)]
    for gradient, expected in zip(got, (push, [-2 * (1 + square) * g], push), strict=True):
        assert gradient == pytest.approx(expected, rel=1e-10)
    assert (abs(2 * math.fsum(push) - 2 * (1 + square) * g) < 1e-12) == (degrees == 30)


# ---- by parameters


@pytest.mark.parametrize("nu", [0.0, 0.3])
def test_margin_loss_by_its_boundary(nu: float) -> None:
    """dL/dbeta = (active negatives - active positives + nu * count), over the number of active pairs where that is the reduction."""
    n, p, beta = [-0.7, -1.5, -1.1, -1.39], [-0.5, -1.3, -1.6], leaf(1.2)
    terms = F.margin(leaf([n]), leaf([p]), beta=beta, nu=nu)
    active_n, active_p = sum(0.2 + s + 1.2 > 0 for s in n), sum(0.2 - s - 1.2 > 0 for s in p)
    assert (active_n, active_p) == (3, 2)
    assert torch.autograd.grad(terms.total.sum(), beta)[0].item() == pytest.approx(active_n - active_p + nu * len(p))
    assert int(terms.active) == 5


def test_siglip_by_its_scale_and_bias() -> None:
    """dL/dt = sum -z s sigma(-z (t s + b)), dL/db = sum -z sigma(-z (t s + b))."""
    n, p, t, b = [0.3, -0.4, 0.1], [0.6, -0.1], leaf(4.0), leaf(-1.0)
    got = torch.autograd.grad(F.sigmoid(leaf([n]), leaf([p]), scale=t, bias=b).sum(), (t, b))
    weights = [(s, sigmoid(4 * s - 1)) for s in n] + [(s, -sigmoid(-(4 * s - 1))) for s in p]
    assert got[0].item() == pytest.approx(math.fsum(s * w for s, w in weights), rel=1e-12)
    assert got[1].item() == pytest.approx(math.fsum(w for _, w in weights), rel=1e-12)


def test_threshold_consistent_margin_divides_by_the_violations_of_the_batch() -> None:
    """dL/ds = -1 / #violating positives and 1 / #violating negatives, counted over all anchors."""
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(9) % 3
    s = (x @ x.T / x.norm(dim=1) / x.norm(dim=1).unsqueeze(1)).requires_grad_()
    same, off = labels == labels.unsqueeze(1), ~torch.eye(9, dtype=torch.bool)
    far, near = same & off & (s <= 0.9), ~same & (s >= 0.5)
    assert far.sum() > 3
    assert near.sum() > 3
    loss = losses.ThresholdConsistentMarginLoss(similarity=_Given(s))
    got = torch.autograd.grad(loss(torch.eye(9, dtype=torch.float64), labels), s)[0]
    torch.testing.assert_close(got, near / near.sum().double() - far / far.sum().double())


class _Given(InnerProduct):
    """Scores of a given matrix: embeddings are unit vectors that choose its rows and columns."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return a @ self.matrix @ r.transpose(-1, -2)


# ---- section 0 and 4: the way on from scores to points


def points(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(3))
def test_similarities_by_points(seed: int) -> None:
    """dcos/dx = (w^ - cos x^) / |x|, orthogonal to x; dd/dx = (x - w) / d; dd^2/dx = 2 (x - w)."""
    x, w = points(seed)
    unit_x, unit_w = x / x.norm(), w / w.norm()
    cosine = Cosine()(x, w)
    (by_x,) = torch.autograd.grad(cosine.sum(), x)
    torch.testing.assert_close(by_x, ((unit_w - cosine * unit_x) / x.norm()).detach(), rtol=1e-12, atol=1e-14)
    assert abs(float((by_x * x).detach().sum())) < 1e-14
    torch.testing.assert_close(torch.autograd.grad(Cosine()(3 * x, w).sum(), x)[0], by_x, rtol=1e-12, atol=1e-14)  # 1 / |3 x|, times 3
    difference = (x - w).detach()
    (by_x,) = torch.autograd.grad(NegativeEuclidean()(x, w).sum(), x)
    torch.testing.assert_close(by_x, -difference / difference.norm(), rtol=1e-12, atol=1e-14)
    (by_x,) = torch.autograd.grad(NegativeSquaredEuclidean()(x, w).sum(), x)
    torch.testing.assert_close(by_x, -2 * difference, rtol=1e-12, atol=1e-14)


def test_lmnn_by_the_factor_of_its_metric() -> None:
    """dL/dM = (1 - mu) sum C_ij + mu sum_active (C_ij - C_il), and dL/dL = 2 L dL/dM, for d^2 = |L (x - y)|^2."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    labels, mu = torch.arange(8) % 2, 0.4
    similarity = Mahalanobis(3).double()
    (factor,) = similarity.parameters()
    with torch.no_grad():
        factor.copy_(torch.randn(factor.shape, generator=generator, dtype=torch.float64) * 0.5)
    value = losses.LMNNLoss(num_targets=8, mu=mu, similarity=similarity, reduction="sum")(x, labels)
    (got,) = torch.autograd.grad(value, factor)

    # which of L and its transpose acts on points is read off the scores
    d = (x[0] - x[1]).unsqueeze(0)
    left = torch.allclose((d @ factor.T).square().sum(), -similarity(x[:1], x[1:2]).sum())
    matrix = factor if left else factor.T
    by_m, count = torch.zeros(3, 3, dtype=torch.float64), 0
    for i in range(8):
        for j in range(8):
            if i == j or labels[i] != labels[j]:
                continue
            c_ij = torch.outer(x[i] - x[j], x[i] - x[j])
            by_m += (1 - mu) * c_ij
            for k in range(8):
                c_ik = torch.outer(x[i] - x[k], x[i] - x[k])
                if labels[k] != labels[i] and 1 + ((c_ij - c_ik) * (matrix.T @ matrix)).sum() > 0:
                    by_m += mu * (c_ij - c_ik)
                    count += 1
    assert 0 < count < 8 * 3 * 4
    expected = 2 * matrix @ by_m
    torch.testing.assert_close(got, (expected if left else expected.T).detach(), rtol=1e-10, atol=1e-10)
