"""The second pass: scores of a chunk are computed again, and gradients of folds become those of points, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metriczoo._stream.anchors import Anchors, Folded, Narrow
from metriczoo._stream.chunks import Chunks, prepared
from metriczoo._stream.steps import Offset, filler, probed, stepped

__all__ = ["Gradients"]


class Gradients:
    """The gradients of blocks of anchors, of references, and of parameters.

    Args:
        chunks: of the references.
        blocks: of anchors. What their losses were made of must be known.
        parameters: all other tensors that want a gradient.
        of_anchors: whether anchors do.
        of_references: whether references do.
    """

    def __init__(
        self, chunks: Chunks, blocks: Sequence[Anchors], parameters: Sequence[Tensor], *, of_anchors: bool, of_references: bool
    ) -> None:
        self.chunks, self.blocks, self.parameters = chunks, blocks, parameters
        like = blocks[0].points
        self.of_anchors = like.new_zeros(sum(len(anchors.points) for anchors in blocks), like.shape[1]) if of_anchors else None
        # Zeros would be written twice, and the first touch of memory costs as much as a matrix product.
        self.of_references = torch.empty_like(chunks.references) if of_references else None
        self.fresh = True  # whether no pass has written it
        self.of_parameters = [torch.zeros_like(p) for p in parameters]
        self.of_offsets: dict[int, tuple[Tensor, Tensor]] = {}
        self.of_points, self.product = (like.new_empty(chunks.width, like.shape[1]) for _ in range(2))  # used again by each chunk

    def start(self, anchors: Anchors, objective: Tensor) -> None:
        """The gradients of what `objective` was made of, and which of it is held by the steps to further folds."""
        parts = anchors.parts()
        inputs = [*(part.result for part in parts), *self.parameters]
        if objective.requires_grad:
            self._add(parts, inputs, torch.autograd.grad(objective, inputs, retain_graph=True, allow_unused=True))
        for folded in anchors.folded:
            with torch.enable_grad():
                probe = probed(folded.steps, anchors.points).sum()
            if probe.requires_grad:
                found = torch.autograd.grad(probe, inputs, retain_graph=True, allow_unused=True)
                folded.uses = [t for t, g in zip(inputs, found, strict=True) if g is not None]

    def run(self) -> tuple[Tensor, ...]:
        """Of anchors, references and parameters, those that are wanted."""
        for folds in self._passes():
            self._at_once(folds)
            if any(folded.of_anchors is None for own in folds for folded in own):
                self._over_chunks(folds)
        if self.fresh and self.of_references is not None:
            self.of_references.zero_()
        for anchors in self.blocks:
            for narrow in anchors.narrowed:
                self._push_narrow(anchors, narrow)
        for x, gradient in self.of_offsets.values():
            self._add((), self.parameters, torch.autograd.grad(x, self.parameters, gradient, retain_graph=True, allow_unused=True))
        return (*(g for g in (self.of_anchors, self.of_references) if g is not None), *self.of_parameters)

    def _add(self, parts: Sequence[Folded | Narrow], inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        for tensor, gradient in zip(inputs, gradients, strict=True):
            if gradient is None:
                continue
            for part in parts:
                if part.result is tensor:
                    part.grad = gradient if part.grad is None else part.grad + gradient
            for parameter, total in zip(self.parameters, self.of_parameters, strict=True):
                if parameter is tensor:
                    total += gradient

    def _passes(self) -> list[list[list[Folded]]]:
        """The folds of each block, all at once, or from the last to the first where steps hold results of folds before them."""
        blocks = [anchors.folded for anchors in self.blocks]
        results = {id(folded.result) for folds in blocks for folded in folds}
        if not any(id(used) in results for folds in blocks for folded in folds for used in folded.uses):
            return [blocks]
        return [[folds[k : k + 1] for folds in blocks] for k in reversed(range(max(map(len, blocks))))]

    def _at_once(self, folds: Sequence[Sequence[Folded]]) -> None:
        """Of the folds whose derivatives the first pass has gathered."""
        for anchors, own in zip(self.blocks, folds, strict=True):
            for folded in own:
                if folded.of_anchors is not None and folded.grad is not None and self.of_anchors is not None:
                    self.of_anchors[anchors.rows].addcmul_(folded.of_anchors, folded.grad.unsqueeze(1))

    def _over_chunks(self, folds: Sequence[Sequence[Folded]]) -> None:
        for span in self.chunks.spans:
            here = [[f for f in own if f.span == span and f.of_anchors is None and f.grad is not None] for own in folds]
            for chunk in self.chunks.of(span):
                self._push(chunk, here)
        self.fresh = False

    def _push(self, chunk: slice, folds: Sequence[Sequence[Folded]]) -> None:
        """From the gradients of folds to those of points."""
        references = _References(self, chunk)
        for anchors, own in zip(self.blocks, folds, strict=True):
            if not own:
                continue
            if self.chunks.is_product:
                gradient = self._of_scores(anchors, chunk, references.points, own)
                if gradient is not None:
                    if self.of_anchors is not None:
                        self.of_anchors[anchors.rows].addmm_(gradient, references.points)
                    if references.wanted:
                        references.add(gradient.mT, anchors.points)
                continue
            a, r = (t.detach().requires_grad_() for t in (anchors.points, references.points))
            with torch.enable_grad():
                score = self.chunks.similarity.score(a, r)
            gradient = self._of_scores(anchors, chunk, r, own, score.detach())
            if gradient is not None:
                of_a, of_r, *rest = torch.autograd.grad(score, [a, r, *self.parameters], gradient, allow_unused=True)
                self._add((), self.parameters, rest)
                if self.of_anchors is not None and of_a is not None:
                    self.of_anchors[anchors.rows] += of_a
                if of_r is not None:
                    references.add(of_r)
        references.close()

    def _of_scores(self, anchors: Anchors, chunk: slice, r: Tensor, folds: Sequence[Folded], score: Tensor | None = None) -> Tensor | None:
        """`[b, w]`: the gradient of the scores. What the steps hold gets its own."""
        scores, excluded = self.chunks.scores(anchors.points, r, score), anchors.outside(chunk)
        total: Tensor | None = None
        for folded in folds:
            gradient = self._of_fold(anchors, chunk, folded, scores.scatter_(1, excluded, filler(folded.steps)), excluded)
            if gradient is not None:  # perhaps in the one buffer, which may be asked for again
                total = gradient if len(folds) == 1 else gradient.clone() if total is None else total.add_(gradient)
        return None if total is None else total[:, :-1]

    def _of_fold(self, anchors: Anchors, chunk: slice, folded: Folded, scores: Tensor, excluded: Tensor) -> Tensor | None:
        """`[b, w + 1]`: the part of one fold."""
        assert folded.grad is not None
        with torch.enable_grad():
            leaf = scores.detach().requires_grad_()
            value, outside = stepped(folded.steps, leaf, excluded, chunk)
        if not value.requires_grad:
            return None
        gradient = folded.fold.derivative(value.detach(), folded.grad, self.chunks.gradient(value)).scatter_(1, outside, 0.0)
        if value is leaf:
            return gradient
        offsets = [step for step in folded.steps if isinstance(step, Offset) and step.piece is not None]
        inputs = [leaf, *folded.uses, *(step.piece for step in offsets if step.piece is not None)]
        of_scores, *rest = torch.autograd.grad(value, inputs, gradient, retain_graph=bool(folded.uses), allow_unused=True)
        self._add(anchors.parts(), folded.uses, rest[: len(folded.uses)])
        for step, piece in zip(offsets, rest[len(folded.uses) :], strict=True):
            self._of_offset(step.x, chunk, piece)
        return of_scores

    def _of_offset(self, x: Tensor, chunk: slice, gradient: Tensor | None) -> None:
        if gradient is not None:
            _, total = self.of_offsets.setdefault(id(x), (x, torch.zeros_like(x)))
            total[chunk] += gradient

    def _push_narrow(self, anchors: Anchors, narrow: Narrow) -> None:
        """From the gradients of narrow scores to those of points."""
        if narrow.grad is None:
            return
        chunks = self.chunks
        for cells, grad in zip(chunks.parts(narrow.cells), chunks.parts(narrow.grad), strict=True):
            a, r = (t.detach().requires_grad_() for t in (anchors.points, chunks.take(cells)))
            with torch.enable_grad():
                score = chunks.near(a, r)
            of_a, of_r, *rest = torch.autograd.grad(score, [a, r, *self.parameters], grad, allow_unused=True)
            self._add((), self.parameters, rest)
            if self.of_anchors is not None and of_a is not None:
                self.of_anchors[anchors.rows] += of_a
            if self.of_references is not None and of_r is not None:
                self.of_references.index_add_(0, cells.clamp(max=len(self.of_references) - 1).flatten(), of_r.flatten(0, 1))


class _References:
    """The references of a chunk, prepared; and the gradient of the prepared ones until all anchors have added to it."""

    def __init__(self, gradients: Gradients, chunk: slice) -> None:
        self.gradients, chunks = gradients, gradients.chunks
        self.into = None if gradients.of_references is None else gradients.of_references[chunk]
        self.raw, self.inverse = chunks.references[chunk], None if chunks.inverse is None else chunks.inverse[chunk]
        self.as_they_are = chunks.as_they_are and self.into is not None  # so that their gradient is that of the prepared ones
        self.total: Tensor | None = None
        self.graph: Tensor | None = None
        if self.inverse is None and not self.as_they_are and (self.into is not None or gradients.parameters):
            self.raw = self.raw.detach().requires_grad_(self.into is not None)
            with torch.enable_grad():
                self.graph = prepared(chunks.similarity, self.raw, chunks.dtype)
            self.points = self.graph.detach()
        else:
            self.points = chunks.points(chunk)

    @property
    def wanted(self) -> bool:
        """Whether the gradient of `points` goes anywhere."""
        return self.into is not None or (self.graph is not None and self.graph.requires_grad)

    def add(self, left: Tensor, right: Tensor | None = None) -> None:
        """Add `left`, or the product of both, to the gradient of `points`."""
        first = self.total is None and not (self.as_they_are and not self.gradients.fresh)
        if self.total is None:
            self.total = self.into if self.as_they_are else self.gradients.of_points[: len(left)]
        assert self.total is not None
        if right is not None:
            torch.addmm(self.total, left, right, beta=0 if first else 1, out=self.total)
        elif first:
            self.total.copy_(left)
        else:
            self.total += left

    def close(self) -> None:
        """Hand the gradient on to the references, and to what prepares them."""
        g, into, fresh = self.total, self.into, self.gradients.fresh
        if g is None and into is not None and fresh:
            into.zero_()
        if g is None or self.as_they_are:
            return
        if self.inverse is not None:  # of x / ||x||: what is along x does not count
            assert into is not None
            along = torch.mul(g, self.points, out=self.gradients.product[: len(g)]).sum(1, keepdim=True)
            across = g.addcmul_(self.points, along, value=-1)
            if fresh:
                torch.mul(across, self.inverse, out=into)
            else:
                into.addcmul_(across, self.inverse)
        elif self.graph is not None and self.graph.requires_grad:
            inputs = [self.raw, *self.gradients.parameters] if into is not None else self.gradients.parameters
            found = torch.autograd.grad(self.graph, inputs, g, allow_unused=True, materialize_grads=True)
            self.gradients._add((), inputs, found)
            if into is not None and fresh:
                into.copy_(found[0])
            elif into is not None:
                into += found[0]
