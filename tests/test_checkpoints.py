"""Foreign checkpoints: names, variants, plans and files, whatever the library."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import Backbone, GPT2Backbone
from keras_hub_torch.presets.checkpoints import DIALECTS, TIMM, dialect_of, exporting, files
from keras_hub_torch.presets.checkpoints.dialect import all_tables
from keras_hub_torch.presets.checkpoints.table import filled, matches, parts
from keras_hub_torch.presets.safetensors import write_safetensors
from keras_hub_torch.presets.verifying import verify_preset

from . import toy_tables
from .toy_tables.toynet import TOYNET, ToyNetBackbone

Tensors = dict[str, torch.Tensor]
# Arguments that no library has a key for, and that change no number of a loaded model.
WITHOUT_EFFECT = {
    ("DiffusionGemmaBackbone", "query_head_dim_normalize"),
    ("Gemma4Backbone", "num_audio_tokens_per_clip"),
    ("Gemma4Backbone", "query_head_dim_normalize"),
    ("GemmaBackbone", "sliding_window_size"),  # of Gemma 1, which has no windows
    ("Llama3Backbone", "rope_position_scaling_factor"),
    ("LlamaBackbone", "rope_position_scaling_factor"),
    ("XLNetBackbone", "bias_initializer"),
}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of `toy_tables` beside timm's."""
    monkeypatch.setattr(TIMM, "packages", (*TIMM.packages, toy_tables))


def toy_tensors(repeats: tuple[int, ...] = (1, 2), growth: int = 4) -> Tensors:
    tensors = {"classifier.weight": torch.zeros(10, 3)}
    for i, count in enumerate(repeats, 1):
        for j in range(1, count + 1):
            name = f"features.denseblock{i}.denselayer{j}"
            tensors[f"{name}.conv.weight"] = torch.randn(2 * growth, growth)
            for one in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{name}.norm.{one}"] = torch.randn(growth)
            tensors[f"{name}.norm.num_batches_tracked"] = torch.tensor(3)
    return tensors


def write_config(folder: Path, architecture: str = "toynet_small", **changes: Any) -> Path:
    config = {"architecture": architecture, "pretrained_cfg": {"url": ""}, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write(folder: Path, tensors: Tensors, **changes: Any) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return write_config(folder, **changes)


# Templates


@pytest.mark.parametrize(
    ("template", "numbers", "name"),
    [
        ("layer{+1}.{}", ("0", "3"), "layer1.3"),
        ("denseblock{+1}.denselayer{+1}.norm", ("1", "10"), "denseblock2.denselayer11.norm"),
        ("blocks.{-1}", ("1",), "blocks.0"),
        ("plain.weight", (), "plain.weight"),
    ],
)
def test_numbers_that_shift(template: str, numbers: tuple[str, ...], name: str) -> None:
    assert filled(template, numbers) == name
    assert parts(template, name) is not None
    assert matches(["*.no", template], name)
    assert parts(template, name + ".") is None


def test_tables_mention_every_argument() -> None:
    """Otherwise an export could lose it."""
    for table in itertools.chain.from_iterable(map(all_tables, DIALECTS)):
        name = table.kinds[0]
        said = {one for key in table.config for one in key.ours}
        said |= {one for variant in table.variants.values() for one in variant} | {*table.parts}
        for cls in (table.backbone, *table.also):
            assert not left_out(cls, said) - WITHOUT_EFFECT, name
        for part, cls in table.parts.items():
            own = {one.removeprefix(f"{part}.") for one in said if one.startswith(f"{part}.")}
            assert not left_out(cls, own) - WITHOUT_EFFECT, name


def left_out(cls: type[Any], said: set[str]) -> set[tuple[str, str]]:
    """A constructor's arguments that are not said."""
    arguments = inspect.signature(cls).parameters.keys()
    left = arguments - said - {"dtype", "name", "options", "trainable"}
    return {(cls.__name__, one) for one in left}


def test_a_kind_is_in_one_table() -> None:
    for dialect in DIALECTS:
        kinds = [kind for table in all_tables(dialect) for kind in table.kinds]
        assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "bert"}, "transformers"),
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "transformers"),
        ({"architecture": "resnet18"}, "timm"),
        ({"registered_name": "keras_hub>BertBackbone", "model_type": 1, "architecture": 1}, None),
        ({"class_name": "BertBackbone"}, None),
        ({}, None),
    ],
)
def test_dialects(config: dict[str, Any], name: str | None) -> None:
    dialect = dialect_of(config)
    assert (dialect and dialect.name) == name


# Variants


@pytest.mark.usefixtures("toys")
def test_a_family_in_new_files_only(tmp_path: Path) -> None:
    tensors = toy_tensors()
    write(tmp_path, tensors, architecture="toynet_small.tag_of_training")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Backbone.from_preset(tmp_path)
    assert isinstance(model, ToyNetBackbone)
    state = model.state_dict()
    fused = tensors["features.denseblock2.denselayer1.conv.weight"]
    assert torch.equal(state["stack1.0.left.weight"], fused[:4])
    assert torch.equal(state["stack1.0.right.weight"], fused[4:])
    last = tensors["features.denseblock2.denselayer2.norm.running_var"]
    assert torch.equal(state["stack1.1.bn.running_var"], last)
    model.export_to_timm(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {
        "architecture": "toynet_small",
        "num_classes": 0,
        "pretrained_cfg": {"num_classes": 0},
    }
    kept = {name for name in tensors if not matches(TOYNET.dropped, name)}
    written = load_file(tmp_path / "new" / "model.safetensors")
    assert written.keys() == kept
    assert all(torch.equal(written[name], tensors[name]) for name in kept)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("arguments", "architecture", "model_args"),
    [
        ({"stackwise_num_repeats": (1, 2)}, "toynet_small", None),
        ({"image_size": 16}, "toynet_small_16", None),
        ({"image_size": 12}, "toynet_small", {"img_size": [12, 12]}),
        ({"growth": 6, "image_size": 16}, "toynet_wide", {"img_size": [16, 16]}),
        ({"stackwise_num_repeats": [2, 1, 3]}, "toynet_large", None),
        ({"growth": 5}, None, "as toynet_small: growth is 5, not 4"),
        ({"use_bias": True}, None, "as toynet_small: use_bias is True; only False"),
    ],
)
def test_variants_backward(
    arguments: dict[str, Any], architecture: str | None, model_args: Any, tmp_path: Path
) -> None:
    variant = {"stackwise_num_repeats": [1, 2], "growth": 4, "image_size": 8, **arguments}
    model = ToyNetBackbone(**variant)
    if architecture is None:
        with pytest.raises(ValueError, match=model_args):
            model.export_to_timm(tmp_path)
        return
    model.export_to_timm(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architecture"], config.get("model_args")) == (architecture, model_args)
    assert Backbone.from_preset(tmp_path).get_config() == model.get_config()


# Plans


@pytest.mark.usefixtures("toys")
def test_loading_and_verifying_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = toy_tensors()
    write(tmp_path, tensors)
    model = Backbone.from_preset(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.Stored, "read", lambda stored: pytest.fail("data were read"))
        verified = verify_preset(tmp_path)
        assert Backbone.from_preset(tmp_path, device="meta").dtype == torch.float32
    assert verified.model.get_config() == model.get_config()
    assert verified.files == {tmp_path / "model.safetensors": len(tensors)}
    assert set(verified.ignored) == {name for name in tensors if matches(TOYNET.dropped, name)}
    assert verified.drawn == []

    tensors["features.denseblock3.denselayer1.norm.bias"] = torch.zeros(4)
    tensors["features.denseblock1.denselayer1.norm.bias"] = torch.zeros(5)
    del tensors["features.denseblock2.denselayer1.conv.weight"]
    write(tmp_path, tensors)
    said = []
    for act in (verify_preset, Backbone.from_preset):
        with pytest.raises(ValueError, match="3 problems") as caught:
            act(tmp_path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "missing: features.denseblock2.denselayer1.conv.weight (8, 4) for stack1.0" in said[0]
    assert "shape: features.denseblock1.denselayer1.norm.bias is (5,), not (4,)" in said[0]
    assert "superfluous: features.denseblock3.denselayer1.norm.bias (4,)" in said[0]


def test_shards_are_made_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had to be made for one is freed before the next."""
    made: list[weakref.ref[torch.Tensor]] = []

    def save(path: Path, headers: Any, tensors: Iterator[torch.Tensor]) -> None:
        write_safetensors(path, headers, watched(tensors))

    def watched(tensors: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        owned = {t.data_ptr() for t in model.state_dict().values()}
        for tensor in tensors:
            assert sum(ref() is not None for ref in made) <= 1
            if tensor.data_ptr() not in owned:
                made.append(weakref.ref(tensor))
            yield tensor

    split = huggingface_hub.split_torch_state_dict_into_shards
    monkeypatch.setattr(
        huggingface_hub,
        "split_torch_state_dict_into_shards",
        functools.partial(split, max_shard_size=4000),
    )
    monkeypatch.setattr(exporting, "write_safetensors", save)
    model = GPT2Backbone(37, 2, 3, 12, 20)
    model.export_to_transformers(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert len(made) >= 4
    again = Backbone.from_preset(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_models_without_weights_are_not_written(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = GPT2Backbone(7, 1, 1, 4, 8)
    with pytest.raises(ValueError, match="meta device"):
        model.export_to_transformers(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Pickled state dicts


def save_pickle(tensors: Tensors, path: Path) -> None:
    torch.save(tensors, path)


def save_old_pickle(tensors: Tensors, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("save", [save_pickle, save_old_pickle])
@pytest.mark.parametrize("sharded", [False, True])
def test_pickles(save: Callable[[Tensors, Path], None], sharded: bool, tmp_path: Path) -> None:
    tensors = toy_tensors()
    expected = Backbone.from_preset(write(tmp_path, tensors)).state_dict()
    (tmp_path / "model.safetensors").unlink()
    if sharded:
        names = list(tensors)
        shards = {"a.bin": names[::2], "b.bin": names[1::2]}
        for file, part in shards.items():
            save({name: tensors[name] for name in part}, tmp_path / file)
        index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        save(tensors, tmp_path / "pytorch_model.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Backbone.from_preset(tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert sum(verify_preset(tmp_path).files.values()) == len(tensors)


@pytest.mark.usefixtures("toys")
def test_pickles_are_accounted_for(tmp_path: Path) -> None:
    tensors = toy_tensors()
    name = "features.denseblock1.denselayer1.norm.bias"
    tensors |= {name: torch.zeros(4, dtype=torch.int8), "features.more": torch.zeros(2)}
    torch.save(tensors, write_config(tmp_path) / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"(?s)dtype: {name} is int8.*superfluous: features.more"):
        Backbone.from_preset(tmp_path)


@pytest.mark.usefixtures("toys")
def test_shared_memory_of_a_pickle_is_not_shared_by_weights(tmp_path: Path) -> None:
    tensors = toy_tensors()
    one, other = (f"features.denseblock2.denselayer{i}.norm.weight" for i in (1, 2))
    tensors[one] = tensors[other]
    square = "features.denseblock1.denselayer1.conv.weight"
    tensors[square] = torch.randn(4, 8).T
    torch.save(tensors, write_config(tmp_path) / "pytorch_model.bin")
    model = Backbone.from_preset(tmp_path)
    state = model.state_dict()
    assert torch.equal(state["stack0.0.right.weight"], tensors[square][4:])
    assert all(tensor.is_contiguous() for tensor in state.values())
    with torch.no_grad():
        state["stack1.0.bn.weight"].zero_()
    assert torch.equal(state["stack1.1.bn.weight"], tensors[other])


class Command:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: {**toy_tensors(), "x": Command(folder / "run")}, "more than tensors"),
        (lambda folder: torch.nn.Linear(2, 2), "more than tensors"),
        (lambda folder: [torch.zeros(2)], "the pickle of a list, not of a state dict"),
        (lambda folder: {"a": 1, 2: torch.zeros(2)}, "not plain tensors by name: a, 2"),
        (lambda folder: {"s": torch.eye(2).to_sparse()}, "not plain tensors by name: s"),
        (lambda folder: {"state_dict": toy_tensors()}, "by name: state_dict"),
    ],
)
def test_pickles_of_anything_else(make: Any, message: str, tmp_path: Path) -> None:
    torch.save(make(tmp_path), write_config(tmp_path) / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("keep", [0, 1, 100, -1000, -30])
def test_truncated_pickles(keep: int, tmp_path: Path) -> None:
    path = write_config(tmp_path) / "pytorch_model.bin"
    torch.save(toy_tensors(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is a pickle that is broken"):
        Backbone.from_preset(tmp_path)
