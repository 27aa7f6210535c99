"""Stanford Cars in folders by class, with CSV files in place of the `.mat` files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._files import missing_file, needed_file, read_csv

__all__ = ["ANNOTATIONS", "Half", "check_class_ids", "read_by_class"]

ANNOTATIONS = ("anno_train.csv", "anno_test.csv")
_NAMES = "names.csv"
_IMAGES = ("car_data/car_data", "car_data")


@dataclass(frozen=True)
class Half:
    """Training or test half, one row per image."""

    class_ids: NDArray[np.int64]  # [m], from 1
    names: Mapping[int, str]  # class id -> name
    paths: list[Path]
    corners: NDArray[np.int64]  # [m, 4], or of no row where boxes were not asked for


def read_by_class(folder: Path, source: str) -> list[Half]:
    """The halves that are in `folder`."""
    names = {number: values[0] for number, (_, values) in enumerate(read_csv(needed_file(folder, _NAMES, source)), 1)}
    images = next((folder / name for name in _IMAGES if any((folder / name / half).is_dir() for half in ("train", "test"))), None)
    images = images or folder / _IMAGES[0]
    halves = []
    for half, name in zip(("train", "test"), ANNOTATIONS, strict=True):
        if (folder / name).is_file():
            halves.append(_read_half(folder / name, images / half, names))
        elif (images / half).is_dir():
            raise missing_file([name], [folder], f"{half}/ is there, but its labels are not; {source}")
    return halves


def _read_half(path: Path, images: Path, names: Mapping[int, str]) -> Half:
    rows = read_csv(path)
    if len(rows) > 1 and rows[0][1][1:] and not any(value.isdigit() for value in rows[0][1][1:]):
        del rows[0]  # names of columns, which some copies have
    files, numbers = [], []
    for number, (file, *values) in rows:
        if len(values) != 5 or not file or not all(value.isascii() and value.isdigit() for value in values):
            raise ValueError(f"{path}, line {number}: Expected a file and 5 whole numbers: a box and a class, but got {[file, *values]}.")
        files.append(file)
        numbers.append([int(value) for value in values])
    corners, class_ids = np.split(np.array(numbers, dtype=np.int64), [4], axis=1)
    check_class_ids(class_ids[:, 0], len(names), path)
    folders = [images / names[class_id].replace("/", "-") for class_id in class_ids[:, 0].tolist()]
    return Half(class_ids[:, 0], names, [folder / file for folder, file in zip(folders, files, strict=True)], corners)


def check_class_ids(class_ids: NDArray[np.int64], num_names: int, path: Path) -> None:
    """Raise if a class has no name."""
    outside = np.flatnonzero((class_ids < 1) | (class_ids > num_names))
    if outside.size:
        raise ValueError(f"{path}: Expected classes 1 to {num_names}, but row {outside[0] + 1} has class {class_ids[outside[0]]}.")
