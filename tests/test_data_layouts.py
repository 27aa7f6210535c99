"""The readers of official layouts, each on a small copy of its layout, one test per trap."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from data_layouts import (
    AIRCRAFT_TEST,
    BIRDS,
    CAR_NAMES,
    CARS,
    DOGS,
    INSHOP,
    SOP_TEST,
    SOP_TRAIN,
    cells,
    picture,
    reds,
    text,
    write_aircraft,
    write_cars_by_class,
    write_dogs,
    write_flowers,
    write_inshop,
    write_nabirds,
    write_omniglot,
    write_sop,
)
from scipy.io import savemat

from metriczoo.data import (
    Cars196,
    FGVCAircraft,
    Flowers102,
    InShop,
    NABirds,
    Omniglot,
    StanfordDogs,
    StanfordOnlineProducts,
)
from metriczoo.data._flower_names import FLOWERS

WRITERS = [
    (StanfordOnlineProducts, write_sop),
    (InShop, write_inshop),
    (FGVCAircraft, write_aircraft),
    (NABirds, write_nabirds),
    (Flowers102, write_flowers),
    (StanfordDogs, write_dogs),
    (Cars196, write_cars_by_class),
]


def ids(dataset):
    return dataset.class_ids[dataset.labels].tolist()


@pytest.mark.parametrize(("cls", "write"), WRITERS)
def test_splits_share_no_class_and_lose_no_image(tmp_path, cls, write):
    folder = write(tmp_path)
    train, test, everything = (cls(folder, split) for split in ("train", "test", "all"))
    assert not set(train.class_ids.tolist()) & set(test.class_ids.tolist())
    assert sorted(train.paths + test.paths) == sorted(everything.paths)
    assert len(everything) == len({*everything.paths}) == len(everything.labels)
    for dataset in (train, test, everything):
        assert np.array_equal(np.unique(dataset.labels), np.arange(dataset.num_classes))
        assert dataset[0][0].mode == "RGB"
        assert len(set(dataset.class_names)) == dataset.num_classes
    assert repr(cls(folder.parent, "all")) == repr(everything)  # the parent will do


@pytest.mark.parametrize(("cls", "write"), WRITERS)
def test_images_that_are_missing(tmp_path, cls, write):
    folder = write(tmp_path)
    dataset = cls(folder, "all")
    dataset.paths[0].unlink()
    if cls is not StanfordDogs or (folder / "file_list.mat").is_file():
        with pytest.raises(FileNotFoundError, match=rf"1 of {len(dataset)} listed images are missing: .*{dataset.paths[0].name}"):
            cls(folder, "all")
    assert len(cls(folder, "all", missing="skip")) == len(dataset) - 1
    assert cls(folder, "all", missing="skip").skipped == 1
    assert len(cls(folder, "all", missing="keep")) == len(dataset)


@pytest.mark.parametrize(("cls", "write"), WRITERS)
def test_nothing_there_says_where_to_get_it(tmp_path, cls, write):
    with pytest.raises(FileNotFoundError, match=r"Nothing is downloaded; get .*http"):
        cls(tmp_path)


@pytest.mark.parametrize(
    ("cls", "write", "names"),
    [
        (StanfordOnlineProducts, write_sop, ["Ebay_train.txt", "Ebay_test.txt"]),
        (FGVCAircraft, write_aircraft, ["variants.txt", "images_variant_trainval.txt", "images_variant_test.txt"]),
        (NABirds, write_nabirds, ["images.txt", "image_class_labels.txt", "classes.txt"]),
        (Cars196, write_cars_by_class, ["names.csv", "anno_train.csv", "anno_test.csv"]),
    ],
)
def test_a_half_unpacked_folder_names_the_missing_file(tmp_path, cls, write, names):
    for name in names:
        folder = write(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            cls(folder)


@pytest.mark.parametrize(("cls", "write"), [(StanfordOnlineProducts, write_sop), (Flowers102, write_flowers), (StanfordDogs, write_dogs)])
def test_no_boxes_to_crop_to(tmp_path, cls, write):
    with pytest.raises(ValueError, match=f"no `crop` for {cls.__name__}"):
        cls(write(tmp_path), crop=True)


@pytest.mark.parametrize(
    ("cls", "write", "box"),
    [
        (InShop, write_inshop, [3, 4, 20, 30]),
        (FGVCAircraft, write_aircraft, [2, 1, 30, 40]),  # counted from 1, the last pixel included
        (NABirds, write_nabirds, [3, 4, 13, 24]),
        (Cars196, write_cars_by_class, [2, 3, 30, 40]),
    ],
)
def test_boxes(tmp_path, cls, write, box):
    dataset = cls(write(tmp_path), "all", crop=True)
    assert dataset.boxes[0].tolist() == box
    assert dataset[0][0].size == (box[2] - box[0], box[3] - box[1])


def test_products_and_their_kinds(tmp_path):
    folder = write_sop(tmp_path)
    train, test = StanfordOnlineProducts(folder), StanfordOnlineProducts(folder, "test")
    assert (ids(train), reds(train)) == ([1, 1, 7], [1, 2, 3])
    assert (ids(test), reds(test)) == ([11319, 11320], [59552 % 256, 59553 % 256])
    assert train.class_names == ["bicycle 1", "fan 7"]
    assert (train.super_class_ids.tolist(), train.super_class_names) == ([1, 5], ["bicycle", "fan"])
    assert (test.super_class_ids.tolist(), test.super_class_names) == ([5, 4], ["fan", "coffee_maker"])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (SOP_TRAIN, {9: (7, 5, "fan_final/9.JPG")}, r"no class in both Ebay_train.txt and Ebay_test.txt, but got 1: \[7\]"),
        ({**SOP_TRAIN, 4: (7, 6, "kettle_final/7.JPG")}, SOP_TEST, "Expected class 7 in super class 6 as before, but got 5"),
        ({**SOP_TRAIN, 4: ("x", 6, "kettle_final/7.JPG")}, SOP_TEST, r"Ebay_train.txt, line 2: Expected whole numbers"),
        ({}, SOP_TEST, "Ebay_train.txt: Expected at least one row"),
        ({1: (1, 1, "with a space.jpg")}, SOP_TEST, "line 2: Expected 4 values"),
    ],
)
def test_malformed_lists_of_products(tmp_path, train, test, message):
    with pytest.raises(ValueError, match=message):
        StanfordOnlineProducts(write_sop(tmp_path, train, test))


def test_lists_of_products_without_their_first_line(tmp_path):
    folder = write_sop(tmp_path)
    text(folder / "Ebay_train.txt", "1 1 1 bicycle_final/1_0.JPG")
    with pytest.raises(ValueError, match="Expected a line 'image_id class_id super_class_id path' first, got '1 1 1 bicycle"):
        StanfordOnlineProducts(folder)


@pytest.mark.parametrize(("eval_folder", "images"), [("Eval", "Img"), (".", "."), ("Eval", ".")])
def test_inshop_queries_and_gallery(tmp_path, eval_folder, images):
    folder = write_inshop(tmp_path, eval_folder=eval_folder, images=images)
    train, query, gallery, test = (InShop(folder, split) for split in ("train", "query", "gallery", "test"))
    assert reds(train) == [0]
    assert (reds(query), reds(gallery), reds(test)) == ([1, 4], [2, 3], [1, 2, 3, 4])
    assert query.class_names == gallery.class_names == test.class_names == ["id_00000005", "id_00000009"]
    assert (query.labels.tolist(), gallery.labels.tolist(), test.labels.tolist()) == ([1, 0], [0, 1], [1, 0, 1, 0])
    assert test.is_query.tolist() == [True, False, False, True]
    assert query.is_query.all()
    assert not gallery.is_query.any()
    assert not train.is_query.any()
    with pytest.raises(ValueError, match=r"`split`.*Did you mean 'query'"):
        InShop(folder, "queries")


def test_inshop_splits_follow_images_that_are_skipped(tmp_path):
    folder = write_inshop(tmp_path)
    InShop(folder, "query").paths[0].unlink()
    assert reds(InShop(folder, "query", missing="skip")) == [4]
    assert InShop(folder, "test", missing="skip").is_query.tolist() == [False, False, True]
    assert InShop(folder, "gallery", missing="skip", train_classes=2).class_names == ["id_00000009"]


@pytest.mark.parametrize(
    ("rows", "count", "message"),
    [
        (INSHOP, 52712, "as many rows as its first line says, '52712', but got 5; is it whole"),
        ([*INSHOP, ("img/x.jpg", "id_00000002", "query")], None, r"both in training and test, but got 1: \['id_00000002'\]"),
        ([*INSHOP, ("img/x.jpg", "id_00000077", "val")], None, "line 8: Expected train, query or gallery, but got 'val'"),
        ([*INSHOP, INSHOP[0]], None, "line 8: Expected each image once"),
    ],
)
def test_malformed_inshop_list(tmp_path, rows, count, message):
    with pytest.raises(ValueError, match=message):
        InShop(write_inshop(tmp_path, rows, count=count))


def test_inshop_boxes_that_are_missing(tmp_path):
    folder = write_inshop(tmp_path)
    boxes = folder / "Anno" / "list_bbox_inshop.txt"
    text(boxes, 1, "image_name clothes_type pose_type x_1 y_1 x_2 y_2", f"{INSHOP[0][0]} 1 1 3 4 20 30")
    with pytest.raises(ValueError, match=r"a line for every image, but 4 have none: img/WOMEN"):
        InShop(folder, crop=True)
    boxes.unlink()
    with pytest.raises(FileNotFoundError, match=r"list_bbox_inshop\.txt"):
        InShop(folder, crop=True)


def test_aircraft_variants_numbers_and_banner(tmp_path):
    folder = write_aircraft(tmp_path)
    train, test = FGVCAircraft(folder), FGVCAircraft(tmp_path, "test")
    assert ids(train) == [50, 1, 1]
    assert [path.name for path in train.paths] == ["0034309.jpg", "0056978.jpg", "1025794.jpg"]  # zeros in front stay
    assert ids(test) == [51, 99]
    assert test.class_names == ["Variant 51", "F/A-18"]
    assert train[0][0].size == (40, 60 - 20)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({**AIRCRAFT_TEST, "1": "F-16"}, r"images_variant_test.txt: Expected a variant of variants.txt for image 1, but got 'F-16'"),
        ({**AIRCRAFT_TEST, "0034309": "Variant 1"}, "Expected variant 'Variant 50' for image 0034309 as before, but got 'Variant 1'"),
    ],
)
def test_malformed_labels_of_aircraft(tmp_path, test, message):
    with pytest.raises(ValueError, match=message):
        FGVCAircraft(write_aircraft(tmp_path, test=test))


def test_nabirds_are_joined_by_their_ids(tmp_path):
    folder = write_nabirds(tmp_path)
    train, test = NABirds(folder), NABirds(folder, "test")
    assert train.class_ids.tolist() == [295, 700]
    assert test.class_ids.tolist() == [817, 1010]
    assert train.class_names[0] == "Bird 295 (Adult male)"
    order = sorted(BIRDS)
    assert [order[red] for red in reds(test)] == ["0000139e-21dc", "0001afd4", "9"]
    assert ids(test) == [817, 817, 1010]


def test_nabirds_split_does_not_move_with_missing_images(tmp_path):
    folder = write_nabirds(tmp_path)
    shutil.rmtree(folder / "images" / "0295")
    assert NABirds(folder, missing="skip").class_ids.tolist() == [700]


def test_flowers(tmp_path):
    folder = write_flowers(tmp_path)
    train, test = Flowers102(folder), Flowers102(folder, "test")
    assert (ids(train), reds(train)) == ([51, 1, 51], [2, 3, 5])
    assert (ids(test), reds(test)) == ([77, 102], [1, 4])
    assert train.class_names == ["pink primrose", "petunia"]
    assert test.class_names == ["passion flower", "blackberry lily"]
    assert len(FLOWERS) == len(set(FLOWERS)) == 102
    (folder / "setid.mat").unlink()
    assert len(Flowers102(folder, "all")) == 5


@pytest.mark.parametrize(("labels", "last", "message"), [((1, 103), None, "classes 1 to 102"), ((1, 2), 8189, "labels of 8189 images")])
def test_malformed_labels_of_flowers(tmp_path, labels, last, message):
    with pytest.raises(ValueError, match=message):
        Flowers102(write_flowers(tmp_path, labels, last=last))


@pytest.mark.parametrize("lists", [("file_list.mat",), ("train_list.mat", "test_list.mat")])
def test_dogs_by_list(tmp_path, lists):
    folder = write_dogs(tmp_path, lists)
    train, test = StanfordDogs(folder), StanfordDogs(folder, "test")
    assert ids(train) == [1, 1, 37]
    assert ids(test) == [120]
    assert train.class_names == ["Chihuahua", "Yorkshire_terrier"]
    assert reds(test) == [3]


def test_dogs_by_folder(tmp_path):
    folder = write_dogs(tmp_path, lists=())
    (folder / "Images" / "n02085620-Chihuahua" / "notes.txt").write_text("not an image")
    (folder / "Images" / ".DS_Store").write_text("")
    assert ids(StanfordDogs(folder, "all")) == [1, 1, 2, 3]
    assert StanfordDogs(tmp_path).class_names == ["Chihuahua", "Yorkshire_terrier"]
    assert StanfordDogs(tmp_path, "test").class_names == ["African_hunting_dog"]


def test_dogs_with_half_of_the_lists_or_malformed_ones(tmp_path):
    folder = write_dogs(tmp_path, ("train_list.mat",))
    with pytest.raises(FileNotFoundError, match=r"test_list\.mat in .*lists\.tar"):
        StanfordDogs(folder)
    for files, labels, message in (
        (list(DOGS), [[1]], "a label per file, but got 1 labels and 4 files"),
        (["n1-A/1.jpg", "n2-B/1.jpg"], [[1], [1]], "one folder for class 1, but the lists say 'n1-A' and 'n2-B'"),
        (["n1-A/1.jpg"], [[0]], "labels from 1 on, but got 0"),
    ):
        savemat(folder / "file_list.mat", {"file_list": cells(files), "labels": np.array(labels, dtype=np.uint8)})
        with pytest.raises(ValueError, match=message):
            StanfordDogs(folder)


@pytest.mark.parametrize("nested", ["car_data/car_data", "car_data"])
@pytest.mark.parametrize("header", [False, True])
def test_cars_by_class(tmp_path, nested, header):
    folder = write_cars_by_class(tmp_path, nested=nested, header=header)
    train, test = Cars196(folder), Cars196(folder, "test")
    assert (ids(train), reds(train)) == ([1, 98], [1, 98])
    assert (ids(test), reds(test)) == ([174, 174], [174, 174])
    assert test.class_names == ["Ram C/V Cargo Van Minivan 2012"]
    assert [path.parent.name for path in test.paths] == ["Ram C-V Cargo Van Minivan 2012"] * 2
    assert [path.parent.parent.name for path in test.paths] == ["train", "test"]


def test_cars_by_class_may_lack_a_half(tmp_path):
    assert ids(Cars196(write_cars_by_class(tmp_path, {"test": CARS["test"]}), "all")) == [98, 174]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00003.jpg,1,2,3,4,197", "Expected classes 1 to 196, but row 3 has class 197"),
        ("00003.jpg,1,2,3,4", "line 3: Expected a file and 5 whole numbers"),
        ("00003.jpg,1,2,3,4,x", "line 3: Expected a file and 5 whole numbers"),
        ('"00003.jpg,1,2,3,4,5', "is not CSV"),
    ],
)
def test_malformed_cars_by_class(tmp_path, line, message):
    folder = write_cars_by_class(tmp_path)
    path = folder / "anno_train.csv"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ValueError, match=message):
        Cars196(folder)
    assert len(CAR_NAMES) == 196


def test_omniglot_with_its_evaluation_set(tmp_path):
    write_omniglot(tmp_path)
    for root in (tmp_path, tmp_path / "images_background"):
        train, test = Omniglot(root, evaluation=True), Omniglot(root, "test", evaluation=True)
        assert {name.split("/")[0] for name in train.class_names} == {"Greek", "Korean", "Latin"}
        assert {name.split("/")[0] for name in test.class_names} == {"Angelic", "Tengwar"}
        assert (len(train), len(test)) == (6, 4)
        assert test.paths[0].parts[-4] == "images_evaluation"
    assert Omniglot(tmp_path, "all").num_classes == 6
    shutil.rmtree(tmp_path / "images_evaluation")
    with pytest.raises(FileNotFoundError, match=r"No images_evaluation/"):
        Omniglot(tmp_path, evaluation=True)


def test_a_grey_image_in_place_of_a_coloured_one(tmp_path):
    folder = write_dogs(tmp_path)
    dataset = StanfordDogs(folder, "all")
    picture(dataset.paths[0], 200, mode="L")
    assert dataset[0][0].mode == "RGB"
