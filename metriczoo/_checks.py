"""Checks of arguments, and the messages they give: which argument, what was expected, what came."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Bounds",
    "as_ids",
    "as_labels",
    "check_choice",
    "check_count",
    "check_embeddings",
    "check_finite",
    "check_flag",
    "check_keywords",
    "check_number",
    "describe",
    "suggest_keywords",
    "unknown_name",
]


_Class = TypeVar("_Class", bound=type)


def describe(value: Any) -> str:
    """Short text of `value` for an error message: tensors and arrays by shape and dtype, the rest by `repr`."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of shape {list(value.shape)} and dtype {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def unknown_name(argument: str, got: Any, known: Iterable[str]) -> ValueError:
    """The error for a name that is not one of `known`: it suggests the nearest one."""
    known = sorted(known)
    near = difflib.get_close_matches(str(got), known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"Expected `{argument}` to be one of {known}, but got {describe(got)}.{hint}")


def check_choice(argument: str, value: Any, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`, else raise with the nearest known name."""
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise unknown_name(argument, value, known)
    return value


def check_keywords(owner: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise if a name in `given` is not one of `known`, the arguments of `owner`, with the nearest one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"Expected arguments of {owner} among {sorted(known)}, but got {name!r}.{hint}")


def suggest_keywords(kind: _Class) -> _Class:
    """Make the constructor that a class defines answer an unknown keyword with the nearest one; its signature stays."""
    if "__init__" not in vars(kind):
        return kind
    construct = vars(kind)["__init__"]
    parameters = list(inspect.signature(construct).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # what it passes on is not known here
        return kind
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

    @functools.wraps(construct)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        check_keywords(type(self).__name__, options, known)
        construct(self, *args, **options)

    kind.__init__ = checked  # type: ignore[misc]
    return kind


def check_number(
    argument: str, value: Any, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False, open_high: bool = False
) -> float:
    """Return `value` as float if it is a finite real number inside the interval, else raise."""
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"Expected `{argument}` to be a real number, but got {describe(value)}.")
    inside = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not math.isfinite(value) or not inside:
        interval = f"{'(' if open_low or low == -math.inf else '['}{low}, {high}{')' if open_high or high == math.inf else ']'}"
        raise ValueError(f"Expected `{argument}` to be a finite number in {interval}, but got {describe(value)}.")
    return float(value)


@dataclass(frozen=True)
class Bounds:
    """The interval that a hyper-parameter must lie in, as data: tests generate wrong values from it."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def check(self, argument: str, value: Any) -> Any:
        """Return `value`, a number inside the interval or a scalar tensor (a learnable one), else raise."""
        if isinstance(value, Tensor):
            if value.numel() != 1 or not value.is_floating_point():
                raise ValueError(
                    f"Expected `{argument}` to be a number or a floating-point tensor of one element, but got {describe(value)}."
                )
            return value
        return check_number(argument, value, low=self.low, high=self.high, open_low=self.open_low, open_high=self.open_high)


def check_count(argument: str, value: Any, *, low: int = 1) -> int:
    """Return `value` as int if it is a whole number of at least `low`, else raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"Expected `{argument}` to be a whole number, but got {describe(value)}.")
    if value < low:
        raise ValueError(f"Expected `{argument}` to be at least {low}, but got {value}.")
    return int(value)


def check_flag(argument: str, value: Any) -> bool:
    """Return `value` as bool if it is one, of Python or of NumPy, else raise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"Expected `{argument}` to be True or False, but got {describe(value)}.")
    return bool(value)


def check_embeddings(argument: str, value: Any) -> Tensor:
    """Return `value` if it is a floating-point tensor `[n, d]`, d >= 1, else raise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected `{argument}` to be a torch.Tensor of shape [n, d], but got {describe(value)}.")
    if not value.is_floating_point():
        raise TypeError(f"Expected `{argument}` to have a floating-point dtype, but got {describe(value)}.")
    if value.dim() != 2 or value.shape[1] == 0:
        raise ValueError(f"Expected `{argument}` to be of shape [n, d] with d >= 1, but got {describe(value)}.")
    return value


def check_finite(argument: str, value: Tensor) -> None:
    """Raise if `value` holds a NaN or an infinity. This reads the values: on an accelerator the host waits for it."""
    if math.isfinite(value.detach().sum()):
        return
    finite = torch.isfinite(value)  # a sum may overflow
    if not bool(finite.all()):
        rows = (~finite).flatten(1).any(1).nonzero().flatten().tolist()
        some = f"{rows[:5]}{' ...' if len(rows) > 5 else ''}"
        raise ValueError(f"Expected `{argument}` to be finite, but {len(rows)} of {value.shape[0]} rows hold NaN or infinity: rows {some}.")


def _as_int64(argument: str, value: Any, length: int | None, device: torch.device | None) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value
    else:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise TypeError(f"Expected `{argument}` to be a 1-d sequence of integers, but got {describe(value)}.") from error
        if array.size == 0 and not isinstance(value, np.ndarray):
            array = array.astype(np.int64)
        if array.dtype.kind not in "iub":
            raise TypeError(f"Expected `{argument}` to hold integers, but got {describe(value)} of dtype {array.dtype}.")
        if array.dtype.kind == "u" and array.dtype.itemsize == 8:
            if array.size and int(array.max()) > np.iinfo(np.int64).max:
                raise ValueError(f"Expected `{argument}` to fit in int64, but got {int(array.max())}.")
            array = array.astype(np.int64)
        tensor = torch.from_numpy(np.array(array, dtype=np.int64))
    if tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(f"Expected `{argument}` to hold integers, but got {describe(tensor)}.")
    if tensor.dim() != 1:
        raise ValueError(f"Expected `{argument}` to be of shape [n], but got {describe(tensor)}.")
    if length is not None and tensor.shape[0] != length:
        raise ValueError(f"Expected `{argument}` to have {length} entries, one per embedding, but got {tensor.shape[0]}.")
    return tensor.to(device=device, dtype=torch.int64)


def as_labels(
    value: Any, *, argument: str = "labels", length: int | None = None, device: torch.device | None = None, flat: bool = True
) -> Tensor:
    """`value` (tensor, NumPy array or sequence of integers or bools) as an int64 tensor `[n]` on `device`.

    Unless `flat`, a tensor `[n, ...]` of any dtype passes as it is: only a relation of the user's own can read it.
    """
    if not flat and isinstance(value, Tensor) and value.dim() > 1:
        if length is not None and len(value) != length:
            raise ValueError(f"Expected `{argument}` to have {length} entries, one per embedding, but got {describe(value)}.")
        return value.to(device)
    return _as_int64(argument, value, length, device)


def as_ids(value: Any, *, argument: str = "ids", length: int | None = None, device: torch.device | None = None) -> Tensor:
    """As `as_labels`, for ids."""
    return _as_int64(argument, value, length, device)
