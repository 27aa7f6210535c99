"""`python -m benchmarks.retrieval --protocol reality-check`: models of a cross-validation within the training classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_runs import failure, kill, numbers, results, started, write_pictures, write_vectors
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from benchmarks.presets.files import read_presets
from benchmarks.retrieval import reality
from benchmarks.retrieval.__main__ import main
from benchmarks.retrieval.options import defaults_of, parse
from benchmarks.retrieval.reality import of_seeds, seed_intervals
from benchmarks.training.losses import LOSSES
from metriczoo.data import Features

ROWS = ("circle", "circle ×2")  # noqa: RUF001


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("features"))


def arguments(vectors: Path, output: Path, *more: str) -> list[str]:
    words = f"--protocol reality-check-frozen --dataset features --root {vectors} --embedding-dim 4 --epochs 4 --batch-samples 2"
    return [*words.split(), "--loss", "circle", "--folds", "2", "--output", str(output), *more]


@pytest.fixture(scope="module")
def whole(vectors, tmp_path_factory) -> Path:
    """A check with two seeds that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(vectors, output, "--seeds", "2")) == 0
    return output


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr("benchmarks.retrieval.__main__.write_report", lambda path, **contents: None)


def test_a_record_for_the_models_alone_and_together(whole):
    found = [(record["loss"], record["seed"]) for record in results(whole)["records"]]
    assert found == [("raw", None), ("pca", None), *((row, seed) for seed in (0, 1) for row in ROWS)]
    for record in results(whole)["records"][2:]:
        assert record["protocol"] == "reality-check-frozen"
        alone = record["embeddings"] == "separate"
        assert record["loss"] == ROWS[0 if alone else 1]
        assert record["hyper_parameters"]["embedding_dim"] == (4 if alone else 8)
        assert record["hyper_parameters"]["decay"] is False
        assert len(record["models"]) == 2
        assert all(0 <= model["epoch"] <= model["epochs"] <= 4 for model in record["models"])
        assert record["split_sizes"]["test_classes"] == 8
        assert record["intervals"].keys() >= {"recall@1", "map@r"}


def models_of(whole: Path, seed: int) -> list[dict]:
    return [torch.load(whole / f"circle-seed{seed}-model{number}.pt", weights_only=True) for number in range(2)]


def recall(embeddings, labels) -> float:
    neighbours = NearestNeighbors(n_neighbors=2, metric="cosine").fit(embeddings).kneighbors(embeddings, return_distance=False)
    return float(np.mean(labels[neighbours[:, 1]] == labels))


def test_numbers_are_those_of_the_models(whole, vectors):
    test = Features(vectors, "test")
    unit = test.features / test.features.norm(dim=1, keepdim=True)
    for seed in (0, 1):
        parts = []
        for model in models_of(whole, seed):
            mapped = unit @ model["best"]["head.linear.weight"].T + model["best"]["head.linear.bias"]
            parts.append((mapped / mapped.norm(dim=1, keepdim=True)).numpy())
        records = {r["embeddings"]: r for r in results(whole)["records"] if r["seed"] == seed}
        separate = np.mean([recall(part, test.labels) for part in parts])
        assert records["separate"]["recall@1"] == pytest.approx(separate, abs=1e-6)
        assert records["concatenated"]["recall@1"] == pytest.approx(recall(np.concatenate(parts, 1), test.labels), abs=1e-6)


def test_each_model_stops_at_its_best_epoch(whole):
    for seed in (0, 1):
        for number, model in enumerate(models_of(whole, seed)):
            assert model["ended"]
            assert model["best_epoch"] == int(np.argmax(model["values"]))
            assert "optimizer" not in model
            record = next(r for r in results(whole)["records"] if r["seed"] == seed)["models"][number]
            assert record == {"epoch": model["best_epoch"], "held_out": max(model["values"]), "epochs": len(model["values"]) - 1}


def test_models_differ_in_classes_and_seeds(whole):
    weights = [model["best"]["head.linear.weight"] for seed in (0, 1) for model in models_of(whole, seed)]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i] if a is not b)


def test_test_classes_choose_nothing(vectors, whole, tmp_path, no_report):
    content = dict(np.load(vectors))
    content["X"][content["y"] >= 8] = np.random.default_rng(1).normal(size=(48, 12))
    other = tmp_path / "made.npz"
    np.savez(other, **content)
    assert main(arguments(other, tmp_path / "run")) == 0
    for before, after in zip(models_of(whole, 0), models_of(tmp_path / "run", 0), strict=True):
        assert before["values"] == after["values"]
        assert torch.equal(before["best"]["head.linear.weight"], after["best"]["head.linear.weight"])


def test_intervals_over_seeds_are_those_of_student(whole):
    found = {(f["loss"], f["metric"]): f for f in results(whole)["seed_intervals"]}
    assert found.keys() == {(row, metric) for row in ROWS for metric in ("recall@1", "map@r")}
    for (row, metric), interval in found.items():
        values = [record[metric] for record in results(whole)["records"] if record["loss"] == row]
        assert (interval["seeds"], interval["mean"]) == (2, pytest.approx(np.mean(values)))
        spread = stats.sem(values)
        expected = stats.t.interval(0.95, 1, np.mean(values), spread) if spread else [np.mean(values)] * 2
        assert interval["interval"] == pytest.approx(expected)


def test_a_single_seed_has_no_interval():
    records = [{"loss": "a", "recall@1": 0.5, "map@r": None}]
    found = seed_intervals(records, ["a"])
    assert [f["interval"] for f in found] == [[None, None]] * 2
    assert [f["mean"] for f in found] == [0.5, None]
    assert len(of_seeds({"seed_intervals": found})) == 1
    assert of_seeds({}) == []


def test_known_interval_in_words():
    records = [{"loss": "a", "recall@1": value, "map@r": 0.25} for value in (0.4, 0.5, 0.6)]
    lines = of_seeds({"seed_intervals": seed_intervals(records, ["a"])})  # 0.5 ± 4.3027 * 0.1 / sqrt(3)
    assert lines[1] == "a: R@1 50.0, 95 % 25.2 to 74.8 over 3 seeds"
    assert lines[-1] == "Intervals over seeds are those of Student's t."


def test_report_and_table_show_both_forms_and_the_intervals(whole, vectors, capsys, monkeypatch):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert all(f"<h3>{row}</h3>" in page for row in ROWS)
    assert "Models of a cross-validation" in page
    assert 'class="missing"' not in page
    monkeypatch.setenv("COLUMNS", "160")
    assert main([*arguments(vectors, whole, "--seeds", "2"), "--resume"]) == 0
    shown = capsys.readouterr().out
    assert all(row in shown for row in (*ROWS, "pca", "raw"))
    assert "over 2 seeds" in shown


def test_nothing_is_trained_twice(whole, vectors, monkeypatch, no_report):
    before = numbers(whole)
    monkeypatch.setattr(reality.Fit, "epoch", lambda *arguments: pytest.fail("trained again"))
    assert main([*arguments(vectors, whole, "--seeds", "2"), "--resume"]) == 0
    assert numbers(whole) == before


def test_an_interrupted_check_goes_on_to_the_same_numbers(whole, vectors, tmp_path, monkeypatch, no_report):
    plain, done = reality.Fit.epoch, []

    def failing(self, on_step):
        if len(done) in (2, 7):
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append(plain(self, on_step))

    monkeypatch.setattr(reality.Fit, "epoch", failing)
    argv = [*arguments(vectors, tmp_path / "run", "--seeds", "2"), "--resume"]
    assert [main(argv) for _ in range(3)] == [130, 130, 0]
    assert numbers(tmp_path / "run") == numbers(whole)


def test_a_killed_check_goes_on_to_the_same_numbers(whole, vectors, tmp_path, no_report):
    argv = arguments(vectors, tmp_path / "run", "--seeds", "2")
    kill(started("benchmarks.retrieval", argv, (tmp_path / "run" / "circle-seed0-model1.pt").exists))
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path / "run") == numbers(whole)


def test_hyper_parameters_are_searched_on_the_folds(vectors, tmp_path, no_report):
    assert main(arguments(vectors, tmp_path / "run", "--trials", "3")) == 0
    records = results(tmp_path / "run" / "search")["records"]
    assert [(r["trial"], r["fold"]) for r in records] == [(trial, fold) for trial in range(3) for fold in range(2)]
    means = [np.mean([r["score"] for r in records if r["trial"] == trial]) for trial in range(3)]
    found = results(tmp_path / "run")["searched"]["circle"]
    assert found["source"]["record"]["best_trial"] == int(np.argmax(means))
    chosen = results(tmp_path / "run")["records"][-1]["hyper_parameters"]
    assert found["options"].items() <= chosen.items()
    path = tmp_path / "presets.json"  # it is a preset like any other
    path.write_text(json.dumps({"format": "metriczoo-presets-1", "presets": {"circle": found}}))
    assert read_presets(path, LOSSES)["circle"] == found
    before = numbers(tmp_path / "run")
    assert main([*arguments(vectors, tmp_path / "run", "--trials", "3"), "--resume"]) == 0
    assert numbers(tmp_path / "run") == before


def test_encoders_on_images_are_checked_too(tmp_path, no_report):
    write_pictures(tmp_path / "pictures", classes=12, each=4, cells=4)
    words = f"--protocol reality-check --dataset folder --root {tmp_path / 'pictures'} --backbone convnet --image-size 8 --embedding-dim 4"
    words += f" --epochs 1 --batch-samples 2 --loss circle,center --folds 2 --output {tmp_path / 'run'}"
    assert main(words.split()) == 0
    assert len(results(tmp_path / "run")["records"]) == 6
    assert results(tmp_path / "run")["records"][1]["loss"] == "untrained"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--folds 3", "--folds does nothing for --protocol finetune"),
        ("--protocol frozen --trials 3", "--trials does nothing for --protocol frozen"),
        ("--protocol reality-check --folds 1", "at least 2"),
        ("--protocol reality-chek", "Did you mean 'reality-check'?"),
        ("--protocol reality-check-frozen --chunk 3", "--chunk does nothing for --protocol reality-check-frozen"),
    ],
)
def test_wrong_options_are_errors_in_one_line(words, message, capsys):
    assert message in failure(parse, capsys, words.split())


def test_too_few_classes_are_an_error_before_there_is_a_folder(vectors, tmp_path, capsys):
    assert "expected at least 100 training classes" in failure(main, capsys, [*arguments(vectors, tmp_path / "run"), "--folds", "50"])
    assert not (tmp_path / "run").exists()


def test_defaults_are_those_of_the_paper():
    options = parse(["--protocol", "reality-check", "--dataset", "glyphs"])
    assert (options.folds, options.trials) == (4, 0)
    assert options.epochs == 2 * defaults_of("glyphs").epochs
