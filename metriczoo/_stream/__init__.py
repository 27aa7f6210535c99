"""One pass over a problem with very many references: they are read in chunks, and no array holds a score of each.

A loss sees `s_n` as ever, and folds it. Here a fold goes over the references chunk by chunk with a running result, and `per_anchor` makes
of the results a small graph, which says how the loss depends on each fold. The gradient is a second pass: a chunk's scores are computed
again, the derivative of every fold by them is known from its result, and the products with points go straight into the accumulated
gradients. So this costs one matrix product more than where all scores are held, and chunks that stay in cache pay for it. Where anchors
alone have a gradient, as beside a bank, the first pass gathers the derivative of each fold by them, and there is no second one.

Points are prepared chunk by chunk as well: no array is of the size of the references but their gradient.

A loss that asks for cells, with `value`, `mask` or a subset by cell, is told from the others by trying: `NeedsCells` is raised, and the
tiles of `metriczoo._tiles` take over.

    stream      one call of a loss
    scores      what the loss sees: `StreamedScores`
    anchors     a block of anchors, and what the loss has asked of its scores
    steps       maps, offsets and groups that come before a fold
    folds       sums, log-sum-exps and extremes, online
    gradients   the second pass
    chunks      how many references are read together, prepared
"""

from metriczoo._stream.chunks import prepared
from metriczoo._stream.needs import NeedsCells
from metriczoo._stream.scores import StreamedScores
from metriczoo._stream.stream import Stream

__all__ = ["THIN", "NeedsCells", "Stream", "StreamedScores", "prepared"]

THIN = 16  # rows: where tiles have fewer, adding their gradients to all references takes as much time as the product that chunks do again
