"""Classes of very unequal size: one class, all unique, one that is larger than a tile may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from every_loss import BATCH, KEEPS_SELF, LOSSES, NO_PAIR_NO_LOSS, D, batch, gradient_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metriczoo import losses, similarity
from metriczoo.losses import Loss

N = 60
LABELS = {
    "one class": torch.zeros(N, dtype=torch.int64),
    "two classes": torch.arange(N) % 2,
    "one large class": torch.where(torch.arange(N) < 44, 0, torch.arange(N) // 3 + 1).flip(0),
    "half and unique": torch.where(torch.arange(N) % 2 == 0, 0, torch.arange(N)),
}
COMPARING: dict[str, Callable[..., Loss]] = {  # those that look at the similarities of positives to negatives
    "lifted": losses.LiftedStructureLoss,
    "angular": losses.AngularLoss,
    "angular, wide range": lambda **o: losses.AngularLoss(similarity=similarity.NegativeSquaredEuclidean(), **o),
    "swap": lambda **o: losses.TripletMarginLoss(swap=True, **o),
    "swap, squared": lambda **o: losses.TripletMarginLoss(swap=True, penalty="squared", **o),
    "swap, soft": lambda **o: losses.TripletMarginLoss(swap=True, penalty="soft", similarity=similarity.NegativeEuclidean(), **o),
}
_ROW = 8 * N  # bytes


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "none"])
@pytest.mark.parametrize("layout", LABELS)
@pytest.mark.parametrize("name", COMPARING)
def test_a_class_that_is_cut(name: str, layout: str, reduction: str) -> None:
    x = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(0.5, 1.5, N, dtype=torch.float64)
    found = []
    for options in ({"execution": "dense"}, {"memory_budget": 4 * _ROW}):  # of which a block has 3 rows, or 12 for the sake of a class
        y = x.clone().requires_grad_()
        value = COMPARING[name](reduction=reduction, **options)(y, LABELS[layout])
        (gradient,) = torch.autograd.grad((value * weights).sum() if reduction == "none" else value, y)
        found.append((value.detach(), gradient))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


class _Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func.overloadpacket.__name__ in ("mm", "bmm", "addmm", "addmm_", "matmul")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["lifted", "angular", "swap"])
def test_a_class_that_is_cut_takes_no_product_per_positive(name: str) -> None:
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    with _Products() as products:
        COMPARING[name](memory_budget=4 * _ROW)(x, LABELS["one large class"]).backward()
    blocks = 4 + 8  # of the large class, and at most of the others
    assert products.count < blocks * (3 + 4 * 7)  # and for each of the pieces of the class, of which there are 4, forward and backward


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("execution", ["auto", "dense", "tiled"])
@pytest.mark.parametrize("name", BATCH)
def test_nothing_to_compare(name: str, execution: str, dtype: torch.dtype) -> None:
    """Finite everywhere; gradient 0 without positives or negatives, for a loss that needs both; value 0 for a batch of nothing."""
    loss = LOSSES[name](execution=execution)
    for n, classes in ((8, 8), (8, 1), (1, 1), (0, 1)):
        x, labels = batch(n=n, classes=classes, dtype=dtype)
        for points in (x, torch.ones_like(x), torch.zeros_like(x)):
            value, gradient = gradient_of(loss, points, labels)
            assert value.isfinite()
            assert gradient.dtype == dtype
            assert gradient.isfinite().all()
            if name in NO_PAIR_NO_LOSS or (n < 2 and name not in KEEPS_SELF):
                assert not gradient.any()
                assert n or not value


def _sizes(labels: Tensor) -> list[int]:
    return sorted(labels.unique(return_counts=True)[1].tolist())


@pytest.mark.parametrize("labels", [torch.zeros(N, dtype=torch.int64), torch.arange(N)], ids=["one class", "all unique"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_where_nothing_can_be_compared_nothing_is(labels: Tensor, reduction: str) -> None:
    x, margin = torch.randn(N, D, requires_grad=True), torch.nn.Parameter(torch.tensor(0.3))
    loss = losses.TripletMarginLoss(margin=margin, reduction=reduction, execution="tiled")
    with _Products() as products:
        value = loss(x, labels)
        gradients = torch.autograd.grad(value.sum(), (x, margin))
    assert products.count == 0
    assert value.tolist() == ([0.0] * N if reduction == "none" else 0.0)
    assert all((g == 0).all() for g in gradients)


def test_layouts_are_what_they_say() -> None:
    assert _sizes(LABELS["one large class"])[-1] == 44
    assert _sizes(LABELS["half and unique"]) == [1] * 30 + [30]
