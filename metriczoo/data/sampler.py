"""Batches of P classes × K samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from metriczoo._checks import as_labels, check_count

__all__ = ["PKSampler"]


class PKSampler(Sampler[list[int]]):
    """Batches of exactly P different classes with K samples each, for `DataLoader(batch_sampler=...)`.

    The classes are shuffled and dealt out P at a time; fewer than P left over are dropped, and all are shuffled again. So every class
    comes equally often, whatever its size. Of a class with at least K samples, K different ones are drawn; a smaller
    class gives whole shuffles of itself, cut at K, so that no sample comes twice before each came once. Samples of one class are adjacent.

    A batch depends only on the seed, the epoch and its number. Every iteration is a new epoch, with or without `set_epoch`.

    Args:
        labels: the class of each sample `[n]`, integers; samples with a label < 0 are never drawn.
        classes_per_batch: P, of each rank, >= 1.
        samples_per_class: K, >= 1.
        seed: seed of the order, >= 0, the same on all ranks.
        num_batches: batches per epoch; by default as many as have the size of the labelled data, `n // (P * K * world_size)`, at least 1.
        rank: which of the ranks this one is.
        world_size: number of ranks; each batch number has different classes on different ranks.

    Raises:
        ValueError: fewer than `P * world_size` classes, or a count out of range.
        TypeError: labels that are not integers.

    Example:
        >>> sampler = PKSampler([0, 0, 0, 1, 1, 2, 2, 2], classes_per_batch=2, samples_per_class=2)
        >>> len(sampler), [len(batch) for batch in sampler]
        (2, [4, 4])
        >>> sampler.state_dict()
        {'epoch': 1, 'batch': 0}

    Relations:
        A `RandomSampler` with many classes seldom puts two samples of a class into one batch, and then there is no positive pair.

    References:
        A. Hermans, L. Beyer, B. Leibe. In Defense of the Triplet Loss for Person Re-Identification. 2017.
    """

    def __init__(
        self,
        labels: Any,
        classes_per_batch: int,
        samples_per_class: int,
        *,
        seed: int = 0,
        num_batches: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.classes_per_batch = check_count("classes_per_batch", classes_per_batch)
        self.samples_per_class = check_count("samples_per_class", samples_per_class)
        self.seed = check_count("seed", seed, low=0)
        self.world_size = check_count("world_size", world_size)
        self.rank = check_count("rank", rank, low=0)
        if self.rank >= self.world_size:
            raise ValueError(f"Expected `rank` to be below `world_size` = {self.world_size}, but got {self.rank}.")
        self._members = _members_of_classes(as_labels(labels).cpu().numpy())
        needed = self.classes_per_batch * self.world_size
        if len(self._members) < needed:
            raise ValueError(
                f"Expected `labels` to hold at least classes_per_batch * world_size = {needed} classes (labels >= 0), "
                f"but got {len(self._members)}."
            )
        size = sum(map(len, self._members))
        default = max(1, size // (needed * self.samples_per_class))
        self.num_batches = default if num_batches is None else check_count("num_batches", num_batches)
        self._next = self._position = (0, 0)  # epoch and batch: of the next iteration's start, and reached in this one

    def __len__(self) -> int:
        return self.num_batches

    # A generator: a DataLoader with workers asks for an iterator it never uses, and that must not cost an epoch.
    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self._next
        self._next, self._position = (epoch + 1, 0), self._next
        taken = self.classes_per_batch * self.world_size
        deals = len(self._members) // taken
        order: NDArray[np.int64] | None = None
        for number in range(start, self.num_batches):
            shuffle, deal = divmod(number, deals)
            if order is None or deal == 0:
                order = np.random.default_rng([self.seed, epoch, 0, shuffle]).permutation(len(self._members))
            first = deal * taken + self.rank * self.classes_per_batch
            generator = np.random.default_rng([self.seed, epoch, 1 + self.rank, number])
            self._position = (epoch, number + 1)
            drawn = [self._draw(self._members[c], generator) for c in order[first : first + self.classes_per_batch]]
            yield np.concatenate(drawn).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one, as with `DistributedSampler`; the epoch a loaded state stands in goes on where it stood."""
        if check_count("epoch", epoch, low=0) != self._next[0]:
            self._next = (epoch, 0)
        self._position = self._next

    def state_dict(self) -> dict[str, int]:
        """Where the sampler stands: the epoch, and the batches of it that were given out.

        A DataLoader with workers takes batches ahead of the training loop; there, set `"batch"` to the number of batches trained on.
        """
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch} if batch < self.num_batches else {"epoch": epoch + 1, "batch": 0}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state` stood: the next iteration gives the rest of its epoch."""
        epoch, batch = check_count("epoch", state["epoch"], low=0), check_count("batch", state["batch"], low=0)
        if batch > self.num_batches:
            raise ValueError(f"Expected `batch` to be at most {self.num_batches}, the batches of an epoch, but got {batch}.")
        self._next = self._position = (epoch, batch) if batch < self.num_batches else (epoch + 1, 0)

    def _draw(self, members: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        count = self.samples_per_class
        if len(members) >= count:
            return generator.choice(members, count, replace=False)
        shuffles = [generator.permutation(members) for _ in range(-(-count // len(members)))]
        return np.concatenate(shuffles)[:count]


def _members_of_classes(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The sample indices of each class with a label >= 0."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, starts) if order.size else []
