"""LoRA: files exchanged with KerasHub in both directions, merging, training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras_hub
import numpy as np
import pytest
import torch

import keras_hub_torch
from keras_hub_torch.backbones.layers.convolution import Conv2D
from keras_hub_torch.lora import adapters, layers_named
from keras_hub_torch.lora.adapters import AdaptedConv2D
from keras_hub_torch.presets.keras.tree import flat_layers

from . import oracle
from .conftest import Reference, reference_of
from .lora_on_tensorflow import indexed_cases

RANK = 3


def randomise(model: Any, seed: int = 0, deviation: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapters(model).values():
            for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
                factor.normal_(0, deviation, generator=generator)


def adapted(reference: Reference, **kwargs: Any) -> Any:
    model = reference.load()
    model.enable_lora(RANK, **kwargs)
    randomise(model, deviation=reference.case.deviation)
    return model


def keras_copy(reference: Reference, preset: Path | None = None) -> Any:
    path = str(preset or reference.preset)
    return keras_hub.models.Backbone.from_preset(path, **reference.given)


def takes_lora(reference: Reference) -> bool:
    model = reference.load()
    return bool(layers_named(model, model.default_lora_layer_names()))


def test_from_kerashub(chosen: Reference, tmp_path: Path) -> None:
    if not takes_lora(chosen):
        pytest.skip("the family has no default LoRA layers")
    theirs = keras_copy(chosen)
    theirs.enable_lora(RANK)
    rng = chosen.case.rng
    for weight in theirs.weights:
        if "lora_kernel" in weight.path:
            weight.assign(rng.normal(0, chosen.case.deviation, weight.shape).astype("float32"))
    theirs.save_lora_weights(str(tmp_path / "x.lora.h5"))
    expected = oracle.keras_outputs(theirs, chosen.inputs)
    model = chosen.load()
    model.load_lora_weights(tmp_path / "x.lora.h5")
    with torch.no_grad():
        oracle.assert_close(model(chosen.inputs), expected)


def test_to_kerashub(chosen: Reference, tmp_path: Path) -> None:
    if not takes_lora(chosen):
        pytest.skip("the family has no default LoRA layers")
    model = adapted(chosen, lora_alpha=1.5)
    model.save_lora_weights(tmp_path / "x.lora.h5", order="torch")
    theirs = keras_copy(chosen)
    theirs.load_lora_weights(str(tmp_path / "x.lora.h5"))
    with torch.no_grad():
        oracle.assert_close(model(chosen.inputs), oracle.keras_outputs(theirs, chosen.inputs))
    # The preset holds the merged kernels.
    model.save_to_preset(tmp_path / "preset")
    merged = keras_copy(chosen, tmp_path / "preset")
    with torch.no_grad():
        oracle.assert_close(model(chosen.inputs), oracle.keras_outputs(merged, chosen.inputs))


@pytest.mark.parametrize("case_id", [case.id for case in indexed_cases()])
def test_the_index_order_of_tensorflow(
    case_id: str, on_tensorflow: Callable[[str], Path], preset_folder: Path, tmp_path: Path
) -> None:
    """The file that KerasHub on TensorFlow saves, with LoRA on every layer that takes it."""
    reference = reference_of(case_id, preset_folder)
    folder = on_tensorflow("lora_on_tensorflow")
    theirs = json.loads((folder / "cases.json").read_text())[case_id]
    model = reference.load()
    model.load_lora_weights(theirs["file"])
    flat = flat_layers(model, "jax")
    names = {str(i): layer.name for i, layer in enumerate(flat)}
    assert len(flat) == theirs["count"]
    assert {i: names[i] for i in theirs["names"]} == theirs["names"]
    with torch.no_grad():
        outputs = oracle.named(model(reference.inputs))
    expected = np.load(theirs["outputs"])
    rows: Any = slice(None)
    if reference.case.pad_id is not None:
        rows = (reference.inputs["token_ids"] != reference.case.pad_id).all(1)
    for name, value in outputs.items():
        limit = 1e-4 * max(1, np.abs(value).max())
        np.testing.assert_allclose(value[rows], expected[name][rows], atol=limit)
    model.save_lora_weights(tmp_path / "x.lora.h5")
    with h5py.File(tmp_path / "x.lora.h5") as mine, h5py.File(theirs["file"]) as file:
        assert sorted(mine["lora"]) == sorted(file["lora"])
        for index in mine["lora"].keys() - {"vars"}:
            for name, value in mine[f"lora/{index}/vars"].items():
                np.testing.assert_array_equal(value[()], file[f"lora/{index}/vars/{name}"][()])


def test_merge(chosen: Reference) -> None:
    if not takes_lora(chosen):
        pytest.skip("the family has no default LoRA layers")
    model = adapted(chosen, lora_alpha=2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = oracle.named(model(chosen.inputs))
        model.merge_lora()
        model.merge_lora()
        oracle.assert_close(model(chosen.inputs), expected)
        model.unmerge_lora()
        oracle.assert_close(model(chosen.inputs), expected)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-5, rtol=1e-5)


def test_only_adapters_train(bert: Reference) -> None:
    model = bert.load()
    keys = set(model.state_dict())
    with torch.no_grad():
        before = oracle.named(model(bert.inputs))
        model.enable_lora(RANK)
        oracle.assert_close(model(bert.inputs), before, 0.0)
    assert keys < set(model.state_dict())
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == set(model.state_dict()) - keys
    assert all("lora_kernel_" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(bert.inputs)["sequence_output"].square().sum().backward()
        optimizer.step()
    assert all(layer.lora_kernel_b.abs().max() > 0 for layer in adapters(model).values())


def test_gemma_2b_counts() -> None:
    with torch.device("meta"):
        model = keras_hub_torch.models.GemmaBackbone(
            vocabulary_size=256000,
            num_layers=18,
            num_query_heads=8,
            num_key_value_heads=1,
            hidden_dim=2048,
            intermediate_dim=32768,
            head_dim=256,
        )
        model.enable_lora(4)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_363_968
    assert model.count_params() - 1_363_968 == 2_506_172_416


def test_bfloat16_base_has_float32_adapters(bert: Reference) -> None:
    model = bert.load(dtype="bfloat16")
    model.enable_lora(RANK)
    assert {layer.lora_kernel_a.dtype for layer in adapters(model).values()} == {torch.float32}
    assert model(bert.inputs)["sequence_output"].dtype == torch.bfloat16


def test_custom_targets(bert: Reference, tmp_path: Path) -> None:
    targets = ["feedforward_output_dense", "attention_output"]
    model = adapted(bert, target_layer_names=targets)
    assert {path.rpartition(".")[2] for path in adapters(model)} == set(targets)
    model.save_lora_weights(tmp_path / "x.lora.h5")
    theirs = keras_copy(bert)
    theirs.enable_lora(RANK, target_layer_names=targets)
    theirs.load_lora_weights(str(tmp_path / "x.lora.h5"))
    again = bert.load()
    again.load_lora_weights(tmp_path / "x.lora.h5")
    with torch.no_grad():
        oracle.assert_close(model(bert.inputs), oracle.keras_outputs(theirs, bert.inputs))
        oracle.assert_close(again(bert.inputs), oracle.named(model(bert.inputs)))


def test_embeddings(bert: Reference, tmp_path: Path) -> None:
    """KerasHub adapts embeddings too, but cannot save them: its file looks for kernels."""
    targets = ["token_embedding", "segment_embedding"]
    model = adapted(bert, target_layer_names=targets)
    theirs = keras_copy(bert)
    theirs.enable_lora(RANK, target_layer_names=targets)
    for layer, adapter in zip(
        (theirs.token_embedding, theirs.segment_embedding), adapters(model).values()
    ):
        layer.lora_embeddings_a.assign(adapter.lora_kernel_a.detach())
        layer.lora_embeddings_b.assign(adapter.lora_kernel_b.detach())
    model.save_lora_weights(tmp_path / "x.lora.h5")
    again = bert.load()
    again.load_lora_weights(tmp_path / "x.lora.h5")
    hidden = torch.randn(2, 12)
    with torch.no_grad():
        oracle.assert_close(model(bert.inputs), oracle.keras_outputs(theirs, bert.inputs))
        oracle.assert_close(again(bert.inputs), oracle.named(model(bert.inputs)))
        oracle.assert_close(
            model.token_embedding(hidden, reverse=True),
            oracle.named(theirs.token_embedding(hidden, reverse=True)),
        )


def test_convolutions(preset_folder: Path, tmp_path: Path) -> None:
    resnet = reference_of("resnet-bottleneck", preset_folder)
    with pytest.raises(ValueError, match="no layer that takes LoRA"):
        resnet.load().enable_lora(RANK)
    targets = ["conv1_conv", "stack1_block0_2_conv", "stack1_block0_0_conv"]
    model = adapted(resnet, target_layer_names=targets)
    model.save_lora_weights(tmp_path / "x.lora.h5", order="torch")
    theirs = keras_copy(resnet)
    theirs.enable_lora(RANK, target_layer_names=targets)
    theirs.load_lora_weights(str(tmp_path / "x.lora.h5"))
    with torch.no_grad():
        outputs = oracle.named(model(resnet.inputs))
        oracle.assert_close(outputs, oracle.keras_outputs(theirs, resnet.inputs), 1e-4)
        model.merge_lora()
        oracle.assert_close(model(resnet.inputs), outputs, 1e-4)


def test_a_single_filter_trains() -> None:
    layer = AdaptedConv2D.wrap(Conv2D(2, 3, 3), 1, 1.0)
    images = torch.rand(1, 2, 8, 8).contiguous(memory_format=torch.channels_last)
    layer(images).sum().backward()
    assert layer.lora_kernel_b.grad is not None


def test_errors(bert: Reference, tmp_path: Path) -> None:
    model = bert.load()
    path = tmp_path / "x.lora.h5"
    with pytest.raises(ValueError, match="enable_lora"):
        model.save_lora_weights(path)
    with pytest.raises(ValueError, match="enable_lora"):
        model.merge_lora()
    for rank in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="rank"):
            model.enable_lora(rank)
    with pytest.raises(ValueError, match="qurey"):
        model.enable_lora(2, ["query", "qurey"])
    with pytest.raises(TypeError, match="list"):
        model.enable_lora(2, "query")
    model.enable_lora(2)
    with pytest.raises(ValueError, match="already"):
        model.enable_lora(2)
    with pytest.raises(ValueError, match=r"\.lora\.h5"):
        model.save_lora_weights(tmp_path / "x.h5")
    model.save_lora_weights(path)
    other = bert.load()
    other.enable_lora(3)
    with pytest.raises(ValueError, match=r"rank 2.*rank 3"):
        other.load_lora_weights(path)
    other = bert.load()
    other.enable_lora(2, ["query"])
    with pytest.raises(ValueError, match="other layers"):
        other.load_lora_weights(path)
    bigger = keras_hub_torch.models.BertBackbone(**{**bert.case.config, "hidden_dim": 16})
    with pytest.raises(ValueError, match="does not fit"):
        bigger.load_lora_weights(path)
    (tmp_path / "broken.lora.h5").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="readable"):
        bert.load().load_lora_weights(tmp_path / "broken.lora.h5")


def test_state_dict_and_reload(bert: Reference) -> None:
    model = adapted(bert)
    fresh = bert.load()
    fresh.enable_lora(RANK)
    fresh.load_state_dict(json.loads("{}") | model.state_dict())
    with torch.no_grad():
        oracle.assert_close(fresh(bert.inputs), oracle.named(model(bert.inputs)), 0.0)
    # New weights for the base take the adapters away, as in Keras.
    fresh.load_weights(bert.preset / "model.weights.h5")
    with torch.no_grad():
        oracle.assert_close(fresh(bert.inputs), bert.outputs)
