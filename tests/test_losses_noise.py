"""Noise-contrastive estimation with noise of any distribution, and the state of what draws."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import functional as F
from metriczoo import losses, miners
from metriczoo.stores import MemoryBank

N, D, M = 12, 3, 5
COUNTS = [5.0, 1.0, 0.5, 3.0, 0.0, 2.0, 1.0, 8.0, 0.25, 1.0, 1.0, 4.0]
IDS = torch.tensor([7, 0, 8, 7])


def bank(seed: int = 0, size: int = N) -> MemoryBank:
    return MemoryBank(size, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points(seed: int = 3, n: int = 4) -> Tensor:
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def by_hand(
    x: Tensor, rows: Tensor, own: Tensor, noise: Tensor, p: list[float], *, log_z: float, tau: float, proximal: float = 0.0
) -> Tensor:
    """Equations 6 to 9 of the paper, with the probability of each sample in place of 1 / n, one anchor and one sample at a time."""
    total = x.new_zeros(())
    for i in range(len(x)):
        v, k = x[i] / x[i].norm(), int(own[i])

        def posterior(j: int, v: Tensor = v) -> Tensor:
            model = (v @ rows[j] / tau).exp() / math.exp(log_z)
            return model / (model + noise.shape[1] * p[j])

        total = total - posterior(k).log() + proximal * (v - rows[k]).square().sum()
        for j in noise[i].tolist():
            total = total - (1 - posterior(j)).log()
    return total / len(x)


@pytest.mark.parametrize("share_noise", [True, False])
@pytest.mark.parametrize("execution", ["dense", "tiled"])
def test_loss_gradient_and_z_by_hand(share_noise: bool, execution: str) -> None:
    store, x, tau = bank(), points(), 0.4
    generator = torch.Generator().manual_seed(1)
    loss = losses.NCELoss(
        store, num_noise=M, temperature=tau, proximal=1.5, share_noise=share_noise, noise=COUNTS, generator=generator,
        execution=execution, memory_budget=8 * 20,
    ).double()  # fmt: skip
    assert loss.noise is not None
    twin, p = copy.deepcopy(loss.noise), [c / sum(COUNTS) for c in COUNTS]
    for call in range(2):
        noise = twin.sample(M if share_noise else M * 4).view(-1, M).expand(4, M)
        value = loss(x, IDS)
        if call == 0:  # each score over the probability of drawing it: 1 / n for the anchor's own
            v = torch.nn.functional.normalize(x.detach())
            sums = [float((v[i] @ store.embeddings[k] / tau).exp()) * N for i, k in enumerate(IDS)]
            sums += [float((v[i] @ store.embeddings[j] / tau).exp()) / p[j] for i in range(4) for j in noise[i].tolist()]
            log_z = math.log(sum(sums) / len(sums))
        assert math.isclose(float(loss.log_z), log_z, rel_tol=1e-12)
        expected = by_hand(x, store.embeddings, IDS, noise, p, log_z=log_z, tau=tau, proximal=1.5)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(expected, x), rtol=1e-9, atol=1e-11)
    assert store.draws[1] == 0, "the bank draws uniform noise only"


@given(st.lists(st.floats(0.01, 10), min_size=M, max_size=M), st.floats(0.01, 10), st.floats(-3, 3), st.integers(1, 1000))
def test_function_is_the_posterior(p_n: list[float], p_p: float, log_z: float, num_data: int) -> None:
    s_n, s_p, tau = torch.linspace(-1, 1, M, dtype=torch.float64).unsqueeze(0), torch.tensor([[0.3]], dtype=torch.float64), 0.5
    got = F.nce(
        s_n, s_p, log_z=log_z, num_data=num_data, temperature=tau,
        negative_log_noise=torch.tensor([p_n]).double().log(), positive_log_noise=torch.tensor([[p_p]]).double().log(),
    )  # fmt: skip
    expected = math.log1p(M * p_p / math.exp(0.3 / tau - log_z))
    expected += sum(
        math.log1p(math.exp(s / tau - log_z) / (M * p)) for s, p in zip(s_n[0].tolist(), torch.tensor(p_n).tolist(), strict=True)
    )
    assert math.isclose(got.item(), expected, rel_tol=1e-6)


def test_uniform_noise_given_is_uniform_noise_by_default() -> None:
    s_n, s_p = torch.tensor([[0.3, -0.2], [0.1, 0.9]], dtype=torch.float64), torch.tensor([[0.4], [0.2]], dtype=torch.float64)
    uniform = torch.full((2, 2), 1 / 25, dtype=torch.float64).log()
    options = {"log_z": 2.0, "num_data": 25, "temperature": 0.3}
    given_ = F.nce(s_n, s_p, negative_log_noise=uniform, positive_log_noise=uniform[:, :1], **options)
    torch.testing.assert_close(given_, F.nce(s_n, s_p, **options), rtol=1e-13, atol=0)
    torch.testing.assert_close(F.nce(s_n, s_p, negative_log_noise=uniform[:1], **options), given_, rtol=1e-13, atol=0)


def test_default_draws_by_the_bank_as_ever() -> None:
    store, twin = bank(), bank()
    losses.NCELoss(store, num_noise=M)(points().detach().float(), IDS)
    assert torch.equal(store.sample(3), (twin.sample(M), twin.sample(3))[1])
    assert not any("noise" in name for name in losses.NCELoss(store).state_dict())


def test_estimates_the_same_whatever_the_noise() -> None:
    """In expectation log h is by the same posterior odds: the gradient at the optimum Z = sum exp(s / tau) is that of the softmax."""
    store, x, tau, m = bank(size=40), points(n=1).detach(), 0.5, 4000
    v = torch.nn.functional.normalize(x)
    scores = store.embeddings @ v[0] / tau
    expected = (torch.nn.functional.one_hot(torch.tensor(7), 40) - scores.softmax(0)) @ store.embeddings / tau  # of log P
    for noise in (None, torch.linspace(0.2, 3, 40)):
        torch.manual_seed(0)
        loss = losses.NCELoss(store, num_noise=m, temperature=tau, noise=noise).double()
        loss.load_state_dict({**loss.state_dict(), "log_z": scores.logsumexp(0), "num_data": torch.tensor(40)})
        mean = torch.zeros(1, D, dtype=torch.float64)
        for _ in range(60):
            leaf = v.clone().requires_grad_()
            mean += torch.autograd.grad(loss(leaf, torch.tensor([7])), leaf)[0] / 60
        tangent = expected - (expected @ v[0]) * v[0]  # cosines do not change with the length
        torch.testing.assert_close(-mean[0], tangent, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("share_noise", [True, False])
def test_draws_follow_the_weights(share_noise: bool) -> None:
    loss = losses.NCELoss(bank(), num_noise=2000, share_noise=share_noise, noise=COUNTS, generator=torch.Generator().manual_seed(0))
    rows = [loss._draw(points().detach(), IDS, loss.bank)[0].noise.flatten() for _ in range(5 if share_noise else 2)]
    counts = torch.bincount(torch.cat(rows), minlength=N).double()
    expected = counts.sum() * torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    some = expected > 0
    assert not counts[~some].any()
    assert float(((counts - expected)[some] ** 2 / expected[some]).sum()) < 31.3  # chi-square of 10 degrees of freedom, 0.9995


def test_resumed_training_is_bit_identical() -> None:
    def made(seed: int) -> Any:
        torch.manual_seed(seed)
        return losses.NCELoss(bank(seed), num_noise=M, noise=torch.tensor(COUNTS) + seed, temperature=0.3)

    def steps(loss: Any) -> list[Tensor]:
        values = []
        for step in range(3):
            values.append(loss(points(step).detach().float(), IDS))
            loss.bank.update(IDS, points(step).detach())
        return values

    first, other = made(0), made(1)
    steps(first)
    other.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert torch.equal(other.noise.log_probability, first.noise.log_probability)
    restored = pickle.loads(pickle.dumps(first))
    for a, b, c in zip(steps(first), steps(other), steps(restored), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_probabilities_keep_their_digits() -> None:
    weights = torch.tensor([1.0, 1e-12, 5.0, 3.0], dtype=torch.float64)
    loss = losses.NCELoss(noise=weights).half().double()
    torch.testing.assert_close(loss.noise.log_probability, (weights / weights.sum()).log(), rtol=1e-9, atol=0)


def test_miner_and_ignored_anchors() -> None:
    store = bank()
    loss = losses.NCELoss(store, num_noise=M, noise=COUNTS, temperature=0.4, miner=miners.HardMiner(), share_noise=False).double()
    x, ids = points(), torch.tensor([7, -1, 8, 0])
    noise = copy.deepcopy(loss.noise).sample(4 * M).view(4, M)
    value, p = loss(x, ids), [c / sum(COUNTS) for c in COUNTS]
    kept, v = torch.tensor([0, 2, 3]), torch.nn.functional.normalize(x)
    hardest = noise.gather(1, torch.einsum("nd,nmd->nm", v, store.embeddings[noise]).argmax(1, keepdim=True))
    expected = by_hand(x[kept], store.embeddings, ids[kept], hardest[kept], p, log_z=float(loss.log_z), tau=0.4)
    torch.testing.assert_close(value, expected)
    assert not torch.autograd.grad(value, x)[0][1].any()


def test_other_references_stand_for_uniform_noise() -> None:
    x, labels = points(n=6), torch.tensor([0, 0, 1, 1, 2, 2])
    values = [losses.NCELoss(noise=noise, temperature=0.5)(x, labels) for noise in (None, COUNTS)]
    assert torch.equal(*values)


@pytest.mark.parametrize("noise", [None, COUNTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_programs_update_z(dtype: torch.dtype, noise: Any) -> None:
    """PyTorch 2.13 drops updates of float64 scalars on the host."""
    losses_ = [
        losses.NCELoss(bank(), num_noise=M, temperature=0.4, noise=noise, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    ]
    eager, compiled = (loss.to(dtype) for loss in losses_)
    torch.compiler.reset()
    program = torch.compile(compiled, backend="aot_eager")
    for seed in (0, 1):
        x = points(seed).detach().to(dtype)
        torch.testing.assert_close(program(x, IDS), eager(x, IDS))
    assert compiled.log_z.isfinite()
    torch.testing.assert_close(compiled.log_z, eager.log_z)
    assert compiled.num_data == N


def test_buffers_of_older_checkpoints() -> None:
    loss = losses.NCELoss(bank())
    assert loss.log_z.shape == (1,)
    loss.load_state_dict({**loss.state_dict(), "log_z": torch.tensor(3.0)})
    assert loss.log_z.tolist() == [3.0]
    outer = torch.nn.ModuleDict({"nce": losses.NCELoss()})
    outer.load_state_dict({"nce.log_z": torch.tensor(2.0), "nce.num_data": torch.tensor(5)})
    assert outer["nce"].log_z.tolist() == [2.0]
    with pytest.raises(RuntimeError, match="log_z"):
        loss.load_state_dict({**loss.state_dict(), "log_z": torch.zeros(2)})


@pytest.mark.parametrize("noise", [None, COUNTS])
@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_draws_under_transforms(noise: Any, transform: str) -> None:
    """Both kinds of noise go on drawing, and under `vmap` all see the same."""
    x = points().detach()
    made = [
        losses.NCELoss(bank(), num_noise=M, temperature=0.4, noise=noise, generator=torch.Generator().manual_seed(0)).double() for _ in "ab"
    ]
    loss, twin = made
    assert torch.equal(loss(x, IDS), twin(x, IDS))
    if transform == "grad":
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(torch.func.grad(lambda v: loss(v, IDS))(x), torch.autograd.grad(twin(leaf, IDS), leaf)[0])
    else:
        torch.testing.assert_close(torch.func.vmap(lambda v: loss(v, IDS))(torch.stack([x, 2 * x])), twin(x, IDS).expand(2))
    assert torch.equal(loss(x, IDS), twin(x, IDS)), "the next draws are the next ones"


@pytest.mark.parametrize("sampler", ["bank", "alias"])
def test_samplers_under_transforms(sampler: str) -> None:
    source: Any = bank() if sampler == "bank" else losses.NCELoss(noise=COUNTS).noise
    twin, drawn = copy.deepcopy(source), []

    def f(v: Tensor) -> Tensor:
        drawn.append(source.sample(4))
        drawn.append(source.sample(4, generator=torch.Generator().manual_seed(1)))
        return v.sum()

    for run in (torch.func.grad(f), torch.func.vmap(f), lambda v: torch.func.jvp(f, (v,), (v,))):
        run(torch.ones(2))
        assert torch.equal(drawn[-2], twin.sample(4))
        assert torch.equal(drawn[-1], twin.sample(4, generator=torch.Generator().manual_seed(1)))
        assert torch.equal(source.draws, twin.draws)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: losses.NCELoss(noise=[]), ValueError, "`noise`"),
        (lambda: losses.NCELoss(noise=[1.0, -1.0]), ValueError, "`noise`"),
        (lambda: losses.NCELoss(noise=[0.0]), ValueError, "`noise`"),
        (lambda: losses.NCELoss(noise=[math.nan]), ValueError, "`noise`"),
        (lambda: losses.NCELoss(noise="uniform"), (TypeError, ValueError), "`noise`"),
        (lambda: losses.NCELoss(bank(), noise=[1.0] * 11), ValueError, "`noise` to have 12 entries.*got 11"),
        (lambda: losses.NCELoss(noise=COUNTS)(points(), IDS, bank(size=13)), ValueError, "`noise` to have 13 entries.*got 12"),
        (lambda: losses.NCELoss(bank(), noise=COUNTS)(points(), torch.tensor([0, 4, 1, 2])), ValueError, "got 0 for row 4"),
    ],
)
def test_errors(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
