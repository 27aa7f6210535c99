"""Data sets with class-disjoint splits, and batches of P classes × K samples. Nothing here downloads anything."""

from metriczoo.data._base import LabelledImages, to_tensor
from metriczoo.data._load import DATASETS, load
from metriczoo.data.cars import Cars196
from metriczoo.data.cub import CUB200
from metriczoo.data.folder import ImageFolder
from metriczoo.data.glyphs import Glyphs
from metriczoo.data.magnet import MagnetSampler
from metriczoo.data.omniglot import Omniglot
from metriczoo.data.sampler import PKSampler

__all__ = [
    "CUB200",
    "DATASETS",
    "Cars196",
    "Glyphs",
    "ImageFolder",
    "LabelledImages",
    "MagnetSampler",
    "Omniglot",
    "PKSampler",
    "load",
    "to_tensor",
]
