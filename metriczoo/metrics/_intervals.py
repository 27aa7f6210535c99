"""How sure a mean over queries is, and whether two models differ on the same queries: resampling of whole classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._checks import as_labels, check_choice, check_count, check_number, describe
from metriczoo.metrics._inputs import Integers
from metriczoo.metrics._result import MetricResult

__all__ = ["bootstrap_interval", "holm", "paired_test"]

_CELLS = 2**21  # that are drawn at once

Numbers = Tensor | NDArray[Any] | Sequence[float]
_Floats = NDArray[np.float64]


def bootstrap_interval(
    values: Numbers,
    *,
    groups: Integers | None = None,
    level: float = 0.95,
    method: str = "bca",
    resamples: int = 10_000,
    seed: int = 0,
) -> MetricResult:
    r"""Confidence interval of the mean of per-query values, by resampling whole groups of them.

    Queries of one class succeed and fail together, and a model is meant for classes that nobody has seen yet: pass the labels as `groups`,
    and classes are drawn with replacement, each with all its queries. Intervals from single queries are far too short then.

    .. math:: \theta^* = \frac{\sum_{g \in G^*} \sum_{i \in g} v_i}{\sum_{g \in G^*} |g|}, \qquad G^* \text{ drawn from } G

    Args:
        values: `[q]`, such as `retrieval_metrics(..., per_query=True).per_query["recall@1"]`. NaN, a query without an answer, is left out.
        groups: `[q]`, integers, the class of each query; those < 0 are left out. Default: each value is a group of its own.
        level: of confidence, in (0, 1).
        method: "bca", corrected for bias and skewness, or "percentile".
        resamples: how often to draw, at least 1.
        seed: of the draws, at least 0.

    Returns:
        `mean`, `low`, `high`, `standard_error` (of the resampled means), `num_values` and `num_groups`. Of one group nothing is known but
        the mean: the other values are NaN. Of no value, the mean is NaN too.

    Raises:
        TypeError: if `values` are no numbers, or `groups` no integers.
        ValueError: if shapes do not match, a value is infinite, a number is out of range, or a name is unknown.

    Example:
        >>> hits = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        >>> single = bootstrap_interval(hits, method="percentile")
        >>> single["mean"], single["low"], single["high"]
        (0.5, 0.125, 0.875)
        >>> by_class = bootstrap_interval(hits, groups=[0, 0, 0, 1, 1, 1, 2, 2], method="percentile")
        >>> by_class["low"], by_class["high"], by_class["num_groups"]
        (0.0, 1.0, 3)

    Relations:
        `scipy.stats.bootstrap` of the mean, where each value is a group of its own: with the same draws, the same numbers.
        The spread over seeds says how much training differs, this how much the choice of test classes does.

    References:
        Bradley Efron. Better Bootstrap Confidence Intervals. JASA 82, 1987.

        A. C. Davison, D. V. Hinkley. Bootstrap Methods and their Application. Cambridge, 1997, section 3.8 on hierarchical data.
    """
    level = check_number("level", level, low=0, high=1, open_low=True, open_high=True)
    check_choice("method", method, ("bca", "percentile"))
    resamples, seed = check_count("resamples", resamples), check_count("seed", seed, low=0)
    given = _as_values("values", values)
    sums, counts = _by_group(given, groups)
    n = len(sums)
    mean = float(sums.sum() / counts.sum()) if n else math.nan
    low = high = error = math.nan
    if n > 1:
        means = np.sort(_resampled(sums, counts, resamples, np.random.default_rng(seed)))
        shares = [(1 - level) / 2, (1 + level) / 2]
        if method == "bca":
            shares = _corrected(shares, means, mean, sums, counts)
        low, high = np.quantile(means, shares).tolist()
        error = float(means.std(ddof=1)) if resamples > 1 else math.nan
    return MetricResult({"mean": mean, "low": low, "high": high, "standard_error": error, "num_values": int(counts.sum()), "num_groups": n})


def paired_test(
    first: Numbers,
    second: Numbers,
    *,
    groups: Integers | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> MetricResult:
    r"""Whether two models differ on the same queries: a sign-flip permutation test of the mean difference, group by group.

    If the models were equally good, the difference on a class could as well have had the other sign. The p-value is the share of all ways
    to flip signs that move the mean at least as far from 0; where there are more than `resamples` ways, of random ones, the one observed
    included, so that it is never 0.

    .. math:: p = P\Big(\Big|\sum_g \sigma_g D_g\Big| \ge \Big|\sum_g D_g\Big|\Big), \qquad D_g = \sum_{i \in g} (a_i - b_i), \;
       \sigma_g = \pm 1

    Args:
        first: `[q]`, a value per query, as for `bootstrap_interval`; NaN where `second` is NaN.
        second: `[q]`, of the other model, on the same queries.
        groups: `[q]`, integers, the class of each query; those < 0 are left out. Default: each query is a group of its own.
        level: of confidence of the interval, in (0, 1).
        resamples: of the interval, and ways to flip signs at most, at least 1.
        seed: of the draws, at least 0.

    Returns:
        `difference` (mean of first minus second), `low` and `high` (its `bootstrap_interval`), `p_value` (two-sided), `exact` (whether all
        ways to flip were counted), `num_values` and `num_groups`. Of no value, difference and p-value are NaN.

    Raises:
        TypeError: if values are no numbers, or `groups` no integers.
        ValueError: if shapes do not match, a value is infinite, only one model has a value of some query, or a number is out of range.

    Example:
        >>> a, b = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        >>> test = paired_test(a, b)
        >>> round(test["difference"], 6), test["p_value"], test["exact"]
        (0.666667, 0.125, True)
        >>> paired_test(a, b, groups=[0, 0, 1, 1, 2, 2])["p_value"]
        0.25

    Relations:
        `scipy.stats.permutation_test` with `permutation_type="samples"`, where each query is a group of its own. With the groups, it does
        not take queries of one class for independent evidence. For many pairs of models, correct the p-values by `holm`.

    References:
        R. A. Fisher. The Design of Experiments. 1935.

        Mark D. Smucker, James Allan, Ben Carterette. A Comparison of Statistical Significance Tests for Information Retrieval Evaluation.
        CIKM 2007.
    """
    a, b = _as_values("first", first), _as_values("second", second)
    if a.shape != b.shape:
        raise ValueError(f"Expected `second` to have the {len(a)} values of `first`, but got {len(b)}.")
    if (np.isnan(a) != np.isnan(b)).any():
        row = int(np.flatnonzero(np.isnan(a) != np.isnan(b))[0])
        raise ValueError(f"Expected `first` and `second` to be of the same queries, but only one of them has a value of query {row}.")
    interval = bootstrap_interval(a - b, groups=groups, level=level, resamples=resamples, seed=seed)
    sums, _ = _by_group(a - b, groups)
    p_value, exact = _sign_flips(sums, resamples, np.random.default_rng(seed))
    return MetricResult(
        {
            "difference": interval["mean"],
            "low": interval["low"],
            "high": interval["high"],
            "p_value": p_value,
            "exact": exact,
            "num_values": interval["num_values"],
            "num_groups": interval["num_groups"],
        }
    )


def holm(p_values: Numbers) -> list[float]:
    r"""P-values of several tests, raised so that those below \(\alpha\) are all right with probability \(1 - \alpha\): Holm's correction.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\{1, (m - j + 1)\, p_{(j)}\}, \qquad p_{(1)} \le \dots \le p_{(m)}

    Args:
        p_values: `[m]`, in [0, 1]. NaN, of a test that could not be made, stays NaN and counts as no test.

    Returns:
        The corrected values, in the same order.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if one is outside of [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Relations:
        Never below the p-values, never above those of Bonferroni, m times each; it needs no independence of the tests either.

    References:
        Sture Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 6, 1979.
    """
    given = _as_values("p_values", p_values)
    made = np.flatnonzero(~np.isnan(given))
    outside = given[made][(given[made] < 0) | (given[made] > 1)]
    if outside.size:
        raise ValueError(f"Expected `p_values` to be in [0, 1], but got {outside[0]}.")
    order = made[np.argsort(given[made], kind="stable")]
    corrected = np.full_like(given, math.nan)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(order), 0, -1) * given[order]))
    result: list[float] = corrected.tolist()
    return result


def _as_values(argument: str, values: Numbers) -> _Floats:
    """`values` as an array `[q]`, NaN or finite."""
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except ValueError as error:  # of sequences of unequal lengths
        raise TypeError(f"Expected `{argument}` to be numbers of shape [q], but got {describe(values)}.") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Expected `{argument}` to be numbers of shape [q], but got {describe(values)}.")
    if array.ndim != 1:
        raise ValueError(f"Expected `{argument}` to be of shape [q], but got {describe(values)}.")
    result: _Floats = array.astype(np.float64)
    if np.isinf(result).any():
        raise ValueError(f"Expected `{argument}` to be finite, or NaN for a query without an answer, but got infinity.")
    return result


def _by_group(values: _Floats, groups: Integers | None) -> tuple[_Floats, _Floats]:
    """For each group the sum of its values and their number, `[g]`."""
    kept = ~np.isnan(values)
    if groups is None:
        return values[kept], np.ones(int(kept.sum()))
    labels = as_labels(groups, argument="groups", length=len(values), device=torch.device("cpu")).numpy()
    kept &= labels >= 0
    _, index = np.unique(labels[kept], return_inverse=True)
    sums, counts = np.bincount(index, weights=values[kept]), np.bincount(index)
    return sums.astype(np.float64), counts.astype(np.float64)


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Numbers of resamples of `width` groups that are drawn at once."""
    height = max(1, _CELLS // max(1, width))
    yield from (min(height, resamples - start) for start in range(0, resamples, height))


def _resampled(sums: _Floats, counts: _Floats, resamples: int, generator: np.random.Generator) -> _Floats:
    """Means over as many groups as there are, drawn with replacement, `[resamples]`."""
    n, equal = len(sums), bool((counts == counts[0]).all())
    means = []
    for height in _chunks(resamples, n):
        drawn = generator.integers(0, n, (height, n))
        divisor = n * counts[0] if equal else counts[drawn].sum(1)
        means.append(sums[drawn].sum(1) / divisor)
    return np.concatenate(means)


def _corrected(shares: list[float], means: _Floats, mean: float, sums: _Floats, counts: _Floats) -> list[float]:
    """The shares of the sorted `means` that bound the BCa interval."""
    normal = NormalDist()
    slack = 1e-12 * float(np.abs(sums).sum() / counts.sum())  # means that are equal but for their rounding
    below, not_above = np.searchsorted(means, mean - slack, "left"), np.searchsorted(means, mean + slack, "right")
    edge = 0.5 / len(means)  # all resampled means on one side of the mean: as far off as so many can tell
    bias = normal.inv_cdf(min(max(float(below + not_above) / (2 * len(means)), edge), 1 - edge))
    without = (sums.sum() - sums) / (counts.sum() - counts)
    left = without.mean() - without
    square = float((left**2).sum())
    skew = float((left**3).sum()) / (6 * square**1.5) if square > 0 else 0.0
    places = [bias + normal.inv_cdf(share) for share in shares]
    return [normal.cdf(bias + place / (1 - skew * place)) for place in places]


def _sign_flips(sums: _Floats, resamples: int, generator: np.random.Generator) -> tuple[float, bool]:
    """The share of ways to flip signs that make the sum as large, and whether all ways were counted."""
    n = len(sums)
    if n == 0:
        return math.nan, True
    observed = abs(sums.sum())
    reached = observed - 1e-12 * np.abs(sums).sum()  # sums that are equal but for their rounding
    exact = 2**n <= resamples
    if exact:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs((1 - 2 * flips) @ sums) >= reached).mean()), True
    extreme = 0
    for height in _chunks(resamples, n):
        bits = np.unpackbits(generator.integers(0, 256, (height, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        extreme += int((np.abs(sums.sum() - 2 * (bits @ sums)) >= reached).sum())
    return (1 + extreme) / (1 + resamples), False
