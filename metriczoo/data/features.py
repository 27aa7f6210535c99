"""Cached features."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metriczoo._checks import unknown_name
from metriczoo.data._base import LabelledData

__all__ = ["Features"]

_SUFFIX = ".npz"


class Features(LabelledData):
    """Feature vectors with class labels from an `.npz` file: what a frozen backbone gave, for instance.

    `dataset[i]` is `(vector, label)`: a float32 tensor `[d]`, or what `transform` makes of it, and an int.
    The file holds an array of numbers `[n, d]`, whole class ids `[n]`, and perhaps `class_names`, text for class ids from 0 on. Without
    `train_ids` the lower half of the class ids, rounded up, trains, the rest test.

    Args:
        root: the file, or a folder that holds one.
        split: `"train"`, `"test"` or `"all"`.
        features: name of the array of features.
        class_ids: name of the array of class ids.
        train_ids: the class ids that train, such as `range(1, 101)` for those of CUB-200-2011.
        transform: applied to each vector.
        train_classes: instead, this many of the lowest class ids present train, the rest test.

    Attributes:
        features: float32 tensor `[n, d]`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: more than one file in the folder, a malformed one, features that are not finite, a split without rows.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "features.npz"
        >>> np.savez(path, X=np.eye(4, dtype=np.float16), y=[7, 9, 7, 3])
        >>> train = Features(path)
        >>> train, train.class_ids.tolist(), train[2]
        (Features(split='train', rows=3, classes=2), [3, 7], (tensor([0., 0., 0., 1.]), 0))
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        features: str = "X",
        class_ids: str = "y",
        train_ids: Collection[int] | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        train_classes: int | None = None,
    ) -> None:
        path = _npz_file(Path(root).expanduser())
        values, ids, names = _read(path, features, class_ids)
        present = np.unique(ids).tolist()
        super().__init__(
            ids,
            names or {class_id: str(class_id) for class_id in present},
            split=split,
            train_ids=present[: (len(present) + 1) // 2] if train_ids is None else train_ids,
            train_classes=train_classes,
            transform=transform,
        )
        self.features = torch.from_numpy(values[self._rows].astype(np.float32))
        finite = torch.isfinite(self.features).all(dim=1)
        if not finite.all():
            row = int(self._rows[int(finite.logical_not().nonzero()[0])])
            raise ValueError(f"{path}: Expected finite features (in float32), but row {row} of {features!r} is not.")

    def _item(self, index: int) -> Tensor:
        return self.features[index]


def _npz_file(root: Path) -> Path:
    if not root.is_dir():
        if not root.is_file():
            raise FileNotFoundError(f"Expected `root` to be an {_SUFFIX} file or a folder with one, but there is no {root}.")
        return root
    found = sorted(path for path in root.iterdir() if path.suffix == _SUFFIX and not path.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"Expected `root` to be an {_SUFFIX} file or a folder with one, but there is none in {root}.")
    if len(found) > 1:
        raise ValueError(f"Expected `root` to hold one {_SUFFIX} file, but got {len(found)} in {root}: {[path.name for path in found]}.")
    return found[0]


def _read(path: Path, features: str, class_ids: str) -> tuple[NDArray[Any], NDArray[np.int64], dict[int, str]]:
    """Features, class ids, and the names of the classes if the file holds them."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in {features, class_ids, "class_names"}.intersection(arrays.files)}
                held = arrays.files
        except Exception as error:  # BadZipFile, ValueError, EOFError, zlib.error, AttributeError: there is no common base
            raise ValueError(f"{path} is not a readable {_SUFFIX} file: {error}") from error
    for argument, name in (("features", features), ("class_ids", class_ids)):
        if name not in content:
            raise ValueError(f"{path}: {unknown_name(argument, name, held)}")
    values, ids = content[features], content[class_ids]
    if values.ndim != 2 or 0 in values.shape[1:] or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: Expected {features!r} to be numbers of shape [n, d], but got {values.dtype} of shape {list(values.shape)}."
        )
    if ids.shape != values.shape[:1] or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: Expected {class_ids!r} to be whole numbers of shape [{len(values)}], but got {ids.dtype} of shape {list(ids.shape)}."
        )
    ids = ids.astype(np.int64)
    if "class_names" not in content:
        return values, ids, {}
    names = dict(enumerate(map(str, content["class_names"].tolist())))
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(names):
        raise ValueError(f"{path}: Expected class ids from 0 to {len(names) - 1} as `class_names`, but got {ids.min()} to {ids.max()}.")
    return values, ids, names
