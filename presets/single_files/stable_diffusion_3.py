"""Stable Diffusion 3 and 3.5, of files such as `sd3_medium_incl_clips.safetensors`; the transformer
alone of those without encoders of text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ...backbones.clip import CLIPTextEncoder
from ...backbones.stable_diffusion_3 import MMDiT, StableDiffusion3Backbone, T5Encoder
from ...backbones.vae import VAEBackbone
from ..checkpoints.single_file import RENAMES, T5, TEXTS, TRANSFORMER
from ..checkpoints.single_file import VAE as VAE_PREFIX
from ..checkpoints.table import (
    BATCHED,
    Operation,
    Rule,
    Table,
    constant,
    layer,
    of,
    rule,
    under,
    within,
)
from ..transformers import clip, t5
from . import vae
from .text_encoders import CLIP_SIZES, HEAD_DIM, T5_CONFIG, T5_TIED, load_clip, read

# Of images of 1024 pixels.
SIDE, PIXELS = 128, 1024
ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}


def load_sizes(tensors: Mapping[str, Any]) -> tuple[Any, ...]:
    """`SIZES`, of the shapes of tensors."""
    hidden, _, patch, _ = tensors["x_embedder"]["proj"]["weight"]
    blocks = tensors["joint_blocks"]
    attention = blocks["0"]["x_block"]["attn"]
    has_norms = "ln_q" in attention
    head_dim = attention["ln_q"]["weight"][0] if has_norms else HEAD_DIM
    dual = sorted(int(i) for i, block in blocks.items() if "attn2" in block["x_block"])
    return (
        *(patch, hidden, len(blocks), hidden // head_dim, math.isqrt(tensors["pos_embed"][1])),
        *("rms_norm" if has_norms else None, dual or None),
    )


def load_shapes(tensors: Mapping[str, Any]) -> tuple[Any, ...]:
    """The ratio of the feed-forward networks, and the shapes of inputs without the batch."""
    hidden, channels, _, _ = tensors["x_embedder"]["proj"]["weight"]
    return (
        tensors["joint_blocks"]["0"]["x_block"]["mlp"]["fc1"]["weight"][0] / hidden,
        [SIDE, SIDE, channels],
        [None, tensors["context_embedder"]["weight"][1]],
        [tensors["y_embedder"]["mlp"]["0"]["weight"][1]],
    )


def embedder(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Of time, or the pooled text."""
    return (
        *layer(f"{theirs}.mlp.0", f"{ours}.dense1"),
        *layer(f"{theirs}.mlp.2", f"{ours}.dense2"),
    )


ATTENTIONS = {"attn": "", "attn2": "2"}
STREAM = (
    *layer("adaLN_modulation.1", "ada_layer_norm.dense"),
    *(
        one
        for theirs, number in ATTENTIONS.items()
        for one in (
            *layer(f"{theirs}.qkv", f"attention_qkv{number}"),
            *layer(f"{theirs}.proj", f"attention_proj{number}"),
            rule(f"{theirs}.ln_q.weight", f"q_norm{number}.weight"),
            rule(f"{theirs}.ln_k.weight", f"k_norm{number}.weight"),
        )
    ),
    *layer("mlp.fc1", "mlp.dense1"),
    *layer("mlp.fc2", "mlp.dense2"),
)
WEIGHTS = (
    rule("pos_embed", "position_embedding.weight", BATCHED),
    *layer("x_embedder.proj", "patch_embedding.patch_embedding"),
    *layer("context_embedder", "context_embedding"),
    *embedder("t_embedder", "timestep_embedding.mlp"),
    *embedder("y_embedder", "vector_embedding"),
    *under("joint_blocks.{}.x_block.", "joint_blocks.{}.x_block.", STREAM),
    *under("joint_blocks.{}.context_block.", "joint_blocks.{}.context_block.", STREAM),
    *layer("final_layer.adaLN_modulation.1", "output_ada_layer_norm.dense"),
    *layer("final_layer.linear", "output_dense"),
)
SIZES = (
    *("patch_size", "hidden_dim", "num_layers", "num_heads", "position_size", "qk_norm"),
    "dual_attention_indices",
)
MMDIT = Table(
    model_types=("stable_diffusion_3.transformer",),
    backbone=MMDiT,
    config=(
        read(("transformer",), *SIZES, load=load_sizes),
        read(
            ("transformer",),
            *("mlp_ratio", "latent_shape", "context_shape", "pooled_projection_shape"),
            load=load_shapes,
        ),
        constant(data_format=None),
    ),
    weights=under(TRANSFORMER, "", WEIGHTS),
    renames=RENAMES,
    dropped=(f"{VAE_PREFIX}*", f"{TEXTS}*"),
)


# With all parts


def text(part: str) -> str:
    """The beginning of the names of an encoder's tensors."""
    return f"{TEXTS}{part}.transformer."


PROJECTION = "text_projection.weight"
IDENTITY = Operation(
    save=lambda tensors: [], load=lambda tensors, shapes: [torch.eye(shape[0]) for shape in shapes]
)
WHOLE = Table(
    model_types=("stable_diffusion_3",),
    backbone=StableDiffusion3Backbone,
    parts={"vae": VAEBackbone, "clip_l": CLIPTextEncoder, "clip_g": CLIPTextEncoder},
    config=(
        read(("transformer",), *(f"mmdit_{name}" for name in SIZES), load=load_sizes),
        read(
            ("transformer.x_embedder.proj.weight",),
            "latent_channels",
            load=lambda shape: (shape[1],),
        ),
        *within("", vae.VAE.config, "vae"),
        *(
            one
            for part, activation in ACTIVATIONS.items()
            for one in within(
                "",
                (
                    read((f"{text(part)}text_model",), *CLIP_SIZES, load=load_clip),
                    constant(
                        intermediate_activation=activation,
                        intermediate_output_index=-2,
                        name=part,
                    ),
                ),
                part,
            )
        ),
        constant(
            num_train_timesteps=1000,
            shift=3.0,
            image_shape=[PIXELS, PIXELS, 3],
            output_channels=3,
            data_format=None,
        ),
        *within("", (constant(name="vae"),), "vae"),
        constant(t5=None),
    ),
    weights=(
        *under(TRANSFORMER, "diffuser.", WEIGHTS),
        *of("vae", VAE_PREFIX, vae.WEIGHTS),
        *(one for part in ACTIVATIONS for one in of(part, f"{text(part)}text_model.", clip.TEXT)),
        Rule((), ("clip_l_projection.dense.weight",), (IDENTITY,)),
        rule(text("clip_g") + PROJECTION, "clip_g_projection.dense.weight"),
    ),
    instead=(rule(text("clip_l") + PROJECTION, "clip_l_projection.dense.weight"),),
    renames=RENAMES,
    dropped=(
        f"{TEXTS}*.logit_scale",
        *(f"{text(part)}text_model.{name}" for part in ACTIVATIONS for name in clip.NUMBERS),
    ),
)
WITH_T5 = replace(
    WHOLE,
    model_types=("stable_diffusion_3+t5",),
    parts={**WHOLE.parts, "t5": T5Encoder},
    config=(
        *WHOLE.config[:-1],
        *within("", (*T5_CONFIG, constant(name="t5")), "t5"),
    ),
    weights=(*WHOLE.weights, *of("t5", T5, t5.ENCODER_WEIGHTS)),
    tied=T5_TIED,
)
TABLES = (MMDIT, WHOLE, WITH_T5)
