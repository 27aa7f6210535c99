"""Checks on a loss as a PyTorch module: memory, state, copies, compilation, transforms, devices, arguments and documentation."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import math
import pickle
import re
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metriczoo._checks import Bounds
from metriczoo.losses.base import FunctionLoss
from metriczoo.testing._checks import Check, expect
from metriczoo.testing._members import importable
from metriczoo.testing._on_batches import executions, ordinary, value_and_gradient
from metriczoo.testing._on_scores import close
from metriczoo.testing.subject import Subject, gradients_of, number

__all__ = ["CHECKS"]


def check_memory(subject: Subject) -> None:
    """In tiles, what is kept for backward does not grow with the square of the batch."""
    kept = []
    for n in (64, 256):
        sizes: list[int] = []
        batch = ordinary(subject, 0, n, 4, classes=8, dtype=torch.float32)

        def pack(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            subject(batch.fresh(), batch.labels, execution="tiled", memory_budget=2**12)
        kept.append(max(sizes, default=0))
    largest = 256 * 16 + sum(p.numel() for p in subject.loss.parameters())
    expect(kept[1] <= largest, f"tensors of {kept[0]} and of {kept[1]} numbers are kept for the backward pass of batches of 64 and 256")


def check_keeps_nothing(subject: Subject) -> None:
    """After a training step the loss holds neither the batch nor its graph."""
    batch = ordinary(subject, 0, dtype=torch.float32)
    for options in executions(subject):
        loss, x = subject.copy(**options), batch.fresh()
        h = x * 1.0
        value = subject.value_by(loss, h, batch.labels)
        value.sum().backward()
        held = [weakref.ref(t) for t in (x, h, value)]
        del x, h, value
        gc.collect()
        names = [name for name, ref in zip(("the embeddings", "their features", "the value"), held, strict=True) if ref() is not None]
        expect(not names, f"after the step the loss still holds {' and '.join(names)}, {options}")


def check_state_dict(subject: Subject) -> None:
    """A loss that loads the state of another, from a file, computes what that one does."""
    batch = ordinary(subject, 1, dtype=torch.float32)
    trained = subject.copy()
    subject.value_by(trained, batch.fresh(), batch.labels)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    other = subject.copy()
    other.load_state_dict(torch.load(file, weights_only=True))
    values = [number(subject.value_by(loss.eval(), batch.fresh(), batch.labels)) for loss in (trained, other)]
    expect(values[0] == values[1], f"the loss is {values[0]!r}, but {values[1]!r} by one that has loaded its state")


def check_copies(subject: Subject) -> None:
    """A pickled loss and a deep copy compute what the loss does, and share nothing with it."""
    batch = ordinary(subject, 2, dtype=torch.float32)
    loss = subject.copy().eval()
    expected = number(subject.value_by(copy.deepcopy(loss), batch.fresh(), batch.labels))
    twins = {"deep": copy.deepcopy(loss)}
    if importable(loss.function if isinstance(loss, FunctionLoss) else type(loss)):
        try:
            twins["pickled"] = pickle.loads(pickle.dumps(loss))
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            expect(False, f"it cannot be pickled: {error}")
    for what, twin in twins.items():
        with torch.no_grad():
            shared = {p.data_ptr() for p in loss.parameters()} & {p.data_ptr() for p in twin.parameters()}
        expect(not shared, f"a {what} copy shares {len(shared)} parameters with the loss")
        got = number(subject.value_by(twin, batch.fresh(), batch.labels))
        expect(got == expected, f"the loss is {expected!r}, but {got!r} by a {what} copy")


def check_compile(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` changes neither value nor gradient."""
    batch = ordinary(subject, 3, 6, dtype=torch.float32)
    expected, gradient = value_and_gradient(subject, batch)
    torch.compiler.reset()
    loss = subject.copy()
    compiled = torch.compile(lambda x: subject.value_by(loss, x, batch.labels), fullgraph=True, backend="aot_eager")
    x = batch.fresh()
    value = compiled(x)
    expect(close(number(value), expected, rtol=1e-5, atol=1e-6), f"the loss is {expected!r}, but {number(value)!r} compiled")
    got = torch.autograd.grad(value, x)[0]
    expect(torch.allclose(got, gradient, rtol=1e-4, atol=1e-5), "the gradient is another one if compiled")


def check_transforms(subject: Subject) -> None:
    """`torch.func.grad` gives the gradient, and `torch.func.vmap` over batches the loss of each."""
    batch = ordinary(subject, 4, 6)
    loss, x = subject.copy(torch.float64).eval(), batch.embeddings.detach()

    def f(x: Tensor) -> Tensor:
        return subject.value_by(loss, x, batch.labels)

    leaf = batch.fresh()
    expected = gradients_of(f(leaf), leaf)[0]
    got = torch.func.grad(f)(x)
    expect(torch.allclose(got, expected, rtol=1e-8, atol=1e-10), "`torch.func.grad` gives another gradient than `backward`")
    stack = torch.stack([x, 2 * x.flip(1)])
    values, apart = torch.func.vmap(f)(stack), torch.stack([f(part) for part in stack])
    expect(torch.allclose(values, apart, rtol=1e-8, atol=1e-10), f"the losses are {apart.tolist()}, but {values.tolist()} under `vmap`")


def check_second_derivative(subject: Subject) -> None:
    """The derivative of the gradient is right, however the loss is executed."""
    if subject.tags.self_paced:
        return
    batch = ordinary(subject, 6, 6, 2)
    direction = torch.randn(batch.embeddings.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for options in executions(subject):
        loss = subject.copy(torch.float64, **options).eval()

        def gradient(x: Tensor, loss: Any = loss, graph: bool = False) -> Tensor:
            return torch.autograd.grad(subject.value_by(loss, x, batch.labels), x, create_graph=graph)[0]

        x = batch.fresh()
        slope = (gradient(x, graph=True) * direction).sum()
        got = gradients_of(slope, x)[0]
        ends = [gradient((batch.embeddings.detach() + h * direction).requires_grad_()) for h in (1e-5, -1e-5)]
        expected = (ends[0] - ends[1]) / 2e-5
        expect(torch.allclose(got, expected, rtol=1e-3, atol=1e-4), f"the second derivative is wrong, {options}")


class _Devices(TorchFunctionMode):
    """Finds factories that are left to the default device."""

    FACTORIES = (
        torch.arange,
        torch.empty,
        torch.eye,
        torch.full,
        torch.linspace,
        torch.ones,
        torch.rand,
        torch.randn,
        torch.tensor,
        torch.zeros,
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in self.FACTORIES and kwargs.get("device") is None:
            self.found.add(function.__name__)
        return function(*args, **kwargs)


def check_device(subject: Subject) -> None:
    """Nothing is made on the default device: the loss works where its batch is."""
    batch = ordinary(subject, 5, 6, dtype=torch.float32)
    for options in executions(subject):
        loss = subject.copy(**options)
        with _Devices() as mode:
            subject.value_by(loss, batch.fresh(), batch.labels)
        expect(not mode.found, f"tensors are made without a device by {sorted(mode.found)}, {options}")
    value = subject.value_by(subject.copy().to("meta"), batch.fresh().to("meta"), batch.labels.to("meta"))
    expect(value.is_meta and value.dim() == 0, f"expected a number on device 'meta', but got shape {list(value.shape)} on {value.device}")


def check_bad_input(subject: Subject) -> None:
    """What makes no sense is an error that names the argument."""
    batch = ordinary(subject, 7, dtype=torch.float32)
    x, labels = batch.embeddings.detach(), batch.labels
    broken = x.clone()
    broken[2, 0] = math.nan
    for what, arguments, name in (
        ("a NaN among the embeddings", (broken, labels), "embeddings"),
        ("fewer labels than embeddings", (x, labels[1:]), "labels"),
        ("labels that are fractions", (x, labels + 0.5), "labels"),
        ("embeddings of one dimension", (x[:, 0], labels), "embeddings"),
        ("embeddings that are integers", (x.long(), labels), "embeddings"),
    ):
        try:
            value = subject.value_by(subject.copy(), *arguments)
        except (TypeError, ValueError) as error:
            expect(name in str(error), f"{what}: the error does not name `{name}`: {error}")
        else:
            expect(False, f"{what}: expected an error, but got the loss {value}")


def _wrong_values(bounds: Bounds) -> list[Any]:
    wrong: list[Any] = ["three", math.nan, math.inf, True]
    if bounds.low > -math.inf:
        wrong += [bounds.low - 1, *([bounds.low] if bounds.open_low else [])]
    if bounds.high < math.inf:
        wrong += [bounds.high + 1, *([bounds.high] if bounds.open_high else [])]
    return wrong


def check_hyper_parameters(subject: Subject) -> None:
    """Hyper-parameters out of the bounds that the class states, and options that it does not have, are errors that name them."""
    kind = type(subject.loss)
    parameters = inspect.signature(kind.__init__).parameters
    needed = {name: value for name, value in (("counts", [4, 3, 2, 1]), ("num_classes", 4), ("embedding_dim", 3)) if name in parameters}
    for name, bounds in kind.bounds.items():
        for value in _wrong_values(bounds) if name in parameters else []:
            try:
                kind(**{**needed, name: value})
            except (TypeError, ValueError) as error:
                expect(f"`{name}`" in str(error), f"{name}={value!r}: the error does not name `{name}`: {error}")
            else:
                expect(False, f"{name}={value!r} is out of bounds, {bounds}, but it is accepted")
    try:
        kind(**needed, no_such_option=1)
    except TypeError as error:
        expect("no_such_option" in str(error), f"the error for an unknown option does not name it: {error}")
    else:
        expect(False, "an unknown option is accepted")


def check_docstring(subject: Subject) -> None:
    """The documentation names every argument; that of a loss of this library has an example and a source, too."""
    kind = type(subject.loss)
    text = inspect.getdoc(kind) or ""
    ours = kind.__module__.startswith("metriczoo.")
    if not ours and not vars(kind).get("__doc__"):
        return
    hidden = {"self", "options", "args", "kwargs"}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        named = re.search(rf"\b{name}\b", text) is not None
        expect(name in hidden or parameter.kind is parameter.VAR_KEYWORD or named, f"the documentation does not name the argument `{name}`")
    for part in ("Example:", "References:") if ours else ():
        expect(part in text, f"the documentation has no section {part!r}")
    expect(not ours or ">>>" in text, "the documentation has no example that runs")


CHECKS: list[Check[Subject]] = [
    Check(check_memory, lambda s: s.tileable),
    Check(check_keeps_nothing, lambda s: True),
    Check(check_state_dict, lambda s: True),
    Check(check_copies, lambda s: True),
    Check(check_compile, lambda s: True),
    Check(check_transforms, lambda s: True),
    Check(check_second_derivative, lambda s: s.is_loss),
    Check(check_device, lambda s: s.is_loss),
    Check(check_bad_input, lambda s: s.is_loss),
    Check(check_hyper_parameters, lambda s: s.is_loss and not isinstance(s.loss, FunctionLoss)),
    Check(check_docstring, lambda s: s.is_loss and not isinstance(s.loss, FunctionLoss)),
]
