"""`check_miner`: it passes our own miners, and each of its checks finds a bug that was planted for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metriczoo import Scores, miners
from metriczoo.miners import Miner
from metriczoo.testing._checks import failures
from metriczoo.testing.miners import MINER_CHECKS, Case, check_miner

Lists = tuple[list[float], list[float]]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


# ---- what our miners choose, on lists


def hard(n: list[float], p: list[float]) -> Lists:
    return ([max(n)] if n else [], [min(p)] if p else [])


def semi_hard(n: list[float], p: list[float]) -> list[Lists]:
    return [([max(band)], [x]) for x in p if (band := [y for y in n if x - 0.2 < y < x])]


def semi_hard_at_random(n: list[float], p: list[float]) -> list[Lists]:
    return [([y], [x]) for x in p for y in n if x - 0.5 < y < x]


def priority(n: list[float], p: list[float]) -> list[Lists]:
    return [([max([y for y in n if y < x], default=min(n))], [x]) for x in p if n]


def easy(choice: str) -> Callable[[list[float], list[float]], Lists]:
    def spec(n: list[float], p: list[float]) -> Lists:
        best = [max(p)] if p else []
        beyond = [y for y in n if best and y < best[0]]
        return {"all": n, "hard": n and [max(n)], "semi-hard": beyond and [max(beyond)]}[choice], best

    return spec


def multi_similarity(n: list[float], p: list[float]) -> Lists:
    # Scores are single-precision numbers: none is so near a threshold that the order of the sums matters.
    return [y for y in n if p and y + 0.1 > min(p)], [x for x in p if n and x - 0.1 < max(n)]


def weighted(n: list[float], p: list[float]) -> list[Lists]:
    near = [y for y in n if math.sqrt(2 - 2 * y) < 1.4]
    return [([y], [x]) for x in p for y in near or n]


OURS: list[tuple[Miner, Any]] = [
    (miners.HardMiner(), hard),
    (miners.SemiHardMiner(), semi_hard),
    (miners.SemiHardMiner(0.5, select="random", generator=seeded()), semi_hard_at_random),
    (miners.PriorityMiner(), priority),
    (miners.RandomMiner(), lambda n, p: [([y], [x]) for x in p for y in n]),
    (miners.DistanceWeightedMiner(generator=seeded()), weighted),
    (miners.MultiSimilarityMiner(), multi_similarity),
    (miners.EasyPositiveMiner(), easy("hard")),
    (miners.EasyPositiveMiner("all"), easy("all")),
    (miners.EasyPositiveMiner("semi-hard"), easy("semi-hard")),
    (miners.PairMarginMiner(), lambda n, p: ([y for y in n if y > 0.5], [x for x in p if x < 0.9])),
]


@pytest.mark.parametrize(("miner", "spec"), OURS, ids=lambda x: type(x).__name__)
def test_our_miners_pass(miner: Miner, spec: Any) -> None:
    check_miner(miner, spec=spec)


def test_no_miner_is_forgotten() -> None:
    public = {kind for name in miners.__all__ if (kind := getattr(miners, name)) is not Miner}
    assert {type(miner) for miner, _ in OURS} == public


# ---- planted bugs


class Tensors(Miner):
    """Returns tensors."""

    def select(self, s_n: Scores, s_p: Scores) -> Any:
        return s_n.value, s_p.value


class Uneven(Miner):
    """Splits the negatives only."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.split(), s_p


class BlockLost(Miner):
    """Forgets where scores come from."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return Scores(s_n.value, s_n.mask, columns=s_n.columns), s_p


class Shifted(Miner):
    """Adds its margin to what it keeps."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.map(lambda s: s + 0.1), s_p


class Nothing(Miner):
    """Keeps nothing at all."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.where(torch.zeros_like(s_n.mask)), s_p.where(torch.zeros_like(s_p.mask))


class ColumnsLost(Miner):
    """Gathers cells, but not their columns."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        if s_n.value.shape[1] == 0:
            return s_n, s_p
        cell = s_n.fill(-math.inf).detach().argmax(1, keepdim=True)
        return Scores(s_n.value.gather(1, cell), s_n.mask.gather(1, cell), block=s_n.block), s_p


class Detached(Miner):
    """Detaches what it keeps."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return Scores(s_n.value.detach(), s_n.mask, columns=s_n.columns, block=s_n.block), s_p


class SoftChoice(Miner):
    """Lets a gradient through the choice."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        value = s_n.value + 0.5 * (s_n.value - s_n.value.detach())
        return Scores(value, s_n.mask, columns=s_n.columns, block=s_n.block), s_p


class MaskLeak(Miner):
    """Its threshold is the largest of all cells, those outside of the set too."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        if s_p.value.shape[1] == 0:
            return s_n, s_p
        return s_n.where(s_n.value < s_p.value.detach().amax(1, keepdim=True)), s_p


class Revived(Miner):
    """Keeps cells outside of the set."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return Scores(s_n.value, s_n.value.detach() > -0.4, columns=s_n.columns, block=s_n.block), s_p


class WidthMean(Miner):
    """Its threshold is a mean over the width of the block."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        mean = s_n.sum().detach() / max(s_n.value.shape[1], 1)
        return s_n.where(s_n.value > mean.unsqueeze(1)), s_p


class NoEmptySet(Miner):
    """Takes the largest without asking whether there is one."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        cell = s_n.fill(-math.inf).detach().argmax(1, keepdim=True)
        return s_n.take(cell, s_n.mask.gather(1, cell)), s_p


class FirstOnly(Miner):
    """Drops the first column, which it takes for the anchor itself."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        keep = torch.arange(s_n.value.shape[1], device=s_n.value.device) > 0
        return s_n.where(keep.expand_as(s_n.value)), s_p


class BatchThreshold(Miner):
    """Its threshold is the mean of the whole block."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        mean = s_n.sum().detach().sum() / s_n.count().sum().clamp(min=1)
        return s_n.where(s_n.value > mean), s_p


class ExcludedOnly(Miner):
    """Reads off `excluded` how many negatives there are."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        out = 0 if s_n.excluded is None else s_n.excluded.shape[1]
        return s_n.topk(max(1, 3 - out)), s_p


class InPlace(Miner):
    """Overwrites what it was given."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        s_n.value.detach().mul_(2)
        return s_n, s_p


class Counting(Miner):
    """Chooses by how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        self.calls += 1
        return s_n.topk(1 + self.calls % 3), s_p


class DrawsSaysNo(Miner):
    """Draws, and does not say so."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.where(torch.rand(s_n.value.shape, device=s_n.value.device) < 0.5), s_p


class DrawsSaysYes(Miner):
    """Says that it draws, and does not."""

    draws = True

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.topk(1), s_p


class DrawnPerTile(Miner):
    """Draws anew for each block."""

    draws = True

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return tuple(s.where(torch.rand(s.value.shape, generator=self.generator) < 0.5) for s in (s_n, s_p))  # type: ignore[return-value]


class StateLost(miners.RandomMiner):
    """Forgets the state of its generator."""

    def get_extra_state(self) -> Any:
        return None


class CopiesLost(miners.RandomMiner):
    """Its copies start anew."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.generator is not None:
            self.generator.manual_seed(0)


class CosinesOnly(Miner):
    """Takes every score for a cosine."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        angle = s_n.fill(0.0).detach().acos()
        weight = torch.where(angle < 1.5, 1.0, angle / angle)
        return Scores(s_n.value * weight, s_n.mask, columns=s_n.columns, block=s_n.block), s_p


class Dividing(Miner):
    """Divides by a spread that may be 0."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        spread = s_n.max() - s_n.min()
        value = s_n.value * (spread / spread).unsqueeze(1)
        return Scores(value, s_n.mask, columns=s_n.columns, block=s_n.block), s_p


class Reading(Miner):
    """Reads values to the host."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        if s_n.mask.any().item():
            return s_n.topk(1), s_p
        return s_n, s_p


class ByNumPy(Miner):
    """Chooses outside of PyTorch."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.where(torch.from_numpy(s_n.value.detach().numpy() > 0)), s_p


class OnTheHost(Miner):
    """Makes a tensor where nobody asked for it."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        order = torch.arange(s_n.value.shape[1], device="cpu").expand(s_n.value.shape)
        return s_n.where(order >= 0), s_p


class Unchecked(Miner):
    """Takes any margin.

    Args:
        margin: of the score.
    """

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__()
        self.margin = margin

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n, s_p


class Undocumented(miners.SemiHardMiner):
    def __init__(self, margin: float = 0.2) -> None:
        super().__init__(margin)


class EasyForHard(miners.HardMiner):
    """Takes the nearest positive for the farthest."""

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        return s_n.topk(1), s_p.topk(1)


PLANTED: dict[str, tuple[Miner, Any]] = {
    "check_interface": (Tensors(), None),
    "check_interface ": (Uneven(), None),
    "check_interface  ": (BlockLost(), None),
    "check_subset": (Shifted(), None),
    "check_subset ": (Nothing(), None),
    "check_columns": (ColumnsLost(), None),
    "check_gradient": (Detached(), None),
    "check_gradient ": (SoftChoice(), None),
    "check_absent": (MaskLeak(), None),
    "check_absent ": (Revived(), None),
    "check_absent  ": (WidthMean(), None),
    "check_empty": (NoEmptySet(), None),
    "check_permutation": (FirstOnly(), None),
    "check_rows": (BatchThreshold(), None),
    "check_storage": (ExcludedOnly(), None),
    "check_repeatable": (InPlace(), None),
    "check_repeatable ": (Counting(), None),
    "check_repeatable  ": (DrawsSaysNo(), None),
    "check_draws": (DrawsSaysYes(), None),
    "check_spec": (EasyForHard(), hard),
    "check_spec ": (miners.RandomMiner(), semi_hard_at_random),
    "check_tiled": (DrawnPerTile(), None),
    "check_tiled ": (BatchThreshold(), None),
    "check_ignored": (FirstOnly(), None),
    "check_relation": (ExcludedOnly(), None),
    "check_references": (DrawnPerTile(), None),
    "check_similarities": (CosinesOnly(), None),
    "check_losses": (Dividing(), None),
    "check_compile": (Reading(), None),
    "check_func": (ByNumPy(), None),
    "check_meta": (OnTheHost(), None),
    "check_state": (StateLost(generator=seeded()), None),
    "check_copies": (CopiesLost(generator=seeded()), None),
    "check_settings": (Unchecked(), None),
    "check_documentation": (Undocumented(), None),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_check_finds_its_bug(name: str) -> None:
    miner, spec = PLANTED[name]
    checks = [check for check in MINER_CHECKS if check.name == name.strip()]
    assert failures(Case(miner, spec), checks)[name.strip()]


def test_every_check_has_its_bug() -> None:
    assert {name.strip() for name in PLANTED} == {check.name for check in MINER_CHECKS}


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(AssertionError, match=re.escape("Shifted() fails")) as caught:
        check_miner(Shifted())
    assert "check_subset: " in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((miners.HardMiner,), r"`miner` to be a Miner.*Did you mean `HardMiner\(\)`"),
        (("hard",), "`miner` to be a Miner"),
        ((miners.HardMiner(), 3), "`spec` to be callable"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_miner(arguments[0], **({"spec": arguments[1]} if len(arguments) > 1 else {}))
