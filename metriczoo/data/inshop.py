"""DeepFashion In-Shop Clothes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import find_root, first_existing, missing_file, read_rows

__all__ = ["InShop"]

# Folders of the official archive, and what is left of them where their content was unpacked side by side.
_LIST = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
_BOXES = ("Anno/list_bbox_inshop.txt", "list_bbox_inshop.txt")
_IMAGES = ("Img", "")
_COLUMNS = ("image_name", "item_id", "evaluation_status")
_BOX_COLUMNS = ("image_name", "clothes_type", "pose_type", "x_1", "y_1", "x_2", "y_2")
_STATUS = ("train", "query", "gallery")


class InShop(AnnotatedImages):
    """In-Shop Clothes Retrieval of DeepFashion: 52,712 photographs of 7,982 pieces of clothing, with separate queries and gallery.

    The official folder, `root` or the one subfolder of `root` that has its files: `Eval/list_eval_partition.txt` and `Img/img/`
    (unpacked from `Img/img.zip`), or both without `Eval/` and `Img/`. A class is an item. The split is the official one, by class:
    3,997 items train (25,882 images), the other 3,985 test. Of the test images, 14,218 are queries, to be found among the 12,612 of the
    gallery: splits `"query"` and `"gallery"`, `"test"` for both together, where `is_query` tells them apart.
    In all three, labels count the same items; only where images are missing may query and gallery differ in items, and then
    `class_ids[labels]` is what compares.

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"query"`, `"gallery"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the official split.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: cut each image to its bounding box, from `Anno/list_bbox_inshop.txt`.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed line, fewer rows than the file says, an item both in training and test, a split without images.

    Example:
        >>> from metriczoo.data import InShop
        >>> query, gallery = (InShop("data/inshop", split) for split in ("query", "gallery"))  # doctest: +SKIP
        >>> query, gallery  # doctest: +SKIP
        (InShop(split='query', images=14218, classes=3985), InShop(split='gallery', images=12612, classes=3985))

    References:
        Z. Liu, P. Luo, S. Qiu, X. Wang, X. Tang. DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations.
        2016.
    """

    _source = "get the In-shop Clothes Retrieval Benchmark from https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html."

    @property
    def is_query(self) -> NDArray[np.bool_]:
        """Which images are queries `[n]`."""
        return self._parts["query"]

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del need_paths  # the list always names the images
        folder = find_root(root, _LIST, self._source)
        path = first_existing(folder, _LIST)
        assert path is not None
        items, status, files = _read_list(path)
        train_ids = {item for item, what in zip(items, status, strict=True) if what == "train"}
        both = sorted({item for item, what in zip(items, status, strict=True) if what != "train" and item in train_ids})
        if both:
            raise ValueError(f"{path}: Expected no item both in training and test, but got {len(both)}: {both[:5]}.")
        names = dict(enumerate(sorted(set(items)), 1))
        numbers = {item: number for number, item in names.items()}
        images = next((folder / name for name in _IMAGES if (folder / name / "img").is_dir()), folder / _IMAGES[0])
        return Index(
            class_ids=np.array([numbers[item] for item in items], dtype=np.int64),
            names=names,
            train_ids={numbers[item] for item in train_ids},
            paths=[images / file for file in files],
            boxes=self._boxes(folder, files) if boxes else None,
            parts={name: np.array([what == name for what in status]) for name in _STATUS[1:]},
        )

    def _boxes(self, folder: Path, files: list[str]) -> NDArray[np.float64]:
        path = first_existing(folder, _BOXES)
        if path is None:
            raise missing_file(_BOXES, [folder], self._source)
        boxes: dict[str, list[float]] = {}
        for number, (file, _, _, *corners) in read_rows(path, _BOX_COLUMNS, counted=True):
            if not all(corner.lstrip("-").isdigit() for corner in corners):
                raise ValueError(f"{path}, line {number}: Expected whole numbers for {', '.join(_BOX_COLUMNS[3:])}, but got {corners}.")
            boxes[file] = [float(corner) for corner in corners]
        absent = [file for file in files if file not in boxes]
        if absent:
            raise ValueError(f"{path}: Expected a line for every image, but {len(absent)} have none: {', '.join(absent[:3])}.")
        return np.array([boxes[file] for file in files])


def _read_list(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Item, status and file of each image."""
    rows = read_rows(path, _COLUMNS, counted=True)
    known: set[str] = set()
    for number, (file, _, status) in rows:
        if status not in _STATUS:
            raise ValueError(f"{path}, line {number}: Expected {', '.join(_STATUS[:-1])} or {_STATUS[-1]}, but got {status!r}.")
        if file in known:
            raise ValueError(f"{path}, line {number}: Expected each image once, but {file} came before.")
        known.add(file)
    return tuple([values[column] for _, values in rows] for column in (1, 2, 0))  # type: ignore[return-value]
