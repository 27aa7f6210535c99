"""Class-level losses on proxies, against loops over Python lists written from the papers."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metriczoo import References, miners
from metriczoo import functional as F
from metriczoo.losses import AMSoftmaxLoss, Loss, TripletMarginLoss
from metriczoo.losses.angular_margin import (
    AdaFaceLoss,
    ArcFaceLoss,
    CurricularFaceLoss,
    MagFaceLoss,
    SphereFace2Loss,
    SubCenterArcFaceLoss,
)
from metriczoo.losses.centers import CenterLoss, MagnetLoss, TripletCenterLoss
from metriczoo.losses.linear_softmax import L2SoftmaxLoss, NormFaceLoss, SoftmaxLoss
from metriczoo.losses.multiplicative_margin import Annealing, LargeMarginSoftmaxLoss, SphereFaceLoss
from metriczoo.losses.proxy import P2SGradLoss, ProxyAnchorLoss, ProxyNCALoss, ProxyNCAPlusPlusLoss, SoftTripleLoss
from metriczoo.scores import Scores
from metriczoo.similarity import Cosine, InnerProduct, NegativeSquaredEuclidean
from metriczoo.stores import EmbeddingQueue, Proxies

C, D = 4, 3
Vector = list[float]
Weights = list[list[Vector]]  # the proxies of each class


# ---- the papers, on lists


def dot(x: Vector, w: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x, w, strict=True))


def length(x: Vector) -> float:
    return math.sqrt(dot(x, x))


def cos(x: Vector, w: Vector) -> float:
    return dot(x, w) / (length(x) * length(w))


def d2(x: Vector, w: Vector) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(x, w, strict=True))


def cross_entropy(target: float, others: list[float]) -> float:
    top = max(target, *others)
    return top + math.log(math.exp(target - top) + sum(math.exp(z - top) for z in others)) - target


def others_of(w: Weights, y: int) -> list[Vector]:
    return [centers[0] for j, centers in enumerate(w) if j != y]


def arc(c: float, m: float) -> float:
    theta = math.acos(c)
    return math.cos(theta + m) if theta <= math.pi - m else c - m * math.sin(m)


def psi(c: float, m: float) -> float:
    theta = math.acos(c)
    k = math.floor(theta * m / math.pi)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def margin_softmax(target: Callable[[float], float], scale: float) -> Callable[[Vector, int, Weights], float]:
    return lambda x, y, w: cross_entropy(scale * target(cos(x, w[y][0])), [scale * cos(x, v) for v in others_of(w, y)])


BIAS = [0.3, -0.2, 0.1, 0.5]
MARGINS = [0.1, 0.2, 0.4, 0.8]


def linear(x: Vector, y: int, w: Weights, *, scale: float = 1.0, unit: bool = False, bias: list[float] | None = None) -> float:
    x = [v / length(x) for v in x] if unit else x
    z = [scale * dot(x, w[j][0]) + (bias[j] if bias else 0.0) for j in range(C)]
    return cross_entropy(z[y], z[:y] + z[y + 1 :])


def l_softmax(x: Vector, y: int, w: Weights, *, m: float = 3, annealing: float = 0.0) -> float:
    c, norms = cos(x, w[y][0]), length(x) * length(w[y][0])
    return cross_entropy(norms * (annealing * c + psi(c, m)) / (1 + annealing), [dot(x, v) for v in others_of(w, y)])


def a_softmax(x: Vector, y: int, w: Weights, *, m: float = 4, annealing: float = 0.0) -> float:
    c = cos(x, w[y][0])
    return cross_entropy(length(x) * (annealing * c + psi(c, m)) / (1 + annealing), [length(x) * cos(x, v) for v in others_of(w, y)])


def sub_center(x: Vector, y: int, w: Weights) -> float:
    best = [max(cos(x, v) for v in centers) for centers in w]
    return cross_entropy(8 * arc(best[y], 0.5), [8 * s for j, s in enumerate(best) if j != y])


def curricular(x: Vector, y: int, w: Weights, t: float = 0.3) -> float:
    phi = arc(cos(x, w[y][0]), 0.5)
    s = [cos(x, v) for v in others_of(w, y)]
    return cross_entropy(8 * phi, [8 * (v if v <= phi else v * (t + v)) for v in s])


def mag(x: Vector, y: int, w: Weights) -> float:
    a = min(max(length(x), 0.5), 2.0)
    m = 0.45 + (0.8 - 0.45) * (a - 0.5) / (2.0 - 0.5)
    return margin_softmax(lambda c: arc(c, m), 8.0)(x, y, w) + 3.0 * (a / 2.0**2 + 1 / a)


def ada(x: Vector, y: int, w: Weights) -> float:
    z = min(max(0.333 * (min(max(length(x), 1e-3), 100.0) - 1.0) / (0.25 + 1e-3), -1), 1)

    def target(c: float) -> float:
        shifted = math.acos(c) - 0.4 * z
        return (arc(c, -0.4 * z) if shifted >= 0 else 1.0) - 0.4 * (1 + z)

    return margin_softmax(target, 8.0)(x, y, w)


def sphere2(x: Vector, y: int, w: Weights, b: float = -1.5) -> float:
    def g(c: float) -> float:
        return 2 * ((c + 1) / 2) ** 3 - 1

    own = 0.7 / 8 * math.log1p(math.exp(-(8 * (g(cos(x, w[y][0])) - 0.4) + b)))
    return 50 * (own + 0.3 / 8 * sum(math.log1p(math.exp(8 * (g(cos(x, v)) + 0.4) + b)) for v in others_of(w, y)))


def nca(x: Vector, y: int, w: Weights, scale: float = 1.0) -> float:
    """On squared distances of unit vectors."""
    distances = [scale * (2 - 2 * cos(x, centers[0])) for centers in w]
    return distances[y] + math.log(sum(math.exp(-d) for j, d in enumerate(distances) if j != y))


def nca_plus_plus(x: Vector, y: int, w: Weights) -> float:
    z = [-9 * (2 - 2 * cos(x, centers[0])) for centers in w]
    return cross_entropy(z[y], z[:y] + z[y + 1 :])


def soft_triple(x: Vector, y: int, w: Weights) -> float:
    def similarity(centers: list[Vector]) -> float:
        s = [cos(x, v) for v in centers]
        weights = [math.exp(v / 0.1) for v in s]
        return sum(a * b for a, b in zip(weights, s, strict=True)) / sum(weights)

    z = [20 * (similarity(centers) - 0.01 * (j == y)) for j, centers in enumerate(w)]
    k = len(w[0])
    spread = sum(math.sqrt(2 + 1e-5 - 2 * cos(c[i], c[j])) for c in w for j in range(k) for i in range(j))
    return cross_entropy(z[y], z[:y] + z[y + 1 :]) + 0.2 * spread / (C * k * (k - 1))


def p2s(x: Vector, y: int, w: Weights) -> float:
    return sum((cos(x, centers[0]) - (j == y)) ** 2 for j, centers in enumerate(w)) / 2


def triplet_center(x: Vector, y: int, w: Weights) -> float:
    return max(0.0, d2(x, w[y][0]) / 2 + 5.0 - min(d2(x, v) / 2 for v in others_of(w, y)))


# ---- the losses


@dataclass(frozen=True)
class Case:
    """A loss made for `C` classes in `D` dimensions, and its specification."""

    name: str
    make: Callable[..., Loss]
    spec: Callable[[Vector, int, Weights], float]
    detached: Callable[..., Loss] | None = None  # the same with a gradient that is not the derivative
    per_class: int = 1

    def __repr__(self) -> str:
        return self.name


def _with_bias(loss: Any) -> Any:
    loss.bias.data = torch.tensor(BIAS)
    return loss


def _evaluating(loss: Loss, **buffers: float) -> Loss:
    for name, value in buffers.items():
        getattr(loss.double(), name).fill_(value)
    return loss.eval()


def _margin_case(name: str, make: Callable[..., Loss], spec: Callable[[Vector, int, Weights], float], per_class: int = 1) -> Case:
    return Case(name, lambda **k: make(gradient="exact", **k), spec, lambda **k: make(gradient="detached", **k), per_class)


ANNEALED = 7.0
CASES = [
    Case("softmax", lambda **k: SoftmaxLoss(C, D, **k), linear),
    Case("softmax-bias", lambda **k: _with_bias(SoftmaxLoss(C, D, bias=True, **k)), lambda x, y, w: linear(x, y, w, bias=BIAS)),
    Case("l2-softmax", lambda **k: L2SoftmaxLoss(C, D, scale=5.0, **k), lambda x, y, w: linear(x, y, w, scale=5.0, unit=True)),
    Case(
        "l2-softmax-bias",
        lambda **k: _with_bias(L2SoftmaxLoss(C, D, scale=5.0, learnable=True, bias=True, **k)),
        lambda x, y, w: linear(x, y, w, scale=5.0, unit=True, bias=BIAS),
    ),
    Case("norm-face", lambda **k: NormFaceLoss(C, D, scale=8.0, **k), margin_softmax(lambda c: c, 8.0)),
    _margin_case("large-margin", lambda **k: LargeMarginSoftmaxLoss(C, D, margin=3, **k), l_softmax),
    _margin_case("sphere-face", lambda **k: SphereFaceLoss(C, D, **k), a_softmax),
    _margin_case(
        "sphere-face-annealed",
        lambda **k: SphereFaceLoss(C, D, annealing=Annealing(start=ANNEALED, decay=0.0), **k),
        lambda x, y, w: a_softmax(x, y, w, annealing=ANNEALED),
    ),
    _margin_case(
        "sphere-face-scaled", lambda **k: SphereFaceLoss(C, D, margin=1.7, scale=8.0, **k), margin_softmax(lambda c: psi(c, 1.7), 8.0)
    ),
    _margin_case("arc-face", lambda **k: ArcFaceLoss(C, D, scale=8.0, **k), margin_softmax(lambda c: arc(c, 0.5), 8.0)),
    _margin_case(
        "arc-face-margins",
        lambda **k: ArcFaceLoss(C, D, margin=nn.Parameter(torch.tensor(MARGINS, dtype=torch.float64)), scale=8.0, **k),
        lambda x, y, w: margin_softmax(lambda c: arc(c, MARGINS[y]), 8.0)(x, y, w),
    ),
    _margin_case("sub-center", lambda **k: SubCenterArcFaceLoss(C, D, per_class=2, scale=8.0, **k), sub_center, 2),
    _margin_case("curricular-face", lambda **k: _evaluating(CurricularFaceLoss(C, D, scale=8.0, **k), t=0.3), curricular),
    _margin_case("mag-face", lambda **k: MagFaceLoss(C, D, min_norm=0.5, max_norm=2.0, scale=8.0, regularization=3.0, **k), mag),
    _margin_case("ada-face", lambda **k: _evaluating(AdaFaceLoss(C, D, scale=8.0, **k), mean=1.0, std=0.25), ada),
    _margin_case("sphere-face2", lambda **k: SphereFace2Loss(C, D, scale=8.0, bias=-1.5, **k), sphere2),
    Case("proxy-nca", lambda **k: ProxyNCALoss(C, D, **k), nca),
    Case("proxy-nca-code", lambda **k: ProxyNCALoss(C, D, scale=6.0, **k), lambda x, y, w: nca(x, y, w, 3.0)),
    Case("proxy-nca++", lambda **k: ProxyNCAPlusPlusLoss(C, D, **k), nca_plus_plus),
    Case("soft-triple", lambda **k: SoftTripleLoss(C, D, per_class=3, **k), soft_triple, per_class=3),
    Case("p2s-grad", lambda **k: P2SGradLoss(C, D, **k), p2s),
    Case("triplet-center", lambda **k: TripletCenterLoss(C, D, **k), triplet_center),
]
# Those whose anchors or references are not embeddings and proxies; their specifications are elsewhere.
OTHERS = {
    "proxy-anchor": lambda **k: ProxyAnchorLoss(C, D, scale=8.0, **k),
    "center": lambda **k: CenterLoss(C, D, **k),
    "magnet": lambda **k: MagnetLoss(**k),
}
ALL = {**{case.name: case.make for case in CASES}, **{f"{c.name}-detached": c.detached for c in CASES if c.detached}, **OTHERS}
EVERY = pytest.mark.parametrize("make", ALL.values(), ids=ALL)
LABELS = torch.tensor([0, 1, 2, 3, 0, -1, 1])
TILED = {"execution": "tiled", "memory_budget": 100}


def points(n: int, seed: int, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(make: Callable[..., Loss], **options: Any) -> Loss:
    if make is OTHERS["magnet"] and options.get("execution") == "tiled":
        options["execution"] = "dense"
    loss = make(**options).double()
    if loss.proxies is not None:
        loss.proxies.weight.data = points(len(loss.proxies.weight), 7)
    return loss


def value_and_gradients(loss: Loss, x: Tensor, labels: Any, references: Any = None) -> list[Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, labels, references)
    inputs = [x, *loss.parameters()]
    for part in references if isinstance(references, list) else [references]:
        inputs += [part[0]] if isinstance(part, tuple) else list(part.parameters()) if isinstance(part, Proxies) else []
    weights = torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape)
    return [value.detach(), *torch.autograd.grad((weights * value).sum(), inputs, materialize_grads=True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_is_that_of_the_paper(case: Case) -> None:
    for options, make in itertools.product(({"execution": "dense"}, TILED), (case.make, case.detached)):
        if make is None:
            continue
        loss = made(make, **options)
        w = loss.proxies.weight.detach().view(C, case.per_class, D).tolist()
        x = points(7, 1)
        x[3] = -0.999 * loss.proxies.weight.detach()[3 * case.per_class] + 1e-3  # beyond pi - m
        x[4] = 1.5 * loss.proxies.weight.detach()[0] + 1e-2
        expected = [case.spec(row, y, w) for row, y in zip(x.tolist(), LABELS.tolist(), strict=True) if y >= 0]
        torch.testing.assert_close(float(loss(x, LABELS).detach()), math.fsum(expected) / 6, rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_is_the_derivative(case: Case) -> None:
    """Of embeddings, proxies, biases, learned scales and margins. To AdaFace the norms are constants."""
    loss = made(case.make)
    names = [name for name, _ in loss.named_parameters()]

    norms = points(7, 1).norm(dim=1, keepdim=True)

    def value(x: Tensor, *parameters: Tensor) -> Tensor:
        x = norms * nn.functional.normalize(x) if case.name == "ada-face" else x
        return torch.func.functional_call(loss, dict(zip(names, parameters, strict=True)), (x, LABELS))

    loss.execution = "dense"  # `test_tiled_equals_dense` has the other
    inputs = (points(7, 1).requires_grad_(), *(p.detach().clone().requires_grad_() for p in loss.parameters()))
    assert torch.autograd.gradcheck(value, inputs, atol=1e-6)


# ---- margins on the angle

ONE = torch.ones(1, dtype=torch.float64)
NEGATIVES = torch.tensor([[0.3, -0.4, 0.1]], dtype=torch.float64)
# name: (loss on (s_n, s_p), derivative of the target by the cosine from theta)
ANGULAR: dict[str, tuple[Callable[..., Tensor], Callable[[float], float]]] = {
    "arc": (lambda n, p, **k: F.arc_face(n, p, margin=0.5, scale=8.0, **k), lambda th: math.sin(th + 0.5) / math.sin(th)),
    "arc-right": (lambda n, p, **k: F.arc_face(n, p, margin=math.pi / 2, scale=8.0, **k), lambda th: math.cos(th) / math.sin(th)),
    "sub-center": (
        lambda n, p, **k: F.sub_center_arc_face(n, p, 1, margin=0.5, scale=8.0, **k),
        lambda th: math.sin(th + 0.5) / math.sin(th),
    ),
    "curricular": (
        lambda n, p, **k: F.curricular_face(n, p, t=0.2, margin=0.5, scale=8.0, **k),
        lambda th: math.sin(th + 0.5) / math.sin(th),
    ),
    "mag": (lambda n, p, **k: F.mag_face(n, p, 60 * ONE, scale=8.0, **k), lambda th: math.sin(th + 0.625) / math.sin(th)),
    "ada-low": (lambda n, p, **k: F.ada_face(n, p, ONE, mean=9.0, std=1.0, scale=8.0, **k), lambda th: math.sin(th + 0.4) / math.sin(th)),
    "ada-high": (
        lambda n, p, **k: F.ada_face(n, p, 9 * ONE, mean=1.0, std=1.0, scale=8.0, **k),
        lambda th: math.sin(th - 0.4) / math.sin(th),
    ),
    "sphere-face2": (lambda n, p, **k: F.sphere_face2(n, p, bias=-1.0, scale=8.0, **k), lambda th: 3 * ((math.cos(th) + 1) / 2) ** 2),
    **{
        f"sphere-{m}": (
            lambda n, p, m=m, **k: F.sphere_face(n, p, scale=8.0, margin=m, **k),
            lambda th, m=m: (-1) ** math.floor(th * m / math.pi) * m * math.sin(m * th) / math.sin(th),
        )
        for m in (1, 1.7, 2, 3, 4)
    },
    "large-margin": (
        lambda n, p, **k: F.large_margin_softmax(n, p, torch.full_like(p, 1.0), margin=4, **k),
        lambda th: (-1) ** math.floor(th * 4 / math.pi) * 4 * math.sin(4 * th) / math.sin(th),
    ),
}


def slope(loss: Callable[..., Tensor], c: float, gradient: str) -> float:
    s_p = torch.tensor([[c]], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(loss(NEGATIVES, s_p, gradient=gradient).sum(), s_p)[0].item()


@pytest.mark.parametrize("name", ANGULAR)
def test_exact_gradient_is_the_detached_one_times_the_derivative_of_the_margin(name: str) -> None:
    loss, derivative = ANGULAR[name]
    for theta in (0.45, 0.9, 1.4, 2.0, 2.4):
        if name == "arc-right" and theta > math.pi / 2:
            continue  # there the target is cos(theta) - m sin(m), with derivative 1
        exact, detached = (slope(loss, math.cos(theta), gradient) for gradient in ("exact", "detached"))
        assert detached < 0
        assert math.isclose(exact, detached * derivative(theta), rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("name", ANGULAR)
def test_detached_gradient_is_bounded_by_the_scale(name: str) -> None:
    loss, bound = ANGULAR[name][0], {"sphere-face2": 50 * 0.7, "large-margin": 1.0}.get(name, 8.0)
    assert all(abs(slope(loss, c, "detached")) <= bound + 1e-12 for c in (-1.0, -0.9, 0.0, 0.7, 0.999999, 1.0))


@pytest.mark.parametrize("name", [name for name in ANGULAR if name != "curricular"])  # where a negative ceases to be hard, its weight jumps
@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=2, max_size=6))
def test_loss_never_grows_with_the_cosine_to_the_own_class(name: str, cosines: list[float]) -> None:
    values = [ANGULAR[name][0](NEGATIVES, torch.tensor([[c]], dtype=torch.float64)).item() for c in sorted(cosines)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(values)), (sorted(cosines), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ANGULAR)
def test_cosines_of_exactly_one_are_finite(name: str, dtype: torch.dtype) -> None:
    """Value, gradient and second derivative; also one rounding beyond."""
    beyond = 1 + torch.finfo(dtype).eps
    for c, n, gradient in itertools.product((1.0, -1.0, beyond, -beyond, 0.0), (1.0, -1.0, beyond), ("exact", "detached")):
        s_p, s_n = (torch.tensor([[v]], dtype=dtype, requires_grad=True) for v in (c, n))
        value = ANGULAR[name][0](s_n, s_p, gradient=gradient).sum()
        first = torch.autograd.grad(value, (s_n, s_p), create_graph=True)
        second = torch.autograd.grad(sum(g.sum() for g in first), (s_n, s_p), allow_unused=True, materialize_grads=True)
        assert all(bool(t.isfinite().all()) for t in (value, *first, *second)), (c, n, gradient)


def test_exact_derivative_of_sphere_face_at_the_ends_is_its_limit() -> None:
    """m^2 on a whole angle: a polynomial in the cosine."""
    for m in (1, 2, 3, 4):
        loss = ANGULAR[f"sphere-{m}"][0]
        assert math.isclose(slope(loss, 1.0, "exact"), m**2 * slope(loss, 1.0, "detached"), rel_tol=1e-12)


def test_margin_of_mag_face_trains_the_norm_in_both_modes() -> None:
    for gradient in ("exact", "detached"):
        norms = torch.tensor([60.0, 5.0, 200.0], dtype=torch.float64, requires_grad=True)
        s_n, s_p = NEGATIVES.expand(3, -1), torch.full((3, 1), 0.5, dtype=torch.float64)
        value = F.mag_face(s_n, s_p, norms, scale=8.0, regularization=0.0, gradient=gradient)
        slopes = torch.autograd.grad(value.sum(), norms)[0]
        p = 1 - math.exp(-value[0].item())  # of the other classes
        assert math.isclose(slopes[0].item(), 8 * p * math.sin(math.acos(0.5) + 0.625) * 0.35 / 100, rel_tol=1e-9)
        assert slopes[1:].tolist() == [0, 0]


def test_norms_are_constants_to_ada_face() -> None:
    norms = torch.tensor([20.5], dtype=torch.float64, requires_grad=True)
    value = F.ada_face(NEGATIVES, torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True), norms, mean=20.0, std=1.0)
    assert torch.autograd.grad(value.sum(), norms, allow_unused=True)[0] is None


def test_hard_negatives_of_several_positives_are_those_beyond_the_farthest() -> None:
    near, far, m, t = 0.9, 0.6, 0.5, 0.3
    s_n = [0.1, 0.4, 0.7]
    assert arc(far, m) < 0.4 < arc(near, m)
    pushed = [v if v <= arc(far, m) else v * (t + v) for v in s_n]
    expected = math.log1p(sum(math.exp(8 * (n - arc(p, m))) for n in pushed for p in (near, far)))
    got = F.curricular_face(
        torch.tensor([s_n], dtype=torch.float64), torch.tensor([[near, far]], dtype=torch.float64), t=t, margin=m, scale=8.0
    )
    assert math.isclose(got.item(), expected, rel_tol=1e-12)


def test_class_size_margins() -> None:
    got = F.class_size_margins(torch.tensor([0, 1, 7, 1000]), factor=0.4, offset=0.1, power=0.5)
    torch.testing.assert_close(got, torch.tensor([0.5, 0.5, 0.1 + 0.4 / math.sqrt(7), 0.1 + 0.4 / math.sqrt(1000)]))
    for name in ("factor", "offset", "power"):
        with pytest.raises(ValueError, match=name):
            F.class_size_margins([1, 2], **{name: -1.0})


# ---- identities


def table(seed: int, n: int = 5, p: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(6, k, generator=generator, dtype=torch.float64) * 2 - 1 for k in (n, p))  # type: ignore[return-value]


def same(a: Callable[..., Tensor], b: Callable[..., Tensor], s_n: Tensor, s_p: Tensor) -> None:
    results = []
    for f in (a, b):
        n, p = s_n.clone().requires_grad_(), s_p.clone().requires_grad_()
        value = f(n, p)
        results.append((value, *torch.autograd.grad(value.sum(), (n, p))))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_identities(gradient: str) -> None:
    """SPEC 0.2, 2, 7 and 10: value and gradient."""
    s_n, s_p = table(1)
    g = {"gradient": gradient}
    ones = torch.ones(6, dtype=torch.float64)

    def norm_face(n: Tensor, p: Tensor) -> Tensor:
        return F.norm_face(n, p, scale=8.0)

    def arc_face(n: Tensor, p: Tensor, m: float = 0.5) -> Tensor:
        return F.arc_face(n, p, margin=m, scale=8.0, **g)

    same(lambda n, p: F.unified(n, p, margin=0.35, scale=8.0), lambda n, p: F.am_softmax(n, p, margin=0.35, scale=8.0), s_n, s_p)
    same(norm_face, lambda n, p: F.am_softmax(n, p, margin=0.0, scale=8.0), s_n, s_p)
    same(norm_face, lambda n, p: arc_face(n, p, 0.0), s_n, s_p)
    same(norm_face, lambda n, p: F.sphere_face(n, p, scale=8.0, margin=1, **g), s_n, s_p)
    same(norm_face, lambda n, p: F.softmax(8 * n, 8 * p), s_n, s_p)
    same(
        lambda n, p: F.softmax(3 * n, 3 * p),
        lambda n, p: F.large_margin_softmax(3 * n, 3 * p, 3 * torch.ones_like(p), margin=1, **g),
        s_n,
        s_p,
    )
    same(lambda n, p: F.proxy_nca_plus_plus(n, p), lambda n, p: F.norm_face(n, p, scale=18.0), s_n, s_p)
    same(arc_face, lambda n, p: F.sub_center_arc_face(n, p, 1, margin=0.5, scale=8.0, **g), s_n, s_p)
    same(lambda n, p: F.soft_triple(n, p, 1, margin=0.1, scale=8.0), lambda n, p: F.am_softmax(n, p, margin=0.1, scale=8.0), s_n, s_p)
    easy = (s_p * 0.2 - 0.8, s_p * 0.02 + 0.9)
    same(arc_face, lambda n, p: F.curricular_face(n, p, t=0.3, margin=0.5, scale=8.0, **g), *easy)
    same(arc_face, lambda n, p: F.ada_face(n, p, ones, mean=1e3, std=1.0, margin=0.5, scale=8.0, **g), s_n, s_p)  # z = -1
    same(
        lambda n, p: F.am_softmax(n, p, margin=0.4, scale=8.0),
        lambda n, p: F.ada_face(n, p, ones, mean=1.0, std=1.0, margin=0.4, scale=8.0, **g),  # z = 0
        s_n,
        s_p,
    )
    same(arc_face, lambda n, p: F.mag_face(n, p, ones, min_margin=0.5, max_margin=0.5, scale=8.0, regularization=0.0, **g), s_n, s_p)


def test_proxy_nca_plus_plus_is_the_softmax_of_squared_distances_of_vectors_of_length_three() -> None:
    x, labels = points(7, 1), LABELS
    loss = made(lambda **k: ProxyNCAPlusPlusLoss(C, D, **k))
    raw = made(lambda **k: ProxyNCAPlusPlusLoss(C, D, temperature=1.0, similarity=NegativeSquaredEuclidean(), **k))
    raw.proxies.weight.data = 3 * nn.functional.normalize(raw.proxies.weight.data)
    torch.testing.assert_close(raw(3 * nn.functional.normalize(x), labels), loss(x, labels), rtol=1e-10, atol=0)


def test_softmax_is_cross_entropy_of_a_linear_layer() -> None:
    loss = _with_bias(SoftmaxLoss(C, D, bias=True)).double()
    x = points(7, 2).requires_grad_()
    expected = nn.functional.cross_entropy(nn.functional.linear(x, loss.proxies.weight, loss.bias), LABELS, ignore_index=-1)
    inputs = (x, loss.proxies.weight, loss.bias)
    torch.testing.assert_close(loss(x, LABELS), expected, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(loss(x, LABELS), inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_proxies_start_uniform_on_the_sphere() -> None:
    """SPEC 0.2, 14: the mean of exp(s / tau) is near exp(1 / (2 D tau^2))."""
    weight = Proxies(4000, 128, generator=torch.Generator().manual_seed(0)).weight.detach()
    mean = (Cosine()(weight[:50], weight[50:]) / 0.07).exp().mean().item()
    assert math.isclose(mean, math.exp(1 / (2 * 128 * 0.07**2)), rel_tol=0.02)


def test_least_loss_of_norm_face() -> None:
    """A simplex of proxies, each embedding at its own."""
    corners = torch.eye(5, dtype=torch.float64) - 1 / 5
    value = NormFaceLoss(scale=6.0)(corners, range(5), (corners, range(5)))
    assert math.isclose(value.item(), math.log1p(4 * math.exp(-6 * 5 / 4)), rel_tol=1e-9)


def test_sphere_face2_starts_in_balance() -> None:
    """The weights of the two parts of the gradient at cosines of 0 are equal."""
    for classes, scale in ((2, 40.0), (2, 300.0), (3, 40.0), (10, 8.0), (100_000, 40.0)):
        loss = SphereFace2Loss(classes, 2, scale=scale)
        b, middle = loss.bias.item(), 2 * 0.5**3 - 1
        weighted = (0.7, scale * (middle - 0.4) + b), (0.3 * (classes - 1), -scale * (middle + 0.4) - b)
        up, down = (math.log(w) - math.log1p(math.exp(z)) for w, z in weighted)
        assert math.isclose(up, down, abs_tol=1e-4)


# ---- several proxies per class


def test_folds_do_not_depend_on_how_classes_are_stored() -> None:
    """Adjacent cells, numbers of classes, shuffled cells, masks, left-over cells."""
    s_n, s_p = table(3, n=6, p=2)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    junk = torch.cat([s_n, torch.full((6, 1), 1e4, dtype=torch.float64)], dim=1)
    wide = Scores(junk, excluded=torch.full((6, 1), 6), num_excluded=torch.ones(6, dtype=torch.int64))
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[:, 6] = False
    for f in (
        lambda n, c, k=None: F.sub_center_arc_face(n, s_p, c, num_classes=k),
        lambda n, c, k=None: F.soft_triple(n, s_p, c, num_classes=k),
    ):
        expected = f(s_n, 2)
        for got in (
            f(s_n, classes),
            f(s_n, 5 * classes, 40),
            f(s_n[:, order], classes[order]),
            f(s_n[:, order], classes[order].expand(6, -1)),
            f(wide, 2),
            f(Scores(junk, mask), 2),
            f(Scores(junk, mask), nn.functional.pad(classes, (0, 1))),
        ):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [SubCenterArcFaceLoss, SoftTripleLoss])
def test_references_of_one_label_are_one_class(kind: type[Loss]) -> None:
    """Proxies as a store, as a pair, shuffled, with labels of any size, with ignored ones, and as masks."""
    options: dict[str, Any] = {"regularization": 0.0} if kind is SoftTripleLoss else {}
    proxies = Proxies(C, D, per_class=2).double()
    loss, x = kind(**options), points(7, 1)
    expected = kind(proxies=proxies, **options)(x, LABELS)
    rows, labels = proxies.weight, proxies.references().labels
    order = torch.randperm(2 * C, generator=torch.Generator().manual_seed(0))
    odd = torch.cat([rows[order], rows[:2]]), torch.cat([labels[order] * 10**12, torch.tensor([-1, -2])])
    for references, names in (
        (proxies, LABELS),
        ((rows, labels), LABELS),
        ((rows[order], labels[order]), LABELS),
        ([(rows[:3], labels[:3]), (rows[3:], labels[3:])], LABELS),
        (odd, LABELS * 10**12),
    ):
        torch.testing.assert_close(loss(x, names, references), expected, rtol=1e-10, atol=0)
    masked = kind(proxies=proxies, relation=lambda a, b: a.unsqueeze(1) == b, **options)
    torch.testing.assert_close(masked(x, LABELS), expected, rtol=1e-10, atol=0)


def test_equal_sub_centers_count_once() -> None:
    one, two = Proxies(C, D).double(), Proxies(C, D, per_class=3).double()
    two.weight.data = one.weight.data.repeat_interleave(3, dim=0)
    x = points(7, 1)
    for kind, options in ((SubCenterArcFaceLoss, {}), (SoftTripleLoss, {"regularization": 0.0})):
        torch.testing.assert_close(kind(proxies=two, **options)(x, LABELS), kind(proxies=one, **options)(x, LABELS), rtol=1e-10, atol=0)


def test_dominant_centers_and_outliers() -> None:
    loss = SubCenterArcFaceLoss(3, 2, per_class=2)
    loss.proxies.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[2.0, 0.1], [1.0, 0.2], [0.0, 3.0], [0.1, 1.0], [0.3, 1.0], [-1.0, 1.0]])
    labels = [0, 0, 0, 1, 1, -1]
    centers = loss.dominant_centers(x, labels)
    assert centers.tolist() == [0, 1, -1]
    assert loss.outliers(x, labels, centers).tolist() == [False, False, True, False, False, False]
    assert loss.outliers(x, labels, centers, angle=5.0).tolist() == [False, True, True, True, True, False]
    with pytest.raises(ValueError, match="proxies"):
        SubCenterArcFaceLoss().dominant_centers(x, labels)


# ---- running statistics


def test_curricular_face_follows_the_mean_cosine_once_per_call() -> None:
    for options in ({"execution": "dense"}, TILED):
        loss = made(lambda **k: CurricularFaceLoss(C, D, scale=8.0, momentum=0.9, **k), **options)
        w, t = [[v] for v in loss.proxies.weight.detach().tolist()], 0.0
        for seed in range(3):
            x = points(7, seed)
            own = [cos(row, w[y][0]) for row, y in zip(x.tolist(), LABELS.tolist(), strict=True) if y >= 0]
            t = 0.9 * t + 0.1 * sum(own) / 6
            expected = [curricular(row, y, w, t) for row, y in zip(x.tolist(), LABELS.tolist(), strict=True) if y >= 0]
            value = loss(x, LABELS).item()  # with the new t
            assert math.isclose(loss.t.item(), t, rel_tol=1e-12)
            assert math.isclose(value, math.fsum(expected) / 6, rel_tol=1e-9)


def test_curricular_face_with_positives_that_are_many_or_masks() -> None:
    """The mean is over all positive pairs, however they are found."""
    x, labels = points(9, 1), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, -1])
    cosines = Cosine()(x, x)
    pairs = (labels.unsqueeze(1) == labels) & (labels >= 0) & ~torch.eye(9, dtype=torch.bool)
    for relation in (None, lambda a, b: a.unsqueeze(1) == b):
        loss = CurricularFaceLoss(momentum=0.0, relation=relation).double()
        loss(x, labels)
        assert math.isclose(loss.t.item(), cosines[pairs].mean().item(), rel_tol=1e-12)


def test_ada_face_follows_the_norms_once_per_call() -> None:
    for options in ({"execution": "dense"}, TILED):
        loss = made(lambda **k: AdaFaceLoss(C, D, momentum=0.9, **k), **options)
        x = points(7, 1) * 30
        loss(x, LABELS)
        norms = x[LABELS >= 0].norm(dim=1).clamp(max=100)
        assert math.isclose(loss.mean.item(), 0.9 * 20 + 0.1 * norms.mean().item(), rel_tol=1e-12)
        assert math.isclose(loss.std.item(), 0.9 * 100 + 0.1 * norms.std().item(), rel_tol=1e-12)


def test_statistics_of_batches_too_small_for_them() -> None:
    ada, curricular_face = AdaFaceLoss(C, D, momentum=0.0), CurricularFaceLoss(C, D, momentum=0.0)
    for x, labels in ((torch.ones(0, D), []), (torch.ones(2, D), [-1, -1])):
        assert ada(x, labels).item() == curricular_face(x, labels).item() == 0
        assert (ada.mean.item(), ada.std.item(), curricular_face.t.item()) == (20, 100, 0)
    ada(2 * torch.ones(1, D), [0])
    assert math.isclose(ada.mean.item(), 2 * math.sqrt(3), rel_tol=1e-6)
    assert ada.std.item() == 100


def test_annealing_counts_calls_in_training() -> None:
    loss = SphereFaceLoss(C, D, annealing=Annealing(), **TILED).double()
    x = points(7, 1)
    w = [[v] for v in loss.proxies.weight.detach().tolist()]
    for step in (1, 2, 3):
        expected = [
            a_softmax(row, y, w, annealing=max(5, 1000 / (1 + 0.12 * step)))
            for row, y in zip(x.tolist(), LABELS.tolist(), strict=True)
            if y >= 0
        ]
        assert math.isclose(loss(x, LABELS).item(), math.fsum(expected) / 6, rel_tol=1e-6)
    assert loss.eval()(x, LABELS).item() == loss(x, LABELS).item()
    assert loss.annealing.step.item() == 3
    loss.annealing.step.fill_(10**6)
    assert loss.annealing(training=False).item() == 5
    slow = Annealing(start=1000, decay=2.5e-5, power=35, minimum=0)
    slow.step.fill_(10_000)
    assert math.isclose(slow(training=False).item(), 1000 * (1 + 0.25) ** -35, rel_tol=1e-5)


STATEFUL = {
    "curricular": lambda **k: CurricularFaceLoss(C, D, momentum=0.5, **k),
    "ada": lambda **k: AdaFaceLoss(C, D, momentum=0.5, **k),
    "sphere": lambda **k: SphereFaceLoss(C, D, annealing=Annealing(), **k),
    "large-margin": lambda **k: LargeMarginSoftmaxLoss(C, D, annealing=Annealing(), **k),
}


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_statistics_are_state(make: Callable[..., Loss]) -> None:
    loss, x = make().double(), points(7, 1)
    before = copy.deepcopy(loss.state_dict())
    loss.eval()(x, LABELS)
    torch.func.grad(lambda e: loss.train()(e, LABELS))(x)  # a transform cannot change what is outside of it
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())
    loss.train()(x, LABELS)
    assert any(not torch.equal(v, before[k]) for k, v in loss.state_dict().items())
    other = make().double()
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(x, LABELS), loss(x, LABELS))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in loss.state_dict().items())


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_backward_uses_the_statistics_of_its_forward(make: Callable[..., Loss]) -> None:
    """With reduction "none" the tiles run again in backward, perhaps after another call."""
    x = points(7, 1).requires_grad_()
    loss = made(make, reduction="none", **TILED)
    twin = copy.deepcopy(loss)
    expected = torch.autograd.grad(twin(x, LABELS).sum(), x)[0]
    value = loss(x, LABELS)
    loss(5 * points(7, 2), LABELS)
    assert torch.equal(torch.autograd.grad(value.sum(), x)[0], expected)


# ---- roles exchanged


def proxy_anchor_spec(x: list[Vector], labels: list[int], w: list[Vector], *, margin: float, scale: float) -> float:
    positive, negative, present = 0.0, 0.0, 0
    for c, p in enumerate(w):
        own = [math.exp(-scale * (cos(v, p) - margin)) for v, y in zip(x, labels, strict=True) if y == c]
        others = [math.exp(scale * (cos(v, p) + margin)) for v, y in zip(x, labels, strict=True) if y not in (c, -1)]
        present += bool(own)
        positive, negative = positive + math.log1p(sum(own)), negative + math.log1p(sum(others))
    return positive / max(1, present) + negative / len(w)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 0, -1, 1], [2, 2, 2, 2, 2, 2, 2], [0, 3, 0, 3, 3, 0, -1]])
def test_proxy_anchor(labels: list[int]) -> None:
    for options in ({"execution": "dense"}, TILED):
        loss = made(lambda **k: ProxyAnchorLoss(C, D, **k), **options)
        x = points(7, 1)
        expected = proxy_anchor_spec(x.tolist(), labels, loss.proxies.weight.tolist(), margin=0.1, scale=32.0)
        assert math.isclose(loss(x, labels).item(), expected, rel_tol=1e-9)
        assert loss(x, labels, loss.proxies).item() == loss(x, labels).item()
        weight = loss.proxies.weight

        def value(x: Tensor, w: Tensor, loss: Loss = loss, labels: Any = labels) -> Tensor:
            return torch.func.functional_call(loss, {"proxies.weight": w}, (x, labels))

        assert torch.autograd.gradcheck(value, (x.requires_grad_(), weight.detach().clone().requires_grad_()), atol=1e-6)


def test_proxy_anchor_has_one_number_per_proxy() -> None:
    loss = made(lambda **k: ProxyAnchorLoss(C, D, reduction="none", **k))
    assert loss(points(7, 1), LABELS).shape == (C,)
    assert loss(points(0, 1), []).tolist() == [0] * C


def test_proxy_anchor_on_a_batch_leaves_out_self_pairs() -> None:
    x, labels = points(6, 1), [0, 0, 1, 1, 2, 2]
    loss = ProxyAnchorLoss(scale=4.0)
    every = loss(x, labels, References(x, torch.tensor(labels), torch.arange(6)), ids=torch.arange(6))
    assert torch.equal(every, loss(x, labels))
    torch.testing.assert_close(loss(x, labels, [None]), loss(x, labels))


# ---- every loss


def references_of(kind: str) -> Any:
    generator = torch.Generator().manual_seed(5)
    pair = (torch.randn(11, D, dtype=torch.float64, generator=generator), torch.randint(-1, C, (11,), generator=generator))
    if kind == "queue":
        queue = EmbeddingQueue(8, D, dtype=torch.float64)
        queue.enqueue(*pair, torch.arange(11))
        return queue
    proxies = Proxies(C, D, per_class=2, generator=generator).double()
    return {"own": None, "pair": (pair[0].requires_grad_(), pair[1]), "proxies": proxies, "list": [None, pair, proxies]}[kind]


MINERS: dict[str, Callable[[], Any]] = {
    "all": lambda: None,
    "hard": miners.HardMiner,
    "semi-hard": lambda: miners.SemiHardMiner(0.5),
}


@pytest.mark.parametrize("kind", ["own", "pair", "proxies", "list", "queue"])
@pytest.mark.parametrize("name", [name for name in ALL if not name.endswith("-detached")])
def test_tiled_equals_dense(name: str, kind: str) -> None:
    make = ALL[name]
    if name == "magnet" or (kind != "own" and name.endswith("-bias")):
        pytest.skip("couples anchors, or has biases for its own proxies")
    x, labels = points(13, 1), torch.arange(13) % 5 - 1
    for (miner, draw), reduction in itertools.product(MINERS.items(), ("mean", "none")):
        outcomes = []
        for execution in ("dense", "tiled"):
            torch.manual_seed(0)
            loss = made(make, execution=execution, memory_budget=300, miner=draw(), reduction=reduction)
            outcomes.append(value_and_gradients(loss, x, labels, references_of(kind)))
        for a, b in zip(*outcomes, strict=True):
            assert bool(a.isfinite().all())
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10, msg=lambda m, s=(miner, reduction): f"{s}: {m}")
        if miner == "all":
            assert bool(outcomes[0][1].any())


@EVERY
def test_masks_equal_tables(make: Callable[..., Loss]) -> None:
    """The sets as masks, as other devices and traced programs have them."""
    if isinstance(make(), (MagnetLoss, CenterLoss)):
        pytest.skip("has masks, or no sets at all")
    x, labels = points(7, 1), LABELS
    expected = value_and_gradients(made(make), x, labels)
    got = value_and_gradients(made(make, relation=lambda a, b: a.unsqueeze(1) == b), x, labels)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@EVERY
def test_order_of_the_batch_does_not_matter(make: Callable[..., Loss]) -> None:
    x, order = points(7, 1), torch.tensor([4, 2, 6, 0, 5, 1, 3])
    value, gradient, *rest = value_and_gradients(made(make), x, LABELS)
    moved, moved_gradient, *moved_rest = value_and_gradients(made(make), x[order], LABELS[order])
    for a, b in zip((moved, moved_gradient, *moved_rest), (value, gradient[order], *rest), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def degenerate(loss: Loss) -> dict[str, tuple[Tensor, list[int]]]:
    own = (torch.eye(C, D) if loss.proxies is None else loss.proxies.weight.detach()[:: loss.proxies.per_class]).float()
    some = points(4, 3).float()
    return {
        "empty": (some[:0], []),
        "one": (some[:1], [2]),
        "one class": (some, [1, 1, 1, 1]),
        "all unique": (some, [0, 1, 2, 3]),
        "duplicates": (some[[0, 0, 1, 1]], [0, 0, 1, 2]),
        "collapse": (some[[0, 0, 0, 0]], [0, 0, 1, 1]),
        "zeros": (torch.zeros(4, D), [0, 0, 1, 1]),
        "a zero": (torch.cat([torch.zeros(1, D), some[1:]]), [0, 0, 1, 1]),
        "at the proxies": (own, [0, 1, 2, 3]),
        "at others": (own[[1, 0, 3, 2]], [0, 1, 2, 3]),
        "opposite": (-own, [0, 1, 2, 3]),
        "huge": (1e15 * some, [0, 1, 2, 3]),
        "tiny": (1e-15 * some, [0, 1, 2, 3]),
    }


@EVERY
def test_degenerate_batches_are_finite(make: Callable[..., Loss]) -> None:
    for execution in ("dense", "auto"):
        for name, (x, labels) in degenerate(made(make)).items():
            loss = made(make, execution=execution).float()
            if name == "huge" and isinstance(loss.similarity, NegativeSquaredEuclidean):
                x = 1e-3 * x
            for value in value_and_gradients(loss, x, labels):
                assert bool(value.isfinite().all()), name


@EVERY
def test_nothing_to_learn_is_exactly_zero(make: Callable[..., Loss]) -> None:
    for x, labels in ((torch.empty(0, D), []), (torch.ones(2, D), [-1, -2])):
        loss = made(make, execution="auto").float()
        if isinstance(loss, ProxyAnchorLoss):
            labels = [-1] * len(labels)
        value, gradient, *_ = value_and_gradients(loss, x, labels)
        assert value.item() == 0
        assert not gradient.any()


@EVERY
def test_transforms_and_second_derivatives(make: Callable[..., Loss]) -> None:
    loss, x = made(make).eval(), points(7, 1)
    expected = value_and_gradients(loss, x, LABELS)[1]
    gradient = torch.func.vmap(torch.func.grad(lambda e: loss(e, LABELS)))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(gradient[0], expected, rtol=1e-8, atol=1e-10)
    rows = []
    for execution in ("dense", "auto"):
        loss.execution = execution
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf, LABELS), leaf, create_graph=True)
        if first.requires_grad:
            rows.append(torch.autograd.grad(first.square().sum(), leaf)[0])
            assert bool(rows[-1].isfinite().all())
    for row in rows[1:]:
        torch.testing.assert_close(row, rows[0], rtol=1e-8, atol=1e-9)


@EVERY
def test_half_precision_and_autocast(make: Callable[..., Loss]) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        loss = made(make).float().eval()
        x = points(7, 1).to(dtype)
        value, gradient, *_ = value_and_gradients(loss, x, LABELS)
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(loss(x, LABELS).detach(), value)
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        exact = value_and_gradients(loss, x.float(), LABELS)
        torch.testing.assert_close(value, exact[0], rtol=1e-5, atol=1e-6)
        assert float((gradient.float() - exact[1]).norm()) <= 2 * torch.finfo(dtype).eps * float(exact[1].norm())


@EVERY
def test_copies_and_meta_tensors(make: Callable[..., Loss]) -> None:
    loss, x = made(make).eval(), points(7, 1)
    expected = loss(x, LABELS)
    assert torch.equal(copy.deepcopy(loss)(x, LABELS), expected)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(x, LABELS), expected)
    value = loss.to("meta")(x.to("meta"), LABELS.to("meta"))
    assert value.is_meta
    assert value.shape == ()


COMPILED = ["softmax-bias", "large-margin", "sub-center", "soft-triple", "proxy-anchor", "magnet"]


@pytest.mark.parametrize("name", [*COMPILED, "curricular-training"])
def test_compile_without_graph_breaks(name: str) -> None:
    make = STATEFUL["curricular"] if name == "curricular-training" else ALL[name]
    loss, x = made(make), points(7, 1)
    expected = value_and_gradients(copy.deepcopy(loss), x, LABELS)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    value = compiled(leaf, LABELS)
    got = [value.detach(), *torch.autograd.grad(value, [leaf, *loss.parameters()], materialize_grads=True)]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    if name == "curricular-training":
        assert loss.t.item() != 0


@pytest.mark.parametrize("name", ["arc", "sphere-4", "large-margin", "curricular", "sphere-face2"])
def test_masked_is_absent(name: str) -> None:
    """Cells outside of a set may hold anything, and receive no gradient."""
    loss = ANGULAR[name][0]
    junk_n = torch.tensor([[0.3, 1e30, -0.4, 0.1]], dtype=torch.float64, requires_grad=True)
    junk_p = torch.tensor([[-1e30, 0.2]], dtype=torch.float64, requires_grad=True)
    positives = Scores(junk_p, torch.tensor([[False, True]])) if name != "large-margin" else junk_p[:, 1:]
    value = loss(Scores(junk_n, torch.tensor([[True, False, True, True]])), positives)
    assert math.isclose(value.item(), loss(NEGATIVES, torch.tensor([[0.2]], dtype=torch.float64)).item(), rel_tol=1e-12)
    g_n, g_p = torch.autograd.grad(value.sum(), (junk_n, junk_p))
    assert g_n[0, 1] == 0
    assert g_p[0, 0] == 0
    assert bool(g_n.isfinite().all() and g_p.isfinite().all())


EMPTY = {
    "softmax": F.softmax,
    "l2": F.l2_softmax,
    "norm-face": F.norm_face,
    "nca": F.proxy_nca,
    "nca++": F.proxy_nca_plus_plus,
    "soft-triple": lambda n, p: F.soft_triple(n, p, 1),
    **{name: f for name, (f, _) in ANGULAR.items() if name not in ("mag", "sphere-face2")},
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_sets_have_no_loss(name: str) -> None:
    for n, p in ((0, 1), (1, 0), (0, 0)):
        if name == "large-margin" and p == 0:
            continue
        s_n, s_p = torch.full((1, n), 0.3, requires_grad=True), torch.full((1, p), 0.5, requires_grad=True)
        value = EMPTY[name](s_n, s_p)
        assert value.tolist() == [0]
        if value.requires_grad:
            assert all(not g.any() for g in torch.autograd.grad(value.sum(), (s_n, s_p), allow_unused=True, materialize_grads=True))


# ---- arguments


@EVERY
def test_hyper_parameters_are_checked(make: Callable[..., Loss]) -> None:
    kind = type(make())
    known = inspect.signature(kind.__init__).parameters
    for name, bounds in kind.bounds.items():
        if name not in known:
            continue
        wrong = [math.nan, math.inf]
        wrong += [bounds.low - 1] if bounds.low > -math.inf else []
        wrong += [bounds.high + 1] if bounds.high < math.inf else []
        wrong += [bounds.low] if bounds.open_low else []
        for value in wrong:
            with pytest.raises(ValueError, match=name):
                kind(**{name: value})
        with pytest.raises(TypeError, match=name):
            kind(**{name: "much"})
    with pytest.raises(TypeError, match="Did you mean 'reduction'"):
        kind(reductoin="sum")


def test_options_are_checked() -> None:
    arc_faces = ArcFaceLoss, SubCenterArcFaceLoss, CurricularFaceLoss, MagFaceLoss, AdaFaceLoss
    for kind in (*arc_faces, SphereFaceLoss, LargeMarginSoftmaxLoss, SphereFace2Loss):
        with pytest.raises(ValueError, match="Did you mean 'exact'"):
            kind(gradient="exakt")
    for f, _ in ANGULAR.values():
        with pytest.raises(ValueError, match="gradient"):
            f(NEGATIVES, NEGATIVES[:, :1], gradient="exakt")
    for wrong in ({"min_margin": 0.9}, {"min_norm": 110.0}, {"max_norm": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MagFaceLoss(**wrong)
    for momentum in (-0.1, 1.1):
        for kind in (CurricularFaceLoss, AdaFaceLoss):
            with pytest.raises(ValueError, match="momentum"):
                kind(momentum=momentum)
    for margin in (torch.zeros(2, 2), torch.zeros(3), torch.tensor([0.1, 0.2, 0.3, 1.6]), torch.zeros(4, dtype=torch.int64)):
        with pytest.raises(ValueError, match="margin"):
            ArcFaceLoss(C, D, margin=margin)
    with pytest.raises(ValueError, match="labels"):
        ArcFaceLoss(margin=torch.zeros(4))(torch.eye(2), [0, 4])
    with pytest.raises(ValueError, match="labels"):
        ArcFaceLoss(margin=torch.zeros(4), relation=lambda a, b: (a.unsqueeze(1) == b).all(2))(
            torch.eye(2), torch.zeros(2, 2, dtype=torch.int64)
        )
    with pytest.raises(TypeError, match="annealing"):
        SphereFaceLoss(annealing=5.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="similarity"):
        LargeMarginSoftmaxLoss(similarity=NegativeSquaredEuclidean())
    with pytest.raises(ValueError, match="start"):
        Annealing(start=-1)


def test_bias_belongs_to_proxies() -> None:
    with pytest.raises(ValueError, match="bias"):
        SoftmaxLoss(bias=True)
    with pytest.raises(ValueError, match="bias"):
        SoftmaxLoss(C, D, bias=True, similarity=NegativeSquaredEuclidean())
    loss = SoftmaxLoss(C, D, bias=True)
    with pytest.raises(ValueError, match="references"):
        loss(torch.eye(D), [0, 1, 2], (torch.eye(D), [0, 1, 2]))
    assert loss(torch.eye(D), [0, 1, 2], loss.proxies).isfinite()


def test_proxies_of_several_per_class() -> None:
    assert SubCenterArcFaceLoss(C, D).proxies.per_class == 3
    assert SoftTripleLoss(C, D, per_class=4).proxies.per_class == 4
    shared = Proxies(C, D, per_class=5)
    assert SoftTripleLoss(proxies=shared).proxies is SubCenterArcFaceLoss(proxies=shared, per_class=5).proxies
    for options in ({"proxies": shared, "per_class": 4}, {"per_class": 4}):
        with pytest.raises(ValueError, match="per_class"):
            SoftTripleLoss(**options)
    with pytest.raises(ValueError, match="proxies"):
        SoftTripleLoss(C, D, proxies=shared)
    with pytest.raises(ValueError, match="together"):
        SoftTripleLoss(num_classes=C)


def test_scores_from_elsewhere_are_refused_with_a_hint() -> None:
    for kind in (SphereFaceLoss, MagFaceLoss, SubCenterArcFaceLoss):
        with pytest.raises(ValueError, match=r"metriczoo\.functional"):
            kind().per_anchor(Scores(NEGATIVES), Scores(NEGATIVES))


def test_labels_beyond_the_proxies_are_an_error() -> None:
    for make in ALL.values():
        if not isinstance(make(), MagnetLoss):
            with pytest.raises(ValueError, match="labels"):
                make()(torch.ones(2, D), [0, C])


def test_classes_need_flat_labels() -> None:
    loss = SubCenterArcFaceLoss(relation=lambda a, b: (a.unsqueeze(1) == b).all(2))
    with pytest.raises(ValueError, match="labels"):
        loss(torch.eye(2), torch.zeros(2, 2, dtype=torch.int64))


def test_shared_proxies_collect_the_gradients_of_all_losses() -> None:
    proxies = Proxies(C, D).double()
    x = points(7, 1)
    parts = [make(proxies=proxies) for make in (AMSoftmaxLoss, ArcFaceLoss, ProxyAnchorLoss, TripletMarginLoss)]
    sum(loss(x, LABELS) for loss in parts).backward()
    expected = sum(torch.autograd.grad(loss(x, LABELS), proxies.weight)[0] for loss in parts)
    torch.testing.assert_close(proxies.weight.grad, expected, rtol=1e-12, atol=1e-12)


def test_l2_softmax_and_inner_products() -> None:
    """Embeddings are normalised, proxies are not."""
    loss = made(lambda **k: L2SoftmaxLoss(C, D, scale=5.0, **k))
    x = points(7, 1)
    assert isinstance(loss.similarity, InnerProduct)
    torch.testing.assert_close(loss(3 * x, LABELS), loss(x, LABELS), rtol=1e-10, atol=0)
    before = loss(x, LABELS).item()
    loss.proxies.weight.data *= 2
    assert not math.isclose(loss(x, LABELS).item(), before, rel_tol=1e-3)
