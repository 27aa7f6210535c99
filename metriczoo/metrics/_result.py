"""What a metric returns: values by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["MetricResult"]


class MetricResult(dict[str, Any]):
    """Values by name; printing it gives a table, and a note that says what is easily misread.

    Args:
        values: the values by name.
        note: what the table ends with.
        per_query: values of each query by name, `[q]`, if they were asked for.

    Example:
        >>> print(MetricResult({"recall@1": 0.5, "num_queries": 4}, note="recall@k: hit rate"))
        recall@1    0.5000
        num_queries      4
        recall@k: hit rate
    """

    def __init__(self, values: dict[str, Any], *, note: str = "", per_query: dict[str, Tensor] | None = None) -> None:
        super().__init__(values)
        self.note = note
        self.per_query = per_query

    def __str__(self) -> str:
        texts = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in self.items()}
        left, right = (max(map(len, column), default=0) for column in (texts.keys(), texts.values()))
        lines = [f"{name:<{left}} {text:>{right}}" for name, text in texts.items()]
        return "\n".join([*lines, self.note] if self.note else lines)
