"""Losses that couple anchors through a statistic of the batch: in tiles they are what they are dense, in all but memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from metriczoo import losses, miners
from metriczoo.functional._histograms import _shared, soft_histogram, soft_histogram_and_cells
from metriczoo.losses import Loss
from metriczoo.losses.base import Call
from metriczoo.reduction import REDUCTIONS
from metriczoo.scores import Scores, Terms
from metriczoo.testing import Subject
from metriczoo.testing._checks import failures
from metriczoo.testing.losses import LOSS_CHECKS


class Relative(Loss):
    """Softplus of positives and negatives relative to their means, with a scale that is learned and a fact that has a gradient."""

    separable = needs_positives = needs_negatives = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        return (call.anchors.square().sum(1),)

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        lengths, scale = s_p.of_anchors(s_p.facts[0]), self.scale.to(s_n.value.dtype)
        parts = [(s.map(lambda v: (scale * v).tanh()).sum() * lengths, s.count().to(lengths.dtype)) for s in (s_p, s_n)]
        return torch.stack([x for part in parts for x in part], dim=1)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, Terms]:
        scale, sums = self.scale.to(s_n.value.dtype), self.pooled(s_n, s_p)
        terms = []
        for k, (s, sign) in enumerate(((s_p, -1.0), (s_n, 1.0))):
            mean = sums[2 * k] / sums[2 * k + 1].clamp(min=1)
            relative = s.map(lambda v, mean=mean, sign=sign: nn.functional.softplus(sign * scale * (v - mean)))
            terms.append(Terms(relative.sum(), s.count(), s.count()))
        return terms[0], terms[1]


class Plain(Loss):
    """One number per anchor: the hinge of its hardest negative above the mean of those of all anchors."""

    separable = needs_positives = False

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        some = s_n.count() > 0
        return torch.stack([torch.where(some, s_n.max(), 0.0), some.to(s_n.value.dtype)], dim=1)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        total, count = self.pooled(s_n, s_p)
        return torch.where(s_n.count() > 0, (s_n.max() - total / count.clamp(min=1)).relu(), 0.0)


COUPLED: dict[str, Callable[..., Loss]] = {
    "histogram": lambda **options: losses.HistogramLoss(num_bins=9, **options),
    "dynamic soft margin": lambda **options: losses.DynamicSoftMarginLoss(num_bins=16, **options),
    "intra-pair variance": losses.IntraPairVarianceLoss,
    "weighted decoupled": losses.WeightedDecoupledContrastiveLoss,
    "magnet": lambda **options: losses.MagnetLoss(margin=3.0, **options),
    "relative": Relative,
    "plain": Plain,
}
REFERENCES = ("none", "others", "both")


def outcome(loss: Loss, x: Tensor, labels: Tensor, y: Tensor, other: Tensor, references: str) -> list[Tensor]:
    """Value, and gradients of points and parameters, each anchor with a weight of its own where there is a choice."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    among = {"none": None, "others": (y, other), "both": [None, (y, other)]}[references]
    value = loss(x, labels, among)
    weights = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    gradients = torch.autograd.grad((weights * value).sum(), [x, y, *loss.parameters()], allow_unused=True, materialize_grads=True)
    return [value.detach(), *gradients]


@pytest.mark.parametrize("name", COUPLED)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_tiles_are_dense(name: str, data: st.DataObject) -> None:
    n, m, seed = data.draw(st.integers(0, 13)), data.draw(st.integers(1, 6)), data.draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, 3, dtype=torch.float64, generator=generator) for k in (n, m))
    labels, other = (torch.randint(-1, data.draw(st.integers(1, 4)), (k,), generator=generator) for k in (n, m))
    options: dict[str, Any] = {"reduction": data.draw(st.sampled_from(list(REDUCTIONS)))}
    miner = data.draw(st.sampled_from([None, miners.HardMiner, miners.MultiSimilarityMiner])) if name != "magnet" else None
    options["miner"] = None if miner is None else miner()
    references = data.draw(st.sampled_from(REFERENCES))
    dense = outcome(COUPLED[name](execution="dense", **options), x, labels, y, other, references)
    rows = data.draw(st.integers(1, 5))
    for budget in (None, 8 * (n + m + 1) * rows):
        tiled = outcome(COUPLED[name](execution="tiled", memory_budget=budget, **options), x, labels, y, other, references)
        for got, expected in zip(tiled, dense, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", COUPLED)
def test_derivatives_of_first_and_second_order(name: str, reduction: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(n, 2, dtype=torch.float64, generator=generator, requires_grad=True) for n in (6, 3))
    loss = COUPLED[name](memory_budget=8 * 10 * 3, reduction=reduction)

    def value(x: Tensor, y: Tensor) -> Tensor:
        return copy.deepcopy(loss)(x, [0, 1, 0, 1, 1, -1], [None, (y, [0, 1, 0])])

    if name != "dynamic soft margin":  # whose weights are constants to the gradient, but not to the value
        assert torch.autograd.gradcheck(value, (x, y))
        assert torch.autograd.gradgradcheck(value, (x, y))
    else:
        first = torch.autograd.grad(value(x, y).sum(), x, create_graph=True)[0]
        loss = COUPLED[name](execution="dense", reduction=reduction)
        again = torch.autograd.grad(value(x, y).sum(), x, create_graph=True)[0]
        torch.testing.assert_close(first, again, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(
            *(torch.autograd.grad(g.square().sum(), x, retain_graph=True)[0] for g in (first, again)), rtol=1e-9, atol=1e-11
        )


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation makes."""

    cells = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        for out in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(out, Tensor):
                self.cells = max(self.cells, out.untyped_storage().nbytes() // out.element_size())
        return result


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", [name for name in COUPLED if name != "magnet"])
def test_nothing_is_of_the_size_of_all_scores(name: str, reduction: str) -> None:
    n, rows = 256, 8
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = COUPLED[name](memory_budget=4 * (n + 1) * rows, reduction=reduction)
    with Largest() as largest:
        loss(x, torch.arange(n) // 4).sum().backward()
    assert largest.cells <= max(3 * (n + 1) * rows, 17 * n), largest.cells


@pytest.mark.parametrize("name", [name for name in COUPLED if name != "magnet"])
def test_products(name: str) -> None:
    """Five where there are several tiles, four where the statistic is a constant; three where one tile holds the batch."""
    n, d = 64, 16
    x, labels = torch.nn.functional.normalize(torch.randn(n, d)).requires_grad_(), torch.arange(n) // 4
    product = 2 * n * n * d

    def products(loss: Loss, *, backward: bool) -> float:
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
            value = loss(x, labels)
            if backward:
                value.backward()
        return counter.get_total_flops() / product

    several: dict[str, Any] = {"memory_budget": 4 * (n + 1) * 16}
    constant = name == "dynamic soft margin"
    slack = 0.8  # near pairs from differences, norms beside the points, small sums
    assert products(COUPLED[name](**several), backward=True) <= (4 if constant else 5) + slack
    assert products(COUPLED[name](), backward=True) <= 3 + slack
    assert products(COUPLED[name](**several), backward=False) <= 2 + slack
    assert products(COUPLED[name](), backward=False) <= 1 + slack


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("budget", [None, 8 * 13 * 4], ids=["one tile", "several"])
def test_a_running_statistic_is_pooled_once_per_call(budget: int | None, reduction: str) -> None:
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(12) // 3
    dense, tiled = (
        losses.DynamicSoftMarginLoss(momentum=0.3, reduction=reduction, **options)
        for options in ({"execution": "dense"}, {"memory_budget": budget})
    )
    for step in range(2):
        points = x * (1 + step)
        for loss in (dense, tiled):
            value = loss(points, labels).sum()
            seen = loss.histogram.clone()
            gradient = torch.autograd.grad(value, x, create_graph=True)[0]
            torch.autograd.grad(gradient.sum(), x, retain_graph=True)
            torch.autograd.grad(value, x, retain_graph=True)
            assert torch.equal(loss.histogram, seen), "backward has moved the histogram"
        torch.testing.assert_close(tiled.histogram, dense.histogram, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", COUPLED)
def test_without_gradient_and_under_autocast(name: str) -> None:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    labels, several = torch.arange(12) // 3, {"memory_budget": 4 * 13 * 4}
    expected = COUPLED[name](execution="dense")(x, labels)
    with torch.no_grad():
        torch.testing.assert_close(COUPLED[name](**several)(x.requires_grad_(), labels), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = COUPLED[name](**several)(x, labels)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    for labels in (torch.full((12,), -1), torch.arange(12)):
        assert bool(COUPLED[name](**several)(x, labels).isfinite())
    assert float(COUPLED[name](**several)(x[:0], torch.arange(0)).detach()) == 0


def test_in_a_sum_of_losses() -> None:
    x = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) // 4
    parts = [make(memory_budget=8 * 21 * 4) for make in (losses.HistogramLoss, losses.TripletMarginLoss, losses.IntraPairVarianceLoss)]
    expected = sum(weight * part(x, labels) for weight, part in zip((1.0, 0.5, 2.0), parts, strict=True))
    torch.testing.assert_close(losses.SumLoss(parts, [1.0, 0.5, 2.0])(x, labels), expected)


# ---- written wrongly


def _changed(**members: Any) -> Loss:
    kind: type[Loss] = type("Changed", (Plain,), members)
    return kind()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"separable": True}, "Changed to say `separable = False`"),
        ({"statistic": lambda self, s_n, s_p: s_n.sum().sum()}, r"`statistic` of Changed .* shape \[m, ...\]"),
        ({"statistic": lambda self, s_n, s_p: s_n.count().unsqueeze(1)}, "floating-point"),
        ({"statistic": lambda self, s_n, s_p: None}, "`statistic` of Changed"),
        ({"pool": lambda self, rows: [1.0, 2.0]}, "`pool` of Changed to return a tensor"),
    ],
)
@pytest.mark.parametrize("budget", [None, 4 * 13 * 4], ids=["one tile", "several"])
def test_what_is_written_wrongly_is_refused(members: dict[str, Any], message: str, budget: int | None) -> None:
    loss = _changed(**members)
    loss.memory_budget = budget
    with pytest.raises(TypeError, match=message):
        loss(torch.randn(12, 4), torch.arange(12) // 3)


def test_without_a_statistic_there_are_no_tiles() -> None:
    kind: type[Loss] = type("NoStatistic", (Loss,), {"separable": False, "per_anchor": lambda self, s_n, s_p: s_n.max() - s_n.max().mean()})
    with pytest.raises(ValueError, match="couples anchors"):
        kind(execution="tiled")
    with pytest.raises(NotImplementedError, match="no `statistic"):
        kind().pooled(Scores(torch.zeros(1, 1)), Scores(torch.zeros(1, 1)))
    assert bool(kind()(torch.randn(12, 4), torch.arange(12) // 3).isfinite())


def test_the_kit_finds_a_statistic_that_depends_on_the_cut() -> None:
    class Cut(Plain):
        def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
            return super().statistic(s_n, s_p).mean(0, keepdim=True).square()

    checks = [check for check in LOSS_CHECKS if check.name == "check_tiles"]
    assert failures(Subject(Plain(), name="Plain"), checks) == {"check_tiles": None}
    assert "in tiles of" in str(failures(Subject(Cut(), name="Cut"), checks)["check_tiles"])


# ---- soft histograms


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_soft_histogram_against_a_loop(data: st.DataObject) -> None:
    b, n, bins, seed = (data.draw(st.integers(low, high)) for low, high in ((1, 4), (0, 9), (1, 7), (0, 99)))
    low = data.draw(st.sampled_from([-1.0, -4.0, 0.0]))
    high = low + data.draw(st.sampled_from([0.5, 2.0, 4.0]))
    generator = torch.Generator().manual_seed(seed)
    value = low - 0.3 + (high - low + 0.6) * torch.rand(b, n, dtype=torch.float64, generator=generator)
    if n:
        value[:, 0] = data.draw(st.sampled_from([low, high, low + (high - low) / bins]))
    mask = torch.rand(b, n, generator=generator) < 0.8
    excluded = torch.where(mask, n, torch.arange(n))  # column n is no score
    wide = torch.cat([value, value.new_zeros(b, 1)], dim=1)
    sets = [
        Scores(value, mask),
        Scores(wide, excluded=torch.cat([excluded, torch.full((b, 1), n)], dim=1), num_excluded=1 + (~mask).sum(1)),
    ]
    expected, cells = torch.zeros(2, b, bins + 1, dtype=torch.float64)
    for i, j in mask.nonzero().tolist():
        place = (min(max(float(value[i, j]), low), high) - low) * bins / (high - low)
        node = min(int(place), bins - 1)
        expected[i, node] += 1 - (place - node)
        expected[i, node + 1] += place - node
        cells[i, -int(-place // 1)] += 1
    for scores in sets:
        got, counts = soft_histogram_and_cells(scores, bins, low, high)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(counts, cells)
    torch.testing.assert_close(_shared(value, mask, bins, low, high), expected, rtol=1e-12, atol=1e-12)


def test_soft_histogram_has_derivatives_of_all_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    value = (3 * torch.rand(5, 7, dtype=torch.float64, generator=generator) - 1.5).requires_grad_()
    mask = torch.rand(5, 7, generator=generator) < 0.7

    def shares(value: Tensor) -> Tensor:
        return soft_histogram(Scores(value, mask), 6).square()

    assert torch.autograd.gradcheck(shares, value)
    assert torch.autograd.gradgradcheck(shares, value)
    torch.testing.assert_close(torch.func.jacrev(shares)(value), torch.autograd.functional.jacobian(shares, value))
