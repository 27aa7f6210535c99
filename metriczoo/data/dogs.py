"""Stanford Dogs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from metriczoo.data._annotated import AnnotatedImages, Index
from metriczoo.data._files import as_folder, find_root, is_image, missing_file, read_mat

__all__ = ["StanfordDogs"]

_LIST = "file_list.mat"
_HALVES = ("train_list.mat", "test_list.mat")
_IMAGES = "Images"


class StanfordDogs(AnnotatedImages):
    """Stanford Dogs: 20,580 photographs of 120 breeds of dogs, taken from ImageNet.

    The official folder, `root` or the one subfolder of `root` that has it: `Images/n02085620-Chihuahua/n02085620_10074.jpg` and so on,
    and from `lists.tar` `file_list.mat`, or `train_list.mat` with `test_list.mat`. Without lists the images found are those there are.
    Class ids count the breeds in the order of their folders, from 1, as the lists do. There is no official split by class;
    as for CUB and Cars, ids 1-60 train (10,651 images) and 61-120 test (9,929); without lists, the first half of the breeds found and
    the second, which for all 120 is the same. The official split is one of images, and not used. A backbone trained on ImageNet may
    have seen these very images.

    Args:
        root: the folder, or its parent.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `RGB`.
        train_classes: for a subset: this many of the lowest class ids present train, the rest test, in place of the split above.
        missing: what to do about a listed image that has no file: `"error"`; `"skip"` it (`skipped` counts them);
            `"keep"` the labels without looking for the images.
        crop: True is an error, as an image may have several boxes.

    Raises:
        FileNotFoundError: neither lists nor `Images/`, or an image is missing.
        ValueError: a malformed list, a breed with two labels, a split without images.

    Example:
        >>> from metriczoo.data import StanfordDogs
        >>> StanfordDogs("data/dogs", "test")  # doctest: +SKIP
        StanfordDogs(split='test', images=9929, classes=60)

    References:
        A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei. Novel Dataset for Fine-Grained Image Categorization. 2011.
    """

    _source = "get images.tar and lists.tar from http://vision.stanford.edu/aditya86/ImageNetDogs/ and unpack both into one folder."

    def _read(self, root: str | os.PathLike[str], *, boxes: bool, need_paths: bool) -> Index:
        del need_paths  # the lists always name the images
        if boxes:
            raise self._no_boxes()
        top = as_folder(root)
        listed = any(list(top.glob(pattern + name)) for pattern in ("", "*/") for name in (_LIST, *_HALVES))
        folder = find_root(root, [_LIST, *_HALVES], self._source) if listed else self._with_images(top)
        rows = self._listed(folder) if listed else _found(folder / _IMAGES)
        names: dict[int, str] = {}
        for file, class_id in rows:
            breed = file.split("/")[0]
            if names.setdefault(class_id, breed) != breed:
                raise ValueError(
                    f"{folder}: Expected one folder for class {class_id}, but the lists say {names[class_id]!r} and {breed!r}."
                )
        return Index(
            class_ids=np.array([class_id for _, class_id in rows], dtype=np.int64),
            names={class_id: _breed(folder) for class_id, folder in names.items()},
            train_ids=range(1, 61) if listed else range(1, (len(names) + 1) // 2 + 1),
            paths=[folder / _IMAGES / file for file, _ in rows],
        )

    def _with_images(self, root: Path) -> Path:
        folder = next((path for path in (root, *sorted(root.iterdir())) if (path / _IMAGES).is_dir()), None)
        if folder is None:
            raise missing_file([_LIST, f"{_IMAGES}/"], [root, root / "*"], self._source)
        return folder

    def _listed(self, folder: Path) -> list[tuple[str, int]]:
        """File and class id of each image, by the name of the file."""
        lists = [folder / _LIST] if (folder / _LIST).is_file() else [folder / name for name in _HALVES]
        absent = [path.name for path in lists if not path.is_file()]
        if absent:
            raise missing_file(absent, [folder], self._source)
        rows: dict[str, int] = {}
        for path in lists:
            files, labels = read_mat(path, "file_list"), read_mat(path, "labels").astype(np.int64)
            if len(files) != len(labels):
                raise ValueError(f"{path}: Expected a label per file, but got {len(labels)} labels and {len(files)} files.")
            if labels.min() < 1:
                raise ValueError(f"{path}: Expected labels from 1 on, but got {labels.min()}.")
            rows.update(zip(map(str, files.tolist()), labels.tolist(), strict=True))
        return sorted(rows.items())


def _found(images: Path) -> list[tuple[str, int]]:
    """File and class id of each image in the folders of the breeds."""
    breeds = sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [
        (f"{breed.name}/{path.name}", number)
        for number, breed in enumerate(breeds, 1)
        for path in sorted(breed.iterdir())
        if is_image(path)
    ]


def _breed(folder: str) -> str:
    """`n02085620-Chihuahua` without the number of ImageNet."""
    return folder.partition("-")[2] or folder
