"""Checkpoints of timm become backbones and backbones checkpoints, with equal outputs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch import layers
from keras_hub_torch.models import Backbone, BertBackbone, ResNetBackbone
from keras_hub_torch.presets.checkpoints import TIMM
from keras_hub_torch.presets.checkpoints.dialect import all_tables, find_table
from keras_hub_torch.presets.checkpoints.exporting import export_plan
from keras_hub_torch.presets.checkpoints.table import matches
from keras_hub_torch.presets.sources import open_preset
from keras_hub_torch.presets.uploading import model_card

from . import oracle, timm_models
from .checkpoints import all_timm
from .test_cli import succeed
from .test_processors import picture

CHECKPOINTS = all_timm()

with_timm = pytest.mark.skipif(not timm_models.PACKAGES.is_dir(), reason="timm is not installed")


def run(command: str, folder: Path, given: Any) -> None:
    script = str(Path(timm_models.__file__))
    subprocess.run([sys.executable, script, command, folder, json.dumps(given)], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that timm wrote, each beside its features of the same images."""
    folder = tmp_path_factory.mktemp("timm")
    models = {name: (c.architecture, c.arguments, c.module) for name, c in CHECKPOINTS.items()}
    run("make", folder, models)
    return folder


def images_of(model: Any, folder: Path) -> torch.Tensor:
    height, width, channels = model.image_shape
    images = load_file(folder / "images.safetensors")[str(channels or 3)]
    return images[..., :height, :width].permute(0, 2, 3, 1)


def features_of(folder: Path, kind: str = "features") -> dict[str, Any]:
    """What timm computed, channels last."""
    features = load_file(f"{folder}.{kind}.safetensors")
    return {
        name: (feature.permute(0, 2, 3, 1) if feature.ndim == 4 else feature).numpy()
        for name, feature in features.items()
    }


@with_timm
@pytest.mark.parametrize("name", CHECKPOINTS)
@torch.no_grad()
def test_import(name: str, made: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Backbone.from_preset(made / name)
    images = images_of(model, made)
    oracle.assert_close(model(images), features_of(made / name))
    if CHECKPOINTS[name].in_keras_hub:
        theirs = keras_hub.models.Backbone.from_preset(str(made / name))
        oracle.assert_close(model(images), oracle.keras_outputs(theirs, images.numpy()))


# timm counts blocks too, or stages, each of which ends with one of ours.
BLOCKS = {
    "vit_tiny": range(12),
    "deit_tiny": range(12),
    "deit_tiny_distilled": range(12),
    "dinov2_small_reg4": range(12),
    "dinov3_tiny": range(12),
    "dinov3_small_plus": range(12),
    "swin_tiny": (1, 3),
    "resnet18": (1, 3, 5, 7),
}


@with_timm
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_intermediates(name: str, made: Path) -> None:
    model = Backbone.from_preset(made / name)
    theirs = features_of(made / name, "intermediates")
    images = images_of(model, made)
    for norm in (False, True):
        maps = [x for key, x in theirs.items() if key.startswith(f"{norm}.")]
        maps = [theirs[f"{norm}.{i}"] for i in range(len(maps))][-len(BLOCKS[name]) :]
        found = model.forward_intermediates(images, BLOCKS[name], norm=norm, maps=True)
        assert len(found) == len(maps)
        for x, expected in zip(found, maps):
            oracle.assert_close(x, {"output": expected})


@with_timm
@torch.no_grad()
def test_export(made: Path, tmp_path: Path) -> None:
    """The same tensors bit for bit but for the head, of which timm makes equal outputs."""
    shutil.copy(made / "images.safetensors", tmp_path)
    for name, checkpoint in CHECKPOINTS.items():
        model = Backbone.from_preset(made / name)
        model.export_to_timm(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        table = find_table(TIMM, checkpoint.architecture, "here")
        # One of several names of a network is written.
        named = (config["architecture"], checkpoint.architecture)
        assert table.variants[named[0]] == table.variants[named[1]]
        channels = checkpoint.arguments.get("in_chans", 3)
        assert config.get("model_args", {}).get("in_chans", 3) == channels
        before, after = (load_file(f / name / "model.safetensors") for f in (made, tmp_path))
        assert after.keys() == {n for n in before if not matches(table.dropped, n)}
        assert all(torch.equal(after[name], before[name]) for name in after)
        again = Backbone.from_preset(tmp_path / name)
        assert again.get_config() == model.get_config()
    run("read", tmp_path, {name: checkpoint.module for name, checkpoint in CHECKPOINTS.items()})
    for name in CHECKPOINTS:
        oracle.assert_close(
            load_file(tmp_path / f"{name}.features.safetensors"),
            oracle.named(load_file(made / f"{name}.features.safetensors")),
        )


@with_timm
def test_pickles(made: Path, tmp_path: Path) -> None:
    whole = Backbone.from_preset(made / "resnet18").state_dict()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(made / "resnet18" / name, tmp_path)
    again = Backbone.from_preset(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


# What `pretrained_cfg` says of pixels.
COLOURS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 1.0}
PIXELS = {
    "center": {"input_size": [3, 30, 30], "interpolation": "bicubic", **COLOURS},
    "squash": {"input_size": [3, 24, 36], "interpolation": "bilinear", **COLOURS}
    | {"crop_mode": "squash"},
}


@with_timm
def test_pixels(tmp_path: Path) -> None:
    """A step of 255: Pillow rounds behind each of two directions. Also back."""
    pictures = {str(size): torch.from_numpy(picture(*size)) for size in ((60, 60), (60, 80))}
    save_file(pictures, tmp_path / "pictures.safetensors")
    run("look", tmp_path, PIXELS)
    theirs = load_file(tmp_path / "pixels.safetensors")
    table = find_table(TIMM, "mobilenetv3_small_050", "here")
    model = table.backbone(**table.variants["mobilenetv3_small_050"])
    for name, settings in PIXELS.items():
        model.export_to_timm(tmp_path / name)
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text())
        config["pretrained_cfg"] |= settings
        path.write_text(json.dumps(config))
        ours = layers.ImageConverter.from_preset(tmp_path / name)
        for key, image in pictures.items():
            expected = theirs[f"{name}.{key}"].movedim(0, -1)
            atol = 1.01 * max(ours.scale)
            torch.testing.assert_close(ours(image), expected, rtol=0, atol=atol)
        # To KerasHub, and from there.
        carried = Backbone.from_preset(tmp_path / name).save_to_preset(tmp_path / f"{name}-k")
        assert carried == ["image_converter.json"]
        Backbone.from_preset(tmp_path / f"{name}-k").export_to_timm(tmp_path / f"{name}-t")
        again = json.loads((tmp_path / f"{name}-t" / "config.json").read_text())
        assert again["pretrained_cfg"] == {"crop_mode": "center", **config["pretrained_cfg"]}
    cut = {**config["pretrained_cfg"], "crop_pct": 0.875, "interpolation": "lanczos"}
    path.write_text(json.dumps({**config, "pretrained_cfg": cut}))
    with pytest.warns(UserWarning, match="crop_pct=0.875.*'lanczos'"):
        layers.ImageConverter.from_preset(tmp_path / name)


@with_timm
def test_variants_have_timms_tensors(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A fifth of them, or all."""
    variants = {
        kind: (table, variant)
        for table in all_tables(TIMM)
        for kind, variant in table.variants.items()
    }
    if not request.config.getoption("--all-cases"):
        variants = dict(list(variants.items())[::5])
    run("shapes", tmp_path, list(variants))
    shapes = json.loads((tmp_path / "shapes.json").read_text())
    for kind, (table, variant) in variants.items():
        with torch.device("meta"):
            model = table.backbone(**variant)
        plan = export_plan(TIMM, model)
        assert table.variants[plan.config["architecture"]] == variant
        ours = {
            name: list(tensor.shape)
            for binding in plan.bindings
            for name, tensor in binding.expected().items()
        }
        theirs = {n: s for n, s in shapes[kind].items() if not matches(table.dropped, n)}
        assert ours == theirs, kind


# Without timm


def test_command_line(tmp_path: Path) -> None:
    """From a preset to timm's format and back."""
    variant = find_table(TIMM, "resnet18", "here").variants["resnet18"]
    model = ResNetBackbone(**variant)
    model.save_to_preset(tmp_path / "keras")
    succeed("convert", tmp_path / "keras", tmp_path / "timm", "--format", "timm")
    assert "Class" in succeed("info", tmp_path / "timm")
    said = succeed("verify", tmp_path / "timm").splitlines()
    assert said[0].startswith("config.json: ResNetBackbone with 100 weights")
    assert said[1].startswith("model.safetensors: 100 tensors")
    succeed("convert", tmp_path / "timm", tmp_path / "back", "--format", "keras")
    again = Backbone.from_preset(tmp_path / "back").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_model_card(tmp_path: Path) -> None:
    source = open_preset(write(tmp_path, "resnet18.a1_in1k"))
    card = model_card(source, source.json("config.json"), "me/mine")
    assert card.startswith("---\nlibrary_name: timm\n---\n# resnet18.a1_in1k\n")


SWIN = "swin_tiny_patch4_window7_224"


def write(folder: Path, architecture: str = "resnet18", **changes: Any) -> Path:
    config = {"architecture": architecture, "pretrained_cfg": {"tag": "a1"}, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_tags_and_channels(tmp_path: Path) -> None:
    folder = write(tmp_path, "resnet34.a1_in1k", pretrained_cfg={"input_size": [4, 96, 96]})
    config = Backbone.from_preset(folder, load_weights=False, device="meta").get_config()
    assert config["stackwise_num_blocks"] == [3, 4, 6, 3]
    assert config["image_shape"] == [None, None, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet18d"}, "timm model of type 'resnet18d', which cannot be read"),
        ({"architecture": ["resnet18"]}, "cannot be read"),
        ({"model_args": {"output_stride": 8}}, "model_args.output_stride: not known here"),
        ({"model_args": ["output_stride"]}, "model_args is no object"),
        ({"pretrained_cfg": {"input_size": []}}, "input_size: "),
        ({"model_args": {"in_chans": "3"}}, "image_shape must be"),
        (
            {"architecture": SWIN, "model_args": {"img_size": 256}},
            "window_size 7 does not divide stage 0 of 64 × 64",
        ),
        (
            {"architecture": SWIN, "model_args": {"img_size": [256, 128], "window_size": 4}},
            "window_size 4 fills one side of stage 3 of 8 × 4",
        ),
    ],
)
def test_refused_configurations(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(write(tmp_path, **changes), load_weights=False)


def test_models_without_a_name(tmp_path: Path) -> None:
    variant = find_table(TIMM, "resnet50", "here").variants["resnet50"]
    with torch.device("meta"):
        model = ResNetBackbone(**{**variant, "stackwise_num_blocks": (3, 4, 23, 4)})
    with pytest.raises(ValueError, match="timm has no such ResNetBackbone:\n  as resnet") as caught:
        model.export_to_timm(tmp_path / "new")
    assert "stackwise_num_blocks is [3, 4, 23, 4], not [" in str(caught.value)
    assert not (tmp_path / "new").exists()
    bert = BertBackbone(7, 1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match="BertBackbone cannot be exported to timm"):
        bert.export_to_timm(tmp_path / "new")
