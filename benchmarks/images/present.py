"""A data set without the images that its index lists, but that are not there."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

from benchmarks.report.words import counted
from metriczoo.data import DATASETS, LabelledData, load

__all__ = ["load_present"]


def load_present(name: str, root: str | None, split: str, **options: Any) -> LabelledData:
    """A split of the data set called `name`; a full index beside a part of the images will do.

    Args:
        name: of the data set.
        root: where it is.
        split: of it.
        options: further arguments of its class.

    Raises:
        OSError: files are missing.
        ValueError: the data set is malformed, or has nothing for the split; listed images without a file are counted.
    """
    if "missing" not in inspect.signature(DATASETS[name]).parameters:
        return load(name, root, split, **options)
    try:
        return load(name, root, split, missing="skip", **options)
    except ValueError as error:
        absent = 0
        with contextlib.suppress(ValueError):
            absent = sum(not path.is_file() for path in getattr(load(name, root, "all", missing="keep", **options), "paths", []))
        if not absent:
            raise
        lost = counted(absent, "listed image has", "listed images have")
        raise ValueError(f"{error} {lost} no file: `python -m benchmarks.data check` names them.") from error
