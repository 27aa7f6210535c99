"""What the seeds of one system add up to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

__all__ = ["mean_and_spread"]

_Key = TypeVar("_Key", bound=Hashable)


def mean_and_spread(values: Mapping[_Key, Sequence[float]]) -> tuple[dict[_Key, float], dict[_Key, float]]:
    """Of each key the mean of its values, NaN without any, and their standard deviation, NaN of a single one."""
    mean = {key: statistics.fmean(known) if known else math.nan for key, known in values.items()}
    spread = {key: statistics.stdev(known) if len(known) > 1 else math.nan for key, known in values.items()}
    return mean, spread
