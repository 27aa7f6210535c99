"""What all benchmarks share: the folder of results, numbers in words, what is told of data."""

from __future__ import annotations

import errno
import io
import json
import os

import pytest
from benchmark_runs import write_pictures
from rich.console import Console

from benchmarks.command.files import write_whole
from benchmarks.command.folder import open_folder
from benchmarks.command.screen import tell_left_out
from benchmarks.images.readable import Readable
from benchmarks.report.words import counted, percent, points
from benchmarks.retrieval.header import header
from metriczoo.data import ImageFolder

SETTINGS = {"dataset": "glyphs", "epochs": 3}


# -- the folder --------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_without_a_record_or_a_state_is_new(tmp_path, resume):
    failed = open_folder(str(tmp_path), {"dataset": "glyphs", "epochs": 5}, resume=False)
    failed.results["baseline"] = 1
    failed.write()
    folder = open_folder(str(tmp_path), SETTINGS, resume=resume)
    assert folder.results == {"dataset": "glyphs", "settings": SETTINGS, "records": []}
    assert json.loads((tmp_path / "results.json").read_text()) == folder.results


@pytest.mark.parametrize("what", ["record", "state", "search"])
def test_a_folder_with_anything_of_a_run_is_not_new(tmp_path, what):
    folder = open_folder(str(tmp_path), SETTINGS, resume=False)
    if what == "record":
        folder.add({"loss": "circle", "seed": 0})
    elif what == "state":
        folder.save("circle-seed0", {"epoch": 1})
    else:
        (tmp_path / "search").mkdir()
    with pytest.raises(ValueError, match="holds results already"):
        open_folder(str(tmp_path), SETTINGS, resume=False)
    with pytest.raises(ValueError, match="epochs was 3 and is 4"):
        open_folder(str(tmp_path), {**SETTINGS, "epochs": 4}, resume=True)
    assert open_folder(str(tmp_path), SETTINGS, resume=True).results == folder.results


def test_settings_that_say_which_runs_there_are_may_grow(tmp_path):
    fewer = {**SETTINGS, "losses": ["a", "b"], "seeds": 2, "peer": False, "more": None}
    open_folder(str(tmp_path), fewer, resume=False).add({"loss": "a", "seed": 0})
    more, growing = {**SETTINGS, "losses": ["c", "b", "a"], "seeds": 3, "peer": True, "more": 4}, ("losses", "seeds", "peer", "more")
    with pytest.raises(ValueError, match=r"losses was \['a', 'b'\] and is \['c', 'b', 'a'\], more was None and is 4"):
        open_folder(str(tmp_path), more, resume=True)
    folder = open_folder(str(tmp_path), more, resume=True, growing=growing)
    assert folder.results == {"dataset": "glyphs", "settings": more, "records": [{"loss": "a", "seed": 0}]}
    assert json.loads((tmp_path / "results.json").read_text()) == folder.results
    for name, value in fewer.items():
        if name in growing:
            with pytest.raises(ValueError, match=f"{name} was"):
                open_folder(str(tmp_path), {**more, name: value}, resume=True, growing=growing)
    with pytest.raises(ValueError, match="epochs was 3 and is 4"):
        open_folder(str(tmp_path), {**more, "epochs": 4}, resume=True, growing=growing)


def test_something_else_under_the_name_of_results_is_no_new_folder(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold results"):
        open_folder(str(tmp_path), SETTINGS, resume=False)


# -- words -------------------------------------------------------------------


def test_what_rounds_to_nothing_has_no_minus():
    assert [percent(value) for value in (-0.0004, -0.0006, 0.12345, 1.0)] == ["0.0", "-0.1", "12.3", "100.0"]
    assert [points(value) for value in (-0.0004, 0.0, -0.0006, 0.0512)] == ["+0.0", "+0.0", "-0.1", "+5.1"]


def test_one_of_a_thing_is_not_many():
    assert [counted(number, "image") for number in (0, 1, 2, 12_345)] == ["0 images", "1 image", "2 images", "12,345 images"]
    assert [counted(number, "query", "queries") for number in (1, 2)] == ["1 query", "2 queries"]


def test_images_that_are_left_out_are_told():
    console = Console(file=io.StringIO(), width=80)
    tell_left_out(console, 1, ["a.png is broken", "b.png [too]"])
    assert console.file.getvalue().splitlines() == [
        "Left out for want of a file: 1 image of the index.",
        "Left out: a.png is broken",
        "Left out: b.png [too]",
        "Left out, as nothing can decode them: 2 images.",
    ]
    tell_left_out(nothing := Console(file=io.StringIO()), 0, [])
    assert nothing.file.getvalue() == ""


def test_rows_of_a_data_set_are_shown_under_its_name(tmp_path):
    images = ImageFolder(write_pictures(tmp_path / "pictures", classes=4, each=2), "all")
    assert repr(Readable(images, [0, 1, 5])) == "ImageFolder(split='all', images=3, classes=2)"


@pytest.mark.parametrize(("protocol", "shown"), [("finetune", False), ("reality-check", True)])
def test_facts_name_folds_of_a_reality_check_alone(protocol, shown):
    settings = {"protocol": protocol, "folds": 4, "trials": 0, "patience": 3, "epochs": 5}
    page = header("glyphs", {"settings": settings}, [])
    assert "epochs 5" in page
    assert [words in page for words in ("folds 4", "trials 0", "patience 3")] == [shown] * 3


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_whole(path, "one \udcff")  # the name of a file that is no text
    assert path.read_text() == "one ?"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"^Cannot write to {path}: No space left on device\.$"):
        write_whole(path, "another")
    assert path.read_text() == "one ?"
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(OSError, match=r"^Cannot write to .*/report\.html/no: Not a directory\.$"):
        write_whole(path / "no", "nothing")
    with pytest.raises(OSError, match=r"^Cannot write to the folder: No such file or directory\.$"):
        write_whole(tmp_path / "none" / "x", b"nothing", place="the folder")
