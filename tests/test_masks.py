"""Masks, and the types of layers, which say what a mask is of."""

from __future__ import annotations

import pytest
import torch

from keras_hub_torch.backbones.layers.attention import attend
from keras_hub_torch.backbones.layers.cache import Step
from keras_hub_torch.backbones.layers.masks import CAUSAL, FULL, causal_mask, check_layer_types


@pytest.mark.parametrize("key_heads", [4, 2])
def test_what_is_hidden(key_heads: int) -> None:
    query = torch.randn(2, 4, 5, 8)
    key, value = torch.randn(2, 2, key_heads, 5, 8)
    everything = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    torch.testing.assert_close(attend(query, key, value), attend(query, key, value, everything))
    causal = attend(query, key, value, CAUSAL)
    mask = causal_mask(5, query.device)
    torch.testing.assert_close(causal, attend(query, key, value, mask))
    # The first position sees itself alone.
    first = attend(query[:, :, :1], key[:, :, :1], value[:, :, :1], CAUSAL)
    torch.testing.assert_close(causal[:, :, :1], first)


def test_masks_of_a_step() -> None:
    x = torch.zeros(2, 5, 8)
    assert Step(x, None, None, 0).mask() is CAUSAL
    assert torch.equal(Step(x, None, None, 0).full_mask(), causal_mask(5, x.device))
    assert Step(x, None, None, 0).mask(window=5) is CAUSAL
    assert torch.equal(Step(x, None, None, 0).mask(window=4), causal_mask(5, x.device, 4))
    padded = Step(x, torch.tensor([[1, 1, 1, 1, 0]] * 2), None, 0).mask()
    assert isinstance(padded, torch.Tensor)
    assert not padded[..., 4].any()


def test_types_of_layers() -> None:
    kinds = ["linear", FULL, "linear"]
    assert check_layer_types(kinds, 3, ("linear", FULL)) == kinds
    assert check_layer_types(kinds, 2, ("linear", FULL)) == kinds[:2]
    with pytest.raises(ValueError, match=r"must be 4 of linear and full_attention, not \['linear'"):
        check_layer_types(kinds, 4, ("linear", FULL))
    with pytest.raises(ValueError, match="must be 3 of sliding_attention and full_attention"):
        check_layer_types(kinds, 3)
