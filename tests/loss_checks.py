"""What every loss of the zoo is held to: one function per promise. `test_planted_bugs.py` shows that each of them finds bugs.

A check takes an `Entry` and raises `AssertionError` where the entry breaks the promise, or makes an excuse it does not need.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Points, anchors_of, groups_of, naive, score_of
from strategies import ROWS, Batch, batches, generic, score_lists
from torch import Tensor
from zoo import Entry, Groups

from metriczoo.scores import Block, Scores, Terms

TINY_BUDGET, SMALL_BUDGET = 1, 100  # bytes: one anchor per tile, a few anchors per tile


def few(test: Any) -> Any:
    """Fewer examples, for checks on whole batches."""
    return settings(max_examples=12)(test)


def leaf(values: Sequence[float] | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """`[1, n]`, requires a gradient."""
    return torch.as_tensor(values, dtype=dtype).reshape(1, -1).clone().requires_grad_()


def terms_of(result: Any) -> list[Tensor]:
    """The totals of the terms, each `[b]`."""
    terms = result if isinstance(result, tuple) and not isinstance(result, Terms) else (result,)
    return [t.total if isinstance(t, Terms) else t for t in terms]


def call(entry: Entry, s_n: Tensor, s_p: Tensor, between: Sequence[Sequence[float]] | None = None) -> Any:
    """The function of the entry on the scores of one anchor."""
    if not entry.between:
        return entry.function(s_n, s_p)
    table = torch.tensor(between, dtype=s_n.dtype).reshape(s_p.shape[1], s_n.shape[1])
    block = Block(torch.zeros(1, dtype=torch.int64), lambda s: s, between=lambda i, j: table[i])
    columns = torch.arange(s_p.shape[1]).unsqueeze(0)
    return entry.function(Scores(s_n, block=block), Scores(s_p, columns=columns, block=block))


def far(entry: Entry, s_n: Sequence[float], s_p: Sequence[float]) -> list[list[float]]:
    """Similarities of positives to negatives that do not matter: farther apart than any."""
    return [[entry.domain[0] - 1] * len(s_n) for _ in s_p]


def value_and_gradients(entry: Entry, s_n: Sequence[float], s_p: Sequence[float]) -> tuple[float, Tensor, Tensor]:
    """The loss of one anchor, and its gradients `[n]` and `[p]`."""
    n, p = leaf(s_n), leaf(s_p)
    total = sum(t.sum() for t in terms_of(call(entry, n, p, far(entry, s_n, s_p))))
    return total.item(), *(g.flatten() for g in gradients_of(total, n, p))


def gradients_of(total: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Zeros where the total does not depend on a leaf."""
    if not total.requires_grad:
        return tuple(map(torch.zeros_like, leaves))
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def samples(entry: Entry, number: int = 60) -> Iterator[tuple[list[float], list[float]]]:
    """Random scores: where an excuse has to show that it is needed."""
    source = random.Random(0)
    for _ in range(number):
        yield tuple([source.uniform(*entry.domain) for _ in range(source.randint(1, 4))] for _ in range(2))


def spec_groups(entry: Entry, s_n: Sequence[float], s_p: Sequence[float]) -> Groups:
    return entry.spec(s_n, s_p, far(entry, s_n, s_p)) if entry.between else entry.spec(s_n, s_p)


def close(got: float, expected: float, *, rtol: float = 1e-9, atol: float = 1e-9) -> bool:
    return math.isclose(got, expected, rel_tol=rtol, abs_tol=atol)


# ---- on the scores of one anchor


def check_spec(entry: Entry) -> None:
    """The value is that of the specification, and so are the counts of groups and of active ones."""

    @given(score_lists(entry.domain), st.randoms(use_true_random=False))
    def run(scores: tuple[list[float], list[float]], source: random.Random) -> None:
        s_n, s_p = scores
        between = [[source.uniform(*entry.domain) for _ in s_n] for _ in s_p]
        result = call(entry, leaf(s_n), leaf(s_p), between)
        expected = entry.spec(s_n, s_p, between) if entry.between else entry.spec(s_n, s_p)
        terms = result if isinstance(result, tuple) and not isinstance(result, Terms) else (result,)
        assert len(terms) == len(expected)
        for term, groups in zip(terms, expected, strict=True):
            if entry.per_anchor and not groups:
                continue  # whether an anchor counts that lacks a set is not for the function to say
            total = (term.total if isinstance(term, Terms) else term).item()
            assert close(total, math.fsum(groups)), (total, math.fsum(groups))
            if isinstance(term, Terms):
                assert int(term.count) == len(groups)
                if not entry.counts_together and all(g == 0 or g > 1e-9 for g in groups):
                    assert int(term.active) == sum(g > 0 for g in groups)

    run()


def check_slopes(entry: Entry) -> None:
    """The gradient is the derivative of the specification, with its weights held; at a kink it is between the slopes of the two sides."""
    step = 1e-7

    @given(score_lists(entry.domain, min_size=1))
    def run(scores: tuple[list[float], list[float]]) -> None:
        _, *gradients = value_and_gradients(entry, *scores)
        spec, between = entry.spec_at(*scores), far(entry, *scores)

        def value(lists: Sequence[list[float]]) -> float:
            return math.fsum(map(math.fsum, spec(*lists, between) if entry.between else spec(*lists)))

        here = value(scores)
        for side in (0, 1):
            for k, got in enumerate(gradients[side].tolist()):
                slopes = []
                for h in (step, -step):
                    moved = [list(s) for s in scores]
                    moved[side][k] += h
                    slopes.append((value(moved) - here) / h)
                slack = 2e-5 * (1 + abs(slopes[0]) + abs(slopes[1]))
                assert min(slopes) - slack <= got <= max(slopes) + slack, (side, k, got, slopes)

    run()


def check_signs(entry: Entry) -> None:
    """No negative is drawn nearer, no positive pushed away."""

    def hold(s_n: list[float], s_p: list[float]) -> bool:
        _, g_n, g_p = value_and_gradients(entry, s_n, s_p)
        return bool((g_n >= 0).all()) and bool((g_p <= 0).all())

    if not entry.tags.signs:
        assert not all(hold(*scores) for scores in samples(entry)), "the excuse `signs=False` is not needed"
        return

    @given(score_lists(entry.domain))
    def run(scores: tuple[list[float], list[float]]) -> None:
        assert hold(*scores)

    run()


def check_shift(entry: Entry) -> None:
    """Adding a constant to all scores changes nothing; the gradient of an anchor adds up to 0."""

    def holds(scores: tuple[list[float], list[float]], by: float) -> bool:
        value, g_n, g_p = value_and_gradients(entry, *scores)
        if entry.between:  # all similarities move
            n, p = (leaf([v + by for v in s]) for s in scores)
            table = [[v + by for v in row] for row in far(entry, *scores)]
            moved = sum(t.sum() for t in terms_of(call(entry, n, p, table))).item()
        else:
            moved = value_and_gradients(entry, *([v + by for v in s] for s in scores))[0]
        pull = float(g_p.sum().abs())
        return close(moved, value) and close(float(g_n.sum() + g_p.sum()), 0, atol=1e-9 * (1 + pull))

    if not entry.tags.shift:
        assert not all(holds(scores, 0.3) for scores in samples(entry)), "the excuse `shift=False` is not needed"
        return

    @given(score_lists(entry.domain), st.sampled_from([-3.0, 0.1, 2.5]))
    def run(scores: tuple[list[float], list[float]], by: float) -> None:
        assert holds(scores, by)

    run()


def check_bound(entry: Entry) -> None:
    """`sum |dL/ds_p|` stays below its bound and comes within 15 % of it; without a bound, it grows beyond any."""

    def pull(s_n: list[float], s_p: list[float]) -> float:
        return float(value_and_gradients(entry, s_n, s_p)[2].abs().sum())

    bound, (low, high) = entry.tags.bound, entry.domain
    if bound is None:
        assert pull([high] * 2, [-1e6] * 2) > 1e5, "the excuse `bound=None` is not needed"
        return
    for n, p in ((1, 1), (3, 1), (2, 3)):
        reached = pull([high] * n, [low] * p)
        assert 0.85 * bound(n, p) <= reached, (n, p, reached, bound(n, p))

    @given(score_lists(entry.domain))
    def run(scores: tuple[list[float], list[float]]) -> None:
        assert pull(*scores) <= bound(*map(len, scores)) * (1 + 1e-12)

    run()


def check_saturation(entry: Entry) -> None:
    """Where positives are as near and negatives as far as can be, value and gradient are exactly 0; of other losses, something is left."""
    low, high = entry.domain
    for n, p in ((1, 1), (3, 2)):
        value, *gradients = value_and_gradients(entry, [low] * n, [high] * p)
        zero = value == 0 and not any(bool(g.any()) for g in gradients)
        assert zero == entry.tags.saturates, (value, gradients)


def check_self_paced(entry: Entry) -> None:
    """The gradient is the derivative of the value, unless the loss says that it is not."""
    for seed in range(1):
        batch = generic(seed, 5, 2, classes=2)
        for options in ({"execution": "dense"}, {"execution": "tiled", "memory_budget": SMALL_BUDGET}):
            loss = entry.make(**options)
            derivative = torch.autograd.gradcheck(lambda x, loss=loss, y=batch.labels: loss(x, y), batch.fresh(), raise_exception=False)
            assert derivative != entry.tags.self_paced, "the gradient is wrong, or the excuse `self_paced` is not needed"


def check_masked_is_absent(entry: Entry) -> None:
    """A cell outside a set, whatever it holds, is as good as no cell; its gradient is exactly 0."""
    if entry.between:
        return
    numbers = st.sampled_from([0.0, 1.0, -1.0, -0.5, 1e30, -1e30])

    distinct = score_lists(entry.domain, unique=True)  # of equal scores a loss may choose one

    @given(distinct, st.lists(numbers, max_size=3), st.lists(numbers, max_size=3), st.randoms(use_true_random=False), st.booleans())
    def run(scores: Any, junk_n: list[float], junk_p: list[float], source: random.Random, by_mask: bool) -> None:
        expected = value_and_gradients(entry, *scores)
        leaves, sets, places = [], [], []
        for values, junk in zip(scores, (junk_n, junk_p), strict=True):
            cells = [(v, True) for v in values] + [(v, False) for v in junk]
            order = source.sample(range(len(cells)), len(cells))
            value, mask = leaf([cells[k][0] for k in order]), torch.tensor([[cells[k][1] for k in order]]).reshape(1, -1).bool()
            leaves.append(value)
            sets.append(Scores(value, mask) if by_mask else excluding(value, mask))
            places.append([order.index(k) for k in range(len(values))])
        total = sum(t.sum() for t in terms_of(entry.function(*sets)))
        gradients = gradients_of(total, *leaves)
        assert close(total.item(), expected[0])
        for gradient, wanted, place in zip(gradients, expected[1:], places, strict=True):
            found = gradient.flatten()[place]
            assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)
            assert int(gradient.count_nonzero()) == int(found.count_nonzero())

    run()


def excluding(value: Tensor, mask: Tensor) -> Scores:
    """The same set, stored by what it leaves out, with a repeat."""
    out = (~mask[0]).nonzero().flatten()
    return Scores(value, excluded=torch.cat([out, out[:1]]).unsqueeze(0), num_excluded=torch.tensor([len(out)]))


# ---- on batches


def value_of(entry: Entry, batch: Batch, **options: Any) -> tuple[float, Tensor]:
    """The loss, and the gradient of the embeddings."""
    x = batch.fresh()
    value = entry.make(**options)(x, batch.labels)
    return float(value.detach()), gradients_of(value.sum(), x)[0]


def as_points(batch: Batch) -> Points:
    """Of a batch that is compared with itself."""
    return Points.of(batch.embeddings, batch.labels, range(len(batch.labels)))


def check_batch(entry: Entry) -> None:
    """On random batches, the loss is that of the loops over lists."""
    for seed in range(3):
        batch = generic(seed, 7, 3)
        batch.labels[seed] = -1
        loss = entry.make()
        points = as_points(batch)
        expected = naive(entry, score_of(entry), points, points)[0]
        got = loss(batch.fresh(), batch.labels).item()
        assert close(got, expected), (got, expected)


def check_finite(entry: Entry) -> None:
    """Value and gradient are finite whatever the batch."""

    @few
    @given(batches(dtypes=(torch.float16, torch.bfloat16, torch.float32, torch.float64)), st.sampled_from(["dense", "tiled"]))
    def run(batch: Batch, execution: str) -> None:
        x = batch.fresh()
        value = entry.make(execution=execution)(x, batch.labels)
        assert value.shape == ()
        assert value.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
        assert value.isfinite()
        (gradient,) = gradients_of(value, x)
        assert gradient.dtype == x.dtype
        assert bool(gradient.isfinite().all())

    run()


def idle_calls(entry: Entry) -> Iterator[tuple[Tensor, Tensor]]:
    """`(value, embeddings)` of calls where the specification has no group, or none that a move could improve."""
    empty = torch.empty(0, 2)
    some, equal = torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.5, 0.25]]), torch.tensor([[0.6, 0.8]] * 3)
    cases = [
        (empty, [], None),
        (some[:1], [3], None),
        (some, [-1, -1, -1], None),
        (some, [0, -1, -1], None),
        (some, [0, 1, 2], None),
        (some, [4, 4, 4], None),
        (equal, [4, 4, 4], None),
        (some, [0, 1, 0], (empty, [])),
        (some, [0, 1, 0], (some[:2], [-1, -2])),
        (empty, [], (some, [0, 1, 0])),
    ]
    score = score_of(entry)
    for points, labels, references in cases:
        batch = Points.of(points, torch.tensor(labels, dtype=torch.int64), range(len(labels)))
        other = batch if references is None else Points.of(references[0], torch.tensor(references[1], dtype=torch.int64))
        if any(g for groups in groups_of(entry, anchors_of(score, batch, other)) if groups for term in groups for g in term):
            continue
        for (dtype, reduction), execution in itertools.product(
            ((torch.float64, "mean"), (torch.float32, "mean_active"), (torch.float32, "mean_pairs"), (torch.float32, "none")),
            ("dense", "tiled"),
        ):
            x = points.to(dtype).clone().requires_grad_()
            given_references = None if references is None else (references[0].to(dtype), references[1])
            value = entry.make(execution=execution, reduction=reduction)(x, labels, given_references)
            assert value.shape == ((len(points),) if reduction == "none" else ())
            yield value, x


def check_nothing_to_learn(entry: Entry) -> None:
    """Where there is nothing to learn, loss and gradient are exactly 0."""
    for value, x in idle_calls(entry):
        assert not value.detach().any(), (x, value)
        assert not gradients_of(value.sum(), x)[0].any(), x  # NaN is not 0


def check_attached(entry: Entry) -> None:
    """Where there is nothing to learn, the loss is attached to the graph, so that a training loop need not know."""
    for value, x in idle_calls(entry):
        assert value.requires_grad, x
        torch.autograd.grad(value.sum(), x)


def check_zero_vector(entry: Entry) -> None:
    """A zero vector among ordinary ones does not blow up: no gradient above 1e6, for itself or for others."""
    for seed in range(3):
        batch = generic(seed, 8, 4, dtype=torch.float32)
        batch.embeddings.data[[seed, seed + 3]] = 0
        for execution in ("dense", "tiled"):
            _, gradient = value_of(entry, batch, execution=execution)
            assert float(gradient.abs().max()) <= 1e6


def check_collapse(entry: Entry) -> None:
    """A batch that has collapsed to one point is stationary."""
    for point in ([0.6, 0.8, 0.0], [1.0, 2.0, -3.0], [0.0, 0.0, 0.0]):
        x = torch.tensor([point] * 6, dtype=torch.float64)
        value, gradient = value_of(entry, Batch(x, torch.tensor([0, 0, 0, 1, 1, 2])))
        assert math.isfinite(value)
        assert float(gradient.abs().max()) <= 1e-12 * 256 * 6


def check_permutation(entry: Entry) -> None:
    """The order of the batch does not matter, for the value or the gradient."""

    @few
    @given(batches(dtypes=(torch.float64,)), st.randoms(use_true_random=False))
    def run(batch: Batch, source: random.Random) -> None:
        order = source.sample(range(len(batch.labels)), len(batch.labels))
        moved = Batch(batch.embeddings[order], batch.labels[order])
        assert close(value_of(entry, moved)[0], value_of(entry, batch)[0], rtol=1e-9)

    run()
    for seed in range(2):
        batch, order = generic(seed), [5, 2, 7, 0, 4, 6, 3, 1]
        moved = Batch(batch.embeddings[order], batch.labels[order])
        assert torch.allclose(value_of(entry, moved)[1], value_of(entry, batch)[1][order], rtol=1e-9, atol=1e-12)


def check_relabelling(entry: Entry) -> None:
    """Only which labels are equal matters, and which are negative."""

    @few
    @given(batches(dtypes=(torch.float64,)), st.sampled_from([{0: 2, 1: 0, 2: 1, 7: 3}, {0: 2**53, 1: 2**53 + 1, 2: 2**62, 7: 0}]))
    def run(batch: Batch, names: dict[int, int]) -> None:
        new = [names.get(label, label + 10 if label >= 0 else 5 * label) for label in batch.labels.tolist()]
        renamed = Batch(batch.embeddings, torch.tensor(new, dtype=torch.int64))
        assert close(value_of(entry, renamed)[0], value_of(entry, batch)[0], rtol=1e-9)

    run()


def _transforms(d: int) -> dict[str, Any]:
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64))[0]
    return {"rotation": lambda x: x @ q, "scale": lambda x: 2.5 * x, "translation": lambda x: x + 0.7}


def check_invariance(entry: Entry) -> None:
    """Rotations change nothing, of batch and references alike; scalings and translations only where the loss does not promise it."""
    holds = {"rotation": True, "scale": entry.tags.scale, "translation": entry.tags.translation}

    def value(batch: Batch, transform: Any) -> float:
        return entry.make()(transform(batch.embeddings.detach()), batch.labels).item()

    for name, promised in holds.items():
        moved = [(value(b, _transforms(3)[name]), value(b, lambda x: x)) for b in map(generic, range(3))]
        assert all(close(*pair) for pair in moved) == promised, f"the promise, or the excuse, `{name}={promised}` is wrong"

    rows = tuple(row for row in ROWS if row not in ("huge", "tiny"))

    @few
    @given(batches(dtypes=(torch.float64,), rows=rows), st.sampled_from([name for name, promised in holds.items() if promised]))
    def run(batch: Batch, name: str) -> None:
        transform = _transforms(batch.embeddings.shape[1])[name]
        assert close(value(batch, transform), value(batch, lambda x: x), rtol=1e-7, atol=1e-7)
        n = len(batch.labels) // 2
        x, labels = batch.embeddings.detach(), batch.labels
        proxies = x[:n], labels[:n]
        loss = entry.make()
        moved = loss(transform(x[n:]), labels[n:], (transform(proxies[0]), proxies[1]))
        assert close(moved.item(), loss(x[n:], labels[n:], proxies).item(), rtol=1e-7, atol=1e-7)

    run()


def check_tiles(entry: Entry) -> None:
    """The result does not depend on how the batch is cut: dense, one anchor at a time, or a few."""

    @few
    @given(batches())
    def run(batch: Batch) -> None:
        rtol = 1e-4 if batch.embeddings.dtype == torch.float32 else 1e-9
        expected = value_of(entry, batch, execution="dense")[0]
        for budget in (TINY_BUDGET, SMALL_BUDGET):
            assert close(value_of(entry, batch, execution="tiled", memory_budget=budget)[0], expected, rtol=rtol, atol=rtol)

    run()
    for reduction in ("mean", "mean_active", "mean_pairs", "sum", "none"):
        batch = generic(len(reduction), 9)
        batch.labels[4] = -1
        x = batch.fresh()
        dense = entry.make(execution="dense", reduction=reduction)(x, batch.labels)
        weights = torch.linspace(0.5, 2, dense.numel(), dtype=dense.dtype).reshape(dense.shape)
        expected = torch.autograd.grad((weights * dense).sum(), x)[0]
        for budget in (TINY_BUDGET, SMALL_BUDGET):
            tiled = entry.make(execution="tiled", memory_budget=budget, reduction=reduction)(x, batch.labels)
            assert torch.allclose(tiled, dense, rtol=1e-10, atol=1e-12)
            assert torch.allclose(torch.autograd.grad((weights * tiled).sum(), x)[0], expected, rtol=1e-9, atol=1e-11)


def plain(entry: Entry, x: Tensor, labels: Tensor) -> float:
    """The loss as it is written without care: scores in the dtype of the embeddings."""
    if entry.similarity == "cosine":
        unit = x / x.square().sum(1, keepdim=True).sqrt()
        scores = unit @ unit.mT
    else:
        square = (x.unsqueeze(1) - x.unsqueeze(0)).square().sum(2)
        scores = -square if entry.similarity == "squared euclidean" else -square.sqrt()
    table = scores.double().tolist()
    points = Points([[float(i)] for i in range(len(x))], labels.tolist(), list(range(len(x))))
    return naive(entry, lambda i, j: table[int(i[0])][int(j[0])], points, points)[0]


def check_half(entry: Entry) -> None:
    """On half-precision embeddings the loss is at most twice as wrong as the plain form, and the gradient right to its dtype."""
    for dtype in (torch.float16, torch.bfloat16):
        for seed in range(4):
            batch = generic(seed, 8, 4, dtype=dtype)
            exact = Batch(batch.embeddings.detach().double(), batch.labels)
            slope = value_of(entry, exact)[1]
            true = naive(entry, score_of(entry), as_points(exact), as_points(exact))[0]
            got, gradient = value_of(entry, batch)
            error = abs(plain(entry, batch.embeddings.detach(), batch.labels) - true)
            assert abs(got - true) <= 2 * error + 1e-5 * abs(true), (dtype, got, true, error)
            assert float((gradient.double() - slope).norm()) <= 2 * torch.finfo(dtype).eps * float(slope.norm())


def check_autocast(entry: Entry) -> None:
    """Autocast around the loss changes nothing, and half-precision outputs of a network under autocast are welcome."""
    for dtype in (torch.float16, torch.bfloat16):
        for seed in range(2):
            batch = generic(seed, 8, 4, dtype=torch.float32)
            expected = value_of(entry, batch)
            with torch.autocast("cpu", dtype=dtype):
                got = value_of(entry, batch)
                x = batch.fresh()
                out = torch.nn.functional.linear(x, torch.eye(4))
                assert out.dtype == dtype
                value = entry.make()(out, batch.labels)
            assert got[0] == expected[0]
            assert torch.equal(got[1], expected[1])
            assert value.dtype == torch.float32
            assert value.isfinite()
            assert bool(torch.autograd.grad(value, x)[0].isfinite().all())


def check_ignored_is_absent(entry: Entry) -> None:
    """A point with a negative label is as good as no point, among anchors and among references."""

    @few
    @given(batches(dtypes=(torch.float64,), labellings=("ignored",)))
    def run(batch: Batch) -> None:
        kept = batch.labels >= 0
        without = Batch(batch.embeddings.detach()[kept], batch.labels[kept])
        value, gradient = value_of(entry, batch)
        assert close(value, value_of(entry, without)[0], rtol=1e-9)
        assert not bool(gradient[~kept].any())

    run()


def check_extremes(entry: Entry) -> None:
    """At the ends of the domain of the scores, in single precision, value and gradient are those in double precision."""
    low, high = entry.domain
    for s_n, s_p in (([high] * 3, [low] * 2), ([low] * 3, [high] * 2), ([high, low], [low, high]), ([high], [low])):
        expected, *wanted = value_and_gradients(entry, s_n, s_p)
        spec = math.fsum(map(math.fsum, spec_groups(entry, s_n, s_p)))
        assert close(expected, spec)
        n, p = leaf(s_n, torch.float32), leaf(s_p, torch.float32)
        total = sum(t.sum() for t in terms_of(call(entry, n, p, far(entry, s_n, s_p))))
        assert close(total.item(), spec, rtol=1e-5, atol=1e-6), (total, spec)
        for got, gradient in zip(gradients_of(total, n, p), wanted, strict=True):
            assert torch.allclose(got.flatten().double(), gradient, rtol=1e-4, atol=1e-6)


ON_SCORES = [
    check_spec,
    check_slopes,
    check_signs,
    check_shift,
    check_bound,
    check_saturation,
    check_masked_is_absent,
    check_extremes,
]
ON_BATCHES = [  # the first few for variants, too
    check_batch,
    check_finite,
    check_half,
    check_nothing_to_learn,
    check_attached,
    check_self_paced,
    check_zero_vector,
    check_collapse,
    check_permutation,
    check_relabelling,
    check_invariance,
    check_tiles,
    check_autocast,
    check_ignored_is_absent,
]
