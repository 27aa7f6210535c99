"""The ranking surrogates against the metrics they stand in for, and what is special about them. The kit checks the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from metriczoo.functional import ranking as F
from metriczoo.functional._ranks import count_above
from metriczoo.losses.base import Loss
from metriczoo.losses.ranking import FastAPLoss, PNPLoss, RecallAtKLoss, SmoothAPLoss
from metriczoo.metrics import mean_average_precision
from metriczoo.scores import Scores
from metriczoo.similarity import InnerProduct, NegativeEuclidean, NegativeSquaredEuclidean
from metriczoo.testing import Subject
from metriczoo.testing.strategies import generic
from metriczoo.testing.zoo._ranking import SUBJECTS, fast_ap, sigmoid, smooth_ap


def gradient(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), x, materialize_grads=True)[0]


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


def test_recall_at_k_with_a_temperature_of_ranks_for_each_k() -> None:
    """As in the authors' code, whose temperatures of ranks are the k: each has its own, and recall is their mean."""
    draw = torch.Generator().manual_seed(0)
    s_n, s_p = torch.rand(6, 20, generator=draw), torch.rand(6, 4, generator=draw)
    tops, taus = (1, 2, 4, 8, 16), [1.0, 2.0, 4.0, 8.0, 16.0]
    value = F.recall_at_k(s_n, s_p, k=tops, rank_temperature=taus)
    one_by_one = [F.recall_at_k(s_n, s_p, k=[top], rank_temperature=tau) for top, tau in zip(tops, taus, strict=True)]
    torch.testing.assert_close(value, torch.stack(one_by_one).mean(0))
    assert not torch.allclose(value, F.recall_at_k(s_n, s_p, k=tops))
    batch = generic(0, 24, 5, classes=4)
    x, labels = batch.embeddings.detach(), batch.labels
    assert RecallAtKLoss(tops, rank_temperature=[0.5] * 5)(x, labels) == RecallAtKLoss(tops, rank_temperature=0.5)(x, labels)
    assert RecallAtKLoss(3, rank_temperature=[2.0])(x, labels) == RecallAtKLoss(3, rank_temperature=2.0)(x, labels)


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
    same = batch.labels.unsqueeze(1) == batch.labels
    expected = (~same).sum(1).double()[same.sum(1) > 1] / 9
    assert float(far) == pytest.approx(float(expected.mean()))


def test_ends_of_the_range() -> None:
    """Cosines of 1, and above it by rounding, lie in the last bin."""
    s_p = torch.tensor([[1.0 + 1e-7, 1.0, -1.0 - 1e-7]], requires_grad=True)
    value = F.fast_ap(torch.tensor([[1.0, 0.1]]), s_p)
    assert value.item() == pytest.approx(fast_ap([1.0, 0.1], [1.0, 1.0, -1.0], bins=10), abs=1e-6)
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


@pytest.mark.parametrize("make", [FastAPLoss, lambda: SmoothAPLoss(0.1, include_self=True)])
def test_forward_mode(make: Callable[[], Loss]) -> None:
    loss, batch = make(), generic(5, 8, 3)
    x = batch.fresh()
    _, tangent = torch.func.jvp(lambda e: loss(e, batch.labels), (x.detach(),), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, gradient(loss(x, batch.labels), x).sum())


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_positives_by_a_relation(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come as a mask over all references, of which few are positives: time and memory are those of the few."""
    batch, widths = generic(7, 24, 4, classes=8), []

    def counting(scores: Scores, thresholds: Tensor, temperature: Any) -> Tensor:
        widths.append(thresholds.shape[1])
        return count_above(scores, thresholds, temperature)

    monkeypatch.setattr(F, "count_above", counting)
    for execution in ("dense", "tiled"):
        x = batch.fresh()
        value = subject(x, batch.labels, execution=execution, relation=lambda a, b: a.unsqueeze(1) == b)
        expected = subject(x, batch.labels)
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


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"variant.*Did you mean 'dq'"):
        PNPLoss("Dq")
    with pytest.raises(ValueError, match="variant"):
        F.pnp(torch.zeros(1, 1), torch.zeros(1, 1), variant="d")
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
    with pytest.raises(ValueError, match="`rank_temperature` to be one number or 2, one for each `k`, but got 3"):
        RecallAtKLoss((1, 2), rank_temperature=(1, 2, 3))
    with pytest.raises(ValueError, match="`rank_temperature` to be one number or 5, one for each `k`, but got 1"):
        F.recall_at_k(torch.zeros(1, 1), torch.zeros(1, 1), rank_temperature=[1.0])
    with pytest.raises(ValueError, match=r"`rank_temperature`.*in \(0, inf\), but got 0"):
        RecallAtKLoss((1, 2), rank_temperature=(1, 0))
    with pytest.raises(TypeError, match="`rank_temperature` to be a real number, but got '12'"):
        RecallAtKLoss((1, 2), rank_temperature="12")  # type: ignore[arg-type]
