"""The ranking surrogates: against loops over Python lists written from the papers, and against the metrics they stand in for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Batch, batches, generic, score_lists
from torch import Tensor

from metriczoo.functional import ranking as F
from metriczoo.functional._ranks import count_above
from metriczoo.losses.base import Loss
from metriczoo.losses.ranking import FastAPLoss, PNPLoss, RecallAtKLoss, SmoothAPLoss
from metriczoo.metrics import mean_average_precision
from metriczoo.miners import DistanceWeightedMiner, HardMiner
from metriczoo.scores import Scores
from metriczoo.similarity import InnerProduct, NegativeEuclidean, NegativeSquaredEuclidean

Lists = Sequence[float]


def sigmoid(z: float) -> float:
    return (1 + math.tanh(z / 2)) / 2


def ahead(others: Lists, s: float, tau: float) -> float:
    return sum(sigmoid((t - s) / tau) for t in others)


def items(s_p: Lists, own: float | None) -> list[float]:
    return [*s_p] if own is None else [*s_p, own]


def smooth_ap(s_n: Lists, s_p: Lists, *, tau: float = 0.01, own: float | None = None) -> float:
    ranked, ratios = items(s_p, own), []
    for i, s in enumerate(ranked):
        among = 1 + ahead(ranked[:i] + ranked[i + 1 :], s, tau)
        ratios.append(among / (among + ahead(s_n, s, tau)))
    return 1 - sum(ratios) / len(ratios)


PENALTIES: dict[str, Callable[[float], float]] = {
    "o": lambda r: r,
    "iu": lambda r: (1 + r) * math.log(1 + r),
    "ib": lambda r: (3 * r - math.log(1 + 3 * r)) / 9,
    "ds": lambda r: math.log(1 + r),
    "dq": lambda r: 1 - (1 + r) ** -1.5,
}


def pnp(s_n: Lists, s_p: Lists, *, variant: str, tau: float = 0.01, own: float | None = None) -> float:
    ranked = items(s_p, own)
    return sum(PENALTIES[variant](ahead(s_n, s, tau)) for s in ranked) / len(ranked)


def recall_at_k(s_n: Lists, s_p: Lists, *, k: Sequence[int], tau: float = 0.01, tau_k: float = 1.0, own: float | None = None) -> float:
    query = [] if own is None else [own]
    rank = [1 + ahead([*s_n, *s_p[:i], *s_p[i + 1 :], *query], s, tau) for i, s in enumerate(s_p)]
    recalls = [min(m, sum(sigmoid((m - r) / tau_k) for r in rank)) / min(m, len(s_p)) for m in k]
    return 1 - sum(recalls) / len(recalls)


def fast_ap(s_n: Lists, s_p: Lists, *, num_bins: int = 10, low: float = -1.0, high: float = 1.0) -> float:
    step = (high - low) / num_bins
    nodes = [high - step * m for m in range(num_bins + 1)]  # the nearest first
    h_p, h_n = ([sum(max(0.0, 1 - abs(min(max(s, low), high) - t) / step) for s in scores) for t in nodes] for scores in (s_p, s_n))
    above_p, above = 0.0, 0.0
    total = 0.0
    for p, n in zip(h_p, h_n, strict=True):
        above_p, above = above_p + p, above + p + n
        total += p * above_p / above if above > 0 else 0.0
    return 1 - total / len(s_p)


TAU = 0.3
Case = tuple[Callable[..., Loss], Callable[..., Tensor], Callable[..., float], bool]
CASES: dict[str, Case] = {
    "fast": (FastAPLoss, F.fast_ap, fast_ap, False),
    "fast-3": (partial(FastAPLoss, 3), partial(F.fast_ap, num_bins=3), partial(fast_ap, num_bins=3), False),
    "smooth": (partial(SmoothAPLoss, TAU), partial(F.smooth_ap, temperature=TAU), partial(smooth_ap, tau=TAU), False),
    "smooth-self": (
        partial(SmoothAPLoss, TAU, include_self=True),
        partial(F.smooth_ap, temperature=TAU, include_self=True),
        partial(smooth_ap, tau=TAU, own=1.0),
        False,
    ),
    "recall": (
        partial(RecallAtKLoss, (1, 3), temperature=TAU, rank_temperature=0.5),
        partial(F.recall_at_k, k=(1, 3), temperature=TAU, rank_temperature=0.5),
        partial(recall_at_k, k=(1, 3), tau=TAU, tau_k=0.5),
        True,
    ),
    "recall-self": (
        partial(RecallAtKLoss, 2, temperature=TAU, include_self=True),
        partial(F.recall_at_k, k=[2], temperature=TAU, include_self=True),
        partial(recall_at_k, k=[2], tau=TAU, own=1.0),
        True,
    ),
    **{
        f"pnp-{variant}": (
            partial(PNPLoss, variant, temperature=TAU, scale=3.0, power=1.5),
            partial(F.pnp, variant=variant, temperature=TAU, scale=3.0, power=1.5),
            partial(pnp, variant=variant, tau=TAU),
            False,
        )
        for variant in PENALTIES
    },
    "pnp-self": (
        partial(PNPLoss, "ds", temperature=TAU, include_self=True),
        partial(F.pnp, variant="ds", temperature=TAU, include_self=True),
        partial(pnp, variant="ds", tau=TAU, own=1.0),
        False,
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def gradient(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), x, materialize_grads=True)[0]


@every_case
def test_value_is_that_of_the_paper(name: str) -> None:
    _, function, spec, _ = CASES[name]

    @settings(max_examples=40)
    @given(score_lists((-1.0, 1.0)))
    def run(scores: tuple[list[float], list[float]]) -> None:
        s_n, s_p = (torch.tensor([values], dtype=torch.float64) for values in scores)
        if scores[1]:
            assert float(function(s_n, s_p)) == pytest.approx(spec(*scores), abs=1e-12)

    run()


@every_case
def test_slope_is_that_of_the_paper(name: str) -> None:
    _, function, spec, _ = CASES[name]
    step = 1e-6
    for seed in range(8):
        draw = torch.Generator().manual_seed(seed)
        leaves = [torch.rand(1, n, dtype=torch.float64, generator=draw) * 1.9 - 0.95 for n in (4, 3)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        got = torch.autograd.grad(function(*leaves).sum(), leaves)
        lists = [leaf[0].tolist() for leaf in leaves]
        for side, k in [(0, 0), (0, 3), (1, 0), (1, 2)]:
            ends = []
            for h in (step, -step):
                moved = [list(values) for values in lists]
                moved[side][k] += h
                ends.append(spec(*moved))
            assert float(got[side][0, k]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def naive(batch: Batch, spec: Callable[..., float], needs_negatives: bool, references: Batch | None = None) -> float:
    """By loops over anchors and references."""
    unit = [torch.nn.functional.normalize(b.embeddings.detach(), dim=1) for b in (batch, references or batch)]
    scores, losses = unit[0] @ unit[1].mT, []
    others = (references or batch).labels.tolist()
    for i, label in enumerate(batch.labels.tolist()):
        row = [(float(s), other) for j, (s, other) in enumerate(zip(scores[i], others, strict=True)) if references is not None or i != j]
        s_p = [s for s, other in row if other == label]
        s_n = [s for s, other in row if other not in (label, -1)]
        if label >= 0 and s_p and (s_n or not needs_negatives):
            losses.append(spec(s_n, s_p))
    return sum(losses) / max(1, len(losses))


@every_case
def test_batches_with_classes_of_any_size_and_order(name: str) -> None:
    make, _, spec, needs_negatives = CASES[name]
    labels = torch.tensor([2, 0, 0, 5, 0, -1, 2, 0, 7, 5, 0])
    for seed in range(3):
        batch = Batch(generic(seed, 11, 4).embeddings, labels[torch.randperm(11, generator=torch.Generator().manual_seed(seed))])
        assert make()(batch.fresh(), batch.labels).item() == pytest.approx(naive(batch, spec, needs_negatives), abs=1e-12)
        references = generic(seed + 9, 6, 4)
        got = make()(batch.fresh(), batch.labels, (references.embeddings, references.labels))
        assert got.item() == pytest.approx(naive(batch, spec, needs_negatives, references), abs=1e-12)


@every_case
def test_nothing_to_learn_gives_exactly_zero(name: str) -> None:
    make = CASES[name][0]
    some, equal = torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.5, 0.25]]), torch.tensor([[0.6, 0.8]] * 3)
    cases = [(torch.empty(0, 2), []), (some[:1], [3]), (some, [0, 1, 2]), (some, [4, 4, 4]), (equal, [4, 4, 4]), (some, [0, -1, -1])]
    for points, labels in cases:
        for execution in ("dense", "tiled"):
            x = points.clone().requires_grad_()
            value = make(execution=execution)(x, labels)
            assert value == 0
            assert value.requires_grad
            assert not gradient(value, x).any()


@every_case
def test_finite_whatever_the_batch(name: str) -> None:
    make = CASES[name][0]

    @settings(max_examples=15)
    @given(batches(dtypes=(torch.float16, torch.bfloat16, torch.float32, torch.float64)))
    def run(batch: Batch) -> None:
        x = batch.fresh()
        value = make()(x, batch.labels)
        assert value.isfinite()
        assert value >= -1e-6
        assert gradient(value, x).isfinite().all()

    run()


@every_case
def test_tiles_and_miners_and_order(name: str) -> None:
    make = CASES[name][0]
    batch = Batch(generic(4, 13, 4).embeddings, torch.tensor([0, 1, 1, 2, 0, 0, -1, 3, 1, 0, 3, 2, 1]))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    for miner in (None, HardMiner(), DistanceWeightedMiner(generator=torch.Generator().manual_seed(7))):
        for reduction in ("mean", "none"):
            results = []
            for execution in ("dense", "tiled"):
                loss = make(execution=execution, miner=miner, reduction=reduction, memory_budget=8 * 14 * 3)
                if miner is not None and miner.generator is not None:
                    miner.generator.manual_seed(7)
                x = batch.fresh()
                value = loss(x, batch.labels)
                results.append((value.detach(), gradient(value * torch.arange(1, value.numel() + 1).reshape(value.shape), x)))
            for dense, tiled in zip(*results, strict=True):
                torch.testing.assert_close(tiled, dense, rtol=1e-10, atol=1e-12)
    moved = make()(batch.embeddings[order], batch.labels[order])
    torch.testing.assert_close(moved, make()(batch.embeddings, batch.labels), rtol=1e-12, atol=1e-13)


def test_limit_of_small_temperatures_is_average_precision() -> None:
    batch = generic(0, 40, 5, classes=4)
    expected = mean_average_precision(batch.embeddings.detach(), batch.labels)
    assert SmoothAPLoss(1e-7)(batch.embeddings, batch.labels).item() == pytest.approx(1 - float(expected), abs=1e-9)


def test_fast_ap_is_average_precision_where_no_bin_is_shared() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        nodes = torch.randperm(21, generator=draw)[:8].double() / 10 - 1
        ranked = sorted([(float(s), True) for s in nodes[:3]] + [(float(s), False) for s in nodes[3:]], reverse=True)
        ranks = [i + 1 for i, (_, positive) in enumerate(ranked) if positive]
        expected = sum((k + 1) / rank for k, rank in enumerate(ranks)) / 3
        assert float(F.fast_ap(nodes[None, 3:], nodes[None, :3], num_bins=20)) == pytest.approx(1 - expected)


def test_recall_at_k_of_a_perfect_ranking() -> None:
    s_n, s_p = torch.full((1, 5), -0.5), torch.tensor([[0.9]])
    assert float(F.recall_at_k(s_n, s_p, k=[1])) == pytest.approx(0.5)  # a positive of rank k counts half
    assert float(F.recall_at_k(s_n, s_p, k=[2])) == pytest.approx(1 - sigmoid(1))
    assert float(F.recall_at_k(s_n, s_p, k=[1], include_self=True)) == pytest.approx(1 - sigmoid(-1), abs=1e-4)  # never first
    assert float(F.recall_at_k(s_n, s_p, k=[1], rank_temperature=1e-3, temperature=1e-9)) == pytest.approx(0.5)


def test_recall_is_capped_without_gradient() -> None:
    s_n, s_p = torch.tensor([[-0.5]]), torch.tensor([[0.9, 0.9, 0.9, 0.9]], requires_grad=True)
    value = F.recall_at_k(s_n, s_p, k=[1], rank_temperature=5.0)  # four positives of rank 2.5 add up to more than one
    assert value == 0
    assert not gradient(value, s_p).any()


def test_positives_compete_in_smooth_ap_but_not_in_pnp() -> None:
    s_n, s_p = torch.tensor([[0.9]]), torch.tensor([[0.5, 0.49]], requires_grad=True)
    assert gradient(F.smooth_ap(s_n, s_p), s_p)[0, 0] > 0  # the positive ahead is to fall back, since it holds up the other
    assert gradient(F.pnp(s_n, s_p, variant="o"), s_p).max() <= 0


def test_pnp_of_one_positive_is_smooth_ap() -> None:
    draw = torch.Generator().manual_seed(0)
    s_n, s_p = torch.rand(6, 5, generator=draw), torch.rand(6, 1, generator=draw)
    torch.testing.assert_close(F.pnp(s_n, s_p, variant="dq"), F.smooth_ap(s_n, s_p))


def test_include_self_raises_average_precision() -> None:
    batch = generic(2, 12, 4)
    for make in (SmoothAPLoss, partial(PNPLoss, "o")):
        assert make(include_self=True)(batch.embeddings, batch.labels) < make()(batch.embeddings, batch.labels)
    on_distances = SmoothAPLoss(0.3, include_self=True, similarity=NegativeSquaredEuclidean())
    x = torch.tensor([[0.0], [1.0], [1.5]], dtype=torch.float64)
    # Only the first two have a positive; the score of a point with itself is 0.
    expected = (smooth_ap([-2.25], [-1.0], tau=0.3, own=0.0) + smooth_ap([-0.25], [-1.0], tau=0.3, own=0.0)) / 2
    assert float(on_distances(x, [0, 0, 1])) == pytest.approx(expected)
    with pytest.raises(ValueError, match="include_self"):
        RecallAtKLoss(include_self=True, similarity=InnerProduct())


def test_fast_ap_on_distances() -> None:
    batch = generic(3, 10, 4)
    x = torch.nn.functional.normalize(batch.embeddings.detach(), dim=1)
    on_distances = FastAPLoss(similarity=NegativeSquaredEuclidean())(x, batch.labels)
    torch.testing.assert_close(on_distances, FastAPLoss()(x, batch.labels))
    far = FastAPLoss(similarity=NegativeEuclidean(), low=-1.0)(100 * x, batch.labels)  # everything at the lowest node
    assert float(far) == pytest.approx(naive(batch, lambda s_n, s_p: len(s_n) / (len(s_n) + len(s_p)), True))


def test_ends_of_the_range() -> None:
    """Cosines of 1, and above it by rounding, lie in the last bin."""
    s_p = torch.tensor([[1.0 + 1e-7, 1.0, -1.0 - 1e-7]], requires_grad=True)
    value = F.fast_ap(torch.tensor([[1.0, 0.1]]), s_p)
    assert value.item() == pytest.approx(fast_ap([1.0, 0.1], [1.0, 1.0, -1.0]), abs=1e-6)
    assert gradient(value, s_p).isfinite().all()


def test_derivatives_of_any_order() -> None:
    draw = torch.Generator().manual_seed(0)
    s, t = (torch.rand(2, n, dtype=torch.float64, generator=draw).requires_grad_() for n in (5, 3))
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True, True, True], [False] * 5])

    def f(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
        return count_above(Scores(s, mask), t, tau)

    assert torch.autograd.gradcheck(f, (s, t, tau))
    assert torch.autograd.gradgradcheck(f, (s, t, tau))
    assert torch.equal(f(s, t, tau)[1], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FastAPLoss(4),
        lambda: SmoothAPLoss(TAU),
        lambda: RecallAtKLoss((1, 2), temperature=TAU),
        lambda: PNPLoss("iu", temperature=TAU),
    ],
)
def test_second_derivatives_of_losses(make: Callable[[], Loss]) -> None:
    batch = generic(1, 6, 3)
    loss = make()
    assert torch.autograd.gradcheck(lambda x: loss(x, batch.labels), batch.fresh())
    loss.execution = "dense"
    assert torch.autograd.gradgradcheck(lambda x: loss(x, batch.labels), batch.fresh())


@pytest.mark.parametrize("make", [SmoothAPLoss, FastAPLoss, RecallAtKLoss])
def test_memory_is_that_of_a_score_block(make: Callable[..., Loss]) -> None:
    """What the dense path keeps for backward does not grow with the number of positives."""
    n, held = 96, []

    def pack(x: Tensor) -> Tensor:
        held.append(x.numel() * x.element_size())
        return x

    x = generic(0, n, 4, dtype=torch.float32).fresh()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = make(execution="dense")(x, torch.arange(n) % 2)
    assert sum(held) < 24 * 4 * n * n  # a cube would be 48 blocks on its own
    value.backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("make", [FastAPLoss, lambda: SmoothAPLoss(0.1, include_self=True)])
def test_compiled_and_transformed(make: Callable[[], Loss]) -> None:
    loss, batch = make(), generic(5, 8, 3)
    x, labels = batch.embeddings.detach(), batch.labels
    y = batch.fresh()
    expected = gradient(loss(y, labels), y)
    torch._dynamo.reset()
    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled(y, labels), y), expected)
    torch.testing.assert_close(torch.func.grad(lambda e: loss(e, labels))(x), expected)
    batched = torch.func.vmap(lambda e: loss(e, labels))(torch.stack([x, -x]))
    torch.testing.assert_close(batched, torch.stack([loss(x, labels), loss(-x, labels)]))
    _, tangent = torch.func.jvp(lambda e: loss(e, labels), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, expected.sum())
    assert loss(x.to("meta"), labels.to("meta")).shape == ()


@every_case
def test_positives_by_a_relation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come as a mask over all references, of which few are positives: time and memory are those of the few."""
    make, batch, widths = CASES[name][0], generic(7, 24, 4, classes=8), []

    def counting(scores: Scores, thresholds: Tensor, temperature: Any) -> Tensor:
        widths.append(thresholds.shape[1])
        return count_above(scores, thresholds, temperature)

    monkeypatch.setattr(F, "count_above", counting)
    for execution in ("dense", "tiled"):
        x = batch.fresh()
        value = make(execution=execution, relation=lambda a, b: a.unsqueeze(1) == b)(x, batch.labels)
        expected = make()(x, batch.labels)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient(value, x), gradient(expected, x), rtol=1e-9, atol=1e-12)
    assert max(widths, default=0) <= 5  # two classmates, with the query and spare cells


def test_temperature_can_be_learned() -> None:
    batch = generic(6, 9, 3)
    for execution in ("dense", "tiled"):
        tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        loss = SmoothAPLoss(tau, execution=execution, memory_budget=300)

        def value(t: Tensor, loss: Any = loss) -> Tensor:
            loss.temperature = t
            return loss(batch.embeddings.detach(), batch.labels)

        assert torch.autograd.gradcheck(value, tau)


@given(st.sampled_from(["temperature", "rank_temperature"]), st.sampled_from([0, -1.0, math.nan, math.inf]))
def test_wrong_numbers(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        RecallAtKLoss(**{name: value})


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"variant.*Did you mean 'dq'"):
        PNPLoss("Dq")
    with pytest.raises(ValueError, match="variant"):
        F.pnp(torch.zeros(1, 1), torch.zeros(1, 1), variant="d")
    with pytest.raises(ValueError, match="scale"):
        PNPLoss("ib", scale=0.0)
    with pytest.raises(ValueError, match="num_bins"):
        FastAPLoss(0)
    with pytest.raises(ValueError, match="less than `high`"):
        FastAPLoss(low=1.0)
    with pytest.raises(ValueError, match="k"):
        RecallAtKLoss(())
    with pytest.raises(ValueError, match="at least 1"):
        RecallAtKLoss((1, 0))
    with pytest.raises(TypeError, match="whole number"):
        RecallAtKLoss("12")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Did you mean 'temperature'"):
        SmoothAPLoss(temprature=0.1)
