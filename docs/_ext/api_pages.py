"""One page for every public name of a package, written from `__all__`, and a failed build where the package and its site disagree."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

_logger = logging.getLogger(__name__)
_CLASS_OPTIONS = "   :members:\n   :show-inheritance:\n"
_NEXT = "\n   "  # the next line of the body of a directive


def _children(package: ModuleType) -> list[ModuleType]:
    """The modules directly in `package` that do not start with an underscore."""
    names = sorted(info.name for info in pkgutil.iter_modules(getattr(package, "__path__", ())))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names if not name.startswith("_")]


def _exports(module: ModuleType) -> list[str]:
    return [name for name in getattr(module, "__all__", ()) if not name.startswith("__")]


def _inner_modules(module: ModuleType) -> list[ModuleType]:
    """The modules in a package that it exports as such: their names are used as `package.module.name`."""
    return [value for name in _exports(module) if inspect.ismodule(value := getattr(module, name, None))]


def public_names(root: ModuleType) -> dict[str, list[str]]:
    """Module -> the names that get a page in it. Those of `root` are the ones that no module in it exports."""
    modules = _children(root)
    modules += [inner for module in modules for inner in _inner_modules(module)]
    names = {module.__name__: [n for n in _exports(module) if not inspect.ismodule(getattr(module, n, None))] for module in modules}
    elsewhere = {id(module) for module in modules} | {id(getattr(module, name, None)) for module in modules for name in _exports(module)}
    return {root.__name__: [name for name in _exports(root) if id(getattr(root, name, None)) not in elsewhere], **names}


def faults(root: ModuleType) -> Iterator[str]:
    """What keeps a public name of `root` from being documented: one sentence each."""
    for path, names in public_names(root).items():
        module = importlib.import_module(path)
        if not hasattr(module, "__all__"):
            yield f"{path} has no __all__"
        if not module.__doc__:
            yield f"{path} has no docstring"
        for name in names:
            value = getattr(module, name, None)
            if not hasattr(module, name):
                yield f"{path}.{name} is in __all__ but does not exist"
            elif (inspect.isclass(value) or inspect.isroutine(value)) and not value.__doc__:
                yield f"{path}.{name} has no docstring"
        inner = _inner_modules(module)
        for child in (child for child in _children(module) if module is not root and child not in inner):
            yield from (f"{child.__name__}.{name} is not in {path}.__all__" for name in sorted({*_exports(child)} - {*names}))


def _heading(title: str) -> str:
    return f"{title}\n{'=' * len(title)}\n"


def _name_page(module: str, name: str, value: Any) -> str:
    kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
    home = getattr(value, "__module__", module)  # as in pytest, an example sees the names of the module that it was written in
    return f"""\
{_heading(name)}
.. testsetup::

   import importlib
   globals().update(vars(importlib.import_module("{home}")))

.. currentmodule:: {module}

.. auto{kind}:: {name}
{_CLASS_OPTIONS if kind == "class" else ""}"""


def _module_page(module: str, names: list[str]) -> str:
    return f"""\
{_heading(module)}
.. automodule:: {module}
   :no-members:

.. currentmodule:: {module}

.. autosummary::
   :nosignatures:

   {_NEXT.join(names)}

.. toctree::
   :hidden:

   {_NEXT.join(f"{module}/{name}" for name in names)}
"""


def pages(root: ModuleType) -> dict[str, str]:
    """Path below the folder of the reference -> text of the page."""
    result = {}
    for path, exported in public_names(root).items():
        module = importlib.import_module(path)
        names = [name for name in exported if hasattr(module, name)]
        result[f"{path}.rst"] = _module_page(path, names)
        for name in names:
            result[f"{path}/{name}.rst"] = _name_page(path, name, getattr(module, name))
    return result


def _write(app: Sphinx, config: Any) -> None:
    folder = Path(app.srcdir) / "api"
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in pages(importlib.import_module(config.api_package)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _drop_docstring_of_builtin(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A constant without a comment `#:` would show what `int` or `dict` says of itself."""
    if what == "data" and type(value).__module__ == "builtins" and "\n".join(lines).strip() == inspect.cleandoc(type(value).__doc__ or ""):
        lines.clear()


def _skip_request(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the methods that scikit-learn adds to its estimators, whose texts refer to its own site."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def _check(app: Sphinx, env: Any) -> None:
    root = importlib.import_module(app.config.api_package)
    documented = env.get_domain("py").objects
    expected = {f"{path}{suffix}" for path, names in public_names(root).items() for suffix in ("", *(f".{name}" for name in names))}
    for problem in [*faults(root), *(f"{name} is not in the site" for name in sorted(expected - set(documented)))]:
        _logger.warning("public name not documented: %s", problem, type="api", subtype="coverage")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("api_package", None, "env", str)
    app.connect("config-inited", _write)
    app.connect("autodoc-process-docstring", _drop_docstring_of_builtin)
    app.connect("autodoc-skip-member", _skip_request)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
