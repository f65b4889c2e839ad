"""Weights of few bits compute on a GPU what they do on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

import keras_hub_torch
from keras_hub_torch import quantizers
from keras_hub_torch.backbones.layers.products import integer_product

from .precision import COMPILE, DEVICE
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
