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
from packaging.version import Version

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


MODULES = sorted(
    path.stem if path.is_file() else path.name
    for path in (ROOT / "metriczoo").iterdir()
    if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
)


def run(code: str) -> list[str]:
    """Words that a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_import_loads_no_module_that_is_not_asked_for():
    loaded = run("import sys, metriczoo; print(*(name for name in sys.modules if name.split('.')[0] in ('metriczoo', 'torch', 'numpy')))")
    assert loaded == ["metriczoo"]


def test_no_module_loads_anything_heavy_but_torch():
    heavy = {"PIL", "faiss", "hypothesis", "matplotlib", "pytest", "rich", "scipy", "sklearn"}
    light = [name for name in MODULES if name not in ("linear", "testing")]  # estimators of scikit-learn, and tests by Hypothesis
    code = f"import sys, torch, metriczoo; before = set(sys.modules); [getattr(metriczoo, name) for name in {light}]"
    loaded = run(f"{code}; print(*sorted(set(sys.modules) - before))")
    assert {f"metriczoo.{name}" for name in light} <= set(loaded)
    assert heavy.isdisjoint(loaded)


def test_every_module_is_an_attribute():
    code = f"import metriczoo; known = dir(metriczoo); print(*(getattr(metriczoo, n).__name__ for n in {MODULES} if n in known))"
    assert len(MODULES) > 10
    assert run(code) == [f"metriczoo.{name}" for name in MODULES]


def test_names_of_the_package_are_those_of_their_modules():
    assert set(metriczoo.__all__) <= set(dir(metriczoo))
    everything: dict[str, object] = {}
    exec("from metriczoo import *", everything)
    assert set(metriczoo.__all__) <= set(everything)
    assert metriczoo.Scores is metriczoo.scores.Scores
    assert metriczoo.settings.memory_budget is None


def test_unknown_name_of_the_package_is_no_attribute():
    with pytest.raises(AttributeError, match=r"^module 'metriczoo' has no attribute 'loses'$"):
        _ = metriczoo.loses
    assert not hasattr(metriczoo, "__wrapped__")
    with pytest.raises(ImportError, match="cannot import name 'loses' from 'metriczoo'"):
        exec("from metriczoo import loses")


def test_the_kit_without_hypothesis_says_what_brings_it():
    code = "import sys; sys.modules['hypothesis'] = None\ntry: import metriczoo.testing\nexcept ImportError as error: print(error)"
    assert "pip install metriczoo[test]" in " ".join(run(code))


def required() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return [Requirement(line) for group in groups for line in group.split("\n") if line]


def pinned(name: str) -> dict[str, str]:
    lines = [Requirement(line) for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in lines}


def test_known_good_versions_are_inside_the_declared_ranges():
    versions = pinned("constraints.txt")
    assert len(required()) > 10
    for requirement in required():
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} leaves out the known-good {version}"


def test_oldest_versions_are_the_bounds_of_the_declared_ranges():
    versions = pinned("constraints-oldest.txt")
    bounds = {canonicalize_name(r.name): Version(s.version) for r in required() for s in r.specifier if s.operator == ">="}
    known = {name: Version(versions[name]) for name in bounds if name in versions}
    assert set(bounds) - set(known) == {"furo", "sphinx"}  # the site is built with the newest
    assert {name: bound for name, bound in bounds.items() if name in known} == known
