"""D-FINE, and the network in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...backbones.d_fine import DFineBackbone
from ..checkpoints.table import (
    Key,
    Rule,
    Table,
    assumed,
    constant,
    fixed,
    key,
    layer,
    norm,
    only,
    rule,
    under,
)
from .hgnetv2 import HGNETV2

# Where transformers goes by each image: what the models are trained with.
SIZE = (640, 640)
# Of decoders whose heads stand in files a second time.
LAYERS = 24

# The network

# Key → what an absent one means; the last ones are not written.
UNWRITTEN = {"stage_downsample_strides": (2, 2, 2, 2), "out_indices": None}
NETWORK = {
    name: value
    for theirs in (*(one.theirs for one in reversed(HGNETV2.config)), UNWRITTEN)
    for name, value in theirs.items()
    if (name in UNWRITTEN) is (theirs is UNWRITTEN)
}


def load_network(*values: Any) -> tuple[Any, ...]:
    found = dict(zip(NETWORK, values))
    if found["out_features"] is None:
        stages = ["stem", *(f"stage{i}" for i, _ in enumerate(found["stage_num_blocks"], 1))]
        found["out_features"] = [stages[i] for i in found["out_indices"] or [-1]]
    arguments: dict[str, Any] = {}
    for one in HGNETV2.config:
        arguments |= zip(one.ours, one.load(*(found[name] for name in one.theirs)))
    network = {"registered_name": f"keras_hub>{HGNETV2.architecture}", "config": arguments}
    return network, found["out_features"], arguments["image_shape"]


def save_network(
    network: Mapping[str, Any], features: Sequence[str], shape: Sequence[int | None]
) -> tuple[Any, ...]:
    """Without the features that are not used."""
    arguments = {**network["config"], "out_features": list(features)}
    found: dict[str, Any] = {}
    for one in HGNETV2.config:
        found |= zip(one.theirs, one.save(*(arguments[name] for name in one.ours)))
    return tuple(found[name] for name in NETWORK if name not in UNWRITTEN)


# The rest


def load_labels(names: Mapping[str, str] | None, count: int | None) -> tuple[int]:
    if names is not None:
        return (len(names),)
    return (2 if count is None else count,)


def save_labels(count: int) -> tuple[dict[str, str]]:
    return ({str(i): f"LABEL_{i}" for i in range(count)},)


def load_grids(size: Any, strides: Sequence[int]) -> tuple[Any, ...]:
    if isinstance(size, int):
        raise ValueError(f"anchor_image_size is {size}; it must be a height and a width")
    return list(SIZE if size is None else size), strides


def save_grids(size: Sequence[int], strides: Sequence[int]) -> tuple[Any, ...]:
    if any(side % stride for side in size for stride in strides):
        raise ValueError(
            f"anchor_image_size {list(size)} is not divisible by all of feat_strides "
            f"{list(strides)}; transformers has the grids of each image"
        )
    return list(size), list(strides)


def check_maps(
    widths: Sequence[int], levels: int, attentive: Sequence[int], dim: int, encoder_dim: int
) -> tuple[Any, ...]:
    """What transformers computes in another way, or cannot compute."""
    if levels > len(widths) and dim != widths[-1]:
        raise ValueError(
            f"num_feature_levels is {levels} and decoder_in_channels {list(widths)}: coarser maps "
            "are padded in another way in transformers"
        )
    if len(set(attentive)) < len(attentive):
        raise ValueError(f"encode_proj_layers {list(attentive)} has one twice")
    if widths[-1] != encoder_dim:
        raise ValueError(
            f"decoder_in_channels {list(widths)} does not end with encoder_hidden_dim {encoder_dim}"
        )
    return list(widths), levels, list(attentive), dim, encoder_dim


def check_last(index: int, count: int) -> tuple[int, int]:
    if index not in (-1, count - 1):
        raise ValueError(f"eval_idx is {index}; only -1, the last layer, can be computed")
    return index, count


CONV = (rule("conv.weight", "convolution.weight"), *norm("norm", "normalization"))
PAIR = (*under("conv1.", "conv1.", CONV), *under("conv2.", "conv2.", CONV))
CSP = (*PAIR, *under("bottlenecks.{}.", "bottleneck_layers.{}.", PAIR))
AGGREGATION = (
    *PAIR,
    *under("conv3.", "conv3.", CONV),
    *under("conv4.", "conv4.", CONV),
    *under("csp_rep1.", "csp_rep1.", CSP),
    *under("csp_rep2.", "csp_rep2.", CSP),
)
BLOCK = (
    *layer("self_attn.q_proj", "self_attn.q_proj"),
    *layer("self_attn.k_proj", "self_attn.k_proj"),
    *layer("self_attn.v_proj", "self_attn.v_proj"),
    *layer("self_attn.out_proj", "self_attn.out_proj"),
    *layer("self_attn_layer_norm", "self_attn_layer_norm"),
    *layer("fc1", "fc1"),
    *layer("fc2", "fc2"),
    *layer("final_layer_norm", "final_layer_norm"),
)
DECODER_BLOCK = (
    *BLOCK,
    *layer("encoder_attn.sampling_offsets", "encoder_attn.sampling_offsets"),
    *layer("encoder_attn.attention_weights", "encoder_attn.attention_weights"),
    rule("encoder_attn.num_points_scale", "encoder_attn.num_points_scale"),
    *layer("gateway.gate", "gateway.gate"),
    *layer("gateway.norm", "gateway.norm"),
)
PROJECTION = (rule("0.weight", "conv.weight"), *norm("1", "bn"))
ENCODER = (
    *under("encoder.{}.layers.{}.", "encoder.{}.encoder_layer.{}.", BLOCK),
    *under("lateral_convs.{}.", "lateral_convs.{}.", CONV),
    *under("fpn_blocks.{}.", "fpn_blocks.{}.", AGGREGATION),
    *under("downsample_convs.{}.", "downsample_convs.{}.", PAIR),
    *under("pan_blocks.{}.", "pan_blocks.{}.", AGGREGATION),
)


def mlp(name: str) -> tuple[Rule, Rule]:
    return layer(f"{name}.layers.{{}}", f"{name}.dense_layers.{{}}")


DECODER = (
    *under("layers.{}.", "decoder_layers.{}.", DECODER_BLOCK),
    *mlp("query_pos_head"),
    *mlp("pre_bbox_head"),
    *mlp("lqe_layers.{}.reg_conf"),
    *layer("class_embed.{}", "class_embed.{}"),
    *mlp("bbox_embed.{}"),
    rule("reg_scale", "reg_scale"),
    rule("up", "upsampling_factor"),
)
HEADS = [
    *(f"class_embed.{i}.{kind}" for i in range(LAYERS) for kind in ("weight", "bias")),
    *(
        f"bbox_embed.{i}.layers.{j}.{kind}"
        for i in range(LAYERS)
        for j in range(3)
        for kind in ("weight", "bias")
    ),
]
# Of a model without heads: then these are what is missing.
PARTS = (
    "backbone",
    "encoder_input_proj",
    "encoder",
    "decoder_input_proj",
    "enc_output",
    "enc_score_head",
    "enc_bbox_head",
    "denoising_class_embed",
    "weight_embedding",
    "decoder",
)
D_FINE = Table(
    model_types=("d_fine",),
    architecture="DFineForObjectDetection",
    backbone=DFineBackbone,
    config=(
        Key(
            {f"backbone_config.{name}": value for name, value in NETWORK.items()},
            ("backbone", "out_features", "image_shape"),
            load_network,
            save_network,
        ),
        fixed("backbone_config.model_type", "hgnet_v2"),
        # Of images as transformers has them; and what is drawn is drawn anew.
        Key({}, ("data_format", "seed"), lambda: ("channels_last", None), lambda *given: ()),
        constant(labels=None),
        Key({"id2label": None, "num_labels": None}, ("num_labels",), load_labels, save_labels),
        key("encoder_in_channels", "encoder_in_channels", (512, 1024, 2048)),
        Key(
            {"anchor_image_size": None, "feat_strides": (8, 16, 32)},
            ("anchor_image_size", "feat_strides"),
            load_grids,
            save_grids,
        ),
        Key(
            {
                "decoder_in_channels": (256, 256, 256),
                "num_feature_levels": 3,
                "encode_proj_layers": (2,),
                "d_model": 256,
                "encoder_hidden_dim": 256,
            },
            (
                "decoder_in_channels",
                "num_feature_levels",
                "encode_proj_layers",
                "hidden_dim",
                "encoder_hidden_dim",
            ),
            check_maps,
            check_maps,
        ),
        Key(
            {"eval_idx": -1, "decoder_layers": 6},
            ("eval_idx", "num_decoder_layers"),
            check_last,
            check_last,
        ),
        key("encoder_layers", "num_encoder_layers", 1),
        key("encoder_attention_heads", "num_attention_heads", 8),
        key("encoder_ffn_dim", "encoder_ffn_dim", 1024),
        key("hidden_expansion", "hidden_expansion", 1.0),
        key("depth_mult", "depth_multiplier", 1.0),
        key("num_queries", "num_queries", 300),
        key("learn_initial_query", "learn_initial_query", False),
        key("decoder_attention_heads", "decoder_attention_heads", 8),
        key("decoder_ffn_dim", "decoder_ffn_dim", 1024),
        key("decoder_n_points", "decoder_n_points", 4),
        key("decoder_method", "decoder_method", "default"),
        key("lqe_hidden_dim", "lqe_hidden_dim", 64),
        key("lqe_layers", "num_lqe_layers", 2),
        key("num_denoising", "num_denoising", 100),
        key("label_noise_ratio", "label_noise_ratio", 0.5),
        key("box_noise_scale", "box_noise_scale", 1.0),
        fixed("activation_function", "silu"),
        fixed("encoder_activation_function", "gelu"),
        fixed("decoder_activation_function", "relu"),
        fixed("normalize_before", False),
        fixed("positional_encoding_temperature", 10000),
        fixed("decoder_offset_scale", 0.5),
        fixed("layer_scale", 1.0),
        fixed("max_num_bins", 32),
        fixed("top_prob_values", 4),
        only("eval_size", None),
        only("backbone", None),
        only("backbone_kwargs", None),
        only("use_timm_backbone", False),
        assumed("layer_norm_eps", 1e-5),
        assumed("batch_norm_eps", 1e-5),
        assumed("dropout", 0.0),
        assumed("activation_dropout", 0.0),
        assumed("attention_dropout", 0.0),
    ),
    weights=under(
        "model.",
        "",
        (
            *under("backbone.model.", "backbone.", HGNETV2.weights),
            *under("encoder_input_proj.{}.", "encoder_input_proj.{}.", PROJECTION),
            *under("encoder.", "encoder.", ENCODER),
            *under("decoder_input_proj.{}.", "decoder_input_proj.{}.", PROJECTION),
            *layer("enc_output.0", "enc_output_dense"),
            *layer("enc_output.1", "enc_output_ln"),
            *layer("enc_score_head", "enc_score_head"),
            *mlp("enc_bbox_head"),
            rule("denoising_class_embed.weight", "denoising_class_embed.weight"),
            rule(
                "weight_embedding.weight",
                "initial_query_reference_generator.weight_embedding.weight",
            ),
            *under("decoder.", "decoder.", DECODER),
        ),
    ),
    # The scales of boxes are weights, too.
    ignored=(
        "reg_scale",
        "up",
        *(f"backbone_config.{name}" for name in (*HGNETV2.ignored, "return_idx")),
        "auxiliary_loss",
        "disable_custom_kernels",
        "eos_coefficient",
        "focal_loss_*",
        "freeze_backbone_batch_norms",
        "head_dim",
        "initializer_bias_prior_prob",
        "matcher_*",
        "tie_word_embeddings",
        "use_focal_loss",
        "use_pretrained_backbone",
        "weight_loss_*",
        "with_box_refine",
    ),
    renames=tuple((f"{part}.*", f"model.{part}.*") for part in PARTS),
    dropped=HGNETV2.dropped,
    tied={name: f"model.decoder.{name}" for name in HEADS},
)
TABLES = (D_FINE,)
