"""metriczoo: metric-learning losses on one interface, the similarities of an anchor to references of other classes and of its own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metriczoo import columns as columns
    from metriczoo import (
        data,
        functional,
        linear,
        losses,
        metrics,
        miners,
        models,
        plots,
        reduction,
        references,
        relations,
        scores,
        similarity,
        stores,
    )
    from metriczoo import engine as engine
    from metriczoo import testing as testing
    from metriczoo._execution import settings
    from metriczoo.references import References
    from metriczoo.scores import Scores, Terms

__all__ = [
    "References",
    "Scores",
    "Terms",
    "__version__",
    "data",
    "functional",
    "linear",
    "losses",
    "metrics",
    "miners",
    "models",
    "plots",
    "reduction",
    "references",
    "relations",
    "scores",
    "settings",
    "similarity",
    "stores",
]

__version__ = "0.1.0"

_FURTHER = ("columns", "engine", "testing")  # modules for those who extend the library
_HOMES = {"References": "references", "Scores": "scores", "Terms": "scores", "settings": "_execution"}  # of names that are no modules


def __getattr__(name: str) -> Any:
    """A module is imported when it is first asked for, so that a program does not wait for those that it does not use."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in __all__ or name in _FURTHER:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_FURTHER})
