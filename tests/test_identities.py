"""Identities between losses, numbered as in section 0.2 of the project's specification: each ties an implementation to another formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.miners import HardMiner
from metriczoo.similarity import Cosine, InnerProduct, NegativeEuclidean, NegativeSquaredEuclidean
from metriczoo.stores import MemoryBank, Proxies
from metriczoo.testing.strategies import generic

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


@given(sets)
def test_unified_with_one_positive_and_no_margin_is_normface(scores):
    s_n, s_p = row(scores[0]), row(scores[1][:1])
    same(F.unified(s_n, s_p, margin=0.0, scale=30.0), F.norm_face(s_n, s_p, scale=30.0), s_n, s_p)
    same(F.unified(s_n, s_p, margin=0.0, scale=1.0), F.softmax(s_n, s_p), s_n, s_p)


def test_unified_on_proxies_without_margin_is_normface():
    batch, proxies = generic(4, 7, 4, classes=5), Proxies(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = batch.fresh()
    unified = losses.UnifiedLoss(margin=0.0, scale=30.0)(x, batch.labels, proxies)
    same(losses.NormFaceLoss(proxies=proxies, scale=30.0)(x, batch.labels), unified, x, proxies.weight)


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


# 4


@given(sets, st.sampled_from([0.05, 0.5, 1.0]))
def test_nt_xent_is_unified_for_each_positive_pair(scores, tau):
    s_n, s_p = map(row, scores)
    pairs = sum(F.unified(s_n, s_p[:, i : i + 1], margin=0.0, scale=1 / tau) for i in range(s_p.shape[1]))
    same(F.nt_xent(s_n, s_p, temperature=tau).total, pairs, s_n, s_p, atol=1e-12)


@given(sets)
def test_n_pairs_is_unified_for_each_positive_pair(scores):
    s_n, s_p = map(row, scores)
    pairs = sum(F.unified(s_n, s_p[:, i : i + 1], margin=0.0, scale=1.0) for i in range(s_p.shape[1]))
    same(F.n_pairs(s_n, s_p).total, pairs, s_n, s_p)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_n_pairs_with_cosines_and_temperature_is_nt_xent(tau):
    """A temperature on inner products is a length of 1 / sqrt(tau) of every vector."""
    batch = generic(6, 9, 4)
    x = batch.fresh()
    short = x / (x.norm(dim=1, keepdim=True) * tau**0.5)
    same(losses.NPairsLoss()(short, batch.labels), losses.NTXentLoss(temperature=tau)(x, batch.labels), x, rtol=1e-11)
    if tau == 1:
        same(losses.NPairsLoss(similarity=Cosine())(x, batch.labels), losses.NTXentLoss(temperature=1.0)(x, batch.labels), x)
        same(losses.NPairsLoss()(x, batch.labels), losses.NTXentLoss(temperature=1.0, similarity=InnerProduct())(x, batch.labels), x)


def test_nt_xent_averages_over_the_positive_pairs():
    """With one positive per anchor the means over pairs and over anchors agree: NT-Xent is then UnifiedLoss as it stands."""
    batch = generic(7, 8, 4, classes=4)
    x = batch.fresh()
    same(losses.NTXentLoss(temperature=0.1)(x, batch.labels), losses.UnifiedLoss(margin=0.0, scale=10.0)(x, batch.labels), x, rtol=1e-11)


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


# 7


@given(sets, st.sampled_from([1.0, 1 / 9, 0.5]), st.sampled_from([(1.0, 1.0), (3.0, 3.0), (1.0, 3.0)]))
def test_softmax_of_squared_distances_of_scaled_unit_vectors_is_normface(scores, temperature, lengths):
    """|a x - b w|^2 = a^2 + b^2 - 2 a b cos: the constant cancels, so the logits are 2 a b cos, over T. The value has no offset."""
    (a, b), s_n, s_p = lengths, row(scores[0]), row(scores[1][:1])
    logits = torch.cat([-(a * a + b * b - 2 * a * b * s) / temperature for s in (s_p, s_n)], dim=1)
    squared = -logits.log_softmax(1)[:, 0]
    same(squared, F.norm_face(s_n, s_p, scale=2 * a * b / temperature), s_n, s_p, rtol=1e-10, atol=1e-11)
    if a == b:  # vectors of length a at T are unit vectors at T / a^2
        same(squared, F.proxy_nca_plus_plus(s_n, s_p, temperature=temperature / a**2), s_n, s_p, rtol=1e-10, atol=1e-11)


def test_proxy_nca_plus_plus_is_normface_of_scale_18():
    batch, proxies = generic(8, 7, 4, classes=5), Proxies(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x, labels = batch.fresh(), batch.labels
    plus_plus = losses.ProxyNCAPlusPlusLoss(proxies=proxies)(x, labels)
    same(plus_plus, losses.NormFaceLoss(proxies=proxies, scale=18.0)(x, labels), x, proxies.weight)
    # vectors of length three, at T = 1
    long_x, long_w = (3 * v / v.norm(dim=1, keepdim=True) for v in (x, proxies.weight))
    raw = losses.ProxyNCAPlusPlusLoss(temperature=1.0, similarity=NegativeSquaredEuclidean())
    same(raw(long_x, labels, (long_w, torch.arange(5))), plus_plus, x, proxies.weight, rtol=1e-10)


@pytest.mark.parametrize(("lengths", "scale"), [((1.0, 1.0), 2.0), ((1.0, 3.0), 6.0), ((2.0, 2.0), 8.0)])
def test_proxy_nca_on_squared_distances_is_that_on_cosines_of_twice_the_product_of_the_lengths(lengths, scale):
    """The positive is not in the denominator, but it is in the numerator: the constant cancels here, too."""
    (a, b), batch = lengths, generic(9, 7, 4, classes=5)
    weight = generic(10, 5, 4, classes=5).fresh()
    x, references = batch.fresh(), torch.arange(5)
    long_x, long_w = (k * v / v.norm(dim=1, keepdim=True) for k, v in ((a, x), (b, weight)))
    raw = losses.ProxyNCALoss(similarity=NegativeSquaredEuclidean())(long_x, batch.labels, (long_w, references))
    same(raw, losses.ProxyNCALoss(scale=scale)(x, batch.labels, (weight, references)), x, weight, rtol=1e-11)


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


@given(sets, st.sampled_from([0.07, 0.5]), st.sampled_from([(1.5, 100), (9.0, 7)]))
def test_nce_is_siglip_with_a_frozen_bias(scores, tau, store):
    (s_n, s_p), (log_z, n) = map(row, scores), store
    b = -(log_z + math.log(s_n.shape[1] / n))
    same(F.sigmoid(s_n, s_p, scale=1 / tau, bias=b), F.nce(s_n, s_p, log_z=log_z, num_data=n, temperature=tau), s_n, s_p)


@given(sets)
def test_word2vec_is_the_sigmoid_loss_without_a_bias(scores):
    s_n, s_p = map(row, scores)
    same(F.negative_sampling(s_n, s_p), F.sigmoid(s_n, s_p, scale=1.0, bias=0.0), s_n, s_p)


# 9


@given(sets, st.sampled_from([0.05, 0.1, 1.0]))
def test_supcon_out_is_at_least_in(scores, tau):
    s_n, s_p = map(row, scores)
    out, inside = (F.supcon(s_n, s_p, temperature=tau, form=form) for form in ("out", "in"))
    assert out.item() >= inside.item() - 1e-12
    level = row([scores[1][0]] * len(scores[1]))  # Jensen's inequality is an equality where all positives are equal
    same(F.supcon(s_n, level, temperature=tau), F.supcon(s_n, level, temperature=tau, form="in"), s_n, level, rtol=1e-11, atol=1e-12)


@given(sets, st.sampled_from([0.05, 0.1, 1.0]))
def test_both_forms_of_supcon_are_nt_xent_for_one_positive(scores, tau):
    s_n, s_p = row(scores[0]), row(scores[1][:1])
    expected = F.nt_xent(s_n, s_p, temperature=tau).total
    for form in ("out", "in"):
        same(F.supcon(s_n, s_p, temperature=tau, form=form), expected, s_n, s_p, rtol=1e-11, atol=1e-12)


def test_supcon_loss_is_nt_xent_loss_on_pairs_of_views():
    batch = generic(11, 8, 4, classes=4)
    x = batch.fresh()
    expected = losses.NTXentLoss(temperature=0.1)(x, batch.labels)
    for form in ("out", "in"):
        same(losses.SupConLoss(temperature=0.1, form=form)(x, batch.labels), expected, x, rtol=1e-11)
    three = generic(12, 9, 4)
    out, inside = (losses.SupConLoss(temperature=0.1, form=form)(three.embeddings, three.labels) for form in ("out", "in"))
    assert out > inside


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


GRADIENTS = pytest.mark.parametrize("gradient", ["exact", "detached"])
inner = st.lists(st.floats(-0.9921875, 0.9921875, width=32), min_size=1, max_size=5)


def one(value: float, *, n: int = 1) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


@GRADIENTS
@given(inner, st.floats(-0.9921875, 0.9921875, width=32), st.sampled_from([0.1, 0.5, 1.0]))
def test_margin_heads_that_are_arcface(gradient, negatives, positive, margin):
    s_n, s_p = row(negatives), row([positive])
    options = {"scale": 16.0, "gradient": gradient}
    arc = F.arc_face(s_n, s_p, margin=margin, **options)
    same(F.sub_center_arc_face(s_n, s_p, 1, margin=margin, **options), arc, s_n, s_p)
    # z = -1: a norm far below the mean
    same(F.ada_face(s_n, s_p, one(1.0), mean=100.0, std=1.0, margin=margin, **options), arc, s_n, s_p)
    mag = F.mag_face(s_n, s_p, one(20.0), min_margin=margin, max_margin=margin, regularization=0.0, **options)
    same(mag, arc, s_n, s_p)
    target = math.cos(math.acos(positive) + margin) if math.acos(positive) + margin <= math.pi else positive - margin * math.sin(margin)
    if max(negatives) <= target:  # no negative is hard
        same(F.curricular_face(s_n, s_p, t=0.7, margin=margin, **options), arc, s_n, s_p)


def test_curricular_face_with_a_hard_negative_is_not_arcface():
    s_n, s_p = row([0.9]), row([0.2])
    assert F.curricular_face(s_n, s_p, t=0.7).item() > F.arc_face(s_n, s_p).item() + 1


@GRADIENTS
@given(inner, st.floats(-0.9921875, 0.9921875, width=32), st.sampled_from([0.1, 0.4]))
def test_ada_face_of_an_average_norm_is_cosface(gradient, negatives, positive, margin):
    s_n, s_p = row(negatives), row([positive])
    ada = F.ada_face(s_n, s_p, one(20.0), mean=20.0, std=5.0, margin=margin, scale=16.0, gradient=gradient)
    same(ada, F.am_softmax(s_n, s_p, margin=margin, scale=16.0), s_n, s_p, rtol=1e-11, atol=1e-12)


@GRADIENTS
@given(inner, st.floats(-0.9921875, 0.9921875, width=32))
def test_margin_heads_without_a_margin_are_normface(gradient, negatives, positive):
    s_n, s_p = row(negatives), row([positive])
    expected = F.norm_face(s_n, s_p, scale=16.0)
    options = {"scale": 16.0, "gradient": gradient}
    same(F.arc_face(s_n, s_p, margin=0.0, **options), expected, s_n, s_p, rtol=1e-11, atol=1e-12)
    same(F.sphere_face(s_n, s_p, margin=1.0, **options), expected, s_n, s_p, rtol=1e-11, atol=1e-12)
    same(F.am_softmax(s_n, s_p, margin=0.0, scale=16.0), expected, s_n, s_p)


@given(sets)
def test_soft_triple_with_one_proxy_per_class_is_am_softmax(scores):
    s_n, s_p = row(scores[0]), row(scores[1][:1])
    got = F.soft_triple(s_n, s_p, 1, margin=0.01, scale=20.0, temperature=0.1)
    same(got, F.am_softmax(s_n, s_p, margin=0.01, scale=20.0), s_n, s_p)


HEADS = (losses.CurricularFaceLoss, losses.ArcFaceLoss)


@GRADIENTS
def test_classes_of_margin_heads_agree(gradient):
    """The same on embeddings and shared proxies, with gradients of both."""
    batch, proxies = generic(13, 7, 4, classes=5), Proxies(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x, labels, options = batch.fresh(), batch.labels, {"proxies": proxies, "scale": 16.0}
    margin = {"margin": 0.5, "gradient": gradient, **options}
    arc = losses.ArcFaceLoss(**margin)(x, labels)
    same(losses.SubCenterArcFaceLoss(**margin)(x, labels), arc, x, proxies.weight)
    mag = losses.MagFaceLoss(min_margin=0.5, max_margin=0.5, regularization=0.0, gradient=gradient, **options)(x, labels)
    same(mag, arc, x, proxies.weight)
    triple = losses.SoftTripleLoss(margin=0.01, **options)(x, labels)
    same(triple, losses.AMSoftmaxLoss(margin=0.01, **options)(x, labels), x, proxies.weight)
    norm = losses.NormFaceLoss(**options)(x, labels)
    same(losses.ArcFaceLoss(**{**margin, "margin": 0.0})(x, labels), norm, x, proxies.weight, rtol=1e-11)
    same(losses.SphereFaceLoss(**{**margin, "margin": 1.0})(x, labels), norm, x, proxies.weight, rtol=1e-11)
    apart = torch.eye(5, 4, dtype=torch.float64)
    apart[4] = -1
    near = apart[labels] + 0.01 * x  # at their proxies: no negative is hard
    curricular, arc = (kind(**{**margin, "proxies": None})(near, labels, (apart, torch.arange(5))) for kind in HEADS)
    same(curricular, arc, x, rtol=1e-11)


def test_sphere_face_that_keeps_norms_is_not_normface():
    """With margin 1 and the norm of the embedding for a scale it is the modified softmax: cross-entropy on |x| cos."""
    batch, proxies = generic(14, 7, 4, classes=5), Proxies(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x = batch.fresh()
    logits = x @ (proxies.weight / proxies.weight.norm(dim=1, keepdim=True)).T
    got = losses.SphereFaceLoss(proxies=proxies, margin=1.0)(x, batch.labels)
    same(got, nn.functional.cross_entropy(logits, batch.labels), x, proxies.weight, rtol=1e-11)


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


# 15


def slope_of_target(function, positive: float, scale: float = 8.0, **options) -> float:
    """phi'(cos): exact and detached gradients belong to the same logits, so their ratio is the derivative of the target."""
    slopes = []
    for gradient in ("exact", "detached"):
        s_n, s_p = row([0.3, -0.2]), row([positive])
        slopes.append(torch.autograd.grad(function(s_n, s_p, scale=scale, gradient=gradient, **options).sum(), s_p)[0].item())
    return slopes[0] / slopes[1]


@given(st.floats(0.05, math.pi - 0.05), st.sampled_from([0.1, 0.5, 1.2]))
def test_slope_of_arcface(theta, m):
    guarded = theta + m > math.pi  # there the target is cos(theta) - m sin(m)
    if abs(theta + m - math.pi) < 1e-6:
        return
    expected = 1.0 if guarded else math.sin(theta + m) / math.sin(theta)
    assert math.isclose(slope_of_target(F.arc_face, math.cos(theta), margin=m), expected, rel_tol=1e-9, abs_tol=1e-9)


@given(st.floats(0.05, math.pi - 0.05), st.sampled_from([1, 2, 3, 4]))
def test_slope_of_sphere_face(theta, m):
    k = math.floor(m * theta / math.pi)
    if abs(m * theta / math.pi - round(m * theta / math.pi)) < 1e-6:
        return
    expected = (-1) ** k * m * math.sin(m * theta) / math.sin(theta)
    assert 0 <= expected <= m * m + 1e-9
    got = slope_of_target(F.sphere_face, math.cos(theta), scale=1.0, margin=float(m))
    assert math.isclose(got, expected, rel_tol=1e-8, abs_tol=1e-8)
