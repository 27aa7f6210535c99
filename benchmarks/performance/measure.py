"""One case, measured in a process of its own: `measure` is what that process does, `run` starts it and sets limits to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.performance.machine import PeakMemory, give_back_memory, limit_memory
from benchmarks.performance.registry import FAMILIES, Family, all_works
from benchmarks.performance.summary import is_ours
from benchmarks.performance.work import DIM, OURS, Maker, Step, Work

__all__ = ["Case", "Limits", "agreement", "imports", "run"]

_REPEATS = 5
_SHORT = 60  # of calls that take no time: the first dozen pay for the interpreter, which specialises code that is run often
_TILE = 2**24  # scores that the matrix products of the unit hold at once
_BLOCK, _BLOCKS = 2**18, 32  # numbers of a sigmoid in one call, and calls that are timed together
_FAREWELL = 10  # seconds in which a process may give back what it holds, before it is ended
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """A work by a library at a size."""

    work: str
    library: str
    size: int


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    Attributes:
        seconds: for one call.
        gigabytes: above what the process holds before.
        repeat: seconds for calls that are timed after the first, of which there are at least two unless the first took longer than that;
            more than five take a quarter of it.
    """

    seconds: float = 60.0
    gigabytes: float = 8.0
    repeat: float = 1.0


# ---- the parent


@cache
def _context() -> BaseContext:
    """Processes start from one that has read the libraries already, where the system can do that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.performance.preload"])
    return context


def run(case: Case, limits: Limits, *, timed: bool = True) -> dict[str, Any]:
    """What came of a case: numbers, or a note that says why there are none."""
    here, there = _context().Pipe(duplex=False)
    process = _context().Process(target=_work, args=(there, case, limits, timed))  # type: ignore[attr-defined]
    process.start()
    there.close()
    allowance = limits.seconds * (3 if case.library.endswith("compiled") else 1)
    record: dict[str, Any] = {}
    try:
        for seconds in (allowance + 30, allowance, 3 * allowance + 30):  # start and data; the first call; the rest
            if not here.poll(seconds):
                return {"note": f"exceeds {limits.seconds:g} s"}
            message = here.recv()
            record.update(message)
            if "note" in message:
                break
        process.join(_FAREWELL)
    except EOFError:
        process.join()
        return {"note": f"the process died with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return record


# ---- the process of a case


def _work(connection: Connection, case: Case, limits: Limits, timed: bool) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):  # what libraries print is not for the table
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    try:
        _measure(connection, case, limits, timed)
    except MemoryError:
        connection.send({"note": f"exceeds {limits.gigabytes:g} GB"})
    except Exception as error:  # of whatever kind: it is what the table says of this library
        text = " ".join(str(error).split())
        short = "allocate memory" in text or "bad_alloc" in text
        connection.send({"note": f"exceeds {limits.gigabytes:g} GB" if short else f"{type(error).__name__}: {text}"[:160]})


def _measure(connection: Connection, case: Case, limits: Limits, timed: bool) -> None:
    work = all_works()[case.work]
    family, maker = FAMILIES[work.family], work.makers[case.library]
    if not case.library.endswith("compiled"):
        _warm_up(maker, case, family)
    step = maker.make(case.size, torch.float32)
    give_back_memory()
    limit_memory(limits.gigabytes)
    connection.send({})
    if case.library.endswith("compiled"):
        step.run()
    memory = PeakMemory()
    cpu, wall = _timed(step)
    connection.send({"peak_mb": memory.megabytes(), "cpu_ms": cpu, "wall_ms": wall, "repeats": 1})
    result: dict[str, Any] = {}
    if timed:
        budget = 1000 * limits.repeat
        fit = int(budget / max(cpu, 1e-3))
        repeats = min(max(_REPEATS, min(fit // 4, _SHORT)), max(2, fit)) if cpu < budget else 0
        times = [(cpu, wall), *(_timed(step) for _ in range(repeats))]
        result = {"cpu_ms": min(t[0] for t in times), "wall_ms": min(t[1] for t in times), "repeats": max(1, repeats)}
    del step
    if timed and work.scores is not None:
        product = _products(*work.scores(case.size), family.products, limits.repeat)
        result |= {"products_ms": product, "ratio": result["cpu_ms"] / product}
        if work.elements is not None:
            floor = product + _elements(work.elements(case.size))
            result |= {"floor_ms": floor, "floor_ratio": result["cpu_ms"] / floor}
    connection.send(result | agreement(work, case.library))


def _warm_up(maker: Maker, case: Case, family: Family) -> None:
    """Have code read and threads made before anything is measured.

    What we do depends on the size, so that ours runs at one that takes the path of the case. Others are slow: theirs runs at a small one.
    """
    sizes = (family.quick[0], min(case.size, family.warm)) if is_ours(case.library) else (family.quick[0],)
    for size in sizes:
        maker.make(size, torch.float32).run()


def _timed(step: Step) -> tuple[float, float]:
    """CPU time and wall time of one call, in milliseconds."""
    torch.manual_seed(0)
    wall, cpu = time.perf_counter(), time.process_time()
    kept = step.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    del kept
    return 1000 * cpu, 1000 * wall


def _products(rows: int, columns: int, count: int, seconds: float) -> float:
    """CPU time of the matrix products without which the work cannot be done, into memory that is there, in milliseconds.

    One is of points with points; a gradient takes two more, scores with points on either side.
    """
    a, r = torch.randn(rows, DIM), torch.randn(columns, DIM)
    grad_a, grad_r = torch.ones_like(a), torch.ones_like(r)
    height = max(1, min(rows, _TILE // columns))
    width = min(columns, _TILE // height)
    scores = torch.ones(height, width)
    best, begin = float("inf"), time.process_time()
    for repeat in range(1 + _REPEATS):
        start = time.process_time()
        if repeat and start - begin > seconds:
            break
        for i in range(0, rows, height):
            for j in range(0, columns, width):
                block, other = a[i : i + height], r[j : j + width]
                part = scores[: len(block), : len(other)]
                torch.mm(block, other.T, out=part)
                if count > 1:
                    torch.mm(part, other, out=grad_a[i : i + height])
                    torch.mm(part.T, block, out=grad_r[j : j + width])
        best = min(best, time.process_time() - start)
    return 1000 * best


def _elements(count: int) -> float:
    """CPU time of so many sigmoids, in memory that is near, in milliseconds."""
    block = torch.randn(_BLOCK)
    out = torch.empty_like(block)
    best = float("inf")
    for _ in range(1 + _REPEATS):
        start = time.process_time()
        for _ in range(_BLOCKS):
            torch.sigmoid(block, out=out)
        best = min(best, time.process_time() - start)
    return 1000 * best * count / (_BLOCK * _BLOCKS)


def imports(repeats: int) -> dict[str, Any]:
    """CPU time of `import torch` and of our losses, in milliseconds: the least of `repeats` fresh interpreters each.

    `import metriczoo` alone imports next to nothing, not even torch.
    """
    times: dict[str, float] = {}
    for _ in range(repeats):
        for module in ("torch", "metriczoo.losses"):
            code = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
            printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT).stdout
            times[module] = min(times.get(module, float("inf")), 1000 * float(printed))
    return {"torch_ms": times["torch"], "metriczoo_ms": times["metriczoo.losses"], "repeats": repeats}


def agreement(work: Work, library: str) -> dict[str, Any]:
    """How far value and gradients of a library are from ours, relative to the largest; ours from those of dense execution.

    In float64, since some libraries do in float32 what another order of sums makes differ; compiled programs in float32, as they are used.
    """
    other = OURS if library != OURS else next((name for name in (f"{OURS}-dense", f"{OURS}-faiss") if name in work.makers), None)
    if work.uncompared or other is None or (work.checks and library not in work.checks) or (work.checks and other not in work.checks):
        return {"value_difference": None, "gradient_difference": None, "agrees": None}
    compiled = library.endswith("compiled")
    dtype, tolerance = (torch.float32, 1e-4) if compiled else (torch.float64, work.tolerance)
    outcomes = []
    for name in (other, library):
        make = work.checks.get(name, work.makers[name].make)
        step = make(FAMILIES[work.family].check, dtype)
        torch.manual_seed(0)
        value, gradients = step.run()
        outcomes.append((value, gradients, step.compared))
    (value, gradients, _), (other_value, other_gradients, compared) = outcomes
    if not isinstance(value, Tensor):
        return {"value_difference": None, "gradient_difference": None, "agrees": None}
    by_value = _difference(value, other_value)
    pairs = list(zip(gradients, other_gradients, strict=True))[:compared]
    by_gradient = max((_difference(a, b) for a, b in pairs), default=None)
    return {
        "value_difference": by_value,
        "gradient_difference": by_gradient,
        "agrees": by_value <= tolerance and (by_gradient is None or by_gradient <= 10 * tolerance),
    }


def _difference(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else 1.0
    a, b = a.detach().double(), b.detach().double()
    return float((a - (b if a.shape == b.shape else b.T)).abs().max() / a.abs().max().clamp(min=1e-300))
