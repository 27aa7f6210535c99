"""PKSampler: the promise of every batch, the order of epochs, resuming, ranks."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from metriczoo.data import PKSampler

LABELS = np.repeat(np.arange(12), np.arange(1, 13))  # class c has c + 1 samples


@st.composite
def samplers(draw):
    labels = draw(st.lists(st.integers(-2, 9), min_size=1, max_size=60).filter(lambda values: max(values) >= 0))
    classes = len({label for label in labels if label >= 0})
    p = draw(st.integers(1, classes))
    k = draw(st.integers(1, 7))
    return labels, PKSampler(labels, p, k, seed=draw(st.integers(0, 2**40)), num_batches=draw(st.sampled_from([None, 1, 9])))


@given(samplers())
def test_every_batch_has_exactly_p_classes_of_k_samples(case):
    labels, sampler = case
    sizes = Counter(labels)
    batches = list(sampler)
    assert len(batches) == len(sampler) >= 1
    for batch in batches:
        assert all(type(index) is int for index in batch)
        drawn = [labels[index] for index in batch]
        assert set(Counter(drawn).values()) == {sampler.samples_per_class}
        assert len(set(drawn)) == sampler.classes_per_batch
        assert min(drawn) >= 0
        for label in set(drawn):
            times = Counter(index for index in batch if labels[index] == label)
            rounds, rest = divmod(sampler.samples_per_class, sizes[label])
            # whole shuffles first: without replacement where the class is large enough, else as evenly as it goes
            assert Counter(times.values()) == +Counter({rounds + 1: rest, rounds: (sizes[label] - rest) if rounds else 0})


def test_classes_come_equally_often_and_differ_within_a_deal():
    sampler = PKSampler(LABELS, 5, 2, num_batches=2 * 30)
    batches = [{LABELS[index] for index in batch} for batch in sampler]
    assert all(not batches[i] & batches[i + 1] for i in range(0, 60, 2))  # 12 classes are two deals of 5; 2 are dropped
    assert len(set(map(frozenset, batches))) > 50  # each shuffle is another one
    often = Counter(label for batch in batches for label in batch)
    assert sum(often.values()) == 300
    assert min(often.values()) >= 18
    assert max(often.values()) <= 30


def test_samples_of_a_class_are_drawn_uniformly():
    drawn = Counter(index for batch in PKSampler([0] * 6, 1, 2, num_batches=3000) for index in batch)
    assert set(drawn) == set(range(6))
    assert max(abs(count - 1000) for count in drawn.values()) < 120  # 4.6 standard deviations


def test_the_default_epoch_is_the_size_of_the_labelled_data():
    assert len(PKSampler(LABELS, 3, 4)) == 78 // 12
    assert len(PKSampler(np.concatenate([LABELS, np.full(1000, -1)]), 3, 4)) == 78 // 12
    assert len(PKSampler([0, 1], 2, 9)) == 1


def test_the_order_depends_on_seed_and_epoch_only():
    epochs = [list(sampler) for sampler in [PKSampler(LABELS, 4, 3, seed=7)] * 3]
    assert epochs[0] != epochs[1] != epochs[2]
    again = PKSampler(LABELS, 4, 3, seed=7)
    for epoch in (2, 0, 1, 1):
        again.set_epoch(epoch)
        assert list(again) == epochs[epoch]
    assert list(PKSampler(LABELS, 4, 3, seed=8)) != epochs[0]


def test_an_epoch_that_was_left_early_is_not_given_again():
    sampler = PKSampler(LABELS, 4, 3)
    first = list(islice(sampler, 2))
    assert list(islice(sampler, 2)) != first
    sampler.set_epoch(0)
    assert list(islice(sampler, 2)) == first


@given(st.integers(0, 25), st.booleans())
def test_resuming_anywhere_gives_the_same_batches(stop, by_set_epoch):
    never_stopped = PKSampler(LABELS, 4, 3, seed=3)  # 6 batches per epoch
    wanted = [batch for _ in range(6) for batch in never_stopped]

    sampler = PKSampler(LABELS, 4, 3, seed=3)
    done = []
    while len(done) < stop:
        for batch in sampler:
            done.append(batch)
            if len(done) == stop:
                break
    state = sampler.state_dict()
    assert state == {"epoch": stop // 6, "batch": stop % 6}

    resumed = PKSampler(LABELS, 4, 3, seed=3)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for epoch in range(state["epoch"], 6):
        if by_set_epoch:
            resumed.set_epoch(epoch)
        done.extend(resumed)
    assert done == wanted


def test_ranks_share_the_classes_of_a_batch_number():
    ranks = [PKSampler(LABELS, 3, 2, seed=1, rank=rank, world_size=4) for rank in range(4)]
    assert {len(sampler) for sampler in ranks} == {78 // 24}
    for together in zip(*ranks, strict=True):
        assert len({LABELS[index] for batch in together for index in batch}) == 12


def test_it_drives_a_data_loader_with_and_without_workers():
    data = TensorDataset(torch.arange(len(LABELS)), torch.from_numpy(LABELS))
    plain = DataLoader(data, batch_sampler=PKSampler(LABELS, 4, 3))
    working = DataLoader(data, batch_sampler=PKSampler(LABELS, 4, 3), num_workers=1)
    assert len(plain) == 6
    for _ in range(2):  # an iterator that workers ask for and do not use must not cost an epoch
        pairs = list(zip(plain, working, strict=True))
        assert len(pairs) == 6
        assert all(torch.equal(a[0], b[0]) and len(a[1].unique()) == 4 for a, b in pairs)


@pytest.mark.parametrize("labels", [torch.tensor([0, 0, 1]), np.array([0, 0, 1], dtype=np.uint8), [0, 0, 1], torch.tensor([1, 1, 5]).int()])
def test_labels_of_any_integer_kind(labels):
    assert list(PKSampler(labels, 2, 2, seed=5)) == list(PKSampler([0, 0, 1], 2, 2, seed=5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 0, 1], 3, 1), ValueError, "at least .* = 3 classes .*but got 2"),
        (([0, -1, -2], 2, 1), ValueError, "but got 1"),
        (([], 1, 1), ValueError, "but got 0"),
        (([0, 1], 0, 1), ValueError, "`classes_per_batch` to be at least 1"),
        (([0, 1], 1, 0), ValueError, "`samples_per_class` to be at least 1"),
        (([0, 1], 1.5, 1), TypeError, "`classes_per_batch`"),
        (([0.0, 1.0], 1, 1), TypeError, "`labels` to hold integers"),
        (([[0, 1]], 1, 1), ValueError, "`labels` to be of shape"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        PKSampler(*arguments)


def test_wrong_options():
    with pytest.raises(ValueError, match="`seed`"):
        PKSampler([0], 1, 1, seed=-1)
    with pytest.raises(ValueError, match="`num_batches`"):
        PKSampler([0], 1, 1, num_batches=0)
    with pytest.raises(ValueError, match="`rank` to be below `world_size` = 2"):
        PKSampler([0, 1], 1, 1, rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"world_size = 4 classes .* got 3"):
        PKSampler([0, 1, 2], 2, 1, world_size=2)
    with pytest.raises(ValueError, match="`batch` to be at most 1"):
        PKSampler([0], 1, 1).load_state_dict({"epoch": 0, "batch": 2})
