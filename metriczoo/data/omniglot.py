"""Omniglot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metriczoo._checks import check_flag
from metriczoo.data._base import LabelledImages
from metriczoo.data._files import as_folder, missing_file, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Omniglot"]

_ARRAYS = "omniglot_background.npz"
_FOLDER = "images_background"
_SIDE = 105
_EVALUATION = "images_evaluation"
_SOURCE = "get images_background.zip and images_evaluation.zip from https://github.com/brendenlake/omniglot and unpack them."


class Omniglot(LabelledImages):
    """Omniglot: handwritten characters, each drawn by 20 people, 105 × 105 pixels; 964 of 30 alphabets in its background set.

    Two layouts: the official `images_background/<alphabet>/<character>/<image>.png`, and `omniglot_background.npz`; `root` is
    that folder or that file, or a folder one or two levels up: `bits` `[n, 1379]` uint8, each row the packed bits of an image
    with ink 1, `label` `[n]`, and `char_names` with `alphabet/character` per label. Images are of mode `L`, ink 255 on 0.
    A class is a character; class ids count the characters in the order of alphabet and character, from 0. The first two thirds of the
    alphabets present train, the rest test: of all 30, 20 (633 characters, 12,660 images) and 10 (331 characters, 6,620 images).
    With `evaluation`, the split is the official one: all of the background set trains (964 characters, 19,280 images), and
    `images_evaluation/` beside it, of 20 further alphabets, tests (659 characters, 13,180 images).

    Args:
        root: where the data are, see above.
        split: `"train"`, `"test"` or `"all"`.
        transform: applied to each image, a Pillow image of mode `L`.
        train_classes: instead, this many of the lowest class ids train, the rest test.
        evaluation: read the evaluation set, too, which is there in the official layout only.

    Raises:
        FileNotFoundError: neither layout is there, or no evaluation set.
        ValueError: a malformed `.npz` file, no image, a split without images.

    Example:
        >>> from metriczoo.data import Omniglot
        >>> Omniglot("data/omniglot", "test")  # doctest: +SKIP
        Omniglot(split='test', images=6620, classes=331)

    References:
        B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. Human-level concept learning through probabilistic program induction. 2015.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        transform: Callable[[Image], Any] | None = None,
        train_classes: int | None = None,
        evaluation: bool = False,
    ) -> None:
        paths: list[Path] = []
        bits: NDArray[np.uint8] = np.empty((0, 0), dtype=np.uint8)
        arrays = None if check_flag("evaluation", evaluation) else _arrays_file(Path(root).expanduser())
        if arrays is not None:
            characters, bits = _read_arrays(arrays)
        else:
            characters, paths = _read_folder(as_folder(root), _FOLDER)
        names, class_ids = np.unique(characters, return_inverse=True)
        train_ids = _of_first_alphabets(names.tolist())
        if evaluation:
            train_ids = set(range(len(names)))
            characters, more = _read_folder(as_folder(root), _EVALUATION)
            further, ids = np.unique(characters, return_inverse=True)
            class_ids, names, paths = np.append(class_ids, ids + len(names)), np.append(names, further), paths + more
        super().__init__(
            class_ids.astype(np.int64),
            dict(enumerate(names.tolist())),
            split=split,
            train_ids=train_ids,
            train_classes=train_classes,
            transform=transform,
        )
        self.paths = [paths[row] for row in self._rows] if paths else []
        self._bits = None if paths else bits[self._rows]

    def _image(self, index: int) -> Image:
        from PIL import Image, ImageOps

        if self._bits is None:
            return ImageOps.invert(read_image(self.paths[index], mode="L"))
        return Image.fromarray(np.unpackbits(self._bits[index], count=_SIDE * _SIDE).reshape(_SIDE, _SIDE) * np.uint8(255))


def _of_first_alphabets(names: list[str]) -> set[int]:
    alphabets = sorted({name.split("/")[0] for name in names})
    train = set(alphabets[: -(-2 * len(alphabets) // 3)])
    return {class_id for class_id, name in enumerate(names) if name.split("/")[0] in train}


def _arrays_file(root: Path) -> Path | None:
    return next(
        (path for path in (root, root / _ARRAYS, *sorted(root.glob(f"*/{_ARRAYS}"))) if path.suffix == ".npz" and path.is_file()), None
    )


def _read_arrays(path: Path) -> tuple[NDArray[np.str_], NDArray[np.uint8]]:
    """The character of each image as alphabet/character, and the packed bits."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                bits, labels, names = arrays["bits"], arrays["label"].astype(np.int64), arrays["char_names"]
        except Exception as error:  # BadZipFile, KeyError, ValueError, EOFError, zlib.error, OSError: there is no common base
            raise ValueError(f"{path} is not a readable .npz file with bits, label and char_names: {error}") from error
    if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape != (len(labels), (_SIDE * _SIDE + 7) // 8):
        raise ValueError(f"{path}: Expected bits of shape [{len(labels)}, 1379] and dtype uint8, but got {bits.shape} of {bits.dtype}.")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"{path}: Expected labels from 0 to {len(names) - 1}, but got {labels.min()} to {labels.max()}.")
    return names[labels], bits


def _read_folder(root: Path, name: str) -> tuple[NDArray[np.str_], list[Path]]:
    """The character of each image as alphabet/character, and its file."""
    folder = next((path for path in (root / name, *sorted(root.glob(f"*/{name}"))) if path.is_dir()), None)
    if folder is None and name == _EVALUATION:  # `root` may be the background set
        folder = root.parent / name
    paths = sorted(path for path in (folder or root).glob("*/*/*.png") if not path.name.startswith("."))
    if not paths:
        wanted = f"{name}/<alphabet>/<character>/*.png"
        raise missing_file([_ARRAYS, wanted] if name == _FOLDER else [wanted], [root, root / "*"], _SOURCE)
    return np.array([f"{path.parent.parent.name}/{path.parent.name}" for path in paths]), paths
