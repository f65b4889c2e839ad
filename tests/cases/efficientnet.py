from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images


def v1(width: float, depth: float, se_ratio: float = 0.25, **others: Any) -> dict[str, Any]:
    return {
        "stackwise_width_coefficients": [width] * 7,
        "stackwise_depth_coefficients": [depth] * 7,
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_squeeze_and_excite_ratios": [se_ratio] * 7,
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        "stackwise_block_types": ["v1"] * 7,
        "min_depth": None,
        "use_depth_divisor_as_min_depth": True,
        "cap_round_filter_decrease": True,
        "dropout": 0,
        **others,
    }


def edge(width: float, depth: float) -> dict[str, Any]:
    return v1(
        1.0,
        1.0,
        stackwise_width_coefficients=[width] * 6,
        stackwise_depth_coefficients=[depth] * 6,
        stackwise_kernel_sizes=[3, 3, 3, 5, 5, 5],
        stackwise_num_repeats=[1, 2, 4, 5, 4, 2],
        stackwise_input_filters=[32, 24, 32, 48, 96, 144],
        stackwise_output_filters=[24, 32, 48, 96, 144, 192],
        stackwise_expansion_ratios=[4, 8, 8, 8, 8, 8],
        stackwise_squeeze_and_excite_ratios=[0] * 6,
        stackwise_strides=[1, 2, 2, 2, 1, 2],
        stackwise_block_types=["fused"] * 3 + ["unfused"] * 3,
        stackwise_force_input_filters=[24, 0, 0, 0, 0, 0],
        stackwise_nores_option=[True] + [False] * 5,
        activation="relu",
    )


def v2(width: float, depths: list[float], last: int = 272, **others: Any) -> dict[str, Any]:
    return v1(
        1.0,
        1.0,
        **{
            "stackwise_width_coefficients": [width] * 6,
            "stackwise_depth_coefficients": depths,
            "stackwise_kernel_sizes": [3] * 6,
            "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
            "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
            "stackwise_output_filters": [24, 48, 64, 128, 160, last],
            "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
            "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
            "stackwise_strides": [1, 2, 2, 2, 1, 2],
            "stackwise_block_types": ["fused"] * 3 + ["unfused"] * 3,
            "activation": "silu",
            "num_features": 1792,
            **others,
        },
    )


PRESETS: dict[str, dict[str, Any]] = {
    "efficientnet_b0_ra_imagenet": v1(1.0, 1.0),
    "efficientnet_b0_ra4_e3600_r224_imagenet": v1(1.0, 1.0),
    "efficientnet_b1_ft_imagenet": v1(1.0, 1.1),
    "efficientnet_b1_ra4_e3600_r240_imagenet": v1(1.0, 1.1),
    "efficientnet_b2_ra_imagenet": v1(1.1, 1.2),
    "efficientnet_b3_ra2_imagenet": v1(1.2, 1.4),
    "efficientnet_b4_ra2_imagenet": v1(1.4, 1.8),
    "efficientnet_b5_sw_imagenet": v1(1.6, 2.2),
    "efficientnet_b5_sw_ft_imagenet": v1(1.6, 2.2),
    "efficientnet_el_ra_imagenet": edge(1.2, 1.4),
    "efficientnet_em_ra2_imagenet": edge(1.0, 1.1),
    "efficientnet_es_ra_imagenet": edge(1.0, 1.0),
    "efficientnet2_rw_m_agc_imagenet": v2(1.2, [1.2] * 4 + [1.6] * 2),
    "efficientnet2_rw_s_ra2_imagenet": v2(1.0, [1.0] * 6),
    "efficientnet2_rw_t_ra2_imagenet": v2(
        0.8,
        [0.9] * 6,
        last=256,
        stackwise_block_types=["cba"] + ["fused"] * 2 + ["unfused"] * 3,
        num_features=1280,
    ),
    "efficientnet_lite0_ra_imagenet": v1(1.0, 1.0, 0, activation="relu6"),
}


# The registry counts the classifier, of these features, and no moving statistics, two for each of
# these channels.
COUNTS = {
    "efficientnet_b0_ra_imagenet": (1280, 21008),
    "efficientnet_b0_ra4_e3600_r224_imagenet": (1280, 21008),
    "efficientnet_b1_ft_imagenet": (1280, 31024),
    "efficientnet_b1_ra4_e3600_r240_imagenet": (1280, 31024),
    "efficientnet_b2_ra_imagenet": (1408, 33784),
    "efficientnet_b3_ra2_imagenet": (1536, 43648),
    "efficientnet_b4_ra2_imagenet": (1792, 62600),
    "efficientnet_b5_sw_imagenet": (2048, 86368),
    "efficientnet_b5_sw_ft_imagenet": (2048, 86368),
    "efficientnet_el_ra_imagenet": (1536, 46104),
    "efficientnet_em_ra2_imagenet": (1280, 33904),
    "efficientnet_es_ra_imagenet": (1280, 25720),
    "efficientnet2_rw_m_agc_imagenet": (2152, 153616),
    "efficientnet2_rw_s_ra2_imagenet": (1792, 80424),
    "efficientnet2_rw_t_ra2_imagenet": (1024, 59512),
    "efficientnet_lite0_ra_imagenet": (1280, 21008),
}
MISCOUNTED = {
    preset_id: 1000 * features + 1000 - 2 * channels
    for preset_id, (features, channels) in COUNTS.items()
}


def config(*block_types: str, **others: Any) -> dict[str, Any]:
    count = len(block_types)
    return {
        "stackwise_width_coefficients": [1.0] * count,
        "stackwise_depth_coefficients": [1.0] * count,
        "stackwise_kernel_sizes": [3, 5, 3, 3][:count],
        "stackwise_num_repeats": [1, 2, 2, 1][:count],
        "stackwise_input_filters": [8, 8, 12, 16][:count],
        "stackwise_output_filters": [8, 12, 16, 16][:count],
        "stackwise_expansion_ratios": [1, 2, 3, 4][:count],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.5, 0, 0.3][:count],
        "stackwise_strides": [1, 2, 2, 1][:count],
        "stackwise_block_types": list(block_types),
        "depth_divisor": 4,
        "min_depth": 4,
        **others,
    }


# 1280 features, since KerasHub does not save others; they are divided by width coefficients.
CASES = [
    Case(
        "efficientnet-v1",
        "EfficientNetBackbone",
        config(
            "v1",
            "v1",
            "v1",
            "v1",
            stackwise_width_coefficients=[1.3, 1.3, 1.3, 0.02],
            stackwise_depth_coefficients=[1.0, 1.2, 0.5, 2.0],
            projection_activation="tanh",
            use_depth_divisor_as_min_depth=True,
            cap_round_filter_decrease=True,
            min_depth=None,
            stackwise_output_filters=[8, 12, 16, 1100],
        ),
        images(2, 65, 58),
    ),
    Case(
        "efficientnet-v2",
        "EfficientNetBackbone",
        config(
            "cba",
            "fused",
            "unfused",
            "unfused",
            stackwise_squeeze_and_excite_ratios=[0, 1, 0.25, 1.5],
            stackwise_num_repeats=[2, 2, 2, 2],
            stackwise_width_coefficients=[1.0, 1.0, 1.0, 0.03],
            stackwise_output_filters=[8, 12, 16, 500],
            stackwise_input_filters=[8, 8, 12, 500],
            activation="relu6",
            input_shape=(None, None, 5),
            batch_norm_momentum=0.8,
            batch_norm_epsilon=1e-3,
        ),
        images(1, 46, 53, 5),
    ),
    Case(
        "efficientnet-edge",
        "EfficientNetBackbone",
        config(
            "fused",
            "unfused",
            "fused",
            stackwise_force_input_filters=[4, 0, 0],
            stackwise_expansion_ratios=[1, 1, 1],
            stackwise_width_coefficients=[1.0, 1.0, 0.05],
            stackwise_output_filters=[8, 8, 240],
            stackwise_input_filters=[8, 8, 160],
            include_stem_padding=False,
            stem_conv_padding="same",
            projection_activation="relu",
            dropout=0,
            input_shape=(40, 47, 1),
        ),
        images(2, 40, 47, 1),
    ),
    Case(
        "efficientnet-kernels",
        "EfficientNetBackbone",
        config(
            "unfused",
            "cba",
            "v1",
            stackwise_width_coefficients=[1.0, 1.0, 0.01],
            stackwise_depth_coefficients=[0.9, 0.9, 0.9],
            stackwise_kernel_sizes=[4, 2, 1],
            stackwise_strides=[3, 1, 2],
            stackwise_expansion_ratios=[2, 1, 4],
            stackwise_output_filters=[8, 12, 700],
            stackwise_num_repeats=[1, 1, 1],
            stem_conv_padding="same",
        ),
        images(1, 61, 38),
    ),
]
