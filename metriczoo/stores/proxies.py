"""Learnable points that stand for classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import as_labels, check_count, check_flag, check_number, suggest_keywords
from metriczoo._execution import checking, tracing
from metriczoo._random import split_mix
from metriczoo.references import References, SampledReferences
from metriczoo.similarity import unit
from metriczoo.stores._base import check_dtype, check_generator
from metriczoo.stores._subsets import others, subset

__all__ = ["Proxies"]


@suggest_keywords
class Proxies(nn.Module):
    """One or more learnable points per class: the weight matrix of a classifier, seen as references.

    Args:
        num_classes: >= 1; labels are 0 ... `num_classes` - 1.
        embedding_dim: `d`, >= 1.
        per_class: proxies of each class, >= 1: sub-centres, or the centres of SoftTriple.
        sample: how many classes a call of a loss compares with in training: a whole number, or a share in (0, 1] of all classes. They are
            those of the batch, and others drawn anew for each call, uniformly and without replacement, as many as are missing. Time and
            memory of a step are then those of so many classes. In evaluation, and in traced programs, all classes take part. Default: all.
        correction: whether the drawn classes stand for all that were not: their share of a sum, or of a sum of exponentials, is divided by
            the probability of being drawn, by which a softmax over classes is estimated without bias. For losses made of folds, without
            a miner. Otherwise they count as if there were no other classes, as in PartialFC.
        sparse: whether the gradient of sampled proxies is a sparse tensor, which has rows for them only, so that an optimiser for such
            (`torch.optim.SparseAdam`, `Adagrad`, or `SGD`) never touches the others, nor what it knows of them. A dense one is 0 there.
        generator: source of the start, and of the seed of the draws. Default: the global one.
        dtype: of the proxies. Default: the default dtype.
        device: where to start. Default: the default device.

    Attributes:
        weight: parameter `[num_classes * per_class, d]`, row `c * per_class + j` is proxy `j` of class `c`. It starts uniform on the unit
            sphere. Without `sample` it is all the state.
        draws: `[2]` int64, the seed, and how many random numbers were used: with `weight` all the state, so a resumed run draws the same.

    Example:
        >>> proxies = Proxies(3, 8, per_class=2)
        >>> proxies.references().labels
        tensor([0, 0, 1, 1, 2, 2])
        >>> torch.allclose(proxies.weight.norm(dim=1), torch.ones(6))
        True

    Relations:
        `MemoryBank` and `EmbeddingQueue` hold points that were computed and receive no gradient; proxies are trained, often with a learning
        rate of their own. `NegativeSamplingLoss` draws with replacement, and few for each anchor.

    References:
        An, Deng, Guo, Feng, Zhu, Yang, Liu. Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
        Partial FC. CVPR 2022.
        Jean, Cho, Memisevic, Bengio. On Using Very Large Target Vocabulary for Neural Machine Translation. ACL 2015 (the correction).
    """

    draws: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        per_class: int = 1,
        sample: float | None = None,
        correction: bool = False,
        sparse: bool = True,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes)
        self.embedding_dim = check_count("embedding_dim", embedding_dim)
        self.per_class = check_count("per_class", per_class)
        self.sample = None if sample is None else _size(sample, self.num_classes)
        self.correction, self.sparse = check_flag("correction", correction), check_flag("sparse", sparse)
        dtype = torch.get_default_dtype() if dtype is None else check_dtype(dtype)
        self.weight = nn.Parameter(torch.empty(self.num_classes * self.per_class, self.embedding_dim, dtype=dtype, device=device))
        self.reset_parameters(generator)
        if self.sample is not None:
            seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu" if generator is None else generator.device)
            self.register_buffer("draws", torch.tensor([int(seed), 0], device=device))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all proxies anew, uniformly from the unit sphere."""
        generator = check_generator(generator)
        device = self.weight.device if generator is None else generator.device
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        self.weight.copy_(unit(torch.randn(self.weight.shape, dtype=dtype, device=device, generator=generator)))

    def references(self) -> References:
        """All proxies, labelled by their classes; their ids are -1, so no anchor is one of them. Gradients reach `weight`."""
        labels = self._repeated(torch.arange(self.num_classes, device=self.weight.device))
        return References(self.weight, labels, self._ids(len(labels)))

    def sampled(self, labels: Tensor) -> References:
        """The proxies that a batch with `labels` `[n]` is compared with: all, or in training those of its classes and of drawn ones.

        Gradients reach these rows of `weight`.
        """
        if self.sample is None or not self.training or tracing(self.weight, labels):
            return self.references()
        with torch.no_grad():
            present = labels[labels >= 0].unique()
            rest = self.num_classes - len(present)
            num = min(rest, max(self.sample - len(present), 1 if self.correction else 0))
            classes = torch.cat([present, others(subset(rest, num, self._bits), present)])
            if not self.correction:
                classes = classes.sort().values
            rows = classes if self.per_class == 1 else (self._repeated(classes) * self.per_class + self._within(len(classes)))
        embeddings: Tensor = _Rows.apply(self.weight, rows, self.sparse)  # type: ignore[no-untyped-call]
        certain = len(present) * self.per_class if self.correction else None
        return SampledReferences(embeddings, self._repeated(classes), self._ids(len(rows)), certain, rest / num if num else 1.0)

    def _repeated(self, classes: Tensor) -> Tensor:
        return classes if self.per_class == 1 else classes.repeat_interleave(self.per_class)

    def _within(self, num_classes: int) -> Tensor:
        return torch.arange(self.per_class, device=self.weight.device).repeat(num_classes)

    def _ids(self, num: int) -> Tensor:
        return torch.full((1,), -1, device=self.weight.device).expand(num)

    def _bits(self, num: int) -> Tensor:
        """`[num]` random numbers in [0, 2^63)."""
        count = self.draws[1] + torch.arange(1, num + 1, device=self.draws.device)
        self.draws[1] += num
        return split_mix(self.draws[0] + count * -0x61C8864680B583EB) & 0x7FFFFFFFFFFFFFFF

    def check_labels(self, labels: Any) -> Tensor:
        """Return `labels` `[n]` as int64 on the device of the proxies; negative ones (ignored) may be among them.

        Raises:
            TypeError: if they are not integers.
            ValueError: if there is a label of `num_classes` or more. Labels on an accelerator are looked at only if
                `metriczoo.settings.check_values` says so.
        """
        checked = as_labels(labels)
        if checked.numel() and checking(checked) and int(checked.amax()) >= self.num_classes:
            raise ValueError(f"Expected `labels` to be less than {self.num_classes} (`num_classes`), but got {int(checked.amax())}.")
        return checked.to(self.weight.device)

    def extra_repr(self) -> str:
        """Classes, dimension, proxies per class, and how many classes are sampled."""
        sampling = "" if self.sample is None else f", sample={self.sample}, correction={self.correction}, sparse={self.sparse}"
        return f"{self.num_classes}, {self.embedding_dim}, per_class={self.per_class}{sampling}"


def _size(sample: Any, num_classes: int) -> int:
    """How many classes `sample` says."""
    if isinstance(sample, float):
        return max(1, round(check_number("sample", sample, low=0, high=1, open_low=True) * num_classes))
    return min(check_count("sample", sample), num_classes)


class _Rows(torch.autograd.Function):
    """Rows of a matrix, all different; the gradient has them only."""

    @staticmethod
    def forward(weight: Tensor, rows: Tensor, sparse: bool) -> Tensor:
        return weight[rows]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        weight, rows, ctx.sparse = inputs
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        if not ctx.sparse:
            return grad.new_zeros(ctx.shape).index_copy(0, rows, grad), None, None
        return torch.sparse_coo_tensor(rows.unsqueeze(0), grad, ctx.shape, check_invariants=False), None, None
