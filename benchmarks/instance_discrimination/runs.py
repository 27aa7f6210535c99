"""The runs of the studies, each made once: what the folder holds of one, finished or not, is not made again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from benchmarks.command.folder import Folder
from benchmarks.instance_discrimination.bench import Bench
from benchmarks.instance_discrimination.classifiers import classifier_accuracies, knn_accuracy, linear_accuracy
from benchmarks.instance_discrimination.data import Samples, class_balanced
from benchmarks.instance_discrimination.objective import CrossEntropy, InstanceObjective, Variant
from benchmarks.training.backbones import Encoder
from benchmarks.training.loop import Training

__all__ = ["OnStep", "classify", "finetune", "pretrain", "raw", "untrained"]

_PIXELS = 32  # per side, at most, of an image that is its own features
_SAVE_EVERY = 25  # steps, at least, between two states of a run on few images

OnStep = Callable[[int, float, float], None]  # steps done, the last loss, the last accuracy
Parts = tuple[Tensor, Tensor, "Tensor | None"]  # of the images that train, those held out, those of other classes


def raw(bench: Bench, folder: Folder, on_step: OnStep) -> None:
    """Record what the pixels are worth."""
    if not folder.has("raw", None):
        folder.add(bench.record("raw", "features", None, **bench.worth(*_pixels(bench))))


def untrained(bench: Bench, embedding_dim: int, seed: int, folder: Folder, on_step: OnStep) -> None:
    """Record what an encoder is worth that saw no image."""
    name = f"untrained-d{embedding_dim}"
    if not folder.has(name, seed):
        embeddings = _parts(bench, encoder := bench.encoder(embedding_dim, seed), encoder)
        folder.add(bench.record(name, "features", seed, embedding_dim=embedding_dim, **bench.worth(*embeddings)))


def pretrain(bench: Bench, variant: Variant, seed: int, folder: Folder, on_step: OnStep) -> None:
    """Train without labels, and record what came of it."""
    name = f"{variant.name}-seed{seed}"
    state = folder.load(name)
    if state is None or "record" not in state:
        encoder = bench.encoder(variant.embedding_dim, seed)  # it sets the seed of the bank, too
        data, options = bench.data, bench.options
        objective: Any = InstanceObjective(variant, len(data.train), bench.steps)
        recipe = bench.recipe(steps=bench.steps, batch=bench.batch, rate=options.rate)
        recipe = replace(recipe, optimizer=options.optimizer, decay=options.schedule == "cosine")
        training = Training(
            encoder, objective, data.train, data.train.labels, recipe, seed=seed, device=bench.device, workers=options.workers
        )
        accuracies: list[float] = []
        if state is not None:
            training.load_state_dict(state)
            accuracies = list(state["accuracies"])
        elif options.bank_start == "encoder":
            objective.bank.embeddings.copy_(bench.embed(encoder, encoder, data.train))
            objective.bank.filled.fill_(True)
        while not training.done:
            training.train_epoch(lambda loss: on_step(len(training.losses), loss, accuracies[-1] if accuracies else math.nan))
            accuracies.append(_accuracy_from_bank(bench, encoder, objective))
            if not training.done:
                folder.save(name, {**training.state_dict(), "accuracies": accuracies})
        values = {
            "hyper_parameters": {**training.hyper_parameters, "backbone": options.backbone, "bank_start": options.bank_start},
            "seconds": training.seconds,
            "knn_bank": accuracies[-1],
            **bench.worth(*_parts(bench, encoder, encoder)),
            "knn_bank_by_epoch": accuracies,
            **_steadiness(objective.observed.cpu(), len(accuracies)),
        }
        record = bench.record(variant.name, "pretraining", seed, **asdict(variant), **values)
        state = {"encoder": encoder.state_dict(), "record": record}
        folder.save(name, state)
    folder.add(state["record"])


def classify(bench: Bench, start: Variant | str, seed: int | None, folder: Folder, on_step: OnStep) -> None:
    """Record what three classifiers make of the same features.

    Args:
        bench: that the run belongs to.
        start: a variant that was trained, or "raw" or "untrained".
        seed: None for "raw".
        folder: with the encoder.
        on_step: is not called.
    """
    source = start.name if isinstance(start, Variant) else start
    name, options = f"classifiers-{source}", bench.options
    if folder.has(name, seed):
        return
    data, accuracies = bench.data, {}
    if seed is None:
        features = {"pixels": _pixels(bench)}
    else:
        encoder = _encoder(bench, start if isinstance(start, Variant) else None, seed, folder)
        features = {"backbone": _parts(bench, encoder, encoder.features), "embedding": _parts(bench, encoder, encoder)}
    for what, (train, held_out, _) in features.items():
        accuracies[what] = classifier_accuracies(
            train, data.train.labels, held_out, data.held_out.labels, k=options.neighbours, temperature=options.knn_temperature
        )
    folder.add(bench.record(name, "classifiers", seed, start=source, accuracies=accuracies))


def finetune(bench: Bench, start: Variant | None, percent: float, seed: int, folder: Folder, on_step: OnStep) -> None:
    """Train a classifier on a share of the labels, and record what came of it.

    Args:
        bench: that the run belongs to.
        start: the variant that the backbone was trained with; None: it starts from scratch.
        percent: of the training images whose labels are shown.
        seed: of the start, and of the choice of these images.
        folder: with the encoder.
        on_step: is called after each step.
    """
    source = "scratch" if start is None else start.name
    name, data, options = f"labels-{percent:g}-{source}", bench.data, bench.options
    if folder.has(name, seed):
        return
    shown = data.train.of(class_balanced(data.train.labels, percent / 100, seed))
    encoder = _encoder(bench, start, seed, folder)
    frozen = None if start is None else _frozen(bench, encoder, shown)
    torch.manual_seed(seed)
    encoder.head = nn.Linear(encoder.head.linear.in_features, len(data.class_names))  # type: ignore[assignment]
    recipe = bench.recipe(steps=options.finetune_steps, batch=min(bench.batch, len(shown)), rate=options.finetune_rate)
    objective: Any = CrossEntropy()
    training = Training(encoder, objective, shown, shown.labels, recipe, seed=seed, device=bench.device, workers=options.workers)
    state = folder.load(f"{name}-seed{seed}")
    if state is not None:
        training.load_state_dict(state)
    saved = len(training.losses)
    while not training.done:
        training.train_epoch(lambda loss: on_step(len(training.losses), loss, math.nan))
        if not training.done and len(training.losses) >= saved + _SAVE_EVERY:
            folder.save(f"{name}-seed{seed}", training.state_dict())
            saved = len(training.losses)
    found = bench.embed(encoder, encoder, data.held_out).argmax(1).numpy()
    values = {
        "start": source,
        "percent": percent,
        "labelled_images": len(shown),
        "labelled_classes": len(set(shown.labels.tolist())),
        "reachable": float(torch.isin(torch.as_tensor(data.held_out.labels), torch.as_tensor(shown.labels)).double().mean()),
        "accuracy": float((found == data.held_out.labels).mean()),
        "frozen_knn": frozen and frozen["knn"],
        "frozen_linear": frozen and frozen["linear"],
        "hyper_parameters": training.hyper_parameters,
        "seconds": training.seconds,
    }
    folder.add(bench.record(name, "labels", seed, **values))
    (folder.path / f"{name}-seed{seed}.pt").unlink(missing_ok=True)


def _frozen(bench: Bench, encoder: Encoder, shown: Samples) -> dict[str, float]:
    """What the features are worth as they are, with the labels that are shown."""
    train, held_out = (bench.embed(encoder, encoder.features, images) for images in (shown, bench.data.held_out))
    options, labels = bench.options, (shown.labels, bench.data.held_out.labels)
    return {
        "knn": knn_accuracy(train, labels[0], held_out, labels[1], k=options.neighbours, temperature=options.knn_temperature),
        "linear": linear_accuracy(train, labels[0], held_out, labels[1]),
    }


def _encoder(bench: Bench, start: Variant | None, seed: int, folder: Folder) -> Encoder:
    """One that was trained before, or a new one."""
    if start is None:
        return bench.encoder(bench.options.embedding_dim, seed)
    encoder = bench.encoder(start.embedding_dim, seed)
    state = folder.load(f"{start.name}-seed{seed}")
    if state is None or "record" not in state:
        raise ValueError(f"{folder.path} has lost {start.name}-seed{seed}.pt, which later runs start from; choose another --output.")
    encoder.load_state_dict(state["encoder"])
    return encoder


def _parts(bench: Bench, encoder: Encoder, encode: Callable[[Tensor], Tensor]) -> Parts:
    data = bench.data
    unseen = None if data.unseen is None else bench.embed(encoder, encode, data.unseen)
    return bench.embed(encoder, encode, data.train), bench.embed(encoder, encode, data.held_out), unseen


def _pixels(bench: Bench) -> Parts:
    side = min(bench.options.image_size, _PIXELS)
    return _parts(bench, bench.encoder(1, 0), lambda images: adaptive_avg_pool2d(images, side).flatten(1))


def _accuracy_from_bank(bench: Bench, encoder: Encoder, objective: InstanceObjective) -> float:
    """Of images held out, by the rows of the bank as they are. Rows that no image came to yet do not vote."""
    data, options, bank = bench.data, bench.options, objective.bank
    labels = torch.as_tensor(data.train.labels).where(bank.filled.cpu(), -1)
    queries = bench.embed(encoder, encoder, data.held_out)
    rows = bank.embeddings.cpu().float()
    return knn_accuracy(rows, labels, queries, data.held_out.labels, k=options.neighbours, temperature=options.knn_temperature)


def _steadiness(observed: Tensor, epochs: int) -> dict[str, Any]:
    """How even training went, of what an objective observed `[steps, 3]`; where not by epoch, in the second half.

    The variance from step to step, as that of an image from visit to visit, is half the mean square of the change from one to the next, to
    which a trend hardly adds. That of epochs is a sixth of the mean square of second differences: from epoch to epoch a trend would add.
    """

    def variance(values: Tensor) -> float | None:
        return float(values.double().diff().square().mean() / 2) if len(values) > 1 else None

    by_epoch = observed.tensor_split(epochs)
    late = observed[len(observed) // 2 :]
    means = torch.stack([part[:, 0].double().mean() for part in by_epoch])
    bends = means[epochs // 2 :].diff(n=2)
    of_images = float(late[:, 2].double().nanmean())
    return {
        "loss_mean": float(late[:, 0].double().mean()),
        "loss_variance": variance(late[:, 0]),
        "loss_variance_of_epochs": float(bends.square().mean() / 6) if len(bends) else None,
        "loss_variance_of_images": None if math.isnan(of_images) else of_images,
        "distance_to_bank": float(late[:, 1].double().mean()),
        "loss_by_epoch": means.tolist(),
        "loss_variance_by_epoch": [variance(part[:, 0]) for part in by_epoch],
    }
