"""The tests of the tests: every check of `loss_checks.py` finds a bug that was planted for it, and every excuse that is not needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import loss_checks as checks
import pytest
import torch
from hypothesis import Phase
from naive import SIMILARITIES
from torch import Tensor
from torch.nn.functional import normalize, softplus
from zoo import LOG_Z, NUM_DATA, ZOO, Entry, Tags

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.scores import Scores, Terms, as_scores
from metriczoo.similarity import Cosine, NegativeSquaredEuclidean, Similarity

BY_NAME = {entry.name: entry for entry in ZOO}


@pytest.fixture(autouse=True)
def find_only() -> Iterator[None]:
    """A failing example is all that is wanted, not the smallest one."""
    hypothesis.settings.register_profile("find only", hypothesis.settings(), phases=[Phase.generate], report_multiple_bugs=False)
    hypothesis.settings.load_profile("find only")
    yield
    hypothesis.settings.load_profile("metriczoo")


def written(name: str, bug: str, function: Callable[..., Any], **changes: Any) -> Entry:
    """The entry `name` with another function, and a loss made of that."""
    entry = BY_NAME[name]
    similarity = SIMILARITIES[entry.similarity][0]
    return entry.mutant(
        bug, function=function, make=lambda **options: losses.from_function(function, **{"similarity": similarity(), **options}), **changes
    )


def scored(name: str, bug: str, similarity: type[Similarity]) -> Entry:
    """The entry `name` on another similarity."""
    entry = BY_NAME[name]
    return entry.mutant(bug, make=lambda **options: entry.make(**{**options, "similarity": similarity()}))


class Called:
    """A loss with something done to its arguments or its value."""

    def __init__(self, loss: losses.Loss, change: Callable[[losses.Loss, Tensor, Any, Any], Tensor]) -> None:
        self.loss, self.change, self.similarity = loss, change, loss.similarity

    def __call__(self, x: Tensor, labels: Any, references: Any = None) -> Tensor:
        return self.change(self.loss, x, torch.as_tensor(labels, dtype=torch.int64), references)


def called(name: str, bug: str, change: Callable[[losses.Loss, Tensor, Any, Any], Tensor]) -> Entry:
    entry = BY_NAME[name]
    return entry.mutant(bug, make=lambda **options: Called(entry.make(**options), change))


# ---- functions with a bug


def wrong_sign(s_n, s_p):
    return softplus(as_scores(s_n).map(lambda s: 8 * (s + 0.25)).logsumexp() + as_scores(s_p).map(lambda s: 8 * s).logsumexp())


def log_of_x_plus_eps(s_n, s_p):
    pairs = 256 * (as_scores(s_n).fill(-math.inf).amax(1) - as_scores(s_p).fill(math.inf).amin(1) + 0.25)
    return -(1 / (1 + pairs.exp()) + 1e-7).log()


def zero_padding(s_n, s_p):
    push, pull = (as_scores(s).map(f).fill(0.0) for s, f in ((s_n, lambda s: 8 * (s + 0.25)), (s_p, lambda s: -8 * s)))
    return softplus(push.logsumexp(1) + pull.logsumexp(1))


def mean_of_nothing(s_n, s_p):
    positive, negative = as_scores(s_p).map(lambda s: (1 - s).relu()), as_scores(s_n).map(lambda s: (s - 0.5).relu())
    return tuple(Terms(t.sum() / t.count(), (t.count() > 0).long(), (t.sum() > 0).long()) for t in (positive, negative))


def root_of_d2_plus_eps(s_n, s_p):
    d_p, d_n = (as_scores(s).map(lambda s: (s * s + 1e-8).sqrt()) for s in (s_p, s_n))
    positive, negative = d_p.map(lambda d: d * d / 2), d_n.map(lambda d: (1 - d).relu().square() / 2)
    return tuple(Terms(t.sum(), t.count(), t.map(lambda v: (v > 0).to(v.dtype)).sum()) for t in (positive, negative))


def nce_of(s_n, s_p, *, width: bool = False, mean: bool = False):
    s_n, s_p = as_scores(s_n), as_scores(s_p)
    m = torch.full_like(s_n.count(), s_n.value.shape[1]) if width else s_n.count()
    bias = (LOG_Z + (m.double() / NUM_DATA).log()).unsqueeze(1)
    own, noise = s_p.map(lambda s: softplus(bias - s / 0.2, threshold=100)), s_n.map(lambda s: softplus(s / 0.2 - bias, threshold=100))
    return own.sum() + (noise.mean() if mean else noise.sum())


def squared_distances(s_n, s_p):
    positive, negative = as_scores(s_p).map(lambda s: s**4 / 2), as_scores(s_n).map(lambda s: (1 - s * s).relu().square() / 2)
    return tuple(Terms(t.sum(), t.count(), t.map(lambda v: (v > 0).to(v.dtype)).sum()) for t in (positive, negative))


def leaky_hinge(s_n, s_p):
    positive = as_scores(s_p).map(lambda s: (1 - s).relu())
    negative = as_scores(s_n).map(lambda s: torch.nn.functional.leaky_relu(s - 0.5, 1e-3))
    return tuple(Terms(t.sum(), t.count(), t.map(lambda v: (v > 0).to(v.dtype)).sum()) for t in (positive, negative))


def over_the_block(s_n, s_p):
    loss = F.unified(s_n, s_p, margin=0.25, scale=8.0)
    return loss - 0.1 * torch.where(loss > 0, loss.sum() / max(1, len(loss)), 0.0)


def first_positive_only(s_n, s_p):
    s_p = as_scores(s_p)
    return F.unified(s_n, s_p.where((s_p.mask.cumsum(1) == 1) & s_p.mask), margin=0.25, scale=8.0)


def absolute_threshold(s_n, s_p):
    return F.unified(as_scores(s_n).map(lambda s: torch.maximum(s, torch.zeros_like(s))), s_p, margin=0.25, scale=8.0)


def detached_zero(s_n, s_p):
    loss = F.unified(s_n, s_p, margin=0.25, scale=8.0)
    return loss if loss.detach().any() else torch.zeros_like(loss)


# ---- similarities with a bug


class NakedRoot(Similarity):
    is_distance = True

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -(a.unsqueeze(-2) - r.unsqueeze(-3)).square().sum(-1).sqrt()


class BoundedNormalize(Cosine):
    def prepare(self, x: Tensor) -> Tensor:
        return normalize(x, dim=-1)  # divides a zero vector by 1e-12, and its gradient, too


class HalfProduct(Similarity):
    def prepare(self, x: Tensor) -> Tensor:
        return Cosine().prepare(x)

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return (a.to(torch.float8_e4m3fn).to(a.dtype)) @ r.to(torch.float8_e4m3fn).to(r.dtype).mT


class Manhattan(NegativeSquaredEuclidean):
    def prepare(self, x: Tensor) -> Tensor:
        return x

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -(a.unsqueeze(-2) - r.unsqueeze(-3)).abs().sum(-1)


# ---- which check finds which bug

PLANTED = [
    (checks.check_signs, written("unified", "wrong sign", wrong_sign)),
    (checks.check_spec, written("unified", "wrong sign", wrong_sign)),
    (checks.check_slopes, BY_NAME["circle"].mutant("missing detach", function=BY_NAME["circle_attached"].function)),
    (checks.check_self_paced, BY_NAME["circle"].mutant("missing detach", make=BY_NAME["circle_attached"].make)),
    (checks.check_self_paced, BY_NAME["circle_attached"].mutant("needless detach", make=BY_NAME["circle"].make)),
    (checks.check_masked_is_absent, written("nce", "width instead of count", lambda s_n, s_p: nce_of(s_n, s_p, width=True))),
    (checks.check_batch, called("triplet", "own pair kept", lambda loss, x, y, r: loss(x, y, (x, y)))),
    (checks.check_extremes, written("unified_faces", "log(x + eps)", log_of_x_plus_eps)),
    (checks.check_signs, written("unified", "swapped arguments", lambda s_n, s_p: F.unified(s_p, s_n, margin=0.25, scale=8.0))),
    (checks.check_masked_is_absent, written("unified", "zero padding", zero_padding)),
    (checks.check_spec, written("triplet", "no margin", lambda s_n, s_p: F.triplet_margin(s_n, s_p, margin=0.0))),
    (checks.check_batch, written("circle", "no margin", lambda s_n, s_p: F.circle(s_n, s_p, margin=0.0, scale=20.0))),
    (checks.check_spec, written("nce", "mean of the noise terms", lambda s_n, s_p: nce_of(s_n, s_p, mean=True))),
    (checks.check_spec, written("contrastive", "squared distances", squared_distances)),
    (checks.check_spec, written("lmnn", "mu on the pull", lambda s_n, s_p: F.lmnn(s_n, s_p, num_targets=2, mu=0.4))),
    (checks.check_slopes, written("unified", "scaled gradient", lambda s_n, s_p: _doubled(F.unified(s_n, s_p, margin=0.25, scale=8.0)))),
    (checks.check_shift, written("unified", "absolute threshold", absolute_threshold)),
    (checks.check_bound, written("unified", "too strong", lambda s_n, s_p: 1.1 * F.unified(s_n, s_p, margin=0.25, scale=8.0))),
    (checks.check_bound, written("unified", "too weak", lambda s_n, s_p: 0.5 * F.unified(s_n, s_p, margin=0.25, scale=8.0))),
    (checks.check_saturation, written("contrastive_cosine", "leaky hinge", leaky_hinge)),
    (checks.check_finite, scored("contrastive", "naked square root", NakedRoot)),
    (checks.check_collapse, scored("contrastive", "naked square root", NakedRoot)),
    (checks.check_finite, written("contrastive_cosine", "mean of nothing", mean_of_nothing)),
    (checks.check_nothing_to_learn, written("contrastive_cosine", "mean of nothing", mean_of_nothing)),
    (checks.check_nothing_to_learn, written("contrastive", "root of d^2 + eps", root_of_d2_plus_eps)),
    (checks.check_attached, written("unified", "detached zero", detached_zero)),
    (checks.check_zero_vector, scored("triplet", "normalize by max(|x|, 1e-12)", BoundedNormalize)),
    (checks.check_permutation, written("unified", "first positive only", first_positive_only)),
    (checks.check_relabelling, called("triplet", "label 0 is nothing", lambda loss, x, y, r: loss(x, torch.where(y == 0, -1, y), r))),
    (checks.check_relabelling, called("triplet", "labels in single precision", lambda loss, x, y, r: loss(x, y.float().long(), r))),
    (checks.check_ignored_is_absent, called("triplet", "ignored is a class", lambda loss, x, y, r: loss(x, y.abs(), r))),
    (checks.check_invariance, scored("lmnn", "sum of absolute differences", Manhattan)),
    (checks.check_tiles, written("unified", "average over the block", over_the_block)),
    (checks.check_half, scored("triplet", "rounded scores", HalfProduct)),
    (
        checks.check_autocast,
        called("triplet", "cast by autocast", lambda loss, x, y, r: loss(x @ torch.eye(x.shape[1], dtype=x.dtype), y, r)),
    ),
]


def _doubled(loss: Tensor) -> Tensor:
    """The value as it is, twice the gradient."""
    return 2 * loss - loss.detach()


@pytest.mark.parametrize(("check", "entry"), PLANTED, ids=[f"{entry.name} -> {check.__name__}" for check, entry in PLANTED])
def test_check_finds_the_bug(check, entry):
    with pytest.raises(AssertionError):
        check(entry)


def test_every_check_finds_one():
    assert {check for check, _ in PLANTED} == {*checks.ON_SCORES, *checks.ON_BATCHES}


FLIPS = [
    ("signs", checks.check_signs, ["triplet", "circle", "circle_attached"]),
    ("shift", checks.check_shift, ["triplet", "unified", "contrastive", "circle", "nce", "lmnn"]),
    ("saturates", checks.check_saturation, ["triplet", "triplet_soft", "contrastive", "unified", "circle", "lmnn"]),
    ("self_paced", checks.check_self_paced, ["circle", "circle_attached", "triplet"]),
    ("scale", checks.check_invariance, ["triplet", "contrastive", "lmnn"]),
    ("translation", checks.check_invariance, ["triplet", "contrastive", "circle"]),
]


@pytest.mark.parametrize(("tag", "check", "name"), [(tag, check, name) for tag, check, names in FLIPS for name in names])
def test_a_false_promise_and_a_needless_excuse_are_found(tag, check, name):
    entry = BY_NAME[name]
    flipped = replace(entry.tags, **{tag: not getattr(entry.tags, tag)})
    with pytest.raises(AssertionError):
        check(entry.mutant(f"not {tag}", tags=flipped))


@pytest.mark.parametrize(("name", "bound"), [("triplet", None), ("triplet", lambda n, p: n * p / 2), ("contrastive", lambda n, p: 2 * p)])
def test_a_wrong_bound_is_found(name, bound):
    entry = BY_NAME[name]
    with pytest.raises(AssertionError):
        checks.check_bound(entry.mutant("bound", tags=replace(entry.tags, bound=bound)))


TESTS = Path(__file__).parent


def test_no_loss_and_no_function_is_forgotten():
    """Each has an entry in the zoo, or tests of its family that name it; a function may be tested as the loss that calls it."""
    in_zoo = {type(entry.make()).__name__ for entry in ZOO} | {getattr(unwrapped(entry.function), "__name__", "") for entry in ZOO}
    sources = {folder: "".join(path.read_text() for path in folder.glob("*.py")) for folder in (TESTS, Path(losses.__file__).parent)}

    def named(name, *folders):
        return any(re.search(rf"\b{name}\b", sources[folder]) for folder in folders)

    assert [name for name in losses.__all__ if name not in in_zoo | {"FunctionLoss"} and not named(name, TESTS)] == []
    assert [name for name in F.__all__ if name not in in_zoo and not named(name, *sources)] == []
    assert len({entry.name for entry in ZOO}) == len(ZOO)


def unwrapped(function):
    while hasattr(function, "func"):
        function = function.func
    return function


def test_every_tag_is_true_of_one_loss_and_false_of_another():
    for tag in Tags.__dataclass_fields__:
        values = {bool(getattr(entry.tags, tag)) for entry in ZOO}
        assert values == {True, False}, tag


def test_losses_start_with_the_similarity_of_their_paper():
    for entry in ZOO:
        assert type(entry.make().similarity) is SIMILARITIES[entry.similarity][0]


def test_scores_of_mutants_are_real():
    """The mutants above run at all: a check must not fail for want of an argument."""
    s_n, s_p = Scores(torch.tensor([[0.1, -0.2]])), Scores(torch.tensor([[0.3]]))
    for _, entry in PLANTED:
        if ":" in entry.name and not entry.between:
            assert all(bool(t.isfinite().all()) for t in checks.terms_of(entry.function(s_n, s_p)))
