"""FLUX.1's transformer, of `flux1-dev.safetensors` and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backbones.flux import FluxBackbone
from ..checkpoints.single_file import RENAMES, TEXTS, VAE
from ..checkpoints.table import REQUIRED, Key, Rule, Table, constant, layer, rule, under
from ..diffusers.flux import IMAGE_LENGTH, TEXT_LENGTH, modulation

# Of the places of a picture and its rows and columns, in heads of 128 dimensions.
AXES = [16, 56, 56]


def load_sizes(tensors: Mapping[str, Any]) -> tuple[object, ...]:
    """Arguments, of the shapes of tensors."""
    hidden, channels = tensors["img_in"]["weight"]
    double, single = tensors["double_blocks"], tensors["single_blocks"]
    attention = double["0"]["img_attn"]
    return (
        tensors["final_layer"]["linear"]["weight"][0],
        hidden,
        double["0"]["img_mlp"]["0"]["weight"][0] / hidden,
        hidden // attention["norm"]["query_norm"]["scale"][0],
        len(double),
        len(single),
        "bias" in attention["qkv"],
        "guidance_in" in tensors,
        [IMAGE_LENGTH, channels],
        [TEXT_LENGTH, tensors["txt_in"]["weight"][1]],
        [tensors["vector_in"]["in_layer"]["weight"][1]],
    )


def stream(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One of a block's two streams."""
    norms = (f"{ours}_norm1", f"{ours}_norm2")
    return (
        modulation(f"{theirs}_mod.lin", f"{ours}_mod.linear_projection", *norms),
        *layer(f"{theirs}_attn.qkv", f"{ours}_attn.qkv"),
        *scales(f"{theirs}_attn.norm", f"{ours}_attn.norm"),
        *layer(f"{theirs}_attn.proj", f"{ours}_attn.proj"),
        *layer(f"{theirs}_mlp.0", f"{ours}_mlp.0"),
        *layer(f"{theirs}_mlp.2", f"{ours}_mlp.2"),
    )


def scales(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Of queries' and keys' norms."""
    names = ("query_norm", "key_norm")
    return tuple(rule(f"{theirs}.{name}.scale", f"{ours}.{name}.weight") for name in names)


def embedder(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Of time, guidance or the pooled text."""
    return (
        *layer(f"{theirs}.in_layer", f"{ours}.input_layer"),
        *layer(f"{theirs}.out_layer", f"{ours}.output_layer"),
    )


SINGLE = (
    modulation("modulation.lin", "modulation.linear_projection", "pre_norm"),
    *layer("linear1", "linear1"),
    *layer("linear2", "linear2"),
    *scales("norm", "norm"),
)
LAST = "final_layer.adaLN_modulation.1"
FLUX = Table(
    model_types=("flux",),
    backbone=FluxBackbone,
    config=(
        Key(
            {"transformer": REQUIRED},
            (
                *("input_channels", "hidden_size", "mlp_ratio", "num_heads", "depth"),
                *("depth_single_blocks", "use_bias", "guidance_embed"),
                *("image_shape", "text_shape", "y_shape"),
            ),
            load_sizes,
            lambda *sizes: (),
        ),
        constant(
            axes_dim=AXES,
            theta=10000,
            image_ids_shape=[IMAGE_LENGTH, len(AXES)],
            text_ids_shape=[TEXT_LENGTH, len(AXES)],
        ),
    ),
    weights=under(
        "transformer.",
        "",
        (
            *layer("img_in", "image_input_embedder"),
            *layer("txt_in", "text_input_embedder"),
            *embedder("time_in", "time_input_embedder"),
            *embedder("guidance_in", "guidance_input_embedder"),
            *embedder("vector_in", "vector_embedder"),
            *under(
                "double_blocks.{}.",
                "double_blocks.{}.",
                (*stream("img", "image"), *stream("txt", "text")),
            ),
            *under("single_blocks.{}.", "single_blocks.{}.", SINGLE),
            modulation(LAST, LAST, "final_layer.norm_final"),
            *layer("final_layer.linear", "final_layer.linear"),
        ),
    ),
    renames=RENAMES,
    dropped=(f"{VAE}*", f"{TEXTS}*"),
)
TABLES = (FLUX,)
