"""Looking a data set over: which parts are there, how many images each split has, and which of them are broken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.catalogue import CATALOGUE, Entry, Part
from benchmarks.images.readable import broken_rows
from benchmarks.report.words import counted
from metriczoo.data import DATASETS, LabelledData, load

__all__ = ["Findings", "SplitCount", "broken_images", "check"]


@dataclass(frozen=True)
class SplitCount:
    """One split of a data set, beside the official numbers if there are any."""

    split: str
    images: int  # that are listed
    classes: int
    absent: int  # listed images without a file
    official: tuple[int, int] | None  # images and classes
    singles: int  # classes of one image, which no other can be found for


@dataclass
class Findings:
    """What was found."""

    folder: Path | None = None
    layout: str = ""
    parts: list[tuple[Part, str | None]] = field(default_factory=list)  # with the name that is there
    splits: list[SplitCount] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether there is all that the data set officially has."""
        known = [split for split in self.splits if split.official is not None]
        return bool(known) and not self.absent and all((split.images, split.classes) == split.official for split in known)


def check(name: str, root: str | None, options: Mapping[str, Any]) -> Findings:
    """Look over the data set called `name` in `root`, without reading any image.

    Args:
        name: of the data set.
        root: where it is.
        options: further arguments of its class.
    """
    findings, entry = Findings(), CATALOGUE[name]
    if root is not None and entry.layouts:
        findings.folder, findings.layout, findings.parts = _layout(entry, Path(root).expanduser())
    takes_missing = "missing" in inspect.signature(DATASETS[name]).parameters
    official = {} if options.get("train_classes") is not None or options.get("evaluation") else entry.counts
    splits = ["train", "test", "all"] if "query" not in entry.counts else ["train", "query", "gallery", "test", "all"]
    for split in splits:
        try:
            dataset = load(name, root, split, **{"missing": "keep"} if takes_missing else {}, **options)
        except (OSError, ValueError) as error:
            findings.problems += [f"{split}: {error}"] if str(error) not in " ".join(findings.problems) else []
            continue
        paths = getattr(dataset, "paths", [])
        absent = [path for path in paths if not path.is_file()]
        if split == "all":
            findings.absent = absent
            findings.problems += ["the files of the images are not known: their list is missing"] if takes_missing and not paths else []
        findings.splits.append(_count(split, dataset, len(absent), official.get(split)))
    findings.problems += [
        f"{split.split}: {counted(split.images, 'image')} of {counted(split.classes, 'class', 'classes')}, more than the official "
        f"{split.official[0]:,} of {split.official[1]:,}"
        for split in findings.splits
        if split.official is not None and (split.images > split.official[0] or split.classes > split.official[1])
    ]
    if findings.absent:
        findings.problems.append(f"{counted(len(findings.absent), 'listed image')} not there")
    return findings


def _layout(entry: Entry, root: Path) -> tuple[Path | None, str, list[tuple[Part, str | None]]]:
    """The folder and the layout that has most of its needed parts, the first of several such."""
    layout, parts = next(iter(entry.layouts.items()))
    best: tuple[Path | None, str, list[tuple[Part, str | None]]] = None, layout, [(part, None) for part in parts]
    most = 0.0
    for depth in range(3):
        folders = [path for path in sorted(root.glob("/".join("*" * depth))) if path.is_dir()] if depth else [root]
        for folder in folders:
            for layout, parts in entry.layouts.items():
                found = [(part, part.found(folder)) for part in parts]
                needed = [name is not None for part, name in found if not part.optional_for]
                if sum(needed) / len(needed) > most:
                    most, best = sum(needed) / len(needed), (folder, layout, found)
        if most == 1 or (most and depth):  # deeper there may be 100,000 images
            break
    return best


def _count(split: str, dataset: LabelledData, absent: int, official: tuple[int, int] | None) -> SplitCount:
    return SplitCount(split, len(dataset), dataset.num_classes, absent, official, int((np.bincount(dataset.labels) == 1).sum()))


def broken_images(name: str, root: str | None, options: Mapping[str, Any], workers: int, on_batch: Callable[[int, int], None]) -> list[str]:
    """Decode every image that is there.

    Args:
        name: of the data set.
        root: where it is.
        options: further arguments of its class.
        workers: processes that decode; none for 0.
        on_batch: is called with the number of images decoded and of all.

    Returns:
        What is wrong, one line for each broken image.
    """
    takes_missing = "missing" in inspect.signature(DATASETS[name]).parameters
    dataset = load(name, root, "all", **{"missing": "skip"} if takes_missing else {}, **options)
    return [complaint for _, complaint in broken_rows(dataset, workers, lambda done: on_batch(done, len(dataset)))]
