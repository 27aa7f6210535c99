"""Retrieval metrics against plain Python, scikit-learn and faiss, and the properties that any ranking metric has."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from metrics_oracle import definition, orders, retrieval
from torch import Tensor

import metriczoo.metrics as zoo
from metriczoo.metrics import _blocks, _nearest, _ranking, retrieval_metrics
from metriczoo.metrics._blocks import Scores
from metriczoo.metrics._nearest import Nearest
from metriczoo.metrics._pairs import Pairs
from metriczoo.references import References
from metriczoo.similarity import Cosine, InnerProduct, Mahalanobis, NegativeEuclidean, NegativeSquaredEuclidean, Poincare, SignalToNoise

PLACES = (1, 2, 3, 7, 50)
NAMES = ["r_precision", "map@r", "map", "mrr", *(f"{name}@{k}" for name in ("recall", "precision", "ndcg") for k in PLACES)]
SHALLOW = ["r_precision", "map@r", "mrr", *(f"{name}@{k}" for name in ("recall", "precision", "ndcg") for k in (1, 2))]
TIES = ["expected", "index", "optimistic", "pessimistic"]
COUNTS = ("num_queries", "num_skipped", "num_ignored", "num_references")


def values(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name not in COUNTS}


def gaussian(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d))


@st.composite
def cases(draw: st.DrawFn, *, gallery: bool | None = None) -> dict[str, Any]:
    """Small sets on a coarse grid, full of ties, with ignored labels and repeated ids."""
    number = st.integers(0, 2**32 - 1)
    rng = np.random.default_rng(draw(number))
    q, n, d, classes = draw(st.integers(1, 5)), draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    grid = draw(st.integers(0, 3))

    def points(size: int) -> Tensor:
        return torch.from_numpy(rng.integers(-grid, grid + 1, (size, d)).astype(np.float32))

    def labels(size: int) -> Tensor:
        some = torch.from_numpy(rng.integers(-1, classes, size))
        some[rng.integers(size)] = 0
        return some

    if gallery if gallery is not None else draw(st.booleans()):
        ids = torch.from_numpy(rng.integers(-1, 6, q)), torch.from_numpy(rng.integers(-1, 6, n))
        given = {"query_ids": ids[0], "reference_ids": ids[1]} if draw(st.booleans()) else {}
        return {"queries": points(q), "query_labels": labels(q), "references": points(n), "reference_labels": labels(n), **given}
    return {"queries": points(n), "query_labels": labels(n)}


def expected(case: dict[str, Any], name: str, ties: str, scores: Tensor | None = None) -> list[float | None]:
    queries, labels = case["queries"], case["query_labels"]
    references, reference_labels = case.get("references", queries), case.get("reference_labels", labels)
    ids = [-1] * len(queries), [-1] * len(references)
    if "references" not in case:
        ids = list(range(len(queries))), list(range(len(queries)))
    if "query_ids" in case:
        ids = case["query_ids"].tolist(), case["reference_ids"].tolist()
    scores = queries @ references.T if scores is None else scores
    return retrieval(scores.tolist(), labels.tolist(), reference_labels.tolist(), name, query_ids=ids[0], reference_ids=ids[1], ties=ties)


def mean(numbers: list[float | None]) -> float:
    real = [x for x in numbers if x is not None]
    return math.fsum(real) / len(real) if real else math.nan


# ---- against plain Python


def test_the_oracle_agrees_with_all_permutations() -> None:
    scored = [(2.0, False), (1.0, True), (1.0, False), (1.0, True), (1.0, False), (0.0, True)]
    permutations = list(itertools.permutations(range(6)))
    kept = [p for p in permutations if [scored[i][0] for i in p] == sorted((s for s, _ in scored), reverse=True)]
    for name in NAMES:
        by_permutation = [definition(name)([scored[i][1] for i in p]) for p in kept]
        by_choice = [definition(name)(row) for row in orders(scored, "expected")]
        assert math.fsum(by_permutation) / len(by_permutation) == pytest.approx(math.fsum(by_choice) / len(by_choice), abs=1e-14)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("ties", TIES)
@given(case=cases(), shallow=st.booleans())
def test_equals_plain_python(case: dict[str, Any], shallow: bool, ties: str, backend: str) -> None:
    names = SHALLOW if shallow else NAMES
    options: dict[str, Any] = {"similarity": "inner_product", "metrics": names, "ties": ties, "backend": backend}
    result = retrieval_metrics(**case, **options, per_query=True, memory_budget=100)
    assert set(values(result)) == set(names)
    for name in names:
        want = expected(case, name, ties)
        assert result[name] == pytest.approx(mean(want), abs=1e-12, nan_ok=True), name
        assert result.per_query is not None
        rows = torch.tensor([math.nan if x is None else x for x in want]).double()
        torch.testing.assert_close(result.per_query[name], rows, equal_nan=True)
    labels = case["query_labels"]
    assert result["num_ignored"] == int((labels < 0).sum())
    assert result["num_queries"] == sum(x is not None for x in expected(case, "mrr", ties))
    assert result["num_queries"] + result["num_skipped"] + result["num_ignored"] == len(labels)
    assert result["num_references"] == int((case.get("reference_labels", labels) >= 0).sum())


@pytest.mark.parametrize(
    "similarity", ["cosine", "euclidean", NegativeSquaredEuclidean(), Mahalanobis(3, matrix=torch.diag(torch.tensor([4.0, 1.0, 0.5])))]
)
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_every_similarity_equals_plain_python(similarity: Any, backend: str) -> None:
    x, labels = gaussian(60, 3), torch.arange(60) % 7
    case = {"queries": x[:20], "query_labels": labels[:20], "references": x[20:], "reference_labels": labels[20:]}
    exact = (
        {"cosine": Cosine(), "euclidean": NegativeEuclidean()}.get(similarity, similarity) if isinstance(similarity, str) else similarity
    )
    with torch.no_grad():
        scores = exact(x[:20].double(), x[20:].double())
    result = retrieval_metrics(**case, similarity=similarity, metrics=NAMES, backend=backend)
    for name in NAMES:
        assert result[name] == pytest.approx(mean(expected(case, name, "index", scores)), abs=1e-12), name


# ---- nearest references from tiles


@contextlib.contextmanager
def tiles(few: int = 1, group: int = 4, waiting: int = 5) -> Iterator[list[int]]:
    """Has few references searched in tiles, in small groups and merged often; gives how many were kept, search by search."""
    kept = []

    class Noted(Nearest):
        def __init__(self, pairs: Pairs, m: int, budget: int) -> None:
            kept.append(m)
            super().__init__(pairs, m, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranking, "_FEW", few)
        patch.setattr(_ranking, "Nearest", Noted)
        patch.setattr(_nearest, "_GROUP", group)
        patch.setattr(_nearest, "_WAITING", waiting)
        yield kept


@pytest.mark.parametrize("ties", TIES)
@given(case=cases(), budget=st.integers(300, 3000))
def test_tiles_equal_plain_python(case: dict[str, Any], budget: int, ties: str) -> None:
    with tiles():
        result = retrieval_metrics(**case, similarity="inner_product", metrics=SHALLOW, ties=ties, memory_budget=budget)
    for name in SHALLOW:
        assert result[name] == pytest.approx(mean(expected(case, name, ties)), abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gallery", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "inner_product", "euclidean", Mahalanobis(6, matrix=torch.eye(6) + 0.2)])
def test_tiles_equal_whole_rows(similarity: Any, gallery: bool, dtype: torch.dtype) -> None:
    """Classes from one point to a hundred, points of several classes, points that are left out."""
    x = gaussian(600, 6).to(dtype)
    x[100:140] = x[:40]
    x[140:160] = 0.5
    labels = torch.cat([torch.zeros(100), torch.arange(500) % 90]).long()
    labels[500:] = torch.arange(1000, 1100)
    labels[[3, 150, 400]] = -1
    similarity = similarity.to(dtype) if isinstance(similarity, torch.nn.Module) else similarity
    case: dict[str, Any] = {"queries": x, "query_labels": labels}
    if gallery:
        ids = torch.arange(600) // 3
        case = {"queries": x[:250], "query_labels": labels[:250], "references": x, "reference_labels": labels}
        case |= {"query_ids": ids[:250], "reference_ids": ids}
    for ties in ("expected", "index"):
        options: dict[str, Any] = {"similarity": similarity, "metrics": ["recall@1", "recall@7", "r_precision", "map@r"], "ties": ties}
        want = retrieval_metrics(**case, **options)
        with tiles(few=20) as kept:
            assert retrieval_metrics(**case, **options, memory_budget=200_000) == pytest.approx(want, abs=1e-12)
        assert kept, "no tile was searched"
        assert kept[0] < 600 / 20 < 99  # the queries of the large class saw whole rows


@pytest.mark.parametrize("order", ["rising", "falling", "random"])
@given(n=st.integers(1, 70), q=st.integers(1, 40), m=st.integers(1, 70), budget=st.integers(1, 20_000), euclidean=st.booleans())
def test_the_nearest_are_found_in_any_order(n: int, q: int, m: int, budget: int, euclidean: bool, order: str) -> None:
    m = min(m, n)
    r = torch.stack([torch.arange(n), torch.ones(n)], 1).float()  # whole numbers: every product is exact
    r = {"rising": r, "falling": r.flip(0), "random": r[torch.randperm(n, generator=torch.Generator().manual_seed(n))]}[order]
    similarity = NegativeSquaredEuclidean() if euclidean else InnerProduct()
    for a in (r, r[torch.arange(q) % n]):
        pairs = Pairs(Scores(similarity, a, r))
        rows = torch.arange(len(a))
        with tiles():
            found = pairs.scores(rows, Nearest(pairs, m, budget).search(rows, m))
        every = pairs.scores(rows, torch.arange(n).expand(len(a), n))
        assert torch.equal(found.sort(1).values, every.topk(m, dim=1).values.flip(1))


def test_a_set_against_itself_takes_half_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = []
    product = torch.mm

    def watched(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        cells.append(out.numel())
        return product(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    x = gaussian(3000, 8)
    for queries, most in ((x, 0.56), (x.clone(), 1.0)):
        cells.clear()
        Nearest(Pairs(Scores(Cosine(), queries, x)), 3, 2**20)
        assert 0.5 < sum(cells) / 3000**2 <= most


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_queries_left_open_by_candidates_keep_to_the_budget(backend: str) -> None:
    largest = 0

    class Noted(InnerProduct):
        is_product = True

        def score(self, a: Tensor, r: Tensor) -> Tensor:
            nonlocal largest
            largest = max(largest, a.shape[0] * r.shape[0])
            return super().score(a, r)

    x = torch.ones(400, 3) + 1e-9 * gaussian(400, 3)
    x[:, 0] += 1e-7 * torch.arange(400)  # apart, but by no more than products round
    with tiles(few=20):
        options: dict[str, Any] = {"metrics": ("recall@1", "map@r"), "backend": backend, "memory_budget": 50_000}
        retrieval_metrics(x, torch.arange(400) // 4, similarity=Noted(), **options)
    assert 0 < largest * 4 <= 50_000


def test_candidates_may_be_off_by_what_is_allowed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scores that are no further apart than the slack may be found in the wrong order: nothing may change."""

    class Blurred:
        def __init__(self, pairs: Pairs, m: int, budget: int) -> None:
            self.pairs = pairs

        def search(self, rows: Tensor, m: int) -> Tensor:
            n = len(self.pairs.references)
            scores = self.pairs.scores(rows, torch.arange(n).expand(len(rows), n))
            return (scores + 2.9 * torch.rand(n, generator=torch.Generator().manual_seed(m))).topk(m, dim=1).indices

    x = torch.randint(-4, 5, (200, 4), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(200) % 60
    options: dict[str, Any] = {"similarity": "inner_product", "metrics": SHALLOW}
    want = retrieval_metrics(x, labels, **options)
    monkeypatch.setattr(_ranking, "_FEW", 1)
    monkeypatch.setattr(_ranking, "Nearest", Blurred)
    monkeypatch.setattr(Pairs, "slack", lambda self, dtype: torch.full((len(self.queries), 1), 2.9))
    assert retrieval_metrics(x, labels, **options) == pytest.approx(want, abs=1e-12)


def test_prepared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(50, 7).repeat(2, 1)
    for similarity in (Cosine(), InnerProduct(), NegativeEuclidean()):
        whole = _blocks.prepare(similarity, x)
        with monkeypatch.context() as patch:
            patch.setattr(_blocks, "_PART", 23 * 7)  # four parts of 23 points, and one of 8
            parts = _blocks.prepare(similarity, x)
        assert torch.equal(parts, whole)
        assert torch.equal(parts[:50], parts[50:])


# ---- against other libraries


def test_equals_sklearn_without_ties() -> None:
    x, labels = gaussian(80, 5), torch.arange(80) % 6
    result = retrieval_metrics(x, labels, metrics=("map", "ndcg@5", "ndcg@1000"), similarity="inner_product")
    precision, short, full = [], [], []
    for i in range(80):
        others = torch.arange(80) != i
        relevant, scores = (labels[others] == labels[i]).numpy(), (x[others].double() @ x[i].double()).numpy()
        precision.append(sklearn.metrics.average_precision_score(relevant, scores))
        short.append(sklearn.metrics.ndcg_score([relevant], [scores], k=5))
        full.append(sklearn.metrics.ndcg_score([relevant], [scores]))
    assert result["map"] == pytest.approx(np.mean(precision), abs=1e-12)
    assert result["ndcg@5"] == pytest.approx(np.mean(short), abs=1e-12)
    assert result["ndcg@1000"] == zoo.ndcg(x, labels, similarity="inner_product") == pytest.approx(np.mean(full), abs=1e-12)


@given(case=cases(gallery=True))
def test_expected_ndcg_equals_sklearn_with_ties(case: dict[str, Any]) -> None:
    for name in ("query_ids", "reference_ids"):
        case.pop(name, None)
    case["reference_labels"] = case["reference_labels"].clamp(min=0)
    if len(case["references"]) < 2:
        return  # sklearn refuses lists of one
    result = retrieval_metrics(**case, similarity="inner_product", metrics="ndcg@3", per_query=True)
    assert result.per_query is not None
    scores = case["queries"] @ case["references"].T
    for i, value in enumerate(result.per_query["ndcg@3"].tolist()):
        relevant = (case["reference_labels"] == case["query_labels"][i]).numpy()
        if not math.isnan(value):
            assert value == pytest.approx(sklearn.metrics.ndcg_score([relevant], [scores[i].numpy()], k=3), abs=1e-9)


def test_recall_equals_a_faiss_search() -> None:
    faiss = pytest.importorskip("faiss")
    x, labels = gaussian(900, 16), torch.arange(900) % 90
    unit = torch.nn.functional.normalize(x)
    index = faiss.IndexFlatIP(16)
    index.add(unit.numpy())
    found = torch.from_numpy(index.search(unit.numpy(), 9)[1])
    others = torch.stack([row[row != i][:8] for i, row in enumerate(found)])
    for backend in ("torch", "faiss"):
        result = retrieval_metrics(x, labels, metrics="recall@k", k=range(1, 9), backend=backend)
        for k in range(1, 9):
            hits = (labels[others[:, :k]] == labels.unsqueeze(1)).any(1)
            assert result[f"recall@{k}"] == pytest.approx(float(hits.double().mean()), abs=1e-12)


def test_known_values_on_frozen_features_of_real_images(real_data: Path) -> None:
    path = real_data / "features" / "cub100_crops_efflite0.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    with np.load(path) as stored:
        x, labels = stored["X"], stored["y"]
    unseen = labels > 100
    result = retrieval_metrics(x[unseen], labels[unseen], metrics=("recall@1", "map@r"))
    assert result["recall@1"] == pytest.approx(0.868, abs=6e-4)
    assert result["map@r"] == pytest.approx(0.395, abs=6e-4)


# ---- ties


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@given(m=st.integers(2, 150), d=st.integers(2, 70), q=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_equal_points_tie_exactly_wherever_they_stand(m: int, d: int, q: int, seed: int, backend: str) -> None:
    """A matrix product alone fails this: it rounds differently at the edges of its blocks."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(m, d, generator=generator)
    place = torch.cat([torch.arange(m), torch.arange(m)])[torch.randperm(2 * m, generator=generator)]
    twin = torch.zeros(2 * m, dtype=torch.int64)
    twin[place.argsort(stable=True)] = torch.tensor([0, 1]).repeat(m)
    case = {"queries": base[:q], "query_labels": torch.zeros(min(m, q)), "references": base[place], "reference_labels": twin}
    case["query_labels"] = case["query_labels"].long()
    recall = {ties: zoo.recall_at_k(**case, ties=ties, backend=backend) for ties in TIES}
    assert recall["expected"] == pytest.approx(0.5, abs=1e-12)
    assert (recall["index"], recall["optimistic"], recall["pessimistic"]) == (1.0, 1.0, 0.0)


class Uneven(Cosine):
    """Rounds differently from column to column, as a matrix product may."""

    is_product = False

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return super().score(a, r) + 1e-6 * torch.rand(r.shape[0], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("multiplier", [_blocks._MULTIPLIER, 0])  # with 0 the keys of rows collide
def test_points_are_equal_by_value(monkeypatch: pytest.MonkeyPatch, multiplier: int) -> None:
    monkeypatch.setattr(_blocks, "_MULTIPLIER", multiplier)
    x = torch.tensor([[1.0, 0.0], [1.0, -0.0], [2.0, 0.0], [3.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    rows, place = _blocks.distinct(x)
    assert place is not None
    assert torch.equal(rows[place], x)
    assert len(rows) == 4
    # Points that become equal when they are prepared tie too.
    result = retrieval_metrics(x[:1], [0], x, [0, 1, 1, 1, 1, 1], similarity=Uneven(), metrics=("mrr", "recall@1"))
    assert result["recall@1"] == pytest.approx(1 / 3)
    assert _blocks.distinct(x[[0, 2]])[1] is None


@pytest.mark.parametrize("planted", [False, True])
def test_ties_survive_uneven_rounding(monkeypatch: pytest.MonkeyPatch, planted: bool) -> None:
    if planted:  # each reference scored by itself: the ties are lost, and this test sees it
        monkeypatch.setattr(_blocks, "distinct", lambda x: (x, None))
    x = gaussian(40, 8)
    twins = torch.cat([torch.zeros(40), torch.ones(40)]).long()
    options: dict[str, Any] = {"similarity": Uneven(), "metrics": "recall@1", "per_query": True}
    result = retrieval_metrics(x, [0] * 40, x.repeat(2, 1), twins, **options)
    assert bool((result.per_query["recall@1"] == 0.5).all()) is not planted


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("similarity", ["cosine", "inner_product", "euclidean"])
def test_equal_embeddings_score_what_chance_scores(similarity: str, backend: str) -> None:
    labels = torch.tensor([0] * 3 + [1] * 7 + [2] * 90)
    result = retrieval_metrics(torch.full((100, 5), 0.3), labels, k=(1, 50, 99), similarity=similarity, backend=backend, per_query=True)
    positives = torch.tensor([2.0] * 3 + [6.0] * 7 + [89.0] * 90).double()
    assert result.per_query is not None
    for name in ("recall@1", "precision@1", "precision@50", "r_precision"):
        torch.testing.assert_close(result.per_query[name], positives / 99)
    assert result["recall@99"] == 1
    assert result["recall@1"] < 0.85
    assert zoo.recall_at_k(torch.ones(100, 5), labels, ties="optimistic") == 1
    assert zoo.recall_at_k(torch.ones(100, 5), labels, ties="pessimistic", k=90) == pytest.approx(0.9)


def test_expectations_of_large_blocks_equal_a_simulation_and_closed_forms() -> None:
    n, r = 5000, 40
    labels = torch.tensor([1] * r + [0] * (n - r))
    result = retrieval_metrics(torch.ones(1, 2), [1], torch.ones(n, 2), labels, k=(1, 100))
    assert result["recall@100"] == pytest.approx(1 - math.comb(n - r, 100) / math.comb(n, 100), abs=1e-9)
    exact = sum(math.comb(n - i, r - 1) / math.comb(n, r) / i for i in range(1, n - r + 2))
    assert result["mrr"] == pytest.approx(exact, abs=1e-10)
    rng = np.random.default_rng(0)
    runs = [sum((j + 1) / p for j, p in enumerate(np.sort(rng.choice(n, r, replace=False)) + 1)) / r for _ in range(2000)]
    assert result["map"] == pytest.approx(np.mean(runs), abs=5 * np.std(runs) / 2000**0.5)


def test_ties_by_index_where_the_tied_query_has_fewer_positives_than_others() -> None:
    x = torch.tensor([[0.0], [5.0], [5.0], [9.0], [10.0], [11.0], [12.0]])
    labels = [0, 0, 1, 2, 2, 2, 2]
    for ties, first in (("index", 1.0), ("optimistic", 1.0), ("pessimistic", 0.0)):
        result = retrieval_metrics(x, labels, similarity="euclidean", ties=ties, metrics=("map", "recall@1"), per_query=True)
        assert float(result.per_query["recall@1"][0]) == first


@given(case=cases())
def test_tie_rules_are_ordered(case: dict[str, Any]) -> None:
    results = {ties: values(retrieval_metrics(**case, ties=ties, similarity="inner_product", metrics=NAMES)) for ties in TIES}
    for name in NAMES:
        worst, best = results["pessimistic"][name], results["optimistic"][name]
        for ties in ("index", "expected"):
            assert math.isnan(best) or worst - 1e-12 <= results[ties][name] <= best + 1e-12


# ---- properties of ranking metrics


class Mapped:
    """Inner products through a function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def prepare(self, x: Tensor) -> Tensor:
        return x.double()

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return self.function(a @ r.T)


@pytest.mark.parametrize("ties", TIES)
@given(case=cases())
def test_an_increasing_map_of_the_scores_changes_nothing(case: dict[str, Any], ties: str) -> None:
    plain = retrieval_metrics(**case, similarity=Mapped(lambda s: s), ties=ties)
    for increasing in (lambda s: s - 1000, lambda s: s**3 + 7 * s, lambda s: -torch.exp(-s / 5), lambda s: 1e-300 * s):
        changed = retrieval_metrics(**case, similarity=Mapped(increasing), ties=ties)
        assert changed == pytest.approx(plain, abs=0, rel=0, nan_ok=True)


@given(case=cases(), seed=st.integers(0, 1000))
def test_order_and_names_of_classes_do_not_matter(case: dict[str, Any], seed: int) -> None:
    plain = retrieval_metrics(**case, similarity="inner_product")
    generator = torch.Generator().manual_seed(seed)
    q = torch.randperm(len(case["queries"]), generator=generator)
    changed = {name: value[q] for name, value in case.items() if name.startswith("quer")}
    if "references" in case:
        r = torch.randperm(len(case["references"]), generator=generator)
        changed |= {name: value[r] for name, value in case.items() if name.startswith("ref")}
    names = torch.tensor([2**40, 16777216, 5, 16777217, -7])  # -1 stays negative
    for key in ("query_labels", "reference_labels"):
        if key in changed:
            changed[key] = names[changed[key]]
    assert retrieval_metrics(**changed, similarity="inner_product") == pytest.approx(plain, abs=1e-12, nan_ok=True)


@given(case=cases(), budget=st.sampled_from([1, 64, 300, 10**6]), backend=st.sampled_from(["torch", "faiss"]))
def test_chunks_do_not_matter(case: dict[str, Any], budget: int, backend: str) -> None:
    options: dict[str, Any] = {"similarity": "inner_product", "metrics": SHALLOW, "backend": backend}
    assert retrieval_metrics(**case, **options, memory_budget=budget) == pytest.approx(
        retrieval_metrics(**case, **options), abs=0, rel=0, nan_ok=True
    )


@given(case=cases())
def test_bounds_and_relations(case: dict[str, Any]) -> None:
    result = retrieval_metrics(**case, similarity="inner_product", k=(1, 2, 3, 5))
    if not result["num_queries"]:
        assert all(math.isnan(value) for value in values(result).values())
        return
    assert all(0 <= value <= 1 + 1e-12 for value in values(result).values())
    assert result["map@r"] <= result["r_precision"] + 1e-12
    assert result["map@r"] <= result["map"] + 1e-12
    assert result["precision@1"] == pytest.approx(result["recall@1"], abs=1e-12)
    assert result["ndcg@1"] == pytest.approx(result["recall@1"], abs=1e-12)
    assert result["recall@1"] <= result["mrr"] + 1e-12
    recalls = [result[f"recall@{k}"] for k in (1, 2, 3, 5)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(recalls))


def test_a_perfect_gallery_scores_exactly_one() -> None:
    x = torch.eye(5).repeat_interleave(4, 0)
    labels = torch.arange(5).repeat_interleave(4)
    result = retrieval_metrics(x, labels, k=(1, 3))
    assert all(value == 1.0 for value in values(result).values())


# ---- who is compared with whom


def test_a_query_is_removed_by_id_and_never_as_the_first_neighbour() -> None:
    # Each point has a twin of another class: removing "the first neighbour" would sometimes remove the twin and keep the query.
    x = gaussian(6, 4).repeat(2, 1)
    labels = torch.tensor([0] * 6 + [1] * 6)
    result = retrieval_metrics(x, labels, metrics="recall@1", per_query=True)
    assert result.per_query is not None
    assert result.per_query["recall@1"].tolist() == [0.0] * 12


def test_without_ids_a_gallery_keeps_every_reference_even_the_query_itself() -> None:
    x, labels = gaussian(6, 4), [0, 0, 1, 1, 2, 2]
    assert zoo.recall_at_k(x, labels, x, labels) == 1
    ids = torch.arange(6)
    assert zoo.recall_at_k(x, labels, x, labels, query_ids=ids, reference_ids=ids) == zoo.recall_at_k(x, labels)
    assert zoo.recall_at_k(x, labels, x, labels, query_ids=ids - 9, reference_ids=ids - 9) == 1


def test_views_of_one_image_share_an_id_and_are_not_compared() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.9, 0.5]])
    labels = [0, 0, 1, 0]
    assert retrieval_metrics(x, labels, metrics="precision@1", per_query=True).per_query["precision@1"][0] == 1
    apart = retrieval_metrics(x, labels, query_ids=[4, 4, 5, 6], metrics=("mrr", "map"), per_query=True)
    assert apart["num_queries"] == 3
    assert apart.per_query["mrr"][:2].tolist() == [1.0, 1.0]
    assert math.isnan(apart.per_query["mrr"][2])


def test_queries_without_a_positive() -> None:
    x, labels = torch.eye(4) + 0.1 * gaussian(4, 4), [0, 0, 1, 2]
    skip, zero = (retrieval_metrics(x, labels, no_positive=rule, metrics="recall@3") for rule in ("skip", "zero"))
    assert (skip["recall@3"], skip["num_queries"], skip["num_skipped"]) == (1.0, 2, 2)
    assert (zero["recall@3"], zero["num_queries"], zero["num_skipped"]) == (0.5, 4, 0)
    with pytest.raises(ValueError, match="2 of 4 have none"):
        retrieval_metrics(x, labels, no_positive="error")
    nobody = retrieval_metrics(x, range(4))
    assert nobody["num_queries"] == 0
    assert all(math.isnan(value) for value in values(nobody).values())
    assert zoo.mrr(x, range(4), no_positive="zero") == 0


def test_macro_average_weighs_classes_equally() -> None:
    x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [5.0], [9.0]])
    labels = [0, 0, 0, 0, 1, 1]
    options: dict[str, Any] = {"similarity": "euclidean", "metrics": "precision@1"}
    result = retrieval_metrics(x, labels, **options, per_query=True)
    rows = result.per_query["precision@1"]
    assert result["precision@1"] == pytest.approx(float(rows.mean()))
    macro = retrieval_metrics(x, labels, **options, average="macro")["precision@1"]
    assert macro == pytest.approx(float(rows[:4].mean() + rows[4:].mean()) / 2)


def test_large_labels_stay_apart() -> None:
    result = retrieval_metrics(torch.eye(3)[[0, 0, 1, 1]], [16777216, 16777217, 16777216, 16777217], metrics="precision@1")
    assert result["precision@1"] == 0


def test_references_that_carry_their_labels() -> None:
    x, labels = gaussian(30, 4), torch.arange(30) % 3
    store = References(x[10:], labels[10:], torch.arange(10, 30))

    class Bank:
        def references(self) -> References:
            return store

    want = retrieval_metrics(x[:10], labels[:10], x[10:], labels[10:])
    assert retrieval_metrics(x[:10], labels[:10], store) == retrieval_metrics(x[:10], labels[:10], Bank()) == want
    alone = retrieval_metrics(x, labels, store, query_ids=torch.arange(30), metrics="recall@1", per_query=True)
    whole = retrieval_metrics(
        x, labels, x[10:], labels[10:], query_ids=range(30), reference_ids=range(10, 30), metrics="recall@1", per_query=True
    )
    assert torch.equal(alone.per_query["recall@1"], whole.per_query["recall@1"])
    with pytest.raises(ValueError, match="carry their own"):
        retrieval_metrics(x, labels, store, labels)


def test_faiss_scores_in_float32_but_ranks_in_the_precision_of_the_embeddings() -> None:
    x, labels = gaussian(300, 6).double(), torch.arange(300) % 30
    x[::3] = x[1::3] * (1 + 1e-12 * torch.arange(100).unsqueeze(1))  # apart in float64 only
    options: dict[str, Any] = {"similarity": "inner_product", "metrics": SHALLOW}
    want = retrieval_metrics(x, labels, **options)
    for scale in (1.0, 1e-30, 1e-60):
        assert retrieval_metrics(x * scale, labels, **options, backend="faiss") == pytest.approx(want, abs=1e-12)
    with pytest.raises(ValueError, match="fit in float32"):
        retrieval_metrics(x * 1e30, labels, **options, backend="faiss")


class Warped(NegativeSquaredEuclidean):
    """A distance by its parent's name only: the farther, the nearer."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -super().score(a, r)


class Shifted(NegativeEuclidean):
    """Another map of the points, and the distance of its parent."""

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(x * torch.tensor([3.0, 1.0]))


@pytest.mark.parametrize("similarity", [Warped(), SignalToNoise(), Poincare()])
def test_faiss_refuses_a_subclass_of_a_distance_that_scores_otherwise(similarity: NegativeSquaredEuclidean) -> None:
    x, labels = gaussian(20, 2), torch.arange(20) % 4
    with pytest.raises(ValueError, match="faiss needs"):
        retrieval_metrics(x, labels, similarity=similarity, backend="faiss")
    with pytest.raises(ValueError, match="faiss needs"):
        zoo.clustering_metrics(x, labels, similarity=similarity)


def test_faiss_takes_a_subclass_that_prepares_otherwise() -> None:
    x, labels = gaussian(60, 2), torch.arange(60) % 6
    want = retrieval_metrics(x, labels, similarity=Shifted(), metrics=SHALLOW)
    assert retrieval_metrics(x, labels, similarity=Shifted(), metrics=SHALLOW, backend="faiss") == pytest.approx(want, abs=1e-12)
    assert want != retrieval_metrics(x, labels, similarity=NegativeEuclidean(), metrics=SHALLOW)


# ---- single metrics, inputs, and what the result says


def test_single_metrics_equal_the_joint_pass() -> None:
    x, labels = gaussian(50, 4), torch.arange(50) % 5
    result = retrieval_metrics(x, labels, k=3)
    single = [zoo.recall_at_k(x, labels, k=3), zoo.precision_at_k(x, labels, k=3), zoo.r_precision(x, labels), zoo.map_at_r(x, labels)]
    single += [zoo.mean_average_precision(x, labels), zoo.mrr(x, labels), zoo.ndcg(x, labels, k=3)]
    assert single == list(values(result).values())


def test_kinds_of_input() -> None:
    x, labels = gaussian(40, 6), torch.arange(40) % 4
    want = retrieval_metrics(x, labels)
    frozen = x.numpy().copy()
    frozen.setflags(write=False)
    reverse = torch.from_numpy(x.numpy()[::-1].copy()).numpy()[::-1]
    for same in (x.clone().requires_grad_(), frozen, reverse, x.numpy().astype(">f4"), np.asfortranarray(x.numpy())):
        for kind in (labels.tolist(), labels.numpy().astype(np.uint8), labels.int(), labels.numpy().astype(np.int32)):
            assert retrieval_metrics(same, kind) == want
    half = x.half()
    assert retrieval_metrics(half, labels) == retrieval_metrics(half.float(), labels) == retrieval_metrics(half.numpy(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(x, labels) == want
    assert retrieval_metrics(x.double(), labels) == pytest.approx(want, abs=1e-12)
    before = x.clone()
    retrieval_metrics(x, labels, ties="index")
    retrieval_metrics(x, labels, similarity="inner_product", backend="faiss")
    assert torch.equal(x, before)


def test_bool_labels() -> None:
    assert zoo.recall_at_k(torch.eye(4)[[0, 0, 1, 1]], [True, True, False, False]) == 1


def test_metrics_by_name_and_number() -> None:
    x, labels = gaussian(20, 3), torch.arange(20) % 4
    result = retrieval_metrics(x, labels, metrics=("ndcg@10", "recall@k", "mrr"), k=(2, 5))
    assert list(values(result)) == ["ndcg@10", "recall@2", "recall@5", "mrr"]
    assert "hit rate" in str(result)
    assert "hit rate" not in str(retrieval_metrics(x, labels, metrics="mrr"))


def test_several_threads_give_the_same() -> None:
    x, labels = gaussian(700, 4), torch.arange(700) % 20
    want = retrieval_metrics(x, labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for metrics in (NAMES[:2], NAMES):
            again = retrieval_metrics(x, labels, metrics=metrics)
            assert {name: again[name] for name in metrics if name in want} == {name: want[name] for name in metrics if name in want}
    finally:
        torch.set_num_threads(threads)


# ---- memory


class Watched(Mapped):
    """Remembers the largest block of scores that was asked for."""

    def __init__(self) -> None:
        super().__init__(lambda s: s)
        self.largest = 0

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        self.largest = max(self.largest, a.shape[0] * r.shape[0])
        return super().score(a, r)


@pytest.mark.parametrize("ties", TIES)
def test_blocks_of_scores_keep_to_the_budget(ties: str) -> None:
    similarity = Watched()
    x = torch.randint(-2, 3, (500, 2), generator=torch.Generator().manual_seed(0)).double()
    retrieval_metrics(x, torch.arange(500) % 50, similarity=similarity, ties=ties, memory_budget=40_000)
    assert 0 < similarity.largest * 8 <= 40_000


@pytest.mark.parametrize("metrics", ["map", "map@r"])
def test_memory_does_not_grow_with_queries_times_references(metrics: str) -> None:
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        pytest.skip("needs /proc")

    def read(field: str) -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) / 1024

    x, labels = gaussian(16_000, 16), torch.arange(16_000) // 8
    retrieval_metrics(x[:2000], labels[:2000], metrics=metrics)
    try:
        clear.write_text("5")
    except OSError:
        pytest.skip("may not reset the peak")
    start = read("VmRSS")
    retrieval_metrics(x, labels, metrics=metrics)
    assert read("VmHWM") - start < 100  # MiB; the matrix of scores alone has 977


# ---- bad input

X, Y = torch.eye(4), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (TypeError, "torch.Tensor", ([[1.0]], [0]), {}),
        (TypeError, "floating-point", (torch.ones(4, 2).long(), Y), {}),
        (TypeError, "floating-point", (np.ones((4, 2), dtype=int), Y), {}),
        (ValueError, r"\[n, d\]", (torch.ones(4), Y), {}),
        (ValueError, "at least one point", (torch.ones(0, 3), []), {}),
        (ValueError, "`query_labels`.*4 entries", (X, [0, 1]), {}),
        (TypeError, "`query_labels`.*integers", (X, [0.0, 0.0, 1.0, 1.0]), {}),
        (TypeError, "`query_labels`.*integers", (X, torch.tensor(Y).float()), {}),
        (TypeError, "`query_labels`.*None", (X, None), {}),
        (ValueError, "`queries`.*rows \\[2\\]", (torch.eye(4).index_fill(0, torch.tensor([2]), math.nan), Y), {}),
        (ValueError, "`references`.*finite", (X, Y, X / 0, Y), {}),
        (ValueError, "all are ignored", (X, [-1] * 4), {}),
        (ValueError, "`reference_labels`.*all are ignored", (X, Y, X, [-1] * 4), {}),
        (ValueError, "dimension 4", (X, Y, torch.eye(3), [0, 0, 1]), {}),
        (ValueError, "`references` with", (X, Y), {"reference_ids": Y}),
        (TypeError, "`reference_labels`", (X, Y, X), {}),
        (ValueError, "together", (X, Y, X, Y), {"query_ids": Y}),
        (ValueError, "`query_ids`.*4 entries", (X, Y), {"query_ids": [1]}),
        (ValueError, "`k`.*at least 1", (X, Y), {"k": 0}),
        (TypeError, "`k`.*whole", (X, Y), {"k": 1.5}),
        (ValueError, "at least one", (X, Y), {"k": ()}),
        (ValueError, "at least one", (X, Y), {"metrics": ()}),
        (ValueError, "'recall@k'", (X, Y), {"metrics": "recal@k"}),
        (ValueError, "'ndcg@k'", (X, Y), {"metrics": ("ndcg@0",)}),
        (ValueError, "'optimistic'", (X, Y), {"ties": "optimistc"}),
        (ValueError, "'skip'", (X, Y), {"no_positive": "skp"}),
        (ValueError, "'macro'", (X, Y), {"average": "makro"}),
        (ValueError, "'faiss'", (X, Y), {"backend": "fais"}),
        (ValueError, "'cosine'", (X, Y), {"similarity": "cosin"}),
        (TypeError, "`similarity`", (X, Y), {"similarity": Cosine}),
        (ValueError, "`memory_budget`", (X, Y), {"memory_budget": 0}),
        (ValueError, "finite scores", (torch.full((4, 2), 1e30), Y), {"similarity": "inner_product"}),
        (ValueError, "finite scores", (X, Y), {"similarity": Mapped(lambda s: s / 0)}),
        (ValueError, "faiss needs", (X, Y), {"similarity": Mapped(lambda s: s), "backend": "faiss"}),
    ],
)
def test_bad_input(error: type[Exception], message: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        retrieval_metrics(*arguments, **options)
