"""Quantized checkpoints of transformers are read as the floats that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import Backbone
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
ARCHITECTURES = {
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
        "llama",
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
