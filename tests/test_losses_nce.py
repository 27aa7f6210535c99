"""Noise-contrastive estimation: draws from a bank, the estimate of Z, and calls without a pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.similarity import Cosine
from metriczoo.stores import MemoryBank
from metriczoo.testing.strategies import generic

LOG_Z, NUM_DATA = 3.0, 25


def nce_rows(x: Tensor, own: Tensor, noise: Tensor, *, temperature: float, log_z: float, num_data: int, proximal: float) -> Tensor:
    """Equations 6 to 9 of the paper with unit vectors `own` `[n, d]` and `noise` `[n, m, d]`."""
    v = x / x.square().sum(1, keepdim=True).sqrt()
    q = noise.shape[1] / num_data
    p_own, p_noise = (((v.unsqueeze(1) * u).sum(2) / temperature).exp() / math.exp(log_z) for u in (own.unsqueeze(1), noise))
    posterior = -(p_own / (p_own + q)).log().sum(1) - (q / (p_noise + q)).log().sum(1)
    return posterior + proximal * (v - own).square().sum(1)


@pytest.mark.parametrize("share_noise", [True, False])
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_nce_on_a_bank_is_the_formula_on_what_the_bank_draws(share_noise, execution):
    bank = MemoryBank(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twin = MemoryBank(20, 4, dtype=torch.float64)
    twin.load_state_dict(bank.state_dict())
    loss = losses.NCELoss(bank, num_noise=6, temperature=0.3, proximal=2.0, share_noise=share_noise, execution=execution)
    x, ids = generic(3, 5, 4).fresh(), torch.tensor([7, 0, 19, 7, 3])
    for call in range(2):
        noise = twin.sample(6 if share_noise else 30).reshape(-1, 6).expand(5, 6)
        v = x.detach() / x.detach().norm(dim=1, keepdim=True)
        cosines = torch.cat([(v * bank.embeddings[ids]).sum(1, keepdim=True), torch.einsum("nd,nmd->nm", v, bank.embeddings[noise])], dim=1)
        if call == 0:
            log_z = math.log(20 * float((cosines / 0.3).exp().mean()))
        value = loss(x, ids)
        assert int(loss.num_data) == 20
        assert math.isclose(float(loss.log_z), log_z, rel_tol=1e-6)
        rows = nce_rows(
            x, bank.embeddings[ids], bank.embeddings[noise], temperature=0.3, log_z=float(loss.log_z), num_data=20, proximal=2.0
        )
        torch.testing.assert_close(value, rows.mean(), rtol=1e-10, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(rows.mean(), x), rtol=1e-9, atol=1e-11)


def test_nce_posterior_is_exact_in_double_precision():
    """log(m Z / n) is computed in the precision of the scores."""
    s_n, s_p = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64), torch.tensor([[0.4]], dtype=torch.float64)
    p, q = (lambda s: math.exp(s / 0.2 - LOG_Z)), 3 / NUM_DATA
    expected = math.log1p(q / p(0.4)) + sum(math.log1p(p(s) / q) for s in (0.3, -0.2, 0.9))
    assert math.isclose(F.nce(s_n, s_p, log_z=LOG_Z, num_data=NUM_DATA, temperature=0.2).item(), expected, rel_tol=1e-12)


def test_nce_without_noise_has_nothing_to_tell_apart():
    """m = 0: h = P / (P + 0) = 1."""
    s_n, s_p = torch.empty(1, 0), torch.tensor([[0.4]], requires_grad=True)
    loss = F.nce(s_n, s_p, log_z=LOG_Z, num_data=NUM_DATA)
    assert loss.item() == 0
    assert torch.autograd.grad(loss.sum(), s_p)[0].item() == 0


@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_nce_first_call_on_labels_estimates_z_from_all_scores(execution):
    x, y = generic(1, 6, 3), generic(2, 10, 3)
    loss = losses.NCELoss(temperature=0.5, execution=execution)
    loss(x.embeddings, x.labels, (y.embeddings, y.labels))
    cosines = Cosine()(x.embeddings, y.embeddings).detach()
    assert int(loss.num_data) == 10
    assert math.isclose(float(loss.log_z), math.log(10 * float((cosines / 0.5).exp().mean())), rel_tol=1e-6)


@pytest.mark.parametrize("execution", ["dense", "tiled"])
@pytest.mark.parametrize("labels", [[], [0], [-1, -1], [0, -1]])
def test_nce_first_call_on_a_batch_without_a_pair_is_zero_and_estimates_nothing(execution, labels):
    x = torch.ones(len(labels), 3, requires_grad=True)
    loss = losses.NCELoss(execution=execution)
    value = loss(x, labels)
    assert value.item() == 0
    assert bool(loss.log_z.isnan())
    if value.requires_grad:
        assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))
