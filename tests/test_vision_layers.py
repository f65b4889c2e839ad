"""What vision models share, against KerasHub's layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras_hub.src.models.dinov2.dinov2_layers import DINOV2Embedding, DINOV2LayerScale
from keras_hub.src.models.mit.mit_layers import DropPath as KerasDropPath
from keras_hub.src.models.swin_transformer.swin_transformer_layers import (
    get_relative_position_index,
    window_partition,
    window_reverse,
)
from keras_hub.src.models.vit_det.vit_layers import (
    MultiHeadAttentionWithRelativePE,
    WindowPartitioning,
)
from torch.nn import functional as F

from keras_hub_torch.backbones.layers.attention import attend, merge_heads
from keras_hub_torch.backbones.layers.convolution import Conv2D
from keras_hub_torch.backbones.layers.vision import (
    DropPath,
    LayerScale,
    RelativePositions,
    check_equally_long,
    check_images,
    embed_patches,
    image_channels,
    join_windows,
    partition_windows,
    resample_positions,
    window_offsets,
)


def test_image_channels() -> None:
    assert image_channels((None, None, 3), "channels_last") == 3
    assert image_channels((224, 224, 5), "channels_last") == 5
    assert image_channels((1, None, 32), "channels_first") == 1
    assert image_channels((3, 8, 5), "channels_last") == 5
    assert image_channels((None, None, None), "channels_last") == 3
    with pytest.raises(ValueError, match="does not go with data_format='channels_last'"):
        image_channels((3, 224, 224), "channels_last")
    with pytest.raises(ValueError, match="does not go with data_format='channels_first'"):
        image_channels((224, 224, 3), "channels_first")
    with pytest.raises(ValueError, match="it has None channels"):
        image_channels((3, None, None), "channels_last")
    with pytest.raises(ValueError, match="must have a height, a width and channels"):
        image_channels((224, 224), "channels_last")


def test_check_images() -> None:
    images = torch.zeros(2, 32, 48, 3)
    check_images(images, "channels_last", 3, (32, None), multiple_of=16)
    check_images(images, "channels_last", 3, multiple_of=(32, 3))
    check_images(images.permute(0, 3, 1, 2), "channels_first", 3, (32, 48))
    message = (
        r"height, width and channels any × any × 3, but by data_format='channels_first' those of "
        r"shape \(2, 32, 48, 3\) are 48 × 3 × 32"
    )
    with pytest.raises(ValueError, match=message):
        check_images(images, "channels_first", 3)
    with pytest.raises(ValueError, match=r"224 × 224 × 3, but by .* are 32 × 48 × 3"):
        check_images(images, "channels_last", 3, (224, 224))
    with pytest.raises(ValueError, match="divisible by 32 and 32, not 32 × 48"):
        check_images(images, "channels_last", 3, multiple_of=32)


def test_equally_long() -> None:
    check_equally_long(depths=[1, 2], widths=(3, 4))
    with pytest.raises(ValueError, match=r"equally long: depths=\[1\], widths=\(3, 4\)\."):
        check_equally_long(depths=[1], widths=(3, 4))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_patches(data_format: str) -> None:
    images = torch.randn(2, 8, 12, 3)
    conv = Conv2D(3, 5, (4, 2), (4, 2))
    given = images if data_format == "channels_last" else images.permute(0, 3, 1, 2)
    patches = embed_patches(given, conv, data_format, (8, 12))
    assert patches.shape == (2, 2 * 6, 5)
    assert patches.is_contiguous()
    cut = images.unfold(1, 4, 4).unfold(2, 2, 2)  # [batch, rows, columns, 3, 4, 2]
    expected = torch.einsum("bhwcij,ocij->bhwo", cut, conv.weight).flatten(1, 2) + conv.bias
    torch.testing.assert_close(patches, expected)
    with pytest.raises(ValueError, match="divisible by 4 and 2, not 10 × 12"):
        embed_patches(torch.zeros(1, 10, 12, 3), conv, "channels_last")


@pytest.mark.parametrize("antialias", [False, True])
def test_positions_of_another_grid(antialias: bool) -> None:
    layer = DINOV2Embedding(
        6,
        4,
        (24, 12),
        position_embedding_shape=(16, 16),
        antialias_in_interpolation=antialias,
    )
    layer.build((None, 24, 12, 3))
    table = torch.randn(17, 6)
    expected = layer._interpolate_position_embeddings(
        table[None], 4, (16, 16), (24, 12), antialias
    )[0]
    found = resample_positions(table, (4, 4), (6, 3), kept=1, antialias=antialias)
    torch.testing.assert_close(found, expected)
    assert resample_positions(table, (4, 4), [4, 4], kept=1) is table
    low = resample_positions(table.bfloat16(), (4, 4), (6, 3), kept=1, antialias=antialias)
    exact = resample_positions(table.bfloat16().float(), (4, 4), (6, 3), 1, antialias)
    assert torch.equal(low, exact.bfloat16())
    registers = resample_positions(torch.randn(5 + 6, 2), (2, 3), (5, 5), kept=5)
    assert registers.shape == (5 + 25, 2)


def test_layer_scale() -> None:
    layer = DINOV2LayerScale(6, init_values=0.1)
    layer.build((None, 4, 6))
    ours = LayerScale(6, 0.1)
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(ours(x), layer(x).detach())
    ours.compute_dtype = torch.bfloat16
    assert ours(x).dtype == torch.bfloat16


def test_drop_path() -> None:
    x = torch.ones(1000, 3, 2)
    layer, ours = KerasDropPath(0.3), DropPath(0.3)
    for y in (layer(x, training=True), ours(x)):
        kept = y[:, 0, 0] != 0
        torch.testing.assert_close(y, kept[:, None, None] * x / 0.7)
        assert 0.6 < kept.float().mean() < 0.8
    assert ours.eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 9), (3, 4), (2, 3)])
def test_windows(height: int, width: int) -> None:
    x = torch.randn(2, height, width, 5)
    windows = partition_windows(x, 4)
    expected, (padded_height, padded_width) = window_partition(x, 4)
    assert torch.equal(windows, expected)
    assert torch.equal(windows, WindowPartitioning(4).partition(x)[0])
    assert torch.equal(join_windows(windows, height, width), x)
    changed = torch.randn_like(windows)
    whole = window_reverse(changed, 4, padded_height, padded_width, 5)
    assert torch.equal(join_windows(changed, height, width), whole[:, :height, :width])


def test_windows_compile_once() -> None:
    torch._dynamo.reset()

    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        return join_windows(partition_windows(x, 4) * 2, x.shape[1], x.shape[2])

    compiled = torch.compile(there_and_back, fullgraph=True, dynamic=True, backend="eager")
    torch._dynamo.utils.counters.clear()
    for height, width in ((9, 14), (8, 12), (15, 7)):
        x = torch.randn(2, height, width, 5)
        assert torch.equal(compiled(x), 2 * x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_offsets_in_a_window() -> None:
    for size in (1, 3, 7):
        theirs = keras.ops.convert_to_numpy(get_relative_position_index(size, size))
        np.testing.assert_array_equal(window_offsets(size).numpy(), theirs)


def vit_det_attention(size: tuple[int, int]) -> Any:
    layer = MultiHeadAttentionWithRelativePE(2, 4, use_rel_pos=True, input_size=size)
    layer.build()
    for weight in layer.weights:
        weight.assign(np.random.default_rng(3).standard_normal(weight.shape))
    return layer


def test_relative_positions() -> None:
    layer = vit_det_attention((3, 5))
    ours = RelativePositions((3, 5), 4)
    table = layer.add_decomposed_relative_pe
    with torch.no_grad():
        ours.rel_pos_h.copy_(table.rel_pos_h.value)
        ours.rel_pos_w.copy_(table.rel_pos_w.value)
        x = torch.randn(2, 3, 5, 8)
        qkv = layer.qkv(x).reshape(2, 15, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = attend(q, k, v, ours(q, 3, 5))
        y = layer.projection(merge_heads(y).unflatten(1, (3, 5)))
        torch.testing.assert_close(y, layer(x))


def test_relative_positions_of_another_grid() -> None:
    """Where KerasHub fails: as the original, vectors between those of the table."""
    ours = RelativePositions((3, 3), 4)
    torch.nn.init.normal_(ours.rel_pos_h)
    query = torch.randn(1, 2, 5 * 3, 4)
    table = F.interpolate(ours.rel_pos_h.T[None], 9, mode="linear")[0].T
    expected = torch.stack([table[torch.arange(i, i - 5, -1) + 4] for i in range(5)])
    torch.testing.assert_close(ours.vectors(ours.rel_pos_h, 5), expected)
    assert ours(query, 5, 3).shape == (1, 2, 15, 15)
