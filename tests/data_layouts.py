"""Small copies of the official layouts of data sets, written by tests."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(path, red=0, *, size=(40, 60), mode="RGB", **options):
    """An image whose red channel (or grey value) tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).convert(mode).save(path, format="PNG", **options)  # Pillow goes by the content
    return path


def reds(dataset):
    return [dataset[i][0].getpixel((0, 0))[0] for i in range(len(dataset))]


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def cells(values):
    """A column of a cell array."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


SOP_TRAIN = {1: (1, 1, "bicycle_final/1_0.JPG"), 2: (1, 1, "bicycle_final/1_1.JPG"), 3: (7, 5, "fan_final/7_0.JPG")}
SOP_TEST = {59552: (11319, 5, "fan_final/9_0.JPG"), 59553: (11320, 4, "coffee_maker_final/8_0.JPG")}


def write_sop(root, train=SOP_TRAIN, test=SOP_TEST):
    folder = root / "Stanford_Online_Products"
    for name, rows in (("Ebay_train.txt", train), ("Ebay_test.txt", test)):
        lines = [f"{image} {class_id} {kind} {file}" for image, (class_id, kind, file) in reversed(rows.items())]
        text(folder / name, "image_id class_id super_class_id path", *lines)
        for image, (_, _, file) in rows.items():
            picture(folder / file, image % 256)
    return folder


INSHOP = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000009/01_1_front.jpg", "id_00000009", "query"),
    ("img/MEN/Denim/id_00000005/01_2_side.jpg", "id_00000005", "gallery"),
    ("img/WOMEN/Dresses/id_00000009/01_3_back.jpg", "id_00000009", "gallery"),
    ("img/MEN/Denim/id_00000005/01_1_front.jpg", "id_00000005", "query"),
]


def write_inshop(root, rows=INSHOP, *, count=None, eval_folder="Eval", images="Img"):
    folder = root / "inshop"
    header = "image_name   item_id evaluation_status"
    text(folder / eval_folder / "list_eval_partition.txt", count or len(rows), header, *("   ".join(row) for row in rows))
    boxes = [f"{file} 1 1 {number + 3} 4 20 30" for number, (file, _, _) in enumerate(rows)]
    text(folder / "Anno" / "list_bbox_inshop.txt", len(rows), "image_name clothes_type pose_type x_1 y_1 x_2 y_2", *boxes)
    for number, (file, _, _) in enumerate(rows):
        picture(folder / images / file, number)
    return folder


VARIANTS = [f"Variant {number}" for number in range(1, 99)] + ["F/A-18", "737-700"]
AIRCRAFT_TRAIN = {"0034309": "Variant 50", "1025794": "Variant 1"}
AIRCRAFT_TEST = {"0900914": "F/A-18", "0056978": "Variant 1", "0698580": "Variant 51"}


def write_aircraft(root, train=AIRCRAFT_TRAIN, test=AIRCRAFT_TEST):
    folder = root / "fgvc-aircraft-2013b" / "data"
    text(folder / "variants.txt", *VARIANTS)
    for name, labels in (("trainval", train), ("test", test)):
        text(folder / f"images_variant_{name}.txt", *(f"{image} {variant}" for image, variant in labels.items()))
    text(folder / "images_box.txt", *(f"{image} 3 2 30 40" for image in (*train, *test)))
    for number, image in enumerate(sorted({**train, **test})):
        picture(folder / "images" / f"{image}.jpg", number)
    return folder


BIRDS = {"0000139e-21dc": 817, "fff0": 295, "0001afd4": 817, "0a-b": 700, "9": 1010}


def write_nabirds(root, images=BIRDS):
    folder = root / "nabirds"
    text(
        folder / "classes.txt",
        "0 Birds",
        "1 Ducks, Geese, and Swans",
        *(f"{c} Bird {c} (Adult male)" for c in sorted(set(images.values()))),
    )
    text(folder / "images.txt", *(f"{image} {class_id:04}/{image.replace('-', '')}.jpg" for image, class_id in images.items()))
    text(folder / "image_class_labels.txt", *(f"{image} {class_id}" for image, class_id in sorted(images.items())))
    text(folder / "bounding_boxes.txt", *(f"{image} 3 4 10 20" for image in images))
    for number, (image, class_id) in enumerate(sorted(images.items())):
        picture(folder / "images" / f"{class_id:04}" / f"{image.replace('-', '')}.jpg", number)
    return folder


def write_flowers(root, labels=(77, 51, 1, 102, 51), *, last=None):
    folder = root / "flowers"
    for number in range(1, len(labels) + 1):
        picture(folder / "jpg" / f"image_{number:05}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    ids = np.array([[1, last or len(labels)]], dtype=np.uint16)
    savemat(folder / "setid.mat", {"trnid": ids, "valid": ids, "tstid": ids})
    return folder


DOGS = {
    "n02085620-Chihuahua/n02085620_10074.jpg": 1,
    "n02085620-Chihuahua/n02085620_7.jpg": 1,
    "n02094433-Yorkshire_terrier/n02094433_1.jpg": 37,
    "n02116738-African_hunting_dog/n02116738_1.jpg": 120,
}


def write_dogs(root, lists=("file_list.mat",), dogs=DOGS):
    folder = root / "dogs"
    for number, file in enumerate(sorted(dogs)):
        picture(folder / "Images" / file, number)
    rows = list(dogs.items())
    parts = {"file_list.mat": rows, "train_list.mat": rows[::2], "test_list.mat": rows[1::2]}
    for name in lists:
        files, labels = [file for file, _ in parts[name]], np.array([[label] for _, label in parts[name]], dtype=np.uint8)
        savemat(folder / name, {"file_list": cells(files), "labels": labels})
    return folder


CAR_NAMES = [f"Model {number} 2012" for number in range(1, 197)]
CAR_NAMES[173] = "Ram C/V Cargo Van Minivan 2012"
CARS = {"train": [("00001.jpg", 174), ("00002.jpg", 1)], "test": [("00001.jpg", 98), ("00002.jpg", 174)]}


def write_cars_by_class(root, cars=CARS, nested="car_data/car_data", header=False):
    folder = root / "cars"
    text(folder / "names.csv", *CAR_NAMES)
    for half, rows in cars.items():
        lines = [f"{file},3,4,30,40,{class_id}" for file, class_id in rows]
        text(folder / f"anno_{half}.csv", *(["file,x1,y1,x2,y2,class"] if header else []), *lines)
        for file, class_id in rows:
            name = CAR_NAMES[class_id - 1].replace("/", "-")
            picture(folder / nested / half / name / file, class_id % 256)
    return folder


def write_omniglot(root):
    seed = 0
    for part, alphabets in {"images_background": ("Greek", "Korean", "Latin"), "images_evaluation": ("Angelic", "Tengwar")}.items():
        for alphabet in alphabets:
            for character in ("character01", "character02"):
                path = root / part / alphabet / character / f"{seed:04}_01.png"
                path.parent.mkdir(parents=True)
                Image.new("1", (105, 105), 1).save(path)
                seed += 1
    return root
