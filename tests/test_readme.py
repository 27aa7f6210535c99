"""The README: its commands are what CI runs, and its Python code runs."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import metriczoo.data

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = FENCE.findall(TEXT)


def test_the_first_two_blocks_are_the_two_commands():
    (first, job), (second, tests) = BLOCKS[:2]
    assert (first, second) == ("bash", "bash")
    assert job.splitlines()[-1].endswith("python -m benchmarks.retrieval"), ".ci/run appends arguments to this line"
    assert tests.splitlines()[-1].endswith("tox")


def test_ci_reads_the_same_blocks():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = script[script.index("block() {") : script.index("\n}\n") + 3]
    for number, (_, code) in enumerate(BLOCKS, start=1):
        shown = subprocess.run(["bash", "-c", f"{function}block {number}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert shown == code


def test_python_blocks_run_one_after_the_other_and_give_what_they_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # where its classes say that they are
    namespace = vars(module)
    for code in (code for language, code in BLOCKS if language == "python"):
        exec(compile(code, "README.md", "exec"), namespace)
    pixels, trained = map(float, capsys.readouterr().out.split())
    assert pixels == pytest.approx(0.38, abs=0.01)
    assert trained == pytest.approx(0.53, abs=0.04)
    assert namespace["value"].isfinite()


def test_named_classes_exist():
    modules = [
        metriczoo.losses,
        metriczoo.miners,
        metriczoo.similarity,
        metriczoo.stores,
        metriczoo.data,
        metriczoo.scores,
        metriczoo.relations,
    ]
    known = {name for module in modules for name in module.__all__}
    named = set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", TEXT))
    assert len(named) > 20
    assert named <= known
