"""Retrieval metrics in plain Python, from their definitions: one list at a time, ties by enumeration of every order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

Row = list[bool]


def definition(name: str) -> Callable[[Row], float]:
    """What the metric is of one ranked list of relevant and irrelevant references."""
    kind, _, number = name.partition("@")
    if kind == "map" and not number:
        return lambda row: sum(sum(row[: i + 1]) / (i + 1) for i, hit in enumerate(row) if hit) / sum(row)
    if kind == "map":
        return lambda row: sum(sum(row[: i + 1]) / (i + 1) for i, hit in enumerate(row[: sum(row)]) if hit) / sum(row)
    if kind == "r_precision":
        return lambda row: sum(row[: sum(row)]) / sum(row)
    if kind == "mrr":
        return lambda row: 1 / (1 + row.index(True))
    k = int(number)
    if kind == "recall":
        return lambda row: float(any(row[:k]))
    if kind == "precision":
        return lambda row: sum(row[:k]) / k
    if kind == "ndcg":
        return lambda row: _gain(row[:k]) / _gain(sorted(row, reverse=True)[:k])
    raise ValueError(name)


def _gain(row: Row) -> float:
    return sum(1 / math.log2(2 + i) for i, hit in enumerate(row) if hit)


def orders(scored: Sequence[tuple[float, bool]], ties: str) -> Iterator[Row]:
    """Every equally likely ranked list of references, given as (score, relevant) in index order."""
    blocks = [[hit for s, hit in scored if s == value] for value in sorted({s for s, _ in scored}, reverse=True)]
    if ties == "optimistic":
        yield [hit for block in blocks for hit in sorted(block, reverse=True)]
    elif ties == "pessimistic":
        yield [hit for block in blocks for hit in sorted(block)]
    elif ties == "index":
        yield [hit for block in blocks for hit in block]
    else:
        for choice in itertools.product(*(_arrangements(block) for block in blocks)):
            yield [hit for block in choice for hit in block]


def _arrangements(block: Row) -> list[Row]:
    places = itertools.combinations(range(len(block)), sum(block))
    return [[i in chosen for i in range(len(block))] for chosen in places]


def retrieval(
    scores: Sequence[Sequence[float]],
    query_labels: Sequence[int],
    reference_labels: Sequence[int],
    name: str,
    *,
    query_ids: Sequence[int],
    reference_ids: Sequence[int],
    ties: str = "expected",
) -> list[float | None]:
    """Value of the metric for each query, None for queries without a positive."""
    values: list[float | None] = []
    for row, label, number in zip(scores, query_labels, query_ids, strict=True):
        columns = zip(row, reference_labels, reference_ids, strict=True)
        scored = [(s, other == label) for s, other, i in columns if other >= 0 and not (number >= 0 and i == number)]
        if label < 0 or not any(hit for _, hit in scored):
            values.append(None)
            continue
        results = [definition(name)(order) for order in orders(scored, ties)]
        values.append(math.fsum(results) / len(results))
    return values
