"""The check that fails the build of the site where a public name is missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sphinx", reason="the documentation needs the extra `docs`")
ROOT = Path(__file__).resolve().parents[1]

SOUND = {
    "__init__.py": '"""Zoo."""\nfrom zoo._keys import KEY\nfrom zoo.cats import Cat\n__all__ = ["Cat", "KEY", "cats"]\n',
    "cats/__init__.py": '"""Cats."""\nfrom zoo.cats.small import Cat\n__all__ = ["Cat"]\n',
    "cats/small.py": '"""Small cats."""\n__all__ = ["Cat"]\nclass Cat:\n    """A cat."""\n',
    "_keys.py": "KEY = 1\n",
}
PLANTED = {
    "zoo.dogs has no __all__": {"dogs.py": '"""Dogs."""\n'},
    "zoo.dogs has no docstring": {"dogs.py": "__all__ = ['N']\nN = 1\n"},
    "zoo.dogs.bark has no docstring": {"dogs.py": '"""Dogs."""\n__all__ = ["bark"]\ndef bark(): ...\n'},
    "zoo.dogs.bark is in __all__ but does not exist": {"dogs.py": '"""Dogs."""\n__all__ = ["bark"]\n'},
    "zoo.cats.big.Lion is not in zoo.cats.__all__": {"cats/big.py": '"""Big."""\n__all__ = ["Lion"]\nclass Lion:\n    """A lion."""\n'},
    "zoo.KEY is in __all__ but does not exist": {"__init__.py": '"""Zoo."""\n__all__ = ["KEY"]\n'},
}


@pytest.fixture
def api_pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module("api_pages")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], ModuleType]]:
    def make(files: dict[str, str]) -> ModuleType:
        for name, text in (SOUND | files).items():
            path = tmp_path / "zoo" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return importlib.import_module("zoo")

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo"]:
        del sys.modules[name]


def test_sound_package_has_no_fault(api_pages, zoo):
    assert list(api_pages.faults(zoo({}))) == []


@pytest.mark.parametrize("fault", PLANTED)
def test_every_planted_fault_is_found(api_pages, zoo, fault):
    assert list(api_pages.faults(zoo(PLANTED[fault]))) == [fault]


def test_one_page_per_public_name(api_pages, zoo):
    pages = api_pages.pages(zoo({}))
    assert sorted(pages) == ["zoo.cats.rst", "zoo.cats/Cat.rst", "zoo.rst", "zoo/KEY.rst"]
    assert ".. autoclass:: Cat\n   :members:" in pages["zoo.cats/Cat.rst"]
    assert "zoo.cats/Cat" in pages["zoo.cats.rst"]


def test_metriczoo_has_no_fault(api_pages):
    assert list(api_pages.faults(importlib.import_module("metriczoo"))) == []
