"""Identities, closed-form gradients and special forms of the threshold, lifted, histogram and easy-positive losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as nnf

from metriczoo import functional as F
from metriczoo import miners, settings
from metriczoo.functional.easy_positive import easy_positive
from metriczoo.functional.histogram import difference_histogram, dynamic_soft_margin, histogram
from metriczoo.functional.info_nce import decoupled_contrastive, nt_xent, supcon, weighted_decoupled_contrastive
from metriczoo.functional.lifted import generalized_lifted_structure, lifted_structure
from metriczoo.functional.n_pairs import n_pairs
from metriczoo.functional.neighbours import instance, nca
from metriczoo.functional.sigmoid import binomial_deviance, sigmoid
from metriczoo.functional.thresholds import margin, multi_similarity, ranked_list, threshold_consistent_margin
from metriczoo.functional.tuplet import intra_pair_variance, tuplet_margin
from metriczoo.losses.easy_positive import EasyPositiveLoss
from metriczoo.losses.histogram import DynamicSoftMarginLoss, HistogramLoss
from metriczoo.losses.info_nce import NTXentLoss
from metriczoo.losses.lifted import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from metriczoo.losses.thresholds import MarginLoss, MultiSimilarityLoss, RankedListLoss, ThresholdConsistentMarginLoss
from metriczoo.losses.tuplet import IntraPairVarianceLoss, TupletMarginLoss
from metriczoo.miners.easy_positive import EasyPositiveMiner
from metriczoo.miners.multi_similarity import MultiSimilarityMiner
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import NegativeEuclidean
from metriczoo.stores import Proxies


def close(a: Tensor, b: Tensor, rtol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def points(seed: int, n: int = 8, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first(s: Any) -> Any:
    """One positive, where scores are plain."""
    return s[..., :1] if isinstance(s, Tensor) else s


def row(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([values], dtype=dtype).requires_grad_()


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, retain_graph=True)


def total(result: Any) -> Tensor:
    """Of all terms and anchors."""
    terms = result if isinstance(result, tuple) else (result,)
    return torch.stack([(t.total if isinstance(t, Terms) else t).sum() for t in terms]).sum()


# ---- what the functions promise on the scores of one anchor


def with_histogram(s_n: Any, s_p: Any) -> Terms:
    return dynamic_soft_margin(s_n, s_p, histogram=torch.arange(1.0, 10.0))


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[float, float], bool, bool, float | None]] = {
    # name: (function, range of the scores, signs, shift, bound of the pull where it has one)
    "nt_xent": (lambda n, p: nt_xent(n, first(p), temperature=0.2), (-1, 1), True, True, 5.0),
    "n_pairs": (lambda n, p: n_pairs(n, first(p)), (-1, 1), True, True, 1.0),
    "supcon": (lambda n, p: supcon(n, p, temperature=0.2), (-1, 1), False, True, 10.0),
    "supcon_in": (lambda n, p: supcon(n, p, temperature=0.2, form="in"), (-1, 1), True, True, 5.0),
    "decoupled": (lambda n, p: decoupled_contrastive(n, p, temperature=0.2), (-1, 1), True, True, None),
    "decoupled_weighted": (lambda n, p: weighted_decoupled_contrastive(n, p, temperature=0.2), (-1, 1), False, True, None),
    "sigmoid": (lambda n, p: sigmoid(n, p, scale=5.0, bias=-1.0), (-1, 1), True, False, None),
    "binomial": (binomial_deviance, (-1, 1), True, False, 2.0),
    "nca": (nca, (-4, 0), True, True, 1.0),
    "instance": (lambda n, p: instance(n, p, scale=5.0), (-1, 1), True, True, 5.0),
    "lifted_general": (generalized_lifted_structure, (-4, 0), True, True, 1.0),
    "tuplet": (lambda n, p: tuplet_margin(n, p, margin=0.5, scale=5.0), (-1, 1), False, False, None),
    "variance": (intra_pair_variance, (-1, 1), False, False, None),
    "multi_similarity": (multi_similarity, (-1, 1), True, False, 1.0),
    "margin": (margin, (-2, 0), True, False, None),
    "ranked_list": (ranked_list, (-2, 0), True, False, 0.5),
    "ranked_list_full": (lambda n, p: ranked_list(n, p, positive_scale=5.0, detach_weights=False), (-2, 0), False, False, None),
    "threshold_consistent": (threshold_consistent_margin, (-1, 1), True, False, None),
    "easy_positive": (lambda n, p: easy_positive(n, p, temperature=0.2), (-1, 1), True, True, 5.0),
    "easy_positive_semi_hard": (lambda n, p: easy_positive(n, p, temperature=0.2, semi_hard=True), (-1, 1), True, True, 5.0),
    "histogram": (lambda n, p: histogram(n, p, num_bins=7), (-1, 1), True, False, None),
    "dynamic_margin": (with_histogram, (-2, 0), True, True, None),
}


@st.composite
def score_lists(draw: st.DrawFn, low: float, high: float) -> tuple[list[float], list[float]]:
    number = st.floats(low, high, width=32, allow_subnormal=False) | st.sampled_from([low, high, (low + high) / 2])
    lists = st.lists(number, min_size=1, max_size=4)
    return draw(lists), draw(lists)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signs_shift_and_bound(name: str) -> None:
    """Each promise holds for all scores, or fails for some."""
    function, (low, high), signs, shift, bound = FUNCTIONS[name]
    broken = {"signs": False, "shift": False}

    @given(score_lists(low, high), st.sampled_from([-0.5, 0.75]))
    def run(scores: tuple[list[float], list[float]], by: float) -> None:
        s_n, s_p = (row(*s) for s in scores)
        value = total(function(s_n, s_p))
        g_n, g_p = torch.autograd.grad(value + 0 * (s_n.sum() + s_p.sum()), (s_n, s_p))
        assert value.isfinite() and g_n.isfinite().all() and g_p.isfinite().all()
        pull = float(g_p.abs().sum())
        held = bool((g_n >= -1e-12).all()) and bool((g_p <= 1e-12).all())
        moved = total(function(s_n.detach() + by, s_p.detach() + by))
        balanced = abs(float(g_n.sum() + g_p.sum())) <= 1e-9 * (1 + pull)
        same = math.isclose(moved.item(), value.item(), rel_tol=1e-8, abs_tol=1e-8) and balanced
        assert held or not signs
        assert same or not shift
        assert bound is None or pull <= bound * (1 + 1e-9)
        broken["signs"] |= not held
        broken["shift"] |= not same

    run()
    for seed in range(30):  # and where hypothesis did not come by
        generator = torch.Generator().manual_seed(seed)
        s_n, s_p = (low + (high - low) * torch.rand(1, 3, dtype=torch.float64, generator=generator) for _ in range(2))
        s_n, s_p = s_n.requires_grad_(), s_p.requires_grad_()
        value = total(function(s_n, s_p))
        g_n, g_p = torch.autograd.grad(value, (s_n, s_p), materialize_grads=True, allow_unused=True)
        broken["signs"] |= bool((g_n < -1e-12).any() or (g_p > 1e-12).any())
        broken["shift"] |= abs(float(g_n.sum() + g_p.sum())) > 1e-9
    assert broken == {"signs": not signs, "shift": not shift}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_outside_a_set_does_not_count(name: str) -> None:
    """Whatever a cell outside holds, value and gradient are those without it, and its own gradient is exactly 0."""
    function, (low, high), *_ = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(1)
    s_n, s_p = ((low + (high - low) * torch.rand(2, 3, dtype=torch.float64, generator=generator)).requires_grad_() for _ in range(2))
    s_p = s_p.detach()[:, :1].requires_grad_() if name in ("nt_xent", "n_pairs") else s_p
    expected = total(function(s_n, s_p))
    wanted = gradients(expected, s_n, s_p)
    for junk, stored in itertools.product((1e30, -1e30, 0.0, 1.0, -1.0), ("mask", "excluded")):
        leaves, sets = [], []
        for s in (s_n, s_p):
            wide = torch.cat([torch.full((2, 2), junk, dtype=torch.float64), s.detach()], dim=1).requires_grad_()
            leaves.append(wide)
            out = torch.tensor([[0, 1, 1]] * 2)
            mask = torch.ones(wide.shape, dtype=torch.bool).scatter(1, out, False)
            sets.append(Scores(wide, mask) if stored == "mask" else Scores(wide, excluded=out, num_excluded=torch.tensor([2, 2])))
        value = total(function(*sets))
        close(value, expected, rtol=1e-9)
        for got, want in zip(gradients(value, *leaves), wanted, strict=True):
            assert not got[:, :2].any()
            close(got[:, 2:], want, rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_sets(name: str) -> None:
    function, (low, _), *_ = FUNCTIONS[name]
    some = row(low / 2, low / 3)
    for s_n, s_p in ((some, some[:, :0]), (some[:, :0], some)):
        value = total(function(s_n, s_p))
        assert value.isfinite()
        assert not value.requires_grad or gradients(value, some)[0].isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_precision_at_the_ends(name: str) -> None:
    function, (low, high), *_ = FUNCTIONS[name]
    for s_n, s_p in (([high] * 3, [low] * 2), ([low] * 3, [high] * 2), ([high, low], [low, high])):
        exact, single = (total(function(row(*s_n, dtype=t), row(*s_p, dtype=t))) for t in (torch.float64, torch.float32))
        torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


# ---- multi-similarity


def test_multi_similarity_code():
    """The official loop over anchors, with its miner, its scales and its threshold; it divides by all anchors."""
    labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    x = points(1, 4, 4)[labels] + 0.4 * points(2, 12, 4)
    z = nnf.normalize(x)
    sim = (z @ z.T).tolist()
    losses = []
    for i in range(12):
        positive = [sim[i][j] for j in range(12) if labels[j] == labels[i] and j != i]
        negative = [sim[i][j] for j in range(12) if labels[j] != labels[i]]
        kept_n = [s for s in negative if s + 0.1 > min(positive)]
        kept_p = [s for s in positive if s - 0.1 < max(negative)]
        if kept_n and kept_p:
            pull = math.log(1 + sum(math.exp(-2 * (s - 0.5)) for s in kept_p)) / 2
            losses.append(pull + math.log(1 + sum(math.exp(40 * (s - 0.5)) for s in kept_n)) / 40)
    loss = MultiSimilarityLoss(2.0, 40.0, 0.5, miner=MultiSimilarityMiner(0.1), reduction="sum")
    assert 0 < len(losses) < 12
    assert math.isclose(float(loss(x, labels)) / 12, sum(losses) / 12, rel_tol=1e-11)


def test_multi_similarity_gradient_and_limit():
    s_n, s_p = row(0.1, 0.6, -0.3), row(0.9, 0.2)
    g_n, g_p = gradients(multi_similarity(s_n, s_p, negative_scale=10.0, threshold=0.4).sum(), s_n, s_p)
    e_n, e_p = (10 * (s_n - 0.4)).exp(), (-2 * (s_p - 0.4)).exp()
    close(g_n, e_n / (1 + e_n.sum()))
    close(g_p, -e_p / (1 + e_p.sum()))
    far = row(1e9)
    assert math.isclose(multi_similarity(s_n, far, negative_scale=1e4, threshold=0.4).item(), 0.2, rel_tol=1e-6)


# ---- margin


def test_margin_loss_of_the_paper():
    """Sampled triplets: the sum of both hinges and of nu * beta, by the number of hinges that are not 0."""
    x, labels = points(1, 9), torch.tensor([0, 1, 2] * 3)
    betas = torch.tensor([1.1, 1.3, 1.2], dtype=torch.float64)
    loss = MarginLoss(nu=0.3, num_classes=3, miner=miners.PriorityMiner()).double()
    loss.beta.data.copy_(betas - loss._lost)
    z = nnf.normalize(x)
    d = (z.unsqueeze(1) - z).norm(dim=2)
    sums, active = torch.zeros(3, dtype=torch.float64), 0
    slopes = torch.zeros(3, dtype=torch.float64)
    for a, p in itertools.permutations(range(9), 2):
        if labels[a] != labels[p]:
            continue
        others = [n for n in range(9) if labels[n] != labels[a]]
        beyond = [n for n in others if d[a, n] > d[a, p]]
        n = min(beyond, key=lambda n: d[a, n]) if beyond else max(others, key=lambda n: d[a, n])
        c = int(labels[a])
        hinges = [max(0.0, 0.2 + float(d[a, p]) - float(betas[c])), max(0.0, 0.2 - float(d[a, n]) + float(betas[c]))]
        active += sum(h > 0 for h in hinges)
        sums[c] += sum(hinges) + 0.3 * betas[c]
        slopes[c] += (hinges[1] > 0) - (hinges[0] > 0) + 0.3
    for execution, budget in (("dense", None), ("tiled", 8 * 9 * 2)):
        loss.execution, loss.memory_budget = execution, budget
        value = loss(x, labels)
        close(value, sums.sum() / active)
        close(gradients(value, loss.beta)[0], slopes / active)


def test_margin_per_class_uses_the_class_of_the_anchor_behind_any_miner():
    x, labels = points(2, 10), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, -1, 5])
    generator = torch.Generator().manual_seed(0)
    for miner in (None, miners.HardMiner(), miners.PriorityMiner(), miners.DistanceWeightedMiner(generator=generator)):
        one, several = MarginLoss(miner=miner, reduction="sum"), MarginLoss(num_classes=6, miner=miner, reduction="sum")
        state = generator.get_state()
        expected = one(x, labels)
        generator.set_state(state)
        got = several(x, labels)
        close(got, expected)
        slope, slopes = gradients(expected, one.beta)[0], gradients(got, several.beta)[0]
        torch.testing.assert_close(slopes.sum(), slope, rtol=1e-6, atol=0)
        assert not slopes[3:5].any(), "no anchor is of these classes"


def test_margin_loss_starts_exactly_where_it_is_told_to():
    x, labels = points(3), torch.arange(8) % 3
    learned, fixed = MarginLoss(), MarginLoss(learn_beta=False)
    close(learned(x, labels).detach(), fixed(x, labels))
    close(MarginLoss(num_classes=3)(x, labels).detach(), fixed(x, labels))
    assert list(learned.state_dict()) == ["beta"]
    assert MarginLoss(num_classes=7).beta.shape == (7,)
    boundary = torch.tensor(1.2, dtype=torch.float64).requires_grad_()
    value = MarginLoss(beta=boundary)(x, labels)
    torch.testing.assert_close(gradients(value, boundary)[0].float(), gradients(learned(x, labels), learned.beta)[0])


def test_margin_loss_with_nothing_active_is_zero():
    value = MarginLoss(margin=0.0, beta=1.0)(torch.eye(2).repeat(2, 1), [0, 1, 0, 1])
    assert value == 0


def test_margin_loss_on_proxies():
    loss = MarginLoss(num_classes=4, embedding_dim=3, learn_beta=False).double()
    x, labels = points(4, 5), [0, 1, 2, 3, 0]
    d = (nnf.normalize(x).unsqueeze(1) - nnf.normalize(loss.proxies.weight)).norm(dim=2)
    own = nnf.one_hot(torch.tensor(labels), 4).bool()
    hinges = torch.where(own, 0.2 + d - 1.2, 0.2 - d + 1.2).relu()
    close(loss(x, labels), hinges.sum() / (hinges > 0).sum())
    assert isinstance(loss.proxies, Proxies)


# ---- ranked list


def test_ranked_list_weights():
    """With constant weights the gradient is the weight; negatives beyond the boundary and positives inside the ball get exactly 0."""
    s_n, s_p = row(-0.5, -1.0, -1.3), row(-0.9, -1.4, -0.7)
    g_n, g_p = gradients(ranked_list(s_n, s_p, positive_scale=2.0, negative_weight=0.3).sum(), s_n, s_p)
    w_n, w_p = torch.tensor([[7.0, 2.0]]).exp(), torch.tensor([[0.2, 1.2]]).exp()
    torch.testing.assert_close(g_n[:, :2], (0.3 * w_n / w_n.sum()).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(g_p[:, :2], (-0.7 * w_p / w_p.sum()).double(), rtol=1e-6, atol=0)
    assert g_n[0, 2] == 0 and g_p[0, 2] == 0
    s_n = row(-0.9, -0.2)
    full = gradients(ranked_list(s_n, s_p, detach_weights=False).sum(), s_n)[0]
    assert full[0, 0] < 0 < full[0, 1], "with the weights in the gradient a mild violation grows"


def test_ranked_list_of_a_collapsed_batch_is_not_zero():
    """All negatives are at distance 0: their whole boundary is violated."""
    assert RankedListLoss()(torch.ones(4, 3), [0, 0, 1, 1]).item() == pytest.approx(0.6)


# ---- lifted structure


def test_lifted_structure_code():
    """J over pairs i < j with the negatives of both ends, and 1 / (2 |P|) times the sum of squares."""
    x, labels = points(5, 9).requires_grad_(), [0, 0, 1, 1, 1, 2, 0, 3, 2]
    d = (x.unsqueeze(1) - x + torch.eye(9, dtype=torch.float64).unsqueeze(2)).norm(dim=2)
    terms = []
    for i, j in itertools.combinations(range(9), 2):
        if labels[i] == labels[j]:
            push = [(1 - d[end, k]).exp() for end in (i, j) for k in range(9) if labels[k] != labels[end]]
            terms.append((torch.stack(push).sum().log() + d[i, j]).relu().square())
    expected = torch.stack(terms).sum() / (2 * len(terms))
    for execution in ("dense", "auto"):
        got = LiftedStructureLoss(execution=execution)(x, labels)
        close(got, expected)
        close(gradients(got, x)[0], gradients(expected, x)[0], rtol=1e-9)


@pytest.mark.parametrize("make", [LiftedStructureLoss, GeneralizedLiftedStructureLoss])
def test_lifted_without_a_side_or_with_duplicates(make):
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [0.0, 1.0]]).requires_grad_()
    for labels, zero in (([0, 0, 0, 0], True), ([0, 1, 2, 3], True), ([0, 0, 1, 1], False), ([0, 1, 0, 1], False)):
        value = make()(x, labels)
        assert (value == 0) == zero
        assert gradients(value, x)[0].isfinite().all()


def test_wide_masks_of_positives_are_narrowed(monkeypatch):
    """Behind a relation positives are masks as wide as the references: without narrowing there is a matrix product per reference."""
    calls = []
    original = NegativeEuclidean.score
    monkeypatch.setattr(NegativeEuclidean, "score", lambda self, a, r: calls.append(a.shape) or original(self, a, r))
    x, labels = points(6, 40), torch.arange(40) // 2
    by_relation = LiftedStructureLoss(relation=lambda a, b: a.unsqueeze(1) == b)(x, labels)
    assert len(calls) <= 3
    close(by_relation, LiftedStructureLoss()(x, labels))


def test_lifted_needs_scores_between_references():
    with pytest.raises(ValueError, match="between references"):
        lifted_structure(torch.zeros(1, 2), torch.zeros(1, 1))


# ---- tuplet margin and intra-pair variance


def test_tuplet_gradient_and_duplicates():
    """-s g sin(theta - beta) / sin(theta): a positive nearer than the slack is pushed out. At the ends the gradient is 0."""
    s_n = row(0.1, 0.3)
    for cosine in (-0.5, 0.6, math.cos(0.05)):
        s_p = row(cosine)
        terms = tuplet_margin(s_n, s_p, margin=0.1, scale=8.0)
        theta = math.acos(cosine)
        g = torch.sigmoid((8 * s_n).logsumexp(1) - 8 * math.cos(theta - 0.1))
        close(gradients(terms.total.sum(), s_p)[0].squeeze(1), -8 * g * math.sin(theta - 0.1) / math.sin(theta), rtol=1e-9)
        assert (gradients(terms.total.sum(), s_p)[0] > 0) == (theta < 0.1)
    for end in (1.0, -1.0, 1 + 1e-7, -1 - 1e-7):
        s_p = row(end)
        terms = tuplet_margin(s_n, s_p, margin=0.1, scale=8.0)
        close(terms.total, nnf.softplus((8 * s_n).logsumexp(1) - 8 * math.copysign(math.cos(0.1), end)), rtol=1e-9)
        assert gradients(terms.total.sum(), s_p)[0] == 0
        assert gradients(terms.total.sum(), s_n)[0].isfinite().all()


def test_tuplet_without_slack_is_nt_xent():
    x, labels = points(7), torch.arange(8) % 3
    close(TupletMarginLoss(margin=0.0, scale=10.0)(x, labels), NTXentLoss(0.1)(x, labels))


def test_variance_pushes_good_positives_away():
    """Through the mean: the best of three positives get a positive derivative."""
    s_p = row(0.9, 0.8, 0.1)
    positive, negative = intra_pair_variance(row(0.2, 0.2), s_p, margin=0.01)
    mu, low = 0.6, 0.99 * 0.6
    close(positive.total, torch.tensor([(low - 0.1) ** 2], dtype=torch.float64))
    close(gradients(positive.total.sum(), s_p)[0], 2 * (low - 0.1) * torch.tensor([[0.33, 0.33, 0.33 - 1]], dtype=torch.float64), rtol=1e-9)
    assert negative.total == 0 and mu > low


def test_variance_is_over_the_whole_batch_and_ignores_what_is_ignored():
    x, labels = points(8, 9), torch.tensor([0, 0, 1, 1, -1, -1, 2, 2, 0])
    kept = labels >= 0
    close(IntraPairVarianceLoss()(x, labels), IntraPairVarianceLoss()(x[kept], labels[kept]))


# ---- threshold-consistent margin


def test_threshold_consistent_margin_averages_over_violations_of_the_batch():
    x, labels = points(9, 10), torch.tensor([0, 0, 1, 1, 0, 2, 2, 1, 0, 3])
    z = nnf.normalize(x)
    s, off = z @ z.T, ~torch.eye(10, dtype=torch.bool)
    same = (labels.unsqueeze(1) == labels) & off
    far, near = s[same & (s <= 0.9)], s[(labels.unsqueeze(1) != labels) & (s >= 0.5)]
    expected = (0.9 - far).mean() + (near - 0.5).mean()
    for execution, budget in (("dense", None), ("tiled", 8 * 11 * 3)):
        close(ThresholdConsistentMarginLoss(execution=execution, memory_budget=budget)(x, labels), expected)
    assert ThresholdConsistentMarginLoss()(torch.eye(4).repeat(2, 1), [0, 1, 2, 3] * 2) == 0


# ---- easy positives


@pytest.mark.parametrize("semi_hard", [False, True])
def test_easy_positive_is_nt_xent_behind_its_miner(semi_hard):
    x, labels = points(10, 12).requires_grad_(), torch.tensor([0, 0, 1, 1, 0, 2, 2, 1, 0, 3, -1, 2])
    got = EasyPositiveLoss(0.3, semi_hard=semi_hard)(x, labels)
    expected = NTXentLoss(0.3, miner=EasyPositiveMiner("semi-hard" if semi_hard else "hard"))(x, labels)
    close(got, expected)
    close(gradients(got, x)[0], gradients(expected, x)[0])


def test_easy_positive_keeps_duplicates_and_dissimilar_points():
    """The official code drops both, and the mean of nothing is NaN there."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert EasyPositiveLoss(1.0)(x, [0, 0, 1]).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert EasyPositiveLoss(1.0)(x, [0, 1, 0]).item() == pytest.approx((2 + math.log1p(math.exp(-2)) + math.log(2)) / 2)


# ---- histogram


def test_histogram_at_the_ends_of_the_range():
    """Duplicates, and cosines that rounding has put beyond 1."""
    for s in (1.0, 1 + 1e-7, -1.0, -1 - 1e-7):
        terms = histogram(row(s, 0.0), row(s), num_bins=100)
        assert terms.total.isfinite() and bool((terms.total >= 0).all())
    x = torch.ones(4, 3).requires_grad_()
    value = HistogramLoss()(x, [0, 0, 1, 1])
    assert value.item() == pytest.approx(1)
    assert gradients(value, x)[0].isfinite().all()


def test_histogram_estimates_the_probability():
    """Of a negative pair being at least as near as a positive one; with many bins exactly."""
    generator = torch.Generator().manual_seed(0)
    s_n, s_p = (2 * torch.rand(3, k, generator=generator, dtype=torch.float64) - 1 for k in (40, 20))
    expected = (s_n.flatten().unsqueeze(1) >= s_p.flatten()).double().mean()
    terms = histogram(s_n, s_p, num_bins=100_000)
    torch.testing.assert_close(terms.total.sum() / terms.count.sum(), expected, rtol=0, atol=1e-3)
    assert int(terms.active.sum()) == pytest.approx(int((s_n > s_p.min()).sum()), abs=1)


def test_histogram_gradient():
    """h+ of the node to the right by the bin's width and the number of negatives; minus h- of the node to the left for a positive."""
    s_n, s_p = row(0.13, -0.42), row(0.31, 0.02, -0.77)
    terms = histogram(s_n, s_p, num_bins=8)
    g_n, g_p = gradients((terms.total / terms.count).sum(), s_n, s_p)
    nodes = torch.linspace(-1, 1, 9, dtype=torch.float64)

    def soft(s: Tensor) -> Tensor:
        return (1 - (s.detach().unsqueeze(2) - nodes).abs() / 0.25).relu().sum((0, 1)) / s.numel()

    left_n, left_p = (((s.detach() + 1) / 0.25).floor().long() for s in (s_n, s_p))
    close(g_n, soft(s_p)[left_n + 1] / (0.25 * 2), rtol=1e-9)
    close(g_p, -soft(s_n)[left_p] / (0.25 * 3), rtol=1e-9)


def test_histogram_of_a_separated_batch_is_zero():
    terms = histogram(row(-0.5, -0.9), row(0.5, 0.9), num_bins=20)
    assert terms.total == 0 and terms.active == 0 and terms.count == 2


# ---- dynamic soft margin


def test_dynamic_soft_margin_follows_the_code_of_the_paper():
    """A running histogram with momentum, filled by the first batch; weights by the floor of the bin, after the update."""
    loss = DynamicSoftMarginLoss(num_bins=31, momentum=0.25).double()
    histogram_, width = None, 4 / 31
    for step in range(4):
        x, labels = points(20 + step, 10), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, -1])
        z = nnf.normalize(x)
        d = (z.unsqueeze(1) - z).norm(dim=2)
        gaps = []
        for a, p in itertools.permutations(range(9), 2):
            if labels[a] == labels[p]:
                gaps.append(float(d[a, p]) - min(float(d[a, n]) for n in range(9) if labels[n] != labels[a]))
        batch = [0.0] * 32
        for gap in gaps:
            place = (gap + 2) / width
            low = math.floor(place)
            batch[low] += (1 - (place - low)) / len(gaps)
            batch[low + 1] += (place - low) / len(gaps)
        histogram_ = batch if histogram_ is None else [0.75 * a + 0.25 * b for a, b in zip(histogram_, batch, strict=True)]
        weights = [sum(histogram_[: math.floor((gap + 2) / width) + 1]) / sum(histogram_) for gap in gaps]
        expected = sum(w * gap for w, gap in zip(weights, gaps, strict=True)) / len(gaps)
        assert math.isclose(float(loss(x, labels)), expected, rel_tol=1e-9)
        torch.testing.assert_close(loss.histogram.tolist(), histogram_, rtol=1e-9, atol=1e-12)


def test_dynamic_soft_margin_state():
    """Resumed training is the same; evaluation, torch.func and batches without pairs leave no trace."""
    batches = [(points(30 + k, 6), [0, 1, 2] * 2) for k in range(4)]
    loss = DynamicSoftMarginLoss()
    for batch in batches[:2]:
        loss(*batch)
    resumed = DynamicSoftMarginLoss()
    resumed.load_state_dict(loss.state_dict())
    assert [float(loss(*b)) for b in batches] == [float(resumed(*b)) for b in batches]
    before = loss.histogram.clone()
    loss(batches[0][0], [0, 1, 2, 3, 4, 5])
    loss(batches[0][0][:0], [])
    torch.func.grad(lambda x: loss(x, batches[0][1]))(batches[0][0])
    loss.eval()(*batches[0])
    assert torch.equal(loss.histogram, before)
    assert float(before.sum()) == pytest.approx(1)


def test_dynamic_soft_margin_is_compiled_with_its_state():
    x, labels = points(40, 6), torch.tensor([0, 1, 2] * 2)
    eager, compiled = DynamicSoftMarginLoss().double(), DynamicSoftMarginLoss().double()
    torch.compiler.reset()
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for k in range(2):
        close(step(x + k, labels), eager(x + k, labels), rtol=1e-9)
    close(compiled.histogram, eager.histogram, rtol=1e-9)


def test_difference_histogram_counts_every_pair_once():
    s_n, s_p = torch.rand(5, 4) - 1.5, torch.rand(5, 3) - 1.5
    assert float(difference_histogram(s_n, s_p, num_bins=9).sum()) == pytest.approx(15)
    assert float(difference_histogram(s_n[:, :0], s_p, num_bins=9).sum()) == 0


# ---- bad input

BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: MultiSimilarityLoss(0.0), ValueError, "`positive_scale`"),
    (lambda: MultiSimilarityLoss(treshold=0.5), TypeError, "'threshold'"),
    (lambda: MarginLoss(-0.1), ValueError, "`margin`"),
    (lambda: MarginLoss(beta=-1.0), ValueError, "`beta`"),
    (lambda: MarginLoss(nu=-1.0), ValueError, "`nu`"),
    (lambda: MarginLoss(num_classes=0), ValueError, "`num_classes`"),
    (lambda: MarginLoss(num_classes=2.5), TypeError, "`num_classes`"),
    (lambda: MarginLoss(num_classes=2)(torch.eye(3), [0, 1, 2]), ValueError, "`labels`.*num_classes"),
    (lambda: MarginLoss(num_classes=2, relation=torch.eq)(torch.eye(2), torch.zeros(2, 2)), ValueError, "`labels`"),
    (lambda: MarginLoss(num_classes=2).per_anchor(Scores(torch.zeros(1, 1)), Scores(torch.zeros(1, 1))), ValueError, "call the loss"),
    (lambda: RankedListLoss(-1.0), ValueError, "`positive_margin`"),
    (lambda: RankedListLoss(negative_weight=1.5), ValueError, "`negative_weight`"),
    (lambda: ThresholdConsistentMarginLoss(positive_weight=-1.0), ValueError, "`positive_weight`"),
    (lambda: LiftedStructureLoss(-1.0), ValueError, "`margin`"),
    (lambda: GeneralizedLiftedStructureLoss(math.inf), ValueError, "`margin`"),
    (lambda: TupletMarginLoss(5.73), ValueError, "`margin`"),
    (lambda: TupletMarginLoss(scale=0.0), ValueError, "`scale`"),
    (lambda: IntraPairVarianceLoss(2.0), ValueError, "`margin`"),
    (lambda: EasyPositiveLoss(0.0), ValueError, "`temperature`"),
    (lambda: HistogramLoss(0), ValueError, "`num_bins`"),
    (lambda: HistogramLoss(10.5), TypeError, "`num_bins`"),
    (lambda: DynamicSoftMarginLoss(momentum=0.0), ValueError, "`momentum`"),
    (lambda: DynamicSoftMarginLoss(num_bins=0), ValueError, "`num_bins`"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_contrastive_is_the_squared_kin_of_the_margin_loss():
    """Margins beta - alpha and beta + alpha."""
    s_n, s_p = row(-0.9, -1.6), row(-1.25, -0.3)
    terms = margin(s_n, s_p, margin=0.2, beta=1.2)
    positive, negative = F.contrastive(s_n, s_p, positive_margin=1.0, negative_margin=1.4)
    for linear, squared in ((0.25, positive.total), (0.5, negative.total)):
        close(squared, torch.tensor([linear**2 / 2], dtype=torch.float64))
    close(terms.total, torch.tensor([0.75], dtype=torch.float64))
    assert settings.check_values is None
