"""CSVImages and Features, and images of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_layouts import picture, reds, text
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metriczoo.data import CSVImages, Features, ImageFolder, load
from metriczoo.data._files import read_image

ROWS = ["a.jpg,10,train,x", "b.jpg,9,TEST,y", "c.jpg,2,train,z", "d.jpg,3,val,w", "e.jpg,9,test,v"]


def write_csv(root, rows=ROWS, header="path,label,part,other", name="list.csv", sep=","):
    text(root / name, header.replace(",", sep), *(row.replace(",", sep) for row in rows))
    for number in range(5):
        picture(root / f"{'abcde'[number]}.jpg", number)
    return root


def test_csv_without_a_column_of_splits(tmp_path):
    write_csv(tmp_path)
    train, test = CSVImages(tmp_path), CSVImages(tmp_path / "list.csv", "test")
    assert train.class_names == ["2", "3"]  # numbers in the order of numbers
    assert test.class_names == ["9", "10"]
    assert (reds(train), train.labels.tolist()) == ([2, 3], [0, 1])
    assert (reds(test), test.labels.tolist()) == ([0, 1, 4], [1, 0, 0])


def test_csv_with_a_column_of_splits(tmp_path):
    write_csv(tmp_path)
    train, test, everything = (CSVImages(tmp_path, split, split_column="part") for split in ("train", "test", "all"))
    assert (reds(train), reds(test), reds(everything)) == ([0, 2], [1, 4], [0, 1, 2, 4])
    assert train.class_names == ["2", "10"]
    assert CSVImages(tmp_path, "test", split_column="part", train_classes=1).class_names == ["9", "10"]


def test_csv_of_other_columns_delimiter_and_folder(tmp_path):
    write_csv(tmp_path / "pictures")
    lines = ['"cat; tabby"; a.jpg', "", f"dog;{tmp_path / 'pictures' / 'b.jpg'}"]
    (tmp_path / "mine.CSV").write_bytes(b"\xef\xbb\xbf" + b"breed;file\r\n" + "\r\n".join(lines).encode())
    options = {"path_column": "file", "label_column": "breed", "delimiter": ";", "images": tmp_path / "pictures"}
    dataset = CSVImages(tmp_path, "all", **options)
    assert dataset.class_names == ["cat; tabby", "dog"]
    assert reds(dataset) == [0, 1]
    assert repr(load("csv", tmp_path, "test", **options)) == "CSVImages(split='test', images=1, classes=1)"


def test_csv_images_that_are_missing(tmp_path):
    (write_csv(tmp_path) / "c.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 listed images are missing: .*c\.jpg"):
        CSVImages(tmp_path)
    assert CSVImages(tmp_path, missing="skip").skipped == 1
    assert len(CSVImages(tmp_path, "all", missing="keep")) == 5


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"label_column": "labels"}, r"list.csv: Expected `label_column` to be one of .*'labels'.* Did you mean 'label'"),
        (ROWS, {"path_column": "file"}, "`path_column`"),
        (ROWS, {"delimiter": "\t"}, "`path_column`"),
        (ROWS, {"delimiter": "::"}, "`delimiter` to be one character, but got '::'"),
        ([*ROWS, "f.jpg,2,test,x"], {"split_column": "part"}, r"no class both in train and in test, but got 1: \['2'\]"),
        ([*ROWS, "f.jpg,2,test"], {}, "line 7: Expected 4 values as in the first line, but got 3"),
        ([*ROWS, ",2,test,x"], {}, "line 7: Expected a file and a label, but got '' and '2'"),
        ([*ROWS, "f.jpg,,test,x"], {}, "line 7: Expected a file and a label, but got 'f.jpg' and ''"),
        ([], {}, "CSVImages: Expected images, but found none"),
    ],
)
def test_malformed_csv(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        CSVImages(write_csv(tmp_path, rows), **options)


def test_which_csv(tmp_path):
    with pytest.raises(FileNotFoundError, match="a CSV file or a folder with one, but there is none in"):
        CSVImages(tmp_path)
    write_csv(tmp_path)
    write_csv(tmp_path, name="more.csv")
    with pytest.raises(ValueError, match=r"one CSV file, but got 2 .*\['list.csv', 'more.csv'\]"):
        CSVImages(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no"):
        CSVImages(tmp_path / "nowhere.csv")


def write_features(root, **changes):
    arrays = {"X": np.arange(12, dtype=np.float16).reshape(6, 2), "y": np.array([200, 1, 100, 101, 1, 7], dtype=np.uint8)} | changes
    np.savez(root / "features.npz", **{key: value for key, value in arrays.items() if value is not None})
    return root


def test_features(tmp_path):
    train, test = Features(write_features(tmp_path)), Features(tmp_path / "features.npz", "test", transform=lambda x: x + 1)
    assert train.class_ids.tolist() == [1, 7, 100]
    assert test.class_ids.tolist() == [101, 200]
    assert train.features.dtype == torch.float32
    assert torch.equal(train.features, torch.tensor([[2.0, 3], [4, 5], [8, 9], [10, 11]]))
    vector, label = test[0]
    assert (vector.tolist(), label) == ([1.0, 2.0], 1)
    official = Features(tmp_path, train_ids=range(1, 101))
    assert official.class_ids.tolist() == [1, 7, 100]
    assert Features(tmp_path, "test", train_classes=1).num_classes == 4
    assert repr(load("features", tmp_path)) == "Features(split='train', rows=4, classes=3)"


def test_features_with_other_names_and_names_of_classes(tmp_path):
    names = np.array(["ant", "bee", "cat"])
    write_features(tmp_path, X=None, y=None, vectors=np.eye(3), target=np.array([2, 0, 1]), class_names=names)
    assert Features(tmp_path, features="vectors", class_ids="target").class_names == ["ant", "bee"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, r"`features` to be one of \['y'\]"),
        ({"y": None}, r"`class_ids` to be one of \['X'\]"),
        ({"X": np.zeros(6)}, r"'X' to be numbers of shape \[n, d\]"),
        ({"X": np.array([["a"]] * 6)}, "'X' to be numbers"),
        ({"X": np.zeros((6, 0))}, r"'X' to be numbers of shape \[n, d\]"),
        ({"y": np.zeros(5, int)}, r"'y' to be whole numbers of shape \[6\]"),
        ({"y": np.zeros(6)}, r"'y' to be whole numbers"),
        ({"X": np.full((6, 2), np.nan)}, "finite features .* row 1 "),
        ({"X": np.full((6, 2), 1e300)}, "finite features"),
        ({"X": np.array([[object()]] * 6)}, "is not a readable .npz"),
        ({"class_names": np.array(["a"])}, "class ids from 0 to 0"),
        ({"X": np.zeros((0, 2)), "y": np.zeros(0, int)}, "Features: Expected rows, but found none"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_malformed_features(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Features(write_features(tmp_path, **changes))


def test_broken_or_missing_features(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.npz"):
        with pytest.raises(FileNotFoundError, match=r"an \.npz file or a folder with one"):
            Features(path)
    path = write_features(tmp_path) / "features.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"features\.npz is not a readable"):
        Features(tmp_path)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "red"),
    [
        ("1", 1, "png", 255),
        ("L", 77, "png", 77),
        ("LA", (77, 0), "png", 77),
        ("P", 3, "gif", None),
        ("RGBA", (77, 5, 6, 0), "png", 77),
        ("CMYK", (0, 255, 255, 55), "jpg", 200),
        ("CMYK", (0, 255, 255, 55), "tif", 200),
        ("YCbCr", (76, 85, 255), "jpg", 254),
        ("I;16", 77 * 256 + 5, "png", 77),
        ("I;16", 77 * 256 + 5, "tif", 77),
        ("RGB", (77, 5, 6), "bmp", 77),
        ("RGB", (77, 5, 6), "webp", 77),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, colour, suffix, red):
    path = save(tmp_path / f"x.{suffix}", Image.new(mode, (20, 10), colour), **{"lossless": True} if suffix == "webp" else {})
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))
    if red is not None:
        assert abs(image.getpixel((4, 4))[0] - red) <= 2


def test_grey_of_16_bits_in_a_pgm_file(tmp_path):
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 2 1 65535 " + bytes([77, 5, 255, 255]))
    assert [read_image(path).getpixel((x, 0))[0] for x in (0, 1)] == [77, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_grey_of_32_bits_is_refused(tmp_path, mode):
    with pytest.raises(OSError, match=r"x\.tif is not a readable image: grey values of 32 bits"):
        read_image(save(tmp_path / "x.tif", Image.new(mode, (4, 4), 200)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_in_folders_and_as_stored_elsewhere(tmp_path, orientation):
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16] = 255  # the upper left quarter is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "cat" / "1.jpg"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    assert read_image(path).size == (32, 16)
    assert read_image(path).getpixel((2, 2))[0] > 200
    upright = ImageFolder(tmp_path)[0][0]
    text(tmp_path / "list.csv", "path,label", "cat/1.jpg,cat")
    assert CSVImages(tmp_path)[0][0].tobytes() == upright.tobytes()
    left, top = orientation in (1, 4, 5, 8), orientation in (1, 2, 5, 6)  # where the first pixel stored belongs
    width, height = upright.size
    assert (width, height) == ((32, 16) if orientation < 5 else (16, 32))
    assert upright.getpixel((2 if left else width - 3, 2 if top else height - 3))[0] > 200
    assert upright.getpixel((width - 3 if left else 2, height - 3 if top else 2))[0] < 50


@given(st.floats(0.02, 0.9), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_a_truncated_image_is_broken_and_named(tmp_path_factory, part, kind):
    path = tmp_path_factory.mktemp("broken") / f"x.{kind.lower()}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format=kind, **{"lossless": True} if kind == "WEBP" else {})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(OSError, match=rf"x\.{kind.lower()} is not a readable image"):
        read_image(path)


@pytest.mark.parametrize(("content", "what"), [(b"", "it is empty"), (b"<html>404</html>", "its format is not known")])
def test_a_file_that_is_no_image_is_told_in_words(tmp_path, content, what):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(OSError, match=rf"x\.jpg is not a readable image: {what}$"):
        read_image(tmp_path / "x.jpg")
