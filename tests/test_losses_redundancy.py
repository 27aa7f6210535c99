"""Losses of two views, and regularisers: what is special to them. The rest is in the zoo, `metriczoo.testing.zoo._others`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metriczoo import functional as whole
from metriczoo.functional import redundancy as F
from metriczoo.functional import regularizers as R
from metriczoo.losses.redundancy import BarlowTwinsLoss, VICRegLoss
from metriczoo.losses.regularizers import (
    CenterInvariantRegularizer,
    EmbeddingNormRegularizer,
    ProximalRegularizer,
    ProxyOrthogonalityRegularizer,
    SparseCentersRegularizer,
    ZeroMeanRegularizer,
)
from metriczoo.similarity import NegativeSquaredEuclidean
from metriczoo.stores import MemoryBank, Proxies
from metriczoo.testing.zoo import _others as others
from metriczoo.testing.zoo._others import barlow_twins, vicreg

TWO_VIEWS = [VICRegLoss, BarlowTwinsLoss]


def views(seed: int, n: int, d: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=draw)
    return x, x + 0.3 * torch.randn(n, d, dtype=torch.float64, generator=draw)


@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9), (2, 3), (6, 1)])
def test_values_by_either_matrix(n: int, d: int) -> None:
    """By the matrix of components, and by that of samples where it is the smaller one."""
    x, y = views(n, n, d)
    both: dict[str, Any] = {"embeddings": torch.cat([x, y]).tolist(), "labels": []}
    assert VICRegLoss()(x, y).item() == pytest.approx(vicreg(**both), rel=1e-10)
    assert BarlowTwinsLoss()(x, y).item() == pytest.approx(barlow_twins(**both), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(6, 3), (3, 6)])
@pytest.mark.parametrize("function", [F.vicreg, F.barlow_twins])
def test_derivatives(function: Callable[..., Tensor], n: int, d: int) -> None:
    x, y = (view.requires_grad_() for view in views(1, n, d))
    assert torch.autograd.gradcheck(function, (x, y))
    assert torch.autograd.gradgradcheck(function, (x, y))


@pytest.mark.parametrize("make", TWO_VIEWS)
def test_what_does_not_matter(make: Callable[[], nn.Module]) -> None:
    loss, (x, y) = make(), views(2, 8, 3)
    order, columns = torch.randperm(8), torch.tensor([2, 0, 1])
    for other in (loss(x[order], y[order]), loss(y, x), loss(x[:, columns], y[:, columns]), loss(x + 2, y + 2)):
        torch.testing.assert_close(other, loss(x, y))
    torch.testing.assert_close(BarlowTwinsLoss(eps=1e-12)(100 * x, y), BarlowTwinsLoss(eps=1e-12)(x, y))
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    assert not torch.isclose(loss(x @ turn, y @ turn), loss(x, y))  # components matter


def test_minima() -> None:
    """Independent components of the wanted variance, and views that agree."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    assert VICRegLoss()(2 * signs, 2 * signs) == 0
    assert BarlowTwinsLoss(eps=1e-30)(signs, 5 * signs).item() == pytest.approx(0, abs=1e-25)
    assert BarlowTwinsLoss(0.0, eps=1e-30)(signs, -signs).item() == pytest.approx(4 * 4)


@pytest.mark.parametrize("make", TWO_VIEWS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_are_at_least_in_single_precision(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    assert make()(torch.eye(3, dtype=dtype), torch.eye(3, dtype=dtype)).dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )


def test_fewer_than_two_samples_have_no_statistics() -> None:
    x, y = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[1.0, 4.0]])
    assert BarlowTwinsLoss()(x, y) == 0
    assert VICRegLoss()(x, y).item() == pytest.approx(25 * 2)
    assert VICRegLoss()(x[:0], y[:0]) == 0
    assert VICRegLoss()(x[:0], y[:0]).requires_grad
    assert not torch.autograd.grad(BarlowTwinsLoss()(x, y), x)[0].any()


@pytest.mark.parametrize("make", TWO_VIEWS)
def test_wrong_views(make: Callable[[], nn.Module]) -> None:
    loss, x = make(), torch.ones(4, 3)
    with pytest.raises(TypeError, match="`y`"):
        loss(x, torch.arange(4))  # labels
    with pytest.raises(TypeError, match="`y`"):
        loss(x, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="shape"):
        loss(x, x[:3])
    with pytest.raises(ValueError, match="`x`"):
        loss(x[0], x[0])
    with pytest.raises(ValueError, match="`y` to be finite"):
        loss(x, x / 0)
    for name in loss.bounds:
        for value in (-1.0, math.nan):
            with pytest.raises(ValueError, match=name):
                make(**{name: value})  # type: ignore[call-arg]


# ---- regularisers

POINTS = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1.0, 0.5], [2.0, -2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("regularizer", "spec"),
    [
        (EmbeddingNormRegularizer(), others.embedding_norm),
        (ZeroMeanRegularizer(), others.zero_mean),
        (CenterInvariantRegularizer(), others.center_invariant),
        (ProxyOrthogonalityRegularizer(), others.orthogonality),
    ],
)
def test_regularizers_of_proxies(regularizer: nn.Module, spec: Callable[..., float]) -> None:
    """Of a store, and of fewer points than dimensions."""
    store = Proxies(2, 2, per_class=2, dtype=torch.float64)
    assert regularizer(store).item() == pytest.approx(spec(store.weight.tolist(), []))
    regularizer(store).backward()
    assert store.weight.grad is not None
    x = views(0, 3, 4)[0].requires_grad_()
    assert regularizer(x).item() == pytest.approx(spec(x.tolist(), []))
    assert torch.autograd.gradcheck(regularizer, x)


def test_orthogonality_reaches_its_bound() -> None:
    """Three directions at 120 degrees in the plane: (C - d) / (d (C - 1)) = 1 / 4."""
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    frame = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert ProxyOrthogonalityRegularizer()(5 * frame).item() == pytest.approx(1 / 4)
    assert ProxyOrthogonalityRegularizer()(torch.eye(4)) == 0


def test_sparse_centers() -> None:
    store = Proxies(5, 4, per_class=3, dtype=torch.float64)
    w = torch.nn.functional.normalize(store.weight.detach(), dim=1).reshape(5, 3, 4)
    pairs = [(c, j, k) for c in range(5) for j in range(3) for k in range(j + 1, 3)]
    expected = sum(math.sqrt(2 + 1e-5 - 2 * float(w[c, j] @ w[c, k])) for c, j, k in pairs) / (5 * 3 * 2)
    assert SparseCentersRegularizer()(store).item() == pytest.approx(expected)
    assert SparseCentersRegularizer()(3 * store.weight.unflatten(0, (5, 3))).item() == pytest.approx(expected)
    assert SparseCentersRegularizer()(Proxies(5, 4)) == 0  # one centre per class
    merged = torch.ones(2, 3, 4, requires_grad=True)
    value = SparseCentersRegularizer()(merged)
    assert torch.autograd.grad(value, merged)[0].isfinite().all()
    assert torch.autograd.gradcheck(R.sparse_centers, w.clone().requires_grad_())


@pytest.mark.parametrize("make", [EmbeddingNormRegularizer, SparseCentersRegularizer])
def test_wrong_points(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"power|eps"):
        make(0.0)
    for wrong, error in [
        (torch.ones(3), ValueError),
        (torch.ones(2, 2, dtype=torch.int64), TypeError),
        ("x", TypeError),
        (POINTS / 0, ValueError),
    ]:
        with pytest.raises(error, match="`points`"):
            make()(wrong)


# ---- the proximal regulariser


def test_proximal() -> None:
    bank = MemoryBank(6, 3, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([5, 2, -1, 2])
    unit = torch.nn.functional.normalize(x, dim=1)
    squares = [float((unit[i] - bank.embeddings[ids[i]]).square().sum()) for i in (0, 1, 3)]
    loss = ProximalRegularizer(bank, 7.0)
    assert loss(x, ids).item() == pytest.approx(7 * math.fsum(squares) / 3)
    assert loss(x, [0] * 4, ids=ids).item() == pytest.approx(7 * math.fsum(squares) / 3)  # ids take precedence
    on_distances = ProximalRegularizer(bank, 7.0, similarity=NegativeSquaredEuclidean())
    raw = [float((x[i] - bank.embeddings[ids[i]]).square().sum()) for i in (0, 1, 3)]
    assert on_distances(x, ids).item() == pytest.approx(7 * math.fsum(raw) / 3)
    assert ProximalRegularizer(bank, 7.0, reduction="none")(x, ids).tolist() == pytest.approx(
        [7 * s for s in [*squares[:2], 0, squares[2]]]
    )
    with pytest.raises(ValueError, match="below 6"):
        loss(x, [0, 1, 2, 6])
    with pytest.raises(ValueError, match="weight"):
        ProximalRegularizer(bank, -1.0)
    with pytest.raises(TypeError, match="bank"):
        ProximalRegularizer(POINTS)  # type: ignore[arg-type]


def test_proximal_is_the_term_of_nce() -> None:
    s_n, s_p = torch.rand(4, 5), torch.rand(4, 1)
    options = {"log_z": 2.0, "num_data": 20}
    difference = whole.nce(s_n, s_p, proximal=3.0, **options) - whole.nce(s_n, s_p, **options)
    torch.testing.assert_close(difference, R.proximal(s_n, s_p, weight=3.0), rtol=1e-4, atol=1e-4)
