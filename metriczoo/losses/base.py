"""`Loss`: the base of all losses. Its one hook is `per_anchor`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from metriczoo._checks import Bounds, as_ids, as_labels, check_choice, check_count, check_embeddings, check_finite, check_flag, describe
from metriczoo._coupled import pool_of, statistic_of
from metriczoo._execution import checking, full_precision, memory, reads_are_free, tracing
from metriczoo._stream import THIN, prepared
from metriczoo.columns import Columns, Points, Relation, any_ignored, columns_of
from metriczoo.engine import Problem, evaluate
from metriczoo.losses._symbols import hint
from metriczoo.losses.tags import Tags
from metriczoo.miners.base import Miner
from metriczoo.reduction import REDUCTIONS
from metriczoo.references import SampledReferences, as_references
from metriczoo.scores import Scores, Terms
from metriczoo.similarity import Cosine, Similarity
from metriczoo.stores import Proxies

__all__ = ["Call", "FunctionLoss", "Loss", "from_function"]

_EXECUTIONS = ("auto", "dense", "tiled")


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a loss, before it is evaluated: what `Loss.facts` may know of it."""

    anchors: Tensor  # [N, d], as given
    labels: Tensor  # [N]
    references: Any  # as given, or the proxies of the loss
    columns: Columns  # which references are positives and negatives, and their labels
    prepared: Tensor  # [N, d'], anchors as the similarity scores them
    points: Tensor  # [n, d'] references likewise, or [n, d] as they are where they are prepared in chunks
    similarity: Similarity

    @property
    def compared(self) -> Tensor:
        """`[n, d']`: references as the similarity scores them."""
        return self.rows(slice(None))

    def rows(self, at: slice | Tensor) -> Tensor:
        """`[..., d']`: some of them. Others are not prepared for it."""
        points = self.points[at]
        return prepared(self.similarity, points, self.prepared.dtype) if self.columns.streamed else points


class Loss(nn.Module):
    """A metric-learning loss: a function of the scores of an anchor to references of other classes, `s_n`, and of its own, `s_p`.

    A new loss is a subclass with one method, `per_anchor(s_n, s_p)`, that returns one number per anchor, `[b]`, or `Terms` where it
    averages over pairs or triplets, or a tuple of `Terms` that are averaged apart. It knows its rows only: miners, similarities,
    references, reductions and execution are the same for all losses.

    A loss that needs more than scores, such as norms, labels or a running statistic, has a second method: what `facts(call)` returns for a
    call, `per_anchor` finds in `s_p.facts`, however the batch is cut, and `s_p.of_anchors` and `s_p.of_references` give those of its cells.

    A loss that compares with a statistic of the whole batch, such as a mean over all pairs, couples anchors: it says `separable = False`.
    If it has a method `statistic(s_n, s_p)`, the statistic of some anchors, `per_anchor` gets that of all, added up, from
    `self.pooled(s_n, s_p)`, and it runs in blocks as any other. Without one it sees all anchors in one block.

    Args:
        similarity: how two points are scored. Default: that of the loss.
        miner: which pairs are kept. Default: all.
        reduction: `"mean"` (over the anchors that have what the loss needs, or over pairs or triplets), `"mean_active"` (over those whose
            loss is not 0), `"mean_pairs"` (over pairs), `"sum"` or `"none"` (`[n]`, the sum of each anchor).
        relation: `relation(anchor_labels, reference_labels)` -> `[b, n]` bool, which pairs are positive, or a pair of such masks,
            positives and negatives. Labels may then be `[n, ...]`. Default: equality of labels.
        proxies: a `Proxies` store to compare with where a call names no references.
        num_classes: with `embedding_dim`, makes `proxies` for so many classes.
        embedding_dim: dimension of the proxies.
        memory_budget: bytes that a block of scores may take in tiled execution. Default: `metriczoo.settings.memory_budget`.
        execution: `"auto"` (tiled where the loss allows it), `"dense"` or `"tiled"`.
        compile: whether `torch.compile` compiles what becomes of the scores of a tile: with maps and folds in one pass, the matrix products
            remain. It needs a C++ compiler on a host without an accelerator, and takes seconds when a loss is first called, or called
            with other sizes, the first times; a hyper-parameter that changes all the time is to be a tensor. References that are streamed,
            and second derivatives, are not compiled; a program that is compiled as a whole, or transformed, does not need it.
    """

    similarity: Similarity
    miner: Miner | None
    proxies: Proxies | None

    needs_cells = False  # whether it was seen to look at cells of scores, so that streaming references is not tried again
    needs_tiles = False  # whether it was seen to take more of its negatives than `_halves` has, so that they are not tried again
    compares_positives: bool = False  # whether `per_anchor` looks at the similarities of positives to negatives
    separable: bool = True  # whether the loss is a sum over anchors; if not, the sets of ignored anchors are empty
    needs_positives: ClassVar[bool] = True  # whether an anchor without positives is left out of the mean, with loss 0
    needs_negatives: ClassVar[bool] = True
    bounds: ClassVar[Mapping[str, Bounds]] = {}  # of the hyper-parameters

    def __init__(
        self,
        *,
        similarity: Similarity | None = None,
        miner: Miner | None = None,
        reduction: str = "mean",
        relation: Relation | None = None,
        proxies: Proxies | None = None,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        memory_budget: int | None = None,
        execution: str = "auto",
        compile: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise _unexpected(type(self), unknown)
        self.similarity = _instance("similarity", similarity, Similarity) if similarity is not None else self.default_similarity()
        self.miner = _instance("miner", miner, Miner) if miner is not None else None
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        if relation is not None and not callable(relation):
            raise TypeError(f"Expected `relation` to be callable on two label blocks, but got {describe(relation)}.")
        self.relation = relation
        self.proxies = _proxies(proxies, num_classes, embedding_dim)
        self.memory_budget = None if memory_budget is None else check_count("memory_budget", memory_budget)
        self.execution = check_choice("execution", execution, _EXECUTIONS)
        if execution == "tiled" and not self.tileable:
            raise ValueError(
                f"Expected `execution` of {type(self).__name__} to be 'auto' or 'dense', since it couples anchors, but got 'tiled'."
            )
        self.compiled = check_flag("compile", compile)
        if compile and (execution == "dense" or not self.separable):
            why = "it couples anchors" if not self.separable else "its `execution` is 'dense'"
            raise ValueError(f"Expected `compile` of {type(self).__name__} to be False, since {why} and no tile is cut, but got True.")

    def default_similarity(self) -> Similarity:
        """The similarity of the paper."""
        return Cosine()

    def _set(self, **values: Any) -> None:
        """Check hyper-parameters against `bounds` and keep them."""
        for name, value in values.items():
            setattr(self, name, self.bounds[name].check(name, value))

    @property
    def tags(self) -> Tags:
        """What the loss promises of its value and gradient; `metriczoo.testing.check_loss` holds it to that."""
        return Tags()

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Tensor | Terms | tuple[Terms, ...]:
        """The loss of each anchor of a block, from its scores to negatives and to positives."""
        raise NotImplementedError(f"{type(self).__name__} must define `per_anchor(s_n, s_p)`.")

    def facts(self, call: Call) -> tuple[Any, ...]:
        """What `per_anchor` finds in `s_p.facts`: tensors, which may have a gradient, or anything else, made once per call.

        They stay what they are whatever becomes of the loss before backward, so a buffer that may be written is to be cloned.
        """
        return ()

    def statistic(self, s_n: Scores, s_p: Scores) -> Tensor:
        """What `per_anchor` needs of other anchors, of those of a block: `[m, ...]`, a row for each, or fewer, which `pool` adds up.

        Joined, the rows must say the same however anchors are cut into blocks. Several blocks take three passes over their scores.
        """
        raise NotImplementedError(f"{type(self).__name__} couples anchors by no `statistic(s_n, s_p)`.")

    def pool(self, rows: Tensor) -> Tensor:
        """What becomes of the rows of `statistic` of all anchors, `[m, ...]`. Default: their sum, `[...]`.

        Made without gradient, it is a constant that is pooled once per call, so that a running statistic can be updated here.
        """
        return rows.sum(0)

    def pooled(self, s_n: Scores, s_p: Scores) -> Tensor:
        """What `pool` made of the `statistic` of all anchors of the call, for `per_anchor`; of scores that no call has made, of these."""
        if self.separable:
            raise TypeError(f"Expected {type(self).__name__} to say `separable = False`, since what it pools couples anchors.")
        known = None if s_p.block is None else s_p.block.pooled
        return pool_of(self, statistic_of(self, s_n, s_p)) if known is None else known

    @property
    def tileable(self) -> bool:
        """Whether anchors can be cut into blocks: they are not coupled, or by a `statistic` alone."""
        return self.separable or type(self).statistic is not Loss.statistic

    def forward(self, embeddings: Tensor, labels: Any, references: Any = None, *, ids: Any = None) -> Tensor:
        """The loss of a batch. Not to be overridden: the hook is `per_anchor`.

        Args:
            embeddings: `[n, d]` floating point: the anchors.
            labels: `[n]` integers (tensor, array or sequence). A label < 0 is ignored: neither positive nor negative.
            references: what the anchors are compared with. `None`: the loss's proxies if it has any, else the batch itself. Otherwise a
                store, `(embeddings, labels)`, a `References`, or a list of these, where `None` stands for the batch.
            ids: `[n]` integers: a pair of equal ids is the same point and left out; an id < 0 equals no other. Default: fresh ones.

        Returns:
            A scalar, or `[n]` with reduction `"none"`; at least float32.

        Raises:
            TypeError: of wrong types and dtypes.
            ValueError: of wrong shapes, lengths, devices, and of NaN or infinite embeddings.
        """
        check_embeddings("embeddings", embeddings)
        with full_precision(embeddings):
            anchors = _full(embeddings)
            if checking(anchors):
                check_finite("embeddings", anchors)
            labels = as_labels(labels, length=len(anchors), device=anchors.device, flat=self.relation is None)
            ids = None if ids is None else as_ids(ids, length=len(anchors), device=anchors.device)
            order = None if references is not None or ids is not None else self._order(labels)
            if order is not None:
                anchors, labels = anchors[order], labels[order]
            columns, prepared, compared = self._meet(anchors, labels, references, ids)
            among = prepared if compared is None else compared
            facts: tuple[Any, ...] = ()
            if type(self).facts is not Loss.facts:
                given = self.proxies if references is None else references
                facts = self.facts(Call(anchors, labels, given, columns, prepared, among, self.similarity))
            seed = None if self.miner is None else self.miner.draw_seed(anchors.device)
            problem = Problem(self, columns, anchors.shape[1], seed, self.memory_budget, facts)
            columns.grouped = order is not None
            value = evaluate(problem, prepared, compared, self._learnable)
            return value if order is None or self.reduction != "none" else value[order.argsort()]

    def _order(self, labels: Tensor) -> Tensor | None:
        """The order of the classes, in which a block holds the scores of its positives to its negatives; None where it does not help."""
        if not self.compares_positives or not self.separable or self.execution == "dense" or self.compiled:
            return None
        if self.proxies is not None or self.relation is not None or self.miner is not None or not reads_are_free(labels):
            return None
        return None if any_ignored(labels) else labels.argsort(stable=True)

    def _meet(self, anchors: Tensor, labels: Tensor, references: Any, ids: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        """Columns, prepared anchors, and prepared references (None: the anchors)."""
        references = self.proxies if references is None else references
        for entry in references if isinstance(references, list) else [references]:
            if isinstance(entry, Proxies):
                entry.check_labels(labels)
                if entry.sample is not None and entry.correction and isinstance(references, list) and len(references) > 1:
                    raise ValueError("Expected `Proxies` with `correction=True` to be the only references, but got a list of several.")
        prepared = self.similarity.prepare(anchors)
        if references is None:
            own = torch.arange(len(anchors), device=anchors.device) if ids is None else ids
            points = Points(labels, own, fresh=ids is None)
            return self._columns(points, points, prepared, None)
        parts, own_ids = as_references(references, anchors, labels, ids)
        if self.relation is None and any(part.labels.dim() != 1 for part in parts):
            raise ValueError(
                "Expected `references` with labels of shape [n], since the loss has no `relation`, but got labels of more dimensions."
            )
        shapes = {part.labels.shape[1:] for part in parts}
        if len(shapes) > 1:
            got = " and ".join(str(["n", *shape]) for shape in sorted(shapes))
            raise ValueError(f"Expected labels of one shape in the list `references`, but got {got}.")
        streamed = len(parts) == 1 and self._streams(len(parts[0]), anchors)
        prepared_parts = [part.embeddings if streamed else self.similarity.prepare(_full(part.embeddings)) for part in parts]
        names = parts[0].labels if len(parts) == 1 else torch.cat([part.labels for part in parts])
        points = Points(names, None if own_ids is None else torch.cat([part.ids for part in parts]))
        compared = prepared_parts[0] if len(prepared_parts) == 1 else torch.cat(prepared_parts)
        compared = compared if streamed else compared.to(prepared.dtype)
        columns, prepared, kept = self._columns(Points(labels, own_ids), points, prepared, compared)
        if streamed and kept is not None:
            columns.streamed = len(kept) > 0
            kept = kept if columns.streamed else self.similarity.prepare(_full(kept)).to(prepared.dtype)  # all are ignored
        if isinstance(parts[0], SampledReferences) and parts[0].certain is not None:
            columns.strata = parts[0].certain, parts[0].weight
        return columns, prepared, kept

    def _streams(self, num_references: int, anchors: Tensor) -> bool:
        """Whether references are so many that blocks of anchors would be thin, so that they are read, and prepared, in chunks."""
        if not self.separable or self.execution == "dense" or self.relation is not None or self.miner is not None or self.needs_cells:
            return False
        if not len(anchors) or tracing(anchors) or not reads_are_free(anchors):
            return False
        cells = memory(self.memory_budget, anchors.device) // anchors.element_size()
        return num_references * min(len(anchors), THIN) > cells

    def _columns(self, anchors: Points, points: Points, prepared: Tensor, compared: Tensor | None) -> tuple[Columns, Tensor, Tensor | None]:
        """Without the ignored references, where their labels can be read; elsewhere masks leave them out."""
        labels, positions = points.labels, None
        if labels.dim() == 1 and reads_are_free(labels) and any_ignored(labels):
            kept = (labels >= 0).nonzero().squeeze(1)
            points = Points(labels[kept], None if points.ids is None else points.ids[kept])
            compared, positions = (prepared if compared is None else compared)[kept], pad(kept, (0, 1))
        columns = columns_of(anchors, points, self.relation)
        columns.positions = positions
        return columns, prepared, compared

    def _learnable(self) -> list[Tensor]:
        """Every tensor that `per_anchor`, the miner or the similarity may hold and that requires a gradient."""
        proxies = set() if self.proxies is None else {id(p) for p in self.proxies.parameters()}
        held = [t for module in self.modules() for t in (*module._parameters.values(), *vars(module).values()) if isinstance(t, Tensor)]
        return [t for t in dict.fromkeys(held) if t.requires_grad and id(t) not in proxies]


class FunctionLoss(Loss):
    """A loss whose `per_anchor` is a function. Made by `from_function`."""

    def __init__(self, function: Callable[[Scores, Scores], Any], parameters: Sequence[Tensor] = (), **options: Any) -> None:
        super().__init__(**options)
        self.function = function
        self.learnable = nn.ParameterList([p for p in parameters if isinstance(p, nn.Parameter)])
        self._others = [p for p in parameters if not isinstance(p, nn.Parameter)]

    def per_anchor(self, s_n: Scores, s_p: Scores) -> Any:
        """The function."""
        return self.function(s_n, s_p)

    def _learnable(self) -> list[Tensor]:
        return [*super()._learnable(), *(t for t in self._others if t.requires_grad)]


def from_function(function: Callable[[Scores, Scores], Any], *, parameters: Sequence[Tensor] = (), **options: Any) -> Loss:
    """A loss from a function `f(s_n, s_p)` that returns one number per anchor.

    Args:
        function: takes two `Scores` and returns `[b]`, `Terms`, or a tuple of `Terms`.
        parameters: tensors that `function` uses and that require a gradient.
        options: as of `Loss`.

    Raises:
        TypeError: if `function` is not callable.

    Example:
        >>> import torch
        >>> from metriczoo import losses
        >>> hard_triplet = losses.from_function(lambda s_n, s_p: (s_n.max() - s_p.min() + 0.2).relu())
        >>> hard_triplet(torch.eye(4), [0, 0, 1, 1])
        tensor(0.2000)
    """
    if not callable(function):
        raise TypeError(f"Expected `function` to be callable on (s_n, s_p), but got {describe(function)}.")
    return FunctionLoss(function, parameters, **options)


def _full(x: Tensor) -> Tensor:
    """At least float32: half precision cannot tell cosines near 1 apart."""
    return x if x.dtype.itemsize >= 4 else x.float()


def _instance(argument: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        hint = f" Did you mean `{value.__name__}()`?" if isinstance(value, type) and issubclass(value, kind) else ""
        raise TypeError(f"Expected `{argument}` to be a {kind.__name__}, but got {describe(value)}.{hint}")
    return value


def _proxies(proxies: Proxies | None, num_classes: int | None, embedding_dim: int | None) -> Proxies | None:
    if proxies is not None:
        if num_classes is not None or embedding_dim is not None:
            raise ValueError("Expected either `proxies` or `num_classes` and `embedding_dim`, but got both.")
        return _instance("proxies", proxies, Proxies)  # type: ignore[no-any-return]
    if (num_classes is None) != (embedding_dim is None):
        raise ValueError(f"Expected `num_classes` and `embedding_dim` together, but got {num_classes=} and {embedding_dim=}.")
    return None if num_classes is None or embedding_dim is None else Proxies(num_classes, embedding_dim)


def _unexpected(kind: type, unknown: Mapping[str, Any]) -> TypeError:
    known = {name for c in kind.__mro__ if issubclass(c, Loss) for name in inspect.signature(c.__init__).parameters}
    known -= {"self", "options", "unknown"}
    name = next(iter(unknown))
    return TypeError(f"Expected arguments of {kind.__name__} among {sorted(known)}, but got {name!r}.{hint(kind, name, known)}")
