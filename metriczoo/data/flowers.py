"""Oxford 102 Flowers."""

from __future__ import annotations

import os

import numpy as np

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import find_root, read_mat
from metriczoo.data._flower_names import FLOWERS

__all__ = ["Flowers102"]

_LABELS = "imagelabels.mat"
_SETS = "setid.mat"


class Flowers102(AnnotatedImages):
    """Oxford 102 Flowers: 8,189 photographs of 102 kinds of flowers.

    The official folder, `root` or the one subfolder of `root` that has its files: `imagelabels.mat` and `jpg/image_00001.jpg` and so on,
    the n-th label being that of image n. There is no official split by class; as for CUB and Cars, classes 1-51 train (3,493 images)
    and 52-102 test (4,696). `setid.mat`, the official split of images, is not needed; where it is there, it must mention images of
    `imagelabels.mat` only.

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the split above.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: True is an error, as there are no bounding boxes.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed `.mat` file, a class that is none of the 102, a split without images.

    Example:
        >>> from metriczoo.data import Flowers102
        >>> Flowers102("data/flowers", "test")  # doctest: +SKIP
        Flowers102(split='test', images=4696, classes=51)

    References:
        M.-E. Nilsback, A. Zisserman. Automated Flower Classification over a Large Number of Classes. 2008.
    """

    _source = (
        "get 102flowers.tgz and imagelabels.mat from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ into one folder and unpack it."
    )

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del need_paths  # the names of the images follow from their numbers
        if boxes:
            raise self._no_boxes()
        folder = find_root(root, [_LABELS], self._source)
        labels = read_mat(folder / _LABELS, "labels")
        if labels.dtype.kind not in "uif" or not np.isin(labels, np.arange(1, len(FLOWERS) + 1)).all():
            raise ValueError(f"{folder / _LABELS}: Expected classes 1 to {len(FLOWERS)}, but got others.")
        if (folder / _SETS).is_file():
            last = max(int(read_mat(folder / _SETS, key).max()) for key in ("trnid", "valid", "tstid"))
            if last > len(labels):
                raise ValueError(f"{folder / _LABELS}: Expected labels of {last} images as in {_SETS}, but got {len(labels)}.")
        return Index(
            class_ids=labels.astype(np.int64),  # the file holds uint8
            names=dict(enumerate(FLOWERS, 1)),
            train_ids=range(1, 52),
            paths=[folder / "jpg" / f"image_{number:05}.jpg" for number in range(1, len(labels) + 1)],
        )
