"""Every loss against loops over Python lists, with every similarity, kind of references and reduction; and against PyTorch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive import SIMILARITIES, Points, anchors_of, differences, groups_of, reduced, score_of
from strategies import generic
from torch import Tensor, nn
from zoo import LOG_Z, NUM_DATA, ZOO, Entry, triplet, triplet_swap

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.miners import SemiHardMiner
from metriczoo.references import References
from metriczoo.similarity import Cosine, NegativeEuclidean, NegativeSquaredEuclidean
from metriczoo.stores import MemoryBank, Proxies

REDUCTIONS = ("mean", "mean_active", "mean_pairs", "sum", "none")
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, -1])  # a class of one, and a point that is ignored
OTHER_LABELS = torch.tensor([1, 0, 3, -2, 0])
IDS = [4, 8, 4, 8, -1, -1, 42]  # points that are the same, of one class and of two; two that equal no other, not even themselves
OTHER_IDS = [8, 5, -1, 4, 4]
PENALTIES = {"hinge": lambda z: max(z, 0), "squared": lambda z: max(z, 0) ** 2, "soft": lambda z: math.log1p(math.exp(z))}
KINDS = ("batch", "batch with ids", "others", "others with ids", "both")


def problem(kind: str, seed: int) -> tuple[Tensor, Tensor, dict[str, Any], Points, Points, bool]:
    """Embeddings, those of other references, arguments of the loss, both as lists, and whether the batch is among its references."""
    x, y = (generic(seed + k, n, 3).fresh() for k, n in ((0, 7), (100, 5)))
    with torch.no_grad():
        x *= 0.7
        y *= 0.7
    own = kind in ("batch", "batch with ids", "both")
    with_ids = "with ids" in kind
    ids = IDS if with_ids else list(range(100, 107))
    other_ids = OTHER_IDS if with_ids else None
    others = References(y, OTHER_LABELS, None if other_ids is None else torch.tensor(other_ids))
    references: Any = {"others": (y, OTHER_LABELS), "others with ids": others, "both": [None, (y, OTHER_LABELS)]}.get(kind)
    extra = Points([], []) if "batch" in kind else Points.of(y, OTHER_LABELS, other_ids)
    arguments = {"references": references, "ids": torch.tensor(IDS) if with_ids else None}
    return x, y, arguments, Points.of(x, LABELS, ids), extra, own


def everything(batch: Points, extra: Points, own: bool) -> Points:
    return batch + extra if own else extra


def makes_sense(entry: Entry, name: str) -> bool:
    """`ContrastiveLoss` chooses its form by the similarity; every other loss takes any."""
    return not entry.name.startswith("contrastive") or (entry.similarity == "cosine") == (name in ("cosine", "inner product"))


CASES = [(entry, name) for entry in ZOO for name in SIMILARITIES if makes_sense(entry, name)]


@pytest.mark.parametrize(("entry", "name"), CASES, ids=[f"{entry}-{name}" for entry, name in CASES])
def test_value(entry, name):
    make, score = SIMILARITIES[name]
    for kind in KINDS:
        x, _, arguments, batch, extra, own = problem(kind, 3)
        anchors = anchors_of(score, batch, everything(batch, extra, own))
        groups = groups_of(entry, anchors)
        for reduction in REDUCTIONS:
            got = entry.make(similarity=make(), reduction=reduction)(x, LABELS, **arguments)
            expected = torch.tensor(reduced(entry, anchors, groups, reduction), dtype=torch.float64)
            assert got.dtype == torch.float64
            torch.testing.assert_close(
                got.detach().reshape(-1), expected, rtol=1e-9, atol=1e-10, msg=lambda m, k=kind, r=reduction: f"{k}, {r}: {m}"
            )


@pytest.mark.parametrize("entry", ZOO, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient(entry, kind):
    """Of the batch and of the other references, each loss with its own similarity."""
    x, y, arguments, batch, extra, own = problem(kind, 5)
    for reduction, execution in (("mean", "tiled"), ("mean_pairs", "dense")):
        loss = entry.make(reduction=reduction, execution=execution)
        expected = differences(entry, score_of(entry), batch, extra, own=own, reduction=reduction)
        value = loss(x, LABELS, **arguments)
        got = torch.cat(torch.autograd.grad(value, (x, y) if extra.rows else (x,)))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_gradient_through_every_similarity(name):
    make, score = SIMILARITIES[name]
    entry = next(e for e in ZOO if e.name == "triplet_soft")
    x, y, arguments, batch, extra, own = problem("both", 7)
    expected = differences(entry, score, batch, extra, own=own)
    for execution in ("dense", "tiled"):
        value = entry.make(similarity=make(), execution=execution)(x, LABELS, **arguments)
        torch.testing.assert_close(torch.cat(torch.autograd.grad(value, (x, y))), expected, rtol=1e-5, atol=1e-8)


def test_gradient_of_the_factor_of_a_mahalanobis_metric():
    make, _ = SIMILARITIES["mahalanobis"]
    batch, metric = generic(1), make()
    for execution in ("dense", "tiled"):
        loss = losses.LMNNLoss(similarity=metric, execution=execution)
        assert torch.autograd.gradcheck(lambda factor, loss=loss: _with_factor(loss, factor, batch), metric.factor)


def _with_factor(loss: losses.Loss, factor: Tensor, batch: Any) -> Tensor:
    loss.similarity._parameters["factor"] = factor
    return loss(batch.embeddings.detach(), batch.labels)


LEARNABLE = [
    (losses.ContrastiveLoss, {"positive_margin": 0.25, "negative_margin": 1.5}),
    (losses.TripletMarginLoss, {"margin": 0.3}),
    (losses.UnifiedLoss, {"margin": 0.25, "scale": 8.0}),
    (losses.AMSoftmaxLoss, {"margin": 0.35, "scale": 8.0}),
    (losses.LMNNLoss, {"mu": 0.4, "margin": 1.0}),
    (next(e for e in ZOO if e.name == "nce").make, {"temperature": 0.4, "proximal": 1.5}),
]


@pytest.mark.parametrize(("make", "parameters"), LEARNABLE, ids=[next(iter(p)) + str(i) for i, (_, p) in enumerate(LEARNABLE)])
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_gradient_of_learnable_parameters(make, parameters, execution):
    """A hyper-parameter may be a tensor that is trained."""
    batch = generic(3, 7, 3)
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in parameters.values()]

    def f(*tensors: Tensor) -> Tensor:
        loss = make(execution=execution, memory_budget=100, **dict(zip(parameters, tensors, strict=True)))
        return loss(batch.embeddings.detach(), batch.labels)

    assert torch.autograd.gradcheck(f, values)


@pytest.mark.parametrize("detach_weights", [True, False])
def test_circle_gradient_is_the_closed_form(detach_weights):
    """With constant weights, of the paper: -g Z a_p pi_i and g Z a_n pi_j, Z = 1 - exp(-L). Else 2 g Z pi (s_p - 1) and 2 g Z pi s_n."""
    g, m = 12.0, 0.3
    s_n, s_p = torch.tensor([[0.5, -0.2, -0.7, 0.1]]).double().requires_grad_(), torch.tensor([[0.8, 0.1, -0.4]]).double().requires_grad_()
    loss = F.circle(s_n, s_p, margin=m, scale=g, detach_weights=detach_weights)
    got = torch.autograd.grad(loss.sum(), (s_n, s_p))
    z = 1 - math.exp(-float(loss.detach()))
    a_n, a_p = ([max(v + m, 0) for v in s_n.tolist()[0]], [max(1 + m - v, 0) for v in s_p.tolist()[0]])
    w_n = [math.exp(g * a * (v - m)) for a, v in zip(a_n, s_n.tolist()[0], strict=True)]
    w_p = [math.exp(-g * a * (v - 1 + m)) for a, v in zip(a_p, s_p.tolist()[0], strict=True)]
    slope_n = a_n if detach_weights else [2 * v if v > -m else 0.0 for v in s_n.tolist()[0]]
    slope_p = a_p if detach_weights else [2 * (1 - v) for v in s_p.tolist()[0]]
    expected_n = [g * z * s * w / sum(w_n) for s, w in zip(slope_n, w_n, strict=True)]
    expected_p = [-g * z * s * w / sum(w_p) for s, w in zip(slope_p, w_p, strict=True)]
    torch.testing.assert_close(got[0].tolist()[0], expected_n, rtol=1e-12, atol=0)
    torch.testing.assert_close(got[1].tolist()[0], expected_p, rtol=1e-12, atol=0)
    assert got[0][0, 2] == 0  # beyond -m a negative is left alone


@pytest.mark.parametrize("entry", [e for e in ZOO if e.name in ("unified", "circle", "am_softmax")], ids=str)
@pytest.mark.parametrize(("n", "p"), [(0, 0), (0, 2), (2, 0)])
def test_log_sum_exp_of_an_empty_set_makes_a_loss_of_zero(entry, n, p):
    scores = torch.full((1, n), 0.5, requires_grad=True), torch.full((1, p), 0.5, requires_grad=True)
    loss = entry.function(*scores)
    assert loss.tolist() == [0.0]
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss.sum(), scores, allow_unused=True, materialize_grads=True)
        assert not any(g.any() for g in gradients)  # NaN is not 0


# ---- many positives: triplets are summed by sorting


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("positives", [47, 48, 49, 120])
def test_triplets_of_many_positives(penalty, positives):
    generator = torch.Generator().manual_seed(positives)
    s_n, s_p = (torch.rand(2, k, generator=generator, dtype=torch.float64).requires_grad_() for k in (9, positives))
    terms = F.triplet_margin(s_n, s_p, margin=0.1, penalty=penalty)
    for i in range(2):
        groups = triplet(s_n[i].tolist(), s_p[i].tolist(), margin=0.1, penalty=PENALTIES[penalty])[0]
        assert math.isclose(terms.total[i].item(), math.fsum(groups), rel_tol=1e-11)
        assert int(terms.count[i]) == 9 * positives
        assert int(terms.active[i]) == sum(g > 0 for g in groups)
    assert torch.autograd.gradcheck(lambda a, b: F.triplet_margin(a, b, margin=0.1, penalty=penalty).total, (s_n, s_p), fast_mode=True)


@pytest.mark.parametrize("penalty", ["hinge", "squared"])
def test_triplets_that_hardly_violate_have_no_negative_loss(penalty):
    """Sums that cancel must not fall below 0 in single precision."""
    generator = torch.Generator().manual_seed(0)
    s_p = torch.rand(100, 64, generator=generator) * 1.2 - 0.4
    s_n = s_p.amin(1, keepdim=True) + 1e-4 * torch.rand(100, 1, generator=generator)
    terms = F.triplet_margin(s_n, s_p, margin=0.0, penalty=penalty)
    assert bool((terms.total >= 0).all())
    exact = F.triplet_margin(s_n.double(), s_p.double(), margin=0.0, penalty=penalty)
    torch.testing.assert_close(terms.total.double(), exact.total, rtol=1e-4, atol=1e-7)


def test_swap_on_scores_of_their_own():
    batch = generic(2, 6, 3)
    x = batch.embeddings.detach()
    loss = losses.TripletMarginLoss(margin=0.3, swap=True, similarity=NegativeEuclidean(), reduction="sum")
    d = [[-math.dist(a, b) for b in x.tolist()] for a in x.tolist()]
    labels, expected = batch.labels.tolist(), 0.0
    for i in range(6):
        s_p = [j for j in range(6) if labels[j] == labels[i] and j != i]
        s_n = [j for j in range(6) if labels[j] != labels[i]]
        expected += sum(triplet_swap([d[i][n] for n in s_n], [d[i][p] for p in s_p], [[d[p][n] for n in s_n] for p in s_p], margin=0.3)[0])
    assert math.isclose(float(loss(x, batch.labels)), expected, rel_tol=1e-12)


# ---- PyTorch's own losses


@pytest.mark.parametrize("swap", [False, True])
def test_pytorch_triplet_margin_loss(swap):
    batch = generic(4, 8, 3)
    x, labels = batch.fresh(), batch.labels
    i, j, k = (t.flatten() for t in torch.meshgrid(*[torch.arange(8)] * 3, indexing="ij"))
    triplets = (i != j) & (labels[i] == labels[j]) & (labels[i] != labels[k])
    i, j, k = i[triplets], j[triplets], k[triplets]
    expected = nn.TripletMarginLoss(margin=0.7, eps=0.0, swap=swap)(x[i], x[j], x[k])
    got = losses.TripletMarginLoss(margin=0.7, swap=swap, similarity=NegativeEuclidean())(x, labels)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, x), rtol=1e-10, atol=1e-12)


def test_pytorch_cosine_embedding_loss():
    batch = generic(6, 8, 3)
    x, labels = batch.fresh(), batch.labels
    i, j = (t.flatten() for t in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
    i, j = i[i != j], j[i != j]
    sign = torch.where(labels[i] == labels[j], 1, -1)
    expected = nn.CosineEmbeddingLoss(margin=0.5)(x[i], x[j], sign)
    got = losses.ContrastiveLoss(similarity=Cosine(), reduction="mean_pairs")(x, labels)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, x), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_pytorch_cross_entropy(margin):
    """The logit of the own class is lowered by scale x margin."""
    batch = generic(8, 8, 3, classes=5)
    proxies = Proxies(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, labels = batch.fresh(), batch.labels
    cosines = nn.functional.normalize(x) @ nn.functional.normalize(proxies.weight).T
    logits = 30 * (cosines - margin * nn.functional.one_hot(labels, 5).double())
    expected = nn.CrossEntropyLoss()(logits, labels)
    got = losses.AMSoftmaxLoss(proxies=proxies, margin=margin, scale=30.0)(x, labels)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    inputs = (x, proxies.weight)
    torch.testing.assert_close(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), rtol=1e-10, atol=1e-12)


def test_pytorch_pairwise_distance_contrastive():
    batch = generic(9, 8, 3)
    x, labels = batch.fresh(), batch.labels
    d = (x.unsqueeze(1) - x.unsqueeze(0) + torch.eye(8).unsqueeze(2)).square().sum(2).sqrt()
    same, off = labels.unsqueeze(1) == labels, ~torch.eye(8, dtype=torch.bool)
    expected = (d.square() / 2)[same & off].mean() + ((1 - d).relu().square() / 2)[~same].mean()
    got = losses.ContrastiveLoss()(x, labels)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, x), rtol=1e-10, atol=1e-12)


# ---- noise-contrastive estimation


def nce_rows(x: Tensor, own: Tensor, noise: Tensor, *, temperature: float, log_z: float, num_data: int, proximal: float) -> Tensor:
    """Equations 6 to 9 of the paper with unit vectors `own` `[n, d]` and `noise` `[n, m, d]`."""
    v = x / x.square().sum(1, keepdim=True).sqrt()
    q = noise.shape[1] / num_data
    p_own, p_noise = (((v.unsqueeze(1) * u).sum(2) / temperature).exp() / math.exp(log_z) for u in (own.unsqueeze(1), noise))
    posterior = -(p_own / (p_own + q)).log().sum(1) - (q / (p_noise + q)).log().sum(1)
    return posterior + proximal * (v - own).square().sum(1)


@pytest.mark.parametrize("share_noise", [True, False])
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_nce_on_a_bank_is_the_formula_on_what_the_bank_draws(share_noise, execution):
    bank = MemoryBank(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twin = MemoryBank(20, 4, dtype=torch.float64)
    twin.load_state_dict(bank.state_dict())
    loss = losses.NCELoss(bank, num_noise=6, temperature=0.3, proximal=2.0, share_noise=share_noise, execution=execution)
    x, ids = generic(3, 5, 4).fresh(), torch.tensor([7, 0, 19, 7, 3])
    for call in range(2):
        noise = twin.sample(6 if share_noise else 30).reshape(-1, 6).expand(5, 6)
        v = x.detach() / x.detach().norm(dim=1, keepdim=True)
        cosines = torch.cat([(v * bank.embeddings[ids]).sum(1, keepdim=True), torch.einsum("nd,nmd->nm", v, bank.embeddings[noise])], dim=1)
        if call == 0:
            log_z = math.log(20 * float((cosines / 0.3).exp().mean()))
        value = loss(x, ids)
        assert int(loss.num_data) == 20
        assert math.isclose(float(loss.log_z), log_z, rel_tol=1e-6)
        rows = nce_rows(
            x, bank.embeddings[ids], bank.embeddings[noise], temperature=0.3, log_z=float(loss.log_z), num_data=20, proximal=2.0
        )
        torch.testing.assert_close(value, rows.mean(), rtol=1e-10, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(rows.mean(), x), rtol=1e-9, atol=1e-11)


def test_nce_posterior_is_exact_in_double_precision():
    """log(m Z / n) is computed in the precision of the scores."""
    s_n, s_p = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64), torch.tensor([[0.4]], dtype=torch.float64)
    p, q = (lambda s: math.exp(s / 0.2 - LOG_Z)), 3 / NUM_DATA
    expected = math.log1p(q / p(0.4)) + sum(math.log1p(p(s) / q) for s in (0.3, -0.2, 0.9))
    assert math.isclose(F.nce(s_n, s_p, log_z=LOG_Z, num_data=NUM_DATA, temperature=0.2).item(), expected, rel_tol=1e-12)


def test_nce_without_noise_has_nothing_to_tell_apart():
    """m = 0: h = P / (P + 0) = 1."""
    s_n, s_p = torch.empty(1, 0), torch.tensor([[0.4]], requires_grad=True)
    loss = F.nce(s_n, s_p, log_z=LOG_Z, num_data=NUM_DATA)
    assert loss.item() == 0
    assert torch.autograd.grad(loss.sum(), s_p)[0].item() == 0


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_nce_first_call_on_labels_estimates_z_from_all_scores(execution):
    x, y = generic(1, 6, 3), generic(2, 10, 3)
    loss = losses.NCELoss(temperature=0.5, execution=execution)
    loss(x.embeddings, x.labels, (y.embeddings, y.labels))
    cosines = Cosine()(x.embeddings, y.embeddings).detach()
    assert int(loss.num_data) == 10
    assert math.isclose(float(loss.log_z), math.log(10 * float((cosines / 0.5).exp().mean())), rel_tol=1e-6)


@pytest.mark.parametrize("execution", ["dense", "tiled"])
@pytest.mark.parametrize("labels", [[], [0], [-1, -1], [0, -1]])
def test_nce_first_call_on_a_batch_without_a_pair_is_zero_and_estimates_nothing(execution, labels):
    x = torch.ones(len(labels), 3, requires_grad=True)
    loss = losses.NCELoss(execution=execution)
    value = loss(x, labels)
    assert value.item() == 0
    assert bool(loss.log_z.isnan())
    if value.requires_grad:
        assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


# ---- labels, ids and references


@pytest.mark.parametrize("entry", ZOO, ids=str)
def test_references_of_higher_rows_than_the_batch_and_of_none(entry):
    """Few anchors against many references, and the other way round."""
    x, y = generic(1, 2, 3), generic(2, 9, 3)
    for a, b in ((x, y), (y, x)):
        loss = entry.make()
        batch, others = Points.of(a.embeddings, a.labels), Points.of(b.embeddings, b.labels)
        anchors = anchors_of(score_of(entry), batch, others)
        expected = reduced(entry, anchors, groups_of(entry, anchors), "mean")[0]
        got = loss(a.embeddings.detach(), a.labels, (b.embeddings.detach(), b.labels))
        assert math.isclose(float(got), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_labels_beyond_the_proxies_are_an_error():
    """`settings.check_values` promises to look for them: such an anchor has no positive, and would silently have no loss."""
    loss = losses.AMSoftmaxLoss(3, 4)
    with pytest.raises(ValueError, match="labels"):
        loss(torch.eye(4)[:2], [0, 3])


def test_fresh_ids_differ_from_ids_of_references_however_large():
    x, y = generic(1, 6, 3), generic(2, 4, 3)
    plain = losses.TripletMarginLoss()(x.embeddings, x.labels, [None, (y.embeddings, y.labels)])
    ids = torch.tensor([2**63 - 1, 2**63 - 2, 3, -1])
    hashed = losses.TripletMarginLoss()(x.embeddings, x.labels, [None, References(y.embeddings, y.labels, ids)])
    torch.testing.assert_close(hashed, plain, rtol=1e-12, atol=0)


def test_relation_gives_what_labels_give():
    for entry in ZOO:
        batch = generic(11, 7, 3)
        batch.labels[2] = -1
        x = batch.fresh()
        expected, got = entry.make()(x, batch.labels), entry.make(relation=lambda a, b: a.unsqueeze(1) == b)(x, batch.labels)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(expected, x), rtol=1e-10, atol=1e-12)


def test_lmnn_on_squared_distances_of_raw_points_by_hand():
    """Points 0, 1 | 1.5 on a line: pulls 1 and 1, pushes [1 + 1 - 2.25]+ = 0 and [1 + 1 - 0.25]+ = 1.75."""
    loss = losses.LMNNLoss(num_targets=1, mu=0.25, reduction="sum", similarity=NegativeSquaredEuclidean())
    assert float(loss(torch.tensor([[0.0], [1.0], [1.5]]), [0, 0, 1])) == 0.75 * 2 + 0.25 * 1.75


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_a_loss_of_angles_behind_a_miner_survives_duplicates(execution):
    """The duplicate, whose angle of 0 has no derivative, is not among the pairs that the miner kept."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    loss = losses.from_function(
        lambda s_n, s_p: s_n.map(torch.acos).sum() + s_p.map(torch.acos).sum(), miner=SemiHardMiner(), execution=execution
    )
    value = loss(x, [0, 1, 0, 1])
    assert bool(torch.autograd.grad(value, x)[0].isfinite().all())
