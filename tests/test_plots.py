"""Plots show what they say: the content of figures against plain computations."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metriczoo import losses, plots
from metriczoo.plots import histogram, retrieval
from metriczoo.stores import MemoryBank

pytest.importorskip("matplotlib", reason="plots need the extra `plots`")


def grid(low, high, resolution):
    s = np.linspace(low, high, resolution)
    return np.meshgrid(s, s)  # s_n to the right, s_p upwards


def surfaces(figure):
    return [axes.images[0].get_array() for axes in figure.axes[:3]]


# loss_landscape


@given(margin=st.floats(0, 1), scale=st.floats(0.5, 40))
def test_landscape_of_unified_is_its_formula(margin, scale):
    s_n, s_p = grid(-1, 1, 5)
    x = scale * (s_n - s_p + margin)
    slope = scale / (1 + np.exp(-x))
    value, by_n, by_p = surfaces(plots.loss_landscape(losses.UnifiedLoss(margin, scale), resolution=5))
    np.testing.assert_allclose(value, np.logaddexp(0, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_n, slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_p, -slope, rtol=1e-4, atol=1e-5)


def test_landscape_of_two_terms_adds_them_and_runs_over_distances():
    d_n, d_p = (-s for s in grid(-2, 0, 5))
    figure = plots.loss_landscape(losses.ContrastiveLoss(positive_margin=0.25, negative_margin=1.75), resolution=5)
    value, by_n, by_p = surfaces(figure)
    np.testing.assert_allclose(value, (np.maximum(d_p - 0.25, 0) ** 2 + np.maximum(1.75 - d_n, 0) ** 2) / 2, atol=1e-6)
    np.testing.assert_allclose(by_n, np.maximum(1.75 - d_n, 0), atol=1e-6)
    np.testing.assert_allclose(by_p, -np.maximum(d_p - 0.25, 0), atol=1e-6)
    for axes in figure.axes[:3]:
        assert (*axes.get_xlim(), *axes.get_ylim()) == (-2, 0, -2, 0)
        assert axes.images[0].get_extent() == [-2.25, 0.25, -2.25, 0.25]  # pixels are centred on their scores


def test_landscape_takes_limits_and_labels_its_panels():
    figure = plots.loss_landscape(losses.TripletMarginLoss(), limits=(0.25, 0.75), resolution=3)
    assert figure.axes[1].get_xlim() == (0.25, 0.75)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["$L$", r"$\partial L / \partial s_n$", r"$\partial L / \partial s_p$"]
    assert figure.axes[0].get_xlabel() == "$s_n$, negative"
    assert figure.axes[0].get_ylabel() == "$s_p$, positive"


def test_both_gradients_share_a_scale_about_zero():
    figure = plots.loss_landscape(losses.CircleLoss(), resolution=9)
    _, by_n, by_p = surfaces(figure)
    peak = max(abs(by_n).max(), abs(by_p).max())
    assert [axes.images[0].get_clim() for axes in figure.axes[1:3]] == [(-peak, peak)] * 2


def test_arrows_point_down_the_slope_and_are_absent_where_there_is_none():
    figure = plots.loss_landscape(losses.TripletMarginLoss(margin=0.1))
    arrows = figure.axes[0].collections[-1]
    assert 0 < len(arrows.U) < 81
    np.testing.assert_allclose(arrows.U, -arrows.V)  # towards a lower s_n and a higher s_p
    assert (arrows.U < 0).all()
    s_n, s_p = arrows.get_offsets().T
    assert (s_n - s_p + 0.1 > 0).all()


def test_landscape_of_a_loss_without_slope():
    flat = losses.from_function(lambda s_n, s_p: s_n.count() * 0.0)
    value, by_n, by_p = surfaces(plots.loss_landscape(flat, resolution=4))
    assert not value.any()
    assert not by_n.any()
    assert not by_p.any()


def test_coupled_anchors_do_not_meet():
    class Centred(losses.Loss):
        separable = False

        def per_anchor(self, s_n, s_p):
            return s_n.value[:, 0] - s_n.value.mean() + s_p.value.mean()

    value, by_n, by_p = surfaces(plots.loss_landscape(Centred(), resolution=3))
    np.testing.assert_allclose(value, grid(-1, 1, 3)[1])
    assert not by_n.any()
    assert (by_p == 1).all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_landscape_needs_no_gradient_mode_and_leaves_parameters_alone(context):
    margin = torch.nn.Parameter(torch.tensor(0.5))
    loss = losses.from_function(lambda s_n, s_p: (s_n.max() - s_p.min() + margin).relu(), parameters=[margin])
    with context():
        _, by_n, _ = surfaces(plots.loss_landscape(loss, resolution=2))
    np.testing.assert_array_equal(by_n, [[1, 1], [0, 1]])
    assert margin.grad is None


def test_points_without_a_finite_value_are_blank():
    value, by_n, _ = surfaces(plots.loss_landscape(losses.from_function(lambda s_n, s_p: (s_n.sum() - s_p.sum()).log()), resolution=3))
    s_n, s_p = grid(-1, 1, 3)
    np.testing.assert_array_equal(np.ma.getmaskarray(value), s_n <= s_p)
    assert np.isfinite(by_n.compressed()).all()


def test_a_loss_that_must_be_called_first_says_so():
    nce = losses.NCELoss(MemoryBank(8, 4), num_noise=4)
    with pytest.raises(ValueError, match="on its first call"):
        plots.loss_landscape(nce)
    nce(torch.eye(4), torch.arange(4))
    value, by_n, by_p = surfaces(plots.loss_landscape(nce, resolution=5))
    assert (by_n > 0).all()
    assert (by_p < 0).all()
    assert value.argmin() == 4 * 5  # top left


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": torch.relu}, TypeError, "from_function"),
        ({"limits": (1, 1)}, ValueError, "low < high"),
        ({"limits": (0, float("nan"))}, ValueError, "finite"),
        ({"limits": 1.0}, ValueError, "pair"),
        ({"resolution": 1}, ValueError, "at least 2"),
    ],
)
def test_landscape_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.loss_landscape(**{"loss": losses.TripletMarginLoss(), **arguments})


# similarity_histogram


def outlines(axes):
    return {patch.get_label(): patch.get_data() for patch in axes.patches}


def shares(data):
    return data.values * np.diff(data.edges)


@given(labels=st.lists(st.integers(-1, 3), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_histograms_hold_every_pair_once(labels, seed):
    points = np.random.default_rng(seed).standard_normal((len(labels), 3))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    naive = {"positive pairs": [], "negative pairs": []}
    for i, j in itertools.combinations(range(len(labels)), 2):
        if min(labels[i], labels[j]) >= 0:
            naive["positive pairs" if labels[i] == labels[j] else "negative pairs"].append(float(unit[i] @ unit[j]))
    if not any(naive.values()):
        with pytest.raises(ValueError, match="two points"):
            plots.similarity_histogram(points, labels)
        return
    (axes,) = plots.similarity_histogram(points, labels, bins=7).axes
    assert set(outlines(axes)) == {kind for kind, scores in naive.items() if scores}
    everything = np.concatenate(list(naive.values()))
    for kind, data in outlines(axes).items():
        if np.ptp(everything) > 1e-5:
            np.testing.assert_allclose(data.edges[[0, -1]], [everything.min(), everything.max()])
        scores = np.array(naive[kind])
        inner = np.abs(scores[:, None] - data.edges[1:-1]).min(1) > 1e-9  # one on an edge may fall to either side
        expected = np.histogram(scores[inner].clip(data.edges[0], data.edges[-1]), data.edges)[0]
        counts = np.rint(shares(data) * len(scores))
        assert counts.sum() == len(scores)
        assert (counts >= expected).all()
        assert (counts - expected).sum() == (~inner).sum()


def test_drawn_pairs_are_pairs_and_equally_likely():
    labels = torch.tensor([2, 0, -1, 2, 0, 2, 1])
    generator = torch.Generator().manual_seed(0)
    kinds = histogram._pairs(labels, 99, generator)
    every = [{tuple(sorted(pair)) for pair in zip(*(side.tolist() for side in kind), strict=True)} for kind in kinds]
    assert every[0] == {(0, 3), (0, 5), (3, 5), (1, 4)}
    assert every[1] == {(0, 1), (0, 4), (0, 6), (1, 3), (1, 5), (1, 6), (3, 4), (3, 6), (4, 5), (4, 6), (5, 6)}
    many = labels.repeat(40)
    (first, second), (one, other) = histogram._pairs(many, 5000, generator)
    assert len(first) == len(second) == len(one) == len(other) == 5000
    assert (many[first] == many[second]).all()
    assert (first != second).all()
    assert (many[one] != many[other]).all()
    pairs = {0: 80 * 79 / 2, 1: 40 * 39 / 2, 2: 120 * 119 / 2}
    for label, number in pairs.items():
        assert float((many[first] == label).float().mean()) == pytest.approx(number / sum(pairs.values()), abs=0.03)
    for label, number in {(0, 1): 80 * 40, (0, 2): 80 * 120, (1, 2): 40 * 120}.items():
        share = ((torch.minimum(many[one], many[other]) == label[0]) & (torch.maximum(many[one], many[other]) == label[1])).float().mean()
        assert float(share) == pytest.approx(number / 17600, abs=0.03)


def test_before_and_after_stand_side_by_side_on_one_axis():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    before = torch.randn(60, 5, generator=generator)
    after = torch.eye(3)[labels] + 0.05 * torch.randn(60, 3, generator=generator)
    figure = plots.similarity_histogram(after, labels, before=before)
    left, right = figure.axes
    overlap = int(left.get_title().removeprefix("before, overlap ").removesuffix(" %"))
    assert overlap > 70
    assert right.get_title() == "after, overlap 0 %"
    assert left.get_xlim() == right.get_xlim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["positive pairs", "negative pairs"]
    alone = outlines(plots.similarity_histogram(after, labels).axes[0])
    for kind, data in outlines(right).items():
        np.testing.assert_array_equal(data.values, alone[kind].values)


def test_histogram_of_distances_and_of_collapsed_points():
    points = torch.tensor([[0.0], [1.0], [3.0]])
    data = outlines(plots.similarity_histogram(points, [0, 0, 1], similarity="euclidean", bins=2).axes[0])
    np.testing.assert_allclose(shares(data["positive pairs"]), [0, 1])
    np.testing.assert_allclose(data["negative pairs"].edges, [-3, -2, -1])
    (axes,) = plots.similarity_histogram(torch.ones(5, 2), [0, 0, 1, 1, 1]).axes
    assert axes.get_title() == "overlap 100 %"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": [0, 0]}, ValueError, "3 entries"),
        ({"before": torch.ones(2, 2)}, ValueError, "`before` to have 3 rows"),
        ({"before": torch.tensor([[float("nan")]] * 3)}, ValueError, "`before` to be finite"),
        ({"similarity": "cosin"}, ValueError, "Did you mean 'cosine'"),
        ({"labels": [0, -1, -1]}, ValueError, "at least two points .* got 1"),
        ({"labels": [0.0, 1.0, 1.0]}, TypeError, "integers"),
        ({"bins": 0}, ValueError, "`bins`"),
        ({"max_pairs": 0}, ValueError, "`max_pairs`"),
    ],
)
def test_histogram_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.similarity_histogram(**{"embeddings": torch.rand(3, 2), "labels": [0, 0, 1], **arguments})


# retrieval_examples


@given(labels=st.lists(st.integers(-1, 4), min_size=1, max_size=30), seed=st.integers(0, 99), k=st.integers(1, 5))
def test_examples_are_right_and_wrong_queries_with_their_nearest(labels, seed, k):
    points = np.random.default_rng(seed).standard_normal((len(labels), 4))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    kept = [i for i, label in enumerate(labels) if label >= 0]
    nearest = {i: sorted((j for j in kept if j != i), key=lambda j: -unit[i] @ unit[j])[:k] for i in kept}
    queries = [i for i in kept if labels.count(labels[i]) > 1]
    right = {i for i in queries if labels[nearest[i][0]] == labels[i]}
    found, neighbours = plots.retrieval_examples(points, labels, num_right=2, num_wrong=3, num_neighbours=k)
    flags = [i in right for i in found.tolist()]
    assert flags == [True] * min(2, len(right)) + [False] * min(3, len(queries) - len(right))
    assert len(set(found.tolist())) == len(found)
    assert neighbours.tolist() == [nearest[i] for i in found.tolist()]
    assert neighbours.shape == (len(found), min(k, max(len(kept) - 1, 0)))


@given(st.lists(st.tuples(st.integers(-1, 3), st.booleans()), min_size=2, max_size=20), st.integers(1, 4), st.integers(0, 3))
def test_examples_of_queries_apart_from_their_gallery(kinds, k, seed):
    labels, asks = (list(part) for part in zip(*kinds, strict=True))
    points = np.random.default_rng(seed).standard_normal((len(labels), 4))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    gallery = [i for i, label in enumerate(labels) if label >= 0 and not asks[i]]
    possible = [i for i, label in enumerate(labels) if label >= 0 and asks[i] and any(labels[j] == label for j in gallery)]
    found, neighbours = plots.retrieval_examples(points, labels, num_right=20, num_wrong=20, num_neighbours=k, is_query=asks)
    assert sorted(found.tolist()) == possible
    for query, others in zip(found.tolist(), neighbours.tolist(), strict=True):
        assert others == sorted(gallery, key=lambda j: -unit[query] @ unit[j])[:k]


def test_which_points_ask_is_a_flag_for_each():
    for flags in ([True], [0, 1, 1]):
        with pytest.raises(ValueError, match="`is_query` to hold 3 booleans"):
            plots.retrieval_examples(torch.eye(3), [0, 0, 1], is_query=flags)


def test_examples_are_of_different_classes_while_there_are_any():
    labels = torch.tensor([0] * 50 + [1] * 2 + [2] * 2)
    queries, _ = plots.retrieval_examples(torch.eye(3)[labels], labels, num_right=4)
    assert sorted(labels[queries][:3].tolist()) == [0, 1, 2]
    again, _ = plots.retrieval_examples(torch.eye(3)[labels], labels, num_right=4)
    assert queries.tolist() == again.tolist()
    other, _ = plots.retrieval_examples(torch.eye(3)[labels], labels, num_right=4, seed=1)
    assert queries.tolist() != other.tolist()


def test_the_search_for_examples_ends(monkeypatch):
    searched = []
    of = retrieval._Neighbours.of
    monkeypatch.setattr(retrieval, "_MAX_SCORES", 600 * 1000)
    monkeypatch.setattr(retrieval._Neighbours, "of", lambda self, rows: searched.append(len(rows)) or of(self, rows))
    labels = torch.arange(1000) % 2
    plots.retrieval_examples(torch.eye(2)[labels], labels, num_wrong=1)  # there is none
    assert searched == [256, 256, 88]


# retrieval_grid


def frames(figure):
    return [frame.get_linestyle() for frame in figure.axes[0].patches]


def test_grid_shows_the_images_in_order_and_frames_them():
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    figure = plots.retrieval_grid(images, [0, 0, 1, 1, 0], [0, 2], [[1, 3, 4], [3, 0, 1]])
    (axes,) = figure.axes
    shown = [int(image.get_array()[0, 0]) // 4 for image in axes.images]
    assert shown == [0, 1, 3, 4, 2, 3, 0, 1]
    assert frames(figure) == ["solid", "dashed", "solid", "solid", "dashed", "dashed"]
    assert len({frame.get_edgecolor() for frame in axes.patches}) == 2
    tops = [image.get_extent()[3] for image in axes.images]
    assert len(set(tops)) == 2
    assert tops[0] < tops[4]  # the axis points down
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_grid_takes_images_of_every_kind_by_call():
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib")
    palette = image.new("RGB", (4, 2), (255, 0, 0)).convert("P")
    kinds = [
        palette,
        image.new("L", (3, 3), 7),
        torch.full((3, 2, 4), 2.0),
        torch.zeros(1, 5, 5),
        np.zeros((2, 2, 4), dtype=np.uint8),
        np.full((2, 2), 0.5, dtype=np.float32),
    ]
    figure = plots.retrieval_grid(lambda i: kinds[i], [0] * 6, [0], [[1, 2, 3, 4, 5]])
    arrays = [im.get_array() for im in figure.axes[0].images]
    assert [a.shape for a in arrays] == [(2, 4, 3), (3, 3), (2, 4, 3), (5, 5), (2, 2, 4), (2, 2)]
    assert arrays[0][0, 0].tolist() == [255, 0, 0]
    assert arrays[2].max() == 1  # what is above white is white
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(2)  # proportions are kept


def test_grid_writes_names_as_they_are():
    names = ["a$b$_c<d>", "a name of more than sixteen letters"]
    figure = plots.retrieval_grid(torch.rand(2, 3, 3), [0, 1], [0], [[1]], class_names=names)
    assert [text.get_text() for text in figure.axes[0].texts] == [names[0], "a name of more …"]
    figure.draw_without_rendering()  # would fail on what looks like a formula


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": [], "neighbours": np.zeros((0, 2), int)}, ValueError, "q = 0 >= 1"),
        ({"neighbours": [[1], [2]]}, ValueError, "q = 1"),
        ({"neighbours": [1]}, ValueError, r"\[q, k\]"),
        ({"neighbours": [[0.5]]}, TypeError, "integers"),
        ({"neighbours": [[3]]}, ValueError, r"`neighbours` to hold positions in \[0, 2\], but got 3"),
        ({"queries": [-1]}, ValueError, "`queries` to hold positions"),
        ({"class_names": ["one"]}, ValueError, "label 1, but got 1 names"),
        ({"images": ["a", "b", "c"]}, TypeError, "Pillow"),
        ({"images": np.zeros((3, 2, 2, 2))}, ValueError, "channels"),
    ],
)
def test_grid_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.retrieval_grid(**{"images": torch.rand(3, 2, 2), "labels": [0, 1, 1], "queries": [0], "neighbours": [[1]], **arguments})


# training_curves


def test_curves_are_means_with_bands():
    figure = plots.training_curves({"a": [[1.0, 2.0, 6.0], [3.0, 4.0]], "b": [0.0, float("inf"), 5.0]}, baselines={"raw": 2.5})
    (axes,) = figure.axes
    a, b, raw = axes.lines
    np.testing.assert_array_equal(a.get_xydata(), [[0, 2], [1, 3], [2, 6]])
    np.testing.assert_array_equal(b.get_ydata(), [0, np.nan, 5])
    assert list(raw.get_ydata()) == [2.5, 2.5]
    (band,) = axes.collections  # one run has none
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(0, 1), (1, 2), (2, 6), (1, 4), (0, 3)}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "raw"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "recall@1")


@given(run=st.lists(st.sampled_from([0.0, 1.0, 2.5, float("nan")]), min_size=1, max_size=12), smooth=st.integers(1, 15))
def test_smoothing_is_a_centred_mean_of_what_is_known(run, smooth):
    half_left, half_right = smooth // 2, (smooth - 1) // 2
    expected = []
    for i, value in enumerate(run):
        window = [v for v in run[max(0, i - half_left) : i + half_right + 1] if v == v]
        expected.append(np.mean(window) if value == value else np.nan)
    (line,) = plots.training_curves({"a": run}, smooth=smooth).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-12)


def test_separate_curves_have_panels_of_their_own():
    figure = plots.training_curves({f"$loss_{n}": [n, 2 * n] for n in range(1, 5)}, xlabel="step", ylabel="loss", separate=True)
    assert [axes.get_title() for axes in figure.axes] == [f"$loss_{n}" for n in range(1, 5)]
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[n, 2 * n] for n in range(1, 5)]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "step", "step", "step"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "", "", "loss"]
    figure.draw_without_rendering()


def test_twelve_curves_look_different():
    lines = plots.training_curves({str(n): [0.0, 1.0] for n in range(12)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12


@pytest.mark.parametrize(
    ("curves", "error", "message"),
    [
        ({}, ValueError, "at least one name"),
        ({"a": []}, ValueError, "at least one run"),
        ({"a": [[], []]}, ValueError, "at least one run"),
        ({"a": ["x"]}, TypeError, "numbers"),
        ({"a": 3}, TypeError, "numbers"),
        ({"a": [[[1.0]]]}, ValueError, "at least one run"),
    ],
)
def test_curves_refuse(curves, error, message):
    with pytest.raises(error, match=message):
        plots.training_curves(curves)


# embedding_map


def test_map_is_the_principal_plane():
    points = np.random.default_rng(0).standard_normal((40, 6)) * [5, 3, 1, 1, 0.1, 0.1] + 7
    labels = np.repeat([0, 1, 2, -1], 10)
    axes = plots.embedding_map(points, labels, num_classes=2, class_names=["x", "$y", "z"]).axes[0]
    others, x, y = axes.collections
    assert [c.get_label() for c in (others, x, y)] == ["other classes", "x", "$y"]
    centred = points[:30] - points[:30].mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:2].T
    shown = np.concatenate([x.get_offsets(), y.get_offsets(), others.get_offsets()])
    np.testing.assert_allclose(np.abs(shown), np.abs(expected), atol=1e-8)
    share = singular**2 / (singular**2).sum()
    assert axes.get_xlabel() == f"component 1 ({100 * share[0]:.0f} % of variance)"
    assert axes.get_ylabel() == f"component 2 ({100 * share[1]:.0f} %)"


def test_map_colours_the_largest_classes_and_draws_a_sample():
    labels = np.repeat([5, 3, 9, 7], [10, 40, 30, 20])
    points = np.random.default_rng(0).standard_normal((100, 3))
    figure = plots.embedding_map(points, labels, num_classes=2)
    assert [c.get_label() for c in figure.axes[0].collections] == ["other classes", "3", "9"]
    sampled = plots.embedding_map(points, labels, num_classes=4, max_points=50)
    assert sum(len(c.get_offsets()) for c in sampled.axes[0].collections) == 50


def test_map_of_collapsed_points():
    axes = plots.embedding_map(torch.ones(4, 3), [0, 0, 1, 1]).axes[0]
    assert not np.concatenate([c.get_offsets() for c in axes.collections]).any()
    assert axes.get_ylabel() == "component 2 (0 %)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"embeddings": torch.rand(3, 1)}, ValueError, "two dimensions"),
        ({"labels": [0, -1, -1]}, ValueError, "two labelled points"),
        ({"class_names": ["a"]}, ValueError, "label 1, but got 1 names"),
        ({"num_classes": 0}, ValueError, "`num_classes`"),
        ({"embeddings": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "floating"),
    ],
)
def test_map_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.embedding_map(**{"embeddings": torch.rand(3, 2), "labels": [0, 1, 1], **arguments})


# All of them


def test_importing_loads_no_matplotlib_and_plotting_no_pyplot():
    code = """
import sys
from metriczoo import losses, plots
assert "matplotlib" not in sys.modules and "sklearn" not in sys.modules
plots.loss_landscape(losses.TripletMarginLoss(), resolution=3).draw_without_rendering()
plots.training_curves({"a": [1.0, 2.0]}).draw_without_rendering()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install metriczoo\[plots\]"):
        plots.training_curves({"a": [1.0]})
