"""Glyphs: the letters, the split, the difficulty, and that nothing depends on the machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from metriczoo.data import Glyphs, PKSampler, to_tensor
from metriczoo.data import glyphs as module
from metriczoo.data._letters import TEST_LETTERS, TRAIN_LETTERS

LOOKALIKES = list(zip("АВЕЅІЈКМНОРСТХԚԜаеоѕіјһрсухԛԝհոսօՍՕ", "ABESIJKMHOPCTXQWaeosijhpcyxqwhnuoUO", strict=True))


def normalised(letter, font, side=24):
    """The undistorted letter, cut to its ink, brought to one size, as a unit vector."""
    image = module._draw(letter, font)
    image = image.crop(image.getbbox())
    scale = side / max(image.size)
    image = image.resize(tuple(max(1, round(edge * scale)) for edge in image.size), Image.Resampling.BOX)
    square = Image.new("L", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    vector = np.asarray(square, dtype=np.float32).ravel()
    return vector / np.linalg.norm(vector)


def similarity(letters):
    """Correlation of each pair of letters, averaged over the typefaces that have both."""
    faces = module._load_faces()
    has = np.array([[ord(letter) in covered for _, covered in faces] for letter in letters])
    vectors = np.zeros((len(letters), len(faces), 576), dtype=np.float32)
    for row, letter in enumerate(letters):
        for column in np.flatnonzero(has[row]):
            vectors[row, column] = normalised(letter, faces[column][0])
    flat = vectors.reshape(len(letters), -1)
    return flat @ flat.T / np.maximum(has.astype(np.float32) @ has.T.astype(np.float32), 1)


def raw_recall(dataset):
    pixels = dataset.images.reshape(len(dataset), -1).astype(np.float32)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    scores = pixels @ pixels.T
    np.fill_diagonal(scores, -1)
    return float((dataset.labels[scores.argmax(1)] == dataset.labels).mean())


def test_the_splits_are_of_different_scripts():
    def scripts(letters):
        return {unicodedata.name(letter).split()[0] for letter in letters}

    assert scripts(TRAIN_LETTERS) == {"LATIN"}
    assert scripts(TEST_LETTERS) == {"CYRILLIC", "ARMENIAN", "GEORGIAN"}
    assert len(set(TRAIN_LETTERS)) == len(TRAIN_LETTERS) == 200
    assert len(set(TEST_LETTERS)) == len(TEST_LETTERS) == 200
    assert Glyphs("train").class_names == sorted(TRAIN_LETTERS)
    assert Glyphs("test").class_names == sorted(TEST_LETTERS)


def test_no_two_letters_look_alike():
    found = similarity(TRAIN_LETTERS + TEST_LETTERS)
    np.fill_diagonal(found, 0)
    assert found.max() < 0.87
    for pair in LOOKALIKES:  # the measurement can tell
        assert similarity(pair)[0, 1] > 0.87, pair
    for pair in [*LOOKALIKES, ("\N{CYRILLIC CAPITAL LETTER U}", "Y")]:
        assert not (pair[0] in TEST_LETTERS and pair[1] in TRAIN_LETTERS), pair


def test_sizes_and_types():
    train, test = Glyphs("train"), Glyphs("test")
    assert (len(train), len(test)) == (3003, 2524)
    assert min(Counter(train.labels.tolist()).values()) >= 12
    assert min(Counter(test.labels.tolist()).values()) >= 8
    assert train.images.dtype == np.uint8
    assert train.images.shape == (3003, 28, 28)
    assert train.labels.dtype == np.int64
    assert np.array_equal(np.unique(train.labels), np.arange(200))
    assert (train.images.reshape(3003, -1).max(1) > 100).all()  # no empty picture
    image, label = train[5]
    assert image.mode == "L"
    assert image.size == (28, 28)
    assert type(label) is int
    assert np.array_equal(np.asarray(image), train.images[5])


def test_raw_pixels_are_neither_enough_nor_useless():
    assert 0.35 < raw_recall(Glyphs("test")) < 0.41


def test_an_image_depends_on_seed_letter_and_typeface_only():
    train, test, everything = Glyphs("train"), Glyphs("test"), Glyphs("all")
    assert np.array_equal(everything.images, np.concatenate([train.images, test.images]))
    by_count = Glyphs("test", train_classes=50)
    assert by_count.num_classes == 350
    assert np.array_equal(by_count.images, everything.images[everything.labels >= 50])
    assert np.array_equal(by_count.class_ids, sorted(map(ord, TRAIN_LETTERS + TEST_LETTERS))[50:])
    assert not np.array_equal(Glyphs("test", seed=1).images, test.images)


def test_another_process_draws_the_same():
    code = "from metriczoo.data import Glyphs; import hashlib; print(hashlib.sha256(Glyphs('test').images.tobytes()).hexdigest())"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == hashlib.sha256(Glyphs("test").images.tobytes()).hexdigest()
    assert out.stderr == ""


def test_the_pictures_are_those_that_were_measured():
    # Up to the rasteriser, whose versions differ in a few grey values.
    assert Glyphs("train").images.mean() == pytest.approx(23.38, abs=0.3)
    assert Glyphs("test").images.mean() == pytest.approx(26.37, abs=0.3)
    assert Glyphs("test").images[0].astype(float).mean() == pytest.approx(22.83, abs=1.0)


def test_rendered_images_are_kept_and_cannot_be_spoilt():
    module._render.cache_clear()
    Glyphs("test")
    dataset = Glyphs("test")
    assert module._render.cache_info().hits == 1
    with pytest.raises(ValueError, match="read-only"):
        dataset.images[0] = 0


def test_a_loader_of_tensors():
    train = Glyphs("train", transform=to_tensor)
    images, labels = next(iter(DataLoader(train, batch_sampler=PKSampler(train.labels, 8, 4))))
    assert images.shape == (32, 1, 28, 28)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.1
    assert 0.5 < images.max() <= 1
    assert torch.equal(labels.unique(return_counts=True)[1], torch.full((8,), 4))


def test_missing_typefaces_and_packages(monkeypatch, tmp_path):
    module._render.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
        with pytest.raises(FileNotFoundError, match=r"No DejaVuSans.ttf, .*in .*ttf: this matplotlib"):
            Glyphs()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"metriczoo\[bench\]"):
        Glyphs()


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"`split`.*Did you mean 'train'"):
        Glyphs("trian")
    with pytest.raises(ValueError, match="`seed` to be at least 0"):
        Glyphs(seed=-1)
    with pytest.raises(ValueError, match="400 of 400 classes"):
        Glyphs(train_classes=400)
    with pytest.raises(IndexError, match="below 3003"):
        Glyphs()[3003]
    with pytest.raises(IndexError):
        Glyphs()[-3004]
