"""Specifications: a loss on Python lists, and what it may ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Anchor", "Groups", "Spec", "groups_by"]

Groups = tuple[list[float], ...]  # by term of the loss: the losses of its anchors, pairs or triplets
Vector = Sequence[float]


@dataclass
class Anchor:
    """What one anchor sees. A specification may ask for any of it."""

    s_n: list[float]
    s_p: list[float]
    between: list[list[float]]  # scores of its positives to its negatives
    label: int
    point: Vector
    positives: list[Vector]
    negatives: list[Vector]
    negative_labels: list[int]


class Spec:
    """A specification: a function whose parameters say what it wants to know.

    * `(s_n, s_p)`, and perhaps `between`: of one anchor, on lists;
    * `(anchor)`: of one `Anchor`;
    * `(anchors)`: of all anchors that take part;
    * `(embeddings, labels)`, and perhaps `references`, as `Points` or None, and `ids`: of the whole call.

    It returns one number, the loss of the anchor; or a list of numbers, the losses of its pairs or triplets; or one such list for each
    term of a loss that averages its terms apart. With a parameter `at`, it takes the arguments at which weights are constants.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        free = [n for n, p in inspect.signature(function).parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.form = next((form for form in ("anchor", "anchors", "embeddings") if form in free), "s_n")
        if self.form == "s_n" and len(free) < 2:
            raise TypeError(f"Expected `spec` to have parameters (s_n, s_p), (anchor), (anchors) or (embeddings, labels), but got {free}.")
        self.takes = set(free)

    @property
    def on_scores(self) -> bool:
        """Whether it is a function of the scores of one anchor."""
        return self.form == "s_n"

    def of_anchor(self, anchor: Anchor, needs: tuple[bool, bool], at: Anchor | None = None) -> Groups:
        """The losses of the groups of one anchor; none of an anchor that lacks what the loss `needs`: positives, negatives."""
        lacks = (needs[0] and not anchor.s_p) or (needs[1] and not anchor.s_n) or not (anchor.s_n or anchor.s_p)
        if self.form == "s_n":
            held = {"at": ((at or anchor).s_n, (at or anchor).s_p)} if "at" in self.takes else {}
            between = {"between": anchor.between} if "between" in self.takes else {}
            return groups_by(lambda: self.function(anchor.s_n, anchor.s_p, **between, **held), lacks)
        held_anchor = {"at": at or anchor} if "at" in self.takes else {}
        return groups_by(lambda: self.function(anchor=anchor, **held_anchor), lacks)


def groups_by(result: Callable[[], Any], lacks: bool) -> Groups:
    """One number per anchor is asked for only where the anchor counts; a list says for itself how many groups there are."""
    try:
        found = result()
    except (ValueError, ZeroDivisionError, IndexError):  # a number that is not defined without positives, or without negatives
        if not lacks:
            raise
        return ([],)
    if isinstance(found, tuple):
        return found
    if isinstance(found, list):
        return (found,)
    return ([] if lacks else [float(found)],)
