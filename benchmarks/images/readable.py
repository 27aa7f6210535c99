"""Which images of a data set can be decoded, and the data set without the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import DataLoader, Dataset

from metriczoo.data import LabelledData, LabelledImages

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Readable", "broken_rows"]

_BATCH = 16  # images that a worker decodes before it reports


class Readable(LabelledImages):
    """Some rows of a data set of images. Labels are contiguous again; classes without a row are gone.

    Args:
        dataset: the data set.
        rows: of it, in ascending order.

    Attributes:
        rows: of the data set `[n]`.
    """

    def __init__(self, dataset: LabelledImages, rows: Sequence[int]) -> None:
        super().__init__(
            dataset.class_ids[dataset.labels][list(rows)],
            dict(zip(dataset.class_ids.tolist(), dataset.class_names, strict=True)),
            split="all",
            train_ids=(),
            train_classes=None,
            transform=dataset.transform,
        )
        self.split, self.rows, self._dataset = dataset.split, np.asarray(rows), dataset
        self.paths = [dataset.paths[row] for row in rows] if dataset.paths else []

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, type(self._dataset).__name__, 1)

    def _image(self, index: int) -> Image:
        return self._dataset._image(int(self.rows[index]))


def broken_rows(dataset: LabelledData, workers: int, on_batch: Callable[[int], None] = lambda done: None) -> Iterator[tuple[int, str]]:
    """Read every item of a data set.

    Args:
        dataset: the data set.
        workers: processes that read; none for 0.
        on_batch: is called with the number of items read.

    Yields:
        Each row that cannot be read, and what is wrong with it.
    """
    row = 0
    for complaints in DataLoader(_Complaints(dataset), batch_size=_BATCH, num_workers=workers, collate_fn=list):
        for complaint in complaints:
            if complaint is not None:
                yield row, complaint
            row += 1
        on_batch(row)


class _Complaints(Dataset["str | None"]):
    """What is wrong with each item, if anything."""

    def __init__(self, dataset: LabelledData) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> str | None:
        try:
            item, _ = self.dataset[index]
        except Exception as error:  # whatever a file does to a decoder is what is looked for
            return " ".join((str(error) or type(error).__name__).split())
        size = getattr(item, "size", None)
        return f"image {index} has no pixels within its box" if isinstance(size, tuple) and 0 in size else None
