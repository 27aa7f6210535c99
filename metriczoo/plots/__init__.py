"""Plots of losses, of embeddings and of what they retrieve. Each function returns a `matplotlib.figure.Figure` and leaves pyplot alone."""

from metriczoo.plots.curves import training_curves
from metriczoo.plots.embedding import embedding_map
from metriczoo.plots.histogram import similarity_histogram
from metriczoo.plots.landscape import loss_landscape
from metriczoo.plots.retrieval import retrieval_examples, retrieval_grid

__all__ = [
    "embedding_map",
    "loss_landscape",
    "retrieval_examples",
    "retrieval_grid",
    "similarity_histogram",
    "training_curves",
]
