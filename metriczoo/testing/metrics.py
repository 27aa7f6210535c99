"""`check_metric`: what any metric is held to, a function or a streaming class."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given
from torch import Tensor

from metriczoo._checks import describe
from metriczoo.similarity import unit
from metriczoo.testing._checks import Check, expect, failures, property_test, raise_failures
from metriczoo.testing._members import copies, expect_documented, loaded
from metriczoo.testing.strategies import Batch, batches

__all__ = ["METRIC_CHECKS", "check_metric"]

Values = dict[str, float]
Spec = Callable[[Any, list[int]], Any]

_LARGE = 2**53  # above it floating-point numbers skip integers
_EVERY = "value"  # the name of the value of a metric that has one


class _Increasing:
    """A similarity as metrics take it: the cosine, or an increasing map of it."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f = f

    def prepare(self, x: Tensor) -> Tensor:
        """Unit vectors."""
        return unit(x)

    def score(self, a: Tensor, r: Tensor) -> Tensor:
        """The map of their inner products."""
        return self.f(a @ r.mT)


@dataclass(frozen=True)
class Case:
    """A metric, its best values and its bounds by name, whether the order of scores is all that counts, and its specification."""

    metric: Any
    best: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]
    ranking: bool
    spec: Spec | None

    @property
    def streaming(self) -> bool:
        """Whether it collects batches."""
        return callable(getattr(self.metric, "update", None)) and callable(getattr(self.metric, "compute", None))

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Of the function, or of `update`."""
        return inspect.signature(self.metric.update if self.streaming else self.metric).parameters

    @property
    def of_assignments(self) -> bool:
        """Whether it compares classes with clusters rather than embeddings."""
        return list(self.parameters)[:2] == ["labels", "assignments"]

    @property
    def classifies(self) -> bool:
        """Whether it gives predictions for queries, by references."""
        return "reference_labels" in self.parameters and "query_labels" not in self.parameters

    @property
    def ids(self) -> str | None:
        """The name under which it takes ids."""
        return next(
            (name for name in ("ids", "query_ids") if name in self.parameters), "query_ids" if "queries" in self.parameters else None
        )

    def fresh(self) -> Any:
        """A function as it is, a copy of what collects."""
        return copy.deepcopy(self.metric) if self.streaming else self.metric

    def with_option(self, **options: Any) -> Case | None:
        """The metric with further options, if it takes them."""
        try:
            if self.streaming:
                return self._with(type(self.metric)(**{**getattr(self.metric, "options", {}), **options}))
            other = self._with(lambda *args, **given: self.metric(*args, **given, **options))
            inspect.signature(self.metric).bind_partial(**options)
        except TypeError:
            return None
        return other

    def _with(self, metric: Any) -> Case:
        if not self.streaming:
            metric.__signature__ = inspect.signature(self.metric)
        return Case(metric, self.best, self.bounds, self.ranking, self.spec)

    def put(self, metric: Any, inputs: Tensor, labels: Any, ids: Tensor | None = None) -> None:
        """One batch."""
        arguments = (labels, inputs) if self.of_assignments else (inputs, labels)
        metric.update(*arguments, **({} if ids is None else {"ids": ids}))

    def raw(self, inputs: Any, labels: Any, ids: Tensor | None = None) -> Any:
        """What the metric returns."""
        if self.streaming:
            metric = self.fresh()
            metric.reset()
            self.put(metric, inputs, labels, ids)
            return metric.compute()
        if self.of_assignments:
            return self.metric(labels, inputs)
        if self.classifies:
            ids = torch.arange(len(labels)) if ids is None else ids
            return self.metric(inputs, inputs, labels, query_ids=ids, reference_ids=ids)
        return self.metric(inputs, labels, **({} if ids is None else {str(self.ids): ids}))

    def values(self, inputs: Any, labels: Any, ids: Tensor | None = None) -> Values:
        """By name; of predictions, their accuracy."""
        return _values(self.raw(inputs, labels, ids), labels)

    @property
    def scored(self) -> set[str]:
        """The names that the caller says something about."""
        return {*self.best, *self.bounds}

    def data(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Three groups of points, or of clusters, and labels, a few of which are of another group."""
        generator = torch.Generator().manual_seed(seed)
        group = torch.arange(24) % 3
        labels = group.clone()
        labels[[1, 5, 9, 18]] = torch.tensor([2, 0, 1, 2])
        if self.of_assignments:
            return group, labels
        x = torch.nn.functional.one_hot(group, 4).double() + 0.15 * torch.randn(24, 4, generator=generator, dtype=torch.float64)
        return x, labels


def _values(result: Any, labels: Any = None) -> Values:
    if isinstance(result, Mapping):
        return {
            str(name): float(value) for name, value in result.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
    if isinstance(result, Tensor) and result.dim() == 1 and not result.is_floating_point():
        known = torch.as_tensor(labels) >= 0
        return {_EVERY: float((result == torch.as_tensor(labels))[known].double().mean())}
    return {_EVERY: float(result)}


def _same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


def _expect_same(got: Values, expected: Values, when: str, names: set[str] | None = None) -> None:
    for name, value in expected.items():
        if names is None or name in names:
            other = got.get(name, math.nan)
            expect(_same(other, value), f"{when}: {name} is {other:.8g} instead of {value:.8g}")


# ---- values


def check_values(case: Case) -> None:
    """Numbers, cut off from the graph; the same again for the same; what came in and the random state are left alone."""
    inputs, labels = case.data()
    if inputs.is_floating_point():
        inputs.requires_grad_()
    before, state = (inputs.detach().clone(), labels.clone()), torch.random.get_rng_state()
    result = case.raw(inputs, labels)
    expect(not (isinstance(result, Tensor) and result.requires_grad), "the value is attached to the graph of the embeddings")
    values = _values(result, labels)
    missing = case.scored - set(values)
    expect(not missing, f"expected values of {sorted(missing)}, but got {sorted(values)}")
    expect(torch.equal(inputs, before[0]) and torch.equal(labels, before[1]), "what came in was changed")
    expect(torch.equal(state, torch.random.get_rng_state()), "the global generator was used")
    _expect_same(case.values(inputs, labels), values, "a second time")


def check_permutation(case: Case) -> None:
    """The order of the points does not matter."""
    for seed in range(4):
        inputs, labels = case.data(seed)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        _expect_same(case.values(inputs[order], labels[order]), case.values(inputs, labels), "with the points in another order")


def check_duplicates(case: Case) -> None:
    """Nor does it among points that are equal."""
    for seed in range(4):
        inputs, labels = case.data(seed)
        inputs, labels = torch.cat([inputs, inputs[:9], inputs[:4]]), torch.cat([labels, labels[:9] + 1, labels[:4] + 2])
        expected = case.values(inputs, labels)
        for number in range(3):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(number))
            _expect_same(case.values(inputs[order], labels[order]), expected, "with equal points in another order", case.scored)


def check_relabelling(case: Case) -> None:
    """Names of classes do not matter, those that no floating-point number can tell apart neither."""
    inputs, labels = case.data()
    expected = case.values(inputs, labels)
    names = [("other names", [4, 1, 9]), ("labels above 2**53", [_LARGE + 1, _LARGE, _LARGE + 2])]
    for what, other in names:
        _expect_same(case.values(inputs, torch.tensor(other)[labels]), expected, f"with {what}")
    if case.of_assignments:
        _expect_same(case.values(torch.tensor([_LARGE + 1, _LARGE, 7])[inputs], labels), expected, "with other names of the clusters")


def check_best(case: Case) -> None:
    """Classes that are points of their own have the best value; mixed ones have not."""
    group = torch.arange(30) % 3
    inputs = (group + 1) % 3 if case.of_assignments else torch.eye(4, dtype=torch.float64)[group]
    values = case.values(inputs, group)
    mixed = case.values(*case.data())
    for name, best in case.best.items():
        expect(_same(values[name], best), f"{name} of perfect classes is {values[name]:.8g} instead of {best:.8g}")
        expect(not _same(mixed[name], best), f"{name} is {best:.8g}, its best value, where classes are mixed, too")


def check_bounds(case: Case) -> None:
    """Values stay within their bounds, or are NaN, on any points; what cannot be evaluated is a `ValueError`."""

    @property_test(40)
    @given(batches(max_size=9))
    def run(batch: Batch) -> None:
        inputs = batch.embeddings.detach()
        if case.of_assignments:
            inputs = (8 * inputs[:, 0]).clamp(-8, 8).round().long()
        try:
            values = case.values(inputs, batch.labels)
        except ValueError:
            return
        for name, (low, high) in case.bounds.items():
            value = values[name]
            expect(math.isnan(value) or low - 1e-6 <= value <= high + 1e-6, f"{name} is {value:.8g}, not in [{low}, {high}], of {batch}")

    run()


def check_ignored(case: Case) -> None:
    """Points with a label below 0 count as if they were not there."""
    inputs, labels = case.data()
    more = torch.cat([inputs, inputs[:5]]), torch.cat([labels, torch.tensor([-1, -1, -7, -1, -2])])
    expected = case.values(inputs, labels)
    _expect_same(case.values(*more), expected, "with points of negative label beside the others", set(case.best))


def check_spec(case: Case) -> None:
    """Values are those of the specification."""
    assert case.spec is not None
    for seed in range(4):
        inputs, labels = case.data(seed)
        expected = _values(case.spec(inputs.tolist(), labels.tolist()), labels)
        _expect_same(case.values(inputs, labels), expected, "against the specification")


def check_chance(case: Case) -> None:
    """Equal embeddings tell nothing: they score no better than random ones do on average."""
    labels = torch.arange(12) % 3
    random = [case.values(torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)), labels) for seed in range(25)]
    values = case.values(torch.ones(12, 3), labels)
    for name, best in case.best.items():
        every = torch.tensor([v[name] for v in random], dtype=torch.float64)
        gap, typical = abs(values[name] - best), float((every - best).abs().mean())
        error = 4 * float(every.std()) / len(every) ** 0.5
        expect(gap >= typical - error, f"{name} of equal embeddings is {values[name]:.4g}, but of random ones {float(every.mean()):.4g}")


def check_increasing_map(case: Case) -> None:
    """An increasing map of the scores changes nothing, one that makes them all negative neither."""
    inputs, labels = case.data()
    plain = case.with_option(similarity=_Increasing(lambda s: s))
    expect(plain is not None, "`ranking` is true, but no option `similarity` is taken")
    assert plain is not None
    expected = plain.values(inputs, labels)
    for what, f in (("(s + 2)^3", lambda s: (s + 2) ** 3), ("s / 2 - 3", lambda s: s / 2 - 3), ("exp(4 s)", lambda s: (4 * s).exp())):
        other = case.with_option(similarity=_Increasing(f))
        assert other is not None
        _expect_same(other.values(inputs, labels), expected, f"with scores mapped by {what}", case.scored)


def check_self(case: Case) -> None:
    """A point is not its own neighbour, and views with one id are not each other's."""
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(20)
    trials: list[tuple[str, Tensor, Tensor | None]] = [("each of a class with its antipode", torch.cat([x, -x]), None)]
    if case.ids is not None:
        trials.append(("each of a class with itself, under one id", torch.cat([x, x]), labels.repeat(2)))
    for what, points, ids in trials:
        try:
            values = case.values(points, labels.repeat(2), ids)
        except ValueError:
            continue  # there are no pairs
        for name, best in case.best.items():
            expect(not _same(values[name], best), f"{name} of 20 points, {what}, is {best:.4g}, its best value")


def check_no_positive(case: Case) -> None:
    """Where no point has another one of its class the value is NaN, or a `ValueError`; queries that are skipped are counted."""
    inputs, labels = case.data()
    try:
        values = case.values(inputs, torch.arange(len(labels)))
    except ValueError:
        values = dict.fromkeys(case.best, math.nan)
    for name in case.best:
        expect(math.isnan(values[name]), f"{name} is {values[name]:.4g} where no query has a positive")
    skipped = values.get("num_skipped", len(labels))
    expect(skipped == len(labels), f"{skipped:g} of {len(labels)} queries without a positive are counted")


def check_chunks(case: Case) -> None:
    """The memory budget does not matter."""
    inputs, labels = case.data()
    inputs, labels = torch.cat([inputs, inputs[:5]]), torch.cat([labels, labels[:5] + 1])
    expected = case.values(inputs, labels)
    for budget in (1, 500, 10_000):
        other = case.with_option(memory_budget=budget)
        assert other is not None
        _expect_same(other.values(inputs, labels), expected, f"with a memory budget of {budget} bytes")


def check_dtypes(case: Case) -> None:
    """Half-precision embeddings are taken for the numbers that they are, under autocast too."""
    inputs, labels = case.data()
    for dtype in (torch.float16, torch.bfloat16):
        half = inputs.to(dtype)
        expected = case.values(half.float(), labels)
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                got = case.values(half, labels)
            _expect_same(got, expected, f"with embeddings of {dtype}{', under autocast' if autocast else ''}")


def _wrong(case: Case) -> Iterator[tuple[str, Any, Any]]:
    inputs, labels = case.data()
    yield "no points", inputs[:0], labels[:0]
    yield "fewer labels than points", inputs, labels[:-1]
    yield "labels that are no integers", inputs, labels + 0.5
    if case.of_assignments:
        yield "clusters that are no integers", inputs + 0.5, labels
        return
    yield "NaN", inputs * torch.where(torch.arange(len(inputs)) == 2, torch.nan, 1.0).unsqueeze(1), labels
    yield "points without dimensions", inputs[:, 0].unsqueeze(1).unsqueeze(1), labels
    yield "integers for points", inputs.long(), labels


def check_refused(case: Case) -> None:
    """What cannot be evaluated is a `ValueError` or a `TypeError`, not a number, nor an error from inside."""
    for what, inputs, labels in _wrong(case):
        try:
            values = case.values(inputs, labels)
        except (TypeError, ValueError) as error:
            expect(str(error), f"the error for {what} says nothing")
        except Exception as error:
            raise AssertionError(f"{what} raise {type(error).__name__}: {error}") from error
        else:
            raise AssertionError(f"{what} are accepted, and give {values}")


# ---- batches


def _cut(case: Case, sizes: tuple[int, ...], order: tuple[int, ...], metric: Any) -> Any:
    inputs, labels = case.data()
    parts = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
    for k in order:
        case.put(metric, *parts[k])
    return metric


def _result(case: Case, metric: Any, labels: Tensor) -> Values:
    return _values(metric.compute(), labels)


def check_batches(case: Case) -> None:
    """The value is that of all points together, however they were cut into batches, empty ones too, and in whatever order these came."""
    inputs, labels = case.data()
    expected = case.values(inputs, labels)
    for sizes, order in (((5, 1, 18), (0, 1, 2)), ((5, 0, 19), (0, 1, 2)), ((8, 8, 8), (2, 0, 1)), ((1,) * 24, tuple(range(24)))):
        metric = _cut(case, sizes, order, case.fresh())
        target = torch.cat([labels.split(sizes)[k] for k in order])
        _expect_same(_result(case, metric, target), expected, f"in batches of {sizes} points, in the order {order}"[:120])
        _expect_same(_result(case, metric, target), expected, "computed a second time")


def check_reset(case: Case) -> None:
    """`reset` forgets everything; without a batch there is nothing to compute."""
    inputs, labels = case.data()
    metric = case.fresh()
    case.put(metric, *case.data(1))
    metric.reset()
    try:
        value = metric.compute()
    except ValueError:
        pass
    else:
        raise AssertionError(f"after `reset` the value is {value!r:.80}, but there is none")
    case.put(metric, inputs, labels)
    _expect_same(_result(case, metric, labels), case.values(inputs, labels), "after `reset`")


def check_copied(case: Case) -> None:
    """Batches are copied: what the caller does with them afterwards changes nothing."""
    inputs, labels = case.data()
    metric = case.fresh()
    mine = inputs.clone(), labels.clone()
    case.put(metric, *mine)
    for tensor in mine:
        tensor.zero_()
    _expect_same(_result(case, metric, labels), case.values(inputs, labels), "after the caller changed a batch")


def check_copies(case: Case) -> None:
    """A copy or a pickle goes on as the metric does, apart from it; so does what is loaded, where there is a `state_dict`."""
    inputs, labels = case.data()
    metric = case.fresh()
    case.put(metric, inputs[:9], labels[:9])
    every = list(copies(metric))
    if callable(getattr(metric, "state_dict", None)):
        other = case.fresh()
        other.load_state_dict(loaded(metric.state_dict()))
        every.append(("load_state_dict", other))
    for how, other in every:
        case.put(other, inputs[9:], labels[9:])
        _expect_same(_result(case, other, labels), case.values(inputs, labels), f"after {how} between two batches")
    _expect_same(_result(case, metric, labels[:9]), case.values(inputs[:9], labels[:9]), "after copies of it went on")


def check_documentation(case: Case) -> None:
    """It is documented."""
    function = case.metric
    while hasattr(function, "func"):  # of a partial application
        function = function.func
    expect_documented(type(case.metric) if case.streaming else function)


def _always(case: Case) -> bool:
    return True


def _of_points(case: Case) -> bool:
    return not case.of_assignments


def _ranks(case: Case) -> bool:
    return case.ranking


def _collects(case: Case) -> bool:
    return case.streaming


METRIC_CHECKS: tuple[Check[Case], ...] = (
    *(Check(check, _always) for check in (check_values, check_permutation, check_relabelling, check_best, check_bounds, check_ignored)),
    Check(check_spec, lambda case: case.spec is not None),
    *(Check(check, _ranks) for check in (check_duplicates, check_chance, check_increasing_map, check_no_positive)),
    *(Check(check, _of_points) for check in (check_self, check_dtypes)),
    Check(check_chunks, lambda case: _of_points(case) and case.with_option(memory_budget=1) is not None),
    Check(check_refused, _always),
    *(Check(check, _collects) for check in (check_batches, check_reset, check_copied, check_copies)),
    Check(check_documentation, _always),
)


def check_metric(
    metric: Any,
    *,
    spec: Spec | None = None,
    best: float | Mapping[str, float] = 1.0,
    bounds: tuple[float, float] | Mapping[str, tuple[float, float]] = (0.0, 1.0),
    ranking: bool = False,
) -> None:
    """Put a metric through the checks that those of this library are held to.

    The value does not depend on the order of the points, nor on the names of classes, those above 2**53 included; perfect classes have the
    best value, mixed ones have not; it stays within its bounds on ugly batches; a label below 0 is ignored; a point is never its own
    neighbour, nor is a view with its id; half precision and the memory budget do not matter; what cannot be evaluated is refused with a
    `ValueError` or a `TypeError`. With `ranking`: equal points stand in no order and score no better than chance, increasing maps of the
    scores change nothing, and queries without a positive do not count. Of a streaming metric: any cut into batches, in any order, gives the
    value of all points; `reset`, copies and pickles.

    Args:
        metric: a function `f(embeddings, labels)`, `f(labels, assignments)` by these names, or `f(queries, references, reference_labels)`
            that predicts labels; or an object with `update`, of the same arguments but for `update(embeddings, labels)` of one that
            predicts, `compute` and `reset`. Ids are given as `ids` or `query_ids` where there is such a parameter. A value is a number, a
            mapping of names to numbers, or predictions, whose accuracy is then looked at.
        spec: `spec(points, labels)` on two lists, those of the clusters in place of points for assignments; returns what the metric should.
        best: the best value, that of perfect classes; by name for a metric with several values. Names that it lacks have none.
        bounds: least and largest value, or these by name.
        ranking: whether only the order of scores counts. The metric then takes an option `similarity`, as `retrieval_metrics` does.

    Raises:
        AssertionError: that names every check that failed, and how.
        TypeError: if `metric` is neither callable nor a streaming metric, is a class, or `spec` is not callable.

    Example:
        A metric of one's own:

        >>> from metriczoo.metrics import recall_at_k
        >>> def error_rate(embeddings, labels, similarity="cosine"):
        ...     '''Share of points whose nearest neighbour is of another class.'''
        ...     return 1 - recall_at_k(embeddings, labels, similarity=similarity)
        >>> check_metric(error_rate, best=0.0, ranking=True)

    Relations:
        `check_store` is about what metrics may be given as references.
    """
    whole = all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))
    if isinstance(metric, type) or not (whole or callable(metric)):
        hint = f" Did you mean `{metric.__name__}()`?" if isinstance(metric, type) else ""
        raise TypeError(
            f"Expected `metric` to be a function, or an object with `update`, `compute` and `reset`, but got {describe(metric)}.{hint}"
        )
    if spec is not None and not callable(spec):
        raise TypeError(f"Expected `spec` to be callable on points and labels, but got {describe(spec)}.")
    case = Case(
        metric,
        best if isinstance(best, Mapping) else {_EVERY: best},
        bounds if isinstance(bounds, Mapping) else {_EVERY: bounds},
        ranking,
        spec,
    )
    name = getattr(metric, "__name__", None) or repr(metric)
    raise_failures(name, failures(case, METRIC_CHECKS))
