"""`python -m benchmarks.retrieval`, run as a user runs it, on data made here and on real images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_runs import attempts, failure, interrupt_after, kill, numbers, results, started, write_pictures
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from benchmarks.retrieval.__main__ import main
from benchmarks.retrieval.experiment import Experiment
from benchmarks.training.loop import Training
from benchmarks.training.losses import DEFAULT_LOSSES
from benchmarks.training.losses import LOSSES as ALL_LOSSES
from metriczoo.data import ImageFolder

TINY = "--dataset folder --backbone convnet --image-size 16 --epochs 2 --batch-samples 2 --embedding-dim 16"
# With a loss on raw embeddings, and a sum: all others are trained in test_benchmark_presets.
LOSSES = {name: ALL_LOSSES[name] for name in (*DEFAULT_LOSSES, "unified", "multi_similarity", "proxy_anchor", "softmax", "center")}
METRICS = ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "knn_accuracy", "nmi", "ami")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), classes=10, each=6)


def arguments(pictures: Path, output: Path, *more: str) -> list[str]:
    return [*TINY.split(), "--root", str(pictures), "--output", str(output), *more]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    """A benchmark of every loss with two seeds that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "new" / "folder"
    assert main(arguments(pictures, output, "--loss", ",".join(LOSSES), "--seeds", "2")) == 0
    return output


def test_a_record_per_loss_and_seed_beside_the_baselines(whole):
    found = [(record["loss"], record["seed"]) for record in results(whole)["records"]]
    expected = [("raw", None), *((loss, seed) for seed in (0, 1) for loss in ("untrained", *LOSSES))]
    assert found == expected


def test_records_hold_what_is_promised(whole):
    for record in results(whole)["records"]:
        assert record["dataset"] == "folder"
        sizes = {"train_images": 30, "train_classes": 5, "test_images": 30, "test_classes": 5}
        assert record["split_sizes"] == {**sizes, "missing_images": 0, "broken_images": 0}
        assert record["versions"]["torch"] == torch.__version__
        assert (record["num_queries"], record["num_skipped"]) == (30, 0)
        assert all(0 <= record[name] <= 1 for name in METRICS[:-1])
        assert -1 <= record["ami"] <= 1
        if record["loss"] in LOSSES:
            assert record["seconds"] > 0
            chosen = record["hyper_parameters"]
            assert {**LOSSES[record["loss"]].options, "epochs": 2, "batch_samples": 2, "batch_classes": 5}.items() <= chosen.items()
            assert chosen["memory_bank"] == (30 if record["loss"] == "nce" else None)


def test_numbers_are_those_of_the_saved_embeddings(whole, pictures):
    labels = ImageFolder(pictures, "test").labels
    for record in results(whole)["records"][1:]:
        state = torch.load(whole / f"{record['loss']}-seed{record['seed']}.pt", weights_only=True)
        embeddings = state["embeddings"].numpy()
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        neighbours = NearestNeighbors(n_neighbors=2).fit(embeddings).kneighbors(embeddings, return_distance=False)
        assert record["recall@1"] == pytest.approx(np.mean(labels[neighbours[:, 1]] == labels), abs=1e-6)


def test_raw_row_is_of_pixels(whole, pictures):
    test = ImageFolder(pictures, "test")
    pixels = np.stack([np.asarray(image.resize((18, 18), Image.Resampling.BICUBIC))[1:17, 1:17].ravel() / 255 for image, _ in test])
    neighbours = NearestNeighbors(n_neighbors=2, metric="cosine").fit(pixels).kneighbors(pixels, return_distance=False)
    assert results(whole)["records"][0]["recall@1"] == pytest.approx(np.mean(test.labels[neighbours[:, 1]] == test.labels))


def test_seeds_differ_and_losses_share_their_start(whole):
    by_run = {(record["loss"], record["seed"]): record for record in results(whole)["records"]}
    starts = [torch.load(whole / f"untrained-seed{seed}.pt", weights_only=True)["embeddings"] for seed in (0, 1)]
    assert not torch.equal(*starts)
    curves = {run: torch.load(whole / f"{run[0]}-seed{run[1]}.pt", weights_only=True)["recalls"] for run in by_run if run[0] in LOSSES}
    for (loss, seed), recalls in curves.items():
        assert len(recalls) == 3
        assert recalls[0] == by_run["untrained", seed]["recall@1"]
        assert recalls[-1] == by_run[loss, seed]["recall@1"]


def test_report_shows_every_loss_and_no_gap(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert 'class="missing"' not in page
    assert all(f"<h3>{loss}</h3>" in page for loss in LOSSES)


def test_table_shows_mean_and_spread(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(arguments(pictures, tmp_path / "run", "--loss", "circle", "--seeds", "2")) == 0
    shown = capsys.readouterr().out
    recalls = [100 * record["recall@1"] for record in results(tmp_path / "run")["records"] if record["loss"] == "circle"]
    row = next(line for line in shown.splitlines() if line.strip().startswith("circle") and "±" in line)
    assert f"{np.mean(recalls):.1f} ±{np.std(recalls, ddof=1):.1f}" in row
    assert all(name in shown for name in ("untrained", "raw", "MAP@R", str(tmp_path / "run" / "report.html")))


@pytest.fixture
def no_report(monkeypatch):
    """For tests that are about something else: drawing takes longer than training here."""
    monkeypatch.setattr("benchmarks.retrieval.__main__.write_report", lambda path, **contents: None)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "more",
    [("--miner", "distance_weighted", "--memory-bank", "20", "--memory-from-step", "4"), ("--workers", "1")],
    ids=["bank", "workers"],
)
def test_interrupted_again_and_again_it_ends_with_the_same_numbers(pictures, tmp_path, monkeypatch, capsys, more):
    losses = ("--loss", "circle,nce,am_softmax,triplet" if len(more) > 2 else "lmnn")
    assert main(arguments(pictures, tmp_path / "whole", *losses, *more)) == 0
    argv = arguments(pictures, tmp_path / "parts", *losses, *more, "--resume")
    statuses = []
    for status in attempts(main, argv, monkeypatch, steps=5):  # an epoch has 3
        statuses.append(status)
        if status != 0:
            assert "--resume" in capsys.readouterr().err
            assert len(numbers(tmp_path / "parts")) < len(numbers(tmp_path / "whole"))
    assert len(statuses) > 1
    assert set(statuses[:-1]) == {130}
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    for path in (tmp_path / "whole").glob("*.pt"):
        one, other = (torch.load(folder / path.name, weights_only=True) for folder in (tmp_path / "whole", tmp_path / "parts"))
        for part in ("embeddings", "per_query"):
            torch.testing.assert_close(one.get(part, 0), other.get(part, 0), rtol=0, atol=0, equal_nan=True)
        assert one.get("losses") == other.get("losses")


@pytest.mark.usefixtures("no_report")
def test_killed_it_goes_on(pictures, whole, tmp_path):
    losses = ("--loss", ",".join(LOSSES), "--seeds", "2")
    argv = arguments(pictures, tmp_path / "run", *losses)
    kill(started("benchmarks.retrieval", argv, (tmp_path / "run" / "circle-seed0.pt").exists))
    finished = numbers(tmp_path / "run")
    assert finished
    assert len(finished) < len(numbers(whole))
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path / "run") == numbers(whole)


def test_what_is_finished_is_not_made_again(whole, pictures, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    shown = []
    monkeypatch.setattr("benchmarks.retrieval.__main__.write_report", lambda path, **contents: shown.extend(contents["runs"]))
    for method in ("encoder", "record", "raw_features"):
        monkeypatch.setattr(Experiment, method, None)
    assert main([*arguments(pictures, tmp_path / "copy", "--loss", ",".join(LOSSES), "--seeds", "2"), "--resume"]) == 0
    assert [(run.loss, run.seed) for run in shown] == [(loss, seed) for seed in (0, 1) for loss in LOSSES]
    assert all(len(run.curves["loss"]) == 2 * 3 for run in shown if run.loss != "nce")
    assert numbers(tmp_path / "copy") == numbers(whole)


@pytest.mark.usefixtures("no_report")
def test_a_folder_of_an_older_version_goes_on_without_training_anew(whole, pictures, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    older = results(tmp_path / "copy")
    del older["comparisons"], older["settings"]["protocol"]
    for record in older["records"]:
        for key in ("protocol", "intervals", "health", "classes", "knn_accuracy"):
            del record[key]
    (tmp_path / "copy" / "results.json").write_text(json.dumps(older))
    for path in (tmp_path / "copy").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        del state["per_query"]
        state["record"] = next((r for r in older["records"] if f"{r['loss']}-seed{r['seed']}" == path.stem), None)
        torch.save(state, path)
    (tmp_path / "copy" / "raw.pt").unlink()  # there was none
    monkeypatch.setattr(Training, "_step", None)
    assert main([*arguments(pictures, tmp_path / "copy", "--loss", ",".join(LOSSES), "--seeds", "2"), "--resume"]) == 0
    assert numbers(tmp_path / "copy") == numbers(whole)
    assert results(tmp_path / "copy")["comparisons"] == results(whole)["comparisons"]


def test_finished_runs_stay_readable_when_a_later_one_fails(pictures, tmp_path, monkeypatch, capsys):
    interrupt_after(monkeypatch, steps=8, error=OSError)
    assert "stopped by the test" in failure(main, capsys, arguments(pictures, tmp_path, "--loss", "circle,triplet"))
    assert [record["loss"] for record in results(tmp_path)["records"]] == ["raw", "untrained", "circle"]


def test_results_are_never_overwritten(whole, pictures, capsys):
    before = (whole / "results.json").read_bytes()
    message = failure(main, capsys, arguments(pictures, whole, "--loss", ",".join(LOSSES), "--seeds", "2"))
    assert "--resume" in message
    message = failure(main, capsys, arguments(pictures, whole, "--loss", "circle", "--seeds", "2", "--resume"))
    assert "losses" in message
    assert "seeds" not in message
    assert (whole / "results.json").read_bytes() == before


@pytest.mark.usefixtures("no_report")
def test_without_output_folders_are_numbered_and_the_latest_is_resumed(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [a for a in arguments(pictures, tmp_path, "--loss", "circle", "--max-steps", "1") if a not in ("--output", str(tmp_path))]
    assert main(argv) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps=0)
        assert main(argv) == 130
    (tmp_path / "runs" / "folder-007").mkdir()
    (tmp_path / "runs" / "folder-007" / "results.json").write_text("something else")
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path / "runs" / "folder-002") == numbers(tmp_path / "runs" / "folder-001")
    assert main([*argv, "--embedding-dim", "8", "--resume"]) == 0  # of these settings there is none
    assert len(numbers(tmp_path / "runs" / "folder-008")) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"records": 3}', '{"settings": {}, "records": [{}]}'])
def test_malformed_results_are_an_error(pictures, tmp_path, capsys, content):
    (tmp_path / "results.json").write_text(content)
    assert "does not hold results" in failure(main, capsys, [*arguments(pictures, tmp_path), "--resume"])


def test_malformed_checkpoint_is_an_error(pictures, tmp_path, capsys):
    (tmp_path / "circle-seed0.pt").write_bytes(b"nothing")
    assert "circle-seed0.pt is not a readable checkpoint" in failure(main, capsys, arguments(pictures, tmp_path, "--loss", "circle"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--loss cirle", "Did you mean 'circle'?"),
        ("--loss circle,circle", "each loss once"),
        ("--loss circle,", "expected contrastive"),
        ("--dataset glyph", "Did you mean 'glyphs'?"),
        ("--miner semihard", "Did you mean 'semi_hard'?"),
        ("--backbone efficientnet_lite", "Did you mean 'efficientnet_lite0'?"),
        ("--device gpu", "cpu or cuda"),
        ("--lose circle", "Did you mean '--loss'?"),
        ("--epoch 3", "Did you mean '--epochs'?"),
        ("circle", "unknown argument 'circle'"),
        ("--epochs 0", "a whole number of at least 1"),
        ("--seeds two", "a whole number of at least 1"),
        ("--workers -1", "a whole number of at least 0"),
        ("--epochs", "expected one argument"),
        ("--root somewhere", "root"),
        ("--dataset cub", "root"),
        ("--dataset cub --root no/such/folder", "no/such/folder"),
        ("--dataset folder --root .", "image"),
        ("--loss nce,am_softmax --memory-bank 64", "--memory-bank does nothing for nce, am_softmax"),
        ("--memory-from-step 9", "--memory-from-step does nothing without a --memory-bank"),
        ("--loss triplet --batch-samples 1", "at least 2 for triplet"),
        ("--loss triplet --batch-samples 1 --memory-bank 64 --memory-from-step 9", "at least 2 for triplet"),
        ("--loss triplet --batch-classes 1", "at least 2 for triplet"),
        ("--batch-classes 201", "201"),
        ("--loss triplet --epochs 1 --memory-bank 64 --memory-from-step 500", "--memory-from-step 500 leaves no step to use the memory in"),
        ("--train-classes 400", "train_classes"),
        ("--image-size 5", "5 by 5 pixels"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in failure(main, capsys, argv.split())
    assert not list(tmp_path.iterdir())


def test_device_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda" in failure(main, capsys, ["--device", "cuda"])


@pytest.mark.parametrize("place", ["file", "file/folder", "/proc/nothing"])
def test_unwritable_output_is_an_error(pictures, tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    assert "Cannot write to the output folder" in failure(main, capsys, arguments(pictures, tmp_path / place))


def test_a_full_disk_names_the_folder_and_loses_nothing(pictures, whole, tmp_path, monkeypatch, capsys):
    written = []

    def full(file):
        written.append(file)
        if len(written) == 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        said = failure(main, capsys, arguments(pictures, tmp_path / "run", "--loss", "circle"))
    assert f"Cannot write to the output folder {tmp_path / 'run'}: No space left on device" in said
    assert main(arguments(pictures, tmp_path / "run", "--loss", "circle", "--resume")) == 0
    again = numbers(tmp_path / "run")
    assert len(again) == 3
    assert all(record in numbers(whole) for record in again)


def test_truncated_image_is_named(pictures, tmp_path, capsys):
    data = (pictures / "class0" / "0.png").read_bytes()
    for label in range(4):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        for number in range(2):
            (tmp_path / "data" / f"class{label}" / f"{number}.png").write_bytes(data)
    broken = tmp_path / "data" / "class3" / "1.png"
    broken.write_bytes(data[:200])
    assert str(broken) in failure(main, capsys, arguments(tmp_path / "data", tmp_path / "run"))


def test_classes_of_one_image_are_skipped_and_counted(pictures, tmp_path, capsys):
    for label in range(10):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        for number in range(1 if label == 9 else 3):
            source = pictures / f"class{label}" / f"{number}.png"
            (tmp_path / "data" / f"class{label}" / f"{number}.png").write_bytes(source.read_bytes())
    assert main(arguments(tmp_path / "data", tmp_path / "run", "--loss", "circle")) == 0
    assert {(record["num_queries"], record["num_skipped"]) for record in results(tmp_path / "run")["records"]} == {(12, 1)}
    assert "1 query left out" in " ".join(capsys.readouterr().out.split())


def test_a_test_set_without_any_pair_has_no_numbers(pictures, tmp_path, capsys):
    for label in range(4):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        for number in range(3 if label < 2 else 1):
            source = pictures / f"class{label}" / f"{number}.png"
            (tmp_path / "data" / f"class{label}" / f"{number}.png").write_bytes(source.read_bytes())
    assert main(arguments(tmp_path / "data", tmp_path / "run", "--loss", "circle")) == 0
    assert all(record["recall@1"] is None for record in results(tmp_path / "run")["records"])
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.usefixtures("no_report")
def test_memory_bank_changes_what_losses_over_pairs_see(pictures, tmp_path, capsys):
    losses = ("--loss", "circle,nce")
    assert main(arguments(pictures, tmp_path / "with", *losses, "--memory-bank", "12")) == 0
    assert "--memory-bank changes nothing for nce" in capsys.readouterr().out
    assert main(arguments(pictures, tmp_path / "without", *losses)) == 0
    later = ("--memory-bank", "12", "--memory-from-step", "3")
    assert main(arguments(pictures, tmp_path / "later", *losses, *later)) == 0
    curves = {
        (loss, folder): torch.load(tmp_path / folder / f"{loss}-seed0.pt", weights_only=True)["losses"]
        for loss in ("circle", "nce")
        for folder in ("with", "without", "later")
    }
    assert curves["circle", "later"][:4] == curves["circle", "without"][:4]
    assert curves["circle", "later"][4] != curves["circle", "without"][4]
    chosen = {record["loss"]: record["hyper_parameters"] for record in results(tmp_path / "later")["records"]}
    assert chosen["circle"]["memory_from_step"] == 3 and "memory_from_step" not in chosen["nce"]
    assert curves["circle", "with"][0] == curves["circle", "without"][0]  # nothing to remember yet
    assert curves["circle", "with"][1] != curves["circle", "without"][1]
    assert curves["nce", "with"] == curves["nce", "without"]


@pytest.mark.usefixtures("no_report")
def test_letters_of_unseen_scripts(tmp_path, capsys):
    """Three of the five epochs of the default are enough for what it promises."""
    assert main(["--loss", "triplet,nce", "--epochs", "3", "--output", str(tmp_path)]) == 0
    recall = {record["loss"]: record["recall@1"] for record in results(tmp_path)["records"]}
    assert recall["triplet"] > recall["raw"] + 0.25
    assert recall["nce"] > recall["raw"]
    assert "Glyphs(split='test'" in capsys.readouterr().out


def test_listed_images_without_a_file_are_counted(real_data, tmp_path, capsys, no_report):
    source = real_data / "cub_mini_original" / "CUB_200_2011"
    for path in source.rglob("*"):
        if path.is_file() and not path.name.endswith("1.jpg"):
            (tmp_path / "data" / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / path.relative_to(source)).symlink_to(path)
    argv = (
        f"--dataset cub --root {tmp_path / 'data'} --train-classes 4 --max-steps 1 --image-size 16 --backbone convnet --loss circle".split()
    )
    assert main([*argv, "--output", str(tmp_path / "run")]) == 0
    absent = len(list(source.rglob("*1.jpg")))
    assert absent > 0
    assert results(tmp_path / "run")["records"][0]["split_sizes"]["missing_images"] == absent
    assert f"{absent} images" in capsys.readouterr().out


def test_default_is_the_six_losses():
    assert sorted(DEFAULT_LOSSES) == ["am_softmax", "circle", "contrastive", "lmnn", "nce", "triplet"]


@pytest.mark.parametrize(
    ("dataset", "folder", "train_classes", "split"),
    [
        ("cub", "cub_mini_original/CUB_200_2011", 4, {"train_images": 40, "train_classes": 4, "test_images": 40, "test_classes": 4}),
        ("cars", "cars_crops/stanford_cars", 36, {"train_classes": 36, "test_classes": 4}),
        ("omniglot", "omniglot", 950, {"train_images": 19_000, "train_classes": 950, "test_images": 280, "test_classes": 14}),
    ],
)
def test_real_images(real_data, tmp_path, dataset, folder, train_classes, split):
    argv = f"--dataset {dataset} --train-classes {train_classes} --max-steps 2 --batch-classes 4 --loss triplet,am_softmax".split()
    argv += [] if dataset == "omniglot" else ["--image-size", "48"]
    assert main([*argv, "--root", str(real_data / folder), "--output", str(tmp_path)]) == 0
    records = results(tmp_path)["records"]
    assert [record["loss"] for record in records] == ["raw", "untrained", "triplet", "am_softmax"]
    assert split.items() <= records[0]["split_sizes"].items()
    raw = records[0]
    assert raw["hyper_parameters"]["features"] == ("pixels" if dataset == "omniglot" else "efficientnet_lite0")
    assert all(record["recall@1"] > 2 / raw["split_sizes"]["test_classes"] for record in records if dataset != "cub")
    assert 'class="missing"' not in (tmp_path / "report.html").read_text(encoding="utf-8")
