"""What tests of benchmarks share: pictures to train on, results to compare, runs that are interrupted or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.training.loop import Training

ROOT = Path(__file__).resolve().parents[1]
_COSTS = ("seconds", "cpu_seconds", "peak_memory", "versions")


def write_pictures(root: Path, classes: int, each: int, *, cells: int = 6, shift: int = 1, noise: float = 40.0) -> Path:
    """A folder of classes of pictures: a pattern each, shifted and noisy."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        pattern = generator.integers(0, 256, (cells, cells, 3))
        (root / f"class{label}").mkdir(parents=True)
        for number in range(each):
            shifted = np.roll(pattern, generator.integers(-shift, shift + 1, 2), (0, 1)).repeat(4, 0).repeat(4, 1)
            noisy = shifted + generator.normal(0, noise, shifted.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / f"class{label}" / f"{number}.png")
    return root


def write_vectors(folder: Path) -> Path:
    """Features of 16 classes of 6 rows, the first 8 of which train."""
    generator = np.random.default_rng(0)
    centers, labels = generator.normal(size=(16, 12)), np.repeat(np.arange(16), 6)
    path = folder / "made.npz"
    np.savez(path, X=(centers[labels] + 0.9 * generator.normal(size=(96, 12))).astype(np.float32), y=labels)
    return path


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Records, without what depends on the clock, on memory or on the state of the checkout."""
    return without_costs(results(folder)["records"])


def without_costs(part: Any) -> Any:
    """What does not depend on the clock, on memory or on the state of the checkout."""
    if isinstance(part, dict):
        return {name: without_costs(value) for name, value in part.items() if name not in _COSTS}
    return [without_costs(each) for each in part] if isinstance(part, list) else part


def failure(command: Callable[[list[str]], Any], capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The one line in which a command that must fail says why."""
    try:
        status = command(argv)
    except SystemExit as error:
        status = error.code
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def interrupt_after(patch: pytest.MonkeyPatch, steps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Stop whatever trains after so many steps."""
    step, left = Training._step, iter(range(steps))

    def counted(*args):
        if next(left, None) is None:
            raise error("stopped by the test")
        return step(*args)

    patch.setattr(Training, "_step", counted)


def attempts(
    main: Callable[[list[str]], int], argv: list[str], monkeypatch: pytest.MonkeyPatch, *, steps: int, most: int = 40
) -> Iterator[int]:
    """The statuses of a command that is interrupted after so many steps of training, again and again, until it comes to its end."""
    for _ in range(most):
        with monkeypatch.context() as patch:
            interrupt_after(patch, steps)
            status = main(argv)
        yield status
        if status == 0:
            return
    pytest.fail(f"{most} attempts did not get to the end")


def started(module: str, argv: Sequence[str], begun: Callable[[], bool], seconds: float = 120.0) -> subprocess.Popen[bytes]:
    """A process that runs a benchmark, as soon as it has come so far that `begun()`."""
    command, environment = [sys.executable, "-m", module, *argv], {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process without a word."""
    process.send_signal(signal.SIGKILL)
    process.wait()
