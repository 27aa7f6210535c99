"""Stores: against a dict, a deque and plain loops; nothing lost by saving, copying or mapping; nothing changed by an error."""

from __future__ import annotations

import copy
import io
import os
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from metriczoo._execution import settings as library_settings
from metriczoo.references import References, Store
from metriczoo.stores import EmbeddingQueue, MemoryBank, Proxies

SIZE, DIM = 7, 3
SEEDS = st.integers(0, 2**32 - 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, seed: int = 0, dim: int = DIM) -> Tensor:
    return torch.randn(n, dim, generator=generator(seed))


def saved(state: Any, **options: Any) -> Any:
    """What comes back from a checkpoint file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, **options)


def state_of(store: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in store.state_dict().items()}


def assert_same_state(store: nn.Module, expected: dict[str, Tensor]) -> None:
    state = store.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


def reloaded(store: nn.Module, fresh: nn.Module, how: str) -> nn.Module:
    if how == "pickle":
        return pickle.loads(pickle.dumps(store))
    if how == "deepcopy":
        return copy.deepcopy(store)
    fresh.load_state_dict(saved(store.state_dict()), assign=how == "assign")
    return fresh


HOW = st.sampled_from(["load", "assign", "pickle", "deepcopy"])


# --- MemoryBank: a dict of rows, in float64 -------------------------------------------------------


class BankMachine(RuleBasedStateMachine):
    path: Path | None = None

    def make(self, seed: int) -> MemoryBank:
        return MemoryBank(SIZE, DIM, momentum=0.3, generator=generator(seed), path=self.path)

    @initialize(seed=SEEDS)
    def start(self, seed: int) -> None:
        self.bank = self.make(seed)
        self.rows = {i: row.double().numpy().copy() for i, row in enumerate(self.bank.embeddings)}
        self.labels = dict.fromkeys(range(SIZE), -1)
        self.filled: set[int] = set()

    @rule(ids=st.lists(st.integers(0, SIZE - 1), max_size=10), seed=SEEDS, labelled=st.booleans())
    def update(self, ids: list[int], seed: int, labelled: bool) -> None:
        new = points(len(ids), seed)
        labels = [(i * seed) % 5 - 1 for i in ids] if labelled else None
        self.bank.update(ids, new, labels)
        for i in set(ids):
            mean = np.mean([x.double().numpy() for j, x in zip(ids, new, strict=True) if i == j], axis=0)
            mixture = 0.3 * self.rows[i] + 0.7 * mean
            self.rows[i] = mixture / np.linalg.norm(mixture)
            self.filled.add(i)
        if labels is not None:
            self.labels.update(zip(ids, labels, strict=True))

    @rule(
        bad=st.sampled_from(
            [
                ([0, SIZE], points(2), [1, 1]),
                ([-1, 0], points(2), [1, 1]),
                ([0, 1], points(2) * torch.tensor([[1.0], [torch.nan]]), [1, 1]),
                ([0, 1], points(3), [1, 1]),
                ([0, 1], points(2), [1]),
                ([2, 2], points(2), [0, 1]),
            ]
        )
    )
    def refuse(self, bad: tuple[list[int], Tensor, list[int]]) -> None:
        before = state_of(self.bank)
        with pytest.raises((ValueError, IndexError)):
            self.bank.update(*bad)
        assert_same_state(self.bank, before)

    @rule(num=st.integers(0, 5), gone=st.lists(st.integers(-1, SIZE - 1), max_size=SIZE - 1))
    def sample(self, num: int, gone: list[int]) -> None:
        twin = copy.deepcopy(self.bank)
        drawn = self.bank.sample(num, exclude_ids=gone)
        assert drawn.shape == (num,)
        assert set(drawn.tolist()) <= set(range(SIZE)) - set(gone)
        assert torch.equal(twin.sample(num, exclude_ids=gone), drawn)

    @rule(seed=SEEDS, how=HOW)
    def replace(self, seed: int, how: str) -> None:
        before = state_of(self.bank)
        self.bank = reloaded(self.bank, self.make(seed), how)
        assert_same_state(self.bank, before)

    @rule(seed=SEEDS, k=st.integers(1, SIZE))
    def find(self, seed: int, k: int) -> None:
        query = points(1, seed)
        scores, ids = self.bank.nearest(query, k)
        expected = sorted(((float(query[0].double() @ torch.from_numpy(self.rows[i])), i) for i in self.filled), reverse=True)[:k]
        found = [i for i in ids[0].tolist() if i >= 0]
        assert len(found) == len(expected)
        np.testing.assert_allclose(scores[0, : len(found)], [score for score, _ in expected], atol=1e-4)
        assert (scores[0, len(found) :] == -torch.inf).all()

    @invariant()
    def agrees(self) -> None:
        everything = self.bank.references()
        np.testing.assert_allclose(everything.embeddings, np.stack(list(self.rows.values())), atol=1e-4)
        np.testing.assert_allclose(everything.embeddings.norm(dim=1), np.ones(SIZE), atol=1e-6)
        assert everything.labels.tolist() == list(self.labels.values())
        assert everything.ids is not None
        assert everything.ids.tolist() == list(range(SIZE))
        assert set(self.bank.filled.nonzero().flatten().tolist()) == self.filled


class MappedBankMachine(BankMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "bank"

    def teardown(self) -> None:
        self.folder.cleanup()

    def make(self, seed: int) -> MemoryBank:
        assert self.path is not None
        self.path = self.path.with_suffix(f".{seed}")
        self.path.unlink(missing_ok=True)
        return super().make(seed)

    @precondition(lambda self: self.bank.path is not None)
    @rule()
    def reopen(self) -> None:
        before = state_of(self.bank)
        path = self.bank.path
        self.bank = MemoryBank(SIZE, DIM, momentum=0.3, path=path)
        assert_same_state(self.bank, before)


TestBank = BankMachine.TestCase
TestMappedBank = MappedBankMachine.TestCase


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_start_is_uniform_on_the_sphere(dtype: torch.dtype) -> None:
    bank = MemoryBank(4000, 3, dtype=dtype, generator=generator())
    assert bank.embeddings.dtype == dtype
    rows = bank.embeddings.double()
    assert (rows.norm(dim=1) - 1).abs().max() <= 2 * torch.finfo(dtype).eps
    # A coordinate of a uniform point of the sphere in three dimensions is uniform in [-1, 1].
    for column in rows.T:
        assert scipy.stats.kstest(column.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert not bank.filled.any()
    assert (bank.labels == -1).all()


def test_start_depends_on_the_generator_alone() -> None:
    torch.manual_seed(5)
    first, again = MemoryBank(9, 4, generator=generator(1)), MemoryBank(9, 4, generator=generator(1))
    assert_same_state(again, state_of(first))
    assert not torch.equal(MemoryBank(9, 4, generator=generator(2)).embeddings, first.embeddings)
    torch.manual_seed(5)
    one = MemoryBank(9, 4)
    torch.manual_seed(5)
    assert_same_state(MemoryBank(9, 4), state_of(one))
    long = MemoryBank(3, 2**20 - 1, generator=generator())  # one row per chunk
    assert not torch.equal(long.embeddings[0], long.embeddings[1])


@given(ids=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=SEEDS, data=st.data())
def test_order_of_duplicates_does_not_matter(ids: list[int], seed: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(ids))))
    bank = MemoryBank(5, DIM, generator=generator(seed))
    other = copy.deepcopy(bank)
    new = points(len(ids), seed)
    bank.update(ids, new)
    other.update([ids[i] for i in order], new[list(order)])
    torch.testing.assert_close(other.embeddings, bank.embeddings, atol=1e-5, rtol=0)


def test_update_exact_numbers() -> None:
    bank = MemoryBank(3, 2, normalize=False, momentum=0.75)
    bank.embeddings.copy_(torch.tensor([[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]]))
    bank.update(
        np.array([1, 0, 1], dtype=np.uint8), torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 4.0]]), torch.tensor([3, 2, 3], dtype=torch.int32)
    )
    assert bank.embeddings.tolist() == [[3.0, 1.0], [0.5, 6.5], [1.0, 1.0]]  # 3/4 old + 1/4 (average of) new
    assert bank.labels.tolist() == [2, 3, -1]
    assert bank.filled.tolist() == [True, True, False]


def test_update_that_cancels_a_row_leaves_it() -> None:
    bank = MemoryBank(2, 4)
    before = bank.embeddings.clone()
    bank.update([0], -before[:1])
    assert torch.equal(bank.embeddings, before)
    assert bank.filled.tolist() == [True, False]


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_update_with_extreme_lengths(scale: float) -> None:
    bank = MemoryBank(2, 2, momentum=0.0 if scale < 1 else 0.5)
    new = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8]]) * scale
    bank.update([1, 1, 1], new * (1e20 if scale < 1 else 1))
    torch.testing.assert_close(bank.embeddings[1], torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_storage_is_rounded_full_arithmetic(dtype: torch.dtype) -> None:
    bank = MemoryBank(50, 16, momentum=0.3, dtype=dtype, generator=generator())
    full = MemoryBank(50, 16, momentum=0.3)
    full.embeddings.copy_(bank.embeddings)
    ids, new = torch.arange(40) % 30, points(40, dim=16)
    bank.update(ids, new)
    full.update(ids, new)
    assert bank.embeddings.dtype == bank.references().embeddings.dtype == dtype
    assert torch.equal(bank.embeddings, full.embeddings.to(dtype))
    full.embeddings.copy_(bank.embeddings)
    scores, found = bank.nearest(new[:5].to(dtype), 4)
    assert scores.dtype == torch.float32
    assert torch.equal(found, full.nearest(new[:5].to(dtype), 4)[1])


def test_double_storage_keeps_double_precision() -> None:
    bank = MemoryBank(1, 2, dtype=torch.float64, normalize=False, momentum=0.0)
    bank.update([0], torch.tensor([[1 / 3, 1.0]], dtype=torch.float64))
    assert bank.embeddings[0, 0] == 1 / 3


def test_references_share_the_storage_of_the_bank() -> None:
    bank = MemoryBank(5, 2, labels=[4, 3, 2, -1, 0])
    everything, instances = bank.references(), bank.instances()
    for given_out in (everything, instances):
        assert given_out.embeddings.data_ptr() == bank.embeddings.data_ptr()
        assert not given_out.embeddings.requires_grad
    assert everything.labels.data_ptr() == bank.labels.data_ptr()
    assert everything.labels.tolist() == [4, 3, 2, -1, 0]
    assert everything.ids is not None
    assert instances.ids is not None
    assert everything.ids.tolist() == instances.labels.tolist() == [0, 1, 2, 3, 4]
    assert instances.ids.tolist() == [-1] * 5
    assert len(bank) == len(everything) == 5


def test_no_gradient_flows_into_a_bank_or_a_queue() -> None:
    new = points(2).requires_grad_()
    bank, queue = MemoryBank(2, DIM), EmbeddingQueue(2, DIM)
    bank.update([0, 1], new * 2)
    queue.enqueue(new * 2, [0, 1])
    for store in (bank, queue):
        assert not list(store.parameters())
        assert not store.references().embeddings.requires_grad
        before = store.references().embeddings.clone()
        (new @ store.references().embeddings.T).sum().backward()
        assert torch.equal(store.references().embeddings, before)


def test_an_update_between_forward_and_backward_is_an_error_not_a_wrong_gradient() -> None:
    bank, new = MemoryBank(2, DIM), points(2).requires_grad_()
    loss = (new @ bank.references().embeddings.T).sum()
    bank.update([0], new[:1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- sample ---------------------------------------------------------------------------------------


def test_draws_are_those_of_splitmix64() -> None:
    bank = MemoryBank(1000, 1)
    bank.draws.copy_(torch.tensor([1234567, 0]))
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert bank.sample(5).tolist() == [x % 2**63 % 1000 for x in published]


@given(seed=SEEDS, cuts=st.lists(st.integers(0, 9), max_size=4))
def test_draws_do_not_depend_on_the_cut_into_calls(seed: int, cuts: list[int]) -> None:
    bank = MemoryBank(1000, 1, generator=generator(seed))
    twin = copy.deepcopy(bank)
    parts = [bank.sample(num) for num in cuts]
    assert torch.equal(torch.cat([*parts, bank.sample(1)]), twin.sample(sum(cuts) + 1))


def test_sample_is_uniform_and_independent() -> None:
    bank = MemoryBank(20, 2, generator=generator(3))
    drawn = bank.sample(40_000)
    assert scipy.stats.chisquare(torch.bincount(drawn, minlength=20)).pvalue > 1e-3
    pairs = torch.bincount(drawn[:-1:2] * 20 + drawn[1::2], minlength=400)
    assert scipy.stats.chisquare(pairs).pvalue > 1e-3


def test_sample_beyond_32_bits_is_uniform() -> None:
    bank = MemoryBank(1, 1)
    bank.size = 3 * 2**61  # a range whose upper part a 63-bit number reaches half as often, were bits lost
    drawn = bank.sample(20_000)
    assert drawn.min() >= 0
    assert (drawn % 2).float().mean().sub(0.5).abs() < 0.02
    assert (drawn > 2**61).float().mean() > 0.4


@given(size=st.integers(1, 12), gone=st.lists(st.integers(-3, 11)), own=st.booleans(), seed=SEEDS)
def test_exclusion_is_exact(size: int, gone: list[int], own: bool, seed: int) -> None:
    bank = MemoryBank(size, 1, generator=generator(seed))
    gone = [i for i in gone if i < size]
    left = sorted(set(range(size)) - set(gone))
    source = None if own else generator(seed)
    if not left:
        before = state_of(bank)
        with pytest.raises(ValueError, match="`exclude_ids` to leave at least one"):
            bank.sample(3, exclude_ids=gone, generator=source)
        assert_same_state(bank, before)
        return
    drawn = bank.sample(600 * len(left), exclude_ids=gone, generator=source)
    counts = torch.bincount(drawn, minlength=size)
    assert counts.sum() == counts[left].sum() == 600 * len(left)
    assert len(left) == 1 or scipy.stats.chisquare(counts[left]).pvalue > 1e-6
    assert (bank.draws[1] == 0) == (not own)


def test_sample_from_a_given_generator_leaves_the_own_one_alone() -> None:
    bank = MemoryBank(50, 1)
    before = state_of(bank)
    first = bank.sample(9, generator=generator(8))
    assert torch.equal(bank.sample(9, generator=generator(8)), first)
    assert_same_state(bank, before)


# --- nearest --------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 30),
    num=st.integers(0, 6),
    values=st.integers(0, 2),
    budget=st.sampled_from([None, 1, 256, 2048]),
    filled_only=st.booleans(),
    excluding=st.booleans(),
    seed=SEEDS,
    data=st.data(),
)
def test_nearest_is_a_full_sort(
    size: int, num: int, values: int, budget: int | None, filled_only: bool, excluding: bool, seed: int, data: st.DataObject
) -> None:
    """Small whole numbers: scores are exact and full of ties."""
    k = data.draw(st.integers(1, size))
    random = np.random.default_rng(seed)
    rows, queries = (random.integers(-values, values + 1, (n, DIM)).astype(np.float32) for n in (size, num))
    filled = random.random(size) < 0.7
    bank = MemoryBank(size, DIM, momentum=0.0, normalize=False)
    bank.embeddings.copy_(torch.from_numpy(rows))
    bank.filled.copy_(torch.from_numpy(filled))
    exclude = random.integers(-2, size + 2, num) if excluding else np.full(num, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_settings, "memory_budget", budget)
        scores, ids = bank.nearest(torch.from_numpy(queries), k, exclude_ids=exclude if excluding else None, filled_only=filled_only)
    assert scores.shape == ids.shape == (num, k)
    for i in range(num):
        eligible = [j for j in range(size) if (filled[j] or not filled_only) and j != exclude[i]]
        best = sorted((-float(queries[i] @ rows[j]), j) for j in eligible)[:k]
        padding = k - len(best)
        assert ids[i].tolist() == [j for _, j in best] + [-1] * padding
        assert scores[i].tolist() == [-s for s, _ in best] + [-np.inf] * padding


def test_nearest_on_the_sphere_against_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    bank = MemoryBank(3000, 16, generator=generator())
    queries = nn.functional.normalize(points(70, dim=16))
    index = faiss.IndexFlatIP(16)
    index.add(bank.embeddings.numpy())
    expected, ids = index.search(queries.numpy(), 20)
    scores, found = bank.nearest(queries, 20, filled_only=False)
    torch.testing.assert_close(scores, torch.from_numpy(expected))
    assert (found.numpy() == ids).mean() > 0.999  # rounding may swap near-equal ones
    assert bank.nearest(queries, 1)[1].eq(-1).all()


class LargestTensor(TorchDispatchMode):
    """Size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size() if tensor._base is None else 0)
        return out


def test_nearest_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = MemoryBank(4000, 2), points(500, dim=2)
    monkeypatch.setattr(library_settings, "memory_budget", 2**16)
    with LargestTensor() as largest:
        bank.nearest(queries, 3, exclude_ids=torch.arange(500), filled_only=False)
    assert largest.numel <= 2**15


def test_nearest_is_not_lowered_by_autocast() -> None:
    bank, queries = MemoryBank(100, 32), points(10, dim=32)
    expected = bank.nearest(queries, 5, filled_only=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, ids = bank.nearest(queries, 5, filled_only=False)
    assert torch.equal(scores, expected[0])
    assert torch.equal(ids, expected[1])


# --- a bank in a file -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_mapped_bank_equals_one_in_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    bank, mapped = (MemoryBank(9, DIM, dtype=dtype, path=path, generator=generator(1)) for path in (None, tmp_path / "bank"))
    for each in (bank, mapped):
        each.update([3, 1, 3], points(3), labels=[7, 8, 7])
        each.sample(4)
    assert_same_state(mapped, state_of(bank))
    reopened = MemoryBank(9, DIM, dtype=dtype, path=str(tmp_path / "bank"))
    assert_same_state(reopened, state_of(bank))
    assert torch.equal(reopened.sample(5), bank.sample(5))


def test_loading_puts_the_file_back(tmp_path: Path) -> None:
    bank = MemoryBank(9, DIM, path=tmp_path / "bank")
    bank.update([0, 1], points(2), labels=[5, 6])
    checkpoint, before = saved(bank.state_dict()), state_of(bank)
    bank.update([1, 2], points(2, seed=1), labels=[7, 7])
    bank.sample(3)
    del bank  # a run that is killed after its checkpoint
    for assign in (False, True):
        resumed = MemoryBank(9, DIM, path=tmp_path / "bank")
        resumed.load_state_dict(checkpoint, assign=assign)
        assert_same_state(resumed, before)
        resumed.update([4], points(1))
        assert torch.equal(MemoryBank(9, DIM, path=tmp_path / "bank").embeddings, resumed.embeddings)
    resumed.load_state_dict(checkpoint)
    into_memory = MemoryBank(9, DIM)
    into_memory.load_state_dict(resumed.state_dict())
    assert_same_state(into_memory, before)


def test_copies_of_a_mapped_bank_live_in_memory(tmp_path: Path) -> None:
    bank = MemoryBank(9, DIM, path=tmp_path / "bank")
    before = state_of(bank)
    for twin in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        assert twin.path is None
        assert_same_state(twin, before)
        twin.update([0], points(1))
        assert twin.half().embeddings.dtype == torch.float16
    assert_same_state(bank, before)


def test_a_mapped_bank_stays_where_it_is(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), MemoryBank(4, DIM, path=tmp_path / "bank"))
    model.to(device="meta", dtype=torch.float16)
    bank = model[1]
    assert isinstance(bank, MemoryBank)
    assert bank.embeddings.device.type == "cpu"
    assert bank.embeddings.dtype == torch.float32
    bank.update([0], points(1))
    assert torch.equal(MemoryBank(4, DIM, path=tmp_path / "bank").embeddings, bank.embeddings)
    with pytest.raises(ValueError, match="`device`"):
        MemoryBank(4, DIM, path=tmp_path / "other", device="meta")
    assert not (tmp_path / "other").exists()


def test_a_file_that_does_not_fit_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    MemoryBank(4, DIM, path=path)
    good = path.read_bytes()
    for arguments, options in (((5, DIM), {}), ((4, DIM + 1), {}), ((4, DIM), {"dtype": torch.float16})):
        with pytest.raises(ValueError, match=r"Expected `path` to hold .* but .*float32\[4, 3\]"):
            MemoryBank(*arguments, path=path, **options)
        assert path.read_bytes() == good
    for content in (good[:-1], b"\0" * len(good), b"something else", good + b"\0"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="Expected `path` to hold"):
            MemoryBank(4, DIM, path=path)
        assert path.read_bytes() == content
    path.write_bytes(b"")  # as from `tempfile`
    assert len(MemoryBank(4, DIM, path=path)) == 4
    with pytest.raises(FileNotFoundError):
        MemoryBank(4, DIM, path=tmp_path / "missing" / "bank")
    with pytest.raises(IsADirectoryError):
        MemoryBank(4, DIM, path=tmp_path)


def test_making_that_fails_leaves_a_file_that_is_known_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            MemoryBank(4, DIM, path=path)
    with pytest.raises(ValueError, match="cut short"):
        MemoryBank(4, DIM, path=path)
    path.unlink()

    def full(file: int, offset: int, size: int) -> None:
        os.ftruncate(file, size // 2)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full, raising=False)
        with pytest.raises(OSError, match="No space"):
            MemoryBank(4, DIM, path=path)
    assert len(MemoryBank(4, DIM, path=path)) == 4


# --- EmbeddingQueue: a deque ----------------------------------------------------------------------


class QueueMachine(RuleBasedStateMachine):
    @initialize(size=st.integers(1, 6), dtype=st.sampled_from([torch.float32, torch.float16]))
    def start(self, size: int, dtype: torch.dtype) -> None:
        self.queue = EmbeddingQueue(size, DIM, dtype=dtype)
        self.model: deque[tuple[list[float], int, int]] = deque(maxlen=size)
        self.total = 0

    @rule(n=st.integers(0, 15), seed=SEEDS, with_ids=st.booleans())
    def enqueue(self, n: int, seed: int, with_ids: bool) -> None:
        new = points(n, seed)
        labels, ids = [(seed + i) % 9 - 1 for i in range(n)], [(seed * i) % 100 for i in range(n)]
        self.queue.enqueue(new, labels, ids if with_ids else None)
        rows = new.to(self.queue.embeddings.dtype).tolist()
        self.model.extend(zip(rows, labels, ids if with_ids else [-1] * n, strict=True))
        self.total += n
        new.zero_()  # the queue has copies

    @rule(
        bad=st.sampled_from(
            [
                (points(2) * torch.inf, [0, 1]),
                (points(2), [0]),
                (points(2), [0, 1], [1]),
                (points(2, dim=DIM + 1), [0, 1]),
                (points(2), [0.5, 1]),
                (points(2).long(), [0, 1]),
            ]
        )
    )
    def refuse(self, bad: Any) -> None:
        before = state_of(self.queue)
        with pytest.raises((ValueError, TypeError)):
            self.queue.enqueue(*bad)
        assert_same_state(self.queue, before)

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.model.clear()
        self.total = 0
        assert_same_state(self.queue, state_of(EmbeddingQueue(self.queue.size, DIM, dtype=self.queue.embeddings.dtype)))

    @rule(how=HOW)
    def replace(self, how: str) -> None:
        before = state_of(self.queue)
        self.queue = reloaded(self.queue, EmbeddingQueue(self.queue.size, DIM, dtype=self.queue.embeddings.dtype), how)
        assert_same_state(self.queue, before)

    @invariant()
    def agrees(self) -> None:
        held = self.queue.references()
        assert held.ids is not None
        n = len(self.model)
        assert len(held) == len(self.queue) == n
        assert self.queue.num_enqueued == self.total
        rows = list(zip(held.embeddings.tolist(), held.labels.tolist(), held.ids.tolist(), strict=True))
        oldest = self.total % self.queue.size if n == self.queue.size else 0
        assert rows[oldest:] + rows[:oldest] == list(self.model)
        assert n == 0 or held.embeddings.data_ptr() == self.queue.embeddings.data_ptr()


TestQueue = QueueMachine.TestCase


def test_queue_refuses_what_overflows_its_dtype() -> None:
    queue = EmbeddingQueue(2, 1, dtype=torch.float16)
    with pytest.raises(ValueError, match="finite"):
        queue.enqueue(torch.tensor([[1e5]]), [0])
    bank = MemoryBank(2, 1, dtype=torch.float16, normalize=False)
    with pytest.raises(ValueError, match="finite"):
        bank.update([0], torch.tensor([[1e5]]))
    MemoryBank(2, 1, dtype=torch.float16).update([0], torch.tensor([[1e5]]))


# --- Proxies --------------------------------------------------------------------------------------


@given(num_classes=st.integers(1, 6), per_class=st.integers(1, 4), dim=st.integers(1, 5), seed=SEEDS)
def test_proxies(num_classes: int, per_class: int, dim: int, seed: int) -> None:
    proxies = Proxies(num_classes, dim, per_class=per_class, generator=generator(seed))
    given_out = proxies.references()
    assert given_out.embeddings is proxies.weight
    assert given_out.labels.tolist() == [c for c in range(num_classes) for _ in range(per_class)]
    assert given_out.ids is not None
    assert (given_out.ids == -1).all()
    torch.testing.assert_close(proxies.weight.norm(dim=1), torch.ones(num_classes * per_class))
    assert list(proxies.state_dict()) == ["weight"]
    twin = Proxies(num_classes, dim, per_class=per_class)
    twin.reset_parameters(generator(seed))
    assert torch.equal(twin.weight, proxies.weight)
    given_out.embeddings.sum().backward()
    assert torch.equal(proxies.weight.grad, torch.ones_like(proxies.weight))


def test_proxies_dtypes_and_devices() -> None:
    half = Proxies(3, 8, dtype=torch.bfloat16)
    assert half.weight.dtype == half.references().embeddings.dtype == torch.bfloat16
    assert (half.weight.float().norm(dim=1) - 1).abs().max() < 0.01
    double = Proxies(3, 8, dtype=torch.float64)
    torch.testing.assert_close(double.weight.norm(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-14, rtol=0)
    late = Proxies(3, 8, per_class=2, device="meta")
    assert late.references().labels.is_meta
    late.to_empty(device="cpu").reset_parameters(generator())
    assert torch.equal(late.weight, Proxies(3, 8, per_class=2, generator=generator()).weight)
    assert late.references().labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_proxies_check_labels() -> None:
    proxies = Proxies(3, 2)
    assert proxies.check_labels(np.array([2, 0, 1], dtype=np.uint8)).tolist() == [2, 0, 1]
    assert proxies.check_labels([-1, 2]).tolist() == [-1, 2]
    assert proxies.check_labels([]).shape == (0,)
    with pytest.raises(ValueError, match=r"less than 3 \(`num_classes`\), but got 3"):
        proxies.check_labels([0, 3])
    with pytest.raises(TypeError, match="integers"):
        proxies.check_labels([0.5])


# --- all of them ----------------------------------------------------------------------------------


def build(kind: str, device: str = "cpu") -> Any:
    if kind == "bank":
        return MemoryBank(6, DIM, device=device)
    return EmbeddingQueue(6, DIM, device=device) if kind == "queue" else Proxies(6, DIM, device=device)


def use(store: Any, device: str = "cpu") -> None:
    """The hot path, as a training loop runs it."""
    new, ids = torch.ones(4, DIM, device=device), torch.arange(4, device=device)
    store.references()
    if isinstance(store, MemoryBank):
        store.instances()
        store.update(ids, new, ids)
        store.sample(5)
        store.sample(5, exclude_ids=ids)
    if isinstance(store, EmbeddingQueue):
        store.enqueue(new, ids, ids)
        store.enqueue(new, ids)
    if isinstance(store, Proxies):
        store.check_labels(ids)


KINDS = pytest.mark.parametrize("kind", ["bank", "queue", "proxies"])


@KINDS
def test_is_a_store(kind: str) -> None:
    store = build(kind)
    assert isinstance(store, Store)
    assert isinstance(store.references(), References)
    assert "6, 3" in repr(store)


@KINDS
def test_meta_device(kind: str) -> None:
    store = build(kind, device="meta")
    use(store, "meta")
    assert store.references().embeddings.is_meta
    assert all(tensor.is_meta for tensor in store.state_dict().values())
    filled = build(kind)
    use(filled)
    store.load_state_dict(filled.state_dict(), assign=True)  # meta initialisation, then a checkpoint
    assert_same_state(store, state_of(filled))
    references, expected = store.references(), filled.references()
    assert torch.equal(references.labels, expected.labels)
    assert torch.equal(references.ids, expected.ids)
    assert len(references) == len(expected)


@KINDS
def test_moving_keeps_everything_together(kind: str) -> None:
    store = build(kind)
    use(store)
    references = store.to("meta").references()
    assert references.embeddings.is_meta
    assert references.labels.is_meta
    assert references.ids.is_meta
    use(store, "meta")


class FactoriesSayWhere(TorchFunctionMode):
    """Refuses to make a tensor on the default device: on an accelerator it would be the wrong one."""

    factories = (
        torch.arange,
        torch.empty,
        torch.eye,
        torch.full,
        torch.ones,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.tensor,
        torch.zeros,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.factories:
            assert (kwargs or {}).get("device") is not None, f"{func.__name__} without a device"
        return func(*args, **(kwargs or {}))


@KINDS
def test_new_tensors_are_made_where_the_store_is(kind: str) -> None:
    store = build(kind)
    with FactoriesSayWhere():
        use(store)
        if isinstance(store, MemoryBank):
            store.nearest(store.embeddings, 2, exclude_ids=store.draws.new_zeros(6))
    with pytest.raises(AssertionError, match="without a device"), FactoriesSayWhere():
        torch.ones(1)


@KINDS
def test_the_host_never_waits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no values: every read of one is an error. Here they stand for those of an accelerator, which are not checked."""
    monkeypatch.setattr(library_settings, "check_values", False)
    store = build(kind)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name, buffer in list(store.named_buffers()):
            setattr(store, name, mode.from_tensor(buffer))
        use(store)


def test_ids_are_bounded_by_the_kernels_where_values_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_settings, "check_values", False)
    bank = MemoryBank(3, DIM)
    before = state_of(bank)
    for bad in ([0, 3], [-1, 0]):
        with pytest.raises((IndexError, RuntimeError)):
            bank.update(bad, points(2), [1, 1])
        assert_same_state(bank, before)


def test_compiles_whole() -> None:
    bank, queue, proxies = MemoryBank(50, DIM), EmbeddingQueue(5, DIM), Proxies(2, DIM)

    def step(bank: MemoryBank, queue: EmbeddingQueue, x: Tensor, ids: Tensor) -> Tensor:
        queue.enqueue(x, ids, ids)
        noise = bank.sample(5, exclude_ids=ids)
        scores = [x @ store.references().embeddings.T for store in (bank, queue, proxies)]
        bank.update(ids, x, ids)
        return torch.cat([*scores, x @ bank.instances().embeddings[noise].T], dim=1)

    x, ids = points(3), torch.tensor([4, 2, 4])
    twins = copy.deepcopy(bank), copy.deepcopy(queue)
    expected = step(*twins, x, ids)
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="eager")(bank, queue, x, ids), expected)
    assert_same_state(bank, state_of(twins[0]))
    assert_same_state(queue, state_of(twins[1]))


def test_inference_mode_leaves_nothing_behind() -> None:
    bank, queue = MemoryBank(6, DIM), EmbeddingQueue(6, DIM)
    with torch.inference_mode():
        use(bank)
        use(queue)
    x = points(6).requires_grad_()
    assert bank.references().ids is not None
    for index in (bank.references().ids, bank.references().labels[:4], queue.references().labels):
        x.index_select(0, index).sum().backward()  # the index is kept for backward, which tensors of that mode cannot be
    for store in (bank, queue):
        (x @ store.references().embeddings.T).sum().backward()


class Training:
    """A small encoder that learns with all three stores at once."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.ModuleDict(
            {
                "encoder": nn.Linear(5, DIM),
                "bank": MemoryBank(30, DIM),
                "queue": EmbeddingQueue(10, DIM),
                "proxies": Proxies(3, DIM, per_class=2),
            }
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.step = 0

    def run(self, steps: int) -> list[float]:
        losses = []
        encoder, bank, queue, proxies = (self.model[name] for name in ("encoder", "bank", "queue", "proxies"))
        for _ in range(steps):
            self.step += 1
            ids = torch.arange(7) * self.step % 30
            x = nn.functional.normalize(encoder(points(7, self.step, dim=5)))
            queue.enqueue(x, ids % 3, ids)
            held = queue.references()
            columns = [
                bank.embeddings[bank.sample(6, exclude_ids=ids)],
                held.embeddings * held.labels.unsqueeze(1),
                proxies.references().embeddings,
            ]
            loss = (x @ torch.cat(columns).T).exp().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            bank.update(ids, x, ids % 3)
            losses.append(loss.item())
        return losses


def test_resumed_training_is_bit_identical() -> None:
    never_stopped = Training(0)
    never_stopped.run(4)
    checkpoint = saved({"model": never_stopped.model.state_dict(), "optimizer": never_stopped.optimizer.state_dict(), "step": 4})
    expected = never_stopped.run(5)
    resumed = Training(1)
    resumed.run(2)
    resumed.model.load_state_dict(checkpoint["model"])
    resumed.optimizer.load_state_dict(checkpoint["optimizer"])
    resumed.step = checkpoint["step"]
    assert resumed.run(5) == expected
    assert_same_state(resumed.model, state_of(never_stopped.model))


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: MemoryBank(6, DIM), lambda: MemoryBank(7, DIM)),
        (lambda: MemoryBank(6, DIM), lambda: MemoryBank(6, DIM + 1)),
        (lambda: EmbeddingQueue(6, DIM), lambda: EmbeddingQueue(5, DIM)),
        (lambda: EmbeddingQueue(6, DIM), lambda: EmbeddingQueue(6, DIM + 1)),
        (lambda: Proxies(6, DIM), lambda: Proxies(6, DIM, per_class=2)),
    ],
)
def test_a_state_of_another_size_is_refused_whole(make: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> None:
    model = nn.ModuleDict({"store": make()})
    before, state = state_of(model), nn.ModuleDict({"store": other()}).state_dict()
    name = "store.weight" if isinstance(model["store"], Proxies) else "store.embeddings"
    with pytest.raises(RuntimeError, match=rf"{name}.*shape.*\[\d+, \d\]"):
        model.load_state_dict(state)
    assert_same_state(model, before)


@pytest.mark.parametrize("kind", ["bank", "queue"])
def test_a_state_with_a_part_missing_is_refused_whole(kind: str) -> None:
    store, other = build(kind), build(kind)
    use(other)
    for name in store.state_dict():
        before = state_of(store)
        state = {key: value for key, value in other.state_dict().items() if key != name}
        with pytest.raises(RuntimeError, match=f"Missing key.*{name}"):
            store.load_state_dict(state)
        assert store.load_state_dict(state, strict=False).missing_keys == [name]
        assert_same_state(store, before)
        assert len(store.references()) == len(before["labels"]) * (kind == "bank")
    with pytest.raises(RuntimeError, match=r"labels.*to be a tensor of shape"):
        store.load_state_dict({**other.state_dict(), "labels": "none"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        store.load_state_dict({**other.state_dict(), "more": torch.zeros(1)})


def bad_calls() -> Iterator[tuple[str, type[Exception], str, Callable[[], Any]]]:
    def bank(**options: Any) -> MemoryBank:
        return MemoryBank(4, DIM, **options)

    x, queue = points(2), EmbeddingQueue(4, DIM)
    for store in (MemoryBank, EmbeddingQueue, Proxies):
        name = "num_classes" if store is Proxies else "size"
        yield f"{store.__name__}-none", ValueError, f"`{name}` to be at least 1, but got 0", lambda s=store: s(0, DIM)
        yield f"{store.__name__}-float", TypeError, f"`{name}` to be a whole number, but got 4.0", lambda s=store: s(4.0, DIM)
        yield f"{store.__name__}-dim", ValueError, "`embedding_dim`", lambda s=store: s(4, -1)
        yield f"{store.__name__}-dtype", TypeError, "`dtype`.*int64", lambda s=store: s(4, DIM, dtype=torch.int64)
        yield f"{store.__name__}-8bit", TypeError, "`dtype`", lambda s=store: s(4, DIM, dtype=torch.float8_e4m3fn)
        yield f"{store.__name__}-dtype-name", TypeError, "`dtype`.*'float16'", lambda s=store: s(4, DIM, dtype="float16")
    yield "per_class", ValueError, "`per_class`", lambda: Proxies(4, DIM, per_class=0)
    yield "momentum-1", ValueError, r"`momentum`.*\[0, 1\)", lambda: bank(momentum=1.0)
    yield "momentum-negative", ValueError, "`momentum`", lambda: bank(momentum=-0.1)
    yield "momentum-nan", ValueError, "`momentum`", lambda: bank(momentum=float("nan"))
    yield "momentum-text", TypeError, "`momentum`", lambda: bank(momentum="0.5")
    yield "labels-short", ValueError, "`labels` to have 4 entries", lambda: bank(labels=[1, 2])
    yield "labels-float", TypeError, "`labels` to hold integers", lambda: bank(labels=torch.ones(4))
    yield "path", TypeError, "`path`.*3", lambda: bank(path=3)
    for name, call in (
        ("update", lambda *a: bank().update([0, 1], *a)),
        ("enqueue", lambda *a: queue.enqueue(*a, *([] if len(a) > 1 else [[0, 1]]))),
        ("queries", lambda *a: bank().nearest(a[0], 2)),
    ):
        argument = "queries" if name == "queries" else "embeddings"
        yield f"{name}-list", TypeError, f"`{argument}` to be a torch.Tensor", lambda c=call: c([[0.0] * DIM] * 2)
        yield f"{name}-integers", TypeError, f"`{argument}`.*floating-point", lambda c=call: c(x.long())
        yield f"{name}-dim", ValueError, rf"`{argument}` to be of shape \[n, 3\].*\[2, 4\]", lambda c=call: c(points(2, dim=4))
        yield f"{name}-1d", ValueError, f"`{argument}`.*shape", lambda c=call: c(x[0])
        yield f"{name}-device", ValueError, f"`{argument}` on device cpu.*meta", lambda c=call: c(x.to("meta"))
        yield (
            f"{name}-nan",
            ValueError,
            f"`{argument}` to be finite.*rows \\[1\\]",
            lambda c=call: c(x * torch.tensor([[1.0], [torch.nan]])),
        )
        if name != "queries":
            yield f"{name}-labels", ValueError, "`labels` to have 2 entries", lambda c=call: c(x, [0])
            yield f"{name}-labels-float", TypeError, "`labels` to hold integers", lambda c=call: c(x, [0.5, 1.0])
    yield "ids-high", IndexError, r"`ids` to be in \[0, 4\), but got 4", lambda: bank().update([0, 4], x)
    yield "ids-negative", IndexError, r"`ids` to be in \[0, 4\), but got -1", lambda: bank().update([-1, 0], x)
    yield "ids-length", ValueError, "`ids` to have 2 entries", lambda: bank().update([0], x)
    yield "ids-float", TypeError, "`ids` to hold integers", lambda: bank().update(torch.zeros(2), x)
    yield "ids-2d", ValueError, "`ids` to be of shape", lambda: bank().update([[0], [1]], x)
    yield "queue-ids", ValueError, "`ids` to have 2 entries", lambda: queue.enqueue(x, [0, 1], [1])
    yield "labels-disagree", ValueError, "`labels` to be equal.*id 2", lambda: bank().update([2, 2], x, [0, 1])
    yield "num", ValueError, "`num`", lambda: bank().sample(-1)
    yield "num-float", TypeError, "`num`", lambda: bank().sample(2.0)
    yield "exclude-high", IndexError, "`exclude_ids`.*but got 4", lambda: bank().sample(2, exclude_ids=[0, 4])
    yield "exclude-float", TypeError, "`exclude_ids`", lambda: bank().sample(2, exclude_ids=[0.5])
    yield "k-0", ValueError, "`k`", lambda: bank().nearest(x, 0)
    yield "k-high", ValueError, "`k` to be at most 4.*got 5", lambda: bank().nearest(x, 5)
    yield "exclude-length", ValueError, "`exclude_ids` to have 2 entries", lambda: bank().nearest(x, 1, exclude_ids=[0])


@pytest.mark.parametrize(("kind", "message", "call"), [pytest.param(*case[1:], id=case[0]) for case in bad_calls()])
def test_bad_input(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=message):
        call()
