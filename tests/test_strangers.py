"""Files that hold more, or other things, than a backbone's weights."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import Backbone, BertBackbone, GemmaBackbone, GptOssBackbone

from . import oracle
from .conftest import Reference

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
GEMMA = (31, 2, 2, 1, 8, 12, 4)


def assert_same(model: Any, other: Any) -> None:
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


# Whole tasks


@pytest.fixture(scope="module")
def task() -> Any:
    """A classifier of KerasHub's, with every weight random."""
    backbone = keras_hub.models.BertBackbone(**SMALL)
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)
    oracle.randomise(model, np.random.default_rng(0))
    return model


def test_weights_of_a_task(task: Any, tmp_path: Path) -> None:
    task.save_weights(str(tmp_path / "task.weights.h5"))
    task.backbone.save_to_preset(str(tmp_path / "backbone"))
    model = BertBackbone(**SMALL)
    with pytest.warns(UserWarning, match="left out: .*layers/dense/vars/0"):
        model.load_weights(tmp_path / "task.weights.h5")
    assert_same(model, Backbone.from_preset(tmp_path / "backbone"))


def test_archives(task: Any, tmp_path: Path) -> None:
    task.backbone.save_to_preset(str(tmp_path / "backbone"))
    expected = Backbone.from_preset(tmp_path / "backbone")
    task.backbone.save(str(tmp_path / "backbone.keras"))
    assert_same(Backbone.from_preset(tmp_path / "backbone.keras"), expected)
    task.save(str(tmp_path / "task.keras"))
    with pytest.warns(UserWarning, match="left out"):
        assert_same(Backbone.from_preset(tmp_path / "task.keras"), expected)
    model = BertBackbone(**SMALL)
    with pytest.warns(UserWarning, match="left out"):
        model.load_weights(tmp_path / "task.keras")
    assert_same(model, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"PK"), "no readable .keras archive"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no readable .keras archive"),
        (
            lambda path: bomb(path, "model.weights.h5"),
            "declares 300,000,000 bytes of model.weights.h5; not allowed",
        ),
        (lambda path: bomb(path, "config.json"), "bytes of config.json; not allowed"),
    ],
)
def test_archives_of_strangers(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    change(path)
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(path)


def bomb(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}" if name != "config.json" else b" " * 300_000_000)
        archive.writestr("model.weights.h5", b"\0" * (300_000_000 if name != "config.json" else 1))


def test_two_backbones_in_a_file(tmp_path: Path) -> None:
    """Which one is meant nobody can know."""
    model = GemmaBackbone(*GEMMA)
    model.save_weights(tmp_path / "x.weights.h5")
    with (
        h5py.File(tmp_path / "x.weights.h5") as old,
        h5py.File(tmp_path / "two.weights.h5", "w") as new,
    ):
        for name in ("layers/a", "layers/b"):
            old.copy(old["layers"], new.create_group(name))
    with pytest.raises(ValueError, match="missing: layers/"):
        model.load_weights(tmp_path / "two.weights.h5")


# Weights that are no part of the model


def with_extra(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, {"format": "pt"})


def test_heads_of_somebodys_own(tmp_path: Path) -> None:
    model = BertBackbone(**SMALL)
    model.export_to_transformers(tmp_path)
    with_extra(tmp_path, **{"crf.transitions": torch.zeros(3, 3), "linear.weight": torch.zeros(1)})
    with pytest.warns(UserWarning, match=r"left out: crf.transitions, linear.weight\."):
        assert_same(Backbone.from_preset(tmp_path), model)


def test_what_stands_within_the_model_is_refused(tmp_path: Path) -> None:
    model = BertBackbone(**SMALL)
    model.export_to_transformers(tmp_path)
    names = [f"encoder.layer.{i}.output.adapter.weight" for i in range(2)]
    with_extra(tmp_path, **{name: torch.zeros(1) for name in names})
    pattern = "encoder.layer.*.output.adapter.weight"
    with pytest.raises(ValueError, match="superfluous") as caught:
        Backbone.from_preset(tmp_path)
    assert f"ignore={[pattern]!r}" in str(caught.value)
    for ignore in ([pattern], True):
        with pytest.warns(UserWarning, match="left out"):
            assert_same(Backbone.from_preset(tmp_path, ignore=ignore), model)
    with pytest.raises(TypeError, match="must be a list of patterns"):
        Backbone.from_preset(tmp_path, ignore=pattern)


def test_more_in_files_of_keras(tmp_path: Path) -> None:
    model = BertBackbone(**SMALL)
    for name in ("x.weights.h5", "x.safetensors"):
        model.save_weights(tmp_path / name)
    with h5py.File(tmp_path / "x.weights.h5", "a") as file:
        file["layers/head/vars/0"] = np.zeros(3, "float32")
    state = load_file(tmp_path / "x.safetensors")
    save_file({**state, "head.0.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    for name, pattern in (("x.weights.h5", "layers/head/*"), ("x.safetensors", "head.*")):
        other = BertBackbone(**SMALL)
        with pytest.raises(ValueError, match="ignore="):
            other.load_weights(tmp_path / name)
        with pytest.warns(UserWarning, match="left out"):
            other.load_weights(tmp_path / name, ignore=[pattern])
        assert_same(other, model)


# Other kinds


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json"])
def test_pointers_of_git_lfs(bert: Reference, name: str, tmp_path: Path) -> None:
    for path in bert.preset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64
    (tmp_path / name).write_bytes(pointer)
    with pytest.raises(ValueError, match=f"{name} is a pointer of Git LFS.*git lfs pull"):
        Backbone.from_preset(tmp_path)


def test_exact_gelu(tmp_path: Path) -> None:
    BertBackbone(**SMALL).export_to_transformers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    with pytest.warns(UserWarning, match="exact form; as in KerasHub"):
        Backbone.from_preset(tmp_path)


@pytest.mark.parametrize("format", ["keras", "safetensors", "transformers"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_files_own_dtype(format: str, dtype: str, tmp_path: Path) -> None:
    model = BertBackbone(**SMALL, dtype=dtype)
    if format == "transformers":
        model.export_to_transformers(tmp_path)
    else:
        model.save_to_preset(tmp_path, format=format)
    assert Backbone.from_preset(tmp_path).dtype == torch.float32
    again = Backbone.from_preset(tmp_path, dtype="auto")
    assert again.dtype_policy.name == dtype
    assert_same(again, model)


def test_gpt_oss_as_published(tmp_path: Path) -> None:
    """Experts in MXFP4, equal to transformers' own reading of it."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = GptOssBackbone(
        vocabulary_size=31,
        num_layers=2,
        num_query_heads=4,
        hidden_dim=32,
        intermediate_dim=64,
        num_key_value_heads=2,
        num_experts=4,
        head_dim=8,
    )
    model.export_to_transformers(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    expected = {}
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in state if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = state.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=generator)
        scales = torch.randint(110, 135, (experts, outputs, inputs // 32), generator=generator)
        state[f"{name}_blocks"], state[f"{name}_scales"] = blocks.byte(), scales.byte()
        expected[name] = convert_moe_packed_tensors(blocks.byte(), scales.byte()).float()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = Backbone.from_preset(tmp_path)
    for i, layer in enumerate(again.transformer_layers):
        for kind in ("gate_up_proj", "down_proj"):
            found = getattr(layer.sparse_moe_block.experts, kind)
            assert torch.equal(found, expected[f"model.layers.{i}.mlp.experts.{kind}"])
    config["quantization_config"] = {"quant_method": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"quantized weights .* cannot be read"):
        Backbone.from_preset(tmp_path)
