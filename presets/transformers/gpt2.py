"""GPT-2."""

from __future__ import annotations

from ...backbones.gpt2 import GPT2Backbone
from ..checkpoints.table import (
    FUSE,
    REQUIRED,
    TRANSPOSE,
    Key,
    Rule,
    Table,
    fixed,
    heads,
    key,
    layer,
    only,
    rule,
    shared,
    under,
)


def conv1d(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A projection whose weight is `[in, out]`."""
    return (
        rule(f"{theirs}.weight", f"{ours}.weight", TRANSPOSE),
        rule(f"{theirs}.bias", f"{ours}.bias"),
    )


def fused(name: str) -> tuple[str, ...]:
    return tuple(f"self_attention.{part}.{name}" for part in ("query", "key", "value"))


BLOCK = (
    *layer("ln_1", "self_attention_layer_norm"),
    rule("attn.c_attn.weight", fused("weight"), FUSE, TRANSPOSE),
    rule("attn.c_attn.bias", fused("bias"), FUSE),
    *conv1d("attn.c_proj", "self_attention.attention_output"),
    *layer("ln_2", "feedforward_layer_norm"),
    *conv1d("mlp.c_fc", "feedforward_intermediate_dense"),
    *conv1d("mlp.c_proj", "feedforward_output_dense"),
)
GPT2 = Table(
    model_types=("gpt2",),
    backbone=GPT2Backbone,
    architecture="GPT2LMHeadModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("n_layer", "num_layers"),
        heads("n_head", "num_heads", "hidden_dim"),
        key("n_embd", "hidden_dim"),
        Key(
            {"n_inner": None, "n_embd": REQUIRED},
            ("intermediate_dim",),
            lambda inner, width: (inner or 4 * width,),
            lambda inner: (inner,),
        ),
        shared(("resid_pdrop", "embd_pdrop", "attn_pdrop"), "dropout", 0.1),
        key("n_positions", "max_sequence_length"),
        fixed("activation_function", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        fixed("layer_norm_epsilon", 1e-5),
        only("scale_attn_weights", True),
        only("scale_attn_by_inverse_layer_idx", False),
        only("add_cross_attention", False),
        only("tie_word_embeddings", True),
    ),
    input_first=tuple(
        f"transformer.h.{{}}.{name}.weight"
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ),
    ignored=("is_decoder", "n_ctx", "reorder_and_upcast_attn", "summary_*"),
    weights=(
        rule("transformer.wte.weight", "token_embedding.weight"),
        rule("transformer.wpe.weight", "position_embedding.weight"),
        *under("transformer.h.{}.", "transformer_layers.{}.", BLOCK),
        *layer("transformer.ln_f", "layer_norm"),
    ),
    renames=tuple((name, f"transformer.{name}") for name in ("wte.*", "wpe.*", "h.*", "ln_f.*")),
    dropped=(
        "transformer.h.{}.attn.bias",
        "transformer.h.{}.attn.masked_bias",
        "classifier.*",
        "multiple_choice_head.*",
        "qa_outputs.*",
        "score.*",
    ),
    tied={"lm_head.weight": "transformer.wte.weight"},
)
TABLES = (GPT2,)
