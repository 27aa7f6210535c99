"""A loss of one's own under the conformance kit, with nothing but public names: the example of the documentation, at work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metriczoo.losses import Loss, from_function
from metriczoo.testing import Tags, check_loss, parametrize_with_checks


def hard_triplet(s_n, s_p):
    return (s_n.max() - s_p.min() + 0.2).relu()


class LogRatioLoss(Loss):
    """How much nearer the negatives are than the positives, on a log scale.

    Args:
        temperature: t > 0.
        options: as of `Loss`.
    """

    tags = Tags(shift=True, saturates=False, bound=10.0, needs_positives=True, needs_negatives=True)

    def __init__(self, temperature: float = 0.1, **options) -> None:
        super().__init__(**options)
        self.temperature = temperature

    def per_anchor(self, s_n, s_p):
        push, pull = (s.map(lambda v: v / self.temperature) for s in (s_n, s_p))
        return nn.functional.softplus(push.logsumexp() - pull.min())


@parametrize_with_checks([hard_triplet, from_function(lambda s_n, s_p: nn.functional.softplus(s_n.mean() - s_p.mean())), LogRatioLoss()])
def test_conformance(loss, check):
    check(loss)


def test_against_a_specification():
    check_loss(
        hard_triplet,
        spec=lambda s_n, s_p: max(0.0, max(s_n) - min(s_p) + 0.2),
        tags=Tags(shift=True, saturates=True, bound=1.0, needs_positives=True, needs_negatives=True),
    )


class PullTogether(nn.Module):
    """A loss with an interface of its own."""

    def forward(self, embeddings, labels):
        square = (embeddings.unsqueeze(1) - embeddings).square().sum(2)
        same = (labels.unsqueeze(1) == labels).triu(1)
        return (torch.log1p(square) * same).sum() / same.sum().clamp(min=1)


def test_a_module_that_knows_nothing_of_metriczoo():
    check_loss(PullTogether(), tags=Tags(needs_positives=True, needs_negatives=False))


def test_what_a_report_looks_like():
    def forgets_the_mask(s_n, s_p):
        return (s_n.value.amax(1) - s_p.min() + 0.2).relu()

    with pytest.raises(AssertionError, match=r"forgets_the_mask fails \d+ of \d+ checks") as error:
        check_loss(forgets_the_mask)
    assert "check_masked_is_absent: " in str(error.value)
