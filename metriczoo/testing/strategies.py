"""Hypothesis strategies for batches, references and scores: small, shrinkable, and biased to what breaks losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metriczoo.references import References
from metriczoo.scores import Scores

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(f"metriczoo.testing needs Hypothesis; `pip install metriczoo[test]` brings it: {error}") from error

__all__ = ["LABELLINGS", "ROWS", "Batch", "batches", "generic", "lists_of", "references", "score_lists", "scores"]

ROWS = ("fresh", "fresh", "fresh", "copy", "near", "scaled", "antipode", "zero", "huge", "tiny")
LABELLINGS = ("few", "few", "one class", "unique", "ignored")
# float16 ends at 65504, and the gradient of a cosine is as large as a vector is short.
HUGE = {torch.float16: 1e2, torch.bfloat16: 1e15, torch.float32: 1e15, torch.float64: 1e15}
TINY = {torch.float16: 0.1, torch.bfloat16: 1e-20, torch.float32: 1e-20, torch.float64: 1e-20}


@dataclass(frozen=True)
class Batch:
    """Embeddings `[n, d]` that require a gradient, and labels `[n]`."""

    embeddings: Tensor
    labels: Tensor

    def __repr__(self) -> str:
        return f"Batch({self.embeddings.tolist()}, {self.labels.tolist()}, {self.embeddings.dtype})"

    def fresh(self) -> Tensor:
        """The embeddings as a new leaf."""
        return self.embeddings.detach().clone().requires_grad_()


@st.composite
def batches(
    draw: st.DrawFn,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
    max_size: int = 7,
    min_dim: int = 1,
    max_dim: int = 4,
    rows: tuple[str, ...] = ROWS,
    labellings: tuple[str, ...] = LABELLINGS,
) -> Batch:
    """At most `max_size` points, perhaps none: duplicates, antipodes, zero, huge and tiny vectors; one class, unique and ignored labels."""
    dtype = draw(st.sampled_from(dtypes))
    n, d = draw(st.integers(0, max_size)), draw(st.integers(min_dim, max_dim))
    numbers = st.integers(-64, 64).map(lambda k: k / 32)
    points: list[Tensor] = []
    for _ in range(n):
        kind = draw(st.sampled_from(rows))
        other = points[draw(st.integers(0, len(points) - 1))] if points else torch.ones(d, dtype=torch.float64)
        if kind in ("fresh", "huge", "tiny"):
            point = torch.tensor(draw(st.lists(numbers, min_size=d, max_size=d)), dtype=torch.float64)
            point = point * {"fresh": 1.0, "huge": HUGE[dtype], "tiny": TINY[dtype]}[kind]
        else:
            factor = {"copy": 1.0, "near": 1 + 1e-3, "scaled": 3.0, "antipode": -1.0, "zero": 0.0}[kind]
            point = other * factor
        points.append(point)
    x = torch.stack(points) if points else torch.empty(0, d, dtype=torch.float64)
    limit = 3 * HUGE[dtype]
    labels = {
        "few": st.lists(st.integers(0, 2), min_size=n, max_size=n),
        "ignored": st.lists(st.integers(-2, 1), min_size=n, max_size=n),
        "one class": st.just([7] * n),
        "unique": st.permutations(range(n)),
    }[draw(st.sampled_from(labellings))]
    return Batch(x.clamp(-limit, limit).to(dtype).requires_grad_(), torch.tensor(list(draw(labels)), dtype=torch.int64))


@st.composite
def references(draw: st.DrawFn, embedding_dim: int, *, dtype: torch.dtype = torch.float64, max_size: int = 6) -> References:
    """At most `max_size` references, perhaps none, as ugly as `batches`; ids -1 and a few that repeat."""
    batch = draw(batches(dtypes=(dtype,), max_size=max_size, min_dim=embedding_dim, max_dim=embedding_dim))
    n = len(batch.labels)
    ids = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    return References(batch.fresh(), batch.labels, torch.tensor(ids, dtype=torch.int64))


@st.composite
def score_lists(
    draw: st.DrawFn, domain: tuple[float, float], *, min_size: int = 0, max_size: int = 4, unique: bool = False
) -> tuple[list[float], list[float]]:
    """`(s_n, s_p)` of one anchor: the ends of the domain, repeats and empty sets among them."""
    low, high = domain
    number = st.floats(low, high, width=32, allow_subnormal=False) | st.sampled_from(
        [low, high, (low + high) / 2, 0.75 * low + 0.25 * high]
    )
    lists = st.lists(number, min_size=min_size, max_size=max_size, unique=unique)
    return draw(lists), draw(lists)


def generic(seed: int, n: int = 8, d: int = 3, *, classes: int = 3, dtype: torch.dtype = torch.float64) -> Batch:
    """A batch without any special case: every class occurs, no two points are near, no margin is met exactly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    return Batch(x.requires_grad_(), torch.arange(n) % classes)


_SCORE = st.integers(-8, 8).map(lambda i: i / 8)  # ties are common


@st.composite
def scores(draw: st.DrawFn) -> tuple[Scores, Scores]:
    """`(s_n, s_p)`: up to four anchors with up to six negatives and four positives, some masked, many of them equal."""
    b, n, p = draw(st.integers(1, 4)), draw(st.integers(0, 6)), draw(st.integers(0, 4))

    def one(width: int) -> Scores:
        value = torch.tensor(draw(st.lists(_SCORE, min_size=b * width, max_size=b * width)), dtype=torch.float64).reshape(b, width)
        mask = torch.tensor(draw(st.lists(st.booleans(), min_size=b * width, max_size=b * width)), dtype=torch.bool).reshape(b, width)
        return Scores(value, mask)

    return one(n), one(p)


def lists_of(scores: Scores) -> Iterator[list[float]]:
    """The scores that belong to the set of each anchor."""
    for value, mask in zip(scores.value, scores.mask, strict=True):
        yield value[mask].tolist()
