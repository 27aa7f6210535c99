"""Batches on which other libraries fail (section 12 of the project's specification), given to every loss that can take them.

The result is defined, finite and right.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from every_loss import (
    BATCH,
    DRAWS,
    HEADS,
    LOSSES,
    NO_PAIR_NO_LOSS,
    OTHERS,
    REGULARIZERS,
    TWO_VIEWS,
    C,
    D,
    batch,
    finite,
    gradient_of,
)
from torch import Tensor, nn

from metriczoo import losses

every = pytest.mark.parametrize("name", LOSSES)
on_batches = pytest.mark.parametrize("name", BATCH)
on_classes = pytest.mark.parametrize("name", HEADS)


def test_every_name_is_covered() -> None:
    known = {*LOSSES, *OTHERS, *REGULARIZERS, *TWO_VIEWS}
    assert known == set(losses.__all__)
    assert len(BATCH) > 25
    assert len(HEADS) > 18


# ---- 1: one positive and one negative pair only


@on_batches
def test_one_positive_and_one_negative_pair(name: str) -> None:
    """A lone anchor counts as two equal ones do, and is not taken for nothing."""
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    near, far = (
        (c, (1 - c * c) ** 0.5) for c in (0.704, 0.701)
    )  # so close that steps of ranking losses have a slope, and inside of one bin
    r = torch.tensor([[far[0], far[1], 0.0, 0.0, 0.0], [near[0], 0.0, near[1], 0.0, 0.0]], dtype=torch.float64)
    value, gradient = gradient_of(LOSSES[name](), x, [0], (r, [0, 1]))
    finite(value, gradient)
    if name in ("MagnetLoss", "IntraPairVarianceLoss", "DynamicSoftMarginLoss"):  # statistics of one sample
        return
    assert value.abs() > 1e-6
    assert gradient.any()
    twice, _ = gradient_of(LOSSES[name](), x.expand(2, -1), [0, 0], (r, [0, 1]))
    torch.testing.assert_close(value, twice, rtol=1e-9, atol=1e-12)


# ---- 2 to 7, 26: degenerate batches


DEGENERATE: dict[str, tuple[Tensor, Tensor]] = {
    "all distinct": (batch(1, 6)[0], torch.arange(6)),
    "one class": (batch(1, 6)[0], torch.full((6,), 2)),
    "all ignored": (batch(1, 6)[0], torch.full((6,), -1)),
    "one zero vector": (torch.cat([torch.zeros(1, D), batch(2, 5)[0]]), torch.tensor([0, 0, 1, 1, 2, 2])),
    "zero vectors only": (torch.zeros(4, D), torch.tensor([0, 0, 1, 1])),
    "duplicates": (batch(3, 3)[0].repeat(3, 1), torch.tensor([0, 0, 1, 0, 1, 1, 2, 2, 2])),
    "collapsed": (torch.ones(6, D), torch.arange(6) % 3),
    "parallel": (batch(4, 2)[0].repeat(4, 1) * torch.tensor([1, 1, 3, 3, 0.1, 0.1, -2, -2]).unsqueeze(1), torch.arange(8) % 2),
    "empty": (torch.empty(0, D), torch.empty(0, dtype=torch.int64)),
    "one point": (batch(5, 1)[0], torch.tensor([1])),
    "two points": (batch(5, 2)[0], torch.tensor([1, 1])),
}
NEAR_AND_SMALL = ("one zero vector", "zero vectors only", "duplicates", "collapsed", "parallel")


@every
def test_degenerate_batches(name: str) -> None:
    for kind, (x, labels) in DEGENERATE.items():
        for dtype in (torch.float32, torch.float16) if kind in NEAR_AND_SMALL else (torch.float32,):
            value, gradient = gradient_of(LOSSES[name](), x.to(dtype), labels)
            assert value.isfinite().all(), (kind, dtype)
            assert gradient.isfinite().all(), (kind, dtype)
            assert not (gradient.abs() >= 1e6).any(), (kind, dtype)
        if kind in ("all ignored", "empty") or (kind in ("all distinct", "one class", "one point") and name in NO_PAIR_NO_LOSS):
            assert value == 0, kind
            assert not gradient.any(), kind


COMBINED: dict[str, Callable[[], nn.Module]] = {
    "SumLoss": lambda: losses.SumLoss([losses.CircleLoss(), losses.NTXentLoss(), losses.HistogramLoss()], [1.0, 0.5, 2.0]),
    "from_function": lambda: losses.from_function(lambda s_n, s_p: (s_n.max() - s_p.min() + 0.2).relu()),
    "GradCache": lambda: losses.GradCache(nn.Identity(), losses.SupConLoss(), chunk_size=2),
}


@pytest.mark.parametrize("name", COMBINED)
def test_degenerate_batches_of_combinations(name: str) -> None:
    for kind, (x, labels) in DEGENERATE.items():
        value, gradient = gradient_of(COMBINED[name](), x, labels)
        finite(value, gradient)
        assert not (kind in ("all ignored", "empty") and (value.any() or gradient.any())), kind


@every
def test_one_zero_vector_leaves_other_gradients_as_they_are(name: str) -> None:
    """Its own gradient is bounded, too: peers divide by the norm of the vector, or a small constant in its place."""
    x, labels = DEGENERATE["one zero vector"]
    _, gradient = gradient_of(LOSSES[name](), x, labels)
    _, near = gradient_of(LOSSES[name](), x + torch.eye(6, D) * 1e-2 * (torch.arange(6) == 0).unsqueeze(1), labels)
    assert gradient.norm() <= 100 * (1 + near.norm())


@pytest.mark.parametrize("name", [*TWO_VIEWS])
def test_degenerate_views(name: str) -> None:
    for x, _ in DEGENERATE.values():
        finite(*gradient_of(getattr(losses, name)(), x, x.clone()))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularized_degenerate_points(name: str) -> None:
    for x, _ in DEGENERATE.values():
        finite(*gradient_of(getattr(losses, name)(), x))


@on_classes
def test_few_classes(name: str) -> None:
    """Two classes, where binarised labels have one column, and one, where there is no negative."""
    kind = getattr(losses, name)
    for classes in (1, 2):
        loss = kind([1] * classes, D) if name == "HierarchicalSoftmaxLoss" else kind(classes, D)
        value, gradient = gradient_of(loss, batch()[0], torch.arange(9) % classes)
        finite(value, gradient)
        if classes == 1 and kind.needs_negatives and kind.needs_positives and name not in ("MagFaceLoss",):
            assert value == 0


# ---- 7 and 8: at the centre of the class


ANGULAR = [n for n in HEADS if "gradient" in inspect.signature(getattr(losses, n)).parameters]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in HEADS), *((n, {"gradient": "exact"}) for n in ANGULAR)])
def test_cosines_of_one_and_minus_one(name: str, options: dict[str, str], sign: float) -> None:
    loss = LOSSES[name](**options)
    centers = _centers(loss)
    value, got = gradient_of(loss, sign * centers, torch.arange(len(centers)))
    finite(value, got)
    for parameter in loss.parameters():
        assert parameter.isfinite().all()
    x = (sign * centers).requires_grad_()
    loss(x, torch.arange(len(centers))).backward()
    for parameter in loss.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def _centers(loss: Any) -> Tensor:
    """A point of each class, where its proxy is."""
    if loss.proxies is None:
        return loss.centers.embeddings.clone()
    weight = loss.proxies.weight.detach()
    return weight.unflatten(0, (-1, loss.proxies.per_class))[:, 0].clone()


@on_classes
def test_autocast_near_the_centre_of_the_class(name: str) -> None:
    """Samples at their centre and two degrees away: what float32 gives, up to the rounding of the embeddings alone."""
    loss = LOSSES[name]()
    centers = _centers(loss)
    labels = torch.arange(120) % len(centers)
    degrees = torch.tensor([0.0, 2.0]).repeat_interleave(60).unsqueeze(1)
    points = centers[labels]
    noise = torch.randn(120, D, generator=torch.Generator().manual_seed(0))
    noise = noise - (noise * points).sum(1, keepdim=True) * points / points.square().sum(1, keepdim=True).clamp(min=1e-6)
    turned = points + degrees.deg2rad().tan() * nn.functional.normalize(noise) * points.norm(dim=1, keepdim=True)
    expected, slope = gradient_of(copy.deepcopy(loss), turned, labels)
    for dtype in (torch.bfloat16, torch.float16):
        value, gradient, low = _under_autocast(loss, turned, labels, dtype)
        assert value.dtype == torch.float32
        if name not in DRAWS:
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradient, slope)
        finite(*low)


def _under_autocast(loss: nn.Module, x: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Value and gradient where the forward pass is under autocast; and both where the backward pass is too, of points in `dtype`."""
    leaf = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = copy.deepcopy(loss)(leaf, labels)
        low = gradient_of(copy.deepcopy(loss), x.to(dtype), labels)
    return value.detach(), torch.autograd.grad(value, leaf)[0], low


@on_batches
def test_autocast_on_tight_classes(name: str) -> None:
    centers = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    x = centers[labels] + 1e-3 * batch(0, 12)[0]
    expected = gradient_of(LOSSES[name](), x, labels)
    for dtype in (torch.bfloat16, torch.float16):
        *got, low = _under_autocast(LOSSES[name](), x, labels, dtype)
        torch.testing.assert_close(tuple(got), expected)
        finite(*low)
        assert low[0].dtype == torch.float32


# ---- 15: no dtype sticks


@every
def test_the_dtype_of_the_first_batch_does_not_stick(name: str) -> None:
    x, labels = batch()
    used, fresh = LOSSES[name]().eval(), LOSSES[name]().eval()
    before = {k: v.dtype for k, v in used.state_dict().items()}
    for first in (torch.float16, torch.bfloat16, torch.float64):
        used(x.to(first), labels)
        assert {k: v.dtype for k, v in used.state_dict().items()} == before
    value = used(x, labels)
    assert value.dtype == torch.float32
    if name not in (*DRAWS, "NCELoss"):  # NCE sets Z by its first call
        torch.testing.assert_close(value, fresh(x, labels), rtol=2e-2 if name == "DynamicSoftMarginLoss" else 1e-5, atol=1e-6)


# ---- 16: order


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in DRAWS])  # the draws are in the order of the batch
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    x, labels = batch(3, 11, dtype=torch.float64)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    value, gradient = gradient_of(LOSSES[name](), x, labels)
    moved = gradient_of(LOSSES[name](), x[order], labels[order])
    torch.testing.assert_close(moved, (value, gradient[order]), rtol=1e-8, atol=1e-10)


@on_batches
def test_names_of_classes_do_not_matter(name: str) -> None:
    x, labels = batch(3, 11, dtype=torch.float64)
    renamed = torch.tensor([5, 0, 77])[labels]
    torch.testing.assert_close(gradient_of(LOSSES[name](), x, renamed), gradient_of(LOSSES[name](), x, labels), rtol=1e-9, atol=1e-11)


# ---- what a call leaves alone


@every
def test_a_call_changes_nothing_of_its_caller(name: str) -> None:
    x, labels = batch()
    refs, ref_labels = batch(1, 6, classes=C)
    ids = torch.arange(9)
    kept = [t.clone() for t in (x, labels, refs, ref_labels, ids)]
    loss = LOSSES[name]()
    weights = [p.detach().clone() for p in loss.parameters()]
    loss(x.requires_grad_(), labels, (refs, ref_labels), ids=ids)
    loss(x, labels)
    for before, after in zip(kept, (x, labels, refs, ref_labels, ids), strict=True):
        assert torch.equal(before, after)
    for weight, parameter in zip(weights, loss.parameters(), strict=True):
        assert torch.equal(weight, parameter)


# ---- 30: without gradients


@every
def test_without_gradients(name: str) -> None:
    x, labels = batch()
    expected = LOSSES[name]()(x.clone().requires_grad_(), labels)
    assert expected.requires_grad
    frozen = LOSSES[name]().requires_grad_(False)
    plain = frozen(x, labels)
    assert not plain.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            value = LOSSES[name]()(x.clone(), labels)
        assert not value.requires_grad
        if name not in DRAWS:
            torch.testing.assert_close(value, expected.detach())
            torch.testing.assert_close(plain, expected.detach())


@every
def test_views_of_other_tensors(name: str) -> None:
    """Slices, transposes and expanded rows are embeddings as any other."""
    x, labels = batch()
    wide = torch.cat([x, x], dim=1)
    expected = LOSSES[name]()(x, labels)
    for given in (x.T.contiguous().T, wide[:, D:]):
        if name not in DRAWS:
            torch.testing.assert_close(LOSSES[name]()(given, labels), expected)
    one = x[:1].expand(4, -1)
    finite(*gradient_of(LOSSES[name](), one, [0, 0, 1, 1]))
    assert LOSSES[name]()(one, torch.tensor([0, 1]).repeat(2)[:4]).isfinite()
