"""Metrics: retrieval, clustering, classification by neighbours, verification, health, and how sure they are; functions and streams."""

from __future__ import annotations

from metriczoo.metrics._result import MetricResult
from metriczoo.metrics.clustering import ami, ari, clustering_metrics, nmi, pairwise_f1
from metriczoo.metrics.health import embedding_health
from metriczoo.metrics.neighbours import knn_classify
from metriczoo.metrics.retrieval import (
    RetrievalOptions,
    map_at_r,
    mean_average_precision,
    mrr,
    ndcg,
    precision_at_k,
    r_precision,
    recall_at_k,
    retrieval_metrics,
)
from metriczoo.metrics.streaming import (
    Ami,
    Ari,
    ClusteringMetrics,
    EmbeddingHealth,
    KnnClassify,
    MapAtR,
    MeanAveragePrecision,
    Mrr,
    Ndcg,
    Nmi,
    PairwiseF1,
    PrecisionAtK,
    RecallAtK,
    RetrievalMetrics,
    RPrecision,
    StreamingMetric,
    VerificationMetrics,
)
from metriczoo.metrics.verification import verification_metrics

__all__ = [
    "Ami",
    "Ari",
    "ClusteringMetrics",
    "EmbeddingHealth",
    "KnnClassify",
    "MapAtR",
    "MeanAveragePrecision",
    "MetricResult",
    "Mrr",
    "Ndcg",
    "Nmi",
    "PairwiseF1",
    "PrecisionAtK",
    "RPrecision",
    "RecallAtK",
    "RetrievalMetrics",
    "RetrievalOptions",
    "StreamingMetric",
    "VerificationMetrics",
    "ami",
    "ari",
    "clustering_metrics",
    "embedding_health",
    "knn_classify",
    "map_at_r",
    "mean_average_precision",
    "mrr",
    "ndcg",
    "nmi",
    "pairwise_f1",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "retrieval_metrics",
    "verification_metrics",
]
