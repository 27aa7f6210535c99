"""Presets by protocol and data set: the values of the papers, and in their place what was searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from benchmarks.presets.files import read_presets, replaced
from benchmarks.presets.photographs import published
from benchmarks.presets.preset import Preset, Source
from benchmarks.presets.zoo import ZOO

__all__ = ["FROZEN", "LETTERS", "presets_of"]

_GLYPHS = Source("search", "glyphs: Recall@1 on 60 of the 200 training letters, held out, after training on the other 140")
_FEATURES = Source(
    "search",
    "features of Cars (odd ids) and CUB (100 classes): mean gain in Recall@1 and MAP@R over principal components on thirds of the training "
    "classes, held out, after training on the others",
)


def _searched(presets: Mapping[str, Preset], name: str) -> Mapping[str, Preset]:
    """Presets, with what `python -m benchmarks.tune` found in their place: its files as it wrote them."""
    found = presets
    for path in sorted((Path(__file__).parent / "searched").glob(f"{name}-*.json")):
        found = replaced(found, read_presets(path, presets))
    return found


# No test class was looked at for any of them.
_LETTERS: Mapping[str, Preset] = {
    **ZOO,
    "contrastive": replace(
        ZOO["contrastive"], options={"positive_margin": 0.9, "negative_margin": 0.4, "reduction": "mean_active"}, source=_GLYPHS
    ),
    "triplet": replace(ZOO["triplet"], options={"margin": 0.2}, source=_GLYPHS),
    "nce": replace(ZOO["nce"], options={"num_noise": 2048, "temperature": 0.15}, rate=0.5, source=_GLYPHS),
    "am_softmax": replace(ZOO["am_softmax"], options={"margin": 0.2, "scale": 16.0}, source=_GLYPHS),
    "circle": replace(ZOO["circle"], options={"margin": 0.4, "scale": 32.0}, source=_GLYPHS),
    "lmnn": replace(ZOO["lmnn"], options={"num_targets": 3, "margin": 0.5}, source=_GLYPHS),
    "unified": replace(ZOO["unified"], options={"margin": 0.25, "scale": 16.0}, source=_GLYPHS),
}
LETTERS = _searched(_LETTERS, "letters")
_FROZEN: Mapping[str, Preset] = {
    **LETTERS,
    "am_softmax": replace(LETTERS["am_softmax"], options={"margin": 0.2, "scale": 8.0}, proxy_rate=100.0, source=_FEATURES),
    "circle": replace(LETTERS["circle"], options={"margin": 0.6, "scale": 16.0}, rate=3.0, source=_FEATURES),
    "multi_similarity": replace(
        LETTERS["multi_similarity"], options={"negative_scale": 10.0, "threshold": 0.3}, rate=2.0, source=_FEATURES
    ),
}
FROZEN = _searched(_FROZEN, "frozen")


@lru_cache
def presets_of(protocol: str, dataset: str | None = None) -> Mapping[str, Preset]:
    """How each loss is trained under a protocol, on a data set. Values of papers are for networks as a whole, on its photographs."""
    if protocol == "frozen":
        return FROZEN
    of_papers = published(dataset, LETTERS) if dataset else {}
    return {**LETTERS, **of_papers} if of_papers else LETTERS
