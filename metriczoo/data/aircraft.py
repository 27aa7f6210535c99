"""FGVC-Aircraft."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import find_root, needed_file, read_lines, read_pairs

__all__ = ["FGVCAircraft"]

_NAMES = "variants.txt"
_LABELS = ("images_variant_trainval.txt", "images_variant_test.txt")


class FGVCAircraft(AnnotatedImages):
    """FGVC-Aircraft: 10,000 photographs of 100 variants of aircraft, such as `737-700`, 100 of each.

    The official folder `fgvc-aircraft-2013b/data`, `root` or the one subfolder of `root` that has its files: `variants.txt`,
    `images_variant_trainval.txt`, `images_variant_test.txt` and `images/`; `root` may also be the parent of `fgvc-aircraft-2013b`.
    Rows are joined by the image's number. The banner of 20 rows of pixels at the bottom of each image, with the name of the
    photographer, is cut off, as the authors of the data ask for. Class ids count the variants in the order of `variants.txt`, from 1.
    There is no official split by class; as for CUB and Cars, the first half of the variants trains (1-50, 5,000 images) and the second
    half tests (51-100, 5,000). The official split is one of images, and not used.

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the split above.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: cut each image to its bounding box, from `images_box.txt`.

    Raises:
        FileNotFoundError: a needed file or image is missing.
        ValueError: a malformed line, an image of an unknown variant or of two, a split without images.

    Example:
        >>> from metriczoo.data import FGVCAircraft
        >>> FGVCAircraft("data/fgvc-aircraft-2013b", "test")  # doctest: +SKIP
        FGVCAircraft(split='test', images=5000, classes=50)

    References:
        S. Maji, J. Kannala, E. Rahtu, M. Blaschko, A. Vedaldi. Fine-Grained Visual Classification of Aircraft. 2013.
    """

    _source = "get fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/ and unpack it."
    _footer = 20

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del need_paths  # the numbers of the images are the names of their files
        inner = Path(root).expanduser() / "fgvc-aircraft-2013b"
        folder = find_root(inner if inner.is_dir() else root, [_NAMES], self._source)
        names = dict(enumerate((line for _, line in read_lines(folder / _NAMES)), 1))
        ids = {name: class_id for class_id, name in names.items()}
        labels: dict[str, str] = {}
        for path in [needed_file(folder, name, self._source) for name in _LABELS]:
            for image, variant in read_pairs(path).items():
                if variant not in ids:
                    raise ValueError(f"{path}: Expected a variant of {_NAMES} for image {image}, but got {variant[:80]!r}.")
                if labels.setdefault(image, variant) != variant:
                    raise ValueError(f"{path}: Expected variant {labels[image]!r} for image {image} as before, but got {variant!r}.")
        images = sorted(labels)
        return Index(
            class_ids=np.array([ids[labels[image]] for image in images], dtype=np.int64),
            names=names,
            train_ids=range(1, 51),
            paths=[folder / "images" / f"{image}.jpg" for image in images],
            boxes=_boxes(needed_file(folder, "images_box.txt", self._source), images) if boxes else None,
        )


def _boxes(path: Path, images: list[str]) -> NDArray[np.float64]:
    table = read_pairs(path)
    boxes = np.empty((len(images), 4))
    for row, image in enumerate(images):
        try:
            boxes[row] = [float(number) for number in table[image].split()]
        except KeyError as error:
            raise ValueError(f"{path}: Expected a line for every image, but {image} has none.") from error
        except ValueError as error:
            raise ValueError(f"{path}: Expected four numbers for image {image}, but got {table[image][:80]!r}.") from error
    boxes -= [1, 1, 0, 0]  # boxes count from 1 and include their last pixel
    return boxes
