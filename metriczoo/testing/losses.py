"""`check_loss`: everything that is asked of a loss, and the decorator that makes one test of each check."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metriczoo.losses.tags import Tags
from metriczoo.testing import _on_batches, _on_modules, _on_scores
from metriczoo.testing._checks import Check, failures, raise_failures
from metriczoo.testing.subject import Subject

__all__ = ["LOSS_CHECKS", "check_loss", "parametrize_with_checks"]

LOSS_CHECKS: tuple[Check[Subject], ...] = (*_on_scores.CHECKS, *_on_batches.CHECKS, *_on_modules.CHECKS)

Excuses = Mapping[str, str]


def check_loss(loss: Any, *, spec: Callable[..., Any] | None = None, tags: Tags | None = None, **about: Any) -> None:
    """Put a loss through every check that the losses of this library pass.

    Each check is a promise that training relies on: values and gradients are finite on degenerate batches and exactly 0 where there is
    nothing to learn; the order of the batch, the names of classes, padding, the cut into tiles and the form of the references change
    nothing; pair weights have the right signs; half precision, compilation, function transforms, copies and saved states work. What only
    some losses promise is said by `tags`, and checked both ways.

    Args:
        loss: a `metriczoo.losses.Loss`; a function of `(s_n, s_p)`, as for `losses.from_function`; or any module that is called as
            `loss(embeddings, labels)`, for which the checks that need more are left out.
        spec: what the loss is to compute, as slowly and plainly as can be. A function of the scores of one anchor on Python lists,
            `spec(s_n, s_p)`, that returns a number, the loss of the anchor; or a list, the losses of its pairs or triplets; or a tuple of
            such lists, terms that are averaged apart. With a parameter `between` it gets the scores of the positives to the negatives
            `[p][n]`; with `at`, the scores at which weights are constants. A parameter `anchor` or `anchors` in place of the scores gets
            all that is known of an anchor, or of all; `embeddings, labels` the whole batch.
        tags: what it promises. Default: its attribute `tags`, else `Tags()`, which promises that no pair is moved the wrong way.
        about: fields of `Subject`: `weights`, the gradient in closed form on lists; `similarity`, `call`, `domain` and `name`.

    Raises:
        AssertionError: naming every check that fails, and how.
        TypeError: for a class in place of a loss.

    Example:
        >>> def hard_triplet(s_n, s_p):
        ...     return (s_n.max() - s_p.min() + 0.2).relu()
        >>> check_loss(hard_triplet, spec=lambda s_n, s_p: max(0.0, max(s_n) - min(s_p) + 0.2), tags=Tags(shift=True, saturates=True))

    See Also:
        `parametrize_with_checks`: one test for each check, in place of one for all.
    """
    subject = loss if isinstance(loss, Subject) else Subject(loss, spec, tags, **about)  # type: ignore[arg-type]
    raise_failures(subject, failures(subject, LOSS_CHECKS))


def parametrize_with_checks(
    losses: Sequence[Any], *, expected_failed_checks: Mapping[str, Excuses] | Callable[[Any], Excuses] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a test run once for each loss and each check that applies to it: a parametrisation of its arguments `loss` and `check`.

    Args:
        losses: losses, functions of `(s_n, s_p)`, or either as a `Subject`, which adds a specification and promises to it.
        expected_failed_checks: the checks that a loss is known to fail, each with the reason: `{name of the loss: {check: reason}}`, or a
            function of the loss that returns `{check: reason}`. Such a test is expected to fail, and fails if it passes.

    Example:
        >>> from metriczoo import losses
        >>> @parametrize_with_checks([losses.TripletMarginLoss(), losses.CircleLoss()])
        ... def test_losses(loss, check):
        ...     check(loss)

    Raises:
        ValueError: for an excuse from a check that does not exist, or from a loss that is not given.
    """
    import pytest

    subjects = [loss if isinstance(loss, Subject) else Subject(loss) for loss in losses]
    excuses = {s.name: _excuses(s, expected_failed_checks) for s in subjects}
    if isinstance(expected_failed_checks, Mapping) and (strangers := set(expected_failed_checks) - set(excuses)):
        raise ValueError(f"Expected `expected_failed_checks` to name losses among {sorted(excuses)}, but got {sorted(strangers)}.")
    known = {check.name for check in LOSS_CHECKS}
    if strangers := {name for of_loss in excuses.values() for name in of_loss} - known:
        raise ValueError(f"Expected `expected_failed_checks` to name checks among {sorted(known)}, but got {sorted(strangers)}.")
    cases = []
    for subject in subjects:
        for check in LOSS_CHECKS:
            if check.applies(subject):
                reason = excuses[subject.name].get(check.name)
                marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []
                cases.append(pytest.param(subject.loss, functools.partial(_run, check, subject), id=f"{subject}-{check}", marks=marks))
    return pytest.mark.parametrize(("loss", "check"), cases)


def _run(check: Check[Subject], subject: Subject, loss: Any = None) -> None:
    """`check(loss)` in a test: what is known of the loss comes along."""
    outcome = failures(subject, [check])
    raise_failures(subject, outcome)


def _excuses(subject: Subject, given: Mapping[str, Excuses] | Callable[[Any], Excuses] | None) -> Excuses:
    if given is None:
        return {}
    return given(subject.loss) if callable(given) else given.get(subject.name, {})
