"""Segment Anything 3, and the detector of its video model.

As in KerasHub text is read in both directions, a class token stands beside the boxes even if there
are none, and no box is an example of what is not to be found; in transformers it is not so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...backbones.sam3 import (
    SAM3DetrDecoder,
    SAM3DetrEncoder,
    SAM3GeometryEncoder,
    SAM3MaskDecoder,
    SAM3PromptableConceptBackbone,
    SAM3TextEncoder,
    SAM3VisionEncoder,
)
from ...backbones.sam3.vision import SAM3ViTRotaryEmbedding, tiled
from ..checkpoints.table import (
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    Tensors,
    activation,
    assumed,
    fixed,
    key,
    layer,
    of,
    only,
    rule,
    under,
    within,
)
from .vit import ACTIVATIONS, side

# Configurations


def load_image(size: Any, channels: int, patch: Any) -> tuple[Any, ...]:
    shape, pixels = (*[side(size, "image_size")] * 2, channels), side(patch)
    return shape, pixels, shape, pixels


def save_image(
    shape: Sequence[int], patch: int, decoded: Sequence[int], decoded_patch: int
) -> tuple[Any, ...]:
    if (*shape[:2], patch) != (*decoded[:2], decoded_patch):
        raise ValueError(
            f"image_shape is {tuple(shape)} and {tuple(decoded)}, patch_size {patch} and "
            f"{decoded_patch} in vision_encoder and detr_decoder; they must be equal"
        )
    return side(shape[:2], "image_shape"), shape[2], patch


def load_rope(theta: float | None, parameters: Any) -> tuple[float]:
    found = parameters if isinstance(parameters, Mapping) else {}
    kind = found.get("rope_type", "axial")
    if kind not in ("axial", "default"):
        raise ValueError(f"rope_type is {kind!r}; only 'axial' can be computed")
    theta = found.get("rope_theta", theta)
    return (10000.0 if theta is None else theta,)


def check_window(size: int) -> int:
    if size < 1:
        raise ValueError(f"window_size is {size}; there the scale of positions depends on it")
    return size


def as_list(indexes: Sequence[int] | None) -> list[int]:
    return list(indexes or ())


def load_epsilon(epsilon: float) -> tuple[float]:
    assumed("text_config.layer_norm_eps", 1e-5).load(epsilon)
    return (epsilon,)


VISION = (
    key("hidden_size", "hidden_dim", 1024),
    key("intermediate_size", "intermediate_dim", 4736),
    key("num_hidden_layers", "num_layers", 32),
    key("num_attention_heads", "num_heads", 16),
    activation("hidden_act", "hidden_activation", "gelu", ACTIVATIONS),
    key("layer_norm_eps", "layer_norm_epsilon", 1e-6),
    key("attention_dropout", "attention_dropout_rate", 0.0),
    key("hidden_dropout", "hidden_dropout_rate", 0.0),
    key("window_size", "window_size", 24, check_window, check_window),
    key(
        "global_attn_indexes", "global_attn_indexes", (7, 15, 23, 31), save=lambda v: list(v or ())
    ),
    key(
        "pretrain_image_size",
        "pretrain_image_shape",
        336,
        lambda size: (*[side(size, "pretrain_image_size")] * 2, 3),
        lambda shape: side(shape[:2], "pretrain_image_shape"),
    ),
    Key(
        {"rope_theta": None, "rope_parameters": None},
        ("rope_theta",),
        load_rope,
        lambda theta: (theta, {"rope_theta": theta, "rope_type": "axial"}),
    ),
    only("layer_scale_init_value", None),
    fixed("model_type", "sam3_vit_model"),
)
TEXT = (
    key("vocab_size", "vocabulary_size", 49408),
    Key(
        {"hidden_size": 512},
        ("embedding_dim", "hidden_dim"),
        lambda width: (width, width),
        lambda width, _: (width,),
    ),
    key("num_hidden_layers", "num_layers", 12),
    key("num_attention_heads", "num_heads", 8),
    key("intermediate_size", "intermediate_dim", 2048),
    activation("hidden_act", "intermediate_activation", "quick_gelu", ACTIVATIONS),
    key("max_position_embeddings", "max_sequence_length", 77),
    Key({"layer_norm_eps": 1e-5}, ("layer_norm_epsilon",), load_epsilon, lambda value: (value,)),
    assumed("attention_dropout", 0.0),
)
BLOCK = (
    key("hidden_size", "hidden_dim", 256),
    key("num_attention_heads", "num_heads", 8),
    key("intermediate_size", "intermediate_dim", 2048),
    activation("hidden_act", "hidden_activation", "relu", ACTIVATIONS),
    # transformers has 1e-5, whatever this says.
    key("layer_norm_eps", "layer_norm_epsilon", 1e-6),
)
GEOMETRY = (
    *BLOCK,
    key("num_layers", "num_layers", 3),
    key("roi_size", "roi_size", 7),
    key("hidden_dropout", "dropout_rate", 0.0),
)
DETR = (*BLOCK, key("num_layers", "num_layers", 6), key("dropout", "dropout_rate", 0.1))
MASKS = (
    key("hidden_size", "hidden_dim", 256),
    key("num_attention_heads", "num_heads", 8),
    key("dropout", "dropout_rate", 0.0),
    key("layer_norm_eps", "layer_norm_epsilon", 1e-6),
    # Of masks as transformers has them, or any.
    Key({}, ("data_format",), lambda: (None,), lambda value: ()),
)
CONFIG = (
    Key(
        {
            "vision_config.backbone_config.image_size": 1008,
            "vision_config.backbone_config.num_channels": 3,
            "vision_config.backbone_config.patch_size": 14,
        },
        (
            "vision_encoder.image_shape",
            "vision_encoder.patch_size",
            "detr_decoder.image_shape",
            "detr_decoder.patch_size",
        ),
        load_image,
        save_image,
    ),
    *within("vision_config.backbone_config.", VISION, "vision_encoder"),
    key("vision_config.fpn_hidden_size", "vision_encoder.fpn_hidden_dim", 256),
    key("vision_config.scale_factors", "vision_encoder.fpn_scale_factors", (4.0, 2.0, 1.0, 0.5)),
    *within("text_config.", TEXT, "text_encoder"),
    *within("geometry_encoder_config.", GEOMETRY, "geometry_encoder"),
    *within("detr_encoder_config.", DETR, "detr_encoder"),
    *within("detr_decoder_config.", DETR, "detr_decoder"),
    key("detr_decoder_config.num_queries", "detr_decoder.num_queries", 200),
    *within("mask_decoder_config.", MASKS, "mask_decoder"),
    # Further stages there are not used, and have no weights here.
    Key(
        {"mask_decoder_config.num_upsampling_stages": 3},
        ("mask_decoder.num_upsampling_stages", "vision_encoder.fpn_scale_factors"),
        lambda count: (count,),
        lambda count, factors: (min(count, len(factors) - 2),),
    ),
)
IGNORED = (
    "vision_config.backbone_feature_sizes",
    "vision_config.hidden_act",
    "vision_config.layer_norm_eps",
    "text_config.projection_dim",
    "geometry_encoder_config.dropout",
    "detr_encoder_config.hidden_dropout",
    "detr_decoder_config.hidden_dropout",
)

# Weights


def positions(arguments: Arguments) -> Operation:
    """The preset's positions, and those for the model's images: one there."""
    patch = arguments["patch_size"]
    grids = [
        [size // patch for size in arguments[name][:2]]
        for name in ("pretrain_image_shape", "image_shape")
    ]

    def save(tensors: Tensors) -> list[torch.Tensor]:
        table, current = tensors
        if table.is_meta or torch.equal(tiled(table, *grids), current):
            return [table]
        return [tiled(current, *reversed(grids))]  # it was trained

    return Operation(
        save=save, load=lambda tensors, shapes: [tensors[0], tiled(tensors[0], *grids)]
    )


def turns(name: str) -> Rule:
    """Cosines or sines, which are not stored there."""

    def make(arguments: Arguments) -> Operation:
        rows, columns = (size // arguments["patch_size"] for size in arguments["image_shape"][:2])
        window = arguments["window_size"]

        def computed(shape: Sequence[int]) -> torch.Tensor:
            # Of a window, or of the whole map; of a window as large as it they are the same.
            whole = shape[0] != window**2
            grid, scale = ((rows, columns), window / rows) if whole else ((window, window), 1.0)
            layer = SAM3ViTRotaryEmbedding(arguments["rope_theta"], shape[1], grid, scale)
            found: torch.Tensor = getattr(layer, name)
            return found

        def save(tensors: Tensors) -> list[torch.Tensor]:
            (table,) = tensors
            if table.is_meta:
                return []
            if not torch.allclose(table.float().cpu(), computed(table.shape), atol=1e-2):
                raise ValueError("cosines and sines of positions are not those of rope_theta")
            return []

        return Operation(save, lambda tensors, shapes: [computed(shapes[0])])

    return Rule((), (f"rotary_emb.{name}",), (make,))


def attention(name: str, last: str = "o_proj") -> tuple[Rule, ...]:
    return tuple(
        one for part in ("q_proj", "k_proj", "v_proj", last) for one in same(f"{name}.{part}")
    )


def same(*names: str) -> tuple[Rule, ...]:
    """Weights and biases of layers that have the same names here."""
    return tuple(one for name in names for one in layer(name, name))


def mlp(name: str, count: int) -> tuple[Rule, ...]:
    return same(*(f"{name}.layer{i}" for i in range(1, count + 1)))


FEED_FORWARD = same("mlp.fc1", "mlp.fc2")
VIT_BLOCK = (
    *same("layer_norm1", "layer_norm2"),
    *attention("attention"),
    *FEED_FORWARD,
    turns("rope_embeddings_cos"),
    turns("rope_embeddings_sin"),
)
PATCHES = "backbone.embeddings.patch_embeddings.projection.weight"
VISION_WEIGHTS = (
    rule(
        "backbone.embeddings.position_embeddings",
        (
            "backbone.embeddings.position_embeddings",
            "backbone.embeddings.tiled_position_embeddings",
        ),
        positions,
    ),
    rule(PATCHES, PATCHES),
    *same("backbone.layer_norm"),
    *under("backbone.layers.{}.", "backbone.layers.{}.", VIT_BLOCK),
    *under(
        "neck.fpn_layers.{}.",
        "vision_neck.fpn_layers.{}.",
        same("scale_layers.{}", "proj1", "proj2"),
    ),
)
TEXT_BLOCK = (
    *layer("layer_norm1", "layer_norm_1"),
    *layer("self_attn.q_proj", "attention.query"),
    *layer("self_attn.k_proj", "attention.key"),
    *layer("self_attn.v_proj", "attention.value"),
    *layer("self_attn.out_proj", "attention.attention_output"),
    *layer("layer_norm2", "layer_norm_2"),
    *layer("mlp.fc1", "dense_1"),
    *layer("mlp.fc2", "dense_2"),
)
TEXT_WEIGHTS = (
    rule("embeddings.token_embedding.weight", "embedding.token_embedding.weight"),
    rule("embeddings.position_embedding.weight", "embedding.position_embedding.weight"),
    *under("encoder.layers.{}.", "encoder_layers.{}.", TEXT_BLOCK),
    *layer("final_layer_norm", "layer_norm"),
)
CROSS_BLOCK = (
    *same("layer_norm1", "layer_norm2", "layer_norm3"),
    *attention("self_attn"),
    *attention("cross_attn"),
    *FEED_FORWARD,
)
GEOMETRY_WEIGHTS = (
    rule("label_embed.weight", "label_embed.weight"),
    rule("cls_embed.weight", "cls_embed.weight"),
    *same("boxes_direct_project", "boxes_pool_project", "boxes_pos_enc_project"),
    *same("vision_layer_norm", "final_proj", "prompt_layer_norm", "output_layer_norm"),
    *under("layers.{}.", "layers.{}.", CROSS_BLOCK),
)
DECODER_BLOCK = (
    *attention("self_attn"),
    *attention("text_cross_attn"),
    *attention("vision_cross_attn"),
    *same("self_attn_layer_norm", "text_cross_attn_layer_norm", "vision_cross_attn_layer_norm"),
    *FEED_FORWARD,
    *same("mlp_layer_norm"),
)
DECODER_WEIGHTS = (
    *under("layers.{}.", "layers.{}.", DECODER_BLOCK),
    *same("output_layer_norm", "presence_layer_norm"),
    *(
        rule(f"{name}.weight", f"{name}.weight")
        for name in ("query_embed", "reference_points", "presence_token")
    ),
    *mlp("box_head", 3),
    *mlp("presence_head", 3),
    *mlp("ref_point_head", 2),
    *mlp("box_rpb_embed_x", 2),
    *mlp("box_rpb_embed_y", 2),
)
MASK_WEIGHTS = (
    *same("pixel_decoder.conv_layers.{}", "pixel_decoder.norms.{}", "mask_embedder.layers.{}"),
    *same("instance_projection", "semantic_projection", "prompt_cross_attn_norm"),
    *attention("prompt_cross_attn"),
)
SAM3 = Table(
    model_types=("sam3",),
    backbone=SAM3PromptableConceptBackbone,
    parts={
        "vision_encoder": SAM3VisionEncoder,
        "text_encoder": SAM3TextEncoder,
        "geometry_encoder": SAM3GeometryEncoder,
        "detr_encoder": SAM3DetrEncoder,
        "detr_decoder": SAM3DetrDecoder,
        "mask_decoder": SAM3MaskDecoder,
    },
    architecture="Sam3Model",
    config=CONFIG,
    ignored=IGNORED,
    weights=(
        *of("vision_encoder", "vision_encoder.", VISION_WEIGHTS),
        *of("text_encoder", "text_encoder.text_model.", TEXT_WEIGHTS),
        *same("text_projection"),
        *of("geometry_encoder", "geometry_encoder.", GEOMETRY_WEIGHTS),
        *of("detr_encoder", "detr_encoder.", under("layers.{}.", "layers.{}.", CROSS_BLOCK)),
        *of("detr_decoder", "detr_decoder.", DECODER_WEIGHTS),
        *of("mask_decoder", "mask_decoder.", MASK_WEIGHTS),
        *mlp("dot_product_scoring.text_mlp", 2),
        *same(
            "dot_product_scoring.text_mlp_out_norm",
            "dot_product_scoring.text_proj",
            "dot_product_scoring.query_proj",
        ),
    ),
    renames=(("detector_model.*", "*"),),
    dropped=(
        "text_encoder.text_projection.weight",
        "mask_decoder.pixel_decoder.*",
        "tracker_model.*",
        "tracker_neck.*",
    ),
)
VIDEO = replace(
    SAM3,
    model_types=("sam3_video",),
    config=within("detector_config.", CONFIG),
    ignored=(
        *(f"detector_config.{name}" for name in IGNORED),
        "tracker_config.*",
        "*_thresh*",
        "*_keep_alive*",
        "fill_hole_area",
        "hotstart_delay",
        "low_res_mask_size",
        "max_num_objects",
        "recondition_*",
        "suppress_*",
    ),
)
TABLES = (SAM3, VIDEO)
