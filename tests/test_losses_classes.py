"""Class-level losses on proxies: what is special to them. The rest is in the zoo, `metriczoo.testing.zoo._classes`."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
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
from metriczoo.losses.linear_softmax import SoftmaxLoss
from metriczoo.losses.multiplicative_margin import Annealing, LargeMarginSoftmaxLoss, SphereFaceLoss
from metriczoo.losses.proxy import ProxyAnchorLoss, ProxyNCAPlusPlusLoss, SoftTripleLoss
from metriczoo.scores import Scores
from metriczoo.similarity import Cosine, NegativeSquaredEuclidean
from metriczoo.stores import EmbeddingQueue, Proxies
from metriczoo.testing._naive import Points, by_spec
from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo._classes import SUBJECTS, C, D, arc, curricular, sphere_face

LABELS = torch.tensor([0, 1, 2, 3, 0, -1, 1])
TILED = {"execution": "tiled", "memory_budget": 100}
ON_PROXIES = [s for s in SUBJECTS if s.loss.proxies is not None]
EVERY = pytest.mark.parametrize("subject", ON_PROXIES, ids=str)


def points(n: int, seed: int, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(make: Callable[..., Loss], **options: Any) -> Loss:
    loss = make(**options).double()
    loss.proxies.weight.data = points(len(loss.proxies.weight), 7)
    return loss


def specified(loss: Loss, spec: Callable[..., float], x: Tensor) -> float:
    proxies = loss.proxies.references()
    return by_spec(Subject(loss, spec), Points.of(x, LABELS), Points.of(proxies.embeddings, proxies.labels))


def value_and_gradients(loss: Loss, x: Tensor, labels: Any, references: Any = None, call: Any = None) -> list[Tensor]:
    x = x.clone().requires_grad_()
    value = (loss if call is None else call)(x, labels, references)
    inputs = [x, *loss.parameters()]
    for part in references if isinstance(references, list) else [references]:
        inputs += [part[0]] if isinstance(part, tuple) else list(part.parameters()) if isinstance(part, Proxies) else []
    weights = torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape)
    return [value.detach(), *torch.autograd.grad((weights * value).sum(), inputs, materialize_grads=True)]


def is_exact(loss: Loss) -> bool:
    return getattr(loss, "gradient", "exact") == "exact" and not getattr(loss, "detach_weights", False)


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


# ---- identities and where proxies start; more identities are in `test_identities`


def table(seed: int, n: int = 5, p: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(6, k, generator=generator, dtype=torch.float64) * 2 - 1 for k in (n, p))  # type: ignore[return-value]


def test_proxy_nca_plus_plus_is_the_softmax_of_squared_distances_of_vectors_of_length_three() -> None:
    x, labels = points(7, 1), LABELS
    loss = made(lambda **k: ProxyNCAPlusPlusLoss(C, D, **k))
    raw = made(lambda **k: ProxyNCAPlusPlusLoss(C, D, temperature=1.0, similarity=NegativeSquaredEuclidean(), **k))
    raw.proxies.weight.data = 3 * nn.functional.normalize(raw.proxies.weight.data)
    torch.testing.assert_close(raw(3 * nn.functional.normalize(x), labels), loss(x, labels), rtol=1e-10, atol=0)


def test_proxies_start_uniform_on_the_sphere() -> None:
    """SPEC 0.2, 14: the mean of exp(s / tau) is near exp(1 / (2 D tau^2))."""
    weight = Proxies(4000, 128, generator=torch.Generator().manual_seed(0)).weight.detach()
    mean = (Cosine()(weight[:50], weight[50:]) / 0.07).exp().mean().item()
    assert math.isclose(mean, math.exp(1 / (2 * 128 * 0.07**2)), rel_tol=0.02)


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_large_margin_softmax_without_a_margin_is_the_softmax(gradient: str) -> None:
    s_n, s_p = (3 * s for s in table(1))
    norms = torch.full_like(s_p, 3.0)
    torch.testing.assert_close(
        F.large_margin_softmax(s_n, s_p, norms, margin=1, gradient=gradient), F.softmax(s_n, s_p), rtol=1e-12, atol=0
    )


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
        t = 0.0
        for seed in range(3):
            x = points(7, seed)
            own = Cosine()(x, loss.proxies.weight.detach())[LABELS >= 0, LABELS[LABELS >= 0]]
            t = 0.9 * t + 0.1 * own.mean().item()
            value = loss(x, LABELS).item()  # with the new t
            assert math.isclose(loss.t.item(), t, rel_tol=1e-12)
            assert math.isclose(value, specified(loss, partial(curricular, scale=8.0, t=t), x), rel_tol=1e-9)


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
    for step in (1, 2, 3):
        expected = specified(loss, partial(sphere_face, margin=4, annealing=max(5, 1000 / (1 + 0.12 * step))), x)
        assert math.isclose(loss(x, LABELS).item(), expected, rel_tol=1e-6)
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


def test_statistics_are_followed_in_a_compiled_program() -> None:
    loss, x = made(STATEFUL["curricular"]), points(7, 1)
    expected = value_and_gradients(copy.deepcopy(loss), x, LABELS)
    torch._dynamo.reset()
    got = value_and_gradients(loss, x, LABELS, call=torch.compile(loss, fullgraph=True, backend="aot_eager"))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert loss.t.item() != 0


# ---- roles exchanged


def test_proxy_anchor_has_one_number_per_proxy() -> None:
    loss = made(lambda **k: ProxyAnchorLoss(C, D, reduction="none", **k))
    assert loss(points(7, 1), LABELS).shape == (C,)
    assert loss(points(0, 1), []).tolist() == [0] * C
    assert torch.equal(loss(points(7, 1), LABELS, loss.proxies), loss(points(7, 1), LABELS))


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


TILED_SUBJECTS = [*{type(s.loss): s for s in reversed(ON_PROXIES)}.values(), *(s for s in ON_PROXIES if "-margins" in s.name)]


@pytest.mark.parametrize("kind", ["own", "pair", "proxies", "list", "queue"])
@pytest.mark.parametrize("subject", TILED_SUBJECTS, ids=str)
def test_tiled_equals_dense(subject: Subject, kind: str) -> None:
    """With any references, miner and reduction; gradients of what is learned, too."""
    x, labels = points(13, 1), torch.arange(13) % C - 1
    for (miner, draw), reduction in itertools.product(MINERS.items(), ("mean", "none")):
        outcomes = []
        for execution in ("dense", "tiled"):
            torch.manual_seed(0)
            loss = subject.copy(torch.float64, execution=execution, memory_budget=300, miner=draw(), reduction=reduction)
            outcomes.append(value_and_gradients(loss, x, labels, references_of(kind)))
        for a, b in zip(*outcomes, strict=True):
            assert bool(a.isfinite().all())
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10, msg=lambda m, s=(miner, reduction): f"{s}: {m}")
        if miner == "all":
            assert bool(outcomes[0][1].any())


@EVERY
def test_masks_equal_tables(subject: Subject) -> None:
    """The sets as masks, as other devices and traced programs have them."""
    x = points(7, 1)
    expected = value_and_gradients(subject.copy(torch.float64), x, LABELS)
    got = value_and_gradients(subject.copy(torch.float64, relation=lambda a, b: a.unsqueeze(1) == b), x, LABELS)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@EVERY
def test_points_on_proxies_are_finite(subject: Subject) -> None:
    """At the own one, at another one, opposite."""
    own = subject.loss.proxies.weight.detach()[:: subject.loss.proxies.per_class]
    for execution, x in itertools.product(("dense", "auto"), (own, own.roll(1, 0), -own)):
        for value in value_and_gradients(subject.copy(execution=execution), x, range(C)):
            assert bool(value.isfinite().all())


@pytest.mark.parametrize("name", ["sphere-4", "large-margin", "curricular"])
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
    "soft-triple": lambda n, p: F.soft_triple(n, p, 1),
    **{name: ANGULAR[name][0] for name in ("sub-center", "curricular", "ada-low", "sphere-4", "large-margin")},
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
    for margin in (torch.zeros(2, 2), torch.zeros(3), torch.tensor([0.1, 0.2, 0.3, 0.4, 1.6]), torch.zeros(C, dtype=torch.int64)):
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


@EVERY
def test_labels_beyond_the_proxies_are_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match="labels"):
        subject.copy()(torch.ones(2, D), [0, C])


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
