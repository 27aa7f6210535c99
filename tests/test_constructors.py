"""Constructors of all public modules reject what makes no sense; the wrong values are generated from signatures and stated bounds."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metriczoo import data, functional, losses, metrics, miners, models, plots, similarity, stores

# What a class cannot do without.
REQUIRED: dict[str, dict[str, Any]] = {
    "Centers": {"num_classes": 3, "embedding_dim": 4},
    "ClusterIndex": {"labels": [0, 0, 1, 1], "embedding_dim": 4},
    "EmbeddingHead": {"in_features": 3, "embedding_dim": 4},
    "EmbeddingQueue": {"size": 3, "embedding_dim": 4},
    "FunctionLoss": {"function": lambda s_n, s_p: s_n.max()},
    "GradCache": {"encoder": nn.Linear(2, 2), "loss": losses.CircleLoss(), "chunk_size": 2},
    "HierarchicalSoftmaxLoss": {"counts": [1, 2, 3], "embedding_dim": 4},
    "Mahalanobis": {"embedding_dim": 3},
    "MemoryBank": {"size": 3, "embedding_dim": 4},
    "Proxies": {"num_classes": 3, "embedding_dim": 4},
    "SumLoss": {"losses": [losses.CircleLoss(), losses.TripletMarginLoss()]},
    "SymmetricLoss": {"loss": losses.CircleLoss()},
}
HEAD = {"num_classes": 3, "embedding_dim": 4}
# Numbers of any sign.
SIGNED = {("bias",), ("threshold",), ("positive_margin", "PairMarginMiner"), ("negative_margin", "PairMarginMiner"), ("seed",)}
SIGNED |= {(side, "ThresholdConsistentMarginLoss") for side in ("positive_margin", "negative_margin")}
SIGNED |= {("low", "FastAPLoss"), ("high", "FastAPLoss")}

RECORDS = (losses.Call, losses.Tags)  # no modules
CLASSES = [
    getattr(module, name)
    for module in (losses, miners, stores, similarity)
    for name in module.__all__
    if inspect.isclass(getattr(module, name)) and getattr(module, name) not in (losses.Loss, *RECORDS)
]


def required(kind: type) -> dict[str, Any]:
    names = list(inspect.signature(kind).parameters)
    return dict(REQUIRED.get(kind.__name__) or (HEAD if names[:1] == ["num_classes"] else {}))


def numeric() -> Iterator[Any]:
    """`(class, parameter, annotation)` of every hyper-parameter that is a number."""
    for kind in CLASSES:
        for name, parameter in inspect.signature(kind).parameters.items():
            annotation = str(parameter.annotation)
            if re.search(r"\b(float|int)\b", annotation):
                yield pytest.param(kind, name, annotation, id=f"{kind.__name__}-{name}")


def test_numbers_are_found() -> None:
    found = list(numeric())
    assert len(found) > 130
    bounded = {(kind, name) for kind in CLASSES for name in getattr(kind, "bounds", {}) if name in inspect.signature(kind).parameters}
    assert bounded <= {tuple(case.values[:2]) for case in found}


def wrong_values(kind: type, name: str, annotation: str) -> Iterator[Any]:
    yield from () if kind is similarity.NegativeLp else (math.inf,)  # there it is the largest difference
    yield from (math.nan, -math.inf, "1", "large", True, 1j, object(), [math.nan])
    bounds = getattr(kind, "bounds", {}).get(name)
    if "None" not in annotation:
        yield None
    if "Sequence" not in annotation:
        yield [1.0]
    if re.search(r"\bint\b", annotation):
        yield 1.5
        yield from (() if name == "seed" else (0, -1))
    elif bounds is not None:
        yield from () if math.isinf(bounds.low) else (bounds.low - 0.5, *([bounds.low] if bounds.open_low else []))
        yield from () if math.isinf(bounds.high) else (bounds.high + 0.5, *([bounds.high] if bounds.open_high else []))
        yield torch.ones(2)
        yield torch.tensor(1)
    elif (name,) not in SIGNED and (name, kind.__name__) not in SIGNED:
        yield -1.0


@pytest.mark.parametrize(("kind", "name", "annotation"), list(numeric()))
def test_a_number_that_makes_no_sense(kind: type, name: str, annotation: str) -> None:
    """The message names the argument, what was expected, and what came."""
    for value in wrong_values(kind, name, annotation):
        if "Tensor" in annotation and isinstance(value, torch.Tensor) and value.dim() == 1 and "ArcFace" in kind.__name__:
            continue  # one margin per class
        with pytest.raises((TypeError, ValueError), match=rf"(?s)Expected .*`{name}`.*but got") as error:
            kind(**{**required(kind), name: value})
        if isinstance(value, (str, float, int)):
            assert str(value) in str(error.value), (value, str(error.value))


def choices() -> Iterator[Any]:
    for kind in CLASSES:
        for name, parameter in inspect.signature(kind).parameters.items():
            if str(parameter.annotation) == "str":
                yield pytest.param(kind, name, id=f"{kind.__name__}-{name}")


@pytest.mark.parametrize(("kind", "name"), list(choices()))
@pytest.mark.parametrize("value", ["nonsense", "", None, 3, True])
def test_a_choice_that_does_not_exist(kind: type, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"Expected `{name}` to be one of .*but got"):
        kind(**{**required(kind), name: value})


def flags() -> Iterator[Any]:
    """`(callable, parameter)` of every option that is true or false, of classes and of functions."""
    functions = [value for module in (functional, metrics) for name in module.__all__ if inspect.isfunction(value := getattr(module, name))]
    for kind in [*CLASSES, models.ConvNet, models.EmbeddingHead, *functions]:
        for name, parameter in inspect.signature(kind).parameters.items():
            if str(parameter.annotation) == "bool":
                yield pytest.param(kind, name, id=f"{kind.__name__}-{name}")


def call_with(kind: Any, **given: Any) -> Any:
    """Make an instance; or call a loss on scores, or a metric on points."""
    if inspect.isclass(kind):
        return kind(**{**required(kind), **given})
    if kind.__module__.startswith("metriczoo.functional"):
        return kind(torch.tensor([[0.2]]), torch.tensor([[0.9]]), **given)
    points = (torch.eye(4), [0, 0, 1, 1])
    return metrics.knn_classify(torch.eye(4), *points, **given) if kind is metrics.knn_classify else kind(*points, **given)


def test_flags_are_found() -> None:
    assert len(list(flags())) > 25


@pytest.mark.parametrize(("kind", "name"), list(flags()))
def test_an_option_that_is_true_or_false_takes_nothing_else(kind: Any, name: str) -> None:
    """Least of all a word or a number that happens to count as true."""
    for value in ("no", 0.5, None, 1, [], torch.tensor(True)):
        with pytest.raises(TypeError, match=rf"Expected `{name}` to be True or False, but got"):
            call_with(kind, **{name: value})
    default = inspect.signature(kind).parameters[name].default
    call_with(kind, **{name: np.bool_(default)})


@pytest.mark.parametrize("value", ["no", 0.5, None])
def test_flags_of_calls(value: Any) -> None:
    x, labels = torch.eye(4), [0, 0, 1, 1]
    for metric in (metrics.RecallAtK(), metrics.KnnClassify()):
        with pytest.raises(TypeError, match=r"Expected `references` to be True or False, but got"):
            metric.update(x, labels, references=value)
    for kind in (data.CUB200, data.Cars196):
        with pytest.raises(TypeError, match=r"Expected `crop` to be True or False, but got"):
            kind("nowhere", crop=value)
    with pytest.raises(TypeError, match=r"Expected `separate` to be True or False, but got"):
        plots.training_curves({"loss": [1.0, 0.5]}, separate=value)
    with pytest.raises(TypeError, match=r"Expected `filled_only` to be True or False, but got"):
        stores.MemoryBank(4, 4).nearest(x, 1, filled_only=value)


COMMON = {
    "similarity": ("cosine", similarity.Cosine, 3),
    "miner": ("hard", miners.HardMiner, True),
    "reduction": ("men", None, 3),
    "relation": (3, "same"),
    "memory_budget": (0, -1, 1.5, True, "1 GB", math.nan),
    "execution": ("fast", None, True),
    "proxies": (torch.eye(3), 3, "proxies"),
}
ALL_LOSSES = [kind for kind in CLASSES if issubclass(kind, losses.Loss)]


@pytest.mark.parametrize("name", COMMON)
@pytest.mark.parametrize("kind", ALL_LOSSES, ids=lambda kind: kind.__name__)
def test_options_of_every_loss(kind: type, name: str) -> None:
    given = required(kind)
    if name == "proxies":
        given = {k: v for k, v in given.items() if k not in ("num_classes", "embedding_dim")}
    for value in COMMON[name]:
        with pytest.raises((TypeError, ValueError), match=rf"(?s)Expected .*`{name}`.*but got"):
            kind(**{**given, name: value})


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_unknown_keyword(kind: type) -> None:
    with pytest.raises(TypeError, match=r"colour"):
        kind(**required(kind), colour=1.0)


@pytest.mark.parametrize("kind", [*CLASSES, models.ConvNet, models.EmbeddingHead], ids=lambda kind: kind.__name__)
def test_a_misspelt_keyword_suggests_the_nearest(kind: type) -> None:
    names = [n for n, p in inspect.signature(kind).parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names += (
        ["similarity", "miner", "reduction", "relation", "memory_budget", "execution", "proxies"] if issubclass(kind, losses.Loss) else []
    )
    for name in names:
        if len(name) > 3:
            misspelt = name[:2] + name[3:]
            with pytest.raises(TypeError, match=rf"{kind.__name__}.* but got '{misspelt}'.*Did you mean '{name}'"):
                kind(**{**required(kind), misspelt: 1.0})


STREAMING = [
    kind
    for name in metrics.__all__
    if inspect.isclass(kind := getattr(metrics, name)) and issubclass(kind, metrics.StreamingMetric) and kind is not metrics.StreamingMetric
]


@pytest.mark.parametrize("kind", STREAMING, ids=lambda kind: kind.__name__)
def test_a_misspelt_option_of_a_streaming_metric_suggests_the_nearest(kind: type[metrics.StreamingMetric]) -> None:
    options = [name for name in ("similarity", "memory_budget", "far", "weights", "ties") if _takes(kind, name)]
    assert options or kind in (metrics.Nmi, metrics.Ami, metrics.Ari, metrics.PairwiseF1)
    for name in options:
        with pytest.raises(TypeError, match=rf"{kind.__name__}.* but got '{name[1:]}'.*Did you mean '{name}'"):
            kind(**{name[1:]: "cosine"})
    with pytest.raises(TypeError, match=rf"{kind.__name__}.* but got 'colour'"):
        kind(colour=1)


def _takes(kind: type[metrics.StreamingMetric], name: str) -> bool:
    parameters = inspect.signature(kind._function).parameters
    return name in parameters or ("options" in parameters and name in metrics.RetrievalOptions.__annotations__)


def test_a_constructor_that_answers_misspelt_keywords_keeps_its_signature() -> None:
    assert list(inspect.signature(miners.HardMiner).parameters) == ["generator"]
    assert list(inspect.signature(similarity.Mahalanobis).parameters) == ["embedding_dim", "rank", "matrix", "learnable"]

    class Own(similarity.Cosine):
        def __init__(self, power: float, **rest: float) -> None:
            super().__init__()
            self.power, self.rest = power, rest

    assert Own(2.0, colour=1.0).rest == {"colour": 1.0}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (losses.ArcFaceLoss, {"num_classes": 3}),
        (losses.ArcFaceLoss, {"embedding_dim": 3}),
        (losses.SoftTripleLoss, {"num_classes": 3}),
        (losses.CenterLoss, {"embedding_dim": 3}),
        (losses.CircleLoss, {"num_classes": 3}),
    ],
)
def test_classes_and_dimension_come_together(kind: type, given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"Expected `num_classes` and `embedding_dim` together, but got"):
        kind(**given)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, "float32", None])
@pytest.mark.parametrize("kind", [stores.Centers, stores.EmbeddingQueue, stores.MemoryBank, stores.Proxies], ids=lambda kind: kind.__name__)
def test_dtypes_of_stores(kind: type, dtype: Any) -> None:
    if kind is stores.Proxies and dtype is None:  # the default
        return
    with pytest.raises((TypeError, ValueError), match=r"Expected `dtype`.*but got"):
        kind(3, 4, dtype=dtype)
