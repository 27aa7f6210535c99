"""What all runs of a benchmark share: data, protocol, evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.command.versions import versions
from benchmarks.evaluation.metrics import Evaluation, evaluate, ranks_of, recall_at_1
from benchmarks.features.extraction import OnProgress
from benchmarks.images.present import load_present
from benchmarks.images.readable import Readable, broken_rows
from benchmarks.report.words import counted
from benchmarks.retrieval.options import base_of
from benchmarks.retrieval.protocols import PROTOCOLS, Protocol
from benchmarks.training.loop import Recipe
from metriczoo.data import InShop, LabelledData, LabelledImages

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Experiment", "load_half"]


class Experiment:
    """What the options of the command line stand for.

    Args:
        options: of the command line.
        halves: training and test data, of other classes. Default: those that the options name. With some given, nothing else is read.

    Attributes:
        train: the training data; `test` are the test data, of other classes.
        is_query: which of the test data are queries, `[n]`, to be found among the others. None: each is one to all others.
        missing: number of listed images without a file, in either.
        broken: what is wrong with each image that was left out since it cannot be decoded.
        protocol: how the benchmark trains.

    Raises:
        ImportError: the backbone or the data set needs a package that is not installed.
        OSError: data or weights are missing.
        ValueError: the data set is malformed, or options do not fit it.
    """

    def __init__(self, options: argparse.Namespace, halves: tuple[LabelledData, LabelledData] | None = None) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.broken: list[str] = []
        self.missing = 0
        if halves is None:
            self.train, self.missing, broken_train = load_half(options, "train")
            self.test, _, broken_test = load_half(options, "test")
            self.broken = broken_train + broken_test
            self.is_query = _is_query(self.test)
        else:
            (self.train, self.test), self.is_query = halves, None
        self.protocol: Protocol = PROTOCOLS[base_of(options.protocol)](options, self.train, self.test)
        begin, steps = options.memory_from_step, self.recipe.steps
        if begin and halves is None and begin >= steps - 1:
            raise ValueError(f"--memory-from-step {begin} leaves no step to use the memory in: training takes {steps}.")

    @property
    def recipe(self) -> Recipe:
        """How to train."""
        return self.protocol.recipe

    @property
    def of_encoder(self) -> dict[str, Any]:
        """Hyper-parameters of the encoder."""
        return self.protocol.of_encoder

    def prepare(self, on_progress: OnProgress = lambda done, total: None) -> Sequence[str]:
        """Make what the first run needs and takes long, and return what is to be told about it."""
        self.protocol.prepare(on_progress)
        return self.protocol.notes

    def encoder(self, seed: int) -> nn.Module:
        """The encoder that runs of this seed start from."""
        return self.protocol.encoder(seed)

    def embeddings(self, encoder: nn.Module) -> Tensor:
        """Embeddings `[n, d]` of the test data."""
        return self.protocol.embeddings(encoder)

    def raw_features(self) -> tuple[Tensor, dict[str, Any]]:
        """Features `[n, f]` of the test data without an encoder, and what they are."""
        return self.protocol.raw_features()

    def recall_at_1(self, embeddings: Tensor) -> float:
        """Recall@1 of the test data."""
        return recall_at_1(embeddings, self.test.labels, self.is_query)

    def evaluate(self, embeddings: Tensor) -> Evaluation:
        """How good embeddings `[n, d]` of the test data are."""
        return evaluate(
            embeddings, self.test.labels, is_query=self.is_query, ranks=ranks_of(self.options.dataset), class_names=self.test.class_names
        )

    @property
    def test_images(self) -> Callable[[int], Image] | None:
        """The test image of a position, if the data set holds images."""
        test = self.test
        return (lambda position: test[position][0]) if isinstance(test, LabelledImages) else None

    @property
    def query_labels(self) -> NDArray[np.int64]:
        """The class of each query."""
        return self.test.labels if self.is_query is None else self.test.labels[self.is_query]

    @property
    def facts(self) -> dict[str, Any]:
        """What all records have in common."""
        images = {"train_images": len(self.train), "test_images": len(self.test)}
        images |= {"missing_images": self.missing, "broken_images": len(self.broken)}
        classes = {"train_classes": self.train.num_classes, "test_classes": self.test.num_classes}
        return {
            "dataset": self.options.dataset,
            "protocol": self.options.protocol,
            "split_sizes": {**images, **classes},
            "device": self.options.device,
            "threads": torch.get_num_threads(),
        }

    def record(
        self, loss: str, seed: int | None, evaluation: Evaluation, hyper_parameters: dict[str, Any], seconds: float | None = None
    ) -> dict[str, Any]:
        """A record of `results.json`.

        Args:
            loss: name of the loss, or of a baseline.
            seed: None for a baseline that has none.
            evaluation: of the embeddings of the test data.
            hyper_parameters: that led to them.
            seconds: of training.
        """
        return {
            **self.facts,
            "loss": loss,
            "seed": seed,
            "hyper_parameters": hyper_parameters,
            "seconds": seconds,
            **evaluation.values,
            "versions": versions(),
        }


def load_half(options: argparse.Namespace, split: str) -> tuple[LabelledData, int, list[str]]:
    """One half of the data that options name, without the images that cannot be decoded if these are to be skipped.

    Returns:
        The data, how many listed images of the whole data set have no file, and what is wrong with each image that was left out.
    """
    data = load_present(options.dataset, options.root, split, train_classes=options.train_classes, **options.data_options)
    missing = getattr(data, "skipped", 0)
    if options.on_bad_image == "fail" or not isinstance(data, LabelledImages):
        return data, missing, []
    broken = dict(broken_rows(data, options.workers))
    left = Readable(data, [row for row in range(len(data)) if row not in broken]) if broken else data
    return left, missing, [*broken.values()]


def _is_query(test: LabelledData) -> NDArray[np.bool_] | None:
    source = test._dataset if isinstance(test, Readable) else test
    if not isinstance(source, InShop):
        return None
    asked = source.is_query[test.rows] if isinstance(test, Readable) else source.is_query
    if asked.all() or not asked.any():
        raise ValueError(
            f"{type(source).__name__}: Expected queries and a gallery, but got {counted(int(asked.sum()), 'query', 'queries')} of "
            f"{counted(len(asked), 'image')}."
        )
    return asked
