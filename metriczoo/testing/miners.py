"""`check_miner`: what any miner is held to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo import losses, similarity
from metriczoo.losses import Loss
from metriczoo.miners import Miner
from metriczoo.references import References
from metriczoo.scores import HARMLESS, Block, Scores
from metriczoo.stores import EmbeddingQueue
from metriczoo.testing._checks import Check, expect, failures, property_test, raise_failures
from metriczoo.testing._members import PairLoss, as_instance, copies, expect_close, expect_documented, expect_settings_checked, loaded
from metriczoo.testing.strategies import Batch, batches, generic, lists_of, score_lists

__all__ = ["MINER_CHECKS", "check_miner"]

Group = tuple[tuple[float, ...], tuple[float, ...]]  # kept negatives and positives of one row
Spec = Callable[[list[float], list[float]], Any]

_DIM = 8
_SAMPLES = 5


@dataclass(frozen=True)
class Case:
    """A miner, and what it should choose."""

    miner: Miner
    spec: Spec | None

    def fresh(self) -> Miner:
        """A copy, generator state and all, so that no check changes what the next one sees."""
        return copy.deepcopy(self.miner)


# ---- scores


def _block(rows: Tensor, seed: int = 5) -> Block:
    return Block(rows, similarity.Cosine().distance, _DIM, torch.tensor(seed))


def _sets(sample: int, *, b: int = 4, n: int = 7, p: int = 3) -> tuple[Scores, Scores]:
    """No two scores are equal; some cells are outside of the sets."""
    generator = torch.Generator().manual_seed(sample)
    total = b * (n + p)
    value = ((torch.randperm(total, generator=generator).double() + 0.5) / total * 2 - 1).split([b * n, b * p])
    mask = (torch.rand(total, generator=generator) < 0.75).split([b * n, b * p])
    block = _block(torch.arange(b))
    s_n, s_p = (Scores(v.reshape(b, width), m.reshape(b, width), block=block) for v, m, width in zip(value, mask, (n, p), strict=True))
    return s_n, s_p


def _mine(miner: Miner, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
    kept: tuple[Scores, Scores] = miner(s_n, s_p)
    expect(
        isinstance(kept, tuple) and len(kept) == 2 and all(isinstance(k, Scores) for k in kept),
        f"expected a pair of `Scores`, but got {kept!r:.80}",
    )
    b, rows = len(s_n.value), [len(k.value) for k in kept]
    expect(rows[0] == rows[1] and (rows[0] % b == 0 if b else rows[0] == 0), f"{b} anchors became {rows[0]} and {rows[1]} rows")
    return kept


def _groups(kept: tuple[Scores, Scores], b: int) -> list[list[Group]]:
    """What was kept of each anchor, without rows of which nothing was."""
    found: list[list[Group]] = [[] for _ in range(b)]
    rows = len(kept[0].value)
    for i, (n, p) in enumerate(zip(lists_of(kept[0]), lists_of(kept[1]), strict=True)):
        if n or p:
            found[i // (rows // b)].append((tuple(sorted(n)), tuple(sorted(p))))
    return [sorted(groups) for groups in found]


def _chosen(miner: Miner, s_n: Scores, s_p: Scores) -> list[list[Group]]:
    return _groups(_mine(miner, s_n, s_p), len(s_n.value))


def _expect_same(got: list[list[Group]], expected: list[list[Group]], when: str) -> None:
    for anchor, (here, there) in enumerate(zip(got, expected, strict=True)):
        expect(here == there, f"{when}: the groups (negatives, positives) of anchor {anchor} are {here} instead of {there}")


def _with(scores: Scores, *, value: Tensor | None = None, columns: Tensor | None = None, seed: int = 5) -> Scores:
    block = scores.block.but(seed=torch.tensor(seed)) if scores.block is not None else None
    return Scores(
        scores.value if value is None else value, scores.mask, columns=scores.columns if columns is None else columns, block=block
    )


def check_interface(case: Case) -> None:
    """A pair of `Scores`, equal in rows, the same number for each anchor, with the dtype and the block of what came."""
    for dtype in (torch.float32, torch.float64):
        s_n, s_p = (_with(s, value=s.value.to(dtype)) for s in _sets(0))
        for before, kept in zip((s_n, s_p), _mine(case.fresh(), s_n, s_p), strict=True):
            expect(kept.value.dtype == dtype, f"scores of {dtype} became {kept.value.dtype}")
            expect(kept.mask.dtype == torch.bool, f"expected a bool mask, but got {kept.mask.dtype}")
            expect(kept.block is before.block, "the block, where scores come from, was not handed on")


def check_subset(case: Case) -> None:
    """What is kept came in: no score is changed, none comes from another anchor, none is kept twice in a row; and something is kept."""
    number = 0
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        before = [list(lists_of(s)) for s in sets]
        for anchor, groups in enumerate(_chosen(case.fresh(), *sets)):
            for group in groups:
                for kept, side, name in zip(group, before, ("negatives", "positives"), strict=True):
                    invented = set(kept) - set(side[anchor])
                    expect(not invented, f"{sorted(invented)} are kept as {name} of anchor {anchor}, which had {side[anchor]}")
                    expect(len(set(kept)) == len(kept), f"{name} {kept} of one row repeat a score that occurs once")
                    number += len(kept)
    expect(number, f"nothing was kept in {_SAMPLES} batches of scores from -1 to 1")


def _numbered(s: Scores) -> Tensor:
    """Other references for each anchor, in no order."""
    b, n = s.value.shape
    return 10 + torch.randperm(n, generator=torch.Generator().manual_seed(0)) + 5 * torch.arange(b).unsqueeze(1)


def check_columns(case: Case) -> None:
    """`columns` says which reference each kept score belongs to."""
    for sample in range(_SAMPLES):
        sets = [_with(s, columns=_numbered(s)) for s in _sets(sample)]
        kept = _mine(case.fresh(), *sets)
        for s, k, name in zip(sets, kept, ("negative", "positive"), strict=True):
            expect(k.columns is not None or k.value.numel() == 0, f"the columns of the {name}s were dropped")
            if k.columns is None:
                continue
            expect(k.columns.shape == k.value.shape, f"columns {list(k.columns.shape)} of {name}s of shape {list(k.value.shape)}")
            assert s.columns is not None
            known = [dict(zip(c, v, strict=True)) for c, v in zip(s.columns.tolist(), s.value.tolist(), strict=True)]
            per_anchor = max(len(k.value) // len(known), 1)
            for i, j in k.mask.nonzero().tolist():
                column, value = int(k.columns[i, j]), float(k.value[i, j])
                right = known[i // per_anchor].get(column)
                expect(right == value, f"a {name} of score {value} is said to be reference {column}, whose score is {right}")


def check_gradient(case: Case) -> None:
    """The choice has no gradient: that of what is kept reaches its scores unchanged, and no others."""
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        leaves = [s.value.clone().requires_grad_() for s in sets]
        kept = _mine(case.fresh(), *(_with(s, value=leaf) for s, leaf in zip(sets, leaves, strict=True)))
        total = 2 * kept[0].fill(0.0).sum() + 3 * kept[1].fill(0.0).sum()
        if not any(bool(k.mask.any()) for k in kept):
            continue
        expect(total.requires_grad, "what is kept is cut off from the graph")
        for leaf, gradient, k, weight in zip(
            leaves, torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True), kept, (2.0, 3.0), strict=True
        ):
            times = [k.value[k.mask].tolist().count(v) for v in leaf.flatten().tolist()]
            expect_close(gradient, weight * torch.tensor(times).reshape(leaf.shape), "the gradient of kept scores")


def check_absent(case: Case) -> None:
    """Cells outside of a set are never kept, and nothing depends on what they hold, or on whether they are there at all."""
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        expected = _chosen(case.fresh(), *sets)
        for junk in (HARMLESS, 0.97, -0.97, 1e4, -1e4):
            spoilt = [_with(s, value=torch.where(s.mask, s.value, junk)) for s in sets]
            _expect_same(_chosen(case.fresh(), *spoilt), expected, f"with {junk} in cells outside of the sets")
        wide = []
        for s in sets:
            columns = torch.arange(s.value.shape[1]).expand_as(s.value)
            out = torch.zeros_like(s.mask[:, :2])
            wide.append(
                Scores(
                    torch.cat([s.value, s.value[:, :2]], 1),
                    torch.cat([s.mask, out], 1),
                    columns=torch.cat([columns, columns[:, :2]], 1),
                    block=s.block,
                )
            )
        _expect_same(_chosen(case.fresh(), *wide), expected, "with two more columns, all outside of the sets")


def check_empty(case: Case) -> None:
    """No anchors, no columns, or sets of which no cell is left: of an empty set nothing is kept, and nothing breaks."""
    for b, n, p in ((0, 3, 2), (2, 0, 2), (2, 3, 0), (2, 0, 0), (0, 0, 0), (1, 1, 1)):
        kept = _mine(case.fresh(), *_sets(0, b=b, n=n, p=p))
        for width, k, name in zip((n, p), kept, ("negatives", "positives"), strict=True):
            expect(b * width or not bool(k.mask.any()), f"{name} are kept of {b} anchors with {width} columns")
    for out in ((0,), (1,), (0, 1)):
        sets = [Scores(s.value, torch.zeros_like(s.mask) if side in out else s.mask, block=s.block) for side, s in enumerate(_sets(1))]
        for side, k in enumerate(_mine(case.fresh(), *sets)):
            expect(side not in out or not bool(k.mask.any()), f"{('negatives', 'positives')[side]} are kept where there are none")


def check_permutation(case: Case) -> None:
    """The order of the references does not matter, where no scores are equal."""
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        mixed = []
        for s in sets:
            order = torch.randperm(s.value.shape[1], generator=torch.Generator().manual_seed(sample))
            mixed.append(Scores(s.value[:, order], s.mask[:, order], columns=order.expand_as(s.value), block=s.block))
        _expect_same(_chosen(case.fresh(), *mixed), _chosen(case.fresh(), *sets), "with the references in another order")


def check_rows(case: Case) -> None:
    """An anchor is mined by its own scores: the other rows of a block, and their order, do not matter, for draws neither."""
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        expected = _chosen(case.fresh(), *sets)
        for rows in ([2], [3, 1], [3, 2, 1, 0]):
            parts = [Scores(s.value[rows], s.mask[rows], block=_block(torch.tensor(rows))) for s in sets]
            _expect_same(_chosen(case.fresh(), *parts), [expected[i] for i in rows], f"of anchors {rows} alone")


def check_storage(case: Case) -> None:
    """A set by mask, by excluded columns, and as a table of its members is one set."""
    for sample in range(_SAMPLES):
        s_n, s_p = _sets(sample)
        expected = _chosen(case.fresh(), s_n, s_p)
        spare = [torch.cat([s.value, torch.full((4, 1), HARMLESS, dtype=s.value.dtype)], 1) for s in (s_n, s_p)]
        by_exclusion, tables = [], []
        for s, value in zip((s_n, s_p), spare, strict=True):
            n = s.value.shape[1]
            every = torch.arange(n).expand_as(s.value)
            excluded = torch.cat([torch.where(s.mask, n, every), torch.full((4, 1), n)], 1)  # the spare column, as often as needed
            number = 1 + (~s.mask).sum(1)
            by_exclusion.append(
                Scores(value.scatter(1, excluded, HARMLESS), excluded=excluded, num_excluded=number, block=s.block, harmless=True)
            )
            first = torch.where(s.mask, every, n).sort(dim=1).values
            there = first < n
            tables.append(Scores(torch.where(there, value.gather(1, first), HARMLESS), there, columns=first, block=s.block, harmless=True))
        for n_form, p_form, what in (
            (by_exclusion[0], s_p, "negatives by excluded columns"),
            (by_exclusion[0], tables[1], "negatives by excluded columns and positives as a table"),
            (tables[0], tables[1], "both sets as tables"),
            (s_n, by_exclusion[1], "positives by excluded columns"),
        ):
            _expect_same(_chosen(case.fresh(), n_form, p_form), expected, what)


def check_repeatable(case: Case) -> None:
    """The same state and the same scores give the same choice; what came in is left alone; without `draws` nothing is drawn."""
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        before = [(s.value.clone(), s.mask.clone()) for s in sets]
        miner = case.fresh()
        state = torch.random.get_rng_state()
        first = _chosen(miner, *sets)
        expect(miner.draws or torch.equal(state, torch.random.get_rng_state()), "`draws` is false, but the global generator was used")
        _expect_same(_chosen(miner, *sets), first, "a second time, with the same seed of the call")
        _expect_same(_chosen(case.fresh().eval(), *sets), first, "in eval mode")
        for s, (value, mask) in zip(sets, before, strict=True):
            expect(torch.equal(s.value, value) and torch.equal(s.mask, mask), "the scores that came in were changed")


def check_draws(case: Case) -> None:
    """`draws` tells whether the choice depends on the seed of the call."""
    differs = False
    for sample in range(_SAMPLES):
        sets = _sets(sample)
        choices = [_chosen(case.fresh(), *(_with(s, seed=seed) for s in sets)) for seed in range(6)]
        differs = differs or any(choice != choices[0] for choice in choices)
    says = f"`draws` is {case.miner.draws}"
    expect(differs == bool(case.miner.draws), f"{says}, but the choice {'differs' if differs else 'is the same'} under other seeds")


def check_spec(case: Case) -> None:
    """The choice is that of the specification; of a miner that draws, each group is one of those that the specification lists."""
    assert case.spec is not None
    spec = case.spec

    @property_test(50)
    @given(score_lists((-1.0, 1.0), unique=True), st.integers(0, 99))
    def run(scores: tuple[list[float], list[float]], seed: int) -> None:
        s_n, s_p = (
            Scores(torch.tensor(s, dtype=torch.float64).reshape(1, -1), block=_block(torch.zeros(1, dtype=torch.int64), seed))
            for s in scores
        )
        (got,) = _chosen(case.fresh(), s_n, s_p)
        listed = spec(*scores)
        groups = [listed] if isinstance(listed, tuple) else listed
        expected = sorted((tuple(sorted(n)), tuple(sorted(p))) for n, p in groups if n or p)
        where = f"at s_n={scores[0]}, s_p={scores[1]}"
        if not case.miner.draws:
            expect(got == expected, f"expected the groups (negatives, positives) {expected}, but got {got}, {where}")
            return
        wrong = [group for group in got if group not in expected]
        expect(not wrong, f"expected groups (negatives, positives) among {expected}, but got {wrong}, {where}")
        lost = {p for _, p in expected} - {p for _, p in got}
        expect(not lost, f"nothing was drawn for the positives {sorted(lost)}, {where}")

    run()


# ---- in a loss


def _run(case: Case, x: Tensor, labels: Any, references: Any = None, *, ids: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient of a loss behind a copy of the miner, from the same random state each time."""
    torch.manual_seed(0)
    leaf = x.detach().clone().requires_grad_()
    value = PairLoss(miner=case.fresh(), **{"reduction": "sum", **options})(leaf, labels, references, ids=ids)
    (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
    return value.detach(), gradient


def _expect_equal(got: Sequence[Tensor], expected: Sequence[Tensor], what: str, tolerance: float = 1e-9) -> None:
    for part, a, b in zip(("value", "gradient"), got, expected, strict=True):
        expect_close(a, b, f"{part} of a loss, {what}", rtol=tolerance, atol=tolerance)


def check_tiled(case: Case) -> None:
    """Tiles of any height choose what one block does, random draws too."""
    for sample in range(3):
        batch = generic(sample, 12, 3, classes=3)
        dense = _run(case, batch.embeddings, batch.labels, execution="dense")
        for budget in (1, 400):
            tiled = _run(case, batch.embeddings, batch.labels, execution="tiled", memory_budget=budget)
            _expect_equal(tiled, dense, f"in tiles of {budget} bytes instead of one block")


def check_ignored(case: Case) -> None:
    """Points with a label below 0, and the other views of a point, which have its id, are never chosen and change no choice."""
    batch = generic(3, 9, 3, classes=3)
    x, labels = batch.embeddings.detach(), batch.labels
    value, gradient = _run(case, x, labels)
    more = torch.cat([x, x[:4] * 1.01, -x[:2]])
    got = _run(case, more, torch.cat([labels, torch.full((6,), -1)]))
    nothing = torch.cat([gradient, torch.zeros(6, 3, dtype=x.dtype)])
    _expect_equal(got, (value, nothing), "with points of label -1 beside the others")
    ids = torch.arange(9)
    own = References(torch.cat([x, x * 1.01]).detach(), labels.repeat(2), ids.repeat(2))
    others = References(x, labels, ids)
    # An anchor meets all references but the two with its id: it is as if those had been taken away from it.
    for i in range(0, 9, 4):
        there = own.ids != i
        less = References(own.embeddings[there], own.labels[there])
        keep = torch.full((9,), -1)
        keep[i] = labels[i]
        if not case.miner.draws:  # a draw depends on the number of the reference, too
            _expect_equal(_run(case, x, keep, own, ids=ids), _run(case, x, keep, less), "with references of the anchor's own id")
    _expect_equal(_run(case, x, labels, others, ids=ids), _alone(case, x, labels), "with the batch as references with ids")


def _alone(case: Case, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Against a constant copy of the batch."""
    return _run(case, x, labels, (x.detach(), labels), relation=_without_self)


def _without_self(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    same, other = a.unsqueeze(1) == b, ~torch.eye(len(a), len(b), dtype=torch.bool)
    return same & other, ~same & other


def check_relation(case: Case) -> None:
    """A relation that says what the labels say gives the same choice."""
    for sample in range(3):
        batch = generic(sample, 9, 3, classes=3)
        by_labels = _run(case, batch.embeddings, batch.labels, execution="dense")
        related = _run(case, batch.embeddings, batch.labels, relation=lambda a, b: a.unsqueeze(1) == b, execution="dense")
        _expect_equal(related, by_labels, "with a relation in place of labels")


def check_references(case: Case) -> None:
    """References by any way: a pair, `References`, a queue, a list of parts."""
    batch, other = generic(4, 8, 3, classes=3), generic(5, 10, 3, classes=4)
    x, labels, y = batch.embeddings, batch.labels, other.embeddings.detach()
    expected = _run(case, x, labels, (y, other.labels))
    queue = EmbeddingQueue(10, 3, dtype=torch.float64)
    queue.enqueue(y, other.labels)
    forms = {"a queue": queue, "two parts": [(y[:4], other.labels[:4]), References(y[4:], other.labels[4:])]}
    for name, references in forms.items():
        _expect_equal(_run(case, x, labels, references), expected, f"with {name} as references instead of a pair")
    tiled = _run(case, x, labels, (y, other.labels), execution="tiled", memory_budget=1)
    _expect_equal(tiled, expected, "with references, in tiles")


_SIMILARITIES: tuple[Callable[[], similarity.Similarity], ...] = (
    similarity.Cosine,
    similarity.InnerProduct,
    similarity.NegativeEuclidean,
    similarity.NegativeSquaredEuclidean,
    similarity.NegativeLp,
    partial(similarity.Mahalanobis, 3),
    similarity.SignalToNoise,
    partial(similarity.Poincare, exponential=True),
)


def check_similarities(case: Case) -> None:
    """Stands behind every similarity, of any range of scores, in tiles too."""
    batch = generic(6, 9, 3, classes=3)
    for make in _SIMILARITIES:
        for scale in (1.0, 30.0):
            x = batch.embeddings.detach() * scale
            dense = _run(case, x, batch.labels, similarity=make(), execution="dense")
            name = type(make()).__name__
            for part, tensor in zip(("value", "gradient"), dense, strict=True):
                expect(tensor.isfinite().all(), f"the {part} of a loss on {name} is not finite: {tensor.tolist()}")
            _expect_equal(_run(case, x, batch.labels, similarity=make(), execution="tiled", memory_budget=1), dense, f"on {name}, in tiles")


def check_losses(case: Case) -> None:
    """Losses behind the miner are finite, with finite gradients, whatever the batch: none, one class, unique, duplicates, zero vectors."""
    every: tuple[Callable[..., Loss], ...] = (
        losses.TripletMarginLoss,
        losses.ContrastiveLoss,
        losses.NTXentLoss,
        partial(losses.MarginLoss, similarity=similarity.NegativeEuclidean()),
    )

    @property_test(20)
    @given(batches(min_dim=2), st.sampled_from(every), st.sampled_from(["dense", "tiled"]))
    def run(batch: Batch, make: Callable[..., Loss], execution: str) -> None:
        x = batch.fresh()
        value = make(miner=case.fresh(), execution=execution)(x, batch.labels)
        expect(value.isfinite(), f"the loss is {value.item()} on {batch}")
        (gradient,) = torch.autograd.grad(value, x, materialize_grads=True, allow_unused=True)
        expect(gradient.isfinite().all(), f"the gradient is {gradient.tolist()} on {batch}")

    run()


def check_compile(case: Case) -> None:
    """A loss with it compiles as one graph, and gives what it gives without."""
    batch = generic(7, 6, 3, classes=2)
    miner = case.fresh()
    miner.generator = None  # a compiled program draws from the global one
    loss = losses.TripletMarginLoss(miner=miner)
    torch.compiler.reset()
    compiled = torch.compile(lambda v: loss(v, batch.labels), fullgraph=True, backend="aot_eager")
    results = []
    for f in (compiled, lambda v: loss(v, batch.labels)):
        torch.manual_seed(0)
        leaf = batch.fresh()
        value = f(leaf)
        results.append((value.detach(), torch.autograd.grad(value, leaf, materialize_grads=True, allow_unused=True)[0]))
    torch.compiler.reset()
    _expect_equal(results[0], results[1], "compiled")


def check_func(case: Case) -> None:
    """`torch.func.grad` gives the gradient that backward gives."""
    batch = generic(7, 6, 3, classes=2)
    _, expected = _run(case, batch.embeddings, batch.labels)
    torch.manual_seed(0)
    loss = PairLoss(miner=case.fresh(), reduction="sum")
    expect_close(torch.func.grad(lambda v: loss(v, batch.labels))(batch.embeddings.detach()), expected, "the gradient by torch.func.grad")


def check_meta(case: Case) -> None:
    """Works where there are no values, so on any device: tensors are made where the scores are, and no value is read."""
    batch = generic(8, 6, 3, classes=2)
    value = losses.TripletMarginLoss(miner=case.fresh())(batch.embeddings.detach().to("meta"), batch.labels.to("meta"))
    expect(value.is_meta and value.shape == (), f"expected a number on the meta device, but got {value!r}")


def _draws(miner: Miner, number: int) -> list[float]:
    batch = generic(9, 16, 4, classes=4)
    return [float(PairLoss(miner=miner, reduction="sum")(batch.embeddings.detach(), batch.labels)) for _ in range(number)]


def check_state(case: Case) -> None:
    """A miner with the state of another, that of its generator too, goes on as that one does."""
    miner = case.fresh()
    _draws(miner, 2)
    state = loaded(miner.state_dict())
    expected = _draws(miner, 3)
    other = case.fresh()
    other.load_state_dict(state)
    if miner.generator is None:
        return  # what it draws is for the global generator
    got = _draws(other, 3)
    expect(got == expected, f"a miner that was loaded draws on with losses {got} instead of {expected}")


def check_copies(case: Case) -> None:
    """A copy or a pickle of it goes on as the miner does."""
    miner = case.fresh()
    _draws(miner, 1)
    every = list(copies(miner))
    random = torch.random.get_rng_state()
    expected = _draws(miner, 3)
    for how, other in every:
        torch.random.set_rng_state(random)
        got = _draws(other, 3)
        expect(got == expected, f"after {how} losses are {got} instead of {expected}")


def check_settings(case: Case) -> None:
    """The constructor refuses what makes no sense and names the argument."""
    expect_settings_checked(case.miner)


def check_documentation(case: Case) -> None:
    """The class is documented, with all of its settings."""
    expect_documented(type(case.miner))


def _always(case: Case) -> bool:
    return True


def _fixed(case: Case) -> bool:
    return not case.miner.draws


MINER_CHECKS: tuple[Check[Case], ...] = (
    Check(check_interface, _always),
    Check(check_subset, _always),
    Check(check_columns, _always),
    Check(check_gradient, _always),
    Check(check_absent, _always),
    Check(check_empty, _always),
    Check(check_permutation, _fixed),
    Check(check_rows, _always),
    Check(check_storage, _always),
    Check(check_repeatable, _always),
    Check(check_draws, _always),
    Check(check_spec, lambda case: case.spec is not None),
    Check(check_tiled, _always),
    Check(check_ignored, _always),
    Check(check_relation, _always),
    Check(check_references, _always),
    Check(check_similarities, _always),
    Check(check_losses, _always),
    Check(check_compile, _always),
    Check(check_func, _always),
    Check(check_meta, _always),
    Check(check_state, _always),
    Check(check_copies, _always),
    Check(check_settings, _always),
    Check(check_documentation, _always),
)


def check_miner(miner: Miner, *, spec: Spec | None = None) -> None:
    """Put a miner through the checks that those of this library are held to.

    On scores: the result is a subset of what came in, its values and their gradients unchanged, with the right `columns`; cells outside
    of a set do not matter, nor does how a set is stored, nor the order of the references (unless the miner draws), nor the other rows of a
    block; empty sets are fine; the choice is repeatable, and random if and only if `draws` says so. In losses: tiles equal one block,
    ignored labels and ids are respected, relations, references of any kind and every similarity of the library work, values and gradients
    are finite on ugly batches; `torch.compile`, `torch.func` and the meta device; state, copies, pickles; settings that make no sense are
    refused; the class is documented.

    Args:
        miner: the miner, with the settings that are to be checked. It is copied, and not changed.
        spec: `spec(s_n, s_p)` on two lists of floats, the scores of one anchor, which it may expect to be between -1 and 1 and to be
            different within a list. Returns what is kept, a pair of lists; or a list of such pairs, one per group, where the miner splits
            anchors into groups. Of a miner that draws it lists all groups that may be drawn.

    Raises:
        AssertionError: that names every check that failed, and how.
        TypeError: if `miner` is not a `Miner`, a class for instance, or `spec` is not callable.

    Example:
        A miner of one's own, and its specification:

        >>> class Nearest(Miner):
        ...     '''Keeps the nearest negatives.
        ...
        ...     Args:
        ...         number: how many.
        ...     '''
        ...
        ...     def __init__(self, number=2):
        ...         super().__init__()
        ...         if not isinstance(number, int):
        ...             raise TypeError(f"Expected `number` to be an int, but got {number!r}.")
        ...         self.number = number
        ...
        ...     def select(self, s_n, s_p):
        ...         return s_n.topk(self.number), s_p
        >>> nearest = lambda s_n, s_p: (sorted(s_n)[-2:], s_p)
        >>> check_miner(Nearest(), spec=nearest)
        >>> check_miner(Nearest(1), spec=nearest)
        Traceback (most recent call last):
        AssertionError: Nearest() fails 1 of 25 checks:
          check_spec: expected the groups (negatives, positives) [((0.0, 1.0), ())], but got [((1.0,), ())], at s_n=[0.0, 1.0], s_p=[]

    Relations:
        `check_loss` is about what a loss makes of scores, `check_similarity` about where they come from.
    """
    as_instance("miner", miner, Miner)
    if spec is not None and not callable(spec):
        raise TypeError(f"Expected `spec` to be callable on two lists of scores, but got {spec!r} ({type(spec).__name__}).")
    raise_failures(miner, failures(Case(miner, spec), MINER_CHECKS))
