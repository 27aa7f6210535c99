"""The conformance kit on every loss of the library."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from metriczoo import similarity
from metriczoo.testing import LOSS_CHECKS, Subject, parametrize_with_checks
from metriczoo.testing.zoo import ZOO

MATRIX = [[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 1.5]]  # positive definite
SIMILARITIES = [
    similarity.Cosine(),
    similarity.InnerProduct(),
    similarity.NegativeEuclidean(),
    similarity.NegativeSquaredEuclidean(),
    similarity.Mahalanobis(3, matrix=torch.tensor(MATRIX, dtype=torch.float64)),
    similarity.SignalToNoise(),
]
BY_NAME = {check.name: check for check in LOSS_CHECKS}
# Others have defaults that depend on the similarity, or look at points.
ANY_SCORES = [s for s in ZOO if s.name in ("UnifiedLoss", "LMNNLoss", "NCALoss", "Triplet-soft", "MultiSimilarityLoss")]


@parametrize_with_checks(ZOO)
def test_conformance(loss, check):
    check(loss)


@pytest.mark.parametrize("kind", SIMILARITIES, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("subject", ANY_SCORES, ids=str)
def test_any_similarity(subject: Subject, kind: similarity.Similarity) -> None:
    loss = copy.deepcopy(subject.loss)
    loss.similarity = kind
    other = replace(subject, loss=loss, similarity=kind, tags=subject.tags, domain=None)
    for name in ("check_batch", "check_relation", "check_gradient", "check_tiles"):
        BY_NAME[name](other)
