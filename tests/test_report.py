"""The report of a benchmark: what the page says, and that it needs nothing else."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from metriczoo import losses
from metriczoo.stores import MemoryBank

pytest.importorskip("matplotlib", reason="the report needs the extra `bench`")
Image = pytest.importorskip("PIL.Image", reason="the report needs the extra `bench`")

from benchmarks.retrieval.page import RunView, write_report  # noqa: E402

LABELS = np.repeat(np.arange(6), 8)
NAMES = ["<script>alert(1)</script>", 'a "quoted" & {braced} name', "100 % ünï¢ødé", "$x_1$", "'", "plain"]
VOID = {"meta", "img", "br", "hr"}


class Element:
    def __init__(self, tag="", attributes=(), parent=None):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    def text(self):
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)

    def find(self, tag, **attributes):
        """Elements below, in order."""
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and all(child.attributes.get(name.rstrip("_")) == value for name, value in attributes.items()):
                    yield child
                yield from child.find(tag, **attributes)


class Page(HTMLParser):
    """A page as a tree; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.root = self.open = Element()
        self.feed(text)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, attrs, self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag, attrs):
        self.open.children.append(Element(tag, attrs, self.open))

    def handle_endtag(self, tag):
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.children.append(data)


def record(loss, seed=0, **values):
    metrics = dict.fromkeys(("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "nmi", "ami"), 0.25)
    common = {"dataset": "birds", "seconds": 2.0, "epochs": 2, "versions": {"torch": "2.13.0"}, "learning_rate": 0.001}
    return {"loss": loss, "seed": seed, **common, "hyper_parameters": {"margin": 0.2}, **metrics, **values}


def view(loss, seed=0, module=None, noise=0.3, **values):
    generator = np.random.default_rng(seed)
    trained = np.eye(6, 8)[LABELS] + noise * generator.standard_normal((len(LABELS), 8))
    untrained = generator.standard_normal((len(LABELS), 5)).astype(np.float32)
    curves = {"loss": [3.0, 2.0, 1.0, 0.5], "recall@1": [0.2, 0.3, 0.4]}
    return RunView(
        **{
            **{"loss": loss, "seed": seed, "curves": curves, "embeddings": trained, "untrained": untrained},
            **{"loss_module": module or losses.TripletMarginLoss()},
            **values,
        }
    )


def photograph(position):
    """A picture in one colour that tells its position."""
    return Image.new("RGB", (60, 40), (5 * position, 0, 0))


def write(path, records, runs, images=photograph, labels=LABELS, names=NAMES, is_query=None, **more):
    about = {"test_images": images, "test_labels": labels, "class_names": names, "is_query": is_query}
    write_report(path, results={"dataset": "birds", "records": records, **more}, runs=runs, **about)
    text = path.read_text(encoding="utf-8")
    return text, Page(text).root


RECORDS = [
    record("raw", **{"recall@1": 0.38, "nmi": 0.9}),
    record("triplet", 0, **{"recall@1": 0.50, "ami": None}),
    record("triplet", 1, **{"recall@1": 0.60, "ami": 0.125}),
    record("circle<b>", 0, **{"recall@1": 0.7004, "map@r": float("nan")}),
    record("circle<b>", 1, **{"recall@1": 0.7004, "map@r": float("nan")}),
    record("nce", 0, **{"recall@1": 0.70036}),
    record("untrained", **{"recall@1": 0.2}),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = [view("triplet", 1), view("triplet", 0), view("circle<b>", 0, losses.CircleLoss(scale=8.0), noise=0.8)]
    return write(
        tmp_path_factory.mktemp("report") / "report.html", RECORDS, runs, split={"train_images": 30030, "test_images": 48}, cuda=False
    )


def lines(root):
    """The cells of each row of the table of results, by name of the loss."""
    rows = [row for row in next(root.find("table")).find("tr") if any(row.find("td"))]
    return {next(row.find("th")).text(): list(row.find("td")) for row in rows}


def table(root):
    return {name: [cell.text() for cell in cells] for name, cells in lines(root).items()}


# Numbers


def test_table_has_means_and_spreads_best_first_and_baselines_last(report):
    _, root = report
    rows = table(root)
    assert list(rows) == ["circle<b>", "nce", "triplet", "untrained", "raw"]
    heads = [head.text() for head in next(root.find("thead")).find("th")]
    assert heads == ["Loss", "Recall@1", "Recall@2", "Recall@4", "Recall@8", "MAP@R", "R-precision", "NMI", "AMI", "Seconds", "Seeds"]
    assert rows["triplet"] == ["55.0 ± 7.1", *["25.0 ± 0.0"] * 6, "12.5†", "2.0", "2"]
    assert rows["circle<b>"][0] == "70.0 ± 0.0"
    assert rows["circle<b>"][4] == "\N{EN DASH}"
    assert rows["nce"] == ["70.0", *["25.0"] * 7, "2.0", "1"]
    assert "not every seed has a value" in next(root.find("section", id="results")).text()


def test_best_of_each_column_is_bold_and_equal_prints_share_it(report):
    _, root = report
    bold = {name: [any(cell.find("b")) for cell in cells] for name, cells in lines(root).items()}
    assert [name for name, cells in bold.items() if cells[0]] == ["circle<b>", "nce"]
    assert [name for name, cells in bold.items() if cells[6]] == ["raw"]  # a baseline that wins is shown to win
    assert not any(cells[8] or cells[9] for cells in bold.values())


def test_top_tells_the_result_and_the_facts(report):
    _, root = report
    header = next(root.find("header"))
    assert next(header.find("h1")).text() == "birds"
    assert "circle<b> with 70.0 %, 32.0 points above the raw features" in header.text()
    facts = {next(fact.find("dt")).text(): next(fact.find("dd")).text() for fact in header.find("div")}
    assert facts == {
        "epochs": "2",
        "versions": "torch 2.13.0",
        "learning rate": "0.001",
        "split": "train images 30,030 · test images 48",
        "cuda": "no",
        "seeds": "0, 1",
    }


def test_all_metrics_missing_leaves_their_columns_out(tmp_path):
    nothing = dict.fromkeys(("recall@2", "recall@4", "recall@8", "map@r", "r_precision", "nmi", "ami"))
    _, root = write(tmp_path / "r.html", [record("triplet", **{"recall@1": float("nan")}, **nothing), record("raw", **nothing)], [])
    assert [head.text() for head in next(root.find("thead")).find("th")] == ["Loss", "Recall@1", "Seconds", "Seeds"]
    assert table(root)["triplet"] == ["\N{EN DASH}", "2.0", "1"]
    assert not any(root.find("p", class_="lead"))


# Pictures


def test_each_loss_has_its_charts_and_the_page_has_no_excuse(report):
    text, root = report
    assert 'class="missing"' not in text
    articles = list(root.find("article"))
    assert [next(article.find("h3")).text() for article in articles] == ["circle<b>", "triplet"]
    assert "seed 0 · margin 0.2" in articles[1].text()  # of the lowest seed
    labels = [svg.attributes["aria-label"] for svg in root.find("svg")]
    assert len(labels) == 2 + 2 * len(articles)
    assert sum("circle<b>" in label for label in labels) == 2


def test_charts_are_well_formed_and_refer_to_their_own_parts(report):
    text, _ = report
    identifiers = re.findall(r'\bid="([^"]*)"', text)
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(svg)
        own = set(re.findall(r'\bid="([^"]*)"', svg))
        used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg))
        assert {first or second for first, second in used} <= own
        assert "currentColor" in svg
        assert "#010203" not in svg
    assert len(identifiers) == len(set(identifiers))


def test_curves_are_drawn_in_percent_with_the_raw_features(report):
    _, root = report
    chart = next(svg for svg in root.find("svg") if svg.attributes["aria-label"].startswith("Recall@1"))
    words = [text.text().strip() for text in chart.find("text")]
    assert {"Recall@1, %", "epoch", "circle<b>", "triplet", "raw", "20.0", "40.0"} <= set(words)
    losses_chart = next(svg for svg in root.find("svg") if svg.attributes["aria-label"].startswith("Loss by step"))
    assert [text.text().strip() for text in losses_chart.find("text")].count("step") == 2


def test_examples_show_the_nearest_images_and_frame_them_by_class(report):
    _, root = report
    for article, run in zip(root.find("article"), (view("circle<b>", 0, noise=0.8), view("triplet", 0)), strict=True):
        unit = run.embeddings / np.linalg.norm(run.embeddings, axis=1, keepdims=True)
        scores = unit @ unit.T - 2 * np.eye(len(unit))
        groups = list(next(article.find("div", class_="pairs")).find("h4"))
        assert [group.text() for group in groups] == ["Nearest neighbour right", "Nearest neighbour wrong"]
        for group in groups:
            queries = list(group.parent.find("div", class_="query"))
            assert len(queries) == 5 or run.loss == "triplet"
            for query in queries:
                figures = list(query.find("figure"))
                shown = [position_of(next(figure.find("img"))) for figure in figures]
                assert shown[1:] == np.argsort(-scores[shown[0]])[:6].tolist()
                expected = ["right" if LABELS[i] == LABELS[shown[0]] else "wrong" for i in shown[1:]]
                assert [figure.attributes["class"] for figure in figures] == ["asked", *expected]
                assert expected[0] == group.text().split()[-1]
                assert [figure.attributes["title"] for figure in figures] == [NAMES[LABELS[i]] for i in shown]
                assert [next(figure.find("figcaption")).text() for figure in figures] == [NAMES[LABELS[i]] for i in shown]


def position_of(img):
    kind, data = img.attributes["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return round(image.getpixel((20, 20))[0] / 5)


def test_queries_are_asked_of_the_gallery(tmp_path):
    is_query = np.arange(len(LABELS)) % 3 == 0
    _, root = write(tmp_path / "r.html", [], [view("triplet", noise=1.5)], is_query=is_query)
    shown = [[position_of(next(figure.find("img"))) for figure in query.find("figure")] for query in root.find("div", class_="query")]
    assert len(shown) > 5
    vectors = view("triplet", noise=1.5).embeddings
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query, *others in shown:
        assert is_query[query]
        assert others == sorted(np.flatnonzero(~is_query), key=lambda row: -unit[query] @ unit[row])[:6]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_shown_small(tmp_path, mode):
    _, root = write(tmp_path / "r.html", [], [view("triplet")], images=lambda i: Image.new(mode, (300, 150)))
    for img in root.find("img"):
        kind, data = img.attributes["src"].split(",")
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (112, 56)
            assert image.format == ("PNG" if mode in ("1", "L") else "JPEG")
        assert kind == f"data:image/{'png' if mode in ('1', 'L') else 'jpeg'};base64"


def test_classes_without_a_name_are_numbered(tmp_path):
    for names in (None, NAMES[:1]):
        _, root = write(tmp_path / "r.html", [], [view("triplet")], names=names)
        captions = {caption.text() for caption in root.find("figcaption")}
        assert captions <= {f"class {n}" for n in range(6)} | set(names or ())
        assert "class 5" in captions


# One file that needs nothing else


def test_nothing_is_fetched_and_nothing_runs(report):
    text, root = report
    assert "://" not in text
    assert not any(root.find("script")) and not any(root.find("link")) and not any(root.find("iframe"))
    pending = [root]
    while pending:
        element = pending.pop()
        pending += [child for child in element.children if isinstance(child, Element)]
        assert not any(name.startswith("on") for name in element.attributes)
        assert element.attributes.get("href", "#").startswith(("#", "data:"))
        assert element.attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"@import|url\((?!#)", text)


def test_links_lead_somewhere(report):
    _, root = report
    for link in root.find("a"):
        target = link.attributes["href"].removeprefix("#")
        assert any(any(root.find(tag, id=target)) for tag in ("section", "article"))


def test_two_reports_differ_by_their_date_only(tmp_path):
    pages = [write(tmp_path / name, [record("triplet")], [view("triplet")])[0] for name in ("a.html", "b.html")]
    first, second = (re.sub(r"<footer>.*?</footer>", "", page) for page in pages)
    assert first == second


def test_six_losses_stay_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)  # the hardest to compress
    runs = [view(name) for name in "abcdef"]
    text, _ = write(tmp_path / "r.html", [], runs, images=lambda i: Image.fromarray(noise))
    assert len(text) < 5_000_000


# What is missing or broken


def test_nothing_at_all(tmp_path):
    write_report(tmp_path / "r.html", results={}, runs=[], test_images=photograph, test_labels=LABELS)
    root = Page((tmp_path / "r.html").read_text(encoding="utf-8")).root
    assert "No run has ended yet" in root.text()
    assert not any(root.find("svg"))


def test_runs_without_records_and_curves(tmp_path):
    _, root = write(tmp_path / "r.html", [], [view("triplet", curves={"loss": []})])
    assert [heading.text() for heading in root.find("h3")] == ["triplet"]
    assert "No curves were kept" in root.text()


@pytest.mark.parametrize(
    ("broken", "reason", "missing"),
    [
        ({"embeddings": np.full((48, 4), np.nan)}, "`embeddings` to be finite", 2),
        ({"embeddings": np.ones((7, 4))}, "7 entries", 2),
        ({"module": losses.NCELoss(MemoryBank(48, 8), num_noise=4)}, "on its first call", 1),
        ({"curves": {"loss": ["x"], "recall@1": [0.1]}}, "to hold numbers", 1),
    ],
)
def test_a_picture_that_fails_says_why_and_the_rest_is_there(tmp_path, broken, reason, missing):
    _, root = write(tmp_path / "r.html", RECORDS, [view("triplet", **broken), view("nce")])
    notes = [note.text() for note in root.find("p", class_="missing")]
    assert len(notes) == missing
    assert all(reason in note for note in notes)
    assert len(list(root.find("svg"))) + len(list(root.find("div", class_="pairs"))) == 2 + 2 * 3 - missing
    assert len(table(root)) == 5


def test_a_broken_image_leaves_a_blank(tmp_path):
    def images(position):
        if LABELS[position] == 2:
            raise OSError("image file is truncated <7 bytes>")
        return photograph(position)

    _, root = write(tmp_path / "r.html", [], [view("triplet", noise=1.0)], images=images)
    blanks = [figure for figure in root.find("figure") if any(figure.find("div", class_="blank"))]
    assert blanks
    assert all(figure.attributes["title"] == f"{NAMES[2]}, no image: image file is truncated <7 bytes>" for figure in blanks)
    assert all(next(figure.find("figcaption")).text() != NAMES[2] for figure in root.find("figure") if any(figure.find("img")))


def test_names_that_are_no_text_do_not_stop_the_report(tmp_path):
    text, _ = write(tmp_path / "r.html", [record("triplet")], [view("triplet")], names=["folder\udc80"] * 6)
    assert "folder?" in text


def test_the_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write(path, [], [])
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    folder = tmp_path / "folder.html"
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_report(folder, results={}, runs=[], test_images=photograph, test_labels=LABELS)
    with pytest.raises(OSError, match=r"^Cannot write to .*absent/r\.html: No such file or directory\.$"):
        write_report(tmp_path / "absent" / "r.html", results={}, runs=[], test_images=photograph, test_labels=LABELS)
    assert sorted(os.listdir(tmp_path)) == ["folder.html", "report.html"]
