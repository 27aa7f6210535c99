"""A memory of one embedding per sample of a data set."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metriczoo._checks import as_ids, as_labels, check_count, check_flag, check_number, describe
from metriczoo._execution import checking, full_precision, settings
from metriczoo._random import split_mix
from metriczoo.references import References
from metriczoo.similarity import unit
from metriczoo.stores._alias import untransformed
from metriczoo.stores._base import BufferStore, check_dtype, check_generator
from metriczoo.stores._mapped import map_file
from metriczoo.stores._nearest import nearest

__all__ = ["MemoryBank"]


class MemoryBank(BufferStore):
    r"""A memory with one row per sample: row `i` belongs to the sample with id `i` and follows its embedding with momentum.

    .. math:: v_i \leftarrow \frac{m v_i + (1 - m) x_i}{\|m v_i + (1 - m) x_i\|}

    Rows start as random unit vectors. As in the authors' code, the first update of a row mixes with that start, too; with `momentum=0` it
    replaces it. Embeddings are taken as they come: pass unit vectors, as the paper does, or their length weighs in the mixture. A mixture
    of length 0 leaves its row as it was.

    Args:
        size: number of samples, >= 1; ids are 0 ... `size` - 1.
        embedding_dim: `d`, >= 1.
        momentum: `m` in [0, 1), the share of the old row.
        labels: `[size]` integers, where they are known beforehand. A row is then a reference of its class from the start, while still
            random; labels that come with `update` avoid that. Default: -1, unknown, so that the row is ignored.
        dtype: of the stored rows; arithmetic is at least float32.
        path: file to keep rows, labels and flags in, mapped into memory, so that they may exceed it. It is made if missing or empty, else
            opened as it was left. A mapped bank stays on the host, in its dtype, whatever `.to` says; copies and pickles of it live in
            memory.
        generator: source of the start, and of the seed of `sample`. Default: the global one.
        normalize: whether rows are unit vectors. If not, the mixture is stored as it is.
        device: where to start. Default: the default device.

    Attributes:
        embeddings: `[size, d]`, the rows.
        labels: `[size]` int64; -1 is unknown.
        filled: `[size]` bool, which rows were ever updated.
        draws: `[2]` int64, the seed of `sample` and how many rows it has drawn.

    These are all the state, and all in `state_dict`, those of a mapped file too: loading puts the file back to the state of the checkpoint,
    and training goes on bit for bit. (A checkpoint larger than memory is read with `torch.load(..., mmap=True)`.)

    Example:
        >>> bank = MemoryBank(4, 2, momentum=0.0)
        >>> bank.update([2, 0], torch.tensor([[3.0, 4.0], [0.0, 2.0]]), labels=[5, 7])
        >>> bank.embeddings[2], bank.labels
        (tensor([0.6000, 0.8000]), tensor([ 7, -1,  5, -1]))
        >>> bank.nearest(torch.tensor([[1.0, 0.0]]), 2)
        (tensor([[0.6000, 0.0000]]), tensor([[2, 0]]))

    Relations:
        `EmbeddingQueue` keeps the latest points, whichever samples they are of; `Proxies` are trained by gradients.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018, section 3.
    """

    labels: Tensor
    filled: Tensor
    draws: Tensor

    def __init__(
        self,
        size: int,
        embedding_dim: int,
        *,
        momentum: float = 0.5,
        labels: Any = None,
        dtype: torch.dtype = torch.float32,
        path: str | os.PathLike[str] | None = None,
        generator: torch.Generator | None = None,
        normalize: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(size, embedding_dim)
        self.momentum = check_number("momentum", momentum, low=0, high=1, open_high=True)
        self.normalize = check_flag("normalize", normalize)
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"Expected `path` to be a str or an os.PathLike, but got {describe(path)}.")
        self.path = None if path is None else os.fspath(path)
        self._ids: Tensor | None = None
        labels = None if labels is None else as_labels(labels, length=self.size)
        generator = check_generator(generator)
        seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu" if generator is None else generator.device)
        layout = [
            ("labels", torch.int64, (self.size,)),
            ("draws", torch.int64, (2,)),
            ("embeddings", check_dtype(dtype), (self.size, self.embedding_dim)),
            ("filled", torch.bool, (self.size,)),
        ]
        start = partial(self._start, int(seed))
        if self.path is None:
            tensors = [torch.empty(shape, dtype=kind, device=device) for _, kind, shape in layout]
            start(*tensors)
        elif device is not None and torch.device(device).type != "cpu":
            raise ValueError(f"Expected `device` to be the host for a bank in a file, but got {describe(device)}.")
        else:
            tensors = map_file(self.path, [(kind, shape) for _, kind, shape in layout], start)
        for (name, _, _), tensor in zip(layout, tensors, strict=True):
            self.register_buffer(name, tensor)
        if labels is not None:
            self.labels.copy_(labels)

    def _start(self, seed: int, labels: Tensor, draws: Tensor, embeddings: Tensor, filled: Tensor) -> None:
        """Uniform on the unit sphere, a chunk of rows at a time; nothing known, nothing filled, nothing drawn."""
        generator = torch.Generator(device="cpu").manual_seed(seed)  # of the host, so that the start is the same on any device
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        height = max(1, 2**20 // self.embedding_dim)
        for begin in range(0, self.size, height):
            rows = embeddings[begin : begin + height]
            rows.copy_(unit(torch.randn(rows.shape, dtype=dtype, device="cpu", generator=generator)))
        labels.fill_(-1)
        filled.fill_(False)
        draws[0], draws[1] = seed, 0

    def __len__(self) -> int:
        return self.size

    @torch.no_grad()
    def update(self, ids: Any, embeddings: Tensor, labels: Any = None) -> None:
        """Move the rows of some samples towards their new embeddings.

        An id that occurs several times counts once, with the average of its embeddings, in whatever order they come. Rows that `references`
        gave out change with this, so call it after backward.

        Args:
            ids: `[n]` integers in [0, size).
            embeddings: `[n, d]`, floating point; no gradient ever flows back.
            labels: `[n]` integers. Default: labels stay as they are.

        Raises:
            IndexError: of ids out of range.
            TypeError: of wrong types and dtypes.
            ValueError: of wrong shapes, lengths and devices, of embeddings that are not finite, and of one id with two labels. After any
                error the bank is unchanged. Values on an accelerator are looked at only if `metriczoo.settings.check_values` says so.
        """
        points = self._points("embeddings", embeddings).to(self._working_dtype)
        ids = self._rows("ids", as_ids(ids, length=points.shape[0]))
        labels = None if labels is None else as_labels(labels, length=points.shape[0], device=ids.device)
        self._finite("embeddings", points if self.normalize else points.to(self.embeddings.dtype))
        ids, order = ids.sort(stable=True)
        first = torch.searchsorted(ids, ids)  # of the duplicates of an id; their sums are formed in its place
        last = torch.searchsorted(ids, ids, right=True) - 1
        points = points.index_select(0, order) / (last - first + 1).unsqueeze(1)
        mean = torch.zeros_like(points).index_add_(0, first, points)
        rows = self._mixed(self.embeddings.index_select(0, ids).to(points.dtype), mean)
        if labels is not None:
            labels = labels.index_select(0, order)
            agreed = labels.index_select(0, last)
            if checking(labels) and not torch.equal(labels, agreed):
                differs = int(ids[labels != agreed][0])
                raise ValueError(f"Expected `labels` to be equal where `ids` are, but id {differs} came with different ones.")
            self.labels.index_copy_(0, ids, agreed)
        self.embeddings.index_copy_(0, ids, rows.index_select(0, first).to(self.embeddings.dtype))  # duplicates write the same row
        self.filled.index_fill_(0, ids, True)

    def _mixed(self, old: Tensor, new: Tensor) -> Tensor:
        mixture = self.momentum * old + (1 - self.momentum) * new
        if not self.normalize:
            return mixture
        return torch.where(mixture.abs().amax(1, keepdim=True) < 1e-12, old, unit(mixture))

    @property
    def _working_dtype(self) -> torch.dtype:
        return torch.promote_types(self.embeddings.dtype, torch.float32)

    def _rows(self, argument: str, ids: Tensor, low: float = 0) -> Tensor:
        """`ids` on the device of the bank, checked to be less than its size."""
        if ids.numel() and checking(ids):
            least, most = (int(bound) for bound in ids.aminmax())
            if least < low or most >= self.size:
                raise IndexError(f"Expected `{argument}` to be in [{low}, {self.size}), but got {least if least < low else most}.")
        return ids.to(self.embeddings.device)

    def references(self) -> References:
        """All rows, those that are still random too, with their labels, and with their numbers as ids. A view of the bank, not a copy."""
        return References(self.embeddings, self.labels, self._row_numbers())

    def instances(self) -> References:
        """All rows, each a class of its own, as a view: the positive of an anchor labelled `i` is row `i`. Ids are -1."""
        return References(self.embeddings, self._row_numbers(), torch.full((1,), -1, device=self.embeddings.device).expand(self.size))

    def _row_numbers(self) -> Tensor:
        if self._ids is None or self._ids.device != self.embeddings.device:
            with torch.inference_mode(False):  # it outlives the mode of this call
                self._ids = torch.arange(self.size, device=self.embeddings.device)
        return self._ids

    @torch.no_grad()
    def sample(self, num: int, *, exclude_ids: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """Rows drawn uniformly and independently, with replacement: noise.

        Args:
            num: how many, >= 0.
            exclude_ids: `[e]` integers, rows that are never drawn; negative ones stand for nothing. The others remain equally likely.
            generator: source of the draws. Default: the bank's own, `draws`, so that a resumed run draws the same.

        Returns:
            `[num]` int64, on the device of the bank. Inside a `torch.func` transform as outside of it: under `vmap` all see the same draws.

        Raises:
            IndexError: of ids beyond the bank.
            ValueError: if no row is left.
        """
        num = check_count("num", num, low=0)
        if exclude_ids is None:
            return self._random_bits(num, generator) % self.size
        gone = self._rows("exclude_ids", as_ids(exclude_ids, argument="exclude_ids"), low=-math.inf).sort().values
        distinct = gone >= 0
        distinct[1:] &= gone[1:] != gone[:-1]
        rank = distinct.cumsum(0)  # how many rows are gone, up to and with this one
        if gone.numel() >= self.size and int(rank[-1]) == self.size:
            raise ValueError(f"Expected `exclude_ids` to leave at least one of {self.size} rows, but got all of them.")
        gone_before = torch.nn.functional.pad(rank, (1, 0))
        left = self._random_bits(num, generator) % (self.size - gone_before[-1])
        # Of the remaining rows, number `left` lies above each excluded row that has at most `left` remaining ones below it, g + 1 - rank.
        return left + gone_before[torch.searchsorted(gone + 1 - rank, left, right=True)]

    def _random_bits(self, num: int, generator: torch.Generator | None) -> Tensor:
        """`[num]` random numbers in [0, 2^63): the remainder by `n` is uniform up to a share of n / 2^63."""
        device = self.embeddings.device
        if generator is not None:
            with untransformed():
                return torch.randint(2**63 - 1, (num,), generator=generator, device=generator.device).to(device)
        with untransformed():
            x = self.draws[0] + (self.draws[1] + torch.arange(1, num + 1, device=device)) * -0x61C8864680B583EB
            self.draws[1] += num
            return split_mix(x) & 0x7FFFFFFFFFFFFFFF

    @torch.no_grad()
    def nearest(self, queries: Tensor, k: int, *, exclude_ids: Any = None, filled_only: bool = True) -> tuple[Tensor, Tensor]:
        """The `k` rows of largest inner product with each query, exactly, without a `[q, size]` matrix.

        Args:
            queries: `[q, d]`, floating point; of unit length for cosines.
            k: in [1, size].
            exclude_ids: `[q]` integers: a row that the query must not find, its own for instance; negative for none.
            filled_only: whether rows that were never updated, which are random, are left out.

        Returns:
            Scores `[q, k]`, descending, at least float32, and ids `[q, k]`; of rows with equal scores the lower id comes first. Where fewer
            than `k` rows are left, -inf and -1.

        Raises:
            TypeError: of wrong types and dtypes.
            ValueError: of wrong shapes, lengths and devices, of `k` out of range, and of queries that are not finite.
        """
        queries = self._points("queries", queries).to(self._working_dtype)
        if check_count("k", k) > self.size:
            raise ValueError(f"Expected `k` to be at most {self.size}, the size of the bank, but got {k}.")
        if exclude_ids is not None:
            exclude_ids = as_ids(exclude_ids, argument="exclude_ids", length=queries.shape[0], device=queries.device)
        only = check_flag("filled_only", filled_only)
        self._finite("queries", queries)
        with full_precision(queries):
            return nearest(queries, self.embeddings, k, exclude_ids, self.filled if only else None, settings.memory_budget)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        if self.path is not None:  # loading into the file, never in place of it
            local_metadata = {**local_metadata, "assign_to_params_buffers": False}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> MemoryBank:
        return self if self.path is not None else super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        # Two banks that write to one file would spoil it, so a copy lives in memory.
        return {**self.__dict__, "path": None, "_ids": None}

    def extra_repr(self) -> str:
        """Size, dimension, dtype, momentum, and the file."""
        return f"{super().extra_repr()}, momentum={self.momentum}" + (f", path={self.path!r}" if self.path is not None else "")
