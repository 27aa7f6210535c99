"""Losses made of losses: their weighted sum, and a loss behind an encoder that takes a batch in chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metriczoo._checks import check_count, check_number, describe, suggest_keywords
from metriczoo.losses.base import Call, Loss
from metriczoo.miners import Miner
from metriczoo.reduction import Totals, totals
from metriczoo.scores import Scores, Terms

__all__ = ["GradCache", "SumLoss"]


@suggest_keywords
class SumLoss(nn.Module):
    r"""Weighted sum of losses on the same batch, on one block of scores where they can share it.

    .. math:: L = \sum_k w_k L_k

    Every loss keeps its own miner, reduction and hyper-parameters. Losses share their scores if they have the same similarity (one object,
    or equal ones without parameters), the same relation, and the same proxies; those that find their references themselves, such as
    `NCELoss`, are computed apart. The value is that of the losses one by one.

    Args:
        losses: one or more losses; a `SumLoss` among them stands for its parts.
        weights: one number >= 0 per loss. Default: 1 each.

    Attributes:
        losses: the parts.
        weights: list of their weights, which may be changed in the course of training.

    Raises:
        TypeError: if a part is no loss.
        ValueError: of weights that do not fit, and if only some of the losses have reduction "none".

    Example:
        >>> import torch
        >>> from metriczoo.losses import CircleLoss, TripletMarginLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> SumLoss([TripletMarginLoss(), CircleLoss(scale=1.0)], [1.0, 0.5])(x, [0, 0, 1, 1])
        tensor(0.7664)

    Relations:
        Losses whose calls differ, such as `VICRegLoss` and regularisers, are added by `+`.
    """

    weights: list[float]

    def __init__(self, losses: Sequence[Loss | SumLoss], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        given = list(losses) if isinstance(losses, (Sequence, nn.ModuleList)) else [losses]
        if not given:
            raise ValueError("Expected `losses` to hold at least one loss, but got none.")
        if isinstance(weights, str) or not (weights is None or isinstance(weights, Iterable)):
            raise TypeError(f"Expected `weights` to hold one number per loss, but got {describe(weights)}.")
        weights = [1.0] * len(given) if weights is None else [check_number("weights", weight, low=0) for weight in weights]
        if len(weights) != len(given):
            raise ValueError(f"Expected `weights` to have {len(given)} entries, one per loss, but got {len(weights)}.")
        parts: list[tuple[Loss, float]] = []
        for loss, weight in zip(given, weights, strict=True):
            if isinstance(loss, SumLoss):
                parts += [(part, weight * own) for part, own in zip(loss.parts(), loss.weights, strict=True)]
            elif isinstance(loss, Loss):
                parts.append((loss, weight))
            else:
                raise TypeError(f"Expected `losses` to hold losses, but got {describe(loss)}.")
        if len({loss.reduction == "none" for loss, _ in parts}) > 1:
            raise ValueError('Expected all `losses` or none of them to have reduction "none", but got some of each.')
        self.losses = nn.ModuleList(loss for loss, _ in parts)
        self.weights = [weight for _, weight in parts]
        self._blocks = {own: _blocks(self.parts(), own) for own in (True, False)}  # whether proxies are compared with

    def parts(self) -> list[Loss]:
        """The losses, none of which is a sum."""
        return list(self.losses)  # type: ignore[arg-type]

    def forward(self, embeddings: Tensor | Sequence[Tensor], labels: Any, references: Any = None, *, ids: Any = None) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: `[n, d]`; or a sequence of them, one per loss: the outputs of a network with several heads.
            labels: as of `Loss`, and so are `references` and `ids`; they are the same for all.
            references: `None`: what each loss compares with on its own.
            ids: `[n]` integers, or None.

        Returns:
            A scalar, or `[n]` if the losses have reduction "none"; at least float32.

        Raises:
            ValueError: if there is not one tensor of embeddings per loss, and as of `Loss`.
        """
        if isinstance(embeddings, Tensor):
            values = []
            for block, members in self._blocks[references is None]:
                weights = [self.weights[k] for k in members]
                if isinstance(block, _Block):
                    block.weights, weights = weights, [1.0]
                values.append(block(embeddings, labels, references, ids=ids) * weights[0])
        elif isinstance(embeddings, Sequence) and len(embeddings) == len(self.losses):
            values = [
                loss(x, labels, references, ids=ids) * weight
                for loss, x, weight in zip(self.parts(), embeddings, self.weights, strict=True)
            ]
        else:
            raise ValueError(
                f"Expected `embeddings` to be a tensor or a sequence of {len(self.losses)}, one per loss, but got {describe(embeddings)}."
            )
        total: Tensor = sum(values[1:], start=values[0])
        return total


def _blocks(losses: Sequence[Loss], own: bool) -> list[tuple[Loss, list[int]]]:
    """The losses, those that share their scores as one, and which ones they are."""
    groups: list[list[int]] = []
    for k, loss in enumerate(losses):
        for group in groups:
            if _share(losses[group[0]], loss, own):
                group.append(k)
                break
        else:
            groups.append([k])
    return [(_Block([losses[k] for k in group], own=own) if len(group) > 1 else losses[group[0]], group) for group in groups]


def _share(x: Loss, y: Loss, own: bool) -> bool:
    """Whether two losses see the same scores."""
    plain = all(getattr(type(loss), name) is getattr(Loss, name) for loss in (x, y) for name in ("forward", "_meet", "_columns"))
    plain = plain and x.separable and y.separable  # a loss that couples anchors takes passes of its own
    return (
        plain
        and x.compiled == y.compiled
        and x.relation is y.relation
        and (not own or x.proxies is y.proxies)
        and _equal(x.similarity, y.similarity)
    )


def _equal(x: nn.Module, y: nn.Module) -> bool:
    def settings(module: nn.Module) -> dict[str, Any]:
        return {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}

    if x is y or type(x) is not type(y):
        return x is y
    held = [*x.state_dict(), *x.children(), *(value for value in vars(x).values() if isinstance(value, Tensor))]
    return not held and settings(x) == settings(y)


class _Block(Loss):
    """Losses on one block of scores. What each is divided by is the count of groups that its terms come with."""

    weights: list[float]

    def __init__(self, losses: Sequence[Loss], *, own: bool) -> None:
        first, executions = losses[0], {loss.execution for loss in losses}
        super().__init__(
            similarity=first.similarity,
            miner=_Seeds([loss.miner for loss in losses]),
            reduction="none" if first.reduction == "none" else "mean",
            relation=first.relation,
            proxies=first.proxies if own else None,
            memory_budget=min((loss.memory_budget for loss in losses if loss.memory_budget is not None), default=None),
            compile=first.compiled,
        )
        self.separable = all(loss.separable for loss in losses)
        self.execution = "dense" if "dense" in executions or not self.separable else "tiled" if "tiled" in executions else "auto"
        self.parts = list(losses)  # they belong to the sum

    def facts(self, call: Call) -> tuple[Any, ...]:
        """How many facts each loss has, and then those of all."""
        facts = [loss.facts(call) for loss in self.parts]
        return *map(len, facts), *chain(*facts)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> tuple[Terms, ...]:
        """The terms of all."""
        sizes, facts = s_p.facts[: len(self.parts)], iter(s_p.facts[len(self.parts) :])
        every = torch.ones(s_n.value.shape[0], dtype=torch.bool, device=s_n.value.device)
        terms: list[Terms] = []
        for k, (loss, weight) in enumerate(zip(self.parts, self.weights, strict=True)):
            own = tuple(islice(facts, sizes[k]))
            n, p = _own(s_n, k, own), _own(s_p, k, own)
            if loss.miner is not None:
                n, p = loss.miner(n, p)
            result = loss.per_anchor(n, p)
            sums = totals(result, n, p, every, needs_positives=loss.needs_positives, needs_negatives=loss.needs_negatives)
            divisor = _divisor(loss.reduction, sums)
            terms += [Terms(weight * sums.value[:, t], divisor[:, t], sums.active[:, t]) for t in range(sums.value.shape[1])]
        return tuple(terms)

    def _learnable(self) -> list[Tensor]:
        every = [tensor for loss in self.parts for tensor in loss._learnable()]
        return list({id(tensor): tensor for tensor in every}.values())


def _divisor(reduction: str, sums: Totals) -> Tensor:
    """`[b, terms]`: what adds up over anchors to the divisor of each term; 0 adds up to 0, for which an average takes 1."""
    by = {"mean": sums.groups, "mean_active": sums.active, "mean_pairs": sums.pairs.sum(1, keepdim=True).expand_as(sums.pairs)}
    return by.get(reduction, torch.zeros_like(sums.groups))


class _Seeds(Miner):
    """Keeps all pairs, and draws one seed per miner, in their order, so that each draws what it would draw alone."""

    def __init__(self, miners: Sequence[Miner | None]) -> None:
        super().__init__()
        self.miners = list(miners)

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """All pairs."""
        return s_n, s_p

    def draw_seed(self, device: torch.device) -> Tensor | None:
        """`[k]` int64, one per miner; None if no miner draws."""
        seeds = [None if miner is None else miner.draw_seed(device) for miner in self.miners]
        known = [seed for seed in seeds if seed is not None]
        return torch.stack([known[0] if seed is None else seed for seed in seeds]) if known else None


def _own(scores: Scores, k: int, facts: tuple[Any, ...]) -> Scores:
    """The same scores with the seed of miner `k` alone, and with the facts of its loss."""
    block = scores.block
    assert block is not None
    return Scores(
        scores.value,
        scores._mask,
        excluded=scores.excluded,
        num_excluded=scores._num_excluded,
        columns=scores.columns,
        block=block.but(seed=None if block.seed is None else block.seed[k], facts=facts),
        harmless=scores.harmless,
    )


@suggest_keywords
class GradCache(nn.Module):
    """A loss of a whole batch behind an encoder that takes the batch in chunks: exact gradients in the memory of one chunk.

    The encoder runs chunk by chunk and keeps nothing but embeddings; in backward each chunk runs again, with the same random numbers, so
    dropout is replayed, and its parameters receive the gradient that the loss of the whole batch sends to its embeddings. The price is one
    more forward pass. Gradients are those of the encoder applied to chunks: the same as for the whole batch, unless its samples meet, as
    in a batch normalisation, whose statistics are then those of a chunk. Running statistics are updated once.

    To autograd it is an ordinary function: mixed precision, gradient accumulation and DDP, around it or around the encoder, need nothing
    special.

    Args:
        encoder: a module that maps inputs to embeddings `[n, d]`.
        loss: a loss; anything that is called with embeddings first.
        chunk_size: samples that the encoder takes at once, >= 1.

    Raises:
        TypeError: if the encoder or the loss is no module.

    Example:
        >>> import torch
        >>> from metriczoo.losses import TripletMarginLoss
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Dropout(0.5))
        >>> cached = GradCache(encoder, TripletMarginLoss(), chunk_size=2)
        >>> value = cached(torch.randn(6, 8), [0, 0, 1, 1, 2, 2])
        >>> value.backward()
        >>> encoder[0].weight.grad.shape
        torch.Size([4, 8])

    Relations:
        `torch.utils.checkpoint`, cut along the batch: between the chunks and the loss nothing but embeddings is kept.

    References:
        Gao, Zhang, Han, Callan. Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup. RepL4NLP 2021.
    """

    def __init__(self, encoder: nn.Module, loss: nn.Module, chunk_size: int) -> None:
        super().__init__()
        for name, module in (("encoder", encoder), ("loss", loss)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"Expected `{name}` to be a torch.nn.Module, but got {describe(module)}.")
        if isinstance(encoder, (Loss, SumLoss)):
            raise TypeError(f"Expected `encoder` to be a network and `loss` a loss, but got {describe(encoder)} for `encoder`.")
        self.encoder, self.loss, self.chunk_size = encoder, loss, check_count("chunk_size", chunk_size)

    def forward(self, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """`loss(encode(inputs), *args, **kwargs)`.

        Args:
            inputs: of the encoder, see `encode`.
            args: of the loss, after the embeddings: labels, references.
            kwargs: of the loss.
        """
        value: Tensor = self.loss(self.encode(inputs), *args, **kwargs)
        return value

    def encode(self, inputs: Any) -> Tensor:
        """The embeddings of a batch, chunk by chunk: for a loss of two encoders, or of two views.

        Args:
            inputs: a tensor `[n, ...]`, given to the encoder as it is; a tuple or list, given as its arguments; or a mapping, given as its
                keyword arguments. Tensors are cut along their first dimension, which is that of the batch; everything else is given to
                every chunk.

        Returns:
            `[n, d]`.

        Raises:
            TypeError: if there is no tensor, or the encoder returns none.
            ValueError: if the tensors differ in length.
        """
        chunks = [_call(chunk) for chunk in _chunks(inputs, self.chunk_size)]
        again = len(chunks) > 1 and torch.is_grad_enabled()
        parts = [self._encode(args, kwargs, again) for args, kwargs in chunks]
        for part in parts:
            if not isinstance(part, Tensor):
                raise TypeError(f"Expected `encoder` to return a tensor of embeddings, but got {describe(part)}.")
        return torch.cat(parts)

    def _encode(self, args: Sequence[Any], kwargs: Mapping[str, Any], again: bool) -> Any:
        if not again:
            return self.encoder(*args, **kwargs)

        def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
            return contextlib.nullcontext(), _unchanged_buffers(self.encoder)

        return checkpoint(self.encoder, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextlib.contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """What happens inside leaves buffers as they were: running statistics, above all."""
    saved = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.data.copy_(value)  # not a change that autograd should know of: what it keeps is of this very run


def _call(chunk: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Arguments and keyword arguments."""
    if isinstance(chunk, Mapping):
        return (), chunk
    return (chunk if isinstance(chunk, (tuple, list)) else (chunk,)), {}


def _chunks(inputs: Any, size: int) -> list[Any]:
    """The inputs, cut along the batch."""
    if isinstance(inputs, Tensor):
        return list(inputs.split(size))
    entries = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs) if isinstance(inputs, (tuple, list)) else []
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    if not tensors:
        raise TypeError(f"Expected `inputs` to be a tensor, or a tuple, list or mapping that holds one, but got {describe(inputs)}.")
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1:
        raise ValueError(f"Expected the tensors of `inputs` to have the same length, that of the batch, but got {sorted(lengths)}.")
    number = len(tensors[0].split(size))
    cut = [entry.split(size) if isinstance(entry, Tensor) else [entry] * number for entry in entries]
    rows = list(zip(*cut, strict=True))
    return [dict(zip(inputs, row, strict=True)) for row in rows] if isinstance(inputs, Mapping) else rows
