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
    "__init__.py": '"""Zoo."""\nfrom menagerie._keys import KEY\nfrom menagerie.cats import Cat\n__all__ = ["Cat", "KEY", "cats"]\n',
    "cats/__init__.py": '"""Cats."""\nfrom menagerie.cats.small import Cat\n__all__ = ["Cat"]\n',
    "cats/small.py": '"""Small cats."""\n__all__ = ["Cat"]\nclass Cat:\n    """A cat."""\n',
    "_keys.py": "KEY = 1\n",
}
PLANTED = {
    "menagerie.dogs has no __all__": {"dogs.py": '"""Dogs."""\n'},
    "menagerie.dogs has no docstring": {"dogs.py": "__all__ = ['N']\nN = 1\n"},
    "menagerie.dogs.bark has no docstring": {"dogs.py": '"""Dogs."""\n__all__ = ["bark"]\ndef bark(): ...\n'},
    "menagerie.dogs.bark is in __all__ but does not exist": {"dogs.py": '"""Dogs."""\n__all__ = ["bark"]\n'},
    "menagerie.cats.big.Lion is not in menagerie.cats.__all__": {
        "cats/big.py": '"""Big."""\n__all__ = ["Lion"]\nclass Lion:\n    """A lion."""\n'
    },
    "menagerie.KEY is in __all__ but does not exist": {"__init__.py": '"""Zoo."""\n__all__ = ["KEY"]\n'},
}


@pytest.fixture
def api_pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module("api_pages")


@pytest.fixture
def menagerie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], ModuleType]]:
    def make(files: dict[str, str]) -> ModuleType:
        for name, text in (SOUND | files).items():
            path = tmp_path / "menagerie" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return importlib.import_module("menagerie")

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "menagerie"]:
        del sys.modules[name]


def test_sound_package_has_no_fault(api_pages, menagerie):
    assert list(api_pages.faults(menagerie({}))) == []


@pytest.mark.parametrize("fault", PLANTED)
def test_every_planted_fault_is_found(api_pages, menagerie, fault):
    assert list(api_pages.faults(menagerie(PLANTED[fault]))) == [fault]


def test_one_page_per_public_name(api_pages, menagerie):
    pages = api_pages.pages(menagerie({}))
    assert sorted(pages) == ["menagerie.cats.rst", "menagerie.cats/Cat.rst", "menagerie.rst", "menagerie/KEY.rst"]
    assert ".. autoclass:: Cat\n   :members:" in pages["menagerie.cats/Cat.rst"]
    assert "menagerie.cats/Cat" in pages["menagerie.cats.rst"]


def test_metriczoo_has_no_fault(api_pages):
    assert list(api_pages.faults(importlib.import_module("metriczoo"))) == []
