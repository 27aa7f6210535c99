"""`python -m benchmarks.retrieval --protocol frozen`: features of a frozen backbone, their cache, and the head that is trained on them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmark_runs import numbers, results, write_pictures
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import nn

from benchmarks.features import extraction as features
from benchmarks.features.cache import FeatureCache, digests_of, maker_of
from benchmarks.features.extraction import Vectors, extract
from benchmarks.features.onnx import faster
from benchmarks.images.readable import Readable
from benchmarks.images.square import Square
from benchmarks.retrieval import protocols
from benchmarks.retrieval.__main__ import main
from benchmarks.retrieval.options import parse
from benchmarks.training.backbones import Backbone, Encoder
from metriczoo.data import Features, ImageFolder

SIDE = 8


class Counted(nn.Module):
    """A small network that counts the images it sees, and perhaps stops after some."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.cells = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.seen, self.most = 0, 10**9

    def forward(self, images):
        if len(images) > 1:  # a single image only asks for the shape
            if self.seen + len(images) > self.most:
                raise KeyboardInterrupt
            self.seen += len(images)
        return self.cells(images)


def encoder_of(seed: int = 0) -> Encoder:
    return Encoder(Backbone(Counted(seed), 3, pretrained=True), SIDE, 4)


@pytest.fixture
def pictures(tmp_path) -> Path:
    return write_pictures(tmp_path / "pictures", classes=6, each=5, cells=4, shift=0, noise=60)


@pytest.fixture
def small(monkeypatch):
    """Files of 4 images, and a small network for every backbone; returns those that were made."""
    monkeypatch.setattr(features, "_SHARD", 4)
    made = []

    def build(name, channels):
        made.append(Counted(seed=sum(map(ord, name))))
        return Backbone(made[-1], 3, pretrained=name != "convnet")

    monkeypatch.setattr(protocols, "build_backbone", build)
    return made


def run(pictures: Path, tmp_path: Path, *more: str, output: str = "run", backbone: str = "net") -> tuple[int, Path]:
    words = f"--protocol frozen --dataset folder --root {pictures} --backbone {backbone} --image-size {SIDE} --embedding-dim 4 --epochs 2"
    words += f" --batch-samples 2 --loss circle,am_softmax --cache {tmp_path / 'cache'} --output {tmp_path / output}"
    return main([*words.split(), *more]), tmp_path / output


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr("benchmarks.retrieval.__main__.write_report", lambda path, **contents: None)


# -- the cache --------------------------------------------------------------------


def cached(tmp_path, images, encoder=None, **options):
    encoder = encoder or encoder_of()
    cache = FeatureCache(tmp_path / "cache", maker_of(encoder, "net", SIDE, 0))
    found, _ = extract(encoder, Square(images, SIDE), SIDE, cache, device=torch.device("cpu"), **options)
    return found, encoder.net.seen, cache


@pytest.mark.usefixtures("small")
def test_features_are_made_once_and_found_again(pictures, tmp_path):
    images = ImageFolder(pictures, "all")
    progress = []
    first, seen, cache = cached(tmp_path, images, on_progress=lambda *numbers: progress.append(numbers))
    pixels = torch.stack([Square(images, SIDE)[row][0] for row in range(30)]).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(first, encoder_of().features(pixels))
    assert (seen, len(list(cache.folder.iterdir()))) == (30, 8)
    assert progress == [*((done, 30) for done in (0, 4, 8, 12, 16, 20, 24, 28, 30)), (30, 30)]
    again, seen, _ = cached(tmp_path, images)
    assert seen == 0
    assert torch.equal(again, first)
    part, seen, _ = cached(tmp_path, Readable(images, [3, 17, 29]))  # of the same images another selection
    assert seen == 0
    assert torch.equal(part, first[[3, 17, 29]])


@pytest.mark.usefixtures("small")
def test_extraction_goes_on_where_it_stopped_with_the_same_features(pictures, tmp_path):
    images = ImageFolder(pictures, "all")
    whole, _, _ = cached(tmp_path / "whole", images)
    stopped, left = 0, encoder_of()
    left.net.most = 13
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "parts", images, left)
    stopped = left.net.seen
    parts, seen, _ = cached(tmp_path / "parts", images)
    assert (stopped, seen) == (12, 18)
    assert torch.equal(parts, whole)


@pytest.mark.usefixtures("small")
def test_only_images_that_changed_are_computed_anew(pictures, tmp_path):
    first, _, _ = cached(tmp_path, ImageFolder(pictures, "all"))
    changed = pictures / "class2" / "3.png"
    Image.new("RGB", (16, 16), (9, 99, 199)).save(changed)
    (pictures / "class0" / "0.png").touch()
    second, seen, _ = cached(tmp_path, ImageFolder(pictures, "all"))
    assert seen in (0, 1)  # a batch of one is not counted by the network
    differ = (first != second).any(1).nonzero()[:, 0].tolist()
    assert differ == [13]
    (pictures / "class5" / "4.png").rename(pictures / "class5" / "a new name.png")
    assert torch.equal(cached(tmp_path, ImageFolder(pictures, "all"))[0], second)


@pytest.mark.usefixtures("small")
def test_features_of_another_backbone_are_never_used(pictures, tmp_path):
    images = ImageFolder(pictures, "all")
    first, _, one = cached(tmp_path, images)
    second, seen, other = cached(tmp_path, images, encoder_of(seed=1))
    assert one.folder != other.folder
    assert seen == 30
    assert not torch.equal(first, second)
    for path in one.folder.iterdir():  # not even where somebody copied them
        (other.folder / path.name).write_bytes(path.read_bytes())
    third, _, cache = cached(tmp_path, images, encoder_of(seed=1))
    assert torch.equal(third, second)
    assert len(cache.damaged) == 8


def test_makers_differ_in_all_that_features_depend_on():
    encoder = encoder_of()
    known = {json.dumps(maker_of(encoder, "net", SIDE, 0))}
    for backbone, side, margin in (("other", SIDE, 0), ("net", 9, 0), ("net", SIDE, 2)):
        known.add(json.dumps(maker_of(encoder, backbone, side, margin)))
    known.add(json.dumps(maker_of(Encoder(Backbone(encoder.net, 3, mean=(0.5,)), SIDE, 4), "net", SIDE, 0)))
    with torch.no_grad():
        encoder.net.cells[0].bias[2] += 1e-6
    known.add(json.dumps(maker_of(encoder, "net", SIDE, 0)))
    assert len(known) == 6


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "text", "other arrays"])
def test_a_damaged_file_is_found_and_made_anew(pictures, tmp_path, damage):
    images = ImageFolder(pictures, "all")
    first, _, cache = cached(tmp_path, images)
    path = sorted(cache.folder.iterdir())[3]
    content = bytearray(path.read_bytes())
    content[content.index(b"features.npy") + 200] ^= 1
    damaged = {"empty": b"", "short": path.read_bytes()[:-40], "flipped": bytes(content), "text": b"nothing of the kind"}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    else:
        np.savez(path, images=np.zeros((4, 3), np.uint8))
    again, seen, cache = cached(tmp_path, images)
    assert cache.damaged == [path]
    assert seen in (2, 4)
    assert torch.equal(again, first)
    assert cached(tmp_path, images)[2].damaged == []


@pytest.mark.usefixtures("small")
def test_a_full_disk_is_a_clear_error_and_keeps_what_is_there(pictures, tmp_path, monkeypatch):
    images = ImageFolder(pictures, "all")
    savez, left = np.savez, iter(range(3))

    def full(file, **arrays):
        if next(left, None) is None:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"Cannot write to the cache of features .*: No space left on device"):
        cached(tmp_path, images)
    monkeypatch.undo()
    monkeypatch.setattr(features, "_SHARD", 4)
    _, seen, cache = cached(tmp_path, images)
    assert seen == 18
    assert not list(cache.folder.glob(".*"))


@pytest.mark.usefixtures("small")
def test_equal_images_are_computed_once(pictures, tmp_path):
    for number in range(5):
        (pictures / "class1" / f"{number}.png").write_bytes((pictures / "class0" / f"{number}.png").read_bytes())
    found, seen, _ = cached(tmp_path, ImageFolder(pictures, "all"))
    assert seen == 24 + 0  # 25, the last of which comes alone and is not counted
    assert torch.equal(found[:5], found[5:10])


def test_digests_tell_boxes_and_readers_apart(pictures):
    images = ImageFolder(pictures, "all")
    plain = digests_of(images)
    assert len(set(plain)) == 30
    assert digests_of(Readable(images, [4, 7])) == [plain[4], plain[7]]
    images.boxes = np.tile([0.0, 0.0, 9.0, 9.0], (30, 1))
    boxed = digests_of(images)
    assert not {*plain} & {*boxed}
    images.boxes[3] = [0.0, 0.0, 9.0, 8.0]
    assert [row for row, (a, b) in enumerate(zip(boxed, digests_of(images), strict=True)) if a != b] == [3]
    images.boxes = None

    class Upright(ImageFolder):
        pass

    assert not {*plain} & {*digests_of(Upright(pictures, "all"))}
    images.paths, drawn = [], images.paths  # images that have no files
    images._image = lambda row: Image.open(drawn[row]).convert("RGB")
    assert len(set(digests_of(images))) == 30


def test_vectors_are_items_with_label_and_position():
    vectors = Vectors(torch.eye(3), np.array([5, 6, 5]))
    assert len(vectors) == 3
    assert vectors[2][0].tolist() == [0, 0, 1]
    assert vectors[2][1:] == (5, 2)


# -- ONNX Runtime -----------------------------------------------------------------


class FakeRuntime(SimpleNamespace):
    """As much of onnxruntime as is used: it computes `answer` of the images."""

    def __init__(self, answer):
        super().__init__(
            SessionOptions=SimpleNamespace,
            InferenceSession=lambda model, options, providers: SimpleNamespace(run=lambda _, inputs: [answer(inputs["images"])]),
        )


@pytest.mark.parametrize(("error", "accepted"), [(0.0, True), (1e-5, True), (0.1, False), (float("nan"), False)])
def test_onnxruntime_is_used_if_it_gives_what_torch_gives(monkeypatch, error, accepted):
    net, images = Counted().eval(), torch.rand(5, 3, SIDE, SIDE)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(lambda x: net.cells(torch.from_numpy(x)).detach().numpy() + error))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: None)
    run, runtime = faster(net, images)
    assert runtime == "onnxruntime" if accepted else runtime.startswith("torch, as the features of onnxruntime differ by")
    torch.testing.assert_close(run(images).detach(), net(images).detach(), atol=2e-5, rtol=0)


def test_without_onnxruntime_or_where_it_fails_torch_does(monkeypatch):
    net, images = Counted().eval(), torch.rand(5, 3, SIDE, SIDE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert faster(net, images) == (net, "torch, as onnxruntime is not installed")
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(None))
    run, runtime = faster(net, images)
    assert run is net
    assert runtime.startswith("torch, as onnxruntime failed: ")


def test_onnxruntime_gives_the_features_of_torch_for_any_number_of_images():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    encoder = encoder_of().eval()
    run, runtime = faster(features._Features(encoder).eval(), torch.rand(4, 3, SIDE, SIDE))
    assert runtime == "onnxruntime"
    images = torch.rand(7, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(run(images), encoder.features(images), atol=1e-5, rtol=1e-4)


# -- the protocol -----------------------------------------------------------------


def test_rows_are_those_of_independent_features(pictures, tmp_path, small, capsys):
    status, folder = run(pictures, tmp_path, "--seeds", "2")
    assert status == 0
    shown = capsys.readouterr().out
    assert "Features: made by torch, kept in" in shown
    records = results(folder)["records"]
    assert [(r["loss"], r["seed"]) for r in records] == [
        *(("raw", None), ("pca", None)),
        *((loss, seed) for seed in (0, 1) for loss in ("circle", "am_softmax")),
    ]
    train, test = ImageFolder(pictures, "train"), ImageFolder(pictures, "test")
    encoder = Encoder(Backbone(small[0], 3, pretrained=True), SIDE, 4).eval()
    sides = []
    for images in (train, test):
        pixels = [np.asarray(image.resize((10, 10), Image.Resampling.BICUBIC))[1:9, 1:9] / 255 for image, _ in images]
        with torch.no_grad():
            sides.append(encoder.features(torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float()).numpy())
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    pca = PCA(4, svd_solver="full").fit(unit[0].astype(np.float64)).transform(unit[1].astype(np.float64))
    for record, points in zip(records, (unit[1], pca), strict=False):
        found = NearestNeighbors(n_neighbors=2, metric="cosine").fit(points).kneighbors(points, return_distance=False)
        assert record["recall@1"] == pytest.approx(np.mean(test.labels[found[:, 1]] == test.labels))
    assert records[0]["hyper_parameters"].keys() == {"features", "weights", "image_size"}
    start = torch.load(folder / "pca.pt", weights_only=True)
    trained = torch.load(folder / "circle-seed0.pt", weights_only=True)
    assert trained["recalls"][0] == records[1]["recall@1"]
    assert not torch.equal(trained["embeddings"], start["embeddings"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'class="missing"' not in page
    assert "Losses against each other" in page
    assert "The worst classes" in page


@pytest.mark.usefixtures("no_report")
def test_features_are_shared_by_runs_and_training_needs_no_image(pictures, tmp_path, small, monkeypatch, capsys):
    assert run(pictures, tmp_path)[0] == 0
    assert sum(net.seen for net in small) in (28, 30)
    assert run(pictures, tmp_path, output="again")[0] == 0
    assert sum(net.seen for net in small) in (28, 30)
    assert "Features: found in" in capsys.readouterr().out
    assert numbers(tmp_path / "run") == numbers(tmp_path / "again")
    assert run(pictures, tmp_path, output="other", backbone="other")[0] == 0
    assert sum(net.seen for net in small) in (56, 60)


@pytest.mark.usefixtures("no_report")
def test_interrupted_at_any_moment_it_ends_with_the_same_numbers(pictures, tmp_path, small, monkeypatch):
    assert run(pictures, tmp_path, output="whole")[0] == 0
    import shutil

    shutil.rmtree(tmp_path / "cache")
    statuses = []
    for most in (5, 9, 17, 10**9):
        with monkeypatch.context() as patch:
            patch.setattr(Counted, "__init__", _limited(most))
            statuses.append(run(pictures, tmp_path, "--resume", output="parts")[0])
    assert statuses[0] == 130
    assert statuses[-1] == 0
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")


def _limited(most: int):
    plain = Counted.__init__

    def init(self, seed: int = 0) -> None:
        plain(self, seed)
        self.most = most

    return init


@pytest.fixture
def vectors(tmp_path) -> Path:
    """An .npz file of 8 classes of 12 vectors, noisy in most directions."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 12)
    signal = generator.normal(size=(8, 5))[labels] + 0.4 * generator.normal(size=(96, 5))
    noise = 1.5 * generator.normal(size=(96, 15))
    np.savez(tmp_path / "x.npz", X=np.hstack([signal, noise]).astype(np.float16), y=labels)
    return tmp_path / "x.npz"


def on_vectors(vectors: Path, output: Path, *more: str) -> int:
    words = (
        f"--protocol frozen --dataset features --root {vectors} --embedding-dim 8 --epochs 20 --loss triplet,multi_similarity,proxy_anchor"
    )
    return main([*words.split(), "--output", str(output), *more])


def test_given_features_need_no_backbone(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(protocols, "build_backbone", None)
    assert on_vectors(vectors, tmp_path / "run") == 0
    records = results(tmp_path / "run")["records"]
    assert [record["loss"] for record in records] == ["raw", "pca", "triplet", "multi_similarity", "proxy_anchor"]
    assert records[0]["hyper_parameters"] == {"features": "given"}
    test = Features(vectors, "test")
    found = NearestNeighbors(n_neighbors=2, metric="cosine").fit(test.features).kneighbors(test.features, return_distance=False)
    assert records[0]["recall@1"] == pytest.approx(np.mean(test.labels[found[:, 1]] == test.labels))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'class="missing"' not in page
    assert "<h3>proxy_anchor</h3>" in page


# What every record holds: for each key the types, and of numbers the bounds.
SHARE = (float, 0, 1)
SCHEMA = {
    **dict.fromkeys(("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "knn_accuracy", "nmi"), SHARE),
    "ami": (float, -1, 1),
    **dict.fromkeys(("num_queries", "num_skipped", "num_ignored", "num_references", "threads"), (int, 0, 10**9)),
    **dict.fromkeys(("dataset", "protocol", "loss", "device"), (str,)),
    **dict.fromkeys(("split_sizes", "hyper_parameters", "intervals", "health", "classes", "versions"), (dict,)),
    "seed": (int | None,),
    "seconds": (float | None,),
}


def test_results_have_the_promised_form(vectors, tmp_path, no_report):
    assert on_vectors(vectors, tmp_path, "--seeds", "2") == 0
    found = results(tmp_path)
    assert found.keys() == {"dataset", "settings", "records", "comparisons"}
    for record in found["records"]:
        assert record.keys() == SCHEMA.keys()
        for key, (kind, *bounds) in SCHEMA.items():
            assert isinstance(record[key], kind), key
            assert not bounds or bounds[0] <= record[key] <= bounds[1], key
        assert record["intervals"].keys() == {key for key, kind in SCHEMA.items() if kind == SHARE} - {"nmi"}
        assert all(0 <= low <= record[key] <= high <= 1 for key, (low, high) in record["intervals"].items())
        assert record["health"].keys() == {"uniformity", "alignment", "mean_cosine", "spread", "effective_rank", "spectral_decay"}
        assert [len(record["classes"][part]) for part in ("best", "worst")] == [4, 4]
        for line in record["classes"]["worst"]:
            assert line.keys() == {"class", "queries", "recall@1", "map@r"}
    rows = ["triplet", "multi_similarity", "proxy_anchor", "pca", "raw"]
    pairs = [(test["metric"], test["first"], test["second"]) for test in found["comparisons"]]
    assert pairs == [(metric, a, b) for metric in ("recall@1", "map@r") for i, a in enumerate(rows) for b in rows[i + 1 :]]
    means = {row: np.mean([r["recall@1"] for r in found["records"] if r["loss"] == row]) for row in rows}
    for test in found["comparisons"]:
        assert test.keys() == {"metric", "first", "second", "difference", "interval", "p_value", "p_holm"}
        assert 0 < test["p_value"] <= test["p_holm"] <= 1
        assert test["interval"][0] <= test["difference"] <= test["interval"][1]
        if test["metric"] == "recall@1":
            assert test["difference"] == pytest.approx(means[test["first"]] - means[test["second"]], abs=1e-6)
    lines = list(csv.DictReader((tmp_path / "classes.csv").read_text().splitlines()))
    assert len(lines) == 5 * 4
    for row in rows:
        of_row = [(float(line["recall@1"]), int(line["queries"])) for line in lines if line["loss"] == row]
        assert sum(value * n for value, n in of_row) / 48 == pytest.approx(means[row], abs=1e-5)


def test_a_folder_of_an_older_version_goes_on(vectors, tmp_path, no_report):
    assert on_vectors(vectors, tmp_path / "new") == 0
    expected = numbers(tmp_path / "new")
    found = results(tmp_path / "new")
    del found["comparisons"]
    for record in found["records"]:
        for key in ("intervals", "health", "classes", "protocol"):
            del record[key]
    (tmp_path / "new" / "results.json").write_text(json.dumps(found))
    for path in (tmp_path / "new").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        del state["per_query"]
        state["record"] = next(r for r in found["records"] if f"{r['loss']}-seed{r['seed']}" == path.stem or r["loss"] == path.stem)
        torch.save(state, path)
    (tmp_path / "new" / "raw.pt").unlink()  # there was none
    trained = torch.load(tmp_path / "new" / "triplet-seed0.pt", weights_only=True)["record"]["seconds"]
    assert on_vectors(vectors, tmp_path / "new", "--resume") == 0
    assert numbers(tmp_path / "new") == expected
    assert results(tmp_path / "new")["records"][2]["seconds"] == trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--protocol freeze", "Did you mean 'frozen'?"),
        ("--protocol frozen --dataset folder --root {pictures} --backbone convnet", "convnet has no weights of its own"),
        ("--dataset features --root {vectors}", "Pass --protocol frozen"),
        ("--protocol frozen --dataset features --root {vectors} --backbone convnet", "--backbone does nothing for --dataset features"),
        ("--protocol frozen --dataset features --root {vectors} --image-size 32", "--image-size does nothing"),
        ("--protocol frozen --dataset features --root {vectors} --embedding-dim 64", "--embedding-dim 64: expected at most 20"),
    ],
)
def test_mistakes_are_one_clear_line(pictures, vectors, tmp_path, capsys, words, message):
    try:
        status = main([*words.format(pictures=pictures, vectors=vectors).split(), "--output", str(tmp_path / "out")])
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr().err
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_cache_is_one_clear_line(pictures, tmp_path, small, capsys):
    (tmp_path / "cache").write_text("a file")
    assert run(pictures, tmp_path)[0] == 2
    assert "Cannot write to the cache of features" in capsys.readouterr().err


def test_defaults_of_frozen_letters():
    options = parse(["--protocol", "frozen"])
    assert (options.backbone, options.image_size, options.epochs) == ("efficientnet_lite0", 64, 10)
    assert tuple(protocols.PROTOCOLS) == ("finetune", "frozen")


@pytest.mark.usefixtures("no_report")
def test_cars_beyond_principal_components(real_data, tmp_path):
    words = f"--protocol frozen --dataset features --root {real_data / 'features' / 'cars_odd98_crops_efflite0.npz'} --loss triplet"
    assert main([*words.split(), "--output", str(tmp_path)]) == 0
    _, pca, triplet = results(tmp_path)["records"]
    assert triplet["recall@1"] >= pca["recall@1"] + 0.045
    assert triplet["map@r"] >= pca["map@r"] + 0.03
