"""Identities between losses, numbered as in section 0.2 of the project's specification: each ties an implementation to another formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generic
from torch import Tensor, nn

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.miners import HardMiner
from metriczoo.similarity import Cosine, InnerProduct, NegativeEuclidean, NegativeSquaredEuclidean
from metriczoo.stores import MemoryBank, Proxies

cosines = st.floats(-1, 1, width=32, allow_subnormal=False)
sets = st.tuples(st.lists(cosines, min_size=1, max_size=5), st.lists(cosines, min_size=1, max_size=4))


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64, requires_grad=True)


def same(got: Tensor, expected: Tensor, *leaves: Tensor, rtol: float = 1e-12, atol: float = 1e-13) -> None:
    """Equal in value and in gradient."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    gradients = [torch.autograd.grad(loss.sum(), leaves, retain_graph=True) for loss in (got, expected)]
    size = max(float(g.abs().max()) for g in gradients[1])
    torch.testing.assert_close(*gradients, rtol=rtol, atol=atol + 1e-12 * size)


# 1


@given(sets, st.sampled_from([1.0, 8.0, 30.0]), st.sampled_from([0.0, 0.25]))
def test_unified_is_the_log_of_a_sum_over_all_pairs(scores, scale, margin):
    s_n, s_p = map(row, scores)
    pairs = scale * (s_n.unsqueeze(2) - s_p.unsqueeze(1) + margin)
    same(F.unified(s_n, s_p, margin=margin, scale=scale), (1 + pairs.exp().sum((1, 2))).log(), s_n, s_p)


# 2


@given(sets, st.sampled_from([(30.0, 0.35), (64.0, 0.35), (8.0, 0.0)]))
def test_unified_with_one_positive_is_am_softmax(scores, parameters):
    (s_n, s_p), (scale, margin) = (row(scores[0]), row(scores[1][:1])), parameters
    unified = F.unified(s_n, s_p, margin=margin, scale=scale)
    logits = scale * torch.cat([s_p - margin, s_n], dim=1)
    same(unified, nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.int64), reduction="none"), s_n, s_p, atol=1e-12)
    same(unified, F.am_softmax(s_n, s_p, margin=margin, scale=scale), s_n, s_p)


@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_unified_on_proxies_is_am_softmax_and_cosface(margin):
    batch, proxies = generic(0, 7, 4, classes=5), Proxies(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, labels = batch.fresh(), batch.labels
    unified = losses.UnifiedLoss(margin=margin, scale=30.0)(x, labels, proxies)
    assert losses.CosFaceLoss is losses.AMSoftmaxLoss
    same(losses.CosFaceLoss(proxies=proxies, margin=margin)(x, labels), unified, x, proxies.weight)


def test_unified_with_inner_products_is_softmax_cross_entropy():
    batch, weight = generic(1, 7, 4, classes=5), generic(2, 5, 4, classes=5).fresh()
    x, labels = batch.fresh(), batch.labels
    got = losses.UnifiedLoss(margin=0.0, scale=1.0, similarity=InnerProduct())(x, labels, (weight, torch.arange(5)))
    same(got, nn.functional.cross_entropy(x @ weight.T, labels), x, weight)


# 3


@given(sets, st.sampled_from([1.0, 16.0, 256.0]), st.sampled_from([0.0, 0.25]))
def test_unified_over_its_scale_bounds_the_batch_hard_hinge_from_above(scores, scale, margin):
    s_n, s_p = map(row, scores)
    hard = (s_n.max() - s_p.min() + margin).relu()
    gap = (F.unified(s_n, s_p, margin=margin, scale=scale) / scale - hard).item()
    assert -1e-12 <= gap <= math.log(1 + s_n.shape[1] * s_p.shape[1]) / scale + 1e-12


def test_unified_tends_to_the_batch_hard_triplet_loss():
    batch = generic(3, 12, 4)
    x = batch.embeddings.detach()
    hard = losses.TripletMarginLoss(margin=0.3, miner=HardMiner())(x, batch.labels)
    gaps = [float(losses.UnifiedLoss(margin=0.3, scale=g)(x, batch.labels) / g - hard) for g in (10.0, 1e3, 1e5)]
    assert gaps[0] > gaps[1] > gaps[2] >= -1e-12
    assert gaps[2] < 1e-4


# 5


@given(sets, st.sampled_from([0.25, 0.4]), st.sampled_from([1.0, 20.0]))
def test_circle_with_weights_of_one_is_unified_with_margin_one_minus_2m(scores, m, scale):
    """A weight is 1 at one score only, so each score goes through circle on its own: the logits are compared."""
    s_n, s_p = map(row, scores)
    push, pull = scale * (s_n - m), -scale * (s_p - (1 - m))
    ones = nn.functional.softplus(push.logsumexp(1) + pull.logsumexp(1), threshold=100)
    torch.testing.assert_close(ones, F.unified(s_n, s_p, margin=1 - 2 * m, scale=scale), rtol=1e-12, atol=1e-12)
    # At s_n = 1 - m and s_p = m both weights are 1, and so is what multiplies the slope.
    a, b = row([1 - m]), row([m])
    same(F.circle(a, b, margin=m, scale=scale), F.unified(a, b, margin=1 - 2 * m, scale=scale), a, b)


# 6


@given(sets, st.sampled_from([0.25, 0.4]))
def test_circle_gradient_is_one_minus_exp_of_minus_the_loss(scores, m):
    g = 16.0
    s_n, s_p = map(row, scores)
    loss = F.circle(s_n, s_p, margin=m, scale=g)
    g_n, g_p = torch.autograd.grad(loss.sum(), (s_n, s_p))
    z = -torch.expm1(-loss.detach())
    a_n, a_p = (s_n.detach() + m).relu(), (1 + m - s_p.detach()).relu()
    pi_n = (g * a_n * (s_n.detach() - m)).softmax(1)
    pi_p = (-g * a_p * (s_p.detach() - (1 - m))).softmax(1)
    torch.testing.assert_close(g_n, g * z * a_n * pi_n, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(g_p, -g * z * a_p * pi_p, rtol=1e-11, atol=1e-12)


@given(st.floats(0, 2 * math.pi), st.sampled_from([0.1, 0.25, 0.4]))
def test_circle_decides_on_a_circle(angle, m):
    """Where s_n^2 + (1 - s_p)^2 = 2 m^2, both sides weigh the same: L = log 2; inside less, outside more."""
    radius = math.sqrt(2) * m
    for factor in (0.5, 1.0, 1.2):
        s_n, s_p = factor * radius * math.cos(angle), 1 - factor * radius * math.sin(angle)
        if s_n < -m or s_p > 1 + m:
            return
        value = F.circle(row([s_n]), row([s_p]), margin=m, scale=10.0).item()
        side = value - math.log(2)
        assert abs(side) < 1e-12 if factor == 1 else side * (factor - 1) > 0


# 8


@given(sets, st.sampled_from([0.07, 0.5]), st.sampled_from([(1.5, 100), (9.0, 7)]))
def test_nce_is_the_sigmoid_pair_loss(scores, tau, store):
    (s_n, s_p), (log_z, n) = map(row, scores), store
    b = -(log_z + math.log(s_n.shape[1] / n))
    expected = nn.functional.softplus(-(s_p / tau + b), threshold=100).sum(1) + nn.functional.softplus(s_n / tau + b, threshold=100).sum(1)
    same(F.nce(s_n, s_p, log_z=log_z, num_data=n, temperature=tau), expected, s_n, s_p)


@given(sets)
def test_nce_with_as_much_noise_as_data_per_z_is_negative_sampling(scores):
    """b = 0 where Z = n / m."""
    s_n, s_p = map(row, scores)
    log_z = -math.log(s_n.shape[1] / 50)
    expected = -nn.functional.logsigmoid(s_p).sum(1) - nn.functional.logsigmoid(-s_n).sum(1)
    same(F.nce(s_n, s_p, log_z=log_z, num_data=50, temperature=1.0), expected, s_n, s_p)


# 10


@given(sets)
def test_am_softmax_without_margin_is_normface(scores):
    s_n, s_p = row(scores[0]), row(scores[1][:1])
    normface = -(20 * torch.cat([s_p, s_n], dim=1)).log_softmax(1)[:, 0]
    same(F.am_softmax(s_n, s_p, margin=0.0, scale=20.0), normface, s_n, s_p, atol=1e-12)


def test_normface_has_the_least_loss_where_proxies_form_a_simplex():
    """log(1 + (C - 1) exp(-s C / (C - 1)))."""
    c, scale = 4, 5.0
    simplex = torch.eye(c, dtype=torch.float64) - 1 / c
    least = math.log1p((c - 1) * math.exp(-scale * c / (c - 1)))
    loss = losses.AMSoftmaxLoss(margin=0.0, scale=scale)
    assert math.isclose(float(loss(simplex, range(c), (simplex, range(c)))), least, rel_tol=1e-12)
    other = generic(5, c, c, classes=c).embeddings.detach()
    assert float(loss(other, range(c), (simplex, range(c)))) > least


# 11


@pytest.mark.parametrize("seed", range(3))
def test_facenet_on_squared_distances_of_unit_vectors_is_twice_the_hinge_on_cosines(seed):
    batch = generic(seed, 9, 4)
    x = batch.fresh()
    unit = x / x.norm(dim=1, keepdim=True)
    squared = losses.TripletMarginLoss(margin=0.4, similarity=NegativeSquaredEuclidean())(unit, batch.labels)
    same(squared, 2 * losses.TripletMarginLoss(margin=0.2, similarity=Cosine())(x, batch.labels), x)
    soft = losses.TripletMarginLoss(margin=0.4, similarity=NegativeSquaredEuclidean(), penalty="squared")(unit, batch.labels)
    same(soft, 4 * losses.TripletMarginLoss(margin=0.2, similarity=Cosine(), penalty="squared")(x, batch.labels), x)


# 12


@pytest.mark.parametrize("n", [9, 80])
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_lmnn_that_only_pushes_is_batch_all_triplet_on_squared_distances(n, execution):
    batch = generic(n, n, 4, classes=2 if n > 9 else 3)
    x = batch.fresh()
    lmnn = losses.LMNNLoss(num_targets=n, mu=1.0, reduction="sum", execution=execution)(x, batch.labels)
    triplets = losses.TripletMarginLoss(margin=1.0, similarity=NegativeSquaredEuclidean(), reduction="sum", execution=execution)
    same(lmnn, triplets(x, batch.labels), x, rtol=1e-11)


def test_lmnn_that_only_pulls_is_the_squared_distance_to_the_targets():
    batch = generic(2, 9, 4)
    x = batch.fresh()
    pull = losses.LMNNLoss(num_targets=9, mu=0.0, reduction="sum")(x, batch.labels)
    contrastive = losses.ContrastiveLoss(negative_margin=0.0, similarity=NegativeEuclidean(), reduction="sum")
    same(pull, 2 * contrastive(x, batch.labels), x)


# 13


def test_proximal_term_is_a_linear_pull():
    """lambda ||v - v_old||^2 = 2 lambda (1 - s_p) on unit vectors: it adds exactly -2 lambda to dL/ds_p."""
    x, old = generic(1, 5, 4).fresh(), generic(2, 5, 4).embeddings.detach()
    unit, unit_old = x / x.norm(dim=1, keepdim=True), old / old.norm(dim=1, keepdim=True)
    s_p = (unit * unit_old).sum(1, keepdim=True)
    s_n = torch.linspace(-0.5, 0.5, 15, dtype=torch.float64).reshape(5, 3)
    with_, without = (F.nce(s_n, s_p, log_z=2.0, num_data=10, proximal=p) for p in (1.5, 0.0))
    same(with_ - without, 1.5 * (unit - unit_old).square().sum(1), x, rtol=1e-11)
    slopes = [torch.autograd.grad(v.sum(), s_p, retain_graph=True)[0] for v in (with_, without)]
    torch.testing.assert_close(slopes[0] - slopes[1], torch.full((5, 1), -3.0, dtype=torch.float64), rtol=1e-12, atol=1e-12)


# 14


def test_normaliser_of_random_unit_vectors():
    """E exp(s / tau) is about exp(1 / (2 D tau^2)): 2.22 for D = 128 and tau = 0.07, so that Z is about 2.2 n."""
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(5000, 128, generator=generator)
    loss = losses.NCELoss(bank, num_noise=4096, temperature=0.07)
    loss(torch.randn(64, 128, generator=generator), torch.arange(64), ids=torch.arange(64))
    z = float(loss.log_z.exp())
    own = math.exp(1 / 0.07) / 4097  # were the positives at cosine 1, they would add this; random ones add nothing
    assert own > 100
    assert 2.1 * 5000 < z < 2.4 * 5000
