"""Every promise of every loss, by hypothesis. The promises are in `loss_checks.py`, the losses in `zoo.py`."""

from __future__ import annotations

import pytest
from loss_checks import ON_BATCHES, ON_SCORES
from zoo import ZOO

CASES = [(check, entry) for entry in ZOO for check in [*ON_SCORES, *(ON_BATCHES[:3] if entry.variant else ON_BATCHES)]]


@pytest.mark.parametrize(("check", "entry"), CASES, ids=[f"{check.__name__.removeprefix('check_')}-{entry}" for check, entry in CASES])
def test_promise(check, entry):
    check(entry)
