"""What checks of objects of any kind share: arguments of the kit, settings, documentation, copies."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from metriczoo._checks import describe
from metriczoo.losses import Loss
from metriczoo.scores import Scores
from metriczoo.testing._checks import expect

__all__ = ["PairLoss", "as_instance", "copies", "expect_close", "expect_documented", "expect_settings_checked", "importable", "loaded"]

T = TypeVar("T")


class PairLoss(Loss):
    """Every pair counts once, smoothly, however far."""

    needs_positives = False
    needs_negatives = False

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """The sum over both sets."""
        return s_n.map(softplus).sum() + s_p.map(lambda s: softplus(-s)).sum()


def as_instance(argument: str, value: Any, kind: type[T]) -> T:
    """Return `value` if it is a `kind`, else raise; a class is told from an instance."""
    if isinstance(value, kind):
        return value
    hint = f" Did you mean `{value.__name__}()`?" if isinstance(value, type) and issubclass(value, kind) else ""
    raise TypeError(f"Expected `{argument}` to be a {kind.__name__}, but got {describe(value)}.{hint}")


def expect_close(got: Tensor, expected: Tensor, what: str, *, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """Shapes and values agree; NaN agrees with nothing."""
    expect(got.shape == expected.shape, f"{what}: shape {list(got.shape)} instead of {list(expected.shape)}")
    got, expected = got.detach().double(), expected.detach().double()
    wrong = ~((got - expected).abs() <= atol + rtol * expected.abs())
    if bool(wrong.any()):
        cell = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(f"{what}: {float(got[cell]):.8g} instead of {float(expected[cell]):.8g} at {list(cell)}")


def importable(value: Any) -> bool:
    """Whether `value`, a class or a function, is found by its name in its module: Python can pickle nothing else."""
    return getattr(sys.modules.get(getattr(value, "__module__", "")), getattr(value, "__qualname__", ""), None) is value


def copies(subject: T) -> Iterator[tuple[str, T]]:
    """Copies of `subject`, made in each way there is. Only a class with a name in a module can be pickled."""
    yield "deepcopy", copy.deepcopy(subject)
    if importable(type(subject)):
        yield "pickle", pickle.loads(pickle.dumps(subject))


def loaded(state: Any) -> Any:
    """What comes back from a checkpoint file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _settings(kind: type) -> dict[str, inspect.Parameter]:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _wrong_values(name: str, example: Any) -> tuple[Any, ...]:
    if name == "generator":
        return (0,)
    if isinstance(example, bool) or example is None:
        return ()
    if isinstance(example, (int, float)):
        return (math.nan, "1")
    return ("no such choice",) if isinstance(example, str) else ()


def expect_settings_checked(subject: object) -> None:
    """The constructor refuses NaN and text for a number, a name that it does not know for a choice, with a message that says which."""
    kind = type(subject)
    settings = _settings(kind)
    needed = [name for name, p in settings.items() if p.default is p.empty]
    if not all(hasattr(subject, name) for name in needed):
        return  # nobody knows how to make another one
    given = {name: getattr(subject, name) for name in needed}
    for name, parameter in settings.items():
        named = parameter.default is not parameter.empty and parameter.default is not None
        example = parameter.default if named else getattr(subject, name, None)
        if isinstance(example, str) and not named:
            continue  # a file, for instance: only a default shows that it is a choice
        for wrong in _wrong_values(name, example):
            _expect_refused(lambda name=name, wrong=wrong: kind(**{**given, name: wrong}), f"{kind.__name__}({name}={wrong!r})", name)  # type: ignore[misc]


def _expect_refused(make: Callable[[], object], what: str, name: str) -> None:
    try:
        make()
    except (TypeError, ValueError) as error:
        expect(name in str(error), f"the error of {what} does not name `{name}`: {error}")
    else:
        raise AssertionError(f"{what} is accepted")


def expect_documented(kind: type | Callable[..., Any]) -> None:
    """A first line that is a sentence, and every setting named."""
    classes = kind.__mro__ if isinstance(kind, type) else (kind,)
    texts = [inspect.cleandoc(vars(c).get("__doc__") or "") if isinstance(c, type) else inspect.getdoc(c) or "" for c in classes]
    name = getattr(kind, "__name__", str(kind))
    first = texts[0].split("\n", 1)[0]
    expect(first.endswith("."), f"the documentation of {name} does not start with a sentence, but with {first!r}")
    maker = next((i for i, c in enumerate(classes) if "__init__" in vars(c)), 0)  # settings are documented where they are taken
    missing = [s for s in (_settings(kind) if isinstance(kind, type) else ()) if not re.search(rf"\b{s}\b", " ".join(texts[: maker + 1]))]
    expect(not missing, f"the documentation of {name} does not mention {missing}")
