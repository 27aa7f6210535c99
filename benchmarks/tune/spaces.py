"""What is searched of each loss, and within which bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.presets import Preset

__all__ = ["Choice", "Range", "Space", "drawn", "space_of", "with_values"]

_FIELDS = ("rate", "proxy_rate", "length")  # of a preset; all other names are options of its loss


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, their logarithms evenly spread if `log`."""

    low: float
    high: float
    log: bool = False

    def draw(self, generator: np.random.Generator) -> float:
        """A number of it, of three significant digits."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = generator.uniform(low, high)
        return float(f"{math.exp(value) if self.log else value:.3g}")


@dataclass(frozen=True)
class Choice:
    """A few values."""

    values: tuple[Any, ...]

    def draw(self, generator: np.random.Generator) -> Any:
        """One of them."""
        return self.values[int(generator.integers(len(self.values)))]


Space = Mapping[str, Range | Choice]

_SCALE, _TEMPERATURE = Range(4.0, 96.0, log=True), Range(0.02, 0.5, log=True)
_FACE: Space = {"margin": Range(0.05, 0.5), "scale": _SCALE}
_TUPLET: Space = {"margin": Range(0.02, 0.3), "scale": _SCALE}
_MULTIPLE: Space = {"margin": Choice((1.5, 2.0, 3.0, 4.0))}
_SIMILARITY: Space = {"positive_scale": Range(1.0, 8.0), "negative_scale": Range(5.0, 80.0, log=True), "threshold": Range(0.1, 1.0)}
_WARM: Space = {"temperature": _TEMPERATURE}
_RANKS: Space = {"temperature": Range(0.005, 0.1, log=True)}
_EUCLIDEAN: Space = {"margin": Range(0.2, 1.5)}
# Hyper-parameters of the losses themselves, by name.
_OWN: Mapping[str, Space] = {
    "contrastive": {"positive_margin": Range(0.6, 1.0), "negative_margin": Range(0.0, 0.6), "reduction": Choice(("mean_active", "mean"))},
    "triplet": {"margin": Range(0.05, 0.5)},
    "circle": {"margin": Range(0.2, 0.7), "scale": _SCALE},
    "unified": _FACE,
    "lmnn": {"margin": Range(0.1, 1.5), "num_targets": Choice((1, 2, 3))},
    "multi_similarity": _SIMILARITY,
    "binomial_deviance": _SIMILARITY,
    "threshold_consistent_margin": {**_SIMILARITY, "weight": Range(0.1, 3.0, log=True)},
    "margin": {"margin": Range(0.05, 0.4), "beta": Range(0.7, 1.3)},
    "ranked_list": {"positive_margin": Range(0.4, 1.0), "negative_margin": Range(0.9, 1.4), "negative_scale": Range(0.0, 20.0)},
    "lifted_structure": _EUCLIDEAN,
    "generalized_lifted_structure": _EUCLIDEAN,
    "n_pairs": {"norm_penalty": Range(0.0005, 0.05, log=True)},
    "angular": {"angle": Range(30.0, 55.0)},
    "tuplet_margin": _TUPLET,
    "intra_pair_variance": {**_TUPLET, "weight": Range(0.1, 2.0, log=True)},
    "easy_positive": {"temperature": _TEMPERATURE, "semi_hard": Choice((False, True))},
    "sigmoid": {"scale": Range(5.0, 40.0, log=True), "bias": Range(-15.0, 0.0)},
    "nca": {"scale": Range(0.3, 10.0, log=True)},
    "soft_nearest_neighbor": {"temperature": Range(0.1, 3.0, log=True)},
    "supcon": _WARM,
    "nt_xent": _WARM,
    "decoupled_contrastive": _WARM,
    "weighted_decoupled_contrastive": {**_WARM, "weight_temperature": Range(0.1, 2.0, log=True)},
    "instance": {"scale": _SCALE},
    "histogram": {"num_bins": Choice((25, 50, 100, 150))},
    "magnet": {"margin": Range(0.0, 5.0)},
    "fast_ap": {"num_bins": Choice((5, 10, 15, 20))},
    "smooth_ap": _RANKS,
    "pnp": {**_RANKS, "power": Choice((1.0, 2.0, 4.0, 8.0))},
    "recall_at_k": {**_RANKS, "rank_temperature": Range(0.3, 3.0, log=True)},
    "norm_face": {"scale": _SCALE},
    "l2_softmax": {"scale": _SCALE},
    "am_softmax": _FACE,
    "arc_face": _FACE,
    "sub_center_arc_face": {**_FACE, "per_class": Choice((2, 3))},
    "curricular_face": _FACE,
    "mag_face": {"scale": _SCALE, "regularization": Range(1.0, 50.0, log=True)},
    "ada_face": _FACE,
    "sphere_face": _MULTIPLE,
    "large_margin_softmax": _MULTIPLE,
    "sphere_face2": {**_FACE, "positive_weight": Range(0.5, 0.9)},
    "proxy_anchor": {"margin": Range(0.0, 0.4), "scale": _SCALE},
    "proxy_nca": {"scale": Range(1.0, 32.0, log=True)},
    "proxy_nca_plus_plus": {"temperature": Range(0.03, 0.5, log=True)},
    "soft_triple": {"scale": _SCALE, "margin": Range(0.0, 0.2), "per_class": Choice((2, 5, 10)), "temperature": _TEMPERATURE},
    "triplet_center": {"margin": Range(0.3, 10.0, log=True)},
    "center": {"weight": Range(0.0003, 0.1, log=True)},
    "negative_sampling": {"num_noise": Choice((5, 20, 80))},
    "nce": {"num_noise": Choice((512, 2048, 4096)), "temperature": _TEMPERATURE},
    "nonparametric_softmax": _WARM,
}
_RATE = Range(0.3, 5.0, log=True)
_PROXY_RATE = Range(3.0, 300.0, log=True)
_LENGTH = Range(0.3, 20.0, log=True)


def space_of(name: str, preset: Preset) -> Space:
    """What is searched of the loss called `name`: its hyper-parameters, learning rates, and the length of raw embeddings."""
    space: dict[str, Range | Choice] = {**_OWN.get(name, {}), "rate": _RATE}
    if preset.references in ("proxies", "tree") or preset.per_class:
        space["proxy_rate"] = _PROXY_RATE
    if preset.length is not None:
        space["length"] = _LENGTH
    return space


def drawn(space: Space, generator: np.random.Generator) -> dict[str, Any]:
    """A point of a space, at random."""
    return {name: part.draw(generator) for name, part in space.items()}


def with_values(preset: Preset, values: Mapping[str, Any]) -> Preset:
    """A preset with some of its values replaced."""
    fields = {name: values[name] for name in _FIELDS if name in values}
    options = {name: value for name, value in values.items() if name not in _FIELDS}
    return replace(preset, options={**preset.options, **options}, **fields)
