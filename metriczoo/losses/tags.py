"""What a loss promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Tags"]


@dataclass(frozen=True)
class Tags:
    r"""What a loss promises of its value L and of its pair weights, the derivatives of L by the similarities of an anchor.

    Each promise is checked both ways by `metriczoo.testing.check_loss`: what is promised must hold, and where a loss says that it does not
    hold, a counter-example must be found, so that no excuse outlives its reason. `None` says nothing.

    Args:
        signs: no negative is drawn nearer, no positive pushed away: \(\partial L / \partial s_n \ge 0 \ge \partial L / \partial s_p\).
        monotone: L never falls as a negative comes nearer, and never rises as a positive does.
        shift: adding one constant to all similarities of an anchor leaves L as it is.
        bound: `(negatives, positives) -> b`, or one number: the least upper bound of the pull on all positives of an anchor,
            \(\sum \lvert \partial L / \partial s_p \rvert \le b\). `math.inf`: there is none.
        saturates: L and its gradient are exactly 0 where positives are as near and negatives as far as can be.
        self_paced: the gradient is not the derivative of L, since weights that depend on the similarities are constants to it.
        needs_positives: an anchor without positives has loss 0 and gradient 0.
        needs_negatives: an anchor without negatives has loss 0 and gradient 0.
        per_point: each point of the batch has a loss of its own, which reduction "none" returns and which depends on other points of the
            batch only if the loss couples anchors. Not so where points are merged, or are references and anchors at once.
        scale: L stays as it is where all points are multiplied by one number. Default: as the similarity of the loss does.
        translation: L stays as it is where one vector is added to all points. Default: as the similarity of the loss does.

    Example:
        >>> Tags(shift=True, saturates=True)
        Tags(shift=True, saturates=True)
    """

    signs: bool | None = True
    monotone: bool | None = True
    shift: bool | None = None
    bound: Callable[[int, int], float] | float | None = None
    saturates: bool | None = None
    self_paced: bool = False
    needs_positives: bool | None = None
    needs_negatives: bool | None = None
    per_point: bool = True
    scale: bool | None = None
    translation: bool | None = None

    def __repr__(self) -> str:
        told = {name: value for name, value in vars(self).items() if value != type(self).__dataclass_fields__[name].default}
        return f"Tags({', '.join(f'{name}={value}' for name, value in told.items())})"
