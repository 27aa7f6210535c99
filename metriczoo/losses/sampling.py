"""Losses over so many classes, or instances, that they are read in chunks, sampled, or arranged in a tree."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metriczoo._checks import Bounds, check_count, check_number
from metriczoo._execution import memory, tracing
from metriczoo.columns import Columns
from metriczoo.functional import sampling as F
from metriczoo.losses._huffman import huffman
from metriczoo.losses._rows import PooledColumns, TableColumns, check_bank, check_below, check_rows
from metriczoo.losses.base import Loss, _full
from metriczoo.losses.tags import Tags
from metriczoo.scores import Scores
from metriczoo.similarity import InnerProduct, Similarity
from metriczoo.stores import MemoryBank, Proxies
from metriczoo.stores._alias import AliasSampler, as_weights

__all__ = ["HierarchicalSoftmaxLoss", "NegativeSamplingLoss", "NonParametricSoftmaxLoss"]


class NonParametricSoftmaxLoss(Loss):
    """Softmax over all instances of a memory bank: `functional.nonparametric_softmax`, exact.

    Called as `loss(embeddings, ids)`: the positive of an anchor is its own row of the bank, named by `ids` (or by `labels` where no ids are
    given), its negatives are all other rows. The bank is read once, in chunks: memory is that of the batch, time that of two matrix
    products with the bank. It receives no gradient; `bank.update(ids, embeddings)` is a call of its own. With other references, positives
    and negatives are those of the labels.

    Args:
        bank: a `MemoryBank` to compare with where a call names no references.
        temperature: tau > 0.
        options: as of `Loss`. With a miner, reduction "mean_pairs", a similarity that is no inner product, or dense execution, all scores
            of a block of anchors are held at once.

    Example:
        >>> import torch
        >>> from metriczoo.stores import MemoryBank
        >>> bank = MemoryBank(3, 2, momentum=0.0)
        >>> bank.update([0, 1, 2], torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        >>> NonParametricSoftmaxLoss(bank, temperature=1.0)(torch.tensor([[5.0, 0.0]]), [0])
        tensor(0.4076)

    Relations:
        `NCELoss` draws some of the rows. The authors of both found many negatives in a softmax to be better than NCE.

    References:
        Wu, Xiong, Yu, Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR 2018.
    """

    temperature: float | Tensor

    bounds: ClassVar = {"temperature": Bounds(0, open_low=True)}

    def __init__(self, bank: MemoryBank | None = None, *, temperature: float = 0.07, **options: Any) -> None:
        super().__init__(**options)
        self.bank = check_bank(bank)
        self._set(temperature=temperature)

    @property
    def tags(self) -> Tags:
        """Pull and push are alike and bounded."""
        return Tags(shift=True, bound=1 / float(self.temperature), saturates=False, needs_positives=True, needs_negatives=True)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.nonparametric_softmax(s_n, s_p, temperature=self.temperature)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.bank if references is None else references
        if not isinstance(references, MemoryBank):
            return super()._meet(anchors, labels, references, ids)
        rows = check_rows(labels if ids is None else ids, references.instances(), anchors)
        pooled = self.similarity.is_product and self.miner is None and self.reduction != "mean_pairs" and self.execution != "dense"
        if not pooled or tracing(anchors):
            return super()._meet(anchors, rows, references.instances(), None)
        budget = memory(self.memory_budget, anchors.device)
        columns = PooledColumns(rows.clamp(min=0), references.embeddings, rows >= 0, self.temperature, budget)
        prepared = self.similarity.prepare(anchors)
        return columns, prepared, prepared.detach()[:0]


class NegativeSamplingLoss(Loss):
    """Negative sampling, as in word2vec: `functional.negative_sampling`, on a vector per class, or on a memory bank.

    Called as `loss(embeddings, labels)`, say with the vectors of centre words and the numbers of words in their context: the positive of an
    anchor is the proxy of its label, its negatives are `num_noise` classes drawn with replacement from a noise distribution. A draw of the
    own class does not count. With a `MemoryBank` in place of proxies, the rows are instances, named by `ids` (or `labels`), and receive
    no gradient. With other references, positives and negatives are those of the labels, and nothing is drawn.

    Args:
        num_classes: C; with `embedding_dim`, makes `proxies`, one per class.
        embedding_dim: dimension of the proxies.
        noise: `[C]` numbers >= 0, frequencies of the classes, say. Default: all equal.
        power: >= 0, to which they are raised: 0.75 in word2vec, 0 makes them equal.
        num_noise: draws per anchor, >= 1: 5 in word2vec, up to 20 for small data.
        generator: source of the seed of the draws. Default: the global one.
        options: as of `Loss`.

    Attributes:
        noise: what draws; its state is part of the `state_dict`, so a resumed run draws the same.

    Example:
        >>> import torch
        >>> loss = NegativeSamplingLoss(3, 2, noise=[90, 9, 1], num_noise=2)
        >>> loss.proxies.weight.data.zero_()
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.]])
        >>> float(loss(torch.eye(2), [0, 1]).detach()) <= 3 * 0.6932
        True

    Relations:
        `NCELoss` with Z taken for 1 and the noise left out of the odds; `HierarchicalSoftmaxLoss` is exact in the same time.

    References:
        Mikolov, Sutskever, Chen, Corrado, Dean. Distributed Representations of Words and Phrases and their Compositionality. NIPS 2013.
    """

    needs_negatives = False

    def __init__(
        self,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        *,
        noise: Any = None,
        power: float = 0.75,
        num_noise: int = 5,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, embedding_dim=embedding_dim, **options)
        self.num_noise, power = check_count("num_noise", num_noise), check_number("power", power, low=0)
        size = None if self.proxies is None else self.proxies.num_classes
        weights = torch.ones(size) if noise is None and size is not None else noise
        if weights is not None:
            weights = as_weights("noise", weights)
            if size is not None and len(weights) != size:
                raise ValueError(f"Expected `noise` to have {size} entries, one per class, but got {len(weights)}.")
            weights = torch.where(weights > 0, weights**power, 0.0)
        self.noise = None if weights is None else AliasSampler(weights, generator=generator)

    def default_similarity(self) -> Similarity:
        """Inner products."""
        return InnerProduct()

    @property
    def tags(self) -> Tags:
        """A logistic regression for each pair."""
        bound = (lambda n, p: p) if isinstance(self.similarity, InnerProduct) else None
        return Tags(shift=False, bound=bound, saturates=False, needs_positives=True, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.negative_sampling(s_n, s_p)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        references = self.proxies if references is None else references
        if not isinstance(references, (MemoryBank, Proxies)):
            return super()._meet(anchors, labels, references, ids)
        bank = isinstance(references, MemoryBank)
        if isinstance(references, Proxies) and references.per_class != 1:
            raise ValueError(f"Expected `proxies` with one row per class, but got {references.per_class} per class.")
        table = references.references()
        own = check_rows(ids if bank and ids is not None else labels, table, anchors)
        if self.noise is None or len(self.noise) != len(table):
            got = "none" if self.noise is None else f"that of {len(self.noise)}"
            raise ValueError(f"Expected a `noise` distribution over {len(table)} rows, one per class, but got {got}.")
        drawn = self.noise.sample(len(own) * self.num_noise).view(len(own), self.num_noise)
        cells = torch.cat([own.clamp(min=0).unsqueeze(1), drawn], dim=1)
        first = torch.arange(cells.shape[1], device=cells.device) == 0
        columns = TableColumns(cells, ~first & (cells != own.unsqueeze(1)), first.expand_as(cells), keep=own >= 0)
        points = (table.embeddings.detach() if bank else table.embeddings)[cells.flatten()]
        return columns, self.similarity.prepare(anchors), self.similarity.prepare(_full(points)).to(anchors.dtype)


class HierarchicalSoftmaxLoss(Loss):
    """Softmax by a Huffman tree over the classes: `functional.hierarchical_softmax`.

    Called as `loss(embeddings, labels)`. A class is reached from the root by left and right turns at inner nodes, each of which has a
    vector; frequent classes by few. So the cost grows with log C, and the probabilities of all C classes add up to 1 without a sum over
    them. With other references, positives and negatives are those of the labels.

    Args:
        counts: `[C]` numbers >= 0, frequencies of the classes.
        embedding_dim: dimension of the vectors of nodes.
        proxies: a `Proxies` store of the C - 1 (at least 1) vectors. Default: a new one.
        options: as of `Loss`.

    Attributes:
        proxies: the vectors of inner nodes.
        path: `[C, depth]` int32, the nodes on the way to each class.
        turns: `[C, depth]` int8, 1 where it turns left, -1 right, 0 beyond its end.

    Example:
        >>> import torch
        >>> loss = HierarchicalSoftmaxLoss([5, 2, 1], 2)
        >>> loss.turns
        tensor([[-1,  0],
                [-1,  1],
                [ 1,  1]], dtype=torch.int8)
        >>> x = torch.tensor([[0.5, -2.0]]).expand(3, 2)
        >>> probabilities = torch.exp(-HierarchicalSoftmaxLoss([5, 2, 1], 2, reduction="none")(x, [0, 1, 2]))
        >>> torch.allclose(probabilities.sum(), torch.ones(()))
        True

    Relations:
        `torch.nn.AdaptiveLogSoftmaxWithLoss` has a tree of two levels; `NegativeSamplingLoss` is no normalised model.

    References:
        Morin, Bengio. Hierarchical Probabilistic Neural Network Language Model. AISTATS 2005.
        Mikolov, Sutskever, Chen, Corrado, Dean. Distributed Representations of Words and Phrases and their Compositionality. NIPS 2013.
    """

    path: Tensor
    turns: Tensor

    needs_positives = needs_negatives = False

    def __init__(self, counts: Any, embedding_dim: int | None = None, *, proxies: Proxies | None = None, **options: Any) -> None:
        weights = as_weights("counts", counts)
        nodes = max(1, len(weights) - 1)
        if proxies is None:
            proxies = Proxies(nodes, check_count("embedding_dim", embedding_dim))
        elif embedding_dim is not None:
            raise ValueError("Expected either `embedding_dim` or `proxies`, but got both.")
        super().__init__(proxies=proxies, **options)
        if len(proxies.references()) != nodes:
            raise ValueError(f"Expected `proxies` of {nodes} inner nodes, one less than classes, but got {len(proxies.references())}.")
        path, turns = huffman(weights)
        self.register_buffer("path", path)
        self.register_buffer("turns", turns)

    def default_similarity(self) -> Similarity:
        """Inner products."""
        return InnerProduct()

    @property
    def tags(self) -> Tags:
        """A logistic regression for each turn."""
        bound = (lambda n, p: p) if isinstance(self.similarity, InnerProduct) else None
        return Tags(shift=False, bound=bound, saturates=False, needs_positives=False, needs_negatives=False)

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor:
        """One number per anchor."""
        return F.hierarchical_softmax(s_n, s_p)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        if references is not None and references is not self.proxies:
            return super()._meet(anchors, labels, references, ids)
        assert self.proxies is not None
        nodes = self.proxies.references()
        check_rows(labels[:0], nodes, anchors)
        leaf = check_below(labels, len(self.path)).clamp(min=0)
        cells, turns = self.path[leaf].long(), self.turns[leaf]
        points = self.similarity.prepare(_full(nodes.embeddings[cells.flatten()])).to(anchors.dtype)
        return TableColumns(cells, turns < 0, turns > 0, keep=labels >= 0), self.similarity.prepare(anchors), points
