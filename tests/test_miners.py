"""Miners against naive selections by Python loops, and their distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import Scores, losses, miners
from metriczoo.testing.strategies import lists_of, scores


def _groups(s_n: Scores, s_p: Scores, b: int) -> list[list[tuple[float, float]]]:
    """By anchor, the pairs (negative, positive) of the groups that a miner made."""
    found: list[list[tuple[float, float]]] = [[] for _ in range(b)]
    rows = s_n.value.shape[0]
    for i, (n, p) in enumerate(zip(lists_of(s_n), lists_of(s_p), strict=True)):
        assert len(n) <= 1 and len(p) <= 1
        if n and p:
            found[i // (rows // b)].append((n[0], p[0]))
    return found


@given(scores())
def test_hard(sets: tuple[Scores, Scores]) -> None:
    s_n, s_p = sets
    kept_n, kept_p = miners.HardMiner()(s_n, s_p)
    for before, after, extreme in [(s_n, kept_n, max), (s_p, kept_p, min)]:
        for x, y in zip(lists_of(before), lists_of(after), strict=True):
            assert y == ([extreme(x)] if x else [])


@given(scores(), st.sampled_from([0.25, 0.5, 1.0]), st.booleans())
def test_semi_hard(sets: tuple[Scores, Scores], margin: float, many: bool) -> None:
    s_n, s_p = sets
    if many:  # as many positives as take the other way of searching, even if few columns are filled
        s_p = Scores(s_p.value.repeat(1, 70), s_p.mask.repeat(1, 70))
    groups = _groups(*miners.SemiHardMiner(margin)(s_n, s_p), len(s_n.value))
    for negatives, positives, found in zip(lists_of(s_n), lists_of(s_p), groups, strict=True):
        expected = []
        for p in positives:
            band = [n for n in negatives if p - margin < n < p]
            expected += [(max(band), p)] if band else []
        assert sorted(found) == sorted(expected)


@given(scores(), st.integers(0, 99))
def test_semi_hard_at_random_stays_in_the_band(sets: tuple[Scores, Scores], seed: int) -> None:
    s_n, s_p = sets
    miner = miners.SemiHardMiner(0.5, select="random", generator=torch.Generator().manual_seed(seed))
    groups = _groups(*miner(s_n, s_p), len(s_n.value))
    for negatives, positives, found in zip(lists_of(s_n), lists_of(s_p), groups, strict=True):
        eligible = [p for p in positives if any(p - 0.5 < n < p for n in negatives)]
        assert sorted(p for _, p in found) == sorted(eligible)
        assert all(p - 0.5 < n < p and n in negatives for n, p in found)


@given(scores(), st.booleans())
def test_priority(sets: tuple[Scores, Scores], many: bool) -> None:
    s_n, s_p = sets
    if many:
        s_p = Scores(s_p.value.repeat(1, 70), s_p.mask.repeat(1, 70))
    groups = _groups(*miners.PriorityMiner()(s_n, s_p), len(s_n.value))
    for negatives, positives, found in zip(lists_of(s_n), lists_of(s_p), groups, strict=True):
        expected = []
        for p in positives if negatives else []:
            beyond = [n for n in negatives if n < p]
            expected.append((max(beyond) if beyond else min(negatives), p))
        assert sorted(found) == sorted(expected)


@given(scores(), st.integers(0, 99))
def test_distance_weighted_keeps_every_anchor(sets: tuple[Scores, Scores], seed: int) -> None:
    s_n, s_p = sets
    miner = miners.DistanceWeightedMiner(embedding_dim=512, generator=torch.Generator().manual_seed(seed))
    groups = _groups(*miner(s_n, s_p), len(s_n.value))
    for negatives, positives, found in zip(lists_of(s_n), lists_of(s_p), groups, strict=True):
        near = [n for n in negatives if math.sqrt(2 - 2 * n) < 1.4]
        assert sorted(p for _, p in found) == (sorted(positives) if negatives else [])
        assert all(n in (near or negatives) for n, _ in found)


def test_no_anchor_is_lost_in_high_dimension() -> None:
    """Weights relative to the largest of the whole matrix underflow here: most anchors would draw nothing."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 512, generator=generator)
    x = torch.nn.functional.normalize(centre + torch.linspace(0.2, 1.2, 32).unsqueeze(1) * torch.randn(32, 512, generator=generator))
    s = x @ x.T
    s_n = Scores(s, ~torch.eye(32, dtype=torch.bool))
    eligible = (s_n.mask & ((2 - 2 * s).sqrt() < 1.4)).any(1)
    weights = miners.DistanceWeightedMiner(embedding_dim=512).log_weights(s_n)
    relative = (weights - weights.amax(1, keepdim=True)).exp().sum(1)
    assert eligible.sum() > 20
    assert (relative[eligible] >= 1).all()


def test_distances_are_drawn_uniformly() -> None:
    """Of random points on a sphere, each distance bin between the cutoffs is drawn equally often."""
    d = 16
    x = torch.nn.functional.normalize(torch.randn(1500, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    s = x @ x.T
    s_n = Scores(s, ~torch.eye(1500, dtype=torch.bool))
    s_p = Scores(torch.ones(1500, 40, dtype=torch.float64))
    mined, _ = miners.DistanceWeightedMiner(embedding_dim=d, generator=torch.Generator().manual_seed(2))(s_n, s_p)
    drawn = (2 - 2 * mined.value.flatten()).sqrt()
    counts = torch.histc(drawn, bins=4, min=1.0, max=1.4)
    assert drawn.max() < 1.4
    assert (counts / counts.mean() - 1).abs().max() < 0.06
    natural = torch.histc((2 - 2 * s[s_n.mask]).sqrt(), bins=4, min=1.0, max=1.4)
    assert natural[-1] > 2 * natural[0]


def test_weights_are_the_inverse_density() -> None:
    """q(d) in dimension 5, by simulation."""
    x = torch.nn.functional.normalize(torch.randn(400_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    distance = (x[:200_000] - x[200_000:]).norm(dim=1)
    density = torch.histc(distance, bins=10, min=0.8, max=1.3)
    middle = 0.8 + 0.05 * (torch.arange(10, dtype=torch.float64) + 0.5)
    weight = miners.DistanceWeightedMiner(embedding_dim=5).log_weights(Scores((1 - middle.square() / 2).unsqueeze(0))).exp().squeeze(0)
    product = density * weight
    assert (product / product.mean() - 1).abs().max() < 0.06


@pytest.mark.parametrize(
    "make",
    [
        lambda g: miners.DistanceWeightedMiner(generator=g),
        lambda g: miners.SemiHardMiner(0.5, select="random", generator=g),
    ],
)
def test_draws_follow_the_generator_alone(make) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(24) % 6

    def values(budget: int | None) -> Tensor:
        loss = losses.TripletMarginLoss(miner=make(torch.Generator().manual_seed(5)), memory_budget=budget)
        return torch.stack([loss(x, labels) for _ in range(4)])

    whole = values(None)
    assert len(set(whole.tolist())) > 1
    torch.testing.assert_close(values(8 * 25 * 3), whole)


def test_plain_scores_are_drawn_by_the_generator_too() -> None:
    s_n, s_p = torch.linspace(-0.5, 0.85, 40).repeat(4, 1), torch.full((4, 3), 0.9)
    for make in (
        lambda seed: miners.DistanceWeightedMiner(embedding_dim=8, generator=torch.Generator().manual_seed(seed)),
        lambda seed: miners.SemiHardMiner(0.9, select="random", generator=torch.Generator().manual_seed(seed)),
    ):
        first, again, other = (make(seed)(s_n, s_p)[0].value for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_a_resumed_miner_draws_the_same() -> None:
    x, labels = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 6
    loss = losses.TripletMarginLoss(miner=miners.DistanceWeightedMiner(generator=torch.Generator().manual_seed(5)))
    loss(x, labels)
    state = loss.state_dict()
    following = [float(loss(x, labels)) for _ in range(3)]
    resumed = losses.TripletMarginLoss(miner=miners.DistanceWeightedMiner(generator=torch.Generator()))
    resumed.load_state_dict(state)
    assert [float(resumed(x, labels)) for _ in range(3)] == following


def test_the_choice_carries_the_gradient_of_what_is_kept() -> None:
    value = torch.tensor([[0.1, 0.7, 0.3]], requires_grad=True)
    kept, _ = miners.HardMiner()(value, torch.tensor([[0.5]]))
    kept.value.sum().backward()
    assert value.grad is not None and value.grad.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: miners.SemiHardMiner(0), ValueError, "`margin`"),
        (lambda: miners.SemiHardMiner(-0.1), ValueError, "`margin`"),
        (lambda: miners.SemiHardMiner(0.1, select="hradest"), ValueError, "'hardest'"),
        (lambda: miners.SemiHardMiner(generator=0), TypeError, "`generator`"),
        (lambda: miners.DistanceWeightedMiner(cutoff=0), ValueError, "`cutoff`"),
        (lambda: miners.DistanceWeightedMiner(nonzero_loss_cutoff=2.5), ValueError, "`nonzero_loss_cutoff`"),
        (lambda: miners.DistanceWeightedMiner(embedding_dim=1), ValueError, "`embedding_dim`"),
        (lambda: miners.DistanceWeightedMiner()(torch.zeros(1, 2), torch.zeros(1, 1)), ValueError, "`embedding_dim`"),
        (lambda: miners.HardMiner()(torch.zeros(3), torch.zeros(1, 1)), TypeError, r"\[b, n\]"),
        (lambda: miners.Miner()(torch.zeros(1, 2), torch.zeros(1, 1)), NotImplementedError, "select"),
    ],
)
def test_bad_input(make, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        make()
