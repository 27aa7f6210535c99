"""Streaming metrics: any split into batches gives the value of the function on all of them."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import metriczoo.metrics as zoo

FUNCTIONS = sorted(name for name in zoo.__all__ if inspect.isfunction(getattr(zoo, name)))
RETRIEVAL = ["retrieval_metrics", "recall_at_k", "precision_at_k", "r_precision", "map_at_r", "mean_average_precision", "mrr", "ndcg"]
ASSIGNMENTS = ["nmi", "ami", "ari", "pairwise_f1"]
N = 24
EMBEDDINGS = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 4
CLUSTERS = torch.arange(N) // 7


def streaming(name: str) -> Any:
    return getattr(zoo, "".join(part.capitalize() for part in name.split("_")))


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def split(cuts: list[int]) -> list[slice]:
    edges = [0, *sorted(cuts), N]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def test_every_function_has_its_class_and_every_class_its_function() -> None:
    classes = {streaming(name) for name in FUNCTIONS} | {zoo.StreamingMetric}
    subclasses = {getattr(zoo, name) for name in zoo.__all__ if inspect.isclass(getattr(zoo, name))}
    assert classes == {one for one in subclasses if issubclass(one, zoo.StreamingMetric)}
    assert len(FUNCTIONS) == 16


@pytest.mark.parametrize("name", FUNCTIONS)
@given(cuts=st.lists(st.integers(0, N), max_size=4))
def test_equals_the_function_on_all_batches(name: str, cuts: list[int]) -> None:
    metric, function = streaming(name)(), getattr(zoo, name)
    columns = (LABELS, CLUSTERS) if name in ASSIGNMENTS else (EMBEDDINGS, LABELS)
    if name == "knn_classify":
        want = function(EMBEDDINGS, EMBEDDINGS, LABELS, query_ids=range(N), reference_ids=range(N))
    else:
        want = function(*columns)
    for _ in range(2):  # again after a reset
        for rows in split(cuts):
            metric.update(*(column[rows] for column in columns))
        assert same(metric.compute(), want)
        metric.reset()
    with pytest.raises(ValueError, match="at least one `update`"):
        metric.compute()


@pytest.mark.parametrize("name", [*RETRIEVAL, "knn_classify"])
def test_a_gallery_of_its_own(name: str) -> None:
    ids = torch.arange(N) % 20
    metric, function = streaming(name)(similarity="euclidean"), getattr(zoo, name)
    for rows in (slice(0, 5), slice(5, 10)):
        metric.update(EMBEDDINGS[rows], LABELS[rows], ids[rows])
    for rows in (slice(10, 20), slice(20, N)):
        metric.update(EMBEDDINGS[rows].numpy(), LABELS[rows].tolist(), ids[rows], references=True)
    arguments = [EMBEDDINGS[:10], LABELS[:10], EMBEDDINGS[10:], LABELS[10:]]
    if name == "knn_classify":
        del arguments[1]
    assert same(metric.compute(), function(*arguments, query_ids=ids[:10], reference_ids=ids[10:], similarity="euclidean"))


def test_ids_come_with_the_batches() -> None:
    ids = torch.arange(N) // 2
    for name in ("retrieval_metrics", "verification_metrics"):
        metric, function = streaming(name)(), getattr(zoo, name)
        metric.update(EMBEDDINGS[:9], LABELS[:9], ids[:9])
        metric.update(EMBEDDINGS[9:], LABELS[9:], ids[9:])
        assert same(metric.compute(), function(EMBEDDINGS, LABELS, **{"query_ids" if name == "retrieval_metrics" else "ids": ids}))
        with pytest.raises(TypeError, match="`ids` of `update`"):
            streaming(name)(ids=ids)


def test_queries_of_the_classifier_need_no_labels() -> None:
    metric = zoo.KnnClassify(k=3, return_scores=True)
    metric.update(EMBEDDINGS[:4])
    metric.update(EMBEDDINGS[4:], LABELS[4:], references=True)
    want = zoo.knn_classify(EMBEDDINGS[:4], EMBEDDINGS[4:], LABELS[4:], k=3, return_scores=True)
    assert all(torch.equal(a, b) for a, b in zip(metric.compute(), want, strict=True))


def test_pairs_are_collected_too() -> None:
    metric = zoo.VerificationMetrics(far=0.5)
    metric.update([0.9, 0.2], [True, False])
    metric.update(torch.tensor([0.4, 0.5], dtype=torch.float64), [1, 0])
    assert metric.compute() == zoo.verification_metrics([0.9, 0.2, 0.4, 0.5], [1, 0, 1, 0], far=0.5)
    with pytest.raises(ValueError, match="`ids`"):
        metric.update([0.1], [True], ids=[0])


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ASSIGNMENTS])
def test_autocast_changes_nothing(name: str) -> None:
    arguments = (EMBEDDINGS, EMBEDDINGS, LABELS) if name == "knn_classify" else (EMBEDDINGS, LABELS)
    want = getattr(zoo, name)(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(getattr(zoo, name)(*arguments), want)


def test_batches_are_copied_and_carry_no_gradient() -> None:
    metric, buffer = zoo.RecallAtK(), EMBEDDINGS.clone().requires_grad_()
    metric.update(buffer, LABELS)
    with torch.no_grad():
        buffer.zero_()
    assert metric.compute() == zoo.recall_at_k(EMBEDDINGS, LABELS)


def test_mistakes_show_before_everything_has_been_collected() -> None:
    for options, error in (
        ({"k": 0}, ValueError),
        ({"ties": "no"}, ValueError),
        ({"similarity": "cos"}, ValueError),
        ({"margin": 1}, TypeError),
    ):
        with pytest.raises(error):
            zoo.RecallAtK(**options)
    for kind in (zoo.Nmi, zoo.EmbeddingHealth, zoo.KnnClassify, zoo.ClusteringMetrics, zoo.VerificationMetrics):
        with pytest.raises(TypeError):
            kind(margin=1)
    metric = zoo.RetrievalMetrics()
    for arguments in ((EMBEDDINGS, LABELS[:3]), (EMBEDDINGS / 0, LABELS), (EMBEDDINGS, LABELS.float()), (EMBEDDINGS[0], LABELS)):
        with pytest.raises((ValueError, TypeError)):
            metric.update(*arguments)
    metric.update(EMBEDDINGS, LABELS)
    for arguments in ((EMBEDDINGS[:, :2], LABELS), (EMBEDDINGS, LABELS, LABELS)):
        with pytest.raises(ValueError, match="every update"):
            metric.update(*arguments)
    assert metric.compute() == zoo.retrieval_metrics(EMBEDDINGS, LABELS)
