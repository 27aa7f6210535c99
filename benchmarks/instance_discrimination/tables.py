"""What the studies show, as tables and plots, from the records of `results.json` alone."""

from __future__ import annotations

import math
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.instance_discrimination.objective import Variant
from benchmarks.report.words import percent
from metriczoo import plots
from metriczoo.plots._figure import MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Plot", "Section", "plain_tables", "sections_of"]

Record = Mapping[str, Any]
Line = tuple[Sequence[float], Sequence[Sequence[float]]]  # places, and the values at each

_WORTH = {"knn": "kNN", "linear": "linear", "unseen_recall@1": "R@1 unseen", "unseen_map@r": "MAP@R unseen"}
_CLASSIFIERS = {"knn": "kNN", "linear": "linear", "svm": "SVM"}


@dataclass(frozen=True)
class Plot:
    """A plot, and what it shows, which no other plot of the page says."""

    label: str
    draw: Callable[[], Figure]
    width: int = 860


@dataclass(frozen=True)
class Section:
    """A study.

    Attributes:
        study: its name.
        title: of the section.
        headings: of the table; the first columns, of which there are `num_names`, are words.
        rows: of the table.
        note: below it.
        plots: below that.
    """

    study: str
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    plots: Sequence[Plot] = ()
    num_names: int = 1


@dataclass(frozen=True)
class _Runs:
    """All seeds of a run."""

    records: list[Record] = field(default_factory=list)

    def values(self, key: str) -> list[float]:
        """Those that are known."""
        return [float(record[key]) for record in self.records if record.get(key) is not None]

    def text(self, key: str, form: Callable[[float], str] | None = None) -> str:
        """Mean and standard deviation over seeds."""
        return _spread(self.values(key), form or percent)


def sections_of(results: Mapping[str, Any]) -> list[Section]:
    """The sections of the studies whose first records are there."""
    settings = results["settings"]
    found = []
    for study in settings["studies"]:
        for section in _STUDIES[study](settings, _grouped(results["records"])):
            if section.rows:
                found.append(section)
    return found


def plain_tables(results: Mapping[str, Any]) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]], str]]:
    """Title, headings, rows and note of each table, for the documentation."""
    return [(section.title, section.headings, section.rows, section.note) for section in sections_of(results)]


def _grouped(records: Iterable[Record]) -> dict[str, _Runs]:
    groups: dict[str, _Runs] = {}
    for record in records:
        groups.setdefault(str(record["loss"]), _Runs()).records.append(record)
    return groups


def _number(value: float) -> str:
    return f"{value:.3g}"


def _spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    if not values:
        return "-"
    mean = form(statistics.fmean(values))
    return f"{mean} ± {form(statistics.stdev(values))}" if len(values) > 1 else mean


def _title(record: Record) -> str:
    return "softmax over all" if record["num_noise"] is None else f"NCE, m = {record['num_noise']:,}"


def _name(settings: Mapping[str, Any], **changes: Any) -> str:
    return Variant.of(Namespace(**settings), **changes).name


def _worth_row(name: str, runs: _Runs) -> list[str]:
    bank = runs.text("knn_bank")
    return [name, bank, *(runs.text(key) for key in _WORTH), runs.text("seconds", lambda s: f"{s:.0f}"), str(len(runs.records))]


_WORTH_HEADINGS = ("kNN from bank", *_WORTH.values(), "seconds", "seeds")


def _baselines(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[list[str]]:
    names = {"raw": "pixels", f"untrained-d{settings['embedding_dim']}": "untrained encoder"}
    return [_worth_row(title, runs[name]) for name, title in names.items() if name in runs]


def _worth_note(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> str:
    first: Record = next(iter(runs.values())).records[0]
    unseen = first["split_sizes"]["unseen_classes"]
    k, t = settings["neighbours"], settings["knn_temperature"]
    found = (
        f"Percent{_of_seeds(settings)}. Accuracy on images of the training classes that no training saw: by the weighted vote of {k} "
        f"nearest neighbours at temperature {t:g}, among the rows of the bank as training left them or among the training images "
        "embedded anew (rows were mixed from embeddings of distorted images on the way), and by logistic regression on the embeddings."
    )
    return f"{found} Unseen: retrieval among images of {unseen} other classes." if unseen else found


def _of_seeds(settings: Mapping[str, Any]) -> str:
    return ", mean ± standard deviation over seeds" if settings["seeds"] > 1 else ", of one seed"


def _overview(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[Section]:
    names = [name for name in (_name(settings, num_noise=None), _name(settings)) if name in runs]
    rows = [_worth_row(_title(runs[name].records[0]), runs[name]) for name in names] + _baselines(settings, runs)
    curves = {_title(runs[name].records[0]): _by_epoch(runs[name], "knn_bank_by_epoch", 100.0) for name in names}
    baselines = {f"{row[0]}, {row[2]}": float(row[2].split()[0]) for row in _baselines(settings, runs)}
    draw = partial(plots.training_curves, curves, ylabel="kNN accuracy from the bank, %", baselines=baselines)
    drawn = [Plot("Accuracy of nearest neighbours straight from the bank, by epoch", draw)] if curves else []
    first = Section("overview", "Features learned without labels", ("", *_WORTH_HEADINGS), rows, _worth_note(settings, runs), drawn)
    note = "Percent, of the same features by three classifiers; features of the backbone come before its linear map to the embedding."
    headings = ("", "features", *_CLASSIFIERS.values(), "seeds")
    return [first, Section("overview", "Three classifiers of the same features", headings, _classifier_rows(settings, runs), note, (), 2)]


def _classifier_rows(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[list[str]]:
    starts = {_name(settings, num_noise=None): "softmax over all", _name(settings): f"NCE, m = {settings['num_noise']:,}"}
    rows = []
    for start, title in {**starts, "untrained": "untrained encoder", "raw": "pixels"}.items():
        records = runs.get(f"classifiers-{start}", _Runs()).records
        for what in ("embedding", "backbone", "pixels"):
            found = [record["accuracies"][what] for record in records if what in record["accuracies"]]
            if found:
                cells = (_spread([values[key] for values in found], percent) for key in _CLASSIFIERS)
                rows.append([title, what, *cells, str(len(found))])
    return rows


def _noise(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[Section]:
    softmax, noises = _name(settings, num_noise=None), sorted(settings["noises"])
    names = {m: name for m in noises if (name := _name(settings, num_noise=m)) in runs}
    rows = [_worth_row(_title(runs[name].records[0]), runs[name]) for name in (*names.values(), *([softmax] if softmax in runs else []))]
    known = {key: {m: runs[name].values(key) for m, name in names.items()} for key in ("knn", "linear")}
    lines = {_WORTH[key]: _line(values) for key, values in known.items()}
    flat = {f"softmax, {_WORTH[key]}": runs[softmax].values(key) for key in known} if softmax in runs else {}
    draw = partial(_chart, lines, xlabel="noise samples m", ylabel="accuracy, %", flat=flat, factor=100.0, log="x", ticks=noises)
    drawn = [Plot("Accuracy by number of noise samples", draw)] if names else []
    title = "NCE approaches the full softmax"
    return [Section("noise", title, ("", *_WORTH_HEADINGS), rows + _baselines(settings, runs), _worth_note(settings, runs), drawn)]


def _proximal(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[Section]:
    names = {f"λ = {weight:g}": name for weight in sorted(settings["proximals"]) if (name := _name(settings, proximal=weight)) in runs}
    variances = {"loss_variance_of_epochs": "epochs", "loss_variance_of_images": "images", "loss_variance": "steps"}
    keys = dict.fromkeys(("loss_mean", *variances, "distance_to_bank"), _number) | dict.fromkeys(("knn_bank", "knn", "linear"), percent)
    rows = [[title, *(runs[name].text(key, form) for key, form in keys.items())] for title, name in names.items()]
    of = (f"variance of {what}" for what in variances.values())
    headings = ("proximal term", "loss", *of, "distance to bank", "kNN from bank", "kNN", "linear")
    note = (
        f"The second half of training{_of_seeds(settings)}. Loss: of NCE alone, without the proximal term, as training meets it. Its "
        "variance: of epochs, of its mean over an epoch, which sees each image once, from epoch to epoch and without the trend; of images, "
        "of the loss of one image from visit to visit; of steps, of its mean over a batch from step to step, to which the choice of the "
        "batch adds. Distance: mean square, of an embedding to its own row of the bank before the update. Accuracies are percent."
    )
    loss = {title: _by_epoch(runs[name], "loss_by_epoch") for title, name in names.items()}
    variance = {title: _by_epoch(runs[name], "loss_variance_by_epoch") for title, name in names.items()}
    accuracy = {title: _by_epoch(runs[name], "knn_bank_by_epoch", 100.0) for title, name in names.items()}
    drawn = [
        Plot("Loss of NCE, without the proximal term, by epoch and weight of that term", partial(_single_runs, loss, ylabel="loss")),
        Plot(
            "Variance of the loss of NCE from step to step, by epoch and weight of the proximal term",
            partial(_curves, variance, ylabel="variance of the loss", log=True),
        ),
        Plot(
            "Accuracy of nearest neighbours straight from the bank, by epoch and weight of the proximal term",
            partial(_curves, accuracy, ylabel="kNN accuracy from the bank, %"),
        ),
    ]
    return [Section("proximal", "Does the proximal term steady training?", headings, rows, note, drawn if names else [])]


def _dimension(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[Section]:
    names = {d: name for d in sorted(settings["dimensions"]) if (name := _name(settings, embedding_dim=d)) in runs}
    rows = [_worth_row(f"{d:,} dimensions", runs[name]) for d, name in names.items()]
    rows += [_worth_row(f"untrained, {d:,}", runs[name]) for d in names if (name := f"untrained-d{d}") in runs]
    rows += [_worth_row("pixels", runs["raw"])] if "raw" in runs else []
    lines = {_WORTH[key]: _line({d: runs[name].values(key) for d, name in names.items()}) for key in _WORTH}
    lines = {title: line for title, line in lines.items() if line[0]}
    draw = partial(_chart, lines, xlabel="size of the embedding", ylabel="%", factor=100.0, log="x", ticks=list(names))
    drawn = [Plot("Accuracy and retrieval by size of the embedding", draw)] if names else []
    return [Section("dimension", "The size of the embedding", ("", *_WORTH_HEADINGS), rows, _worth_note(settings, runs), drawn)]


def _labels(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[Section]:
    start, rows, accuracies = _name(settings), [], {"fine-tuned": {}, "from scratch": {}, "frozen, linear": {}}  # type: ignore[var-annotated]
    for share in sorted(settings["shares"]):
        tuned, scratch = (runs.get(f"labels-{share:g}-{source}", _Runs()) for source in (start, "scratch"))
        known = tuned.records or scratch.records
        if not known:
            continue
        counts = [f"{known[0][key]:,}" for key in ("labelled_images", "labelled_classes")]
        cells = (tuned.text("accuracy"), tuned.text("frozen_linear"), tuned.text("frozen_knn"), scratch.text("accuracy"))
        reachable = (tuned if tuned.records else scratch).text("reachable")
        rows.append([f"{share:g} %", *counts, *cells, reachable, str(len(known))])
        of_percent = (tuned.values("accuracy"), scratch.values("accuracy"), tuned.values("frozen_linear"))
        for values, more in zip(accuracies.values(), of_percent, strict=True):
            values[share] = more
    headings = ("labels", "images", "classes", "fine-tuned", "frozen, linear", "frozen, kNN", "from scratch", "reachable", "seeds")
    note = (
        f"Accuracy in percent{_of_seeds(settings)}, on images held out. Fine-tuned: from the backbone that learned without labels. Frozen: "
        "classifiers of its features as they are. From scratch: the same network and training, from new weights. Reachable: the share of "
        "the images held out whose class has a label at all."
    )
    lines = {title: _line(values) for title, values in accuracies.items() if any(values.values())}
    draw = partial(_chart, lines, xlabel="labels, %", ylabel="accuracy, %", factor=100.0, log="x", ticks=sorted(settings["shares"]))
    return [Section("labels", "A few labels", headings, rows, note, [Plot("Accuracy by share of the labels", draw)] if lines else [])]


def _bank(settings: Mapping[str, Any], runs: Mapping[str, _Runs]) -> list[Section]:
    records = [
        runs[name].records[0]
        for dtype in ("float32", "float16")
        for rows in sorted(settings["bank_rows"])
        if (name := f"bank-{rows}-{dtype}") in runs
    ]
    rows = []
    for r in records:
        resident = "-" if r["resident_megabytes"] is None else f"{r['resident_megabytes']:.0f}"
        sizes = (f"{r['rows_megabytes']:.1f}", f"{r['megabytes']:.1f}", resident)
        spans = (f"{r[key]:.1f} ({r[f'{key}_low']:.1f}-{r[f'{key}_high']:.1f})" for key in ("nce_ms", "softmax_ms"))
        rows.append([f"{r['rows']:,}", r["bank_dtype"], *sizes, *spans])
    headings = ("rows", "dtype", "rows, MB", "bank, MB", "resident, MB", "NCE step, ms", "softmax step, ms")
    first = records[0] if records else {"embedding_dim": 0, "batch": 0, "num_noise": 0, "threads": 0}
    note = (
        f"Rows of {first['embedding_dim']} numbers; 1 MB is 2^20 bytes. A bank holds labels and flags beside its rows; resident is what "
        f"the process grew by. A step is the loss of {first['batch']} embeddings with its gradient and the update of the bank, without the "
        f"encoder, on {first['threads']} threads: median (quartiles). NCE draws {first['num_noise']:,} rows, the softmax reads all."
    )
    drawn = []
    if records:
        memory = {
            dtype: _line({r["rows"]: [r["megabytes"]] for r in records if r["bank_dtype"] == dtype}) for dtype in ("float32", "float16")
        }
        times = {
            f"{title}, {dtype}": _line({r["rows"]: [r[key]] for r in records if r["bank_dtype"] == dtype})
            for key, title in (("nce_ms", "NCE"), ("softmax_ms", "softmax"))
            for dtype in ("float32", "float16")
        }
        drawn = [
            Plot("Memory of the bank by number of rows", partial(_chart, memory, xlabel="rows", ylabel="MB", log="xy")),
            Plot("Time of a step by number of rows", partial(_chart, times, xlabel="rows", ylabel="ms", log="xy")),
        ]
    return [Section("bank", "Memory and time of the bank", headings, rows, note, drawn, 2)]


_STUDIES: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, _Runs]], list[Section]]] = {
    "overview": _overview,
    "noise": _noise,
    "proximal": _proximal,
    "dimension": _dimension,
    "labels": _labels,
    "bank": _bank,
}


def _by_epoch(runs: _Runs, key: str, factor: float = 1.0) -> list[list[float]]:
    known = [[math.nan if value is None else factor * value for value in record[key]] for record in runs.records]
    return [[math.nan, *values] for values in known]  # there is nothing before the first epoch


def _line(values: Mapping[float, Sequence[float]]) -> Line:
    known = {place: found for place, found in values.items() if found}
    return list(known), list(known.values())


def _chart(
    lines: Mapping[str, Line],
    *,
    xlabel: str,
    ylabel: str,
    flat: Mapping[str, Sequence[float]] | None = None,
    factor: float = 1.0,
    log: str = "",
    ticks: Sequence[float] = (),
) -> Figure:
    """Lines through the means at each place, with the range over seeds."""
    figure = new_figure(8.6, 4.2)
    axes: Axes = figure.add_subplot()
    for number, (title, (places, values)) in enumerate(lines.items()):
        style, means = ("-", "--", ":")[number // len(SERIES) % 3], [factor * statistics.fmean(found) for found in values]
        reach = [
            [m - factor * min(v) for m, v in zip(means, values, strict=True)],
            [factor * max(v) - m for m, v in zip(means, values, strict=True)],
        ]
        color = SERIES[number % len(SERIES)]
        axes.errorbar(places, means, yerr=reach, marker="o", markersize=4, linestyle=style, color=color, capsize=2, label=title)
    for number, (title, known) in enumerate((flat or {}).items()):
        if known:
            level = factor * statistics.fmean(known)
            axes.axhline(level, color=MUTED, linestyle=("-.", ":")[number % 2], linewidth=1, label=title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    if ticks:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _single_runs(curves: Mapping[str, Sequence[Sequence[float]]], *, ylabel: str) -> Figure:
    """A line for each seed: means over seeds are smoother than any run."""
    figure = new_figure(8.6, 4.2)
    axes: Axes = figure.add_subplot()
    for number, (title, runs) in enumerate(curves.items()):
        for seed, values in enumerate(runs):
            axes.plot(values, color=SERIES[number % len(SERIES)], linestyle=("-", "--", ":")[seed % 3], label="" if seed else title)
    axes.locator_params("x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _curves(curves: Mapping[str, Sequence[Sequence[float]]], *, ylabel: str, log: bool = False) -> Figure:
    figure = plots.training_curves(curves, ylabel=ylabel)
    if log:
        figure.axes[0].set_yscale("log")
    return figure
