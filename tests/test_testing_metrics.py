"""`check_metric`: it passes our own metrics, and each of its checks finds a bug that was planted for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import sklearn.metrics
import torch
from torch import Tensor

from metriczoo import metrics
from metriczoo.metrics import RecallAtK, StreamingMetric, recall_at_k
from metriczoo.testing._checks import failures
from metriczoo.testing.metrics import METRIC_CHECKS, Case, check_metric

Point = Sequence[float]


def cosine(x: Point, y: Point) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def hits(points: Sequence[Point], labels: Sequence[int]) -> list[list[bool]]:
    """For each point whether those nearest to it are of its class."""
    found = []
    for i, x in enumerate(points):
        others = sorted((j for j in range(len(points)) if j != i), key=lambda j: -cosine(x, points[j]))
        found.append([labels[j] == labels[i] for j in others])
    return found


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def precision_sum(row: list[bool], places: int) -> float:
    return sum(sum(row[: i + 1]) / (i + 1) for i in range(places) if row[i])


def of_query(f: Callable[[list[bool]], float]) -> Callable[[Any, list[int]], float]:
    return lambda points, labels: mean([f(row) for row in hits(points, labels)])


def gain(row: list[bool]) -> float:
    return sum(1 / math.log2(i + 2) for i, hit in enumerate(row) if hit)


RETRIEVAL: dict[str, Callable[[list[bool]], float]] = {
    "recall_at_k": lambda row: float(row[0]),
    "precision_at_k": lambda row: float(row[0]),
    "r_precision": lambda row: sum(row[: sum(row)]) / sum(row),
    "map_at_r": lambda row: precision_sum(row, sum(row)) / sum(row),
    "mean_average_precision": lambda row: precision_sum(row, len(row)) / sum(row),
    "mrr": lambda row: 1 / (1 + row.index(True)),
    "ndcg": lambda row: gain(row) / gain(sorted(row, reverse=True)),
}
OF_QUERY = {
    "recall@1": RETRIEVAL["recall_at_k"],
    "recall@4": lambda row: float(any(row[:4])),
    "precision@4": lambda row: sum(row[:4]) / 4,
    **{name: RETRIEVAL[name.replace("@", "_at_")] for name in ("r_precision", "map@r", "mrr")},
    "map": RETRIEVAL["mean_average_precision"],
    "ndcg@2": lambda row: gain(row[:2]) / gain(sorted(row, reverse=True)[:2]),
}


def retrieval(points: Any, labels: list[int]) -> dict[str, float]:
    return {name: of_query(f)(points, labels) for name, f in OF_QUERY.items()}


def verification(points: Any, labels: list[int]) -> dict[str, float]:
    pairs = [(cosine(points[i], points[j]), labels[i] == labels[j]) for i in range(len(points)) for j in range(i)]
    return {"roc_auc": float(sklearn.metrics.roc_auc_score([same for _, same in pairs], [score for score, _ in pairs]))}


def vote(points: Any, labels: list[int]) -> float:
    right = []
    for i, x in enumerate(points):
        others = sorted((j for j in range(len(points)) if j != i), key=lambda j: -cosine(x, points[j]))[:3]
        votes = {c: sum(math.exp(cosine(x, points[j]) / 0.07) for j in others if labels[j] == c) for c in set(labels)}
        right.append(max(sorted(votes), key=lambda c: votes[c]) == labels[i])
    return mean(right)


def alignment(points: Any, labels: list[int]) -> dict[str, float]:
    pairs = [(i, j) for i in range(len(points)) for j in range(i) if labels[i] == labels[j]]
    return {"alignment": mean([2 - 2 * cosine(points[i], points[j]) for i, j in pairs])}


PAIRED = {"nmi": (0.0, 1.0), "ami": (-1.0, 1.0), "ari": (-0.5, 1.0), "pairwise_f1": (0.0, 1.0)}
SKLEARN: dict[str, Any] = {
    "nmi": lambda clusters, labels: sklearn.metrics.normalized_mutual_info_score(labels, clusters),
    "ami": lambda clusters, labels: sklearn.metrics.adjusted_mutual_info_score(labels, clusters),
    "ari": lambda clusters, labels: sklearn.metrics.adjusted_rand_score(labels, clusters),
}
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"ranking": True, "spec": of_query(f)} for name, f in RETRIEVAL.items()},
    "retrieval_metrics": {
        "best": dict.fromkeys(OF_QUERY, 1.0),
        "bounds": dict.fromkeys(OF_QUERY, (0.0, 1.0)),
        "ranking": True,
        "spec": retrieval,
    },
    "verification_metrics": {
        "best": {"roc_auc": 1.0, "eer": 0.0, "accuracy": 1.0, "tar@far=0.1": 1.0},
        "bounds": dict.fromkeys(("roc_auc", "eer", "accuracy", "tar@far=0.1", "attained@far=0.1"), (0.0, 1.0)),
        "ranking": True,
        "spec": verification,
    },
    "clustering_metrics": {"best": dict.fromkeys(PAIRED, 1.0), "bounds": PAIRED},
    "embedding_health": {
        "best": {"alignment": 0.0},
        "bounds": {"alignment": (0.0, 4.0), "uniformity": (-8.0, 0.0), "mean_cosine": (-1.0, 1.0), "effective_rank": (0.0, 4.0)},
        "spec": alignment,
    },
    "knn_classify": {"spec": vote},
    **{name: {"bounds": bounds, "spec": SKLEARN.get(name)} for name, bounds in PAIRED.items()},
}
GIVEN: dict[str, dict[str, Any]] = {
    "retrieval_metrics": {"k": (1, 2, 4)},
    "verification_metrics": {"far": (0.1,)},
    "clustering_metrics": {"nredo": 5},
    "knn_classify": {"k": 3},
}


def class_of(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize("name", OPTIONS)
def test_our_functions_pass(name: str) -> None:
    function = getattr(metrics, name)
    check_metric(partial(function, **GIVEN[name]) if name in GIVEN else function, **OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_our_streaming_classes_pass(name: str) -> None:
    check_metric(getattr(metrics, class_of(name))(**GIVEN.get(name, {})), **OPTIONS[name])


def test_no_metric_is_forgotten() -> None:
    names = set(OPTIONS) | {class_of(name) for name in OPTIONS}
    assert names | {"MetricResult", "RetrievalOptions", "StreamingMetric"} == set(metrics.__all__)


# ---- planted bugs: what a metric in a hurry looks like


def scores_of(x: Tensor, similarity: Any = None) -> Tensor:
    x = x.detach()
    s = (
        similarity.score(similarity.prepare(x), similarity.prepare(x))
        if similarity is not None
        else torch.cosine_similarity(x[:, None], x, dim=2)
    )
    return s.fill_diagonal_(-math.inf)


def nearest_is_right(scores: Tensor, labels: Any) -> float:
    labels = torch.as_tensor(labels)
    return float((labels[scores.argmax(1)] == labels).double().mean())


def attached(embeddings: Tensor, labels: Any) -> Tensor:
    """Its value has a gradient."""
    return recall_at_k(embeddings, labels) + 0 * embeddings.sum()


def changing(embeddings: Tensor, labels: Any) -> float:
    """Normalises what it was given, in place."""
    embeddings.detach().div_(embeddings.detach().norm(dim=1, keepdim=True))
    return recall_at_k(embeddings, labels)


def half_of_it(embeddings: Tensor, labels: Any) -> float:
    """Forgets the second half of the points."""
    return recall_at_k(embeddings[: len(labels) // 2], labels[: len(labels) // 2])


def by_index(embeddings: Tensor, labels: Any, similarity: Any = "cosine") -> float:
    """Equal points stand in the order in which they came."""
    return recall_at_k(embeddings, labels, ties="index", similarity=similarity)


def optimistic(embeddings: Tensor, labels: Any, similarity: Any = "cosine") -> float:
    """Equal points stand in the best order."""
    return recall_at_k(embeddings, labels, ties="optimistic", similarity=similarity)


def in_single_precision(embeddings: Tensor, labels: Any) -> float:
    """Loses digits of labels."""
    return recall_at_k(embeddings, torch.as_tensor(labels).double().long())


def largest_label(embeddings: Tensor, labels: Any) -> float:
    """Weighs queries by their label."""
    labels = torch.as_tensor(labels)
    right = (labels[scores_of(embeddings).argmax(1)] == labels).double()
    return float((right * (1 + labels)).sum() / (1 + labels).sum())


def inverted(embeddings: Tensor, labels: Any) -> float:
    """Looks at the farthest point."""
    return nearest_is_right(-scores_of(embeddings).nan_to_num(neginf=9.0), labels)


def constant(embeddings: Tensor, labels: Any) -> float:
    """Always content."""
    return 1.0


def percent(embeddings: Tensor, labels: Any) -> float:
    """In percent."""
    return 100 * recall_at_k(embeddings, labels)


def not_ignoring(embeddings: Tensor, labels: Any) -> float:
    """A negative label is a class as any other."""
    return recall_at_k(embeddings, torch.as_tensor(labels) + 100)


def at_two(embeddings: Tensor, labels: Any) -> float:
    """Looks at two places instead of one."""
    return recall_at_k(embeddings, labels, k=2)


def by_threshold(embeddings: Tensor, labels: Any, similarity: Any = None) -> float:
    """Negative scores do not count."""
    return nearest_is_right(scores_of(embeddings, similarity).clamp(min=0), labels)


def no_option(embeddings: Tensor, labels: Any) -> float:
    """Takes no similarity."""
    return recall_at_k(embeddings, labels)


def zeros(embeddings: Tensor, labels: Any) -> float:
    """Queries without a positive count as failures."""
    return recall_at_k(embeddings, labels, no_positive="zero")


def with_self(embeddings: Tensor, labels: Any) -> float:
    """A point is its own neighbour."""
    return recall_at_k(embeddings, labels, query_ids=[-1] * len(labels))


def views(embeddings: Tensor, labels: Any, ids: Any = None) -> float:
    """Takes ids, and does not look at them."""
    return recall_at_k(embeddings, labels)


def first_chunk(embeddings: Tensor, labels: Any, memory_budget: int | None = None) -> float:
    """Only neighbours in the same chunk are found."""
    labels = torch.as_tensor(labels)
    height = len(labels) if memory_budget is None else max(2, min(len(labels), memory_budget // 100))
    parts = [(x, y) for x, y in zip(embeddings.split(height), labels.split(height), strict=True) if len(x) > 1]
    return sum(nearest_is_right(scores_of(x), y) * len(y) for x, y in parts) / len(labels)


def in_half(embeddings: Tensor, labels: Any) -> float:
    """Scores half-precision points as they are."""
    x = embeddings / embeddings.norm(dim=1, keepdim=True)
    return float((x @ x.mT).sum() / len(x) ** 2)


def trusting(embeddings: Tensor, labels: Any) -> float:
    """Looks at nothing before it starts."""
    return nearest_is_right(scores_of(embeddings), labels)


def undocumented(embeddings: Tensor, labels: Any) -> float:
    return recall_at_k(embeddings, labels)


class MeanOfBatches(RecallAtK):
    """An average over batches."""

    def compute(self) -> float:
        columns = self._columns.parts
        values = [recall_at_k(x, y) for x, y in zip(columns["embeddings"], columns["labels"], strict=True) if len(x)]
        return sum(values) / len(values)


class NoReset(RecallAtK):
    """Forgets only half of it."""

    def reset(self) -> None:
        if not hasattr(self, "_columns"):
            super().reset()


class ByReference(StreamingMetric):
    """Keeps what it was given, not a copy."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        self.parts.append((embeddings, labels))

    def compute(self) -> float:
        if not self.parts:
            raise ValueError("Expected at least one `update`.")
        x, y = (torch.cat(list(part)) for part in zip(*self.parts, strict=True))
        return recall_at_k(x, y)


class CopiesLost(RecallAtK):
    """Its pickles are empty."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reset()


RANKING: dict[str, Any] = {"ranking": True}
PLANTED: list[tuple[str, Any, dict[str, Any]]] = [
    ("check_values", attached, {}),
    ("check_values", changing, {}),
    ("check_permutation", half_of_it, {}),
    ("check_duplicates", by_index, RANKING),
    ("check_relabelling", in_single_precision, {}),
    ("check_relabelling", largest_label, {}),
    ("check_best", inverted, {}),
    ("check_best", constant, {}),
    ("check_bounds", percent, {}),
    ("check_ignored", not_ignoring, {}),
    ("check_spec", at_two, {"spec": OPTIONS["recall_at_k"]["spec"]}),
    ("check_chance", optimistic, RANKING),
    ("check_increasing_map", by_threshold, RANKING),
    ("check_increasing_map", no_option, RANKING),
    ("check_no_positive", zeros, RANKING),
    ("check_self", with_self, {}),
    ("check_self", views, {}),
    ("check_chunks", first_chunk, {}),
    ("check_dtypes", in_half, {}),
    ("check_refused", trusting, {}),
    ("check_refused", constant, {}),
    ("check_batches", MeanOfBatches(), {}),
    ("check_reset", NoReset(), {}),
    ("check_copied", ByReference(), {}),
    ("check_copies", CopiesLost(), {}),
    ("check_documentation", undocumented, {}),
]


def case(metric: Any, spec: Any = None, ranking: bool = False) -> Case:
    return Case(metric, {"value": 1.0}, {"value": (0.0, 1.0)}, ranking, spec)


@pytest.mark.parametrize(("name", "metric", "options"), PLANTED, ids=lambda x: getattr(x, "__name__", "") if callable(x) else str(x)[:25])
def test_each_check_finds_its_bug(name: str, metric: Any, options: dict[str, Any]) -> None:
    checks = [check for check in METRIC_CHECKS if check.name == name]
    assert failures(case(metric, **options), checks)[name]


def test_every_check_has_its_bug() -> None:
    assert {name for name, _, _ in PLANTED} == {check.name for check in METRIC_CHECKS}


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(AssertionError, match=re.escape("constant fails")) as caught:
        check_metric(constant)
    for name in ("check_best: ", "check_refused: "):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((RecallAtK,), r"`metric` to be a function.*Did you mean `RecallAtK\(\)`"),
        (("recall",), "`metric` to be a function"),
        ((recall_at_k, 0.5), "`spec` to be callable"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_metric(arguments[0], **({"spec": arguments[1]} if len(arguments) > 1 else {}))
