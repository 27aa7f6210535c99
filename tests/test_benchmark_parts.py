"""The parts of the retrieval benchmark: images, encoders, objectives."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from benchmarks.images.augmentation import LETTERS, PHOTOGRAPHS, Augmentation
from benchmarks.images.square import Square, center
from benchmarks.training.backbones import Backbone, Encoder, build_backbone
from benchmarks.training.losses import LOSSES, MINERS, Objective
from metriczoo.data import CUB200, Glyphs

# -- images ------------------------------------------------------------------


class OneImage:
    """A data set of one image."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.image, 7


@given(width=st.integers(8, 60), height=st.integers(8, 60), side=st.integers(4, 40), mode=st.sampled_from(["L", "RGB"]))
def test_square_is_the_middle_of_the_image(width, height, side, mode):
    shades = np.linspace(0, 255, width)[None].repeat(height, 0)  # falls from left to right, so the middle is 127.5
    image = Image.fromarray(shades.astype(np.uint8)).convert(mode)
    pixels, label, position = Square(OneImage(image), side)[3]
    assert pixels.shape == ((1 if mode == "L" else 3), side, side)
    assert (pixels.dtype, label, position) == (torch.uint8, 7, 3)
    assert pixels.float().mean().item() == pytest.approx(127.5, abs=3)
    slope = 255 / (width - 1) * min(width, height) / side
    assert (pixels[0, 0, -1].float() - pixels[0, 0, 0].float()).item() == pytest.approx(slope * (side - 1), abs=slope + 6)


def test_square_leaves_an_image_of_that_size_alone():
    glyphs = Glyphs("test")
    assert np.array_equal(Square(glyphs, 28)[5][0][0].numpy(), glyphs.images[5])


def random_images(n: int, channels: int = 1, side: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_center_is_what_no_distortion_leaves():
    images = random_images(3)
    torch.testing.assert_close(center(images, 12), images / 255)
    torch.testing.assert_close(center(images, 8), images[:, :, 2:10, 2:10] / 255)
    torch.testing.assert_close(Augmentation()(images, 12, torch.Generator()), images / 255, atol=1e-4, rtol=0)


def test_mirror_images_are_about_half():
    images = random_images(200)
    out = Augmentation(mirror=True)(images, 12, torch.Generator().manual_seed(0))
    plain, flipped = ((out - wanted / 255).abs().flatten(1).amax(1) < 1e-3 for wanted in (images, images.flip(3)))
    assert torch.equal(plain, ~flipped)
    assert 70 < plain.sum() < 130


def test_rotation_is_about_the_center():
    spot = torch.zeros(50, 1, 21, 21, dtype=torch.uint8)
    spot[:, :, 10, 10], spot[:, :, 10, 16] = 255, 255
    out = Augmentation(rotation=1.0)(spot, 21, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out[:, 0, 10, 10], torch.ones(50), atol=1e-3, rtol=0)
    assert (out[:, 0, 10, 16] < 0.5).sum() > 35


@pytest.mark.parametrize("augmentation", [LETTERS, PHOTOGRAPHS], ids=["letters", "photographs"])
def test_distortions_depend_on_the_generator_alone_and_differ_by_image(augmentation):
    images = random_images(1, 3, 32).expand(4, -1, -1, -1)
    one, same, other = (augmentation(images, 28, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == (4, 3, 28, 28)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert one.min() >= 0
    assert one.max() <= 1


def test_photographs_are_seen_in_part_and_never_beyond_their_border():
    white = torch.full((100, 1, 32, 32), 255, dtype=torch.uint8)
    inside = Augmentation(zoom=(0.6, 1.0), padding="zeros")(white, 28, torch.Generator().manual_seed(0))
    torch.testing.assert_close(inside[..., 1:-1, 1:-1], torch.ones(100, 1, 26, 26))


# -- encoders ----------------------------------------------------------------


def test_efficientnet_gives_the_known_features(real_data):
    """Features that were computed apart, with (x - 127) / 128."""
    known = np.load(real_data / "features" / "cub100_crops_efflite0.npz")
    birds = CUB200(real_data / "cub100_crops" / "CUB_200_2011", "all")
    rows = {str(path).split("images/")[-1]: row for row, path in enumerate(known["path"])}
    positions = range(0, len(birds), 700)
    names = [birds.paths[position].relative_to(birds.paths[position].parents[1]).as_posix() for position in positions]
    expected = torch.stack([torch.from_numpy(known["X"][rows[name]]).float() for name in names])
    encoder = Encoder(build_backbone("efficientnet_lite0", 3), 224, 8).eval()
    pixels = torch.stack([torch.from_numpy(np.array(birds[position][0].resize((224, 224)))) for position in positions])
    with torch.no_grad():
        found = encoder.features(pixels.permute(0, 3, 1, 2).float() / 255)
    assert torch.cosine_similarity(found, expected).min() > 0.97


def test_pretrained_statistics_stay_and_others_move():
    torch.manual_seed(0)
    for pretrained in (True, False):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        encoder = Encoder(Backbone(net, 3, pretrained=pretrained), 8, 2)
        before = net[1].running_mean.clone()
        encoder(torch.rand(4, 3, 8, 8)).sum().backward()
        assert torch.equal(net[1].running_mean, before) == pretrained
        assert net[1].weight.grad is not None
        assert encoder.training


def test_grey_images_stand_for_three_channels():
    encoder = Encoder(Backbone(nn.Flatten(), 3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)), 4, 2)
    grey = torch.rand(2, 1, 4, 4)
    expected = torch.cat([(grey - 0.1) / 1, (grey - 0.2) / 2, (grey - 0.3) / 4], dim=1).flatten(1)
    torch.testing.assert_close(encoder.features(grey), expected)


class FakeTimm:
    """As much of timm as is used."""

    def __init__(self, *, online: bool = True) -> None:
        self.online, self.made = online, []
        self.data = SimpleNamespace(resolve_model_data_config=lambda net: {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)})

    def is_model(self, name: str) -> bool:
        return name in self.list_models()

    def list_models(self) -> list[str]:
        return ["resnet18", "resnet50"]

    def create_model(self, name: str, **options: object) -> nn.Module:
        if not self.online:
            raise ConnectionError("no route to the hub")
        self.made.append((name, options))
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


def test_models_of_timm_come_with_weights_and_scale(monkeypatch):
    timm = FakeTimm()
    monkeypatch.setitem(sys.modules, "timm", timm)
    backbone = build_backbone("resnet18", 1)
    assert timm.made == [("resnet18", {"pretrained": True, "num_classes": 0})]
    assert (backbone.channels, backbone.mean, backbone.std, backbone.pretrained) == (3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), True)
    assert Encoder(backbone, 16, 4)(torch.rand(2, 3, 16, 16)).shape == (2, 4)
    build_backbone("hf_hub:someone/model", 3, pretrained=False)
    assert timm.made[-1] == ("hf_hub:someone/model", {"pretrained": False, "num_classes": 0})


@pytest.mark.parametrize(
    ("timm", "name", "error", "message"),
    [
        (None, "resnet18", ImportError, "or a model of timm, but got 'resnet18'. timm cannot be imported"),
        (None, "covnet", ImportError, "Did you mean 'convnet'?"),
        (FakeTimm(), "resnet5", ValueError, "Did you mean 'resnet50'?"),
        (FakeTimm(online=False), "resnet50", OSError, "No weights for --backbone resnet50: no route to the hub"),
    ],
)
def test_backbones_that_cannot_be_had(monkeypatch, timm, name, error, message):
    monkeypatch.setitem(sys.modules, "timm", timm)
    with pytest.raises(error) as raised:
        build_backbone(name, 3)
    assert message in str(raised.value)


def test_backbone_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"metriczoo\[bench\]"):
        build_backbone("efficientnet_lite0", 3)


# -- objectives --------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("miner", [None, *MINERS])
def test_every_loss_takes_every_miner_and_a_memory(loss, miner):
    torch.manual_seed(0)
    objective = Objective(loss, num_classes=3, num_images=12, embedding_dim=4, miner=miner, memory_bank=7)
    labels, ids = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 4, 5, 8, 11])
    for _ in range(3):
        embeddings = nn.functional.normalize(torch.randn(6, 4), dim=1).requires_grad_()
        objective(embeddings, labels, ids).backward()
        assert embeddings.grad is not None
        assert embeddings.grad.isfinite().all()
        objective.remember(embeddings.detach(), labels, ids)
    assert objective.hyper_parameters["miner"] == (LOSSES[loss].miner if miner is None else miner)
    assert objective.sees_labels == (loss not in ("nce", "nonparametric_softmax"))


def test_an_image_in_the_memory_is_not_its_own_positive():
    embeddings, labels, ids = torch.eye(2, 4), torch.tensor([0, 1]), torch.tensor([2, 3])
    values = []
    for remembered in (ids, torch.tensor([0, 1])):  # the images themselves, others of their classes
        objective = Objective("contrastive", num_classes=2, num_images=4, embedding_dim=4, memory_bank=4)
        objective.remember(-embeddings, labels, remembered)  # the worst positives there could be
        values.append(objective(embeddings, labels, ids).item())
    assert values[0] == 0
    assert values[1] > 1


@pytest.mark.parametrize("loss", [name for name, preset in LOSSES.items() if preset.references == "batch"])
def test_before_its_first_step_a_memory_is_none(loss):
    """An image twice in a batch is its own positive without a memory, and so it is while the memory is empty."""
    options = {"num_classes": 3, "num_images": 40, "embedding_dim": 4}
    torch.manual_seed(0)
    plain = Objective(loss, **options)
    torch.manual_seed(0)
    waiting = Objective(loss, **options, memory_bank=40, memory_from_step=3)
    labels, draw = torch.tensor([0, 0, 1, 1, 2, 2]), torch.Generator().manual_seed(0)
    same = []
    for step in range(6):
        embeddings = nn.functional.normalize(torch.randn(6, 4, generator=draw), dim=1)
        ids = 6 * step + torch.tensor([0, 0, 2, 3, 4, 5])
        if step == 2:  # what a run remembers of its steps, it goes on with
            state = waiting.state_dict()
            waiting = Objective(loss, **options, memory_bank=40, memory_from_step=3)
            waiting.load_state_dict(state)
        torch.manual_seed(step)
        expected = plain(embeddings, labels, ids)
        torch.manual_seed(step)
        same.append(torch.equal(waiting(embeddings, labels, ids), expected))
        for objective in (plain, waiting):
            objective.remember(embeddings, labels, ids)
        assert len(waiting.queue) == 6 * max(0, step - 2)
    assert same == [True] * 4 + [False] * 2


def test_nce_never_looks_at_labels():
    values = []
    for labels in (torch.arange(6), torch.zeros(6, dtype=torch.int64)):
        torch.manual_seed(0)
        objective = Objective("nce", num_classes=6, num_images=12, embedding_dim=4)
        embeddings = nn.functional.normalize(torch.randn(6, 4), dim=1)
        values.append(objective(embeddings, labels, torch.arange(6)))
    assert values[0] == values[1]
