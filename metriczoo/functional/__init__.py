"""The losses as pure functions of `(s_n, s_p)`: plain tensors `[b, n]` and `[b, p]`, or `Scores`."""

from metriczoo.functional.contrastive import contrastive, contrastive_cosine
from metriczoo.functional.lmnn import lmnn
from metriczoo.functional.nce import nce
from metriczoo.functional.triplet import triplet_margin
from metriczoo.functional.unified import am_softmax, circle, unified

__all__ = ["am_softmax", "circle", "contrastive", "contrastive_cosine", "lmnn", "nce", "triplet_margin", "unified"]
