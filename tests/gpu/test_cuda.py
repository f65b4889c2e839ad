"""What only a GPU can show; needs nothing but torch and this package.

Without one they run on the CPU, so that the tests themselves are tried.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import keras_hub_torch

from .precision import COMPILE, DEVICE, assert_as_accurate, exact, needs_cuda

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": (
        "BertBackbone",
        {
            "vocabulary_size": 100,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 64,
            "intermediate_dim": 128,
        },
    ),
    "gpt2": (
        "GPT2Backbone",
        {
            "vocabulary_size": 100,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 64,
            "intermediate_dim": 128,
        },
    ),
    "gemma2": (
        "GemmaBackbone",
        {
            "vocabulary_size": 100,
            "num_layers": 2,
            "num_query_heads": 4,
            "num_key_value_heads": 2,
            "hidden_dim": 64,
            "intermediate_dim": 128,
            "head_dim": 16,
            "attention_logit_soft_cap": 20,
            "use_sliding_window_attention": True,
            "sliding_window_size": 8,
        },
    ),
    "gemma": (
        "GemmaBackbone",
        {
            "vocabulary_size": 100,
            "num_layers": 2,
            "num_query_heads": 4,
            "num_key_value_heads": 1,
            "hidden_dim": 64,
            "intermediate_dim": 128,
            "head_dim": 16,
        },
    ),
    "t5": (
        "T5Backbone",
        {
            "vocabulary_size": 100,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 64,
            "intermediate_dim": 128,
        },
    ),
}


def model_and_inputs(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    cls, config = SMALL[name]
    model = getattr(keras_hub_torch.models, cls)(**config).eval()
    inputs = {}
    for key, spec in model.input_specs.items():
        if spec.kind not in ("ids", "mask"):
            continue
        inputs[key] = torch.randint(0, 2 if key == "segment_ids" else 100, (5, 24))
        if spec.kind == "mask":
            mask = torch.ones(5, 24, dtype=torch.long)
            mask[1, 15:] = 0
            mask[2, :9] = 0
            mask[3] = 0  # nothing to see in this row
            inputs[key] = mask
    return model, inputs


def outputs_of(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    outputs = model(inputs)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def to_device(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.to(DEVICE) for key, value in inputs.items()}


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_as_on_the_cpu(name: str) -> None:
    model, inputs = model_and_inputs(name)
    expected = outputs_of(exact(model), inputs)
    on_cpu = outputs_of(model, inputs)
    assert_as_accurate(outputs_of(model.to(DEVICE), to_device(inputs)), on_cpu, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_padding_is_finite(name: str, dtype: str) -> None:
    """Every attention kernel, with gradients, where rows see no key at all."""
    model, inputs = model_and_inputs(name)
    model = type(model).from_config({**model.get_config(), "dtype": dtype}).to(DEVICE)
    outputs = outputs_of(model, to_device(inputs))
    assert all(output.isfinite().all() for output in outputs)
    sum(output.float().square().mean() for output in outputs).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_compiled(name: str) -> None:
    model, inputs = model_and_inputs(name)
    model.to(DEVICE, torch.bfloat16)
    expected = outputs_of(exact(model), inputs)
    inputs = to_device(inputs)
    eager = outputs_of(model, inputs)
    compiled = torch.compile(model, fullgraph=True, **COMPILE)
    for _ in range(3):  # the third call replays the CUDA graph
        outputs = [output.clone() for output in outputs_of(compiled, inputs)]
    assert_as_accurate(outputs, eager, expected)


@needs_cuda
@torch.no_grad()
def test_no_scores_in_memory() -> None:
    """Padded prompts of grouped heads take a fused kernel."""
    model, inputs = model_and_inputs("gemma")
    model.cuda().to(torch.bfloat16)
    inputs = to_device(inputs)
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(fused):
        assert all(output.isfinite().all() for output in outputs_of(model, inputs))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["keras", "safetensors"])
@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_loading_onto_the_device(name: str, form: str, dtype: str, tmp_path: Any) -> None:
    """Rows longer than a chunk of the memory between file and device, of another dtype perhaps."""
    cls, config = SMALL[name]
    model = getattr(keras_hub_torch.models, cls)(**config | {"vocabulary_size": 70_001})
    model.save_to_preset(tmp_path, format=form)
    loaded = keras_hub_torch.models.Backbone.from_preset(tmp_path, device=DEVICE, dtype=dtype)
    assert {p.device.type for p in loaded.parameters()} == {DEVICE.type}
    for name, value in model.state_dict().items():
        found = loaded.state_dict()[name]
        assert torch.equal(found.cpu(), value.to(found.dtype))
        assert found.is_contiguous()
        assert found.untyped_storage().nbytes() == found.nbytes


AUTOCAST: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "resnet": (
        "ResNetBackbone",
        {
            "input_conv_filters": [16],
            "input_conv_kernel_sizes": [3],
            "stackwise_num_filters": [64, 16],
            "stackwise_num_blocks": [1, 2],
            "stackwise_num_strides": [1, 2],
            "block_type": "bottleneck_block",
        },
        (3, 32, 32, 3),
    ),
    "vit": (
        "ViTBackbone",
        {
            "image_shape": (32, 32, 3),
            "patch_size": 8,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 64,
            "mlp_dim": 128,
        },
        (3, 32, 32, 3),
    ),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", AUTOCAST)
def test_training_under_autocast(name: str, dtype: torch.dtype) -> None:
    """Batch norm and attention of half precision, in training mode."""
    torch.manual_seed(0)
    cls, config, shape = AUTOCAST[name]
    model = getattr(keras_hub_torch.models, cls)(**config)
    images = torch.rand(shape)
    found = []
    for one, device in ((exact(model), "cpu"), (model, "cpu"), (model, DEVICE.type)):
        one.to(device)
        one.zero_grad()
        enabled = one is model
        with torch.autocast(device, dtype, enabled=enabled):
            y = one(images.to(device, next(one.parameters()).dtype))
            loss = y.square().mean() if not enabled else y.float().square().mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad.detach().cpu() for p in one.parameters())])
    true, peers, ours = found
    for one, peer, wanted in zip(ours, peers, true):
        difference = (one.cpu().double() - wanted).norm()
        # Gradients of weights that a norm makes idle are but rounding.
        usual = max((peer.double() - wanted).norm(), 0.02 * wanted.norm(), 1e-3)
        assert difference <= 4 * usual
