"""The reports in a real browser: nothing fails, nothing is fetched, all images show, tables sort, and no page is wider than its window."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="the reports need the extra `bench`")
Image = pytest.importorskip("PIL.Image", reason="the reports need the extra `bench`")

from benchmarks.command.folder import Folder  # noqa: E402
from benchmarks.evaluation.comparison import comparisons  # noqa: E402
from benchmarks.evaluation.metrics import evaluate  # noqa: E402
from benchmarks.leaderboard.page import write_page  # noqa: E402
from benchmarks.leaderboard.peers import PEER  # noqa: E402
from benchmarks.leaderboard.runs import Task, nearest  # noqa: E402
from benchmarks.leaderboard.tables import against_the_first, confusions, peer_verdicts, summary  # noqa: E402
from benchmarks.retrieval.page import RunView, write_report  # noqa: E402
from metriczoo import losses  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")

LABELS = np.repeat(np.arange(8), 7)
NAMES = [f"class {n} with a name that is long enough to need a second line" for n in range(7)] + ["<b>&amp;"]
LOSSES = ("triplet", "circle", "a_loss_with_a_name_that_is_rather_long")
# A browser without a screen has no window below 500 pixels, so the page is looked at in a frame, whose width is that of its window.
_FRAME = """<!doctype html><html style="color-scheme: light dark"><meta charset="utf-8"><body style="margin: 0">
<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{page}"></iframe></body></html>"""
WINDOWS = [(1280, "light"), (400, "dark")]

# Before anything of the page runs: keep what goes wrong. After it has loaded: look at it, press on heads of columns, and write it down.
_WATCH = """<script>
const faults = [];
addEventListener("error", (event) => faults.push(event.message || String(event.target.src || event.target.href)), true);
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
for (const name of ["error", "warn"]) console[name] = (...words) => faults.push(words.join(" "));
</script>"""
_LOOK = """<script>
const inside = [];
addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll("svg image")) {
    const copy = new Image();
    copy.src = image.getAttribute("href");
    inside.push(copy);
  }
});
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const images = [...document.images, ...inside];
  const table = document.querySelector("table.sortable");
  const sorted = {};
  if (table) {
    const column = (head) => [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent.trim());
    for (const head of table.tHead.rows[0].cells) {
      const button = head.querySelector("button");
      button.focus();
      const focused = document.activeElement === button;
      const views = [];
      for (let time = 0; time < 2; time++) {
        button.click();
        views.push([head.getAttribute("aria-sort"), column(head)]);
      }
      sorted[head.textContent] = {focused, views, others: table.querySelectorAll("[aria-sort]").length};
    }
  }
  const style = getComputedStyle(document.body);
  const found = {
    faults, sorted,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    images: images.map((image) => image.naturalWidth),
    window: innerWidth,
    page: document.documentElement.scrollWidth,
    wide: [...document.body.querySelectorAll("*")].filter((part) => part.getBoundingClientRect().right > innerWidth + 1
      && !part.closest(".scroll, figure.chart")).map((part) => part.outerHTML.slice(0, 100)),
    baselines: table ? [...table.tBodies[1].rows].map((row) => row.cells[1].textContent) : [],
    colors: [style.color, style.backgroundColor],
  };
  const note = document.createElement("pre");
  note.id = "found";
  note.textContent = JSON.stringify(found);
  parent.document.body.append(note);
});
</script>"""


def run(page: Path, tmp_path: Path, width: int, scheme: str, *more: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=20000"]
    flags += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    command = [BROWSER, *flags, *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, check=True, timeout=120, encoding="utf-8").stdout


def look(page: Path, tmp_path: Path, width: int, scheme: str) -> dict:
    """What a browser finds in a page."""
    text = page.read_text(encoding="utf-8")
    copy = tmp_path / "copy.html"
    watched = text.replace("<head>", f"<head>{_WATCH}", 1).replace("</body>", f"{_LOOK}</body>")
    copy.write_text(_FRAME.format(width=width, page=escape(watched)), encoding="utf-8")
    document = run(copy, tmp_path, width, scheme, "--dump-dom")
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', document, flags=re.DOTALL)
    return json.loads(unescape(found))


def luminance(color: str) -> float:
    channels = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def check(found: dict, width: int, scheme: str) -> None:
    """What holds of every page."""
    assert found["faults"] == []
    assert [name for name in found["requests"] if not name.startswith("data:")] == []
    assert found["images"]
    assert all(found["images"])
    assert found["window"] == width
    assert found["wide"] == []
    assert found["page"] <= width
    ink, paper = map(luminance, found["colors"])
    assert (paper > ink) == (scheme == "light")
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7


def picture(position: int):
    return Image.new("RGB", (60, 40), (4 * position, 90, 0))


def embeddings(seed: int, noise: float):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(np.eye(8)[LABELS] + noise * generator.standard_normal((len(LABELS), 8)))


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory) -> Path:
    """A report of made-up runs, some of which failed."""
    path = tmp_path_factory.mktemp("leaderboard")
    results = {"dataset": "birds", "settings": {"seeds": 2}, "protocol": "finetune", "split_sizes": {"test_images": 56}, "records": []}
    folder = Folder(path, results)
    tasks = [Task("raw", None, baseline=True), Task("untrained", 0, baseline=True), Task("untrained", 1, baseline=True)]
    tasks += [Task(loss, seed, peer=peer) for seed in (0, 1) for loss in LOSSES for peer in (False, True)]
    per_query, near = {}, {}
    for number, task in enumerate(tasks):
        vectors = embeddings(number, 0.9 if task.baseline else 0.3 + 0.1 * LOSSES.index(task.loss))
        evaluation = evaluate(vectors, LABELS, class_names=NAMES)
        cost = {"seconds": 3.0, "cpu_seconds": 2.0 + number, "peak_memory": 2**29} if not task.baseline else {}
        record = {"loss": task.name, "seed": task.seed, "seconds": None, "cpu_seconds": None, "peak_memory": None, **cost}
        record |= {"hyper_parameters": {"margin": 0.2}, **evaluation.values}
        state = {"record": record, "per_query": evaluation.per_query, "embeddings": vectors, "losses": [3.0, 2.0, 1.0]}
        folder.save(task.file, state | {"recalls": [0.2, 0.5], "nearest": nearest(vectors, None)})
        results["records"].append(record)
        per_query.setdefault(task.name, []).append(evaluation.per_query)
        near.setdefault(task.name, []).append(nearest(vectors, None))
    results["summary"] = summary(results["records"], per_query, LABELS)
    results["comparisons"] = against_the_first(results["summary"], per_query, LABELS)
    results["peers"] = peer_verdicts(results["records"], LOSSES)
    results["confusions"] = {name: confusions(of_loss, LABELS, LABELS, NAMES) for name, of_loss in near.items()}
    results["failures"] = [{"loss": "nce", "seed": 1, "error": "ValueError: " + "a reason in many words, " * 20}]
    test = SimpleNamespace(labels=LABELS, class_names=NAMES)
    experiment = SimpleNamespace(test=test, test_images=picture, is_query=None, query_labels=LABELS)
    write_page(path / "report.html", folder, tasks, experiment)
    return path / "report.html"


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory) -> Path:
    """A report of the retrieval benchmark, of made-up runs."""
    path = tmp_path_factory.mktemp("retrieval") / "report.html"
    runs, records, per_query = [], [], {}
    for number, loss in enumerate(("triplet", "circle")):
        vectors = embeddings(number, 0.5)
        evaluation = evaluate(vectors, LABELS, class_names=NAMES)
        records.append({"loss": loss, "seed": 0, "seconds": 2.0, "hyper_parameters": {"margin": 0.2}, **evaluation.values})
        per_query[loss] = [evaluation.per_query]
        curves = {"loss": [3.0, 2.0, 1.0, 0.5], "recall@1": [0.2, 0.3, 0.4]}
        runs.append(RunView(loss, 0, curves, vectors.numpy(), embeddings(9, 0.9).numpy(), losses.TripletMarginLoss()))
    results = {"dataset": "birds", "records": records, "comparisons": comparisons(per_query, LABELS)}
    write_report(path, results=results, runs=runs, test_images=picture, test_labels=LABELS, class_names=NAMES)
    return path


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_retrieval_report(retrieval, tmp_path, width, scheme):
    found = look(retrieval, tmp_path, width, scheme)
    check(found, width, scheme)
    assert len(found["images"]) > 50
    assert found["sorted"] == {}


def value_of(cell: str) -> float:
    return float(cell.split()[0])


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_leaderboard_report(leaderboard, tmp_path, width, scheme):
    found = look(leaderboard, tmp_path, width, scheme)
    check(found, width, scheme)
    assert len(found["images"]) > 3 * 4 * 7 + 3
    assert found["baselines"] == ["untrained", "raw"]
    for name, column in found["sorted"].items():
        assert column["focused"]
        assert column["others"] == 1
        (first, once), (second, twice) = column["views"]
        # the rank is what the table is sorted by when the page opens, so that pressing on it turns it around
        expected = (
            ["descending", "ascending"] if name in ("Rank", "Recall@1", "MAP@R", "NMI", "AMI", "Seeds") else ["ascending", "descending"]
        )
        assert [first, second] == expected
        assert len(once) == len(twice) == 2 * len(LOSSES)
        key = str if name == "Loss" else value_of
        views = {first: [key(cell) for cell in once], second: [key(cell) for cell in twice]}
        assert views["ascending"] == sorted(views["ascending"])
        assert views["descending"] == sorted(views["descending"], reverse=True)


def test_without_scripts_it_is_a_plain_table(leaderboard, tmp_path):
    page = leaderboard.read_text(encoding="utf-8")
    still = tmp_path / "still.html"
    still.write_text(re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL), encoding="utf-8")
    found = run(still, tmp_path, 1280, "light", "--dump-dom")
    assert "<button" not in found
    rows = re.findall(r'<tr><td data-value="(\d+)">', found)
    assert rows == [str(place) for place in range(1, 2 * len(LOSSES) + 3)]
    assert found.count(f"({PEER})".replace(PEER, "PML")) >= len(LOSSES)


def test_a_screenshot_shows_more_than_one_colour(leaderboard, tmp_path):
    """Of a page that stays blank everything above may hold."""
    run(leaderboard, tmp_path, 800, "light", f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (800, 900)
        assert len(image.convert("L").getcolors()) > 50


def test_images_are_inside_the_page(leaderboard):
    page = leaderboard.read_text(encoding="utf-8")
    sources = re.findall(r'<img[^>]*src="data:image/(jpeg|png);base64,([^"]*)"', page)
    assert sources
    assert all(base64.b64decode(data, validate=True) for _, data in sources)
