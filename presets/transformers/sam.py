"""Segment Anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.layers.activations import ActivationLike, activation_name
from ...backbones.sam import SAMBackbone, SAMMaskDecoder, SAMPromptEncoder
from ...backbones.vit_det import ViTDetBackbone
from ..checkpoints.table import (
    Key,
    Rule,
    Table,
    activation,
    assumed,
    fixed,
    key,
    layer,
    rule,
    under,
    within,
)
from .vit import ACTIVATIONS, side
from .vit_det import CONFIG as VISION
from .vit_det import IGNORED as VISION_IGNORED
from .vit_det import WEIGHTS as VISION_WEIGHTS


def load_sizes(size: Any, patch: Any) -> tuple[Any, ...]:
    pixels = side(size, "image_size")
    return (pixels, pixels), (pixels // side(patch),) * 2


def save_sizes(size: Sequence[int], grid: Sequence[int]) -> tuple[Any, ...]:
    """The sides of an image and of a patch."""
    pixels, places = size[0], grid[0]
    patch = pixels // places
    if list(size) != [pixels] * 2 or list(grid) != [places] * 2 or pixels // patch != places:
        raise ValueError(
            f"input_image_size is {size} and image_embedding_size {grid}; only squares that are "
            "cut into patches can be written"
        )
    return pixels, patch


def check_features(features: int, width: int) -> tuple[int]:
    if 2 * features != width:
        raise ValueError(
            f"vision_config.num_pos_feats is {features}; it must be half of "
            f"prompt_encoder_config.hidden_size {width}"
        )
    return (width,)


def check_channels(channels: int) -> int:
    if channels % 4:
        raise ValueError(f"mask_in_channels is {channels}, no multiple of four")
    return channels


def save_widths(width: int, embedding: int) -> tuple[int]:
    if width != embedding:
        raise ValueError(f"hidden_size {width} and embedding_dim {embedding} differ")
    return (width,)


def check_heads(heads: int, width: int) -> tuple[int]:
    if width // 2 % heads:
        raise ValueError(f"half the mask decoder's hidden_size {width} is no multiple of {heads}")
    return (heads,)


def check_depth(depth: int) -> int:
    if depth < 2:
        raise ValueError(f"iou_head_depth is {depth}; the smallest is 2")
    return depth


def check_upscaling(activation: ActivationLike) -> tuple[()]:
    if activation_name(activation) != "gelu":
        raise ValueError(f"the mask decoder's activation is {activation}; only gelu can be written")
    return ()


PROMPTS = (
    Key(
        {"image_size": 1024, "patch_size": 16},
        ("input_image_size", "image_embedding_size"),
        load_sizes,
        save_sizes,
    ),
    key("mask_input_channels", "mask_in_channels", 16, check_channels, check_channels),
    activation("hidden_act", "activation", "gelu", ACTIVATIONS),
    fixed("num_point_embeddings", 4),
    assumed("layer_norm_eps", 1e-6),
)
DECODER = (
    Key(
        {"hidden_size": 256},
        ("hidden_size", "embedding_dim"),
        lambda width: (width, width),
        save_widths,
    ),
    key("num_hidden_layers", "num_layers", 2),
    key("mlp_dim", "intermediate_dim", 2048),
    Key(
        {"num_attention_heads": 8, "hidden_size": 256},
        ("num_heads", "hidden_size"),
        check_heads,
        check_heads,
    ),
    key("num_multimask_outputs", "num_multimask_outputs", 3),
    key("iou_head_depth", "iou_head_depth", 3, check_depth, check_depth),
    key("iou_head_hidden_dim", "iou_head_hidden_dim", 256),
    fixed("attention_downsample_rate", 2),
    fixed("hidden_act", "relu"),
    # SAM was trained with the first, in all blocks; transformers has the second one by default.
    fixed("layer_norm_eps", 1e-5, 1e-6),
    Key({}, ("activation",), lambda: ("gelu",), check_upscaling),
)
# Of points that are not of the object and of those that are, and of a box's corners.
POINTS = ("background_point", "foreground_point", "top_left_corner", "bottom_right_corner")


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *layer(f"{theirs}.q_proj", f"{ours}.query_proj"),
        *layer(f"{theirs}.k_proj", f"{ours}.key_proj"),
        *layer(f"{theirs}.v_proj", f"{ours}.value_proj"),
        *layer(f"{theirs}.out_proj", f"{ours}.out_proj"),
    )


FEED_FORWARD = (
    *layer("proj_in", "mlp_block.proj_in"),
    *layer("layers.{}", "mlp_block.layers.{}"),
    *layer("proj_out", "mlp_block.proj_out"),
)
BLOCK = (
    *attention("self_attn", "self_attention"),
    *layer("layer_norm1", "layer_norm1"),
    *attention("cross_attn_token_to_image", "cross_attention_token_to_image"),
    *layer("layer_norm2", "layer_norm2"),
    *layer("mlp.lin1", "mlp_block.mlp_block.proj_in"),
    *layer("mlp.lin2", "mlp_block.mlp_block.proj_out"),
    *layer("layer_norm3", "layer_norm3"),
    *attention("cross_attn_image_to_token", "cross_attention_image_to_token"),
    *layer("layer_norm4", "layer_norm4"),
)
PROMPT_WEIGHTS = (
    *(rule(f"point_embed.{i}.weight", f"{name}_embed.weight") for i, name in enumerate(POINTS)),
    rule("not_a_point_embed.weight", "not_a_point_embed.weight"),
    rule("no_mask_embed.weight", "no_mask_embed.weight"),
    *layer("mask_embed.conv1", "mask_downscaler.conv1"),
    *layer("mask_embed.layer_norm1", "mask_downscaler.norm1"),
    *layer("mask_embed.conv2", "mask_downscaler.conv2"),
    *layer("mask_embed.layer_norm2", "mask_downscaler.norm2"),
    *layer("mask_embed.conv3", "mask_downscaler.conv3"),
)
DECODER_WEIGHTS = (
    rule("iou_token.weight", "iou_token.weight"),
    rule("mask_tokens.weight", "mask_tokens.weight"),
    *under("transformer.layers.{}.", "transformer.layers.{}.", BLOCK),
    *attention(
        "transformer.final_attn_token_to_image", "transformer.final_attention_token_to_image"
    ),
    *layer("transformer.layer_norm_final_attn", "transformer.final_layer_norm"),
    *layer("upscale_conv1", "output_upscaling.conv1"),
    *layer("upscale_layer_norm", "output_upscaling.norm"),
    *layer("upscale_conv2", "output_upscaling.conv2"),
    *under("output_hypernetworks_mlps.{}.", "output_hypernetworks_mlps.{}.", FEED_FORWARD),
    *under("iou_prediction_head.", "iou_prediction_head.", FEED_FORWARD),
)
FREQUENCIES = "shared_image_embedding.positional_embedding"
SAM = Table(
    model_types=("sam",),
    backbone=SAMBackbone,
    parts={
        "image_encoder": ViTDetBackbone,
        "prompt_encoder": SAMPromptEncoder,
        "mask_decoder": SAMMaskDecoder,
    },
    architecture="SamModel",
    config=(
        *within("vision_config.", VISION, "image_encoder"),
        Key(
            {"vision_config.num_pos_feats": 128, "prompt_encoder_config.hidden_size": 256},
            ("prompt_encoder.hidden_size",),
            check_features,
            lambda width: (width // 2, width),
        ),
        *within("prompt_encoder_config.", PROMPTS, "prompt_encoder"),
        *within("mask_decoder_config.", DECODER, "mask_decoder"),
    ),
    ignored=(
        *(f"vision_config.{name}" for name in VISION_IGNORED),
        "prompt_encoder_config.image_embedding_size",
        "tie_word_embeddings",
        # Of any model, in the parts of older files.
        "*.add_cross_attention",
        "*.cross_attention_hidden_size",
        "*.is_decoder",
        "*.pruned_heads",
        "*.tf_legacy_loss",
        "*.tie_word_embeddings",
    ),
    weights=(
        rule(
            FREQUENCIES,
            "prompt_encoder.positional_embedding_layer.positional_encoding_gaussian_matrix",
        ),
        *under("vision_encoder.", "image_encoder.", VISION_WEIGHTS),
        *under("prompt_encoder.", "prompt_encoder.", PROMPT_WEIGHTS),
        *under("mask_decoder.", "mask_decoder.", DECODER_WEIGHTS),
    ),
    tied={"prompt_encoder.shared_embedding.positional_embedding": FREQUENCIES},
)
TABLES = (SAM,)
