"""NABirds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._files import read_pairs
from metriczoo.data._tables import TabledImages

__all__ = ["NABirds"]


class NABirds(TabledImages):
    """NABirds: 48,562 photographs of birds of North America, 555 classes: species, where it shows with sex, age or plumage.

    The official folder, `root` or the one subfolder of `root` that has its files: `images.txt`, `image_class_labels.txt`, `classes.txt`
    and `images/`. Rows of the text files are joined by id. `classes.txt` names 1,011 nodes of a hierarchy, from 0 on; classes are those
    that images have. There is no customary split by class: here the lower half of the class ids that the labels mention trains
    (278 of all 555), the rest tests (277); `train_test_split.txt` is not used.

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the split above.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: cut each image to its bounding box, from `bounding_boxes.txt`.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed line, an image without a class, a split without images.

    Example:
        >>> from metriczoo.data import NABirds
        >>> NABirds("data/nabirds", "train").num_classes  # doctest: +SKIP
        278

    References:
        G. Van Horn, S. Branson, R. Farrell, S. Haber, J. Barry, P. Ipeirotis, P. Perona, S. Belongie. Building a bird recognition app
        and large scale dataset with citizen scientists. 2015.
    """

    _source = "get NABirds from https://dl.allaboutbirds.org/nabirds and unpack it."
    _first_class = 0

    def _of_images(self, path: Path) -> Mapping[str, str]:
        return read_pairs(path)

    def _train_ids(self, class_ids: NDArray[np.int64]) -> Collection[int]:
        mentioned: list[int] = np.unique(class_ids).tolist()
        return mentioned[: (len(mentioned) + 1) // 2]
