"""Labels, ids, embeddings and references on which other libraries fail (section 12 of the specification), given to every loss.

Each ends in a right result, or in an error that names the argument, what was expected and what came.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from bad_inputs import BAD_EMBEDDINGS, BAD_LABELS, BIG
from every_loss import (
    BATCH,
    DRAWS,
    HEADS,
    KEEPS_SELF,
    LOSSES,
    NO_PAIR_NO_LOSS,
    REGULARIZERS,
    TWO_VIEWS,
    C,
    D,
    batch,
    finite,
    gradient_of,
    with_ids,
)

from metriczoo import References, losses
from metriczoo.stores import EmbeddingQueue

every = pytest.mark.parametrize("name", LOSSES)
on_batches = pytest.mark.parametrize("name", BATCH)
on_classes = pytest.mark.parametrize("name", HEADS)


# ---- 10: NaN


@every
def test_one_embedding_that_is_not_finite(name: str) -> None:
    for bad in (math.nan, math.inf):
        x, labels = batch()
        x[4, 1] = bad
        with pytest.raises(ValueError, match=r"`embeddings` to be finite.*rows \[4\]"):
            LOSSES[name]()(x, labels)
        if name in BATCH:
            with pytest.raises(ValueError, match=r"`references` to be finite.*rows \[4\]"):
                LOSSES[name]()(batch()[0], labels, (x, labels))


@pytest.mark.parametrize("name", [*TWO_VIEWS, *REGULARIZERS])
def test_one_point_that_is_not_finite(name: str) -> None:
    x, _ = batch()
    x[4, 1] = math.nan
    with pytest.raises(ValueError, match=r"rows \[4\]"):
        getattr(losses, name)()(*([x, x] if name in TWO_VIEWS else [x]))


# ---- 11: labels of 64 bits


@on_batches
def test_large_labels_stay_apart(name: str) -> None:
    """Neighbouring ids beyond the integers of float32 and of float64."""
    x, labels = batch(dtype=torch.float64)
    expected = gradient_of(LOSSES[name](), x, labels)
    for given in (2**24 + labels, (BIG + labels).tolist(), (2**53 + labels).numpy()):
        torch.testing.assert_close(gradient_of(LOSSES[name](), x, given), expected, rtol=1e-9, atol=1e-12)


@on_batches
def test_large_ids_stay_apart(name: str) -> None:
    """Points whose ids differ by 1 at 2^53 are not one point."""
    x, labels = batch(dtype=torch.float64)
    if name in KEEPS_SELF:
        return
    ids = 2**53 + torch.arange(len(x))
    refs = References(x, labels, ids)
    torch.testing.assert_close(
        gradient_of(with_ids(LOSSES[name](), ids), x, labels, refs)[0], LOSSES[name]()(x, labels), rtol=1e-9, atol=1e-12
    )


# ---- 12, 27 to 29: labels and ids


@every
def test_labels_that_are_none(name: str) -> None:
    (x, _), good, loss = batch(), torch.arange(9) % C, LOSSES[name]()
    for labels, error in BAD_LABELS.values():
        with pytest.raises(error, match=r"Expected `labels`.*but got"):
            loss(x, labels)
        with pytest.raises(error, match=r"Expected `references.labels`.*but got"):
            loss(x, good, (x, labels))
        if labels is not None:
            with pytest.raises(error, match=r"Expected `ids`.*but got"):
                loss(x, good, ids=labels)


@every
def test_labels_of_any_integer_dtype(name: str) -> None:
    x, labels = batch()
    expected = LOSSES[name]()(x, labels)
    for given in (labels.to(torch.int8), labels.to(torch.uint8), labels.numpy().astype(np.uint16), labels.tolist()):
        torch.testing.assert_close(LOSSES[name]()(x, given), expected)


@on_classes
def test_a_label_beyond_the_classes_is_an_error(name: str) -> None:
    x, labels = batch()
    with pytest.raises(ValueError, match=rf"`labels`.*{C}"):
        LOSSES[name]()(x, labels + C - 2)


@every
def test_negative_and_repeated_ids(name: str) -> None:
    """An id < 0 equals none, not even itself; points that share an id are one point and never compared."""
    x, labels = batch(dtype=torch.float64)
    for ids in ([-1] * 9, [-5, -1, *range(7)], [3] * 9, [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3):
        finite(*gradient_of(with_ids(LOSSES[name](), ids), x, labels % 3))
    if name in NO_PAIR_NO_LOSS:  # all are one point: nothing to compare
        value, gradient = gradient_of(with_ids(LOSSES[name](), [3] * 9), x, labels)
        assert value == 0
        assert not gradient.any()


@on_batches
def test_an_id_below_zero_keeps_the_pair_of_a_point_with_itself(name: str) -> None:
    x, labels = batch(dtype=torch.float64)
    if name in KEEPS_SELF:
        return
    ids = torch.full((9,), -1)
    got = with_ids(LOSSES[name](), ids)(x, labels, References(x, labels, ids))
    torch.testing.assert_close(got, LOSSES[name]()(x, labels, (x.clone(), labels.clone())), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NO_PAIR_NO_LOSS)
def test_a_batch_of_one_is_not_compared_with_itself_in_the_queue(name: str) -> None:
    x, _ = batch(0, 1)
    queue = EmbeddingQueue(4, D)
    queue.enqueue(x, [2], ids=[41])
    queue.enqueue(batch(1, 1)[0], [3], ids=[42])
    value, gradient = gradient_of(with_ids(LOSSES[name](), [41]), x, [2], queue)
    assert value == 0
    assert not gradient.any()


# ---- 28: embeddings that are none


@every
def test_embeddings_that_are_none(name: str) -> None:
    good, labels, loss = batch()[0], torch.arange(9) % C, LOSSES[name]()
    for x, error in BAD_EMBEDDINGS.values():
        with pytest.raises(error, match=r"Expected `embeddings`.*but got"):
            loss(x, labels)
        with pytest.raises(error, match=r"Expected `references.embeddings`.*but got"):
            loss(good, labels, (x, labels))


# ---- references


@every
def test_references_that_do_not_fit(name: str) -> None:
    x, labels = batch()
    for wrong, message in (((x[:, :3], labels), "dimension 5"), ((x.to("meta"), labels.to("meta")), "device")):
        with pytest.raises(ValueError, match=rf"`references`.*{message}"):
            LOSSES[name]()(x, labels, wrong)


@every
def test_references_of_another_dtype(name: str) -> None:
    """They are compared in the dtype of the anchors, and get gradients in their own."""
    x, labels = batch()
    refs, ref_labels = batch(1, 6, classes=C)
    expected = LOSSES[name]()(x, labels, (refs, ref_labels))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        given = refs.to(dtype).requires_grad_()
        value = LOSSES[name]()(x, labels, (given, ref_labels))
        assert value.dtype == torch.float32
        if name not in DRAWS:
            rounded = LOSSES[name]()(x, labels, (refs.to(dtype).float(), ref_labels))
            torch.testing.assert_close(value, rounded)
            torch.testing.assert_close(value, expected, rtol=0.2, atol=0.5)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, given, allow_unused=True, materialize_grads=True)
            assert gradient.dtype == dtype
            assert gradient.isfinite().all()


@every
def test_references_that_are_empty(name: str) -> None:
    x, labels = batch()
    value, gradient = gradient_of(LOSSES[name](), x, labels, (torch.empty(0, D), []))
    finite(value, gradient)
    if name in BATCH:
        assert value == 0
        assert not gradient.any()


@on_batches
def test_references_are_not_ignored(name: str) -> None:
    """More references than anchors, and their negatives give another loss."""
    x, labels = batch(1, 6, dtype=torch.float64)
    refs, ref_labels = batch(2, 15, dtype=torch.float64)
    one, other = (LOSSES[name]()(x, labels, (sign * refs, ref_labels)) for sign in (1.0, -1.0))
    assert one != other


# ---- 14: identity of objects


@every
def test_references_that_are_the_batch_or_a_copy_of_it(name: str) -> None:
    """Points are told from themselves by ids, never by being one object, and never by their values."""
    x, labels = batch(dtype=torch.float64)
    same = gradient_of(LOSSES[name](), x, labels, (x, labels))
    for refs in ((x.clone(), labels), (x, labels.clone()), References(x.clone(), labels.clone())):
        torch.testing.assert_close(gradient_of(LOSSES[name](), x, labels, refs), same, rtol=1e-10, atol=1e-12)


@on_batches
def test_references_with_the_ids_of_the_batch_are_the_batch(name: str) -> None:
    x, labels = batch(dtype=torch.float64)
    ids = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:9]
    if name in KEEPS_SELF:
        return
    expected = LOSSES[name]()(x, labels)
    torch.testing.assert_close(with_ids(LOSSES[name](), ids)(x, labels, References(x, labels, ids)), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(with_ids(LOSSES[name](), ids)(x, labels), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(LOSSES[name]()(x, labels, [None]), expected, rtol=1e-9, atol=1e-12)
