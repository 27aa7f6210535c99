"""Data sets whose images are listed, with their classes and boxes, in index files."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metriczoo._checks import check_choice, check_flag
from metriczoo.data._base import LabelledImages
from metriczoo.data._files import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["AnnotatedImages", "Index"]

_MISSING = ("error", "skip", "keep")


@dataclass(frozen=True)
class Index:
    """What the index files say, one row per image."""

    class_ids: NDArray[np.int64]  # [m]
    names: Mapping[int, str]  # class id -> name
    train_ids: Collection[int]  # of the classes that train
    paths: list[Path]  # [m], or empty where the names of the images are not known
    boxes: NDArray[np.float64] | None = (
        None  # [m, 4] as left, upper, right, lower; upper left corner of the image (0, 0), right and lower outside
    )
    parts: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)  # further splits, of test classes: name -> which rows [m]


class AnnotatedImages(LabelledImages):
    """`LabelledImages` of files that an index lists; a data set gives `_read`.

    Attributes:
        boxes: float64 array `[n, 4]` of left, upper, right, lower as `PIL.Image.Image.crop` takes it; None unless `crop`.
        skipped: number of listed images that `missing="skip"` left out.
    """

    _source: ClassVar[str]
    _footer: ClassVar[int] = 0  # rows of pixels below the photograph, to be cut off
    _upright: ClassVar[bool] = False  # turned as EXIF says; not where boxes count in the pixels as they are stored

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
        check_choice("missing", missing, _MISSING)
        index = self._read(root, boxes=check_flag("crop", crop), need_paths=missing != "keep")
        kept = np.arange(len(index.class_ids))
        if missing == "skip":
            kept = np.flatnonzero([path.is_file() for path in index.paths])
            if not kept.size:
                raise self._absent(index.paths, index.paths)
        self.skipped = len(index.class_ids) - len(kept)
        parts = {name: mask[kept] for name, mask in index.parts.items()}
        super().__init__(
            index.class_ids[kept],
            index.names,
            split=split,
            train_ids=index.train_ids,
            train_classes=train_classes,
            transform=transform,
            parts=parts,
        )
        self._parts = {name: mask[self._rows] for name, mask in parts.items()}
        rows = kept[self._rows]
        self.paths = [index.paths[row] for row in rows] if index.paths else []
        self.boxes = None if index.boxes is None else index.boxes[rows]
        if missing == "error" and (absent := [path for path in self.paths if not path.is_file()]):
            raise self._absent(absent, self.paths)

    @abstractmethod
    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        """The index found under `root`, with boxes if asked for; without `need_paths` the names of the images may be unknown."""

    def _image(self, index: int) -> Image:
        if not self.paths:
            raise FileNotFoundError(f"{self!r} has labels only: the list of its images was not found. {self._source}")
        image = read_image(self.paths[index], upright=self._upright)
        if self._footer:
            image = image.crop((0, 0, image.width, image.height - self._footer))
        return image if self.boxes is None else image.crop(tuple(self.boxes[index].tolist()))

    def _no_boxes(self) -> ValueError:
        """The error for `crop` where the data set has no boxes."""
        return ValueError(f"Expected no `crop` for {type(self).__name__}, which has no bounding boxes.")

    def _absent(self, absent: list[Path], listed: list[Path]) -> FileNotFoundError:
        some = ", ".join(map(str, absent[:3])) + (", ..." if len(absent) > 3 else "")
        some_left = "For a subset pass `missing='skip'` to leave some out, or `missing='keep'` to use the labels without the images. "
        return FileNotFoundError(
            f"{len(absent)} of {len(listed)} listed images are missing: {some}. {some_left if len(absent) < len(listed) else ''}"
            f"Nothing is downloaded; {self._source}"
        )
