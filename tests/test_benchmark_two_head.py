"""`python -m benchmarks.two_head`, run as a user runs it, and its parts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmark_runs import ROOT, attempts, failure, kill, numbers, results, started, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from sklearn.metrics import accuracy_score, recall_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import nn

from benchmarks.images.augmentation import PHOTOGRAPHS
from benchmarks.training.loop import Training
from benchmarks.two_head.__main__ import main
from benchmarks.two_head.data import ShuffledBatches, Views, long_tailed, stratified, views_of
from benchmarks.two_head.experiment import Experiment
from benchmarks.two_head.measures import accuracies, rare_classes
from benchmarks.two_head.network import Network, build
from benchmarks.two_head.objective import DEFAULT_SYSTEMS, SYSTEMS, TwoHeadObjective
from benchmarks.two_head.options import parse
from metriczoo.models import TwoHeadOutput

TINY = "--dataset folder --backbone convnet --image-size 16 --epochs 2 --embedding-dim 8 --batch-classes 4 --batch-samples 2 --quick"
CLASSES, PER_CLASS = 5, 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), CLASSES, PER_CLASS)


def arguments(pictures: Path, output: Path, *more: str) -> list[str]:
    return [*TINY.split(), "--root", str(pictures), "--output", str(output), *more]


MANY = ("softmax_shuffled", "center", "semi_hard", "magnet", "triplet_center")
ALL = ("--system", ",".join(MANY), "--seeds", "2")


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory) -> Path:
    """A benchmark of most systems with two seeds that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "new" / "folder"
    assert main(arguments(pictures, output, *ALL)) == 0
    return output


# -- the whole benchmark -----------------------------------------------------


def check_schema(found: dict) -> None:
    assert set(found) == {"dataset", "settings", "records", "cost"}
    retrieval = {*(f"recall@{k}" for k in (1, 2, 4, 8)), "map@r", "nmi", "ami"}
    retrieval |= {"num_queries", "num_skipped", "num_ignored", "num_references"}
    for record in found["records"]:
        expected = "dataset data split_sizes loss seed hyper_parameters seconds device threads versions"
        assert set(record) == {*expected.split(), "accuracy", "accuracy_macro", "accuracy_rare", "pooled", "embedding"}
        sizes = record["split_sizes"]
        assert 1 <= sizes["smallest_class"] <= sizes["largest_class"]
        assert (record["accuracy_rare"] is None) == (record["data"] == "balanced")
        assert set(record["pooled"]) == retrieval
        has_two_heads = record["loss"] == "untrained" or (record["loss"] in SYSTEMS and SYSTEMS[record["loss"]].loss is not None)
        assert (record["embedding"] is not None) == has_two_heads
        for values in (record, record["pooled"], *([record["embedding"]] if has_two_heads else [])):
            assert all(0 <= value <= 1 for name, value in values.items() if name[:6] in ("accura", "recall", "map@r", "nmi") and value)
        assert (record["seconds"] is not None) == (record["loss"] in SYSTEMS)
    for name, cost in found["cost"].items():
        assert name in SYSTEMS
        assert set(cost) == {"milliseconds", "median_milliseconds", "share", "parameters"}
        assert 0 < cost["milliseconds"] <= cost["median_milliseconds"]
        assert cost["share"] == pytest.approx(1 - found["cost"]["softmax"]["milliseconds"] / cost["milliseconds"])


def test_results_follow_their_schema(whole):
    found = results(whole)
    check_schema(found)
    for record in found["records"]:
        sizes = record["split_sizes"]
        assert (sizes["classes"], sizes["test_images"]) == (CLASSES, CLASSES * PER_CLASS // 2)
        assert (sizes["smallest_class"], sizes["largest_class"]) == ((4, 4) if record["data"] == "balanced" else (1, 4))
        assert record["versions"]["torch"] == torch.__version__
    assert set(found["cost"]) == {"softmax", *MANY[1:]}
    for name, cost in found["cost"].items():
        extra = cost["parameters"] - found["cost"]["softmax"]["parameters"]
        assert extra == (0 if name == "softmax" else 8 * (128 * 2 * 2 + 1) + (CLASSES * 8 if name == "triplet_center" else 0))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("two-head-*.json")), ids=lambda path: path.name)
def test_kept_results_follow_the_schema(path):
    check_schema(json.loads(path.read_text()))


def test_a_record_per_distribution_system_and_seed_beside_the_baselines(whole):
    found = [(record["data"], record["loss"], record["seed"]) for record in results(whole)["records"]]
    assert len(set(found)) == len(found)
    runs = [(system, seed) for seed in (0, 1) for system in ("untrained", *MANY)]
    assert set(found) == {(data, *run) for data in ("balanced", "long_tailed") for run in [("raw", None), *runs]}


def test_numbers_are_those_of_the_saved_vectors(whole, pictures):
    options = parse(arguments(pictures, whole, *ALL))
    labels = Experiment(options).test.labels
    for record in results(whole)["records"]:
        if record["loss"] in SYSTEMS:
            state = torch.load(whole / f"{record['data']}-{record['loss']}-seed{record['seed']}.pt", weights_only=True)
            vectors = nn.functional.normalize(state["vectors"].double(), dim=1).numpy()
            values = record["embedding"] or record["pooled"]
            nearest = NearestNeighbors(n_neighbors=2).fit(vectors).kneighbors(vectors, return_distance=False)[:, 1]
            assert values["recall@1"] == pytest.approx(np.mean(labels[nearest] == labels), abs=0.051)  # kept in half precision
            assert record["accuracy"] == state["accuracies"][-1]
            steps = (20 // 8 if record["data"] == "balanced" else 1) * 2
            assert (len(state["losses"]), len(state["accuracies"])) == (steps, 3)


def test_raw_row_is_of_pixels_and_their_nearest_neighbours(whole, pictures):
    experiment = Experiment(parse(arguments(pictures, whole, *ALL)))

    def pixels(part):
        images = [experiment.images[int(row)][0].resize((18, 18), Image.Resampling.BICUBIC) for row in part.rows]
        vectors = np.stack([np.asarray(image)[1:17, 1:17].transpose(2, 0, 1).ravel() / 255 for image in images])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    for record in results(whole)["records"]:
        if record["loss"] == "raw":
            train, test = experiment.train[record["data"]], experiment.test
            model = KNeighborsClassifier(1).fit(pixels(train), train.labels)
            assert record["accuracy"] == pytest.approx(model.score(pixels(test), test.labels))


def test_systems_of_a_seed_start_alike_and_seeds_do_not(whole):
    starts = {}
    for path in whole.glob("balanced-*.pt"):
        state = torch.load(path, weights_only=True)
        starts.setdefault(path.stem[-1], set()).add(state["accuracies"][0])
    untrained = [record for record in results(whole)["records"] if record["loss"] == "untrained" and record["data"] == "balanced"]
    assert starts == {str(record["seed"]): {record["accuracy"]} for record in untrained}
    assert untrained[0]["pooled"] != untrained[1]["pooled"]


def test_report_shows_every_system_and_no_gap(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert 'class="missing"' not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<article>") == 2 * len(MANY)
    for name in ("softmax, shuffled", "softmax + semi-hard", "softmax + triplet-center", "untrained", "raw"):
        assert page.count(f'<th scope="row">{name}</th>') == 2


def test_tables_show_mean_and_spread(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(arguments(pictures, tmp_path, "--system", "hard", "--data", "balanced", "--seeds", "2")) == 0
    shown = capsys.readouterr().out
    values = [100 * record["accuracy"] for record in results(tmp_path)["records"] if record["loss"] == "hard"]
    row = next(line for line in shown.splitlines() if line.strip().startswith("softmax + hard") and "±" in line)
    assert f"{np.mean(values):.1f} ±{np.std(values, ddof=1):.1f}" in row
    assert all(text in shown for text in ("untrained", "raw", "of which the second head", str(tmp_path / "report.html")))


@pytest.fixture
def no_report(monkeypatch):
    """For tests that are about something else: drawing takes longer than training here."""
    monkeypatch.setattr("benchmarks.two_head.__main__.write_page", lambda path, **contents: None)


@pytest.mark.usefixtures("no_report")
def test_interrupted_again_and_again_it_ends_with_the_same_numbers(whole, pictures, tmp_path, monkeypatch, capsys):
    statuses = []
    for status in attempts(main, arguments(pictures, tmp_path, *ALL, "--resume"), monkeypatch, steps=7):  # an epoch has 2 or 1
        statuses.append(status)
        if status != 0:
            assert "--resume" in capsys.readouterr().err
    assert set(statuses[:-1]) == {130}
    assert len(statuses) > 5
    assert numbers(tmp_path) == numbers(whole)
    for path in whole.glob("*.pt"):
        one, other = (torch.load(folder / path.name, weights_only=True) for folder in (whole, tmp_path))
        assert torch.equal(one["vectors"], other["vectors"])
        assert one["losses"] == other["losses"]


@pytest.mark.usefixtures("no_report")
def test_killed_it_goes_on(pictures, whole, tmp_path):
    argv = arguments(pictures, tmp_path, *ALL)
    kill(started("benchmarks.two_head", argv, (tmp_path / "balanced-center-seed0.pt").exists))
    assert 0 < len(numbers(tmp_path)) < len(numbers(whole))
    assert main([*argv, "--resume"]) == 0
    assert numbers(tmp_path) == numbers(whole)


@pytest.mark.usefixtures("no_report")
def test_what_is_finished_is_not_made_again(whole, pictures, monkeypatch):
    monkeypatch.setattr(Training, "train_epoch", None)
    monkeypatch.setattr(Experiment, "record", None)
    before = results(whole)
    assert main([*arguments(pictures, whole, *ALL), "--resume"]) == 0
    assert results(whole) == before


def test_results_are_never_overwritten(whole, pictures, capsys):
    before = (whole / "results.json").read_bytes()
    assert "--resume" in failure(main, capsys, arguments(pictures, whole, *ALL))
    assert "margin was 0.2 and is 0.5" in failure(main, capsys, arguments(pictures, whole, *ALL, "--resume", "--margin", "0.5"))
    assert (whole / "results.json").read_bytes() == before


@pytest.mark.usefixtures("no_report")
def test_validation_never_looks_at_test_images(pictures, tmp_path):
    test = Experiment(parse(arguments(pictures, tmp_path))).test
    experiment = Experiment(parse(arguments(pictures, tmp_path, "--validate")))
    seen = {int(row) for part in (*experiment.train.values(), experiment.test) for row in part.rows}
    assert not seen & set(test.rows.tolist())
    assert len(seen) == 20


@pytest.mark.usefixtures("no_report")
def test_the_top_of_a_pretrained_backbone_on_activations(pictures, tmp_path):
    argv = arguments(
        pictures, tmp_path, "--backbone", "efficientnet_lite0", "--image-size", "32", "--system", "semi_hard", "--max-steps", "2"
    )
    assert main([*argv, "--data", "balanced"]) == 0
    raw, untrained, trained = results(tmp_path)["records"]
    assert raw["hyper_parameters"]["features"] == "efficientnet_lite0"
    assert raw["pooled"] == untrained["pooled"] != trained["pooled"]
    assert trained["hyper_parameters"]["train"] == "top"
    assert trained["hyper_parameters"]["augmentation"] == {"count": 4}


def test_default_is_what_the_paper_compares():
    assert DEFAULT_SYSTEMS == ("softmax_shuffled", "softmax", "center", "hard", "semi_hard")
    options = parse([])
    assert (options.margin, options.embedding_dim, options.batch_classes, options.batch_samples) == (0.2, 256, 8, 4)
    assert {name: system.weight for name, system in SYSTEMS.items() if system.weight != 1} == {"center": 0.003}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--system semihard", "Did you mean 'semi_hard'?"),
        ("--system hard,hard", "each system once"),
        ("--data even", "balanced or long_tailed"),
        ("--ratio 0.5", "a number of at least 1"),
        ("--test-share 1", "a number above 0 and below 1"),
        ("--margin nan", "a number of at least 0"),
        ("--lambda 1", "unknown argument '--lambda'"),
        ("--classes 1", "at least 2"),
        ("--train top", "--train top is for efficientnet_lite0; of convnet all is trained"),
        ("--system softmax --weight 2", "--weight does nothing for softmax"),
        ("--dataset cub", "root"),
        ("--dataset features --root nowhere", "nowhere"),
        ("--image-size 5", "5 by 5 pixels"),
        ("--batch-samples 1", "at least 2"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in failure(main, capsys, [*argv.split(), *([] if "--classes" in argv else ["--classes", "3"])])
    assert not list(tmp_path.iterdir())


def test_classes_of_one_image_are_an_error(pictures, tmp_path, capsys):
    for label in range(2):
        (tmp_path / "data" / f"class{label}").mkdir(parents=True)
        (tmp_path / "data" / f"class{label}" / "0.png").write_bytes((pictures / f"class{label}" / "0.png").read_bytes())
    assert "no class has two images" in failure(main, capsys, arguments(tmp_path / "data", tmp_path / "run"))


@pytest.mark.usefixtures("no_report")
def test_broken_images_are_left_out_and_counted(pictures, tmp_path, capsys):
    for path in pictures.glob("*/*.png"):
        target = tmp_path / "data" / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[:100] if path.name == "7.png" else path.read_bytes())
    argv = arguments(tmp_path / "data", tmp_path / "run", "--system", "softmax", "--data", "balanced", "--max-steps", "1")
    assert "7.png" in failure(main, capsys, argv)
    argv[argv.index("--output") + 1] = str(tmp_path / "other")
    assert main([*argv, "--on-bad-image", "skip"]) == 0
    assert f"Left out, as nothing can decode them: {CLASSES} images." in capsys.readouterr().out
    assert results(tmp_path / "other")["records"][0]["split_sizes"]["broken_images"] == CLASSES


# -- data ---------------------------------------------------------------------

LABELS = npst.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 5))


@given(labels=LABELS, share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_each_class_is_parted_by_share(labels, share, seed):
    train, test = stratified(labels, share, seed)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(labels)))
    for label in np.unique(labels):
        n = int((labels == label).sum())
        held = int((labels[test] == label).sum())
        assert held == (0 if n == 1 else min(max(1, round(share * n)), n - 1))


@given(classes=st.integers(1, 12), size=st.integers(1, 30), ratio=st.floats(1, 50), seed=st.integers(0, 5))
def test_a_long_tail_falls_exponentially(classes, size, ratio, seed):
    labels = np.repeat(np.arange(classes), size)
    rows = long_tailed(labels, ratio, seed)
    assert len(np.unique(rows)) == len(rows)
    found = sorted(np.bincount(labels[rows], minlength=classes), reverse=True)
    assert found == [max(1, round(size / ratio ** (rank / max(1, classes - 1)))) for rank in range(classes)]


def test_splits_depend_on_the_seed_only():
    labels = np.repeat(np.arange(4), 10)
    assert all(np.array_equal(a, b) for a, b in zip(stratified(labels, 0.5), stratified(labels.copy(), 0.5), strict=True))
    assert not np.array_equal(stratified(labels, 0.5, 0)[0], stratified(labels, 0.5, 1)[0])
    assert not np.array_equal(long_tailed(labels, 5, 0), long_tailed(labels, 5, 1))


@given(n=st.integers(1, 40), size=st.integers(1, 12), epoch=st.integers(0, 3))
def test_shuffled_batches_hold_each_image_once(n, size, epoch):
    sampler = ShuffledBatches(n, size, seed=1)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert {len(batch) for batch in batches} == {min(size, n)}
    seen = [row for batch in batches for row in batch]
    assert len(set(seen)) == len(seen) <= n < len(seen) + min(size, n)
    assert batches == list(sampler)


def test_activations_are_of_the_middle_and_of_distorted_copies():
    images = torch.randint(0, 256, (2, 3, 10, 10), dtype=torch.uint8)
    found = views_of(lambda images: images[:, :1] * 2, images, 8, 3, PHOTOGRAPHS, torch.Generator().manual_seed(0))
    assert found.shape == (2, 3, 1, 8, 8)
    torch.testing.assert_close(found[:, 0], images[:, :1, 1:9, 1:9].float() / 255 * 2)
    assert all(not torch.equal(found[i, a], found[i, b]) for i in (0, 1) for a, b in ((0, 1), (1, 2)))


def test_a_view_of_each_image_is_drawn():
    inputs = torch.arange(200).view(50, 4)
    found = Views(4)(inputs, 0, torch.Generator().manual_seed(0))
    assert torch.equal(found // 4, torch.arange(50))
    assert set((found % 4).tolist()) == {0, 1, 2, 3}
    assert torch.equal(found, Views(4)(inputs, 0, torch.Generator().manual_seed(0)))


# -- numbers ------------------------------------------------------------------


@given(labels=LABELS.filter(lambda labels: len(np.unique(labels)) > 1), data=st.data())
def test_accuracies_are_those_of_scikit_learn(labels, data):
    predicted = data.draw(npst.arrays(np.int64, len(labels), elements=st.sampled_from(np.unique(labels).tolist())))
    rare = np.unique(labels)[:2]
    found = accuracies(predicted, labels, rare)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["accuracy_macro"] == pytest.approx(recall_score(labels, predicted, average="macro"))
    among = np.isin(labels, rare)
    assert found["accuracy_rare"] == pytest.approx(accuracy_score(labels[among], predicted[among]))
    assert accuracies(predicted, labels)["accuracy_rare"] is None


def test_rare_classes_are_the_third_with_the_fewest_images():
    assert rare_classes(np.array([5, 1, 9, 2, 7, 3, 8])).tolist() == [1, 3]
    assert rare_classes(np.array([5, 1])).tolist() == [1]


# -- networks and objectives ---------------------------------------------------


def batch() -> tuple[TwoHeadOutput, torch.Tensor, torch.Tensor]:
    """Five images of each of 4 classes, where no embedding is its own cluster."""
    generator = torch.Generator().manual_seed(0)
    logits, embeddings = torch.randn(20, 4, generator=generator), nn.functional.normalize(torch.randn(20, 5, generator=generator), dim=1)
    output = TwoHeadOutput(logits.requires_grad_(), embeddings.requires_grad_(), logits)
    return output, torch.arange(4).repeat_interleave(5), torch.arange(20)


def objective(name: str, **options: object) -> TwoHeadObjective:
    labels = np.arange(4).repeat(5)
    return TwoHeadObjective(name, labels, num_classes=4, embedding_dim=5, margin=0.2, **options)  # type: ignore[arg-type]


def triplets(embeddings: list[list[float]], labels: list[int], hard: bool) -> float:
    """The ranking loss of the paper, in a loop."""

    def d(i: int, j: int) -> float:
        return sum((a - b) ** 2 for a, b in zip(embeddings[i], embeddings[j], strict=True))

    values = []
    for i in range(len(labels)):
        positives = [d(i, j) for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        negatives = sorted(d(i, j) for j in range(len(labels)) if labels[j] != labels[i])
        for p in [max(positives)] if hard else positives:
            n = negatives[0] if hard else next((value for value in negatives if value > p), negatives[-1])
            values.append(max(0.0, p - n + 0.2))
    return sum(values) / len(values)


@pytest.mark.parametrize("name", ["hard", "semi_hard"])
@pytest.mark.parametrize("weight", [None, 0.0, 0.3])
def test_objective_is_softmax_and_lambda_times_the_triplet_loss(name, weight):
    output, labels, ids = batch()
    softmax = -sum(output.logits[i].log_softmax(0)[labels[i]].item() for i in range(20)) / 20
    ranking = triplets(output.embeddings.tolist(), labels.tolist(), name == "hard")
    assert ranking > 0
    found = objective(name, weight=weight)(output, labels, ids)
    assert found.item() == pytest.approx(softmax + (1.0 if weight is None else weight) * ranking, rel=1e-5)


def test_center_adds_up_half_squared_distances_and_moves_centres():
    output, labels, ids = batch()
    center = objective("center")
    plain = objective("softmax")(output, labels, ids)
    found = center(output, labels, ids)
    assert (found - plain).item() == pytest.approx(0.003 * output.embeddings.square().sum().item() / 2, rel=1e-3)
    center.remember(output, labels, ids)
    expected = torch.stack([0.5 * output.embeddings[labels == c].sum(0) / 6 for c in range(4)])  # from 0, alpha 0.5
    torch.testing.assert_close(center.loss.centers.embeddings, expected.detach())


def test_magnet_clusters_anew_and_remembers_losses():
    output, labels, ids = batch()
    magnet = objective("magnet")
    magnet.begin_epoch(lambda: output.embeddings.detach())
    assert magnet.index.filled.all()
    magnet(output, labels, ids).backward()
    assert output.embeddings.grad.abs().sum() > 0
    magnet.remember(output, labels, ids)
    assert not torch.equal(magnet.index.losses, torch.ones(20))


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradients_reach_what_they_should(name):
    output, labels, ids = batch()
    system = objective(name)
    system.begin_epoch(lambda: output.embeddings.detach())
    system(output, labels, ids).backward()
    assert output.logits.grad.isfinite().all() and output.logits.grad.any()
    if SYSTEMS[name].loss is None:
        assert output.embeddings.grad is None
    else:
        assert output.embeddings.grad.isfinite().all() and output.embeddings.grad.any()


def test_without_a_second_head_nothing_of_it_is_trained():
    torch.manual_seed(0)
    example = torch.rand(1, 3, 16, 16)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    one, both = (Network(backbone, 3, 5, example, keep_statistics=True, second=second) for second in (False, True))
    output = one.train()(torch.rand(2, 3, 16, 16))
    assert output.embeddings.shape == (2, 0)
    assert len(list(one.head.parameters())) == 2
    assert len(list(both.head.parameters())) == 4
    assert not backbone[1].training
    assert both.train()(torch.rand(2, 3, 16, 16)).embeddings.shape == (2, 5)


def test_frozen_part_and_top_are_the_whole_backbone():
    _, whole, pretrained = build("efficientnet_lite0", 3, "all")
    frozen, top, _ = build("efficientnet_lite0", 3, "top")
    assert pretrained
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(top.eval()(frozen(images)), whole.eval()(images), rtol=1e-4, atol=1e-4)
    assert frozen(images).shape[1:] == (112, 2, 2)


def test_models_of_timm_keep_their_map(monkeypatch):
    made = []

    def create_model(name, **options):
        made.append(options)
        return nn.Conv2d(3, 4, 3)

    scale = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    timm = SimpleNamespace(
        create_model=create_model,
        is_model=lambda name: True,
        data=SimpleNamespace(resolve_model_data_config=lambda net: scale),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    frozen, trained, pretrained = build("resnet18", 1, "all")
    assert made == [{"pretrained": True, "num_classes": 0, "global_pool": ""}]
    assert (len(frozen), pretrained) == (0, True)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(trained(images), trained[1](((images - 0.5) / 0.2).expand(-1, 3, -1, -1)))
