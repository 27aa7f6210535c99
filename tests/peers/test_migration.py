"""The migration guide is true: its tables and its code are read from the page and run, both sides of each."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from itertools import takewhile
from math import radians
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from metriczoo import losses, miners, similarity

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.rst").read_text(encoding="utf-8")
pytestmark = [  # of pytorch-metric-learning
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high:UserWarning"),
]
FAULTS = "Where they are wrong"
KNOWN = "2.9.0"  # the version whose faults are listed

C, D = 5, 8
SMALL, LARGE = (2, 3, 4, 5, 6), (4, 6, 8, 10, 12)  # points of each class: beyond 25 rows torch.cdist takes another way
LONELY = (1, 1, 4, 6, 8)
OTHERS, LACKING = (9, 10, 5, 12, 6), (9, 10, 5, 18, 0)


class Row(NamedTuple):
    """Of a table: two expressions, whether ours takes unit vectors, and where both are equal."""

    theirs: str
    ours: str
    on_unit: bool
    where: str


def points(seed: int, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Embeddings of any length in float64, and their labels, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    y = y[torch.randperm(len(y), generator=generator)]
    x = torch.randn(len(y), D, dtype=torch.float64, generator=generator)
    return x * torch.empty(len(y), 1, dtype=torch.float64).uniform_(0.5, 3, generator=generator), y


def chapters() -> dict[str, str]:
    """Title -> text."""
    parts = re.split(r"^(.+)\n-{4,}\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(title: str) -> list[Row]:
    cells = r"^   \* - ``(.+)``\n     - ``(.+?)``( on ``normalize\(x\)``)?\n     - (.+)$"
    return [Row(theirs, ours, bool(unit), where) for theirs, ours, unit, where in re.findall(cells, chapters()[title], re.MULTILINE)]


def blocks() -> Iterator[tuple[str, str]]:
    """Chapter and code of each block."""
    for title, text in chapters().items():
        for after in text.split(".. code-block:: python\n")[1:]:
            lines = takewhile(lambda line: not line.strip() or line.startswith("   "), after.splitlines())
            yield title, "\n".join(line[3:] for line in lines).strip() + "\n"


PAIRS, CLASSES, MINERS, SCORES, REDUCERS = (
    table(title)
    for title in ("Losses on pairs and triplets", "Losses on class weights", "Miners", "Distances and similarities", "Reducers")
)
BLOCKS = list(blocks())


@pytest.fixture(scope="module")
def pml() -> dict[str, Any]:
    """The names of pytorch-metric-learning."""
    package = pytest.importorskip("pytorch_metric_learning", reason="needs the extra `peers`")
    modules = [
        importlib.import_module(f"{package.__name__}.{name}") for name in ("losses", "miners", "distances", "reducers", "regularizers")
    ]
    return names_of(*modules)


def names_of(*modules: ModuleType) -> dict[str, Any]:
    names = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    return names | {"C": C, "d": D, "radians": radians}


def made(expression: str, names: dict[str, Any]) -> Any:
    return eval(expression, dict(names))


def zoo(expression: str) -> Any:
    return made(expression, names_of(similarity, miners, losses))


def assert_same(theirs: Tensor, ours: Tensor, of: list[tuple[Tensor, Tensor]], tolerance: float) -> None:
    """Equal value, and equal gradients of each pair of tensors: for the left side, for the right side."""

    def close(a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance * float(a.detach().abs().max()), check_dtype=False)

    close(theirs, ours)
    gradients = (
        torch.autograd.grad(value.sum(), points, allow_unused=True)
        for value, points in zip((theirs, ours), zip(*of, strict=True), strict=True)
    )
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            close(a, b if a.shape == b.shape else b.T)


def tolerance_of(row: Row) -> float:
    found = re.search(r"to (\S+)$", row.where)
    return float(found[1]) if found else 1e-9


def batches(row: Row) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """Points, labels, references and their labels: of each kind on which the row says that both sides are equal."""
    if "n classes of n points" in row.where:
        yield points(0, (C,) * C)[0], torch.arange(C).repeat_interleave(C), None, None
        return
    alone = [points(0, SMALL), points(1, LARGE)]
    pairs = [(*points(2, SMALL), *points(3, OTHERS)), (*points(4, LARGE), *points(5, OTHERS))]
    if "singletons" in row.where:
        alone.append(points(6, LONELY))
        pairs.append((*points(7, LONELY), *points(8, LACKING)))
    for x, y in alone:
        yield x, y, None, None
    yield from pairs if "references" in row.where else []


def compare(row: Row, theirs: Any, ours: Any, miner: Any = None, weights: tuple[tuple[Tensor, Tensor], ...] = ()) -> None:
    for x, y, r, z in batches(row):
        of = [(x.requires_grad_(), x), *weights]
        left, right = (normalize if unit else nn.Identity() for unit in ("unit vectors only" in row.where, row.on_unit))
        mined = None if miner is None else miner(left(x), y, r, z)
        if r is None:
            a, b = theirs(left(x), y, mined), ours(right(x), y)
        else:
            of.append((r.requires_grad_(), r))
            a, b = theirs(left(x), y, mined, ref_emb=left(r), ref_labels=z), ours(right(x), y, (right(r), z))
        assert a.requires_grad and a.detach().abs() > 0
        assert_same(a, b, of, tolerance_of(row))


def label(row: Row) -> str:
    return row.theirs


def test_the_tables_are_read():
    assert [len(rows) for rows in (PAIRS, CLASSES, MINERS, SCORES, REDUCERS)] == [28, 10, 9, 9, 5]
    assert PAGE.count("   * - ``") == sum(map(len, (PAIRS, CLASSES, MINERS, SCORES, REDUCERS))) + 13  # and the summary


def test_every_public_name_of_theirs_is_on_the_page(pml):
    bases = {"BaseLossWrapper", "BaseMetricLossFunction", "EmbeddingRegularizerMixin", "WeightRegularizerMixin"}
    bases |= {f"Base{kind}" for kind in ("Miner", "Distance", "Reducer", "Regularizer")}
    public = {name for name, value in pml.items() if isinstance(value, type)}
    assert len(public) > 60
    assert public - bases <= set(re.findall(r"\w+", PAGE))


@pytest.mark.parametrize("row", PAIRS + REDUCERS, ids=label)
def test_loss(row, pml):
    compare(row, made(row.theirs, pml), zoo(row.ours))


@pytest.mark.parametrize("row", CLASSES, ids=label)
def test_loss_on_class_weights(row, pml):
    theirs, ours = made(row.theirs, pml).double(), zoo(row.ours).double()
    (of_theirs,) = theirs.parameters()
    weight = ours.proxies.weight
    generator = torch.Generator().manual_seed(9)
    weight.data.normal_(generator=generator).mul_(2)
    of_theirs.data = (weight.data if of_theirs.shape == weight.shape else weight.data.T).clone()
    compare(row, theirs, ours, weights=((of_theirs, weight),))


BEHIND = {
    "cosine": [
        ("TripletMarginLoss(margin=0.3, distance=CosineSimilarity())", 'TripletMarginLoss(0.3, reduction="mean_active"{})'),
        (
            "ContrastiveLoss(0.9, 0.1, distance=CosineSimilarity())",
            'ContrastiveLoss(0.9, 0.1, similarity=Cosine(), reduction="mean_active"{})',
        ),
        ("NTXentLoss(temperature=0.2)", "NTXentLoss(temperature=0.2{})"),
    ],
    "distance": [
        (
            "TripletMarginLoss(margin=0.3)",
            'TripletMarginLoss(0.3, similarity=NegativeEuclidean(normalize=True), reduction="mean_active"{})',
        ),
        ("ContrastiveLoss(0.2, 1.5)", "ThresholdConsistentMarginLoss(-0.2, -1.5, similarity=NegativeEuclidean(normalize=True){})"),
        (
            "NTXentLoss(temperature=0.2, distance=LpDistance())",
            "NTXentLoss(temperature=0.2, similarity=NegativeEuclidean(normalize=True){})",
        ),
    ],
}


@pytest.mark.parametrize("behind", range(3), ids=["triplet", "contrastive", "nt_xent"])
@pytest.mark.parametrize("row", MINERS, ids=label)
def test_miner(row, behind, pml):
    theirs, ours = BEHIND[row.where][behind]
    whole = Row(theirs, ours, False, "batch, references" if behind == 1 else "batch, singletons, references")
    compare(whole, made(theirs, pml), zoo(ours.format(f", miner={row.ours}")), made(row.theirs, pml))


@pytest.mark.parametrize("row", SCORES, ids=label)
def test_scores(row, pml):
    theirs, ours = made(row.theirs, pml), zoo(row.ours)
    for seed, sizes in enumerate((SMALL, LARGE)):
        x, r = (points(s, sizes)[0].requires_grad_() for s in (seed, seed + 10))
        score = ours.score(ours.prepare(x), ours.prepare(r))
        weight = torch.rand(score.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        sign = {"equal": 1, "negated": -1}[row.where]
        torch.testing.assert_close(sign * theirs(x, r), score, rtol=1e-9, atol=1e-9)
        assert_same(sign * (weight * theirs(x, r)).sum(), (weight * score).sum(), [(x, x), (r, r)], 1e-9)


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda number: f"{number}-{BLOCKS[number][0].replace(' ', '_')}")
@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
def test_code(number, sizes):
    title, code = BLOCKS[number]
    for peer in re.findall(r"^(?:from|import) (pytorch_metric_learning|torchmetrics|metric_learn)\b", code, re.MULTILINE):
        pytest.importorskip(peer, reason="needs the extra `peers`")
    if title == FAULTS and "pytorch_metric_learning" in code and importlib.metadata.version("pytorch-metric-learning") != KNOWN:
        pytest.skip(f"the faults listed are those of {KNOWN}")
    torch.manual_seed(number)
    (x, y), (r, z) = points(number, sizes), points(number + 100, OTHERS)
    x.requires_grad_()
    r.requires_grad_()
    names: dict[str, Any] = {"torch": torch, "normalize": normalize, "C": C, "d": D, "x": x, "y": y, "r": r, "z": z}
    exec(compile(code, f"docs/migration.rst, block {number}", "exec"), names)
    if not isinstance(names.get("theirs"), Tensor):
        assert "assert " in code
        return
    theirs, ours = names["theirs"], names["ours"]
    of = [(x, x), (r, r)]
    if "weights" in names:
        of.append(names["weights"])
    if theirs.requires_grad:
        assert_same(theirs, ours, of, names.get("tolerance", 1e-9))
    else:
        torch.testing.assert_close(ours, theirs, rtol=names.get("tolerance", 1e-9), atol=0, check_dtype=False)
