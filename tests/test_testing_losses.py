"""The tests of the kit for losses: every check finds the bugs that were planted for it, and the excuses that are not needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_bugs import BY_NAME, PLANTED
from torch import Tensor, nn

from metriczoo import functional as F
from metriczoo import losses
from metriczoo.scores import Scores
from metriczoo.testing import Subject, Tags, check_loss, pair_weights, parametrize_with_checks
from metriczoo.testing._checks import failures
from metriczoo.testing.losses import LOSS_CHECKS
from metriczoo.testing.zoo import ZOO

CHECKS = {check.name: check for check in LOSS_CHECKS}


def fault(name: str, subject: Subject) -> str | None:
    """How a subject fails a check; None where it passes."""
    outcome = failures(subject, [CHECKS[name]])
    assert outcome, f"{name} does not apply to {subject}"
    return outcome[name]


@pytest.mark.parametrize(("name", "subject"), PLANTED, ids=[f"{subject} -> {name}" for name, subject in PLANTED])
def test_check_finds_the_bug(name: str, subject: Subject) -> None:
    assert fault(name, subject) is not None


def test_every_check_finds_one() -> None:
    assert {name for name, _ in PLANTED} == set(CHECKS)
    assert len({subject.name for _, subject in PLANTED}) >= 40


def test_a_bug_is_reported_by_the_name_of_the_check() -> None:
    """And by all others: the report is whole."""
    with pytest.raises(AssertionError, match=r"UnifiedLoss: wrong sign fails \d+ of \d+ checks") as error:
        check_loss(next(subject for _, subject in PLANTED if subject.name == "UnifiedLoss: wrong sign"))
    assert re.search(r"check_signs: a positive is pushed away", str(error.value))
    assert re.search(r"check_spec: expected the loss", str(error.value))


FLIPS = [
    ("signs", "check_signs", ["TripletMarginLoss", "CircleLoss", "Circle-attached"]),
    ("monotone", "check_monotone", ["TripletMarginLoss", "CircleLoss"]),
    ("shift", "check_shift", ["TripletMarginLoss", "UnifiedLoss", "ContrastiveLoss", "CircleLoss", "LMNNLoss"]),
    ("saturates", "check_saturation", ["TripletMarginLoss", "Triplet-soft", "ContrastiveLoss", "UnifiedLoss", "LMNNLoss"]),
    ("self_paced", "check_gradient", ["CircleLoss", "Circle-attached", "TripletMarginLoss"]),
    ("needs_positives", "check_needs", ["TripletMarginLoss", "ContrastiveLoss"]),
    ("needs_negatives", "check_needs", ["TripletMarginLoss", "ContrastiveLoss", "LMNNLoss", "LMNN-push"]),
]


@pytest.mark.parametrize(("tag", "check", "name"), [(tag, check, name) for tag, check, names in FLIPS for name in names])
def test_a_false_promise_and_a_needless_excuse_are_found(tag: str, check: str, name: str) -> None:
    subject = BY_NAME[name]
    flipped = replace(subject.tags, **{tag: not getattr(subject.tags, tag)})
    assert fault(check, subject) is None
    assert fault(check, replace(subject, tags=flipped)) is not None


@pytest.mark.parametrize(("tag", "name"), [("scale", "ContrastiveLoss"), ("translation", "TripletMarginLoss")])
def test_a_false_promise_of_invariance_is_found(tag: str, name: str) -> None:
    subject = BY_NAME[name]
    assert fault("check_invariance", replace(subject, tags=replace(subject.tags, **{tag: True}))) is not None
    assert fault("check_invariance", replace(subject, tags=replace(subject.tags, **{tag: False}))) is None


@pytest.mark.parametrize(("tag", "name"), [("scale", "TripletMarginLoss"), ("translation", "ContrastiveLoss")])
def test_a_needless_excuse_from_an_invariance_is_found(tag: str, name: str) -> None:
    subject = BY_NAME[name]
    assert fault("check_invariance", replace(subject, tags=replace(subject.tags, **{tag: False}))) is not None


@pytest.mark.parametrize(
    ("name", "bound"),
    [("TripletMarginLoss", math.inf), ("TripletMarginLoss", lambda n, p: n * p / 2), ("Contrastive-cosine", lambda n, p: 2 * p)],
)
def test_a_wrong_bound_is_found(name: str, bound: Any) -> None:
    subject = BY_NAME[name]
    assert fault("check_bound", replace(subject, tags=replace(subject.tags, bound=bound))) is not None


def test_every_tag_is_true_of_one_loss_and_false_of_another() -> None:
    for tag in (field.name for field in fields(Tags) if field.name not in ("bound", "scale", "translation")):
        assert {getattr(subject.tags, tag) for subject in ZOO} >= {True, False}, tag


# ---- what a subject may be


def hard_triplet(s_n: Scores, s_p: Scores) -> Tensor:
    return (s_n.max() - s_p.min() + 0.2).relu()


class Outside(nn.Module):
    """A loss of another library: embeddings and labels, and no more."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        x = nn.functional.normalize(embeddings)
        s = x @ x.mT
        same = labels.unsqueeze(1) == labels
        pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        return ((1 - s) * pairs).sum() / pairs.sum().clamp(min=1) + ((s - 0.5).relu() * ~same).sum() / (~same).sum().clamp(min=1)


def test_a_function_a_loss_and_a_module_are_subjects() -> None:
    names = {}
    for loss in (hard_triplet, losses.TripletMarginLoss(), Outside()):
        subject = Subject(loss)
        names[subject.name] = {check.name for check in LOSS_CHECKS if check.applies(subject)}
    assert set(names) == {"hard_triplet", "TripletMarginLoss", "Outside"}
    assert "check_signs" in names["hard_triplet"]
    assert "check_hyper_parameters" in names["TripletMarginLoss"] - names["hard_triplet"]
    assert {"check_finite", "check_permutation", "check_half"} <= names["Outside"] < names["TripletMarginLoss"]


def test_a_module_of_another_library_is_judged() -> None:
    outcome = failures(Subject(Outside()), LOSS_CHECKS)
    assert outcome["check_permutation"] is None
    assert outcome["check_zero_vector"] is not None, "it divides a zero vector by 1e-12"
    with pytest.raises(AssertionError, match="Outside fails"):
        check_loss(Outside())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (losses.TripletMarginLoss, r"Did you mean `TripletMarginLoss\(\)`"),
        (3, "a Loss, a module or a function"),
        ("triplet", "but got 'triplet'"),
    ],
)
def test_what_is_no_subject(loss: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_loss(loss)


def test_a_specification_says_by_its_parameters_what_it_wants() -> None:
    with pytest.raises(TypeError, match=r"Expected `spec` to have parameters .* but got \['a'\]"):
        check_loss(hard_triplet, spec=lambda a: 0.0)


# ---- one test for each check


def test_parametrize_with_checks() -> None:
    decorator = parametrize_with_checks([hard_triplet, losses.CircleLoss()], expected_failed_checks={"hard_triplet": {"check_half": "why"}})
    cases = decorator.args[1]
    assert decorator.args[0] == ("loss", "check")
    ids = [case.id for case in cases]
    assert "hard_triplet-check_signs" in ids
    assert "CircleLoss-check_gradient" in ids
    marked = {case.id: case.marks[0] for case in cases if case.marks}
    assert list(marked) == ["hard_triplet-check_half"]
    assert marked["hard_triplet-check_half"].kwargs == {"reason": "why", "strict": True}
    of_check: Callable[[Any], None] = dict(zip(ids, (case.values[1] for case in cases), strict=True))["hard_triplet-check_signs"]
    of_check(cases[0].values[0])


def test_excuses_by_a_function_of_the_loss() -> None:
    decorator = parametrize_with_checks([losses.CircleLoss()], expected_failed_checks=lambda loss: {"check_half": type(loss).__name__})
    assert [case.marks[0].kwargs["reason"] for case in decorator.args[1] if case.marks] == ["CircleLoss"]


@pytest.mark.parametrize("excuses", [{"Circle": {"check_half": "?"}}, {"CircleLoss": {"check_halves": "?"}}])
def test_excuses_for_nothing(excuses: Any) -> None:
    with pytest.raises(ValueError, match="Expected `expected_failed_checks` to name"):
        parametrize_with_checks([losses.CircleLoss()], expected_failed_checks=excuses)


# ---- pair weights


def test_pair_weights_are_the_gradient_on_embeddings() -> None:
    """Similarities times constant weights have the gradient of the loss."""
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = losses.MultiSimilarityLoss(reduction="sum")
    s = loss.similarity(x, x)
    same, other = (labels.unsqueeze(1) == labels), ~torch.eye(6, dtype=torch.bool)
    w_n, w_p = pair_weights(loss, Scores(s, ~same), Scores(s, same & other))
    assert bool((w_n >= 0).all()) and bool((w_p <= 0).all()) and not bool(w_n[same].any())
    torch.testing.assert_close(torch.autograd.grad(((w_n + w_p) * s).sum(), x)[0], torch.autograd.grad(loss(x, labels), x)[0])


def test_pair_weights_of_circle_in_closed_form() -> None:
    """Sun et al. 2020, equation 8 of the supplement: (1 - exp(-L)) softmax(logits) scale alpha."""
    s_n, s_p = torch.tensor([[0.3, -0.1]], dtype=torch.float64), torch.tensor([[0.6, 0.2, 0.4]], dtype=torch.float64)
    w_n, w_p = pair_weights(lambda n, p: F.circle(n, p, margin=0.25, scale=4.0), s_n, s_p)
    a_n, a_p = s_n + 0.25, 1.25 - s_p
    z_n, z_p = 4 * a_n * (s_n - 0.25), -4 * a_p * (s_p - 0.75)
    z = 1 - 1 / (1 + z_n.exp().sum() * z_p.exp().sum())
    torch.testing.assert_close(w_n, z * z_n.softmax(1) * 4 * a_n)
    torch.testing.assert_close(w_p, -z * z_p.softmax(1) * 4 * a_p)


def test_pair_weights_of_what_is_no_function_of_scores() -> None:
    with pytest.raises(ValueError, match="needs more than scores"):
        pair_weights(losses.MagFaceLoss(3, 3), torch.zeros(1, 2), torch.zeros(1, 1))
    with pytest.raises(TypeError, match="function of"):
        pair_weights(Outside(), torch.zeros(1, 2), torch.zeros(1, 1))


# ---- nothing is forgotten


def test_no_loss_and_no_function_is_forgotten() -> None:
    """Each loss is a subject of the zoo; each function has a loss that calls it, or tests that name it."""
    kinds = {kind.__name__ for subject in ZOO for kind in type(subject.loss).__mro__}
    concrete = [name for name in losses.__all__ if isinstance(getattr(losses, name), type) and issubclass(getattr(losses, name), nn.Module)]
    aliases = {"CosFaceLoss": losses.AMSoftmaxLoss, "InfoNCELoss": losses.NTXentLoss}
    assert all(issubclass(getattr(losses, name), kind) for name, kind in aliases.items())
    helpers = {"FunctionLoss", "Annealing", "GradCache"}  # a base, a schedule, and a way to train
    assert [name for name in concrete if name not in kinds | helpers | set(aliases)] == []
    assert len({subject.name for subject in ZOO}) == len(ZOO)
    sources = "".join(p.read_text() for folder in (Path(losses.__file__).parent, Path(__file__).parent) for p in folder.glob("*.py"))
    assert [name for name in F.__all__ if not re.search(rf"\b{name}\b", sources)] == []
