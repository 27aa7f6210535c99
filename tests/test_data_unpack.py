"""`python -m benchmarks.data unpack`: archives that are hostile, damaged, or meet files that are there."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import stat
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data import unpack as _data_unpack
from benchmarks.data.__main__ import main
from benchmarks.data.unpack import unpack

FILES = {"set/a/1.jpg": b"one", "set/a/2.jpg": b"two", "set/list.txt": b"x" * 3000, "top.txt": b""}
KINDS = ["tar", "tgz", "tar.bz2", "tar.xz", "zip"]


def write(path, files=FILES, links=(), folders=("set", "set/a", "set/empty")):
    """An archive of the kind that the suffix says; `links`: (type, name, target)."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in folders:
                archive.writestr(f"{name}/", b"")
            for name, content in files.items():
                archive.writestr(name, content)
            for _, name, target in links:
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, target)
        return path
    mode = {".tar": "w", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as archive:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o4777
            archive.addfile(info, io.BytesIO(content))
        for kind, name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_an_archive(tmp_path, kind):
    seen = []
    assert unpack(write(tmp_path / f"x.{kind}"), tmp_path / "new" / "data", on_bytes=seen.append) == 4
    assert tree(tmp_path / "new" / "data") == FILES
    assert (tmp_path / "new" / "data" / "set" / "empty").is_dir()
    assert names(tmp_path / "new") == ["data"]
    assert seen
    mode = (tmp_path / "new" / "data" / "set" / "a" / "1.jpg").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_IWOTH)


EVIL = [
    "../out.txt",
    "set/../../out.txt",
    "/out-of-the-folder.txt",
    "..\\out.txt",
    "C:\\out.txt",
    "\\\\host\\share\\out.txt",
    "a/../b.txt",
]


@pytest.mark.parametrize("kind", ["tgz", "zip"])
@pytest.mark.parametrize("name", EVIL)
def test_no_path_leaves_the_folder(tmp_path, kind, name):
    archive = write(tmp_path / f"x.{kind}", {**FILES, name: b"evil"})
    with pytest.raises(ValueError, match=r"a path out of the folder: nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "data")
    assert names(tmp_path / "in") == []
    assert names(tmp_path) == ["in", archive.name]


HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE
REFUSED = [
    (SYMBOLIC, "set/link", "/etc/passwd"),
    (SYMBOLIC, "set/link", "../../etc/passwd"),
    (SYMBOLIC, "set/link", "a"),
    (SYMBOLIC, "set/link", "link"),
    (SYMBOLIC, "set/link", "nowhere"),
    (HARD, "set/link", "/etc/passwd"),
    (HARD, "set/link", "../x"),
    (tarfile.CHRTYPE, "set/null", ""),
    (tarfile.BLKTYPE, "set/disk", ""),
    (tarfile.FIFOTYPE, "set/pipe", ""),
]


@pytest.mark.parametrize("link", REFUSED)
def test_links_and_devices_are_refused(tmp_path, link):
    with pytest.raises(ValueError, match="nothing was unpacked"):
        unpack(write(tmp_path / "x.tar", links=[link]), tmp_path / "data")
    assert names(tmp_path) == ["x.tar"]


def test_a_folder_behind_a_link_is_not_written_to(tmp_path):
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("door")
        link.type, link.linkname = SYMBOLIC, "../outside"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("door/evil.txt"))
    with pytest.raises(ValueError, match="nothing was unpacked"):
        unpack(tmp_path / "x.tar", tmp_path / "data")
    assert names(tmp_path / "outside") == []


def test_links_to_files_of_the_archive_become_copies(tmp_path):
    links = [(SYMBOLIC, "set/symbolic", "a/1.jpg"), (HARD, "hard", "set/a/2.jpg"), (SYMBOLIC, "set/twice", "symbolic")]
    unpack(write(tmp_path / "x.tgz", links=links), tmp_path / "data")
    assert tree(tmp_path / "data") == {**FILES, "set/symbolic": b"one", "hard": b"two", "set/twice": b"one"}
    assert not any(path.is_symlink() for path in (tmp_path / "data").rglob("*"))


def test_links_in_zip_archives_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a link or a device"):
        unpack(write(tmp_path / "x.zip", links=[(None, "set/link", "a/1.jpg")]), tmp_path / "data")


def test_encrypted_archives(tmp_path):
    path = write(tmp_path / "x.zip", {"a.txt": b"abc"}, folders=())
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is encrypted"):
        unpack(path, tmp_path / "data")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_archive_leaves_nothing(tmp_path, kind):
    blob = random.Random(0).randbytes
    whole = write(tmp_path / f"x.{kind}", {f"{n}.bin": blob(2000) for n in range(5)}).read_bytes()
    for part in (0, 1, 300, 512, len(whole) // 3, len(whole) // 2, len(whole) - 10241 if kind == "tar" else len(whole) - 30):
        (tmp_path / "cut").write_bytes(whole[:part])
        with pytest.raises(ValueError, match=r"damaged"):
            unpack(tmp_path / "cut", tmp_path / "data")
        assert names(tmp_path) == ["cut", f"x.{kind}"]


def test_a_tar_archive_cut_between_two_files(tmp_path):
    path = write(tmp_path / "x.tar")
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match="its end is missing"):
        unpack(path, tmp_path / "data")


@pytest.mark.parametrize("kind", ["tgz", "tar.bz2", "tar.xz"])
def test_wrong_bytes_within_a_compressed_archive(tmp_path, kind):
    path = write(tmp_path / f"x.{kind}", {f"{n}.bin": random.Random(n).randbytes(5000) for n in range(5)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        unpack(path, tmp_path / "data")
    assert names(tmp_path) == [path.name]


def test_wrong_bytes_within_a_zip_archive(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"abcdefgh" * 100)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgX", 1))
    with pytest.raises(ValueError, match="damaged"):
        unpack(path, tmp_path / "data")
    assert names(tmp_path) == ["x.zip"]


def test_a_tar_archive_of_a_zip_archive_is_a_tar_archive(tmp_path):
    inner = write(tmp_path / "inner.zip").read_bytes()
    unpack(write(tmp_path / "x.tar", {"inner.zip": inner}, folders=()), tmp_path / "data")
    assert tree(tmp_path / "data") == {"inner.zip": inner}


@pytest.mark.parametrize("files", [{"a": b"1", "a/b": b"2"}, {"a/b": b"2", "a": b"1"}])
def test_a_name_for_a_file_and_a_folder(tmp_path, files):
    with pytest.raises(ValueError, match="beside a file or a folder of the same name"):
        unpack(write(tmp_path / "x.tar", files, folders=()), tmp_path / "data")
    assert names(tmp_path) == ["x.tar"]


def test_an_archive_without_files(tmp_path):
    with pytest.raises(ValueError, match="holds no file"):
        unpack(write(tmp_path / "x.tar", {}), tmp_path / "data")


def test_a_folder_is_added_to_and_nothing_overwritten(tmp_path):
    data = tmp_path / "data"
    unpack(write(tmp_path / "x.tgz"), data)
    more = {"set/a/3.jpg": b"three", "set/b/1.jpg": b"four"}
    unpack(write(tmp_path / "y.zip", more, folders=()), data)
    assert tree(data) == FILES | more
    new = {"set/a/0.jpg": b"zero", "set/a/1.jpg": b"another", "z.txt": b"z"}
    archive = write(tmp_path / "z.tar", new, folders=("set",))
    with pytest.raises(FileExistsError, match=r"1 file is there already: .*1\.jpg\. Pass --force"):
        unpack(archive, data)
    assert tree(data) == FILES | more  # nothing of it, not the new files either
    unpack(archive, data, force=True)
    assert tree(data) == FILES | more | new
    assert names(data) == ["set", "top.txt", "z.txt"]


def test_no_link_in_the_folder_is_followed_and_no_folder_replaced(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    (data / "set").symlink_to(outside)
    with pytest.raises(FileExistsError, match="data/set"):
        unpack(write(tmp_path / "x.tar"), data, force=True)
    assert names(outside) == []
    (data / "set").unlink()
    (data / "top.txt").mkdir()
    with pytest.raises(FileExistsError, match=r"data/top\.txt"):
        unpack(write(tmp_path / "x.tar"), data, force=True)
    assert names(data) == ["top.txt"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_full_disk_or_an_interruption_leaves_nothing(tmp_path, exists, error):
    data = tmp_path / "data"
    if exists:
        data.mkdir()
        (data / "mine.txt").write_text("mine")
    write(tmp_path / "x.tgz")

    def stop(place):
        raise error

    expected, message = (OSError, "The disk is full: x.tgz does not fit into") if isinstance(error, OSError) else (type(error), None)
    with pytest.raises(expected, match=message):
        unpack(tmp_path / "x.tgz", data, on_bytes=stop)
    assert names(tmp_path) == (["data", "x.tgz"] if exists else ["x.tgz"])
    if exists:
        assert names(data) == ["mine.txt"]


def test_an_unfinished_folder_never_has_the_final_name(tmp_path):
    seen = []
    write(tmp_path / "x.tar")
    unpack(tmp_path / "x.tar", tmp_path / "data", on_bytes=lambda place: seen.append((tmp_path / "data").exists()))
    assert seen
    assert not any(seen)


part = st.sampled_from(["a", "b", "..", ".", "", "c d", "é", "...", "~", "\\", "..\\x", "C:"])


@given(st.lists(part, min_size=1, max_size=5), st.sampled_from(["tar", "zip"]))
def test_whatever_the_name_nothing_is_written_outside(tmp_path_factory, parts, kind):
    outer = tmp_path_factory.mktemp("unpack")
    archive = write(outer / f"x.{kind}", {"/".join(parts): b"x"}, folders=())
    with contextlib.suppress(ValueError):
        unpack(archive, outer / "deep" / "data")
    assert set(names(outer)) <= {archive.name, "deep"}
    assert not (outer / "deep").exists() or set(names(outer / "deep")) <= {"data"}


def test_the_command(tmp_path, capsys):
    archive, data = str(write(tmp_path / "x.tgz")), tmp_path / "data"
    assert main(["unpack", archive, "--to", str(data)]) == 0
    assert "4 files in" in capsys.readouterr().out
    assert main(["unpack", archive, "--to", str(data)]) == 2
    assert "Pass --force" in capsys.readouterr().err
    assert main(["unpack", archive, "--to", str(data), "--force"]) == 0
    assert main(["unpack", str(tmp_path / "nothing.zip"), "--to", str(data)]) == 2
    assert "There is no archive" in capsys.readouterr().err
    assert main(["unpack", archive, "--to", archive]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        unpack(write(tmp_path / "x.tar"), tmp_path / "data")


def test_interruption_of_the_command(tmp_path, monkeypatch, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_data_unpack, "_write_all", stop)
    assert main(["unpack", str(write(tmp_path / "x.tar")), "--to", str(tmp_path / "data")]) == 130
    assert names(tmp_path) == ["x.tar"]
