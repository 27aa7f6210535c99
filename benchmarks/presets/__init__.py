"""How each loss is trained in the benchmarks, and where the values are from: `python -m benchmarks.presets` lists them."""

from __future__ import annotations

from benchmarks.presets.preset import KINDS, Preset, Source
from benchmarks.presets.tables import FROZEN, LETTERS, presets_of
from benchmarks.presets.zoo import LEFT_OUT

__all__ = ["FROZEN", "KINDS", "LEFT_OUT", "LETTERS", "Preset", "Source", "presets_of"]
