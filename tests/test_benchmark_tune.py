"""`python -m benchmarks.tune`: cross-validation within the training classes, and the search on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_runs import failure, kill, numbers, results, started, write_vectors
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from benchmarks.features.cache import digests_of
from benchmarks.images import present
from benchmarks.images.readable import Readable
from benchmarks.presets import presets_of
from benchmarks.retrieval.__main__ import main as retrieval
from benchmarks.retrieval.experiment import Experiment, load_half
from benchmarks.retrieval.folds import class_folds, fold_experiments, rows_of
from benchmarks.retrieval.start import start_training
from benchmarks.training.losses import LOSSES, Objective
from benchmarks.tune import search
from benchmarks.tune.__main__ import main
from benchmarks.tune.options import parse
from benchmarks.tune.spaces import Choice, Range, drawn, space_of, with_values
from benchmarks.tune.trial import Fit, score
from metriczoo.data import Features, ImageFolder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("features"))


def arguments(vectors: Path, output: Path, *more: str) -> list[str]:
    words = (
        f"--protocol frozen --dataset features --root {vectors} --embedding-dim 4 --epochs 2 --batch-samples 2 --folds 2 --output {output}"
    )
    return [*words.split(), *more]


def best(folder: Path) -> dict:
    found = json.loads((folder / "presets.json").read_text())["presets"]
    return {name: {key: value for key, value in of_loss.items() if key != "source"} for name, of_loss in found.items()}


@pytest.fixture(scope="module")
def searched(vectors, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("searched") / "run"
    assert main(arguments(vectors, output, "--loss", "circle,am_softmax", "--trials", "4")) == 0
    return output


# -- folds ------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=4, max_size=30), st.integers(2, 5))
def test_folds_part_the_classes(sizes, num_folds):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if len(sizes) < 2 * num_folds:
        with pytest.raises(ValueError, match="expected at least"):
            class_folds(labels, num_folds)
        return
    held = np.stack(class_folds(labels, num_folds))
    assert (held.sum(0) == 1).all()
    counts = [len(np.unique(labels[mask])) for mask in held]
    assert sum(counts) == len(sizes)
    assert max(counts) - min(counts) <= 1
    for mask in held:  # classes that follow each other
        classes = np.unique(labels[mask])
        assert (np.diff(classes) == 1).all()


def test_folds_of_features_hold_their_rows(vectors):
    train = Features(vectors, "train")
    part = rows_of(train, np.flatnonzero(train.labels >= 5))
    assert part.class_ids.tolist() == [5, 6, 7]
    assert np.unique(part.labels).tolist() == [0, 1, 2]
    torch.testing.assert_close(part.features, train.features[30:])
    torch.testing.assert_close(part[4][0], train[34][0])
    assert part[4][1] == 0
    again = rows_of(part, np.flatnonzero(part.labels == 2))
    torch.testing.assert_close(again.features, train.features[42:])


def test_folds_of_images_share_their_features_in_the_cache(tmp_path):
    for label in range(6):
        (tmp_path / str(label)).mkdir()
        for number in range(2):
            Image.fromarray(np.full((4, 4, 3), 20 * label + number, np.uint8)).save(tmp_path / str(label) / f"{number}.png")
    data = ImageFolder(tmp_path, "all")
    whole = digests_of(data)
    part = rows_of(data, np.arange(4, 12))
    assert digests_of(part) == whole[4:]
    inner = rows_of(part, np.arange(2, 8))  # of a part of a part
    assert digests_of(inner) == whole[6:]
    assert isinstance(inner, Readable)
    assert np.asarray(inner[0][0])[0, 0, 0] == np.asarray(data[6][0])[0, 0, 0]
    with pytest.raises(TypeError, match="images or features"):
        rows_of([1, 2], np.arange(1))


def test_no_row_of_a_fold_is_on_both_sides(vectors):
    options = parse(arguments(vectors, Path("unused")))
    train, _, _ = load_half(options, "train")
    for fold in fold_experiments(options, train, 4):
        assert not {*fold.train.class_ids} & {*fold.test.class_ids}
        assert {*fold.train.class_ids} | {*fold.test.class_ids} == {*range(8)}


# -- test classes are not even read -----------------------------------------------


class Locked(Features):
    """Features whose test half raises when it is read."""

    def __init__(self, root, split="train", **options):
        if split != "train":
            raise AssertionError("test classes were read")
        super().__init__(root, split, **options)


def test_a_search_reads_no_test_class(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(present, "load", lambda name, root, split, **options: Locked(root, split, train_classes=None))
    assert main(arguments(vectors, tmp_path / "run", "--loss", "circle", "--trials", "2")) == 0
    with pytest.raises(AssertionError, match="test classes were read"):
        Experiment(parse(arguments(vectors, tmp_path / "other")))


def test_values_of_test_classes_change_nothing(vectors, tmp_path, searched):
    content = dict(np.load(vectors))
    content["X"][content["y"] >= 8] = 1e6
    other = tmp_path / "made.npz"
    np.savez(other, **content)
    assert main(arguments(other, tmp_path / "run", "--loss", "circle,am_softmax", "--trials", "4")) == 0
    assert numbers(tmp_path / "run") == numbers(searched)


# -- spaces -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("protocol", ["finetune", "frozen"])
def test_whatever_is_drawn_makes_a_loss(loss, protocol):
    preset = presets_of(protocol)[loss]
    space = space_of(loss, preset)
    assert "rate" in space
    assert ("proxy_rate" in space) == (preset.references in ("proxies", "tree") or loss == "margin")
    assert ("length" in space) == (preset.length is not None)
    for seed in range(4):
        values = drawn(space, np.random.default_rng(seed))
        json.dumps(values)
        found = with_values(preset, values)
        assert {**found.options, "rate": found.rate}.items() >= {
            k: v for k, v in values.items() if k not in ("proxy_rate", "length")
        }.items()
        objective = Objective(loss, num_classes=4, num_images=8, embedding_dim=3, presets={loss: found})
        objective(torch.eye(8, 3, requires_grad=True), torch.arange(8) // 2, torch.arange(8)).backward()
    for part in space.values():
        assert isinstance(part, Choice) or part.low < part.high


@given(st.integers(0, 2**32))
def test_draws_stay_within_bounds(seed):
    generator = np.random.default_rng(seed)
    assert 0.02 <= Range(0.02, 0.5, log=True).draw(generator) <= 0.5
    assert -15 <= Range(-15.0, 0.0).draw(generator) <= 0
    assert Choice((2, 5)).draw(generator) in (2, 5)


def test_logarithms_are_spread_evenly():
    generator = np.random.default_rng(0)
    values = np.array([Range(0.01, 1.0, log=True).draw(generator) for _ in range(2000)])
    assert np.mean(values < 0.1) == pytest.approx(0.5, abs=0.05)


# -- the search -------------------------------------------------------------------


def test_a_record_per_training_and_the_preset_first(searched):
    records = results(searched)["records"]
    found = [(r["loss"], r["trial"], r["root"], r["fold"], r["seed"]) for r in records]
    assert found == [(loss, trial, 0, fold, 0) for loss in ("am_softmax", "circle") for trial in range(4) for fold in range(2)]
    assert all(r["values"] == {} for r in records if r["trial"] == 0)
    assert all({"rate", "margin", "scale"} <= r["values"].keys() for r in records if r["trial"])
    assert all(0 <= r["score"] <= 1 for r in records)


def test_the_best_is_that_of_the_records(searched):
    records, found = results(searched)["records"], json.loads((searched / "presets.json").read_text())
    assert found["format"] == "metriczoo-presets-1"
    assert found["presets"] == results(searched)["best"]
    for loss, preset in found["presets"].items():
        scores = [np.mean([r["score"] for r in records if (r["loss"], r["trial"]) == (loss, trial)]) for trial in range(4)]
        record = preset["source"]["record"]
        assert record["best_trial"] == int(np.argmax(scores))
        assert record["score"] == pytest.approx(max(scores))
        assert record["score_before"] == pytest.approx(scores[0])
        values = next(r["values"] for r in records if (r["loss"], r["trial"]) == (loss, record["best_trial"]))
        expected = with_values(presets_of("frozen")[loss], values)
        assert (preset["options"], preset["rate"]) == (expected.options, expected.rate)
        assert (record["data"], record["folds"], record["trials"], record["protocol"]) == (["made"], 2, 4, "frozen")
        assert {"commit", "torch", "metriczoo"} <= record["versions"].keys()
        assert preset["source"]["kind"] == "search"
        assert str(searched.parent) not in json.dumps(found)  # nobody's paths


def test_scores_are_those_of_a_plain_loop(searched, vectors):
    options = parse(arguments(vectors, searched, "--loss", "circle"))
    fold = fold_experiments(options, load_half(options, "train")[0], 2)[1]
    training = start_training(fold, "circle", 0, presets_of("frozen")["circle"])
    while not training.done:
        training.train_epoch(lambda loss: None)
    embeddings, labels = fold.embeddings(training.encoder), fold.test.labels
    neighbours = NearestNeighbors(n_neighbors=6, metric="cosine").fit(embeddings).kneighbors(embeddings, return_distance=False)[:, 1:]
    right = labels[neighbours] == labels[:, None]
    average = (right * np.cumsum(right, 1) / np.arange(1, 6)).sum(1) / 5
    found = next(r["score"] for r in results(searched)["records"] if (r["loss"], r["trial"], r["fold"]) == ("circle", 0, 1))
    assert found == pytest.approx(average.mean(), abs=1e-6)
    assert score(embeddings, fold, "both") == pytest.approx((average.mean() + right[:, 0].mean()) / 2, abs=1e-6)
    assert score(embeddings * torch.nan, fold, "map@r") == 0


def test_the_preset_file_trains_the_retrieval_benchmark(searched, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.retrieval.__main__.write_report", lambda path, **contents: None)
    words = f"--protocol frozen --dataset features --root {vectors} --embedding-dim 4 --epochs 2 --batch-samples 2 --loss circle"
    assert retrieval([*words.split(), "--presets", str(searched / "presets.json"), "--output", str(tmp_path / "run")]) == 0
    chosen = next(r for r in results(tmp_path / "run")["records"] if r["loss"] == "circle")["hyper_parameters"]
    assert best(searched)["circle"]["options"].items() <= chosen.items()
    assert results(tmp_path / "run")["settings"]["presets"]["circle"]["rate"] == best(searched)["circle"]["rate"]


def test_one_loss_is_searched_alike_whichever_others_are(searched, vectors, tmp_path):
    assert main(arguments(vectors, tmp_path / "run", "--loss", "circle", "--trials", "3")) == 0
    assert numbers(tmp_path / "run") == [r for r in numbers(searched) if r["loss"] == "circle" and r["trial"] < 3]


def test_several_data_sets_count_alike(searched, vectors, tmp_path):
    assert main(arguments(vectors, tmp_path / "run", "--loss", "circle", "--trials", "2", "--also-root", str(vectors))) == 0
    records = numbers(tmp_path / "run")
    assert [(r["trial"], r["root"], r["fold"]) for r in records] == [(t, r, f) for t in range(2) for r in range(2) for f in range(2)]
    assert [r["score"] for r in records if r["root"] == 0] == [r["score"] for r in records if r["root"] == 1]
    assert json.loads((tmp_path / "run" / "presets.json").read_text())["presets"]["circle"]["source"]["record"]["data"] == ["made"] * 2


def test_processes_change_nothing(searched, vectors, tmp_path):
    assert main(arguments(vectors, tmp_path / "run", "--loss", "am_softmax", "--trials", "2", "--jobs", "2")) == 0
    assert numbers(tmp_path / "run") == [r for r in numbers(searched) if r["loss"] == "am_softmax" and r["trial"] < 2]


def test_an_interrupted_search_goes_on_to_the_same_values(searched, vectors, tmp_path, monkeypatch, capsys):
    plain, done = search.trial_score, []

    def failing(*arguments):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(search, "trial_score", failing)
    argv = arguments(vectors, tmp_path / "run", "--loss", "circle,am_softmax", "--trials", "4")
    assert main(argv) == 130
    assert len(results(tmp_path / "run")["records"]) == 5
    monkeypatch.setattr(search, "trial_score", plain)
    capsys.readouterr()
    assert "--resume" in failure(main, capsys, argv)
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path / "run") == numbers(searched)
    assert best(tmp_path / "run") == best(searched)


def test_a_killed_search_goes_on_to_the_same_values(searched, vectors, tmp_path):
    argv = arguments(vectors, tmp_path / "run", "--loss", "circle,am_softmax", "--trials", "4")
    path = tmp_path / "run" / "results.json"
    kill(started("benchmarks.tune", argv, lambda: path.exists() and len(results(path.parent)["records"]) >= 3))
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path / "run") == numbers(searched)


def test_a_training_that_diverges_scores_nothing(vectors, tmp_path):
    assert main(arguments(vectors, tmp_path / "run", "--loss", "softmax", "--trials", "1", "--head-rate", "1e30")) == 0
    assert all(0 <= record["score"] < 1 for record in numbers(tmp_path / "run"))


def test_bayesian_search_without_its_library_says_what_to_install(vectors, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(arguments(vectors, tmp_path / "run", "--loss", "circle", "--trials", "2", "--search", "tpe")) == 2
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bayesian_search_resumes_to_the_same_values(vectors, tmp_path):
    pytest.importorskip("optuna")
    argv = ["--loss", "circle", "--search", "tpe"]
    assert main(arguments(vectors, tmp_path / "whole", *argv, "--trials", "4")) == 0
    values = [record["values"] for record in numbers(tmp_path / "whole")]
    assert values[0] == {}
    assert len({json.dumps(part) for part in values}) == 4
    whole = results(tmp_path / "whole")
    part = {**whole, "records": whole["records"][:5]}
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "results.json").write_text(json.dumps(part))
    assert main([*arguments(vectors, tmp_path / "part", *argv, "--trials", "4"), "--resume"]) == 0
    assert numbers(tmp_path / "part") == numbers(tmp_path / "whole")


def test_early_stopping_keeps_the_best_epoch(vectors):
    options = parse(arguments(vectors, Path("unused"), "--loss", "circle", "--epochs", "12"))
    fold = fold_experiments(options, load_half(options, "train")[0], 2)[0]
    fit = Fit(start_training(fold, "circle", 0, presets_of("frozen")["circle"]), fold, "map@r", patience=2)
    states = [fit.training.encoder.state_dict()["head.linear.weight"].clone()]
    while not fit.ended:
        fit.epoch()
        states.append(fit.training.encoder.state_dict()["head.linear.weight"].clone())
    assert fit.best_epoch == int(np.argmax(fit.values))
    assert torch.equal(fit.best["head.linear.weight"], states[fit.best_epoch])
    assert fit.training.done or len(fit.values) - 1 == fit.best_epoch + 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "1"], "at least 2"),
        (["--trials", "0"], "at least 1"),
        (["--metric", "recal"], "Did you mean"),
        (["--search", "tpa"], "Did you mean 'tpe'"),
        (["--protocol", "reality-check"], "finetune or frozen"),
    ],
)
def test_a_wrong_option_is_an_error_in_one_line(vectors, tmp_path, capsys, more, message):
    assert message in failure(main, capsys, [*arguments(vectors, tmp_path / "run"), *more])


def test_too_few_classes_are_an_error_in_one_line(vectors, tmp_path, capsys):
    message = failure(main, capsys, arguments(vectors, tmp_path / "run", "--loss", "circle", "--folds", "5"))
    assert "expected at least 10 training classes, but there are 8" in message
    assert not (tmp_path / "run").exists()  # a folder of these settings would be in the way of better ones


def test_help_says_that_test_classes_are_not_read(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Test classes are not even read" in shown
    assert "--patience" not in shown
