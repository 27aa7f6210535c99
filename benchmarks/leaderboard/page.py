"""The report of the comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command.files import write_whole
from benchmarks.command.folder import Folder
from benchmarks.evaluation.metrics import MAIN_METRICS
from benchmarks.leaderboard.peers import PEER
from benchmarks.leaderboard.runs import Task
from benchmarks.leaderboard.scatter import Point, scatter
from benchmarks.leaderboard.tables import about_verdicts, confusions, difference, tied
from benchmarks.report.page import page_of
from benchmarks.report.pictures import Examples, attempt, chart
from benchmarks.report.words import counted, percent, text_of
from benchmarks.retrieval.experiment import Experiment
from benchmarks.retrieval.header import header
from benchmarks.retrieval.rows import BASELINES, heading, rows_of
from metriczoo import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_page"]

_FIRST = 10  # losses with as many pictures as there are; further ones have fewer
_EXAMPLES, _FEWER_EXAMPLES = 5, 2
_CURVES = 6  # losses whose curves share a plot
_HARDEST = 12  # pairs of classes
_STEPS = 150  # of a curve, at most
_MAX_PAIRS = 30_000  # in a histogram
_MAX_POINTS = 1500  # in a map
_OF_TABLES = ("records", "summary", "comparisons", "peers", "confusions", "failures")
_HOW = """<p>Each loss by its lowest seed, unless it says otherwise. Curves: lines are means over seeds, bands reach from the lowest
seed to the highest; epoch 0 is the untrained encoder. Histograms: cosine similarities of pairs of test images, of one class and of
different classes, each scaled to area 1. Maps: test images on the first two principal components of their embeddings, the largest classes
in colour.</p>"""
_QUERIES = f"""<p>Queries are test images and search all others by cosine, or the gallery where the data set has one;
<span class="key"></span> marks neighbours of their class, <span class="key wrong"></span> others. To keep the page small, the first
{_FIRST} losses show up to {2 * _EXAMPLES} queries, later ones {2 * _FEWER_EXAMPLES}.</p>"""


def write_page(path: Path, folder: Folder, tasks: Sequence[Task], experiment: Experiment) -> None:
    """Write the report: the table, plots over all losses, and for each loss what it learned.

    A picture that cannot be drawn is replaced by the reason.

    Args:
        path: the file. It is replaced as a whole or, where writing fails, not at all.
        folder: with the results, and the states of the runs.
        tasks: the runs; those that failed have no state.
        experiment: with the test data.

    Raises:
        OSError: if the file cannot be written.
    """
    results, runs = folder.results, _Runs(folder, tasks)
    lines = [line for line in results["summary"] if line["loss"] not in BASELINES and PEER not in line["loss"]]
    targets = {line["loss"]: f"loss-{number}" for number, line in enumerate(lines)}
    examples = Examples(experiment.test_images, experiment.test.labels, experiment.test.class_names, experiment.is_query)
    pairs = _hard_pairs(runs, [line["loss"] for line in lines], experiment, examples)
    sections = {
        "results": ("Results", _table(results, targets)),
        "map": ("Two metrics", attempt("plot", lambda: _plot(results["summary"], targets))),
        "peers": ("Against pytorch-metric-learning", _peers(results["peers"])),
        "failures": ("Failures", _failures(results["failures"])),
        "pairs": ("Classes taken for one another", pairs),
        "curves": ("Training", _curves(runs, lines)),
    }
    shown = {name: part for name, part in sections.items() if part[1]}
    title = results["dataset"]
    facts = {name: value for name, value in results.items() if name not in _OF_TABLES} | {"records": results["records"]}
    body = [header(title, facts, rows_of(_ours(results)), kicker="metriczoo leaderboard")]
    links = "".join(f'<a href="#{name}">{words}</a>' for name, (words, _) in shown.items())
    body.append(f'<nav>{links}<a href="#losses">Loss by loss</a></nav>')
    body += [f'<section id="{name}"><h2>{words}</h2>{content}</section>' for name, (words, content) in shown.items()]
    body.append(f'<section id="losses"><h2>Loss by loss</h2>{_HOW}{_QUERIES if examples.images else ""}')
    body += [_loss(place, line, targets, runs, results, examples) for place, line in enumerate(lines)]
    script = (Path(__file__).parent / "sort.js").read_text(encoding="utf-8")
    body.append(f"</section>\n<script>\n{script}</script>")
    write_whole(path, page_of(f"{title}: metriczoo leaderboard", "\n".join(body)))


def _ours(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Records of the ranking: no peers, and no seeds that only the comparison with them has."""
    seeds = results["settings"]["seeds"]
    return [record for record in results["records"] if PEER not in record["loss"] and (record["seed"] or 0) < seeds]


class _Runs:
    """What the report shows of runs beyond their numbers, read when it is asked for: together it may be more than there is memory for."""

    def __init__(self, folder: Folder, tasks: Sequence[Task]) -> None:
        self.folder = folder
        self.of_loss: dict[str, list[Task]] = {}
        for task in tasks:
            if folder.has(task.name, task.seed):
                self.of_loss.setdefault(task.name, []).append(task)

    def states(self, loss: str) -> Iterable[dict[str, Any]]:
        """Of each seed."""
        for task in self.of_loss.get(loss, ()):
            state = self.folder.load(task.file)
            if state is not None:
                yield state

    def first(self, loss: str) -> dict[str, Any]:
        """Of the lowest seed."""
        return next(iter(self.states(loss)))

    def before(self, loss: str) -> NDArray[Any]:
        """Embeddings before the training of the lowest seed."""
        (seed, *_) = (task.seed for task in self.of_loss[loss])
        (name,) = {name for name in self.of_loss if name in BASELINES and name != "raw"}
        task = next(task for task in self.of_loss[name] if task.seed in (seed, None))
        state = self.folder.load(task.file)
        assert state is not None
        found: NDArray[Any] = state["embeddings"].numpy()
        return found


# -- the table -------------------------------------------------------------------


def _table(results: Mapping[str, Any], targets: Mapping[str, str]) -> str:
    lines, equals = results["summary"], tied(results)
    columns = [("Rank", "ascending"), ("Loss", "ascending")]
    columns += [(heading(metric), "descending") for metric in (*MAIN_METRICS, "nmi", "ami")]
    columns += [("CPU s", "ascending"), ("MiB", "ascending"), ("Seeds", "descending")]
    heads = "".join(
        f'<th scope="col" data-first="{order}"{_SORTED if name == "Rank" else ""}{_NAME if name == "Loss" else ""}>{name}</th>'
        for name, order in columns
    )
    best = {metric: max((_shown(line[metric]["mean"]) for line in lines), default=-1.0) for metric in (*MAIN_METRICS, "nmi", "ami")}
    groups = [
        [_row(place, line, best, targets, equals) for place, line in enumerate(lines, 1) if (line["loss"] in BASELINES) == baseline]
        for baseline in (False, True)
    ]
    bodies = "".join(f"<tbody>{''.join(group)}</tbody>" for group in groups)
    several = any(line["seeds"] > 1 for line in lines)
    spread = "mean ± standard deviation over seeds" if several else "of one seed"
    notes = [
        f"Percent, {spread}, on classes that training never saw. The best value of a column is bold.",
        "[ ]: 95 % interval by a bootstrap of test classes, what another choice of classes would change;",
        "where the pointer rests, the 95 % interval of the mean by the spread of seeds.",
        "<b>=</b>: on the same queries not told from the first loss (sign-flip test by class, 5 %, Holm's correction for all losses).",
        "CPU s: processor time of training. MiB: most memory of the process that trained, PyTorch and the data included.",
        "The names of the columns sort by them. <i>raw</i>: features without an encoder; <i>untrained</i>, <i>pca</i>: before training.",
        f"PML: the loss of {PEER}." if any(PEER in line["loss"] for line in lines) else "",
    ]
    return f"""<div class="scroll"><table class="sortable"><thead><tr>{heads}</tr></thead>{bodies}</table></div>
<p class="note">{" ".join(notes)}</p>"""


_SORTED, _NAME = ' aria-sort="ascending"', ' class="name"'


def _shown(value: float | None) -> float:
    """As it is printed, so that equal prints are equally good."""
    return -1.0 if value is None else round(100 * value, 1)


def _row(place: int, line: Mapping[str, Any], best: Mapping[str, float], targets: Mapping[str, str], equals: set[str]) -> str:
    loss = line["loss"]
    name = html.escape(loss.replace(f"({PEER})", "(PML)"))
    name = f'<a href="#{targets[loss]}">{name}</a>' if loss in targets else name
    name += ' <b title="not told from the first">=</b>' if loss in equals else ""
    cells = [f'<td data-value="{place}">{"" if loss in BASELINES else place}</td><th scope="row" class="name">{name}</th>']
    cells += [_cell(line[metric], best[metric], bar=metric == "recall@1") for metric in best]
    cells.append(_number(line["cpu_seconds"], ".1f"))
    cells.append(_number(None if line["peak_memory"] is None else line["peak_memory"] / 2**20, ".0f"))
    return f"<tr>{''.join(cells)}{_number(line['seeds'], 'd')}</tr>\n"


def _cell(metric: Mapping[str, Any], highest: float, *, bar: bool) -> str:
    mean = metric["mean"]
    if mean is None:
        return '<td data-value="">&ndash;</td>'
    text = percent(mean)
    shown = f"<b>{text}</b>" if _shown(mean) == highest else text
    shown += "" if metric["deviation"] is None else f" <small>± {percent(metric['deviation'])}</small>"
    low, high = metric.get("of_classes") or (None, None)
    shown += "" if low is None or high is None else f" <small>[{percent(low)}, {percent(high)}]</small>"
    about = metric["of_seeds"]
    about = "" if about is None else f' title="by seeds: {percent(about[0])} to {percent(about[1])}"'
    share = f' class="bar" style="--share:{text}"' if bar else ""
    return f'<td data-value="{mean:.6f}"{share}{about}>{shown}</td>'


def _number(value: float | None, form: str) -> str:
    return '<td data-value="">&ndash;</td>' if value is None else f'<td data-value="{value:.6g}">{value:{form}}</td>'


# -- all losses together ---------------------------------------------------------


def _plot(lines: Sequence[Mapping[str, Any]], targets: Mapping[str, str]) -> str:
    points = []
    for line in lines:
        x, y = (line[metric] for metric in MAIN_METRICS)
        if x["mean"] is None or y["mean"] is None:
            continue
        loss = line["loss"]
        kind = "baseline" if loss in BASELINES else "peer" if PEER in loss else "loss"
        text = f"{loss}: Recall@1 {100 * x['mean']:.1f} %, MAP@R {100 * y['mean']:.1f} %"
        spread = 100 * (x["deviation"] or 0.0), 100 * (y["deviation"] or 0.0)
        points.append(Point(loss, 100 * x["mean"], 100 * y["mean"], spread, kind, targets.get(loss, ""), text))
    if not points:
        return '<p class="missing">No loss has both metrics.</p>'
    crosses = " Lines reach a standard deviation over seeds to either side." if any(any(point.spread) for point in points) else ""
    rings = f" Rings are losses of {PEER}." if any(point.kind == "peer" for point in points) else ""
    return f"""{scatter(points, "Recall@1, %", "MAP@R, %", "MAP@R against Recall@1, a point for each loss")}
<p class="note">Squares are baselines.{rings}{crosses} Each point leads to its loss; names stand where there is room.</p>"""


def _peers(verdicts: Sequence[Mapping[str, Any]]) -> str:
    if not verdicts:
        return ""
    of_loss: dict[str, dict[str, Mapping[str, Any]]] = {}
    for verdict in verdicts:
        of_loss.setdefault(verdict["loss"], {})[verdict["metric"]] = verdict
    metrics = list(dict.fromkeys(verdict["metric"] for verdict in verdicts))
    heads = '<th scope="col" rowspan="2">Loss</th>' + "".join(
        f'<th scope="colgroup" colspan="4">{heading(metric)}</th>' for metric in metrics
    )
    second = "".join(f'<th scope="col">{name}</th>' for _ in metrics for name in ("ours", "theirs", "difference", "verdict"))
    rows = "".join(
        f'<tr><th scope="row">{html.escape(loss)}</th>{"".join(_verdict(found.get(metric)) for metric in metrics)}</tr>\n'
        for loss, found in of_loss.items()
    )
    return f"""<p>The same training with the loss of {PEER} in the place of ours: the same encoder, batches, distortions and start of class
weights.</p>
<div class="scroll"><table class="peers"><thead><tr>{heads}</tr><tr>{second}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="note">{html.escape(about_verdicts(verdicts))}</p>"""


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "<td>&ndash;</td>" * 4
    words = {True: '<span class="yes">agrees</span>', False: '<span class="no">differs</span>', None: "open"}[verdict["agrees"]]
    spread = "" if verdict["spread"] is None else f" <small>of {percent(verdict['spread'])}</small>"
    ours, theirs = (percent(verdict[side]) for side in ("ours", "theirs"))
    return f"<td>{ours}</td><td>{theirs}</td><td>{difference(verdict)}{spread}</td><td>{words}</td>"


def _failures(failures: Sequence[Mapping[str, Any]]) -> str:
    if not failures:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(failure["loss"])}</th><td>{failure["seed"]}</td>'
        f'<td class="words">{html.escape(failure["error"])}</td></tr>\n'
        for failure in failures
    )
    heads = '<th scope="col">Loss</th><th scope="col">Seed</th><th scope="col" class="words">Error</th>'
    return f"""<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="note">These runs are in no table. The same command with --resume tries them again.</p>"""


def _hard_pairs(runs: _Runs, losses: Sequence[str], experiment: Experiment, examples: Examples) -> str:
    labels, queries, names = experiment.test.labels, experiment.query_labels, experiment.test.class_names
    numbers = [str(label) for label in range(len(names))]  # names may be shared
    every = (state["nearest"] for loss in losses for state in runs.states(loss))
    hardest = confusions(every, labels, queries, numbers, _HARDEST)
    if not hardest:
        return ""
    rows = []
    for pair in hardest:
        classes = "".join(_of_class(int(number), labels, examples) for number in pair["classes"])
        about = f"{counted(pair['mistakes'], 'mistake')}, <small>{100 * pair['mistakes'] / pair['queries']:.0f} % of their queries</small>"
        rows.append(f'<div class="pair"><div class="faces">{classes}</div><p>{about}</p></div>')
    return f"""<p>The pairs of test classes of which the nearest neighbour of a query of one is most often of the other, over all losses and
seeds. The pairs of each loss are with it, below.</p><div class="hard">{"".join(rows)}</div>"""


def _of_class(label: int, labels: NDArray[Any], examples: Examples) -> str:
    return examples.of_class(int(np.flatnonzero(labels == label)[0]))


def _curves(runs: _Runs, lines: Sequence[Mapping[str, Any]]) -> str:
    curves = {
        line["loss"]: [[100 * value for value in state["recalls"]] for state in runs.states(line["loss"])] for line in lines[:_CURVES]
    }
    if not curves:
        return ""
    draw = partial(plots.training_curves, curves, ylabel="Recall@1, %")
    more = f"the first {_CURVES} losses; the others are below" if len(lines) > _CURVES else "of each loss"
    label = "Recall@1 by epoch, a line per loss"
    picture = attempt("curves of Recall@1", lambda: chart(draw, label, width=860, grid=True))
    return f"<h4>Recall@1 on the test classes <small>{more}; epoch 0 is the untrained encoder</small></h4>{picture}"


# -- loss by loss ----------------------------------------------------------------


def _loss(
    place: int, line: Mapping[str, Any], targets: Mapping[str, str], runs: _Runs, results: Mapping[str, Any], examples: Examples
) -> str:
    loss = line["loss"]
    name, state = html.escape(loss), runs.first(loss)
    vectors = state["embeddings"].float().numpy()
    record = state["record"]
    map_, histogram = partial(_map, vectors, examples), partial(_histogram, vectors, runs.before(loss), examples)
    of_curves = partial(_two_curves, [(run["recalls"], run["losses"]) for run in runs.states(loss)])
    number = _EXAMPLES if place < _FIRST else _FEWER_EXAMPLES
    recall, precision = (f"{_shown(line[metric]['mean']):.1f}" if line[metric]["mean"] is not None else "-" for metric in MAIN_METRICS)
    facts = " · ".join(filter(None, (f"seed {record['seed']}", text_of(record["hyper_parameters"]), text_of(record.get("health")))))
    pictures = [
        attempt("curves", lambda: chart(of_curves, f"Recall@1 by epoch and loss by step of {loss}", width=860, grid=True)),
        attempt("map", lambda: chart(map_, f"Map of test images, {loss}", width=700)),
        attempt("histograms", lambda: chart(histogram, f"Similarities of pairs before and after training with {loss}", width=820)),
        attempt("queries", lambda: examples.draw(vectors, number)) if examples.images is not None else "",
    ]
    return f"""<details id="{targets[loss]}"{" open" if place == 0 else ""}><summary><span>{place + 1}. {name}</span>
<small>Recall@1 {recall}, MAP@R {precision}</small></summary>
<p class="note">{html.escape(facts)}</p>
{"".join(pictures)}
{_confused(results["confusions"].get(loss, ()))}</details>"""


def _two_curves(runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Recall@1 by epoch beside the loss by step."""
    recalls = [[100 * value for value in recall] for recall, _ in runs]
    losses = [np.asarray(loss, dtype=float) for _, loss in runs]
    width = max(1, -(-max(map(len, losses)) // _STEPS))
    means = [[float(part.mean()) for part in np.array_split(loss, max(1, len(loss) // width))] for loss in losses]
    by = "step" if width == 1 else f"{width} steps, a mean each"
    figure = plots.training_curves({"Recall@1, % (by epoch)": recalls, f"loss (by {by})": means}, xlabel="", ylabel="", separate=True)
    figure.set_size_inches(8.6, 2.6)
    return figure


def _map(vectors: NDArray[Any], examples: Examples) -> Figure:
    """The points as one image, of which there is one for each loss; text stays text."""
    figure = plots.embedding_map(vectors, examples.labels, class_names=examples.class_names, max_points=_MAX_POINTS)
    for collection in figure.axes[0].collections:
        collection.set_rasterized(True)
    return figure


def _histogram(vectors: NDArray[Any], before: NDArray[Any], examples: Examples) -> Figure:
    return plots.similarity_histogram(vectors, examples.labels, before=before, max_pairs=_MAX_PAIRS)


def _confused(pairs: Sequence[Mapping[str, Any]]) -> str:
    if not pairs:
        return "<p>No query of any seed was taken for another class.</p>"
    rows = "".join(
        f'<tr><th scope="row">{" and ".join(map(html.escape, pair["classes"]))}</th><td>{pair["mistakes"]}</td><td>{pair["queries"]}</td>'
        f"<td>{100 * pair['mistakes'] / pair['queries']:.0f}</td></tr>\n"
        for pair in pairs
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Classes taken for one another", "Mistakes", "Queries", "%"))
    return f"""<div class="scroll"><table class="confused"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="note">Queries of either class whose nearest neighbour is of the other, of all seeds.</p>"""
