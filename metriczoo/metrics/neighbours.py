"""Classification by the votes of the nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor

from metriczoo._checks import check_choice, check_count, check_flag, check_number, describe
from metriczoo.metrics._blocks import Scores, largest_, same_ids
from metriczoo.metrics._inputs import Embeddings, Gallery, Integers, Scoring, as_queries, as_similarity, budget_of
from metriczoo.metrics._nearest import Nearest
from metriczoo.metrics._pairs import Pairs
from metriczoo.similarity import Similarity

__all__ = ["knn_classify"]

_CELL_BYTES = 12  # what voting holds per score, at least
_CANDIDATE_BYTES = 16  # what a candidate for a vote takes
_FEW = 1000  # candidates are few where there are so many times more references: to search for them in tiles is then quicker


@overload
def knn_classify(
    queries: Embeddings,
    references: Gallery,
    reference_labels: Integers | None = ...,
    *,
    k: int = ...,
    temperature: float = ...,
    num_classes: int | None = ...,
    weights: str = ...,
    similarity: str | Scoring = ...,
    query_ids: Integers | None = ...,
    reference_ids: Integers | None = ...,
    return_scores: Literal[False] = ...,
    memory_budget: int | None = ...,
) -> Tensor: ...
@overload
def knn_classify(
    queries: Embeddings,
    references: Gallery,
    reference_labels: Integers | None = ...,
    *,
    k: int = ...,
    temperature: float = ...,
    num_classes: int | None = ...,
    weights: str = ...,
    similarity: str | Scoring = ...,
    query_ids: Integers | None = ...,
    reference_ids: Integers | None = ...,
    return_scores: Literal[True],
    memory_budget: int | None = ...,
) -> tuple[Tensor, Tensor]: ...
def knn_classify(
    queries: Embeddings,
    references: Gallery,
    reference_labels: Integers | None = None,
    *,
    k: int = 200,
    temperature: float = 0.07,
    num_classes: int | None = None,
    weights: str = "exponential",
    similarity: str | Scoring = "cosine",
    query_ids: Integers | None = None,
    reference_ids: Integers | None = None,
    return_scores: bool = False,
    memory_budget: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Class of each query by a weighted vote of its k nearest references: \(\arg\max_c \sum_{i: y_i = c} \exp(s_i / \tau)\).

    If more references tie with the k-th than there is room for, all of them share the room: the vote is the expectation over their orders,
    and does not depend on the order of the references. Classes that tie go to the smallest label.

    Args:
        queries: `[q, d]`, floating point, finite.
        references: `[n, d]`, or an object that carries labels and ids of its own: a memory bank, a queue, `References`.
        reference_labels: `[n]`, integers; references with a label < 0 do not vote.
        k: neighbours that vote, at least 1; all references vote where there are fewer.
        temperature: \(\tau\), above 0.
        num_classes: width of the scores; above every label. Default: the largest label plus one.
        weights: "exponential" as above, or "uniform": each neighbour one vote.
        similarity: as for `retrieval_metrics`.
        query_ids: `[q]`, integers. A reference with the id of the query does not vote, which makes it leave-one-out; an id < 0 equals none.
        reference_ids: `[n]`, integers, with `query_ids`.
        return_scores: whether to return the shares of the votes too.
        memory_budget: bytes that the scores of one chunk may take, as for `retrieval_metrics`.

    Returns:
        Predictions `[q]`, int64, -1 for a query that no reference votes on; with `return_scores` also the share of each class in the votes,
        `[q, num_classes]`.

    Raises:
        TypeError: if embeddings are not floating point, or labels or ids not integers.
        ValueError: if shapes do not match, a set is empty, a value is NaN or infinite, a name is unknown, or a number is out of range.

    Example:
        >>> references = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> knn_classify(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), references, [3, 3, 5, 5], k=3)
        tensor([3, 5])
        >>> knn_classify(torch.tensor([[1.0, 0.0]]), references, [0, 0, 1, 1], k=3, temperature=1.0, return_scores=True)[1]
        tensor([[0.7307, 0.2693]])

    Relations:
        `recall_at_k` with k = 1 is the accuracy of this with k = 1 and leave-one-out, if no scores tie.

    References:
        Zhirong Wu, Yuanjun Xiong, Stella X. Yu, Dahua Lin. Unsupervised Feature Learning via Non-Parametric Instance Discrimination. CVPR
        2018.
    """
    k = check_count("k", k)
    temperature = check_number("temperature", temperature, low=0, open_low=True)
    check_choice("weights", weights, ("exponential", "uniform"))
    if references is None:
        raise TypeError("Expected `references` to be points or a store of points, but got None.")
    query, every = as_queries(queries, None, references, reference_labels, query_ids, reference_ids, default_label=0)
    reference = every.labelled()
    if not len(reference):
        raise ValueError("Expected `reference_labels` to hold at least one label that is not negative, but all are ignored.")
    classes, label = reference.labels.unique(return_inverse=True)
    width = int(classes[-1]) + 1 if num_classes is None else check_count("num_classes", num_classes, low=int(classes[-1]) + 1)
    scores = Scores(as_similarity(similarity), query.embeddings, reference.embeddings)
    same = same_ids(query, reference)
    budget = budget_of(memory_budget, label.device)
    predictions = torch.empty(len(query), dtype=torch.int64, device=label.device)
    shares = query.embeddings.new_zeros(len(query), width) if check_flag("return_scores", return_scores) else None
    k, temperature = min(k, len(reference)), temperature if weights == "exponential" else math.inf

    def vote(rows: Tensor, scored: Tensor, columns: Tensor | None = None) -> None:
        """Count the votes on queries `rows` `[b]` of references with scores `[b, m]`: all, or those in `columns` `[b, m]`."""
        row, place, weight = _votes(scored, k, temperature)
        column = place if columns is None else columns[row, place]
        votes = torch.zeros(len(rows), len(classes), dtype=torch.float64, device=label.device)
        votes.index_put_((row, label[column]), weight, accumulate=True)
        total = votes.sum(1)
        predictions[rows] = classes[votes.argmax(1)].where(total > 0, -1)
        if shares is not None:
            shares[rows.unsqueeze(1), classes] = (votes / total.where(total > 0, 1.0).unsqueeze(1)).to(shares.dtype)

    left = torch.arange(len(query), device=label.device)
    m = k + 1 + int(same.count.max())
    if isinstance(scores.similarity, Similarity) and scores.similarity.is_product and _FEW * m <= len(reference):
        left = _vote_by_candidates(Pairs(scores), query.ids, reference.ids, k, m, budget, len(classes), vote)
    for rows in left.split(max(1, budget // (len(reference) * _CELL_BYTES))):
        dense = scores(rows)
        dense[same.cells(rows)] = -math.inf
        vote(rows, dense)
    return predictions if shares is None else (predictions, shares)


def _vote_by_candidates(
    pairs: Pairs,
    ids: Tensor,
    reference_ids: Tensor,
    k: int,
    m: int,
    budget: int,
    classes: int,
    vote: Callable[[Tensor, Tensor, Tensor], None],
) -> Tensor:
    """Has the votes counted of queries whose k nearest are certainly among `m` candidates, and gives the other queries `[q']`."""
    slack = pairs.slack(pairs.references.dtype)
    left = []
    for rows in torch.arange(len(ids), device=ids.device).split(max(1, budget // (m * _CANDIDATE_BYTES))):
        nearest = Nearest(pairs.of(rows), m, budget)
        height = max(1, budget // (2 * m * pairs.references[0].nbytes + classes * _CELL_BYTES))
        for some in torch.arange(len(rows), device=rows.device).split(height):
            columns, query = nearest.search(some, m), rows[some]
            scored = pairs.scores(query, columns)
            edge = scored.amin(1) + slack[query, 0]
            own = ids[query].unsqueeze(1)
            scored = scored.masked_fill((reference_ids[columns] == own) & (own >= 0), -math.inf)
            closed = scored.kthvalue(m - k + 1, dim=1).values > edge
            left.append(query[~closed])
            if bool(closed.any()):
                vote(query[closed], scored[closed], columns[closed])
    return torch.cat(left)


def _votes(dense: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and weight of each vote in scores `[b, n]`; weights are relative to that of the nearest reference."""
    values = largest_(dense.clone(), k)
    last, best = values[:, :1], values[:, -1:]
    if not bool((best < math.inf).all()):
        raise ValueError(f"Expected `similarity` to give finite scores, but got NaN or infinity among {describe(dense)}.")
    row, column = ((dense >= last) & (dense > -math.inf)).nonzero(as_tuple=True)
    above = (values > last).sum(1)
    at_last = row.bincount(minlength=len(dense)) - above  # references that share the room left
    room = (k - above).double() / at_last.clamp(min=1)
    score = dense[row, column].double()
    weight = ((score - best[row, 0]) / temperature).exp()
    return row, column, weight * room[row].where(score == last[row, 0], 1.0)
