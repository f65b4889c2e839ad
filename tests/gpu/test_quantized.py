"""Weights of few bits compute on a GPU what they do on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import keras_hub_torch
from keras_hub_torch import quantizers
from keras_hub_torch.backbones._quantization import DENSE
from keras_hub_torch.backbones.layers.core import Dense
from keras_hub_torch.backbones.layers.dtypes import Quantization
from keras_hub_torch.backbones.layers.products import integer_product
from keras_hub_torch.backbones.layers.tiled import TiledDense

from .precision import COMPILE, DEVICE, assert_as_accurate, needs_cuda
from .test_cuda import SMALL

CONFIGS = {
    "int8": quantizers.Int8QuantizationConfig(),
    "int8-weights": quantizers.Int8QuantizationConfig(activation_quantizer=None),
    "int4": quantizers.Int4QuantizationConfig(block_size=32),
    "float8": quantizers.Float8QuantizationConfig(),
}


@pytest.mark.parametrize("rows", [1, 17, 40])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 32), (63, 5)])
def test_products_of_integers_are_exact(rows: int, inputs: int, outputs: int) -> None:
    x, weight = (torch.randint(-127, 128, (n, inputs)) for n in (rows, outputs))
    product = integer_product(x.float().to(DEVICE), weight.to(DEVICE, torch.int8))
    torch.testing.assert_close(product.cpu().long(), x @ weight.T, rtol=0, atol=0)


@pytest.mark.parametrize("mode", CONFIGS)
def test_as_on_the_cpu(mode: str) -> None:
    name, config = SMALL["gpt2"]
    model = getattr(keras_hub_torch.models, name)(**config).eval()
    model.quantize(config=CONFIGS[mode])
    there = copy.deepcopy(model).to(DEVICE)
    ids = {"token_ids": torch.randint(1, 100, (2, 9)), "padding_mask": torch.ones(2, 9)}
    given = {key: value.to(DEVICE) for key, value in ids.items()}
    expected = model(ids)
    # A rounding that falls the other way moves a value by 1 / 127 of the largest of its row.
    limit = 0.02 * expected.abs().max()
    assert (there(given).cpu() - expected).abs().max() <= limit
    compiled = torch.compile(there, fullgraph=True, **COMPILE)
    with torch.no_grad():
        assert (compiled(given).cpu() - expected).abs().max() <= limit


def quantized(mode: str, size: int = -1) -> Any:
    """A layer in bfloat16, on the CPU."""
    dense = Dense(256, 48).to(torch.bfloat16)
    layer: Any = DENSE[mode].convert(dense, Quantization(mode, 4 if mode == "int4" else 8, size))
    layer.fill(dense)
    return layer.eval()


@needs_cuda
@pytest.mark.parametrize("size", [32, 64, 256, -1])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_tiles(size: int, rows: int) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("The kernel is for Ampere and later.")
    plain = quantized("int4", size)
    x = torch.randn(rows, 256, dtype=torch.bfloat16)
    expected = copy.deepcopy(plain).double().dequantized(torch.float64) @ x.double().T
    plain = plain.to(DEVICE)
    tiled = TiledDense.of(plain)
    assert tiled is not None
    expected = expected.T + plain.bias.double().cpu()
    x = x.to(DEVICE).requires_grad_()
    with torch.no_grad():
        assert_as_accurate([tiled(x)], [plain(x)], [expected])
        compiled = torch.compile(tiled, fullgraph=True, **COMPILE)
        assert_as_accurate([compiled(x)], [plain(x)], [expected])
    gradients = [torch.autograd.grad(one(x).sum(), x)[0] for one in (tiled, plain)]
    assert_as_accurate(gradients[:1], gradients[1:], [exact_sum(plain, rows)])


def exact_sum(layer: Any, rows: int) -> torch.Tensor:
    """The gradient of the sum of a layer's outputs, for each of so many rows."""
    weight = copy.deepcopy(layer).cpu().double().dequantized(torch.float64)
    return weight.sum(0).expand(rows, -1)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float8(dtype: torch.dtype) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("Float8 is multiplied from Ada and Hopper on.")
    layer = quantized("float8").to(dtype)
    layer.inputs_scale.fill_(0.01)
    layer.kernel_scale.fill_(0.001)
    there = copy.deepcopy(layer).to(DEVICE)
    x = torch.randn(3, 7, 256, dtype=dtype)
    with torch.no_grad():
        expected = [copy.deepcopy(layer).float()(x.float())]
        found, peer = there(x.to(DEVICE)), layer(x)
        assert_as_accurate([found], [peer], expected)
