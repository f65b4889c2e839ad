from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import channels_first, images


def config(filters: list[list[int]], **others: Any) -> dict[str, Any]:
    return {
        "depths": [stage[3] for stage in filters],
        "embedding_size": filters[0][0],
        "hidden_sizes": [stage[2] for stage in filters],
        "stem_channels": [3, 6, filters[0][0]],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": filters,
        "apply_downsample": [i > 0 for i in range(len(filters))],
        "use_lightweight_conv_block": [i > 0 for i in range(len(filters))],
        **others,
    }


def preset(stem: int, *stages: list[int]) -> dict[str, Any]:
    """Four stages, each of channels in layers and output, blocks and layers."""
    first = stages[0][0]
    inputs = [first, *(stage[1] for stage in stages)]
    kernels = [3, 3, 5, 5]
    filters = [[width, *stage, size] for width, stage, size in zip(inputs, stages, kernels)]
    return config(
        filters,
        stem_channels=[3, stem, first],
        use_lightweight_conv_block=[False, False, True, True],
    )


B4 = preset(32, [48, 128, 1, 6], [96, 512, 1, 6], [192, 1024, 3, 6], [384, 2048, 1, 6])
B5 = preset(32, [64, 128, 1, 6], [128, 512, 2, 6], [256, 1024, 5, 6], [512, 2048, 2, 6])
B6 = preset(48, [96, 192, 2, 6], [192, 512, 3, 6], [384, 1024, 6, 6], [768, 2048, 3, 6])
PRESETS: dict[str, dict[str, Any]] = {
    "hgnetv2_b4_ssld_stage2_ft_in1k": B4,
    "hgnetv2_b5_ssld_stage1_in22k_in1k": B5,
    "hgnetv2_b5_ssld_stage2_ft_in1k": B5,
    "hgnetv2_b6_ssld_stage1_in22k_in1k": B6,
    "hgnetv2_b6_ssld_stage2_ft_in1k": B6,
}
CASES = [
    Case(
        "hgnetv2",
        "HGNetV2Backbone",
        config([[8, 4, 10, 1, 2, 3], [10, 5, 7, 2, 3, 5]], use_learnable_affine_block=True),
        images(2, 33, 38),
    ),
    Case(
        "hgnetv2-plain",
        "HGNetV2Backbone",
        config(
            [[4, 3, 6, 2, 1, 5], [3, 5, 9, 1, 1, 1], [9, 4, 8, 1, 2, 3]],
            hidden_act="gelu",
            use_lightweight_conv_block=[True, False, False],
            out_features=["stage3", "stage1"],
            image_shape=(41, 30, 1),
            name="eyes",
        ),
        images(1, 41, 30, 1),
    ),
    Case(
        "hgnetv2-channels-first",
        "HGNetV2Backbone",
        config(
            [[5, 4, 6, 1, 2, 3], [8, 3, 5, 2, 1, 3]],
            hidden_act="tanh",
            use_learnable_affine_block=True,
            apply_downsample=[True, False],
            data_format="channels_first",
            image_shape=(3, None, None),
            out_features=["stem", "stage2"],
        ),
        channels_first(2, 35, 40),
    ),
]
