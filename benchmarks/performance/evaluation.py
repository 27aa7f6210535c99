"""Metrics of embeddings, five of each class, all of them queries; and of labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.performance.losses_on_batches import PEER
from benchmarks.performance.work import OURS, Make, Maker, Step, Work, labels_of, points
from metriczoo import metrics

__all__ = ["works"]

_PER_CLASS = 5
_RETRIEVAL = ("recall_at_k", "precision_at_k", "r_precision", "map_at_r", "mean_average_precision", "mrr", "ndcg")
_LABELS = {
    "nmi": "normalized_mutual_info_score",
    "ami": "adjusted_mutual_info_score",
    "ari": "adjusted_rand_score",
}
_SINGLE = 20_000  # up to which metrics are measured that have a pass of their own
_ONE_OF_MANY = 5_000  # and those that `retrieval_metrics` gives in one pass with others


def works() -> list[Work]:
    """Every metric."""
    return [
        _three(),
        Work("retrieval_metrics", "metrics", _backends("retrieval_metrics(x, y)", metrics.retrieval_metrics), scores=_square),
        *(_single(name) for name in _RETRIEVAL),
        _clustering(),
        _embeddings("knn_classify", "knn_classify(x, x, y)", lambda x, y: metrics.knn_classify(x, x, y), _SINGLE),
        _embeddings("verification_metrics", "verification_metrics(x, y)", metrics.verification_metrics, 5_000),
        Work(
            "embedding_health", "metrics", {OURS: Maker(_on_points(metrics.embedding_health), "embedding_health(x, y)")}, max_size=_SINGLE
        ),
        *(_of_labels(name) for name in (*_LABELS, "pairwise_f1")),
    ]


def _square(n: int) -> tuple[int, int]:
    return n, n


def _data(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return normalize(points(n, dtype, grad=False, per_class=_PER_CLASS)), labels_of(n, per_class=_PER_CLASS)


def _on_points(function: Callable[..., Any]) -> Make:
    def make(n: int, dtype: torch.dtype) -> Step:
        x, y = _data(n, dtype)
        return Step(lambda: function(x, y))

    return make


def _backends(expression: str, function: Callable[..., Any]) -> dict[str, Maker]:
    return {
        OURS: Maker(_on_points(function), expression),
        f"{OURS}-faiss": Maker(_on_points(lambda x, y: function(x, y, backend="faiss")), expression[:-1] + ', backend="faiss")'),
    }


def _embeddings(name: str, expression: str, function: Callable[..., Any], max_size: int) -> Work:
    return Work(name, "metrics", {OURS: Maker(_on_points(function), expression)}, scores=_square, max_size=max_size)


def _single(name: str) -> Work:
    function: Callable[..., Any] = getattr(metrics, name)
    makers = _backends(f"{name}(x, y)", lambda x, y, **options: torch.tensor(function(x, y, **options)))
    if name == "recall_at_k":
        makers["faiss"] = Maker(_on_points(_recall_of_faiss), "IndexFlatIP, the two nearest, the query left out")
    limit = _SINGLE if "faiss" in makers else _ONE_OF_MANY
    return Work(name, "metrics", makers, scores=_square, max_size=limit, tolerance=1e-6)


def _three() -> Work:
    """Recall@1, R-precision and MAP@R, as the calculator of the peer gives them."""

    def of_ours(x: Tensor, y: Tensor, **options: Any) -> Tensor:
        result = metrics.retrieval_metrics(x, y, k=1, metrics=("precision@k", "r_precision", "map@r"), **options)
        return torch.tensor([result[name] for name in ("precision@1", "r_precision", "map@r")])

    def of_peer(x: Tensor, y: Tensor) -> Tensor:
        names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        values = _calculator(names, "max_bin_count").get_accuracy(x, y)
        return torch.tensor([values[name] for name in names])

    expression = 'retrieval_metrics(x, y, k=1, metrics=("precision@k", "r_precision", "map@r"))'
    makers = {
        **_backends(expression, of_ours),
        PEER: Maker(_on_points(of_peer), "AccuracyCalculator of precision_at_1, r_precision, MAP@R"),
    }
    return Work("Recall@1 + R-precision + MAP@R", "metrics", makers, scores=_square, tolerance=1e-6)


def _clustering() -> Work:
    makers = {
        OURS: Maker(_on_points(partial(metrics.clustering_metrics, nredo=1)), "clustering_metrics(x, y, nredo=1)"),
        PEER: Maker(_on_points(lambda x, y: _calculator(("NMI", "AMI"), 1).get_accuracy(x, y)), "AccuracyCalculator of NMI, AMI"),
    }
    return Work("clustering_metrics", "metrics", makers, scores=None, uncompared="each starts its own k-means", max_size=_SINGLE)


def _calculator(names: tuple[str, ...], k: int | str) -> Any:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    return AccuracyCalculator(include=names, k=k, device=torch.device("cpu"))


def _recall_of_faiss(x: Tensor, y: Tensor) -> Tensor:
    import faiss

    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x.float().numpy())
    _, nearest = index.search(x.float().numpy(), 2)
    first, second = torch.from_numpy(nearest).unbind(1)
    other = torch.where(first == torch.arange(len(x)), second, first)
    return torch.tensor(float((y[other] == y).double().mean()))


def _of_labels(name: str) -> Work:
    def make_of(function: Callable[..., float]) -> Make:
        def make(n: int, dtype: torch.dtype) -> Step:
            y = labels_of(n, per_class=_PER_CLASS).numpy()
            # Half of the points are in the cluster of their class, the others anywhere.
            moved = torch.rand(n, generator=torch.Generator().manual_seed(0)).numpy() < 0.5
            z = y.copy()
            z[moved] = labels_of(n, per_class=_PER_CLASS, shuffle=False).numpy()[moved]
            return Step(lambda: torch.tensor(float(function(y, z))))

        return make

    makers = {OURS: Maker(make_of(getattr(metrics, name)), f"{name}(labels, clusters)")}
    if name in _LABELS:
        from sklearn import metrics as others

        makers["scikit-learn"] = Maker(make_of(getattr(others, _LABELS[name])), f"{_LABELS[name]}(labels, clusters)")
    return Work(name, "metrics", makers, tolerance=1e-6)
