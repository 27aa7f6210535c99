"""What is installed, in which versions, and what importing it costs."""

from __future__ import annotations

import configparser
import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import metriczoo

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "metriczoo").rglob("*.py"))


def installed() -> importlib.metadata.Distribution:
    places = [sysconfig.get_path("purelib")]  # not the checkout, where a build leaves its egg-info
    for distribution in importlib.metadata.distributions(name="metriczoo", path=places):
        return distribution
    pytest.skip("metriczoo is not installed, only on the path")


def test_every_folder_is_a_package():
    assert {path.parent for path in SOURCES} == {path.parent for path in SOURCES if path.name == "__init__.py"}


def test_version_has_one_source():
    assert installed().version == metriczoo.__version__


def test_wheel_holds_every_module_and_the_marker_of_types():
    names = {Path(str(file)) for file in installed().files or ()}
    if Path("metriczoo/__init__.py") not in names:
        pytest.skip("metriczoo is installed in editable mode")
    assert {*SOURCES, Path("metriczoo/py.typed")} <= names
    assert not any(name.parts[0] in ("benchmarks", "docs", "tests") for name in names)


def test_import_loads_nothing_heavy_but_torch():
    heavy = {"PIL", "faiss", "hypothesis", "matplotlib", "pytest", "rich", "scipy", "sklearn"}
    code = "import sys, torch; before = set(sys.modules); import metriczoo; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "metriczoo.losses" in loaded
    assert heavy.isdisjoint(loaded)


def test_known_good_versions_are_inside_the_declared_ranges():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    required = [Requirement(line) for group in groups for line in group.split("\n") if line]
    pinned = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pinned}
    assert len(required) > 10
    for requirement in required:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} leaves out the known-good {version}"
