"""metriczoo: metric-learning losses on one interface, the similarities of an anchor to references of other classes and of its own."""

from metriczoo import data, functional, losses, metrics, miners, models, plots, reduction, references, relations, scores, similarity, stores
from metriczoo._execution import settings
from metriczoo.references import References
from metriczoo.scores import Scores, Terms

__all__ = [
    "References",
    "Scores",
    "Terms",
    "__version__",
    "data",
    "functional",
    "losses",
    "metrics",
    "miners",
    "models",
    "plots",
    "reduction",
    "references",
    "relations",
    "scores",
    "settings",
    "similarity",
    "stores",
]

__version__ = "0.1.0"
