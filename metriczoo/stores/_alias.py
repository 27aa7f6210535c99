"""Draws from any distribution over rows, in constant time each."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from metriczoo._checks import check_count, describe
from metriczoo._random import split_mix
from metriczoo.stores._base import check_generator

__all__ = ["AliasSampler", "as_weights", "untransformed"]


def as_weights(argument: str, value: Any) -> Tensor:
    """`value` (tensor, array or sequence) as float64 weights `[n]`, n >= 1, on the host: finite, >= 0, and not all 0.

    Raises:
        TypeError: of what is not numbers.
        ValueError: of another shape, of NaN, infinite or negative weights, and where all are 0.
    """
    try:
        weights = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value)).detach().to("cpu", torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Expected `{argument}` to be a 1-d sequence of numbers, but got {describe(value)}.") from error
    if weights.dim() != 1 or not len(weights):
        raise ValueError(f"Expected `{argument}` to be of shape [n] with n >= 1, but got {describe(value)}.")
    if not bool(weights.isfinite().all()) or float(weights.min()) < 0 or float(weights.max()) == 0:
        raise ValueError(f"Expected `{argument}` to be finite, not negative, and not all 0, but got {describe(value)}.")
    return weights


class AliasSampler(nn.Module):
    r"""Draws rows with given probabilities, with replacement, in O(1) each: Walker's alias method.

    The n rows and n equal buckets of probability 1 / n: a bucket holds its own row up to a threshold, and one other row, its alias, above
    it. A draw picks a bucket and a side.

    Args:
        weights: `[n]` numbers >= 0, not all 0; the probabilities are proportional to them. A row of weight 0 is never drawn.
        generator: source of the seed of the draws. Default: the global one.

    Attributes:
        threshold: `[n]` float64, the share of each bucket that is its own.
        alias: `[n]` int64, the row that has the rest of it.
        draws: `[2]` int64, the seed, and how many rows were drawn: with the table all the state, so a resumed run draws the same.
        log_probability: `[n]` float64, of each row; made from the table.

    Example:
        >>> sampler = AliasSampler([1.0, 0.0, 3.0])
        >>> sampler.probabilities()
        tensor([0.2500, 0.0000, 0.7500], dtype=torch.float64)
        >>> sorted(set(sampler.sample(100).tolist()))
        [0, 2]

    References:
        Walker. An Efficient Method for Generating Discrete Random Variables with General Distributions. ACM TOMS 3, 1977.
        Hübschle-Schneider, Sanders. Parallel Weighted Random Sampling. ACM TOMS 48, 2022: the table by prefix sums.
    """

    threshold: Tensor
    alias: Tensor
    draws: Tensor
    log_probability: Tensor

    def __init__(self, weights: Any, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        threshold, alias = _table(as_weights("weights", weights))
        generator = check_generator(generator)
        seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu" if generator is None else generator.device)
        self.register_buffer("threshold", threshold)
        self.register_buffer("alias", alias)
        self.register_buffer("draws", torch.tensor([int(seed), 0]))
        self.register_buffer("log_probability", self.probabilities().log(), persistent=False)

    def __len__(self) -> int:
        return int(self.alias.shape[0])

    @torch.no_grad()
    def sample(self, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw rows.

        Args:
            num: how many, >= 0.
            generator: source of the draws. Default: the sampler's own.

        Returns:
            `[num]` int64, on the device of the sampler.
        """
        num, device = check_count("num", num, low=0), self.alias.device
        with untransformed():
            if generator is None:
                count = self.draws[1] + torch.arange(1, 2 * num + 1, device=device)
                bits = split_mix(self.draws[0] + count * -0x61C8864680B583EB) & 0x7FFFFFFFFFFFFFFF
                self.draws[1] += 2 * num
            else:
                bits = torch.randint(2**63 - 1, (2 * num,), generator=generator, device=generator.device).to(device)
            bucket, side = bits[:num] % len(self), (bits[num:] >> 10).double() / 2**53
            return torch.where(side < self.threshold[bucket], bucket, self.alias[bucket])

    def probabilities(self) -> Tensor:
        """`[n]` float64: of each row, as the table has them."""
        mass = torch.zeros_like(self.threshold).index_add_(0, self.alias, 1 - self.threshold)
        return (mass + self.threshold) / len(self)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.log_probability = self.probabilities().log()

    def _apply(self, fn: Any, recurse: bool = True) -> AliasSampler:
        """Moved to another device, but never to another dtype: thresholds need all their digits."""

        def move(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Number of rows."""
        return str(len(self))


def untransformed() -> contextlib.AbstractContextManager[Any]:
    """Outside of `torch.func` transforms, which let nobody count draws: under `vmap` all see the same ones."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return contextlib.nullcontext()
    return temporarily_clear_interpreter_stack()


def _table(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Thresholds and aliases, `[n]`.

    Rows of at most the average weight 1 leave room 1 - w in their buckets, the others have an excess w - 1. In one sweep over both, each
    room is filled by the first heavy row that has excess left; a heavy row whose excess is used up, and more, is filled by the next one.
    Which one that is follows from prefix sums.
    """
    n = len(weights)
    weights = weights / weights.max()  # so that their sum does not overflow
    weights = weights * (n / weights.sum())
    threshold, alias = torch.ones(n, dtype=torch.float64), torch.arange(n)
    light, heavy = (weights <= 1).nonzero().squeeze(1), (weights > 1).nonzero().squeeze(1)
    if not len(heavy):
        return threshold, alias
    # Prefix sums of whole numbers are exact. What rounding left over goes to the largest row.
    unit = 2 ** (62 - n.bit_length())
    mass = (weights * unit).round().long()
    mass[weights.argmax()] += n * unit - mass.sum()
    room = torch.nn.functional.pad((unit - mass[light]).cumsum(0), (1, 0))  # before each light row, and after all
    excess = (mass[heavy] - unit).cumsum(0)  # up to and with each heavy row
    threshold[light] = weights[light]
    alias[light] = heavy[torch.searchsorted(excess, room[:-1], right=True).clamp(max=len(heavy) - 1)]
    filled = torch.searchsorted(room, excess[:-1])  # light rows met when the excess of each heavy row is used up
    threshold[heavy[:-1]] = 1 - (room[filled] - excess[:-1]).double() / unit
    alias[heavy[:-1]] = heavy[1:]
    return threshold, alias
