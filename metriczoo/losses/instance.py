"""Losses that take every instance for a class of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo import functional as F
from metriczoo._checks import Bounds, check_count, check_flag
from metriczoo._execution import reads_are_free, tracing
from metriczoo._stream import prepared as as_scored
from metriczoo.columns import Columns, DrawnColumns
from metriczoo.engine import Problem
from metriczoo.losses.base import Call, Loss
from metriczoo.losses.tags import Tags
from metriczoo.references import match
from metriczoo.scores import Scores
from metriczoo.stores import MemoryBank
from metriczoo.stores._alias import AliasSampler, as_weights

__all__ = ["NCELoss"]


class NCELoss(Loss):
    r"""Noise-contrastive estimation of instance discrimination on a memory bank: `functional.nce`.

    Called with a `MemoryBank`, the positive of an anchor is its own row of the bank, named by `ids` (or by `labels` where no ids are
    given), and `num_noise` rows drawn with replacement from the whole bank are noise. Neither receives a gradient; `bank.update(ids,
    embeddings)` is a call of its own. The loss keeps the bank it is made with, so that a call need not name it. With any other
    references, positives and negatives are those of the labels, and stand for uniform noise.

    The normaliser Z is estimated on the first call, from all scores of that batch, and kept in a buffer:
    :math:`Z = n \cdot \operatorname{mean} e^{s / \tau}`, where :math:`1 / P_n` takes the place of n in the scores of noise that is not
    uniform.

    Args:
        bank: a `MemoryBank` to compare with where a call names no references.
        num_noise: m >= 1, noise samples per anchor.
        temperature: tau > 0.
        proximal: lambda >= 0, weight of the squared distance between an embedding and its own row; the paper uses 30.
        share_noise: whether all anchors of a batch see the same noise: one matrix product instead of a gather per anchor. The expected
            loss is the same; across anchors the noise is then correlated.
        noise: `[n]` numbers >= 0, one per row of the bank, to which the probability P_n of drawing it is proportional: how often samples
            occur, say. Each draw takes the same time. A row of weight 0 is never drawn and cannot be the positive of an anchor. Default:
            uniform, drawn by the bank.
        generator: source of the seed of the draws of `noise`. Default: the global one.
        options: as of `Loss`.

    Attributes:
        log_z: `[1]`, the logarithm of Z; NaN before it is known.
        num_data: n.
        noise: what draws; its state is part of the `state_dict`, so a resumed run draws the same. None: the bank, whose state is its own.

    Example:
        >>> import torch
        >>> from metriczoo.stores import MemoryBank
        >>> bank = MemoryBank(100, 8)
        >>> nce = NCELoss(bank, num_noise=16)
        >>> embeddings, ids = torch.eye(4, 8), torch.tensor([3, 1, 4, 15])
        >>> value = nce(embeddings, ids)
        >>> bank.update(ids, embeddings)
        >>> nce.log_z.isfinite()
        tensor([True])
        >>> by_frequency = NCELoss(bank, num_noise=16, noise=range(1, 101))
        >>> by_frequency.noise.probabilities()[98]
        tensor(0.0196, dtype=torch.float64)

    Relations:
        `UnifiedLoss` and its kin compare with all references given; this one with a draw from as many as a bank holds, at a cost that
        does not grow with it.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018.
    """

    temperature: float | Tensor
    proximal: float | Tensor
    log_z: Tensor
    num_data: Tensor

    needs_negatives = False
    bounds: ClassVar = {"temperature": Bounds(0, open_low=True), "proximal": Bounds(0)}

    def __init__(
        self,
        bank: MemoryBank | None = None,
        *,
        num_noise: int = 4096,
        temperature: float = 0.07,
        proximal: float = 0.0,
        share_noise: bool = True,
        noise: Any = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if bank is not None and not isinstance(bank, MemoryBank):
            raise TypeError(f"Expected `bank` to be a MemoryBank, but got {type(bank).__name__}.")
        self.bank = bank
        self.num_noise, self.share_noise = check_count("num_noise", num_noise), check_flag("share_noise", share_noise)
        self._set(temperature=temperature, proximal=proximal)
        self.noise = None if noise is None else AliasSampler(as_weights("noise", noise), generator=generator)
        if self.noise is not None and bank is not None:
            self._check_noise(bank)
        # Not `[]`: PyTorch 2.13 drops the update of a float64 scalar in compiled programs.
        self.register_buffer("log_z", torch.full((1,), math.nan))
        self.register_buffer("num_data", torch.tensor(1))
        self._estimated: bool | None = False  # None: to be read from the buffer
        self._pairless = False  # whether no batch had a pair yet, so that any finite Z gives the loss 0 that is right

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        z = state_dict.get(prefix + "log_z")
        if isinstance(z, Tensor) and z.dim() == 0:  # as it was kept at first
            state_dict = {**state_dict, prefix + "log_z": z.unsqueeze(0)}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._estimated = None

    def _check_noise(self, bank: MemoryBank) -> None:
        if self.noise is not None and len(self.noise) != len(bank):
            raise ValueError(f"Expected `noise` to have {len(bank)} entries, one per row of the bank, but got {len(self.noise)}.")

    def reset(self) -> None:
        """Forget Z: the next call estimates it anew."""
        self.log_z.fill_(math.nan)
        self._estimated = False

    @property
    def tags(self) -> Tags:
        """A logistic regression for each pair, with the threshold of the normaliser."""

        def bound(n: int, p: int) -> float:
            return p * (1 / float(self.temperature) + 2 * float(self.proximal))

        return Tags(shift=False, bound=bound, saturates=False, needs_positives=True, needs_negatives=float(self.proximal) == 0)

    def facts(self, call: Call) -> tuple[Tensor, ...]:
        """The probabilities of the noise."""
        return _facts(call.columns)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        log_z = self.log_z.nan_to_num() if self._pairless else self.log_z
        return F.nce(
            s_n,
            s_p,
            log_z=log_z,
            num_data=self.num_data,
            temperature=self.temperature,
            proximal=self.proximal,
            negative_log_noise=_log_noise(s_n),
            positive_log_noise=_log_noise(s_p),
        )

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.bank if references is None else references
        if isinstance(references, MemoryBank):
            met = self._draw(anchors, labels if ids is None else ids, references)
        else:
            met = super()._meet(anchors, labels, references, ids)
        if self._estimated is None:
            self._estimated = not bool(self.log_z.isnan())
        if not self._estimated:
            _, prepared, compared = met
            num_data = len(references) if isinstance(references, MemoryBank) else len(prepared if compared is None else compared)
            columns, _, _ = met
            if columns.streamed and compared is not None:
                compared = as_scored(self.similarity, compared, prepared.dtype)
            self._estimate(columns, prepared, compared, num_data=num_data)
            self._pairless = not self._estimated
        return met

    def _draw(self, anchors: Tensor, rows: Tensor, bank: MemoryBank) -> tuple[Columns, Tensor, Tensor | None]:
        match(bank.references(), anchors)
        if reads_are_free(rows) and len(rows) and int(rows.max()) >= len(bank):
            raise ValueError(f"Expected `ids` (or `labels`) to be below {len(bank)}, the size of the bank, but got {int(rows.max())}.")
        own, num = rows.clamp(min=0), self.num_noise if self.share_noise else self.num_noise * len(rows)
        if self.noise is None:
            drawn = bank.sample(num)
        else:
            self._check_noise(bank)
            self._check_drawn(rows)
            drawn = self.noise.sample(num).to(rows.device)
        drawn = drawn if self.share_noise else drawn.view(len(rows), self.num_noise)
        log_noise = None if self.noise is None else self.noise.log_probability.to(rows.device)
        columns = DrawnColumns(own, drawn, bank.embeddings, rows >= 0, log_noise)
        return columns, self.similarity.prepare(anchors), columns.prepare(self.similarity, anchors.dtype)

    def _check_drawn(self, rows: Tensor) -> None:
        """Raise where the own row of an anchor is never drawn, so that there is no telling it from noise."""
        assert self.noise is not None
        if reads_are_free(rows):
            never = rows[(rows >= 0) & (self.noise.log_probability[rows.clamp(min=0)] == -math.inf)]
            if len(never):
                raise ValueError(f"Expected `noise` > 0 for the own row of every anchor, but got 0 for row {int(never[0])}.")

    @torch.no_grad()
    def _estimate(self, columns: Columns, anchors: Tensor, references: Tensor | None, *, num_data: int) -> None:
        """Z / n as the mean of exp(s / temperature) over all scores of the batch, those of noise divided by n P_n."""
        if tracing(anchors) and not torch.compiler.is_compiling():
            raise RuntimeError("Z is not estimated yet: call the loss once outside of torch.func transforms, or load its state.")
        problem = Problem(self, columns, anchors.shape[1], None, self.memory_budget, _facts(columns))
        sums, counts = [anchors.new_full((1,), -math.inf)], anchors.new_zeros(1)
        for rows in problem.tiles(anchors):
            a, r = anchors[rows], anchors if references is None else references
            s_n, s_p = columns.scores(self.similarity, a, r, problem.block(r, rows, a.device), rows)
            for scores, log_noise in ((s_n, _log_noise(s_n)), (s_p, None)):  # own rows are as good as drawn uniformly
                rarity = 0.0 if log_noise is None else -(log_noise + math.log(num_data)).to(a.dtype)
                keep = scores.where(columns.keep[rows].unsqueeze(1))
                sums.append(keep.map(lambda s, rarity=rarity: s / self.temperature + rarity).logsumexp())  # type: ignore[misc]
                counts = counts + keep.count().sum()
        if torch.compiler.is_compiling() or bool(counts > 0):  # a batch without a pair tells nothing
            self.log_z.copy_(torch.cat(sums).logsumexp(0) - counts.log() + math.log(num_data))
            self.num_data.fill_(num_data)
            self._estimated = True


def _facts(columns: Columns) -> tuple[Tensor, ...]:
    """`[n]` float64, how likely each row of the bank is to be drawn; nothing where all are alike."""
    return (columns.log_noise,) if isinstance(columns, DrawnColumns) and columns.log_noise is not None else ()


def _log_noise(scores: Scores) -> Tensor | None:
    """`[b, n]` or, where anchors share their noise, `[1, n]`: how likely each cell is to be drawn. None: all alike."""
    if scores.block is None or not scores.block.facts:
        return None
    assert scores.columns is not None
    log_noise: Tensor = scores.facts[0]
    shared = scores.columns.stride(0) == 0
    return log_noise[scores.columns[:1] if shared else scores.columns]
