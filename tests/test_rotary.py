"""Rotary positions against complex numbers, against KerasHub's layers, and against each other."""

from __future__ import annotations

import keras_hub
import numpy as np
import pytest
import torch
from keras_hub.src.models.dinov3.dinov3_layers import DINOV3RopePositionEmbedding
from keras_hub.src.models.flux.flux_maths import ApplyRoPE, RotaryPositionalEmbedding
from keras_hub.src.models.llama.llama_rotary_embedding import LlamaRotaryEmbedding

from keras_hub_torch.backbones.layers.rotary import (
    llama3_frequencies,
    longrope_frequencies,
    longrope_magnitude,
    pair_tables,
    plane_tables,
    rotary_frequencies,
    rotary_part,
    rotary_tables,
    rotate,
    rotate_pairs,
    rotate_part,
    yarn_frequencies,
    yarn_magnitude,
)


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Halves as real and imaginary parts, times a number of length 1."""
    first, second = x.double().chunk(2, dim=-1)
    numbers = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((numbers.real, numbers.imag), dim=-1).float()


def heads(length: int = 7, dim: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, length, dim)


def test_halves() -> None:
    x = heads()
    frequencies = rotary_frequencies(8, 1e4)
    angles = torch.outer(torch.arange(7.0).double(), frequencies.double())
    tables = rotary_tables(7, frequencies, torch.float32)
    torch.testing.assert_close(rotate(x, tables), turned(x, angles))
    layer = keras_hub.layers.RotaryEmbedding(max_wavelength=1e4, sequence_axis=2)
    torch.testing.assert_close(rotate(x, tables), layer(x))
    # Positions may be given, other ones in each row.
    positions = torch.tensor([[0, 1, 2], [4, 5, 6]])
    tables = rotary_tables(positions, frequencies, torch.float32)
    expected = torch.stack((rotate(x[:, :, :3], rotary_tables(3, frequencies, x.dtype))[0],) * 2)
    torch.testing.assert_close(rotate(x[:1, :, :3].expand(2, -1, -1, -1), tables)[0], expected[0])
    scaled = rotary_tables(7, rotary_frequencies(8, 1e4, scaling_factor=4.0), torch.float32)
    torch.testing.assert_close(rotate(x, scaled), turned(x, angles / 4))
    twice = rotary_tables(7, frequencies, torch.float32, magnitude=2.0)
    torch.testing.assert_close(rotate(x, twice), 2 * turned(x, angles))


def test_angles_are_float32() -> None:
    """At position 40,000 the nearest number in bfloat16 is up to 128 away."""
    frequencies = rotary_frequencies(8, 1e4)
    positions = torch.tensor([[40_001]])
    cos, _ = rotary_tables(positions, frequencies, torch.bfloat16)
    exact = torch.cos(40_001 * frequencies.double()).repeat(2)
    torch.testing.assert_close(cos[0, 0, 0].double(), exact, rtol=0, atol=2**-7)
    assert pair_tables(3, frequencies.bfloat16(), torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_part() -> None:
    x = heads(dim=12)
    frequencies = rotary_frequencies(8, 1e4)
    tables = rotary_tables(7, frequencies, torch.float32)
    y = rotate_part(x, tables)
    assert torch.equal(y[..., :8], rotate(x[..., :8], tables))
    assert torch.equal(y[..., 8:], x[..., 8:])
    assert rotary_part(12, 0.7) == 8
    with pytest.raises(ValueError, match=r"an even number of dimensions, not 3, 0\.25 of"):
        rotary_part(12, 0.25)


def test_pairs() -> None:
    x = heads(dim=10)
    frequencies = rotary_frequencies(8, 1e4)
    tables = pair_tables(7, frequencies, torch.float32)
    y = rotate_pairs(x, tables)
    assert torch.equal(y[..., 8:], x[..., 8:])
    # The same numbers as in halves, at other places.
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    halves = rotate(x[..., order], rotary_tables(7, frequencies, torch.float32))
    torch.testing.assert_close(y[..., order], halves)


def test_pairs_of_several_axes() -> None:
    """Flux has angles for each axis and puts them side by side."""
    places = torch.randint(0, 9, (1, 5, 3)).float()
    x = heads(length=5, dim=12)[:1]
    layer = RotaryPositionalEmbedding()
    theirs = torch.cat([layer(places[..., i], dim=4, theta=100) for i in range(3)], dim=-2)
    expected, _ = ApplyRoPE()(x, x, theirs)
    angles = (places[..., None] * rotary_frequencies(4, 100)).flatten(-2)
    torch.testing.assert_close(rotate_pairs(x, (angles.cos(), angles.sin())), expected)


def test_plane() -> None:
    """DINOv3's positions are centres of patches in ±1, turned by once around for each unit."""
    images = torch.zeros(1, 24, 40, 3)
    cos, sin = DINOV3RopePositionEmbedding(32, 2, 100.0, patch_size=8)(images)
    rows, columns = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in (3, 5))
    places = torch.cartesian_prod(rows, columns)
    tables = plane_tables(2 * np.pi * places, rotary_frequencies(8, 100.0), torch.float32)
    torch.testing.assert_close(tables[0], cos)
    torch.testing.assert_close(tables[1], sin)


def test_llama3() -> None:
    x = heads(length=40, dim=16)
    layer = LlamaRotaryEmbedding(
        max_wavelength=1e4,
        sequence_axis=2,
        frequency_adjustment_factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        pretraining_sequence_length=32,
    )
    frequencies = llama3_frequencies(rotary_frequencies(16, 1e4), 8.0, 1.0, 4.0, 32)
    torch.testing.assert_close(rotate(x, rotary_tables(40, frequencies, x.dtype)), layer(x))


def test_yarn() -> None:
    x = heads(length=40, dim=16)
    layer = keras_hub.layers.RotaryEmbedding(
        max_wavelength=15e4,
        scaling_factor=32.0,
        sequence_axis=2,
        rope_type="yarn",
        beta_fast=32.0,
        beta_slow=1.0,
        original_max_position_embeddings=4096,
        truncate=False,
    )
    frequencies = yarn_frequencies(16, 15e4, x.device, 32.0)
    tables = rotary_tables(40, frequencies, x.dtype, yarn_magnitude(32.0))
    torch.testing.assert_close(rotate(x, tables), layer(x), rtol=1e-5, atol=1e-5)


def test_longrope() -> None:
    short, long = [1.0, 1.5, 2.0, 2.5], [3.0, 4.0, 5.0, 6.0]
    plain = rotary_frequencies(8, 1e4)
    positions = torch.stack((torch.arange(6), torch.arange(6) + 5))
    found = longrope_frequencies(plain, positions, short, long, 8)
    assert found.shape == (2, 1, 1, 4)
    torch.testing.assert_close(found[0, 0, 0], plain / torch.tensor(short))
    torch.testing.assert_close(found[1, 0, 0], plain / torch.tensor(long))
    assert rotary_tables(positions, found, torch.float32)[0].shape == (2, 1, 6, 8)
    assert longrope_magnitude(4096, 4096) == 1
    assert longrope_magnitude(8192, 4096) == pytest.approx((1 + 1 / 12) ** 0.5)
