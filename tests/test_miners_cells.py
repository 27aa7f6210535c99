"""What miners choose of a row: `argmax` and `draw`, in groups of cells, equal to what they are for the row as a whole."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo.miners._cells import _GROUP, argmax, draw

# On both sides of the widths from which groups are used, and with a last group that is whole, nearly empty, or nearly whole.
WIDTHS = st.integers(1, 2 * _GROUP + 1) | st.sampled_from([k * _GROUP + end for k in (2, 3, 7) for end in (-1, 0, 1)])
LAST = math.nextafter(1.0, 0.0)  # the largest number that is drawn


def _rows(seed: int, width: int, of: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(of, dtype=dtype)[torch.randint(len(of), (5, width), generator=generator)]


@given(
    st.integers(0, 10**6),
    WIDTHS,
    st.lists(st.sampled_from([-math.inf, -2.0, 0.0, 0.5, math.inf]), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.float64]),
)
@example(0, 3 * _GROUP, [-math.inf], torch.float32)
def test_the_first_of_the_largest(seed: int, width: int, of: list[float], dtype: torch.dtype) -> None:
    """Ties, infinities, rows of one value, as a loop has it."""
    x = _rows(seed, width, of, dtype)
    cells = argmax(x)
    assert cells.dtype == torch.int64
    assert cells.tolist() == [[row.index(max(row))] for row in x.tolist()]
    apart = torch.randperm(width, generator=torch.Generator().manual_seed(seed)).to(dtype).expand(5, width)
    assert torch.equal(argmax(apart), apart.argmax(1, keepdim=True))


@given(
    st.integers(0, 10**6),
    WIDTHS,
    st.lists(st.integers(0, 9).map(float), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 1.0, exclude_max=True) | st.sampled_from([0.0, 0.5, LAST]), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
)
@example(0, 3 * _GROUP, [0.0], [0.0, 0.5, LAST], torch.float32)
@example(1, 5 * _GROUP, [0.0, 0.0, 0.0, 7.0], [0.0, LAST], torch.float32)
def test_a_draw_lands_where_the_weights_before_it_sum_up_to_it(
    seed: int, width: int, of: list[float], draws: list[float], dtype: torch.dtype
) -> None:
    """The first cell with more than this share of the weight up to its end; whole weights sum up without rounding."""
    weights = _rows(seed, width, of, dtype)
    cells = draw(weights, torch.tensor([draws] * 5, dtype=torch.float64))
    assert cells.dtype == torch.int64
    assert cells.shape == (5, len(draws))
    for row, chosen in zip(weights.tolist(), cells.tolist(), strict=True):
        for at, cell in zip(draws, chosen, strict=True):
            assert 0 <= cell < width
            if any(row):
                assert row[cell] > 0
                before, height = math.fsum(row[:cell]), at * math.fsum(row)
                slack = 1e-13 * math.fsum(row)  # a draw on a border may be rounded to either side
                assert before - slack <= height < before + row[cell] + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3, 7])  # the last by sums over the whole row
def test_draws_are_spread_like_the_weights(count: int, dtype: torch.dtype) -> None:
    """Over groups and within them: steep weights, cells and whole groups without any, an incomplete last group."""
    generator = torch.Generator().manual_seed(count)
    weights = torch.rand(1, 200, generator=generator, dtype=torch.float64).pow(3)
    weights[0, 50:105], weights[0, 130:] = 0.0, 0.02 * weights[0, 130:]
    weights[0, 3], weights[0, 199] = 8.0, 4.0
    rows = 60_000 // count
    at = torch.rand(rows, count, generator=generator, dtype=torch.float64)
    drawn = draw(weights.to(dtype).expand(rows, -1), at).flatten().bincount(minlength=200).double()
    expected = weights[0] / weights.sum() * drawn.sum()
    assert not drawn[expected == 0].any()
    often = expected > 5
    rest = torch.stack([drawn[~often].sum(), expected[~often].sum()])
    square = ((drawn - expected)[often].square() / expected[often]).sum() + (rest[0] - rest[1]).square() / rest[1]
    freedom = int(often.sum())
    assert freedom > 60
    assert float(square) < freedom + 3.3 * math.sqrt(2 * freedom)  # chi-square: 1 in 1000


def test_rounding_never_lands_on_a_cell_without_weight() -> None:
    """The sums up to a group are rounded: the draw at its start lies before what its own cells begin with."""
    weights = torch.zeros(1, 3 * _GROUP, dtype=torch.float64)
    weights[0, 0], weights[0, 2 * _GROUP - 1] = 1.0, 3 * 2.0**-53
    border = torch.tensor([[1 - 3 * 2.0**-52, 1 - 2.0**-51, 1 - 2.0**-52, LAST]], dtype=torch.float64)
    drawn = [int(draw(weights, at)) for at in border.split(1, dim=1)]
    assert set(drawn) == {0, 2 * _GROUP - 1}
