"""MobileNetV5, with padding as TensorFlow has it (`pad_type="same"`).

As in KerasHub, and unlike timm, its GELU is exact, and maps are brought to one size by the nearest
centre of a pixel, which is the same for images of whole multiples of 32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from ...backbones.layers.convolution import adjust_channels
from ...backbones.mobilenetv5 import MobileNetV5Backbone
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Operation,
    Rule,
    Table,
    Tensors,
    constant,
    override,
    rule,
    under,
)
from .resnet import CHANNELS

# Stackwise arguments and what a block has that does not use them.
DEFAULTS: dict[str, Any] = {
    "block_types": "er",
    "num_filters": 0,
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
Block = dict[str, Any]


def er(exp_ratio: float, strides: int = 1) -> Block:
    return {
        "exp_ratios": exp_ratio,
        "strides": strides,
        "exp_kernel_sizes": 3,
        "pw_kernel_sizes": 1,
    }


def uir(start: int, middle: int, exp_ratio: float, strides: int = 1) -> Block:
    return {
        "block_types": "uir",
        "exp_ratios": exp_ratio,
        "strides": strides,
        "dw_start_kernel_sizes": start,
        "dw_kernel_sizes": middle,
    }


def mqa(num_heads: int, dim: int, kv_strides: int = 1) -> Block:
    return {
        "block_types": "mqa",
        "num_heads": num_heads,
        "key_dims": dim,
        "value_dims": dim,
        "kv_strides": kv_strides,
    }


def variant(widths: Sequence[int], *stacks: Sequence[Block]) -> dict[str, Any]:
    blocks = [
        [{**DEFAULTS, "num_filters": width, **block} for block in stack]
        for width, stack in zip(widths, stacks)
    ]
    return {
        **{
            f"stackwise_{name}": [[block[name] for block in stack] for stack in blocks]
            for name in DEFAULTS
        },
        "stackwise_num_blocks": [len(stack) for stack in blocks],
        "stem_size": 64,
        "num_features": 2048,
        "norm_layer": "rms_norm",
        "act_layer": "gelu",
        "use_msfa": True,
        "msfa_indices": [-2, -1],
        "msfa_output_resolution": 16,
        "layer_scale_init_value": 1e-5,
    }


FIRST = [er(4.0, 2), er(4.0), er(4.0)]
SECOND = [uir(3, 5, 6.0, 2), *(uir(size, 0, 4.0) for size in (5, 3, 5, 3))]
FEED_FORWARD = uir(0, 0, 2.0)
BASE = variant(
    (128, 256, 512, 1024),
    FIRST,
    SECOND,
    [
        *(uir(5, 5, 6.0, 2), uir(5, 0, 4.0), uir(5, 0, 4.0), uir(0, 0, 1.0)),
        *[mqa(8, 64), FEED_FORWARD] * 6,
    ],
    [uir(5, 5, 6.0, 2), *[mqa(16, 64), FEED_FORWARD] * 7],
)
M300 = variant(
    (128, 256, 640, 1280),
    FIRST,
    SECOND,
    [
        *(uir(5, 5, 6.0, 2), *[uir(5, 0, 4.0)] * 7, uir(0, 0, 1.0)),
        *[mqa(12, 64, 2), FEED_FORWARD] * 14,
    ],
    [uir(5, 5, 6.0, 2), *[mqa(16, 96), FEED_FORWARD] * 19],
)


def load_padding(given: str | None, architecture: str) -> tuple[Any, ...]:
    kind = architecture.partition(".")[0]
    warnings.warn(
        f"{kind} computes GELU's tanh form in timm; as in KerasHub the model computes the exact "
        "form, which changes outputs by about 1e-3.",
        stacklevel=2,
    )
    if given is None and kind == "mobilenetv5_300m":
        warnings.warn(
            "mobilenetv5_300m pads alike on both sides in timm; as in KerasHub the model computes "
            "with pad_type='same', as the weights of Gemma 3n were trained.",
            stacklevel=2,
        )
    elif given != "same" and (given is not None or kind != "mobilenetv5_300m_enc"):
        raise ValueError(f"model_args.pad_type is {given or ''!r}; only 'same' can be computed")
    return ("same",)


PADDING = Key(
    {"model_args.pad_type": None, "architecture": REQUIRED},
    ("pad_type",),
    load_padding,
    lambda pad_type: ("same",),
)
UNUSED = Key({}, ("filters", "drop_path_rate", "se_layer", "se_from_exp"), tuple, lambda *_: ())


def without_bias(tensors: Tensors) -> list[torch.Tensor]:
    weight, bias = tensors
    if not bias.is_meta and bias.any():
        raise ValueError("The convolutions of blocks have biases other than 0; timm has none.")
    return [weight]


# KerasHub gives the convolutions of blocks a bias.
WITHOUT_BIAS = Operation(
    save=without_bias,
    load=lambda tensors, shapes: [tensors[0], tensors[0].new_zeros(shapes[1])],
)


def pair(conv: str, norm: str, ours: str) -> tuple[Rule, Rule]:
    """A convolution and its norm."""
    return (
        rule(f"{conv}.weight", (f"{ours}.conv.weight", f"{ours}.conv.bias"), WITHOUT_BIAS),
        rule(f"{norm}.weight", f"{ours}.norm.weight"),
    )


def keys_or_values(name: str) -> tuple[Rule, ...]:
    theirs, ours = f"attn.{name}", f"attn.{name}_layers"
    return (
        rule(f"{theirs}.down_conv.weight", f"{ours}.0.weight"),
        rule(f"{theirs}.norm.weight", f"{ours}.1.weight"),
        rule(f"{theirs}.proj.weight", f"{ours}.2.weight"),
    )


INVERTED = tuple(
    one
    for name in ("dw_start", "pw_exp", "dw_mid", "pw_proj")
    for one in pair(f"{name}.conv", f"{name}.bn", name)
)
MOBILENETV5 = Table(
    backbone=MobileNetV5Backbone,
    variants={"mobilenetv5_300m_enc": M300, "mobilenetv5_300m": M300, "mobilenetv5_base": BASE},
    config=(
        CHANNELS,
        PADDING,
        override("model_args.msfa_indices", "msfa_indices"),
        override("model_args.msfa_output_resolution", "msfa_output_resolution"),
        constant(stem_bias=True, fix_stem=False, round_chs_fn=adjust_channels),
        UNUSED,
    ),
    weights=(
        rule("conv_stem.conv.weight", "conv_stem.conv.weight"),
        rule("conv_stem.conv.bias", "conv_stem.conv.bias"),
        rule("conv_stem.bn.weight", "conv_stem.norm.weight"),
        *under(
            "blocks.{}.{}.",
            "blocks.{}.{}.",
            (
                *pair("conv_exp", "bn1", "conv_exp"),
                *pair("conv_pwl", "bn2", "conv_pwl"),
                *INVERTED,
                rule("norm.weight", "norm.weight"),
                rule("attn.query.proj.weight", "attn.query_layers.0.weight"),
                *keys_or_values("key"),
                *keys_or_values("value"),
                rule("attn.output.proj.weight", "attn.output_proj_layers.0.weight"),
                rule("layer_scale.gamma", "layer_scale.weight"),
            ),
        ),
        *under("msfa.ffn.", "msfa.ffn.", INVERTED),
        rule("msfa.norm.weight", "msfa.norm.weight"),
    ),
    dropped=("classifier.*",),
)
TABLES = (MOBILENETV5,)
