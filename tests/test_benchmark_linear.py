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
from benchmark_runs import ROOT, failure, kill, numbers, results, started
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.linear.__main__ import main
from benchmarks.linear.data import DATA, Split, load, split
from benchmarks.linear.measures import measures, objective_of
from benchmarks.linear.options import PRESETS, parse
from benchmarks.linear.paired import compare, sentences
from benchmarks.linear.peers import PeerError, fit_peer
from benchmarks.linear.race import PENALTIES, race
from benchmarks.linear.runs import MEASURES
from benchmarks.linear.systems import SYSTEMS
from benchmarks.linear.tables import html_tables, plain_tables, rows_of
from metriczoo.linear import LMNN

TINY = ["--quick", "--dataset", "iris", "--system", "euclidean,mahalanobis,mmc,lmnn,nca,pylmnn", "--splits", "2", "--threads", "1"]


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
        assert set(record) - {"race"} == {*facts.split(), *MEASURES}
        against = record.get("race")  # results made before there were races have none
        if against is not None:
            assert record["loss"] in PENALTIES and set(against) == {"objective", "peer_seconds", "seconds", "steps"}
            assert against["objective"] > 0 and (against["seconds"] is None) == (against["steps"] is None)
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


def test_systems_are_compared_split_by_split(whole):
    records = [r for r in results(whole)["records"] if r["data"] == "iris"]
    error = {(r["loss"], r["seed"]): 100 * r["knn_error"] for r in records if not r["error"]}
    mean = np.mean([error["lmnn", seed] - error["euclidean", seed] for seed in (0, 1)])
    expected = f"kNN error of LMNN less that of Euclidean: {mean:+.2f} ± "
    assert expected in html_tables(records) and expected in plain_tables({"records": records})[0][3]
    assert expected in (whole / "report.html").read_text()
    assert "that of LMNN, pylmnn" not in html_tables(records)  # which did not run


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
    argv = [*TINY, *without_peer(), "--output", str(tmp_path)]
    kill(started("benchmarks.linear", argv, lambda: (tmp_path / "results.json").exists() and len(results(tmp_path)["records"]) >= 2))
    assert 2 <= len(results(tmp_path)["records"]) < 12
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path) == numbers(whole)
    assert (tmp_path / "report.html").exists()


def test_nothing_is_overwritten(whole, capsys):
    before = results(whole)
    assert "--resume" in failure(main, capsys, [*TINY, "--output", str(whole)])
    assert "other settings" in failure(main, capsys, [*TINY, "--neighbors", "1", "--output", str(whole), "--resume"])
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
    assert message in failure(main, capsys, argv)


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


def stand_in(folder: Path, body: str) -> str:
    """An interpreter with a pylmnn of the interface of the true one, which needs an old environment."""
    package = folder / "pylmnn"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, time\nimport numpy as np\nfrom GPyOpt.methods import BayesianOptimization\n__version__ = '1.6.4'\n"
        "class LargeMarginNearestNeighbor:\n"
        "    def __init__(self, n_neighbors, max_iter, random_state): self.k, self.seed = n_neighbors, random_state\n"
        "    def _loss_grad_lbfgs(self, L, X, y): return abs(L[0] - 2), None\n"
        f"    def fit(self, X, y):\n        {body}\n"
    )
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


_TRY = "for s in (1, 2, 3): self._loss_grad_lbfgs(s * np.eye(2).ravel(), X, y)"


def test_a_peer_runs_in_a_process_of_its_own(tmp_path):
    python = stand_in(tmp_path, f"{_TRY}\n        self.components_, self.n_iter_ = (self.k + self.seed) * np.eye(2), 7")
    fit = fit_peer("pylmnn", np.random.RandomState(0).randn(8, 2), np.arange(8) % 2, 3, 2, python, 60)
    np.testing.assert_array_equal(fit.L, 5 * np.eye(2))
    np.testing.assert_array_equal(fit.best, 2 * np.eye(2))
    assert fit.steps == 7 and fit.seconds >= 0 and fit.cpu_seconds >= 0 and fit.version == "1.6.4"


def test_a_peer_that_is_stopped_tells_how_far_it_got(tmp_path):
    python = stand_in(tmp_path, f"{_TRY}\n        while True: time.sleep(0.01); self._loss_grad_lbfgs(9 * np.eye(2).ravel(), X, y)")
    fit = fit_peer("pylmnn", np.random.RandomState(0).randn(8, 2), np.arange(8) % 2, 3, 2, python, 0.1)
    assert fit.L is None and 0 < fit.seconds < 60
    np.testing.assert_array_equal(fit.best, 2 * np.eye(2))
    output = tmp_path / "output"
    python = ["--peer-python", python, "--peer-seconds", "1"]
    assert main(["--quick", "--dataset", "iris", "--system", "lmnn,pylmnn", *python, "--output", str(output)]) == 0
    check_schema(results(output))
    record = results(output)["records"][1]
    assert record["error"] == "stopped after 1 seconds" and record["race"]["objective"] > 0 and record["race"]["seconds"] > 0
    assert "LMNN is down at the objective of LMNN, pylmnn" in (output / "report.html").read_text()


def test_a_benchmark_that_is_ended_leaves_no_peer(tmp_path):
    """Ended by a manager of jobs, by Ctrl-C, and so that it can do nothing any more."""
    statuses = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
    runs = {number: begun(tmp_path / number.name) for number in statuses}
    for number, (process, note) in runs.items():
        wait_until(lambda note=note: note.exists() and note.read_text().endswith("."))
        peer = Path("/proc") / note.read_text()[:-1]
        assert (peer / "status").exists()
        process.send_signal(number)
        assert process.wait(timeout=90) == statuses[number]
        wait_until(lambda peer=peer: not (peer / "status").exists() or "State:\tZ" in (peer / "status").read_text())
        if number != signal.SIGKILL:
            assert not list((note.parent / "scratch").glob("*/*.npz"))


def begun(folder: Path) -> tuple[subprocess.Popen, Path]:
    """A benchmark whose peer has nothing to do but to write down its number."""
    (folder / "scratch").mkdir(parents=True)
    note = folder / "pid"
    python = stand_in(folder, f"open({str(note)!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(300)")
    command = [sys.executable, "-m", "benchmarks.linear", "--quick", "--dataset", "iris", "--system", "pylmnn", "--peer-python", python]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "scratch")}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process, note


def wait_until(done) -> None:
    deadline = time.monotonic() + 90
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_peer_that_fails_or_takes_too_long():
    X, y = np.zeros((4, 2)), np.array([0, 0, 1, 1])
    with pytest.raises(PeerError, match="No module named 'pylmnn'"):
        fit_peer("pylmnn", X, y, 1, 0, None, 60)
    with pytest.raises(PeerError, match=r"given up after 0\.001 seconds"):
        fit_peer("metric_learn_mmc", X, y, 1, 0, None, 0.001)


# -- in pairs


def record_of(name: str, seed: int, error: float | None, **more) -> dict:
    return {"loss": name, "seed": seed, "knn_error": error, "split_sizes": {"train": 70, "test": 30}, **more}


def test_differences_of_the_splits_that_two_systems_share():
    ours, theirs = [0.1, 0.2, 0.3, 0.1, 0.9], [0.2, 0.2, 0.1, 0.3, None]
    records = [record_of("lmnn", s, e) for s, e in enumerate(ours)] + [record_of("pylmnn", s, e) for s, e in enumerate(theirs)]
    found = compare(records, "lmnn", "pylmnn")
    assert (found.better, found.equal, found.worse) == (2, 1, 1)
    assert found.mean == pytest.approx(-0.025)
    deviation = np.std([-0.1, 0.0, 0.2, -0.2], ddof=1)
    assert found.half == pytest.approx(3.18244631 * deviation * np.sqrt(1 / 4 + 30 / 70))
    text = f"kNN error of LMNN less that of pylmnn: -2.50 ± {100 * found.half:.2f} (better on 2, equal on 1, worse on 1 of 4 splits)"
    assert list(sentences(records, {"lmnn": "LMNN", "pylmnn": "pylmnn"})) == [text]
    assert compare(records, "lmnn", "nca") is None
    assert "± " not in next(sentences(records[:1] + records[5:6], {"lmnn": "LMNN", "pylmnn": "pylmnn"}))


def test_races_are_told():
    titles = {"lmnn": "LMNN", "pylmnn": "pylmnn"}
    one = {"objective": 2.5, "peer_seconds": 9.0, "seconds": 2.0, "steps": 3}
    records = [record_of("pylmnn", 0, None, race=one), record_of("pylmnn", 1, 0.1, race={**one, "peer_seconds": 3.0})]
    text = "LMNN is down at the objective of pylmnn (2.5 by its penalty) in 2.00 CPU seconds, pylmnn in 6.00, 3.0 times as many"
    assert list(sentences(records, titles)) == [text]
    missed = record_of("pylmnn", 2, 0.1, race={**one, "seconds": None, "steps": None})
    assert list(sentences([*records, missed], titles)) == [f"{text}; not on 1 split"]
    assert "does not come down" in next(sentences([missed], titles))


@pytest.mark.parametrize("peer", list(PENALTIES))
def test_a_race_ends_at_the_objective_of_the_peer(peer):
    part = split("wine", *load("wine", None), 0)
    squared = PENALTIES[peer] == "squared"
    goal = LMNN(penalty=PENALTIES[peer], tol=1e-3, random_state=0).fit(part.X, part.y)
    found = race(peer, goal.components_, 5.0, part, 3)
    assert found["objective"] * len(part.X) == pytest.approx(objective_of(part, 3, squared=squared)(goal.components_[None])[0])
    assert found["objective"] * len(part.X) == pytest.approx(goal.objectives_[-1])
    assert abs(found["steps"] - goal.n_iter_) <= 1 and found["seconds"] > 0 and found["peer_seconds"] == 5.0
    easy = race(peer, np.eye(13), 5.0, part, 3)
    assert easy["steps"] == 1


def test_a_race_that_cannot_be_won():
    part = split("iris", *load("iris", None), 0)
    goal = LMNN(max_iter=200).fit(part.X, part.y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.linear.race._MOST", 20)
        patch.setattr("benchmarks.linear.race.objective_of", lambda *_, **__: lambda maps: (0.5 * goal.objectives_[-1], None))
        found = race("metric_learn_lmnn", np.eye(4), 5.0, part, 3)
    assert found["seconds"] is None and found["steps"] is None
