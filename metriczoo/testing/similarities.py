"""`check_similarity`: what any similarity is held to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given
from torch import Tensor

from metriczoo import losses
from metriczoo._checks import check_count, unknown_name
from metriczoo.similarity import Similarity
from metriczoo.testing._checks import Check, expect, failures, property_test, raise_failures
from metriczoo.testing._members import as_instance, copies, expect_close, expect_documented, expect_settings_checked, loaded
from metriczoo.testing.strategies import Batch, batches

__all__ = ["SIMILARITY_CHECKS", "check_similarity"]

Spec = Callable[[list[float], list[float]], float]

_INVARIANCES = ("swap", "rotation", "translation", "scale", "lengths")


@dataclass(frozen=True)
class Case:
    """A similarity of points of one dimension, what it should score, and what it says that its scores do not depend on."""

    similarity: Similarity
    dim: int
    spec: Spec | None
    invariances: frozenset[str]

    def fresh(self, dtype: torch.dtype = torch.float64) -> Similarity:
        """A copy, in that dtype."""
        return copy.deepcopy(self.similarity).to(dtype)

    def generic(self) -> Similarity:
        """A copy whose parameters are not where they started: special values have special properties."""
        similarity = self.fresh()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in similarity.parameters():
                parameter.mul_(1 + torch.rand(parameter.shape, generator=generator).to(parameter))
        return similarity

    def points(self, seed: int, *shape: int) -> Tensor:
        """Points `[..., d]`, none of them near another one, of lengths from 0.3 to 0.9: a ball is a space, too."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(*shape, self.dim, generator=generator, dtype=torch.float64)
        length = 0.3 + 0.6 * torch.rand(*shape, 1, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(x, dim=-1) * length


def _gradients(similarity: Similarity, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Of a sum of scores with weights of their own, with respect to both sets of points."""
    leaves = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    score = similarity(*leaves)
    weights = torch.linspace(-1, 1, score.numel(), dtype=score.dtype).reshape(score.shape)
    return torch.autograd.grad((score * weights).sum(), leaves, allow_unused=True, materialize_grads=True)


# ---- prepare and score


def check_interface(case: Case) -> None:
    """`[b, n]` scores in the dtype of the points, attached to the graph of both; the points are left alone."""
    for dtype in (torch.float32, torch.float64):
        x, y = case.points(0, 4).to(dtype).requires_grad_(), case.points(1, 5).to(dtype).requires_grad_()
        before = x.detach().clone(), y.detach().clone()
        score = case.fresh(dtype)(x, y)
        expect(isinstance(score, Tensor) and score.shape == (4, 5), f"expected scores [4, 5] of 4 to 5 points, but got {score!r:.80}")
        expect(score.dtype == dtype, f"scores of points of {dtype} are {score.dtype}")
        expect(all(torch.equal(*pair) for pair in zip((x, y), before, strict=True)), "the points were changed")
        gradients = torch.autograd.grad(score.sum(), (x, y), allow_unused=True) if score.requires_grad else (None, None)
        expect(all(g is not None and bool(g.any()) for g in gradients), "no gradient reaches both of the points")


def check_forward(case: Case) -> None:
    """The similarity of points is `score` of what `prepare` gives."""
    similarity, x, y = case.generic(), case.points(2, 4), case.points(3, 5)
    expect_close(similarity(x, y), similarity.score(similarity.prepare(x), similarity.prepare(y)), "forward against prepare and score")


def check_rows(case: Case) -> None:
    """A prepared point is that of the point alone, and a score that of the two points alone."""
    similarity, x, y = case.generic(), case.points(4, 5), case.points(5, 6)
    for name, mode in (("train", True), ("eval", False)):
        similarity.train(mode)
        a, r = similarity.prepare(x), similarity.prepare(y)
        score = similarity.score(a, r)
        for i in (0, 3):
            expect_close(similarity.prepare(x[i : i + 1]), a[i : i + 1], f"in {name} mode, what `prepare` makes of one point alone")
            expect_close(similarity.score(a[i : i + 1], r[2:3]), score[i : i + 1, 2:3], f"in {name} mode, the score of two points alone")
        rows = torch.tensor([4, 1, 2])
        expect_close(similarity.score(a[rows], r), score[rows], "scores of some anchors only, in another order")
        expect_close(similarity.score(a, r[rows]), score[:, rows], "scores of some references only, in another order")


def check_stacks(case: Case) -> None:
    """Stacks `[..., n, d]` are scored as their matrices are, and anchors can have references of their own."""
    similarity, x, y = case.generic(), case.points(6, 2, 4), case.points(7, 2, 5)
    got = similarity.score(similarity.prepare(x), similarity.prepare(y))
    expect_close(got, torch.stack([similarity(x[k], y[k]) for k in range(2)]), "the scores of a stack")
    own = similarity.score(similarity.prepare(x[0, :2]).unsqueeze(1), similarity.prepare(y))
    expect_close(
        own, torch.stack([similarity(x[0, k : k + 1], y[k]) for k in range(2)]), "the scores of anchors with references of their own"
    )


def check_empty(case: Case) -> None:
    """No anchors or no references: no scores, and gradients of 0."""
    for b, n in ((0, 3), (3, 0), (0, 0), (1, 1)):
        x, y = case.points(8, b), case.points(9, n)
        score = case.fresh()(x, y)
        expect(score.shape == (b, n), f"{b} to {n} points have scores of shape {list(score.shape)}")
        for gradient, points in zip(_gradients(case.fresh(), x, y), (x, y), strict=True):
            expect(gradient.shape == points.shape and bool(gradient.isfinite().all()), f"gradient {gradient.tolist()} of {b} to {n} points")


def check_spec(case: Case) -> None:
    """Scores are those of the specification."""
    assert case.spec is not None
    similarity, x, y = case.fresh(), case.points(10, 5), case.points(11, 6)
    expected = torch.tensor([[case.spec(a, b) for b in y.tolist()] for a in x.tolist()], dtype=torch.float64)
    expect_close(similarity(x, y), expected, "scores against the specification")


# ---- what it says of itself


def _moved(case: Case, how: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if how == "rotation":
        turn = torch.linalg.qr(torch.randn(case.dim, case.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
        return x @ turn, y @ turn
    if how == "translation":
        by = 0.1 * torch.linspace(0.5, 1.5, case.dim, dtype=torch.float64) / case.dim**0.5
        return x + by, y + by
    if how == "scale":
        return 0.7 * x, 0.7 * y
    factors = (
        torch.linspace(0.5, 1, len(x), dtype=torch.float64).unsqueeze(1),
        torch.linspace(0.9, 0.4, len(y), dtype=torch.float64).unsqueeze(1),
    )
    return x * factors[0], y * factors[1]


def check_invariances(case: Case) -> None:
    """Scores do not change under what `invariances` lists, and they do under all else."""
    similarity, x, y = case.generic(), case.points(12, 6), case.points(13, 5)
    score = similarity(x, y)
    for how in _INVARIANCES:
        other = similarity(y, x).mT if how == "swap" else similarity(*_moved(case, how, x, y))
        error = float((other - score).detach().abs().max())
        same = error <= 1e-9 * (1 + float(score.detach().abs().max()))
        if how in case.invariances:
            expect(same, f"`invariances` has {how!r}, which changes a score by {error:.3g}")
        else:
            expect(not same, f"`invariances` lacks {how!r}, which changes no score")


def check_nearest_itself(case: Case) -> None:
    """Larger is closer: no other point is closer to a point than itself, unless `nearest_itself` is false."""
    margin = torch.tensor(0.0, dtype=torch.float64)
    for seed in range(4):
        x = case.points(14 + seed, 12)
        score = case.generic()(x, x).detach()
        margin = torch.minimum(margin, (score.diagonal().unsqueeze(1) - score).min())
    found = bool(margin < -1e-9)
    says = case.similarity.nearest_itself
    if says:
        expect(not found, f"a point scores {-float(margin):.3g} more with another point than with itself")
    else:
        expect(found, "`nearest_itself` is false, but no point scores more with another point than with itself")


def check_product(case: Case) -> None:
    """`is_product` tells whether `score(a, r)` is `a @ r.mT`."""
    similarity = case.generic()
    a, r = similarity.prepare(case.points(18, 4)), similarity.prepare(case.points(19, 5))
    score = similarity.score(a, r).detach()
    same = a.shape[1] == r.shape[1] and torch.allclose(score, (a @ r.mT).detach(), rtol=1e-10, atol=1e-12)
    expect(
        same == similarity.is_product, f"`is_product` is {similarity.is_product}, but `score(a, r)` is {'' if same else 'not '}`a @ r.mT`"
    )


def check_distance(case: Case) -> None:
    """`is_distance` tells whether scores are negated distances or their squares; `distance` gives distances, the smaller the closer."""
    similarity = case.generic()
    x, y = case.points(20, 6), case.points(21, 7)
    score = torch.cat([similarity(x, y), similarity(x, x)], 1).detach()
    distance = similarity.distance(score)
    expect(
        distance.shape == score.shape and bool((distance >= 0).all()),
        f"distances are to be at least 0, but are {float(distance.min()):.3g}",
    )
    order = score.flatten().argsort()
    steps = distance.flatten()[order].diff()
    expect(bool((steps <= 1e-9).all()), "`distance` is larger at a larger score, which is closer")
    own = similarity(x, x).diagonal().detach()
    by = [torch.allclose(score, -(distance**power), rtol=1e-9, atol=1e-12) for power in (1, 2)]
    holds = bool((score <= 0).all()) and bool((own.abs() <= 1e-12).all()) and any(by)
    expect(
        holds == similarity.is_distance,
        f"`is_distance` is {similarity.is_distance}, but scores, up to {float(score.max()):.3g}, and from {float(own.min()):.3g} to "
        f"{float(own.max()):.3g} of equal points, are {'' if any(by) else 'not '}minus `distance` or its square",
    )
    if similarity.is_product:
        x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
        expected = (x.unsqueeze(1) - y).norm(dim=2)
        if torch.allclose(similarity(x, y), x @ y.mT):
            expect_close(similarity.distance(similarity(x, y)), expected, "`distance` of unit vectors")


# ---- numbers


def check_gradcheck(case: Case) -> None:
    """First and second derivatives, of the points and of the parameters, are those of the value."""
    similarity = case.generic()
    names = [name for name, p in similarity.named_parameters() if p.requires_grad]
    learnable = [p.detach().clone().requires_grad_() for p in similarity.parameters() if p.requires_grad]

    def f(x: Tensor, y: Tensor, *parameters: Tensor) -> Any:
        return torch.func.functional_call(similarity, dict(zip(names, parameters, strict=True)), (x, y))

    first, second = ("the gradient", torch.autograd.gradcheck), ("the second derivative", torch.autograd.gradgradcheck)
    for n, m, (what, test) in ((2, 3, first), (1, 2, first), (2, 2, second)):
        inputs = (case.points(22, n).requires_grad_(), case.points(23, m).requires_grad_(), *learnable)
        try:
            test(f, inputs)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise AssertionError(f"{what} is wrong: {' '.join(lines)[:300]}") from error


def check_finite(case: Case) -> None:
    """Finite scores and gradients of duplicates, antipodes, zero, huge and tiny vectors; no distance is below 0."""

    @property_test(40)
    @given(batches(min_dim=case.dim, max_dim=case.dim))
    def run(batch: Batch) -> None:
        x = batch.fresh()
        similarity = case.fresh(x.dtype)
        score = similarity(x, x)
        expect(score.isfinite().all(), f"scores {score.tolist()} of {batch}")
        expect(not similarity.is_distance or bool((score <= 0).all()), f"a distance below 0: scores {score.tolist()} of {batch}")
        (gradient,) = torch.autograd.grad(score.clamp(min=-1e6).sum(), x, materialize_grads=True, allow_unused=True)
        expect(gradient.isfinite().all(), f"gradient {gradient.tolist()} of {batch}")

    run()


def check_near_duplicates(case: Case) -> None:
    """Distances of nearly equal points keep three digits in single precision, however many points there are."""
    for offset in (0.0, 10.0) if "translation" in case.invariances else (0.0,):
        gap = 1e-3 * (1 + 10 * offset)
        x = (case.points(24, 40) + offset).float()
        y = (x.double() + gap * case.points(25, 40)).float()
        where = f"of points about {gap:.0e} apart, {offset:g} from the origin"
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        single, exact = case.fresh(torch.float32)(a, y).diagonal(), case.fresh()(b, y.double()).diagonal()
        error = float(((single - exact) / exact).detach().abs().max())
        expect(error <= 1e-3, f"scores {where} have relative errors up to {error:.2g} in single precision")
        (got,), (expected,) = torch.autograd.grad(single.sum(), a), torch.autograd.grad(exact.sum(), b)
        error = float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())
        expect(error <= 1e-2, f"gradients {where} have relative errors up to {error:.2g} in single precision")


def check_half_precision(case: Case) -> None:
    """A loss of half-precision points, or under autocast, is that of the same points in double precision."""
    labels = torch.arange(8) % 2
    for dtype in (torch.float16, torch.bfloat16):
        x = case.points(26, 8).to(dtype)
        exact = losses.NTXentLoss(similarity=case.fresh())(x.double(), labels).detach()
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                leaf = x.clone().requires_grad_()
                got = losses.NTXentLoss(similarity=case.fresh(torch.float32))(leaf, labels)
            (gradient,) = torch.autograd.grad(got, leaf)
            expect(gradient.isfinite().all(), f"the gradient of points of {dtype} is {gradient.tolist()}")
            expect_close(got, exact, f"a loss of points of {dtype}{', under autocast' if autocast else ''}", rtol=1e-4, atol=1e-4)


def check_losses(case: Case) -> None:
    """In a loss, tiles equal one block: value, gradient of the points and of the parameters."""
    results = []
    for options in ({"execution": "dense"}, {"execution": "tiled", "memory_budget": 1}, {"execution": "tiled", "memory_budget": 300}):
        similarity = case.generic()
        x = case.points(27, 9).requires_grad_()
        loss = losses.NTXentLoss(similarity=similarity, **options)
        leaves = [x, *(p for p in similarity.parameters() if p.requires_grad)]
        value = loss(x, torch.arange(9) % 3)
        results.append((value.detach(), *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)))
    for tiled in results[1:]:
        for k, (got, expected) in enumerate(zip(tiled, results[0], strict=True)):
            expect_close(got, expected, f"the {'value' if k == 0 else 'gradient'} of a loss in tiles instead of one block")


# ---- how it is run


def check_func(case: Case) -> None:
    """`torch.func.grad` and `torch.vmap` give what backward and a loop give."""
    similarity, x, y = case.generic(), case.points(28, 3, 4), case.points(29, 5)
    expected = similarity(x, y)
    expect_close(torch.vmap(lambda z: similarity(z, y))(x), expected, "scores by torch.vmap")
    leaf = x[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(similarity(leaf, y).tanh().sum(), leaf)
    expect_close(torch.func.grad(lambda z: similarity(z, y).tanh().sum())(x[0]), gradient, "the gradient by torch.func.grad")


def check_compile(case: Case) -> None:
    """Compiles as one graph, with the scores and gradients that it has without."""
    similarity, x, y = case.generic(), case.points(30, 4), case.points(31, 5)
    torch.compiler.reset()
    compiled: Any = torch.compile(similarity, fullgraph=True, backend="aot_eager")
    got = [compiled(x, y), *_gradients(compiled, x, y)]
    torch.compiler.reset()
    for part, a, b in zip(("scores", "gradient", "gradient"), got, [similarity(x, y), *_gradients(similarity, x, y)], strict=True):
        expect_close(a, b, f"{part} of the compiled similarity")


def check_meta(case: Case) -> None:
    """Works where there are no values, so on any device: tensors are made where the points are, and no value is read."""
    similarity = case.fresh().to("meta")
    score = similarity(case.points(32, 4).to("meta"), case.points(33, 5).to("meta"))
    expect(score.is_meta and score.shape == (4, 5), f"expected scores [4, 5] on the meta device, but got {score!r}")
    expect(similarity.distance(score).is_meta, "distances are not where the scores are")


def check_state(case: Case) -> None:
    """A similarity with the state of another scores as that one does."""
    similarity, x, y = case.generic(), case.points(34, 4), case.points(35, 5)
    other = case.fresh()
    other.load_state_dict(loaded(similarity.state_dict()))
    expect(torch.equal(other(x, y), similarity(x, y)), "after load_state_dict, scores differ")


def check_copies(case: Case) -> None:
    """A copy or a pickle of it scores as it does."""
    similarity, x, y = case.generic(), case.points(34, 4), case.points(35, 5)
    for how, other in copies(similarity):
        expect(torch.equal(other(x, y), similarity(x, y)), f"after {how}, scores differ")


def check_settings(case: Case) -> None:
    """The constructor refuses what makes no sense and names the argument."""
    expect_settings_checked(case.similarity)


def check_documentation(case: Case) -> None:
    """The class is documented, with all of its settings."""
    expect_documented(type(case.similarity))


def _always(case: Case) -> bool:
    return True


SIMILARITY_CHECKS: tuple[Check[Case], ...] = (
    *(Check(check, _always) for check in (check_interface, check_forward, check_rows, check_stacks, check_empty)),
    Check(check_spec, lambda case: case.spec is not None),
    *(Check(check, _always) for check in (check_invariances, check_nearest_itself, check_product, check_distance)),
    *(Check(check, _always) for check in (check_gradcheck, check_finite)),
    Check(check_near_duplicates, lambda case: case.similarity.is_distance),
    *(Check(check, _always) for check in (check_half_precision, check_losses, check_func, check_compile, check_meta)),
    *(Check(check, _always) for check in (check_state, check_copies, check_settings, check_documentation)),
)


def check_similarity(
    similarity: Similarity, *, embedding_dim: int = 4, spec: Spec | None = None, invariances: Iterable[str] | None = None
) -> None:
    """Put a similarity through the checks that those of this library are held to.

    The score is one number per pair of points, whatever stands beside them: `prepare` knows its row only, stacks are scored as matrices
    are, no points have no scores. What it says of itself is checked both ways: a promise that is broken fails, and so does one that
    could be made and is not: `invariances`, `nearest_itself`, `is_product`, `is_distance` and `distance`. First and second derivatives;
    finite scores and gradients of duplicates, antipodes, zero, huge and tiny vectors; near-duplicates in single precision, where
    distances are often computed as differences of large numbers; half precision; tiles of a loss. `torch.compile`, `torch.func`, the meta
    device; state, copies, pickles; settings that make no sense are refused; the class is documented.

    Args:
        similarity: the similarity, with the settings that are to be checked. It is copied, and not changed.
        embedding_dim: dimension of the points, >= 2.
        spec: `spec(x, y)` on two lists of floats, the components of two points of length at most 0.9; returns the score.
        invariances: of `"swap"`, `"rotation"`, `"translation"`, `"scale"` and `"lengths"`, see `Similarity.invariances`. Default: what
            the similarity says. They are looked for with parameters other than those it has, which may be special.

    Raises:
        AssertionError: that names every check that failed, and how.
        TypeError: if `similarity` is not a `Similarity`, a class for instance, or `spec` is not callable.
        ValueError: of a dimension below 2, or of an invariance that has no name here.

    Example:
        A similarity of one's own, and its specification:

        >>> class Manhattan(Similarity):
        ...     '''Negated Manhattan distance.'''
        ...
        ...     is_distance = True
        ...     invariances = frozenset({"swap", "translation"})
        ...
        ...     def score(self, a, r):
        ...         return -(a.unsqueeze(-2) - r.unsqueeze(-3)).abs().sum(-1)
        ...
        ...     def distance(self, score):
        ...         return -score
        >>> check_similarity(Manhattan(), spec=lambda x, y: -sum(abs(a - b) for a, b in zip(x, y)))
        >>> check_similarity(Manhattan(), invariances=["swap"])
        Traceback (most recent call last):
        AssertionError: Manhattan() fails 1 of 21 checks:
          check_invariances: `invariances` lacks 'translation', which changes no score

    Relations:
        `check_miner` and `check_loss` are about what is made of scores.
    """
    as_instance("similarity", similarity, Similarity)
    if spec is not None and not callable(spec):
        raise TypeError(f"Expected `spec` to be callable on two points, but got {spec!r} ({type(spec).__name__}).")
    promised = frozenset(similarity.invariances if invariances is None else invariances)
    for name in promised - set(_INVARIANCES):
        raise unknown_name("invariances", name, _INVARIANCES)
    case = Case(similarity, check_count("embedding_dim", embedding_dim, low=2), spec, promised)
    raise_failures(similarity, failures(case, SIMILARITY_CHECKS))
