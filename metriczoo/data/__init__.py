"""Data sets with class-disjoint splits, and batches of P classes × K samples. Nothing here downloads anything."""

from metriczoo.data._base import LabelledData, LabelledImages, to_tensor
from metriczoo.data._load import DATASETS, load
from metriczoo.data.aircraft import FGVCAircraft
from metriczoo.data.cars import Cars196
from metriczoo.data.csv_images import CSVImages
from metriczoo.data.cub import CUB200
from metriczoo.data.dogs import StanfordDogs
from metriczoo.data.features import Features
from metriczoo.data.flowers import Flowers102
from metriczoo.data.folder import ImageFolder
from metriczoo.data.glyphs import Glyphs
from metriczoo.data.inshop import InShop
from metriczoo.data.magnet import MagnetSampler
from metriczoo.data.nabirds import NABirds
from metriczoo.data.omniglot import Omniglot
from metriczoo.data.products import StanfordOnlineProducts
from metriczoo.data.sampler import PKSampler

__all__ = [
    "CUB200",
    "DATASETS",
    "CSVImages",
    "Cars196",
    "FGVCAircraft",
    "Features",
    "Flowers102",
    "Glyphs",
    "ImageFolder",
    "InShop",
    "LabelledData",
    "LabelledImages",
    "MagnetSampler",
    "NABirds",
    "Omniglot",
    "PKSampler",
    "StanfordDogs",
    "StanfordOnlineProducts",
    "load",
    "to_tensor",
]
