"""Scores of a tile from one matrix product into a buffer, and products from their gradient straight into that of the points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from metriczoo.scores import HARMLESS, Scores
from metriczoo.similarity import Similarity

__all__ = ["Distances", "Products", "products_of"]

_WIDE = 2**18  # elements of an array of differences that may be held at once
_FEW = 32  # positives are few where there are so many times more references: to take them one by one is then faster than products
_STRIPS = 192  # points from which on it takes less time to copy a quarter of their products than to multiply
_MANY = 8  # near pairs are many from one in so many on


class Products:
    """Of a similarity whose scores are inner products of prepared points.

    Args:
        anchors: `[N, d']`, prepared.
        references: `[n, d']`, prepared; the very tensor `anchors` where these are compared with themselves.
    """

    outside = HARMLESS  # what a cell of no set holds until `finish`

    def __init__(self, anchors: Tensor, references: Tensor) -> None:
        self.anchors, self.references = anchors, references

    def multiply(self, rows: slice, out: Tensor) -> None:
        """Write what `finish` takes for anchors `rows` into `out` `[b, n]`."""
        if self.anchors is self.references and len(out) == len(self.anchors) >= _STRIPS:
            _multiply_symmetric(self.references, out)
        else:
            torch.mm(self.anchors[rows], self.references.mT, out=out)

    def finish(self, s_n: Scores, s_p: Scores, rows: slice) -> None:
        """Make scores of it, in place."""

    def push(self, g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, rows: slice, into: Gradients) -> None:
        """From the gradients of the scores of a tile to those of the points. Positives are excluded columns of `g_n`, where it is 0."""
        if g_n is None and g_p is not None and _few(s_p, len(self.references)):
            return self._push_positives(g_p, s_p, rows, into)
        gradient = _joined(g_n, g_p, s_n, s_p)
        if into.symmetric(gradient) and into.anchors is not None:
            _add_symmetric(gradient, self.references, into.anchors)
            return None
        if into.anchors is not None:
            into.anchors[rows].addmm_(gradient, self.references)
        if into.references is not None:
            into.references.addmm_(gradient.mT, self.anchors[rows])
        return None

    def _push_positives(self, g_p: Tensor, s_p: Scores, rows: slice, into: Gradients) -> None:
        """A term of positives only takes no product."""
        for g, columns in _parts(g_p, s_p, self.references):
            if into.anchors is not None:
                near = self.references.index_select(0, columns.flatten()).unflatten(0, columns.shape)
                into.anchors[rows] += near.mul_(g.unsqueeze(2)).sum(1)
            if into.references is not None:
                into.references.index_add_(0, columns.flatten(), (g.unsqueeze(2) * self.anchors[rows].unsqueeze(1)).flatten(0, 1))

    def close(self, into: Gradients) -> None:
        """What remains to be done after the last tile."""

    def pull(
        self, g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, a: Tensor | None, r: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of anchors `a` and references `r`, None where not wanted, from those of all scores at once, which are not written to.

        Of points compared with themselves the first is that of both sides.
        """
        if g_n is None and _few(s_p, len(self.references)):
            return self._pull_by_push(g_n, g_p, s_n, s_p, a, r)
        if self.anchors is self.references:
            return _both_ways(g_n, g_p, s_n, s_p) @ self.references, None
        gradient = _joined(g_n, g_p, s_n, s_p, ours=False)
        return None if a is None else gradient @ self.references, None if r is None else gradient.mT @ self.anchors

    def _pull_by_push(
        self, g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, a: Tensor | None, r: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        itself = self.anchors is self.references
        to_a, to_r = (None if x is None else torch.zeros_like(x) for x in (a, r))
        into = Gradients(to_a, to_a if itself else to_r)
        self.push(None if g_n is None else g_n.clone(), g_p, s_n, s_p, slice(0, len(self.anchors)), into)  # which writes to it
        self.close(into)
        return to_a, to_r


class Gradients:
    """Accumulated gradients of one term, where wanted; of points compared with themselves both are the same tensor."""

    def __init__(self, anchors: Tensor | None, references: Tensor | None) -> None:
        self.anchors, self.references = anchors, references
        self.of_anchors = None if anchors is None else anchors.new_zeros(anchors.shape[0])  # row sums, of `Distances` only
        self.of_references = self.of_anchors
        if references is not anchors:
            self.of_references = None if references is None else references.new_zeros(references.shape[0])
        self._flat: tuple[Tensor | None, Tensor | None] | None = None

    def symmetric(self, gradient: Tensor) -> bool:
        """Whether a block holds all scores of points with themselves: its products from either side are then one."""
        return self.anchors is not None and self.anchors is self.references and gradient.shape[0] == gradient.shape[1]

    def flat(self, width: int) -> tuple[Tensor | None, Tensor | None]:
        """Of the first `width` components, of `Distances` only: zeros to add to, since rows are found faster in a contiguous array."""
        if self._flat is None:
            anchors, references = (None if g is None else g.new_zeros(len(g), width) for g in (self.anchors, self.references))
            self._flat = anchors, anchors if self.anchors is self.references else references
        return self._flat

    def close(self) -> None:
        """Add `flat` to the gradients."""
        if self._flat is not None:
            anchors, references = self._flat
            if self.anchors is not None and anchors is not None:
                self.anchors[:, : anchors.shape[1]] += anchors
            if self.references is not None and references is not None and references is not anchors:
                self.references[:, : references.shape[1]] += references
            self._flat = None


class Distances(Products):
    """Of a similarity whose scores are negated distances, or negated squared ones, of points with their squared norm as a last component.

    The product form subtracts numbers that are nearly equal where points are near: those pairs are computed from differences, and so are
    their gradients. Points are centred, which leaves fewer of them.
    """

    outside = torch.inf
    near = 0.01  # share of the squared norms below which a squared distance is computed from differences

    def __init__(self, anchors: Tensor, references: Tensor, power: int) -> None:
        self.power = power
        self.a, self.r = anchors[:, :-1], references[:, :-1]
        centre = self.r.sum(0) / max(1, len(self.r))
        self.references = self.r - centre
        self.norms_r = self.references.square().sum(1)
        self.anchors = self.references if anchors is references else self.a - centre
        self.norms_a = self.norms_r if anchors is references else self.anchors.square().sum(1)
        self.largest = self.norms_r.amax() if len(self.r) else self.norms_r.sum()
        self.bounds = pad(self.near * self.norms_r, (0, 1))  # and of the spare column
        self.factor = 0.5 if power == 1 else -1.0  # derivative of the score by the squared distance: this times 1 / score, or times 1
        self.pairs: tuple[Tensor, Tensor] | None = None  # of the tile, those computed from differences: rows of it and references

    def multiply(self, rows: slice, out: Tensor) -> None:
        """Squared distances."""
        torch.addmm(self.norms_r, self.anchors[rows], self.references.mT, alpha=-2, out=out)
        out.add_(self.norms_a[rows].unsqueeze(1))

    def finish(self, s_n: Scores, s_p: Scores, rows: slice) -> None:
        """Near pairs again, then the sign and the root."""
        wide, narrow, columns = s_n.value, s_p.value, s_p.columns
        assert columns is not None and s_n.excluded is not None
        least = self.near * self.norms_a[rows].unsqueeze(1)
        i, k = (narrow <= least + self.bounds[columns]).nonzero().unbind(1)
        j = columns[i, k]
        if len(i):
            narrow[i, k] = self._squares(i, j, rows)
        suspects = (wide.amin(1) <= least.squeeze(1) + self.near * self.largest).nonzero().squeeze(1)
        if len(suspects):
            found = self._near_negatives(wide, suspects, least, rows)
            i, j = torch.cat([i, found[0]]), torch.cat([j, found[1]])
        self.pairs = i, j
        for value in (wide, narrow):
            if self.power == 1:
                value.sqrt_()
            value.neg_()
        wide.scatter_(1, s_n.excluded, HARMLESS)
        narrow.copy_(torch.where(s_p.mask, narrow, HARMLESS))

    def _near_negatives(self, wide: Tensor, suspects: Tensor, least: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Rows, among `suspects`, and columns of the near cells of `wide`, which get exact squares."""
        some = wide[suspects, : len(self.r)]
        i, j = (some <= least[suspects] + self.bounds[:-1]).nonzero().unbind(1)
        if _MANY * len(i) > some.numel():  # too many to take one by one: only those at distance 0, which has no derivative, are told apart
            exact = torch.cdist(self.a[rows][suspects], self.r, compute_mode="donot_use_mm_for_euclid_dist").square_()
            some = torch.where(some == torch.inf, torch.inf, _or_nothing(exact))
            wide[suspects, : len(self.r)] = some
            i, j = (some == 0).nonzero().unbind(1)
            return suspects[i], j
        i = suspects[i]
        wide[i, j] = self._squares(i, j, rows)
        return i, j

    def _squares(self, i: Tensor, j: Tensor, rows: slice) -> Tensor:
        step = max(1, _WIDE // max(1, self.a.shape[1]))
        parts = [(self.a[rows][s] - self.r[t]).square().sum(1) for s, t in zip(i.split(step), j.split(step), strict=True)]
        return _or_nothing(torch.cat(parts))

    def push(self, g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, rows: slice, into: Gradients) -> None:
        """From the gradients of the scores of a tile to those of the points."""
        if self.power == 1:
            g_n = None if g_n is None else g_n.contiguous().div_(s_n.value)
            g_p = None if g_p is None else torch.where(s_p.value == 0, 0.0, g_p / s_p.value)
        if g_n is None and g_p is not None and _few(s_p, len(self.r)):
            return self._push_positives(g_p, s_p, rows, into)
        weights = _joined(g_n, g_p, s_n, s_p)
        self._push_pairs(weights, rows, into)
        to_anchors, to_references = into.flat(self.a.shape[1])
        if into.symmetric(weights) and to_anchors is not None and into.of_anchors is not None:
            _add_symmetric(weights, self.references, to_anchors, -2 * self.factor)
            into.of_anchors += weights.sum(1) + weights.sum(0)
            return None
        if to_anchors is not None and into.of_anchors is not None:
            to_anchors[rows].addmm_(weights, self.references, alpha=-2 * self.factor)
            into.of_anchors[rows] += weights.sum(1)
        if to_references is not None and into.of_references is not None:
            to_references.addmm_(weights.mT, self.anchors[rows], alpha=-2 * self.factor)
            into.of_references += weights.sum(0)
        return None

    def _push_pairs(self, weights: Tensor, rows: slice, into: Gradients) -> None:
        """Those of near pairs, from differences; they are taken out of `weights`."""
        assert self.pairs is not None
        if not len(self.pairs[0]):
            return
        step = max(1, _WIDE // max(1, self.a.shape[1]))
        for i, j in zip(*(x.split(step) for x in self.pairs), strict=True):
            weight, apart = weights[i, j], self.a[rows][i] - self.r[j]
            nothing = _or_nothing(apart.square().sum(1) / 2) == 0  # by half, since other products may have rounded it down
            weight = torch.where(nothing, 0.0, 2 * self.factor * weight)
            _add_differences(weight.unsqueeze(1) * apart, i + rows.start, j, into.flat(self.a.shape[1]))
        weights[self.pairs] = 0.0

    def _push_positives(self, g_p: Tensor, s_p: Scores, rows: slice, into: Gradients) -> None:
        to_anchors, to_references = into.flat(self.a.shape[1])
        for g, columns in _parts(g_p, s_p, self.references):
            apart = self.r.index_select(0, columns.flatten()).unflatten(0, columns.shape)
            apart.sub_(self.a[rows].unsqueeze(1)).mul_((-2 * self.factor * g).unsqueeze(2))
            if to_anchors is not None:
                to_anchors[rows] += apart.sum(1)
            if to_references is not None:
                to_references.index_add_(0, columns.flatten(), apart.flatten(0, 1), alpha=-1)

    def close(self, into: Gradients) -> None:
        """The part of the gradient that is along each point."""
        to_anchors, to_references = into.flat(self.a.shape[1])
        if to_anchors is not None and into.of_anchors is not None:
            to_anchors.addcmul_(into.of_anchors.unsqueeze(1), self.anchors, value=2 * self.factor)
        if to_references is not None and into.of_references is not None and to_references is not to_anchors:
            to_references.addcmul_(into.of_references.unsqueeze(1), self.references, value=2 * self.factor)
        into.close()

    def pull(
        self, g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, a: Tensor | None, r: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of a tile."""
        return self._pull_by_push(g_n, g_p, s_n, s_p, a, r)


def _or_nothing(square: Tensor) -> Tensor:
    """Squared distances, 0 for those that underflow: by their roots nothing can be divided."""
    return torch.nn.functional.threshold(square, torch.finfo(square.dtype).tiny, 0.0)


class Bent(Distances):
    """Of a similarity whose scores are `Similarity.bend` of negated squared distances and of a further, last component of both points."""

    def __init__(self, anchors: Tensor, references: Tensor, similarity: Similarity) -> None:
        points = references[:, :-1]
        super().__init__(points if anchors is references else anchors[:, :-1], points, power=2)
        self.similarity = similarity
        self.last_a, self.last_r = anchors[:, -1:], pad(references[:, -1:], (0, 0, 0, 1))  # and of the spare column
        self.graphs: list[tuple[Tensor, ...]] = []  # of negatives and of positives: scores, and what they depend on

    def finish(self, s_n: Scores, s_p: Scores, rows: slice) -> None:
        """Distances first."""
        super().finish(s_n, s_p, rows)
        assert s_p.columns is not None and s_n.excluded is not None
        self.graphs, recorded = [], not torch.is_inference_mode_enabled()  # where nothing may be saved, and no gradient follows
        last_p = self.last_r.index_select(0, s_p.columns.flatten()).unflatten(0, s_p.columns.shape)
        for s, last, stack in ((s_n, self.last_r, False), (s_p, last_p, True)):
            leaves = [t.detach().requires_grad_(recorded) for t in (s.value, self.last_a[rows], last)]
            with torch.enable_grad():
                value, a, r = (leaves[0].unsqueeze(1), leaves[1].unsqueeze(1), leaves[2]) if stack else leaves
                scores = self.similarity.bend(value, a, r)
                scores = scores.squeeze(1) if stack else scores
            self.graphs.append((scores, *leaves))
            s.value = s.fill_(scores.detach().clone(), HARMLESS)

    def push(self, g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, rows: slice, into: Gradients) -> None:
        """From the gradients of the scores of a tile to those of the points."""
        assert s_p.columns is not None
        found = []
        for g, (scores, *leaves) in zip((g_n, g_p), self.graphs, strict=True):
            grads = [None] * 3 if g is None else torch.autograd.grad(scores, leaves, g, retain_graph=True, materialize_grads=True)
            found.append(grads[0])
            if into.anchors is not None and grads[1] is not None:
                into.anchors[rows, -1:] += grads[1]
            if into.references is not None and grads[2] is not None:
                of_last = grads[2].flatten(0, -2)
                if leaves[2].dim() == 3:
                    of_last = torch.zeros_like(self.last_r).index_add_(0, s_p.columns.flatten(), of_last)
                into.references[:, -1:] += of_last[:-1]
        super().push(found[0], found[1], s_n, s_p, rows, into)


def _multiply_symmetric(points: Tensor, out: Tensor) -> None:
    """Write `points @ points.mT` into `out`, a quarter of it as a mirror image."""
    half = len(points) // 2 + 7 & ~7
    torch.mm(points[:half], points.mT, out=out[:half])
    torch.mm(points[half:], points[half:].mT, out=out[half:, half:])
    out[half:, :half] = out[:half, half:].mT


def _add_symmetric(gradient: Tensor, points: Tensor, into: Tensor, factor: float = 1.0) -> None:
    """Add `factor` times `(gradient + gradient.mT) @ points`, by strips of the upper half, each of which counts for either side."""
    height = max(1, _WIDE // 4 // max(1, len(points))) + 7 & ~7
    for start in range(0, len(points), height):
        stop = start + height
        both = gradient[start:stop, start:] + gradient[start:, start:stop].mT
        into[start:stop].addmm_(both, points[start:], alpha=factor)
        if stop < len(points):
            into[stop:].addmm_(both[:, height:].mT, points[start:stop], alpha=factor)


def _add_differences(apart: Tensor, i: Tensor, j: Tensor, into: tuple[Tensor | None, Tensor | None]) -> None:
    to_anchors, to_references = into
    if to_anchors is not None:
        to_anchors.index_add_(0, i, apart)
    if to_references is not None:
        to_references.index_add_(0, j, apart, alpha=-1)


def _few(s_p: Scores, num_references: int) -> bool:
    return s_p.columns is not None and _FEW * s_p.columns.shape[1] <= num_references


def _joined(g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores, *, ours: bool = True) -> Tensor:
    """`[b, n]`: one gradient for all references. The spare column has none. `ours`: whether `g_n` may be written to."""
    gradient = torch.zeros_like(s_n.value) if g_n is None else g_n.contiguous()
    if g_p is not None and s_p.columns is not None:
        gradient = gradient.scatter_(1, s_p.columns, g_p) if ours or g_n is None else gradient.scatter(1, s_p.columns, g_p)
    return gradient[:, :-1]


def _both_ways(g_n: Tensor | None, g_p: Tensor | None, s_n: Scores, s_p: Scores) -> Tensor:
    """`[n, n]`: the sum of `_joined`, of points with themselves, and its transpose. Neither gradient is written to."""
    if g_n is None or g_p is None or s_p.columns is None or s_p._mask is not None:
        gradient = _joined(g_n, g_p, s_n, s_p, ours=False)
        return gradient + gradient.mT
    both = g_n[:, :-1] + g_n[:, :-1].mT  # the positives of which are overwritten, so that no copy is made for them
    return both.scatter_(1, s_p.columns, g_p).scatter_add_(0, s_p.columns.mT, g_p.mT)


def _parts(g_p: Tensor, s_p: Scores, references: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Gradients and columns of some positives at a time. The spare column, whose gradient is 0, becomes the last reference."""
    assert s_p.columns is not None
    columns = s_p.columns.clamp(max=len(references) - 1)
    step = max(1, _WIDE // max(1, g_p.shape[0] * references.shape[1]))
    return zip(g_p.split(step, dim=1), columns.split(step, dim=1), strict=True)


def products_of(similarity: Similarity, anchors: Tensor, references: Tensor) -> Products | None:
    """How scores of prepared points are multiplied; None for a similarity that is no product."""
    if similarity.is_product:
        return Products(anchors, references)
    if similarity.is_bent:
        return Bent(anchors, references, similarity)
    return None if similarity.distance_power is None else Distances(anchors, references, similarity.distance_power)
