"""The tables of docs/migration.rst: settings that make losses and miners of pytorch-metric-learning equal to ours, which tests run."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from math import radians
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from metriczoo import losses, miners, similarity, stores

__all__ = ["Row", "kind_of", "names_of_rows", "ours", "table", "theirs", "with_options"]

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "migration.rst"
_PEER = "pytorch_metric_learning"
_CELLS = re.compile(r"^   \* - ``(.+)``\n     - ``(.+?)``( on ``normalize\(x\)``)?\n     - (.+)$", re.MULTILINE)


class Row(NamedTuple):
    """Of a table: two expressions, whether ours takes unit vectors, and where both are equal."""

    theirs: str
    ours: str
    on_unit: bool
    where: str

    @property
    def tolerance(self) -> float:
        """Relative difference that the page admits."""
        found = re.search(r"to (\S+)$", self.where)
        return float(found[1]) if found else 1e-9


@cache
def table(title: str) -> tuple[Row, ...]:
    """The rows of the chapter called `title`."""
    parts = re.split(r"^(.+)\n-{4,}\n", _PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    chapter = dict(zip(parts[1::2], parts[2::2], strict=True))[title]
    return tuple(Row(theirs, ours, bool(unit), where) for theirs, ours, unit, where in _CELLS.findall(chapter))


def ours(expression: str, num_classes: int = 0, dim: int = 0) -> Any:
    """What an expression of the right side makes."""
    return _made(expression, (similarity, miners, stores, losses), num_classes, dim)


def theirs(expression: str, num_classes: int = 0, dim: int = 0) -> Any:
    """What an expression of the left side makes."""
    names = ("losses", "miners", "distances", "reducers", "regularizers")
    return _made(expression, tuple(importlib.import_module(f"{_PEER}.{name}") for name in names), num_classes, dim)


def _made(expression: str, modules: tuple[ModuleType, ...], num_classes: int, dim: int) -> Any:
    names = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    return eval(expression, {**names, "C": num_classes, "d": dim, "radians": radians})


def with_options(expression: str, **options: str | bool) -> str:
    """The call that `expression` is, with further keyword arguments."""
    call = _call(expression)
    call.keywords += [ast.keyword(name, ast.Constant(value)) for name, value in options.items()]
    return ast.unparse(ast.fix_missing_locations(call))


def names_of_rows(rows: tuple[Row, ...]) -> dict[str, Row]:
    """Each row by a short name: our class, what it is called there if that differs, and, where that is taken, what is new in the row."""
    named: dict[str, Row] = {}
    for row in rows:
        kinds = kind_of(row.ours), kind_of(row.theirs)
        name = kinds[0] if kinds[0] == kinds[1] else f"{kinds[0]} as {kinds[1]}"
        if first := named.get(name):
            sides = ((row.theirs, first.theirs), (row.ours, first.ours))
            new = next((text for side, of_first in sides if (text := _difference(side, of_first))), row.where)
            name = f"{name} ({new})"
        named[name] = row
    return named


def kind_of(expression: str) -> str:
    """The class that an expression makes one of."""
    return ast.unparse(_call(expression).func)


def _call(expression: str) -> ast.Call:
    node = ast.parse(expression, mode="eval").body
    assert isinstance(node, ast.Call), expression
    return node


def _difference(expression: str, other: str) -> str:
    new, known = _arguments(expression), _arguments(other)
    changed = {name: value for name, value in new.items() if name not in known or ast.unparse(known[name]) != ast.unparse(value)}
    words = {name: _word(name, value) for name, value in changed.items()}
    told = [word for word in words.values() if word]
    return " ".join(told or (f"{name}={ast.unparse(value)}" for name, value in changed.items()))


def _word(name: str, value: ast.expr) -> str:
    """What tells one row from another: the class of an object, a choice, a switch. Numbers do not, if anything else does."""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func)
    if isinstance(value, ast.Constant) and isinstance(value.value, (str, bool)):
        return name if value.value is True else str(value.value)
    return ""


def _arguments(expression: str) -> dict[str, ast.expr]:
    call = _call(expression)
    return {**{str(k): a for k, a in enumerate(call.args)}, **{k.arg: k.value for k in call.keywords if k.arg}}
