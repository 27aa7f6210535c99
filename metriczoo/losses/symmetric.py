"""Two sides that are compared with each other in both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import as_labels, check_embeddings, describe, suggest_keywords
from metriczoo.losses.base import Loss
from metriczoo.references import References

__all__ = ["SymmetricLoss"]


@suggest_keywords
class SymmetricLoss(nn.Module):
    r"""A loss on two sides, images and texts or two views, in both directions.

    .. math:: L(x, y) = \tfrac12 \bigl(\ell(x \to y) + \ell(y \to x)\bigr)

    Called as `symmetric(queries, labels, (keys, key_labels))`: each side is anchors once, and references once. Reduction "sum" of the loss
    adds both directions up, "none" gives those of the queries and, after them, those of the keys.

    Args:
        loss: any loss on pairs.

    Raises:
        TypeError: if `loss` is not a `Loss`.

    Example:
        >>> import torch
        >>> from metriczoo.losses import TripletMarginLoss
        >>> from metriczoo.miners import HardMiner
        >>> images, texts = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> SymmetricLoss(TripletMarginLoss(margin=0.25, miner=HardMiner()))(images, [0, 1], (texts, [0, 1]))
        tensor(0.0500)

    Relations:
        `NTXentLoss(symmetric=True)` is the mean over the pairs of both directions, the same where both have as many, as in CLIP.
        `SigmoidLoss` adds up all pairs, which is symmetric by itself. Where a batch is compared with itself, as two views in one batch,
        every loss is symmetric already: SimCLR, SupCon and DCL are `loss(torch.cat([x, y]), ids.repeat(2))`.

    References:
        Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021.
        Faghri, Fleet, Kiros, Fidler. VSE++: Improving Visual-Semantic Embeddings with Hard Negatives. BMVC 2018 (triplets).
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        if not isinstance(loss, Loss):
            raise TypeError(f"Expected `loss` to be a Loss, but got {describe(loss)}.")
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Any, references: Any, *, ids: Any = None) -> Tensor:
        """The loss of two sides.

        Args:
            embeddings: `[n, d]`, one side.
            labels: `[n]`, as of `Loss`.
            references: the other side: `(embeddings, labels)` or a `References`.
            ids: `[n]` integers; a pair of equal ids is the same point and left out. Default: no point is on both sides.

        Returns:
            A scalar; `[n + m]` with reduction "none".

        Raises:
            TypeError: of references that are no other side, such as a store.
        """
        check_embeddings("embeddings", embeddings)
        if isinstance(references, tuple) and len(references) == 2:
            references = References(*references)
        if not isinstance(references, References):
            raise TypeError(f"Expected `references` to be a pair (embeddings, labels) or a References, but got {describe(references)}.")
        labels = as_labels(labels, length=len(embeddings), device=embeddings.device, flat=self.loss.relation is None)
        known = ids is not None
        there = self.loss(embeddings, labels, references, ids=ids)
        queries = References(embeddings, labels, ids)
        back = self.loss(references.embeddings, references.labels, queries, ids=references.ids if known else None)
        if self.loss.reduction == "none":
            return torch.cat([there, back])
        both: Tensor = there + back
        return both if self.loss.reduction == "sum" else both / 2
