"""Cars196 on small folders of both layouts, one per trap."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metriczoo.data import Cars196

NAMES = [f"Model {number}" for number in range(1, 197)]
BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
# file number: class; not sorted by class
TRAIN, TEST = {1: 196, 2: 1, 3: 98}, {1: 99, 2: 1}


def cell(values):
    array = np.empty((1, len(values)), dtype=object)
    array[0] = values
    return array


def struct(rows):
    array = np.empty(len(rows), dtype=[(field, object) for field in rows[0]])
    for index, row in enumerate(rows):
        array[index] = tuple(row.values())
    return array.reshape(1, -1)


def row(class_, **names):
    """Fields as MATLAB stores them: uint8 where the value fits, else uint16."""
    box = dict(zip(BOX, (np.uint8(200), np.uint8(1), np.uint16(300), np.uint8(40)), strict=True))
    return {**box, "class": np.uint8(class_), **names}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 320, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")  # Pillow goes by the content
    return pixels


def write_original(root, classes=(196, 1, 98, 99, 1)):
    folder = root / "stanford_cars"
    names = [f"car_ims/{number:06}.jpg" for number in range(1, len(classes) + 1)]
    rows = [
        {"relative_im_path": name, **row(class_), "test": np.uint8(i % 2)}
        for i, (name, class_) in enumerate(zip(names, classes, strict=True))
    ]
    for seed, name in enumerate(names):
        picture(folder / name, seed)
    savemat(folder / "cars_annos.mat", {"annotations": struct(rows), "class_names": cell(NAMES)})
    return folder


def write_devkit(root, train=TRAIN, test=TEST, labels="devkit/cars_test_annos_withlabels.mat"):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cell(NAMES)})
    for half, classes, file in (("cars_train", train, "devkit/cars_train_annos.mat"), ("cars_test", test, labels)):
        for number in classes:
            picture(folder / half / f"{number:05}.jpg", number + 100 * (half == "cars_test"))
        if classes and file:
            savemat(folder / file, {"annotations": struct([row(class_, fname=f"{number:05}.jpg") for number, class_ in classes.items()])})
    return folder


def ids(dataset):
    return dataset.class_ids[dataset.labels].tolist()


def files(dataset):
    return [f"{path.parent.name}/{path.name}" for path in dataset.paths]


def test_the_original_layout(tmp_path):
    folder = write_original(tmp_path)
    train, test = Cars196(folder), Cars196(tmp_path, "test")
    assert ids(train) == [1, 98, 1]
    assert ids(test) == [196, 99]
    assert files(train) == ["car_ims/000002.jpg", "car_ims/000003.jpg", "car_ims/000005.jpg"]
    assert train.labels.tolist() == [0, 1, 0]
    assert test.labels.tolist() == [1, 0]
    assert train.class_names == ["Model 1", "Model 98"]
    assert test.class_names == ["Model 99", "Model 196"]
    assert train[0][0].mode == "RGB"
    assert train[0][0].size == (320, 60)


@pytest.mark.parametrize("labels", ["devkit/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat"])
def test_the_devkit_layout_joins_both_halves(tmp_path, labels):
    folder = write_devkit(tmp_path, labels=labels)
    train, test = Cars196(folder), Cars196(tmp_path, "test")
    assert ids(train) == [1, 98, 1]
    assert ids(test) == [196, 99]
    assert files(train) == ["cars_train/00002.jpg", "cars_train/00003.jpg", "cars_test/00002.jpg"]
    assert files(test) == ["cars_train/00001.jpg", "cars_test/00001.jpg"]


@pytest.mark.parametrize("write", [write_original, write_devkit])
def test_boxes_survive_small_integer_types(tmp_path, write):
    folder = write(tmp_path)
    train = Cars196(folder, "train", crop=True)
    assert train.boxes.tolist() == [[199, 0, 300, 40]] * 3
    pixels = np.asarray(Cars196(folder, "train")[0][0])
    assert np.array_equal(np.asarray(train[0][0]), pixels[0:40, 199:300])


def test_one_row_files(tmp_path):
    original = write_original(tmp_path / "a", classes=(7,))
    assert ids(Cars196(original)) == [7]
    assert files(Cars196(original)) == ["car_ims/000001.jpg"]
    devkit = write_devkit(tmp_path / "b", train={4: 7}, test={})
    savemat(devkit / "devkit" / "cars_meta.mat", {"class_names": cell(NAMES[:7])})
    assert ids(Cars196(devkit, crop=True)) == [7]
    assert Cars196(devkit, crop=True).boxes.shape == (1, 4)
    savemat(devkit / "devkit" / "cars_meta.mat", {"class_names": cell(["Only"])})
    savemat(devkit / "devkit" / "cars_train_annos.mat", {"annotations": struct([row(1, fname="00004.jpg")])})
    assert Cars196(devkit).class_names == ["Only"]


def test_halves_may_be_absent(tmp_path):
    assert ids(Cars196(write_devkit(tmp_path / "a", test={}), "all")) == [196, 1, 98]
    assert ids(Cars196(write_devkit(tmp_path / "b", train={}), "all")) == [99, 1]


def test_images_without_labels_are_an_error(tmp_path):
    folder = write_devkit(tmp_path, labels=None)
    with pytest.raises(FileNotFoundError, match=r"cars_test_annos_withlabels.mat in .*cars_test/ is there, but its labels are not"):
        Cars196(folder)


def test_of_both_layouts_the_one_with_images_is_read(tmp_path):
    write_original(tmp_path)
    folder = write_devkit(tmp_path)
    assert files(Cars196(folder))[0].startswith("car_ims/")
    (folder / "car_ims").rename(folder / "elsewhere")
    assert files(Cars196(folder))[0].startswith("cars_train/")
    (folder / "cars_train").rename(folder / "gone")
    (folder / "cars_test").rename(folder / "gone too")
    with pytest.raises(FileNotFoundError, match=r"3 of 3 listed images .*car_ims"):
        Cars196(folder)
    assert len(Cars196(folder, missing="keep")) == 3


def test_a_subset_with_the_whole_index(tmp_path):
    folder = write_original(tmp_path)
    (folder / "car_ims" / "000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 listed images are missing: .*000003.jpg\. .*stanford.edu"):
        Cars196(folder)
    subset = Cars196(folder, missing="skip")
    assert ids(subset) == [1, 1]
    assert subset.skipped == 1
    assert ids(Cars196(folder, "test", missing="skip", train_classes=2)) == [196]
    assert Cars196(folder, "test", missing="skip", train_classes=1, crop=True).boxes.shape == (2, 4)


def test_nothing_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No cars_annos.mat or devkit/cars_train_annos.mat .* in .*Nothing is downloaded; get Stanford Cars"
    ):
        Cars196(tmp_path)
    folder = write_devkit(tmp_path)
    (folder / "devkit" / "cars_meta.mat").rename(folder / "cars_meta.mat")
    assert Cars196(folder).num_classes == 2
    (folder / "cars_meta.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"cars_meta.mat in .*stanford_cars\. "):
        Cars196(folder)


def test_a_number_of_any_type_but_whole(tmp_path):
    folder = write_devkit(tmp_path, test={})
    path = folder / "devkit" / "cars_train_annos.mat"
    savemat(path, {"annotations": struct([{**row(0, fname="00001.jpg"), "class": 7.0}])})
    assert ids(Cars196(folder)) == [7]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": np.arange(3)}, "Expected a variable 'annotations'"),
        ({"annotations": np.arange(3.0)}, r"the fields \['fname', 'class'"),
        ({"annotations": struct([{"fname": "00001.jpg"}])}, r"the fields \['fname', 'class'"),
        ({"annotations": struct([{**row(1, fname="00001.jpg"), "class": 7.5}])}, "whole number in field 'class'"),
        ({"annotations": struct([{**row(1, fname="00001.jpg"), "class": "seven"}])}, "number in field 'class'"),
        ({"annotations": struct([{**row(1, fname="00001.jpg"), "class": np.inf}])}, "whole number in field 'class'"),
        (
            {"annotations": struct([row(1, fname="00001.jpg"), {**row(1, fname="00002.jpg"), "class": np.empty(0)}])},
            "number in field 'class'",
        ),
        ({"annotations": struct([row(1, fname="00001.jpg"), row(197, fname="00002.jpg")])}, "classes 1 to 196, but row 2 has class 197"),
        ({"annotations": struct([row(0, fname="00001.jpg")])}, "row 1 has class 0"),
        ({"annotations": struct([row(1, fname="00001.jpg"), row(1, fname=np.empty(0))])}, "file name in every row, but row 2 has none"),
    ],
)
def test_malformed_content(tmp_path, variables, message):
    folder = write_devkit(tmp_path, test={})
    savemat(folder / "devkit" / "cars_train_annos.mat", variables)
    with pytest.raises(ValueError, match=f"cars_train_annos.mat: .*{message}"):
        Cars196(folder)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "hdf5"])
def test_malformed_files(tmp_path, damage):
    folder = write_original(tmp_path)
    path = folder / "cars_annos.mat"
    whole = path.read_bytes()
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF"
    path.write_bytes(
        {"text": b"no mat file at all, only words" * 9, "empty": b"", "truncated": whole[: len(whole) // 3], "hdf5": hdf5}[damage]
    )
    with pytest.raises(ValueError, match=r"cars_annos\.mat is not a readable MATLAB 5 file"):
        Cars196(folder)
