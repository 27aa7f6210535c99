"""What a caller may have meant by an argument that a loss does not have: a misspelt name, or the symbol of a paper."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection

__all__ = ["hint", "symbols_of"]

_GREEK = "alpha|beta|gamma|delta|epsilon|lambda|mu|nu|sigma|tau"
# As in docstrings: "scale: gamma > 0." The symbol is the first word of the description, and what follows says where it lies.
_ENTRY = re.compile(rf"^\s+(\w+): (?:slack )?((?:{_GREEK}|[A-Za-z])(?:_\w)?)(?= [>i]|,| at the start)", re.MULTILINE)
# What papers and other libraries say for the same things, most usual first.
_USUAL = {
    "gamma": ("scale", "temperature"),
    "s": ("scale", "temperature"),
    "g": ("scale",),
    "r": ("scale",),
    "tau": ("temperature", "scale"),
    "t": ("temperature", "scale"),
    "temp": ("temperature", "scale"),
    "temperature": ("scale",),
    "scale": ("temperature",),
    "m": ("margin", "negative_margin", "max_margin"),
    "delta": ("margin", "negative_margin"),
    "alpha": ("positive_scale", "margin", "scale", "negative_margin"),
    "beta": ("negative_scale", "bias", "positive_margin"),
    "lambda": ("threshold", "regularization", "weight", "negative_weight"),
    "epsilon": ("margin",),
    "b": ("bias",),
    "k": ("num_targets", "per_class"),
}
_SHORT = {"lam": "lambda", "lmbda": "lambda", "lambd": "lambda", "eps": "epsilon"}


def symbols_of(kind: type) -> dict[str, str]:
    """The symbols that the docstring of a loss gives for its hyper-parameters: symbol -> argument."""
    known = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return {symbol: name for name, symbol in _ENTRY.findall(kind.__doc__ or "") if name in known and name != symbol}


def hint(kind: type, name: str, known: Collection[str]) -> str:
    """The end of an error message: which argument of `kind` may have been meant by `name`, and which symbols stand for which."""
    own = symbols_of(kind)
    meant = _meant(name, own, known)
    text = f" Did you mean {meant!r}?" if meant else ""
    if own:
        text += f" In the symbols of the paper: {', '.join(f'{argument!r} is {symbol}' for symbol, argument in own.items())}."
    return text


def _meant(name: str, own: dict[str, str], known: Collection[str]) -> str | None:
    plain = name.rstrip("_")  # as in `lambda_`
    misspelt = difflib.get_close_matches(plain, _GREEK.split("|"), n=1, cutoff=0.75)
    for symbol in (plain, plain.lower(), _SHORT.get(plain.lower(), ""), *misspelt):
        if symbol in own:
            return own[symbol]
        for argument in _USUAL.get(symbol, ()):
            if argument in known:
                return argument
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return near[0] if near else None
