"""Clustering metrics against scikit-learn and plain Python, and k-means that repeats itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from metriczoo.metrics import ami, ari, clustering_metrics, nmi, pairwise_f1
from metriczoo.metrics._contingency import Contingency
from metriczoo.metrics._faiss import kmeans
from metriczoo.metrics.clustering import _affordable
from metriczoo.similarity import Mahalanobis, Similarity

FUNCTIONS = [nmi, ami, ari, pairwise_f1]


@st.composite
def partitions(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    n = draw(st.integers(1, 30))
    sides = [draw(st.lists(st.integers(0, draw(st.integers(0, 12))), min_size=n, max_size=n)) for _ in range(2)]
    return sides[0], sides[1]


def blobs(classes: int, each: int, spread: float = 0.2, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, d, generator=generator)
    return centres[labels] + spread * torch.randn(len(labels), d, generator=generator), labels


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@given(partitions())
@example(([0] * 8 + [1], [0] * 7 + [1, 0]))  # sizes that must overlap
@example(([0] * 6 + [1] * 3, [0] * 5 + [1] * 4))
def test_equal_scikit_learn(pair: tuple[list[int], list[int]]) -> None:
    assert nmi(*pair) == pytest.approx(sklearn.metrics.normalized_mutual_info_score(*pair), abs=1e-12)
    assert ari(*pair) == pytest.approx(sklearn.metrics.adjusted_rand_score(*pair), abs=1e-12)
    assert ami(*pair) == pytest.approx(sklearn.metrics.adjusted_mutual_info_score(*pair), abs=1e-9)


@given(partitions())
def test_pairwise_f1_counts_pairs(pair: tuple[list[int], list[int]]) -> None:
    both = only = 0
    for (a, u), (b, v) in itertools.combinations(zip(*pair, strict=True), 2):
        both += a == b and u == v
        only += (a == b) != (u == v)
    assert pairwise_f1(*pair) == pytest.approx(2 * both / (2 * both + only) if both or only else 1.0, abs=1e-15)


@given(partitions(), st.integers(0, 100))
def test_names_order_and_sides_do_not_matter(pair: tuple[list[int], list[int]], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(pair[0]))
    labels, clusters = (np.array(side)[order] for side in pair)
    for function in FUNCTIONS:
        plain = function(*pair)
        assert function(labels * 2**50 + 7, -clusters) == pytest.approx(plain, abs=1e-12)
        assert function(pair[1], pair[0]) == pytest.approx(plain, abs=1e-9)
        assert function(pair[0], pair[0]) == 1.0
        assert plain <= 1 + 1e-12


def test_expected_mutual_information_is_the_mean_over_permutations() -> None:
    labels, clusters = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 2])
    mean = np.mean([Contingency.of(labels, torch.tensor(p)).mutual_information() for p in itertools.permutations(clusters.tolist())])
    assert Contingency.of(labels, clusters).expected_mutual_information() == pytest.approx(mean, abs=1e-12)


def test_chance_is_corrected_on_a_set_with_very_many_classes() -> None:
    labels = np.arange(20_000) // 5
    clusters = np.random.default_rng(0).permutation(labels)
    assert nmi(labels, clusters) > 0.75
    assert abs(ami(labels, clusters)) < 1e-3
    assert abs(ari(labels, clusters)) < 1e-3


def test_one_class_or_one_point() -> None:
    for function in FUNCTIONS:
        assert function([3], [9]) == 1.0
        assert function([3, 3, 3], [9, 9, 9]) == 1.0
        assert function([0, 1, 2], [2, 0, 1]) == 1.0
    assert [function([0, 0, 0], [0, 1, 2]) for function in FUNCTIONS] == [0, 0, 0, 0]


def test_a_negative_label_is_ignored_a_negative_cluster_is_a_cluster() -> None:
    for function in FUNCTIONS:
        assert function([0, -1, 1, 1, -2], [-1, -1, 2, 3, 2]) == function([0, 1, 1], [1, 2, 3])


def test_large_labels_stay_apart() -> None:
    assert ari([16777216, 16777217, 16777216, 16777217], [0, 1, 0, 1]) == 1.0
    assert ari([16777216, 16777217, 16777216, 16777217], [0, 0, 0, 0]) == 0.0


def test_clusters_of_blobs_are_their_classes() -> None:
    x, labels = blobs(6, 20)
    result = clustering_metrics(x, labels, similarity="euclidean", nredo=5)
    assert [result[name] for name in ("nmi", "ami", "ari", "pairwise_f1")] == [1.0] * 4
    assert (result["num_clusters"], result["num_points"], result["num_ignored"]) == (6, 120, 0)
    assert result["faiss"]
    assert (result["seed"], result["niter"], result["nredo"]) == (0, 20, 5)
    assert "not corrected for chance" in str(result)


def test_k_means_repeats_itself_and_is_seeded() -> None:
    x, labels = blobs(30, 10, spread=2.0)
    results = [clustering_metrics(x, labels, seed=seed) for seed in (3, 3, 4)]
    assert results[0] == results[1]
    assert results[0]["ami"] != results[2]["ami"]


def inertia(x: torch.Tensor, clusters: torch.Tensor) -> float:
    centres = [x[clusters == i].mean(0) for i in clusters.unique()]
    return sum(float((x[clusters == i] - centre).square().sum()) for i, centre in zip(clusters.unique(), centres, strict=True))


def test_as_many_runs_as_sizes_allow() -> None:
    """Ten runs of a small set are cheap, and its numbers depend less on the seed; one of a large set takes seconds, and stays one."""
    x, labels = blobs(30, 20, spread=1.5, d=128)
    results = {nredo: [clustering_metrics(x, labels, seed=seed, nredo=nredo) for seed in range(8)] for nredo in (1, None, 10)}
    assert results[None] == results[10]
    spread = {nredo: np.std([result["nmi"] for result in found]) for nredo, found in results.items()}
    assert spread[None] < 0.6 * spread[1]
    assert np.mean([result["nmi"] for result in results[None]]) > np.mean([result["nmi"] for result in results[1]])
    for sizes, expected in (((1000, 128, 50), 10), ((5924, 128, 100), 10), ((5924, 512, 100), 3), ((60_502, 128, 11_316), 1)):
        points, dimension, clusters = sizes
        assert _affordable(torch.empty(points, dimension, device="meta"), clusters, 20) == expected
    assert _affordable(torch.empty(5924, 512, device="meta"), 100, 60) == 1


def test_the_objective_is_that_of_scikit_learn() -> None:
    """From as many random starts, both come to sums of squares that are as small."""
    x, _ = blobs(20, 25, spread=0.8)
    ours = [inertia(x, kmeans(x, 20, niter=20, nredo=10, seed=seed)[0]) for seed in range(4)]
    theirs = [KMeans(20, init="random", n_init=10, max_iter=20, random_state=seed).fit(x.numpy()).inertia_ for seed in range(4)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.03)
    single = [inertia(x, kmeans(x, 20, niter=20, nredo=1, seed=seed)[0]) for seed in range(4)]
    assert np.mean(single) > 1.02 * np.mean(ours)


def test_k_means_runs_where_the_similarity_is() -> None:
    x, labels = blobs(4, 25)
    stretched = x * torch.rand(100, 1, generator=torch.Generator().manual_seed(1)).add(0.1)
    assert clustering_metrics(stretched, labels)["ari"] == pytest.approx(clustering_metrics(x, labels)["ari"], abs=1e-12)
    noise = torch.cat([x, 50 * torch.randn(100, 1, generator=torch.Generator().manual_seed(2))], 1)
    blind = Mahalanobis(9, matrix=torch.diag(torch.tensor([1.0] * 8 + [0.0])))
    options: dict[str, Any] = {"nredo": 5}
    assert clustering_metrics(noise, labels, similarity=blind, **options)["ari"] == 1
    assert clustering_metrics(noise, labels, similarity="euclidean", **options)["ari"] < 0.5


def test_k_means_uses_every_point() -> None:
    x, _ = blobs(1, 5000, d=2)  # far more than the points per cluster at which faiss starts to sample
    clusters, _ = kmeans(x, 2, niter=200, nredo=1, seed=0)
    centres = torch.stack([x[clusters == i].mean(0) for i in (0, 1)])
    assert torch.equal(torch.cdist(x, centres).argmin(1), clusters)


def test_few_points_per_cluster_print_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    clustering_metrics(*blobs(10, 3))
    assert capfd.readouterr() == ("", "")


def test_degenerate_sets() -> None:
    names = ("nmi", "ami", "ari", "pairwise_f1")
    assert [clustering_metrics(torch.ones(1, 3), [7])[name] for name in names] == [1.0] * 4
    assert [clustering_metrics(blobs(1, 5)[0], [7] * 5)[name] for name in names] == [1.0] * 4
    assert [clustering_metrics(blobs(1, 5)[0], range(5))[name] for name in names] == [1.0] * 4
    collapsed = clustering_metrics(torch.ones(10, 3), torch.arange(10) // 2)
    assert [collapsed[name] for name in names[:3]] == [0, 0, 0]
    ignoring = clustering_metrics(
        *(torch.cat([side, extra]) for side, extra in zip(blobs(3, 9), (torch.ones(2, 8), torch.tensor([-1, -1])), strict=True))
    )
    assert (ignoring["num_points"], ignoring["num_ignored"], ignoring["num_clusters"]) == (27, 2, 3)


class Odd(Similarity):
    """Neither a product nor a distance."""


X, Y = torch.eye(4), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, "`num_clusters`.*at most the number of points, 4", (X, Y), {"num_clusters": 5}),
        (ValueError, "`num_clusters`.*at least 1", (X, Y), {"num_clusters": 0}),
        (ValueError, "`seed`", (X, Y), {"seed": -1}),
        (ValueError, "`niter`", (X, Y), {"niter": 0}),
        (ValueError, "`nredo`", (X, Y), {"nredo": 0}),
        (ValueError, "'cosine'", (X, Y), {"similarity": "cos"}),
        (ValueError, "faiss needs", (X, Y), {"similarity": Odd()}),
        (ValueError, "all are ignored", (X, [-1] * 4), {}),
        (ValueError, "`labels`.*4 entries", (X, [0]), {}),
        (TypeError, "`labels`.*integers", (X, [0.5] * 4), {}),
        (ValueError, "`embeddings`.*finite", (X * math.nan, Y), {}),
    ],
)
def test_bad_input(error: type[Exception], message: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        clustering_metrics(*arguments, **options)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_assignments(function: Any) -> None:
    for error, message, labels, clusters in (
        (ValueError, "2 entries", [0, 1], [0]),
        (TypeError, "`assignments`.*integers", [0, 1], [0.0, 1.0]),
        (TypeError, "`labels`.*integers", np.array([0.0, 1.0]), [0, 1]),
        (ValueError, "not negative", [], []),
        (ValueError, "not negative", [-1], [0]),
    ):
        with pytest.raises(error, match=message):
            function(labels, clusters)
