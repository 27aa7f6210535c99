"""How a loss is told that cannot be streamed."""

__all__ = ["NeedsCells"]


class NeedsCells(Exception):
    """A loss or a miner looks at the cells of streamed scores, which are never there all at once."""
