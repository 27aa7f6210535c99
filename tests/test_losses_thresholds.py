"""Identities and special forms of the threshold, lifted, histogram and easy-positive losses. The kit checks the rest."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from metriczoo import functional as F
from metriczoo import miners
from metriczoo.functional.histogram import difference_histogram, histogram
from metriczoo.functional.lifted import lifted_structure
from metriczoo.functional.thresholds import margin
from metriczoo.functional.tuplet import tuplet_margin
from metriczoo.losses.easy_positive import EasyPositiveLoss
from metriczoo.losses.histogram import DynamicSoftMarginLoss, HistogramLoss
from metriczoo.losses.info_nce import NTXentLoss
from metriczoo.losses.lifted import LiftedStructureLoss
from metriczoo.losses.thresholds import MarginLoss, MultiSimilarityLoss, RankedListLoss
from metriczoo.losses.tuplet import TupletMarginLoss
from metriczoo.miners.easy_positive import EasyPositiveMiner
from metriczoo.miners.multi_similarity import MultiSimilarityMiner
from metriczoo.scores import Scores
from metriczoo.similarity import NegativeEuclidean
from metriczoo.stores import Proxies


def close(a: Tensor, b: Tensor, rtol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def points(seed: int, n: int = 8, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([values], dtype=dtype).requires_grad_()


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, retain_graph=True)


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


def test_wide_masks_of_positives_are_narrowed(monkeypatch):
    """Behind a relation positives are masks as wide as the references: without narrowing there is a matrix product per reference."""
    calls = []
    original = NegativeEuclidean.score
    monkeypatch.setattr(NegativeEuclidean, "score", lambda self, a, r: calls.append(a.shape) or original(self, a, r))
    x, labels = points(6, 40), torch.arange(40) // 2
    by_relation = LiftedStructureLoss(relation=lambda a, b: a.unsqueeze(1) == b)(x, labels)
    assert len(calls) <= 3
    close(by_relation, LiftedStructureLoss()(x, labels))


# ---- tuplet margin and intra-pair variance


def test_tuplet_at_the_ends_has_gradient_zero():
    """Of duplicates and antipodes, where the angle has no derivative."""
    s_n = row(0.1, 0.3)
    for end in (1.0, -1.0, 1 + 1e-7, -1 - 1e-7):
        s_p = row(end)
        terms = tuplet_margin(s_n, s_p, margin=0.1, scale=8.0)
        close(terms.total, nnf.softplus((8 * s_n).logsumexp(1) - 8 * math.copysign(math.cos(0.1), end)), rtol=1e-9)
        assert gradients(terms.total.sum(), s_p)[0] == 0
        assert gradients(terms.total.sum(), s_n)[0].isfinite().all()


def test_tuplet_without_slack_is_nt_xent():
    x, labels = points(7), torch.arange(8) % 3
    close(TupletMarginLoss(margin=0.0, scale=10.0)(x, labels), NTXentLoss(0.1)(x, labels))


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
    (lambda: lifted_structure(torch.zeros(1, 2), torch.zeros(1, 1)), ValueError, "between references"),
    (lambda: MultiSimilarityLoss(treshold=0.5), TypeError, "'threshold'"),
    (lambda: MarginLoss(num_classes=0), ValueError, "`num_classes`"),
    (lambda: MarginLoss(num_classes=2.5), TypeError, "`num_classes`"),
    (lambda: MarginLoss(num_classes=2)(torch.eye(3), [0, 1, 2]), ValueError, "`labels`.*num_classes"),
    (lambda: MarginLoss(num_classes=2, relation=torch.eq)(torch.eye(2), torch.zeros(2, 2)), ValueError, "`labels`"),
    (lambda: MarginLoss(num_classes=2).per_anchor(Scores(torch.zeros(1, 1)), Scores(torch.zeros(1, 1))), ValueError, "call the loss"),
    (lambda: HistogramLoss(0), ValueError, "`num_bins`"),
    (lambda: HistogramLoss(10.5), TypeError, "`num_bins`"),
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
