"""Every log-sum-exp and threshold loss against loops over Python lists, and what all of them promise."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_cases import CASES, Case, anchors_of, averaged, differences, inner
from torch import Tensor

from metriczoo import References, miners
from metriczoo.miners.easy_positive import EasyPositiveMiner
from metriczoo.miners.multi_similarity import MultiSimilarityMiner
from metriczoo.miners.pair_margin import PairMarginMiner
from metriczoo.miners.random import RandomMiner

SEPARABLE = [case for case in CASES if case.separable]
# Compilation takes a second or two: of variants that run the same operations one is enough.
COMPILED_ALREADY = ["nt_xent", "sigmoid_fixed", "supcon_in", "nca", "margin", "margin_fixed", "ranked_list", "easy_positive", "n_pairs"]
NEED_NO_PAIR = ("supcon", "sigmoid", "instance", "variance", "margin", "threshold")  # of both kinds to have something to learn
LABELS = [0, 1, 0, 2, 1, 0, -1, 1]
OTHER_LABELS = [1, 0, 3, -2, 0, 1]


def points(seed: int, n: int = 8, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(case: Case, **options: Any) -> Any:
    """With reduction "mean", whatever the default of the loss."""
    return case.make(**{"reduction": "mean", **options}).double()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("external", [False, True], ids=["batch", "references"])
def test_value_and_gradient_are_those_of_the_paper(case: Case, external: bool) -> None:
    for seed in range(2):
        x, y = points(seed), points(seed + 50, 6)
        base = anchors_of(case, x, LABELS, *((y, OTHER_LABELS) if external else ()))

        def spec(x: Tensor = x, y: Tensor = y, base: Any = base) -> float:
            anchors = anchors_of(case, x, LABELS, *((y, OTHER_LABELS) if external else ()))
            return averaged(case, case.spec(anchors, at=base) if case.held else case.spec(anchors))

        inputs = (x.clone().requires_grad_(), y.clone().requires_grad_()) if external else (x.clone().requires_grad_(),)
        for execution in ("dense", "auto"):
            value = make(case, execution=execution)(inputs[0], LABELS, (inputs[1], OTHER_LABELS) if external else None)
            assert math.isclose(value.item(), spec(), rel_tol=1e-9, abs_tol=1e-12)
            gradients = torch.autograd.grad(value, inputs)
            torch.testing.assert_close(gradients[0], differences(spec, x), rtol=2e-5, atol=2e-7)
            if external:
                torch.testing.assert_close(gradients[1], differences(lambda v: spec(y=v), y), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_count_of_groups(case: Case) -> None:
    """Over unbalanced classes, a sum is the mean times the number of groups."""
    if case.name == "margin_per_class":
        pytest.skip("labels beyond its classes")
    x, labels = points(9, 9), [0, 0, 0, 0, 1, 1, 5, -1, 0]
    groups = case.spec(anchors_of(case, x, labels))
    for reduction, expected in (("mean", averaged(case, groups)), ("sum", math.fsum(map(math.fsum, groups)))):
        assert math.isclose(make(case, reduction=reduction)(x, labels).item(), expected, rel_tol=1e-9, abs_tol=1e-12)
    if not case.name.startswith("margin"):
        assert math.isclose(make(case, reduction="mean_active")(x, labels).item(), averaged(case, groups, "mean_active"), rel_tol=1e-9)


# ---- the same by any execution


def some_miners() -> list[miners.Miner | None]:
    generator = torch.Generator().manual_seed(3)
    return [
        None,
        miners.HardMiner(),
        miners.PriorityMiner(),
        EasyPositiveMiner("all"),
        EasyPositiveMiner("semi-hard"),
        MultiSimilarityMiner(0.4),
        PairMarginMiner(positive_margin=0.6, negative_margin=-1.5),
        RandomMiner(generator=generator),
    ]


def outcome(case: Case, miner: int, external: bool, reduction: str, **options: Any) -> list[Tensor]:
    loss = make(case, miner=some_miners()[miner], reduction=reduction, **options)
    x, y = points(1, 13).requires_grad_(), points(2, 9).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, -1, 2, 0, 1, 3, 0, 2, 2])
    value = loss(x, labels, [None, References(y, labels[:9], torch.arange(9) - 3)] if external else None, ids=torch.arange(13))
    weighted = (value * torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)).sum()
    gradients = torch.autograd.grad(weighted, [x, y, *loss.parameters()], materialize_grads=True, allow_unused=True)
    return [value.detach(), *gradients]


@pytest.mark.parametrize("case", SEPARABLE, ids=str)
def test_tiled_equals_dense(case: Case) -> None:
    settings, idle = itertools.cycle([(True, "mean"), (True, "none"), (False, "mean_active")]), 0
    for (miner, kept), (external, reduction) in zip(enumerate(some_miners()), settings, strict=False):
        dense = outcome(case, miner, external, reduction, execution="dense")
        tiled = outcome(case, miner, external, reduction, execution="tiled", memory_budget=8 * 14 * 3)
        for a, b in zip(dense, tiled, strict=True):
            assert a.isfinite().all(), kept
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11, msg=lambda m, k=kept: f"{k}: {m}")
        idle += not dense[1].any()
    assert idle <= 1, "a miner may leave nothing to learn, such as no semi-hard negative behind the hard one, but not all of them"


@pytest.mark.parametrize("case", [case for case in CASES if not case.separable], ids=str)
def test_coupled_losses_say_so(case: Case) -> None:
    with pytest.raises(ValueError, match="couples anchors"):
        case.make(execution="tiled")
    for miner in range(len(some_miners())):
        assert all(t.isfinite().all() for t in outcome(case, miner, True, "mean"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_relation_gives_what_labels_give(case: Case) -> None:
    """By a relation, positives are stored as a mask as wide as the references."""
    x = points(4).requires_grad_()
    labels = torch.tensor(LABELS)
    values = [make(case, relation=relation)(x, labels) for relation in (None, lambda a, b: a.unsqueeze(1) == b)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in values), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_traced(case: Case) -> None:
    """Traced programs see masks rather than tables. Value and gradient are the same."""
    x, labels = points(5, 6), torch.tensor(LABELS[:6])
    loss = make(case).eval()

    def f(x: Tensor) -> Tensor:
        return loss(x, labels)

    leaf = x.clone().requires_grad_()
    expected = f(leaf)
    gradient = torch.autograd.grad(expected, leaf)[0]
    torch.testing.assert_close(torch.func.grad(f)(x), gradient, rtol=1e-8, atol=1e-10)
    other = 2 * x.flip(1)
    torch.testing.assert_close(torch.func.vmap(f)(torch.stack([x, other])), torch.stack([f(x), f(other)]), rtol=1e-8, atol=1e-10)
    meta = case.make().to("meta")(torch.empty(6, 3, device="meta"), labels.to("meta"))
    assert meta.shape == ()
    if case.name in COMPILED_ALREADY:
        return
    torch.compiler.reset()
    leaf = x.clone().requires_grad_()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(leaf)
    torch.testing.assert_close(compiled, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(compiled, leaf)[0], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", [case for case in CASES if not case.held], ids=str)
def test_second_derivative(case: Case) -> None:
    """Of the dense form, and of the tiled one by way of the dense: the derivative of the gradient."""
    x = points(6, 6, 2)
    labels = [0, 1, 0, 1, 2, 0]
    loss = make(case).eval()
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(loss(leaf, labels), leaf, create_graph=True)[0]
    direction = points(7, 6, 2)
    got = torch.autograd.grad((gradient * direction).sum(), leaf)[0]
    ends = []
    for h in (1e-5, -1e-5):
        moved = (x + h * direction).requires_grad_()
        ends.append(torch.autograd.grad(loss(moved, labels), moved)[0])
    torch.testing.assert_close(got, (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-5)


# ---- symmetries and ugly batches


@pytest.mark.parametrize("case", CASES, ids=str)
def test_order_and_names_do_not_matter(case: Case) -> None:
    for seed in range(2):
        x, order = points(seed), random.Random(seed).sample(range(8), 8)
        labels = torch.tensor(LABELS)
        names = torch.tensor([2, 0, 3, -5]) if case.name == "margin_per_class" else torch.tensor([2**53 + 1, 7, 2**53, -5])
        values, gradients = [], []
        for rows, named in ((list(range(8)), labels), (order, labels), (list(range(8)), names[labels])):
            leaf = x[rows].clone().requires_grad_()
            value = make(case)(leaf, named[rows])
            values.append(value.item())
            gradients.append(torch.empty_like(x).index_copy(0, torch.tensor(rows), torch.autograd.grad(value, leaf)[0]))
        for value, gradient in zip(values[1:], gradients[1:], strict=True):
            assert math.isclose(value, values[0], rel_tol=1e-9, abs_tol=1e-12)
            torch.testing.assert_close(gradient, gradients[0], rtol=1e-7, atol=1e-9)


ROWS = st.sampled_from(["fresh", "fresh", "copy", "near", "antipode", "zero", "huge", "tiny"])


@st.composite
def ugly(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Duplicates, antipodes, zeros, huge and tiny vectors; one class, unique and ignored labels; one point or none; any precision."""
    n, d = draw(st.integers(0, 6)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    rows: list[Tensor] = []
    for kind in draw(st.lists(ROWS, min_size=n, max_size=n)):
        fresh = torch.tensor(draw(st.lists(st.integers(-8, 8).map(lambda k: k / 4), min_size=d, max_size=d)), dtype=torch.float64)
        last = rows[draw(st.integers(0, len(rows) - 1))] if rows else fresh
        large, small = (1e2, 0.1) if dtype == torch.float16 else (1e6, 1e-20)
        by_kind = {"fresh": fresh, "copy": last, "near": last * (1 + 1e-3), "antipode": -last, "zero": 0 * fresh}
        rows.append(by_kind.get(kind, fresh * {"huge": large, "tiny": small}.get(kind, 1.0)))
    x = torch.stack(rows) if rows else torch.empty(0, d, dtype=torch.float64)
    labels = draw(st.sampled_from([[3] * n, list(range(n)), [i % 2 for i in range(n)], [i % 3 - 1 for i in range(n)], [-1] * n]))
    return x.to(dtype), torch.tensor(labels, dtype=torch.int64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finite_whatever_the_batch(case: Case) -> None:
    @settings(max_examples=10)
    @given(ugly(), st.sampled_from(["auto", "dense"]))
    def run(batch: tuple[Tensor, Tensor], execution: str) -> None:
        x, labels = batch
        leaf = x.clone().requires_grad_()
        value = case.make(execution=execution)(leaf, labels.clamp(max=3))
        assert value.shape == () and value.isfinite() and value.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
        gradient = torch.autograd.grad(value, leaf)[0]
        assert gradient.isfinite().all()

    run()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_to_learn_is_exactly_zero(case: Case) -> None:
    """Batches without a pair, and for most losses those without positives or without negatives."""
    some = torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.5, 0.25]])
    batches = [(some[:0], []), (some, [-1, -1, -1]), (some[:1], [2])]
    batches += [] if case.name.startswith(NEED_NO_PAIR) else [(some, [0, 1, 2]), (some, [3, 3, 3])]
    for x, labels in batches:
        for reduction in ("mean", "none", "sum"):
            leaf = x.clone().requires_grad_()
            value = case.make(reduction=reduction)(leaf, labels)
            assert value.shape == ((len(x),) if reduction == "none" else ())
            assert not value.detach().any()
            assert not torch.autograd.grad(value.sum(), leaf)[0].any()


@pytest.mark.parametrize("case", [case for case in CASES if case.score is not inner], ids=str)
def test_a_collapsed_batch_is_stationary(case: Case) -> None:
    """Of similarities that only see the relative position of points."""
    for row in ([0.6, 0.8, 0.0], [1.0, 2.0, -3.0], [0.0, 0.0, 0.0]):
        x = torch.tensor([row] * 6, dtype=torch.float64).requires_grad_()
        value = make(case)(x, [0, 0, 0, 1, 1, 2])
        assert value.isfinite()
        assert float(torch.autograd.grad(value, x)[0].abs().max()) < 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision(case: Case) -> None:
    """Embeddings in half precision are computed with in single precision: the value is that of the rounded embeddings."""
    for dtype in (torch.float16, torch.bfloat16):
        x = points(8).to(dtype)
        value = case.make(reduction="mean")(x, LABELS)
        expected = make(case)(x.double(), LABELS)
        assert value.dtype == torch.float32
        assert math.isclose(value.item(), expected.item(), rel_tol=2e-5, abs_tol=1e-6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert case.make(reduction="mean")(x, LABELS) == value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_and_copies(case: Case) -> None:
    x = points(3)
    loss = make(case)
    value = loss(x, LABELS)
    twin = make(case)
    twin.load_state_dict(loss.state_dict())
    copy = pickle.loads(pickle.dumps(loss))
    assert loss(x, LABELS) == twin(x, LABELS) == copy(x, LABELS)
    assert value.isfinite()
