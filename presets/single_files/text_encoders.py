"""Encoders of text alone, of `clip_l.safetensors`, `clip_g.safetensors`, `t5xxl_fp16.safetensors`
and the like, or the T5 of a whole model's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backbones.clip import CLIPTextEncoder
from ...backbones.stable_diffusion_3 import T5Encoder
from ..checkpoints.single_file import LONE_CLIP, RENAMES, T5, TEXTS, TRANSFORMER, VAE
from ..checkpoints.table import REQUIRED, Key, Table, constant, under
from ..transformers import clip, t5

# Dimensions of a head, where nothing tells: in all of these models.
HEAD_DIM = 64
# Of a CLIP alone its width tells: OpenAI's L, OpenCLIP's H and bigG.
ACTIVATIONS = {768: "quick_gelu", 1024: "gelu", 1280: "gelu"}
CLIP_SIZES = (
    *("vocabulary_size", "embedding_dim", "hidden_dim", "num_layers", "num_heads"),
    *("intermediate_dim", "max_sequence_length"),
)
T5_SIZES = (
    *("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim"),
    "key_value_dim",
)


def read(names: tuple[str, ...], *ours: str, load: Any) -> Key:
    """What is read from tensors' shapes."""
    return Key(dict.fromkeys(names, REQUIRED), ours, load, lambda *values: ())


def load_clip(tensors: Mapping[str, Any]) -> tuple[int, ...]:
    """`CLIP_SIZES`, of the shapes of tensors."""
    vocabulary, dim = tensors["embeddings"]["token_embedding"]["weight"]
    blocks = tensors["encoder"]["layers"]
    longest = tensors["embeddings"]["position_embedding"]["weight"][0]
    inner = blocks["0"]["mlp"]["fc1"]["weight"][0]
    return vocabulary, dim, dim, len(blocks), dim // HEAD_DIM, inner, longest


def load_activation(tensors: Mapping[str, Any]) -> tuple[str]:
    dim = tensors["embeddings"]["token_embedding"]["weight"][1]
    if dim not in ACTIVATIONS:
        raise ValueError(
            f"a CLIP of width {dim}, whose activation nothing tells; known are those of "
            f"{', '.join(map(str, ACTIVATIONS))}"
        )
    return (ACTIVATIONS[dim],)


def load_t5(tensors: Mapping[str, Any]) -> tuple[Any, ...]:
    """`T5_SIZES`, of the shapes of tensors."""
    embedding = tensors.get("shared") or tensors["encoder"]["embed_tokens"]
    vocabulary, dim = embedding["weight"]
    blocks = tensors["encoder"]["block"]
    attention, dense = blocks["0"]["layer"]["0"]["SelfAttention"], blocks["0"]["layer"]["1"]
    _, heads = attention["relative_attention_bias"]["weight"]
    inner = dense["DenseReluDense"]["wi_0"]["weight"][0]
    return vocabulary, len(blocks), heads, dim, inner, attention["q"]["weight"][0] // heads


T5_CONFIG = (
    read((T5.removesuffix("."),), *T5_SIZES, load=load_t5),
    constant(
        dropout=0.1,
        activation="gelu_approximate",
        use_gated_activation=True,
        layer_norm_epsilon=1e-6,
        tie_embedding_weights=True,
    ),
)
T5_TIED = {f"{T5}encoder.embed_tokens.weight": f"{T5}shared.weight"}
T5_TABLE = Table(
    model_types=("t5",),
    backbone=T5Encoder,
    config=T5_CONFIG,
    weights=under(T5, "", t5.ENCODER_WEIGHTS),
    renames=RENAMES,
    tied=T5_TIED,
    dropped=(f"{TRANSFORMER}*", f"{VAE}*", f"{TEXTS}clip_*"),
)
CLIP = f"{LONE_CLIP}text_model"
CLIP_TABLE = Table(
    model_types=("clip",),
    backbone=CLIPTextEncoder,
    config=(
        read((CLIP,), *CLIP_SIZES, load=load_clip),
        read((CLIP,), "intermediate_activation", load=load_activation),
        constant(intermediate_output_index=None),
    ),
    weights=under(f"{CLIP}.", "", clip.TEXT),
    renames=RENAMES,
    dropped=(
        *(f"{LONE_CLIP}{name}" for name in ("logit_scale", "text_projection.weight")),
        *(f"{CLIP}.{name}" for name in clip.NUMBERS),
    ),
)
TABLES = (T5_TABLE, CLIP_TABLE)
