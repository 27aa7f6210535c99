"""References in chunks: the same values and gradients as dense, without any array of the size of all scores."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import metriczoo._stream
from metriczoo import Scores, losses, similarity
from metriczoo._stream.chunks import Chunks
from metriczoo.functional._classes import _softmax_mean
from metriczoo.references import References
from metriczoo.scores import LOWEST
from metriczoo.stores import MemoryBank, Proxies

CLASSES, DIM = 30, 5


def _around(n: Scores, middle: Tensor) -> Scores:
    """Whose map holds what has a gradient."""
    return n.map(lambda s: (s - middle.unsqueeze(1)).square())


def _times(n: Scores, factor: Tensor) -> Scores:
    return n.map(lambda s: s * factor.unsqueeze(1))


def _mean_of_groups(n: Scores, p: Scores) -> Tensor:
    """Which has to count them."""
    return n.groups(2, _max).mean() - p.sum()


def _max(v: Tensor) -> Tensor:
    return v.amax(1)


def _mean_of_two(v: Tensor) -> Tensor:
    """Of the cells of each pair that are there."""
    there = v > -1e9
    return torch.where(there.any(1), torch.where(there, v, 0.0).sum(1) / there.sum(1).clamp(min=1), LOWEST)


BIAS = torch.nn.Parameter(torch.linspace(-1, 1, CLASSES, dtype=torch.float64))

FOLDS: dict[str, Callable[[Scores, Scores], Tensor]] = {
    "sum": lambda n, p: n.map(torch.square).sum() - p.sum(),
    "mean": lambda n, p: n.map(torch.exp).mean() - p.mean(),
    "max": lambda n, p: (n.max() - p.min() + 0.2).relu(),
    "min": lambda n, p: (p.max() - n.map(torch.square).min() + 0.2).relu(),
    "logsumexp": lambda n, p: n.logsumexp(4.0) - p.sum(),
    "topk": lambda n, p: n.map(lambda s: 2 * s).topk(3).logsumexp() - p.sum(),
    "smallest": lambda n, p: n.topk(4, largest=False).sum() - p.sum(),
    "where": lambda n, p: n.where((p.count() > 0).unsqueeze(1)).map(torch.square).sum() - p.sum(),
    "constant": lambda n, p: n.map(lambda s: torch.ones_like(s[:, :1]).expand_as(s)).sum() + n.map(Tensor.detach).max() - p.sum(),
    "groups": lambda n, p: n.map(lambda s: 2 * s).groups(3, lambda v: v.amax(1)).map(torch.square).logsumexp() - p.sum(),
    "groups-and-cells": lambda n, p: n.groups(2, _mean_of_two).logsumexp(3.0) + n.map(torch.square).sum() + n.groups(2, _max).sum(),
    "offset": lambda n, p: n.map(torch.square).offset(BIAS).logsumexp() + n.offset(BIAS).topk(3).sum() - p.offset(BIAS).sum(),
    "offset-groups": lambda n, p: n.offset(BIAS.square()).groups(3, _max).sum() - p.sum(),
    "count": lambda n, p: n.count() * n.logsumexp() - p.sum(),
    "holds-positives": lambda n, p: _around(n, p.max().clamp(min=-2)).mean(),
    "holds-a-fold": lambda n, p: _around(n, n.logsumexp()).sum() - p.sum(),
    "holds-folds-of-folds": lambda n, p: _around(n, _times(n, n.max()).logsumexp(2.0)).sum() - p.sum(),
}

ZOO: dict[str, Callable[..., losses.Loss]] = {
    **{name: lambda f=f, **options: losses.from_function(f, parameters=[BIAS], **options) for name, f in FOLDS.items()},  # type: ignore[misc]
    "arc-face": losses.ArcFaceLoss,
    "arc-face-margins": lambda **options: losses.ArcFaceLoss(margin=torch.linspace(0.1, 0.5, CLASSES).double().requires_grad_(), **options),
    "am-softmax": losses.AMSoftmaxLoss,
    "norm-face-learned": lambda **options: losses.NormFaceLoss(learnable=True, **options),
    "softmax-bias": lambda **options: losses.SoftmaxLoss(bias=True, **options),
    "l2-softmax": losses.L2SoftmaxLoss,
    "large-margin": losses.LargeMarginSoftmaxLoss,
    "sphere-face": losses.SphereFaceLoss,
    "mag-face": losses.MagFaceLoss,
    "ada-face": losses.AdaFaceLoss,
    "curricular-face": losses.CurricularFaceLoss,
    "sphere-face-2": losses.SphereFace2Loss,
    "p2s-grad": losses.P2SGradLoss,
    "sub-center": losses.SubCenterArcFaceLoss,
    "soft-triple": losses.SoftTripleLoss,
    "proxy-nca": losses.ProxyNCALoss,
    "contrastive": losses.ContrastiveLoss,
    "circle": losses.CircleLoss,
    "supcon": losses.SupConLoss,
    "squared-euclidean": lambda **options: losses.CircleLoss(scale=4.0, similarity=similarity.NegativeSquaredEuclidean(), **options),
    "mahalanobis": lambda **options: losses.CircleLoss(scale=4.0, similarity=similarity.Mahalanobis(DIM, rank=4), **options),
    "signal-to-noise": lambda **options: losses.CircleLoss(scale=4.0, similarity=similarity.SignalToNoise(), **options),
}
CELLS: dict[str, Callable[..., losses.Loss]] = {
    "triplet": losses.TripletMarginLoss,
    "mean-of-groups": lambda **options: losses.from_function(_mean_of_groups, **options),
}


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was streamed."""
    made: list[Any] = []
    start = metriczoo._stream.Stream.__init__

    def note(self: Any, *args: Any, **options: Any) -> None:
        made.append(self)
        start(self, *args, **options)

    monkeypatch.setattr(metriczoo._stream.Stream, "__init__", note)
    return made


def _batch(n: int = 12) -> tuple[Tensor, Tensor]:
    """With an ignored label, and two anchors of one class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, DIM, dtype=torch.float64, generator=generator)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    labels[3], labels[7] = labels[5], -1
    return x, labels


def _evaluated(make: Callable[..., losses.Loss], create_graph: bool = False, **options: Any) -> list[Tensor]:
    """Value, and gradients of points, of all parameters, and, with `create_graph`, of their squares."""
    torch.manual_seed(1)
    loss = make(num_classes=CLASSES, embedding_dim=DIM, **options).double()
    x, labels = _batch()
    inputs = [x.requires_grad_(), *loss.parameters()]
    value = loss(x, labels)
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    gradients = torch.autograd.grad(value, inputs, weights, create_graph=create_graph, materialize_grads=True)
    result = [value, *gradients]
    if create_graph:
        squares = sum((g.square().sum() for g in gradients), torch.zeros(()).double())
        result += torch.autograd.grad(squares, inputs, materialize_grads=True)
    return result


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "mean_pairs", "sum", "none"])
def test_streamed_equals_dense(name: str, reduction: str, streams: list[Any]) -> None:
    expected = _evaluated(ZOO[name], reduction=reduction, execution="dense")
    assert not streams
    for cells in (1, 20, 60, 200):  # chunks of one reference, several blocks of anchors, a chunk that is not full
        torch.testing.assert_close(_evaluated(ZOO[name], reduction=reduction, memory_budget=8 * cells), expected, rtol=1e-9, atol=1e-10)
        assert streams
        streams.clear()


@pytest.mark.parametrize("name", ["arc-face", "norm-face-learned", "holds-a-fold", "mahalanobis"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives(name: str, reduction: str) -> None:
    expected = _evaluated(ZOO[name], create_graph=True, reduction=reduction, execution="dense")
    found = _evaluated(ZOO[name], create_graph=True, reduction=reduction, memory_budget=8 * 60)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CELLS)
def test_losses_that_look_at_cells_are_tiled(name: str, streams: list[Any]) -> None:
    """It is tried once."""
    expected = _evaluated(CELLS[name], execution="dense")
    torch.testing.assert_close(_evaluated(CELLS[name], memory_budget=8 * 60), expected)
    assert len(streams) == 1
    loss = CELLS[name](num_classes=CLASSES, embedding_dim=DIM, memory_budget=8 * 60)
    x, labels = _batch()
    streams.clear()
    for _ in range(3):
        loss(x.float(), labels)
    assert len(streams) == 1


def test_small_problems_are_not_streamed(streams: list[Any]) -> None:
    x, labels = _batch()
    losses.ArcFaceLoss(CLASSES, DIM)(x.float(), labels)
    assert not streams


@given(st.data())
def test_references_in_any_order(data: st.DataObject) -> None:
    """Labels that repeat, come in any order or are ignored, points that are anchors, zeros, equal points."""
    n, b = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    numbers = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
    points = torch.tensor(data.draw(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=n, max_size=n)), dtype=torch.float64)
    labels, ids = (torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))) for _ in range(2))
    x = torch.tensor(data.draw(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=b, max_size=b)), dtype=torch.float64)
    own, own_ids = (torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=b, max_size=b))) for _ in range(2))
    make = ZOO[data.draw(st.sampled_from(["max", "logsumexp", "mean", "circle", "supcon", "contrastive", "topk"]))]
    found = []
    for options in ({"execution": "dense"}, {"memory_budget": 8 * data.draw(st.integers(1, 30))}):
        y, r = x.clone().requires_grad_(), points.clone().requires_grad_()
        value = make(**options)(y, own, References(r, labels, ids), ids=own_ids)
        gradients = torch.autograd.grad(value, [y, r], materialize_grads=True) if value.requires_grad else ()
        found.append([value, *gradients])
    assume(bool(found[0][0].isfinite()))  # a bare fold of an empty set may not be
    compared = 1 if make is ZOO["topk"] else 3  # which of equal values are taken is open
    torch.testing.assert_close(found[1][:compared], found[0][:compared], rtol=1e-8, atol=1e-8)


@given(st.data())
def test_groups_of_which_some_are_left_out(data: st.DataObject) -> None:
    """By label, or a cell by itself by its id."""
    n, b = data.draw(st.sampled_from([6, 12])), data.draw(st.integers(1, 5))
    points, x = (torch.randn(k, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n + b)) for k in (n, b))
    labels, ids = (torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))) for _ in range(2))
    own, own_ids = (torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=b, max_size=b))) for _ in range(2))
    size, fold = (
        data.draw(st.sampled_from([2, 3])),
        data.draw(st.sampled_from([_max, _mean_of_two, partial(_softmax_mean, temperature=0.2)])),
    )
    found = []
    for options in ({"execution": "dense"}, {"memory_budget": 8 * data.draw(st.integers(1, 60))}):
        loss = losses.from_function(lambda n, p: n.groups(size, fold).map(torch.sin).logsumexp().clamp(min=-9) - p.sum(), **options)  # type: ignore[arg-type]
        y, r = x.clone().requires_grad_(), points.clone().requires_grad_()
        value = loss(y, own, References(r, labels, ids), ids=own_ids)
        found.append([value, *torch.autograd.grad(value, [y, r], materialize_grads=True)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [*FOLDS, "arc-face", "circle", "squared-euclidean"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_references_without_gradient(name: str, reduction: str) -> None:
    """The gradient of anchors is gathered in the first pass."""
    x, labels = _batch()
    points = torch.randn(CLASSES, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for cells in (20, 60, 200):
        found = []
        for options in ({"execution": "dense"}, {"memory_budget": 8 * cells}):
            y, loss = x.clone().requires_grad_(), ZOO[name](reduction=reduction, **options).double().requires_grad_(False)
            value = loss(y, labels, (points, range(CLASSES)))
            found.append([value, *torch.autograd.grad(value, [y], torch.linspace(1, 2, value.numel()).reshape(value.shape).to(value))])
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


def test_a_bank_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[slice] = []
    points = Chunks.points
    monkeypatch.setattr(Chunks, "points", lambda self, chunk: read.append(chunk) or points(self, chunk))
    x, labels = _batch()
    bank = (torch.eye(CLASSES)[:, :DIM].double(), range(CLASSES))
    losses.NTXentLoss(memory_budget=8 * 50)(x[:2].requires_grad_(), labels[:2], bank).backward()
    assert sum(chunk.stop - chunk.start for chunk in read) == CLASSES


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_only_what_is_wanted(wanted: tuple[bool, bool]) -> None:
    x, labels = _batch()
    found = []
    for options in ({"execution": "dense"}, {"memory_budget": 8 * 60}):
        torch.manual_seed(0)
        loss = losses.ArcFaceLoss(CLASSES, DIM, **options).double()
        loss.requires_grad_(wanted[1])
        y = x.clone().requires_grad_(wanted[0])
        value = loss(y, labels)
        assert value.requires_grad == any(wanted)
        inputs = [t for t in (y, loss.proxies.weight) if t.requires_grad]
        found.append([value, *(torch.autograd.grad(value, inputs) if inputs else ())])
    torch.testing.assert_close(found[0], found[1])


def test_lengths_beyond_what_can_be_squared() -> None:
    """Zero vectors, and such as over- or underflow where they are squared, take the slower way to unit vectors."""
    x, labels = _batch()
    found = []
    for options in ({"execution": "dense"}, {"memory_budget": 8 * 60}):
        torch.manual_seed(0)
        loss = losses.ArcFaceLoss(CLASSES, DIM, **options).double()
        with torch.no_grad():
            loss.proxies.weight[2] = 0
            loss.proxies.weight[4] *= 1e170
            loss.proxies.weight[6] *= 1e-9
        value = loss(x.clone().requires_grad_(), labels)
        found.append([value, *torch.autograd.grad(value, loss.parameters())])
    assert bool(found[0][1].isfinite().all()) and bool((found[0][1][2] == 0).all())
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_proxies(dtype: torch.dtype) -> None:
    x, labels = _batch()
    found = []
    for options in ({"execution": "dense"}, {"memory_budget": 4 * 60}):
        torch.manual_seed(0)
        loss = losses.ArcFaceLoss(proxies=Proxies(CLASSES, DIM, dtype=dtype), scale=8.0, **options)
        value = loss(x.float(), labels)
        (gradient,) = torch.autograd.grad(value, loss.parameters())
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        found.append([value, gradient])
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-4)


def test_a_graph_that_is_kept() -> None:
    """The gradient is given away by the first backward, which is to be none the wiser for it."""
    x, labels = _batch()
    loss = losses.ArcFaceLoss(CLASSES, DIM, memory_budget=8 * 60).double()
    value = loss(x.requires_grad_(), labels)
    first = torch.autograd.grad(value, [x, loss.proxies.weight], 2 * torch.ones_like(value), retain_graph=True)
    second = torch.autograd.grad(value, [x, loss.proxies.weight], 4 * torch.ones_like(value))
    torch.testing.assert_close(second, tuple(2 * g for g in first))
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


def test_no_other_copy_of_the_gradient_is_alive() -> None:
    """Autograd then takes the tensor for `.grad` as it is."""
    x, labels = _batch()
    loss = losses.ArcFaceLoss(CLASSES, DIM, memory_budget=8 * 60).double()
    value = loss(x, labels)
    (made,) = value.grad_fn.once  # type: ignore[union-attr]
    place = made.data_ptr()
    del made
    value.backward()
    assert loss.proxies.weight.grad.data_ptr() == place


def test_a_bank_that_changed_is_no_silent_error() -> None:
    x, labels = _batch()
    bank = MemoryBank(CLASSES, DIM, dtype=torch.float64)
    bank.update(range(CLASSES), torch.randn(CLASSES, DIM, dtype=torch.float64))
    for reduction in ("mean", "none"):
        loss = losses.UnifiedLoss(memory_budget=8 * 60, reduction=reduction)
        value = loss(x.requires_grad_(), labels, bank.instances()).sum()
        bank.update([1], torch.ones(1, DIM, dtype=torch.float64))
        if reduction == "mean":
            value.backward()
        else:
            with pytest.raises(RuntimeError, match="modified in place"):
                value.backward()


def test_facts_of_a_loss_are_prepared_on_demand() -> None:
    """`Call.compared` is what it says, however references are read."""
    seen = []

    class Knowing(losses.Loss):
        def facts(self, call: losses.base.Call) -> tuple[Any, ...]:
            seen.append(call.compared.detach().norm(dim=1))
            return (call.compared.square().sum(1).mean(),)

        def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
            return s_n.logsumexp() - s_p.sum() * s_p.facts[0]

    expected = _evaluated(Knowing, execution="dense")
    torch.testing.assert_close(_evaluated(Knowing, memory_budget=8 * 60), expected)
    assert all(torch.allclose(norms, torch.ones_like(norms)) for norms in seen)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_beyond_the_gradient() -> None:
    """Scores of 256 anchors to 200,000 classes take 195 MB, and so would each pass of autograd over them; the gradient takes 98 MB."""
    code = """
        import torch
        from metriczoo import losses
        torch.set_num_threads(1)
        def memory(field):
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024
        x, labels = torch.randn(256, 128, requires_grad=True), torch.randint(20000, (256,))
        losses.ArcFaceLoss(40000, 128)(x, labels).backward()
        loss = losses.ArcFaceLoss(200000, 128)
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
        start = memory("VmRSS")
        loss(x, labels).backward()
        print(memory("VmHWM") - start)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 98 + 32
