"""ModernBERT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...backbones.layers.masks import FULL, SLIDING
from ...backbones.modern_bert import ModernBertBackbone
from ..checkpoints.table import FUSE, Key, Table, assumed, fixed, heads, key, only, rule, under

PERIOD = 3
THETAS = {FULL: 160000.0, SLIDING: 10000.0}
OLD_THETAS = {FULL: "global_rope_theta", SLIDING: "local_rope_theta"}
PADDING = 50283  # of the published models


def types_of(period: int, count: int) -> list[str]:
    return [SLIDING if i % period else FULL for i in range(count)]


def load_types(types: Sequence[str] | None, period: int | None, count: int) -> tuple[int]:
    """How many layers there are from one global one to the next."""
    if types is None:
        return (PERIOD if period is None else period,)
    following = (i for i in range(1, count) if types[i] == FULL)
    found = next(following, max(count, period or 1))
    if list(types[:count]) != types_of(found, count):
        raise ValueError(f"layer_types is {types}; only every n-th layer can be global")
    return (found,)


def load_rope(
    parameters: Mapping[str, Any] | None, theta: float, local_theta: float | None
) -> tuple[float, float]:
    thetas = {FULL: theta, SLIDING: theta if local_theta is None else local_theta}
    for kind, given in (parameters or {}).items():
        others = dict(given or {})
        thetas[kind] = others.pop("rope_theta", thetas[kind])
        if others.pop("rope_type", "default") != "default" or others or kind not in THETAS:
            raise ValueError(f"rope_parameters.{kind} is {given}; only default can be computed")
    return thetas[FULL], thetas[SLIDING]


def save_rope(theta: float, local_theta: float) -> tuple[Any, ...]:
    thetas = {FULL: float(theta), SLIDING: float(local_theta)}
    rope = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in thetas.items()}
    return rope, *thetas.values()  # for older versions, too


BLOCK = (
    rule("attn_norm.weight", "attention_norm.weight"),
    rule("attn.Wqkv.weight", "attention.qkv.weight"),
    rule("attn.Wo.weight", "attention.output_dense.weight"),
    rule("mlp_norm.weight", "mlp_norm.weight"),
    rule("mlp.Wi.weight", ("mlp.wi_0.weight", "mlp.wi_1.weight"), FUSE),
    rule("mlp.Wo.weight", "mlp.wo.weight"),
)
MODERN_BERT = Table(
    model_types=("modernbert",),
    backbone=ModernBertBackbone,
    architecture="ModernBertModel",
    config=(
        key("vocab_size", "vocabulary_size", 50368),
        key("num_hidden_layers", "num_layers", 22),
        heads("num_attention_heads", "num_heads", "hidden_dim", 12),
        key("hidden_size", "hidden_dim", 768),
        key("intermediate_size", "intermediate_dim", 1152),
        key("local_attention", "local_attention_window", 128),
        key("norm_eps", "layer_norm_epsilon", 1e-5),
        Key(
            {"layer_types": None, "global_attn_every_n_layers": None, "num_hidden_layers": 22},
            ("global_attn_every_n_layers", "num_layers"),
            load_types,
            lambda period, count: (types_of(period, count), period),
        ),
        Key(
            {
                "rope_parameters": None,
                OLD_THETAS[FULL]: THETAS[FULL],
                OLD_THETAS[SLIDING]: THETAS[SLIDING],
            },
            ("rotary_max_wavelength", "local_rotary_max_wavelength"),
            load_rope,
            save_rope,
        ),
        # A token of the vocabulary, or transformers makes no model.
        Key(
            {"pad_token_id": PADDING},
            ("vocabulary_size",),
            lambda token: (),
            lambda size: (PADDING if size > PADDING else None,),
        ),
        fixed("hidden_activation", "gelu"),
        assumed("attention_dropout", 0.0),
        assumed("embedding_dropout", 0.0),
        assumed("mlp_dropout", 0.0),
        only("attention_bias", False),
        only("mlp_bias", False),
        only("norm_bias", False),
        only("rope_scaling", None),
    ),
    ignored=(
        "classifier_*",
        "cls_token_id",
        "decoder_bias",
        "deterministic_flash_attn",
        "initializer_cutoff_factor",
        "layer_norm_eps",  # norm_eps counts
        "max_position_embeddings",
        "position_embedding_type",
        "reference_compile",
        "repad_logits_with_grad",
        "sparse_pred*",
        "tie_word_embeddings",
    ),
    weights=(
        rule("embeddings.tok_embeddings.weight", "token_embedding.weight"),
        rule("embeddings.norm.weight", "embedding_norm.weight"),
        *under("layers.{}.", "transformer_layers.{}.", BLOCK),
        rule("final_norm.weight", "final_norm.weight"),
    ),
    renames=(("model.*", "*"),),
    dropped=("head.*", "decoder.*", "classifier.*"),
)
TABLES = (MODERN_BERT,)
