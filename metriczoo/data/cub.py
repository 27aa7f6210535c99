"""Caltech-UCSD Birds 200-2011."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._files import read_table
from metriczoo.data._tables import TabledImages

__all__ = ["CUB200"]


class CUB200(TabledImages):
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

    _source = "get CUB-200-2011 from https://www.vision.caltech.edu/datasets/cub_200_2011/ and unpack it."
    _first_class = 1

    def _of_images(self, path: Path) -> Mapping[int, str]:
        return read_table(path)

    def _train_ids(self, class_ids: NDArray[np.int64]) -> Collection[int]:
        return range(1, 101)
