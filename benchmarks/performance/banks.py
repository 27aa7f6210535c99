"""Losses of `BATCH` instances on a memory bank; the size is the number of its rows."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from benchmarks.performance.losses_on_batches import executions
from benchmarks.performance.migration import ours
from benchmarks.performance.work import BATCH, DIM, Maker, Step, Work, points
from metriczoo.stores import MemoryBank

__all__ = ["works"]

_NOISE, _TEMPERATURE = 4096, 0.07


def works() -> list[Work]:
    """Every loss on a bank."""
    softmax = {"torch": Maker(_softmax, "cross_entropy(normalize(x) @ bank.T / 0.07)")}
    gathered = {"lemniscate-style": Maker(_gathered, "4096 rows gathered for each anchor, as the authors of the method do")}
    draws = "each draws its own noise"

    def drawn(name: str, expression: str) -> Work:
        makers = {**_ours(expression), **gathered}
        checks = {library: partial(_of_equal_rows, maker.expression) for library, maker in makers.items()}
        checks["lemniscate-style"] = partial(_gathered, equal=True)
        return Work(name, "bank", makers, scores=lambda n: (BATCH, _noise(n)), checks=checks, tolerance=1e-6)

    return [
        drawn("NCELoss", f"NCELoss(num_noise=min({_NOISE}, C))"),
        drawn("NCELoss with noise of each anchor", f"NCELoss(num_noise=min({_NOISE}, C), share_noise=False)"),
        Work("NonParametricSoftmaxLoss", "bank", {**_ours("NonParametricSoftmaxLoss()"), **softmax}, scores=lambda n: (BATCH, n)),
        Work("NegativeSamplingLoss on a bank", "bank", _ours("NegativeSamplingLoss(noise=range(1, C + 1), num_noise=5)"), uncompared=draws),
        Work("ProximalRegularizer", "bank", _ours("ProximalRegularizer()")),
    ]


def _noise(rows: int) -> int:
    return min(_NOISE, rows)


def _data(rows: int, dtype: torch.dtype, *, equal: bool = False) -> tuple[Tensor, Tensor, MemoryBank]:
    generator = torch.Generator().manual_seed(rows)
    ids, bank = torch.randint(rows, (BATCH,), generator=generator), MemoryBank(rows, DIM, dtype=dtype, generator=generator)
    if equal:
        bank.embeddings[:] = bank.embeddings[0].clone()
    return points(BATCH, dtype), ids, bank


def _ours(expression: str) -> dict[str, Maker]:
    def make(text: str, rows: int, dtype: torch.dtype) -> Step:
        x, ids, bank = _data(rows, dtype)
        loss = ours(text, rows)
        return Step(lambda: loss(x, ids, bank), (x,))

    return executions(expression, lambda text: partial(make, text))


def _of_equal_rows(expression: str, rows: int, dtype: torch.dtype) -> Step:
    """On a bank of equal rows, each draw is like another, so that losses on drawn noise can be compared."""
    x, ids, bank = _data(rows, dtype, equal=True)
    loss = ours(expression, rows)
    loss.load_state_dict({**loss.state_dict(), "log_z": torch.tensor([math.log(2 * rows)]), "num_data": torch.tensor(rows)})
    return Step(lambda: loss(x, ids, bank), (x,))


def _softmax(rows: int, dtype: torch.dtype) -> Step:
    x, ids, bank = _data(rows, dtype)
    return Step(lambda: cross_entropy(normalize(x) @ bank.embeddings.T / _TEMPERATURE, ids), (x,))


def _gathered(rows: int, dtype: torch.dtype, *, equal: bool = False) -> Step:
    x, ids, bank = _data(rows, dtype, equal=equal)
    log_z, log_share = math.log(2 * rows), math.log(_noise(rows) / rows)

    def forward() -> Tensor:
        drawn = torch.cat([ids[:, None], torch.randint(rows, (BATCH, _noise(rows)))], dim=1)
        scores = torch.bmm(bank.embeddings[drawn], normalize(x)[:, :, None])[:, :, 0] / _TEMPERATURE
        log_odds = scores - log_z - log_share
        return (softplus(-log_odds[:, 0]) + softplus(log_odds[:, 1:]).sum(1)).mean()

    return Step(forward, (x,))
