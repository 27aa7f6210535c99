"""The studies: which runs each is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.command.folder import Folder
from benchmarks.instance_discrimination.banks import measure_bank
from benchmarks.instance_discrimination.bench import Bench
from benchmarks.instance_discrimination.objective import Variant
from benchmarks.instance_discrimination.runs import OnStep, classify, finetune, pretrain, raw, untrained

__all__ = ["STUDIES", "Task", "tasks_of", "variants_of"]

STUDIES = {
    "overview": "full softmax and NCE beside pixels and an untrained encoder, by nearest neighbours, linear classifiers and SVMs",
    "noise": "NCE with more and more noise samples, beside the full softmax",
    "proximal": "training with and without the proximal term",
    "dimension": "the size of the embedding",
    "labels": "fine-tuning on a few labels, beside training on them from scratch",
    "bank": "memory of the bank, and time of a step, by its number of rows",
}


@dataclass(frozen=True)
class Task:
    """A run of a study.

    Attributes:
        name: for the screen.
        run: makes it, unless the folder has it, given what to call after each step.
        steps: that it has.
        key: loss and seed of its record.
        metric: what is shown of it, by its name in the record and in words.
    """

    name: str
    run: Callable[[Folder, OnStep], None]
    key: tuple[str, int | None]
    steps: int = 0
    metric: tuple[str, str] = ("knn", "kNN")


def variants_of(study: str, options: argparse.Namespace) -> list[Variant]:
    """What a study trains, in the order of its table."""
    of = partial(Variant.of, options)
    return {
        "overview": [of(num_noise=None), of()],
        "noise": [of(num_noise=None), *(of(num_noise=m) for m in options.noises)],
        "proximal": [of(proximal=weight) for weight in options.proximals],
        "dimension": [of(embedding_dim=d) for d in options.dimensions],
        "labels": [of()],
        "bank": [],
    }[study]


def tasks_of(bench: Bench) -> list[Task]:
    """The runs of all studies that the options name, each once."""
    found: dict[tuple[str, int | None], Task] = {}
    for study in bench.options.studies:
        for task in _tasks(study, bench):
            found.setdefault(task.key, task)
    return list(found.values())


def _tasks(study: str, bench: Bench) -> list[Task]:
    options, variants = bench.options, variants_of(study, bench.options)
    if study == "bank":
        return [_bank(bench, rows, dtype) for dtype in ("float32", "float16") for rows in options.bank_rows]
    tasks = [Task("pixels", partial(raw, bench), ("raw", None))] if study != "labels" else []
    for seed in range(options.seeds):
        if study != "labels":
            tasks += [_untrained(bench, d, seed) for d in dict.fromkeys(variant.embedding_dim for variant in variants)]
        tasks += [_pretrain(bench, variant, seed) for variant in variants]
        if study == "overview":
            starts: list[tuple[Variant | str, int | None]] = [("raw", None), ("untrained", seed), *((v, seed) for v in variants)]
            tasks += [_classify(bench, start, of) for start, of in starts]
        if study == "labels":
            tasks += [_finetune(bench, start, percent, seed) for percent in options.shares for start in (None, *variants)]
    return tasks


def _untrained(bench: Bench, embedding_dim: int, seed: int) -> Task:
    return Task(f"untrained, seed {seed}", partial(untrained, bench, embedding_dim, seed), (f"untrained-d{embedding_dim}", seed))


def _pretrain(bench: Bench, variant: Variant, seed: int) -> Task:
    run = partial(pretrain, bench, variant, seed)
    return Task(f"{variant.name}, seed {seed}", run, (variant.name, seed), bench.steps, ("knn_bank", "kNN"))


def _classify(bench: Bench, start: Variant | str, seed: int | None) -> Task:
    source = start if isinstance(start, str) else start.name
    name = f"classifiers of {source}{'' if seed is None else f', seed {seed}'}"
    return Task(name, partial(classify, bench, start, seed), (f"classifiers-{source}", seed))


def _finetune(bench: Bench, start: Variant | None, percent: float, seed: int) -> Task:
    source = "scratch" if start is None else start.name
    run = partial(finetune, bench, start, percent, seed)
    name, key = f"{percent:g} % of the labels, from {source}, seed {seed}", (f"labels-{percent:g}-{source}", seed)
    return Task(name, run, key, bench.options.finetune_steps, ("accuracy", "accuracy"))


def _bank(bench: Bench, rows: int, dtype: str) -> Task:
    run = partial(measure_bank, bench, Variant.of(bench.options), rows, dtype)
    return Task(f"bank of {rows:,} rows in {dtype}", run, (f"bank-{rows}-{dtype}", None))
