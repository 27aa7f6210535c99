"""The top of a report: what was measured, the result in a sentence, and the facts."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.words import percent, text_of
from benchmarks.retrieval.options import OF_FOLDS
from benchmarks.retrieval.rows import BASELINES, METRICS, RECALL, Row

__all__ = ["header"]

_OF_A_RUN = {"records", "dataset", "loss", "seed", "seconds", "hyper_parameters", *METRICS}  # not facts about the whole
_OF_A_RUN |= {"intervals", "health", "classes", "comparisons", "cpu_seconds", "peak_memory"}
_OF_A_RUN |= {"embeddings", "models", "searched", "seed_intervals"}  # of a reality check
_SHORT = 24  # characters of a fact that shares its line with others


def header(title: str, results: Mapping[str, Any], rows: Sequence[Row], kicker: str = "metriczoo retrieval benchmark") -> str:
    """The top of the page: what was measured, the result in a sentence, and the facts."""
    facts = "".join(_fact(name, text) for name, text in sorted(_facts(results).items(), key=lambda fact: len(fact[1]) > _SHORT))
    return f"""<header><p class="kicker">{kicker}</p>
<h1>{html.escape(title)}</h1>
{_lead(rows)}{f'<dl class="facts">{facts}</dl>' if facts else ""}</header>"""


def _fact(name: str, text: str) -> str:
    wide = ' class="wide"' if len(text) > _SHORT else ""
    return f"<div{wide}><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"


def _lead(rows: Sequence[Row]) -> str:
    trained = [row for row in rows if row.name not in BASELINES and not math.isnan(row.mean["recall@1"])]
    if not trained:
        return ""
    recall = trained[0].mean["recall@1"]
    above = 100 * (recall - next((row.mean["recall@1"] for row in rows if row.name == "raw"), math.nan))
    than_raw = "" if math.isnan(above) else f", {abs(above):.1f} points {'above' if above >= 0 else 'below'} the raw features"
    return f'<p class="lead">Highest Recall@1: <strong>{html.escape(trained[0].name)}</strong> with {percent(recall)} %{than_raw}.</p>\n'


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Whatever stands beside the records, and whatever all trained records agree on."""
    records = list(results.get("records", ()))
    trained = [record for record in records if record["loss"] not in BASELINES] or records
    first = trained[0] if trained else {}
    # A number that baselines do not share is a result, not a setting, even where it stands alone.
    common = {k: v for k, v in first.items() if all(record.get(k) == v for record in (records if isinstance(v, float) else trained))}
    facts = {key: text_of(_that_matter(key, value)) for key, value in {**common, **results}.items() if not _is_of_a_run(key)}
    facts.setdefault("seeds", text_of(sorted({record["seed"] for record in trained if "seed" in record})))
    return {key.replace("_", " "): text for key, text in facts.items() if text}


def _that_matter(key: str, value: Any) -> Any:
    """A fact; of settings without those that only a reality check has."""
    if key != "settings" or str(value.get("protocol", "")).startswith("reality-check"):
        return value
    return {name: part for name, part in value.items() if name not in OF_FOLDS}


def _is_of_a_run(key: str) -> bool:
    return key in _OF_A_RUN or key.startswith(RECALL)
