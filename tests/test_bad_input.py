"""Bad input of losses, similarities and references: the right type of error, and a message that names argument, expectation and what
came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metriczoo import References, losses, miners, settings, similarity
from metriczoo.stores import EmbeddingQueue, MemoryBank, Proxies

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1, 2, 2])
ALL = [
    losses.ContrastiveLoss,
    losses.TripletMarginLoss,
    losses.UnifiedLoss,
    losses.CircleLoss,
    losses.AMSoftmaxLoss,
    losses.NCELoss,
    losses.LMNNLoss,
]


def _with(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[2, 1] = value
    return x


def _all_pairs(anchor_labels: Tensor, reference_labels: Tensor) -> Tensor:
    return torch.ones(len(anchor_labels), len(reference_labels), dtype=torch.bool)


CALLS: list[tuple[Callable[[losses.Loss], Any], type[Exception], str]] = [
    (lambda f: f(X.numpy(), Y), TypeError, "`embeddings`.*torch.Tensor"),
    (lambda f: f(X.long(), Y), TypeError, "`embeddings`.*floating"),
    (lambda f: f(X[0], Y), ValueError, r"`embeddings`.*\[n, d\].*\[4\]"),
    (lambda f: f(X[:, :0], Y), ValueError, "`embeddings`"),
    (lambda f: f(X.unsqueeze(0), Y), ValueError, "`embeddings`"),
    (lambda f: f(X, Y[:5]), ValueError, "`labels`.*6 entries.*5"),
    (lambda f: f(X, Y.float()), TypeError, "`labels`.*integers"),
    (lambda f: f(X, Y.unsqueeze(1)), ValueError, "`labels`"),
    (lambda f: f(X, [0.5] * 6), TypeError, "`labels`"),
    (lambda f: f(X, "abcdef"), TypeError, "`labels`"),
    (lambda f: f(X, None), TypeError, "`labels`"),
    (lambda f: f(_with(X, float("nan")), Y), ValueError, r"`embeddings`.*finite.*rows \[2\]"),
    (lambda f: f(_with(X, float("inf")), Y), ValueError, "`embeddings`.*finite"),
    (lambda f: f(X, Y, ids=[1, 2]), ValueError, "`ids`.*6 entries.*2"),
    (lambda f: f(X, Y, ids=torch.rand(6)), TypeError, "`ids`"),
    (lambda f: f(X, Y, (X[:, :3], Y)), ValueError, "`references`.*dimension 4"),
    (lambda f: f(X, Y, (X, Y[:3])), ValueError, r"`references.labels`"),
    (lambda f: f(X, Y, (X, Y.float())), TypeError, r"`references.labels`"),
    (lambda f: f(X, Y, (_with(X, float("nan")), Y)), ValueError, r"`references`.*finite"),
    (lambda f: f(X, Y, X), TypeError, "`references`"),
    (lambda f: f(X, Y, []), ValueError, "`references`"),
    (lambda f: f(X, Y, [None, "bank"]), TypeError, "`references`.*'bank'"),
    (lambda f: f(X, Y, (X.to("meta"), Y)), ValueError, "`references`.*device"),
]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(("call", "error", "message"), CALLS)
def test_calls(make: Callable[..., losses.Loss], call: Callable[[losses.Loss], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(make())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.CircleLoss(gama=3), TypeError, "'gama'"),
        (lambda: losses.CircleLoss(scal=3), TypeError, "Did you mean 'scale'"),
        (lambda: losses.TripletMarginLoss(margn=3), TypeError, "Did you mean 'margin'"),
        (lambda: losses.TripletMarginLoss(reduction="maen"), ValueError, "Did you mean 'mean'"),
        (lambda: losses.TripletMarginLoss(penalty="smooth"), ValueError, "`penalty`"),
        (lambda: losses.TripletMarginLoss(execution="lazy"), ValueError, "`execution`"),
        (lambda: losses.TripletMarginLoss(memory_budget=0), ValueError, "`memory_budget`"),
        (lambda: losses.TripletMarginLoss(similarity="cosine"), TypeError, "`similarity`"),
        (lambda: losses.TripletMarginLoss(similarity=similarity.Cosine), TypeError, r"Cosine\(\)"),
        (lambda: losses.TripletMarginLoss(miner=miners.HardMiner), TypeError, r"HardMiner\(\)"),
        (lambda: losses.TripletMarginLoss(relation=3), TypeError, "`relation`"),
        (lambda: losses.SupConLoss(relation=_all_pairs)(X, Y, [(X, Y), (X, torch.ones(6, 3))]), ValueError, r"\['n'\] and \['n', 3\]"),
        (lambda: losses.SupConLoss(relation=_all_pairs)(X, Y, [None, (X, torch.ones(6, 3))]), ValueError, "labels of one shape"),
        (lambda: losses.AMSoftmaxLoss(num_classes=3), ValueError, "`embedding_dim`"),
        (lambda: losses.AMSoftmaxLoss(3, 4, proxies=Proxies(3, 4)), ValueError, "`proxies`"),
        (lambda: losses.AMSoftmaxLoss(proxies=torch.eye(3)), TypeError, "`proxies`"),
        (lambda: losses.NCELoss(num_noise=0), ValueError, "`num_noise`"),
        (lambda: losses.NCELoss(bank=torch.eye(3)), TypeError, "`bank`"),
        (lambda: losses.LMNNLoss(num_targets=0), ValueError, "`num_targets`"),
        (lambda: losses.LMNNLoss(num_targets=1.5), TypeError, "`num_targets`"),
        (lambda: losses.from_function(3), TypeError, "`function`"),
        (lambda: losses.from_function(lambda s_n, s_p: s_n.value)(X, Y), ValueError, "`per_anchor`"),
        (lambda: losses.Loss()(X, Y), NotImplementedError, "per_anchor"),
        (lambda: losses.TripletMarginLoss(relation=lambda a, b: a)(X, Y), ValueError, "`relation`"),
        (lambda: similarity.Mahalanobis(3)(X, X), ValueError, "`embedding_dim`"),
        (lambda: similarity.Mahalanobis(4, matrix=torch.eye(3)), ValueError, "`matrix`"),
        (lambda: similarity.Mahalanobis(2, matrix=torch.tensor([[1.0, 0.0], [0.0, -1.0]])), ValueError, "semi-definite"),
        (lambda: References(X, Y, [1]), ValueError, "`references.ids`"),
        (lambda: losses.NCELoss(MemoryBank(4, 4))(X, Y + 2), ValueError, "below 4"),
        (lambda: losses.NCELoss(MemoryBank(4, 3))(X, Y), ValueError, "dimension 4"),
    ],
)
def test_constructors_and_special_calls(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("make", ALL)
def test_hyper_parameters_out_of_their_bounds(make: type[losses.Loss]) -> None:
    """Wrong values are generated from the bounds that each loss states."""
    for name, bounds in make.bounds.items():
        wrong: list[tuple[Any, type[Exception]]] = [
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            ("1", TypeError),
            (True, TypeError),
            (torch.ones(2, 2), ValueError),
        ]
        wrong.append((bounds.low - 0.1, ValueError))
        wrong += [(bounds.low, ValueError)] if bounds.open_low else []
        wrong += [(bounds.high + 0.1, ValueError)] if bounds.high < float("inf") else []
        for value, error in wrong:
            with pytest.raises(error, match=f"`{name}`"):
                make(**{name: value})


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    "labels",
    [
        Y.int(),
        Y.to(torch.uint8),
        Y.to(torch.int16),
        Y.numpy(),
        Y.numpy().astype(np.uint8),
        Y.numpy().astype(np.uint64),
        Y.tolist(),
        tuple(Y.tolist()),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', '')}",
)
def test_labels_of_any_integer_kind(make: Callable[..., losses.Loss], labels: Any) -> None:
    assert torch.equal(make()(X, labels), make()(X, Y))


@pytest.mark.parametrize("make", ALL)
def test_bool_labels(make: Callable[..., losses.Loss]) -> None:
    flags = Y > 0
    for labels in (flags, flags.numpy(), flags.tolist()):
        assert torch.equal(make()(X, labels), make()(X, flags.long()))


@pytest.mark.parametrize("make", ALL)
def test_labels_keep_64_bits(make: Callable[..., losses.Loss]) -> None:
    far = torch.tensor([2**60, 2**60, 2**60 + 1, 2**60 + 1, 10**12, 10**12])
    torch.testing.assert_close(make()(X, far), make()(X, Y))


def test_values_are_not_read_where_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "check_values", False)
    assert losses.CircleLoss()(_with(X, float("nan")), Y).isnan()


def test_label_beyond_the_proxies_has_no_positive() -> None:
    """A label that no proxy has is legal for any references, so the class-level loss itself must say no."""
    with pytest.raises(ValueError, match=r"`labels`.*less than 2"):
        losses.AMSoftmaxLoss(2, 4)(X, Y)


def test_queue_that_is_empty() -> None:
    x = X.clone().requires_grad_()
    value = losses.TripletMarginLoss()(x, Y, EmbeddingQueue(8, 4))
    assert value.item() == 0
    value.backward()
    assert x.grad is not None and not x.grad.any()
