"""The engine: tiles, gradients of all orders, memory, stores that change, tracing, devices."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
from test_product import LOSSES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import metriczoo
from metriczoo import losses, miners, similarity
from metriczoo.stores import EmbeddingQueue, MemoryBank

PLAIN = {name: make for name, make in LOSSES.items() if name != "nce"}


def _batch(n: int = 20, d: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, d, dtype=dtype, generator=generator), torch.arange(n) % 5


@pytest.mark.parametrize("rows", [1, 2, 7, 19, 20, 1000])
def test_any_height_of_tiles_gives_the_same(rows: int) -> None:
    x, labels = _batch()
    whole = losses.CircleLoss(scale=16.0, execution="dense")(x, labels)
    assert torch.allclose(losses.CircleLoss(scale=16.0, memory_budget=rows * 21 * 8)(x, labels), whole, rtol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_second_derivative_is_that_of_the_dense_form(name: str) -> None:
    x, labels = _batch(10)
    x.requires_grad_()
    v = torch.randn(10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    products = []
    for execution in ("dense", "auto"):
        loss = PLAIN[name](execution=execution, memory_budget=8 * 11 * 3)
        (first,) = torch.autograd.grad(loss(x, labels), x, create_graph=True)
        (second,) = torch.autograd.grad((first * v).sum(), x, allow_unused=True, materialize_grads=True)
        products.append(second)
    assert products[0].abs().max() > 0
    torch.testing.assert_close(products[1], products[0])


@pytest.mark.parametrize("name", ["unified", "triplet-soft", "triplet-squared", "lmnn"])
def test_hessian_is_the_derivative_of_the_gradient(name: str) -> None:
    x, labels = _batch(8, 3)
    loss = PLAIN[name]()
    assert torch.autograd.gradgradcheck(lambda e: loss(e, labels), x.clone().requires_grad_())


def test_gradients_reach_everything_that_requires_one() -> None:
    x, labels = _batch()
    margin = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    outside = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    metric = similarity.Mahalanobis(5, rank=3).double()

    def f(s_n: metriczoo.Scores, s_p: metriczoo.Scores) -> Tensor:
        return (s_n.max() - s_p.min() + margin).relu() * outside

    found = []
    for execution in ("dense", "tiled"):
        loss = losses.from_function(f, parameters=[margin, outside], similarity=metric, execution=execution, memory_budget=8 * 21 * 3)
        found.append(torch.autograd.grad(loss(x, labels), [margin, outside, metric.factor]))
    for dense, tiled in zip(*found, strict=True):
        assert dense.abs().sum() > 0
        torch.testing.assert_close(tiled, dense)


def test_a_learnable_margin_is_trained() -> None:
    x, labels = _batch()
    loss = losses.TripletMarginLoss(margin=nn.Parameter(torch.tensor(0.3)))
    assert [name for name, _ in loss.named_parameters()] == ["margin"]
    loss(x, labels).backward()
    assert loss.margin.grad is not None and 0 < float(loss.margin.grad) <= 1


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    x, labels = _batch()
    assert not losses.CircleLoss()(x, labels).requires_grad
    with torch.no_grad():
        assert not losses.CircleLoss()(x.clone().requires_grad_(), labels).requires_grad


def test_only_references_may_require_a_gradient() -> None:
    x, labels = _batch()
    for name in ("triplet", "circle", "contrastive"):
        references = x.flip(0).clone().requires_grad_()
        found = []
        for execution in ("dense", "tiled"):
            value = LOSSES[name](execution=execution, memory_budget=8 * 21 * 3)(x, labels, (references, labels.flip(0)))
            found.append(torch.autograd.grad(value, references)[0])
        torch.testing.assert_close(found[1], found[0])


def test_backward_twice_with_retain_graph_gives_the_same() -> None:
    x, labels = _batch()
    x.requires_grad_()
    value = losses.CircleLoss()(x, labels)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    (second,) = torch.autograd.grad(value, x)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, x)


def test_a_store_may_change_between_forward_and_backward() -> None:
    x, labels = _batch()
    bank = MemoryBank(20, 5, labels=labels, dtype=torch.float64)
    ids = torch.arange(20)
    x.requires_grad_()
    expected = torch.autograd.grad(losses.CircleLoss()(x, labels, bank), x)[0]
    value = losses.CircleLoss()(x, labels, bank)
    bank.update(ids, x.detach())
    assert torch.equal(torch.autograd.grad(value, x)[0], expected)


def test_a_store_that_changed_is_no_silent_error_where_it_is_needed_again() -> None:
    x, labels = _batch()
    x.requires_grad_()
    references = torch.randn(6, 5, dtype=torch.float64)
    loss = losses.UnifiedLoss(reduction="none", similarity=similarity.InnerProduct(), execution="tiled")
    value = loss(x, labels, (references, torch.arange(6) % 5))
    references.mul_(2)
    with pytest.raises(RuntimeError, match="modified in place"):
        value.sum().backward()


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_as_one_graph(name: str) -> None:
    x, labels = _batch()
    loss = LOSSES[name](**({"bank": MemoryBank(30, 5, dtype=torch.float64)} if name == "nce" else {}))
    eager = loss(x, labels)
    torch._dynamo.reset()
    traced = torch.compile(loss, fullgraph=True, backend="aot_eager")(x, labels)
    if name == "nce":  # draws other noise
        assert traced.isfinite()
    else:
        torch.testing.assert_close(traced, eager)


@pytest.mark.parametrize("miner", [miners.HardMiner(), miners.SemiHardMiner(0.5), miners.PriorityMiner(), miners.DistanceWeightedMiner()])
def test_compiles_with_a_miner(miner: miners.Miner) -> None:
    x, labels = _batch()
    torch._dynamo.reset()
    assert torch.compile(losses.TripletMarginLoss(miner=miner), fullgraph=True, backend="aot_eager")(x, labels).isfinite()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own, in torch.func.jvp
@pytest.mark.parametrize("name", PLAIN)
def test_function_transforms(name: str) -> None:
    x, labels = _batch()
    loss = PLAIN[name]()

    def f(e: Tensor) -> Tensor:
        return loss(e, labels)

    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(y), y)
    torch.testing.assert_close(torch.func.grad(f)(x), expected)
    torch.testing.assert_close(torch.func.vmap(f)(torch.stack([x, 2 * x])), torch.stack([f(x), f(2 * x)]))
    _, tangent = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, expected.sum())


def test_nce_under_a_transform() -> None:
    x, labels = _batch()
    loss = losses.NCELoss()
    with pytest.raises(RuntimeError, match=r"outside of torch\.func"):
        torch.func.grad(lambda e: loss(e, labels))(x)
    loss(x, labels)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(lambda e: loss(e, labels))(x), torch.autograd.grad(loss(y, labels), y)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_meta_device(name: str) -> None:
    """Shapes only: any factory that forgets its device, and any read of a value, fails here."""
    x, labels = torch.empty(12, 5, device="meta", requires_grad=True), torch.empty(12, dtype=torch.int64, device="meta")
    loss = LOSSES[name]().to("meta")
    if name == "nce":
        loss._estimated = True
    value = loss(x, labels)
    assert value.device.type == "meta" and value.shape == ()
    value.backward()
    assert x.grad is not None and x.grad.shape == x.shape


class _HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique_consecutive", "_unique2", "equal"):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["triplet", "circle", "unified", "am-softmax"])
def test_an_accelerator_is_never_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With reads declared dear, as on an accelerator, the tiles run on masks and no value is read."""
    for module in (
        metriczoo.columns,
        metriczoo.losses.base,
        metriczoo.reduction,
        metriczoo._body,
        metriczoo._execution,
        metriczoo.functional._pairs,
    ):
        monkeypatch.setattr(module, "reads_are_free", lambda _: False)
    x, labels = _batch()
    x.requires_grad_()
    with _HostReads() as reads:
        LOSSES[name](memory_budget=8 * 21 * 3)(x, labels).backward()
    assert reads.count == 0
    expected = torch.autograd.grad(LOSSES[name](execution="dense")(x, labels), x)[0]
    torch.testing.assert_close(x.grad, expected)


def _fresh_process(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _peak_above_start(loss: str, n: int, per_class: int) -> float:
    return _fresh_process(f"""
        import torch
        from metriczoo import losses, similarity
        torch.set_num_threads(1)
        def memory(field):
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024
        x, labels = torch.randn({n}, 128, requires_grad=True), torch.arange({n}) // {per_class}
        loss = {loss}
        loss(x[:64], labels[:64]).backward()
        start = memory("VmRSS")
        loss(x, labels).backward()
        print(memory("VmHWM") - start)
    """)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "loss", ["losses.TripletMarginLoss()", "losses.TripletMarginLoss(similarity=similarity.NegativeEuclidean())", "losses.CircleLoss()"]
)
def test_memory_does_not_hold_the_score_matrix(loss: str) -> None:
    """N = 4096: the matrix alone is 64 MB, and PyTorch's autograd would keep several."""
    assert _peak_above_start(loss, 4096, 8) < 90


def test_what_backward_needs_is_of_the_size_of_the_batch() -> None:
    x, labels = _batch(256, 8)
    x.requires_grad_()
    value = losses.CircleLoss(memory_budget=8 * 257 * 16)(x, labels)
    assert value.grad_fn is not None
    assert sum(t.numel() for t in value.grad_fn.saved_tensors) <= 2 * x.numel()  # the points and their gradient


def test_autocast_does_not_lower_the_precision() -> None:
    x, labels = _batch(dtype=torch.float32)
    plain = losses.CircleLoss()(x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.CircleLoss()(x, labels), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_full_precision_inside(dtype: torch.dtype) -> None:
    x, labels = _batch(dtype=torch.float32)
    half = x.to(dtype).requires_grad_()
    value = losses.CircleLoss()(half, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, losses.CircleLoss()(half.detach().float(), labels))
    value.backward()
    assert half.grad is not None and half.grad.dtype == dtype


def test_relation_of_the_user() -> None:
    """Multi-label by overlap, against the same pairs by hand."""
    generator = torch.Generator().manual_seed(0)
    x, tags = torch.randn(12, 5, dtype=torch.float64, generator=generator), torch.rand(12, 4, generator=generator) > 0.6

    def overlap(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) & b).any(2)

    value = losses.TripletMarginLoss(relation=overlap, memory_budget=8 * 12 * 2, reduction="sum")(x, tags)
    unit = torch.nn.functional.normalize(x)
    s, total = unit @ unit.T, 0.0
    for i in range(12):
        same = [bool((tags[i] & tags[j]).any()) for j in range(12)]
        total += sum(
            max(0.0, float(s[i, j] - s[i, k]) + 0.2) for j in range(12) for k in range(12) if k != i and j != i and same[k] and not same[j]
        )
    assert float(value) == pytest.approx(total)


def test_pair_of_masks_from_a_relation() -> None:
    """Positives are equal labels, negatives those of another super-class; the rest is neither."""
    x, labels = _batch()

    def relation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a.unsqueeze(1) == b, a.unsqueeze(1) // 2 != b // 2

    wide = losses.UnifiedLoss(scale=4.0)(x, labels)
    narrow = losses.UnifiedLoss(scale=4.0, relation=relation)(x, labels)
    assert narrow < wide


@pytest.mark.parametrize("make", [losses.TripletMarginLoss, losses.CircleLoss])
def test_cross_batch_memory(make: Callable[..., losses.Loss]) -> None:
    """The batch with a queue equals the batch with the queue's points, where ids exclude the batch's own copies."""
    x, labels = _batch()
    queue = EmbeddingQueue(30, 5, dtype=torch.float64)
    old = torch.randn(10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    queue.enqueue(old, torch.arange(10) % 5, torch.arange(100, 110))
    queue.enqueue(x, labels, torch.arange(20))
    both = make()(x, labels, queue, ids=torch.arange(20))
    expected = make()(x, labels, [None, (old, torch.arange(10) % 5)])
    torch.testing.assert_close(both, expected)


def test_no_tile_exceeds_the_budget() -> None:
    """Scores of a tile, negatives and positives; a single row may be larger."""
    x, labels = _batch(200, 6)
    taken = []

    def note(s_n: metriczoo.Scores, s_p: metriczoo.Scores) -> Tensor:
        taken.append((s_n.value.shape[0], s_n.value.numel() * s_n.value.element_size()))
        return s_n.sum() - s_p.sum()

    for budget in (1, 10_000, 50_000):
        losses.from_function(note, memory_budget=budget)(x.clone().requires_grad_(), labels)
        assert all(size <= budget or height == 1 for height, size in taken)
        assert sum(height for height, _ in taken) == 200
        taken.clear()


class _Knowing(losses.Loss):
    """A loss on all kinds of facts: prepared points, labels, a number of each anchor and each reference, a constant, no tensor."""

    def __init__(self, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(num_classes=5, embedding_dim=5, **options)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 5))
        self.register_buffer("shift", torch.ones(()))

    def facts(self, call):  # type: ignore[no-untyped-def]
        shift = self.shift.clone()
        return call.prepared, call.compared, call.labels, self.weight[call.labels], call.compared.square().sum(1), shift, "cosine"

    def per_anchor(self, s_n: metriczoo.Scores, s_p: metriczoo.Scores) -> Tensor:
        points, references, labels, weight, squares, shift, kind = s_p.facts
        assert kind == "cosine" and labels.dtype == torch.int64
        own = s_p.of_anchors(points) @ references.mean(0)
        near = s_p.map(lambda s: s * s_p.of_references(squares)).sum()
        far = s_n.map(lambda s: (s * s_n.of_references(squares) * self.weight.mean()).exp()).sum()
        return s_p.of_anchors(weight) * (far - near + own.square()) + shift * s_p.of_anchors(labels)


@pytest.mark.parametrize("kind", [similarity.InnerProduct, similarity.NegativeSquaredEuclidean, lambda: similarity.Mahalanobis(5, rank=4)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("miner", [None, miners.PriorityMiner()])
def test_facts_are_the_same_in_any_execution(kind, reduction, miner) -> None:
    """Values, and gradients of points, proxies, parameters and the similarity, straight and with `create_graph`."""
    x, labels = _batch()
    made = _Knowing(similarity=kind(), reduction=reduction, miner=miner).double()
    found = {}
    for execution, graph in itertools.product(("dense", "tiled"), (False, True)):
        made.execution, made.memory_budget = execution, 8 * 6 * 3
        y = x.clone().requires_grad_()
        value = made(y, labels)
        inputs = [y, made.weight, made.proxies.weight, *made.similarity.parameters()]
        gradients = torch.autograd.grad(value, inputs, torch.ones_like(value), create_graph=graph)
        assert all(float(g.detach().abs().sum()) > 0 for g in gradients)
        found[execution, graph] = [value, *gradients]
        if graph:
            found[execution, graph] += torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)
    for execution, graph in found:
        expected = found["dense", True][: len(found[execution, graph])]
        torch.testing.assert_close(found[execution, graph], expected, rtol=1e-9, atol=1e-9)


def test_facts_are_those_of_the_call() -> None:
    """With reduction "none" the tiles run again in backward."""
    x, labels = _batch()
    made = _Knowing(reduction="none", memory_budget=8 * 6 * 3).double()
    gradients = []
    for written in (1.0, math.nan):
        y = x.clone().requires_grad_()
        value = made(y, labels)
        made.shift.fill_(written)
        gradients.append(torch.autograd.grad(value.sum(), y)[0])
    assert torch.equal(*gradients)


def test_facts_need_a_call() -> None:
    with pytest.raises(ValueError, match="call the loss"):
        _Knowing().per_anchor(metriczoo.Scores(torch.zeros(1, 1)), metriczoo.Scores(torch.zeros(1, 1)))


def test_a_loss_with_facts_takes_the_product_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are multiplied into the buffer of the tiles: the similarity is never asked for a block."""
    x, labels = _batch()
    asked = []
    monkeypatch.setattr(similarity.Cosine, "score", lambda *args: asked.append(args))
    heads = (losses.ArcFaceLoss, losses.MagFaceLoss, losses.AdaFaceLoss, losses.SubCenterArcFaceLoss, losses.SoftTripleLoss)
    for make in heads:
        made = make(5, 5).double()
        made(x.clone().requires_grad_(), labels).backward()
        assert float(made.proxies.weight.grad.abs().sum()) > 0
    losses.ArcFaceLoss(5, 5, margin=torch.full((5,), 0.2)).double()(x, labels)
    losses.MarginLoss(num_classes=5, similarity=similarity.Cosine())(x, labels)
    assert not asked


def test_no_coupled_loss_sees_ignored_anchors() -> None:
    x, labels = _batch()
    labels[::3] = -1
    sizes = []

    class Coupled(losses.Loss):
        separable = False

        def per_anchor(self, s_n: metriczoo.Scores, s_p: metriczoo.Scores) -> Tensor:
            sizes.append((s_n.count(), s_p.count()))
            return s_n.sum() - s_p.sum()

    for relation in (None, lambda a, b: a.unsqueeze(1) == b):
        Coupled(relation=relation)(x, labels)
    for far, near in sizes:
        assert bool((far[::3] == 0).all()) and bool((near[::3] == 0).all()) and int(far.sum()) > 0
        assert torch.equal(far, sizes[0][0]) and torch.equal(near, sizes[0][1])


@pytest.mark.parametrize("miner", [miners.RandomMiner, miners.DistanceWeightedMiner, miners.PriorityMiner])
def test_draws_do_not_depend_on_execution_where_labels_are_ignored(miner) -> None:
    """Ignored references are left out eagerly, and masked under a transform: the others keep their numbers."""
    x, labels = _batch(30)
    labels[::4] = -1
    found = []
    for wrap in (lambda f: f, torch.func.grad_and_value):
        loss = losses.TripletMarginLoss(miner=miner(generator=torch.Generator().manual_seed(5)), memory_budget=8 * 20 * 7)
        result = wrap(lambda e, loss=loss: loss(e, labels))(x)
        found.append(result[1] if isinstance(result, tuple) else result)
    assert float(found[0]) > 0
    torch.testing.assert_close(found[1], found[0])
