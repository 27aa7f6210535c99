"""`Scores`: both layouts of a set against lists, whatever the cells outside of it hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo.scores import HARMLESS, Scores, as_scores

inf = math.inf
LAYOUTS = ("mask", "excluded")

FOLDS = {
    "sum": math.fsum,
    "count": len,
    "mean": lambda s: math.fsum(s) / max(1, len(s)),
    "max": lambda s: max(s, default=-inf),
    "min": lambda s: min(s, default=inf),
    "logsumexp": lambda s: max(s) + math.log(math.fsum(math.exp(v - max(s)) for v in s)) if s else -inf,
}
# d fold / d value of each member of the set; equal extremes share
SLOPES = {
    "sum": lambda s: [1.0] * len(s),
    "mean": lambda s: [1 / len(s)] * len(s),
    "max": lambda s: [(v == max(s)) / s.count(max(s)) for v in s],
    "min": lambda s: [(v == min(s)) / s.count(min(s)) for v in s],
    "logsumexp": lambda s: [math.exp(v - max(s)) / math.fsum(math.exp(w - max(s)) for w in s) for v in s],
}
# Elementwise maps with an infinite value, a NaN or an infinite slope at 1: what a self-pair or a duplicate has as its cosine.
HOSTILE = {
    "sqrt(1 - s^2)": lambda s: (1 - s * s).sqrt(),
    "acos": torch.acos,
    "log(1 - s)": lambda s: (1 - s).log(),
    "1 / (1 - s)": lambda s: 1 / (1 - s),
    "atanh": torch.atanh,
}


@dataclass
class Block:
    """Rows of scores and which of them belong to the set."""

    value: list[list[float]]
    member: list[list[bool]]

    @property
    def sets(self) -> list[list[float]]:
        return [[v for v, m in zip(row, keep, strict=True) if m] for row, keep in zip(self.value, self.member, strict=True)]

    def leaf(self) -> Tensor:
        return torch.tensor(self.value, dtype=torch.float64).reshape(len(self.value), -1).requires_grad_()

    def mask(self) -> Tensor:
        return torch.tensor(self.member).reshape(len(self.value), -1).bool()

    def scores(self, layout: str, value: Tensor) -> Scores:
        if layout == "mask":
            return Scores(value, self.mask())
        out = [[j for j, m in enumerate(row) if not m] for row in self.member]
        width = max(map(len, out), default=0)
        assert not width or all(out), "a row without a column to repeat: give it one"
        table = [row + row[:1] * (width - len(row)) for row in out]  # padded with a repeat
        excluded = torch.tensor(table, dtype=torch.int64).reshape(len(out), width)
        return Scores(value, excluded=excluded, num_excluded=torch.tensor([len(row) for row in out], dtype=torch.int64))


NUMBERS = st.floats(-3, 3, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0])


@st.composite
def blocks(draw, numbers=NUMBERS, outside=None):
    b, n = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    member = draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=b, max_size=b))
    if n:
        for row in member:
            row[draw(st.integers(0, n - 1))] = False  # so that every set can be told by what it leaves out
    value = [[draw(numbers) if m or outside is None else draw(outside) for m in row] for row in member]
    return Block(value, member)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fold", FOLDS)
@given(block=blocks())
def test_fold_is_that_of_the_list(layout, fold, block):
    value = block.leaf()
    got = getattr(block.scores(layout, value), fold)()
    torch.testing.assert_close(got.detach().double().tolist(), [float(FOLDS[fold](s)) for s in block.sets], rtol=1e-12, atol=1e-12)
    if fold == "count":
        assert got.dtype == torch.int64
        return
    finite = torch.where(got.isfinite(), got, 0.0)
    gradient = torch.autograd.grad(finite.sum(), value)[0] if finite.requires_grad else torch.zeros_like(value)
    expected = torch.zeros_like(gradient)
    if block.mask().any():
        expected[block.mask()] = torch.tensor([g for s in block.sets if s for g in SLOPES[fold](s)], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert not gradient[~block.mask()].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fold", SLOPES)
def test_empty_sets_have_gradient_zero_through_a_link(layout, fold):
    block = Block([[0.5, 1.0], [0.25, -1.0]], [[False, False], [False, True]])
    value = block.leaf()
    got = getattr(block.scores(layout, value), fold)()
    loss = torch.nn.functional.softplus(-got if fold == "min" else got)
    (gradient,) = torch.autograd.grad(loss.sum(), value)
    assert gradient[0].tolist() == [0.0, 0.0]
    assert gradient[1, 0] == 0
    assert gradient[1, 1] != 0


@pytest.mark.parametrize("fold", FOLDS)
def test_no_column_at_all(fold):
    value = torch.empty(3, 0, requires_grad=True)
    for scores in (Scores(value), Scores(value, torch.empty(3, 0, dtype=torch.bool))):
        assert getattr(scores, fold)().tolist() == [FOLDS[fold]([])] * 3


@pytest.mark.parametrize("fold", FOLDS)
def test_no_anchor_at_all(fold):
    for width in (0, 3):
        assert getattr(Scores(torch.empty(0, width)), fold)().shape == (0,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("fold", SLOPES)
@given(block=blocks(numbers=st.floats(-0.75, 0.75, width=32), outside=st.sampled_from([1.0, -1.0, 0.5])))
def test_a_map_that_is_singular_outside_the_set_does_no_harm(layout, name, fold, block):
    value = block.leaf()
    got = getattr(block.scores(layout, value).map(HOSTILE[name]), fold)()
    sets = [HOSTILE[name](torch.tensor(s, dtype=torch.float64)).tolist() for s in block.sets]
    torch.testing.assert_close(got.detach().tolist(), [float(FOLDS[fold](s)) for s in sets], rtol=1e-10, atol=1e-12)
    finite = torch.where(got.isfinite(), got, 0.0)
    if finite.requires_grad:
        (gradient,) = torch.autograd.grad(finite.sum(), value)
        assert bool(gradient.isfinite().all()), gradient
        assert not gradient[~block.mask()].any()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pair_that_a_miner_left_out_is_outside_too(name):
    value = torch.tensor([[1.0, 0.5, -1.0]], requires_grad=True)
    for scores in (
        Scores(value).where(torch.tensor([[False, True, False]])),
        Scores(value).take(torch.tensor([[0, 1]]), torch.tensor([[False, True]])),
        Scores(value).take(torch.tensor([[0, 1]]), torch.tensor([[False, True]])).split(),
    ):
        total = scores.map(HOSTILE[name]).sum().sum()
        (gradient,) = torch.autograd.grad(total, value, retain_graph=True)
        assert bool(gradient.isfinite().all()), gradient
        assert gradient[0, 0] == gradient[0, 2] == 0


def test_two_maps_one_after_the_other_are_their_composition():
    block = Block([[1.0, 0.5, 0.25]], [[False, True, True]])
    for layout in LAYOUTS:
        value = block.leaf()
        got = block.scores(layout, value).map(lambda s: (1 - s).log()).map(lambda s: 1 / s).sum()
        assert math.isclose(got.item(), 1 / math.log(0.5) + 1 / math.log(0.75), rel_tol=1e-12)
        assert bool(torch.autograd.grad(got.sum(), value)[0].isfinite().all())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fold", ["sum", "mean", "max", "min", "logsumexp"])
def test_second_derivatives(layout, fold):
    block = Block([[0.3, 1.0, -0.6, 0.8], [0.9, 0.1, 1.0, -0.2]], [[True, False, True, True], [True, True, False, True]])

    def f(value: Tensor) -> Tensor:
        return getattr(block.scores(layout, value).map(lambda s: s**3), fold)()

    value = block.leaf()
    assert torch.autograd.gradcheck(f, value)
    assert torch.autograd.gradgradcheck(f, value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_second_derivative_of_logsumexp_with_an_empty_set_is_zero(layout):
    block = Block([[0.5, 1.0], [0.25, -1.0]], [[False, False], [False, True]])
    value = block.leaf()
    total = torch.nn.functional.softplus(block.scores(layout, value).logsumexp()).sum()
    (gradient,) = torch.autograd.grad(total, value, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), value)
    assert bool(second.isfinite().all())
    assert second[0].tolist() == [0.0, 0.0]
    assert second[1, 0] == 0
    assert second[1, 1] != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-30, 1.0, 300.0, 1e4, 1e30])
def test_logsumexp_neither_overflows_nor_loses_small_terms(dtype, size):
    value = torch.tensor([[-size, size], [size, size], [-size, -size]], dtype=dtype, requires_grad=True)
    got = Scores(value).logsumexp()
    torch.testing.assert_close(got, torch.logsumexp(value, 1))
    torch.testing.assert_close(torch.autograd.grad(got.sum(), value)[0], value.detach().softmax(1))


@pytest.mark.parametrize("width", [3, 5000])
def test_logsumexp_ignores_however_many_cells_outside(width):
    value = torch.full((1, width), 50.0, dtype=torch.float64)
    value[0, 1] = -700.0
    mask = torch.zeros(1, width, dtype=torch.bool)
    mask[0, 1] = True
    assert Scores(value, mask).logsumexp().item() == -700.0


@given(blocks(), st.integers(1, 6), st.booleans(), st.sampled_from(LAYOUTS))
def test_topk_takes_the_extreme_members(block, k, largest, layout):
    found = block.scores(layout, block.leaf()).topk(k, largest=largest)
    for i, members in enumerate(block.sets):
        expected = sorted(members, reverse=largest)[:k]
        assert sorted(found.value[i][found.mask[i]].tolist(), reverse=largest) == expected
    assert found.count().tolist() == [min(k, len(s)) for s in block.sets]


@given(blocks(), st.randoms(use_true_random=False), st.sampled_from(LAYOUTS))
def test_where_is_the_intersection(block, source, layout):
    keep = [[source.random() < 0.5 for _ in row] for row in block.member]
    got = block.scores(layout, block.leaf()).where(torch.tensor(keep).reshape(len(keep), -1).bool())
    expected = Block(block.value, [[m and k for m, k in zip(*rows, strict=True)] for rows in zip(block.member, keep, strict=True)])
    assert torch.equal(got.mask, expected.mask())
    assert got.count().tolist() == [len(s) for s in expected.sets]
    torch.testing.assert_close(got.sum().tolist(), [math.fsum(s) for s in expected.sets])


@given(blocks(), st.sampled_from(LAYOUTS))
def test_mask_fill_and_split_tell_the_same_set(block, layout):
    scores = block.scores(layout, block.leaf())
    assert torch.equal(scores.mask, block.mask())
    filled = scores.fill(-7.0)
    assert torch.equal(filled == -7.0, ~block.mask())
    split = scores.split()
    b, n = scores.value.shape
    assert split.value.shape == (b * n, 1)
    assert torch.equal(split.mask.reshape(b, n), block.mask())
    assert split.columns is not None
    assert split.columns.flatten().tolist() == [j for _ in range(b) for j in range(n)]
    assert split.sum().sum().item() == pytest.approx(scores.sum().sum().item(), rel=1e-12, abs=1e-12)


def test_take_names_the_references_it_took():
    scores = Scores(torch.tensor([[0.1, 0.2, 0.3]]), columns=torch.tensor([[7, 8, 9]]))
    taken = scores.take(torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
    assert taken.columns is not None
    assert taken.columns.tolist() == [[9, 7]]
    assert taken.sum().tolist() == pytest.approx([0.3])


def test_the_harmless_value_is_harmless():
    """Maps that losses use have a finite value and slope there: on cosines and on negated distances."""
    for f in (*HOSTILE.values(), lambda s: (-s).sqrt(), lambda s: (-s).log(), lambda s: (2 - 2 * s).sqrt(), torch.exp):
        s = torch.tensor(HARMLESS, dtype=torch.float64, requires_grad=True)
        value = f(s)
        assert value.isfinite()
        assert torch.autograd.grad(value, s)[0].isfinite()


def test_plain_tensors_become_scores_of_at_least_single_precision():
    assert as_scores(torch.zeros(1, 2, dtype=torch.bfloat16)).value.dtype == torch.float32
    assert as_scores(torch.zeros(1, 2, dtype=torch.float64)).value.dtype == torch.float64
    scores = Scores(torch.zeros(1, 2))
    assert as_scores(scores) is scores
    for wrong in (torch.zeros(2), torch.zeros(1, 2, dtype=torch.int64), [[0.0]]):
        with pytest.raises(TypeError, match=r"\[b, n\]"):
            as_scores(wrong)


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="mask"):
        Scores(torch.zeros(1, 2), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="num_excluded"):
        Scores(torch.zeros(1, 2), excluded=torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="shape"):
        Scores(torch.zeros(1, 2)).map(lambda s: s.sum(1))
