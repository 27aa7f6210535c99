"""Finding and reading the files of a data set; errors name the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["as_folder", "find_root", "first_existing", "missing_file", "read_image", "read_mat", "read_table"]


def as_folder(root: str | os.PathLike[str]) -> Path:
    """`root` as a path, if it is a folder that exists."""
    folder = Path(root).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"Expected `root` to be an existing folder, but there is no {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"Expected `root` to be a folder, but {folder} is a file.")
    return folder


def find_root(root: str | os.PathLike[str], markers: Sequence[str], source: str) -> Path:
    """The folder that holds one of the files `markers`: `root` itself, else the one subfolder that does."""
    folder = as_folder(root)
    if first_existing(folder, markers):
        return folder
    found = [child for child in sorted(folder.iterdir()) if child.is_dir() and first_existing(child, markers)]
    if len(found) > 1:
        raise ValueError(f"Expected `root` to hold one copy of the data set, but got {len(found)} in {folder}: {[c.name for c in found]}.")
    if not found:
        raise missing_file(markers, [folder, folder / "*"], source)
    return found[0]


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the files `names` that is in `folder`, if any."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def missing_file(names: Sequence[str], looked_in: Sequence[Path], source: str) -> FileNotFoundError:
    """The error for a file that is needed: which, where it was looked for, where to get it."""
    return FileNotFoundError(f"No {' or '.join(names)} in {' or '.join(map(str, looked_in))}. Nothing is downloaded; {source}")


def read_image(path: Path, mode: str = "RGB") -> Image:
    """The image in `path`, decoded and converted to `mode`."""
    from PIL import Image

    with path.open("rb") as file:
        try:
            image = Image.open(file)
            if image.mode.startswith("I;16"):  # a plain conversion would cut 16 bits off at 255
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
            if "transparency" in image.info:  # Pillow warns about a palette with transparency unless it goes through RGBA
                return image.convert("RGBA").convert(mode)
            return image.convert(mode)
        except Exception as error:  # on a broken file decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise OSError(f"{path} is not a readable image: {error}") from error


def read_table(path: Path) -> dict[int, str]:
    """A text file of `id value` lines, ids from 1 on, as id -> value."""
    table: dict[int, str] = {}
    for number, line in _lines(path):
        key, *value = line.split(maxsplit=1)
        if not (key.isascii() and key.isdigit() and int(key) > 0 and value):
            raise ValueError(f"{path}, line {number}: Expected an id from 1 on, a space and a value, but got {line[:80]!r}.")
        if int(key) in table:
            raise ValueError(f"{path}, line {number}: Expected each id once, but {key} came before.")
        table[int(key)] = value[0]
    if not table:
        raise ValueError(f"{path}: Expected at least one line, but the file is empty.")
    return table


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    return ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def read_mat(path: Path, key: str, fields: Sequence[str] = ()) -> NDArray[Any]:
    """The variable `key` of a MATLAB 5 file, as an array `[n]`, n >= 1 a one-row file too; a struct with at least `fields`."""
    from scipy.io import loadmat

    with path.open("rb") as file:
        try:
            content = loadmat(file, variable_names=[key], squeeze_me=True)
        except Exception as error:  # scipy has no common base: MatReadError, TypeError, zlib.error, NotImplementedError (v7.3), ...
            raise ValueError(f"{path} is not a readable MATLAB 5 file: {error}") from error
    if key not in content:
        raise ValueError(f"{path}: Expected a variable {key!r}, but there is none.")
    value = np.atleast_1d(content[key])
    absent = [field for field in fields if field not in (value.dtype.names or ())]
    if absent or value.ndim != 1:
        raise ValueError(f"{path}: Expected {key!r} to be a row with the fields {list(fields)}, but got {value.shape} of {value.dtype}.")
    return value
