"""`check_similarity`: it passes our own similarities, and each of its checks finds a bug that was planted for it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metriczoo import similarity as zoo
from metriczoo.similarity import Cosine, InnerProduct, Mahalanobis, NegativeLp, NegativeSquaredEuclidean, Similarity
from metriczoo.testing._checks import failures
from metriczoo.testing.similarities import SIMILARITY_CHECKS, Case, check_similarity

Point = Sequence[float]


def inner(x: Point, y: Point) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def cosine(x: Point, y: Point) -> float:
    return inner(x, y) / math.hypot(*x) / math.hypot(*y)


def normalized(x: Point) -> list[float]:
    return [a / math.hypot(*x) for a in x]


def variance(x: Point) -> float:
    return math.fsum((a - math.fsum(x) / len(x)) ** 2 for a in x)


def poincare(x: Point, y: Point) -> float:
    return -math.acosh(1 + 2 * math.dist(x, y) ** 2 / ((1 - inner(x, x)) * (1 - inner(y, y))))


def weighted(x: Point, y: Point) -> float:
    return -math.fsum(w * (a - b) ** 2 for w, a, b in zip((1, 2, 3, 4), x, y, strict=True))


OURS: list[tuple[Similarity, Any]] = [
    (Cosine(), cosine),
    (InnerProduct(), inner),
    (zoo.NegativeEuclidean(), lambda x, y: -math.dist(x, y)),
    (zoo.NegativeSquaredEuclidean(), lambda x, y: -(math.dist(x, y) ** 2)),
    (zoo.NegativeEuclidean(normalize=True), lambda x, y: -math.dist(normalized(x), normalized(y))),
    (zoo.NegativeSquaredEuclidean(normalize=True), lambda x, y: 2 * cosine(x, y) - 2),
    (NegativeLp(), lambda x, y: -math.fsum(abs(a - b) for a, b in zip(x, y, strict=True))),
    (NegativeLp(2), lambda x, y: -math.dist(x, y)),
    (NegativeLp(3), lambda x, y: -(math.fsum(abs(a - b) ** 3 for a, b in zip(x, y, strict=True)) ** (1 / 3))),
    (NegativeLp(math.inf), lambda x, y: -max(abs(a - b) for a, b in zip(x, y, strict=True))),
    (Mahalanobis(4), lambda x, y: -(math.dist(x, y) ** 2)),
    (Mahalanobis(4, matrix=torch.tensor([1.0, 2, 3, 4], dtype=torch.float64).diag(), learnable=False), weighted),
    (Mahalanobis(4, rank=2), lambda x, y: -(math.dist(x[:2], y[:2]) ** 2)),
    (zoo.SignalToNoise(), lambda x, y: -variance([a - b for a, b in zip(x, y, strict=True)]) / variance(x)),
    (zoo.Poincare(), poincare),
    (zoo.Poincare(0.5, exponential=True, max_norm=2.0), None),
]


@pytest.mark.parametrize(("similarity", "spec"), OURS, ids=lambda x: repr(x) if isinstance(x, Similarity) else "")
def test_our_similarities_pass(similarity: Similarity, spec: Any) -> None:
    check_similarity(similarity, spec=spec)


def test_no_similarity_is_forgotten() -> None:
    public = {kind for name in zoo.__all__ if isinstance(kind := getattr(zoo, name), type) and kind is not Similarity}
    assert {type(similarity) for similarity, _ in OURS} == public


def test_other_dimensions() -> None:
    check_similarity(Mahalanobis(7, rank=3), embedding_dim=7)


# ---- planted bugs


class WrongShape(Cosine):
    """References by anchors."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return r @ a.mT


class Half(Cosine):
    """Scores in half precision what comes in single precision."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return (a.bfloat16() @ r.bfloat16().mT).float() if a.dtype == torch.float32 else a @ r.mT


class Detached(Cosine):
    """No gradient reaches the references."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return a @ r.detach().mT


class Overridden(Cosine):
    """Scores points otherwise than a loss does."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y) + 1


class Centred(Cosine):
    """Takes the mean of the batch away."""

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(x - x.mean(-2, keepdim=True))


class Softmax(Cosine):
    """Normalises over the references."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return (a @ r.mT).softmax(-1)


class Normed(Cosine):
    """Has statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(self.norm(x.reshape(-1, 4)).reshape(x.shape))


class MatricesOnly(Cosine):
    """Transposes as only matrices are."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return torch.einsum("bd,nd->bn", a, r)


class NoEmpty(InnerProduct):
    """Subtracts the largest component, of points that may not be there."""

    def prepare(self, x: Tensor) -> Tensor:
        return x / x.detach().abs().max() * x.detach().abs().max()


class Symmetric(zoo.SignalToNoise):
    """Says that it is symmetric."""

    invariances = frozenset({"scale", "swap"})  # type: ignore[assignment]


class Silent(Cosine):
    """Does not say what it is invariant to."""

    invariances = frozenset({"swap", "rotation"})  # type: ignore[assignment]


class Positive(zoo.NegativeEuclidean):
    """A distance that is larger for farther points."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -super().score(a, r)


class Modest(Cosine):
    """Says that a point may be nearer to others than to itself."""

    nearest_itself = False


class NoProduct(Cosine):
    """Adds to the product."""

    is_product = True

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return a @ r.mT + 0.1


class HiddenProduct(Cosine):
    """Hides that it is a product."""

    is_product = False


class NoDistance(Cosine):
    """Takes a cosine for a distance."""

    is_distance = True


class Doubled(zoo.NegativeEuclidean):
    """Its distances are those of the square."""

    def distance(self, score: Tensor) -> Tensor:
        return -2 * score


class HalfGradient(Cosine):
    """Its gradient is half of what it should be."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        product = a @ r.mT
        return 0.5 * (product + product.detach())


class FrozenScale(Mahalanobis):
    """Its matrix is learnable, but receives no gradient."""

    def prepare(self, x: Tensor) -> Tensor:
        y = x @ self.factor.detach().to(x.dtype).mT
        return torch.cat([y, y.square().sum(-1, keepdim=True)], dim=-1)


class Root(NegativeSquaredEuclidean):
    """The derivative of a square root at 0."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -super().score(a, r).neg().sqrt()

    def distance(self, score: Tensor) -> Tensor:
        return -score


class Overflow(Cosine):
    """Squares before it divides."""

    def prepare(self, x: Tensor) -> Tensor:
        return x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-30)


class ByCdist(zoo.NegativeEuclidean):
    """Distances by a matrix product."""

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -torch.cdist(a, r, compute_mode="use_mm_for_euclid_dist")


class Rounded(zoo.NegativeEuclidean):
    """Rounds, so that its square is far off."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return super().score(a.bfloat16().float(), r.bfloat16().float()) if a.dtype == torch.float32 else super().score(a, r)


class Learned(Cosine):
    """A scale that the engine cannot see, since it is no product any more."""

    is_product = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return self.weight.to(a.dtype) * (a @ r.mT)


class ByNumPy(Cosine):
    """Looks at its points outside of PyTorch."""

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return a @ r.mT + 0 * float(a.detach().numpy().sum())


class Branch(Cosine):
    """Takes a branch by a value."""

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(x) if float(x.detach().abs().sum()) >= 0 else x


class OnTheHost(Cosine):
    """Makes a tensor where nobody asked for it."""

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(x) * torch.ones(2, x.shape[-1], dtype=x.dtype)[0]


class StateLost(Mahalanobis):
    """Its matrix is no part of the state."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__(embedding_dim)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "factor"] = torch.eye(self.factor.shape[1])


class CopiesLost(Mahalanobis):
    """Its copies start anew."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        with torch.no_grad():
            self.factor.copy_(torch.eye(4))


class Unchecked(Cosine):
    """A cosine to some power.

    Args:
        power: any number.
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power


class Undocumented(Cosine):
    pass


def scaled(x: Point, y: Point) -> float:
    return 2 * inner(x, y)


PLANTED: list[tuple[str, Similarity]] = [
    ("check_interface", WrongShape()),
    ("check_interface", Detached()),
    ("check_forward", Overridden()),
    ("check_rows", Centred()),
    ("check_rows", Softmax()),
    ("check_rows", Normed()),
    ("check_stacks", MatricesOnly()),
    ("check_empty", NoEmpty()),
    ("check_spec", InnerProduct()),
    ("check_invariances", Symmetric()),
    ("check_invariances", Silent()),
    ("check_nearest_itself", Positive()),
    ("check_nearest_itself", Modest()),
    ("check_product", NoProduct()),
    ("check_product", HiddenProduct()),
    ("check_distance", NoDistance()),
    ("check_distance", Doubled()),
    ("check_distance", Positive()),
    ("check_gradcheck", HalfGradient()),
    ("check_gradcheck", FrozenScale(4)),
    ("check_finite", Root()),
    ("check_finite", Overflow()),
    ("check_near_duplicates", ByCdist()),
    ("check_near_duplicates", Rounded()),
    ("check_half_precision", Half()),
    ("check_losses", Learned()),
    ("check_func", ByNumPy()),
    ("check_compile", Branch()),
    ("check_meta", OnTheHost()),
    ("check_state", StateLost(4)),
    ("check_copies", CopiesLost(4)),
    ("check_settings", Unchecked()),
    ("check_documentation", Undocumented()),
]


@pytest.mark.parametrize(("name", "similarity"), PLANTED, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_each_check_finds_its_bug(name: str, similarity: Similarity) -> None:
    checks = [check for check in SIMILARITY_CHECKS if check.name == name]
    assert failures(Case(similarity, 4, scaled, frozenset(similarity.invariances)), checks)[name]


def test_every_check_has_its_bug() -> None:
    assert {name for name, _ in PLANTED} == {check.name for check in SIMILARITY_CHECKS}


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(AssertionError, match=re.escape("Softmax() fails")) as caught:
        check_similarity(Softmax())
    for name in ("check_rows: ", "check_invariances: "):
        assert name in str(caught.value)


def test_invariances_can_be_given() -> None:
    checks = [check for check in SIMILARITY_CHECKS if check.name == "check_invariances"]
    given = frozenset({"swap", "rotation", "scale", "lengths"})
    assert not failures(Case(Silent(), 4, None, given), checks)["check_invariances"]
    fault = failures(Case(Silent(), 4, None, given | {"translation"}), checks)["check_invariances"]
    assert fault is not None
    assert "'translation', which changes a score" in fault


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (TypeError, r"`similarity` to be a Similarity.*Did you mean `Cosine\(\)`", (Cosine,), {}),
        (TypeError, "`similarity` to be a Similarity", ("cosine",), {}),
        (TypeError, "`spec` to be callable", (Cosine(),), {"spec": 1.0}),
        (ValueError, "Did you mean 'rotation'", (Cosine(),), {"invariances": ["rotations"]}),
        (ValueError, "`embedding_dim`", (Cosine(),), {"embedding_dim": 1}),
    ],
)
def test_bad_arguments(error: type[Exception], message: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        check_similarity(*arguments, **options)
