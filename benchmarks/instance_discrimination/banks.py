"""What a bank costs: memory, and time of a step, by its number of rows."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.command.folder import Folder
from benchmarks.instance_discrimination.bench import Bench
from benchmarks.instance_discrimination.objective import Variant
from benchmarks.instance_discrimination.runs import OnStep
from benchmarks.performance.machine import PeakMemory, give_back_memory
from metriczoo.losses import Loss
from metriczoo.stores import MemoryBank

__all__ = ["measure_bank"]

_NOISE = 4096  # samples, where the variant is the full softmax


def measure_bank(bench: Bench, variant: Variant, rows: int, dtype: str, folder: Folder, on_step: OnStep) -> None:
    """Record the memory of a bank, and the time of a step of each loss on it, without the encoder.

    Args:
        bench: that the run belongs to.
        variant: of the losses and of the bank.
        rows: of the bank.
        dtype: of its rows.
        folder: for the record.
        on_step: is not called.
    """
    name = f"bank-{rows}-{dtype}"
    if folder.has(name, None):
        return
    variant = replace(variant, bank_dtype=dtype)
    give_back_memory()
    memory = PeakMemory()
    bank = variant.bank(rows, generator=torch.Generator().manual_seed(0)).to(bench.device)
    resident = memory.megabytes() if memory.exact and bench.device.type == "cpu" else None
    noise = variant.num_noise or _NOISE
    nce = _seconds(bench, replace(variant, num_noise=noise).loss(bank).to(bench.device), bank, warm_up=3, steps=15)
    softmax = _seconds(bench, replace(variant, num_noise=None).loss(bank), bank, warm_up=1, steps=3)  # which read the whole bank
    values = {
        **asdict(variant),
        "num_noise": noise,
        "rows": rows,
        "batch": bench.batch,
        "rows_megabytes": bank.embeddings.nbytes / 2**20,
        "megabytes": sum(buffer.nbytes for buffer in bank.buffers()) / 2**20,
        "resident_megabytes": resident,
        **_quartiles("nce_ms", nce),
        **_quartiles("softmax_ms", softmax),
    }
    del bank
    gc.collect()
    folder.add(bench.record(name, "bank", None, **values))


def _quartiles(name: str, seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {name: 1000 * middle, f"{name}_low": 1000 * low, f"{name}_high": 1000 * high}


def _seconds(bench: Bench, loss: Loss, bank: MemoryBank, warm_up: int, steps: int) -> list[float]:
    """Of each step: loss, gradient, and the update of the bank."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(warm_up + steps):
        x = normalize(torch.randn(bench.batch, bank.embedding_dim, generator=generator)).to(bench.device).requires_grad_()
        ids = torch.randint(len(bank), (bench.batch,), generator=generator).to(bench.device)
        found.append(_timed(bench, lambda x=x, ids=ids: _step(loss, bank, x, ids)))  # type: ignore[misc]
    return found[-steps:]


def _step(loss: Loss, bank: MemoryBank, x: Tensor, ids: Tensor) -> None:
    loss(x, ids).backward()
    bank.update(ids, x.detach())


def _timed(bench: Bench, work: Callable[[], Any]) -> float:
    _wait(bench)
    start = time.perf_counter()
    work()
    _wait(bench)
    return time.perf_counter() - start


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
