"""`check_store`: it passes our own stores, and each of its checks finds a bug that was planted for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metriczoo import stores
from metriczoo.references import References
from metriczoo.stores import Centers, ClusterIndex, EmbeddingQueue, MemoryBank, Proxies
from metriczoo.testing._checks import failures
from metriczoo.testing.stores import STORE_CHECKS, Case, check_store


def cluster(store: ClusterIndex, generator: torch.Generator) -> None:
    store.update(torch.randn(store.num_samples, 4, generator=generator))


OURS: list[tuple[Any, Any]] = [
    (MemoryBank(7, 4), None),
    (MemoryBank(7, 4, labels=[0, 1, 2, 0, 1, 2, 0], momentum=0.0, normalize=False, dtype=torch.bfloat16), None),
    (EmbeddingQueue(5, 4), None),
    (EmbeddingQueue(1, 4, dtype=torch.float16), None),
    (Proxies(3, 4), None),
    (Proxies(3, 4, per_class=2), None),
    (Centers(3, 4), None),
    (ClusterIndex([0, 0, 0, 1, 1, 1, 2, 2, -1], 4, per_class=2), cluster),
]


@pytest.mark.parametrize(("store", "update"), OURS, ids=lambda x: repr(x) if isinstance(x, torch.nn.Module) else "")
def test_our_stores_pass(store: Any, update: Any) -> None:
    check_store(store, update=update)


def test_no_store_is_forgotten() -> None:
    assert {type(store).__name__ for store, _ in OURS} == set(stores.__all__)


def test_a_bank_in_a_file_passes(tmp_path: Path) -> None:
    check_store(MemoryBank(7, 4, path=tmp_path / "bank"))


# ---- planted bugs


class RepeatedIds(EmbeddingQueue):
    """Every row has the id 0."""

    enqueue = None  # type: ignore[assignment]

    def references(self) -> References:
        return References(self.embeddings, self.labels, torch.zeros_like(self.ids))


class Counting(EmbeddingQueue):
    """Asking changes it."""

    def references(self) -> References:
        self.embeddings.mul_(0.9)
        return super().references()


class UpdatedByBackward(EmbeddingQueue):
    """Changes as a side effect of backward."""

    def references(self) -> References:
        found = super().references()
        points = found.embeddings.clone().requires_grad_()
        points.register_hook(lambda gradient: self.embeddings[: len(gradient)].sub_(gradient))
        return References(points, found.labels, found.ids)


class DetachedProxies(Proxies):
    """Proxies that no gradient reaches."""

    def references(self) -> References:
        found = super().references()
        return References(found.embeddings.detach(), found.labels)


class KeepsGraph(EmbeddingQueue):
    """Keeps the graph of what was put in."""

    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        super().enqueue(embeddings, labels, ids)
        self.embeddings = self.embeddings + 0 * embeddings.sum()


class Forgetful(EmbeddingQueue):
    """Takes updates and forgets them."""

    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        pass


class Noisy(EmbeddingQueue):
    """No update is like another."""

    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        super().enqueue(embeddings + 0.01 * torch.randn_like(embeddings), labels, ids)


class ByReference:
    """Keeps the tensors that it was given."""

    def __init__(self) -> None:
        self.points, self.labels = torch.zeros(1, 4), torch.tensor([-1])

    def enqueue(self, embeddings: Tensor, labels: Tensor) -> None:
        self.points, self.labels = embeddings, labels

    def references(self) -> References:
        return References(self.points, self.labels)


class BehindAutograd(MemoryBank):
    """Changes what a backward pass is waiting for, unseen."""

    def update(self, ids: Any, embeddings: Tensor, labels: Any = None) -> None:
        other = MemoryBank(self.size, self.embedding_dim, momentum=self.momentum)
        other.load_state_dict(self.state_dict())
        other.update(ids, embeddings, labels)
        for name, buffer in self.named_buffers():
            buffer.data.copy_(other.get_buffer(name))


class Unchecking(EmbeddingQueue):
    """Takes whatever comes."""

    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        super().enqueue(torch.as_tensor(embeddings).float().nan_to_num()[:, : self.embedding_dim], labels, ids)


class HalfDone(MemoryBank):
    """Finds out too late that an update is wrong."""

    def update(self, ids: Any, embeddings: Tensor, labels: Any = None) -> None:
        if len(embeddings):
            self.filled[:] = False
        super().update(ids, embeddings, labels)


class MeanOfNone(Centers):
    """Moves all centres by the mean of the update."""

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Any) -> None:
        super().update(embeddings, labels)
        self.embeddings += 0.1 * embeddings.mean(0)


class LastWins(MemoryBank):
    """Of one id the last point counts."""

    @torch.no_grad()
    def update(self, ids: Tensor, embeddings: Tensor, labels: Tensor) -> None:
        super().update(ids, embeddings, labels)
        for i, x in zip(ids.tolist(), embeddings, strict=True):
            self.embeddings[i] = x


class NextRow(MemoryBank):
    """Confuses rows."""

    def references(self) -> References:
        found = super().references()
        return References(found.embeddings, found.labels, (found.ids + 1) % self.size)


class LostAtTheEnd(EmbeddingQueue):
    """What does not fit before the end of the ring is lost."""

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        room = self.size - self._num_enqueued % self.size
        super().enqueue(embeddings[:room], labels[:room], None if ids is None else ids[:room])


class FloatLabels(EmbeddingQueue):
    """Keeps labels with the digits of floating-point numbers."""

    def enqueue(self, embeddings: Tensor, labels: Any, ids: Any = None) -> None:
        super().enqueue(embeddings, labels.double().long() if labels.dtype == torch.int64 else labels, ids)


class CursorLost(EmbeddingQueue):
    """Its cursor is no part of the state."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._num_enqueued = int(self.num_enqueued) // self.size * self.size


class DrawsLost(MemoryBank):
    """Draws from a generator that nobody saves."""

    def sample(self, num: int, **options: Any) -> Tensor:
        return torch.randint(self.size, (num,))


class Shared(EmbeddingQueue):
    """Its copies share its memory."""

    def __deepcopy__(self, memo: Any) -> Any:
        other = Shared(self.size, self.embedding_dim)
        other.load_state_dict(self.state_dict())
        other.embeddings = self.embeddings
        return other


class SinglePrecision(MemoryBank):
    """Its updates know one dtype only."""

    @torch.no_grad()
    def update(self, ids: Any, embeddings: Tensor, labels: Any = None) -> None:
        super().update(ids, embeddings, labels)
        self.embeddings.index_copy_(0, torch.arange(1), torch.zeros(1, self.embedding_dim) + self.embeddings[:1].mean().float())


class Unchecked(EmbeddingQueue):
    """A queue of some rate.

    Args:
        size: of the queue.
        embedding_dim: of the points.
        rate: anything.
    """

    def __init__(self, size: int, embedding_dim: int, rate: float = 1.0) -> None:
        super().__init__(size, embedding_dim)
        self.rate = rate


class Undocumented(EmbeddingQueue):
    pass


PLANTED: list[tuple[str, Any]] = [
    ("check_references", RepeatedIds(5, 4)),
    ("check_references", Counting(5, 4)),
    ("check_loss", UpdatedByBackward(5, 4)),
    ("check_gradient", DetachedProxies(3, 4)),
    ("check_gradient", KeepsGraph(5, 4)),
    ("check_update", Forgetful(5, 4)),
    ("check_update", Noisy(5, 4)),
    ("check_copied", ByReference()),
    ("check_pending_backward", BehindAutograd(5, 4)),
    ("check_refused", Unchecking(5, 4)),
    ("check_refused", HalfDone(5, 4)),
    ("check_empty_update", MeanOfNone(3, 4)),
    ("check_order", LastWins(5, 4)),
    ("check_ids", NextRow(5, 4)),
    ("check_parts", LostAtTheEnd(5, 4)),
    ("check_large_labels", FloatLabels(5, 4)),
    ("check_state", CursorLost(5, 4)),
    ("check_state", DrawsLost(5, 4)),
    ("check_copies", Shared(5, 4)),
    ("check_moved", SinglePrecision(5, 4)),
    ("check_settings", Unchecked(5, 4)),
    ("check_documentation", Undocumented(5, 4)),
]


@pytest.mark.parametrize(("name", "store"), PLANTED, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_each_check_finds_its_bug(name: str, store: Any) -> None:
    checks = [check for check in STORE_CHECKS if check.name == name]
    assert failures(Case(store, None), checks)[name]


def test_every_check_has_its_bug() -> None:
    assert {name for name, _ in PLANTED} == {check.name for check in STORE_CHECKS}


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(AssertionError, match=re.escape("ByReference object") + ".* fails") as caught:
        check_store(ByReference())
    for name in ("check_copied: ", "check_refused: "):
        assert name in str(caught.value)


class Fixed:
    """Points that never change, of a class that is no module."""

    def references(self) -> References:
        """Three of them."""
        return References(torch.eye(4)[:3], torch.arange(3))


def test_anything_with_references_is_a_store() -> None:
    check_store(Fixed())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EmbeddingQueue,), "method `references`.*instance of `EmbeddingQueue`"),
        ((torch.eye(3),), "method `references`"),
        ((Fixed(), 3), "`update` to be callable"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_store(arguments[0], **({"update": arguments[1]} if len(arguments) > 1 else {}))


@pytest.mark.parametrize("make", [lambda: MemoryBank(3, 2, generator=0), lambda: Proxies(3, 2, generator=0)])  # type: ignore[arg-type]
def test_a_generator_is_a_generator(make: Any) -> None:
    with pytest.raises(TypeError, match="`generator`"):
        make()


def test_centres_name_their_own_argument() -> None:
    with pytest.raises(TypeError, match="`num_classes`"):
        Centers("3", 2)  # type: ignore[arg-type]
