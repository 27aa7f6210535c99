"""Losses that take every instance for a class of its own."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo import functional as F
from metriczoo._checks import Bounds, check_count
from metriczoo._execution import reads_are_free, tracing
from metriczoo.columns import Columns, DrawnColumns
from metriczoo.engine import Problem
from metriczoo.losses.base import Loss
from metriczoo.references import match
from metriczoo.scores import Scores
from metriczoo.stores import MemoryBank

__all__ = ["NCELoss"]


class NCELoss(Loss):
    r"""Noise-contrastive estimation of instance discrimination on a memory bank: `functional.nce`.

    Called with a `MemoryBank`, the positive of an anchor is its own row of the bank, named by `ids` (or by `labels` where no ids are
    given), and `num_noise` rows drawn with replacement from the whole bank are noise. Neither receives a gradient; `bank.update(ids,
    embeddings)` is a call of its own. The loss keeps the bank it is made with, so that a call need not name it. With any other
    references, positives and negatives are those of the labels.

    The normaliser Z is estimated on the first call, from all scores of that batch, and kept in a buffer:
    :math:`Z = n \cdot \operatorname{mean} e^{s / \tau}`.

    Args:
        bank: a `MemoryBank` to compare with where a call names no references.
        num_noise: m >= 1, noise samples per anchor.
        temperature: tau > 0.
        proximal: lambda >= 0, weight of the squared distance between an embedding and its own row; the paper uses 30.
        share_noise: whether all anchors of a batch see the same noise: one matrix product instead of a gather per anchor. The expected
            loss is the same; across anchors the noise is then correlated.
        options: as of `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.stores import MemoryBank
        >>> bank = MemoryBank(100, 8)
        >>> nce = NCELoss(bank, num_noise=16)
        >>> embeddings, ids = torch.eye(4, 8), torch.tensor([3, 1, 4, 15])
        >>> value = nce(embeddings, ids)
        >>> bank.update(ids, embeddings)
        >>> nce.log_z.isfinite()
        tensor(True)

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
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if bank is not None and not isinstance(bank, MemoryBank):
            raise TypeError(f"Expected `bank` to be a MemoryBank, but got {type(bank).__name__}.")
        self.bank = bank
        self.num_noise, self.share_noise = check_count("num_noise", num_noise), bool(share_noise)
        self._set(temperature=temperature, proximal=proximal)
        self.register_buffer("log_z", torch.tensor(math.nan))  # NaN until the first call
        self.register_buffer("num_data", torch.tensor(1))
        self._estimated: bool | None = False  # None: to be read from the buffer
        self._pairless = False  # whether no batch had a pair yet, so that any finite Z gives the loss 0 that is right

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._estimated = None

    def reset(self) -> None:
        """Forget Z: the next call estimates it anew."""
        self.log_z.fill_(math.nan)
        self._estimated = False

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        log_z = self.log_z.nan_to_num() if self._pairless else self.log_z
        return F.nce(s_n, s_p, log_z=log_z, num_data=self.num_data, temperature=self.temperature, proximal=self.proximal)

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
            self._estimate(*met, num_data=num_data)
            self._pairless = not self._estimated
        return met

    def _draw(self, anchors: Tensor, rows: Tensor, bank: MemoryBank) -> tuple[Columns, Tensor, Tensor | None]:
        match(bank.references(), anchors)
        if reads_are_free(rows) and len(rows) and int(rows.max()) >= len(bank):
            raise ValueError(f"Expected ids (or labels) below {len(bank)}, the size of the bank, but got {int(rows.max())}.")
        noise = bank.sample(self.num_noise if self.share_noise else self.num_noise * len(rows))
        columns = DrawnColumns(
            rows.clamp(min=0), noise if self.share_noise else noise.view(len(rows), self.num_noise), bank.embeddings, keep=rows >= 0
        )
        return columns, self.similarity.prepare(anchors), columns.prepare(self.similarity, anchors.dtype)

    @torch.no_grad()
    def _estimate(self, columns: Columns, anchors: Tensor, references: Tensor | None, *, num_data: int) -> None:
        """Z / n as the mean of exp(s / temperature) over all scores of the batch."""
        if tracing(anchors) and not torch.compiler.is_compiling():
            raise RuntimeError("Z is not estimated yet: call the loss once outside of torch.func transforms, or load its state.")
        problem = Problem(self, columns, anchors.shape[1], None, self.memory_budget)
        sums, counts = [anchors.new_full((1,), -math.inf)], anchors.new_zeros(1)
        for rows in problem.tiles(anchors):
            a, r = anchors[rows], anchors if references is None else references
            for scores in columns.scores(self.similarity, a, r, problem.block(r, rows, a.device), rows):
                keep = scores.where(columns.keep[rows].unsqueeze(1))
                sums.append(keep.map(lambda s: s / self.temperature).logsumexp())
                counts = counts + keep.count().sum()
        if torch.compiler.is_compiling() or bool(counts > 0):  # a batch without a pair tells nothing
            self.log_z.copy_((torch.cat(sums).logsumexp(0) - counts.log() + math.log(num_data)).squeeze())
            self.num_data.fill_(num_data)
            self._estimated = True
