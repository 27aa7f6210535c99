"""Checks on batches: what a loss makes of embeddings and labels, however they are ordered, named, moved, cut and stored."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metriczoo.references import References
from metriczoo.similarity import Cosine, Similarity
from metriczoo.stores import MemoryBank
from metriczoo.testing._checks import Check, expect, property_test
from metriczoo.testing._naive import Points, anchors_of, batch_groups, by_spec, reduced
from metriczoo.testing._on_scores import close
from metriczoo.testing.strategies import ROWS, Batch, batches, generic
from metriczoo.testing.subject import Subject, gradients_of, number

__all__ = ["CHECKS"]

TINY_BUDGET, SMALL_BUDGET = 1, 100  # bytes: one anchor per tile, a few anchors per tile
EXAMPLES = 12
ALL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REDUCTIONS = ("mean", "mean_active", "mean_pairs", "sum", "none")


def ordinary(subject: Subject, seed: int, n: int = 8, d: int = 3, *, classes: int = 3, dtype: torch.dtype = torch.float64) -> Batch:
    """A batch without any special case, that the loss can take."""
    return subject.fit(generic(seed, n, subject.embedding_dim or d, classes=classes, dtype=dtype))


def value_and_gradient(subject: Subject, batch: Batch, **options: Any) -> tuple[float, Tensor]:
    """The loss, and the gradient of the embeddings."""
    x = batch.fresh()
    value = subject(x, batch.labels, **options)
    return number(value.sum()), gradients_of(value.sum(), x)[0]


def executions(subject: Subject) -> list[dict[str, Any]]:
    """Options by which the loss runs dense and tiled, as far as it knows them."""
    dense: list[dict[str, Any]] = [{"execution": "dense"}] if subject.is_loss else [{}]
    return [*dense, {"execution": "tiled", "memory_budget": SMALL_BUDGET}] if subject.tileable else dense


def check_batch(subject: Subject) -> None:
    """The loss is that of the specification: of batches, and of references with and without ids, by every reduction."""
    reductions = [{"reduction": r} for r in ("mean", "mean_active", "sum")] if subject.is_loss else [{}]
    for seed in range(3):
        batch, others = ordinary(subject, seed, 7), ordinary(subject, seed + 50, 5)
        if subject.is_loss:
            batch.labels[seed] = others.labels[1] = -1
        x, labels = batch.embeddings.detach(), batch.labels
        own, theirs = Points.of(x, labels), Points.of(others.embeddings, others.labels)
        y = others.embeddings.detach()
        calls: list[tuple[Any, Any, Points, Points | None]] = [(None, None, own, _own_references(subject))]
        if subject.takes_references:
            calls.append(((y, others.labels), None, own, theirs))
        if subject.is_loss and subject.takes_references:  # points that are the same, of one class and of two; and ids that equal no other
            ids, other_ids = [4, 8, 4, 8, -1, -1, 42], [8, 5, -1, 4, 4]
            with_ids = References(y, others.labels, torch.tensor(other_ids))
            calls.append((with_ids, torch.tensor(ids), replace(own, ids=ids), replace(theirs, ids=other_ids)))
        for (references, ids, points, among), options in itertools.product(calls, reductions):
            expected = by_spec(subject, points, among, **options)
            got = number(subject(x, labels, references, ids, **options))
            what = "the batch itself" if references is None else "references" if ids is None else "references with ids"
            expect(close(got, expected), f"expected the loss {expected!r}, but got {got!r}, {options}, compared with {what}, of {batch}")


def _own_references(subject: Subject) -> Points | None:
    """The store that the loss compares with where a call names no references; of a bank, each row is a class of its own."""
    stores = [getattr(subject.loss, name, None) for name in ("proxies", "bank", "centers")]
    store = next((store for store in stores if store is not None), None)
    if store is None:
        return None
    points = store.instances() if isinstance(store, MemoryBank) else store.references()
    return Points.of(points.embeddings, points.labels)


def check_finite(subject: Subject) -> None:
    """Value and gradient are finite whatever the batch; the value is at least in single precision, the gradient in that of the batch."""
    every = executions(subject)

    @property_test(EXAMPLES)
    @given(batches(dtypes=ALL_DTYPES, **subject.dims), st.sampled_from(every))
    def run(batch: Batch, options: dict[str, Any]) -> None:
        batch = subject.fit(batch)
        x = batch.fresh()
        value = subject(x, batch.labels, **options)
        expect(value.numel() == 1, f"expected one number, but got shape {list(value.shape)}, of {batch}")
        precision = torch.float64 if x.dtype == torch.float64 else torch.float32
        expect(value.dtype == precision or not subject.is_loss, f"expected dtype {precision}, but got {value.dtype}, of {batch}")
        expect(value.isfinite(), f"the loss is {value.item()}, of {batch}")
        (gradient,) = gradients_of(value.sum(), x)
        expect(gradient.isfinite().all(), f"the gradient is {gradient.tolist()}, of {batch}")

    run()


def idle_calls(subject: Subject) -> Iterator[tuple[Tensor, Tensor, str]]:
    """`(value, embeddings, what it is)` of calls in which there is nothing to learn, by the specification or by the promises."""
    d = subject.embedding_dim or 2
    some = torch.zeros(3, d)
    some[:, :2] = torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.5, 0.25]])[:, : min(2, d)]
    empty, equal = some[:0], some[:1].repeat(3, 1)
    alone = subject.num_classes is None
    # What it is, points, labels, references, and whether it is idle for every loss, for those that need positives, or negatives.
    cases: list[tuple[str, Tensor, list[int], Any, bool | None]] = [
        ("an empty batch", empty, [], None, True),
        ("a batch of ignored labels", some, [-1, -1, -1], None, True),
        ("one point", some[:1], [3], None, alone or None),
        ("one point among ignored ones", some, [0, -1, -1], None, alone or None),
        ("labels that are all different", some, [0, 1, 2], None, subject.tags.needs_positives if alone else None),
        ("one class", some, [4, 4, 4], None, subject.tags.needs_negatives if alone else None),
        ("equal points of one class", equal, [4, 4, 4], None, None),
        ("no references", some, [0, 1, 0], (empty, []), True),
        ("ignored references", some, [0, 1, 0], (some[:2], [-1, -2]), True),
        ("no anchors", empty, [], (some, [0, 1, 0]), True),
    ]
    for what, points, labels, references, promised in cases:
        ignoring = min(labels, default=0) < 0 or (references is not None and min(references[1], default=0) < 0)
        if (references is not None and not subject.takes_references) or (ignoring and not subject.is_loss):
            continue
        idle = promised
        if subject.spec is not None:
            other = None if references is None else Points.of(*references)
            groups, _ = batch_groups(subject, Points.of(points, labels), _own_references(subject) if other is None else other)
            idle = not any(value for term in groups for value in term)
        if not idle:
            continue
        batch = subject.fit(Batch(points, torch.tensor(labels, dtype=torch.int64)))
        reductions = [{"reduction": r} for r in REDUCTIONS] if subject.is_loss else [{}]
        for k, options in enumerate({**r, **e} for r in reductions for e in executions(subject)):
            x = batch.embeddings.to((torch.float64, torch.float32)[k % 2]).clone().requires_grad_()
            cast = None if references is None else (references[0].to(x.dtype), references[1])
            yield subject(x, batch.labels, cast, **options), x, f"{what}, {options}"


def check_nothing_to_learn(subject: Subject) -> None:
    """Where there is nothing to learn, loss and gradient are exactly 0."""
    for value, x, what in idle_calls(subject):
        expect(not value.detach().any(), f"the loss of {what} is {value.tolist()}")
        gradient = gradients_of(value.sum(), x)[0]
        expect(not gradient.any(), f"the gradient of {what} is {gradient.tolist()}")


def check_attached(subject: Subject) -> None:
    """Where there is nothing to learn, the loss is attached to the graph, so that a training loop need not know."""
    for value, x, what in idle_calls(subject):
        expect(value.requires_grad, f"the loss of {what} cannot be differentiated")
        torch.autograd.grad(value.sum(), x)


def check_needs(subject: Subject) -> None:
    """An anchor without positives, or without negatives, counts or does not count as the loss promises."""
    for tag, labels in (("needs_positives", torch.arange(6)), ("needs_negatives", torch.zeros(6, dtype=torch.int64))):
        promised = getattr(subject.tags, tag)
        if promised is None:
            continue
        largest = 0.0
        for factor in (1.0, 0.3, 0.03):
            points = (factor * ordinary(subject, 0, 6).embeddings).detach()
            value, gradient = value_and_gradient(subject, Batch(points, labels))
            largest = max(largest, abs(value), float(gradient.abs().max()))
        expect(
            (largest == 0) == promised, f"the promise, or the excuse, `{tag}={promised}` is wrong: loss and gradient reach {largest:.3g}"
        )


def check_gradient(subject: Subject) -> None:
    """The gradient, of the batch and of references, is the derivative of the value, unless the loss says that it is not."""
    batch, others = ordinary(subject, 0, 5, 2, classes=2), ordinary(subject, 9, 3, 2, classes=2)
    for options in executions(subject):
        loss = subject.copy(torch.float64, **options).eval()  # a statistic that follows each call would be another function

        def value(x: Tensor, y: Tensor | None = None, loss: Any = loss) -> Tensor:
            return subject.value_by(loss, x, batch.labels, None if y is None else [None, (y, others.labels)])

        inputs = (batch.fresh(), others.fresh()) if subject.is_loss and subject.takes_references else (batch.fresh(),)
        try:
            derivative = torch.autograd.gradcheck(value, inputs, nondet_tol=1e-9)
        except RuntimeError as error:
            derivative = False
            expect(subject.tags.self_paced, f"the gradient is not the derivative of the value: {error}")
        expect(not (derivative and subject.tags.self_paced), "the excuse `self_paced=True` is not needed: the gradient is the derivative")


def check_parameters(subject: Subject) -> None:
    """The gradient of what the loss learns is the derivative of the value."""
    batch, generator, step = ordinary(subject, 0, 7), torch.Generator().manual_seed(0), 1e-6
    for options in executions(subject):
        loss = subject.copy(torch.float64, **options).eval()
        for name, parameter in loss.named_parameters():
            slope = gradients_of(subject.value_by(loss, batch.fresh(), batch.labels).sum(), parameter)[0]
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            ends = []
            for h in (step, -2 * step):  # there, and back to the other side
                parameter.data.add_(direction, alpha=h)
                ends.append(number(subject.value_by(loss, batch.fresh(), batch.labels).sum()))
            parameter.data.add_(direction, alpha=step)
            got, expected = float((slope * direction).sum()), (ends[0] - ends[1]) / (2 * step)
            right = close(got, expected, rtol=1e-5, atol=1e-6)
            expect(right, f"`{name}`: expected the slope {expected:.8g} in a random direction, but got {got:.8g}, {options}")


def check_zero_vector(subject: Subject) -> None:
    """A zero vector among ordinary ones does not blow up: no gradient above 1e6, for itself or for others."""
    for seed in range(3):
        batch = ordinary(subject, seed, 8, 4, dtype=torch.float32)
        batch.embeddings.data[[seed, seed + 3]] = 0
        for options in executions(subject):
            largest = float(value_and_gradient(subject, batch, **options)[1].abs().max())
            expect(largest <= 1e6, f"the gradient reaches {largest:.3g}")


def check_collapse(subject: Subject) -> None:
    """A batch that has collapsed to one point is finite, and stationary where the batch is compared with itself by position only."""
    d = subject.embedding_dim or 3
    position_only = subject.is_loss and subject.takes_references and subject.on_scores and _stationary(subject.similarity)
    for point in ([0.6, 0.8, 0.0], [1.0, 2.0, -3.0], [0.0, 0.0, 0.0]):
        x = torch.tensor([(point * d)[:d]] * 6, dtype=torch.float64)
        value, gradient = value_and_gradient(subject, subject.fit(Batch(x, torch.tensor([0, 0, 0, 1, 1, 2]))))
        expect(torch.tensor(value).isfinite(), f"six points at {point} have the loss {value}")
        expect(gradient.isfinite().all(), f"six points at {point} have the gradient {gradient.tolist()}")
        largest = float(gradient.abs().max())
        expect(not position_only or largest <= 1e-9, f"six points at {point} are not stationary: their gradient reaches {largest:.3g}")


def _stationary(similarity: Similarity) -> bool:
    """Whether equal points score best of all, so that their gradient is 0."""
    return similarity.is_distance or isinstance(similarity, Cosine)


def check_permutation(subject: Subject) -> None:
    """The order of the batch does not matter, for the value or the gradient."""

    @property_test(EXAMPLES)
    @given(batches(dtypes=(torch.float64,), **subject.dims), st.randoms(use_true_random=False))
    def run(batch: Batch, source: random.Random) -> None:
        batch = subject.fit(batch)
        order = source.sample(range(len(batch.labels)), len(batch.labels))
        values = [value_and_gradient(subject, b)[0] for b in (batch, Batch(batch.embeddings[order], batch.labels[order]))]
        expect(close(values[1], values[0]), f"the loss goes from {values[0]!r} to {values[1]!r} in the order {order}, of {batch}")

    run()
    for seed in range(2):
        batch, order = ordinary(subject, seed), [5, 2, 7, 0, 4, 6, 3, 1]
        gradients = [value_and_gradient(subject, b)[1] for b in (batch, Batch(batch.embeddings[order], batch.labels[order]))]
        same = torch.allclose(gradients[1], gradients[0][order], rtol=1e-8, atol=1e-10)
        expect(same, f"the gradient is another one in the order {order}, of {batch}")


def check_relabelling(subject: Subject) -> None:
    """Only which labels are equal matters, and which are negative."""

    def same(batch: Batch, names: dict[int, int]) -> None:
        new = [names.get(label, label + 10 if label >= 0 else 5 * label) for label in batch.labels.tolist()]
        renamed = Batch(batch.embeddings, torch.tensor(new, dtype=torch.int64))
        values = [value_and_gradient(subject, b)[0] for b in (batch, renamed)]
        expect(close(values[1], values[0]), f"the loss goes from {values[0]!r} to {values[1]!r} with labels {new}, of {batch}")

    renamings = [{0: 2, 1: 0, 2: 1, 7: 3}, {0: 2**53, 1: 2**53 + 1, 2: 2**62, 7: 0}, {0: 2**24, 1: 2**24 + 1}]
    for seed, names in enumerate(renamings):
        same(ordinary(subject, seed), names)
    property_test(EXAMPLES)(given(batches(dtypes=(torch.float64,), **subject.dims), st.sampled_from(renamings))(same))()


def _transforms(d: int) -> dict[str, Callable[[Tensor], Tensor]]:
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64))[0]
    return {"rotation": lambda x: x @ q, "scale": lambda x: 25 * x, "translation": lambda x: x + 0.7}


def check_invariance(subject: Subject) -> None:
    """Rotations, scalings and translations change nothing where the loss, or its similarity, promises so; elsewhere they do."""
    tags, own = subject.tags, frozenset(getattr(subject.similarity, "invariances", ()) if subject.is_loss else ())
    promises = {"rotation": "rotation" in own or None, "scale": tags.scale, "translation": tags.translation}
    holds = {name: (name in own) if told is None else told for name, told in promises.items()}
    stated = {name for name, told in promises.items() if told is not None}
    d = subject.embedding_dim or 3

    def value(batch: Batch, transform: Callable[[Tensor], Tensor]) -> float:
        return number(subject(transform(batch.embeddings.detach()), batch.labels))

    for name, promised in holds.items():
        if promised or name in stated:
            moved = [(value(b, _transforms(d)[name]), value(b, lambda x: x)) for b in (ordinary(subject, seed) for seed in range(3))]
            changed = [pair for pair in moved if not close(*pair)]
            expect(not (promised and changed), f"a {name} of all points changes the loss: {changed}")
            expect(promised or changed, f"the excuse `{name}=False` is not needed: no {name} changes the loss")
    rows = tuple(row for row in ROWS if row not in ("huge", "tiny"))
    true = [name for name, promised in holds.items() if promised]
    if not true:
        return

    @property_test(EXAMPLES)
    @given(batches(dtypes=(torch.float64,), rows=rows, **subject.dims), st.sampled_from(true))
    def run(batch: Batch, name: str) -> None:
        batch = subject.fit(batch)
        transform = _transforms(batch.embeddings.shape[1])[name]
        got, expected = value(batch, transform), value(batch, lambda x: x)
        expect(close(got, expected, rtol=1e-7, atol=1e-7), f"a {name} changes the loss from {expected!r} to {got!r}, of {batch}")
        if subject.takes_references:
            n = len(batch.labels) // 2
            x, y = batch.embeddings.detach(), batch.labels
            values = [number(subject(f(x[n:]), y[n:], (f(x[:n]), y[:n]))) for f in (transform, lambda x: x)]
            expect(close(*values, rtol=1e-7, atol=1e-7), f"a {name} of batch and references changes the loss: {values}, of {batch}")

    run()


def check_tiles(subject: Subject) -> None:
    """The result does not depend on how the batch is cut: dense, one anchor at a time, or a few."""

    @property_test(EXAMPLES)
    @given(batches(**subject.dims))
    def run(batch: Batch) -> None:
        batch = subject.fit(batch)
        rtol = 1e-4 if batch.embeddings.dtype == torch.float32 else 1e-9
        free = "scale" in getattr(subject.similarity, "invariances", ())
        size = 1.0 if free else 1 + float(batch.embeddings.detach().square().sum())  # of scores, whose rounding a difference keeps
        expected = value_and_gradient(subject, batch, execution="dense")[0]
        for budget in (TINY_BUDGET, SMALL_BUDGET):
            got = value_and_gradient(subject, batch, execution="tiled", memory_budget=budget)[0]
            expect(
                close(got, expected, rtol=rtol, atol=rtol * size),
                f"dense the loss is {expected!r}, in tiles of {budget} bytes {got!r}, of {batch}",
            )

    run()
    for reduction in REDUCTIONS:
        batch = ordinary(subject, len(reduction), 9)
        batch.labels[4] = -1
        x = batch.fresh()
        dense = subject(x, batch.labels, execution="dense", reduction=reduction)
        weights = torch.linspace(0.5, 2, dense.numel(), dtype=dense.dtype).reshape(dense.shape)
        expected = torch.autograd.grad((weights * dense).sum(), x)[0]
        for budget in (TINY_BUDGET, SMALL_BUDGET):
            tiled = subject(x, batch.labels, execution="tiled", memory_budget=budget, reduction=reduction)
            where = f"of reduction {reduction!r}, in tiles of {budget} bytes"
            expect(torch.allclose(tiled, dense, rtol=1e-9, atol=1e-11), f"dense the loss is {dense.tolist()}, but {tiled.tolist()} {where}")
            got = torch.autograd.grad((weights * tiled).sum(), x)[0]
            expect(torch.allclose(got, expected, rtol=1e-8, atol=1e-10), f"the gradient differs from the dense one {where}")


def check_reductions(subject: Subject) -> None:
    """Reduction "sum" is the sum of reduction "none", of which an ignored anchor is 0."""
    batch = ordinary(subject, 1, 9)
    batch.labels[4] = -1
    x = batch.fresh()
    each = subject(x, batch.labels, reduction="none")
    parts, total = number(each.sum()), number(subject(x, batch.labels, reduction="sum"))
    expect(close(parts, total), f"the losses of the anchors add up to {parts!r}, but their sum is said to be {total!r}")
    if subject.tags.per_point:
        expect(each.shape == (9,), f"expected one loss for each of 9 anchors, but got shape {list(each.shape)}")
        expect(number(each[4]) == 0, f"the loss of an ignored anchor is {number(each[4])!r}")


def check_separable(subject: Subject) -> None:
    """What an anchor loses does not depend on the other anchors, given the references, unless the loss says that it couples them."""
    batch, references = ordinary(subject, 2, 9), ordinary(subject, 3, 7)
    among = (references.embeddings.detach(), references.labels)
    loss = subject.copy(torch.float64, reduction="none", execution="dense").eval()  # a running statistic sees all anchors of a call
    every = subject.value_by(loss, batch.fresh(), batch.labels, among)
    part = subject.value_by(loss, batch.fresh()[3:], batch.labels[3:], among)
    apart = every.shape == (9,) and part.shape == (6,) and torch.allclose(every[3:], part, rtol=1e-9, atol=1e-11)
    if not subject.tags.per_point:
        expect(not apart, "the excuse `per_point=False` is not needed: each point has a loss of its own")
        return
    expect(apart or not subject.separable, "the loss of an anchor depends on the other anchors: it is not separable")
    expect(subject.separable or not apart, "the excuse `separable = False` is not needed: anchors do not see each other")


def check_references_split(subject: Subject) -> None:
    """References in two parts are as good as in one, in any order."""

    def outcome(batch: Batch, others: Batch, cut: int | None) -> tuple[float, tuple[Tensor, ...]]:
        x, y = batch.fresh(), others.fresh()
        parts: Any = (y, others.labels)
        if cut is not None:
            parts = [References(y[cut:], others.labels[cut:]), (y[:cut], others.labels[:cut])]
        value = subject(x, batch.labels, parts)
        return number(value), gradients_of(value, x, y)

    for seed in range(3):
        batch, others = ordinary(subject, seed, 7), ordinary(subject, seed + 10, 8)
        whole, slopes = outcome(batch, others, None)
        for cut in (3, 0):
            value, gradients = outcome(batch, others, cut)
            expect(close(value, whole), f"the loss is {whole!r} with all references, but {value!r} with two parts of them")
            same = all(torch.allclose(g, h, rtol=1e-8, atol=1e-10) for g, h in zip(gradients, slopes, strict=True))
            expect(same, "the gradient with references in two parts differs from that with all of them")


def check_self_exclusion(subject: Subject) -> None:
    """A point is never compared with itself, and what is itself is a matter of ids: not of values, positions or objects."""
    batch = ordinary(subject, 4, 7)
    x, labels, ids = batch.embeddings.detach(), batch.labels, torch.tensor([4, 9, 2, 7, 0, 5, 30])
    order = [3, 5, 0, 6, 2, 4, 1]
    alone = number(subject(x, labels))
    for what, references in (
        ("with its own ids", References(x, labels, ids)),
        ("as a copy with the same ids", References(x.clone(), labels.clone(), ids)),
        ("in another order with the same ids", References(x[order], labels[order], ids[order])),
    ):
        got = number(subject(x, labels, references, ids))
        expect(close(got, alone), f"the loss of a batch is {alone!r}, but {got!r} if it is given as references {what}")
    strangers = [number(subject(x, labels, r)) for r in ((x, labels), (x.clone(), labels.clone()), References(x[order], labels[order]))]
    fresh = number(subject(x, labels, References(x, labels, ids + 100), ids))
    for got in (*strangers[1:], fresh):
        expect(close(got, strangers[0]), f"the loss against equal points with other ids is {strangers[0]!r} or {got!r}")


def check_relation(subject: Subject) -> None:
    """The relation "same class" by a function gives what labels give."""
    batch = ordinary(subject, 6, 7)
    batch.labels[2] = -1
    expected, gradient = value_and_gradient(subject, batch)
    got, other = value_and_gradient(subject, batch, relation=lambda a, b: a.unsqueeze(1) == b)
    expect(close(got, expected), f"the loss is {expected!r} by labels, but {got!r} by a relation")
    expect(torch.allclose(other, gradient, rtol=1e-8, atol=1e-10), "the gradient by labels differs from that by a relation")


def check_half(subject: Subject) -> None:
    """Half-precision embeddings are at most twice as wrong as scores rounded to half precision, and the gradient right to its dtype."""
    for dtype in (torch.float16, torch.bfloat16):
        for seed in range(4):
            batch = ordinary(subject, seed, 8, 4, dtype=dtype)
            exact = Batch(batch.embeddings.detach().double(), batch.labels)
            true, slope = value_and_gradient(subject, exact)
            if subject.spec is not None:
                true = by_spec(subject, Points.of(exact.embeddings, exact.labels), _own_references(subject))
            got, gradient = value_and_gradient(subject, batch)
            where = f"of {dtype} embeddings, whose loss is {true!r} in double precision"
            error = (1e-4 if subject.is_loss else torch.finfo(dtype).eps) * abs(true)
            if subject.on_scores and subject.takes_references:
                points = Points.of(batch.embeddings, batch.labels, range(8))
                error = abs(reduced(subject, anchors_of(copy.deepcopy(subject.similarity), points, points, dtype)) - true)
            expect(
                abs(got - true) <= 2 * error + 1e-5 * abs(true), f"expected an error of at most {2 * error:.3g}, but got {got!r}, {where}"
            )
            wrong, size = float((gradient.double() - slope).norm()), float(slope.norm())
            expect(wrong <= 2 * torch.finfo(dtype).eps * size + 1e-12, f"the gradient is wrong by {wrong / max(size, 1e-300):.3g}, {where}")


def check_autocast(subject: Subject) -> None:
    """Autocast around the loss changes nothing, and half-precision outputs of a network under autocast are welcome."""
    for dtype in (torch.float16, torch.bfloat16):
        for seed in range(2):
            batch = ordinary(subject, seed, 8, 4, dtype=torch.float32)
            expected = value_and_gradient(subject, batch)
            x, h = batch.fresh(), batch.fresh()
            with torch.autocast("cpu", dtype=dtype):
                plain = subject(x, batch.labels)
                value = subject(torch.nn.functional.linear(h, torch.eye(h.shape[1])), batch.labels)
            got = number(plain.sum()), gradients_of(plain.sum(), x)[0]
            same = got[0] == expected[0] and torch.equal(got[1], expected[1])
            expect(same, f"the loss is {expected[0]!r}, but {got[0]!r} under {dtype} autocast, or its gradient another one")
            expect(value.isfinite(), f"the loss of a network under {dtype} autocast is {value.item()}")
            gradient = gradients_of(value.sum(), h)[0]
            expect(gradient.isfinite().all(), f"the gradient of a network under {dtype} autocast is {gradient.tolist()}")


def check_ignored_is_absent(subject: Subject) -> None:
    """A point with a negative label is as good as no point, among anchors and among references."""

    @property_test(EXAMPLES)
    @given(batches(dtypes=(torch.float64,), labellings=("ignored",), **subject.dims))
    def run(batch: Batch) -> None:
        batch = subject.fit(batch)
        kept = batch.labels >= 0
        without = Batch(batch.embeddings.detach()[kept], batch.labels[kept])
        (value, gradient), expected = value_and_gradient(subject, batch), value_and_gradient(subject, without)[0]
        expect(close(value, expected), f"the loss is {value!r}, but {expected!r} without the ignored points, of {batch}")
        expect(not gradient[~kept].any(), f"an ignored point has a gradient, of {batch}")

    run()


def check_objects(subject: Subject) -> None:
    """The result depends on values only: not on which tensors are the same object, on earlier calls, or on their dtype."""
    batch = ordinary(subject, 5)
    x, labels = batch.fresh(), batch.labels
    loss = subject.copy(torch.float64)
    first = number(subject.value_by(loss.eval(), x, labels))
    for again in (x, x.clone(), x.detach().clone()):
        second = number(subject.value_by(loss, again, labels.clone()))
        expect(close(second, first), f"the same batch has the loss {first!r} in one call and {second!r} in another")
    twin = subject.copy().eval()
    subject.value_by(twin, x.detach().to(torch.bfloat16), labels)
    after = number(subject.value_by(twin, x.detach().float(), labels))
    expected = number(subject.value_by(subject.copy().eval(), x.detach().float(), labels))
    expect(close(after, expected, rtol=1e-6), f"the loss is {expected!r}, but {after!r} after a batch in half precision")


def _always(subject: Subject) -> bool:
    return True


def _by_labels(subject: Subject) -> bool:
    return subject.call is None


def _open_classes(subject: Subject) -> bool:
    return subject.call is None and subject.num_classes is None


def _takes_references(subject: Subject) -> bool:
    return subject.is_loss and subject.takes_references


CHECKS: list[Check[Subject]] = [
    Check(check_batch, lambda s: s.spec is not None),
    Check(check_finite, _always),
    Check(check_nothing_to_learn, _by_labels),
    Check(check_attached, _by_labels),
    Check(check_needs, _open_classes),
    Check(check_gradient, _always),
    Check(check_parameters, lambda s: not s.tags.self_paced and any(p.requires_grad for p in s.loss.parameters())),
    Check(check_zero_vector, _always),
    Check(check_collapse, _always),
    Check(check_permutation, _by_labels),
    Check(check_relabelling, _open_classes),
    Check(check_invariance, lambda s: s.num_classes is None and s.call is None),
    Check(check_tiles, lambda s: s.tileable),
    Check(check_reductions, lambda s: s.is_loss),
    Check(check_separable, _takes_references),
    Check(check_references_split, _takes_references),
    Check(check_self_exclusion, lambda s: _takes_references(s) and s.tags.per_point),
    Check(check_relation, _takes_references),
    Check(check_half, _always),
    Check(check_autocast, _always),
    Check(check_ignored_is_absent, lambda s: s.is_loss),
    Check(check_objects, _always),
]
