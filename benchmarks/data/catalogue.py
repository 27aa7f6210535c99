"""What is known of each data set: where it comes from, its terms, its files, and how many images it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CATALOGUE", "Entry", "Part"]


@dataclass(frozen=True)
class Part:
    """A file, or a folder if its name ends in a slash, that a data set is made of."""

    names: tuple[str, ...]  # any of these, relative to the folder of the data
    optional_for: str = ""  # what it is needed for, if the readers do without

    def found(self, folder: Path) -> str | None:
        """The name that is there, if any; an empty folder is not."""
        return next((name for name in self.names if _is_there(folder / name, is_folder=name.endswith("/"))), None)


def _is_there(path: Path, *, is_folder: bool) -> bool:
    if not is_folder:
        return path.is_file()
    return path.is_dir() and next(path.iterdir(), None) is not None


@dataclass(frozen=True)
class Entry:
    """A data set."""

    title: str
    page: str
    size: str
    terms: str
    layouts: Mapping[str, tuple[Part, ...]]  # what it is called -> its parts
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # split -> official images and classes
    note: str = ""


def _parts(*names: str | tuple[str, ...], **optional: tuple[str, ...]) -> tuple[Part, ...]:
    """Needed parts, each by a name or several to choose from, then optional ones by what they are needed for."""
    needed = [Part((name,) if isinstance(name, str) else name) for name in names]
    return (*needed, *(Part((name,), purpose) for purpose, of in optional.items() for name in of))


_ANY = "that of your files"
_SUPER_CLASSES = (
    *("bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle"),
    *("lamp", "mug", "sofa", "stapler", "table", "toaster"),
)
_RESEARCH = "non-commercial research and education; the photographers keep their rights"

CATALOGUE: Mapping[str, Entry] = {
    "aircraft": Entry(
        "FGVC-Aircraft",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        "2.75 GB",
        _RESEARCH,
        {"official": _parts("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt", "images/", crop=("images_box.txt",))},
        {"train": (5_000, 50), "test": (5_000, 50), "all": (10_000, 100)},
        "fgvc-aircraft-2013b.tar.gz; the files are in fgvc-aircraft-2013b/data",
    ),
    "cars": Entry(
        "Stanford Cars 196",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "1.9 GB",
        _RESEARCH,
        {
            "original": _parts("cars_annos.mat", "car_ims/"),
            "devkit": _parts(
                ("devkit/cars_meta.mat", "cars_meta.mat"),
                ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
                ("devkit/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat"),
                "cars_train/",
                "cars_test/",
            ),
            "by class": _parts(
                "names.csv",
                "anno_train.csv",
                "anno_test.csv",
                ("car_data/car_data/train/", "car_data/train/"),
                ("car_data/car_data/test/", "car_data/test/"),
            ),
        },
        {"train": (8_054, 98), "test": (8_131, 98), "all": (16_185, 196)},
    ),
    "csv": Entry(
        "a CSV file of your own", "", _ANY, _ANY, {}, note="columns `path` and `label`; others, and one of splits: see --data-option"
    ),
    "cub": Entry(
        "Caltech-UCSD Birds 200-2011",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "1.2 GB",
        _RESEARCH,
        {"official": _parts("images.txt", "image_class_labels.txt", "classes.txt", "images/", crop=("bounding_boxes.txt",))},
        {"train": (5_864, 100), "test": (5_924, 100), "all": (11_788, 200)},
        "CUB_200_2011.tgz",
    ),
    "dogs": Entry(
        "Stanford Dogs",
        "http://vision.stanford.edu/aditya86/ImageNetDogs/",
        "0.8 GB",
        "terms of ImageNet: non-commercial research and education",
        {
            "official": _parts(("file_list.mat", "train_list.mat"), "Images/"),
            "folders without lists": _parts("Images/"),
        },
        {"train": (10_651, 60), "test": (9_929, 60), "all": (20_580, 120)},
        "images.tar and lists.tar, unpacked into one folder",
    ),
    "features": Entry("cached features of your own", "", _ANY, _ANY, {}, note="an .npz file of `X` [n, d] and `y` [n]"),
    "flowers": Entry(
        "Oxford 102 Flowers",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        "0.35 GB",
        "none stated; the photographers keep their rights",
        {"official": _parts("imagelabels.mat", "jpg/")},
        {"train": (3_493, 51), "test": (4_696, 51), "all": (8_189, 102)},
        "102flowers.tgz and imagelabels.mat, unpacked into one folder",
    ),
    "folder": Entry("class folders of your own", "", _ANY, _ANY, {}, note="<class name>/<image>"),
    "glyphs": Entry(
        "Glyphs, drawn by metriczoo",
        "",
        "nothing to get",
        "the typefaces of matplotlib are free",
        {},
        {"train": (3_003, 200), "test": (2_524, 200), "all": (5_527, 400)},
    ),
    "inshop": Entry(
        "DeepFashion In-Shop Clothes",
        "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        "see its page",
        "non-commercial research, after an agreement with the authors",
        {
            "official": _parts(
                ("Eval/list_eval_partition.txt", "list_eval_partition.txt"),
                ("Img/img/", "img/"),
                crop=("Anno/list_bbox_inshop.txt",),
            )
        },
        {
            "train": (25_882, 3_997),
            "query": (14_218, 3_985),
            "gallery": (12_612, 3_985),
            "test": (26_830, 3_985),
            "all": (52_712, 7_982),
        },
        "unpack Img/img.zip into Img/, too",
    ),
    "nabirds": Entry(
        "NABirds",
        "https://dl.allaboutbirds.org/nabirds",
        "10 GB",
        "non-commercial research, after an agreement with the Cornell Lab of Ornithology",
        {"official": _parts("images.txt", "image_class_labels.txt", "classes.txt", "images/", crop=("bounding_boxes.txt",))},
        {"all": (48_562, 555)},
        "nabirds.tar.gz; there is no customary split by class: 278 classes train, 277 test",
    ),
    "omniglot": Entry(
        "Omniglot",
        "https://github.com/brendenlake/omniglot",
        "16 MB",
        "MIT",
        {
            "official": _parts("images_background/", **{"evaluation": ("images_evaluation/",)}),
            "arrays": _parts("omniglot_background.npz"),
        },
        {"train": (12_660, 633), "test": (6_620, 331), "all": (19_280, 964)},
        "images_background.zip and images_evaluation.zip; with --data-option evaluation=true the background set trains and the "
        "evaluation set tests",
    ),
    "sop": Entry(
        "Stanford Online Products",
        "https://cvgl.stanford.edu/projects/lifted_struct/",
        "3 GB",
        "see LICENSE in the archive; the photographs are of sellers on eBay",
        {
            "official": _parts(
                "Ebay_train.txt",
                "Ebay_test.txt",
                *(f"{kind}_final/" for kind in _SUPER_CLASSES),
            )
        },
        {"train": (59_551, 11_318), "test": (60_502, 11_316), "all": (120_053, 22_634)},
        "Stanford_Online_Products.zip",
    ),
}
