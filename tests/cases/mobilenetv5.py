from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import channels_first, images

# Of a block what each kind has away from nothing: a default, and its place in the constructor.
DEFAULTS: dict[str, Any] = {
    "block_types": "er",
    "num_filters": 8,
    "strides": 1,
    "act_layers": "gelu",
    "exp_ratios": 0.0,
    "se_ratios": 0.0,
    "dw_kernel_sizes": 0,
    "dw_start_kernel_sizes": 0,
    "dw_end_kernel_sizes": 0,
    "exp_kernel_sizes": 0,
    "pw_kernel_sizes": 0,
    "num_heads": 0,
    "key_dims": 0,
    "value_dims": 0,
    "kv_strides": 0,
    "use_cpe": False,
}


def config(*stacks: list[dict[str, Any]], **others: Any) -> dict[str, Any]:
    found = {
        f"stackwise_{name}": [[block.get(name, default) for block in stack] for stack in stacks]
        for name, default in DEFAULTS.items()
    }
    return {**found, "stackwise_num_blocks": [len(stack) for stack in stacks], **others}


def er(num_filters: int, strides: int = 1, **others: Any) -> dict[str, Any]:
    kernels = {"exp_kernel_sizes": 3, "pw_kernel_sizes": 1, "exp_ratios": 4.0}
    return {"num_filters": num_filters, "strides": strides, **kernels, **others}


def uir(
    num_filters: int, start: int, middle: int, exp_ratio: float, strides: int = 1, **others: Any
) -> dict[str, Any]:
    return {
        "block_types": "uir",
        "num_filters": num_filters,
        "strides": strides,
        "exp_ratios": exp_ratio,
        "dw_start_kernel_sizes": start,
        "dw_kernel_sizes": middle,
        **others,
    }


def mqa(
    num_filters: int, num_heads: int | None, dim: int, kv_strides: int = 1, **others: Any
) -> dict[str, Any]:
    return {
        "block_types": "mqa",
        "num_filters": num_filters,
        "num_heads": num_heads,
        "key_dims": dim,
        "value_dims": dim,
        "kv_strides": kv_strides,
        **others,
    }


M300 = config(
    [er(128, 2), er(128), er(128)],
    [uir(256, 3, 5, 6.0, 2), *(uir(256, size, 0, 4.0) for size in (5, 3, 5, 3))],
    [
        uir(640, 5, 5, 6.0, 2),
        *[uir(640, 5, 0, 4.0)] * 7,
        uir(640, 0, 0, 1.0),
        *[mqa(640, 12, 64, 2), uir(640, 0, 0, 2.0)] * 14,
    ],
    [uir(1280, 5, 5, 6.0, 2), *[mqa(1280, 16, 96), uir(1280, 0, 0, 2.0)] * 19],
    stem_size=64,
    num_features=2048,
    norm_layer="rms_norm",
    act_layer="gelu",
    use_msfa=True,
    layer_scale_init_value=1e-5,
)
PRESETS: dict[str, dict[str, Any]] = {"mobilenetv5_300m_enc_gemma3n": M300}

CASES = [
    Case(
        "mobilenetv5",
        "MobileNetV5Backbone",
        config(
            [er(16, 2)],
            [uir(24, 3, 5, 2.0, 2), mqa(24, 3, 5, 2), uir(24, 0, 0, 1.0)],
            [uir(16, 5, 0, 3.0, 2, dw_end_kernel_sizes=3), mqa(16, 2, 0, use_cpe=True)],
            stem_size=8,
            num_features=20,
            msfa_output_resolution=3,
            layer_scale_init_value=0.1,
        ),
        images(2, 65, 58),
    ),
    Case(
        "mobilenetv5-batch-norm",
        "MobileNetV5Backbone",
        config(
            [er(16, 2, act_layers="relu", exp_kernel_sizes=4, pw_kernel_sizes=3)],
            [uir(17, 0, 3, 2.5, 2, act_layers=None), mqa(16, None, 8, 3)],
            norm_layer="batch_norm",
            act_layer="hard_swish",
            use_msfa=False,
            stem_bias=False,
            fix_stem=True,
            stem_size=10,
            image_shape=(40, 47, 5),
            drop_path_rate=0.2,
        ),
        images(2, 40, 47, 5),
        deviation=0.2,
    ),
    Case(
        "mobilenetv5-dilation",
        "MobileNetV5Backbone",
        config(
            *([er(8, 2, exp_ratios=2.0)] for _ in range(5)),
            [uir(8, 3, 3, 2.0, 2), mqa(8, 2, 3, 2, use_cpe=True), er(8, pw_kernel_sizes=3)],
            [{"block_types": "mha", "num_filters": 12, "num_heads": 2, "strides": 2}],
            msfa_indices=(0, 2, -1),
            msfa_output_resolution=(4, 7),
            num_features=6,
            norm_layer="batch_norm",
        ),
        images(1, 131, 98),
        deviation=0.2,
    ),
    Case(
        "mobilenetv5-channels-first",
        "MobileNetV5Backbone",
        config(
            [er(8, 2, exp_ratios=2.0), {"block_types": "mha", "num_heads": 2}],
            [uir(16, 3, 0, 2.0, 2), mqa(16, 2, 4, 2)],
            pad_type="valid",
            data_format="channels_first",
            image_shape=(3, None, None),
            msfa_output_resolution=2,
            num_features=12,
        ),
        channels_first(2, 44, 47),
    ),
]
