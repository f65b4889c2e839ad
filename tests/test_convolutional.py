"""What convolutional families refuse, and what they can just compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from keras_hub_torch.models import (
    CSPNetBackbone,
    DenseNetBackbone,
    HGNetV2Backbone,
    VGGBackbone,
    XceptionBackbone,
)

from .cases import cspnet
from .cases.hgnetv2 import config

STAGE = [4, 2, 4, 1, 1, 3]


def hgnet(*stages: list[int], **others: Any) -> Callable[[], Any]:
    return lambda: HGNetV2Backbone(**config(list(stages), **others))


def csp(**others: Any) -> Callable[[], Any]:
    return lambda: CSPNetBackbone(**cspnet.config(**others))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseNetBackbone([]), "stackwise_num_repeats must have at least one stack"),
        (lambda: DenseNetBackbone([1, -1]), r"stackwise_num_repeats=\[1, -1\] must be at least 0"),
        (lambda: DenseNetBackbone([1], growth_rate=0), "growth_rate=0 must be at least 1"),
        (lambda: DenseNetBackbone([1, 1], (9, 9, 3), 0.01), "0.01 leaves no channels of 96"),
        (lambda: DenseNetBackbone([1], (3, 64, 64)), "does not go with data_format"),
        (lambda: VGGBackbone([1, 2], [3]), r"equally long: .*=\[1, 2\], .*_filters=\[3\]"),
        (lambda: VGGBackbone([], []), "at least one stack"),
        (lambda: VGGBackbone([1], [0]), r"stackwise_num_filters=\[0\] must be at least 1"),
        (lambda: XceptionBackbone([[1], [2]], [True]), "equally long"),
        (lambda: XceptionBackbone([], []), "at least one block"),
        (lambda: XceptionBackbone([[2, 0]], [True]), r"filters\[0\]=\[2, 0\] must be at least 1"),
        (
            lambda: XceptionBackbone([[3], [4], [5]], [False] * 3),
            r"pooling\[1\] must be True: .* 3 channels, and stackwise_conv_filters\[1\] leads to 4",
        ),
        (lambda: XceptionBackbone([[3], [3], [5]], [True] * 3), r"pooling\[1\] must be False"),
        (lambda: XceptionBackbone([[3]], [True], data_format="first"), "'channels_first', not"),
        (hgnet(STAGE, apply_downsample=[]), r"equally long: .*apply_downsample=\[\]"),
        (hgnet(STAGE, hidden_act="silu"), "'silu' must be one of 'relu', 'gelu', 'tanh', None"),
        (hgnet(STAGE, out_features=["stage2"]), r"\['stage2'\] must be among stem, stage1\."),
        (hgnet(STAGE, out_features=[]), "must be among stem, stage1"),
        (hgnet(STAGE, stem_channels=[3, 1, 4]), "the second at least 2"),
        (hgnet(STAGE[:5]), r"filters\[0\]=\[4, 2, 4, 1, 1\] must be six numbers"),
        (hgnet(STAGE, [4, 2, 1, 1, 1, 3]), r"filters\[1\]=.* the third at least 2"),
        (hgnet([4, 2, 4, 1, 1, 2]), "has an even kernel, 2"),
        (hgnet(STAGE, [3, 2, 4, 1, 1, 3]), "begins with 3, which must divide the 4 channels"),
        (csp(stage_type=None), "stage_type=None must be one of dark, csp, cs3"),
        (csp(stem_padding="causal"), "stem_padding='causal' must be one of valid, same"),
        (csp(stem_pooling="avg", stem_strides=4), "stem_pooling='avg' must be 'max' or None"),
        (csp(stem_pooling="max"), "stem_strides=2 must be 4 with stem_pooling='max'"),
        (csp(stem_strides=3), "stem_strides=3 must be 1, 2 or 4"),
        (
            csp(stem_kernel_size=[3, 5]),
            r"_size=\[3, 5\] must be one number, or two with",
        ),
        (csp(stem_kernel_size=0), "stem_kernel_size=0 must be at least 1"),
        (csp(stem_filters=[]), r"stem_filters=\[\] .* must not be empty"),
        (csp(stackwise_depth=[], stackwise_num_filters=[]), r"_depth=\[\] must not be empty"),
        (csp(stackwise_depth=[1]), r"equally long: stackwise_depth=\[1\], stackwise_num_filters="),
        (csp(stackwise_depth=[1, -1]), r"stackwise_depth=\[1, -1\] must be at least 0"),
        (csp(stackwise_strides=[2, 0]), r"stackwise_strides=\[2, 0\] must be at least 1"),
        (csp(bottle_ratio=[]), r"bottle_ratio=\[\] must not be empty"),
        (
            csp(bottle_ratio=[1, 0.01]),
            r"bottle_ratio=.* with 0.01 leaves no channels of 6",
        ),
        (csp(expand_ratio=0.01), "expand_ratio=0.01 with 0.01 leaves no channels of 8"),
        (csp(expand_ratio=0.9), "0.9 must make an even number of the 8 channels of stage 0, not 7"),
        (csp(block_ratio=[0.5, 1]), r"block_ratio=\[0.5, 1\] must make 6 .* of stage 1, not 12"),
        (csp(stage_type="dark"), r"\[0.5\] must make 8 of the 8 channels of stage 0, not 4"),
        (csp(groups=3), "must be divisible by groups=3"),
        (csp(groups=0), "groups=0 must be at least 1"),
        (csp(output_strides=4), "output_strides=4 must be more than 4, the stride before stage 1"),
        (csp(activation="klingon"), "Unknown activation 'klingon'"),
        (csp(image_shape=(3, 64, 64)), "does not go with data_format"),
    ],
)
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("model", "smallest"),
    [
        (DenseNetBackbone([1, 1, 1], growth_rate=2), 13),
        (VGGBackbone([1, 1, 1], [2, 2, 2]), 8),
        (XceptionBackbone([[2, 3, 2], [3], [5]], [True, True, False]), 11),
        (XceptionBackbone([[2, 3]], [True], (3, 9, None), data_format="channels_first"), 7),
        (HGNetV2Backbone(**config([STAGE, STAGE], out_features=["stage2"])), 1),
        (csp()(), 1),
        (csp(stem_kernel_size=2, stem_strides=4, stem_filters=[3, 4], avg_down=True)(), 16),
        (csp(stem_strides=1, stem_filters=[3, 4], stage_type="dark", block_ratio=1)(), 5),
    ],
)
@torch.no_grad()
def test_smallest_images(model: Any, smallest: int) -> None:
    """An image of this size gives one pixel."""

    def outputs(height: int, width: int, channels: int = 3) -> Any:
        images = torch.zeros(1, height, width, channels)
        first = getattr(model, "data_format", "") == "channels_first"
        found = model(images.permute(0, 3, 1, 2) if first else images)
        found = found["stage2"] if isinstance(found, dict) else found
        return found.shape[2:] if first else found.shape[1:3]

    model.eval()
    assert outputs(smallest, smallest) == (1, 1)
    with pytest.raises(ValueError, match="height, width and channels any × any × 3"):
        outputs(32, 32, 1)
    if smallest > 1:
        with pytest.raises(ValueError, match=f"at least {smallest}, not {smallest - 1} × 40"):
            outputs(smallest - 1, 40)
