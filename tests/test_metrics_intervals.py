"""Intervals and paired tests: their promises on simulated data, and the numbers of scipy where both say the same."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from metriczoo.metrics import retrieval_metrics
from metriczoo.metrics._intervals import bootstrap_interval, holm, paired_test

NUMBERS = st.floats(-5, 5).map(lambda value: round(value, 3))
FEW = {"resamples": 200}
RNG = "random_state" if scipy.__version__.startswith(("1.12.", "1.13.", "1.14.")) else "rng"  # how scipy calls its generator


@st.composite
def grouped(draw, low=1, high=30):
    n = draw(st.integers(low, high))
    values = draw(st.lists(NUMBERS, min_size=n, max_size=n))
    return np.array(values), np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))


def classes_of_hits(generator, num_classes=40, spread=1.5):
    """Hits and misses of queries whose class decides most: labels, values."""
    sizes = generator.integers(5, 25, num_classes)
    chance = 1 / (1 + np.exp(-generator.normal(0.5, spread, num_classes)))
    labels = np.repeat(np.arange(num_classes), sizes)
    return labels, (generator.random(len(labels)) < chance[labels]).astype(float)


# -- bootstrap_interval -----------------------------------------------------------


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("skewed", [False, True])
def test_interval_of_single_values_is_that_of_scipy(method, skewed):
    values = np.random.default_rng(3).gamma(0.5, size=60) if skewed else np.random.default_rng(4).normal(size=60)
    ours = bootstrap_interval(values, method=method, resamples=2000, level=0.9, seed=5)
    options = {"n_resamples": 2000, "confidence_level": 0.9, "vectorized": True, RNG: np.random.default_rng(5)}
    theirs = scipy.stats.bootstrap((values,), np.mean, method=method, **options)
    expected = (*theirs.confidence_interval, theirs.standard_error)
    assert (ours["low"], ours["high"], ours["standard_error"]) == pytest.approx(expected, rel=1e-9)


def test_groups_of_equal_size_are_values_of_their_means():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(20, 6))
    labels = np.repeat(np.arange(20), 6)
    shuffled = generator.permutation(120)
    by_class = bootstrap_interval(values.reshape(-1)[shuffled], groups=labels[shuffled], **FEW)
    of_means = bootstrap_interval(values.mean(1), **FEW)
    for key in ("mean", "low", "high", "standard_error"):
        assert by_class[key] == pytest.approx(of_means[key], rel=1e-12)
    assert (by_class["num_values"], by_class["num_groups"]) == (120, 20)


def test_intervals_by_class_cover_the_truth_and_those_by_query_do_not():
    covered = {"bca": 0, "percentile": 0, "queries": 0}
    trials = 300
    wide = np.random.default_rng(10**6).normal(0.5, 1.5, 10**6)
    # The mean over queries estimates the mean over classes of the chance, as sizes do not depend on it.
    truth = float((1 / (1 + np.exp(-wide))).mean())
    for trial in range(trials):
        labels, hits = classes_of_hits(np.random.default_rng(trial))
        for name, options in (("bca", {"groups": labels}), ("percentile", {"groups": labels, "method": "percentile"}), ("queries", {})):
            interval = bootstrap_interval(hits, resamples=300, seed=trial, **options)
            covered[name] += interval["low"] <= truth <= interval["high"]
    assert 0.91 <= covered["bca"] / trials <= 0.98
    assert 0.91 <= covered["percentile"] / trials <= 0.98
    assert covered["queries"] / trials < 0.75


@given(data=grouped(low=2), seed=st.integers(0, 5))
def test_interval_holds_the_resampled_means(data, seed):
    values, groups = data
    result = bootstrap_interval(values, groups=groups, seed=seed, method="percentile", **FEW)
    means = [values[groups == group].mean() for group in np.unique(groups)]
    assert result["mean"] == pytest.approx(values.mean())
    assert result["num_groups"] == len(means)
    if len(means) > 1:
        assert min(means) - 1e-9 <= result["low"] <= result["high"] <= max(means) + 1e-9
    else:
        assert math.isnan(result["low"])
    assert result == bootstrap_interval(values, groups=groups, seed=seed, method="percentile", **FEW) or len(means) == 1


@given(data=grouped(low=2))
def test_neither_order_nor_missing_values_nor_ignored_classes_matter(data):
    values, groups = data
    expected = bootstrap_interval(values, groups=groups, **FEW)
    longer = np.concatenate([[math.nan, 7.0], values])
    labels = np.concatenate([[0, -1], groups])
    order = np.random.default_rng(0).permutation(len(longer))
    found = bootstrap_interval(torch.from_numpy(longer[order]), groups=labels[order].tolist(), **FEW)
    assert list(found.values()) == pytest.approx(list(expected.values()), nan_ok=True, abs=1e-9)


def test_more_groups_than_are_drawn_at_once(monkeypatch):
    labels, hits = classes_of_hits(np.random.default_rng(0))
    whole = bootstrap_interval(hits, groups=labels, resamples=500)
    monkeypatch.setattr("metriczoo.metrics._intervals._CELLS", 16 * 40)
    parts = bootstrap_interval(hits, groups=labels, resamples=500)
    assert (parts["low"], parts["high"]) == pytest.approx((whole["low"], whole["high"]), abs=0.03)
    assert parts["num_groups"] == whole["num_groups"] == 40


def test_level_and_skewness_move_the_bounds():
    values = np.random.default_rng(0).gamma(0.3, size=40)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide["low"] < narrow["low"] < narrow["mean"] < narrow["high"] < wide["high"]
    percentile = bootstrap_interval(values, method="percentile")
    assert bootstrap_interval(values)["high"] > percentile["high"]  # a long tail to the right


def test_constant_values_and_nothing():
    constant = bootstrap_interval([1, 1, 1, 1], groups=[0, 0, 1, 2])
    assert (constant["mean"], constant["low"], constant["high"], constant["standard_error"]) == (1.0, 1.0, 1.0, 0.0)
    nothing = bootstrap_interval([math.nan, math.nan])
    assert math.isnan(nothing["mean"])
    assert math.isnan(nothing["low"])
    assert (nothing["num_values"], nothing["num_groups"]) == (0, 0)


def test_values_come_from_the_retrieval_metrics():
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) // 6
    labels[0], labels[1] = -1, 99  # one that is ignored, one without a positive
    result = retrieval_metrics(points, labels, metrics=("recall@1", "map@r"), per_query=True)
    for name in ("recall@1", "map@r"):
        interval = bootstrap_interval(result.per_query[name], groups=labels, **FEW)
        assert interval["mean"] == pytest.approx(result[name])
        assert interval["num_values"] == result["num_queries"] == 58


# -- paired_test ------------------------------------------------------------------


def naive_p_value(sums):
    totals = [
        abs(sum(sign * value for sign, value in zip(signs, sums, strict=True))) for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return sum(total >= abs(sum(sums)) - 1e-9 for total in totals) / len(totals)


@given(data=grouped(high=20), other=st.lists(NUMBERS, min_size=20, max_size=20))
def test_p_value_counts_every_way_to_flip_classes(data, other):
    first, groups = data
    second = np.array(other[: len(first)])
    test = paired_test(first, second, groups=groups, **FEW)
    sums = [float((first - second)[groups == group].sum()) for group in np.unique(groups)]
    assert test["exact"]
    assert test["p_value"] == pytest.approx(naive_p_value(sums))
    assert test["difference"] == pytest.approx((first - second).mean())
    swapped = paired_test(second, first, groups=groups, **FEW)
    assert (swapped["p_value"], swapped["difference"]) == pytest.approx((test["p_value"], -test["difference"]))


@pytest.mark.parametrize("n", [9, 40])
def test_p_value_of_single_queries_is_that_of_scipy(n):
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.4, 1, n), generator.normal(0, 1, n)
    ours = paired_test(a, b, resamples=20_000)
    options = {"permutation_type": "samples", "n_resamples": 20_000, "vectorized": True, RNG: generator}
    theirs = scipy.stats.permutation_test((a, b), lambda x, y, axis: (x - y).mean(axis=axis), **options)
    assert ours["exact"] == (n == 9)
    assert ours["p_value"] == pytest.approx(theirs.pvalue, rel=1e-9 if n == 9 else 0, abs=0 if n == 9 else 0.012)


def test_interval_of_the_difference_is_the_bootstrap_of_differences():
    generator = np.random.default_rng(0)
    labels, a = classes_of_hits(generator)
    b = generator.permutation(a)
    test = paired_test(a, b, groups=labels, level=0.8, resamples=300, seed=4)
    interval = bootstrap_interval(a - b, groups=labels, level=0.8, resamples=300, seed=4)
    assert (test["low"], test["high"]) == (interval["low"], interval["high"])


def test_equal_models_are_found_different_as_often_as_promised_only_if_classes_count():
    trials, by_class, by_query = 300, 0, 0
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        labels = np.repeat(np.arange(30), generator.integers(5, 25, 30))
        moved = generator.normal(0, 1, 30)[labels]  # each class likes one of two equally good models more
        a, b = (moved * side + generator.normal(0, 1, len(labels)) for side in (0.5, -0.5))
        by_class += paired_test(a, b, groups=labels, resamples=200, seed=trial)["p_value"] <= 0.05
        by_query += paired_test(a, b, resamples=200, seed=trial)["p_value"] <= 0.05
    assert by_class / trials <= 0.08
    assert by_query / trials > 0.25


def test_a_real_difference_is_found():
    generator = np.random.default_rng(0)
    labels, hits = classes_of_hits(generator)
    better = np.where(generator.random(len(hits)) < 0.2, 1.0, hits)
    test = paired_test(better, hits, groups=labels)
    assert test["p_value"] == pytest.approx(1 / 10_001)
    assert 0 < test["low"] < test["difference"] < test["high"]


def test_models_without_any_difference_and_nothing_to_compare():
    same = paired_test([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (same["difference"], same["p_value"], same["low"], same["high"]) == (0.0, 1.0, 0.0, 0.0)
    nothing = paired_test([math.nan], [math.nan])
    assert math.isnan(nothing["p_value"])
    assert math.isnan(nothing["difference"])


# -- holm -------------------------------------------------------------------------


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_holm_rejects_step_by_step(p_values):
    corrected = holm(p_values)
    made = [(p, c) for p, c in zip(p_values, corrected, strict=True) if not math.isnan(p)]
    assert all(math.isnan(c) == math.isnan(p) for p, c in zip(p_values, corrected, strict=True))
    for level in (0.01, 0.05, 0.3):
        rejected = 0
        for p in sorted(p for p, _ in made):
            if p * (len(made) - rejected) > level:
                break
            rejected += 1
        assert sum(c <= level for _, c in made) == rejected


# -- errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: bootstrap_interval(["a"]), TypeError, "`values` to be numbers"),
        (lambda: bootstrap_interval([[1.0], [1.0, 2.0]]), TypeError, "`values` to be numbers"),
        (lambda: bootstrap_interval([[1.0]]), ValueError, r"`values` to be of shape \[q\]"),
        (lambda: bootstrap_interval([math.inf]), ValueError, "infinity"),
        (lambda: bootstrap_interval([1.0, 2.0], groups=[0]), ValueError, "groups"),
        (lambda: bootstrap_interval([1.0], groups=[0.5]), TypeError, "groups"),
        (lambda: bootstrap_interval([1.0], level=1.0), ValueError, "level"),
        (lambda: bootstrap_interval([1.0], method="bcaa"), ValueError, "Did you mean 'bca'"),
        (lambda: bootstrap_interval([1.0], resamples=0), ValueError, "resamples"),
        (lambda: bootstrap_interval([1.0], seed=-1), ValueError, "seed"),
        (lambda: paired_test([1.0], [1.0, 2.0]), ValueError, "`second` to have the 1 values"),
        (lambda: paired_test([1.0, math.nan], [1.0, 2.0]), ValueError, "only one of them has a value of query 1"),
        (lambda: paired_test([1.0], ["x"]), TypeError, "`second` to be numbers"),
        (lambda: holm([0.5, 1.5]), ValueError, "1.5"),
    ],
)
def test_mistakes_are_clear_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
