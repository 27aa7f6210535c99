"""What papers and their code say of the data sets of photographs that retrieval is judged on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.presets.preset import Preset, Source

__all__ = ["PHOTOGRAPHS", "published"]

PHOTOGRAPHS = ("cub", "cars", "sop", "inshop")

_UNCONFIRMED = "values of the paper, not confirmed in code"


@dataclass(frozen=True)
class _Published:
    """What is known of a loss.

    Attributes:
        source: whose code was read, or which paper it is.
        by_dataset: data set -> (options of the loss, what was trained with).
        shared: fields of the preset, for all its data sets.
        unconfirmed: data set -> what its values are, where no code of the authors has them.
    """

    source: Source
    by_dataset: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
    shared: Mapping[str, Any] = field(default_factory=dict)
    unconfirmed: Mapping[str, str] = field(default_factory=dict)

    def source_of(self, dataset: str) -> Source:
        """The source of the values for a data set, with what was trained with."""
        training = self.by_dataset[dataset][1]
        if dataset not in self.unconfirmed:
            return replace(self.source, training=training)
        return Source("paper", f"{self.source.text}; {self.unconfirmed[dataset]}", training=training)


def _adam(rate: float, batch: int, **more: Any) -> dict[str, Any]:
    return {"optimizer": "Adam", "rate": rate, "batch": batch, **more}


def _no_code(*datasets: str, reason: str = _UNCONFIRMED) -> dict[str, str]:
    return dict.fromkeys(datasets, reason)


def _alike(datasets: Collection[str], options: Mapping[str, Any], **training: Any) -> dict[str, Any]:
    return dict.fromkeys(datasets, (options, training))


_BN = {"backbone": "BN-Inception", "embedding_dim": 512}
_RESNET = {"backbone": "ResNet-50", "embedding_dim": 512}
_ANCHOR = {"optimizer": "AdamW", "batch": 180, "epochs": 60, "weight_decay": 1e-4, **_BN}
_SMALL = {**_ANCHOR, "rate": 1e-4, "proxy_rate": 1e-2, "decay": 0.5}
_LARGE = {**_ANCHOR, "rate": 6e-4, "proxy_rate": 6e-2, "decay_step": 20, "decay": 0.25}
_NCA = {"optimizer": "Adam", "epsilon": 1.0, "backbone": "ResNet-50"}
_NCA_SMALL = {**_NCA, "batch": 32, "batch_classes": 8, "rate": 4e-3, "proxy_rate": 4e2, "epochs": 40, "embedding_dim": 2048}
_NCA_LARGE = {**_NCA, "batch": 192, "batch_classes": 64, "rate": 2.4e-2, "epochs": 80}
_TRIPLE = _adam(1e-4, 32, epsilon=0.01, proxy_rate=1e-2, weight_decay=1e-4, epochs=50, backbone="BN-Inception", embedding_dim=64)
_WU = _adam(1e-4, 70, batch_samples=5, epochs=20, weight_decay=1e-4, backbone="ResNet-50", embedding_dim=128, boundary_rate=0.1)
_LIFTED = {"optimizer": "SGD", "rate": 1e-4, "batch": 128, "weight_decay": 2e-4, "steps": 20_000, "backbone": "GoogLeNet"}
_RANKED = {"optimizer": "SGD", "rate": 1e-3, "weight_decay": 2e-5, "steps": 10_000}
_MEMORY = {"memory_bank": 55_000, "memory_from_step": 1000, "memory_weight": 1.0}
_XBM = _adam(1e-4, 64, batch_samples=4, weight_decay=5e-4, steps=35_000, backbone="ResNet-50", embedding_dim=128, **_MEMORY)
_RECALL = {"k": [1, 2, 4, 8, 16], "temperature": 0.01, "rank_temperature": [1, 2, 4, 8, 16]}
_FOURS = {"optimizer": "Adam", "batch_samples": 4, **_RESNET}

_VALUES: Mapping[str, _Published] = {
    "proxy_anchor": _Published(
        Source("code", "Kim, Kim, Cho, Kwak. Proxy Anchor Loss. CVPR 2020"),
        {
            "cub": ({}, {**_SMALL, "decay_step": 10}),
            "cars": ({}, {**_SMALL, "decay_step": 20}),
            "sop": ({}, _LARGE),
            "inshop": ({}, _LARGE),
        },
        {"proxy_rate": 10.0},
    ),
    "proxy_nca_plus_plus": _Published(
        Source("code", "Teh, DeVries, Taylor. ProxyNCA++. ECCV 2020; the rate of proxies is our choice"),
        {
            "cub": ({}, _NCA_SMALL),
            "sop": ({}, {**_NCA_LARGE, "proxy_rate": 2.4e2, "embedding_dim": 512}),
            "inshop": ({}, {**_NCA_LARGE, "proxy_rate": 2.4e3, "embedding_dim": 2048}),
        },
        {"proxy_rate": 100.0},
    ),
    "multi_similarity": _Published(
        Source("code", "Wang, Han, Huang, Dong, Scott. Multi-Similarity Loss. CVPR 2019"),
        _alike(
            PHOTOGRAPHS,
            {"positive_scale": 2.0, "negative_scale": 40.0, "threshold": 0.5},
            **_adam(3e-5, 80, batch_samples=5, weight_decay=5e-4, **_BN),
        ),
        {"miner": "multi_similarity"},
        _no_code("cars", "sop", "inshop", reason="values of its code for CUB, the only data set there"),
    ),
    "circle": _Published(
        Source("paper", "Sun et al. Circle Loss. CVPR 2020: fine-grained retrieval"),
        _alike(("cub", "cars", "sop"), {"margin": 0.4, "scale": 80.0}),
        unconfirmed=_no_code("cub", "cars", "sop", reason="not confirmed in code, of which the authors gave none"),
    ),
    "margin": _Published(
        Source("code", "Wu, Manmatha, Smola, Krähenbühl. Sampling Matters in Deep Embedding Learning. ICCV 2017"),
        _alike(("cub", "cars", "sop"), {"margin": 0.2, "beta": 1.2}, **_WU),
        {"miner": "distance_weighted"},
        _no_code("cars", "sop", reason="values of its code for CUB, the only data set there"),
    ),
    "soft_triple": _Published(
        Source("code", "Qian et al. SoftTriple Loss. ICCV 2019"),
        {"cub": ({"per_class": 10}, _TRIPLE), "cars": ({"per_class": 10}, _TRIPLE), "sop": ({"per_class": 2}, {})},
        {"proxy_rate": 10.0},
        {
            "cub": "values of its code for Cars, the only data set there",
            "sop": "two centres, as classes have five images: not confirmed in code; the rest as in its code for Cars",
        },
    ),
    "lifted_structure": _Published(
        Source("code", "Oh Song, Xiang, Jegelka, Savarese. Lifted Structured Feature Embedding. CVPR 2016"),
        _alike(("cub", "cars", "sop"), {"margin": 1.0}, **_LIFTED),
        unconfirmed=_no_code("cub", "cars", reason="values of its code for SOP, the only data set there"),
    ),
    "ranked_list": _Published(
        Source("code", "Wang et al. Ranked List Loss. CVPR 2019"),
        {
            "cub": ({"positive_margin": 1.2, "negative_margin": 1.4, "negative_scale": 10.0}, _RANKED),
            **_alike(("cars", "sop"), {"positive_margin": 0.8, "negative_margin": 1.2, "negative_scale": 10.0}),
        },
        unconfirmed=_no_code("cars", "sop"),
    ),
    "contrastive": _Published(
        Source("code", "Wang, Zhang, Huang, Scott. Cross-Batch Memory. CVPR 2020; with --memory-bank"),
        _alike(("sop", "inshop"), {"positive_margin": 1.0, "negative_margin": 0.5}, **_XBM),
        unconfirmed=_no_code("inshop", reason="values of its code, whose memory of 55000 is for SOP"),
    ),
    "fast_ap": _Published(
        Source("code", "Cakir, He, Xia, Kulis, Sclaroff. Deep Metric Learning to Rank. CVPR 2019"),
        _alike(("sop", "inshop"), {"num_bins": 10}, **_adam(1e-5, 256, head_rate=1e-4, epochs=30, backbone="ResNet-18", embedding_dim=512)),
    ),
    "smooth_ap": _Published(
        Source("code", "Brown, Xie, Kalogeiton, Zisserman. Smooth-AP. ECCV 2020"),
        {"sop": ({"temperature": 0.01}, {"batch_samples": 4, **_RESNET})},
        unconfirmed=_no_code("sop", reason="values of its code, which has other data sets"),
    ),
    "pnp": _Published(
        Source("code", "Li et al. Rethinking the Optimization of Average Precision. AAAI 2022"),
        {"sop": ({"variant": "dq", "power": 4.0}, _adam(1e-5, 384, batch_samples=4, epochs=400, weight_decay=4e-4, **_RESNET))},
    ),
    "recall_at_k": _Published(
        Source("code", "Patel, Tolias, Matas. Recall@k Surrogate Loss. CVPR 2022"),
        {
            "cub": (_RECALL, {**_FOURS, "rate": 1e-4, "batch": 400, "epochs": 40}),
            "cars": (_RECALL, {**_FOURS, "rate": 1e-4, "batch": 392, "epochs": 170}),
            "sop": (_RECALL, {**_FOURS, "rate": 2e-4, "batch": 4000, "epochs": 55}),
        },
    ),
}


def published(dataset: str, presets: Mapping[str, Preset]) -> dict[str, Preset]:
    """Those of `presets` whose loss papers have trained on a data set, with the values given for it.

    Of learning rates, only their ratio is kept: proxies learn 100 times as fast as the network in the code of Proxy-Anchor and SoftTriple,
    which is 10 times as fast as the head of the recipe, and that 10 times as fast as its pretrained backbone. (ProxyNCA++ has an Adam whose
    steps grow with the gradient: its ratio says nothing here.)
    """
    found = {}
    for name, loss in _VALUES.items():
        if dataset in loss.by_dataset:
            options, _ = loss.by_dataset[dataset]
            values = {"rate": 1.0, "miner": "none", **loss.shared, "options": options, "source": loss.source_of(dataset)}
            found[name] = replace(presets[name], **values)
    return found
