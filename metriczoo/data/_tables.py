"""The layout of CUB-200-2011 and NABirds: text files of `id value` lines, joined by id."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import find_root, needed_file, read_table

__all__ = ["TabledImages"]


class TabledImages(AnnotatedImages):
    """`images.txt`, `image_class_labels.txt`, `classes.txt`, `bounding_boxes.txt` and `images/`."""

    _first_class: ClassVar[int]

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        folder = find_root(root, ["image_class_labels.txt"], self._source)
        names = read_table(needed_file(folder, "classes.txt", self._source), self._first_class)
        labels = self._of_images(folder / "image_class_labels.txt")
        listed = need_paths or (folder / "images.txt").is_file()
        files = self._of_images(needed_file(folder, "images.txt", self._source)) if listed else {}
        ids = sorted(files or labels)
        _check_all_in(ids, labels, folder / "image_class_labels.txt")
        class_ids = np.array([_class_id(labels[image], names, image, folder) for image in ids], dtype=np.int64)
        return Index(
            class_ids=class_ids,
            names=names,
            train_ids=self._train_ids(class_ids),
            paths=[folder / "images" / files[image] for image in ids] if files else [],
            boxes=_boxes(self._of_images(needed_file(folder, "bounding_boxes.txt", self._source)), ids, folder) if boxes else None,
        )

    @abstractmethod
    def _of_images(self, path: Path) -> Mapping[Any, str]:
        """A file of `id value` lines, with the ids of images."""

    @abstractmethod
    def _train_ids(self, class_ids: NDArray[np.int64]) -> Collection[int]:
        """The classes that train, of an index with `class_ids`."""


def _check_all_in(ids: list[Any], table: Mapping[Any, str], path: Path) -> None:
    absent = [image for image in ids if image not in table]
    if absent:
        raise ValueError(f"{path}: Expected a line for every image of images.txt, but {len(absent)} have none: ids {absent[:5]}.")


def _class_id(value: str, names: Mapping[int, str], image: Any, folder: Path) -> int:
    if not (value.isascii() and value.isdigit() and int(value) in names):
        raise ValueError(
            f"{folder / 'image_class_labels.txt'}: Expected a class id of classes.txt for image {image}, but got {value[:80]!r}."
        )
    return int(value)


def _boxes(table: Mapping[Any, str], ids: list[Any], folder: Path) -> NDArray[np.float64]:
    path = folder / "bounding_boxes.txt"
    _check_all_in(ids, table, path)
    boxes = np.empty((len(ids), 4))
    for row, image in enumerate(ids):
        try:
            x, y, width, height = map(float, table[image].split())
        except ValueError as error:
            raise ValueError(f"{path}: Expected x, y, width and height for image {image}, but got {table[image][:80]!r}.") from error
        boxes[row] = x, y, x + width, y + height
    return boxes
