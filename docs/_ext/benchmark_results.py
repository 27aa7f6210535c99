"""The directive `benchmark-results`: what the kept runs of `benchmarks.speed` and `benchmarks.memory` say, or that there is none yet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks.performance.registry import FAMILIES
from benchmarks.performance.tables import TARGET_HEADINGS, headings, rows, target_rows
from benchmarks.performance.targets import verdict

_KEPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
_SUITES = ("speed", "memory")
_PLOTS = {"time": "CPU time", "memory": "Peak memory"}


class BenchmarkResults(SphinxDirective):
    """`.. benchmark-results:: machine`, `targets` or `families`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A part of the page, made of the files as they are now."""
        for suite in _SUITES:
            self.env.note_dependency(str(_KEPT / f"{suite}.json"))
        kept = {suite: json.loads(path.read_text(encoding="utf-8")) for suite in _SUITES if (path := _KEPT / f"{suite}.json").exists()}
        if not kept:
            return [nodes.paragraph("", "No full run is kept in this checkout.")]
        make = {"machine": self._machine, "targets": self._targets, "families": self._families}
        return make[self.arguments[0]](kept)

    def _machine(self, kept: Mapping[str, Any]) -> list[nodes.Node]:
        lines = []
        for suite, results in kept.items():
            facts = {**results["machine"], **results["versions"]}
            text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
            lines.append(nodes.list_item("", nodes.paragraph("", "", nodes.literal(text=f"benchmarks.{suite}"), nodes.Text(f": {text}"))))
        return [nodes.bullet_list("", *lines)]

    def _targets(self, kept: Mapping[str, Any]) -> list[nodes.Node]:
        outcomes = [outcome for results in kept.values() for outcome in results["targets"]]
        return [nodes.paragraph("", verdict(outcomes)), table(TARGET_HEADINGS, target_rows(outcomes))]

    def _families(self, kept: Mapping[str, Any]) -> list[nodes.Node]:
        return [self._family(name, kept) for name in FAMILIES if any(_has(results, name) for results in kept.values())]

    def _family(self, family: str, kept: Mapping[str, Any]) -> nodes.section:
        title = FAMILIES[family].title
        section = nodes.section("", nodes.title("", title), ids=[nodes.make_id(title)])
        for suite, results in kept.items():
            if not _has(results, family):
                continue
            section += nodes.paragraph("", "", nodes.literal(text=f"python -m benchmarks.{suite} --family {family}"))
            for plot, what in _PLOTS.items():
                path = _KEPT / f"{suite}-{family}-{plot}.png"
                if path.exists():
                    text = f"{title}: {what.lower()} by size, {suite} suite"
                    section += nodes.image("", uri=self._uri(path), alt=text, candidates={"*": ""})
            section += table(headings(family, suite), rows(family, results))
        return section

    def _uri(self, path: Path) -> str:
        """Of an image, from the folder of this page."""
        return Path(os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)).as_posix()


def _has(results: Mapping[str, Any], family: str) -> bool:
    return any(record["family"] == family for record in results["records"])


def table(titles: Sequence[str], body: Iterable[Sequence[str]]) -> nodes.container:
    """A table that may be wider than the page."""
    group = nodes.tgroup("", *(nodes.colspec("", colwidth=1) for _ in titles), cols=len(titles))
    group += nodes.thead("", _row(titles))
    group += nodes.tbody("", *map(_row, body))
    table = nodes.table("", group, classes=["colwidths-auto"])
    return nodes.container("", table, classes=["table-wrapper"])


def _row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in cells))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("benchmark-results", BenchmarkResults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
