"""The report of the two-head benchmark: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command.files import write_whole
from benchmarks.report.page import page_of
from benchmarks.report.pictures import Examples, attempt, chart
from benchmarks.report.words import text_of
from benchmarks.two_head.objective import title_of
from benchmarks.two_head.runs import RunView
from benchmarks.two_head.tables import cost_lines, html_tables
from metriczoo import plots

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["write_page"]

_SMOOTH = 30  # a curve of the loss is a running mean over this part of its steps
_WHAT = """<p class="lead">A classifier whose feature map feeds a second head, for a ranking loss beside softmax: does it classify better,
and what does it retrieve?</p>
<p>Head 1 averages the feature map and classifies; head 2 flattens it and embeds it on the unit sphere. Either can be left out when the
network is used, so a second head costs nothing then.</p>"""
_HOW = """<p>Of the lowest seed. Maps show held-out images on the first two principal components, the largest classes in colour. Queries are
held-out images and search all others by cosine, in the embeddings, or in the pooled features where there is no second head;
<span class="key"></span> marks neighbours of their class, <span class="key wrong"></span> others.</p>"""


def write_page(
    path: Path,
    *,
    results: Mapping[str, Any],
    runs: Sequence[RunView],
    test_images: Callable[[int], Image],
    test_labels: NDArray[Any],
    class_names: Sequence[str],
) -> None:
    """Write the report: tables, the cost of the second head, training curves, and for each system a map and some queries.

    A picture that cannot be drawn is replaced by the reason.

    Args:
        path: the file. It is replaced as a whole or, where writing fails, not at all.
        results: what `results.json` holds.
        runs: what to show of each run beyond its numbers.
        test_images: the test image of a position.
        test_labels: `[n]`, the label of each test image.
        class_names: the name of each label.

    Raises:
        OSError: if the file cannot be written.
    """
    examples = Examples(test_images, np.asarray(test_labels), class_names)
    distributions = list(dict.fromkeys(run.distribution for run in runs))
    body = [
        _header(results),
        html_tables(results["records"]),
        f'<section id="cost"><h2>Cost</h2><p>{"<br>".join(map(html.escape, cost_lines(results["cost"])))}</p></section>',
        '<section id="curves"><h2>Training</h2>',
        *(_curves(distribution, runs) for distribution in distributions),
        "</section>",
        f'<section id="systems"><h2>What is near what</h2>{_HOW}',
        *(_systems(distribution, runs, examples) for distribution in distributions),
        "</section>",
    ]
    title = f"{results['dataset']}: two-head ranking regulariser"
    write_whole(path, page_of(f"{title}: metriczoo benchmark", "\n".join(body)))


def _header(results: Mapping[str, Any]) -> str:
    first = results["records"][0]
    facts = {"settings": results["settings"], "versions": first["versions"], "threads": first["threads"]}
    items = "".join(f'<div class="wide"><dt>{name}</dt><dd>{html.escape(text_of(value))}</dd></div>' for name, value in facts.items())
    links = {"results": "Results", "cost": "Cost", "curves": "Training", "systems": "What is near what"}
    anchors = "".join(f'<a href="#{target}">{name}</a>' for target, name in links.items())
    return f"""<header><p class="kicker">metriczoo two-head benchmark</p><h1>{html.escape(results["dataset"])}</h1>{_WHAT}
<dl class="facts">{items}</dl></header><nav>{anchors}</nav>"""


def _curves(distribution: str, runs: Sequence[RunView]) -> str:
    by_name: dict[str, list[RunView]] = {}
    for run in runs:
        if run.distribution == distribution:
            by_name.setdefault(title_of(run.system), []).append(run)
    accuracy = {name: [[100 * value for value in run.curves["accuracy"]] for run in of_name] for name, of_name in by_name.items()}
    loss = {name: [run.curves["loss"] for run in of_name] for name, of_name in by_name.items()}
    smooth = max(1, max(len(curve) for of_name in loss.values() for curve in of_name) // _SMOOTH)
    draw = partial(plots.training_curves, accuracy, ylabel="accuracy, %")
    draw_loss = partial(plots.training_curves, loss, xlabel="step", ylabel="loss", smooth=smooth, separate=True)
    words = distribution.replace("_", "-")
    return f"""<h3>{words}</h3><h4>Accuracy on held-out images <small>lines are means over seeds, bands reach from the lowest to the
highest</small></h4>
{attempt("curves of the accuracy", lambda: chart(draw, f"Accuracy by epoch, {words} data", width=860, grid=True))}
<h4>Loss in training <small>softmax and ranking loss together</small></h4>
{attempt("curves of the loss", lambda: chart(draw_loss, f"Loss by step, {words} data", width=1000, grid=True))}"""


def _systems(distribution: str, runs: Sequence[RunView], examples: Examples) -> str:
    shown: dict[str, RunView] = {}
    for run in sorted((run for run in runs if run.distribution == distribution), key=lambda run: run.seed):
        shown.setdefault(run.system, run)
    return "".join(_system(run, examples) for run in shown.values())


def _system(run: RunView, examples: Examples) -> str:
    title = f"{title_of(run.system)}, {run.distribution.replace('_', '-')}"
    vectors = run.vectors.numpy()
    draw = partial(plots.embedding_map, vectors, examples.labels, class_names=examples.class_names, max_points=1500)
    return f"""<article><h3>{html.escape(title)}</h3>
{attempt("map", lambda: chart(draw, f"Map of held-out images, {title}", width=760))}
{attempt("examples", lambda: examples.draw(vectors))}
</article>"""
