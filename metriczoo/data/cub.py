"""Caltech-UCSD Birds 200-2011."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import find_root, missing_file, read_table

__all__ = ["CUB200"]


class CUB200(AnnotatedImages):
    """Caltech-UCSD Birds 200-2011: 11,788 photographs of 200 species of birds.

    The official folder, `root` or the one subfolder of `root` that has its files: `images.txt`, `image_class_labels.txt`, `classes.txt`
    and `images/`. Rows of the text files are joined by id, so any subset of ids works, and lines about other images do no harm.
    The split is that of metric learning: class ids 1-100 train (5,864 images), 101-200 test (5,924); `train_test_split.txt` is not used.

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the official split.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images, and even without `images.txt`.
        crop: cut each image to its bounding box, from `bounding_boxes.txt`.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed line, an image without a class, a split without images.

    Example:
        >>> from metriczoo.data import CUB200, PKSampler
        >>> from torch.utils.data import DataLoader
        >>> train = CUB200("data/CUB_200_2011", "train", transform=...)  # doctest: +SKIP
        >>> loader = DataLoader(train, batch_sampler=PKSampler(train.labels, 32, 4))  # doctest: +SKIP

    References:
        C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie. The Caltech-UCSD Birds-200-2011 Dataset. 2011.
        H. O. Song, Y. Xiang, S. Jegelka, S. Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. 2016 (the split).
    """

    _train_ids = range(1, 101)
    _source = "get CUB-200-2011 from https://www.vision.caltech.edu/datasets/cub_200_2011/ and unpack it."

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        folder = find_root(root, ["image_class_labels.txt"], self._source)
        names = self._table(folder, "classes.txt")
        labels = self._table(folder, "image_class_labels.txt")
        files = self._table(folder, "images.txt") if need_paths or (folder / "images.txt").is_file() else {}
        ids = sorted(files or labels)
        _check_all_in(ids, labels, folder / "image_class_labels.txt")
        classes = {image: _class_id(labels[image], names, image, folder) for image in ids}
        return Index(
            class_ids=np.array([classes[image] for image in ids], dtype=np.int64),
            names=names,
            paths=[folder / "images" / files[image] for image in ids] if files else [],
            boxes=_boxes(self._table(folder, "bounding_boxes.txt"), ids, folder) if boxes else None,
        )

    def _table(self, folder: Path, name: str) -> dict[int, str]:
        if not (folder / name).is_file():
            raise missing_file([name], [folder], self._source)
        return read_table(folder / name)


def _check_all_in(ids: list[int], table: dict[int, str], path: Path) -> None:
    absent = [image for image in ids if image not in table]
    if absent:
        raise ValueError(f"{path}: Expected a line for every image of images.txt, but {len(absent)} have none: ids {absent[:5]}.")


def _class_id(value: str, names: dict[int, str], image: int, folder: Path) -> int:
    if not (value.isascii() and value.isdigit() and int(value) in names):
        raise ValueError(
            f"{folder / 'image_class_labels.txt'}: Expected a class id of classes.txt for image {image}, but got {value[:80]!r}."
        )
    return int(value)


def _boxes(table: dict[int, str], ids: list[int], folder: Path) -> NDArray[np.float64]:
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
