"""Unified and circle losses over all pairs of a batch, class margins, two sides, and the hints on misspelt options."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metriczoo import References, losses, miners
from metriczoo import functional as F
from metriczoo.losses import AMSoftmaxLoss, ArcFaceLoss, CircleLoss, NTXentLoss, SymmetricLoss, TripletMarginLoss, UnifiedLoss
from metriczoo.losses._symbols import symbols_of
from metriczoo.scores import Scores
from metriczoo.stores import MemoryBank, Proxies

D = 4
LABELS = torch.tensor([0, 0, 1, 1, 2, -1, 0, 1])


def points(seed: int = 0, n: int = 8) -> Tensor:
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def softplus_of_sums(push: list[Tensor], pull: list[Tensor]) -> Tensor:
    """log(1 + sum of exp over all combinations)."""
    if not (push and pull):
        return torch.zeros((), dtype=torch.float64)
    return torch.log1p(sum((a + b).exp() for a in push for b in pull))  # type: ignore[arg-type]


def unified_terms(scale: float, margin: float) -> Any:
    return lambda s: scale * (s + margin), lambda s: -scale * s


def circle_terms(scale: float, margin: float) -> Any:
    return (
        lambda s: scale * (s.detach() + margin).clamp(min=0) * (s - margin),
        lambda s: -scale * (1 + margin - s.detach()).clamp(min=0) * (s - 1 + margin),
    )


KINDS = {"unified": (UnifiedLoss, unified_terms), "circle": (CircleLoss, circle_terms)}


def by_pairs(x: Tensor, labels: Tensor, terms: Any) -> Tensor:
    """Every unordered pair once."""
    u, (far, near) = torch.nn.functional.normalize(x), terms
    push, pull = [], []
    for i in range(len(x)):
        for j in range(i):
            if labels[i] >= 0 and labels[j] >= 0:
                (pull if labels[i] == labels[j] else push).append((near if labels[i] == labels[j] else far)(u[i] @ u[j]))
    return softplus_of_sums(push, pull)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_itself_counts_each_pair_once(kind: str) -> None:
    make, terms = KINDS[kind]
    x, loss = points(), make(margin=0.25, scale=3.0, pooling="batch")
    expected = by_pairs(x, LABELS, terms(3.0, 0.25))
    ids = torch.arange(8)
    calls = [
        lambda: loss(x, LABELS),
        lambda: loss(x, LABELS, [None]),
        lambda: loss(x, LABELS, References(x, LABELS, ids), ids=ids),
        lambda: loss(x, LABELS, [References(x[:3], LABELS[:3], ids[:3]), References(x[3:], LABELS[3:], ids[3:])], ids=ids),
        lambda: make(margin=0.25, scale=3.0, pooling="batch", relation=lambda a, b: a.unsqueeze(1) == b)(x, LABELS),
    ]
    for call in calls:
        value = call()
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, x, retain_graph=True)[0])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(x[order], LABELS[order]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_references_count_each_pair_of_both_sides(kind: str) -> None:
    make, terms = KINDS[kind]
    x, y, others = points(), points(1, 5), torch.tensor([0, 1, 3, -2, 2])
    far, near = terms(3.0, 0.25)
    u, v = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    push = [far(u[i] @ v[j]) for i in range(8) for j in range(5) if LABELS[i] >= 0 and others[j] >= 0 and LABELS[i] != others[j]]
    pull = [near(u[i] @ v[j]) for i in range(8) for j in range(5) if LABELS[i] >= 0 and LABELS[i] == others[j]]
    loss = make(margin=0.25, scale=3.0, pooling="batch")
    torch.testing.assert_close(loss(x, LABELS, (y, others)), softplus_of_sums(push, pull), rtol=1e-12, atol=0)
    inside = [far(u[i] @ u[j]) for i in range(8) for j in range(i) if min(LABELS[i], LABELS[j]) >= 0 and LABELS[i] != LABELS[j]]
    near_inside = [near(u[i] @ u[j]) for i in range(8) for j in range(i) if LABELS[i] >= 0 and LABELS[i] == LABELS[j]]
    expected = softplus_of_sums(push + inside, pull + near_inside)
    torch.testing.assert_close(loss(x, LABELS, [None, (y, others)]), expected, rtol=1e-12, atol=0)
    other_side = make(margin=0.25, scale=3.0, pooling="batch")(y, others, (x, LABELS))
    torch.testing.assert_close(other_side, softplus_of_sums(push, pull), rtol=1e-12, atol=0)  # there is no anchor: both sides are alike


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_whatever_the_reduction(kind: str) -> None:
    make, x = KINDS[kind][0], points()
    values = {r: make(scale=3.0, pooling="batch", reduction=r)(x, LABELS) for r in ("mean", "sum", "mean_active", "mean_pairs", "none")}
    shares = values.pop("none")
    for value in values.values():
        torch.testing.assert_close(value, shares.sum())
    assert shares[5] == 0
    assert (shares[LABELS >= 0] == shares[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_learn_is_0(kind: str) -> None:
    loss = KINDS[kind][0](pooling="batch")
    for labels in ([0] * 8, list(range(8)), [-1] * 8):
        x = points()
        value = loss(x, labels)
        assert value == 0
        assert not torch.autograd.grad(value, x)[0].any()
    assert loss(points()[:0], []) == 0
    x = torch.ones(4, 3, requires_grad=True)  # all equal, logits in the hundreds
    assert torch.autograd.grad(loss(x, [0, 0, 1, 1]), x)[0].isfinite().all()


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.floats(0.0, 0.5), st.floats(0.5, 6))
def test_functions_pool_all_cells(values: list[float], margin: float, scale: float) -> None:
    s = torch.tensor(values, dtype=torch.float64).view(2, 3)
    s_n, s_p = Scores(s[:, :2], torch.tensor([[True, True], [False, True]])), s[:, 2:]
    for function, terms in ((F.unified, unified_terms), (F.circle, circle_terms)):
        far, near = terms(scale, margin)
        got = function(s_n, s_p, margin=margin, scale=scale, pooling="batch")
        expected = softplus_of_sums([far(s[0, 0]), far(s[0, 1]), far(s[1, 1])], [near(s[0, 2]), near(s[1, 2])])
        assert math.isclose(float(got.sum()), float(expected), rel_tol=1e-9, abs_tol=1e-12)
        one = function(s[:1, :2], s[:1, 2:], margin=margin, scale=scale)
        torch.testing.assert_close(function(s[:1, :2], s[:1, 2:], margin=margin, scale=scale, pooling="batch"), one)


def test_weights_of_cells_are_counts() -> None:
    s_n, s_p = torch.tensor([[0.1, 0.4]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    twice = F.circle(torch.cat([s_n, s_n[:, 1:]], 1), s_p, scale=3.0, pooling="batch")
    weights = torch.tensor([[1.0, 2.0]]), torch.ones(1, 1)
    torch.testing.assert_close(F.circle(s_n, s_p, scale=3.0, pooling="batch", weights=weights), twice)
    with pytest.raises(ValueError, match="`weights`"):
        F.circle(s_n, s_p, weights=weights)
    with pytest.raises(ValueError, match="Did you mean 'batch'"):
        F.circle(s_n, s_p, pooling="bach")


def test_pooling_couples_anchors() -> None:
    for make, _ in KINDS.values():
        assert make().separable
        assert not make(pooling="batch").separable
        with pytest.raises(ValueError, match="couples anchors"):
            make(pooling="batch", execution="tiled")
        with pytest.raises(ValueError, match="`pooling`"):
            make(pooling="all")
        s_n, s_p = Scores(torch.tensor([[0.1, 0.2]])), Scores(torch.tensor([[0.3]]))  # which no call has made
        torch.testing.assert_close(make(scale=2.0, pooling="batch").per_anchor(s_n, s_p).total, make(scale=2.0).per_anchor(s_n, s_p))
    x = points(0, 24)
    labels = torch.arange(24) % 7
    pooled = CircleLoss(scale=3.0, pooling="batch", memory_budget=64)(x, labels)
    torch.testing.assert_close(pooled, by_pairs(x, labels, circle_terms(3.0, 0.25)))
    loss = CircleLoss(scale=3.0, pooling="batch")
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, labels), pooled)
        assert not other.separable


@pytest.mark.parametrize(
    "miner", [miners.HardMiner(), miners.PriorityMiner(), miners.MultiSimilarityMiner()], ids=lambda m: type(m).__name__
)
def test_pooling_behind_miners(miner: miners.Miner) -> None:
    """A pair that one of its ends has kept counts half, from both ends once."""
    x = points()
    value = UnifiedLoss(scale=3.0, margin=0.1, miner=miner, pooling="batch")(x, LABELS)
    u = torch.nn.functional.normalize(x)
    s = u @ u.T
    known = LABELS >= 0
    allowed = known & known.unsqueeze(1) & ~torch.eye(8, dtype=torch.bool)
    same = LABELS.unsqueeze(1) == LABELS
    s_n, s_p = miner(Scores(s, ~same & allowed), Scores(s, same & allowed))
    push = (3 * (s_n.value[s_n.mask] + 0.1)).exp().sum() / 2
    pull = (-3 * s_p.value[s_p.mask]).exp().sum() / 2
    torch.testing.assert_close(value, torch.log1p(push * pull))


def test_pooling_on_proxies_and_in_sums() -> None:
    proxies, x = Proxies(3, D).double(), points()
    loss = CircleLoss(proxies=proxies, scale=3.0, pooling="batch")
    w = proxies.weight
    far, near = circle_terms(3.0, 0.25)
    u, v = torch.nn.functional.normalize(x), torch.nn.functional.normalize(w)
    kept = [i for i in range(8) if LABELS[i] >= 0]
    push = [far(u[i] @ v[c]) for i in kept for c in range(3) if c != LABELS[i]]
    expected = softplus_of_sums(push, [near(u[i] @ v[LABELS[i]]) for i in kept])
    torch.testing.assert_close(loss(x, LABELS), expected)
    torch.testing.assert_close(torch.autograd.grad(loss(x, LABELS), w)[0], torch.autograd.grad(expected, w)[0])
    parts = [CircleLoss(scale=3.0, pooling="batch"), CircleLoss(scale=3.0), TripletMarginLoss()]
    torch.testing.assert_close(
        losses.SumLoss(parts, [1.0, 0.5, 2.0])(x, LABELS), sum(p(x, LABELS) * w for p, w in zip(parts, (1, 0.5, 2), strict=True))
    )


def test_pooling_traced() -> None:
    x, loss = points(), CircleLoss(scale=3.0, pooling="batch")
    expected = torch.autograd.grad(loss(x, LABELS), x)[0]
    torch.testing.assert_close(torch.func.grad(lambda v: loss(v, LABELS))(x), expected)
    torch.compiler.reset()
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(x, LABELS)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], expected)
    attached = CircleLoss(scale=3.0, pooling="batch", detach_weights=False)
    assert torch.autograd.gradcheck(lambda v: attached(v, LABELS), x)


# ---- a margin for each class


def cosface_by_hand(x: Tensor, w: Tensor, labels: Tensor, margins: Tensor, scale: float) -> Tensor:
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T
    target = torch.nn.functional.one_hot(labels, len(w)) * margins[labels].unsqueeze(1)
    return torch.nn.functional.cross_entropy(scale * (s - target), labels)


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_cosface_with_a_margin_for_each_class(execution: str) -> None:
    x, labels, margins = points(n=9), torch.arange(9) % 3, torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    loss = AMSoftmaxLoss(3, D, margin=nn.Parameter(margins.clone()), scale=8.0, execution=execution, memory_budget=64).double()
    assert {name for name, _ in loss.named_parameters()} == {"margin", "proxies.weight"}
    inputs = (x, loss.proxies.weight, loss.margin)
    value, expected = loss(x, labels), cosface_by_hand(x, loss.proxies.weight, labels, loss.margin, 8.0)
    torch.testing.assert_close(value, expected)
    for got, right in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(got, right)
    ignored = labels.clone()
    ignored[4] = -1
    kept = ignored >= 0
    torch.testing.assert_close(loss(x, ignored), cosface_by_hand(x[kept], loss.proxies.weight, labels[kept], loss.margin, 8.0))


def test_class_margins_behave_as_those_of_arcface() -> None:
    for make in (AMSoftmaxLoss, ArcFaceLoss):
        proxies, labels, x = Proxies(3, D).double(), torch.arange(6) % 3, points(n=6)
        one, each = make(proxies=proxies, margin=0.3), make(proxies=proxies, margin=torch.full((3,), 0.3, dtype=torch.float64))
        torch.testing.assert_close(each(x, labels), one(x, labels))
        assert "margin" in each.state_dict()
        assert "margin" not in one.state_dict()
        mined = [make(proxies=proxies, margin=m, miner=miners.HardMiner())(x, labels) for m in (0.3, each.margin)]
        torch.testing.assert_close(*mined)
        for wrong in (
            torch.zeros(2, 2),
            torch.zeros(4),
            torch.tensor([0.1, -0.1, 0.2]),
            torch.tensor([1, 2, 3]),
            torch.tensor([0.1, math.nan, 0.2]),
        ):
            with pytest.raises(ValueError, match="margin"):
                make(3, D, margin=wrong)
        with pytest.raises(ValueError, match="`labels`"):
            make(margin=torch.zeros(3))(torch.eye(4), [0, 1, 2, 3])
    with pytest.raises(ValueError, match="margin"):
        ArcFaceLoss(3, D, margin=torch.tensor([0.1, 1.6, 0.2]))
    assert AMSoftmaxLoss(3, D, margin=torch.tensor([0.1, 1.6, 0.2])).margin[1] > 1.5


# ---- queries and keys


def side_by_side(i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Labels `[n, 2]` of class and side: queries are compared with keys, nothing else with anything."""
    across = (i[:, 1] == 0).unsqueeze(1) & (j[:, 1] == 1) & (i[:, 0] >= 0).unsqueeze(1) & (j[:, 0] >= 0)
    same = i[:, 0].unsqueeze(1) == j[:, 0]
    return same & across, ~same & across


QUERY_KEY = [
    "AngularLoss", "BinomialDevianceLoss", "CircleLoss", "ContrastiveLoss", "DecoupledContrastiveLoss", "DynamicSoftMarginLoss",
    "EasyPositiveLoss", "FastAPLoss", "GeneralizedLiftedStructureLoss", "HistogramLoss", "IntraPairVarianceLoss", "LMNNLoss",
    "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NPairsLoss", "NTXentLoss", "PNPLoss", "RankedListLoss",
    "RecallAtKLoss", "SigmoidLoss", "SmoothAPLoss", "SoftNearestNeighborLoss", "SupConLoss", "ThresholdConsistentMarginLoss",
    "TripletMarginLoss", "TupletMarginLoss", "UnifiedLoss", "WeightedDecoupledContrastiveLoss",
]  # fmt: skip


@pytest.mark.parametrize("name", QUERY_KEY)
def test_every_pair_loss_takes_queries_and_keys(name: str) -> None:
    """The same pairs out of one batch of both sides; both sides receive a gradient."""
    queries, keys, key_labels = points(), points(1, 6), torch.tensor([0, 1, 2, 3, -1, 1])
    make = getattr(losses, name)
    value = make(reduction="sum").double()(queries, LABELS, (keys, key_labels))
    labels = torch.stack([torch.cat([LABELS, key_labels]), (torch.arange(14) >= 8).long()], dim=1)
    expected = make(reduction="sum", relation=side_by_side).double()(torch.cat([queries, keys]), labels)
    torch.testing.assert_close(value, expected)
    for got, right in zip(torch.autograd.grad(value, (queries, keys)), torch.autograd.grad(expected, (queries, keys)), strict=True):
        torch.testing.assert_close(got, right)
        assert got.any() or name == "RankedListLoss"
    assert torch.autograd.grad(make().double()(queries, LABELS, (keys, key_labels)), keys)[0].isfinite().all()


@pytest.mark.parametrize("make", [TripletMarginLoss, CircleLoss, losses.SupConLoss, losses.DecoupledContrastiveLoss, losses.NPairsLoss])
def test_both_directions(make: Any) -> None:
    x, y, labels, others = points(), points(1, 5), LABELS, torch.tensor([0, 1, 2, 1, 0])
    for reduction in ("mean", "sum", "mean_active", "mean_pairs"):
        loss = make(reduction=reduction)
        there, back = loss(x, labels, (y, others)), loss(y, others, (x, labels))
        torch.testing.assert_close(SymmetricLoss(loss)(x, labels, (y, others)), (there + back) / (1 if reduction == "sum" else 2))
        torch.testing.assert_close(SymmetricLoss(loss)(x, labels, (y, others)), SymmetricLoss(loss)(y, others, References(x, labels)))
    loss = make(reduction="none")
    both = SymmetricLoss(loss)(x, labels, (y, others))
    torch.testing.assert_close(both, torch.cat([loss(x, labels, (y, others)), loss(y, others, (x, labels))]))


def test_both_directions_of_paired_sides_are_clip() -> None:
    x, y, ids = points(), points(1), torch.arange(8)
    expected = NTXentLoss(0.2, symmetric=True)(x, ids, (y, ids))
    torch.testing.assert_close(SymmetricLoss(NTXentLoss(0.2))(x, ids, (y, ids)), expected)
    logits = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.2
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(expected, (cross_entropy(logits, ids) + cross_entropy(logits.T, ids)) / 2)
    sigmoid = losses.SigmoidLoss(learnable=False)
    torch.testing.assert_close(SymmetricLoss(sigmoid)(x, ids, (y, ids)), sigmoid(x, ids, (y, ids)))


def test_both_directions_leave_equal_points_out() -> None:
    x, labels, ids = points(), LABELS, torch.arange(8)
    loss = losses.SupConLoss()
    torch.testing.assert_close(SymmetricLoss(loss)(x, labels, References(x, labels, ids), ids=ids), loss(x, labels))


def test_both_directions_of_what_has_no_other_side() -> None:
    with pytest.raises(TypeError, match="`loss`"):
        SymmetricLoss(torch.nn.CosineSimilarity())  # type: ignore[arg-type]
    loss = SymmetricLoss(TripletMarginLoss())
    for references in (None, MemoryBank(3, D), [None]):
        with pytest.raises(TypeError, match="`references`"):
            loss(points(), LABELS, references)
    with pytest.raises(TypeError, match="`embeddings`"):
        loss([[1.0]], LABELS, (points(), LABELS))


# ---- what was meant


@pytest.mark.parametrize(
    ("make", "given_", "meant"),
    [
        (CircleLoss, "gama gamma s tau temp T scal softmax_scale", "scale"),
        (CircleLoss, "m margn delta alpha", "margin"),
        (CircleLoss, "poolling", "pooling"),
        (NTXentLoss, "tau T t temp s gamma scale temprature", "temperature"),
        (losses.MultiSimilarityLoss, "alpha Alpha alpah", "positive_scale"),
        (losses.MultiSimilarityLoss, "beta", "negative_scale"),
        (losses.MultiSimilarityLoss, "lambda_ lam lmbda", "threshold"),
        (losses.SoftTripleLoss, "gamma", "temperature"),
        (losses.SoftTripleLoss, "lam", "scale"),
        (losses.SoftTripleLoss, "K k", "per_class"),
        (losses.ProxyAnchorLoss, "alpha", "scale"),
        (losses.ProxyAnchorLoss, "delta", "margin"),
        (losses.AngularLoss, "alpha", "angle"),
        (losses.TupletMarginLoss, "beta", "margin"),
        (losses.SigmoidLoss, "b beta", "bias"),
        (losses.MarginLoss, "alpha m", "margin"),
        (losses.RankedListLoss, "T_n", "negative_scale"),
        (losses.ContrastiveLoss, "m neg_margin", "negative_margin"),
        (losses.ContrastiveLoss, "pos_margin", "positive_margin"),
        (losses.LMNNLoss, "k", "num_targets"),
    ],
)
def test_symbols_of_papers_lead_to_names(make: Any, given_: str, meant: str) -> None:
    for name in given_.split():
        with pytest.raises(TypeError, match=f"got '{name}'. Did you mean '{meant}'"):
            make(**{name: 1.0})


def test_symbols_are_told_and_nothing_is_made_up() -> None:
    with pytest.raises(TypeError, match="'margin' is m, 'scale' is gamma"):
        CircleLoss(gama=3)
    for name in ("T", "tau", "lambda_", "zzz"):
        with pytest.raises(TypeError, match="among") as error:
            TripletMarginLoss(**{name: 3})
        assert "Did you mean" not in str(error.value)
    for name in losses.__all__:
        kind = getattr(losses, name)
        if isinstance(kind, type) and issubclass(kind, losses.Loss):
            assert len(set(symbols_of(kind).values())) == len(symbols_of(kind))
