"""Similarities against SciPy, their gradients where numerics are hard, and what they are invariant to."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import distance as scipy_distance
from torch import Tensor

from metriczoo import losses
from metriczoo.similarity import (
    Cosine,
    InnerProduct,
    Mahalanobis,
    NegativeEuclidean,
    NegativeSquaredEuclidean,
    SignalToNoise,
    Similarity,
    unit,
)
from metriczoo.testing.strategies import batches

MATRIX = [[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 1.5]]  # positive definite
SIMILARITIES: dict[str, Callable[[], Similarity]] = {  # for points of dimension 3
    "cosine": Cosine,
    "inner product": InnerProduct,
    "euclidean": NegativeEuclidean,
    "squared euclidean": NegativeSquaredEuclidean,
    "mahalanobis": lambda: Mahalanobis(3, matrix=torch.tensor(MATRIX, dtype=torch.float64)),
}
SCIPY = {
    "cosine": lambda x, y: 1 - scipy_distance.cdist(x, y, "cosine"),
    "inner product": lambda x, y: np.einsum("id,jd->ij", x, y),
    "euclidean": lambda x, y: -scipy_distance.cdist(x, y),
    "squared euclidean": lambda x, y: -scipy_distance.cdist(x, y, "sqeuclidean"),
    "mahalanobis": lambda x, y: -(scipy_distance.cdist(x, y, "mahalanobis", VI=np.array(MATRIX)) ** 2),
}
DISTANCES = ("euclidean", "squared euclidean", "mahalanobis")
EUCLIDEAN = ("euclidean", "squared euclidean")


def points(seed: int, n: int, d: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def similarity(name: str, dtype: torch.dtype = torch.float64) -> Similarity:
    return SIMILARITIES[name]().to(dtype)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 40), (40, 1), (5, 7), (40, 60), (0, 3), (3, 0)])
def test_scipy(name, n, m):
    x, y = points(0, n), points(1, m)
    y[: min(n, m) : 2] = x[: min(n, m) : 2]  # some duplicates
    got = similarity(name)(x, y).detach()
    assert got.shape == (n, m)
    if n and m:
        np.testing.assert_allclose(got.numpy(), SCIPY[name](x.numpy(), y.numpy()), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_far_from_the_origin(name):
    """Scores of points with a large common offset, where a distance by matrix product has no digit left."""
    x, y = points(2, 30) + 1e6, points(3, 20) + 1e6
    np.testing.assert_allclose(similarity(name)(x, y).detach().numpy(), SCIPY[name](x.numpy(), y.numpy()), rtol=1e-7)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_larger_is_closer_and_symmetric(name):
    x = points(4, 12)
    score = similarity(name)(x, x).detach()
    torch.testing.assert_close(score, score.mT, rtol=1e-12, atol=1e-12)
    if name != "inner product":
        assert bool((score.diagonal().unsqueeze(1) >= score - 1e-12).all())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_stacks_of_matrices_are_scored_one_by_one(name):
    kind, x, y = similarity(name), points(5, 8).reshape(2, 4, 3), points(6, 10).reshape(2, 5, 3)
    got = kind.score(kind.prepare(x), kind.prepare(y)).detach()
    for stack in range(2):
        torch.testing.assert_close(got[stack], kind(x[stack], y[stack]).detach(), rtol=1e-12, atol=1e-13)
    own = kind.score(kind.prepare(x[0, :2]).unsqueeze(1), kind.prepare(y)).detach()  # for each anchor references of its own
    for anchor in range(2):
        torch.testing.assert_close(own[anchor], kind(x[0, anchor : anchor + 1], y[anchor]).detach(), rtol=1e-12, atol=1e-13)


# ---- near-duplicates


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(("offset", "gap"), [(0, 1e-1), (0, 1e-3), (0, 1e-6), (1, 1e-3), (1, 1e-5), (10, 1e-2), (10, 1e-4)])
def test_near_duplicates_are_right_in_single_precision(name, offset, gap):
    """Value, size and direction of the gradient of each pair, for more rows than `torch.cdist` computes by differences."""
    x = points(7, 40, 3, torch.float32) + offset
    y = (x.double() + gap * (1 + points(8, 40).abs())).float()
    tolerance = 1e-4
    if name == "mahalanobis":  # points are mapped by L once each, and rounded there
        tolerance += 4 * torch.finfo(torch.float32).eps * float(x.abs().max()) / gap
    a, b, c, d = (t.clone().requires_grad_() for t in (x, y, x.double(), y.double()))
    got, expected = similarity(name, torch.float32)(a, b), similarity(name)(c, d)
    assert float(((got.double() - expected) / expected).detach().abs().max()) < tolerance
    (wrong,), (right,) = torch.autograd.grad(got.diagonal().sum(), a), torch.autograd.grad(expected.diagonal().sum(), c)
    assert float(((wrong.double() - right).norm(dim=1) / right.norm(dim=1)).max()) < tolerance


@pytest.mark.parametrize("name", DISTANCES)
def test_duplicates_score_exactly_zero_with_gradient_zero(name):
    for dtype in (torch.float32, torch.float64):
        kind = similarity(name, dtype)
        for n in (1, 2, 40):
            x = (points(9, n, 3, dtype) * 7).requires_grad_()
            y = x.detach().clone().requires_grad_()
            own = kind(x, y).diagonal()
            assert not own.detach().any(), own
            for gradient in torch.autograd.grad(own.sum(), (x, y)):
                assert not gradient.any()  # NaN is not 0
            for gradient in torch.autograd.grad(kind(x, x).diagonal().sum(), x):
                assert not gradient.any()


def test_many_near_pairs_at_once_are_exact_and_twice_differentiable():
    """More differences than are held at a time."""
    x = (points(10, 300, 64, torch.float64) * 0.01 + 10).requires_grad_()
    score = NegativeSquaredEuclidean()(x, x)
    np.testing.assert_allclose(
        score.detach().numpy(), SCIPY["squared euclidean"](x.detach().numpy(), x.detach().numpy()), rtol=1e-8, atol=1e-13
    )
    (gradient,) = torch.autograd.grad(score.tanh().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert bool(second.isfinite().all())


def test_cosine_of_near_duplicates_keeps_its_gradient():
    """dcos/dx = (y - cos x) / |x| on unit vectors: orthogonal to x, and right to the precision of a small difference."""
    x = points(11, 20, 4, torch.float32)
    y = x + 1e-2 * points(12, 20, 4, torch.float32)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).clone().requires_grad_()
        gradients.append(torch.autograd.grad(Cosine()(leaf, y.to(dtype)).diagonal().sum(), leaf)[0].double())
    error = (gradients[0] - gradients[1]).norm(dim=1) / gradients[1].norm(dim=1)
    assert float(error.max()) < 1e-3
    assert float((gradients[1] * x.double()).sum(1).abs().max()) < 1e-12


# ---- zero, tiny and huge vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_vector_has_cosine_zero_and_no_gradient(dtype):
    x = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    y = points(13, 4, 3, dtype).requires_grad_()
    score = Cosine()(x, y)
    assert not score.detach().any()
    for gradient in torch.autograd.grad(score.sum(), (x, y)):
        assert not gradient.any()
    assert not Cosine()(x, x).detach().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-10, 1e-6, 1.0, 1e6, 1e15, 1e30])
def test_unit_vectors_of_any_length(dtype, size):
    """x / |x|, with gradient (g - <g, u> u) / |x|, without over- or underflow of the squares."""
    x = (points(14, 6, 5) * size).to(dtype).requires_grad_()
    u = unit(x)
    exact = x.detach().double()
    norms = exact.norm(dim=1, keepdim=True)
    torch.testing.assert_close(u.detach().double(), exact / norms, rtol=1e-6, atol=1e-7)
    g = points(15, 6, 5).to(dtype)
    (gradient,) = torch.autograd.grad((u * g).sum(), x)
    direction = exact / norms
    expected = (g.double() - (g.double() * direction).sum(1, keepdim=True) * direction) / norms
    torch.testing.assert_close(gradient.double() * size, expected * size, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_points_that_break_it(name, dtype):
    kind = similarity(name, dtype)

    @given(batches(dtypes=(dtype,), min_dim=3, max_dim=3), batches(dtypes=(dtype,), min_dim=3, max_dim=3))
    def run(a, b):
        x, y = a.fresh(), b.fresh()
        score = kind(x, y)
        assert bool(score.isfinite().all())
        if name in DISTANCES:
            assert bool((score <= 0).all())
        if name == "cosine":
            assert bool((score.abs() <= 1 + 1e-6).all())
        for gradient in torch.autograd.grad(score.sum(), (x, y)):
            assert bool(gradient.isfinite().all())

    run()


# ---- gradients


@pytest.mark.parametrize("name", SIMILARITIES)
def test_first_and_second_derivatives(name):
    kind = similarity(name).requires_grad_(False)
    for n, m in ((1, 3), (3, 2)):
        x, y = points(17, n).requires_grad_(), points(18, m).requires_grad_()
        assert torch.autograd.gradcheck(kind, (x, y))
        assert torch.autograd.gradgradcheck(kind, (x, y))


def test_derivative_of_the_factor():
    kind = Mahalanobis(3, rank=2)
    x, y = points(19, 3), points(20, 4)

    def f(factor: Tensor) -> Tensor:
        kind._parameters["factor"] = factor
        return kind(x, y)

    assert torch.autograd.gradcheck(f, points(21, 2).requires_grad_())


# ---- invariances: each checked both ways

INVARIANT = {
    "cosine": {"rotation", "scale", "scale of one"},
    "inner product": {"rotation"},
    "euclidean": {"rotation", "translation"},
    "squared euclidean": {"rotation", "translation"},
    "mahalanobis": {"translation"},
}
ROTATION = torch.linalg.qr(points(22, 3))[0]
TRANSFORMS = {
    "rotation": (lambda x: x @ ROTATION, lambda y: y @ ROTATION),
    "translation": (lambda x: x + 0.75, lambda y: y + 0.75),
    "scale": (lambda x: 3 * x, lambda y: 3 * y),
    "scale of one": (lambda x: 3 * x, lambda y: y),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_invariance(name, transform):
    x, y = points(23, 6), points(24, 5)
    f, g = TRANSFORMS[transform]
    kind = similarity(name)
    same = torch.allclose(kind(f(x), g(y)), kind(x, y), rtol=1e-10, atol=1e-12)
    assert same == (transform in INVARIANT[name])


def test_mahalanobis_with_the_inverse_covariance_is_invariant_to_linear_maps():
    x, a = points(25, 50), points(26, 3)
    scores = []
    for z in (x, x @ a):
        precision = torch.linalg.inv(torch.cov(z.mT))
        scores.append(Mahalanobis(3, matrix=precision)(z, z).detach())
    torch.testing.assert_close(*scores, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_mahalanobis_of_a_rank_is_the_best_approximation(rank):
    matrix = torch.tensor(MATRIX, dtype=torch.float64)
    kind = Mahalanobis(3, rank=rank, matrix=matrix)
    values, vectors = torch.linalg.eigh(matrix)
    kept = torch.where(torch.arange(3) >= 3 - rank, values, 0.0)
    assert kind.factor.shape == (rank, 3)
    torch.testing.assert_close(kind.matrix.detach(), vectors @ kept.diag() @ vectors.mT, rtol=1e-10, atol=1e-12)


# ---- distance: what miners read off a score


def test_distance_gives_back_the_euclidean_distance():
    x, y = points(27, 5), points(28, 6)
    for name in EUCLIDEAN:
        kind = similarity(name)
        np.testing.assert_allclose(kind.distance(kind(x, y)).numpy(), scipy_distance.cdist(x, y), rtol=1e-10)
    for kind in (Cosine(), InnerProduct()):
        a, b = unit(x), unit(y)
        np.testing.assert_allclose(kind.distance(kind(a, b)).numpy(), scipy_distance.cdist(a, b), rtol=1e-8)
    assert Cosine().distance(torch.tensor([1.0 + 1e-6, -1.0 - 1e-6])).tolist() == [0.0, 2.0]


# ---- a similarity of the user's own


@given(st.integers(0, 20))
def test_a_new_similarity_is_two_methods(seed):
    class Laplace(Similarity):
        def score(self, a: Tensor, r: Tensor) -> Tensor:
            return torch.exp(-(a.unsqueeze(-2) - r.unsqueeze(-3)).abs().sum(-1))

    x = points(seed, 6)
    labels, d = [0, 0, 1, 1, 2, 2], scipy_distance.cdist(x, x, "cityblock")
    hinges = [
        max(0.0, math.exp(-d[i, k]) - math.exp(-d[i, j]) + 0.2)
        for i in range(6)
        for j in range(6)
        for k in range(6)
        if i != j and labels[i] == labels[j] and labels[i] != labels[k]
    ]
    for execution in ("dense", "tiled"):
        got = losses.TripletMarginLoss(similarity=Laplace(), execution=execution)(x, labels)
        assert math.isclose(float(got), sum(hinges) / len(hinges), rel_tol=1e-11)


def test_nearest_is_ordered_as_euclidean():
    """Monotone in each other, so that ranking does not depend on the form."""
    x, y = points(29, 8), points(30, 9)
    order = [kind(x, y).argsort(dim=1) for kind in (NegativeEuclidean(), NegativeSquaredEuclidean())]
    assert torch.equal(*order)


# ---- distances of unit vectors


@pytest.mark.parametrize(("kind", "metric"), [(NegativeEuclidean, "euclidean"), (NegativeSquaredEuclidean, "sqeuclidean")])
def test_normalized_distances_are_those_of_unit_vectors(kind, metric):
    x, y = 7 * points(20, 9), points(21, 6)
    y[0], y[1] = 3 * x[0], -x[1]
    got = kind(normalize=True)
    units = [p.numpy() / np.linalg.norm(p.numpy(), axis=1, keepdims=True) for p in (x, y)]
    np.testing.assert_allclose(got(x, y).numpy(), -scipy_distance.cdist(*units, metric), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(got.distance(got(x, y)), (2 - 2 * Cosine()(x, y)).clamp(min=0).sqrt(), rtol=1e-7, atol=1e-7)
    assert repr(got) == f"{kind.__name__}(normalize=True)" and repr(kind()) == f"{kind.__name__}()"


def test_normalized_distances_of_zero_vectors_and_of_one_direction_have_harmless_gradients():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], dtype=torch.float64, requires_grad=True)
    scores = NegativeEuclidean(normalize=True)(x, x)
    torch.testing.assert_close(scores, torch.tensor([[0.0, -1.0, -1.0], [-1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64))
    scores.sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x))


def test_only_euclidean_distances_have_the_option():
    for kind in (Cosine, Mahalanobis, SignalToNoise):
        with pytest.raises(TypeError, match="normalize"):
            kind(normalize=True)
