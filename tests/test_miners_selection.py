"""Multi-similarity, easy-positive, pair-margin and random miners against selections by Python loops, and how random draws are spread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import Scores, losses, miners
from metriczoo.losses.info_nce import NTXentLoss
from metriczoo.miners.easy_positive import EasyPositiveMiner
from metriczoo.miners.multi_similarity import MultiSimilarityMiner
from metriczoo.miners.pair_margin import PairMarginMiner
from metriczoo.miners.random import RandomMiner
from metriczoo.testing.strategies import lists_of, scores


def _rows(sets: tuple[Scores, Scores], kept: tuple[Scores, Scores]) -> Iterator[tuple[list[float], ...]]:
    yield from zip(*map(lists_of, sets), *map(lists_of, kept), strict=True)


@given(scores(), st.sampled_from([0.0, 0.125, 0.3]))
def test_multi_similarity(sets: tuple[Scores, Scores], margin: float) -> None:
    for negatives, positives, kept_n, kept_p in _rows(sets, MultiSimilarityMiner(margin)(*sets)):
        assert kept_n == [n for n in negatives if positives and n + margin > min(positives)]
        assert kept_p == [p for p in positives if negatives and p - margin < max(negatives)]


@given(scores(), st.sampled_from(["hard", "semi-hard", "all"]))
def test_easy_positive(sets: tuple[Scores, Scores], choice: str) -> None:
    for negatives, positives, kept_n, kept_p in _rows(sets, EasyPositiveMiner(choice)(*sets)):
        assert kept_p == ([max(positives)] if positives else [])
        beyond = [n for n in negatives if positives and n < max(positives)]
        expected = {"all": negatives, "hard": negatives and [max(negatives)], "semi-hard": beyond and [max(beyond)]}
        assert kept_n == expected[choice]


@given(scores())
def test_pair_margin(sets: tuple[Scores, Scores]) -> None:
    for negatives, positives, kept_n, kept_p in _rows(sets, PairMarginMiner(positive_margin=0.25, negative_margin=-0.25)(*sets)):
        assert kept_n == [n for n in negatives if n > -0.25]
        assert kept_p == [p for p in positives if p < 0.25]


@given(scores(), st.integers(0, 99))
def test_random_draws_a_negative_for_each_positive(sets: tuple[Scores, Scores], seed: int) -> None:
    s_n, s_p = sets
    mined_n, mined_p = RandomMiner(generator=torch.Generator().manual_seed(seed))(s_n, s_p)
    b = len(s_n.value)
    groups = len(mined_p.value) // b
    found: list[list[float]] = [[] for _ in range(b)]
    for i, (n, p) in enumerate(zip(lists_of(mined_n), lists_of(mined_p), strict=True)):
        if groups and n and p:
            assert n[0] in list(lists_of(s_n))[i // groups]
            found[i // groups] += p
    for negatives, positives, drawn in zip(lists_of(s_n), lists_of(s_p), found, strict=True):
        assert sorted(drawn) == (sorted(positives) if negatives else [])


def test_random_negatives_have_equal_chances() -> None:
    """Whether the negatives are stored by a mask or by what is left out."""
    value = torch.arange(10.0).expand(400, 10)
    out = torch.tensor([[2, 7, 7]]).expand(400, 3)
    by_mask = Scores(value, torch.ones(400, 10, dtype=torch.bool).scatter(1, out, False))
    by_exclusion = Scores(value, excluded=out, num_excluded=torch.full((400,), 2))
    s_p = Scores(torch.ones(400, 20))
    mined = [RandomMiner(generator=torch.Generator().manual_seed(0))(s_n, s_p)[0].value for s_n in (by_mask, by_exclusion)]
    assert torch.equal(*mined)
    drawn = mined[0].flatten().long().bincount(minlength=10)
    assert drawn[[2, 7]].tolist() == [0, 0]
    kept = drawn[[0, 1, 3, 4, 5, 6, 8, 9]].double()
    assert float(((kept - 1000).square() / 1000).sum()) < 24.3  # chi-square, 7 degrees of freedom: 1 in 1000


def _loss(miner: miners.Miner, **options: object) -> losses.Loss:
    return losses.TripletMarginLoss(miner=miner, reduction="sum", **options)


def test_random_draws_follow_the_generator_alone() -> None:
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(24) % 6

    def values(**options: object) -> Tensor:
        loss = _loss(RandomMiner(generator=torch.Generator().manual_seed(5)), **options)
        return torch.stack([loss(x, labels) for _ in range(4)])

    whole = values(execution="dense")
    assert len(set(whole.tolist())) > 1
    torch.testing.assert_close(values(memory_budget=8 * 25 * 3), whole)
    loss = _loss(RandomMiner(generator=torch.Generator().manual_seed(5)))
    loss(x, labels)
    resumed = _loss(RandomMiner(generator=torch.Generator()))
    resumed.load_state_dict(loss.state_dict())
    assert [loss(x, labels).item() for _ in range(3)] == [resumed(x, labels).item() for _ in range(3)]


@pytest.mark.parametrize(
    "miner",
    [MultiSimilarityMiner(0.5), EasyPositiveMiner("all"), EasyPositiveMiner("semi-hard"), PairMarginMiner(negative_margin=-0.8)],
    ids=repr,
)
def test_traced(miner: miners.Miner) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    loss = NTXentLoss(0.3, miner=miner)
    leaf = x.clone().requires_grad_()
    expected = loss(leaf, labels)
    gradient = torch.autograd.grad(expected, leaf)[0]
    assert gradient.any()
    torch.testing.assert_close(torch.func.grad(lambda v: loss(v, labels))(x), gradient)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(lambda v: loss(v, labels), fullgraph=True, backend="eager")(x), expected.detach())


def test_random_under_compile() -> None:
    x, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1, 2, 0])
    loss = NTXentLoss(0.3, miner=RandomMiner())
    torch.compiler.reset()
    value = torch.compile(lambda v: loss(v, labels), fullgraph=True, backend="eager")(x)
    assert value.isfinite()
    assert value > 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MultiSimilarityMiner(-0.1), ValueError, "`margin`"),
        (lambda: MultiSimilarityMiner("0.1"), TypeError, "`margin`"),
        (lambda: EasyPositiveMiner("semihard"), ValueError, "'semi-hard'"),
        (lambda: PairMarginMiner(positive_margin=float("nan")), ValueError, "`positive_margin`"),
        (lambda: PairMarginMiner(negative_margin=None), TypeError, "`negative_margin`"),
        (lambda: RandomMiner(generator=0), TypeError, "`generator`"),
    ],
)
def test_bad_input(make, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        make()
