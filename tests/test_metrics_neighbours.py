"""Classification by neighbours against plain Python and scikit-learn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from metriczoo.metrics import knn_classify, neighbours, recall_at_k
from metriczoo.references import References


def gaussian(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d))


def votes(scored: list[tuple[float, int]], k: int, temperature: float, classes: int) -> list[float]:
    """Share of each class, averaged over every order of references that tie, in plain Python."""
    if not scored:
        return [0.0] * classes
    k = min(k, len(scored))
    last = sorted((s for s, _ in scored), reverse=True)[k - 1]
    sure, tied = [x for x in scored if x[0] > last], [x for x in scored if x[0] == last]
    choices = list(itertools.combinations(tied, k - len(sure)))
    best, total = max(s for s, _ in scored), [0.0] * classes
    for choice in choices:
        for s, label in [*sure, *choice]:
            total[label] += math.exp((s - best) / temperature) / len(choices)
    return [value / sum(total) for value in total]


@given(
    q=st.integers(1, 4),
    n=st.integers(1, 8),
    grid=st.integers(0, 3),
    k=st.integers(1, 10),
    temperature=st.sampled_from([0.07, 1.0, 50.0]),
    seed=st.integers(0, 10**6),
    by_id=st.booleans(),
)
def test_equals_plain_python(q: int, n: int, grid: int, k: int, temperature: float, seed: int, by_id: bool) -> None:
    rng = np.random.default_rng(seed)
    queries, references = (torch.from_numpy(rng.integers(-grid, grid + 1, (size, 2)).astype(np.float64)) for size in (q, n))
    labels = rng.integers(-1, 3, n)
    labels[rng.integers(n)] = 0
    ids = (rng.integers(-1, 4, q), rng.integers(-1, 4, n)) if by_id else (np.full(q, -1), np.full(n, -1))
    given_ids = {"query_ids": ids[0], "reference_ids": ids[1]} if by_id else {}
    predictions, shares = knn_classify(
        queries,
        references,
        labels,
        k=k,
        temperature=temperature,
        num_classes=3,
        similarity="inner_product",
        return_scores=True,
        memory_budget=int(rng.integers(1, 300)),
        **given_ids,
    )
    scores = (queries @ references.T).tolist()
    for i in range(q):
        columns = zip(scores[i], labels.tolist(), ids[1].tolist(), strict=True)
        scored = [(s, y) for s, y, number in columns if y >= 0 and not (ids[0][i] >= 0 and ids[0][i] == number)]
        want = votes(scored, k, temperature, 3)
        assert shares[i].tolist() == pytest.approx(want, abs=1e-12)
        assert want[predictions[i]] == pytest.approx(max(want), abs=1e-12) if scored else predictions[i] == -1


@pytest.mark.parametrize("k", [1, 5, 200])
def test_equals_scikit_learn_without_ties(k: int) -> None:
    references, labels, queries = gaussian(300, 6), torch.arange(300) % 4 * 10, gaussian(50, 6)
    model = KNeighborsClassifier(min(k, 300), weights=lambda distance: np.exp(-distance / 0.5)).fit(references, labels)
    predictions, shares = knn_classify(queries, references, labels, k=k, temperature=0.5, similarity="euclidean", return_scores=True)
    assert predictions.tolist() == model.predict(queries).tolist()
    assert shares.shape == (50, 31)
    np.testing.assert_allclose(shares[:, ::10], model.predict_proba(queries), atol=1e-5)
    assert int(shares.count_nonzero(1).max()) <= 4
    uniform = KNeighborsClassifier(k).fit(references, labels)
    counted = knn_classify(queries, references, labels, k=k, similarity="euclidean", weights="uniform", return_scores=True)[1]
    np.testing.assert_allclose(counted[:, ::10], uniform.predict_proba(queries), atol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
def test_candidates_from_tiles_vote_as_all_references_do(monkeypatch: pytest.MonkeyPatch, similarity: str) -> None:
    x, labels, ids = gaussian(900, 5).double(), torch.arange(900) % 7, torch.arange(900) // 2
    x[300:340] = x[0]  # more ties at the k-th place than there are candidates
    x[500:504] = x[1]
    labels[40:60] = -1
    options: dict[str, Any] = {"k": 6, "similarity": similarity, "return_scores": True, "query_ids": ids, "reference_ids": ids}
    want = knn_classify(x, x, labels, **options)
    searched = []

    class Noted(neighbours.Nearest):
        def __init__(self, pairs: Any, m: int, budget: int) -> None:
            searched.append(len(pairs.queries))
            super().__init__(pairs, m, budget)

    monkeypatch.setattr(neighbours, "_FEW", 50)
    monkeypatch.setattr(neighbours, "Nearest", Noted)
    result = knn_classify(x, x, labels, **options, memory_budget=50_000)
    assert sum(searched) == 900
    assert len(searched) > 2
    torch.testing.assert_close(result[1], want[1], atol=1e-12, rtol=0)
    assert torch.equal(result[0], want[0])


def test_votes_do_not_overflow_at_low_temperature() -> None:
    shares = knn_classify(
        torch.ones(1, 2),
        torch.ones(3, 2) * torch.tensor([[1e3], [1.0], [2.0]]),
        [0, 1, 1],
        temperature=1e-3,
        similarity="inner_product",
        return_scores=True,
    )[1]
    assert shares.tolist() == [[1.0, 0.0]]


def test_leave_one_out_by_id() -> None:
    x, labels, ids = gaussian(60, 3), torch.arange(60) % 3, torch.arange(60)
    assert bool((knn_classify(x, x, labels, k=1) == labels).all())
    found = knn_classify(x, x, labels, k=1, query_ids=ids, reference_ids=ids)
    assert float((found == labels).double().mean()) == pytest.approx(recall_at_k(x, labels))
    alone = knn_classify(x[:1], x[:1], [0], query_ids=[0], reference_ids=[0], return_scores=True)
    assert (alone[0].tolist(), alone[1].tolist()) == ([-1], [[0.0]])


def test_order_of_the_references_does_not_matter_even_with_ties() -> None:
    references, labels, queries = torch.eye(3).repeat(20, 1), torch.arange(60) % 7, gaussian(20, 3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    plain = knn_classify(queries, references, labels, k=13, return_scores=True)[1]
    torch.testing.assert_close(knn_classify(queries, references[order], labels[order], k=13, return_scores=True)[1], plain)


def test_classes_that_tie_go_to_the_smallest_label() -> None:
    assert knn_classify(torch.ones(3, 2), torch.ones(4, 2), [9, 5, 5, 9]).tolist() == [5, 5, 5]


def test_a_store_gives_its_labels_and_ids() -> None:
    x, labels = gaussian(40, 4), torch.arange(40) % 4
    store = References(x, labels, torch.arange(40))

    class Bank:
        def references(self) -> References:
            return store

    want = knn_classify(x, x, labels, k=5, query_ids=range(40), reference_ids=range(40))
    assert torch.equal(knn_classify(x, Bank(), k=5, query_ids=range(40)), want)
    assert torch.equal(knn_classify(x, store, k=5, query_ids=range(40), memory_budget=1), want)


def test_large_labels_need_no_large_table() -> None:
    assert knn_classify(torch.eye(2), torch.eye(2), [10**15, 10**15 + 1]).tolist() == [10**15, 10**15 + 1]


X, Y = torch.eye(4), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, "`k`", (X, X, Y), {"k": 0}),
        (ValueError, "`temperature`", (X, X, Y), {"temperature": 0}),
        (TypeError, "`temperature`", (X, X, Y), {"temperature": "hot"}),
        (ValueError, "'uniform'", (X, X, Y), {"weights": "uniformly"}),
        (ValueError, "`num_classes`.*at least 2", (X, X, Y), {"num_classes": 1}),
        (TypeError, "`references`", (X, None), {}),
        (TypeError, "`reference_labels`", (X, X), {}),
        (ValueError, "all are ignored", (X, X, [-1] * 4), {}),
        (ValueError, "dimension 4", (X, torch.eye(3), [0, 1, 1]), {}),
        (ValueError, "together", (X, X, Y), {"query_ids": Y}),
        (ValueError, "`queries`.*finite", (X / 0, X, Y), {}),
        (ValueError, "finite scores", (X * 1e30, X * 1e30, Y), {"similarity": "inner_product"}),
    ],
)
def test_bad_input(error: type[Exception], message: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        knn_classify(*arguments, **options)
