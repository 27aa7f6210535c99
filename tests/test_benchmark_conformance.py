"""The command that puts a library through the conformance kit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.conformance import __main__ as conformance
from metriczoo import losses
from metriczoo.testing import LOSS_CHECKS, Subject
from metriczoo.testing._checks import Check


def test_ours_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "outcome.json"
    assert conformance.main(["--loss", "TripletMarginLoss", "--output", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["library"] == "metriczoo"
    assert record["torch"] == torch.__version__
    outcome = record["losses"]["TripletMarginLoss"]
    assert len(outcome) > 30
    assert set(outcome.values()) == {None}
    assert f"{len(outcome)}/{len(outcome)}" in capsys.readouterr().out


def test_faults_of_a_peer_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytorch_metric_learning")
    assert conformance.main(["--library", "pytorch-metric-learning", "--loss", "NPairsLoss", "--details"]) == 1
    printed = capsys.readouterr().out
    assert "NPairsLoss check_permutation: the gradient" in printed or "NPairsLoss check_permutation: the loss goes from" in printed


def test_unknown_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main(["--loss", "TripleMarginLoss"]) == 2
    assert "but got TripleMarginLoss" in capsys.readouterr().err


def test_a_check_that_kills_the_interpreter_is_one_failure() -> None:

    def check_that_crashes(subject: Subject) -> None:
        os._exit(9)

    def always(subject: Any) -> bool:
        return True

    fine = next(check for check in LOSS_CHECKS if check.name == "check_signs")
    outcome = conformance._apart(Subject(losses.TripletMarginLoss()), [Check(check_that_crashes, always), fine])
    assert outcome == {"check_that_crashes": "the process died with exit code 9", "check_signs": None}


def test_checks_that_do_not_apply_leave_no_trace() -> None:
    never = Check(lambda subject: None, lambda subject: False)
    fine = next(check for check in LOSS_CHECKS if check.name == "check_signs")
    assert list(conformance._apart(Subject(losses.TripletMarginLoss()), [never, fine, never])) == ["check_signs"]
