"""`python -m benchmarks.instance_discrimination`, run as a user runs it, and its parts against independent references."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import pickle
import struct
from collections import Counter
from pathlib import Path

import benchmark_runs
import numpy as np
import pytest
import torch
from benchmark_runs import ROOT, attempts, failure, kill, results, started, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import cross_entropy, normalize

from benchmarks.instance_discrimination.__main__ import main
from benchmarks.instance_discrimination.cifar import load_pickle, read_cifar10
from benchmarks.instance_discrimination.classifiers import knn_accuracy, linear_accuracy, svm_accuracy
from benchmarks.instance_discrimination.data import Samples, class_balanced, load_data, stratified
from benchmarks.instance_discrimination.objective import InstanceObjective, Variant
from benchmarks.instance_discrimination.options import parse
from benchmarks.instance_discrimination.runs import _steadiness

TINY = (
    "--dataset folder --backbone convnet --image-size 16 --quick --batch-size 8 --embedding-dim 16 --num-noise 8 --finetune-steps 3 "
    "--dimensions 8,16 --noises 1,8 --bank-rows 50,200"
)
STUDIES = ["overview", "noise", "proximal", "dimension", "labels", "bank"]
EVERYWHERE = {"dataset", "kind", "loss", "seed", "split_sizes", "device", "threads", "versions"}
WORTH = {"knn", "linear", "unseen_recall@1", "unseen_map@r"}
VARIANT = {"num_noise", "proximal", "embedding_dim", "temperature", "momentum", "bank_dtype"}
KINDS = {  # what a record of each kind holds beside that
    "features": WORTH,
    "pretraining": {
        *(WORTH | VARIANT),
        *("hyper_parameters", "seconds", "knn_bank", "knn_bank_by_epoch", "loss_mean", "loss_variance", "distance_to_bank"),
        *("loss_by_epoch", "loss_variance_by_epoch", "loss_variance_of_epochs", "loss_variance_of_images"),
    },
    "classifiers": {"start", "accuracies"},
    "labels": {
        *("start", "percent", "labelled_images", "labelled_classes", "reachable", "accuracy", "frozen_knn", "frozen_linear"),
        *("hyper_parameters", "seconds"),
    },
    "bank": {
        *(VARIANT | {"rows", "batch", "rows_megabytes", "megabytes", "resident_megabytes"}),
        *(f"{name}{end}" for name in ("nce_ms", "softmax_ms") for end in ("", "_low", "_high")),
    },
}
SHARES = {"knn", "linear", "unseen_recall@1", "unseen_map@r", "knn_bank", "accuracy", "reachable", "frozen_knn", "frozen_linear"}


def check_schema(results: dict) -> None:
    assert set(results) == {"dataset", "settings", "records"}
    assert results["settings"]["benchmark"] == "instance_discrimination"
    assert len({(record["loss"], record["seed"]) for record in results["records"]}) == len(results["records"])
    for record in results["records"]:
        allowed = EVERYWHERE | KINDS[record["kind"]] | ({"embedding_dim"} if record["loss"].startswith("untrained") else set())
        assert set(record) == allowed
        assert isinstance(record["loss"], str)
        assert record["seed"] is None or record["seed"] >= 0
        assert set(record["split_sizes"]) == {
            *("train_images", "held_out_images", "classes", "unseen_images", "unseen_classes", "left_out_images")
        }
        for name in SHARES & set(record):
            assert record[name] is None or 0 <= record[name] <= 1, name
        for values in record.get("accuracies", {}).values():
            assert set(values) == {"knn", "linear", "svm"} and all(0 <= value <= 1 for value in values.values())
        if record["kind"] == "pretraining":
            epochs = len(record["knn_bank_by_epoch"])
            assert record["knn_bank_by_epoch"][-1] == record["knn_bank"]
            assert len(record["loss_by_epoch"]) == len(record["loss_variance_by_epoch"]) == epochs > 0
            assert 0 <= record["distance_to_bank"] <= 4
            for name in ("loss_variance", "loss_variance_of_epochs", "loss_variance_of_images"):
                assert record[name] is None or record[name] >= 0, name
        if record["kind"] == "bank":
            assert record["nce_ms_low"] <= record["nce_ms"] <= record["nce_ms_high"]


# -- the whole


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), classes=8, each=8, cells=4, shift=0, noise=30)


def arguments(pictures: Path, output: Path, *more: str) -> list[str]:
    return [*TINY.split(), "--root", str(pictures), "--train-classes", "6", "--output", str(output), *more]


def numbers(folder: Path) -> list[dict]:
    """All that does not depend on the clock: of a bank that is times alone."""
    return [record for record in benchmark_runs.numbers(folder) if record["kind"] != "bank"]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    """All studies with two seeds, which nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "new" / "folder"
    assert main(arguments(pictures, output, "--study", "all", "--seeds", "2")) == 0
    return output


def test_results_have_the_promised_form(whole):
    check_schema(results(whole))
    count = Counter(record["kind"] for record in results(whole)["records"])
    variants = {"softmax", "nce-m8", "nce-m1", "lambda1", "d8"}  # that differ from each other
    assert count == {
        "features": 1 + 2 * 2,  # pixels; an untrained encoder for each size of the embedding and seed
        "pretraining": 2 * len(variants),
        "classifiers": 1 + 2 * 3,
        "labels": 2 * 2 * 2,
        "bank": 2 * 2,
    }


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("**/instance*.json")), ids=lambda path: path.name)
def test_kept_results_have_the_promised_form(path):
    kept = json.loads(path.read_text())
    for record in kept["records"]:
        if record["kind"] == "pretraining":  # an earlier run may lack what was not observed then
            record |= {key: record.get(key) for key in ("loss_variance_of_epochs", "loss_variance_of_images")}
    check_schema(kept)


def test_the_proximal_term_steadies_the_training_of_the_paper():
    """Of each seed of the kept run: as the documentation says."""
    kept = json.loads((ROOT / "benchmarks" / "results" / "instance-discrimination-glyphs-proximal.json").read_text())
    runs = {(r["proximal"], r["seed"]): r for r in kept["records"] if r["kind"] == "pretraining"}
    assert len(runs) == 4 * 3
    for seed in range(3):
        without, moderate, strong = (runs[weight, seed] for weight in (0.0, 10.0, 30.0))
        assert strong["loss_variance_of_epochs"] < 0.25 * without["loss_variance_of_epochs"]
        assert strong["knn"] > without["knn"] + 0.3
        for name in ("loss_variance_of_epochs", "loss_variance_of_images", "loss_variance"):
            assert moderate[name] < 0.6 * without[name], name


def test_each_study_has_a_table_and_a_plot_and_no_gap(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert 'class="missing"' not in page
    assert page.count("<section") == 7  # the overview has two
    assert page.count("<svg") == 1 + 1 + 3 + 1 + 1 + 2
    assert "http" not in page.replace("http://www.w3.org", "")  # it needs nothing beside it
    for text in ("softmax over all", "NCE, m = 8", "λ = 1", "16 dimensions", "from scratch", "float16", "untrained encoder"):
        assert text in page, text


def test_numbers_are_those_of_the_saved_encoder(whole, pictures):
    options = parse(arguments(pictures, whole))
    data = load_data(options)
    record = next(r for r in results(whole)["records"] if r["loss"] == "nce-m8-lambda0-d16" and r["seed"] == 1)
    from benchmarks.instance_discrimination.bench import Bench

    bench = Bench(options, data)
    encoder = bench.encoder(16, seed=1)
    encoder.load_state_dict(torch.load(whole / "nce-m8-lambda0-d16-seed1.pt", weights_only=True)["encoder"])
    train, held_out = (bench.embed(encoder, encoder, images) for images in (data.train, data.held_out))
    weights = (train @ held_out.T / 0.07).exp().T.double()  # all 36 images vote, which are fewer than 200
    votes = torch.zeros(len(held_out), 6, dtype=torch.float64).index_add_(1, torch.as_tensor(data.train.labels), weights)
    assert record["knn"] == pytest.approx(np.mean(votes.argmax(1).numpy() == data.held_out.labels))


@pytest.fixture
def no_report(monkeypatch):
    """For tests that are about something else: drawing takes longer than training here."""
    monkeypatch.setattr("benchmarks.instance_discrimination.__main__.write_page", lambda *_: None)


@pytest.mark.usefixtures("no_report")
def test_table_shows_mean_and_spread(whole, pictures, capsys):
    assert main(arguments(pictures, whole, "--study", "all", "--seeds", "2", "--resume")) == 0  # with nothing left to do
    values = [100 * r["linear"] for r in results(whole)["records"] if r["loss"] == "softmax-lambda0-d16"]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("softmax over all"))
    assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in row


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "more",
    [
        ("--proximal", "2", "--optimizer", "sgd", "--schedule", "constant"),
        ("--bank-start", "random", "--bank-dtype", "float16", "--workers", "1"),
    ],
)
def test_interrupted_again_and_again_it_ends_with_the_same_numbers(pictures, tmp_path, monkeypatch, capsys, more):
    monkeypatch.setattr("benchmarks.instance_discrimination.runs._SAVE_EVERY", 1)
    study = ("--study", "labels", "--shares", "50", *more)
    assert main(arguments(pictures, tmp_path / "whole", *study)) == 0
    statuses = []
    argv = arguments(pictures, tmp_path / "parts", *study, "--resume")
    for status in attempts(main, argv, monkeypatch, steps=5):  # an epoch has 4, and 2 where half of the labels are shown
        statuses.append(status)
        if status != 0:
            assert "--resume" in capsys.readouterr().err
    assert len(statuses) > 2
    assert set(statuses[:-1]) == {130}
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("rate", [None, "0.2"])
def test_optimizer_and_schedule_of_the_paper_are_for_training_without_labels(pictures, tmp_path, rate):
    study = ("--study", "labels", "--shares", "50", "--optimizer", "sgd", "--schedule", "constant")
    assert main(arguments(pictures, tmp_path / "run", *study, *(("--rate", rate) if rate else ()))) == 0
    chosen = {record["kind"]: record["hyper_parameters"] for record in results(tmp_path / "run")["records"]}
    without, labels = chosen["pretraining"], chosen["labels"]
    assert (without["optimizer"], without["decay"], without["backbone_rate"]) == ("sgd", False, float(rate or 0.03))
    assert (labels["optimizer"], labels["decay"], labels["backbone_rate"]) == ("adam", True, 0.001)


@pytest.mark.usefixtures("no_report")
def test_killed_it_goes_on(pictures, whole, tmp_path):
    argv = arguments(pictures, tmp_path / "run", "--study", "labels", "--shares", "10")
    kill(started("benchmarks.instance_discrimination", argv, (tmp_path / "run" / "nce-m8-lambda0-d16-seed0.pt").exists))
    assert "records" in results(tmp_path / "run")
    assert main([*argv, "--resume"]) == 0
    found = numbers(tmp_path / "run")
    names = ("nce-m8-lambda0-d16", "labels-10-scratch", "labels-10-nce-m8-lambda0-d16")
    assert [record["loss"] for record in found] == [*names]
    assert all(record in numbers(whole) for record in found)


@pytest.mark.usefixtures("no_report")
def test_newcomers_run(tmp_path, monkeypatch):
    """Glyphs, with classes that no training saw."""
    monkeypatch.chdir(tmp_path)
    assert main(["--quick", "--study", "labels", "--shares", "10"]) == 0
    found = results(tmp_path / "runs" / "glyphs-001")
    check_schema(found)
    record = found["records"][0]
    assert record["split_sizes"]["classes"] == record["split_sizes"]["unseen_classes"] == 24
    assert record["unseen_recall@1"] > 0.3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--study", "noize"], "Did you mean 'noise'?"),
        (["--study", "noise,noise"], "each study once"),
        (["--noises", "1,x"], "whole number of at least 1, but got 'x'"),
        (["--noises", "4,4"], "each number once"),
        (["--shares", "0"], "above 0"),
        (["--held-out", "1"], "below 1"),
        (["--temperature", "0"], "above 0"),
        (["--momentum", "1"], "below 1"),
        (["--dataset", "features"], "or sop"),
        (["--dataset", "cifar10"], "needs --root"),
        (["--dataset", "cifar10", "--root", "nowhere"], "no folder nowhere"),
        (["--dataset", "folder"], "folder of the 'folder' data"),
        (["--backbone", "convnett"], "Did you mean 'convnet'?"),
        (["--epoch", "2"], "Did you mean '--epochs'?"),
    ],
)
def test_mistakes_are_answered_in_one_line(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in failure(main, capsys, argv)


def test_results_are_never_overwritten(whole, pictures, capsys):
    assert "holds results already" in failure(main, capsys, arguments(pictures, whole))
    assert "rate was 0.001 and is 0.1" in failure(
        main, capsys, arguments(pictures, whole, "--study", "all", "--seeds", "2", "--rate", ".1", "--resume")
    )


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"{study}: " in " ".join(shown.split()) for study in STUDIES)


# -- which images


def options_of(root: Path, *more: str) -> argparse.Namespace:
    return parse(["--dataset", "folder", "--backbone", "convnet", "--image-size", "16", "--root", str(root), *more])


def test_a_folder_without_a_split_is_known_as_a_whole(pictures):
    data = load_data(options_of(pictures))
    expected = {"train_images": 48, "held_out_images": 16, "classes": 8, "unseen_images": 0, "unseen_classes": 0, "left_out_images": 0}
    assert data.sizes() == expected
    assert np.array_equal(np.bincount(data.held_out.labels), np.full(8, 2))


def test_train_and_held_out_images_are_all_images_once(pictures):
    data, every = load_data(options_of(pictures)), load_data(options_of(pictures, "--held-out", "0.01"))
    seen = {pixels.numpy().tobytes() for part in (data.train, data.held_out) for pixels, _, _ in part}
    assert len(seen) == 64 == len({pixels.numpy().tobytes() for part in (every.train, every.held_out) for pixels, _, _ in part})
    for part in (data.train, data.held_out):
        assert [position for _, _, position in part] == list(range(len(part)))
        assert [label for _, label, _ in part] == part.labels.tolist()


def test_validation_holds_out_training_images_only(pictures):
    plain, chosen = load_data(options_of(pictures)), load_data(options_of(pictures, "--validation"))
    train = {pixels.numpy().tobytes() for pixels, _, _ in plain.train}
    assert {pixels.numpy().tobytes() for part in (chosen.train, chosen.held_out) for pixels, _, _ in part} == train


def test_a_folder_with_train_and_val_is_split_by_itself(pictures, tmp_path):
    for name in ("class0", "class1"):
        for split, numbers_ in (("train", range(5)), ("val", range(5, 8))):
            (tmp_path / split / name).mkdir(parents=True)
            for number in numbers_:
                (tmp_path / split / name / f"{number}.png").write_bytes((pictures / name / f"{number}.png").read_bytes())
    data = load_data(options_of(tmp_path))
    assert data.official
    assert (len(data.train), len(data.held_out), data.unseen, data.class_names) == (10, 6, None, ["class0", "class1"])
    with pytest.raises(ValueError, match="--train-classes"):
        load_data(options_of(tmp_path, "--train-classes", "1"))
    (tmp_path / "val" / "class1").rename(tmp_path / "val" / "class2")
    with pytest.raises(ValueError, match="same classes, but only one of them has class1, class2"):
        load_data(options_of(tmp_path))


def test_broken_images_are_fatal_or_left_out(pictures, tmp_path, capsys):
    for name in ("class0", "class1"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "in" / name / f"{number}.png").write_bytes((pictures / name / f"{number}.png").read_bytes())
    (tmp_path / "in" / "class1" / "2.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"2\.png"):
        load_data(options_of(tmp_path / "in"))
    data = load_data(options_of(tmp_path / "in", "--on-bad-image", "skip"))
    assert data.sizes()["left_out_images"] == 1
    assert "2.png" in data.complaints[0]


labels_of = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@given(labels=labels_of, share=st.floats(0.01, 0.99))
def test_stratified_takes_its_share_of_each_class_and_never_all(labels, share):
    away = stratified(labels, share)
    assert len(set(away.tolist())) == len(away)
    for label, size in Counter(labels.tolist()).items():
        taken = int((labels[away] == label).sum())
        assert taken <= size - 1
        assert taken == min(max(1, round(share * size)), size - 1)


@given(labels=labels_of, small=st.floats(0.01, 1), large=st.floats(0.01, 1), seed=st.integers(0, 5))
def test_labels_are_shown_evenly_and_more_of_them_include_fewer(labels, small, large, seed):
    small, large = sorted((small, large))
    few, many = (class_balanced(labels, share, seed) for share in (small, large))
    assert set(few.tolist()) <= set(many.tolist())
    assert len(many) == max(1, round(large * len(labels)))
    shown, whole = Counter(labels[many].tolist()), Counter(labels.tolist())
    most = max(shown.values())
    assert all(shown[label] >= min(most - 1, size) for label, size in whole.items())


# -- CIFAR-10


def old_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 pickled it, opcode by opcode: text is bytes, an array comes as a reconstruction and a state."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def whole(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + whole(0) + whole(1) + b"\x87R(" + whole(3) + text(b"|") + b"NNN" + whole(-1) * 2
    dtype += whole(0) + b"tb"
    raw = images.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + whole(0) + b"\x85" + text(b"b") + b"\x87R("
    array += whole(1) + whole(images.shape[0]) + whole(images.shape[1]) + b"\x86" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw
    array += b"tb"
    listed = b"](" + b"".join(whole(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + listed + text(b"data") + array + b"u."


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> dict[str, Path]:
    """Both official layouts of the same images: 4 in each of the five batches for training, 6 for testing."""
    root = tmp_path_factory.mktemp("cifar")
    generator = np.random.default_rng(0)
    for number in range(6):
        name, size = (f"data_batch_{number + 1}", 4) if number < 5 else ("test_batch", 6)
        images = generator.integers(0, 256, (size, 3072), dtype=np.uint8)
        labels = (np.arange(size) % 3 + number % 2).tolist()
        (root / "cifar-10-batches-py").mkdir(exist_ok=True)
        (root / "cifar-10-batches-py" / name).write_bytes(old_pickle(images, labels))
        (root / "bin").mkdir(exist_ok=True)
        np.column_stack([np.array(labels, dtype=np.uint8), images]).tofile(root / "bin" / f"{name}.bin")
    return {"parent": root, "python": root / "cifar-10-batches-py", "binary": root / "bin"}


def test_both_layouts_of_cifar_hold_the_same(batches):
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, 256, (6 if number == 5 else 4, 3072), dtype=np.uint8) for number in range(6)]
    for split, expected in (("train", np.concatenate(drawn[:5])), ("test", drawn[5])):
        for folder in batches.values():
            images, labels = read_cifar10(folder, split)
            assert (images.shape, images.dtype, labels.dtype) == ((len(expected), 3, 32, 32), np.uint8, np.int64)
            assert np.array_equal(images.reshape(len(expected), -1), expected)
    assert labels.tolist() == [1, 2, 3, 1, 2, 3]


def test_cifar_is_read_as_new_pickles_too(tmp_path):
    images = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": images, b"labels": [3, 9]}, protocol=2))
    found, labels = read_cifar10(tmp_path, "test")
    assert np.array_equal(found.reshape(2, -1), images)
    assert labels.tolist() == [3, 9]


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_runs_anything(tmp_path, protocol):
    for name, hostile in (("a", {b"data": Hostile(tmp_path / "touched")}), ("b", Hostile(tmp_path / "touched"))):
        (tmp_path / name).write_bytes(pickle.dumps(hostile, protocol=protocol))
        with pytest.raises(ValueError, match="asks for"):
            load_pickle(tmp_path / name)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        {b"data": np.array([None], dtype=object)},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
        {b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": b"bytes", b"labels": [1]},
        [1, 2],
        complex(1, 2),
    ],
)
def test_what_is_no_batch_of_cifar_is_refused(tmp_path, content):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="test_batch"):
        read_cifar10(tmp_path, "test")


@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4))
@settings(max_examples=60)
def test_damaged_batches_are_refused_or_read_but_never_crash(tmp_path_factory, cut, flips):
    data = bytearray(old_pickle(np.zeros((1, 3072), np.uint8), [1])[: 3300 - int(cut * 3300) if flips else 10_000])
    for place, value in flips:
        data[int(place * len(data))] ^= value
    path = tmp_path_factory.getbasetemp() / "test_batch"
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        assert read_cifar10(path.parent, "test")[0].shape[1:] == (3, 32, 32)


def test_incomplete_cifar_is_named(batches, tmp_path):
    (tmp_path / "data_batch_2.bin").write_bytes((batches["binary"] / "data_batch_2.bin").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no data_batch_1\.bin, data_batch_3\.bin"):
        read_cifar10(tmp_path, "train")
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="whole number of images"):
        read_cifar10(tmp_path, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No batch of CIFAR-10"):
        read_cifar10(tmp_path / "empty", "test")


@pytest.mark.usefixtures("no_report")
def test_cifar_runs(batches, tmp_path):
    output = tmp_path / "run"
    argv = ["--dataset", "cifar10", "--root", str(batches["parent"]), "--study", "labels", "--quick", "--epochs", "1", "--shares", "50"]
    assert main([*argv, "--batch-size", "8", "--output", str(output)]) == 0
    check_schema(results(output))
    record = results(output)["records"][0]
    assert record["split_sizes"]["train_images"] == 20
    assert record["split_sizes"]["held_out_images"] == 6
    assert record["unseen_recall@1"] is None


# -- what is measured


def points(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    return torch.eye(4, 6)[labels] + 0.6 * torch.randn(n, 6, generator=generator), labels.numpy()


def test_nearest_neighbours_against_scikit_learn():
    (train, labels), (queries, answers) = points(60, 0), points(40, 1)

    def weights(distances):
        return np.exp((1 - distances) / 0.07)

    reference = KNeighborsClassifier(10, metric="cosine", weights=weights).fit(train.numpy(), labels)
    expected = np.mean(reference.predict(queries.numpy()) == answers)
    assert knn_accuracy(train, labels, queries, answers, k=10) == pytest.approx(expected)
    ignored = np.where(np.arange(60) < 30, labels, -1)
    assert knn_accuracy(train, ignored, queries, answers, k=10) == knn_accuracy(train[:30], labels[:30], queries, answers, k=10)


@pytest.mark.parametrize("accuracy", [linear_accuracy, svm_accuracy])
def test_linear_classifiers_separate_what_is_separable(accuracy):
    (train, labels), (queries, answers) = points(200, 0), points(200, 1)
    best = np.mean(queries[:, :4].argmax(1).numpy() == answers)  # Bayes, but for the length
    assert best - 0.05 < accuracy(train, labels, queries, answers) <= best + 0.05
    assert accuracy(train, labels, 3 * queries, answers) == accuracy(train, labels, queries, answers)  # of unit length either way
    assert accuracy(train, np.full(200, 2), queries, answers) == 0.25


def variant(**changes) -> Variant:
    return Variant(
        **{"num_noise": 8, "proximal": 0.0, "embedding_dim": 6, "temperature": 0.3, "momentum": 0.5, "bank_dtype": "float32"} | changes
    )


def test_objective_is_softmax_over_the_bank_and_a_pull_to_the_own_row():
    torch.manual_seed(0)
    x, ids = normalize(torch.randn(5, 6)), torch.tensor([7, 1, 3, 0, 11])
    plain, pulled = (InstanceObjective(variant(num_noise=None, proximal=weight), 12, steps=2) for weight in (0.0, 3.0))
    pulled.bank.load_state_dict(plain.bank.state_dict())
    rows = plain.bank.embeddings
    softmax = cross_entropy(x @ rows.T / 0.3, ids)
    moved = (x - rows[ids]).square().sum(1).mean()
    torch.testing.assert_close(plain(x, torch.zeros(5), ids), softmax)
    torch.testing.assert_close(pulled(x, torch.ones(5), ids), softmax + 3 * moved)
    for objective in (plain, pulled):
        torch.testing.assert_close(objective.observed[0], torch.stack([softmax, moved, torch.tensor(math.nan)]), equal_nan=True)
        assert objective.observed[1].tolist() == [0, 0, 0]
    first = cross_entropy(x @ rows.T / 0.3, ids, reduction="none")
    expected = normalize(rows[ids] + x)
    plain.remember(x, torch.zeros(5), ids)
    torch.testing.assert_close(plain.bank.embeddings[ids], expected)
    again, others = torch.tensor([3, 7]), torch.tensor([2, 9])  # both were seen before, or neither
    second = cross_entropy(x[:4] @ plain.bank.embeddings.T / 0.3, torch.cat([again, others]), reduction="none")
    plain(x[:4], torch.zeros(4), torch.cat([again, others]))
    torch.testing.assert_close(plain.observed[1, 2], ((second[:2] - first[[2, 0]]) ** 2).mean() / 2)
    torch.testing.assert_close(plain.last[[3, 7, 2, 9, 1]], torch.cat([second, first[1:2]]))
    assert plain.last[[4, 5, 6, 8, 10]].isnan().all()


def test_steadiness_against_the_definition():
    observed = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    found = _steadiness(observed, epochs=3)
    late = observed[6:, 0].tolist()
    assert found["loss_variance"] == pytest.approx(np.mean([(b - a) ** 2 for a, b in itertools.pairwise(late)]) / 2)
    assert found["loss_mean"] == pytest.approx(np.mean(late))
    assert found["loss_by_epoch"] == pytest.approx(observed[:, 0].view(3, 4).mean(1).tolist())
    assert found["loss_variance_of_images"] == pytest.approx(observed[6:, 2].mean().item())
    assert found["loss_variance_of_epochs"] is None  # of two epochs
    trend = torch.stack([torch.arange(12.0) + 100, torch.zeros(12), torch.full((12,), math.nan)], dim=1)
    assert _steadiness(trend, 3)["loss_variance"] == pytest.approx(0.5)  # of which the plain variance of six numbers would be 3.5
    assert _steadiness(trend, 3)["loss_variance_of_images"] is None  # which had no second visit
    assert _steadiness(trend, 6)["loss_variance_of_epochs"] == pytest.approx(0)
    assert _steadiness(observed[:2], 2)["loss_variance_by_epoch"] == [None, None]


def test_variance_of_epochs_is_that_of_noise_upon_a_trend():
    """Of 4,000 epochs with three steps each, whose loss falls by 0.1 an epoch."""
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = (500 - 0.1 * torch.arange(4000) + 0.3 * noise).repeat_interleave(3)
    found = _steadiness(torch.stack([loss, loss, loss], dim=1), 4000)
    assert found["loss_variance_of_epochs"] == pytest.approx(0.09, rel=0.08)


def test_a_bank_takes_what_it_must(whole):
    for record in results(whole)["records"]:
        if record["kind"] == "bank":
            width = {"float32": 4, "float16": 2}[record["bank_dtype"]]
            assert record["rows_megabytes"] * 2**20 == record["rows"] * 16 * width
            assert record["megabytes"] * 2**20 == record["rows"] * (16 * width + 8 + 1) + 16


def test_samples_of_samples_are_numbered_anew():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    some = Samples(images, np.array([5, 4, 3, 2, 1, 0]), np.array([1, 3, 5])).of(np.array([2, 0]))
    assert [(pixels.item(), label, position) for pixels, label, position in some] == [(5, 0, 0), (1, 4, 1)]
