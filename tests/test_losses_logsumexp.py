"""Identities and special forms of the log-sum-exp losses. The kit checks the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as nnf

from metriczoo import functional as F
from metriczoo.functional.info_nce import decoupled_contrastive, nt_xent, supcon, weighted_decoupled_contrastive
from metriczoo.functional.n_pairs import angular, n_pairs
from metriczoo.functional.neighbours import instance, nca, soft_nearest_neighbor
from metriczoo.functional.sigmoid import sigmoid
from metriczoo.losses._learned import LearnedPositive
from metriczoo.losses.info_nce import DecoupledContrastiveLoss, InfoNCELoss, NTXentLoss, SupConLoss, WeightedDecoupledContrastiveLoss
from metriczoo.losses.n_pairs import AngularLoss, NPairsLoss
from metriczoo.losses.neighbours import InstanceLoss, SoftNearestNeighborLoss
from metriczoo.losses.sigmoid import SigmoidLoss
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Cosine, InnerProduct
from metriczoo.stores import EmbeddingQueue, Proxies

COSINE = st.floats(-1, 1, width=32, allow_subnormal=False)


def close(a: Tensor, b: Tensor, rtol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def points(seed: int, n: int = 8, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sets(seed: int, b: int = 3, n: int = 5, p: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple((2 * torch.rand(b, k, generator=generator, dtype=torch.float64) - 1).requires_grad_() for k in (n, p))  # type: ignore[return-value]


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, retain_graph=True)


# ---- identities


def test_nt_xent_with_one_positive_is_the_unified_loss():
    s_n, s_p = sets(0, p=1)
    close(nt_xent(s_n, s_p, temperature=0.2).total, F.unified(s_n, s_p, margin=0.0, scale=5.0))


def test_n_pair_is_nt_xent_of_temperature_one_and_with_cosines_and_temperature_nt_xent():
    s_n, s_p = sets(1)
    close(n_pairs(s_n, s_p).total, nt_xent(s_n, s_p, temperature=1.0).total)
    x, labels = points(0), torch.arange(8) % 3
    close(NPairsLoss()(x, labels), NTXentLoss(1.0, similarity=InnerProduct())(x, labels))


@given(st.lists(COSINE, min_size=1, max_size=4), st.lists(COSINE, min_size=1, max_size=4), st.sampled_from([0.01, 0.1, 1.0]))
def test_supcon_out_is_at_least_in(s_n: list[float], s_p: list[float], t: float) -> None:
    n, p = torch.tensor([s_n], dtype=torch.float64), torch.tensor([s_p], dtype=torch.float64)
    out, inside = supcon(n, p, temperature=t), supcon(n, p, temperature=t, form="in")
    assert out.item() >= inside.item() * (1 - 1e-12) - 1e-12
    assert inside.item() >= math.log(len(s_p)) * (1 - 1e-12)
    if len(s_p) == 1:
        close(out, inside)
        close(out, nt_xent(n, p, temperature=t).total)


def test_nca_is_supcon_in_on_squared_distances():
    s_n, s_p = (-4 * s.detach().square() for s in sets(2))
    close(nca(s_n, s_p, scale=0.5) + math.log(3), supcon(s_n, s_p, temperature=2.0, form="in"))
    close(nca(s_n, s_p, scale=0.5), soft_nearest_neighbor(s_n, s_p, temperature=2.0))


def test_nce_is_the_sigmoid_loss_with_a_fixed_bias():
    s_n, s_p = sets(3, p=1)
    log_z, n, t = 2.0, 40, 0.1
    bias = -math.log(5 * math.exp(log_z) / n)
    close(sigmoid(s_n, s_p, scale=1 / t, bias=bias), F.nce(s_n, s_p, log_z=log_z, num_data=n, temperature=t))


def test_decoupled_is_what_nt_xent_is_the_softplus_of():
    s_n, s_p = sets(4)
    close(nnf.softplus(decoupled_contrastive(s_n, s_p[:, :1], temperature=0.3).total), nt_xent(s_n, s_p[:, :1], temperature=0.3).total)
    plain = decoupled_contrastive(s_n, s_p, temperature=0.3).total
    close(weighted_decoupled_contrastive(s_n, s_p, temperature=0.3, weight_temperature=1e9).total, plain, rtol=1e-7)


def test_instance_loss_on_proxies_is_the_softmax_of_cosines():
    s_n, s_p = sets(5, p=1)
    close(instance(s_n, s_p, scale=30.0), F.am_softmax(s_n, s_p, margin=0.0, scale=30.0))


def test_angular_at_thirty_degrees_balances_push_and_pull():
    s_n, s_p = sets(6, b=1, p=1)
    table = torch.rand(1, 5, dtype=torch.float64).requires_grad_()
    block = Block(torch.zeros(1, dtype=torch.int64), torch.neg, between=lambda i, j: table)
    for degrees, balance in ((30.0, True), (45.0, False)):
        total = angular(Scores(s_n, block=block), Scores(s_p, block=block), angle=degrees).total.sum()
        g_n, g_p, g_pn = gradients(total, s_n, s_p, table)
        t2 = math.tan(math.radians(degrees)) ** 2
        f = 4 * t2 * (s_n + table) - 2 * (1 + t2) * s_p
        g = torch.sigmoid(f.logsumexp(1))
        close(g_p.squeeze(1), -2 * (1 + t2) * g)
        close(g_n, 4 * t2 * g.unsqueeze(1) * f.softmax(1))
        close(g_pn, g_n)
        assert (abs(float(g_n.sum() + g_pn.sum() + g_p.sum())) < 1e-12) == balance


# ---- what training relies on


def test_sigmoid_gradients_of_scale_and_bias():
    scale, bias = (torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (7.0, -3.0))
    s_n, s_p = sets(10)
    g_n, g_p, g_t, g_b = gradients(sigmoid(s_n, s_p, scale=scale, bias=bias).sum(), s_n, s_p, scale, bias)
    up_n, up_p = torch.sigmoid(7 * s_n - 3), -torch.sigmoid(-(7 * s_p - 3))
    close(g_n, 7 * up_n)
    close(g_p, 7 * up_p)
    close(g_t, (up_n * s_n).sum() + (up_p * s_p).sum())
    close(g_b, up_n.sum() + up_p.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_hardest_pairs_keep_their_gradient_at_low_temperature(dtype):
    """A quotient of exponentials saturates here, with gradient 0."""
    for s_p in (-1.0, -0.4):
        n, p = torch.tensor([[1.0]], dtype=dtype), torch.tensor([[s_p]], dtype=dtype).requires_grad_()
        value = nt_xent(n, p, temperature=0.01).total
        assert math.isclose(value.item(), 100 * (1 - s_p), rel_tol=1e-5)
        assert math.isclose(gradients(value.sum(), p)[0].item(), -100, rel_tol=1e-5)


# ---- the code of the papers


def test_simclr():
    """Two views of a batch; the official code adds the means of the two, twice the mean here."""
    a, b = (nnf.normalize(points(seed, 5)) for seed in (1, 2))
    z = torch.cat([a, b])
    logits = (z @ z.T / 0.2).masked_fill(torch.eye(10, dtype=torch.bool), -1e9)
    expected = nnf.cross_entropy(logits, torch.arange(10).roll(5))
    close(NTXentLoss(0.2)(torch.cat([a, b]), torch.arange(5).repeat(2)), expected)


def test_moco():
    """One key and a queue of negatives."""
    query, key, queue = points(1, 4), points(2, 4), points(3, 9)
    q, k, m = (nnf.normalize(v) for v in (query, key, queue))
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ m.T], dim=1) / 0.07
    store = EmbeddingQueue(9, 3, dtype=torch.float64)
    store.enqueue(queue, torch.full((9,), 1000))
    for i in range(4):
        got = NTXentLoss(0.07)(query[i : i + 1], [i], [(key[i : i + 1], [i]), store])
        close(got, nnf.cross_entropy(logits[i : i + 1], torch.zeros(1, dtype=torch.int64)))


def test_clip():
    """The mean of both directions of cross-entropy."""
    images, texts = points(1, 6).requires_grad_(), points(2, 6).requires_grad_()
    ids = torch.tensor([5, 3, 9, 0, 7, 2])
    logits = nnf.normalize(images) @ nnf.normalize(texts).T / 0.3
    expected = (nnf.cross_entropy(logits, torch.arange(6)) + nnf.cross_entropy(logits.T, torch.arange(6))) / 2
    one_way = NTXentLoss(0.3)(images, ids, (texts, ids))
    close(one_way, nnf.cross_entropy(logits, torch.arange(6)))
    for options in ({}, {"execution": "dense"}, {"execution": "tiled", "memory_budget": 8 * 12 * 5}):
        got = NTXentLoss(0.3, symmetric=True, **options)(images, ids, (texts, ids))
        close(got, expected)
        for x, y in zip(gradients(got, images, texts), gradients(expected, images, texts), strict=True):
            close(x, y)


def test_symmetric_with_labels_sizes_and_ignored_points():
    """Both directions as calls of their own; pairs of either are averaged together."""
    x, y = points(1, 7), points(2, 5)
    labels, others = torch.tensor([0, 1, 0, 2, -1, 1, 4]), torch.tensor([1, 0, -3, 0, 2])
    there, back = (NTXentLoss(0.3, reduction="sum")(*call) for call in ((x, labels, (y, others)), (y, others, (x, labels))))
    pairs = 2 * 7
    close(NTXentLoss(0.3, symmetric=True)(x, labels, (y, others)), (there + back) / pairs)
    every = NTXentLoss(0.3, symmetric=True, reduction="none")(x, labels, (y, others))
    close(every[:7], NTXentLoss(0.3, reduction="none")(x, labels, (y, others)))
    assert every.shape == (12,)
    assert every[7:].sum().isclose(back)
    close(NTXentLoss(0.3, symmetric=True)(x, labels), NTXentLoss(0.3)(x, labels))


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])
@pytest.mark.parametrize("sizes", [(7, 5), (1, 6), (0, 3), (3, 0)])
def test_symmetric_directions_in_tiles_of_their_own(reduction: str, sizes: tuple[int, int]):
    """As one dense block of both sides, in value and in the gradients of points and temperature."""
    x, y = (points(n, n).requires_grad_() for n in sizes)
    labels, others = torch.arange(len(x)) % 3, torch.arange(len(y)) % 4
    outcomes = []
    for options in ({"execution": "dense"}, {"execution": "tiled", "memory_budget": 64}):
        loss = NTXentLoss(0.3, symmetric=True, learn_temperature=True, reduction=reduction, **options).double()
        value = loss(x, labels, (y, others))
        weights = torch.arange(1.0, 1 + value.numel(), dtype=value.dtype).view_as(value)
        outcomes.append((value, *gradients((value * weights).sum(), x, y, *loss.parameters())))
    for dense, tiled in zip(*outcomes, strict=True):
        close(tiled, dense)


def test_symmetric_traced():
    x, y, ids = points(1, 5), points(2, 5), torch.tensor([5, 3, 9, 0, 3])
    loss = NTXentLoss(0.3, symmetric=True, learn_temperature=True)

    def f(x: Tensor) -> Tensor:
        return loss(x, ids, (y, ids))

    leaf = x.clone().requires_grad_()
    expected = gradients(f(leaf), leaf)[0]
    close(torch.func.grad(f)(x), expected)
    torch.compiler.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(leaf)
    close(gradients(compiled, leaf)[0], expected)


def test_symmetric_by_a_relation_on_many_labels():
    x, y = points(1, 5), points(2, 4)
    tags, others = torch.rand(5, 3) > 0.5, torch.rand(4, 3) > 0.5

    def share(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) & b).any(2)

    loss = NTXentLoss(0.3, symmetric=True, relation=share, reduction="sum")
    there, back = (NTXentLoss(0.3, relation=share, reduction="sum")(*call) for call in ((x, tags, (y, others)), (y, others, (x, tags))))
    close(loss(x, tags, (y, others)), there + back)


def test_supcon_code():
    """The official loss divides by all anchors and multiplies by temperature / base temperature."""
    x, labels = points(3, 7), torch.tensor([0, 0, 1, 1, 1, 2, 0])
    z = nnf.normalize(x)
    logits = z @ z.T / 0.07
    off = ~torch.eye(7, dtype=torch.bool)
    log_prob = logits - logits.masked_fill(~off, -1e30).logsumexp(1, keepdim=True)
    positive = (labels.unsqueeze(1) == labels) & off
    mean = (log_prob * positive).sum(1) / positive.sum(1).clamp(min=1)
    close(6 / 7 * SupConLoss(0.07)(x, labels), -mean.mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_decoupled_code(weighted):
    """Two views; the official code adds the means of the two ways. Its mask of log(1e-45) is made a true one."""
    a, b = (nnf.normalize(points(seed, 5)) for seed in (3, 4))

    def one_way(x: Tensor, y: Tensor) -> Tensor:
        positive = -(x * y).sum(1) / 0.1
        if weighted:
            positive = positive * (2 - 5 * ((x * y).sum(1) / 0.5).softmax(0))
        negative = torch.cat([x @ x.T, x @ y.T], dim=1) / 0.1
        return (positive + negative.masked_fill(torch.eye(5, dtype=torch.bool).repeat(1, 2), -math.inf).logsumexp(1)).mean()

    loss = WeightedDecoupledContrastiveLoss() if weighted else DecoupledContrastiveLoss()
    close(2 * loss(torch.cat([a, b]), torch.arange(5).repeat(2)), one_way(a, b) + one_way(b, a))


def test_siglip_pseudocode():
    """Algorithm 1 of the paper, with its starting values, exact in double precision."""
    images, texts = points(5, 6), points(6, 6)
    logits = nnf.normalize(images) @ nnf.normalize(texts).T * 10 - 10
    expected = -nnf.logsigmoid((2 * torch.eye(6, dtype=torch.float64) - 1) * logits).sum() / 6
    for loss in (SigmoidLoss(), SigmoidLoss().double(), SigmoidLoss(learnable=False)):
        close(loss(images, torch.arange(6), (texts, torch.arange(6))).detach(), expected)


def test_instance_code():
    """Points of a label are merged to their mean; the anchor's own mean is among the columns."""
    x, labels = points(7, 8), torch.tensor([5, 3, 9, 5, 3, 7, 5, -1])
    means = nnf.normalize(torch.stack([x[labels == k].mean(0) for k in (3, 5, 7, 9)]))
    expected = nnf.cross_entropy(32 * means @ means.T, torch.arange(4))
    close(InstanceLoss()(x, labels), expected)
    rows = InstanceLoss(reduction="none")(x, labels)
    assert rows[[3, 4, 6, 7]].tolist() == [0, 0, 0, 0]
    close(rows[[1, 0, 5, 2]], nnf.cross_entropy(32 * means @ means.T, torch.arange(4), reduction="none"))


def test_instance_of_images_and_texts():
    images, texts = points(8, 5), points(9, 7)
    ids, others = torch.tensor([4, 2, 8, 2, 6]), torch.tensor([2, 2, 4, 6, 8, 8, 0])
    x = nnf.normalize(torch.stack([images[ids == k].mean(0) for k in (2, 4, 6, 8)]))
    y = nnf.normalize(torch.stack([texts[others == k].mean(0) for k in (2, 4, 6, 8, 0)]))
    close(InstanceLoss(10.0)(images, ids, (texts, others)), nnf.cross_entropy(10 * x @ y.T, torch.arange(4)))
    halves = [(texts[:3], others[:3]), (texts[3:], others[3:])]
    close(InstanceLoss(10.0)(images, ids, halves), InstanceLoss(10.0)(images, ids, (texts, others)))


def test_instance_on_proxies():
    proxies = Proxies(4, 3, dtype=torch.float64)
    x, labels = points(10, 4), torch.tensor([2, 0, 1, 3])
    logits = 8 * nnf.normalize(x) @ nnf.normalize(proxies.weight).T
    close(InstanceLoss(8.0, proxies=proxies)(x, labels), nnf.cross_entropy(logits, labels))
    with pytest.raises(ValueError, match="num_classes"):
        InstanceLoss(8.0, proxies=proxies)(x, labels + 1)


def test_a_perfect_embedding_has_no_instance_loss_whatever_its_labels():
    for labels in ([5, 3, 9], [0, 1, 2], [9, 5, 3]):
        assert InstanceLoss(64.0)(torch.eye(3), labels) < 1e-20


def test_n_pair_batch_of_the_paper():
    """One pair of each class, its norm penalty, and no dependence on the order."""
    f, g = points(1, 5).requires_grad_(), points(2, 5).requires_grad_()
    order = torch.tensor([3, 0, 4, 1, 2])
    norms = (f.square().sum(1) + g.square().sum(1)).mean() / 2
    expected = nnf.cross_entropy(f @ g.T, torch.arange(5)) + 0.02 * norms
    for x, y, labels in ((f, g, torch.arange(5)), (f[order], g, order), (f[order], g[order], torch.arange(5))):
        got = NPairsLoss(0.02)(x, labels, (y, torch.arange(5)))
        close(got, expected)
        for u, v in zip(gradients(got, f, g), gradients(expected, f, g), strict=True):
            close(u, v)


def test_angular_is_invariant_to_the_norms_of_all_points():
    """Of anchors, positives and negatives alike."""
    x, labels = points(3), torch.arange(8) % 3
    scaled = x * torch.linspace(0.1, 9, 8, dtype=torch.float64).unsqueeze(1)
    close(AngularLoss()(scaled, labels), AngularLoss()(x, labels))


def test_angular_in_the_form_of_the_paper():
    """By vectors: f = 4 t^2 (a + p) . n - 2 (1 + t^2) a . p."""
    a, p, n = (nnf.normalize(points(seed, k)) for seed, k in ((1, 1), (2, 1), (3, 4)))
    f = 4 * (a + p) @ n.T - 4 * (a * p).sum()
    close(AngularLoss(45.0)(a, [0], (torch.cat([p, n]), [0, 1, 2, 3, 4])), (1 + f.exp().sum()).log())


# ---- learned numbers


@pytest.mark.parametrize(
    "make", [lambda: NTXentLoss(0.07, learn_temperature=True), lambda: SoftNearestNeighborLoss(0.07, learn_temperature=True)]
)
def test_a_learned_temperature_starts_exactly_and_moves_by_its_logarithm(make):
    x, labels = points(1), torch.arange(8) % 3
    loss = make()
    fixed = type(loss)(0.07)
    close(loss(x, labels).detach(), fixed(x, labels))
    assert list(loss.state_dict()) == ["temperature.log"]
    (slope,) = torch.autograd.grad(loss(x, labels), list(loss.parameters()))
    up, down = (float(type(loss)(0.07 * math.exp(h))(x, labels)) for h in (1e-6, -1e-6))
    assert math.isclose(float(slope), (up - down) / 2e-6, rel_tol=1e-4)


def test_learned_numbers_stay_within_bounds_and_come_back():
    number = LearnedPositive(1.0, low=0.01, high=100.0)
    for log, bounded in ((-50.0, 0.01), (50.0, 100.0), (0.5, math.exp(0.5))):
        number.log.data.fill_(log)
        assert math.isclose(float(number), bounded, rel_tol=1e-6)
        (slope,) = torch.autograd.grad(number(), number.log)
        assert math.isclose(float(slope), bounded, rel_tol=1e-6), "a step back must be possible"
    for start in (1e-4, 1e4):
        assert math.isclose(float(LearnedPositive(start, low=0.01, high=100.0)), start, rel_tol=1e-12)


def test_training_learns_scale_and_bias():
    x, labels = points(1, 12), torch.arange(12) % 3
    loss = SigmoidLoss()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(x, labels)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.8 * values[0]
    assert loss.bias.item() != -10
    resumed = SigmoidLoss()
    resumed.load_state_dict(loss.state_dict())
    close(resumed(x, labels).detach(), loss(x, labels).detach(), rtol=1e-6)


def test_a_temperature_may_be_a_tensor_of_the_callers():
    x, labels = points(1), torch.arange(8) % 3
    t = torch.tensor(0.3, dtype=torch.float64).requires_grad_()
    for execution in ("dense", "auto"):
        got = NTXentLoss(t, execution=execution)(x, labels)
        up, down = (float(NTXentLoss(0.3 + h)(x, labels)) for h in (1e-6, -1e-6))
        assert math.isclose(float(gradients(got, t)[0]), (up - down) / 2e-6, rel_tol=1e-5)


# ---- bad input

BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: NTXentLoss(temprature=0.1), TypeError, "'temperature'"),
    (lambda: SupConLoss(form="outer"), ValueError, "'out'"),
    (lambda: supcon(torch.zeros(1, 1), torch.zeros(1, 1), form="In"), ValueError, "`form`"),
    (lambda: InstanceLoss()(torch.eye(2), torch.zeros(2, 2, dtype=torch.int64)), ValueError, "`labels`"),
    (lambda: InstanceLoss(relation=torch.eq)(torch.eye(2), torch.zeros(2, 2, dtype=torch.int64)), ValueError, "`labels`"),
    (lambda: NPairsLoss(0.1, similarity=Cosine()), ValueError, "`similarity`.*InnerProduct"),
    (lambda: NPairsLoss(0.1).per_anchor(Scores(torch.zeros(1, 1)), Scores(torch.zeros(1, 1))), ValueError, "call the loss"),
    (lambda: angular(torch.zeros(1, 1), torch.zeros(1, 1)), ValueError, "between references"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_info_nce_is_another_name():
    assert InfoNCELoss is NTXentLoss
