"""Stanford Online Products."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import find_root, needed_file, read_rows

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["StanfordOnlineProducts"]

_LISTS = ("Ebay_train.txt", "Ebay_test.txt")
_COLUMNS = ("image_id", "class_id", "super_class_id", "path")


class StanfordOnlineProducts(AnnotatedImages):
    """Stanford Online Products: 120,053 photographs of 22,634 products that were on sale on eBay, of 12 kinds.

    The official folder, `root` or the one subfolder of `root` that has its files: `Ebay_train.txt`, `Ebay_test.txt` and the folders
    `bicycle_final/` to `toaster_final/`. A class is a product, named after its kind and its id. The split is the official one, by class:
    classes 1-11,318 train (59,551 images), 11,319-22,634 test (60,502).

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the official split.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: True is an error, as there are no bounding boxes.

    Attributes:
        super_class_ids: int64 array `[num_classes]`, the kind of each label, 1 to 12.
        super_class_names: the name of the kind of each label, such as `"bicycle"`.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed line, a class in both lists or of two kinds, a split without images.

    Example:
        >>> from metriczoo.data import StanfordOnlineProducts
        >>> StanfordOnlineProducts("data/Stanford_Online_Products", "test")  # doctest: +SKIP
        StanfordOnlineProducts(split='test', images=60502, classes=11316)

    References:
        H. O. Song, Y. Xiang, S. Jegelka, S. Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. 2016.
    """

    _source = "get Stanford Online Products from https://cvgl.stanford.edu/projects/lifted_struct/ and unpack it."

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        transform: Callable[[Image], Any] | None = None,
        train_classes: int | None = None,
        missing: str = "error",
        crop: bool = False,
    ) -> None:
        self._kinds: dict[int, tuple[int, str]] = {}  # class id -> kind
        super().__init__(root, split, transform=transform, train_classes=train_classes, missing=missing, crop=crop)
        kinds = [self._kinds[class_id] for class_id in self.class_ids.tolist()]
        self.super_class_ids = np.array([number for number, _ in kinds], dtype=np.int64)
        self.super_class_names = [name for _, name in kinds]

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del need_paths  # the lists always name the images
        if boxes:
            raise self._no_boxes()
        folder = find_root(root, _LISTS, self._source)
        train, test = (self._read_list(needed_file(folder, name, self._source)) for name in _LISTS)
        train_ids = {class_id for class_id, _ in train}
        both = train_ids.intersection(class_id for class_id, _ in test)
        if both:
            raise ValueError(f"{folder}: Expected no class in both {' and '.join(_LISTS)}, but got {len(both)}: {sorted(both)[:5]}.")
        return Index(
            class_ids=np.array([class_id for class_id, _ in train + test], dtype=np.int64),
            names={class_id: f"{name} {class_id}" for class_id, (_, name) in self._kinds.items()},
            train_ids=train_ids,
            paths=[folder / path for _, path in train + test],
        )

    def _read_list(self, path: Path) -> list[tuple[int, str]]:
        """Class id and file of each image of a list, in the order of the ids of the images."""
        rows: dict[int, tuple[int, str]] = {}
        for number, (*ids, file) in read_rows(path, _COLUMNS):
            if not all(text.isascii() and text.isdigit() for text in ids):
                raise ValueError(f"{path}, line {number}: Expected whole numbers for {', '.join(_COLUMNS[:3])}, but got {ids}.")
            image, class_id, kind = map(int, ids)
            if image in rows:
                raise ValueError(f"{path}, line {number}: Expected each id once, but {image} came before.")
            rows[image] = class_id, file
            known = self._kinds.setdefault(class_id, (kind, file.split("/")[0].removesuffix("_final")))
            if known[0] != kind:
                raise ValueError(f"{path}, line {number}: Expected class {class_id} in super class {known[0]} as before, but got {kind}.")
        return [rows[image] for image in sorted(rows)]
