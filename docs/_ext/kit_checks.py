"""The directive `kit-checks`: the checks of the conformance kit, each with the first sentence of its documentation."""

from __future__ import annotations

import inspect
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import metriczoo.testing


class KitChecks(SphinxDirective):
    """`.. kit-checks:: LOSS_CHECKS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A definition list."""
        items = []
        for check in getattr(metriczoo.testing, self.arguments[0]):
            promise, _ = self.parse_inline((inspect.getdoc(check.function) or "").split("\n\n")[0].replace("\n", " "))
            term = nodes.term("", "", nodes.literal(text=check.name))
            items.append(nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", "", *promise))))
        return [nodes.definition_list("", *items)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("kit-checks", KitChecks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
