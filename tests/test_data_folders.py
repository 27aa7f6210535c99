"""ImageFolder, Omniglot in both layouts, `load`, `to_tensor`."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from metriczoo.data import DATASETS, Glyphs, ImageFolder, Omniglot, load, to_tensor


def write_classes(root, classes):
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (6, 5), 10 * number).save(root / name / f"{number}.PNG", format="PNG")
    return root


def test_class_folders(tmp_path):
    root = write_classes(tmp_path, {"zebra": 2, "ant": 3, "bee": 1, "empty": 0, ".hidden": 2})
    (root / "ant" / "notes.txt").write_text("not an image")
    (root / "ant" / "._0.png").write_text("not an image either")
    (root / "list.csv").touch()
    everything = ImageFolder(root, "all")
    assert everything.class_names == ["ant", "bee", "zebra"]
    assert everything.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert [path.name for path in everything.paths] == ["0.PNG", "1.PNG", "2.PNG", "0.PNG", "0.PNG", "1.PNG"]
    image, label = everything[2]
    assert (image.mode, image.getpixel((0, 0)), label) == ("RGB", (20, 20, 20), 0)


def test_class_folders_are_split_in_half_or_by_number(tmp_path):
    root = write_classes(tmp_path, dict.fromkeys("abcde", 1))
    assert ImageFolder(root).class_names == ["a", "b", "c"]
    assert ImageFolder(root, "test").class_names == ["d", "e"]
    assert ImageFolder(root, "test").labels.tolist() == [0, 1]
    assert ImageFolder(root, "test").class_ids.tolist() == [3, 4]
    assert ImageFolder(root, train_classes=1).class_names == ["a"]
    assert ImageFolder(root, "test", train_classes=1).class_names == ["b", "c", "d", "e"]


def test_class_folders_without_images(tmp_path):
    with pytest.raises(ValueError, match="no image in any subfolder of"):
        ImageFolder(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="no image in any subfolder of"):
        ImageFolder(tmp_path)
    write_classes(tmp_path, {"only": 2})
    assert len(ImageFolder(tmp_path)) == 2
    with pytest.raises(ValueError, match="split 'test'"):
        ImageFolder(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="there is no"):
        ImageFolder(tmp_path / "nowhere")


CHARACTERS = {"Latin": 2, "Greek": 1, "Korean": 3}


def omniglot_ink(seed):
    return (np.random.default_rng(seed).random((105, 105)) < 0.2).astype(np.uint8)


def write_omniglot_folder(root):
    seed = 0
    for alphabet in sorted(CHARACTERS):
        for character in range(1, CHARACTERS[alphabet] + 1):
            for drawer in (1, 2):
                path = root / "images_background" / alphabet / f"character{character:02}" / f"{seed:04}_{drawer:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((1 - omniglot_ink(seed)) * np.uint8(255)).convert("1").save(
                    path
                )  # black ink on white, as the official files
                seed += 1
    return root


def write_omniglot_arrays(root, **changes):
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{alphabet}/character{number:02}" for alphabet in sorted(CHARACTERS) for number in range(1, CHARACTERS[alphabet] + 1)]
    arrays = {
        "bits": np.stack([np.packbits(omniglot_ink(seed)) for seed in range(12)]),
        "label": np.repeat(np.arange(6), 2).astype(np.int16),
        "char_names": np.array(names),
    }
    np.savez(root / "omniglot_background.npz", **{key: value for key, value in (arrays | changes).items() if value is not None})
    return root


@pytest.mark.parametrize("up", [0, 1])
def test_omniglot_layouts_agree(tmp_path, up):
    arrays, folder = tmp_path / "a" / "deep", tmp_path / "b" / "deep"
    write_omniglot_arrays(arrays)
    write_omniglot_folder(folder)
    for split in ("train", "test", "all"):
        first, second = Omniglot([arrays, arrays.parent][up], split), Omniglot([folder, folder.parent][up], split)
        assert first.class_names == second.class_names
        assert np.array_equal(first.labels, second.labels)
        for index in range(len(first)):
            assert np.array_equal(np.asarray(first[index][0]), np.asarray(second[index][0]))
        assert len(second.paths) == len(second)
        assert first.paths == []
    assert np.array_equal(np.asarray(first[11][0]), omniglot_ink(11) * 255)
    assert first[11][0].mode == "L"


def test_omniglot_is_split_by_alphabet(tmp_path):
    root = write_omniglot_folder(tmp_path) / "images_background"
    assert Omniglot(root).class_names == ["Greek/character01", "Korean/character01", "Korean/character02", "Korean/character03"]
    assert Omniglot(root, "test").class_names == ["Latin/character01", "Latin/character02"]
    assert Omniglot(root, "test", train_classes=1).num_classes == 5


def test_omniglot_order_does_not_depend_on_the_order_of_the_names(tmp_path):
    names = np.array([f"Z/{number}" for number in (5, 4, 3)] + [f"A/{number}" for number in (2, 1, 0)])
    dataset = Omniglot(write_omniglot_arrays(tmp_path, char_names=names) / "omniglot_background.npz", "all")
    assert dataset.class_names == sorted(names.tolist())
    assert dataset.labels.tolist() == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": None}, "bits, label and char_names"),
        ({"bits": np.zeros((12, 1378), np.uint8)}, r"shape \[12, 1379\]"),
        ({"bits": np.zeros((12, 1379))}, "dtype uint8"),
        ({"label": np.zeros(11, int)}, r"shape \[11, 1379\]"),
        ({"label": np.full(12, 6)}, "labels from 0 to 5, but got 6"),
        ({"bits": np.zeros((0, 1379), np.uint8), "label": np.zeros(0, int)}, "Omniglot: Expected images, but found none"),
    ],
)
def test_malformed_omniglot_arrays(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Omniglot(write_omniglot_arrays(tmp_path, **changes))


def test_broken_or_missing_omniglot(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No omniglot_background.npz or images_background/.* in .*github.com/brendenlake"):
        Omniglot(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no"):
        Omniglot(tmp_path / "nowhere.npz")
    path = write_omniglot_arrays(tmp_path) / "omniglot_background.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"omniglot_background.npz is not a readable"):
        Omniglot(tmp_path)


def test_load_by_name(tmp_path):
    assert repr(load("glyphs", split="test")) == repr(Glyphs("test"))
    assert load("folder", write_classes(tmp_path, {"a": 1, "b": 1}), "test", transform=to_tensor)[0][0].shape == (3, 5, 6)
    by_folder = {"aircraft", "cars", "cub", "dogs", "flowers", "folder", "inshop", "nabirds", "omniglot", "sop"}
    assert set(DATASETS) == by_folder | {"csv", "features", "glyphs"}
    with pytest.raises(ValueError, match="Did you mean 'glyphs'"):
        load("glyph")
    with pytest.raises(ValueError, match="`root` to be the folder of the 'cub' data"):
        load("cub")
    with pytest.raises(ValueError, match="no `root` for 'glyphs'"):
        load("glyphs", tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_to_tensor(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 7) if mode == "L" else (4, 7, 3), dtype=np.uint8)
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.shape == ((1 if mode == "L" else 3), 4, 7)
    assert np.allclose(tensor.permute(1, 2, 0).squeeze(-1).numpy() * 255, pixels)
