"""One pass over a problem with very many references: they are read in chunks, and no array holds a score of each.

A loss sees `s_n` as ever, and folds it. Here a fold goes over the references chunk by chunk with a running result, and `per_anchor` makes
of the results a small graph, which says how the loss depends on each fold. The gradient is a second pass: a chunk's scores are computed
again, the derivative of every fold by them is known from its result, and the products with points go straight into the accumulated
gradients. So this costs one matrix product more than where all scores are held, and chunks that stay in cache pay for it.

Points are prepared chunk by chunk as well: no array is of the size of the references but their gradient.

A loss that asks for cells, with `value`, `mask` or a subset by cell, is told from the others by trying: `NeedsCells` is raised, and the
tiles of `metriczoo._tiles` take over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from metriczoo._execution import memory, reads_are_free
from metriczoo._logsumexp import tail
from metriczoo._strata import StratifiedScores
from metriczoo.columns import LabelColumns
from metriczoo.reduction import Totals, divisors
from metriczoo.scores import HARMLESS, Block, Scores
from metriczoo.similarity import Cosine, Similarity

if TYPE_CHECKING:
    from metriczoo.engine import Problem

__all__ = ["THIN", "NeedsCells", "Stream", "StreamedScores", "prepared"]

THIN = 16  # rows: where tiles have fewer, adding their gradients to all references takes as much time as the product that chunks do again


class NeedsCells(Exception):
    """A loss or a miner looks at the cells of streamed scores, which are never there all at once."""


def prepared(similarity: Similarity, points: Tensor, dtype: torch.dtype) -> Tensor:
    """References as the similarity scores them: in at least float32, and at the end in the dtype of the anchors."""
    return similarity.prepare(points if points.dtype.itemsize >= 4 else points.float()).to(dtype)


class StreamedScores(Scores):
    """Scores of a block of anchors to all references but a few, of which only folds are ever known."""

    __slots__ = ("_anchors", "_kept", "_maps", "_span")

    def __init__(
        self, anchors: _Anchors, span: slice, maps: tuple[Callable[[Tensor], Tensor], ...] = (), kept: Tensor | None = None
    ) -> None:
        self._anchors, self._span, self._maps, self._kept = anchors, span, maps, kept
        self.block = anchors.block

    def _cells(self, *_: Any, **__: Any) -> NoReturn:
        raise NeedsCells

    value = mask = columns = excluded = harmless = property(_cells)
    fill = split = of_references = _cells

    def __repr__(self) -> str:
        return f"StreamedScores({self.height} anchors)"

    @property
    def height(self) -> int:
        """How many anchors there are."""
        return len(self._anchors.points)

    def map(self, f: Callable[[Tensor], Tensor]) -> Scores:
        """The same set with `f`, an elementwise function, applied to its values."""
        return StreamedScores(self._anchors, self._span, (*self._maps, f), self._kept)

    def where(self, keep: Tensor) -> Scores:
        """The set of those anchors where `keep` `[b, 1]` is true."""
        if keep.shape[1] != 1:
            raise NeedsCells
        return StreamedScores(self._anchors, self._span, self._maps, keep if self._kept is None else keep & self._kept)

    def take(self, cells: Tensor, keep: Tensor) -> Scores:
        """The cells `cells[i]` of each anchor `i`, `[b, k]` int64, of which those with `keep` `[b, k]` belong to the set."""
        taken = self._anchors.narrow(cells, keep if self._kept is None else keep & self._kept)
        for f in self._maps:
            taken = taken.map(f)
        return taken

    def count(self) -> Tensor:
        """`[b]` int64: how many cells belong to the set."""
        count = self._anchors.count(self._span)
        return count if self._kept is None else torch.where(self._kept.squeeze(1), count, 0)

    def sum(self) -> Tensor:
        """`[b]`: sum; 0 for an empty set."""
        return self._fold(_Sum())

    def logsumexp(self, scale: float | Tensor = 1.0) -> Tensor:
        """`[b]`: log of the sum of exponentials of `scale > 0` times the values; -inf for an empty set, with gradient 0."""
        if isinstance(scale, Tensor):  # it may have a gradient, or differ from anchor to anchor
            scaled = self.map(lambda v: v * scale)
            return scaled.logsumexp()
        return self._fold(_LogSumExp(scale))

    def _extreme(self, empty: float, largest: bool) -> Tensor:
        return self._fold(_Extreme(empty, largest))

    def _fold(self, fold: _Fold) -> Tensor:
        result = self._anchors.fold(fold, self._span, self._maps)
        return result if self._kept is None else torch.where(self._kept.squeeze(1), result, fold.empty)

    @torch.no_grad()
    def topk(self, k: int, *, largest: bool = True) -> Scores:
        """The `k` largest (or smallest) values of each anchor; fewer where the set has fewer."""
        empty, k = -math.inf if largest else math.inf, min(k, self._span.stop - self._span.start + 1)
        best = cells = None
        for start, value in self._anchors.values(self._span, self._maps, empty):
            value, found = value.topk(min(k, value.shape[1]), dim=1, largest=largest)
            found += start
            if best is not None and cells is not None:
                value, found = torch.cat([best, value], dim=1), torch.cat([cells, found], dim=1)
                value, order = value.topk(min(k, value.shape[1]), dim=1, largest=largest)
                found = found.gather(1, order)
            best, cells = value, found
        assert best is not None and cells is not None
        with torch.enable_grad():
            return self.take(cells, best.isfinite())


class _Fold:
    """A running fold of rows of values, and its derivative by them."""

    empty: float  # what a cell outside the set holds, and the fold of no cell

    def add(self, value: Tensor) -> None:
        """Go on with `value` `[b, w]`, which may be written to."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """`[b]`."""
        raise NotImplementedError

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        """`out` `[b, w]`: derivative by `value` of what has derivative `grad` `[b]` by the result; anything in cells outside the set."""
        raise NotImplementedError


class _Sum(_Fold):
    empty = 0.0
    total: Tensor | float = 0.0

    def add(self, value: Tensor) -> None:
        self.total = self.total + value.sum(1).double()
        self.dtype = value.dtype

    def result(self) -> Tensor:
        assert isinstance(self.total, Tensor)
        return self.total.to(self.dtype)

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        return out.copy_(grad.unsqueeze(1))


class _LogSumExp(_Fold):
    empty = -math.inf

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.total: Tensor | None = None  # [b, 1], of the values so far
        self.shift: Tensor | None = None  # [b, 1], from which values are counted: the largest so far

    def add(self, value: Tensor) -> None:
        last, largest = self.shift, value.amax(1, keepdim=True).clamp_(min=torch.finfo(value.dtype).min)
        self.shift = largest if last is None else torch.maximum(last, largest)
        total = self._exponentials(value.sub_(self.shift)).sum(1, keepdim=True)
        if last is not None and self.total is not None:
            total += self.total * ((last - self.shift) * self.scale).exp()
        self.total = total

    def result(self) -> Tensor:
        assert self.shift is not None and self.total is not None
        return (self.shift * self.scale + self.total.log()).squeeze(1)

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        assert self.shift is not None and self.total is not None
        factor = torch.where(self.total > 0, grad.unsqueeze(1) * (self.scale / self.total), 0.0)
        return self._exponentials(torch.sub(value, self.shift, out=out)).mul_(factor)

    def _exponentials(self, below: Tensor) -> Tensor:
        """In place: `exp(scale * below)`, but 0 near where numbers become subnormal, see `metriczoo._logsumexp`."""
        torch.threshold_(below.mul_(self.scale * math.log2(math.e)), tail(below) * math.log2(math.e), -math.inf)
        return below.exp2_()


class _Extreme(_Fold):
    def __init__(self, empty: float, largest: bool) -> None:
        self.empty, self.largest = empty, largest
        self.best: Tensor | None = None
        self.ties: Tensor | None = None  # how many cells share the gradient

    def add(self, value: Tensor) -> None:
        now = value.amax(1) if self.largest else value.amin(1)
        last = now if self.best is None else self.best
        self.best = torch.maximum(last, now) if self.largest else torch.minimum(last, now)
        ties = (value == self.best.unsqueeze(1)).sum(1)
        self.ties = ties if self.ties is None else ties + torch.where(self.best == last, self.ties, 0)

    def result(self) -> Tensor:
        assert self.best is not None
        return self.best

    def derivative(self, value: Tensor, grad: Tensor, out: Tensor) -> Tensor:
        assert self.ties is not None
        share = (grad / self.ties.clamp(min=1)).unsqueeze(1)
        return torch.mul(value == self.result().unsqueeze(1), share, out=out)


@dataclass(eq=False)
class _Folded:
    """A fold that a loss has made."""

    fold: _Fold
    span: slice
    maps: tuple[Callable[[Tensor], Tensor], ...]
    result: Tensor  # [b], a leaf
    grad: Tensor | None = None  # [b]
    uses: list[Tensor] = field(default_factory=list)  # what its maps hold that gradients flow to


@dataclass(eq=False)
class _Narrow:
    """Scores to a few references of each anchor."""

    cells: Tensor  # [b, k] int64
    result: Tensor  # [b, k], a leaf
    grad: Tensor | None = None  # [b, k]


@dataclass(eq=False)
class _Anchors:
    """A block of anchors, and what `per_anchor` has asked of their scores."""

    stream: Stream
    rows: slice
    points: Tensor  # [b, d'] prepared
    block: Block
    excluded: Tensor  # [b, e] int64, references that are not in `s_n`
    num_excluded: Tensor  # [b] int64, how many different ones there are among the first ones, where there are strata
    folded: list[_Folded] = field(default_factory=list)
    narrowed: list[_Narrow] = field(default_factory=list)

    def count(self, span: slice) -> Tensor:
        """`[b]` int64: how many references of a span are in `s_n`."""
        all_there = torch.full_like(self.num_excluded, span.stop - span.start)
        return all_there - self.num_excluded if span.start == 0 else all_there

    def fold(self, fold: _Fold, span: slice, maps: tuple[Callable[[Tensor], Tensor], ...]) -> Tensor:
        """`[b]`: a fold over the references of a span."""
        if span.start == span.stop:
            return self.points.new_full((len(self.points),), fold.empty)
        with torch.no_grad():
            for _, value in self.values(span, maps, fold.empty):
                fold.add(value)
            result = fold.result()
        if torch.is_grad_enabled():
            self.folded.append(_Folded(fold, span, maps, result.requires_grad_()))
        return result

    def values(self, span: slice, maps: tuple[Callable[[Tensor], Tensor], ...], empty: float) -> Iterator[tuple[int, Tensor]]:
        """For each chunk where it starts, and `[b, w + 1]`: mapped scores, `empty` outside of the set. To be used without gradients."""
        for chunk in self.stream.chunks(span):
            scores, outside = self.stream.scores(self, chunk, self.stream.points(chunk))
            yield chunk.start, _owned(_mapped(maps, scores), scores).scatter_(1, outside, empty)

    def narrow(self, cells: Tensor, there: Tensor) -> Scores:
        """Scores to a few references of each anchor."""
        stream = self.stream
        with torch.no_grad():
            score = torch.cat([stream.near(self.points, stream.take(part)) for part in stream.parts(cells)], dim=1)
        if torch.is_grad_enabled():
            self.narrowed.append(_Narrow(cells, score.requires_grad_()))
        return Scores(torch.where(there, score, HARMLESS), there, columns=cells, block=self.block, harmless=True)

    def parts(self) -> list[_Folded | _Narrow]:
        """What the loss of these anchors was made of."""
        return [*self.folded, *self.narrowed]


def _mapped(maps: tuple[Callable[[Tensor], Tensor], ...], value: Tensor) -> Tensor:
    shape = value.shape
    for f in maps:
        value = f(value)
        if value.shape != shape:
            raise ValueError(f"Expected `f` to keep the shape {list(shape)}, but got {list(value.shape)}.")
    return value


def _owned(value: Tensor, scores: Tensor) -> Tensor:
    """`value` with storage that may be written to: a map may have returned a number of its own, made wide."""
    return value if value is scores or 0 not in value.stride() else value.clone(memory_format=torch.contiguous_format)


class Stream:
    """One pass over the references, and a second one for gradients. It has the methods of `Tiles`."""

    def __init__(
        self,
        problem: Problem,
        anchors: Tensor,
        references: Tensor,
        parameters: Sequence[Tensor],
        wanted: Sequence[bool],
        weights: Tensor | None = None,
    ) -> None:
        self.wanted, self.weights = wanted, weights
        self.anchors, self.references = anchors.detach(), references.detach()
        # Facts are leaves here: autograd goes on from their gradients, which must not reach parameters twice.
        num = len(problem.inputs())
        facts = [fact.detach().requires_grad_(w) for fact, w in zip(parameters[:num], wanted[2:], strict=False)]
        self.problem = problem.given(facts)
        self.parameters = [p for p, w in zip([*facts, *parameters[num:]], wanted[2:], strict=True) if w]
        self.blocks: list[tuple[_Anchors, Totals]] = []
        self.sums: Totals | None = None
        self.similarity = problem.loss.similarity
        n, strata = len(references), problem.columns.strata
        self.spans = [slice(0, n)] if strata is None else [slice(0, strata[0]), slice(strata[0], n)]
        cells = max(1, memory(problem.budget, anchors.device) // (2 * anchors.element_size()))  # scores, and their gradient
        count = max(1, -(-len(anchors) // max(1, math.isqrt(cells))))
        self.height = max(1, -(-len(anchors) // count))
        width = cells // self.height
        self.width = max(1, (width - width % 16 if width >= 64 else width) - 1)  # with the spare column a round number
        self.width = min(self.width, len(references))
        # Memory that is asked for anew, chunk by chunk, is touched for the first time again and again, which takes more time than the work.
        self.score, self.gradient = (anchors.new_empty(self.height, self.width + 1) for _ in range(2))
        self.prepared, self.of_points, self.product = (anchors.new_empty(self.width, anchors.shape[1]) for _ in range(3))
        self.is_product = self.similarity.is_product
        self.inverse = _inverse_norms(self.similarity, self.references, anchors.dtype)

    def chunks(self, span: slice) -> Iterator[slice]:
        """Which references of a span are read together."""
        return (slice(start, min(start + self.width, span.stop)) for start in range(span.start, span.stop, self.width))

    def parts(self, cells: Tensor) -> Sequence[Tensor]:
        """`cells` `[b, k]` in parts so narrow that the points of all cells take no more than a tile."""
        return torch.split(cells, max(1, self.width // max(1, self.references.shape[1])), dim=1)

    # ---- points and scores

    def points(self, chunk: slice) -> Tensor:
        """`[w, d']`: prepared references."""
        with torch.no_grad():
            return _Chunk(self, chunk).points

    @torch.no_grad()
    def scores(self, anchors: _Anchors, chunk: slice, r: Tensor, score: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`[b, w + 1]`: scores, `HARMLESS` outside of the set, to which the spare last column belongs; and the cells outside, `[b, e]`."""
        b, w = len(anchors.points), len(r)
        value = self.score[:b, : w + 1]
        if self.is_product:
            torch.mm(anchors.points, r.mT, out=value[:, :w])
        else:
            value[:, :w] = self.similarity.score(anchors.points, r) if score is None else score
        inside = (anchors.excluded >= chunk.start) & (anchors.excluded < chunk.stop)
        outside = torch.where(inside, anchors.excluded - chunk.start, w)
        return value.scatter_(1, outside, HARMLESS), outside

    def near(self, a: Tensor, r: Tensor) -> Tensor:
        """`[b, k]`: scores of anchors `a` `[b, d']` to references of their own, `[b, k, d]`, not prepared."""
        return self.similarity.score(a.unsqueeze(1), prepared(self.similarity, r, a.dtype)).squeeze(1)

    def take(self, cells: Tensor) -> Tensor:
        """`[b, k, d]`: references by cell; the spare one belongs to no set, so any will do for it."""
        return self.references[cells.clamp(max=len(self.references) - 1)]

    # ---- value

    def run(self) -> Tensor:
        """The loss."""
        values = []
        for start in range(0, len(self.anchors), self.height):
            rows = slice(start, min(start + self.height, len(self.anchors)))
            anchors, s_n, s_p = self._sets(rows)
            with torch.set_grad_enabled(any(self.wanted)):
                every = self.problem.finish(s_n, s_p(), rows)
            if self.problem.loss.reduction == "none":
                values.append(every.value.detach().sum(1))
            if any(self.wanted):
                self.blocks.append((anchors, every))
            sums = Totals(every.value.detach().double().sum(0), *(part.sum(0) for part in every[1:]))
            self.sums = sums if self.sums is None else Totals(*(x + y for x, y in zip(self.sums, sums, strict=True)))
        assert self.sums is not None  # there are anchors, see `Loss._streams`
        if self.problem.loss.reduction == "none":
            return torch.cat(values)
        return self.problem.value(self.sums).to(self.anchors.dtype)

    def _sets(self, rows: slice) -> tuple[_Anchors, Scores, Callable[[], Scores]]:
        columns = self.problem.columns
        assert isinstance(columns, LabelColumns)
        positive, same_class, excluded, num_excluded = columns.tables(rows)

        def between(i: Tensor, j: Tensor | None) -> Tensor:
            raise NeedsCells

        block = replace(self.problem.block(self.references, rows, self.anchors.device), between=between)
        anchors = _Anchors(self, rows, self.anchors[rows], block, excluded, num_excluded - 1)  # not to count the spare column
        first, *others = (StreamedScores(anchors, span) for span in self.spans)
        s_n = first if columns.strata is None else StratifiedScores(first, others[0], columns.strata[1])
        return anchors, s_n, lambda: anchors.narrow(positive, same_class)

    # ---- gradients

    def gradients(self) -> tuple[Tensor, ...]:
        """Of each wanted input, once `run` is through."""
        if not any(self.wanted):
            return ()
        self.of_anchors = torch.zeros_like(self.anchors) if self.wanted[0] else None
        # Zeros would be written twice, and the first touch of memory costs as much as a matrix product.
        self.of_references = torch.empty_like(self.references) if self.wanted[1] else None
        self.fresh = True  # whether no pass has written it
        self.of_parameters = [torch.zeros_like(p) for p in self.parameters]
        for anchors, every in self.blocks:
            self._upstream(anchors, every)
        for folds in self._passes():
            for span in self.spans:
                for chunk in self.chunks(span):
                    self._push(chunk, [[folded for folded in own if folded.span == span] for own in folds])
            self.fresh = False
        if self.fresh and self.of_references is not None:
            self.of_references.zero_()
        for anchors, _ in self.blocks:
            for narrow in anchors.narrowed:
                self._push_narrow(anchors, narrow)
        result = (*(g for g in (self.of_anchors, self.of_references) if g is not None), *self.of_parameters)
        # Blocks and passes know each other. Whoever gets the gradient is to be the only one that holds it.
        self.blocks, self.of_anchors, self.of_references, self.of_parameters = [], None, None, []
        return result

    @torch.enable_grad()
    def _upstream(self, anchors: _Anchors, every: Totals) -> None:
        """The gradients of what the loss was made of, and which of it maps hold."""
        assert self.sums is not None
        if self.weights is None:
            factors = 1 / divisors(self.problem.loss.reduction, self.sums)
            objective = (every.value * factors.to(every.value.dtype)).sum()
        else:
            objective = (every.value.sum(1) * self.weights[anchors.rows]).sum()
        parts = anchors.parts()
        if objective.requires_grad:
            inputs = [*(part.result for part in parts), *self.parameters]
            self._add(parts, inputs, torch.autograd.grad(objective, inputs, retain_graph=True, allow_unused=True))
        for folded in anchors.folded:
            probe = _mapped(folded.maps, torch.full_like(anchors.points[:, :1], HARMLESS))
            if probe.requires_grad:
                inputs = [*(part.result for part in parts), *self.parameters]
                found = torch.autograd.grad(probe.sum(), inputs, retain_graph=True, allow_unused=True)
                folded.uses = [t for t, g in zip(inputs, found, strict=True) if g is not None]

    def _add(self, parts: Sequence[_Folded | _Narrow], inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        for tensor, gradient in zip(inputs, gradients, strict=True):
            if gradient is None:
                continue
            for part in parts:
                if part.result is tensor:
                    part.grad = gradient if part.grad is None else part.grad + gradient
            for parameter, total in zip(self.parameters, self.of_parameters, strict=True):
                if parameter is tensor:
                    total += gradient

    def _passes(self) -> list[list[list[_Folded]]]:
        """The folds of each block, all at once, or from the last to the first where maps hold results of folds before them."""
        blocks = [anchors.folded for anchors, _ in self.blocks]
        results = {id(folded.result) for folds in blocks for folded in folds}
        if not any(id(used) in results for folds in blocks for folded in folds for used in folded.uses):
            return [blocks]
        return [[folds[k : k + 1] for folds in blocks] for k in reversed(range(max(map(len, blocks))))]

    def _push(self, chunk: slice, folds: Sequence[Sequence[_Folded]]) -> None:
        """From the gradients of folds to those of points."""
        references = _Chunk(self, chunk, grad=True)
        for (anchors, _), own in zip(self.blocks, folds, strict=True):
            own = [folded for folded in own if folded.grad is not None]
            if not own:
                continue
            if self.is_product:
                gradient = self._of_scores(anchors, chunk, references.points, own)
                if gradient is not None:
                    if self.of_anchors is not None:
                        self.of_anchors[anchors.rows].addmm_(gradient, references.points)
                    if references.wanted:
                        references.add(gradient.mT, anchors.points)
                continue
            a, r = (t.detach().requires_grad_() for t in (anchors.points, references.points))
            with torch.enable_grad():
                score = self.similarity.score(a, r)
            gradient = self._of_scores(anchors, chunk, r, own, score.detach())
            if gradient is not None:
                of_a, of_r, *rest = torch.autograd.grad(score, [a, r, *self.parameters], gradient, allow_unused=True)
                self._add((), self.parameters, rest)
                if self.of_anchors is not None and of_a is not None:
                    self.of_anchors[anchors.rows] += of_a
                if of_r is not None:
                    references.add(of_r)
        references.close()

    def _of_scores(
        self, anchors: _Anchors, chunk: slice, r: Tensor, folds: Sequence[_Folded], score: Tensor | None = None
    ) -> Tensor | None:
        """`[b, w]`: the gradient of the scores. What the maps hold gets its own."""
        scores, outside = self.scores(anchors, chunk, r, score)
        total: Tensor | None = None
        for folded in folds:
            assert folded.grad is not None
            with torch.enable_grad():
                leaf = scores.detach().requires_grad_()
                value = _mapped(folded.maps, leaf)
            if not value.requires_grad:
                continue
            out = self.gradient[: scores.shape[0], : scores.shape[1]]
            gradient = folded.fold.derivative(value.detach(), folded.grad, out).scatter_(1, outside, 0.0)
            if value is not leaf:
                inputs = [leaf, *folded.uses]
                found, *rest = torch.autograd.grad(value, inputs, gradient, retain_graph=bool(folded.uses), allow_unused=True)
                self._add(anchors.parts(), folded.uses, rest)
                if found is None:
                    continue
                gradient = found
            # The one buffer may be asked for again.
            total = gradient if len(folds) == 1 else gradient.clone() if total is None else total.add_(gradient)
        return None if total is None else total[:, :-1]

    def _push_narrow(self, anchors: _Anchors, narrow: _Narrow) -> None:
        """From the gradients of narrow scores to those of points."""
        if narrow.grad is None:
            return
        for cells, grad in zip(self.parts(narrow.cells), self.parts(narrow.grad), strict=True):
            a, r = (t.detach().requires_grad_() for t in (anchors.points, self.take(cells)))
            with torch.enable_grad():
                score = self.near(a, r)
            of_a, of_r, *rest = torch.autograd.grad(score, [a, r, *self.parameters], grad, allow_unused=True)
            self._add((), self.parameters, rest)
            if self.of_anchors is not None and of_a is not None:
                self.of_anchors[anchors.rows] += of_a
            if self.of_references is not None and of_r is not None:
                self.of_references.index_add_(0, cells.clamp(max=len(self.references) - 1).flatten(), of_r.flatten(0, 1))


class _Chunk:
    """References that are read together, prepared; and the gradient of the prepared ones until all anchors have added to it."""

    def __init__(self, stream: Stream, chunk: slice, *, grad: bool = False) -> None:
        self.stream, self.chunk = stream, chunk
        self.total: Tensor | None = None
        raw = stream.references[chunk]
        self.inverse = None if stream.inverse is None else stream.inverse[chunk]
        self.raw, self.graph = raw, None
        if self.inverse is not None:
            self.points = torch.mul(raw, self.inverse, out=stream.prepared[: len(raw)])
        elif grad and (stream.of_references is not None or stream.parameters):
            self.raw = raw.detach().requires_grad_(stream.of_references is not None)
            with torch.enable_grad():
                self.graph = prepared(stream.similarity, self.raw, stream.anchors.dtype)
            self.points = self.graph.detach()
        else:
            self.points = prepared(stream.similarity, raw, stream.anchors.dtype)

    @property
    def wanted(self) -> bool:
        """Whether the gradient of `points` goes anywhere."""
        return self.stream.of_references is not None or (self.graph is not None and self.graph.requires_grad)

    def add(self, left: Tensor, right: Tensor | None = None) -> None:
        """Add `left`, or the product of both, to the gradient of `points`."""
        if self.total is not None:
            self.total = self.total.add_(left) if right is None else self.total.addmm_(left, right)
            return
        self.total = self.stream.of_points[: len(left)]
        if right is None:
            self.total.copy_(left)
        else:
            torch.mm(left, right, out=self.total)

    def close(self) -> None:
        """Hand the gradient on to the references, and to what prepares them."""
        g, into = self.total, None if self.stream.of_references is None else self.stream.of_references[self.chunk]
        if into is not None and (self.stream.fresh and (g is None or self.inverse is None)):
            into.zero_()
        if g is None:
            return
        if self.inverse is not None:  # of x / ||x||: what is along x does not count
            assert into is not None
            along = torch.mul(g, self.points, out=self.stream.product[: len(g)]).sum(1, keepdim=True)
            across = g.addcmul_(self.points, along, value=-1)
            if self.stream.fresh:
                torch.mul(across, self.inverse, out=into)
            else:
                into.addcmul_(across, self.inverse)
        elif self.graph is not None and self.graph.requires_grad:
            leaves = [self.raw, *self.stream.parameters] if self.raw.requires_grad else self.stream.parameters
            found = torch.autograd.grad(self.graph, leaves, g, allow_unused=True)
            if self.raw.requires_grad:
                first, *found = found  # type: ignore[assignment]
                if first is not None and into is not None:
                    into += first
            self.stream._add((), self.stream.parameters, found)


def _inverse_norms(similarity: Similarity, points: Tensor, dtype: torch.dtype) -> Tensor | None:
    """`[n, 1]`: 1 / ||x||, where that and no more is what the similarity prepares, and no norm is so small or large that squares fail.

    Three operations in place of the twenty by which autograd goes through `metriczoo.similarity.unit`.
    """
    if type(similarity).prepare is not Cosine.prepare or points.dtype != dtype or not reads_are_free(points):
        return None
    norms = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    least, most = norms.aminmax()
    return norms.reciprocal_() if bool((least > 1e-6) & (most < 1e15)) else None
