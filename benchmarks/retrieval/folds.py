"""Class-disjoint cross-validation within training data: what is held out is of classes that training does not see."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.images.readable import Readable
from benchmarks.retrieval.experiment import Experiment
from metriczoo.data import Features, LabelledData, LabelledImages

__all__ = ["class_folds", "fold_experiments", "rows_of"]


def class_folds(labels: NDArray[np.int64], num_folds: int) -> list[NDArray[np.bool_]]:
    """Which rows each fold holds out, `[n]`: those of a run of consecutive classes, as even as it goes.

    Runs, not draws: where classes of a data set are ordered by kind (models of a make of car, letters of a script), a draw would leave near
    relatives on both sides, as no test does.

    Args:
        labels: 0 to C - 1.
        num_folds: at least 2.

    Raises:
        ValueError: fewer than two classes for a fold.
    """
    num_classes = int(labels.max()) + 1
    if num_classes < 2 * num_folds:
        raise ValueError(f"--folds {num_folds}: expected at least {2 * num_folds} training classes, but there are {num_classes}.")
    fold = np.arange(num_classes) * num_folds // num_classes
    return [fold[labels] == number for number in range(num_folds)]


def fold_experiments(options: argparse.Namespace, train: LabelledData, num_folds: int) -> list[Experiment]:
    """An experiment for each fold, of the training data alone: what it calls its test are the classes that it holds out.

    Args:
        options: of the command line.
        train: the training data.
        num_folds: at least 2.
    """
    masks = class_folds(train.labels, num_folds)
    return [Experiment(options, (rows_of(train, np.flatnonzero(~held)), rows_of(train, np.flatnonzero(held)))) for held in masks]


def rows_of(data: LabelledData, rows: NDArray[np.int64]) -> LabelledData:
    """Some rows of data, in ascending order. Labels are contiguous again."""
    if isinstance(data, Readable):
        return Readable(data._dataset, _as_list(data.rows[rows]))
    if isinstance(data, Features):
        return _FeatureRows(data, rows)
    if isinstance(data, LabelledImages):
        return Readable(data, _as_list(rows))
    raise TypeError(f"Expected images or features, but got {type(data).__name__}.")


def _as_list(rows: NDArray[np.int64]) -> Sequence[int]:
    return rows.tolist()  # type: ignore[no-any-return]


class _FeatureRows(Features):
    """Some rows of `Features`."""

    def __init__(self, data: Features, rows: NDArray[np.int64]) -> None:
        ids = data.class_ids[data.labels][rows]
        names = dict(zip(data.class_ids.tolist(), data.class_names, strict=True))
        super(Features, self).__init__(ids, names, split="all", train_ids=(), train_classes=None, transform=data.transform)
        self.split, self.features = data.split, data.features[rows]
