"""Faults that other libraries have in miners, stores and metrics (section 12 of the project's specification)."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bad_inputs import BAD_EMBEDDINGS, BAD_LABELS, BIG
from every_loss import (
    D,
    batch,
)

from metriczoo import References, losses, metrics, miners
from metriczoo.stores import Centers, EmbeddingQueue, MemoryBank

# ---- miners and names


@pytest.mark.parametrize("dim", [16, 128, 512, 2048])
def test_distance_weighted_mining_keeps_every_anchor(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(32) % 8
    miner = miners.DistanceWeightedMiner(generator=generator, nonzero_loss_cutoff=2.0)
    each = losses.TripletMarginLoss(margin=2.0, miner=miner, reduction="none")(x, labels)
    assert (each > 0).all()


@pytest.mark.parametrize(
    ("make", "nearest"),
    [
        (lambda: miners.EasyPositiveMiner(negatives="semi_hard"), "semi"),
        (lambda: miners.SemiHardMiner(select="hardst"), "hardest"),
        (lambda: losses.TripletMarginLoss(penalty="sqared"), "squared"),
        (lambda: losses.TripletMarginLoss(reduction="meen"), "mean"),
        (lambda: losses.SupConLoss(form="inn"), "in"),
        (lambda: losses.PNPLoss("o-"), "o"),
        (lambda: losses.ArcFaceLoss(3, 4, gradient="detach"), "detached"),
        (lambda: losses.CircleLoss(execution="tile"), "tiled"),
        (lambda: metrics.retrieval_metrics(*batch(), similarity="cosin"), "cosine"),
        (lambda: metrics.retrieval_metrics(*batch(), ties="expect"), "expected"),
        (lambda: metrics.retrieval_metrics(*batch(), metrics="mapr"), "map"),
        (lambda: metrics.retrieval_metrics(*batch(), average="makro"), "macro"),
    ],
)
def test_a_misspelt_choice_is_an_error_that_names_the_nearest(make: Callable[[], Any], nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected `\w+`.*but got.*Did you mean '{nearest}") as error:
        make()
    assert nearest in str(error.value)


# ---- stores


def test_large_labels_stay_apart_in_stores() -> None:
    x, labels = batch()
    far = 2**53 + labels
    queue = EmbeddingQueue(9, D)
    queue.enqueue(x, far, ids=2**53 + torch.arange(9))
    assert torch.equal(queue.references().labels, far)
    assert torch.equal(queue.references().ids, 2**53 + torch.arange(9))
    bank = MemoryBank(9, D, labels=far)
    assert torch.equal(bank.references().labels, far)
    restored = EmbeddingQueue(9, D)
    restored.load_state_dict(queue.state_dict())
    assert torch.equal(restored.references().labels, far)


def test_a_queue_resumes_where_it_was() -> None:
    """Amid a turn of the ring: cursor, how full it is, ids."""
    source = random.Random(0)
    one = EmbeddingQueue(7, D)
    for step in range(12):
        n = source.randint(1, 5)
        x, labels = batch(step, n)
        ids = torch.arange(n) + 10 * step
        two = EmbeddingQueue(7, D)
        two.load_state_dict(one.state_dict())
        for queue in (one, two):
            queue.enqueue(x, labels, ids)
        assert len(one) == len(two)
        a, b = one.references(), two.references()
        assert torch.equal(a.embeddings, b.embeddings)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.ids, b.ids)


def test_class_zero_fills_a_queue_as_any_other() -> None:
    queue = EmbeddingQueue(4, D)
    queue.enqueue(batch(0, 6)[0], [0] * 6)
    assert len(queue) == 4
    assert queue.references().labels.tolist() == [0] * 4


@pytest.mark.parametrize("kind", BAD_EMBEDDINGS)
def test_stores_reject_embeddings_that_are_none(kind: str) -> None:
    x, error = BAD_EMBEDDINGS[kind]
    for call in (
        lambda: EmbeddingQueue(9, D).enqueue(x, range(9)),
        lambda: MemoryBank(9, D).update(range(9), x),
        lambda: Centers(9, D).update(x, range(9)),
        lambda: References(x, range(9)),
    ):
        with pytest.raises(error, match=r"Expected `[\w.]*embeddings`.*but got"):
            call()


def test_stores_reject_points_that_are_not_finite_and_stay_as_they_are() -> None:
    x, _ = batch()
    x[4, 0] = math.inf
    for store, update in (
        (EmbeddingQueue(9, D), lambda s: s.enqueue(x, range(9))),
        (MemoryBank(9, D), lambda s: s.update(range(9), x)),
        (Centers(9, D), lambda s: s.update(x, range(9))),
    ):
        before = copy.deepcopy(store.state_dict())
        with pytest.raises(ValueError, match=r"finite.*rows \[4\]"):
            update(store)
        for key, value in store.state_dict().items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[key])), key


# ---- metrics


@pytest.mark.parametrize("offset", [BIG, 2**24, 2**53])
def test_large_labels_stay_apart_in_metrics(offset: int) -> None:
    """Ids near 10^12 are one number in float32: every retrieval would be right."""
    x, labels = batch(7, 40, classes=10)
    far = offset + labels
    for name, kind in (("retrieval_metrics", metrics.retrieval_metrics), ("clustering_metrics", metrics.clustering_metrics)):
        got, expected = (kind(x, y) for y in (far, labels))
        assert {k: got[k] for k in got} == pytest.approx({k: expected[k] for k in expected}, nan_ok=True), name
    assert metrics.precision_at_k(x, far) < 0.5
    shuffled = far[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    for function in (metrics.nmi, metrics.ami, metrics.ari, metrics.pairwise_f1):
        assert function(far, shuffled) == pytest.approx(function(labels, shuffled - offset))
    predicted = metrics.knn_classify(x, x, far, k=5)
    assert torch.equal(predicted, offset + metrics.knn_classify(x, x, labels, k=5))


@pytest.mark.parametrize("kind", [k for k in BAD_LABELS if k != "none"])
def test_labels_that_are_none_in_metrics_and_stores(kind: str) -> None:
    labels, error = BAD_LABELS[kind]
    x, good = batch()
    calls: list[Callable[[], Any]] = [
        lambda: metrics.retrieval_metrics(x, labels),
        lambda: metrics.retrieval_metrics(x, good, x, labels),
        lambda: metrics.mrr(x, labels),
        lambda: metrics.clustering_metrics(x, labels),
        lambda: metrics.knn_classify(x, x, labels),
        lambda: metrics.nmi(good, labels),
        lambda: EmbeddingQueue(9, D).enqueue(x, labels),
        lambda: EmbeddingQueue(9, D).enqueue(x, good, ids=labels),
        lambda: MemoryBank(9, D).update(labels, x),
        lambda: Centers(9, D).update(x, labels),
        lambda: References(x, labels),
        lambda: References(x, good, labels),
    ]
    for call in calls:
        with pytest.raises(error, match=r"Expected `[\w.]+`.*but got"):
            call()


@pytest.mark.parametrize("name", ["recall@1", "precision@1", "r_precision", "map@r", "map", "mrr", "ndcg@4"])
def test_each_metric_alone_is_what_it_is_among_all(name: str) -> None:
    x, labels = batch(0, 30, dtype=torch.float64)
    everything = metrics.retrieval_metrics(x, labels, k=(1, 4))
    assert metrics.retrieval_metrics(x, labels, metrics=name)[name] == pytest.approx(everything[name], abs=1e-12)


def test_mrr_alone() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [6.0], [7.0]])
    # nearest first: 0: 1 (hit); 1: 0 (hit); 2: 1, 0, 3, 4 (fourth); 3: 4, 2, 1 (third); 4: 3, 2 (second)
    assert metrics.mrr(x, [0, 0, 1, 0, 1], similarity="euclidean") == pytest.approx((1 + 1 + 1 / 4 + 1 / 3 + 1 / 2) / 5)


def test_scores_below_zero_count_as_any_other() -> None:
    """Relevant references whose scores are negative are still relevant."""
    queries, references = torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.5, 1.0], [-1.0, 0.2], [-1.0, 0.0]])
    result = metrics.retrieval_metrics(queries, [0], references, [1, 0, 0], k=(1, 2), metrics=["recall@k", "precision@k", "map", "mrr"])
    assert (result["recall@1"], result["recall@2"], result["precision@2"], result["mrr"]) == (0.0, 1.0, 0.5, 0.5)
    assert result["map"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_perfect_model_scores_one_and_equal_points_score_chance() -> None:
    labels = torch.arange(12) % 4
    perfect = metrics.retrieval_metrics(torch.eye(4)[labels], labels, k=(1, 2))
    for name in ("recall@1", "precision@1", "r_precision", "map@r", "map", "mrr"):
        assert perfect[name] == pytest.approx(1.0), name
    assert metrics.recall_at_k(torch.ones(5, 2), [0, 0, 1, 1, 1]) == pytest.approx(0.4)
    shuffled = metrics.recall_at_k(torch.ones(5, 2), [1, 0, 1, 0, 1])
    assert shuffled == pytest.approx(0.4)


def test_queries_without_a_positive_are_skipped_and_counted() -> None:
    x, _ = batch(0, 5)
    result = metrics.retrieval_metrics(x, [0, 0, 1, 2, 3])
    assert (result["num_queries"], result["num_skipped"]) == (2, 3)
    none = metrics.retrieval_metrics(x, list(range(5)))
    assert none["num_queries"] == 0
    assert math.isnan(none["recall@1"])
    with pytest.raises(ValueError, match=r"positive"):
        metrics.retrieval_metrics(x, list(range(5)), no_positive="error")


def test_more_places_than_references() -> None:
    """A k beyond the gallery is legal."""
    x, labels = batch(0, 9)
    far = metrics.retrieval_metrics(x, labels, k=1000, metrics=["recall@k", "precision@k"])
    assert far["recall@1000"] == 1.0
    assert metrics.recall_at_k(x, labels, k=4) >= metrics.recall_at_k(x, labels, k=1)


def test_metrics_reject_points_that_are_not_finite() -> None:
    x, labels = batch()
    x[3] = math.nan
    for call in (metrics.retrieval_metrics, metrics.clustering_metrics, metrics.embedding_health):
        with pytest.raises(ValueError, match=r"finite.*rows \[3\]"):
            call(x, labels)
    with pytest.raises(ValueError, match=r"finite.*rows \[3\]"):
        metrics.knn_classify(x, batch()[0], labels)
