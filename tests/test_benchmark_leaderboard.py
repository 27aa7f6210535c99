"""`python -m benchmarks.leaderboard`, run as a user runs it, and its parts."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import crew_tasks
import numpy as np
import pytest
import torch
from benchmark_runs import ROOT, failure, kill, numbers, results, started, without_costs, write_pictures
from rich.console import Console
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from benchmarks.leaderboard.__main__ import main
from benchmarks.leaderboard.crew import crew
from benchmarks.leaderboard.options import parse
from benchmarks.leaderboard.peers import EXACT, PEER, PeerObjective, equal_of, is_detached, with_exact_gradient
from benchmarks.leaderboard.runs import nearest
from benchmarks.leaderboard.scatter import Point, scatter
from benchmarks.leaderboard.tables import confusions, peer_verdicts, plain_tables, rich_table
from benchmarks.presets import presets_of
from benchmarks.report.words import points
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.rows import BASELINES
from benchmarks.retrieval.start import objective_of, start_training
from benchmarks.training.losses import DEFAULT_LOSSES, LOSSES, Objective
from metriczoo.data import ImageFolder

TINY = "--dataset folder --backbone convnet --image-size 16 --epochs 2 --batch-samples 2 --embedding-dim 8"
THREE = ("--loss", "nce,circle,arc_face", "--seeds", "2")
NAMES = ("circle", f"circle ({PEER})", "arc_face", f"arc_face ({PEER})", f"arc_face ({EXACT})", "nce")
TRAINED = [name for name in LOSSES if name in NAMES]
needs_peer = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the other library


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("pytorch_metric_learning", reason="needs the extra `peers`")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), classes=8, each=6, noise=60)


def arguments(pictures: Path, output: Path, *more: str) -> list[str]:
    return [*TINY.split(), "--root", str(pictures), "--output", str(output), *more]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory, peer) -> Path:
    """A leaderboard that nothing interrupted, of one job."""
    output = tmp_path_factory.mktemp("whole") / "new" / "folder"
    assert main(arguments(pictures, output, *THREE, "--peer", "--jobs", "1")) == 0
    return output


# -- results.json ------------------------------------------------------------


def share(value) -> bool:
    return value is None or 0 <= value <= 1


def check_schema(found: dict) -> None:
    """What holds of every `results.json` of a leaderboard."""
    assert set(found) == {
        *("dataset", "protocol", "split_sizes", "device", "threads", "settings"),
        *("records", "failures", "summary", "comparisons", "peers", "confusions"),
    }
    assert {"train_images", "train_classes", "test_images", "test_classes"} <= set(found["split_sizes"])
    assert found["settings"]["protocol"] == found["protocol"]
    runs = [(record["loss"], record["seed"]) for record in found["records"]]
    assert len(set(runs)) == len(runs)
    for record in found["records"]:
        assert {"recall@1", "map@r", "r_precision", "knn_accuracy", "nmi", "ami", "intervals", "health", "versions"} <= set(record)
        assert all(share(record[metric]) for metric in ("recall@1", "map@r", "r_precision", "knn_accuracy", "nmi"))
        assert all(low is None or low <= record[metric] <= high for metric, (low, high) in record["intervals"].items())
        is_trained = record["loss"] not in BASELINES
        assert all((record[cost] is not None) == is_trained for cost in ("seconds", "cpu_seconds", "peak_memory"))
        assert not is_trained or (record["cpu_seconds"] > 0 and record["peak_memory"] > 2**20 and record["hyper_parameters"]["epochs"])
    assert [line["loss"] for line in found["summary"] if line["loss"] in BASELINES][-1] == "raw"
    ranked = [(name, seed) for name, seed in runs if seed is None or seed < found["settings"]["seeds"]]
    assert Counter(name for name, _ in ranked) == {line["loss"]: line["seeds"] for line in found["summary"]}
    for line in found["summary"]:
        assert set(line) == {"loss", "seeds", "recall@1", "map@r", "nmi", "ami", "seconds", "cpu_seconds", "peak_memory"}
        for metric in ("recall@1", "map@r", "nmi", "ami"):
            spread = {"mean", "deviation", "of_seeds"} | ({"of_classes"} if metric in ("recall@1", "map@r") else set())
            assert set(line[metric]) == spread
            assert (line[metric]["of_seeds"] is None) == (line["seeds"] == 1 or line[metric]["mean"] is None)
    means = [line["recall@1"]["mean"] or 0.0 for line in found["summary"] if line["loss"] not in BASELINES]
    assert means == sorted(means, reverse=True)
    trained = [line["loss"] for line in found["summary"] if line["loss"] not in BASELINES]
    assert [(t["metric"], t["first"], t["second"]) for t in sorted(found["comparisons"], key=lambda t: t["metric"] != "recall@1")] == [
        (metric, trained[0], name) for metric in ("recall@1", "map@r") for name in trained[1:]
    ]
    assert all(share(test["p_holm"]) and (test["p_holm"] is None or test["p_value"] <= test["p_holm"]) for test in found["comparisons"])
    for verdict in found["peers"]:
        of_runs = {"loss", "metric", "ours", "theirs", "differences"}
        assert set(verdict) == of_runs | {"difference", "interval", "p_value", "p_holm", "spread", "agrees"}
        assert verdict["difference"] == pytest.approx(verdict["ours"] - verdict["theirs"])
        low, high = verdict["interval"] or (-math.inf, math.inf)
        assert low <= verdict["difference"] <= high
        assert share(verdict["p_holm"])
        within = verdict["spread"] is not None and max(-low, high) <= verdict["spread"]
        told = verdict["p_holm"] is not None and verdict["p_holm"] <= 0.05
        assert verdict["agrees"] is (True if within else False if told else None)
    assert set(found["confusions"]) == set(trained)
    for pairs in found["confusions"].values():
        assert [set(pair) for pair in pairs] == [{"classes", "mistakes", "queries"}] * len(pairs)
        assert all(0 < pair["mistakes"] <= pair["queries"] and len(pair["classes"]) == 2 for pair in pairs)
        assert [pair["mistakes"] for pair in pairs] == sorted((pair["mistakes"] for pair in pairs), reverse=True)
    assert all(set(failed) == {"loss", "seed", "error"} and failed["error"] for failed in found["failures"])


def test_results_follow_their_schema(whole):
    found = results(whole)
    check_schema(found)
    assert found["failures"] == []
    losses = ["circle", f"circle ({PEER})", "arc_face", f"arc_face ({PEER})", f"arc_face ({EXACT})", "nce"]
    expected = [("raw", None), *((name, seed) for seed in (0, 1) for name in ("untrained", *losses))]
    assert [(record["loss"], record["seed"]) for record in found["records"]] == expected


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("leaderboard-*.json")), ids=lambda path: path.stem)
def test_kept_results_follow_the_schema(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    check_schema(found)
    assert path.stat().st_size < 3_000_000
    names = {line["loss"] for line in found["summary"]} - set(BASELINES)
    assert len([name for name in names if PEER not in name]) >= 50
    assert {line["seeds"] for line in found["summary"] if line["loss"] in names} == {found["settings"]["seeds"]}
    assert found["failures"] == []
    assert not Path(found["settings"]["root"] or "").is_absolute()


def test_numbers_are_those_of_the_saved_embeddings(whole, pictures):
    labels = ImageFolder(pictures, "test").labels
    records = {(record["loss"], record["seed"]): record for record in results(whole)["records"]}
    for name, seed in [(name, seed) for name, seed in records if name in NAMES]:
        file = name.replace(f" ({PEER})", "-peer").replace(f" ({EXACT})", "-exact")
        state = torch.load(whole / f"{file}-seed{seed}.pt", weights_only=True)
        vectors = state["embeddings"].float().numpy()
        near = NearestNeighbors(n_neighbors=2).fit(vectors).kneighbors(vectors, return_distance=False)[:, 1]
        assert records[name, seed]["recall@1"] == pytest.approx(np.mean(labels[near] == labels), abs=1.01 / len(labels))  # half precision
        found = labels[state["nearest"].numpy()] == labels
        assert records[name, seed]["recall@1"] == pytest.approx(found.mean(), abs=1e-6)
        assert (len(state["losses"]), len(state["recalls"])) == (2 * 3 if name != "nce" else len(state["losses"]), 3)
        assert state["recalls"][-1] == pytest.approx(records[name, seed]["recall@1"])


def test_summary_is_over_seeds_and_classes(whole, pictures):
    found, labels = results(whole), ImageFolder(pictures, "test").labels
    for line in found["summary"]:
        of_loss = [record for record in found["records"] if record["loss"] == line["loss"]]
        for metric in ("recall@1", "map@r", "nmi", "ami"):
            values = [record[metric] for record in of_loss]
            assert line[metric]["mean"] == pytest.approx(np.mean(values))
            if len(values) > 1:
                assert line[metric]["deviation"] == pytest.approx(np.std(values, ddof=1))
                if np.std(values):
                    interval = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
                    assert line[metric]["of_seeds"] == pytest.approx(list(interval))
        if line["loss"] == "circle":
            runs = [torch.load(whole / f"circle-seed{seed}.pt", weights_only=True)["per_query"]["map@r"].numpy() for seed in (0, 1)]
            by_class = np.array([np.mean(runs, axis=0)[labels == label].mean() for label in np.unique(labels)])
            draws = np.random.default_rng(0).integers(0, len(by_class), (20_000, len(by_class)))
            expected = np.quantile(by_class[draws].mean(1), [0.025, 0.975])
            assert line["map@r"]["of_classes"] == pytest.approx(expected, abs=0.05)


# -- whatever happens, the same numbers --------------------------------------


@pytest.fixture
def no_report(monkeypatch):
    """For tests that are about something else: drawing takes longer than training here."""
    monkeypatch.setattr("benchmarks.leaderboard.__main__.write_page", lambda *contents: None)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.usefixtures("no_report")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_killed_with_two_jobs_it_goes_on_to_the_numbers_of_one(pictures, whole, tmp_path):
    argv = arguments(pictures, tmp_path / "run", *THREE, "--peer", "--jobs", "2")
    process = started("benchmarks.leaderboard", argv, lambda: any((tmp_path / "run").glob("*-seed0.pt")))
    children = [int(pid) for task in Path(f"/proc/{process.pid}/task").iterdir() for pid in (task / "children").read_text().split()]
    kill(process)
    assert children
    deadline = time.monotonic() + 60
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, children)), "processes outlive the one that started them"
    assert len(results(tmp_path / "run")["records"]) < len(results(whole)["records"])
    assert main([*argv, "--resume"]) == 0
    assert without_costs(results(tmp_path / "run")) == without_costs(results(whole))


@pytest.mark.usefixtures("no_report")
def test_a_loss_that_fails_costs_no_other_and_is_tried_again(pictures, whole, tmp_path, monkeypatch, capsys):
    argv = arguments(pictures, tmp_path, "--loss", "nce,circle,arc_face", "--peer", "--jobs", "1")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.leaderboard.__main__.Worker", crew_tasks.failing_worker)
        assert main(argv) == 1
    found, shown = results(tmp_path), capsys.readouterr().out
    check_schema(found)
    failed = {failure["loss"]: failure["error"] for failure in found["failures"]}
    assert list(failed) == ["arc_face", f"arc_face ({PEER})", f"arc_face ({EXACT})", "nce"]
    assert failed["arc_face"] == "FloatingPointError: the loss is not finite"
    assert "SIGKILL" in failed["nce"]
    assert "the loss is not finite" in shown
    assert [record["loss"] for record in found["records"]] == ["raw", "untrained", "circle", f"circle ({PEER})"]
    assert main([*argv, "--resume"]) == 0
    of_seed = [record for record in numbers(whole) if record["seed"] != 1]
    assert numbers(tmp_path) == of_seed
    assert results(tmp_path)["failures"] == []


@pytest.mark.usefixtures("no_report")
def test_it_grows_to_the_numbers_of_one_that_asked_for_all_at_once(pictures, whole, tmp_path, capsys):
    argv = arguments(pictures, tmp_path, "--jobs", "1", "--resume")
    assert main([*argv, "--loss", "nce,arc_face"]) == 0
    assert {line["loss"] for line in results(tmp_path)["summary"]} == {"nce", "arc_face", "raw", "untrained"}
    assert main([*argv, "--loss", "nce,circle,arc_face", "--peer", "--peer-seeds", "2"]) == 0
    grown = results(tmp_path)
    check_schema(grown)
    assert {line["seeds"] for line in grown["summary"]} == {1}
    assert set(grown["confusions"]) == set(NAMES)
    known = {(record["loss"], record["seed"]): record for record in numbers(whole)}
    assert {(record["loss"], record["seed"]) for record in grown["records"]} == set(known) - {("nce", 1)}
    assert numbers(tmp_path) == [record for run, record in known.items() if run != ("nce", 1)]
    assert grown["peers"] == results(whole)["peers"]
    assert "peer_seeds was 2 and is None" in failure(main, capsys, [*argv, "--loss", "nce,circle,arc_face", "--peer"])
    assert "losses was" in failure(main, capsys, [*argv, "--loss", "nce", "--seeds", "2"])


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_stops_it_and_loses_nothing(pictures, tmp_path, monkeypatch, capsys):
    argv = arguments(pictures, tmp_path, "--loss", "circle", "--jobs", "1")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.leaderboard.__main__.Worker", crew_tasks.full_worker)
        assert "No space left on device" in failure(main, capsys, argv)
    assert [record["loss"] for record in results(tmp_path)["records"]] == ["raw", "untrained"]
    assert "holds results already" in failure(main, capsys, argv)
    assert "embedding_dim was 8 and is 4" in failure(main, capsys, [*argv, "--embedding-dim", "4", "--resume"])


# -- the crew ----------------------------------------------------------------


def test_a_process_that_dies_costs_one_task():
    tasks = [("square", 3), ("raise", 0), ("exit", 0), ("kill", 0), ("square", 4)]
    events = list(crew(crew_tasks.Ready, ("crew",), tasks, jobs=2))
    ends = {event.task: (event.kind, event.content) for event in events if event.kind != "report"}
    assert ends == {
        ("square", 3): ("done", ("crew", 9)),
        ("square", 4): ("done", ("crew", 16)),
        ("raise", 0): ("failed", "KeyError: 'no such thing\\nat all'"),
        ("exit", 0): ("failed", "its process ended with status 3"),
        ("kill", 0): ("failed", "its process was ended by SIGKILL, perhaps for want of memory"),
    }
    assert [event[1:] for event in events if event.task == ("square", 3)] == [("report", ("half of", 3)), ("done", ("crew", 9))]


def test_what_is_no_fault_of_a_task_is_told_apart():
    (event,) = crew(crew_tasks.Ready, ("crew",), [("full", 0)], jobs=3)
    assert event.kind == "stopped"
    assert "No space left on device" in event.content
    (event,) = crew(crew_tasks.Ready, ("unprepared",), [("square", 1)], jobs=1)
    assert event[1:] == ("failed", "ValueError: nothing is ready")
    assert list(crew(crew_tasks.Ready, ("crew",), [], jobs=2)) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_processes_end_with_the_iteration():
    events = crew(crew_tasks.Ready, ("crew",), [("sleep", 0)], jobs=1)
    pid = next(events).content[1]
    assert alive(pid)
    events.close()
    assert not alive(pid)


# -- the peers ---------------------------------------------------------------


@needs_peer
@pytest.mark.parametrize("protocol", ["finetune", "frozen"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_peer_has_the_same_value_and_gradient(peer, name, protocol):
    classes, dim, each = 6, 8, 4
    torch.manual_seed(0)
    ours = Objective(name, num_classes=classes, num_images=classes * each, embedding_dim=dim, presets=presets_of(protocol))
    if equal_of(ours.loss) is None:
        assert name not in ("contrastive", "triplet", "circle", "multi_similarity", "supcon", "arc_face", "am_softmax", "proxy_anchor")
        return
    if is_detached(ours.loss):
        ours = with_exact_gradient(ours)
    state = torch.random.get_rng_state()
    theirs = PeerObjective(ours).double()
    assert torch.equal(torch.random.get_rng_state(), state)
    labels = torch.arange(classes).repeat_interleave(each)
    points = torch.nn.functional.normalize(torch.randn(len(labels), dim) + torch.randn(classes, dim)[labels]).double()
    sides = []
    for objective in (ours.double(), theirs):
        x = points.clone().requires_grad_()
        value = objective(x, labels, torch.arange(len(labels)))
        weights = [p for p in objective.parameters() if p.requires_grad]
        gradient, *others = torch.autograd.grad(value, [x, *weights])
        gradient = gradient - (gradient * points).sum(1, keepdim=True) * points  # that along a unit vector moves nothing
        sides.append((value.detach(), gradient, [g.norm() for g in others]))
    for a, b in zip(*sides, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert theirs.preset is ours.preset
    assert theirs.hyper_parameters["library"].startswith(PEER)


def losses_of(experiment, name, in_place_of=None):
    """The loss of each step of a training in double precision."""
    training = start_training(experiment, name, 0, in_place_of=in_place_of)
    training.encoder.double().register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    training.objective.double()
    training.train_epoch(lambda loss: None)
    return training.losses


@needs_peer
def test_a_training_with_the_peer_is_the_same_training(peer, pictures, monkeypatch):
    """But for rounding, which each step makes larger, and which is too small to matter here."""
    monkeypatch.setattr("benchmarks.training.loop._in_float32", lambda embeddings: embeddings)
    experiment = Experiment(parse([*TINY.split(), "--root", str(pictures)]))
    experiment.prepare()
    compared = []
    for name in LOSSES:
        loss = objective_of(experiment, name).loss
        if equal_of(loss) is None:
            continue
        theirs = losses_of(experiment, name, PeerObjective)
        assert len(theirs) == 3
        ours = losses_of(experiment, name, with_exact_gradient if is_detached(loss) else None)
        assert ours == pytest.approx(theirs, rel=1e-5), name
        compared.append(name)
        if is_detached(loss):  # its own gradient shows as soon as a step is made
            own = losses_of(experiment, name)
            assert own[0] == pytest.approx(theirs[0], rel=1e-5)
            assert own[1] != pytest.approx(theirs[1], rel=1e-3)
    assert {"contrastive", "fast_ap", "arc_face", "sub_center_arc_face", "proxy_anchor"} <= set(compared)


def verdicts_of(ours, theirs, more=()):
    """Verdicts on one loss, whose sides have these values by seed, the same in each metric, and on further pairs of sides."""
    records = []
    for loss, sides in (("circle", (ours, theirs)), *zip(LOSSES, more, strict=False)):
        for name, side in zip((loss, f"{loss} ({PEER})"), sides, strict=True):
            records += [{"loss": name, "seed": seed, "recall@1": value, "map@r": value, "nmi": value} for seed, value in enumerate(side)]
    return peer_verdicts(records, ["circle", *(loss for loss, _ in zip(LOSSES, more, strict=False))])


def test_peers_agree_where_the_whole_interval_is_within_what_seeds_change():
    ours, theirs = [0.50, 0.54, 0.52], [0.501, 0.54, 0.519]
    same = verdicts_of(ours, theirs)[0]
    assert same["agrees"] is True
    assert same["spread"] == pytest.approx(math.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 2))
    assert same["differences"] == pytest.approx([-0.001, 0.0, 0.001])
    test = stats.ttest_rel(ours, theirs)
    assert same["p_value"] == pytest.approx(test.pvalue)
    assert same["interval"] == pytest.approx(list(test.confidence_interval(0.95)))
    assert verdicts_of([0.5, 0.6], [0.5, 0.6])[0] | {"spread": 0} == {
        **{"loss": "circle", "metric": "recall@1", "ours": 0.55, "theirs": 0.55, "differences": [0, 0], "difference": 0},
        **{"interval": [0, 0], "p_value": 1, "p_holm": 1, "spread": 0, "agrees": True},
    }


def test_peers_differ_only_where_the_difference_is_told_from_none():
    ours = [0.50, 0.54, 0.52, 0.53, 0.51]
    apart = verdicts_of(ours, [value - 0.05 - noise for value, noise in zip(ours, (0.001, 0.0, -0.001, 0.002, 0.0), strict=True)])
    assert [verdict["agrees"] for verdict in apart] == [False] * 3
    assert apart[0]["p_holm"] == pytest.approx(3 * apart[0]["p_value"])  # of three tests
    noisy = verdicts_of(ours, [value - 0.02 - noise for value, noise in zip(ours, (0.03, -0.03, 0.0, 0.02, -0.02), strict=True)])[0]
    assert noisy["agrees"] is None  # three seeds of five could say anything
    single = verdicts_of([0.5], [0.4])[0]
    assert (single["agrees"], single["interval"], single["p_value"], single["spread"]) == (None, None, None, None)
    assert single["difference"] == pytest.approx(0.1)
    small = verdicts_of(ours, [value - 0.004 - noise / 4 for value, noise in zip(ours, (0.001, 0.0, -0.001, 0.002, 0.0), strict=True)])[0]
    assert small["p_holm"] < 0.05
    assert small["agrees"] is True  # told from none, and less than a seed changes


@pytest.mark.parametrize("seeds", [3, 8])
def test_of_many_equals_none_is_said_to_differ(seeds):
    """Whether any of 48 tests is wrong, in 5 % of all comparisons at most; each at its own level, most comparisons would have one."""
    generator, wrong, at_once, comparisons = np.random.default_rng(0), 0, 0, 40
    for _ in range(comparisons):
        sides = 0.5 + 0.002 * generator.standard_normal((16, 2, seeds))
        found = verdicts_of(*sides[0], sides[1:])
        independent = [verdict for verdict in found if verdict["metric"] == "recall@1"]
        wrong += any(verdict["agrees"] is False for verdict in found)
        at_once += any(verdict["p_value"] <= 0.05 for verdict in independent)
    assert wrong <= 5
    assert at_once >= 15


def test_the_gradient_of_the_peer_is_compared_as_well_as_our_own():
    records = [
        {"loss": name, "seed": seed, "recall@1": value + seed / 10, "map@r": value, "nmi": None}
        for name, value in (("arc_face", 0.3), (f"arc_face ({EXACT})", 0.4), (f"arc_face ({PEER})", 0.4))
        for seed in (0, 1)
    ]
    found = {(verdict["loss"], verdict["metric"]): verdict["difference"] for verdict in peer_verdicts(records, ["arc_face"])}
    assert set(found) == {(name, metric) for name in ("arc_face", f"arc_face ({EXACT})") for metric in ("recall@1", "map@r")}
    assert found["arc_face", "recall@1"] == pytest.approx(-0.1)
    assert found[f"arc_face ({EXACT})", "recall@1"] == 0


# -- parts -------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
def test_nearest_is_of_what_a_query_searches(split):
    points = np.random.default_rng(0).standard_normal((40, 5))
    asks = np.random.default_rng(1).random(40) < 0.4 if split else None
    found = nearest(torch.from_numpy(points), asks).numpy()
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    queries, gallery = (range(40), range(40)) if asks is None else (np.flatnonzero(asks), np.flatnonzero(~asks))
    assert found.tolist() == [max((g for g in gallery if g != q), key=lambda g: unit[q] @ unit[g]) for q in queries]


def test_confusions_are_counted_both_ways():
    labels = np.array([0, 0, 1, 1, 2, 2])
    runs = [torch.tensor([2, 1, 0, 3, 5, -1]), torch.tensor([2, 1, 3, 2, 0, 4])]
    found = confusions(runs, labels, labels, ["a", "b", "c"])
    assert found == [{"classes": ["a", "b"], "mistakes": 3, "queries": 8}, {"classes": ["a", "c"], "mistakes": 1, "queries": 8}]
    assert confusions(runs, labels, labels, ["a", "b", "c"], most=1) == found[:1]


def test_plot_is_well_formed_and_its_labels_do_not_overlap():
    generator = np.random.default_rng(0)
    points = [Point(f"loss <{n}>", *generator.random(2), (0.01, 0.02), "loss", f"loss-{n}", f"{n} & more") for n in range(60)]
    points.append(Point("raw", 0.5, 0.5, (0.0, 0.0), "baseline", "", "raw"))
    figure = ElementTree.fromstring(scatter(points, "x", "y", "a plot"))
    links = list(figure.iter("a"))
    assert sorted(link.get("href") for link in links) == sorted(f"#loss-{n}" for n in range(60))
    centres = {link.get("href"): (float(c.get("cx")), float(c.get("cy"))) for link in links for c in link.iter("circle")}
    order = sorted(range(60), key=lambda n: points[n].x)
    assert [centres[f"#loss-{n}"][0] for n in order] == sorted(x for x, _ in centres.values())
    order = sorted(range(60), key=lambda n: -points[n].y)
    assert [centres[f"#loss-{n}"][1] for n in order] == sorted(y for _, y in centres.values())
    boxes = []
    for text in figure.iter("text"):
        if text.get("class") == "label":
            x, y, width = float(text.get("x")), float(text.get("y")), 6.0 * len(text.text)
            left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
            assert not any(left < end and start < left + width and abs(y - other) < 12 for start, end, other in boxes)
            boxes.append((left, left + width, y))
    assert len(boxes) > 15
    one = scatter([Point("a", 50.0, 50.0, (0.0, 0.0), "loss", "", "a")], "x", "y", "of one point")
    assert not any(math.isnan(float(number)) for number in re.findall(r'c[xy]="([^"]*)"', one))


def test_plain_tables_say_what_results_hold(whole):
    found = results(whole)
    (title, headings, rows, note), (_, of_headings, of_peers, about) = plain_tables(found)
    assert title == "Ranking"
    assert all(len(row) == len(headings) for row in rows)
    assert [row[1].removesuffix(" =").replace("PML", PEER) for row in rows] == [line["loss"] for line in found["summary"]]
    assert [row[2].split(" ±")[0] for row in rows] == [f"{100 * line['recall@1']['mean']:.1f}" for line in found["summary"]]
    assert "PML" in note
    assert of_headings[:5] == ["Loss", "Recall@1: ours", "theirs", "difference", "MAP@R: ours"]
    assert all(len(row) == len(of_headings) for row in of_peers)
    assert {row[0] for row in of_peers} == {"circle", "arc_face", f"arc_face ({EXACT})"}
    first = next(verdict for verdict in found["peers"] if (verdict["loss"], verdict["metric"]) == ("circle", "recall@1"))
    row = next(row for row in of_peers if row[0] == "circle")
    words = {True: "agrees", False: "DIFFERS", None: "open"}[first["agrees"]]
    half = 50 * (first["interval"][1] - first["interval"][0])
    assert row[1:3] == [f"{100 * first['ours']:.1f}", f"{100 * first['theirs']:.1f}"]
    assert row[3] == f"{points(first['difference'])} ±{half:.1f} {words}"
    assert "Of 9 comparisons, " in about
    assert EXACT in about
    failed = [{"loss": "nce", "seed": 0, "error": "why"}]
    assert plain_tables({**found, "peers": [], "failures": failed})[1][2] == [["nce", "0", "why"]]


# -- the page ----------------------------------------------------------------


def test_page_shows_every_loss_and_needs_nothing_else(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert 'class="missing"' not in page
    assert "://" not in re.sub(r"http://www\.w3\.org/\d+/\w+", "", page)
    order = [line["loss"] for line in results(whole)["summary"] if line["loss"] in NAMES and PEER not in line["loss"]]
    assert re.findall(r'<details id="(loss-\d)"(?: open)?><summary><span>\d\. ([^<]+)</span>', page) == [
        (f"loss-{place}", loss) for place, loss in enumerate(order)
    ]
    assert page.count("<script>") == 1
    assert page.count("<tr><td data-value=") == len(NAMES) + 2
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'<a [^>]*href="#([^"]*)"', page)) <= set(identifiers)
    verdicts = results(whole)["peers"]
    shown = [page.count(f'<span class="{name}">') for name in ("yes", "no")]
    assert shown == [sum(verdict["agrees"] is agrees for verdict in verdicts) for agrees in (True, False)]
    assert page.count("<td>open</td>") == sum(verdict["agrees"] is None for verdict in verdicts)


def test_terminal_shows_the_table(whole, pictures, capsys, monkeypatch, no_report):
    monkeypatch.setenv("COLUMNS", "160")
    before = without_costs(results(whole))
    assert main([*arguments(pictures, whole, *THREE, "--peer", "--jobs", "1"), "--resume"]) == 0  # nothing is left to do
    shown = capsys.readouterr().out
    assert without_costs(results(whole)) == before
    for line in before["summary"]:
        name = re.escape(line["loss"].replace(PEER, "PML"))
        row = next(text for text in shown.splitlines() if re.match(rf"\s*\d*\s+{name}( =)? {{2,}}\d", text))
        assert f"{100 * line['recall@1']['mean']:.1f}" in row


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("loss", ["circle", "weighted_decoupled_contrastive"])
def test_no_column_and_no_word_is_cut_off(whole, width, loss):
    found = json.loads(json.dumps(results(whole)).replace('"circle"', f'"{loss}"').replace('"circle (', f'"{loss} ('))
    for line in found["summary"]:
        line["peak_memory"], line["cpu_seconds"] = 2**30, 1234.5
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(rich_table(found, width))
    shown = console.export_text()
    heads = next(text for text in shown.splitlines() if "Loss" in text)
    assert heads.split() == ["#", "Loss", "R@1", "95", "%", "MAP@R", "NMI", "AMI", "CPU", "MiB", "Peer"]
    caption = " ".join(shown[shown.index("Percent, ") :].split())
    assert "most memory of a process in training; " in caption
    assert caption.endswith("by more than seeds do.")


def test_a_test_set_without_any_pair_has_no_numbers(pictures, tmp_path, capsys, peer):
    for label in range(4):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        for number in range(3 if label < 2 else 1):
            source = pictures / f"class{label}" / f"{number}.png"
            (tmp_path / "data" / f"class{label}" / f"{number}.png").write_bytes(source.read_bytes())
    argv = arguments(tmp_path / "data", tmp_path / "run", "--loss", "circle", "--peer", "--seeds", "2", "--jobs", "1")
    assert main(argv) == 0
    found = results(tmp_path / "run")
    check_schema(found)
    assert all(line["recall@1"]["mean"] is None for line in found["summary"])
    assert found["confusions"] == {"circle": [], f"circle ({PEER})": []}
    assert "No loss has both metrics" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


# -- options -----------------------------------------------------------------


def test_every_loss_is_the_default_and_quick_takes_six():
    assert parse([]).losses == [*LOSSES]
    quick = parse(["--quick"])
    assert sorted(quick.losses) == sorted(DEFAULT_LOSSES)
    assert quick.max_steps == 4
    assert parse(["--quick", "--loss", "lmnn,circle", "--max-steps", "2"]).max_steps == 2
    assert parse(["--loss", "lmnn,circle"]).losses == parse(["--loss", "circle,lmnn"]).losses
    assert parse([]).jobs >= 1


def test_help_has_no_options_that_it_refuses(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert "--epochs" in shown
    assert "--folds" not in shown
    assert "reality check" not in " ".join(shown.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--loss cirle", "Did you mean 'circle'?"),
        ("--jobs 0", "a whole number of at least 1"),
        ("--threads none", "a whole number of at least 1"),
        ("--job 2", "Did you mean '--jobs'?"),
        ("--protocol reality-check", "expected finetune or frozen"),
        ("--peers", "Did you mean '--peer'?"),
        ("--dataset cub", "root"),
        ("--loss nce --peer", f"{PEER} has no equal of nce"),
        ("--loss circle --peer-seeds 2", "--peer-seeds needs --peer"),
        ("--loss circle --peer --seeds 3 --peer-seeds 2", "at least --seeds"),
        ("--loss circle --peer --memory-bank 64", "--peer and --memory-bank exclude each other"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, monkeypatch, capsys, peer, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in failure(main, capsys, argv.split())
    assert not list(tmp_path.iterdir())


def test_without_the_other_library_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    for name in [name for name in sys.modules if name.startswith("pytorch_metric_learning.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "metriczoo[peers]" in failure(main, capsys, ["--loss", "circle", "--peer"])
