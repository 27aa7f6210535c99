"""`Miner`: which pairs of a block a loss sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metriczoo._checks import suggest_keywords
from metriczoo.scores import Scores, as_scores

__all__ = ["Miner"]


@suggest_keywords
class Miner(nn.Module):
    """A map of sets of scores to smaller ones, `(s_n, s_p) -> (s_n, s_p)`, that any loss can stand behind.

    An author writes `select`. What it returns has as many rows as it got, or a fixed number of rows per anchor, one per group: a miner
    that picks a negative for each pair (anchor, positive) returns a row for each of these. The choice has no gradient; the scores that
    are kept have.

    Args:
        generator: source of the randomness of a miner that draws. Default: the global one of PyTorch.
    """

    draws = False  # whether the choice is random

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        suggest_keywords(cls)

    def __init__(self, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"Expected `generator` to be a torch.Generator, but got {type(generator).__name__}.")
        self.generator = generator

    def select(self, s_n: Scores, s_p: Scores) -> tuple[Scores, Scores]:
        """The scores that are kept."""
        raise NotImplementedError(f"{type(self).__name__} must define `select(s_n, s_p)`.")

    def forward(self, s_n: Tensor | Scores, s_p: Tensor | Scores) -> tuple[Scores, Scores]:
        """`select`, on `Scores` or on plain tensors `[b, n]` and `[b, p]`."""
        return self.select(as_scores(s_n), as_scores(s_p))

    def draw_seed(self, device: torch.device) -> Tensor | None:
        """The seed of one call of a loss, `[]` int64: every block of it draws from the same."""
        if not self.draws:
            return None
        where = device if self.generator is None else self.generator.device
        return torch.randint(2**62, (), generator=self.generator, device=where).to(device)

    def seed_of(self, scores: Scores) -> Tensor:
        """The seed of the call of a loss that made `scores`; a fresh one for scores that come from elsewhere."""
        seed = None if scores.block is None else scores.block.seed
        if seed is None:
            seed = self.draw_seed(scores.value.device)
        assert seed is not None
        return seed

    def get_extra_state(self) -> Any:
        """The state of the generator, so that a resumed run draws the same."""
        return None if self.generator is None else self.generator.get_state()

    def set_extra_state(self, state: Any) -> None:
        """Restore the state of the generator."""
        if state is not None and self.generator is not None:
            self.generator.set_state(state)
