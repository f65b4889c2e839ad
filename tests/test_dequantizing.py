"""Quantized checkpoints of transformers are read as the floats that they stand for."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from keras_hub_torch.cli import app
from keras_hub_torch.models import Backbone
from keras_hub_torch.presets.checkpoints.quantized import Dequantized
from keras_hub_torch.presets.verifying import verify_preset

from . import quantizing
from .checkpoints import make_model

LLAMA = {
    "vocab_size": 41,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
}
MIXTRAL = {**LLAMA, "num_local_experts": 3, "num_hidden_layers": 1}
GPT2 = {"vocab_size": 41, "n_layer": 1, "n_head": 2, "n_embd": 32, "n_inner": 64, "n_positions": 9}
PHI3 = {**LLAMA, "pad_token_id": 0}
ARCHITECTURES = {
    "phi3": ("Phi3ForCausalLM", PHI3),
    "llama": ("LlamaForCausalLM", LLAMA),
    "mixtral": ("MixtralForCausalLM", MIXTRAL),
    "gpt2": ("GPT2LMHeadModel", GPT2),
}
LAYERS = ("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight", "c_attn.weight", "c_fc.weight")
SCALE = torch.tensor(0.5)


def groups(weights: dict[str, Any], format: str = "pack-quantized") -> dict[str, Any]:
    one = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": one},
    }


def bnb(bits: int) -> dict[str, Any]:
    return {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True}


INT = {"type": "int", "symmetric": True}
QUANTIZED: dict[str, tuple[str, dict[str, Any], Any]] = {
    "gptq": (
        "llama",
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": True},
        quantizing.gptq(4, 32, act_order=True),
    ),
    "gptq-3-bits": (
        "phi3",
        {"quant_method": "gptq", "bits": 3, "group_size": -1, "checkpoint_format": "gptq"},
        quantizing.gptq(3, index=False),
    ),
    "gptq-v2": (
        "mixtral",
        {"quant_method": "gptq", "bits": 8, "group_size": 40, "checkpoint_format": "gptq_v2"},
        quantizing.gptq(8, 40, 2),
    ),
    "gptq-conv1d": (
        "gpt2",
        {"quant_method": "gptq", "bits": 2, "group_size": 16, "dynamic": {"-:lm_head": {}}},
        quantizing.gptq(2, 16),
    ),
    "awq": (
        "mixtral",
        {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"},
        quantizing.awq(16),
    ),
    "awq-gemv": (
        "llama",
        {"quant_method": "awq", "bits": 4, "group_size": -1, "version": "GEMV"},
        quantizing.awq(-1, "gemv"),
    ),
    "bitsandbytes-int8": ("gpt2", bnb(8), quantizing.int8_rows),
    "bitsandbytes-nf4": ("llama", bnb(4), quantizing.four_bits(nested=True)),
    "bitsandbytes-fp4": (
        "mixtral",
        bnb(4),
        quantizing.four_bits("fp4", 32, storage="bfloat16"),
    ),
    "fp8-blocks": (
        "llama",
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [48, 40]},
        quantizing.fp8((48, 40)),
    ),
    "fp8-exponents": (
        "mixtral",
        {"quant_method": "fp8", "weight_block_size": [16, 32], "scale_fmt": "ue8m0"},
        quantizing.fp8((16, 32), dtype=torch.uint8),
    ),
    "fp8-tensor": (
        "llama",
        {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"},
        quantizing.fp8(dtype=torch.bfloat16, **{".activation_scale": SCALE}),
    ),
    "fp8-named-otherwise": (
        "llama",
        {"quant_method": "fp8", "activation_scheme": "static"},
        quantizing.fp8(scale=".weight_scale", **{".input_scale": SCALE, ".k_scale": SCALE}),
    ),
    "fp8-rows": (
        "llama",
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        quantizing.fp8(rows=True, scale=".weight_scale"),
    ),
    "compressed-tensors": (
        "mixtral",
        groups({**INT, "num_bits": 4, "strategy": "group", "group_size": 16}),
        quantizing.compressed(4, 16, act_order=True),
    ),
    "compressed-tensors-zeros": (
        "llama",
        groups({**INT, "num_bits": 5, "strategy": "group", "group_size": 32, "symmetric": False}),
        quantizing.compressed(5, 32, symmetric=False),
    ),
    "compressed-tensors-rows": (
        "llama",
        groups({**INT, "num_bits": 8, "strategy": "channel"}, "int-quantized"),
        quantizing.compressed(8, None, pack=False, **{".input_scale": SCALE}),
    ),
    "compressed-tensors-float": (
        "llama",
        groups({"type": "float", "num_bits": 8, "strategy": "tensor"}, "float-quantized"),
        quantizing.fp8(scale=".weight_scale"),
    ),
    "compressed-tensors-blocks": (
        "llama",
        groups(
            {"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [48, 40]},
            "float-quantized",
        ),
        quantizing.fp8((48, 40), scale=".weight_scale"),
    ),
}


def edit(folder: Path, settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))


def quantized(name: str, root: Path) -> tuple[Path, Path]:
    """A quantized checkpoint, and the same one in floats."""
    kind, settings, quantize = QUANTIZED[name]
    make_model(*ARCHITECTURES[kind]).save_pretrained(root / "floats", save_original_format=True)
    make_model(*ARCHITECTURES[kind]).save_pretrained(root / "packed", save_original_format=True)
    state = load_file(root / "floats" / "model.safetensors")
    packed = {}
    generator = torch.Generator().manual_seed(len(name))
    for weight in list(state):
        if not weight.endswith(LAYERS) or "layers.1.self_attn.o_proj" in weight:
            packed[weight] = state[weight]  # some are never quantized
            continue
        turned = kind == "gpt2"  # Conv1D
        shape = state[weight].T.shape if turned else state[weight].shape
        tensors, values = quantize(tuple(shape), generator)
        state[weight] = (values.T if turned else values).contiguous()
        stem = weight.removesuffix(".weight")
        packed |= {stem + suffix: tensor.clone() for suffix, tensor in tensors.items()}
    save_file(state, root / "floats" / "model.safetensors", {"format": "pt"})
    save_file(packed, root / "packed" / "model.safetensors", {"format": "pt"})
    edit(root / "packed", settings)
    return root / "packed", root / "floats"


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_are_those_of_the_format(name: str, tmp_path: Path) -> None:
    folder, floats = quantized(name, tmp_path)
    with pytest.raises(ValueError, match=r"quantized weights \(.*\)\. dequantize=True reads them"):
        Backbone.from_preset(folder)
    expected = Backbone.from_preset(floats, dtype="bfloat16")
    found = Backbone.from_preset(folder, dtype="bfloat16", dequantize=True)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for weight, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[weight], value), weight
    assert verify_preset(folder, dequantize=True).files


def test_shards_and_empty_biases(tmp_path: Path) -> None:
    folder, floats = quantized("gptq", tmp_path)
    state = load_file(folder / "model.safetensors")
    state |= {f"model.layers.{i}.self_attn.q_proj.bias": torch.zeros(64) for i in range(2)}
    names = sorted(state, key=lambda name: name[::-1])  # parts of one weight are in several
    shards = {f"model-{i}.safetensors": names[i::3] for i in range(3)}
    for file, held in shards.items():
        save_file({name: state[name] for name in held}, folder / file, {"format": "pt"})
    index = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()
    expected = Backbone.from_preset(floats).state_dict()
    for weight, value in Backbone.from_preset(folder, dequantize=True).state_dict().items():
        assert torch.equal(value, expected[weight]), weight
    file = folder / index["model.layers.0.self_attn.q_proj.bias"]
    state = load_file(file)
    state["model.layers.0.self_attn.q_proj.bias"][3] = 1
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"superfluous: model\.layers\.0\.self_attn\.q_proj\.bias"):
        Backbone.from_preset(folder, dequantize=True)


@pytest.mark.parametrize("mmap", [None, False])
def test_one_at_a_time(mmap: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = quantized("bitsandbytes-int8", tmp_path)
    made: list[weakref.ref[torch.Tensor]] = []
    read = Dequantized.read

    def watched(self: Dequantized, dtype: torch.dtype | None = None) -> torch.Tensor:
        assert not [one for one in made if one() is not None]
        value = read(self, dtype)
        assert value.dtype == dtype == torch.bfloat16
        made.append(weakref.ref(value))
        return value

    monkeypatch.setattr(Dequantized, "read", watched)
    Backbone.from_preset(folder, dtype="bfloat16", dequantize=True, mmap=mmap)
    assert len(made) == 4


@pytest.mark.filterwarnings("ignore")  # transformers says that it does the same
def test_equals_transformers(tmp_path: Path) -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [16, 32], "fmt": "e4m3"}
    QUANTIZED["fp8"] = ("llama", settings, quantizing.fp8((16, 32)))
    folder, floats = quantized("fp8", tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype="float32").state_dict()
    for name, value in load_file(floats / "model.safetensors").items():
        assert torch.equal(theirs[name], value), name


def test_command_line(tmp_path: Path) -> None:
    folder, floats = quantized("awq-gemv", tmp_path)
    run = CliRunner().invoke
    assert "Quantized    awq" in run(app, ["info", str(folder)]).output
    for command in (["verify", str(folder)], ["convert", str(folder), str(tmp_path / "out")]):
        further = ["--format", "keras"] if command[0] == "convert" else []
        found = run(app, [*command, *further])
        assert found.exit_code == 1
        assert "dequantize" in found.output
        assert run(app, [*command, *further, "--dequantize"]).exit_code == 0
    expected = Backbone.from_preset(floats).state_dict()
    for weight, value in Backbone.from_preset(tmp_path / "out").state_dict().items():
        assert torch.equal(value, expected[weight]), weight


Q = "model.layers.0.self_attn.q_proj"
GROUP = {**INT, "num_bits": 4, "strategy": "group", "group_size": 16}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gptq", {"bits": 5}, "bits is 5; only 2 or 3 or 4 or 8 can be read"),
        ("gptq", {"bits": True}, "bits is True; only"),
        ("gptq", {"bits": 3}, "256 packed bits are not divisible by 3"),
        ("gptq", {"bits": 8}, r"self_attn\.q_proj\.weight: .*qzeros is \(2, 8\), not \(1, 16\)"),
        ("gptq", {"group_size": 0}, "group_size is 0; it must be positive, or -1"),
        ("gptq", {"group_size": 24}, r"qzeros is \(2, 8\), not \(3, 8\)"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; only 'gptq'"),
        ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}, "dynamic gives layers settings of their own"),
        ("gptq", {"dynamic": 3}, "dynamic gives"),
        ("gptq", {"quant_method": "hqq"}, r"\(quant_method 'hqq'\) cannot be read; known are gptq"),
        ("gptq", {"quant_method": ["gptq"]}, r"\(quant_method 'list'\) cannot be read"),
        ("gptq", {"quant_method": "awq"}, r"superfluous: .*g_idx"),
        ("awq", {"group_size": 48}, "64 inputs are not divisible by 48"),
        ("awq", {"version": "gemv_fast"}, "version is 'gemv_fast'; only 'gemm' or 'gemv'"),
        ("awq", {"version": 3}, "version is 3; only"),
        ("bitsandbytes-nf4", {"quant_method": "fp8"}, r"q_proj.weight is \(2048, 1\), not"),
        ("fp8-blocks", {"weight_block_size": [48]}, r"weight_block_size is \[48\]; it must be two"),
        ("fp8-blocks", {"weight_block_size": [16, 40]}, r"scale_inv is \(2, 2\), not \(4, 2\)"),
        ("fp8-blocks", {"weight_block_size": None}, r"scale_inv is \(2, 2\), not \(2, 1\)"),
        ("fp8-blocks", {"fmt": "e5m2"}, "fmt is 'e5m2'; only 'e4m3'"),
        ("compressed-tensors", {"format": "marlin-24"}, "format is 'marlin-24'; only"),
        ("compressed-tensors", {"config_groups": 4}, "config_groups does not say"),
        ("compressed-tensors", {"sparsity_config": {"format": "sparse"}}, "format is 'sparse'"),
        (
            "compressed-tensors",
            groups({**GROUP, "group_size": 32}),
            r"weight_scale is \(64, 4\): groups of 16, not of \{32\}",
        ),
        ("compressed-tensors", groups({**GROUP, "num_bits": 9}), "num_bits is 9; only"),
        ("compressed-tensors", groups({**GROUP, "num_bits": 8}), "64 columns of 8 bits are not"),
        (
            "compressed-tensors",
            groups({**GROUP, "group_size": [4]}),
            "group_size is .*, no number",
        ),
        (
            "compressed-tensors",
            groups({**GROUP, "strategy": "block", "block_structure": "16x16"}),
            "block_structure is '16x16'; it must be two positive numbers",
        ),
    ],
)
def test_settings_that_do_not_fit(
    name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, _ = quantized(name, tmp_path)
    edit(folder, {**QUANTIZED[name][1], **settings})
    with pytest.raises(ValueError, match=message) as caught:
        Backbone.from_preset(folder, dequantize=True)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq", {".scales": ...}, rf"{Q}\.weight: {Q}\.scales missing"),
        ("gptq", {".qweight": ...}, rf"missing: {Q}\.weight.*\n.*superfluous"),
        ("gptq", {".qweight": torch.zeros(8, 64)}, r"qweight is F32, not I32 or int32"),
        ("gptq", {".qweight": torch.zeros(8).int()}, r"qweight is \(8,\), no matrix"),
        ("gptq", {".g_idx": torch.full((64,), 2).int()}, "g_idx has groups outside of 0 to 1"),
        ("gptq", {".g_idx": torch.zeros(63).int()}, r"g_idx is \(63,\), not \(64,\)"),
        ("gptq", {".weight": torch.zeros(64, 64)}, rf"twice: {Q}\.weight"),
        ("bitsandbytes-nf4", {".weight.absmax": torch.zeros(64)}, "are needed where absmax is"),
        ("bitsandbytes-nf4", {".weight.quant_map": torch.zeros(15)}, r"quant_map is \(15,\), not"),
        ("bitsandbytes-nf4", {".weight": torch.zeros(9, 1).byte()}, "not half a byte for each of"),
        ("bitsandbytes-nf4", {"STATE": torch.zeros(9).byte()}, "quant_state is none"),
        ("bitsandbytes-nf4", {"STATE": torch.zeros(99_999).byte()}, "no bytes of a few settings"),
        ("bitsandbytes-nf4", {"STATE": ...}, "one of .* is needed, not 0"),
        ("fp8-tensor", {".weight_scale_inv": torch.zeros(3)}, r"\(3,\), not \(\) or \(1,\)"),
        ("fp8-tensor", {".weight_scale_inv": ...}, "q_proj.weight is F8_E4M3, not a float"),
        ("compressed-tensors", {".weight_shape": torch.tensor([64, 10**9])}, "not a packed"),
        (
            "compressed-tensors",
            {".weight_scale": torch.zeros(64, 3)},
            "64 columns are not",
        ),
        ("compressed-tensors", {".weight_scale": torch.zeros(3, 4)}, r"\(3, 4\), not \(64, 4\)"),
    ],
)
def test_tensors_that_do_not_fit(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, _ = quantized(name, tmp_path)
    file = folder / "model.safetensors"
    state = load_file(file)
    for suffix, value in changes.items():
        full_name = Q + suffix.replace("STATE", ".weight.quant_state.bitsandbytes__nf4")
        state.pop(full_name, None)
        if value is not ...:
            state[full_name] = value
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        Backbone.from_preset(folder, dequantize=True)
    assert str(folder) in str(caught.value)
