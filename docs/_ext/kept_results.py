"""The directive `kept-results`: the tables of the kept runs of a benchmark, as its own module makes them from `benchmarks/results`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark_results import table
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_KEPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
Table = tuple[str, Sequence[str], Sequence[Sequence[str]], str]  # title, headings, rows, and what is to be said below
_UNTOLD = ("benchmark", "dataset", "root", "quick", "device")  # settings that the page does not repeat


class KeptResults(SphinxDirective):
    """`.. kept-results:: two-head`: of all files whose name begins so."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A part of the page, made of the files as they are now."""
        name = self.arguments[0]
        tables = importlib.import_module(f"benchmarks.{name.replace('-', '_')}.tables")
        found: list[nodes.Node] = []
        for path in sorted(_KEPT.glob(f"{name}-*.json")):
            self.env.note_dependency(str(path))
            results = json.loads(path.read_text(encoding="utf-8"))
            found.append(self._section(path.stem, results, tables.plain_tables(results)))
        return found or [nodes.paragraph("", "No run is kept in this checkout.")]

    def _section(self, name: str, results: Mapping[str, Any], tables: Iterable[Table]) -> nodes.section:
        section = nodes.section("", nodes.title("", _title(name, results)), ids=[nodes.make_id(name)])
        for title, headings, rows, note in tables:
            section += nodes.rubric("", title)
            section += table(headings, rows)
            if note:
                section += nodes.paragraph("", note)
        section += nodes.paragraph("", _made_with(results))
        return section


def _title(name: str, results: Mapping[str, Any]) -> str:
    dataset = str(results["dataset"])
    return dataset if name.endswith(dataset) else f"{dataset}: {name.rpartition(f'{dataset}-')[2].replace('-', ' ')}"


def _made_with(results: Mapping[str, Any]) -> str:
    """Of a table, what it was made with."""
    commits = sorted({record["versions"]["commit"] for record in results["records"]})
    versions = results["records"][-1]["versions"]
    seconds = sum(record.get("seconds") or 0 for record in results["records"])
    shown = {key.replace("_", " "): value for key, value in results["settings"].items() if key not in _UNTOLD and value}
    settings = ", ".join(f"{key} {_text(value)}" for key, value in shown.items())
    spent = f" Training took {seconds / 60:.0f} minutes in all." if seconds else ""
    return f"Settings: {settings}. Made at {', '.join(commits)} with PyTorch {versions['torch']} on CPU.{spent}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_text(part)}" for key, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("kept-results", KeptResults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
