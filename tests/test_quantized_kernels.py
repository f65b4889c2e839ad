"""Weights of few bits in torch's own kernels: as exact as dequantized ones, whatever the inputs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import keras_hub_torch
from keras_hub_torch import quantizers
from keras_hub_torch.backbones._quantization import DENSE
from keras_hub_torch.backbones.layers import products, tiled
from keras_hub_torch.backbones.layers.core import Dense, EinsumDense
from keras_hub_torch.backbones.layers.dtypes import Quantization
from keras_hub_torch.backbones.layers.integers import pack_int4

from . import oracle

pytestmark = pytest.mark.skipif(not products.VECTORIZED, reason="The CPU has no such kernels.")


def quantized(
    mode: str, bits: int, size: int, inputs: int, outputs: int, shuffled: bool = False
) -> Any:
    """A layer in bfloat16, of random numbers."""
    return filled(Dense(inputs, outputs), Quantization(mode, bits, size), shuffled)


def filled(dense: Dense, quantization: Quantization, shuffled: bool = False) -> Any:
    torch.nn.init.normal_(dense.bias)
    dense = dense.to(torch.bfloat16)
    mode, bits, size = quantization.mode, quantization.bits, quantization.group_size
    layer: Any = DENSE[mode].convert(dense, quantization)
    if mode in ("int8", "int4"):
        layer.fill(dense)
        return layer
    rows = layer.rows
    codes = torch.randint(0, 2**bits, (layer.columns, rows), dtype=torch.uint8)
    layer.weight.copy_(pack_int4(codes, 0) if bits == 4 else codes)
    layer.kernel_scale.uniform_(0.01, 0.02)
    layer.kernel_zero.copy_(torch.randint(0, 2**bits, layer.kernel_zero.shape))
    groups = torch.arange(rows) / (rows if size == -1 else size)
    layer.g_idx.copy_(groups[torch.randperm(rows)] if shuffled else groups)
    if mode == "awq":
        layer.awq_scales.uniform_(0.5, 2)
    layer.loaded()
    return layer


def assert_exact(layer: torch.nn.Module, plain: Any, x: torch.Tensor) -> None:
    """Up to the last bits of bfloat16."""
    weight = copy.deepcopy(plain).double().dequantized(torch.float64)
    expected = F.linear(x.double(), weight, plain.bias.double())
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert y.shape == expected.shape
    if y.numel():
        assert (y - expected).abs().max() <= 2**-7 * expected.abs().max()


@pytest.mark.parametrize(("inputs", "outputs"), [(48, 5), (20, 7)])
def test_int8(inputs: int, outputs: int) -> None:
    layer = quantized("int8", 8, -1, inputs, outputs)
    for rows in (0, 1, 3, 17):
        assert_exact(layer, layer, torch.randn(rows, 2, inputs, dtype=torch.bfloat16))
    crooked = torch.randn(2 * inputs + 1, dtype=torch.bfloat16)[1:].view(2, inputs)
    assert_exact(layer, layer, crooked)
    other = copy.deepcopy(layer)
    other.weight = torch.zeros(inputs * outputs + 3, dtype=torch.int8)[3:].view(outputs, inputs)
    other.weight.copy_(layer.weight)
    assert_exact(other, layer, crooked)
    x = crooked.clone().requires_grad_()
    layer(x).sum().backward()
    expected = layer.dequantized(torch.bfloat16).sum(0).expand(2, -1)
    torch.testing.assert_close(x.grad, expected)
    x = torch.randn(3, 2, inputs, dtype=torch.bfloat16)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x), rtol=2**-7, atol=2**-7)
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        for one in (x, x[:1], crooked):
            torch.testing.assert_close(compiled(one), layer(one))
        exported = torch.export.export(layer, (x,)).module()
        assert_exact(exported, layer, x)
    if inputs % 16 == 0:
        torch.library.opcheck(products.int8_product, (x, layer.weight))


TILED = {
    "int4": ("int4", 4, 64, 192, 70),
    "int4-whole": ("int4", 4, -1, 96, 50),
    "gptq-shuffled": ("gptq", 4, 32, 96, 64, True),
    "gptq-2": ("gptq", 2, 96, 192, 33),
    "gptq-3-shuffled": ("gptq", 3, 64, 160, 20, True),
    "awq-shuffled": ("awq", 4, 32, 64, 40, True),
}


@pytest.mark.parametrize("name", TILED)
def test_tiles(name: str) -> None:
    plain = quantized(*TILED[name])
    layer: Any = tiled.TiledDense.of(plain)
    inputs = plain.in_features
    for rows in (0, 1, 40):
        assert_exact(layer, plain, torch.randn(rows, 2, inputs, dtype=torch.bfloat16))
    crooked = torch.randn(2 * inputs + 1, dtype=torch.bfloat16)[1:].view(2, inputs)
    assert_exact(layer, plain, crooked)
    x = crooked.clone().requires_grad_()
    layer(x).sum().backward()
    expected = copy.deepcopy(plain).double().dequantized(torch.float64).sum(0).expand(2, -1)
    assert (x.grad - expected).abs().max() <= 2**-7 * expected.abs().max()


@pytest.mark.parametrize(("mode", "size"), [("int4", 32), ("int4", -1), ("gptq", 64)])
def test_tiles_of_groups_across_heads(mode: str, size: int) -> None:
    plain = filled(EinsumDense("btd,ndh->btnh", 128, (2, 6), True), Quantization(mode, 4, size))
    assert not plain.plain
    layer = tiled.TiledDense.of(plain)
    assert layer is not None
    for rows in (2, 40):
        assert_exact(layer, plain, torch.randn(rows, 2, 128, dtype=torch.bfloat16))


def test_tiles_compile_and_export() -> None:
    layer: Any = tiled.TiledDense.of(quantized(*TILED["gptq-shuffled"]))
    x = torch.randn(40, 2, layer.in_features, dtype=torch.bfloat16)
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        for rows in (40, 1, 30, 2):
            torch.testing.assert_close(compiled(x[:rows]), layer(x[:rows]), rtol=2**-7, atol=2**-7)
        exported = torch.export.export(layer, (x[:1],))
        torch.testing.assert_close(exported.module()(x[:1]), layer(x[:1]))
    assert any("int4pack" in str(node.target) for node in exported.graph.nodes)


def test_what_has_no_tiles() -> None:
    for given in (("int4", 4, 40, 160, 8), ("gptq", 8, 32, 64, 8)):
        assert tiled.TiledDense.of(quantized(*given)) is None
    layer = quantized("gptq", 4, 32, 64, 8)
    assert tiled.TiledDense.of(copy.deepcopy(layer).float()) is None
    assert tiled.TiledDense.of(copy.deepcopy(layer).to("meta")) is None
    layer.g_idx[0] = 1.0  # groups of several sizes
    layer.loaded()
    assert tiled.TiledDense.of(layer) is None


def test_fuse(tmp_path: Path) -> None:
    sizes = {"hidden_dim": 64, "intermediate_dim": 128, "head_dim": 32}
    heads = {"num_query_heads": 2, "num_key_value_heads": 1}
    model = keras_hub_torch.models.GemmaBackbone(97, 1, **heads, **sizes, dtype="bfloat16").eval()
    with pytest.raises(NotImplementedError, match="nothing to fuse"):
        model.fuse()
    model.quantize(config=quantizers.Int4QuantizationConfig(block_size=32))
    fused, exact = model.fuse(), copy.deepcopy(model).float()
    parts = [one for one in fused.modules() if isinstance(one, tiled.Tiled)]
    assert len(parts) == 1 + 7
    ids = {"token_ids": torch.randint(1, 97, (2, 9)), "padding_mask": torch.ones(2, 9)}
    hidden = torch.randn(3, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        oracle.assert_close(fused(ids), oracle.named(exact(ids)), 0.02)
        logits = fused.token_embedding(hidden, reverse=True)
        expected = exact.token_embedding(hidden.float(), reverse=True)
        oracle.assert_close(logits, oracle.named(expected), 0.02)
    with pytest.raises(ValueError, match=r"made by fuse\(\)"):
        fused.save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="arranged the weights"):
        fused.float()
    fused.to("cpu", torch.bfloat16).to("meta")
