"""What the library promises of its speed and memory, and whether results bear it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from benchmarks.performance.registry import FAMILIES, all_works
from benchmarks.performance.tables import number
from benchmarks.performance.work import DIM, OURS

__all__ = ["OUTCOME", "TARGETS", "UNMEASURED", "Target", "outcomes", "verdict"]

Quantity = Literal["faster", "smaller", "products", "floor", "megabytes", "workspace", "growth", "import"]
Record = Mapping[str, Any]

PEER = "pytorch-metric-learning"
OUTCOME = ("suite", "work", "size", "wanted", "measured", "met", "missed")  # what is known of a target
UNMEASURED = "not measured"


@dataclass(frozen=True)
class Target:
    """One number that is promised.

    Attributes:
        work: what it is of, to a reader.
        names: of the works. Where there are several, the worst of them counts.
        size: of the works.
        quantity: "faster" and "smaller": how many times the CPU time or memory of ours the peer takes; "products", "floor": our CPU time
            over that of the matrix products, or of the floor of losses on ranks; "megabytes": our peak memory; "workspace": our peak beyond
            the gradient of the class weights; "growth": our time over that at `first`; "import": time of importing us over that of torch.
        bound: the least of "faster" and "smaller", the most of all others. None: it is only told.
        library: whose numbers are ours.
        peer: with whom we compare.
        first: size with which "growth" compares.
        suite: that measures it.
    """

    work: str
    names: tuple[str, ...]
    size: int
    quantity: Quantity
    bound: float | None
    library: str = OURS
    peer: str = PEER
    first: int = 0
    suite: str = "speed"


class _Value(NamedTuple):
    number: float
    least: bool = False  # the peer was stopped: the true number is no less


_UNITS = {
    "products": "x products",
    "floor": "x floor",
    "megabytes": "MB",
    "workspace": "MB beyond the weights' gradient",
    "import": "x import torch",
}


# ---- the list


def _against(work: str, names: str | Sequence[str], size: int, time: float, memory: float | None = None, peer: str = PEER) -> list[Target]:
    names = (names,) if isinstance(names, str) else tuple(names)
    found = [Target(work, names, size, "faster", time, peer=peer)]
    return found if memory is None else [*found, Target(work, names, size, "smaller", memory, peer=peer)]


def _most(work: str, names: str | Sequence[str], size: int, quantity: Quantity, bound: float | None, **options: Any) -> Target:
    return Target(work, (names,) if isinstance(names, str) else tuple(names), size, quantity, bound, **options)


def _of_families(*families: str, without: Iterable[str] = ()) -> list[str]:
    return [work.name for work in all_works().values() if work.family in families and work.name not in set(without)]


_TRIPLET, _LARGER = "TripletMarginLoss", "TripletMarginLoss of 8 per class"
_CONTRASTIVE = ("ContrastiveLoss", "ThresholdConsistentMarginLoss as ContrastiveLoss")
_NAMED = (
    _TRIPLET,
    _LARGER,
    "NTXentLoss",
    "LiftedStructureLoss",
    "SupConLoss",
    "CircleLoss",
    "MultiSimilarityLoss",
    *_CONTRASTIVE,
)
_PER_ANCHOR = ("CircleLoss", "ContrastiveLoss", "MultiSimilarityLoss", "NTXentLoss", "SupConLoss", "TripletMarginLoss hardest")
_THREE = "Recall@1 + R-precision + MAP@R"
_TENTH = "ArcFaceLoss on a tenth of the classes"


def _all() -> list[Target]:
    few, several = "Batch-all triplet, 4 per class", "Batch-all triplet, 8 per class"
    others = _of_families("pairs", without=_NAMED)
    ranks = _of_families("ranking")
    found = [
        *_against(few, _TRIPLET, 1024, 100, 80),
        _most(few, _TRIPLET, 1024, "products", 1.9),
        *_against(several, _LARGER, 4096, 20, 150),
        _most(several, _LARGER, 4096, "megabytes", 40),
        _most(f"{several} (7.5e9 triplets)", _LARGER, 32_768, "megabytes", 200, suite="memory"),
    ]
    for work, name in (("NT-Xent", "NTXentLoss"), ("Lifted structure", "LiftedStructureLoss")):
        found += [*_against(work, name, 256, 1000, 70), *_against(work, name, 512, 2000, 400), _most(work, name, 4096, "products", 2)]
    for work, names, time, memory, products in (
        ("SupCon", "SupConLoss", 8, 30, 1.2),
        ("Circle", "CircleLoss", 10, 25, 1.9),
        ("Multi-similarity", "MultiSimilarityLoss", 8, 25, 1.6),
        ("Contrastive", _CONTRASTIVE, 3, 17, 1.6),
    ):
        found += [*_against(work, names, 4096, time, memory), _most(work, names, 4096, "products", products)]
    found += [
        _most("Circle, compile=True", "CircleLoss", 4096, "products", 1.4, library=f"{OURS}-compiled"),
        *_against("Every other loss on pairs or sets", others, 1024, 1, 1),
        _most("Every other loss on pairs or sets", others, 1024, "products", 3),
        *_against("Every loss on ranks", ranks, 1024, 1, 1),
        _most("Every loss on ranks", ranks, 1024, "products", None),
        _most("Every loss on ranks", ranks, 1024, "floor", None),
        *_against("Every loss on a batch", _of_families("pairs", "ranking", "points", without=(_LARGER,)), 256, 1),
        _most("Losses of each anchor by itself", _PER_ANCHOR, 65_536, "megabytes", 256, suite="memory"),
    ]
    for size in (100_000, 1_000_000):
        found += [
            *_against("ArcFace", "ArcFaceLoss", size, 3, 7),
            _most("ArcFace", "ArcFaceLoss", size, "workspace", 32),
            _most("ArcFace", "ArcFaceLoss", size, "products", 1.7),
        ]
    found += [
        *_against("ArcFace on a tenth of the classes", _TENTH, 1_000_000, 25, 40),
        *_against("NCE, 4096 draws", "NCELoss", 1_280_000, 50, peer="lemniscate-style"),
        _most("NCE, 4096 draws", "NCELoss", 5_000_000, "growth", 2, first=10_000),
        *_against("Distance-weighted miner", "DistanceWeightedMiner", 1024, 90),
        *_against("Distance-weighted miner", "DistanceWeightedMiner", 4096, 190),
        *_against("Semi-hard miner", "SemiHardMiner", 1024, 100),
        *_against("Hard miner", "HardMiner as BatchHardMiner", 4096, 8),
        *_against(_THREE, _THREE, 60_000, 1.8, 45),
        _most(_THREE, _THREE, 60_000, "products", 1.25),
        _most(_THREE, _THREE, 60_000, "megabytes", 150),
        _most(_THREE, _THREE, 200_000, "megabytes", 300, suite="memory"),
        _most("import metriczoo.losses", (), 0, "import", 1.2),
    ]
    return found


TARGETS = tuple(_all())


# ---- whether they are met


def outcomes(results: Mapping[str, Any], targets: Sequence[Target] = TARGETS) -> list[dict[str, Any]]:
    """Of each target that the suite of `results` measures, what was wanted and what came of it, by the names in `OUTCOME`.

    "met" is None where nothing was wanted, or where what was measured does not tell. "missed" names the works that miss a target of
    several.
    """
    known = {(r["work"], r["library"], r["size"]): r for r in results["records"]}
    return [_outcome(target, known, results.get("imports")) for target in targets if target.suite == results["suite"]]


def verdict(found: Iterable[Mapping[str, Any]]) -> str:
    """How many targets are met, in a sentence."""
    found = list(found)
    met, missed = (sum(outcome["met"] is flag for outcome in found) for flag in (True, False))
    rest = len(found) - met - missed
    return f"{met} of {met + missed} targets met" + (f"; {rest} not measured, or without a bound." if rest else ".")


def _outcome(target: Target, known: Mapping[tuple[str, str, int], Record], imported: Mapping[str, float] | None) -> dict[str, Any]:
    values: dict[str, _Value | str | None]
    if target.quantity == "import":
        values = {"": _Value(imported["metriczoo_ms"] / imported["torch_ms"]) if imported else None}
    else:
        values = {name: _value(target, name, known) for name in target.names}
    verdicts = {name: _meets(target, value) for name, value in values.items() if value is not None}
    missed = [name for name, met in verdicts.items() if met is False]
    if target.bound is None or not verdicts:
        met = None
    else:
        met = not missed and None not in verdicts.values()
        met = None if not met and not missed else met
    family = FAMILIES[all_works()[target.names[0]].family] if target.names else None
    found = (
        target.suite,
        target.work,
        f"{target.size:,} {family.size}" if family else "",
        _wanted(target),
        _measured(target, values),
        met,
        missed if len(target.names) > 1 else [],
    )
    return dict(zip(OUTCOME, found, strict=True))


def _value(target: Target, name: str, known: Mapping[tuple[str, str, int], Record]) -> _Value | str | None:
    """The number of one work, or why there is none of ours. None: it was not measured, or the peer has none."""
    own = known.get((name, target.library, target.size))
    if own is None:
        return None
    if own["note"] is not None:
        return str(own["note"])
    if target.quantity in ("faster", "smaller"):
        peer = known.get((name, target.peer, target.size))
        return None if peer is None else _times(target.quantity, own, peer)
    if target.quantity == "growth":
        first = known.get((name, target.library, target.first))
        return None if first is None or not first["cpu_ms"] else _Value(own["cpu_ms"] / first["cpu_ms"])
    value = own[{"products": "ratio", "floor": "floor_ratio"}.get(target.quantity, "peak_mb")]
    if value is None:
        return None
    gradient = 4 * DIM * target.size / 2**20 if target.quantity == "workspace" else 0.0
    return _Value(max(0.0, value - gradient))


def _times(quantity: str, own: Record, peer: Record) -> _Value | None:
    key, stopped, unit = ("cpu_ms", "s", 1000.0) if quantity == "faster" else ("peak_mb", "GB", 1024.0)
    if not own[key]:
        return None
    if peer[key] is not None:
        return _Value(peer[key] / own[key])
    words = (peer["note"] or "").split()
    if len(words) == 3 and words[0] == "exceeds" and words[2] == stopped:  # it was tried at this very size
        return _Value(unit * float(words[1]) / own[key], least=True)
    return None


def _meets(target: Target, value: _Value | str) -> bool | None:
    if target.bound is None:
        return None
    if isinstance(value, str):
        return False
    if target.quantity in ("faster", "smaller"):
        return value.number >= target.bound or (None if value.least else False)
    return value.number <= target.bound


def _wanted(target: Target) -> str:
    if target.bound is None:
        return f"told ({_UNITS[target.quantity]})"
    if target.quantity in ("faster", "smaller"):
        word = "time" if target.quantity == "faster" else "memory"
        return f"{target.peer} takes at least {number(target.bound)}x our {word}"
    if target.quantity == "growth":
        return f"at most {number(target.bound)}x the time of {target.first:,}"
    return f"at most {number(target.bound)} {_UNITS[target.quantity]}"


def _measured(target: Target, values: Mapping[str, _Value | str | None]) -> str:
    """The worst number and, of several works, whose it is."""
    notes = [f"{name}: {value}" for name, value in values.items() if isinstance(value, str)]
    found = {name: value for name, value in values.items() if isinstance(value, _Value)}
    if notes:
        return "; ".join(notes)
    if not found:
        return UNMEASURED
    factor = target.quantity in ("faster", "smaller")
    worst = (min if factor else max)(found, key=lambda name: found[name].number)
    unit = "x" if factor or target.quantity == "growth" else f" {_UNITS[target.quantity]}"
    text = f"{'more than ' if found[worst].least else ''}{number(found[worst].number)}{unit}"
    return f"{text} ({worst})" if len(target.names) > 1 else text
