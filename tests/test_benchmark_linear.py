"""`python -m benchmarks.linear`, run as a user runs it, and its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.linear.__main__ import main
from benchmarks.linear.data import DATA, Split, load, split
from benchmarks.linear.measures import measures
from benchmarks.linear.options import PRESETS, parse
from benchmarks.linear.peers import PeerError, fit_peer
from benchmarks.linear.runs import MEASURES
from benchmarks.linear.systems import SYSTEMS
from benchmarks.linear.tables import html_tables, plain_tables, rows_of

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--quick", "--dataset", "iris", "--system", "euclidean,mahalanobis,mmc,lmnn,nca,pylmnn", "--splits", "2", "--threads", "1"]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def numbers(folder: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "versions")} for record in results(folder)["records"]]


def without_peer() -> list[str]:
    """An interpreter that has no pylmnn: this one, without its packages."""
    return ["--peer-python", sys.executable]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A benchmark that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "new" / "folder"
    assert main([*TINY, *without_peer(), "--output", str(output)]) == 0
    return output


# -- the whole benchmark


def check_schema(found: dict) -> None:
    assert set(found) == {"dataset", "settings", "records"}
    assert found["dataset"] == "linear"
    for record in found["records"]:
        facts = "dataset data loss seed split_sizes seconds steps rank error hyper_parameters device threads versions"
        assert set(record) == {*facts.split(), *MEASURES}
        assert set(record["split_sizes"]) == {"train", "test", "classes", "features"}
        assert record["loss"] in SYSTEMS and record["data"] in DATA
        if record["error"] is None:
            assert 0 <= record["knn_error"] <= 1 and 0 <= record["energy_error"] <= 1
            assert record["objective"] > 0 and record["impostors"] >= 0 and record["seconds"] >= 0
            assert 1 <= record["rank"] <= record["split_sizes"]["features"]
        else:
            assert all(record[key] is None for key in (*MEASURES, "seconds", "steps", "rank"))


def test_results_follow_their_schema(whole):
    found = results(whole)
    check_schema(found)
    assert len(found["records"]) == 2 * 6


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("linear-*.json")), ids=lambda path: path.name)
def test_kept_results_follow_the_schema(path):
    check_schema(json.loads(path.read_text()))


def test_a_peer_that_is_missing_is_told_and_nothing_is_hidden(whole):
    records = [r for r in results(whole)["records"] if r["loss"] == "pylmnn"]
    assert len(records) == 2
    assert all("pylmnn" in r["error"] for r in records)
    row = next(row for row in rows_of(results(whole)["records"])["iris"] if row.name == "pylmnn")
    assert row.runs == 0 and np.isnan(row.mean["knn_error"])
    assert "No module named" in html_tables(records) and "No module named" in plain_tables({"records": records})[0][3]


def test_the_objective_is_least_after_lmnn(whole):
    for seed in (0, 1):
        found = {r["loss"]: r["objective"] for r in results(whole)["records"] if r["seed"] == seed and not r["error"]}
        assert min(found, key=found.__getitem__) == "lmnn"


def test_report(whole):
    page = (whole / "report.html").read_text()
    assert page.count("<svg") == 5
    assert "LMNN, pylmnn: ModuleNotFoundError" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "missing" in page
    assert page.count("<h4>") == 5


def test_a_run_killed_and_resumed_has_the_same_numbers(whole, tmp_path):
    command = [sys.executable, "-m", "benchmarks.linear", *TINY, *without_peer(), "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        path = tmp_path / "results.json"
        if path.exists() and len(json.loads(path.read_text())["records"]) >= 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    process.wait(timeout=60)
    assert 2 <= len(results(tmp_path)["records"]) < 12
    assert main([*TINY, *without_peer(), "--output", str(tmp_path), "--resume"]) == 0
    assert numbers(tmp_path) == numbers(whole)
    assert (tmp_path / "report.html").exists()


def failure(capsys, argv: list[str]) -> str:
    """The one line in which a run that must fail says why."""
    try:
        status = main(argv)
    except SystemExit as error:
        status = error.code
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_nothing_is_overwritten(whole, capsys):
    before = results(whole)
    assert "--resume" in failure(capsys, [*TINY, "--output", str(whole)])
    assert "other settings" in failure(capsys, [*TINY, "--neighbors", "1", "--output", str(whole), "--resume"])
    assert results(whole) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataset", "iriss"], "Did you mean 'iris'"),
        (["--system", "lmn"], "Did you mean 'lmnn'"),
        (["--preset", "paper"], "lmnn-paper"),
        (["--splits", "0"], "at least 1"),
        (["--peer-python", "no-such-python"], "no such program"),
        (["--datasets", "iris"], "Did you mean '--dataset'"),
        (["--dataset", "letter", "--root", "nowhere"], "letter.npz"),
    ],
)
def test_mistakes_are_told_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in failure(capsys, argv)


def test_preset_and_what_goes_before_it():
    options = parse(["--preset", "lmnn-paper"])
    assert (options.datasets, options.neighbors, options.splits) == tuple(PRESETS["lmnn-paper"].values())
    assert {"letter", "isolet", "mnist"} < set(options.datasets)
    options = parse(["--preset", "lmnn-paper", "--splits", "2", "--dataset", "iris"])
    assert (options.datasets, options.neighbors, options.splits) == (["iris"], 3, 2)


# -- data


@pytest.mark.parametrize("name", ["iris", "digits"])
def test_splits_keep_the_shares_of_classes_and_depend_on_the_seed_alone(name):
    X, y = load(name, None)
    parts = [split(name, X, y, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0].X_test, parts[1].X_test)
    assert not np.array_equal(parts[0].y_test, parts[2].y_test)
    share = np.bincount(parts[0].y_test) / np.bincount(y)
    assert np.abs(share - 0.3).max() < 0.02
    np.testing.assert_allclose(parts[0].X.mean(0), 0, atol=1e-12)
    deviation = parts[0].X.std(0)
    if name == "iris":
        np.testing.assert_allclose(deviation, 1)
    else:
        assert (parts[0].X ** 2).sum(1).mean() == pytest.approx(16)


@pytest.mark.parametrize("name", ["letter", "isolet", "coil20", "mnist"])
def test_real_tables(name, real_data):
    X, y = load(name, str(real_data), classes=4, most=60)
    assert len(np.unique(y)) == 4
    assert np.bincount(y).max() <= 60
    part = split(name, X, y, 0)
    assert part.X.shape[1] == {"letter": 16, "isolet": 167, "coil20": 100, "mnist": 164}[name]  # of 168 points
    assert (part.X**2).sum(1).mean() == pytest.approx(16)


# -- measures


def naive(L, part, k):
    """Errors, and the objective of the paper at the best of many scales, by loops."""
    Z, T = part.X @ L.T, part.X_test @ L.T
    squared = ((Z[:, None] - Z[None]) ** 2).sum(2)
    plain = ((part.X[:, None] - part.X[None]) ** 2).sum(2)
    targets = []
    for i, label in enumerate(part.y):
        own = [j for j in np.argsort(plain[i], kind="stable") if j != i and part.y[j] == label]
        targets += [(i, j) for j in own[:k]]

    def value(scale):
        total = 0.0
        for i, j in targets:
            push = sum(max(0.0, 1 + scale * (squared[i, j] - squared[i, m])) for m in range(len(Z)) if part.y[m] != part.y[i])
            total += 0.5 * scale * squared[i, j] + 0.5 * push
        return total

    error = np.mean(KNeighborsClassifier(k).fit(Z, part.y).predict(T) != part.y_test)
    return error, min(value(scale) for scale in np.exp(np.linspace(-6, 6, 61))) / len(Z)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_measures_are_those_of_loops(seed):
    random = np.random.RandomState(seed)
    y, y_test = np.repeat([0, 1, 2], 6), np.repeat([0, 1, 2], 3)
    part = Split(random.randn(18, 3) + y[:, None], y, random.randn(9, 3) + y_test[:, None], y_test)
    L = random.randn(2, 3)
    found, (error, objective) = measures(L, part, 2), naive(L, part, 2)
    assert found["knn_error"] == error
    assert found["objective"] == pytest.approx(objective, rel=0.02)
    assert found["objective"] <= objective * (1 + 1e-6)
    again = measures(5 * L, part, 2)
    assert again["objective"] == pytest.approx(found["objective"], rel=1e-3)
    assert again["energy_error"] == found["energy_error"]


# -- other libraries


def test_a_peer_runs_in_a_process_of_its_own(tmp_path):
    """A stand-in for pylmnn, which needs an old environment, with its interface."""
    package = tmp_path / "pylmnn"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import numpy as np\nfrom GPyOpt.methods import BayesianOptimization\n__version__ = '1.6.4'\n"
        "class LargeMarginNearestNeighbor:\n"
        "    def __init__(self, n_neighbors, max_iter, random_state): self.k, self.seed = n_neighbors, random_state\n"
        "    def fit(self, X, y): self.components_, self.n_iter_ = (self.k + self.seed) * np.eye(X.shape[1]), 7\n"
    )
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    L, seconds, steps, about = fit_peer("pylmnn", np.random.RandomState(0).randn(8, 2), np.arange(8) % 2, 3, 2, str(script), 60)
    np.testing.assert_array_equal(L, 5 * np.eye(2))
    assert steps == 7 and seconds >= 0 and about == {"version": "1.6.4"}


def test_a_peer_that_fails_or_takes_too_long():
    X, y = np.zeros((4, 2)), np.array([0, 0, 1, 1])
    with pytest.raises(PeerError, match="No module named 'pylmnn'"):
        fit_peer("pylmnn", X, y, 1, 0, None, 60)
    with pytest.raises(PeerError, match=r"given up after 0\.001 seconds"):
        fit_peer("pylmnn", X, y, 1, 0, None, 0.001)
