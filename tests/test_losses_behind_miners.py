"""Losses over sets, and ranking losses, behind every kind of miner: dense and in tiles, of a batch and of references."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from metriczoo import References, miners
from metriczoo.miners.easy_positive import EasyPositiveMiner
from metriczoo.miners.multi_similarity import MultiSimilarityMiner
from metriczoo.miners.pair_margin import PairMarginMiner
from metriczoo.miners.random import RandomMiner
from metriczoo.testing import Subject
from metriczoo.testing.strategies import generic
from metriczoo.testing.zoo import _ranking as ranking
from metriczoo.testing.zoo import _sets as sets

SUBJECTS = [*sets.SUBJECTS, *ranking.SUBJECTS]
LABELS = torch.tensor([0, 1, 2, 0, 1, -1, 2, 0, 1, 3, 0, 2, 2])


def some_miners() -> list[miners.Miner | None]:
    generator = torch.Generator().manual_seed(3)
    return [
        None,
        miners.HardMiner(),
        miners.PriorityMiner(),
        EasyPositiveMiner("all"),
        EasyPositiveMiner("semi-hard"),
        MultiSimilarityMiner(0.4),
        PairMarginMiner(positive_margin=0.6, negative_margin=-1.5),
        RandomMiner(generator=generator),
        miners.DistanceWeightedMiner(generator=generator),
    ]


def outcome(subject: Subject, miner: int, external: bool, reduction: str, **options: object) -> list[Tensor]:
    loss = subject.copy(torch.float64, miner=some_miners()[miner], reduction=reduction, **options)
    x, y = generic(1, 13).fresh(), generic(2, 9).fresh()
    value = loss(x, LABELS, [None, References(y, LABELS[:9], torch.arange(9) - 3)] if external else None, ids=torch.arange(13))
    weighted = (value * torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)).sum()
    gradients = torch.autograd.grad(weighted, [x, y, *loss.parameters()], materialize_grads=True, allow_unused=True)
    return [value.detach(), *gradients]


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_tiled_equals_dense(subject: Subject) -> None:
    settings, idle = itertools.cycle([(True, "mean"), (True, "none"), (False, "mean_active")]), 0
    for (miner, kept), (external, reduction) in zip(enumerate(some_miners()), settings, strict=False):
        dense = outcome(subject, miner, external, reduction, execution="dense")
        tiled = outcome(subject, miner, external, reduction, execution="tiled", memory_budget=8 * 14 * 3)
        for a, b in zip(dense, tiled, strict=True):
            assert a.isfinite().all(), kept
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11, msg=lambda m, k=kept: f"{k}: {m}")
        idle += not dense[1].any()
    assert idle <= 2, "a miner may leave nothing to learn, such as no semi-hard negative behind the hard one, but not all of them"


@pytest.mark.parametrize("subject", sets.SUBJECTS, ids=str)
def test_a_relation_gives_what_labels_give(subject: Subject) -> None:
    """By a relation, positives are stored as a mask as wide as the references."""
    x = generic(4, 13).fresh()
    values = [subject(x, LABELS, relation=relation) for relation in (None, lambda a, b: a.unsqueeze(1) == b)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in values), rtol=1e-8, atol=1e-10)
