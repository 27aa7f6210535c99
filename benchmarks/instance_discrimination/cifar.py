"""CIFAR-10 in its official layouts, read without running what a pickle may hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["NAMES", "load_pickle", "read_cifar10"]

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_SHAPE = (3, 32, 32)
_BYTES = 3 * 32 * 32
_LAYOUTS = {
    "cifar-10-batches-py": ([f"data_batch_{n}" for n in range(1, 6)], ["test_batch"]),
    "cifar-10-batches-bin": ([f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"]),
}


def read_cifar10(root: str | Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of a split.

    Args:
        root: the folder of the batches, `cifar-10-batches-py` or `cifar-10-batches-bin` as their authors unpack, or its parent.
        split: "train", the five batches, or "test".

    Returns:
        Images `[n, 3, 32, 32]` and labels `[n]`, in the order of the files.

    Raises:
        FileNotFoundError: there is no folder `root`, no batch in it, or not every batch of the split.
        ValueError: a batch is not what it should be.
    """
    folder, names = _find(Path(root).expanduser(), split)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(f"CIFAR-10 is incomplete: there is no {', '.join(absent)} in {folder}.")
    read = _read_binary if names[0].endswith(".bin") else _read_pickled
    parts = [read(folder / name) for name in names]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images.reshape(-1, *_SHAPE), labels.astype(np.int64)


def _find(root: Path, split: str) -> tuple[Path, list[str]]:
    if not root.is_dir():
        raise FileNotFoundError(f"Expected --root to be an existing folder, but there is no folder {root}.")
    for name, (train, test) in _LAYOUTS.items():
        for folder in (root, root / name):
            if any((folder / batch).is_file() for batch in (*train, *test)):
                return folder, train if split == "train" else test
    raise FileNotFoundError(
        f"No batch of CIFAR-10 in {root}: expected data_batch_1 to data_batch_5 and test_batch (or the same ending in .bin) there, or in "
        f"{' or '.join(_LAYOUTS)} below it."
    )


def _read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One byte of label and 3,072 of pixels for each image."""
    data = np.fromfile(path, dtype=np.uint8)
    if not data.size or data.size % (1 + _BYTES):
        raise ValueError(f"{path} is not a batch of CIFAR-10: {data.size:,} bytes are no whole number of images of {1 + _BYTES:,}.")
    rows = data.reshape(-1, 1 + _BYTES)
    return rows[:, 1:], _checked(path, rows[:, 0])


def _read_pickled(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]:
    try:
        batch = load_pickle(path)
        images, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is not a batch of CIFAR-10: it holds no data and labels.") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != _BYTES or labels.shape != images.shape[:1]:
        raise ValueError(f"{path} is not a batch of CIFAR-10: its data are {images.shape} of {images.dtype}, its labels {labels.shape}.")
    return images, _checked(path, labels)


def _checked(path: Path, labels: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(NAMES):
        raise ValueError(f"{path} is not a batch of CIFAR-10: its labels are not all whole numbers from 0 to {len(NAMES) - 1}.")
    return labels


def load_pickle(path: Path) -> Any:
    """What a pickle of plain Python objects and NumPy arrays of numbers holds. Text of Python 2 comes as bytes.

    Raises:
        ValueError: it names anything else, which is not looked up, let alone called; or it is no whole pickle.
    """
    with path.open("rb") as file:
        try:
            return _Plain(file, encoding="bytes").load()
        except Exception as error:  # pickles fail in as many ways as there are opcodes
            raise ValueError(f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error


class _Dtype:
    """What a pickle says of the numbers of an array. Taken for NumPy's own, its state could say what makes NumPy unpickle by itself."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(code.decode() if isinstance(code, bytes) else code)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}.")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds numbers of byte order {order!r}.")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What a pickle says of an array."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(data, bytes) or not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("it holds an array that is not of numbers.")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.array, dtype)


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it holds arrays of an unknown kind.")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes bytes in {encoding}.")
    return text.encode("latin1")


class _Plain(pickle.Unpickler):
    """An unpickler that knows how arrays are written, and calls nothing but what stands here."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs.")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it.")
