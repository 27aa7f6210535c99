"""Class folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metriczoo.data._base import LabelledImages
from metriczoo.data._files import as_folder, is_image, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFolder"]


class ImageFolder(LabelledImages):
    """Images in one folder per class: `root/<class name>/<image>`.

    Class ids count the class folders in the order of their names, from 0. Hidden files, files that are not images by their suffix and
    folders without images are passed over. Photographs are turned upright as their EXIF orientation says.

    Args:
        root: the folder that holds the class folders.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: this many of the lowest class ids train, the rest test; by default half of them, rounded up.

    Raises:
        FileNotFoundError: there is no folder `root`.
        ValueError: no image in any class folder, a split without classes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog", "elk"):
        ...     (root / name).mkdir()
        ...     Image.new("L", (8, 8)).save(root / name / "1.png")
        >>> test = ImageFolder(root, "test")
        >>> test, test.class_names, test[0][0].mode
        (ImageFolder(split='test', images=1, classes=1), ['elk'], 'RGB')
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        transform: Callable[[Image], Any] | None = None,
        train_classes: int | None = None,
    ) -> None:
        folder = as_folder(root)
        files = {path.name: images for path in sorted(folder.iterdir()) if (images := _images_in(path))}
        if not files:
            raise ValueError(f"Expected `root` to hold a folder of images per class, but found no image in any subfolder of {folder}.")
        super().__init__(
            np.repeat(np.arange(len(files)), [len(images) for images in files.values()]),
            dict(enumerate(files)),
            split=split,
            train_ids=range((len(files) + 1) // 2),
            train_classes=train_classes,
            transform=transform,
        )
        paths = [path for images in files.values() for path in images]
        self.paths = [paths[row] for row in self._rows]

    def _image(self, index: int) -> Image:
        return read_image(self.paths[index], upright=True)


def _images_in(folder: Path) -> list[Path]:
    if folder.name.startswith(".") or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image(path))
