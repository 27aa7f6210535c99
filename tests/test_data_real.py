"""The readers on the real files: official counts, and subsets of real images."""

from __future__ import annotations

import numpy as np
import pytest

from metriczoo.data import CUB200, Cars196, ImageFolder, Omniglot, PKSampler, load


@pytest.mark.parametrize(
    ("cls", "split", "images", "classes"),
    [
        (CUB200, "train", 5864, 100),
        (CUB200, "test", 5924, 100),
        (CUB200, "all", 11788, 200),
        (Cars196, "train", 8054, 98),
        (Cars196, "test", 8131, 98),
        (Cars196, "all", 16185, 196),
    ],
)
def test_official_counts(real_data, cls, split, images, classes):
    dataset = cls(real_data / "official_annotations", split, missing="keep")
    assert (len(dataset), dataset.num_classes) == (images, classes)
    assert np.array_equal(np.unique(dataset.labels), np.arange(classes))


def test_both_cars_layouts_hold_the_same_classes(real_data, tmp_path):
    official = real_data / "official_annotations" / "Cars196"
    (tmp_path / "devkit").symlink_to(official / "devkit")
    (tmp_path / "cars_test_annos_withlabels.mat").symlink_to(official / "cars_test_annos_withlabels.mat")
    devkit = Cars196(tmp_path, "all", missing="keep", crop=True)
    original = Cars196(official, "all", missing="keep", crop=True)
    assert len(devkit) == len(original) == 16185
    assert devkit.class_names == original.class_names
    assert np.array_equal(np.bincount(devkit.labels), np.bincount(original.labels))
    assert (original.boxes[:, :2] >= 0).all()
    assert (original.boxes[:, 2:] > original.boxes[:, :2]).all()


def check_images(dataset, count=8):
    for index in np.linspace(0, len(dataset) - 1, count).astype(int):
        image, label = dataset[index]
        assert image.mode == "RGB"
        assert min(image.size) > 20
        assert label == dataset.labels[index]


def test_cub_crops(real_data):
    train, test = CUB200(real_data / "cub100_crops"), CUB200(real_data / "cub100_crops", "test")
    assert (len(train), train.num_classes, len(test), test.num_classes) == (3428, 58, 2474, 42)
    assert train.class_ids.max() <= 100 < test.class_ids.min()
    for dataset in (train, test):
        check_images(dataset)
        assert all(path.parent.name == dataset.class_names[label] for path, label in zip(dataset.paths, dataset.labels, strict=True))
    assert all(len({test.labels[i] for i in batch}) == 8 for batch in PKSampler(test.labels, 8, 4))


def test_untouched_cub_images_with_gaps_in_the_ids(real_data):
    root = real_data / "cub_mini_original" / "CUB_200_2011"
    dataset = CUB200(root, crop=True)
    assert (len(dataset), dataset.num_classes) == (80, 8)
    check_images(dataset, 80)
    plain = CUB200(root)
    assert all(dataset[i][0].size <= plain[i][0].size and dataset[i][0].size != plain[i][0].size for i in range(0, 80, 9))
    assert CUB200(root, "test", train_classes=5).class_names == ["013.Bobolink", "014.Indigo_Bunting", "015.Lazuli_Bunting"]
    with pytest.raises(ValueError, match="train_classes"):
        CUB200(root, "test")


def test_cars_crops_have_a_train_half_only(real_data):
    train, test = (load("cars", real_data / "cars_crops", split, crop=True) for split in ("train", "test"))
    assert (len(train) + len(test), train.num_classes, test.num_classes) == (1668, 20, 20)
    assert train.class_ids.max() <= 98 < test.class_ids.min()
    check_images(test)


def test_omniglot(real_data):
    train, test = Omniglot(real_data / "omniglot"), Omniglot(real_data, "test")
    assert (len(train), train.num_classes, len(test), test.num_classes) == (12660, 633, 6620, 331)
    alphabets = [{name.split("/")[0] for name in dataset.class_names} for dataset in (train, test)]
    assert [len(names) for names in alphabets] == [20, 10]
    assert not alphabets[0] & alphabets[1]
    assert set(np.bincount(train.labels)) == {20}
    ink = np.asarray(test[100][0])
    assert ink.shape == (105, 105)
    assert set(np.unique(ink)) == {0, 255}
    assert 0.01 < (ink > 0).mean() < 0.2


def test_a_real_folder_of_classes(real_data):
    dataset = ImageFolder(real_data / "cub100_crops" / "CUB_200_2011" / "images", "test")
    assert dataset.num_classes == 50
    check_images(dataset)
