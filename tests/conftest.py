"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "metriczoo", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("metriczoo")
torch.set_num_threads(1)

_CANDIDATES = [os.environ.get("METRICZOO_DATA"), str(Path(__file__).resolve().parents[2] / "shared" / "data")]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Root of the real data sets; tests that ask for it are skipped where there is none."""
    for candidate in _CANDIDATES:
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip("no real data: set METRICZOO_DATA to the folder that holds it")
