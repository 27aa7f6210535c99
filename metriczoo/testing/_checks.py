"""What all parts of the kit share: checks as values, how they are run, and how they fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings

__all__ = ["Check", "expect", "failures", "property_test", "raise_failures"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Check(Generic[T]):
    """One promise: a function that raises `AssertionError` where its subject breaks it.

    Its name is that of the function, its first line of documentation says what is promised.
    """

    function: Callable[[T], None]
    applies: Callable[[T], bool]

    @property
    def name(self) -> str:
        """As `check_finite`."""
        return self.function.__name__

    def __repr__(self) -> str:
        return self.name

    def __call__(self, subject: T) -> None:
        self.function(subject)


def expect(condition: Any, message: str) -> None:
    """Raise `AssertionError(message)` unless `condition`. Unlike `assert` it is there under `python -O`, too."""
    if not bool(condition):
        raise AssertionError(message)


def property_test(max_examples: int) -> Callable[[F], F]:
    """Settings of the property tests of the kit: the same examples in every run, the first failure reported as it is found."""
    decorator: Callable[[F], F] = hypothesis_settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    return decorator


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def failures(subject: T, checks: Sequence[Check[T]]) -> dict[str, str | None]:
    """Of each check that applies to `subject`: None where it holds, else how it fails. The random state of the caller is left alone."""
    outcome: dict[str, str | None] = {}
    for check in checks:
        if not check.applies(subject):
            continue
        try:
            with _random_state_kept():
                check(subject)
        except Exception as error:  # a subject may fail in any way
            outcome[check.name] = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        else:
            outcome[check.name] = None
    return outcome


def raise_failures(subject: object, outcome: Mapping[str, str | None]) -> None:
    """Raise one `AssertionError` that names every check that failed, if any did."""
    failed = {name: message for name, message in outcome.items() if message is not None}
    if failed:
        lines = "\n".join(f"  {name}: {message}" for name, message in failed.items())
        raise AssertionError(f"{subject} fails {len(failed)} of {len(outcome)} checks:\n{lines}")
