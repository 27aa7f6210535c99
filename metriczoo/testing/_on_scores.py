"""Checks on the similarities of one anchor: what a loss makes of `(s_n, s_p)`."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo.scores import Scores
from metriczoo.testing._checks import Check, expect, property_test
from metriczoo.testing._naive import needs_of
from metriczoo.testing._spec import Anchor, Groups, Spec
from metriczoo.testing.strategies import score_lists
from metriczoo.testing.subject import Subject, gradients_of, number

__all__ = ["CHECKS"]

Lists = tuple[list[float], list[float]]
STEP = 1e-7


def samples(subject: Subject, number: int = 60) -> Iterator[Lists]:
    """Random scores, all over the domain or close to its ends: where an excuse has to show that it is needed."""
    source = random.Random(0)

    def side() -> list[float]:
        end, width = source.choice(subject.domain), source.choice((1.0, 1.0, 0.1, 0.01, 1e-4))
        return [end + width * (source.uniform(*subject.domain) - end) for _ in range(source.randint(1, 4))]

    for _ in range(number):
        yield side(), side()


def close(got: float, expected: float, *, rtol: float = 1e-9, atol: float = 1e-9) -> bool:
    """Equal to rounding."""
    return math.isclose(got, expected, rel_tol=rtol, abs_tol=atol)


def specified(subject: Subject, s_n: Sequence[float], s_p: Sequence[float], between: Any = None, at: Lists | None = None) -> Groups:
    """The losses of the groups of one anchor by the specification."""
    assert subject.spec is not None
    far = [[subject.domain[0] - 1] * len(s_n) for _ in s_p] if between is None else between

    def anchor(n: Sequence[float], p: Sequence[float]) -> Anchor:
        return Anchor(list(n), list(p), far, 0, [], [], [], [])

    return Spec(subject.spec).of_anchor(anchor(s_n, s_p), needs_of(subject), anchor(*(at or (s_n, s_p))))


def _on_scores(subject: Subject) -> bool:
    return subject.on_scores


def _with_spec(subject: Subject) -> bool:
    return subject.on_scores and subject.spec is not None and Spec(subject.spec).on_scores


def both_ways(subject: Subject, tag: str, holds: Any, max_examples: int = 60, min_size: int = 0) -> None:
    """What is promised holds on every example; where it is said not to hold, one of the samples shows it."""
    promised = getattr(subject.tags, tag)
    if promised is False:
        counter = any(holds(*scores) is not None for scores in samples(subject))
        expect(counter, f"the excuse `{tag}=False` is not needed: no counter-example was found")
    elif promised:

        @property_test(max_examples)
        @given(score_lists(subject.domain, min_size=min_size))
        def run(scores: Lists) -> None:
            fault = holds(*scores)
            expect(fault is None, f"{fault}, at s_n={scores[0]}, s_p={scores[1]}; the promise `{tag}` is broken")

        run()


def check_spec(subject: Subject) -> None:
    """The value is that of the specification, and so are the counts of groups and of those that are not 0."""
    low, high = subject.domain

    @property_test(60)
    @example(([low], [high]), random.Random(0))  # where many losses are 0
    @given(score_lists(subject.domain), st.randoms(use_true_random=False))
    def run(scores: Lists, source: random.Random) -> None:
        s_n, s_p = scores
        between = [[source.uniform(low, high) for _ in s_n] for _ in s_p]
        got, expected = subject.totals(s_n, s_p, between), specified(subject, s_n, s_p, between)
        where = f"at s_n={s_n}, s_p={s_p}"
        expect(got.value.shape[1] >= len(expected), f"expected {len(expected)} terms, but got {got.value.shape[1]}, {where}")
        for k, groups in enumerate(expected):
            value, wanted = number(got.value[0, k]), math.fsum(groups)
            expect(close(value, wanted), f"expected the loss {wanted!r}, but got {value!r}, {where}")
            count = int(got.groups[0, k])
            expect(count == len(groups), f"expected {len(groups)} groups to average over, but got {count}, {where}")
            if len(groups) == 1 and (groups[0] == 0 or groups[0] > 1e-9):
                expect(
                    int(got.active[0, k]) == (groups[0] > 0), f"the loss {groups[0]} is counted as {int(got.active[0, k])} active, {where}"
                )

    run()


def check_slopes(subject: Subject) -> None:
    """The pair weights are the derivative of the specification, with its weights held; at a kink, between the slopes of the two sides."""

    @property_test(60)
    @given(score_lists(subject.domain, min_size=1))
    def run(drawn: Lists) -> None:
        scores = [round(v, 3) for v in drawn[0]], [round(v, 3) for v in drawn[1]]  # at a kink or far from it, never within a step
        _, *gradients = subject.weights_of(*scores)

        def value(lists: Sequence[list[float]]) -> float:
            return math.fsum(map(math.fsum, specified(subject, lists[0], lists[1], at=scores)))

        here = value(scores)
        for side, name in ((0, "s_n"), (1, "s_p")):
            for k, got in enumerate(gradients[side].tolist()):
                slopes = []
                for h in (STEP, -STEP):
                    moved = [list(s) for s in scores]
                    moved[side][k] += h
                    slopes.append((value(moved) - here) / h)
                slack = 2e-5 * (1 + abs(slopes[0]) + abs(slopes[1]))
                expect(
                    min(slopes) - slack <= got <= max(slopes) + slack,
                    f"expected dL/d{name}[{k}] to be {slopes[0]:.8g}, the slope of the specification, but got {got:.8g}, "
                    f"at s_n={scores[0]}, s_p={scores[1]}",
                )

    run()


def check_closed_form(subject: Subject) -> None:
    """The pair weights are those of the closed form."""
    assert subject.weights is not None
    for s_n, s_p in samples(subject, 40):
        _, *got = subject.weights_of(s_n, s_p)
        for name, found, wanted in zip(("s_n", "s_p"), got, subject.weights(s_n, s_p), strict=True):
            right = torch.allclose(found, torch.tensor(list(wanted), dtype=torch.float64), rtol=1e-8, atol=1e-10)
            expect(right, f"expected dL/d{name} to be {list(wanted)}, but got {found.tolist()}, at s_n={s_n}, s_p={s_p}")


def check_signs(subject: Subject) -> None:
    """No negative is drawn nearer, no positive pushed away."""

    def fault(s_n: list[float], s_p: list[float]) -> str | None:
        _, g_n, g_p = subject.weights_of(s_n, s_p)
        if bool((g_n < 0).any()):
            return f"a negative is drawn nearer: dL/ds_n={g_n.tolist()}"
        return f"a positive is pushed away: dL/ds_p={g_p.tolist()}" if bool((g_p > 0).any()) else None

    both_ways(subject, "signs", fault)


def check_monotone(subject: Subject) -> None:
    """The loss does not fall as a negative comes nearer, nor rise as a positive does."""
    span = subject.domain[1] - subject.domain[0]

    def fault(s_n: list[float], s_p: list[float]) -> str | None:
        value = subject.weights_of(s_n, s_p)[0]
        slack = 1e-9 * (1 + abs(value))
        for side, name in ((0, "negative"), (1, "positive")):
            for k in range(len((s_n, s_p)[side])):
                moved = [list(s_n), list(s_p)]
                moved[side][k] = min(subject.domain[1], moved[side][k] + 0.05 * span)
                new = subject.weights_of(moved[0], moved[1])[0]
                if (new < value - slack) if side == 0 else (new > value + slack):
                    return f"the loss goes from {value!r} to {new!r} as {name} {k} comes nearer"
        return None

    both_ways(subject, "monotone", fault, max_examples=30)


def check_shift(subject: Subject) -> None:
    """Adding one constant to all scores changes nothing; the pair weights of an anchor add up to 0."""

    def fault(s_n: list[float], s_p: list[float]) -> str | None:
        value, _, g_p = subject.weights_of(s_n, s_p)
        by_all = torch.zeros((), dtype=torch.float64, requires_grad=True)
        n, p = (torch.tensor([s], dtype=torch.float64) + by_all for s in (s_n, s_p))
        total = subject.totals(n, p, (subject.domain[0] - 1 + by_all).expand(len(s_p), len(s_n))).value.sum()
        rest = float(gradients_of(total, by_all)[0])
        if not close(rest, 0, atol=1e-9 * (1 + float(g_p.sum().abs()))):
            return f"the pair weights add up to {rest!r} instead of 0"
        for by in (0.3, -2.5):
            far = [[subject.domain[0] - 1 + by] * len(s_n) for _ in s_p]
            moved = subject.weights_of([v + by for v in s_n], [v + by for v in s_p], far)[0]
            if not close(moved, value):
                return f"the loss goes from {value!r} to {moved!r} as all scores grow by {by}"
        return None

    both_ways(subject, "shift", fault)


def check_bound(subject: Subject) -> None:
    """The pull on the positives stays within its bound and comes within 15 % of it; without a bound, it grows beyond any."""
    bound, (low, high) = subject.tags.bound, subject.domain

    def pull(s_n: list[float], s_p: list[float]) -> float:
        return float(subject.weights_of(s_n, s_p)[2].abs().sum())

    if bound == math.inf:
        reached = pull([high] * 2, [-1e6] * 2)
        expect(reached > 1e5, f"the excuse `bound=inf` is not needed: the pull on positives at -1e6 is {reached}")
        return

    def limit(n: int, p: int) -> float:
        return float(bound(n, p) if callable(bound) else bound)  # type: ignore[arg-type]

    for n, p in ((1, 1), (3, 1), (2, 3)):
        reached = max(pull([high] * n, [far] * p) for far in (low, low - 1e3 * (high - low)))
        expect(
            reached >= 0.85 * limit(n, p), f"the bound {limit(n, p)} is loose: with {n} negatives and {p} positives the pull is {reached}"
        )

    @property_test(60)
    @given(score_lists(subject.domain))
    def run(scores: Lists) -> None:
        n, p = map(len, scores)
        reached = pull(*scores)
        expect(reached <= limit(n, p) * (1 + 1e-9) + 1e-12, f"the pull {reached} exceeds its bound {limit(n, p)}, at s_n, s_p = {scores}")

    run()


def check_saturation(subject: Subject) -> None:
    """Where positives are as near and negatives as far as can be, value and gradient are exactly 0; of other losses, something is left."""
    low, high = subject.domain
    best = [subject.weights_of([low] * n, [high] * p) for n, p in ((1, 1), (3, 2))]
    zero = all(value == 0 and not any(bool(g.any()) for g in gradients) for value, *gradients in best)
    expect(zero == subject.tags.saturates, f"`saturates={subject.tags.saturates}` is wrong: at the best scores the loss is {best[-1][0]!r}")


def check_masked_is_absent(subject: Subject) -> None:
    """A cell outside a set, whatever it holds, is as good as no cell; its gradient is exactly 0."""
    numbers = st.sampled_from([0.0, 1.0, -1.0, -0.5, 1e30, -1e30])
    distinct = score_lists(subject.domain, unique=True)  # of equal scores a loss may choose one

    @property_test(60)
    @given(distinct, st.lists(numbers, max_size=3), st.lists(numbers, max_size=3), st.randoms(use_true_random=False), st.booleans())
    def run(scores: Lists, junk_n: list[float], junk_p: list[float], source: random.Random, by_mask: bool) -> None:
        expected, counts = subject.weights_of(*scores), subject.totals(*scores)
        leaves, sets, places = [], [], []
        for values, junk in zip(scores, (junk_n, junk_p), strict=True):
            cells = [(v, True) for v in values] + [(v, False) for v in junk]
            order = source.sample(range(len(cells)), len(cells))
            value = torch.tensor([[cells[k][0] for k in order]], dtype=torch.float64).reshape(1, -1).requires_grad_()
            mask = torch.tensor([[cells[k][1] for k in order]]).reshape(1, -1).bool()
            leaves.append(value)
            sets.append(Scores(value, mask) if by_mask else _excluding(value, mask))
            places.append([order.index(k) for k in range(len(values))])
        found_counts = subject.totals(*sets)
        total = found_counts.value.sum()
        where = f"at s_n={scores[0]}, s_p={scores[1]} among masked cells {junk_n}, {junk_p}"
        for name in ("groups", "active", "pairs"):
            got, wanted_count = (getattr(t, name).tolist() for t in (found_counts, counts))
            expect(got == wanted_count, f"expected {name} {wanted_count}, but got {got} {where}")
        expect(close(total.item(), expected[0]), f"expected {expected[0]!r} but got {total.item()!r} {where}")
        for gradient, wanted, place in zip(gradients_of(total, *leaves), expected[1:], places, strict=True):
            found = gradient.flatten()[place]
            expect(torch.allclose(found, wanted, rtol=1e-9, atol=1e-9), f"expected the gradient {wanted} but got {found} {where}")
            leaked = int(gradient.count_nonzero()) - int(found.count_nonzero())
            expect(leaked == 0, f"{leaked} masked cells have a gradient {where}")

    run()


def _excluding(value: Tensor, mask: Tensor) -> Scores:
    """The same set, stored by what it leaves out, with a repeat."""
    out = (~mask[0]).nonzero().flatten()
    return Scores(value, excluded=torch.cat([out, out[:1]]).unsqueeze(0), num_excluded=torch.tensor([len(out)]))


def check_extremes(subject: Subject) -> None:
    """At the ends of the domain of the scores, in single precision, value and pair weights are those in double precision."""
    low, high = subject.domain
    for s_n, s_p in (([high] * 3, [low] * 2), ([low] * 3, [high] * 2), ([high, low], [low, high]), ([high], [low])):
        where = f"at s_n={s_n}, s_p={s_p}"
        value, *wanted = subject.weights_of(s_n, s_p)
        if _with_spec(subject):
            exact = math.fsum(map(math.fsum, specified(subject, s_n, s_p)))
            expect(close(value, exact), f"expected {exact!r} but got {value!r} {where}")
        single, *got = subject.weights_of(s_n, s_p, dtype=torch.float32)
        expect(close(single, value, rtol=1e-5, atol=1e-6), f"expected {value!r} but got {single!r} in single precision {where}")
        for found, right in zip(got, wanted, strict=True):
            fine = torch.allclose(found.double(), right, rtol=1e-4, atol=1e-6)
            expect(fine, f"expected the gradient {right.tolist()} but got {found.tolist()} in single precision {where}")


def check_large_scores(subject: Subject) -> None:
    """Scores of a size that no cosine has, as inner products and distances may be, give a finite value and finite pair weights."""
    for size in (1e2, 1e4):
        for s_n, s_p in (([size, -size], [size, -size]), ([size], [-size]), ([-size], [size]), ([size, size], [size, size])):
            value, *gradients = subject.weights_of(s_n, s_p, dtype=torch.float32)
            finite = math.isfinite(value) and all(bool(g.isfinite().all()) for g in gradients)
            expect(finite, f"the loss is {value}, its gradients {[g.tolist() for g in gradients]} at s_n={s_n}, s_p={s_p}")


CHECKS: list[Check[Subject]] = [
    Check(check_spec, _with_spec),
    Check(check_slopes, _with_spec),
    Check(check_closed_form, lambda s: s.on_scores and s.weights is not None),
    Check(check_signs, _on_scores),
    Check(check_monotone, _on_scores),
    Check(check_shift, _on_scores),
    Check(check_bound, lambda s: s.on_scores and s.tags.bound is not None),
    Check(check_saturation, lambda s: s.on_scores and s.tags.saturates is not None),
    Check(check_masked_is_absent, _on_scores),
    Check(check_extremes, _on_scores),
    Check(check_large_scores, _on_scores),
]
