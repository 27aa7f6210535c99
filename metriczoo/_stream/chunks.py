"""References in chunks: how many are read together, and what they are when prepared. No array is of the size of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metriczoo._execution import reads_are_free
from metriczoo._stream.needs import NeedsCells
from metriczoo.similarity import Cosine, Similarity

__all__ = ["Chunks", "prepared"]


def prepared(similarity: Similarity, points: Tensor, dtype: torch.dtype) -> Tensor:
    """References as the similarity scores them: in at least float32, and at the end in the dtype of the anchors."""
    return similarity.prepare(points if points.dtype.itemsize >= 4 else points.float()).to(dtype)


class Chunks:
    """The references of a problem, chunk by chunk, for blocks of anchors whose scores to a chunk fit a budget.

    Args:
        similarity: which prepares and scores.
        anchors: `[N, d']`, prepared.
        references: `[n, d]`, not prepared.
        spans: of references, which no chunk crosses.
        budget: bytes for a block of scores and its gradient.
    """

    def __init__(self, similarity: Similarity, anchors: Tensor, references: Tensor, spans: Sequence[slice], budget: int) -> None:
        self.similarity, self.references, self.spans, self.dtype = similarity, references, spans, anchors.dtype
        self.is_product = similarity.is_product
        self.inverse = _inverse_norms(similarity, references, anchors.dtype)
        self.as_they_are = type(similarity).prepare is Similarity.prepare and references.dtype == anchors.dtype  # no need to be prepared
        self.size = 1  # of the groups of references that are read together
        self.height, self.width = _block(len(anchors), len(references), max(1, budget // (2 * anchors.element_size())))
        # Memory that is asked for anew, chunk by chunk, is touched for the first time again and again, which takes more time than the work.
        self._score, self._gradient = (anchors.new_empty(self.height, self.width + 1) for _ in range(2))
        self._prepared = anchors.new_empty(self.width, anchors.shape[1])

    def group(self, size: int) -> None:
        """From now on let no chunk cut groups of `size` adjacent references.

        Raises:
            NeedsCells: where that cannot be.
        """
        uneven = any((span.stop - span.start) % size for span in self.spans)
        if self.size not in (1, size) or not 0 < size <= self.width or uneven:
            raise NeedsCells
        self.size = size

    def of(self, span: slice) -> Iterator[slice]:
        """Which references of a span are read together."""
        step = self.width // self.size * self.size
        return (slice(start, min(start + step, span.stop)) for start in range(span.start, span.stop, step))

    @torch.no_grad()
    def points(self, chunk: slice) -> Tensor:
        """`[w, d']`: prepared references, until the next chunk is asked for."""
        raw = self.references[chunk]
        if self.inverse is not None:
            return torch.mul(raw, self.inverse[chunk], out=self._prepared[: len(raw)])
        return prepared(self.similarity, raw, self.dtype)

    @torch.no_grad()
    def scores(self, a: Tensor, r: Tensor, score: Tensor | None = None) -> Tensor:
        """`[b, w + 1]`: scores, or `score` if it is known, and a spare last column; until they are asked for again."""
        value = self._score[: len(a), : len(r) + 1]
        if self.is_product:
            torch.mm(a, r.mT, out=value[:, :-1])
        else:
            value[:, :-1] = self.similarity.score(a, r) if score is None else score
        return value

    def gradient(self, like: Tensor) -> Tensor:
        """Memory for the gradient of values `[b, w + 1]`."""
        return self._gradient[: like.shape[0], : like.shape[1]]

    # ---- a few references of each anchor

    def parts(self, cells: Tensor) -> Sequence[Tensor]:
        """`cells` `[b, k]` in parts so narrow that the points of all cells take no more than a tile."""
        return torch.split(cells, max(1, self.width // max(1, self.references.shape[1])), dim=1)

    def take(self, cells: Tensor) -> Tensor:
        """`[b, k, d]`: references by cell, not prepared; the spare one belongs to no set, so any will do for it."""
        return self.references[cells.clamp(max=len(self.references) - 1)]

    def near(self, a: Tensor, r: Tensor) -> Tensor:
        """`[b, k]`: scores of anchors `a` `[b, d']` to references of their own, `[b, k, d]`, not prepared."""
        return self.similarity.score(a.unsqueeze(1), prepared(self.similarity, r, a.dtype)).squeeze(1)


def _block(anchors: int, references: int, cells: int) -> tuple[int, int]:
    """How many anchors and how many references a block of so many cells has."""
    count = max(1, -(-anchors // max(1, math.isqrt(cells))))
    height = max(1, -(-anchors // count))
    width = cells // height
    width = max(1, (width - width % 16 if width >= 64 else width) - 1)  # with the spare column a round number
    return height, min(width, references)


def _inverse_norms(similarity: Similarity, points: Tensor, dtype: torch.dtype) -> Tensor | None:
    """`[n, 1]`: 1 / ||x||, where that and no more is what the similarity prepares, and no norm is so small or large that squares fail.

    Three operations in place of the twenty by which autograd goes through `metriczoo.similarity.unit`.
    """
    if type(similarity).prepare is not Cosine.prepare or points.dtype != dtype or not reads_are_free(points):
        return None
    norms = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    least, most = norms.aminmax()
    return norms.reciprocal_() if bool((least > 1e-6) & (most < 1e15)) else None
