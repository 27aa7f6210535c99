"""`python -m benchmarks.data check` and `list`."""

from __future__ import annotations

import re

import numpy as np
import pytest
from data_layouts import (
    picture,
    text,
    write_aircraft,
    write_cars_by_class,
    write_dogs,
    write_flowers,
    write_inshop,
    write_nabirds,
    write_omniglot,
    write_sop,
)

from benchmarks.data.__main__ import main
from benchmarks.data.catalogue import CATALOGUE
from benchmarks.data.check import check
from metriczoo.data import DATASETS, Glyphs, load

WRITERS = {
    "aircraft": write_aircraft,
    "cars": write_cars_by_class,
    "dogs": write_dogs,
    "flowers": write_flowers,
    "inshop": write_inshop,
    "nabirds": write_nabirds,
    "sop": write_sop,
}


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def test_the_catalogue_knows_every_data_set(capsys):
    assert set(CATALOGUE) == set(DATASETS)
    status, shown = run(capsys, "list")
    assert status == 0
    for name, entry in CATALOGUE.items():
        assert re.search(rf"^{name}  ", shown, re.MULTILINE)
        assert entry.size in shown
        assert entry.terms in shown
        assert entry.page in shown
        if entry.counts.keys() >= {"train", "test"}:
            train, test, everything = (entry.counts[split] for split in ("train", "test", "all"))
            assert (train[0] + test[0], train[1] + test[1]) == everything


@pytest.mark.parametrize("name", WRITERS)
def test_a_part_of_a_data_set_is_well(tmp_path, capsys, name):
    folder = WRITERS[name](tmp_path)
    status, shown = run(capsys, "check", "--dataset", name, "--root", tmp_path, "--decode")
    assert status == 0, shown
    assert f"in {folder}, layout" in shown.replace("\n", " ")
    assert "part of the official images" in shown
    assert "Every image that is there can be read" in shown
    for split in ("train", "test", "all"):
        dataset = load(name, folder, split)
        assert re.search(rf"^ *{split} +{len(dataset)} .* {dataset.num_classes} ", shown, re.MULTILINE)


@pytest.mark.parametrize(("name", "workers"), [*((name, 0) for name in WRITERS), ("sop", 2)])
def test_missing_and_broken_images(tmp_path, capsys, name, workers):
    paths = load(name, WRITERS[name](tmp_path), "all").paths
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    status, shown = run(capsys, "check", "--dataset", name, "--root", tmp_path, "--decode", "--workers", workers)
    assert status == 1
    assert f"missing  {paths[0]}" in shown
    assert "1 listed image not there" in shown
    assert re.search(rf"problem: broken: {re.escape(str(paths[1]))} is not a readable image", shown)
    assert "1 broken image" in shown


def test_nothing_there(tmp_path, capsys):
    for name in WRITERS:
        status, shown = run(capsys, "check", "--dataset", name, "--root", tmp_path)
        assert status == 1
        assert "problem: train: No " in shown
        assert shown.count("problem:") == 1
    assert run(capsys, "check", "--dataset", "cub", "--root", tmp_path / "nowhere")[0] == 1


@pytest.mark.parametrize("name", ["cub", "sop", "inshop"])
def test_wrong_options(tmp_path, capsys, name):
    for arguments, message in (
        (["--dataset", name], "--root"),
        (["--dataset", "cup", "--root", "."], "Did you mean 'cub'?"),
        (["--dataset", name, "--root", ".", "--workers", "-1"], "at least 0"),
        (["--dataset", name, "--root", ".", "--data-option", "corp=true"], "Did you mean 'crop'"),
        (["--dataset", name, "--root", ".", "--data-option", "crop"], "NAME=VALUE"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["check", *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_more_images_than_there_are(tmp_path, monkeypatch, capsys):
    write_dogs(tmp_path)
    monkeypatch.setitem(CATALOGUE["dogs"].counts, "test", (0, 0))
    status, shown = run(capsys, "check", "--dataset", "dogs", "--root", tmp_path)
    assert status == 1
    assert "problem: test: 1 image of 1 class, more than the official 0 of 0" in shown


def test_a_subset_of_classes_of_one_half(tmp_path, capsys):
    write_flowers(tmp_path, (1, 2, 2))
    status, shown = run(capsys, "check", "--dataset", "flowers", "--root", tmp_path)
    assert status == 1
    assert "problem: test: Flowers102: Expected images of split 'test'" in shown
    assert run(capsys, "check", "--dataset", "flowers", "--root", tmp_path, "--train-classes", 1)[0] == 0


def test_options_of_readers(tmp_path, capsys):
    write_omniglot(tmp_path)
    status, shown = run(capsys, "check", "--dataset", "omniglot", "--root", tmp_path, "--data-option", "evaluation=true", "--decode")
    assert status == 0
    assert re.search(r"all +10 +10 ", shown)
    text(tmp_path / "x.csv", "file,breed", "a.png,1", "b.png,2")
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    arguments = ["check", "--dataset", "csv", "--root", tmp_path / "x.csv", "--decode"]
    assert run(capsys, *arguments)[0] == 1
    assert run(capsys, *arguments, "--data-option", "path_column=file", "--data-option", "label_column=breed")[0] == 0


def test_data_sets_of_ones_own(tmp_path, capsys):
    for name in "ab":
        picture(tmp_path / name / "1.png")
    status, shown = run(capsys, "check", "--dataset", "folder", "--root", tmp_path, "--decode")
    assert status == 0
    assert "All is well" in shown
    assert re.search(r"all +2 +2 +0 +2", shown)  # classes of one image
    (tmp_path / "a" / "2.png").write_text("no image")
    assert run(capsys, "check", "--dataset", "folder", "--root", tmp_path)[0] == 0
    assert run(capsys, "check", "--dataset", "folder", "--root", tmp_path, "--decode")[0] == 1


def test_glyphs_are_whole():
    findings = check("glyphs", None, {})
    assert findings.whole
    assert findings.problems == []
    assert CATALOGUE["glyphs"].counts["all"][0] == len(Glyphs("all"))


def test_a_table_without_the_list_of_images(tmp_path, capsys):
    folder = write_nabirds(tmp_path)
    (folder / "images.txt").unlink()
    status, shown = run(capsys, "check", "--dataset", "nabirds", "--root", tmp_path)
    assert status == 1
    assert "the files of the images are not known" in shown


@pytest.mark.parametrize(("name", "folder"), [("cub", "CUB_200_2011"), ("cars", "Cars196")])
def test_official_counts(real_data, name, folder):
    findings = check(name, str(real_data / "official_annotations" / folder), {})
    assert [(split.images, split.classes) for split in findings.splits] == [CATALOGUE[name].counts[s] for s in ("train", "test", "all")]
    assert findings.problems  # there are no images
    assert findings.whole == (name == "cub")  # whose files are not even known here


@pytest.mark.parametrize(
    ("name", "folder", "options"),
    [
        ("cub", "cub_mini_original", {"train_classes": 5}),
        ("cub", "cub100_crops", {}),
        ("cars", "cars_crops", {"crop": True}),
        ("omniglot", "omniglot", {}),
    ],
)
def test_the_real_subsets_are_well(real_data, name, folder, options):
    findings = check(name, str(real_data / folder), options)
    assert findings.problems == []
    assert findings.whole == (name == "omniglot")


def test_features_are_rows_without_images(tmp_path, capsys):
    np.savez(tmp_path / "made.npz", X=np.eye(8, dtype=np.float32), y=np.arange(8) // 2)
    status, shown = run(capsys, "check", "--dataset", "features", "--root", tmp_path / "made.npz", "--decode")
    assert status == 0
    assert "There is nothing to decode: these are features." in shown
    assert "Rows" in shown and "mages" not in shown.replace("Classes of one image", "")
