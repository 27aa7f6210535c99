"""Unpacking an archive so that nothing is written outside of the folder, and nothing by halves."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO

from benchmarks.report.words import counted

__all__ = ["unpack"]

_CHUNK = 1 << 20
_BLOCK = 512  # of a tar archive
_DAMAGED: tuple[type[Exception], ...] = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
with contextlib.suppress(ImportError):  # some builds of Python have no lzma
    from lzma import LZMAError

    _DAMAGED += (LZMAError,)


@dataclass(frozen=True)
class _Member:
    """A file of an archive, or a folder."""

    name: str
    open: Callable[[], IO[bytes]] | None  # None of a folder


def unpack(archive: Path, folder: Path, *, force: bool = False, on_bytes: Callable[[int], None] = lambda place: None) -> int:
    """Unpack a tar archive, compressed or not, or a zip archive.

    Everything is written to a folder beside the final place first, and moved when it is whole; an error or an interruption leaves
    the final place as it was. Only plain files and folders are made, with the usual permissions: links within a tar archive become
    copies of the file they point to, and an archive with any other link, a device or a path out of the folder is refused as a whole.

    Args:
        archive: what to unpack.
        folder: where to. A folder that exists is added to.
        force: replace files that exist; without, any such file is an error, before anything is moved.
        on_bytes: is called with the place in the archive that was read last.

    Returns:
        Number of files.

    Raises:
        FileExistsError: files exist, and `force` is false.
        OSError: the archive cannot be read, or the files cannot be written: the disk is full, say.
        ValueError: what was given is no archive, is damaged, or holds something that is refused.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"There is no archive {archive}.")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"Expected a folder to unpack to, but {folder} is a file.")
    folder = Path(os.path.abspath(folder))
    place = folder if folder.is_dir() else folder.parent  # of the same file system as the final place
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _workplace(place) as unfinished:
            count = _write_all(archive, unfinished, on_bytes)
            _move(unfinished, folder, force=force)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(place).free
        raise OSError(
            f"The disk is full: {archive.name} does not fit into the {free / 1e9:.1f} GB free at {place}; nothing of it was left there."
        ) from error
    return count


@contextlib.contextmanager
def _workplace(place: Path) -> Iterator[Path]:
    outer = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=place))  # others cannot write to it
    try:
        (outer / "files").mkdir()
        yield outer / "files"
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _write_all(archive: Path, folder: Path, on_bytes: Callable[[int], None]) -> int:
    count, name = 0, ""
    with archive.open("rb") as file:
        try:
            for member in _members(file, archive):
                name = member.name
                path = folder.joinpath(*_safe_parts(member.name, archive))
                if member.open is None:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, path.open("wb") as target:
                    while chunk := source.read(_CHUNK):
                        target.write(chunk)
                        on_bytes(file.tell())
                count += 1
        except _DAMAGED as error:
            raise ValueError(f"{archive} is damaged or not whole: {str(error) or type(error).__name__}.") from error
        except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise ValueError(f"{archive} holds {name!r} beside a file or a folder of the same name: nothing was unpacked.") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"{archive} is damaged or not whole: {error}.") from error  # gzip and bz2 have no error of their own
    if not count:
        raise ValueError(f"{archive} holds no file.")
    return count


def _members(file: BinaryIO, archive: Path) -> Iterator[_Member]:
    try:  # before zip, whose mark may be anywhere near the end: a tar archive of zip archives has one
        opened = tarfile.open(fileobj=file, mode="r:*")  # noqa: SIM115 - closed below
    except tarfile.TarError as error:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{archive} is neither a tar nor a zip archive, or it is damaged.") from error
        yield from _of_zip(file, archive)
        return
    with opened as tar:
        yield from _of_tar(tar, archive)


def _of_zip(file: BinaryIO, archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as content:
        for info in content.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive is not of Unix
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{archive} holds {info.filename!r}, a link or a device: nothing was unpacked.")
            if info.flag_bits & 1:
                raise ValueError(f"{archive} is encrypted: unpack it by hand, with the password that its authors gave you.")
            yield _Member(info.filename, None if info.is_dir() else lambda info=info: content.open(info))  # type: ignore[misc]


def _of_tar(tar: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    for info in tar:
        if not (info.isdir() or info.isreg() or info.islnk() or info.issym()):
            raise ValueError(f"{archive} holds {info.name!r}, a device or a pipe: nothing was unpacked.")
        yield _Member(info.name, None if info.isdir() else lambda info=info: _open(tar, info, archive))  # type: ignore[misc]
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes a file cut between two members for a whole one
        raise tarfile.ReadError("its end is missing")
    while tar.fileobj.read(_CHUNK):  # to the end, where compression has its checksum
        pass


def _open(tar: tarfile.TarFile, info: tarfile.TarInfo, archive: Path) -> IO[bytes]:
    try:
        source = tar.extractfile(info)  # of a link: the file in the archive that it points to
    except (KeyError, RecursionError):  # links to each other
        source = None
    if source is None:
        raise ValueError(f"{archive} holds {info.name!r}, a link to {info.linkname!r}, which is no file of it: nothing was unpacked.")
    return source


def _safe_parts(name: str, archive: Path) -> list[str]:
    """The parts of a path within the folder. A backslash separates, too: archives made on Windows have some."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name:
        raise ValueError(f"{archive} holds {name!r}, a path out of the folder: nothing was unpacked.")
    return list(path.parts)


def _move(unfinished: Path, folder: Path, *, force: bool) -> None:
    if not folder.exists():
        unfinished.rename(folder)
        return
    clashes = list(_clashes(unfinished, folder, force=force))
    if clashes:
        some = ", ".join(map(str, clashes[:3])) + (", ..." if len(clashes) > 3 else "")
        there = counted(len(clashes), "file is", "files are")
        raise FileExistsError(f"{there} there already: {some}. Pass --force to replace files, or unpack to another folder.")
    _merge(unfinished, folder)


def _clashes(source: Path, target: Path, *, force: bool) -> Iterator[Path]:
    """What keeps `source` from being moved: files that exist, and even with `force` a link to a folder, or a folder for a file."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if not os.path.lexists(place):
            continue
        if path.is_dir() and place.is_dir() and not place.is_symlink():
            yield from _clashes(path, place, force=force)
        elif not force or place.is_dir() or path.is_dir():
            yield place


def _merge(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _merge(path, place)
        else:
            path.replace(place)
