"""`check_store`: what anything that gives references is held to."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metriczoo import losses
from metriczoo._checks import describe
from metriczoo.references import References, Store
from metriczoo.similarity import InnerProduct
from metriczoo.testing._checks import Check, expect, failures, raise_failures
from metriczoo.testing._members import PairLoss, copies, expect_close, expect_documented, expect_settings_checked, loaded

__all__ = ["STORE_CHECKS", "check_store"]

Update = Callable[[Any, torch.Generator], None]

_LARGE = 2**53 + 1  # no floating-point number


@dataclass(frozen=True)
class Case:
    """A store, and how it is updated if not by `update` or `enqueue`."""

    store: Any
    given: Update | None

    def fresh(self) -> Any:
        """A copy, so that no check changes what the next one sees."""
        return copy.deepcopy(self.store)

    @property
    def method(self) -> str | None:
        """The method that puts embeddings in, if it is known."""
        return next((name for name in ("enqueue", "update") if callable(getattr(self.store, name, None))), None)

    @property
    def parameters(self) -> frozenset[str]:
        """The names of what that method takes."""
        return frozenset() if self.method is None else frozenset(inspect.signature(getattr(self.store, self.method)).parameters)

    @property
    def known(self) -> bool:
        """Whether the kit itself can make an update."""
        return self.given is None and "embeddings" in self.parameters

    def size(self) -> int:
        """How many rows ids may name."""
        return int(getattr(self.store, "size", len(self.store.references())))

    def arguments(self, n: int, seed: int, *, ids: Tensor | None = None) -> dict[str, Any]:
        """What an update of `n` points takes."""
        generator = torch.Generator().manual_seed(seed)
        store = self.store.references().embeddings
        points = torch.randn(n, store.shape[1], generator=generator)
        ids = torch.randperm(self.size(), generator=generator)[torch.arange(n) % self.size()] if ids is None else ids
        # One id never has two labels.
        every = {"embeddings": points / points.norm(dim=1, keepdim=True), "labels": ids % min(3, self.size()), "ids": ids}
        return {name: value for name, value in every.items() if name in self.parameters}

    def put(self, store: Any, **arguments: Any) -> None:
        """One update."""
        assert self.method is not None
        getattr(store, self.method)(**arguments)

    def update(self, store: Any, seed: int, n: int = 5) -> None:
        """One update with random points."""
        if self.given is not None:
            self.given(store, torch.Generator().manual_seed(seed))
        else:
            self.put(store, **self.arguments(n, seed))

    def filled(self) -> Any:
        """A copy after two updates, if it has any."""
        store = self.fresh()
        if _updates(self):
            self.update(store, 100, n=self.size())
            self.update(store, 101, n=1)  # a ring has begun anew, and is not at its start
        return store


def _updates(case: Case) -> bool:
    return case.given is not None or case.known


def _contents(store: Any) -> dict[str, Tensor]:
    """Copies of all that can be seen of a store."""
    found = store.references()
    state = {f"state {name}": value for name, value in store.state_dict().items()} if isinstance(store, nn.Module) else {}
    every = {"embeddings": found.embeddings, "labels": found.labels, "ids": found.ids, **state}
    return {name: value.detach().clone() for name, value in every.items() if isinstance(value, Tensor)}


def _expect_equal(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], when: str) -> None:
    expect(got.keys() == expected.keys(), f"{when}: {sorted(got)} instead of {sorted(expected)}")
    for name, value in expected.items():
        other = got[name]
        same = other.dtype == value.dtype and torch.equal(other, value)
        expect(same, f"{when}: {name} {other.tolist()} instead of {value.tolist()}"[:400])


def _batch(case: Case, seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor]:
    """Anchors of the dimension of the store, and labels that it may hold."""
    found = case.store.references()
    x = torch.randn(n, found.embeddings.shape[1], generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(n) % min(3, max(1, case.size()))


def check_references(case: Case) -> None:
    """`references()` gives `References`: finite points, integer labels and ids; asking changes nothing."""
    for store in (case.fresh(), case.filled()):
        found = store.references()
        expect(isinstance(found, References), f"expected `references()` to give a References, but got {describe(found)}")
        expect(found.embeddings.is_floating_point() and bool(found.embeddings.isfinite().all()), "references are not all finite")
        for name, value in (("labels", found.labels), ("ids", found.ids)):
            expect(value.dtype == torch.int64 and value.shape == (len(found),), f"{name} are {describe(value)}")
        before = _contents(store)
        store.references()
        _expect_equal(_contents(store), before, "asked a second time")
        ids = found.ids[found.ids >= 0]
        if case.method != "enqueue":
            expect(len(ids.unique()) == len(ids), f"ids {ids.tolist()} repeat")


def check_loss(case: Case) -> None:
    """A loss takes the store as it is at the start and after updates; forward and backward change nothing in it."""
    x, labels = _batch(case)
    for what, store in (("at the start", case.fresh()), ("after updates", case.filled())):
        for options in ({"execution": "dense"}, {"execution": "tiled", "memory_budget": 1}):
            before = _contents(store)
            leaf = x.clone().requires_grad_()
            value = PairLoss(**options)(leaf, labels, store)
            expect(value.isfinite(), f"{what}, a loss is {float(value.detach())}")
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
            expect(gradient.isfinite().all(), f"{what}, the gradient of a loss is {gradient.tolist()}")
            if value.requires_grad:
                PairLoss(**options)(leaf, labels, store).backward()
            _expect_equal(_contents(store), before, f"{what}, after forward and backward of a loss")
        parts = store.references()
        same = PairLoss()(x, labels, References(parts.embeddings.detach(), parts.labels, parts.ids))
        expect_close(
            PairLoss()(x, labels, store).detach(), same.detach(), f"{what}, a loss on the store instead of its references", rtol=1e-5
        )


def check_gradient(case: Case) -> None:
    """Parameters receive the gradient of a loss through `references()`; what is no parameter has none, whatever was put in."""
    store = case.filled()
    learnable = [p for p in store.parameters() if p.requires_grad] if isinstance(store, nn.Module) else []
    found = store.references()
    expect(
        found.embeddings.requires_grad == bool(learnable),
        f"references require a gradient: {found.embeddings.requires_grad}, but the store has {len(learnable)} parameters",
    )
    x, labels = _batch(case)
    if learnable:
        gradients = torch.autograd.grad(PairLoss()(x, labels, store), learnable, allow_unused=True)
        expect(all(g is not None and bool(g.any()) for g in gradients), "a parameter receives no gradient from a loss on the store")
    if case.known:
        arguments = case.arguments(5, 7)
        leaf = arguments["embeddings"].clone().requires_grad_()
        case.put(store, **{**arguments, "embeddings": leaf * 1.0})
        expect(store.references().embeddings.requires_grad == bool(learnable), "points that were put in keep their graph")


def check_ids(case: Case) -> None:
    """An update of one id changes the row with that id and no other, and an anchor with that id is compared with all others."""
    store = case.filled()
    before = store.references().embeddings.clone()
    own = case.size() - 1
    case.put(store, **case.arguments(1, 9, ids=torch.tensor([own])))
    found = store.references()
    changed = found.ids[(found.embeddings != before).any(1)].tolist()
    expect(changed == [own], f"an update of id {own} changed the rows with ids {changed}")
    x, labels = _batch(case)
    ids, one = torch.full((len(x),), -1), torch.full((len(x),), -1)
    ids[0], one[0] = own, labels[0]
    there = found.ids != own
    got = PairLoss()(x, one, store, ids=ids)
    expected = PairLoss()(x, one, References(found.embeddings[there], found.labels[there]))
    expect_close(got, expected, f"a loss of an anchor with id {own}, which is in the store", rtol=1e-5)


# ---- updates


def check_update(case: Case) -> None:
    """An update changes the references, and the same update of the same store gives the same."""
    store, other = case.fresh(), case.fresh()
    before = _contents(store)
    for s in (store, other):
        case.update(s, 0)
    after = _contents(store)
    same = after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    expect(not same, "an update changed nothing")
    _expect_equal(_contents(other), after, "the same update of a copy")


def check_copied(case: Case) -> None:
    """What was put in is copied: the store does not change with the caller's tensors, nor they with it."""
    store, arguments = case.fresh(), case.arguments(5, 1)
    before = {name: value.clone() for name, value in arguments.items()}
    case.put(store, **arguments)
    for name, value in arguments.items():
        expect(torch.equal(value, before[name]), f"`{name}` of the caller was changed by an update")
    contents = _contents(store)
    for value in arguments.values():
        value.add_(1)
    _expect_equal(_contents(store), contents, "after the caller changed what was put in")


def check_pending_backward(case: Case) -> None:
    """An update between forward and backward is an error, or does no harm: never a wrong gradient."""
    x, labels = _batch(case)
    for execution in ("dense", "tiled"):
        for reduction in ("sum", "none"):
            store = case.filled()
            gradients = []
            for late in (False, True):
                leaf = x.clone().requires_grad_()
                loss = losses.NTXentLoss(similarity=InnerProduct(), execution=execution, reduction=reduction)  # keeps points as they are
                value = loss(leaf, labels, store).sum()
                if late:
                    case.update(store, 2)
                try:
                    gradients.append(torch.autograd.grad(value, leaf)[0])
                except RuntimeError:
                    break
            if len(gradients) == 2:
                expect_close(
                    gradients[1], gradients[0], f"gradient ({execution}, {reduction}) with an update before backward", rtol=1e-5, atol=1e-6
                )


def check_order(case: Case) -> None:
    """Within one update the order of the points does not matter, those of one id or class neither."""
    repeated = torch.tensor([0, 1, 0, 0, 1, 2]) % case.size()
    arguments = case.arguments(6, 3, ids=repeated)
    order = torch.tensor([3, 5, 1, 0, 4, 2])
    results = []
    for rows in (torch.arange(6), order):
        store = case.fresh()
        case.put(store, **{name: value[rows] for name, value in arguments.items()})
        results.append(_contents(store))
    for name, value in results[0].items():
        expect_close(results[1][name], value, f"{name} after an update in another order", rtol=1e-5, atol=1e-6)


def check_parts(case: Case) -> None:
    """First in, first out: after any updates the store holds the last points with their labels and ids, however they were cut."""
    size = case.size()
    for cuts in ([1] * (2 * size + 1), [size, 1, size], [2 * size + 3], [size - 1, 2, 0, size + 1], [0, 1]):
        store = case.fresh()
        held: deque[tuple[Any, ...]] = deque(_rows(store.references()), maxlen=size)
        for step, n in enumerate(cuts):
            arguments = case.arguments(n, 10 + step, ids=torch.arange(n) + _LARGE + 100 * step)
            case.put(store, **arguments)
            given = References(
                arguments["embeddings"], arguments.get("labels", torch.full((n,), -1)), arguments.get("ids", torch.full((n,), -1))
            )
            held.extend(_rows(given))
        got, expected = sorted(_rows(store.references())), sorted(held)
        expect(len(got) == len(expected), f"after updates of {cuts} points {len(got)} are held instead of {len(expected)}")
        for (*a, x), (*b, y) in zip(got, expected, strict=True):
            expect(a == b, f"after updates of {cuts} points label and id {a} are held instead of {b}")
            expect_close(torch.tensor(x), torch.tensor(y), f"points after updates of {cuts} points", rtol=1e-2, atol=1e-2)


def _rows(found: References) -> list[tuple[Any, ...]]:
    return [
        (*pair, tuple(x)) for *pair, x in zip(found.labels.tolist(), found.ids.tolist(), found.embeddings.float().tolist(), strict=True)
    ]


def check_large_labels(case: Case) -> None:
    """Labels keep all their 64 bits."""
    n = min(2, case.size())
    store, arguments, labels = case.fresh(), case.arguments(n, 4, ids=torch.arange(n)), _LARGE + torch.arange(n)
    case.put(store, **{**arguments, "labels": labels})
    held = set(store.references().labels.tolist())
    expect(set(labels.tolist()) <= held, f"labels {labels.tolist()} were put in, but {sorted(held)} are held")


def _wrong(case: Case) -> Iterator[tuple[str, dict[str, Any], tuple[type[Exception], ...]]]:
    good, size = case.arguments(2, 5, ids=torch.arange(2) % case.size()), case.size()
    points = good["embeddings"]
    yield "NaN", {"embeddings": points * torch.tensor([[1.0], [torch.nan]])}, (ValueError,)
    yield "infinity", {"embeddings": points * torch.tensor([[torch.inf], [1.0]])}, (ValueError,)
    yield "points of another dimension", {"embeddings": torch.cat([points, points], 1)}, (ValueError,)
    yield "integers for points", {"embeddings": torch.ones_like(points, dtype=torch.int64)}, (TypeError, ValueError)
    yield "a list for points", {"embeddings": points.tolist()}, (TypeError, ValueError)
    for name in ("labels", "ids"):
        if name in good:
            yield f"too many {name}", {name: torch.arange(3) % size}, (ValueError,)
            yield f"{name} that are no integers", {name: torch.tensor([0.5, 0.5])}, (TypeError, ValueError)
    if "ids" in good and case.method == "update":
        for wrong in (-1, size, _LARGE):
            yield f"an id of {wrong}", {"ids": torch.tensor([0, wrong])}, (IndexError, ValueError)


def check_refused(case: Case) -> None:
    """Wrong updates raise `TypeError`, `ValueError` or `IndexError`, and leave the store as it was."""
    store, good = case.filled(), case.arguments(2, 5, ids=torch.arange(2) % case.size())
    before = _contents(store)
    for what, wrong, kinds in _wrong(case):
        try:
            case.put(store, **{**good, **wrong})
        except kinds:
            _expect_equal(_contents(store), before, f"after an update with {what}, which was refused")
        except Exception as error:
            raise AssertionError(f"an update with {what} raises {type(error).__name__}: {error}") from error
        else:
            raise AssertionError(f"an update with {what} is accepted")


def check_empty_update(case: Case) -> None:
    """An update without any point changes nothing."""
    store = case.filled()
    before = _contents(store)
    case.put(store, **case.arguments(0, 6))
    _expect_equal(_contents(store), before, "after an update without points")


# ---- state


def _continue(case: Case, store: Any) -> dict[str, Tensor]:
    """All that can be seen after some more updates, and what is drawn."""
    for seed in range(3):
        if _updates(case):
            case.update(store, seed, n=4)
    drawn = {}
    if callable(getattr(store, "sample", None)):
        drawn["sample"] = store.sample(5)
    return {**_contents(store), **drawn}


def check_state(case: Case) -> None:
    """All state is in `state_dict`: a store that is loaded goes on bit for bit, draws included."""
    store, other = case.filled(), case.fresh()
    if isinstance(other, nn.Module):
        with torch.no_grad():
            for parameter in store.parameters():
                parameter.mul_(1.5)
    other.load_state_dict(loaded(store.state_dict()))
    _expect_equal(_contents(other), _contents(store), "after load_state_dict")
    _expect_equal(_continue(case, other), _continue(case, store), "after load_state_dict and further updates")


def check_copies(case: Case) -> None:
    """A copy or a pickle goes on as the store does, and does not share its memory."""
    store = case.filled()
    every, before = list(copies(store)), _contents(store)
    expected = _continue(case, store)
    for how, other in every:
        _expect_equal(_contents(other), before, f"the store was updated, and with it what {how} had made of it")
        _expect_equal(_continue(case, other), expected, f"after {how} and further updates")


def check_moved(case: Case) -> None:
    """`.to(dtype)` leaves labels and ids alone, and updates and losses go on."""
    store = case.filled()
    found = store.references()
    labels, ids = found.labels.clone(), found.ids.clone()
    store = store.to(torch.float64)
    found = store.references()
    expect(torch.equal(found.labels, labels) and torch.equal(found.ids, ids), "labels or ids changed with the dtype")
    if _updates(case):
        case.update(store, 8)
    x, targets = _batch(case)
    expect(PairLoss()(x.double(), targets, store).isfinite(), "a loss on a store in double precision is not finite")


def check_settings(case: Case) -> None:
    """The constructor refuses what makes no sense and names the argument."""
    expect_settings_checked(case.store)


def check_documentation(case: Case) -> None:
    """The class is documented, with all of its settings."""
    expect_documented(type(case.store))


def _always(case: Case) -> bool:
    return True


def _known(case: Case) -> bool:
    return case.known


def _by_rows(case: Case) -> bool:
    return case.known and case.method == "update"


def _queues(case: Case) -> bool:
    return case.known and case.method == "enqueue"


def _keeps_labels(case: Case) -> bool:
    return case.known and {"labels", "ids"} <= case.parameters


def _has_state(case: Case) -> bool:
    return callable(getattr(case.store, "state_dict", None))


STORE_CHECKS: tuple[Check[Case], ...] = (
    *(Check(check, _always) for check in (check_references, check_loss, check_gradient)),
    *(Check(check, _updates) for check in (check_update, check_pending_backward)),
    *(Check(check, _known) for check in (check_copied, check_refused, check_empty_update)),
    Check(check_order, _by_rows),
    Check(check_ids, lambda case: _by_rows(case) and "ids" in case.parameters),
    Check(check_parts, _queues),
    Check(check_large_labels, _keeps_labels),
    Check(check_state, _has_state),
    Check(check_copies, _always),
    Check(check_moved, lambda case: isinstance(case.store, nn.Module)),
    *(Check(check, _always) for check in (check_settings, check_documentation)),
)


def check_store(store: Any, *, update: Update | None = None) -> None:
    """Put a store through the checks that those of this library are held to: anything that gives references.

    `references()` gives well-formed references, and asking changes nothing. A loss takes the store at its start and after updates, leaves
    out the reference of an anchor's own id, and never changes it; parameters receive gradients, all else has none. Updates are copies,
    repeat themselves, refuse what is wrong as a whole, and never spoil a pending backward pass silently. All state is in `state_dict`:
    a store that is loaded, copied or unpickled goes on bit for bit. After a change of dtype it
    goes on. Settings that make no sense are refused; the class is documented.

    More is checked of a store with a method that the kit knows how to call: `enqueue(embeddings, labels, ids)` is a queue of `size` points,
    of which nothing is lost where it wraps around; `update`, with `embeddings` and any of `labels` and `ids`, names rows by `ids` in
    [0, `size`), or classes by `labels`, and does not depend on the order of the points.

    Args:
        store: the store, with at least one row or room for one. It is copied, and not changed. Classes are numbered from 0.
        update: `update(store, generator)` puts random points into a store that has another way of doing it. Default: by its method.

    Raises:
        AssertionError: that names every check that failed, and how.
        TypeError: if `store` has no method `references`, or is a class, or `update` is not callable.

    Example:
        A store of one's own:

        >>> class Fixed:
        ...     '''Three points that never change.'''
        ...
        ...     def references(self):
        ...         return References(torch.eye(3), torch.arange(3))
        >>> check_store(Fixed())

    Relations:
        `check_loss` compares losses on references of any kind.
    """
    if isinstance(store, type) or not isinstance(store, Store):
        hint = f" Did you mean an instance of `{store.__name__}`?" if isinstance(store, type) else ""
        raise TypeError(f"Expected `store` to be an object with a method `references`, but got {describe(store)}.{hint}")
    if update is not None and not callable(update):
        raise TypeError(f"Expected `update` to be callable on a store and a generator, but got {describe(update)}.")
    raise_failures(store, failures(Case(store, update), STORE_CHECKS))
