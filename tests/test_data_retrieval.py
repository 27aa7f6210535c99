"""`python -m benchmarks.retrieval --dataset NAME` on small copies of official layouts."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from data_layouts import picture, reds, text, write_inshop, write_sop

from benchmarks.images.readable import Readable
from benchmarks.retrieval.__main__ import main
from benchmarks.two_head.__main__ import main as two_head
from metriczoo.data import InShop

RUN = ["--backbone", "convnet", "--image-size", "16", "--epochs", "1", "--loss", "circle", "--embedding-dim", "8", "--batch-samples", "2"]


def run(tmp_path, *arguments):
    output = tmp_path / "results"
    assert main([*map(str, arguments), *RUN, "--output", str(output)]) == 0
    return json.loads((output / "results.json").read_text())


def test_inshop_finds_queries_in_the_gallery(tmp_path):
    rows = [(f"img/x/{item}_{n}.jpg", f"id_{item}", "train") for item in range(4) for n in range(3)]
    rows += [(f"img/x/{item}_{n}.jpg", f"id_{item}", ("query", "gallery")[n % 2]) for item in range(4, 7) for n in range(2)]
    write_inshop(tmp_path, rows)
    results = run(tmp_path, "--dataset", "inshop", "--root", tmp_path)
    sizes = results["records"][0]["split_sizes"]
    assert (sizes["train_images"], sizes["train_classes"], sizes["test_images"], sizes["test_classes"]) == (12, 4, 6, 3)
    for record in results["records"]:
        assert (record["num_queries"], record["num_references"]) == (3, 3)
        assert [key for key in record if key.startswith("recall@")] == ["recall@1", "recall@10", "recall@20", "recall@30"]


def test_options_of_the_data_set(tmp_path):
    lines = []
    for label in range(8):
        for number in range(2):
            picture(tmp_path / f"{label}_{number}.png", 20 * label)
            lines.append(f"{label}_{number}.png;{label};{'train' if label % 2 else 'test'}")
    text(tmp_path / "list.csv", "path;breed;part", *lines)
    options = ["label_column=breed", "split_column=part", "delimiter=;"]
    results = run(tmp_path, "--dataset", "csv", "--root", tmp_path, *(word for option in options for word in ("--data-option", option)))
    assert results["settings"]["data_options"] == {"label_column": "breed", "split_column": "part", "delimiter": ";"}
    assert results["records"][0]["split_sizes"]["train_classes"] == 4


def test_broken_images_are_fatal_or_skipped(tmp_path, capsys):
    for label in "abcdef":
        for number in range(3):
            picture(tmp_path / "data" / label / f"{number}.png", 20 * number)
    for name in ("a/0.png", "f/1.png", "e/0.png", "e/1.png", "e/2.png"):
        (tmp_path / "data" / name).write_bytes((tmp_path / "data" / name).read_bytes()[:50])
    arguments = ["--dataset", "folder", "--root", str(tmp_path / "data"), "--output", str(tmp_path / "failed"), "--resume", *RUN]
    for workers in ("0", "1"):
        assert main([*arguments, "--workers", workers]) == 2
        complaint = rf"error: {tmp_path}/\S*\.png is not a readable image: [^\n]*. With --on-bad-image skip, such images are left out.\n$"
        assert re.match(complaint, capsys.readouterr().err)
    sizes = run(tmp_path, "--dataset", "folder", "--root", tmp_path / "data", "--on-bad-image", "skip")["records"][0]["split_sizes"]
    shown = capsys.readouterr().out
    assert "Left out, as nothing can decode them: 5 images." in shown
    assert shown.count("is not a readable image") == 5
    assert sizes == {
        **{"train_images": 8, "train_classes": 3, "test_images": 5, "test_classes": 2},
        **{"missing_images": 0, "broken_images": 5},
    }


def test_half_a_data_set_is_told_from_another_one(tmp_path, capsys):
    """Without the images of the test classes, or without any: what lacks is said, and nothing that only Python code could pass."""
    write_sop(tmp_path)
    for path in (tmp_path / "Stanford_Online_Products").glob("*_final/*.JPG"):
        if path.name[:2] != "1_":
            path.unlink()
    assert main(["--dataset", "sop", "--root", str(tmp_path), *RUN]) == 2
    message = capsys.readouterr().err
    assert "the only class found (id 1) does not belong to it. 3 listed images have no file: `python -m benchmarks.data check`" in message
    for path in (tmp_path / "Stanford_Online_Products").glob("*_final/*.JPG"):
        path.unlink()
    assert main(["--dataset", "sop", "--root", str(tmp_path), *RUN]) == 2
    message = capsys.readouterr().err
    assert "5 of 5 listed images are missing" in message and "missing=" not in message and "Nothing is downloaded" in message


def test_one_class_is_nothing_to_classify(tmp_path, capsys):
    for number in range(4):
        picture(tmp_path / "data" / "alone" / f"{number}.png", 20 * number)
    assert two_head(["--dataset", "folder", "--root", str(tmp_path / "data"), "--backbone", "convnet", "--image-size", "16"]) == 2
    assert capsys.readouterr().err == "error: --dataset folder: a classifier needs two classes at least, but there is only one.\n"


def test_the_readable_rows_of_a_data_set(tmp_path):
    rows = [(f"img/{item}_{n}.jpg", f"id_{item}", ("query", "gallery")[n % 2]) for item in range(3) for n in range(2)]
    write_inshop(tmp_path, rows)
    dataset = InShop(tmp_path, "test", crop=True)
    some = Readable(dataset, [1, 4, 5])
    assert some.class_names == ["id_0", "id_2"]
    assert some.labels.tolist() == [0, 1, 1]
    assert reds(some) == [1, 4, 5]
    assert some[0][0].size == dataset[1][0].size
    assert [path.name for path in some.paths] == ["0_1.jpg", "2_0.jpg", "2_1.jpg"]
    assert dataset.is_query[some.rows].tolist() == [False, True, False]


def test_features_are_no_images(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", X=np.eye(8), y=np.arange(8) // 2)
    assert main(["--dataset", "features", "--root", str(tmp_path), *RUN]) == 2
    assert "trained on images, not on feature vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("csv:labels=breed", "but got 'labels=breed'. Did you mean 'label_column'"),
        ("csv:root=/", "but got 'root=/'"),
        ("csv:label_column", "expected NAME=VALUE with path_column, label_column"),
        ("csv:=x", "but got '=x'"),
        ("cars:crop=yes", "expected crop=true or crop=false, but got 'crop=yes'"),
        ("glyphs:seed=x", "a whole number for seed"),
        ("folder:crop=true", "expected none for folder"),
        ("features:train_ids=3", "but got 'train_ids=3'"),
    ],
)
def test_wrong_options_of_the_data_set(option, message, capsys):
    dataset, option = option.split(":")
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", dataset, "--root", "x", "--data-option", option])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
