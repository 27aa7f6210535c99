"""CUB200 on small folders of its layout, one per trap."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from metriczoo.data import CUB200, to_tensor

CLASSES = {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross", 101: "101.White_Pelican", 200: "200.Common_Yellowthroat"}
# id: (class, file, value of the red channel); the ids have gaps and the files are in no order
IMAGES = {
    7: (1, "Black_Footed_Albatross_0046_18.jpg.png", 70),
    3: (101, "b.png", 30),
    12: (1, "a.png", 120),
    5: (200, "c.png", 50),
    900: (2, "d.png", 90),
}


def write(root, *, classes=CLASSES, images=IMAGES, newline="\n"):
    folder = root / "CUB_200_2011"
    for class_, file, red in images.values():
        path = folder / "images" / classes[class_] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (red, 0, 0)).save(path)

    def table(name, rows):
        (folder / name).write_bytes("".join(f"{key} {value}{newline}" for key, value in rows).encode())

    table("classes.txt", classes.items())
    table("images.txt", [(key, f"{classes[class_]}/{file}") for key, (class_, file, _) in images.items()])
    table("image_class_labels.txt", [(key, images[key][0]) for key in sorted(images, reverse=True)])  # another order than images.txt
    table("train_test_split.txt", [(key, key % 2) for key in range(1, 2000)])  # about images that are not here
    return folder


def reds(dataset):
    return [dataset[i][0].getpixel((0, 0))[0] for i in range(len(dataset))]


def test_rows_are_joined_by_id_and_split_by_class(tmp_path):
    folder = write(tmp_path)
    train, test, everything = (CUB200(folder, split) for split in ("train", "test", "all"))
    assert reds(train) == [70, 120, 90]
    assert reds(test) == [30, 50]
    assert reds(everything) == [30, 50, 70, 120, 90]
    assert train.labels.tolist() == [0, 0, 1]
    assert train.labels.dtype == np.int64
    assert train.class_ids.tolist() == [1, 2]
    assert train.class_names == [CLASSES[1], CLASSES[2]]
    assert test.class_ids.tolist() == [101, 200]
    assert test.labels.tolist() == [0, 1]
    assert everything.class_ids[everything.labels].tolist() == [101, 200, 1, 1, 2]
    assert [path.name for path in train.paths] == [IMAGES[7][1], "a.png", "d.png"]
    assert train[-1][1] == 1
    assert len(train) == 3
    assert train.num_classes == 2
    assert repr(train) == "CUB200(split='train', images=3, classes=2)"
    assert train.boxes is None
    assert train.skipped == 0


def test_the_root_may_be_the_parent(tmp_path):
    write(tmp_path)
    assert reds(CUB200(str(tmp_path), "all")) == reds(CUB200(tmp_path / "CUB_200_2011", "all"))
    write(tmp_path / "other").rename(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"one copy .*\['CUB_200_2011', 'copy'\]"):
        CUB200(tmp_path)


def test_windows_line_ends_byte_order_mark_and_blank_lines(tmp_path):
    folder = write(tmp_path, newline="\r\n")
    path = folder / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert CUB200(folder).class_names == [CLASSES[1], CLASSES[2]]


@pytest.mark.parametrize(("count", "train", "test"), [(1, [1], [2, 101, 200]), (3, [1, 2, 101], [200])])
def test_train_classes_takes_the_lowest_ids_present(tmp_path, count, train, test):
    folder = write(tmp_path)
    assert CUB200(folder, "train", train_classes=count).class_ids.tolist() == train
    assert CUB200(folder, "test", train_classes=count).class_ids.tolist() == test


@pytest.mark.parametrize(("count", "error"), [(4, "4 of 4 classes"), (9, "9 of 4"), (0, "at least 1")])
def test_train_classes_out_of_range(tmp_path, count, error):
    with pytest.raises(ValueError, match=error):
        CUB200(write(tmp_path), train_classes=count)


def test_a_split_without_images_points_to_train_classes(tmp_path):
    folder = write(tmp_path, images={key: value for key, value in IMAGES.items() if value[0] < 100})
    with pytest.raises(ValueError, match=r"split 'test'.*2 classes found \(ids 1 to 2\).*`train_classes`"):
        CUB200(folder, "test")


def test_every_image_becomes_rgb(tmp_path):
    folder = write(tmp_path)
    paths = CUB200(folder, "all").paths
    Image.new("L", (9, 9), 77).save(paths[0])
    Image.new("CMYK", (9, 9)).save(paths[1], format="TIFF")
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(paths[2], transparency=b"\x00\x80")  # Pillow warns about these
    Image.fromarray(np.full((9, 9), 77 * 256, dtype=np.uint16)).save(paths[3])
    Image.new("RGBA", (9, 9), (1, 2, 3, 4)).save(paths[4])
    images = [CUB200(folder, "all")[i][0] for i in range(5)]
    assert {image.mode for image in images} == {"RGB"}
    assert [image.getpixel((0, 0)) for image in images] == [(77,) * 3, (255,) * 3, (10, 20, 30), (77,) * 3, (1, 2, 3)]


def test_transform_and_pickle(tmp_path):
    dataset = pickle.loads(pickle.dumps(CUB200(write(tmp_path), transform=to_tensor)))
    image, label = dataset[1]
    assert image.shape == (3, 30, 40)
    assert label == 0
    assert image[0, 0, 0].item() == pytest.approx(120 / 255)
    assert image[1:].abs().max() == 0


def test_boxes_cut_the_image(tmp_path):
    folder = write(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(CUB200(folder).paths[0])
    boxes = {**dict.fromkeys(IMAGES, "0.0 0.0 40.0 30.0"), 7: "5.0 4.0 20.0 10.0", 4000: "1 1 1 1"}
    (folder / "bounding_boxes.txt").write_text("".join(f"{key} {value}\n" for key, value in boxes.items()))
    train = CUB200(folder, crop=True)
    assert np.array_equal(np.asarray(train[0][0]), pixels[4:14, 5:25])
    assert train.boxes.tolist() == [[5, 4, 25, 14], [0, 0, 40, 30], [0, 0, 40, 30]]
    assert CUB200(folder)[0][0].size == (40, 30)

    (folder / "bounding_boxes.txt").write_text("7 5.0 4.0 20.0 10.0\n")
    with pytest.raises(ValueError, match=r"bounding_boxes.txt: .*4 have none: ids \[3, 5, 12, 900\]"):
        CUB200(folder, crop=True)
    (folder / "bounding_boxes.txt").write_text("".join(f"{key} 1 2 3\n" for key in IMAGES))
    with pytest.raises(ValueError, match=r"x, y, width and height for image 3, but got '1 2 3'"):
        CUB200(folder, crop=True)
    (folder / "bounding_boxes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"No bounding_boxes\.txt in .*CUB_200_2011"):
        CUB200(folder, crop=True)


@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "classes.txt"])
def test_a_missing_index_file_is_named_with_place_and_source(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"No {name} in {tmp_path}.*vision.caltech.edu"):
        CUB200(tmp_path)


def test_a_root_that_is_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere"):
        CUB200(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        CUB200(tmp_path / "file")


def test_missing_images(tmp_path):
    folder = write(tmp_path)
    for path in CUB200(folder, "train").paths[:2]:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 3 listed images are missing: .*0046_18.*a\.png\..*missing='skip'.*caltech"):
        CUB200(folder, "train")
    assert len(CUB200(folder, "test")) == 2  # only the split asked for is checked
    skipping = CUB200(folder, "train", missing="skip")
    assert reds(skipping) == [90]
    assert skipping.labels.tolist() == [0]
    assert skipping.class_ids.tolist() == [2]
    assert skipping.skipped == 2
    assert CUB200(folder, "train", missing="skip", train_classes=2).class_ids.tolist() == [2, 101]  # ids present, after skipping
    keeping = CUB200(folder, "train", missing="keep")
    assert keeping.labels.tolist() == [0, 0, 1]
    with pytest.raises(FileNotFoundError, match="0046_18"):
        keeping[0]
    for path in CUB200(folder, "all", missing="skip").paths:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="5 of 5 listed images"):
        CUB200(folder, missing="skip")
    with pytest.raises(ValueError, match=r"`missing`.*Did you mean 'skip'"):
        CUB200(folder, missing="skipp")


def test_labels_alone_can_be_counted(tmp_path):
    folder = write(tmp_path)
    (folder / "images.txt").unlink()
    dataset = CUB200(folder, "train", missing="keep")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.paths == []
    with pytest.raises(FileNotFoundError, match="labels only"):
        dataset[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.txt", b"7 x.png\nseven y.png\n", "images.txt, line 2: .*but got 'seven y.png'"),
        ("images.txt", b"7\n", "images.txt, line 1"),
        ("images.txt", b"0 x.png\n", "images.txt, line 1: Expected an id from 1 on"),
        ("images.txt", b"7 x.png\n\n7 y.png\n", "images.txt, line 3: Expected each id once, but 7"),
        ("images.txt", b"\n", "images.txt: Expected at least one line"),
        ("images.txt", b"7 \xff\xfe.png\n", "images.txt is not UTF-8"),
        ("images.txt", b"7 x.png\n8 y.png\n9 z.png\n", r"image_class_labels.txt: .*2 have none: ids \[8, 9\]"),
        ("image_class_labels.txt", b"7 1\n3 bird\n12 1\n5 2\n900 2\n", "class id of classes.txt for image 3, but got 'bird'"),
        ("image_class_labels.txt", b"7 1\n3 999\n12 1\n5 2\n900 2\n", "for image 3, but got '999'"),
        ("classes.txt", b"001.Black_footed_Albatross\n", "classes.txt, line 1"),
    ],
)
def test_malformed_text(tmp_path, name, content, message):
    folder = write(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        CUB200(folder, "all")


def test_a_broken_image_is_named(tmp_path):
    folder = write(tmp_path)
    dataset = CUB200(folder, "all")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    for index, kind in enumerate(("JPEG", "PNG")):
        noise.save(dataset.paths[index], format=kind)
        dataset.paths[index].write_bytes(dataset.paths[index].read_bytes()[:900])
    dataset.paths[2].write_text("no image")
    dataset.paths[3].write_bytes(b"")
    for index in range(4):
        with pytest.raises(OSError, match=rf"{dataset.paths[index].name} is not a readable image"):
            dataset[index]
    assert dataset[4][0].size == (40, 30)
