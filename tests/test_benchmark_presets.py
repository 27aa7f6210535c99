"""Presets of the benchmarks: every loss has one that trains, each says where it is from, and files of them are checked."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.features.extraction import Vectors
from benchmarks.presets import KINDS, LEFT_OUT, Preset, Source, presets_of
from benchmarks.presets.__main__ import lines, main
from benchmarks.presets.files import as_json, fields_of, read_presets, replaced
from benchmarks.presets.photographs import PHOTOGRAPHS
from benchmarks.retrieval.options import parse
from benchmarks.training.backbones import FrozenEncoder, build_backbone
from benchmarks.training.loop import Recipe, Training
from benchmarks.training.losses import LOSSES, MINERS, Objective
from metriczoo import losses
from metriczoo.data import DATASETS

LABELS = np.repeat(np.arange(6), 8)
SIZES = {"num_classes": 6, "num_images": 48, "embedding_dim": 8}
EVERYWHERE = sorted({(line.loss, line.protocol, line.datasets) for line in lines()})


def training(name: str, preset: Preset, steps: int = 6, signal: float = 0.4, rate: float = 0.005) -> Training:
    torch.manual_seed(0)
    points = signal * torch.randn(6, 10)[LABELS] + torch.randn(48, 10)
    encoder = FrozenEncoder(10, 8)
    objective = Objective(name, presets={name: preset}, **SIZES)
    recipe = Recipe(
        epochs=steps // 3,
        steps=steps,
        batch_classes=4,
        batch_samples=4,
        image_size=None,
        augmentation=None,
        backbone_rate=0.0,
        head_rate=rate,
    )
    return Training(encoder, objective, Vectors(points, LABELS), LABELS, recipe, seed=0, device=torch.device("cpu"))


def preset_of(loss: str, protocol: str, datasets: str) -> Preset:
    return presets_of(protocol, datasets if datasets in DATASETS else None)[loss]


@pytest.mark.parametrize(("loss", "protocol", "datasets"), EVERYWHERE)
def test_every_preset_trains(loss, protocol, datasets):
    run = training(loss, preset_of(loss, protocol, datasets))
    first = run.encoder.head.linear.weight.detach().clone()
    while not run.done:
        run.train_epoch(lambda value: None)
        assert run.encoder.head.normalize  # again, whatever the loss sees
    assert np.isfinite(run.losses).all()
    assert all(parameter.isfinite().all() for parameter in [*run.encoder.parameters(), *run.objective.parameters()])
    assert not torch.equal(run.encoder.head.linear.weight, first)
    json.dumps(run.hyper_parameters, allow_nan=False)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls(loss):
    preset = LOSSES[loss]
    run = training(loss, replace(preset, rate=min(preset.rate, 1.0)), steps=30, signal=0.7, rate=0.02)
    while not run.done:
        run.train_epoch(lambda value: None)
    assert np.mean(run.losses[-6:]) < np.mean(run.losses[:6])


def test_every_public_loss_has_a_preset_or_a_reason():
    used = set()
    for name in LOSSES:
        used |= {type(part).__name__ for part in Objective(name, **SIZES).parts}
    public = set(losses.__all__)
    assert used | LEFT_OUT.keys() == public
    assert not used & LEFT_OUT.keys()
    assert all(LEFT_OUT.values())
    assert (losses.CosFaceLoss, losses.InfoNCELoss) == (losses.AMSoftmaxLoss, losses.NTXentLoss)


def test_names_are_those_of_the_classes_and_functions():
    for name in LOSSES:
        kinds = [type(part).__name__ for part in Objective(name, **SIZES).parts]
        assert any(name.replace("_", "").removesuffix("plusplus") in kind.lower() for kind in kinds), (name, kinds)


@pytest.mark.parametrize(("loss", "protocol", "datasets"), EVERYWHERE)
def test_every_preset_has_a_source_and_options_that_its_loss_has(loss, protocol, datasets):
    preset = preset_of(loss, protocol, datasets)
    assert preset.source.kind in KINDS
    assert len(preset.source.text) > 10
    assert preset.miner in MINERS
    assert min(preset.rate, preset.proxy_rate) > 0
    json.dumps(fields_of(preset), allow_nan=False)
    if inspect.isclass(preset.loss):
        assert preset.options.keys() <= {*inspect.signature(preset.loss).parameters, "reduction", "per_class"}
    if preset.source.kind == "search" and preset.source.record:
        assert {"data", "protocol", "folds", "trials", "score", "score_before", "versions"} <= preset.source.record.keys()
        assert preset.source.record["score"] >= preset.source.record["score_before"]


@pytest.mark.parametrize("dataset", PHOTOGRAPHS)
def test_papers_speak_of_data_sets_of_photographs(dataset):
    special = {name for name, preset in presets_of("finetune", dataset).items() if preset != LOSSES[name]}
    assert {"proxy_anchor", "multi_similarity"} <= special
    assert all(presets_of("finetune", dataset)[name].source.kind in ("paper", "code") for name in special)
    assert presets_of("frozen", dataset) == presets_of("frozen")
    trained_with = presets_of("finetune", dataset)["proxy_anchor"].source.training
    assert (trained_with["batch"], trained_with["rate"]) == (180, 6e-4 if dataset in ("sop", "inshop") else 1e-4)


def test_values_that_no_code_has_say_so():
    assert "not confirmed" in presets_of("finetune", "sop")["soft_triple"].source.text  # its code trains on Cars alone
    assert presets_of("finetune", "cars")["soft_triple"].source.kind == "code"
    cub, cars = (presets_of("finetune", name)["ranked_list"] for name in ("cub", "cars"))
    assert (cub.source.kind, cub.options["positive_margin"], cub.options["negative_margin"]) == ("code", 1.2, 1.4)
    assert cars.source.kind == "paper"
    assert "not confirmed" in cars.source.text
    memory = presets_of("finetune", "sop")["contrastive"].source.training
    assert (memory["memory_bank"], memory["memory_from_step"], memory["batch"], memory["batch_samples"]) == (55_000, 1000, 64, 4)


# -- raw embeddings, and what learns beside them ----------------------------------


def test_a_loss_on_raw_embeddings_sees_the_output_of_the_head():
    run, seen = training("softmax", replace(LOSSES["softmax"], length=3.0)), []
    run.objective.loss.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    head, raw = run.encoder.head.linear, []
    head.register_forward_hook(lambda module, inputs, output: raw.append(output.detach()))
    run.train_epoch(lambda value: None)
    for given, made in zip(seen, raw, strict=True):
        torch.testing.assert_close(given, 3 * made)
    with torch.no_grad():
        torch.testing.assert_close(run.encoder(torch.randn(4, 10)).norm(dim=1), torch.ones(4))


def test_centres_follow_the_embeddings_that_the_loss_sees():
    run = training("center", LOSSES["center"])
    centers = run.objective.parts[1].centers
    assert centers.embeddings.norm() == 0
    run.train_epoch(lambda value: None)
    assert (centers.embeddings.norm(dim=1) > 0).sum() >= 4


# -- files ------------------------------------------------------------------------


def write(path, presets) -> str:
    path.write_text(json.dumps({"format": "metriczoo-presets-1", "presets": presets}))
    return str(path)


def test_a_file_takes_the_place_of_presets(tmp_path):
    wanted = replace(LOSSES["circle"], options={"margin": 0.3, "scale": 5.0}, rate=2.0, source=Source("search", "here", {"folds": 2}))
    path = tmp_path / "presets.json"
    path.write_text(json.dumps(as_json({"circle": wanted})))
    options = parse(["--presets", str(path), "--loss", "circle,triplet"])
    found = replaced(presets_of("finetune"), options.presets)
    assert found["circle"] == wanted
    assert found["triplet"] is LOSSES["triplet"]
    assert replaced(LOSSES, None) is LOSSES


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"cirle": {}}, "Did you mean 'circle'"),
        ({"circle": {"option": {}}}, "Did you mean 'options'"),
        ({"circle": []}, "by name"),
        ({"circle": {"rate": -1}}, "above 0"),
        ({"circle": {"length": "long"}}, "length of circle"),
        ({"circle": {"rate": math.inf}}, "above 0"),
        ({"circle": {"source": {"kind": "rumour"}}}, "rumour"),
        ({"circle": {"source": {"kind": "search"}}}, "a text"),
        ({"circle": {"source": {"kind": "search", "text": "here", "by": "us"}}}, "by"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(tmp_path, capsys, presets, message):
    path = write(tmp_path / "presets.json", presets)
    with pytest.raises(ValueError, match=message):
        read_presets(path, LOSSES)
    with pytest.raises(SystemExit):
        parse(["--presets", path])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": {"marjin": 0.3}}, "Did you mean 'margin'"),
        ({"options": {"margin": "wide"}}, "real number"),
        ({"options": {"miner": "hard"}}, "miner"),
        ({"miner": "hrd"}, "Did you mean 'hard'"),
        ({"miner": ["hard"]}, "hard"),
    ],
)
def test_values_that_make_no_loss_are_an_error_before_anything_runs(tmp_path, capsys, values, message):
    path = write(tmp_path / "presets.json", {"triplet": {}, "circle": values})
    with pytest.raises(SystemExit) as error:
        parse(["--presets", path, "--loss", "circle"])
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: --presets {path}: circle: ")
    assert message in text
    assert text.count("\n") == 1


def test_no_file_or_no_presets(tmp_path):
    with pytest.raises(OSError, match=r"--presets .*cannot be read"):
        read_presets(tmp_path, LOSSES)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_presets(tmp_path / "none.json", LOSSES)
    (tmp_path / "text").write_text("margin: 3")
    with pytest.raises(ValueError, match="no JSON"):
        read_presets(tmp_path / "text", LOSSES)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a file"):
        read_presets(tmp_path / "other.json", LOSSES)


# -- the list ---------------------------------------------------------------------


def test_the_list_names_every_loss_and_what_is_left_out(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*LOSSES, *LEFT_OUT))
    assert max(map(len, shown.splitlines())) <= 150


def test_the_list_as_json_is_what_trains(capsys):
    assert main(["--loss", "proxy_anchor,pnp", "--dataset", "sop", "--protocol", "finetune", "--json"]) == 0
    anchor, pnp = sorted(json.loads(capsys.readouterr().out), key=lambda line: line["loss"] != "proxy_anchor")
    assert (anchor["loss"], anchor["datasets"], anchor["references"]) == ("proxy_anchor", "sop", "proxies")
    assert pnp["options"] == {"variant": "dq", "power": 4.0}
    assert pnp["source"]["training"]["batch"] == 384
    assert main(["--loss", "circle", "--json"]) == 0
    found = {(line["protocol"], line["datasets"]) for line in json.loads(capsys.readouterr().out)}
    assert found >= {("finetune", "all others"), ("finetune", "cub"), ("frozen", "all")}


def test_an_unknown_loss_is_an_error_in_one_line(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--loss", "cirle"])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert "Did you mean 'circle'?" in message
    assert message.count("\n") == 1


# -- recipes ----------------------------------------------------------------------


def test_characters_that_are_drawn_have_a_recipe_of_their_own():
    drawn, printed = parse(["--dataset", "omniglot", "--root", "somewhere"]), parse([])
    assert (drawn.backbone, drawn.epochs, drawn.image_size) == ("convnet_wide", 16, 28)
    assert (printed.backbone, printed.epochs, printed.image_size) == ("convnet", 5, 28)
    wide, narrow = (build_backbone(options.backbone, 1).net for options in (drawn, printed))
    assert sum(p.numel() for p in wide.parameters()) > 2 * sum(p.numel() for p in narrow.parameters())
    assert wide(torch.rand(2, 1, 28, 28)).shape == narrow(torch.rand(2, 1, 28, 28)).shape
    assert build_backbone("convnet_wide", 3, pooled=False).net(torch.rand(2, 3, 16, 16)).shape == (2, 128, 2, 2)
