"""Stores, losses and miners together, as a training loop uses them: sharing a store, and going on from a checkpoint."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metriczoo import losses, metrics, miners
from metriczoo.stores import EmbeddingQueue, MemoryBank, Proxies

N, D = 40, 8


class _Training:
    """An encoder trained by one loss of each kind at once, on one shared bank, a queue and shared proxies."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.labels = torch.arange(N) % 4
        self.points = torch.randn(4, 12)[self.labels] + torch.randn(N, 12)
        self.encoder = nn.Linear(12, D)
        self.bank = MemoryBank(N, D, labels=self.labels, generator=torch.Generator().manual_seed(1))
        self.queue = EmbeddingQueue(24, D)
        proxies = Proxies(4, D, generator=torch.Generator().manual_seed(2))
        self.losses = nn.ModuleDict(
            {
                "instance": losses.NCELoss(self.bank, num_noise=10),
                "bank": losses.TripletMarginLoss(miner=miners.DistanceWeightedMiner(generator=torch.Generator().manual_seed(3))),
                "queue": losses.CircleLoss(scale=16.0),
                "proxies": losses.AMSoftmaxLoss(proxies=proxies),
                "class": losses.CircleLoss(scale=16.0, proxies=proxies),
            }
        )
        self.optimizer = torch.optim.Adam([*self.encoder.parameters(), *proxies.parameters()], lr=0.01)
        self.generator = torch.Generator().manual_seed(4)

    def step(self) -> Tensor:
        ids = torch.randint(N, (10,), generator=self.generator)
        x, labels = self.encoder(self.points[ids]), self.labels[ids]
        value = (
            self.losses["instance"](x, labels, ids=ids)
            + self.losses["bank"](x, labels, self.bank, ids=ids)
            + self.losses["queue"](x, labels, [None, self.queue], ids=ids)
            + self.losses["proxies"](x, labels)
            + self.losses["class"](x, labels)
        )
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.bank.update(ids, x.detach())
        self.queue.enqueue(x.detach(), labels, ids)
        return value.detach()

    def parts(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "losses": self.losses, "queue": self.queue, "optimizer": self.optimizer}

    def save(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({**{k: v.state_dict() for k, v in self.parts().items()}, "generator": self.generator.get_state()}, buffer)
        return buffer.getvalue()

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.generator.set_state(state.pop("generator"))
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


def test_resumed_training_is_bit_identical() -> None:
    whole = _Training()
    for _ in range(5):
        whole.step()
    saved = whole.save()
    following = [whole.step() for _ in range(6)]
    resumed = _Training()
    resumed.load(saved)
    assert [float(resumed.step()) for _ in range(6)] == [float(v) for v in following]
    for x, y in zip(whole.encoder.parameters(), resumed.encoder.parameters(), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(whole.bank.embeddings, resumed.bank.embeddings)


def test_training_learns_and_one_bank_serves_all() -> None:
    """Two losses, mining of hard negatives and a nearest-neighbour classifier read the same bank, which none of them changes."""
    training = _Training()
    first = torch.stack([training.step() for _ in range(5)]).mean()
    for _ in range(60):
        training.step()
    assert torch.stack([training.step() for _ in range(5)]).mean() < first
    before = training.bank.embeddings.clone()
    x = training.encoder(training.points).detach()
    ids = torch.arange(N)
    training.losses["instance"](x, training.labels, ids=ids)
    hard = losses.TripletMarginLoss(miner=miners.HardMiner())(x, training.labels, training.bank, ids=ids)
    found = metrics.knn_classify(x, training.bank, k=5, query_ids=ids)
    predictions = torch.as_tensor(found[0] if isinstance(found, tuple) else found)
    assert hard.isfinite()
    assert (predictions == training.labels).float().mean() > 0.8
    assert torch.equal(training.bank.embeddings, before)


def test_self_is_excluded_from_a_bank_by_id() -> None:
    """Every anchor's own row holds exactly the anchor: without ids it is the easiest positive, with ids it is not there."""
    x = torch.nn.functional.normalize(torch.randn(6, D, generator=torch.Generator().manual_seed(0)))
    labels = torch.arange(6)
    bank = MemoryBank(6, D, labels=labels, momentum=0.0)
    bank.update(labels, x)
    loss = losses.from_function(lambda s_n, s_p: s_p.count().to(x.dtype), reduction="sum")
    assert float(loss(x, labels, bank)) == 6
    assert float(loss(x, labels, bank, ids=labels)) == 0


def test_z_is_estimated_once_and_kept(tmp_path: Path) -> None:
    x = torch.nn.functional.normalize(torch.randn(16, D, generator=torch.Generator().manual_seed(0)))
    bank = MemoryBank(200, D, generator=torch.Generator().manual_seed(1))
    loss = losses.NCELoss(bank, num_noise=50, temperature=0.2)
    drawn = copy.deepcopy(bank.state_dict())
    loss(x, torch.arange(16))
    z = loss.log_z.clone()
    bank.load_state_dict(drawn)
    noise = bank.sample(50)
    scores = torch.cat([(x * bank.embeddings[:16]).sum(1, keepdim=True), x @ bank.embeddings[noise].T], dim=1)
    torch.testing.assert_close(z, (200 * (scores / 0.2).exp().mean()).log().unsqueeze(0))
    loss(10 * x.flip(0), torch.arange(16))
    assert torch.equal(loss.log_z, z)
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    resumed = losses.NCELoss(MemoryBank(200, D), num_noise=50, temperature=0.2)
    resumed.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    resumed(x.flip(0), torch.arange(16))
    assert torch.equal(resumed.log_z, z)
    resumed.reset()
    resumed(x.flip(0), torch.arange(16))
    assert not torch.equal(resumed.log_z, z)


@pytest.mark.parametrize("share_noise", [True, False])
def test_nce_against_the_formula(share_noise: bool) -> None:
    """Wu 2018, equations 5 to 9, with the noise that the bank drew."""
    x = torch.randn(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bank = MemoryBank(30, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids, tau, m, n, proximal = torch.tensor([3, 1, 4, 15, 9]), 0.3, 7, 30, 2.0
    loss = losses.NCELoss(bank, num_noise=m, temperature=tau, proximal=proximal, share_noise=share_noise).double()
    loss(x, ids)
    drawn = copy.deepcopy(bank.state_dict())
    value = loss(x, torch.zeros(5, dtype=torch.int64), ids=ids)
    bank.load_state_dict(drawn)
    noise = bank.sample(m).expand(5, m) if share_noise else bank.sample(5 * m).view(5, m)
    z, total = loss.log_z.exp(), 0.0
    for i in range(5):
        v = x[i] / x[i].norm()

        def h(row: int, v: Tensor = v) -> Tensor:
            p = (v @ bank.embeddings[row] / tau).exp() / z
            return p / (p + m / n)

        own = bank.embeddings[ids[i]]
        total += float(-h(int(ids[i])).log() - sum((1 - h(int(j))).log() for j in noise[i]) + proximal * (v - own).square().sum())
    assert float(value) == pytest.approx(total / 5, rel=1e-9)


def test_shared_and_own_noise_expect_the_same() -> None:
    x = torch.nn.functional.normalize(torch.randn(8, D, generator=torch.Generator().manual_seed(0)))
    bank = MemoryBank(60, D, generator=torch.Generator().manual_seed(1))
    means = []
    for share_noise in (True, False):
        loss = losses.NCELoss(bank, num_noise=20, temperature=0.5, share_noise=share_noise)
        loss.log_z.fill_(5.0)
        loss.num_data.fill_(60)
        loss._estimated = True
        means.append(torch.stack([loss(x, torch.arange(8)) for _ in range(300)]).mean())
    assert means[0] == pytest.approx(float(means[1]), rel=0.01)
