"""The report of the retrieval benchmark: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command.files import write_whole
from benchmarks.report.page import page_of
from benchmarks.report.pictures import Examples, attempt, chart
from benchmarks.report.words import text_of
from benchmarks.retrieval.header import header
from benchmarks.retrieval.rows import BASELINES, Row, rows_of
from benchmarks.retrieval.statistics import classes, comparison, over_seeds
from benchmarks.retrieval.tables import html_table
from metriczoo import plots
from metriczoo.losses import Loss

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["RunView", "write_report"]

_MAX_PAIRS = 50_000  # in a histogram: its bins are then good to a few percent
_SMOOTH = 30  # a curve of the loss is a running mean over this part of its steps

_HOW_TO_READ = """<p>The plane of each loss holds one negative and one positive of an anchor, their similarities to the right and upwards:
a well-placed pair is at the top left. Arrows show where gradient descent moves a pair; colours, how much the pair costs and how hard it is
pushed: red lowers a similarity, blue raises it.</p>
<p>The histograms show cosine similarities of pairs of test images, of one class and of different classes, each scaled to area 1. Queries
are test images and search all others by cosine, or the gallery where the data set has one; <span class="key"></span> marks neighbours of
their class, <span class="key wrong"></span> others.</p>"""


@dataclass(frozen=True, eq=False)
class RunView:
    """What the report shows of one run beyond its numbers."""

    loss: str
    seed: int
    curves: dict[str, list[float]]  # "loss" by step, "recall@1" by epoch, from epoch 0 on
    embeddings: NDArray[Any]  # [n, d] of the test images, after training
    untrained: NDArray[Any]  # [n, d'] of the test images, before
    loss_module: Loss


def write_report(
    path: str | Path,
    *,
    results: Mapping[str, Any],
    runs: Sequence[RunView],
    test_images: Callable[[int], Image] | None,
    test_labels: NDArray[Any],
    class_names: Sequence[str] | None = None,
    is_query: NDArray[np.bool_] | None = None,
) -> None:
    """Write one HTML file: the table of results, training curves, and for each loss its landscape, similarity histograms and some queries.

    A picture that cannot be drawn is replaced by the reason.

    Args:
        path: the file. It is replaced as a whole or, where writing fails, not at all.
        results: what `results.json` holds: "dataset", "records" (one per loss and seed), and anything else, shown at the top.
        runs: of the seeds of a loss, the curves of all and the pictures of the lowest are shown.
        test_images: the test image of a position. None where there are no images: then there are no queries to look at.
        test_labels: `[n]`, the label of each test image.
        class_names: the name of each label.
        is_query: `[n]`, which of the test images are queries, to be found among the others. Default: each is one to all others.

    Raises:
        OSError: if the file cannot be written.
    """
    rows = rows_of(results.get("records", ()))
    shown: dict[str, list[RunView]] = {row.name: [] for row in rows if row.name not in BASELINES}
    for run in sorted(runs, key=lambda run: run.seed):
        shown.setdefault(run.loss, []).append(run)
    shown = {name: of_loss for name, of_loss in shown.items() if of_loss}
    title = text_of(results.get("dataset") or next((r["dataset"] for r in results.get("records", ()) if r.get("dataset")), "unnamed data"))
    examples = Examples(test_images, np.asarray(test_labels), class_names, is_query)
    compared = comparison(results, rows)
    body = [
        header(title, results, rows),
        _contents(shown, compared=bool(compared)),
        html_table(rows),
        over_seeds(results),
        compared,
        _curves(shown, rows),
    ]
    if shown:
        body.append(f'<section id="losses"><h2>Loss by loss</h2>{_HOW_TO_READ}')
        body += [_loss(number, of_loss[0], results, examples) for number, of_loss in enumerate(shown.values())]
        body.append("</section>")
    write_whole(Path(path), page_of(f"{title}: metriczoo retrieval benchmark", "\n".join(body)))


def _contents(shown: Mapping[str, Any], *, compared: bool) -> str:
    links = {"results": "Results", **({"comparison": "Comparison"} if compared else {}), **({"curves": "Training"} if shown else {})}
    links |= {f"loss-{n}": name for n, name in enumerate(shown)}
    items = (f'<a href="#{target}">{html.escape(name)}</a>' for target, name in links.items())
    return f"<nav>{''.join(items)}</nav>"


def _curves(shown: Mapping[str, Sequence[RunView]], rows: Sequence[Row]) -> str:
    if not shown:
        return ""
    recall, loss = ({name: _values(runs, key) for name, runs in shown.items() if _values(runs, key)} for key in ("recall@1", "loss"))
    recall = {name: [[100 * value for value in run] for run in of_loss] for name, of_loss in recall.items()}
    raw = {row.name: 100 * row.mean["recall@1"] for row in rows if row.name == "raw"}
    parts = []
    if recall:
        draw = partial(plots.training_curves, recall, ylabel="Recall@1, %", baselines=raw)
        parts.append("<h4>Recall@1 on the test classes <small>epoch 0 is the untrained encoder</small></h4>")
        parts.append(attempt("curves of Recall@1", lambda: chart(draw, "Recall@1 by epoch, a line per loss", width=860, grid=True)))
    if loss:
        smooth = max(1, max(len(run) for of_loss in loss.values() for run in of_loss) // _SMOOTH)
        draw_loss = partial(plots.training_curves, loss, xlabel="step", ylabel="loss", smooth=smooth, separate=True)
        mean = f"running mean over {smooth} steps; " if smooth > 1 else ""
        parts.append(f"<h4>Loss in training <small>{mean}each has a scale of its own</small></h4>")
        parts.append(attempt("curves of the loss", lambda: chart(draw_loss, "Loss by step, a panel per loss", width=1000, grid=True)))
    if any(len(of_loss) > 1 for of_loss in (*recall.values(), *loss.values())):
        parts.append('<p class="note">Lines are means over seeds; bands reach from the lowest seed to the highest.</p>')
    return f'<section id="curves"><h2>Training</h2>{"".join(parts) or "<p>No curves were kept.</p>"}</section>'


def _values(runs: Sequence[RunView], key: str) -> list[list[float]]:
    return [run.curves[key] for run in runs if run.curves.get(key)]


def _loss(number: int, run: RunView, results: Mapping[str, Any], examples: Examples) -> str:
    landscape = partial(plots.loss_landscape, run.loss_module)
    histogram = partial(plots.similarity_histogram, run.embeddings, examples.labels, before=run.untrained, max_pairs=_MAX_PAIRS)
    record: Mapping[str, Any] = next((r for r in results.get("records", ()) if r["loss"] == run.loss and r.get("seed") == run.seed), {})
    about = " · ".join(filter(None, (f"seed {run.seed}", text_of(record.get("hyper_parameters")))))
    name = html.escape(run.loss)
    return f"""<article id="loss-{number}"><h3>{name}</h3>
<p class="note">{html.escape(about)}</p>
{attempt("landscape", lambda: chart(landscape, f"The loss {run.loss} and its two gradients over the plane of similarities", width=980))}
{attempt("histograms", lambda: chart(histogram, f"Similarities of pairs before and after training with {run.loss}", width=860))}
{attempt("examples", lambda: examples.draw(run.embeddings)) if examples.images is not None else ""}
{classes(record)}
</article>"""
