"""Stanford Cars 196."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._cars_by_class import ANNOTATIONS, Half, check_class_ids, read_by_class
from metriczoo.data._files import find_root, first_existing, missing_file, read_mat

__all__ = ["Cars196"]

_ORIGINAL = "cars_annos.mat"
# devkit files are looked for in devkit/ and beside it: tools and mirrors differ
_META, _TRAIN, _TEST = ((f"devkit/{name}", name) for name in ("cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"))
_BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class Cars196(AnnotatedImages):
    """Stanford Cars: 16,185 photographs of 196 models of cars.

    Three layouts of the folder `root`, or of the one subfolder of `root` that has the files:

    * original: `cars_annos.mat` and `car_ims/`;
    * devkit: `devkit/cars_meta.mat`, `devkit/cars_train_annos.mat` with `cars_train/`, and `cars_test_annos_withlabels.mat`, in the
      folder itself or in `devkit/`, with `cars_test/`. Either half may be absent, annotations and images; test images
      without `cars_test_annos_withlabels.mat` are an error, as they have no labels;
    * by class: `names.csv`, `anno_train.csv`, `anno_test.csv` and `car_data/car_data/train/<class name>/` and `test/`, or those without
      the second `car_data/`; a `/` in the name of a class is a `-` in that of its folder. Either half may be absent, as above.

    Where several are there, the one whose images are there is read. The split is that of metric learning, over all images of any
    layout: class ids 1-98 train (8,054 images), 99-196 test (8,131).

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the official split.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: cut each image to its bounding box.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed `.mat` or CSV file, a class without a name, a split without images.

    Example:
        >>> from metriczoo.data import Cars196
        >>> Cars196("data/stanford_cars", "test", missing="keep")  # doctest: +SKIP
        Cars196(split='test', images=8131, classes=98)

    References:
        J. Krause, M. Stark, J. Deng, L. Fei-Fei. 3D Object Representations for Fine-Grained Categorization. 2013.
        H. O. Song, Y. Xiang, S. Jegelka, S. Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. 2016 (the split).
    """

    _source = "get Stanford Cars from https://ai.stanford.edu/~jkrause/cars/car_dataset.html or one of its mirrors and unpack it."

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del need_paths  # the annotations always name the images
        folder = find_root(root, [_ORIGINAL, *_TRAIN, *_TEST, *ANNOTATIONS], self._source)
        halves = read_by_class(folder, self._source) if self._is_by_class(folder) else self._read_mat(folder, boxes)
        first_pixel = np.array([1, 1, 0, 0])  # boxes count from 1 and include their last pixel
        return Index(
            class_ids=np.concatenate([half.class_ids for half in halves]),
            names=halves[0].names,
            train_ids=range(1, 99),
            paths=[path for half in halves for path in half.paths],
            boxes=(np.concatenate([half.corners for half in halves]) - first_pixel).astype(np.float64) if boxes else None,
        )

    def _is_by_class(self, folder: Path) -> bool:
        if not first_existing(folder, ANNOTATIONS):
            return False
        has_images = any((folder / name).is_dir() for name in ("car_ims", "cars_train", "cars_test"))
        return not first_existing(folder, [_ORIGINAL, *_TRAIN, *_TEST]) or ((folder / "car_data").is_dir() and not has_images)

    def _read_mat(self, folder: Path, boxes: bool) -> list[Half]:
        names_file, parts = self._layout(folder)
        names = dict(enumerate(map(str, read_mat(names_file, "class_names").tolist()), 1))
        halves = []
        for file, images, field in parts:
            rows = read_mat(file, "annotations", [field, "class", *(_BOX if boxes else ())])
            class_ids = _integers(rows, "class", file)
            check_class_ids(class_ids, len(names), file)
            corners = np.stack([_integers(rows, name, file) for name in _BOX], axis=1) if boxes else np.empty((0, 4), dtype=np.int64)
            halves.append(Half(class_ids, names, _paths(rows[field], images, file), corners))
        return halves

    def _layout(self, folder: Path) -> tuple[Path, list[tuple[Path, Path, str]]]:
        """The file of the class names, and for each annotation file its path, the folder of its images and the field that names them."""
        train, test = first_existing(folder, _TRAIN), first_existing(folder, _TEST)
        has_devkit = (train or test) and any((folder / name).is_dir() for name in ("cars_train", "cars_test"))
        if (folder / _ORIGINAL).is_file() and ((folder / "car_ims").is_dir() or not has_devkit):
            return folder / _ORIGINAL, [(folder / _ORIGINAL, folder, "relative_im_path")]
        for images, file, names in (("cars_train", train, _TRAIN), ("cars_test", test, _TEST)):
            if (folder / images).is_dir() and file is None:
                raise missing_file(names, [folder], f"{images}/ is there, but its labels are not; {self._source}")
        names_file = first_existing(folder, _META)
        if names_file is None:
            raise missing_file(_META, [folder], self._source)
        halves = ((train, folder / "cars_train"), (test, folder / "cars_test"))
        return names_file, [(file, images, "fname") for file, images in halves if file is not None]


def _integers(rows: NDArray[Any], field: str, path: Path) -> NDArray[np.int64]:
    try:  # MATLAB stores uint8 and uint16, in which `class - 1` or a width overflows
        values = np.array(rows[field].tolist(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: Expected a number in field {field!r} of every row: {error}") from error
    if values.ndim != 1 or not np.isfinite(values).all() or (values != np.trunc(values)).any():
        raise ValueError(f"{path}: Expected a whole number in field {field!r} of every row.")
    return values.astype(np.int64)


def _paths(names: NDArray[Any], images: Path, path: Path) -> list[Path]:
    unnamed = [row for row, name in enumerate(names, 1) if not (isinstance(name, str) and name)]
    if unnamed:
        raise ValueError(f"{path}: Expected a file name in every row, but row {unnamed[0]} has none.")
    return [images / name for name in names]
