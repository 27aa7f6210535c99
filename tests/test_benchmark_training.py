"""The training loop of the retrieval benchmark: precision, chunks, rates, batch normalisation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.features.extraction import Vectors
from benchmarks.presets import presets_of
from benchmarks.retrieval.options import parse
from benchmarks.training.backbones import Backbone, Encoder, FrozenEncoder
from benchmarks.training.loop import Recipe, Training
from benchmarks.training.losses import LOSSES, Objective

LABELS = np.repeat(np.arange(4), 6)
RECIPE = {"epochs": 3, "steps": 9, "batch_classes": 4, "batch_samples": 2, "image_size": None, "augmentation": None}
RATES = {"backbone_rate": 0.01, "head_rate": 0.02}


def training(loss="am_softmax", encoder=None, **recipe) -> Training:
    torch.manual_seed(0)
    points = torch.randn(4, 10)[LABELS] + torch.randn(24, 10)
    encoder = FrozenEncoder(10, 5) if encoder is None else encoder
    objective = Objective(loss, num_classes=4, num_images=24, embedding_dim=5)
    return Training(
        encoder, objective, Vectors(points, LABELS), LABELS, Recipe(**{**RECIPE, **RATES, **recipe}), seed=0, device=torch.device("cpu")
    )


def losses_of(run: Training) -> list[float]:
    while not run.done:
        run.train_epoch(lambda loss: None)
    return run.losses


def seen_types(run: Training) -> set[torch.dtype]:
    seen = set()
    run.encoder.head.linear.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    losses_of(run)
    return seen


def test_it_learns_and_depends_on_the_seed_alone():
    values = losses_of(training())
    assert len(values) == 9
    assert values[-1] < values[0] - 0.5
    assert losses_of(training()) == values


@pytest.mark.parametrize("loss", ["am_softmax", "circle", "nce"])
@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_chunks_change_nothing_but_the_order_of_sums(loss, chunk):
    widths = set()
    whole, parts = training(loss), training(loss, chunk=chunk)
    parts.encoder.head.linear.register_forward_hook(lambda module, inputs, output: widths.add(len(output)))
    assert losses_of(parts) == pytest.approx(losses_of(whole), rel=1e-4)
    assert max(widths) == min(chunk, 8)
    for one, other in zip(whole.encoder.parameters(), parts.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("chunk", [None, 3])
def test_bfloat16_is_for_the_encoder_and_its_parameters_stay_float32(chunk):
    run = training(precision="bfloat16", chunk=chunk)
    assert seen_types(run) == {torch.bfloat16}
    assert {p.dtype for p in run.encoder.parameters()} == {torch.float32}
    plain = losses_of(training())
    assert run.losses == pytest.approx(plain, rel=0.05)
    assert run.losses != plain
    assert seen_types(training()) == {torch.float32}


def test_rates_that_are_given_are_exact_and_others_those_of_the_preset():
    given = training(rates={"head_rate": 0.5, "proxy_rate": 0.25})
    assert [group["rate"] for group in given.optimizer.param_groups] == [0.01, 0.5, 0.25]
    assert {"backbone_rate": 0.01, "head_rate": 0.5, "proxy_rate": 0.25}.items() <= given.hyper_parameters.items()
    usual, preset = training("nce"), LOSSES["nce"]
    expected = [0.01 * preset.rate, 0.02 * preset.rate, 0.02 * preset.rate * preset.proxy_rate]
    assert [group["rate"] for group in usual.optimizer.param_groups] == expected
    still = training(rates={"head_rate": 0.0})
    before = copy.deepcopy(still.encoder.state_dict())
    losses_of(still)
    assert all(torch.equal(before[name], value) for name, value in still.encoder.state_dict().items())


@pytest.mark.parametrize("decay", [True, False])
def test_rates_fall_along_a_cosine_or_stay(decay):
    run, rates = training(decay=decay), []
    while not run.done:
        run.train_epoch(lambda loss: rates.append(run.optimizer.param_groups[1]["lr"]))
    expected = 0.02 * (1 + np.cos(np.pi * np.arange(9) / 9)) / 2 if decay else np.full(9, 0.02)
    np.testing.assert_allclose(rates, expected)


def test_sgd_has_momentum():
    run = training(optimizer="sgd", decay=False)
    weight = run.encoder.head.linear.weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)

    def follow(loss: float) -> None:
        velocity.mul_(0.9).add_(weight.grad)
        expected.sub_(0.02 * velocity)
        torch.testing.assert_close(weight.detach(), expected)

    while not run.done:
        run.train_epoch(follow)
    assert run.hyper_parameters["optimizer"] == "sgd"
    assert training().hyper_parameters["optimizer"] == "adam"


@pytest.mark.parametrize(
    "recipe",
    [{}, {"chunk": 3, "precision": "bfloat16"}, {"decay": False, "rates": {"proxy_rate": 0.1}}, {"optimizer": "sgd"}],
    ids=str,
)
def test_a_checkpoint_goes_on_to_the_same_losses(recipe):
    whole = losses_of(training(**recipe))
    first = training(**recipe)
    first.train_epoch(lambda loss: None)
    state = copy.deepcopy(first.state_dict())
    del state["scaler"]  # as of an older version
    second = training(**recipe)
    torch.manual_seed(5)
    second.load_state_dict(state)
    assert losses_of(second) == whole


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("frozen", [None, False, True])
def test_statistics_of_batch_normalisation_move_unless_frozen(pretrained, frozen):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = Encoder(Backbone(net, 3, pretrained=pretrained), 8, 2, frozen_statistics=frozen)
    before = net[1].running_mean.clone()
    encoder.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    assert torch.equal(net[1].running_mean, before) == (pretrained if frozen is None else frozen)
    assert net[1].weight.grad is not None


def test_frozen_presets_know_every_loss():
    assert presets_of("frozen").keys() == LOSSES.keys()
    assert presets_of("finetune") is LOSSES
    for name in LOSSES:
        objective = Objective(name, num_classes=4, num_images=24, embedding_dim=5, presets=presets_of("frozen"))
        assert objective.preset is presets_of("frozen")[name]


def test_options_reach_the_recipe(tmp_path):
    words = "--backbone-rate 0.001 --head-rate 0.002 --proxy-rate 0.5 --batch-norm trained --precision bfloat16 --chunk 5"
    options = parse(words.split())
    assert (options.backbone_rate, options.head_rate, options.proxy_rate) == (0.001, 0.002, 0.5)
    assert (options.batch_norm, options.precision, options.chunk) == ("trained", "bfloat16", 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--precision float16", "--precision float16 needs --device cuda"),
        ("--precision half", "expected float32, bfloat16 or float16"),
        ("--backbone-rate -1", "a number of at least 0"),
        ("--batch-norm froze", "Did you mean 'frozen'?"),
        ("--protocol frozen --chunk 4", "--chunk does nothing for --protocol frozen"),
        ("--protocol frozen --backbone-rate 0.1", "--backbone-rate does nothing for --protocol frozen"),
    ],
)
def test_mistakes_are_one_clear_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(words.split())
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
