"""What the retrieval benchmark says of embeddings: metrics, intervals, classes, comparisons, and how they are shown."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.evaluation.comparison import comparisons
from benchmarks.evaluation.metrics import by_class, evaluate, ranks_of, recall_at_1
from benchmarks.retrieval.rows import rows_of
from benchmarks.retrieval.statistics import classes, comparison
from benchmarks.retrieval.tables import html_table, rich_table
from metriczoo.metrics._intervals import holm, paired_test


def points(seed=0, n=90, classes=9, noise=0.8):
    generator = torch.Generator().manual_seed(seed)
    labels = np.sort(np.random.default_rng(seed).integers(0, classes, n))
    centres = torch.randn(classes, 6, generator=generator)
    return centres[torch.from_numpy(labels)] + noise * torch.randn(n, 6, generator=generator), labels


def naive(embeddings, labels, is_query, k):
    """Recall@k and MAP@R of each query, by lists."""
    unit = (embeddings / embeddings.norm(dim=1, keepdim=True)).double().numpy()
    hits, precisions = [], []
    for q in range(len(labels)):
        if is_query is not None and not is_query[q]:
            continue
        gallery = [r for r in range(len(labels)) if (r != q if is_query is None else not is_query[r])]
        found = [labels[r] == labels[q] for r in sorted(gallery, key=lambda r: -unit[q] @ unit[r])]
        total = sum(found)
        hits.append(any(found[:k]) if total else math.nan)
        precisions.append(sum(found[i] * sum(found[: i + 1]) / (i + 1) for i in range(total)) / total if total else math.nan)
    return np.array(hits, float), np.array(precisions)


@pytest.mark.parametrize("apart", [False, True], ids=["one set", "queries and gallery"])
def test_values_are_those_of_a_loop_over_queries(apart):
    embeddings, labels = points()
    is_query = np.random.default_rng(1).random(90) < 0.4 if apart else None
    if apart:
        is_query[labels == 3] = True  # a class that the gallery does not have
    found = evaluate(embeddings, labels, is_query=is_query, ranks=(1, 3, 20))
    for k in (1, 3, 20):
        hits, precisions = naive(embeddings, labels, is_query, k)
        assert found.values[f"recall@{k}"] == pytest.approx(np.nanmean(hits))
    assert found.values["map@r"] == pytest.approx(np.nanmean(precisions))
    np.testing.assert_allclose(found.per_query["map@r"], precisions, atol=1e-6)
    assert found.values["num_skipped"] == np.isnan(precisions).sum()
    assert (found.values["num_skipped"] > 0) == apart
    assert found.values["num_references"] == (90 if not apart else (~is_query).sum())
    assert recall_at_1(embeddings, labels, is_query) == pytest.approx(found.values["recall@1"])
    for name, (low, high) in found.values["intervals"].items():
        assert low <= found.values[name] <= high


@pytest.mark.parametrize("apart", [False, True])
def test_neighbours_vote_as_those_of_sklearn(apart):
    embeddings, labels = points(noise=1.5)
    unit = torch.nn.functional.normalize(embeddings, dim=1).numpy()
    is_query = np.random.default_rng(1).random(90) < 0.5 if apart else None
    right = []
    for q in range(90):
        gallery = np.flatnonzero(~is_query) if apart else np.delete(np.arange(90), q)
        if (apart and not is_query[q]) or labels[q] not in labels[gallery]:
            continue
        votes = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        right.append(votes.fit(unit[gallery], labels[gallery]).predict(unit[q : q + 1])[0] == labels[q])
    found = evaluate(embeddings, labels, is_query=is_query).values["knn_accuracy"]
    assert found == pytest.approx(np.mean(right))
    assert 0.1 < found < 1


def test_intervals_shrink_with_classes_and_health_sees_a_collapse():
    few, many = (evaluate(*points(n=n, classes=c, noise=1.5)).values["intervals"]["recall@1"] for n, c in ((60, 6), (600, 60)))
    assert many[1] - many[0] < few[1] - few[0]
    embeddings, labels = points()
    collapsed = evaluate(embeddings * 1e-4 + 1, labels).values["health"]
    assert collapsed["mean_cosine"] > 0.999 > evaluate(embeddings, labels).values["health"]["mean_cosine"]
    assert evaluate(torch.ones(90, 6), labels).values["health"]["spectral_decay"] is None  # infinite


def test_best_and_worst_classes():
    embeddings, labels = points(noise=0.3)
    embeddings[labels == 4] = torch.randn(int((labels == 4).sum()), 6, generator=torch.Generator().manual_seed(1))
    found = evaluate(embeddings, labels, class_names=[f"name {n}" for n in range(9)])
    parts = found.values["classes"]
    assert parts["worst"][0]["class"] == "name 4"
    assert {line["class"] for line in parts["best"]} <= {f"name {n}" for n in range(9)} - {"name 4"}
    assert [len(parts["best"]), len(parts["worst"])] == [5, 5]
    every = by_class(found.per_query, labels)
    assert every["queries"].tolist() == np.bincount(labels).tolist()
    assert (every["recall@1"] * every["queries"]).sum() / 90 == pytest.approx(found.values["recall@1"], abs=1e-6)
    order = np.argsort(-every["recall@1"], kind="stable")
    assert [line["recall@1"] for line in parts["best"]] == pytest.approx(every["recall@1"][order[:5]])
    assert [line["recall@1"] for line in parts["worst"]] == pytest.approx(every["recall@1"][order[::-1][:5]])
    worst = next(line for line in parts["worst"] if line["class"] == "name 4")
    assert (worst["queries"], worst["map@r"]) == ((labels == 4).sum(), pytest.approx(every["map@r"][4]))


def test_no_query_with_an_answer_has_no_numbers():
    found = evaluate(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), np.arange(5))
    assert found.values["recall@1"] is found.values["knn_accuracy"] is None
    assert found.values["intervals"]["map@r"] == [None, None]
    assert found.values["classes"] == {"best": [], "worst": []}
    test = comparisons({"a": [found.per_query], "b": [found.per_query]}, np.arange(5))[0]
    assert (test["difference"], test["p_value"], test["p_holm"], test["interval"]) == (None, None, None, [None, None])


def test_ranks_of_the_literature():
    assert ranks_of("sop") == (1, 10, 100, 1000)
    assert ranks_of("inshop") == (1, 10, 20, 30)
    assert ranks_of("cub") == ranks_of("folder") == (1, 2, 4, 8)


# -- comparisons ------------------------------------------------------------------


def runs_of(noises, seeds=2):
    embeddings, labels = points()
    moves = [torch.randn(90, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
    return {name: [evaluate(embeddings + noise * move, labels).per_query for move in moves] for name, noise in noises.items()}, labels


def test_comparisons_are_paired_tests_of_means_over_seeds():
    runs, labels = runs_of({"good": 0.0, "fair": 0.5, "poor": 3.0})
    found = comparisons(runs, labels)
    assert [(t["first"], t["second"]) for t in found] == [("good", "fair"), ("good", "poor"), ("fair", "poor")] * 2
    for metric in ("recall@1", "map@r"):
        tests = [t for t in found if t["metric"] == metric]
        means = {name: torch.stack([run[metric].double() for run in seeds]).mean(0) for name, seeds in runs.items()}
        expected = [paired_test(means[t["first"]], means[t["second"]], groups=labels) for t in tests]
        assert [t["p_value"] for t in tests] == [e["p_value"] for e in expected]
        assert [t["interval"] for t in tests] == [[e["low"], e["high"]] for e in expected]
        assert [t["p_holm"] for t in tests] == holm([e["p_value"] for e in expected])
        assert tests[1]["difference"] > 0.2
        assert tests[1]["p_holm"] < 0.05


def test_report_shows_the_matrix_and_the_classes():
    runs, labels = runs_of({"good": 0.0, "<poor>": 3.0})
    tests = comparisons(runs, labels)
    rows = rows_of([{"loss": name, "seed": 0, "recall@1": value} for name, value in (("good", 0.9), ("<poor>", 0.3), ("third", 0.2))])
    page = comparison({"comparisons": tests}, rows)
    points_ahead = f"{100 * tests[0]['difference']:+.1f}"
    assert f"<b>{points_ahead}</b>" in page
    assert f"<b>{points_ahead.replace('+', '-')}</b>" in page
    assert "&lt;poor&gt;" in page
    assert "<poor>" not in page
    assert "third" not in page
    assert "95 % interval +" in page
    assert comparison({}, rows) == comparison({"comparisons": tests}, rows[:1]) == ""
    line = {"class": "<b>", "queries": 3, "recall@1": 0.25, "map@r": 0.125}
    text = classes({"classes": {"best": [line], "worst": [line]}})
    assert text.count('<th scope="row">&lt;b&gt;</th><td>3</td><td>25.0</td><td>12.5</td>') == 2
    assert classes({}) == classes({"classes": {"best": [], "worst": []}}) == ""


# -- tables -----------------------------------------------------------------------


def records(ranks, intervals=True):
    found = []
    for seed, noise in enumerate((0.5, 1.0)):
        embeddings, labels = points(noise=noise)
        values = evaluate(embeddings, labels, ranks=ranks).values
        if not intervals:
            del values["intervals"]
        found.append({"loss": "circle", "seed": seed, "seconds": 3.0, **values})
    return [*found, {**found[0], "loss": "pca", "seed": None, "seconds": None}, {**found[1], "loss": "raw", "seed": None, "seconds": None}]


def test_screen_shows_the_ranks_and_the_interval_of_the_data_set():
    console = Console(file=io.StringIO(), width=140)
    of_sop = records((1, 10, 100, 1000))
    console.print(rich_table(of_sop))
    shown = console.file.getvalue()
    heads = re.split(r"\s{2,}", shown.split("\n")[1].strip())
    assert heads == ["Loss", "R@1", "95 %", "R@10", "R@100", "R@1000", "MAP@R", "NMI", "AMI", "Time"]
    low, high = np.mean([record["intervals"]["recall@1"] for record in of_sop[:2]], axis=0)
    assert f"{100 * low:.1f}-{100 * high:.1f}" in shown
    assert shown.index("circle") < shown.index("pca") < shown.index("raw")


def test_a_table_of_one_seed_fits_a_narrow_screen():
    console = Console(file=io.StringIO(), width=80)
    console.print(rich_table([record for record in records((1, 2, 4, 8)) if record["seed"] != 1]))
    assert "…" not in console.file.getvalue()


def test_tables_of_older_records_lack_the_interval():
    older = records((1, 2), intervals=False)
    console = Console(file=io.StringIO(), width=140)
    console.print(rich_table(older))
    assert "95 %" not in console.file.getvalue()
    page = html_table(rows_of(older))
    assert "[" not in page.split("<tbody>")[1].split("</tbody>")[0]
    newer = html_table(rows_of(records((1, 2))))
    assert "<small>[" in newer
    assert "95 % interval" in newer
    assert '<th scope="col">Recall@2</th>' in newer
    assert "Recall@4" not in newer
