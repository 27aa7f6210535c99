"""Bugs planted for the conformance kit, each with the name of the check that must find it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.scores import Terms, as_scores
from metriczoo.similarity import Cosine, NegativeSquaredEuclidean, Similarity
from metriczoo.testing import Subject
from metriczoo.testing.zoo import ZOO

BY_NAME = {subject.name: subject for subject in ZOO}
FACES = Subject(losses.NormFaceLoss(3, 3, scale=4.0))


def written(name: str, bug: str, function: Callable[..., Any], **changes: Any) -> Subject:
    """The promises and the specification of a loss of the zoo, about another function of the scores."""
    base = BY_NAME[name]
    loss = losses.from_function(function, similarity=base.similarity)
    loss.needs_positives, loss.needs_negatives = base.loss.needs_positives, base.loss.needs_negatives
    return replace(base, loss=loss, name=f"{name}: {bug}", **changes)


def scored(name: str, bug: str, similarity: Similarity) -> Subject:
    """A loss of the zoo on another similarity."""
    loss = copy.deepcopy(BY_NAME[name].loss)
    loss.similarity = similarity
    return replace(BY_NAME[name], loss=loss, name=f"{name}: {bug}")


def called(base: str | Subject, bug: str, change: Callable[..., Tensor]) -> Subject:
    """A loss with something done to its arguments, its value or itself: `change(call, loss, x, labels, references, ids)`."""
    subject = BY_NAME[base] if isinstance(base, str) else base
    loss, kind = copy.deepcopy(subject.loss), type(subject.loss)

    def forward(self: Any, x: Tensor, labels: Any, references: Any = None, *, ids: Any = None) -> Tensor:
        def call(x: Tensor, labels: Any, references: Any = None, ids: Any = None) -> Tensor:
            return kind.forward(self, x, labels, references, ids=ids)

        return change(call, self, x, torch.as_tensor(labels), references, ids)

    loss.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__, "__module__": kind.__module__})
    return replace(subject, loss=loss, name=f"{subject.name}: {bug}")


def made(base: str, bug: str, kind: type[losses.Loss], *arguments: Any) -> Subject:
    """Another class in place of a loss of the zoo."""
    return replace(BY_NAME[base], loss=kind(*arguments), name=f"{base}: {bug}")


# ---- functions of the scores


def unified(s_n: Any, s_p: Any) -> Tensor:
    return F.unified(s_n, s_p, margin=0.25, scale=8.0)


def of_terms(*sets: Any) -> tuple[Terms, ...]:
    return tuple(Terms(t.sum(), t.count(), t.map(lambda v: (v > 0).to(v.dtype)).sum()) for t in sets)


def wrong_sign(s_n, s_p):
    return softplus(as_scores(s_n).map(lambda s: 8 * (s + 0.25)).logsumexp() + as_scores(s_p).map(lambda s: 8 * s).logsumexp())


def log_of_x_plus_eps(s_n, s_p):
    pairs = 256 * (as_scores(s_n).fill(-math.inf).amax(1) - as_scores(s_p).fill(math.inf).amin(1) + 0.25)
    return -(1 / (1 + pairs.exp()) + 1e-7).log()


def zero_padding(s_n, s_p):
    push, pull = (as_scores(s).map(f).fill(0.0) for s, f in ((s_n, lambda s: 8 * (s + 0.25)), (s_p, lambda s: -8 * s)))
    return softplus(push.logsumexp(1) + pull.logsumexp(1))


def mask_leak(s_n, s_p):
    """The largest value of the row, not of the set."""
    return softplus(8 * (s_n.value.amax(1) - s_p.min() + 0.25)) if s_n.value.shape[1] else 0 * s_p.sum()


def width_in_place_of_count(s_n, s_p):
    positive, negative = s_p.map(lambda s: (1 - s).relu()), s_n.map(lambda s: (s - 0.5).relu())
    width = torch.full_like(s_p.count(), s_p.value.shape[1])
    return Terms(positive.sum(), width, width), of_terms(negative)[0]


def mean_of_nothing(s_n, s_p):
    positive, negative = s_p.map(lambda s: (1 - s).relu()), s_n.map(lambda s: (s - 0.5).relu())
    return tuple(Terms(t.sum() / t.count(), (t.count() > 0).long(), (t.sum() > 0).long()) for t in (positive, negative))


def root_of_d2_plus_eps(s_n, s_p):
    d_p, d_n = (s.map(lambda s: (s * s + 1e-8).sqrt()) for s in (s_p, s_n))
    return of_terms(d_p.map(lambda d: d * d / 2), d_n.map(lambda d: (1 - d).relu().square() / 2))


def squared_distances(s_n, s_p):
    return of_terms(s_p.map(lambda s: s**4 / 2), s_n.map(lambda s: (1 - s * s).relu().square() / 2))


def leaky_hinge(s_n, s_p):
    return of_terms(s_p.map(lambda s: (1 - s).relu()), s_n.map(lambda s: torch.nn.functional.leaky_relu(s - 0.5, 1e-3)))


def over_the_block(s_n, s_p):
    loss = unified(s_n, s_p)
    return loss - 0.1 * torch.where(loss > 0, loss.sum() / max(1, len(loss)), 0.0)


def first_positive_only(s_n, s_p):
    return unified(s_n, s_p.where((s_p.mask.cumsum(1) == 1) & s_p.mask))


def nearest_neighbour_dropped(s_n, s_p):
    """As where the nearest reference is taken for the anchor itself."""
    return unified(s_n, s_p.where(s_p.fill(-math.inf) < s_p.max().unsqueeze(1)))


def absolute_threshold(s_n, s_p):
    return unified(s_n.map(lambda s: torch.maximum(s, torch.zeros_like(s))), s_p)


def detached_zero(s_n, s_p):
    loss = unified(s_n, s_p)
    return loss if loss.detach().any() else torch.zeros_like(loss)


def doubled_gradient(s_n, s_p):
    loss = unified(s_n, s_p)
    return 2 * loss - loss.detach()


def falling(s_n, s_p):
    """The gradient of the loss, the value of its opposite."""
    loss = unified(s_n, s_p)
    return loss - 2 * loss.detach()


def bare_exp(s_n, s_p):
    far, near = (s.map(lambda v: (8 * v).exp()).sum() for s in (s_n, s_p))
    return -(near / (near + far)).log()


def lonely_anchor(s_n, s_p):
    """An empty log-sum-exp that is 0, as in a masked one of log(x + eps)."""
    push, pull = s_n.map(lambda s: 8 * (s + 0.25)).logsumexp(), s_p.map(lambda s: -8 * s).logsumexp()
    value = softplus(torch.where(push == -math.inf, 0.0, push) + torch.where(pull == -math.inf, 0.0, pull))
    some = ((s_n.count() + s_p.count()) > 0).long()
    return Terms(value * some, some, some)


def read_by_the_host(s_n, s_p):
    return unified(s_n, s_p) * (1.0 if s_n.value.sum().item() < math.inf else 0.0)


def boolean_indexing(s_n, s_p):
    loss = unified(s_n, s_p)
    return torch.zeros_like(loss).masked_scatter(loss > -1, loss[loss > -1])


def left_to_the_default_device(s_n, s_p):
    return unified(s_n, s_p) + torch.zeros(())


# ---- similarities


class NakedRoot(Similarity):
    is_distance = True

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -(a.unsqueeze(-2) - r.unsqueeze(-3)).square().sum(-1).sqrt()


class BoundedNormalize(Cosine):
    def prepare(self, x: Tensor) -> Tensor:
        return normalize(x, dim=-1)  # divides a zero vector by 1e-12, and its gradient, too


class HalfProduct(Cosine):
    is_product = False

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return a.to(torch.float8_e4m3fn).to(a.dtype) @ r.to(torch.float8_e4m3fn).to(r.dtype).mT


class CastByAutocast(Cosine):
    is_product = False

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return (a.bfloat16() @ r.bfloat16().mT).to(a.dtype)


class Manhattan(NegativeSquaredEuclidean):
    def prepare(self, x: Tensor) -> Tensor:
        return x

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        return -(a.unsqueeze(-2) - r.unsqueeze(-3)).abs().sum(-1)


# ---- classes


class Unbounded(losses.UnifiedLoss):
    """Takes any `margin` and `scale`."""

    def __init__(self, margin: float = 0.25, scale: float = 8.0, **options: Any) -> None:
        super().__init__(**options)
        self.margin, self.scale = margin, scale


class Undocumented(losses.UnifiedLoss):
    """Says nothing of its arguments."""


class Unpickled(losses.UnifiedLoss):
    """Of `margin` and `scale`."""

    def __init__(self, margin: float = 0.25, scale: float = 8.0, **options: Any) -> None:
        super().__init__(margin, scale, **options)
        self.link = lambda z: z


class Coupled(losses.TripletMarginLoss):
    """Says that it couples anchors."""

    separable = False


# ---- calls


def keeps_the_value(call, loss, x, labels, references, ids):
    loss.last = call(x, labels, references, ids)
    return loss.last


def counts_its_calls(call, loss, x, labels, references, ids):
    loss.calls = getattr(loss, "calls", 0) + 1
    return loss.calls * call(x, labels, references, ids)


def takes_the_first_dtype(call, loss, x, labels, references, ids):
    if not getattr(loss, "cast", False):
        loss.to(x.dtype)
        loss.cast = True
    return call(x.float() if x.dtype == torch.bfloat16 else x, labels, references, ids)


def first_of_the_list(call, loss, x, labels, references, ids):
    return call(x, labels, references[0] if isinstance(references, list) else references, ids)


def same_object(call, loss, x, labels, references, ids):
    """Itself is what is the same tensor."""
    own = references is not None and getattr(references, "embeddings", None) is x
    return call(x, labels, None if own else references, None if own else ids)


def linearised(call, loss, x, labels, references, ids):
    """The right gradient, which is a constant to the next one."""
    if not x.requires_grad:
        return call(x, labels, references, ids)
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        value = call(leaf, labels, references, ids)
    slope = torch.autograd.grad(value.sum(), leaf)[0]
    return value.detach() + ((x - x.detach()) * slope).sum()


def always_dense(call, loss, x, labels, references, ids):
    loss.execution = "dense"
    return call(x, labels, references, ids)


def relation_upside_down(call, loss, x, labels, references, ids):
    if (relation := loss.relation) is not None:
        loss.relation = lambda a, b: ~relation(a, b)
    return call(x, labels, references, ids)


def sum_of_batches(call, loss, x, labels, references, ids):
    value = call(x, labels, references, ids)
    return value / 2 if loss.reduction == "sum" else value


# ---- which check finds which bug

PLANTED: list[tuple[str, Subject]] = [
    ("check_signs", written("UnifiedLoss", "wrong sign", wrong_sign)),
    ("check_spec", written("UnifiedLoss", "wrong sign", wrong_sign)),
    ("check_signs", written("UnifiedLoss", "swapped arguments", lambda s_n, s_p: unified(s_p, s_n))),
    ("check_slopes", replace(BY_NAME["CircleLoss"], loss=BY_NAME["Circle-attached"].loss, name="CircleLoss: missing detach")),
    ("check_gradient", replace(BY_NAME["CircleLoss"], loss=BY_NAME["Circle-attached"].loss, name="CircleLoss: missing detach")),
    ("check_gradient", replace(BY_NAME["Circle-attached"], loss=BY_NAME["CircleLoss"].loss, name="Circle-attached: needless detach")),
    ("check_extremes", written("Unified-faces", "log(x + eps)", log_of_x_plus_eps)),
    ("check_masked_is_absent", written("UnifiedLoss", "zero padding", zero_padding)),
    ("check_masked_is_absent", written("UnifiedLoss", "mask leak", mask_leak)),
    ("check_masked_is_absent", written("Contrastive-cosine", "width in place of count", width_in_place_of_count)),
    ("check_spec", written("Contrastive-cosine", "width in place of count", width_in_place_of_count)),
    ("check_batch", written("Contrastive-cosine", "width in place of count", width_in_place_of_count)),
    ("check_spec", written("TripletMarginLoss", "no margin", lambda s_n, s_p: F.triplet_margin(s_n, s_p, margin=0.0))),
    ("check_batch", written("CircleLoss", "no margin", lambda s_n, s_p: F.circle(s_n, s_p, margin=0.0, scale=20.0))),
    ("check_spec", written("ContrastiveLoss", "squared distances", squared_distances)),
    ("check_spec", written("LMNNLoss", "mu on the pull", lambda s_n, s_p: F.lmnn(s_n, s_p, num_targets=2, mu=0.4))),
    ("check_spec", written("UnifiedLoss", "first neighbour dropped", nearest_neighbour_dropped)),
    ("check_slopes", written("UnifiedLoss", "doubled gradient", doubled_gradient)),
    (
        "check_closed_form",
        written(
            "TripletMarginLoss",
            "soft for hard",
            lambda s_n, s_p: F.triplet_margin(s_n, s_p, margin=0.2, penalty="soft"),
            weights=lambda s_n, s_p: (
                [sum(n - p + 0.2 > 0 for p in s_p) for n in s_n],
                [-sum(n - p + 0.2 > 0 for n in s_n) for p in s_p],
            ),
        ),
    ),
    ("check_monotone", written("UnifiedLoss", "falling value", falling)),
    ("check_shift", written("UnifiedLoss", "absolute threshold", absolute_threshold)),
    ("check_bound", written("UnifiedLoss", "too strong", lambda s_n, s_p: 1.1 * unified(s_n, s_p))),
    ("check_bound", written("UnifiedLoss", "too weak", lambda s_n, s_p: 0.5 * unified(s_n, s_p))),
    ("check_saturation", written("Contrastive-cosine", "leaky hinge", leaky_hinge)),
    ("check_large_scores", written("UnifiedLoss", "overflow of exp", bare_exp)),
    ("check_finite", scored("ContrastiveLoss", "naked square root", NakedRoot())),
    ("check_collapse", scored("ContrastiveLoss", "naked square root", NakedRoot())),
    ("check_finite", written("Contrastive-cosine", "mean of nothing", mean_of_nothing)),
    ("check_nothing_to_learn", written("Contrastive-cosine", "mean of nothing", mean_of_nothing)),
    ("check_nothing_to_learn", written("ContrastiveLoss", "root of d^2 + eps", root_of_d2_plus_eps)),
    ("check_needs", written("UnifiedLoss", "lonely anchor", lonely_anchor, spec=None)),
    ("check_nothing_to_learn", written("UnifiedLoss", "lonely anchor", lonely_anchor, spec=None)),
    ("check_attached", written("UnifiedLoss", "detached zero", detached_zero)),
    ("check_zero_vector", scored("TripletMarginLoss", "normalised by max(norm, 1e-12)", BoundedNormalize())),
    ("check_permutation", written("UnifiedLoss", "first positive only", first_positive_only)),
    (
        "check_relabelling",
        called("TripletMarginLoss", "label 0 is nothing", lambda c, _, x, y, r, i: c(x, torch.where(y == 0, -1, y), r, i)),
    ),
    ("check_relabelling", called("TripletMarginLoss", "labels in single precision", lambda c, _, x, y, r, i: c(x, y.float().long(), r, i))),
    ("check_ignored_is_absent", called("TripletMarginLoss", "ignored is a class", lambda c, _, x, y, r, i: c(x, y.abs(), r, i))),
    ("check_invariance", scored("LMNNLoss", "sum of absolute differences", Manhattan())),
    ("check_tiles", written("UnifiedLoss", "average over the block", over_the_block)),
    ("check_separable", written("UnifiedLoss", "average over the block", over_the_block)),
    ("check_separable", made("TripletMarginLoss", "needlessly dense", Coupled)),
    ("check_reductions", called("TripletMarginLoss", "half a sum", sum_of_batches)),
    ("check_references_split", called("TripletMarginLoss", "first of the references", first_of_the_list)),
    ("check_self_exclusion", called("TripletMarginLoss", "self by position", lambda c, _, x, y, r, i: c(x, y, r))),
    ("check_self_exclusion", called("TripletMarginLoss", "self by object", same_object)),
    ("check_batch", called("TripletMarginLoss", "own pair kept", lambda c, _, x, y, r, i: c(x, y, (x, y)))),
    ("check_relation", called("TripletMarginLoss", "relation upside down", relation_upside_down)),
    ("check_half", scored("TripletMarginLoss", "rounded scores", HalfProduct())),
    ("check_half", scored("UnifiedLoss", "bfloat16 inside", CastByAutocast())),
    (
        "check_autocast",
        called("TripletMarginLoss", "cast by autocast", lambda c, _, x, y, r, i: c(x @ torch.eye(x.shape[1], dtype=x.dtype), y, r, i)),
    ),
    ("check_objects", called("TripletMarginLoss", "call counter", counts_its_calls)),
    ("check_objects", called(FACES, "dtype of the first batch", takes_the_first_dtype)),
    (
        "check_parameters",
        called(FACES, "proxies detached", lambda c, loss, x, y, r, i: c(x, y, (loss.proxies.weight.detach(), torch.arange(3)), i)),
    ),
    ("check_memory", called("TripletMarginLoss", "always dense", always_dense)),
    ("check_keeps_nothing", called("TripletMarginLoss", "last value kept", keeps_the_value)),
    ("check_state_dict", called("TripletMarginLoss", "state outside the module", counts_its_calls)),
    ("check_copies", made("UnifiedLoss", "a lambda inside", Unpickled)),
    ("check_compile", written("UnifiedLoss", "host read", read_by_the_host)),
    ("check_transforms", written("UnifiedLoss", "boolean indexing", boolean_indexing)),
    ("check_second_derivative", called("UnifiedLoss", "gradient of a constant", linearised)),
    ("check_device", written("UnifiedLoss", "default device", left_to_the_default_device)),
    ("check_bad_input", called("TripletMarginLoss", "NaN swallowed", lambda c, _, x, y, r, i: c(x.nan_to_num(), y, r, i))),
    ("check_hyper_parameters", made("UnifiedLoss", "unchecked", Unbounded)),
    ("check_docstring", made("UnifiedLoss", "undocumented", Undocumented)),
]
