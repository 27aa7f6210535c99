"""Sums over pairs that make no array of them, equal to the sums over that array: value, counts, gradients, second derivatives.

`functional/_pairs.py`: of a penalty over all pairs of an anchor. `functional/_peers.py`: over the negatives that positives share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from metriczoo import losses
from metriczoo.functional import _pairs, _peers
from metriczoo.scores import Block, Scores
from metriczoo.similarity import Cosine, NegativeEuclidean, Similarity
from metriczoo.testing.strategies import generic, scores

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": torch.relu,
    "squared": lambda t: t.relu().square(),
    "soft": lambda t: -logsigmoid(-t),
}
# Scores from -1 to 1, times this: differences of a cosine, those that lose all digits beside others, and those that underflow.
STRETCH = st.sampled_from([1.0, 12.0, 40.0, 350.0])
MARGIN = st.sampled_from([0.0, 0.5, 3.0])
_EQUAL = Scores(torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64))


def _leaf(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).clone().requires_grad_()


def _stored(value: Tensor, mask: Tensor, block: Block | None = None) -> Scores:
    """The set by the columns that it leaves out, where each anchor has such, else by its mask."""
    left_out = (~mask).sum(1)
    if 0 in mask.shape or not left_out.all():
        return Scores(value, mask, block=block)
    excluded = (~mask).to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    excluded = torch.where(torch.arange(mask.shape[1]) < left_out.unsqueeze(1), excluded, excluded[:, :1])
    return Scores(value, excluded=excluded, num_excluded=left_out, block=block)


def _close(got: Tensor, expected: Tensor, what: str) -> None:
    got, expected = got.detach(), expected.detach()
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().amax()) if finite.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11 * max(1.0, scale), msg=lambda m: f"{what}: {m}")


def _same(got: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    """Values, gradients and second derivatives."""
    _close(got, expected, "value")
    found = []
    for value in (got, expected):
        weights = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
        total = (weights * torch.where(value.isfinite(), value, 0.0)).sum() + 0 * sum(leaf.sum() for leaf in leaves)
        plain = torch.autograd.grad(total, leaves, retain_graph=True, materialize_grads=True, allow_unused=True)
        first = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True, allow_unused=True)
        slope = torch.stack([(g * torch.arange(1.0, g.numel() + 1, dtype=g.dtype).cos().reshape(g.shape)).sum() for g in first]).sum()
        second = torch.autograd.grad(slope, leaves, materialize_grads=True, allow_unused=True) if slope.requires_grad else plain
        found.append((plain, first, [torch.zeros_like(g) for g in plain] if second is plain else second))
    for what, one, other in zip(("gradient", "gradient to be differentiated", "second derivative"), *found, strict=True):
        for a, b in zip(one, other, strict=True):
            _close(a, b, what)


def _by_pair(violations: Tensor, there: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Of `[b, p, n]` the sum of the penalties of each anchor, and how many are not 0."""
    each = torch.where(there, PENALTIES[penalty](torch.where(there, violations, 0.0)), 0.0)
    return each.sum((1, 2)), (each != 0).sum((1, 2))


# ---- one penalty over all pairs


@given(scores(), STRETCH, MARGIN, st.sampled_from([*PENALTIES, "soft"]), st.booleans())
@example((_EQUAL, _EQUAL), 1.0, 0.0, "hinge", True)
@example((_EQUAL, _EQUAL), 1.0, 0.0, "squared", True)
def test_a_penalty_over_all_pairs(sets: tuple[Scores, Scores], stretch: float, margin: float, penalty: str, other: bool) -> None:
    """Empty sets, ties, violations of exactly 0; with the dispatch as it is, and with what it would not take for so few positives."""
    n, p, m = _leaf(stretch * sets[0].value), _leaf(stretch * sets[1].value), _leaf(margin)
    some_n, some_p = sets[0].mask, sets[1].mask
    with mock.patch.multiple(_pairs, _FEW=0 if other else _pairs._FEW, _REACH=0.0 if other else _pairs._REACH):
        terms = _pairs.pair_sum(_stored(n, some_n), _stored(p, some_p), m, _pairs.PENALTIES[penalty])
    there = some_p.unsqueeze(2) & some_n.unsqueeze(1)
    total, active = _by_pair(n.unsqueeze(1) - p.unsqueeze(2) + m, there, penalty)
    assert terms.count.tolist() == there.sum((1, 2)).tolist()
    assert terms.active.tolist() == active.tolist()
    _same(terms.total, total, n, p, m)


def _within(reach: float, positives: int) -> tuple[Tensor, Tensor]:
    """Scores of two anchors of which none is farther than `reach` from another, but some are that far, either way."""
    generator = torch.Generator().manual_seed(positives)
    n, p = (reach * (torch.rand(2, k, generator=generator, dtype=torch.float64) - 0.5) for k in (7, positives))
    n[0, :2], p[0, 0], p[1, :] = torch.tensor([reach / 2, -reach / 2]), reach / 2, -reach / 2
    return n, p


@pytest.mark.parametrize("reach", [0.1, 5.0, 29.9, 30.1, 90.0, 800.0])
@pytest.mark.parametrize("rounds", [0.0, 0.5, 1.0, 2.5])
def test_soft_penalties_as_products_of_exponentials(reach: float, rounds: float) -> None:
    """Up to a reach of 30, in rounds of as many positives as a product does not overflow of; in single precision, too."""
    step = int(_pairs._LOG_RANGE / (reach + math.log(2)))
    positives = max(1, math.ceil(rounds * step)) if step else 1 + int(4 * rounds)
    n, p = map(_leaf, _within(reach, positives))
    with mock.patch.object(_pairs, "_factored_sum", wraps=_pairs._factored_sum) as factored:
        terms = _pairs.pair_sum(Scores(n), Scores(p), 0.0, _pairs.PENALTIES["soft"])
        single_n, single_p = (x.detach().float().requires_grad_() for x in (n, p))
        single = _pairs.pair_sum(Scores(single_n), Scores(single_p), 0.0, _pairs.PENALTIES["soft"])
    assert factored.call_count == 2 * (reach < 30)
    assert reach > 30 or terms.active.tolist() == single.active.tolist() == [7 * positives] * 2
    total, _ = _by_pair(n.unsqueeze(1) - p.unsqueeze(2), torch.tensor(True), "soft")
    gradients = [torch.autograd.grad(t.sum(), x, retain_graph=True) for t, x in ((total, (n, p)), (single.total, (single_n, single_p)))]
    for exact, got in zip((total, *gradients[0]), (single.total, *gradients[1]), strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-7)
    _same(terms.total, total, n, p)


@pytest.mark.parametrize("far", ["negative", "positive", "cell outside"])
def test_one_score_out_of_reach_is_enough_to_leave_exponentials_alone(far: str) -> None:
    n, p, mask = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    n[1, 2], p[0, 1], mask[1, 2] = 900.0 * (far != "positive"), 900.0 * (far == "positive"), far != "cell outside"
    n, p = _leaf(n), _leaf(p)
    terms = _pairs.pair_sum(Scores(n, mask), Scores(p), 0.0, _pairs.PENALTIES["soft"])
    total, active = _by_pair(n.unsqueeze(1) - p.unsqueeze(2), mask.unsqueeze(1).expand(2, 2, 3), "soft")
    assert terms.active.tolist() == active.tolist()
    _same(terms.total, total, n, p)


# ---- over negatives that positives share


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A block of whole classes, some of one anchor: scores and masks of negatives `[b, n]` and positives `[b, p]`, rows of positives.

    Anchors of one class have the same negatives, perhaps none; scores are often equal, those of copies of an anchor are throughout.
    """
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    labels = torch.tensor([c for c, size in enumerate(sizes) for _ in range(size)])
    b, p, n = len(labels), max(sizes) - 1, draw(st.integers(0, 6))
    score = st.integers(-8, 8).map(lambda i: i / 8)

    def values(width: int) -> Tensor:
        return torch.tensor(draw(st.lists(score, min_size=b * width, max_size=b * width)), dtype=torch.float64).reshape(b, width)

    far, near = values(n), values(p)
    if draw(st.booleans()):
        far[labels == 0] = far[:1].clone()
    some_n = torch.tensor(draw(st.lists(st.booleans(), min_size=len(sizes) * n, max_size=len(sizes) * n)), dtype=torch.bool)
    others = [[j for j in range(b) if labels[j] == labels[i] and j != i] for i in range(b)]
    order = draw(st.permutations(range(p)))  # cells without a positive are anywhere, and name any row
    rows, some_p = torch.zeros(b, p, dtype=torch.int64), torch.zeros(b, p, dtype=torch.bool)
    for i, js in enumerate(others):
        for cell, j in zip(order, js, strict=False):
            rows[i, cell], some_p[i, cell] = j, True
    return far, some_n.reshape(len(sizes), n)[labels], near, some_p, rows


@given(blocks(), STRETCH, MARGIN, st.sampled_from(list(PENALTIES)), st.sampled_from([1, 8, 2**16]))
def test_a_penalty_over_negatives_that_are_nearer_to_either_end(
    block: tuple[Tensor, ...], stretch: float, margin: float, penalty: str, part: int
) -> None:
    """Equal similarities of both ends share the gradient; one part of rows, several, and one for each row."""
    far, some_n, near, some_p, rows = block
    n, p, m = _leaf(stretch * far), _leaf(stretch * near), _leaf(margin)
    with mock.patch.object(_peers, "_PART", part):
        total, active = _peers.swap_sum(_stored(n, some_n), Scores(p, some_p), rows, m, _pairs.PENALTIES[penalty])
        nearer = torch.maximum(n.unsqueeze(1), n[rows])
        expected = _by_pair(nearer - p.unsqueeze(2) + m, some_p.unsqueeze(2) & some_n.unsqueeze(1), penalty)
        assert active.tolist() == expected[1].tolist()
        _same(total, expected[0], n, p, m)


@pytest.mark.parametrize("trained", [0, 1, 2], ids=["negatives", "positives", "margin"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_some_inputs_are_constants(penalty: str, swap: bool, trained: int) -> None:
    """Scores of a frozen model, a margin that is a number: the others have all derivatives."""
    inputs = [*_within(2.0, 1), torch.tensor(0.5, dtype=torch.float64)]
    inputs[trained] = leaf = _leaf(inputs[trained])
    n, p, m = inputs
    rows, chosen = torch.tensor([[1], [0]]), _pairs.PENALTIES[penalty]
    total = _peers.swap_sum(Scores(n), Scores(p), rows, m, chosen)[0] if swap else _pairs.pair_sum(Scores(n), Scores(p), m, chosen).total
    nearer = torch.maximum(n, n.flip(0)) if swap else n
    _same(total, _by_pair(nearer.unsqueeze(1) - p.unsqueeze(2) + m, torch.tensor(True), penalty)[0], leaf)


def _of_block(block: tuple[Tensor, ...], n: Tensor, peers: int | None) -> tuple[Scores, Scores]:
    """Scores as an engine makes them, of a block that is known to have all positives as anchors, or is not."""
    _, some_n, near, some_p, rows = block
    known = Block(torch.arange(len(n)), torch.sqrt, between=lambda i, _: n[i], peers=peers)
    return _stored(n, some_n, known), Scores(near, some_p, columns=rows, block=known)


def _logsumexp_by_pair(block: tuple[Tensor, ...], n: Tensor, scale: Tensor) -> Tensor:
    _, some_n, _, some_p, rows = block
    there = some_p.unsqueeze(2) & some_n.unsqueeze(1)
    some = there.any(2)
    terms = torch.where(there, scale * (n.unsqueeze(1) + n[rows]), torch.where(some, -math.inf, 0.0).unsqueeze(2))
    return torch.where(some, terms.logsumexp(2) if n.shape[1] else terms.sum(2), -math.inf)


def _in_any_order(value: Tensor, mask: Tensor, rows: Tensor) -> tuple[Tensor, list[int]]:
    """Of each anchor a sum over its positives that tells them apart, and how many of them have no negative."""
    finite = mask & value.isfinite()
    return torch.where(finite, value * (1.0 + rows).cos(), 0.0).sum(1), (mask & ~finite).sum(1).tolist()


@given(blocks(), STRETCH, st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([0, None]))
def test_logsumexp_over_sums_of_two_similarities(block: tuple[Tensor, ...], stretch: float, scale: float, peers: int | None) -> None:
    """As products of exponentials, and one positive at a time where these could underflow, or positives are not known to be anchors."""
    n, factor = _leaf(stretch * block[0]), _leaf(scale)
    s_p, value = _peers.logsumexp_of_sums(*_of_block(block, n, peers), factor)
    assert s_p.columns is not None
    got, idle = _in_any_order(value, s_p.mask, s_p.columns)
    expected, without = _in_any_order(_logsumexp_by_pair(block, n, factor), block[3], block[4])
    assert idle == without
    _same(got, expected, n, factor)


@pytest.mark.parametrize("spread", [0.5, 39.9, 40.1, 500.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_of_similarities_are_multiplied_unless_they_could_underflow(spread: float, dtype: torch.dtype) -> None:
    """The lowest, times the lowest, is the whole sum of two anchors: it must not be lost beside the highest of others."""
    n = -spread * torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    n[:2], n[4, 0] = -spread, 0.0
    n.requires_grad_()
    rows = torch.tensor([[1], [0], [3], [2], [5], [4]])
    there = torch.ones(6, 1, dtype=torch.bool)
    block = n.detach(), torch.ones(6, 5, dtype=torch.bool), torch.zeros(6, 1, dtype=dtype), there, rows
    with mock.patch.object(_peers, "fold_positives", wraps=_peers.fold_positives) as one_by_one:
        _, value = _peers.logsumexp_of_sums(*_of_block(block, n, 0), 1.0)
    assert one_by_one.called == (spread > 40)
    double = n.detach().double().requires_grad_()
    expected = _logsumexp_by_pair(block, double, torch.tensor(1.0, dtype=torch.float64))
    gradients = torch.autograd.grad(value.sum(), n)[0], torch.autograd.grad(expected.sum(), double)[0]
    tolerances = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 1e-6}
    torch.testing.assert_close(value.double(), expected, **tolerances)
    torch.testing.assert_close(gradients[0].double(), gradients[1], **tolerances)


# ---- in a loss


@pytest.mark.parametrize("similarity", [Cosine(), NegativeEuclidean()], ids=repr)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_copies_of_a_point_have_one_gradient_together(penalty: str, similarity: Similarity) -> None:
    """Two ends that are copies tie, for all negatives. A product may round their scores apart: then either has the share of both."""
    labels = torch.tensor([1, 1, 3, 4, 1, 3, 1, 1, 3, 4, 3, 0, 4, 4, 3, 3, 3, 2, 0, 0])
    for seed in range(3):
        points = generic(seed, 20, 6).embeddings.detach()
        points[3:9], points[1] = points[9:15], points[0]
        distinct, copies = points.unique(dim=0, return_inverse=True)
        weights, results = torch.linspace(0.5, 2, 20, dtype=torch.float64), []
        for options in ({"execution": "dense"}, {}, {"memory_budget": 8 * 21 * 10}, {"memory_budget": 1}):
            x = points.clone().requires_grad_()
            loss = losses.TripletMarginLoss(0.3, penalty=penalty, swap=True, similarity=similarity, reduction="none", **options)
            value = loss(x, labels)
            (gradient,) = torch.autograd.grad((weights * value).sum(), x)
            results.append((value.detach(), torch.zeros_like(distinct).index_add(0, copies, gradient)))
        for value, gradient in results[1:]:
            torch.testing.assert_close(value, results[0][0], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(gradient, results[0][1], rtol=1e-10, atol=1e-12)
