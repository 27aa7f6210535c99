"""Relations against loops over pairs, and with losses, miners, references and stores."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import References, losses, miners
from metriczoo.relations import Hierarchy, Jaccard, Lookup, SharedLabel
from metriczoo.stores import EmbeddingQueue, MemoryBank, Proxies

D = 4
RELATIONS = [SharedLabel(), SharedLabel(2), Jaccard(), Jaccard(0.6, 0.2), Hierarchy(), Hierarchy(1, 0), Hierarchy(-2, -3), Hierarchy(0)]


def multi_hot(rows: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.sampled_from([0, 0, 1, 1, 1, 3, -1]), min_size=4, max_size=4), min_size=rows, max_size=rows)


def levels(rows: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.sampled_from([0, 0, 1, 2, -1]), min_size=3, max_size=3), min_size=rows, max_size=rows)


def pairs(relation: Any, x: list[list[int]], y: list[list[int]]) -> tuple[list[list[bool]], list[list[bool]]]:
    positive, negative = relation(torch.tensor(x), torch.tensor(y))
    assert positive.dtype == negative.dtype == torch.bool
    assert not (positive & negative).any()
    return positive.tolist(), negative.tolist()


def tags(row: list[int]) -> set[int] | None:
    return None if min(row) < 0 else {c for c, entry in enumerate(row) if entry > 0}


@given(multi_hot(3), multi_hot(4), st.integers(1, 3))
def test_shared_labels(x: list[list[int]], y: list[list[int]], count: int) -> None:
    positive, negative = pairs(SharedLabel(count), x, y)
    for i, a in enumerate(map(tags, x)):
        for j, b in enumerate(map(tags, y)):
            known = a is not None and b is not None
            assert positive[i][j] == (known and len(a & b) >= count)
            assert negative[i][j] == (known and len(a & b) < count)


@given(multi_hot(3), multi_hot(4), st.fractions(Fraction(1, 10), 1, max_denominator=10), st.fractions(0, 1, max_denominator=10))
def test_jaccard(x: list[list[int]], y: list[list[int]], high: Fraction, low: Fraction) -> None:
    """In fractions: an overlap of exactly the threshold is in."""
    band = low < high
    positive, negative = pairs(Jaccard(float(high), float(low) if band else None), x, y)
    for i, a in enumerate(map(tags, x)):
        for j, b in enumerate(map(tags, y)):
            known = a is not None and b is not None
            index = Fraction(len(a & b), max(1, len(a | b))) if known else Fraction(0)
            assert positive[i][j] == (known and index >= high)
            assert negative[i][j] == (known and (index <= low if band else index < high))


def test_every_small_quotient_equals_itself_as_a_threshold() -> None:
    for n in range(1, 41):
        y = (torch.arange(n) < torch.arange(n + 1).unsqueeze(1)).long()[1:]  # 1, 2, ..., n of n labels
        for k in range(1, n + 1):
            positive, _ = Jaccard(k / n)(torch.ones(1, n), y)
            assert positive.tolist() == [[j >= k for j in range(1, n + 1)]]


@given(levels(3), levels(4), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_hierarchy(x: list[list[int]], y: list[list[int]], level: int, other: int, from_the_end: bool) -> None:
    shallow = min(level, other)
    shift = 3 if from_the_end else 0
    positive, negative = pairs(Hierarchy(level - shift, shallow - shift), x, y)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            assert positive[i][j] == all(a[k] == b[k] >= 0 for k in range(level + 1))
            assert negative[i][j] == any(a[k] != b[k] and min(a[k], b[k]) >= 0 for k in range(shallow + 1))


@given(levels(4))
def test_default_negatives_of_a_hierarchy_are_the_rest_where_all_is_known(x: list[list[int]]) -> None:
    known = [[max(entry, 0) for entry in row] for row in x]
    positive, negative = Hierarchy(1)(torch.tensor(known), torch.tensor(known))
    assert torch.equal(negative, ~positive)


@pytest.mark.parametrize("relation", RELATIONS, ids=str)
def test_symmetric_and_by_blocks(relation: Any) -> None:
    labels = torch.randint(0, 2, (11, 4), generator=torch.Generator().manual_seed(0))
    labels[0, 1] = -1
    positive, negative = relation(labels, labels)
    assert torch.equal(positive, positive.T)
    assert torch.equal(negative, negative.T)
    assert positive.any()
    assert negative.any()
    for part, whole in zip(relation(labels[2:5], labels[4:]), (positive, negative), strict=True):
        assert torch.equal(part, whole[2:5, 4:])
    for empty in (relation(labels[:0], labels), relation(labels, labels[:0])):
        assert not any(mask.numel() for mask in empty)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_any_dtype_of_multi_hot_labels(dtype: torch.dtype) -> None:
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    for relation in (SharedLabel(), Jaccard(0.5)):
        for got, expected in zip(relation(labels.to(dtype), labels.to(dtype)), relation(labels, labels), strict=True):
            assert torch.equal(got, expected)


def test_counts_are_exact_under_autocast() -> None:
    """In bfloat16 300 would be 300 of 301 as of 300."""
    labels = torch.ones(2, 301)
    labels[1, 0] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        positive, _ = Jaccard(1.0)(labels, labels)
    assert torch.equal(positive, torch.eye(2, dtype=torch.bool))


@pytest.mark.parametrize("relation", [*RELATIONS, Lookup(torch.eye(5), SharedLabel())], ids=lambda r: str(r)[:30])
def test_copies(relation: Any) -> None:
    labels = torch.arange(5) if isinstance(relation, Lookup) else torch.randint(0, 3, (5, 4))
    for other in (pickle.loads(pickle.dumps(relation)), copy.deepcopy(relation)):
        for got, expected in zip(other(labels, labels), relation(labels, labels), strict=True):
            assert torch.equal(got, expected)
    loss = losses.CircleLoss(relation=relation)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(torch.eye(5), labels), loss(torch.eye(5), labels))


def test_relations_of_equal_settings_are_equal() -> None:
    assert Jaccard(0.5) == Jaccard() != Jaccard(0.5, 0.1)
    assert len({SharedLabel(), SharedLabel(1), Hierarchy(), Hierarchy(-1)}) == 2


# ---- behind losses

LOSSES: dict[str, Callable[..., losses.Loss]] = {
    "contrastive": losses.ContrastiveLoss,
    "triplet": losses.TripletMarginLoss,
    "circle": lambda **k: losses.CircleLoss(scale=8.0, **k),
    "circle of the batch": lambda **k: losses.CircleLoss(scale=8.0, pooling="batch", **k),
    "supcon": losses.SupConLoss,
    "nt_xent": losses.NTXentLoss,
    "multi_similarity": losses.MultiSimilarityLoss,
    "smooth_ap": losses.SmoothAPLoss,
    "lifted": losses.LiftedStructureLoss,
    "histogram": losses.HistogramLoss,
}
MINERS = [None, miners.HardMiner(), miners.MultiSimilarityMiner(), miners.PriorityMiner()]


def batch(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, dtype=torch.float64, generator=generator), (torch.rand(n, k, generator=generator) > 0.55).long()


def by_masks(relation: Any, x: Tensor, y: Tensor) -> Any:
    """The same pairs, worked out beforehand: labels are numbers of points."""
    masks = relation(x, y)
    return lambda i, j: tuple(mask[i][:, j] for mask in masks)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("relation", [SharedLabel(2), Jaccard(0.5, 0.25), Hierarchy(1, 0)], ids=str)
def test_losses_and_miners(name: str, relation: Any) -> None:
    x, labels = batch(12, 4)
    labels[-1] = -1
    other, others = batch(7, 4, 1)
    every = torch.cat([labels, others])
    table = by_masks(relation, every, every)
    for miner in MINERS:
        for references, numbers in ((None, None), ((other, others), torch.arange(12, 19))):
            wanted = x.clone().requires_grad_()
            value = LOSSES[name](relation=relation, miner=miner)(wanted, labels, references)
            given_ = (other, numbers) if references else None
            expected = LOSSES[name](relation=table, miner=miner)(wanted, torch.arange(12), given_)
            torch.testing.assert_close(value, expected)
            gradient = torch.autograd.grad(value, wanted)[0]
            torch.testing.assert_close(gradient, torch.autograd.grad(expected, wanted)[0])
            assert not gradient[-1].any(), "an unknown point takes no part"


@pytest.mark.parametrize("name", [name for name, make in LOSSES.items() if make().separable])
def test_tiles_and_lists_of_references(name: str) -> None:
    x, labels = batch(12, 4)
    other, others = batch(7, 4, 1)
    references = [None, (other[:3], others[:3]), References(other[3:], others[3:], torch.arange(4) + 2)]
    values = [
        LOSSES[name](relation=Jaccard(0.5, 0.25), execution=execution, memory_budget=8 * 19 * 5)(
            x, labels, references, ids=torch.arange(12)
        )
        for execution in ("dense", "tiled")
    ]
    torch.testing.assert_close(*values)
    assert values[0] != 0


def test_one_level_is_equality() -> None:
    x, _ = batch(10, 4)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, -1, 0, 1, 3])
    for make in LOSSES.values():
        torch.testing.assert_close(make(relation=Hierarchy())(x, labels.unsqueeze(1)), make()(x, labels))


def test_stores_by_lookup() -> None:
    """A table per class for proxies, banks and queues, and per sample for a bank."""
    x, _ = batch(6, 4)
    table = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3]])
    labels = torch.tensor([0, 1, 2, 3, 0, -1])
    relation = Hierarchy(0)
    loss = losses.TripletMarginLoss(relation=Lookup(table, relation))
    bank, queue, proxies = MemoryBank(5, D, labels=[0, 1, 2, 3, -1], dtype=torch.float64), EmbeddingQueue(8, D), Proxies(4, D).double()
    queue = queue.double()
    queue.enqueue(x[:4], labels[:4])
    for store in (bank, queue, proxies):
        known = store.references()
        held = known.labels >= 0
        coarse = References(known.embeddings[held].detach(), table[known.labels[held], 0], known.ids[held])
        expected = losses.TripletMarginLoss()(x, torch.where(labels < 0, -1, table[labels.clamp(min=0), 0]), coarse)
        torch.testing.assert_close(loss(x, labels, store).detach(), expected)
    per_sample = Lookup(torch.eye(5).repeat(2, 1), SharedLabel())  # samples i and i + 5 share a label
    samples = MemoryBank(10, D, labels=range(10), dtype=torch.float64)
    value = losses.TripletMarginLoss(relation=per_sample)(x[:5], torch.arange(5), samples, ids=torch.arange(5))
    expected = losses.TripletMarginLoss()(
        x[:5], torch.arange(5), References(samples.embeddings, torch.arange(10) % 5, torch.arange(10)), ids=range(5)
    )
    torch.testing.assert_close(value, expected)


def test_the_table_moves_with_the_loss_and_is_not_saved() -> None:
    loss = losses.CircleLoss(relation=Lookup([[0, 1], [1, 1]], Jaccard()))
    assert not loss.state_dict()
    assert loss.to("meta").relation.table.is_meta
    assert "Jaccard" in repr(loss)


@pytest.mark.parametrize(
    "relation", [SharedLabel(), Jaccard(0.5, 0.25), Hierarchy(1, 0), Lookup(torch.eye(3), SharedLabel())], ids=lambda r: str(r)[:9]
)
def test_compiled_and_transformed(relation: Any) -> None:
    x, labels = batch(8, 3)
    labels = torch.arange(8) % 3 if isinstance(relation, Lookup) else labels
    loss = losses.SupConLoss(relation=relation)
    expected = torch.autograd.functional.jacobian(lambda v: loss(v, labels), x)
    torch.compiler.reset()
    leaf = x.clone().requires_grad_()
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf, labels)
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], expected)
    torch.testing.assert_close(torch.func.grad(lambda v: loss(v, labels))(x), expected)
    torch.testing.assert_close(torch.func.vmap(lambda v: loss(v, labels))(torch.stack([x, 2 * x])), torch.stack([loss(x, labels)] * 2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SharedLabel(0), ValueError, "`count`"),
        (lambda: SharedLabel(1.5), TypeError, "`count`"),
        (lambda: Jaccard(0.0), ValueError, "`positive_threshold`"),
        (lambda: Jaccard(1.1), ValueError, "`positive_threshold`"),
        (lambda: Jaccard("half"), TypeError, "`positive_threshold`"),
        (lambda: Jaccard(0.5, 0.5), ValueError, "`negative_threshold`"),
        (lambda: Jaccard(0.5, -0.1), ValueError, "`negative_threshold`"),
        (lambda: Hierarchy("genus"), TypeError, "`level`"),
        (lambda: Hierarchy(0, 1), ValueError, "`negative_level`"),
        (lambda: Hierarchy(-3, -1), ValueError, "`negative_level`"),
        (lambda: Hierarchy(0, -1)(torch.zeros(1, 3), torch.zeros(1, 3)), ValueError, "`negative_level`"),
        (lambda: Hierarchy(3)(torch.zeros(1, 3), torch.zeros(1, 3)), ValueError, "`level`"),
        (lambda: Hierarchy(-4)(torch.zeros(1, 3), torch.zeros(1, 3)), ValueError, "`level`"),
        (lambda: SharedLabel()(torch.zeros(2), torch.zeros(2)), ValueError, r"\[n, k\].*`Lookup`"),
        (lambda: Jaccard()(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, r"\[n, k\]"),
        (lambda: Hierarchy()(torch.zeros(2, 0), torch.zeros(2, 0)), ValueError, r"\[n, levels\]"),
        (lambda: losses.CircleLoss(relation=SharedLabel())(torch.eye(2), torch.eye(2), MemoryBank(3, 2)), ValueError, "`Lookup`"),
        (lambda: Lookup(torch.eye(2), "jaccard"), TypeError, "`relation`"),
        (lambda: Lookup([0, 1], SharedLabel()), ValueError, "`table`"),
        (lambda: Lookup(torch.eye(2), SharedLabel())(torch.tensor([2]), torch.tensor([0])), ValueError, "below 2"),
        (lambda: Lookup(torch.eye(2), SharedLabel())(torch.eye(2), torch.eye(2)), ValueError, r"\[n\]"),
    ],
)
def test_errors(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
