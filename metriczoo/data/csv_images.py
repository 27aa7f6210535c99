"""Images that a CSV file lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metriczoo._checks import unknown_name
from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import as_folder, read_csv

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CSVImages"]


class CSVImages(AnnotatedImages):
    r"""Images that a CSV file lists with their labels; its first line names the columns.

    Labels are any text. Class ids count them from 0: in the order of their numbers where all are whole numbers, else of the alphabet.
    Without a `split_column`, the first half of the classes, rounded up, trains, the rest test. With one, its values `train` and `test`
    say which, in capitals or not; rows with other values (as `val`) belong to neither and are left out. A class must not be in
    both. Photographs are turned upright as their EXIF orientation says.

    Args:
        root: the CSV file, or a folder that holds one.
        split: `"train"`, `"test"` or `"all"`.
        path_column: name of the column of the files of the images, absolute or relative to `images`.
        label_column: name of the column of the labels.
        split_column: name of the column of the splits, if there is one.
        images: the folder that the files are relative to; by default the one of the CSV file.
        delimiter: what is between values.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: this many of the lowest class ids train, the rest test.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.

    Raises:
        FileNotFoundError: there is no CSV file, or an image is missing.
        ValueError: several CSV files in the folder, an unknown column, a malformed row, a class in both splits, a split without images.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("a", "b", "c"):
        ...     Image.new("RGB", (8, 8)).save(root / f"{name}.png")
        >>> _ = (root / "list.csv").write_text("file,animal\na.png,cat\nb.png,dog\nc.png,cat\n")
        >>> train = CSVImages(root, path_column="file", label_column="animal")
        >>> train, train.class_names
        (CSVImages(split='train', images=2, classes=1), ['cat'])
    """

    _source = "the CSV file names the images."
    _upright = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str | None = None,
        images: str | os.PathLike[str] | None = None,
        delimiter: str = ",",
        transform: Callable[[Image], Any] | None = None,
        train_classes: int | None = None,
        missing: str = "error",
    ) -> None:
        self._columns = [("path_column", path_column), ("label_column", label_column)]
        self._columns += [("split_column", split_column)] if split_column is not None else []
        if len(delimiter) != 1:
            raise ValueError(f"Expected `delimiter` to be one character, but got {delimiter!r}.")
        self._folder, self._delimiter = images, delimiter
        super().__init__(root, split, transform=transform, train_classes=train_classes, missing=missing)

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del boxes, need_paths  # there are none; the file always names the images
        path = _csv_file(Path(root).expanduser())
        folder = as_folder(path.parent if self._folder is None else self._folder)
        rows = self._rows_of(path)
        names = _in_order({label for _, label, _ in rows})
        class_ids = {name: class_id for class_id, name in enumerate(names)}
        train = names[: (len(names) + 1) // 2] if len(self._columns) == 2 else _classes_of_train(rows, path)
        return Index(
            class_ids=np.array([class_ids[label] for _, label, _ in rows], dtype=np.int64),
            names=dict(enumerate(names)),
            train_ids={class_ids[name] for name in train},
            paths=[folder / file for file, _, _ in rows],
        )

    def _rows_of(self, path: Path) -> list[tuple[str, str, str]]:
        """File, label and split of each image; without a column of splits, that is empty."""
        (_, header), *lines = read_csv(path, self._delimiter)
        for argument, name in self._columns:
            if header.count(name) != 1:
                raise ValueError(f"{path}: {unknown_name(argument, name, header)}")
        columns = [header.index(name) for _, name in self._columns]
        rows = []
        for number, values in lines:
            if len(values) != len(header):
                raise ValueError(f"{path}, line {number}: Expected {len(header)} values as in the first line, but got {len(values)}.")
            file, label, *split = (values[column] for column in columns)
            if not (file and label):
                raise ValueError(f"{path}, line {number}: Expected a file and a label, but got {file!r} and {label!r}.")
            if not split or split[0].lower() in ("train", "test"):
                rows.append((file, label, "".join(split).lower()))
        return rows


def _csv_file(root: Path) -> Path:
    if root.is_file():
        return root
    found = sorted(path for path in as_folder(root).iterdir() if path.suffix.lower() == ".csv" and not path.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"Expected `root` to be a CSV file or a folder with one, but there is none in {root}.")
    if len(found) > 1:
        raise ValueError(f"Expected `root` to hold one CSV file, but got {len(found)} in {root}: {[path.name for path in found]}.")
    return found[0]


def _in_order(names: set[str]) -> list[str]:
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _classes_of_train(rows: list[tuple[str, str, str]], path: Path) -> set[str]:
    train, test = ({label for _, label, split in rows if split == name} for name in ("train", "test"))
    if both := sorted(train & test):
        raise ValueError(f"{path}: Expected no class both in train and in test, but got {len(both)}: {both[:5]}.")
    return train
