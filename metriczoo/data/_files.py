"""Finding and reading the files of a data set; errors name the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "as_folder",
    "find_root",
    "first_existing",
    "is_image",
    "missing_file",
    "needed_file",
    "read_csv",
    "read_image",
    "read_lines",
    "read_mat",
    "read_pairs",
    "read_rows",
    "read_table",
]

_Key = TypeVar("_Key", int, str)
_ORIENTATION = 0x0112  # tag of EXIF
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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


def is_image(path: Path) -> bool:
    """Whether `path` is a file that its suffix says to be an image, and not hidden."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def missing_file(names: Sequence[str], looked_in: Sequence[Path], source: str) -> FileNotFoundError:
    """The error for a file that is needed: which, where it was looked for, where to get it."""
    return FileNotFoundError(f"No {' or '.join(names)} in {' or '.join(map(str, looked_in))}. Nothing is downloaded; {source}")


def needed_file(folder: Path, name: str, source: str) -> Path:
    """The file `name` in `folder`, if it is there."""
    if not (folder / name).is_file():
        raise missing_file([name], [folder], source)
    return folder / name


def read_image(path: Path, mode: str = "RGB", *, upright: bool = False) -> Image:
    """The image in `path`, decoded and converted to `mode`; `upright`: turned as its EXIF orientation says."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    with path.open("rb") as file:
        try:
            image: Image.Image = Image.open(file)
            if upright and image.getexif().get(_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            if image.mode[0] in "IF":
                return Image.fromarray(_upper_bits(image)).convert(mode)
            if "transparency" in image.info:  # Pillow warns about a palette with transparency unless it goes through RGBA
                return image.convert("RGBA").convert(mode)
            return image.convert(mode)
        except UnidentifiedImageError as error:
            what = "its format is not known" if file.seek(0, 2) else "it is empty"
            raise OSError(f"{path} is not a readable image: {what}") from error
        except Exception as error:  # on a broken file decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise OSError(f"{path} is not a readable image: {error}") from error


def _upper_bits(image: Image) -> NDArray[np.uint8]:
    """The upper 8 of 16 bits of grey, where a plain conversion would cut off at 255."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"grey values of 32 bits (mode {image.mode}) have no agreed white")
    return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)


def read_table(path: Path, first: int = 1) -> dict[int, str]:
    """A text file of `id value` lines, whole ids from `first` on, as id -> value."""
    table: dict[int, str] = {}
    for number, key, value in _pairs(path, lambda key: key.isascii() and key.isdigit() and int(key) >= first, f"an id from {first} on"):
        _add(table, int(key), value, path, number)
    return table


def read_pairs(path: Path) -> dict[str, str]:
    """A text file of `id value` lines, any ids, as id -> value."""
    table: dict[str, str] = {}
    for number, key, value in _pairs(path, lambda key: True, "an id"):
        _add(table, key, value, path, number)
    return table


def _pairs(path: Path, is_key: Callable[[str], bool], expected: str) -> Iterator[tuple[int, str, str]]:
    for number, line in read_lines(path):
        key, *value = line.split(maxsplit=1)
        if not (value and is_key(key)):
            raise ValueError(f"{path}, line {number}: Expected {expected}, a space and a value, but got {line[:80]!r}.")
        yield number, key, value[0]


def _add(table: dict[_Key, str], key: _Key, value: str, path: Path, number: int) -> None:
    if key in table:
        raise ValueError(f"{path}, line {number}: Expected each id once, but {key} came before.")
    table[key] = value


def read_rows(path: Path, columns: Sequence[str], *, counted: bool = False) -> list[tuple[int, list[str]]]:
    """The rows of a text file with a line of the names `columns`; `counted`: with a line before it that says how many rows follow.

    Returns:
        Number of the line and its values, one per column.
    """
    lines = list(read_lines(path))
    announced = lines.pop(0)[1] if counted else ""
    if not lines or lines[0][1].split() != list(columns):
        got = lines[0][1][:80] if lines else ""
        raise ValueError(
            f"{path}: Expected a line {' '.join(columns)!r} {'after the number of rows' if counted else 'first'}, got {got!r}."
        )
    rows = [(number, line.split()) for number, line in lines[1:]]
    wrong = next((number for number, values in rows if len(values) != len(columns)), None)
    if wrong is not None:
        raise ValueError(f"{path}, line {wrong}: Expected {len(columns)} values: {' '.join(columns)}.")
    if not rows:
        raise ValueError(f"{path}: Expected at least one row below {' '.join(columns)!r}.")
    if counted and announced != str(len(rows)):
        raise ValueError(f"{path}: Expected as many rows as its first line says, {announced[:20]!r}, but got {len(rows)}; is it whole?")
    return rows


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers; at least one."""
    lines = [(number, line.strip()) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: Expected at least one line, but the file is empty.")
    return iter(lines)


def read_csv(path: Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank: number of the last line of each and its values, without spaces around them."""
    import csv

    reader = csv.reader(_text(path).splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = []
    try:
        for values in reader:
            if any(value.strip() for value in values):
                rows.append((reader.line_num, [value.strip() for value in values]))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is not CSV: {error}") from error
    if not rows:
        raise ValueError(f"{path}: Expected at least one line, but the file is empty.")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


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
