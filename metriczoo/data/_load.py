"""Data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from metriczoo._checks import check_choice
from metriczoo.data._base import LabelledData
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
from metriczoo.data.nabirds import NABirds
from metriczoo.data.omniglot import Omniglot
from metriczoo.data.products import StanfordOnlineProducts

__all__ = ["DATASETS", "load"]

DATASETS: dict[str, Callable[..., LabelledData]] = {
    "aircraft": FGVCAircraft,
    "cars": Cars196,
    "csv": CSVImages,
    "cub": CUB200,
    "dogs": StanfordDogs,
    "features": Features,
    "flowers": Flowers102,
    "folder": ImageFolder,
    "glyphs": Glyphs,
    "inshop": InShop,
    "nabirds": NABirds,
    "omniglot": Omniglot,
    "sop": StanfordOnlineProducts,
}


def load(name: str, root: str | os.PathLike[str] | None = None, split: str = "train", **options: Any) -> LabelledData:
    """The data set called `name`, for scripts that take the name as an argument.

    Args:
        name: `"aircraft"`, `"cars"`, `"csv"`, `"cub"`, `"dogs"`, `"features"`, `"flowers"`, `"folder"`, `"glyphs"`, `"inshop"`,
            `"nabirds"`, `"omniglot"` or `"sop"`.
        root: where its files are; none for `"glyphs"`, which is drawn.
        split: `"train"`, `"test"` or `"all"`; for `"inshop"` also `"query"` or `"gallery"`.
        **options: what else the class takes, such as `transform` and `train_classes`.

    Returns:
        The data set; all but `"features"` are `LabelledImages`.

    Raises:
        ValueError: unknown name; a root where none is needed, or none where one is.

    Example:
        >>> load("glyphs", split="test")
        Glyphs(split='test', images=2524, classes=200)
    """
    dataset = DATASETS[check_choice("name", name, DATASETS)]
    if dataset is Glyphs:
        if root is not None:
            raise ValueError(f"Expected no `root` for 'glyphs', which is drawn, but got {os.fspath(root)!r}.")
        return Glyphs(split, **options)
    if root is None:
        raise ValueError(f"Expected `root` to be the folder of the {name!r} data, but got None. Nothing is downloaded.")
    return dataset(root, split, **options)
