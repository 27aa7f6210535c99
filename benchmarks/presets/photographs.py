"""What papers and their code say of the data sets of photographs that retrieval is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.presets.preset import Preset, Source

__all__ = ["PHOTOGRAPHS", "published"]

PHOTOGRAPHS = ("cub", "cars", "sop", "inshop")

# Loss -> where it is from, what holds for all its data sets, and data set -> (options, what was trained with).
_Published = tuple[Source, Mapping[str, Any], Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]]


def _adam(rate: float, batch: int, **more: Any) -> dict[str, Any]:
    return {"optimizer": "Adam", "rate": rate, "batch": batch, **more}


_SMALL = {"optimizer": "AdamW", "rate": 1e-4, "batch": 180, "proxy_rate": 1e-2, "backbone": "BN-Inception", "embedding_dim": 512}
_LARGE = {**_SMALL, "rate": 6e-4, "proxy_rate": 6e-2}
_NCA = {"optimizer": "Adam", "batch": 32, "batch_classes": 8, "rate": 4e-3, "proxy_rate": 4e2, "epochs": 40, "backbone": "ResNet-50"}
_NCA_LARGE = {**_NCA, "batch": 192, "batch_classes": 64, "rate": 2.4e-2, "epochs": 80}
_MS = _adam(3e-5, 80, batch_samples=5, backbone="BN-Inception", embedding_dim=512)
_WU = {"batch": 70, "batch_samples": 5, "backbone": "ResNet-50", "embedding_dim": 128, "boundary_rate": 0.1}
_AP = _adam(1e-5, 384, batch_samples=4, backbone="ResNet-50", embedding_dim=512)
_TRIPLE = _adam(1e-4, 32, proxy_rate=1e-2, epochs=50, backbone="BN-Inception", embedding_dim=64)
_RECALL = {"k": [1, 2, 4, 8, 16], "temperature": 0.01}
_LOWER = {"optimizer": "Adam", "batch_samples": 4, "backbone": "ResNet-50", "embedding_dim": 512}
_BINS = {"optimizer": "Adam", "embedding_dim": 512}

_VALUES: Mapping[str, _Published] = {
    "proxy_anchor": (
        Source("code", "Kim, Kim, Cho, Kwak. Proxy Anchor Loss. CVPR 2020"),
        {"proxy_rate": 10.0},
        {
            "cub": ({}, {**_SMALL, "decay_step": 10}),
            "cars": ({}, {**_SMALL, "decay_step": 20}),
            "sop": ({}, {**_LARGE, "decay_step": 20, "decay": 0.25}),
            "inshop": ({}, {**_LARGE, "decay_step": 20, "decay": 0.25}),
        },
    ),
    "proxy_nca_plus_plus": (
        Source("code", "Teh, DeVries, Taylor. ProxyNCA++. ECCV 2020"),
        {"proxy_rate": 100.0},
        {
            "cub": ({}, _NCA),
            "sop": ({}, {**_NCA_LARGE, "proxy_rate": 2.4e2}),
            "inshop": ({}, {**_NCA_LARGE, "proxy_rate": 2.4e3}),
        },
    ),
    "multi_similarity": (
        Source("code", "Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss. CVPR 2019"),
        {"miner": "multi_similarity"},
        {name: ({"positive_scale": 2.0, "negative_scale": 40.0, "threshold": 0.5}, _MS) for name in PHOTOGRAPHS},
    ),
    "circle": (
        Source("paper", "Sun et al. Circle Loss. CVPR 2020: fine-grained retrieval"),
        {},
        {name: ({"margin": 0.4, "scale": 80.0}, {}) for name in ("cub", "cars", "sop")},
    ),
    "margin": (
        Source("code", "Wu, Manmatha, Smola, Krähenbühl. Sampling Matters in Deep Embedding Learning. ICCV 2017"),
        {"miner": "distance_weighted"},
        {name: ({"margin": 0.2, "beta": 1.2}, _WU) for name in ("cub", "cars", "sop")},
    ),
    "soft_triple": (
        Source("code", "Qian et al. SoftTriple Loss. ICCV 2019; with few centres where classes have few images"),
        {"proxy_rate": 10.0},
        {"cub": ({"per_class": 10}, _TRIPLE), "cars": ({"per_class": 10}, _TRIPLE), "sop": ({"per_class": 2}, {})},
    ),
    "lifted_structure": (
        Source("code", "Oh Song, Xiang, Jegelka, Savarese. Lifted Structured Feature Embedding. CVPR 2016"),
        {},
        {name: ({"margin": 1.0}, {"batch": 128}) for name in ("cub", "cars", "sop")},
    ),
    "ranked_list": (
        Source("paper", "Wang et al. Ranked List Loss. CVPR 2019"),
        {},
        {name: ({"positive_margin": 0.8, "negative_margin": 1.2, "negative_scale": 10.0}, {}) for name in ("cub", "cars", "sop")},
    ),
    "contrastive": (
        Source("code", "Wang, Zhang, Huang, Scott. Cross-Batch Memory. CVPR 2020; with --memory-bank"),
        {},
        {name: ({"positive_margin": 1.0, "negative_margin": 0.5}, _adam(1e-4, 64)) for name in ("sop", "inshop")},
    ),
    "fast_ap": (
        Source("code", "Cakir, He, Xia, Kulis, Sclaroff. Deep Metric Learning to Rank. CVPR 2019"),
        {},
        {name: ({"num_bins": 10}, _BINS) for name in ("sop", "inshop")},
    ),
    "smooth_ap": (
        Source("code", "Brown, Xie, Kalogeiton, Zisserman. Smooth-AP. ECCV 2020"),
        {},
        {"sop": ({"temperature": 0.01}, {"batch_samples": 4})},
    ),
    "pnp": (
        Source("code", "Li et al. Rethinking the Optimization of Average Precision. AAAI 2022"),
        {},
        {"sop": ({"variant": "dq", "power": 4.0}, {**_AP, "epochs": 400})},
    ),
    "recall_at_k": (
        Source("code", "Patel, Tolias, Matas. Recall@k Surrogate Loss. CVPR 2022"),
        {},
        {
            "cub": (_RECALL, {**_LOWER, "rate": 1e-4, "batch": 400, "epochs": 40}),
            "cars": (_RECALL, {**_LOWER, "rate": 1e-4, "batch": 392, "epochs": 170}),
            "sop": (_RECALL, {**_LOWER, "rate": 2e-4, "batch": 4000, "epochs": 55}),
        },
    ),
}


def published(dataset: str, presets: Mapping[str, Preset]) -> dict[str, Preset]:
    """Those of `presets` whose loss papers have trained on a data set, with the values given for it.

    Learning rates are the paper's only in their ratio, of proxies to the head: the recipe, with its optimiser and backbone, is another.
    """
    found = {}
    for name, (source, shared, by_dataset) in _VALUES.items():
        if dataset in by_dataset:
            options, training = by_dataset[dataset]
            values = {"rate": 1.0, "miner": "none", **shared, "options": options, "source": replace(source, training=training)}
            found[name] = replace(presets[name], **values)
    return found
