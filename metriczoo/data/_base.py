"""The base of the data sets: rows with class labels, split into disjoint classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from metriczoo._checks import check_choice, check_count

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

__all__ = ["LabelledData", "LabelledImages", "check_split", "to_tensor"]

_SPLITS = ("train", "test", "all")


class LabelledData(Dataset[tuple[Any, int]], ABC):
    """Rows with class labels, of classes that the other split does not have.

    `dataset[i]` is `(item, label)`: an image or a vector of features, or what `transform` makes of it, and an int.

    Attributes:
        labels: int64 array `[n]`, contiguous: 0 to `num_classes - 1`, in the order of the class ids.
        class_ids: int64 array `[num_classes]`, the data set's own id of each label.
        class_names: the name of each label.
        split: the name of the split.
        transform: what each item is passed through.
    """

    _noun: ClassVar[str] = "rows"

    def __init__(
        self,
        class_ids: NDArray[np.int64],
        names: Mapping[int, str],
        *,
        split: str,
        train_ids: Collection[int],
        train_classes: int | None,
        transform: Callable[[Any], Any] | None,
        parts: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Keep the rows of `split`.

        Args:
            class_ids: class id of every row that was found `[m]`.
            names: class id -> name.
            split: `"train"`, `"test"`, `"all"` or one of `parts`.
            train_ids: the class ids of the official training half.
            train_classes: instead, the number of lowest class ids present that make the training half.
            transform: applied to each item.
            parts: further splits, of rows of test classes: name -> which rows `[m]`.

        Raises:
            ValueError: unknown split, no row, a split without rows, `train_classes` that leaves no class for the test.
        """
        super().__init__()
        parts = parts or {}
        check_split(split, parts)
        self._rows = _rows_of_split(class_ids, split, train_ids, train_classes, parts, f"{type(self).__name__}: Expected {self._noun}")
        self.split = split
        self.class_ids, labels = np.unique(class_ids[self._rows], return_inverse=True)
        self.labels: NDArray[np.int64] = labels.astype(np.int64)
        self.class_names = [names[int(class_id)] for class_id in self.class_ids]
        self.transform = transform

    @property
    def num_classes(self) -> int:
        """Number of classes of this split."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Expected an index below {len(self)}, but got {index}.")
        index = int(index) % len(self)
        item = self._item(index)
        return (item if self.transform is None else self.transform(item)), int(self.labels[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(split={self.split!r}, {self._noun}={len(self)}, classes={self.num_classes})"

    @abstractmethod
    def _item(self, index: int) -> Any:
        """The item of row `index` of this split."""


class LabelledImages(LabelledData):
    """`LabelledData` of images.

    `dataset[i]` is `(image, label)`: a `PIL.Image.Image` of mode `RGB` (`L` for letters), or what `transform` makes of it, and an int.
    Images of other modes are converted: palettes, grey values and CMYK become `RGB`, transparency is dropped, of 16 bits per channel
    the upper 8 remain. A file that cannot be decoded to its end is an `OSError` that names it.

    Attributes:
        paths: the file of each image; empty where images have no files.
    """

    _noun = "images"

    def __init__(
        self,
        class_ids: NDArray[np.int64],
        names: Mapping[int, str],
        *,
        split: str,
        train_ids: Collection[int],
        train_classes: int | None,
        transform: Callable[[Image], Any] | None,
        parts: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        """As `LabelledData`."""
        super().__init__(class_ids, names, split=split, train_ids=train_ids, train_classes=train_classes, transform=transform, parts=parts)
        self.paths: list[Path] = []

    def _item(self, index: int) -> Image:
        return self._image(index)

    @abstractmethod
    def _image(self, index: int) -> Image:
        """The image of row `index` of this split."""


def to_tensor(image: Image) -> Tensor:
    """A Pillow image as a float tensor, for use as `transform` where torchvision is not at hand.

    Args:
        image: image of mode `L` or `RGB`.

    Returns:
        float32 tensor `[channels, height, width]` in [0, 1].

    Example:
        >>> from PIL import Image
        >>> to_tensor(Image.new("RGB", (4, 2), (255, 0, 51)))[:, 0, 0]
        tensor([1.0000, 0.0000, 0.2000])
    """
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return (pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)).float() / 255


def check_split(split: str, parts: Collection[str] = ()) -> str:
    """Return `split` if there is one of that name, `parts` among them."""
    return check_choice("split", split, (*_SPLITS, *parts))


def _rows_of_split(
    class_ids: NDArray[np.int64],
    split: str,
    train_ids: Collection[int],
    train_classes: int | None,
    parts: Mapping[str, NDArray[np.bool_]],
    expected: str,
) -> NDArray[np.int64]:
    present = np.unique(class_ids)
    if not present.size:
        raise ValueError(f"{expected}, but found none.")
    if train_classes is None:
        of_train = np.isin(class_ids, list(train_ids))
    else:
        if check_count("train_classes", train_classes) >= len(present):
            raise ValueError(f"Expected `train_classes` to leave a class for the test, but got {train_classes} of {len(present)} classes.")
        of_train = class_ids < present[train_classes]
    of_split = parts[split] & ~of_train if split in parts else {"train": of_train, "test": ~of_train, "all": np.ones_like(of_train)}[split]
    rows = np.flatnonzero(of_split)
    if not rows.size:
        if len(present) == 1:
            raise ValueError(f"{expected} of split {split!r}, but the only class found (id {present[0]}) does not belong to it.")
        raise ValueError(
            f"{expected} of split {split!r}, but none of the {len(present)} classes found (ids {present[0]} to {present[-1]}) "
            "belongs to it. For a subset of the classes pass `train_classes`: that many of the lowest ids train, the rest test."
        )
    return rows
