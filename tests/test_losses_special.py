"""What single losses promise beyond the conformance kit: learnable settings, many positives, cancellation, ids, duplicates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.miners import SemiHardMiner
from metriczoo.references import References
from metriczoo.similarity import Mahalanobis, NegativeSquaredEuclidean
from metriczoo.testing.strategies import generic
from metriczoo.testing.zoo._pairs import triplet

PENALTIES = {"hinge": lambda z: max(z, 0), "squared": lambda z: max(z, 0) ** 2, "soft": lambda z: math.log1p(math.exp(z))}


def test_gradient_of_the_factor_of_a_mahalanobis_metric():
    matrix = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 1.5]], dtype=torch.float64)
    batch, metric = generic(1), Mahalanobis(3, matrix=matrix)
    for execution in ("dense", "tiled"):
        loss = losses.LMNNLoss(similarity=metric, execution=execution)
        assert torch.autograd.gradcheck(lambda factor, loss=loss: _with_factor(loss, factor, batch), metric.factor)


def _with_factor(loss: losses.Loss, factor: Tensor, batch: Any) -> Tensor:
    loss.similarity._parameters["factor"] = factor
    return loss(batch.embeddings.detach(), batch.labels)


def _nce(**options: Any) -> losses.Loss:
    loss = losses.NCELoss(**options)
    loss.load_state_dict({**loss.state_dict(), "log_z": torch.tensor([3.0]), "num_data": torch.tensor(25)})
    return loss


LEARNABLE = [
    (losses.ContrastiveLoss, {"positive_margin": 0.25, "negative_margin": 1.5}),
    (losses.TripletMarginLoss, {"margin": 0.3}),
    (losses.UnifiedLoss, {"margin": 0.25, "scale": 8.0}),
    (losses.AMSoftmaxLoss, {"margin": 0.35, "scale": 8.0}),
    (losses.LMNNLoss, {"mu": 0.4, "margin": 1.0}),
    (_nce, {"temperature": 0.4, "proximal": 1.5}),
]


@pytest.mark.parametrize(("make", "parameters"), LEARNABLE, ids=[next(iter(p)) + str(i) for i, (_, p) in enumerate(LEARNABLE)])
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_gradient_of_learnable_parameters(make, parameters, execution):
    """A hyper-parameter may be a tensor that is trained."""
    batch = generic(3, 7, 3)
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in parameters.values()]

    def f(*tensors: Tensor) -> Tensor:
        loss = make(execution=execution, memory_budget=100, **dict(zip(parameters, tensors, strict=True)))
        return loss(batch.embeddings.detach(), batch.labels)

    assert torch.autograd.gradcheck(f, values)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("positives", [47, 48, 49, 120])
def test_triplets_of_many_positives_are_summed_by_sorting(penalty, positives):
    generator = torch.Generator().manual_seed(positives)
    s_n, s_p = (torch.rand(2, k, generator=generator, dtype=torch.float64).requires_grad_() for k in (9, positives))
    terms = F.triplet_margin(s_n, s_p, margin=0.1, penalty=penalty)
    for i in range(2):
        groups = triplet(s_n[i].tolist(), s_p[i].tolist(), margin=0.1, penalty=PENALTIES[penalty])
        assert math.isclose(terms.total[i].item(), math.fsum(groups), rel_tol=1e-11)
        assert int(terms.count[i]) == 9 * positives
        assert int(terms.active[i]) == sum(g > 0 for g in groups)
    assert torch.autograd.gradcheck(lambda a, b: F.triplet_margin(a, b, margin=0.1, penalty=penalty).total, (s_n, s_p), fast_mode=True)


@pytest.mark.parametrize("penalty", ["hinge", "squared"])
def test_triplets_that_hardly_violate_have_no_negative_loss(penalty):
    """Sums that cancel must not fall below 0 in single precision."""
    generator = torch.Generator().manual_seed(0)
    s_p = torch.rand(100, 64, generator=generator) * 1.2 - 0.4
    s_n = s_p.amin(1, keepdim=True) + 1e-4 * torch.rand(100, 1, generator=generator)
    terms = F.triplet_margin(s_n, s_p, margin=0.0, penalty=penalty)
    assert bool((terms.total >= 0).all())
    exact = F.triplet_margin(s_n.double(), s_p.double(), margin=0.0, penalty=penalty)
    torch.testing.assert_close(terms.total.double(), exact.total, rtol=1e-4, atol=1e-7)


def test_labels_beyond_the_proxies_are_an_error():
    """`settings.check_values` promises to look for them: such an anchor has no positive, and would silently have no loss."""
    loss = losses.AMSoftmaxLoss(3, 4)
    with pytest.raises(ValueError, match="labels"):
        loss(torch.eye(4)[:2], [0, 3])


def test_fresh_ids_differ_from_ids_of_references_however_large():
    x, y = generic(1, 6, 3), generic(2, 4, 3)
    plain = losses.TripletMarginLoss()(x.embeddings, x.labels, [None, (y.embeddings, y.labels)])
    ids = torch.tensor([2**63 - 1, 2**63 - 2, 3, -1])
    hashed = losses.TripletMarginLoss()(x.embeddings, x.labels, [None, References(y.embeddings, y.labels, ids)])
    torch.testing.assert_close(hashed, plain, rtol=1e-12, atol=0)


def test_lmnn_on_squared_distances_of_raw_points_by_hand():
    """Points 0, 1 | 1.5 on a line: pulls 1 and 1, pushes [1 + 1 - 2.25]+ = 0 and [1 + 1 - 0.25]+ = 1.75."""
    loss = losses.LMNNLoss(num_targets=1, mu=0.25, reduction="sum", similarity=NegativeSquaredEuclidean())
    assert float(loss(torch.tensor([[0.0], [1.0], [1.5]]), [0, 0, 1])) == 0.75 * 2 + 0.25 * 1.75


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_a_loss_of_angles_behind_a_miner_survives_duplicates(execution):
    """The duplicate, whose angle of 0 has no derivative, is not among the pairs that the miner kept."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)
    loss = losses.from_function(
        lambda s_n, s_p: s_n.map(torch.acos).sum() + s_p.map(torch.acos).sum(), miner=SemiHardMiner(), execution=execution
    )
    value = loss(x, [0, 1, 0, 1])
    assert bool(torch.autograd.grad(value, x)[0].isfinite().all())
