"""XLNet."""

from __future__ import annotations

from ...backbones.xlnet import XLNetBackbone
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Operation,
    Rule,
    Table,
    activation,
    assumed,
    heads,
    key,
    layer,
    only,
    rule,
    under,
)
from .t5 import ACTIVATIONS


def check_head_size(size: int | None, width: int, heads: int) -> tuple[()]:
    if size not in (None, width // heads):
        raise ValueError(f"d_head is {size}; only {width // heads}, as d_model by n_head, is known")
    return ()


# Projections are `[d_model, heads, head size]`, also that of the output. A bias, which has the
# last two axes here too, tells them.
HEADS = Operation(
    save=lambda tensors: [
        *(tensor.mT.unflatten(1, tensors[-1].shape) for tensor in tensors[:4]),
        tensors[4].unflatten(1, tensors[-1].shape),
        tensors[5],
    ],
    load=lambda tensors, shapes: [
        *(tensor.flatten(1).mT for tensor in tensors[:4]),
        tensors[4].flatten(1),
        tensors[5],
    ],
)
BLOCK = (
    Rule(
        tuple(f"rel_attn.{name}" for name in ("q", "k", "v", "r", "o", "r_w_bias")),
        (
            "rel_attn.query.weight",
            "rel_attn.key.weight",
            "rel_attn.value.weight",
            "rel_attn.encoding.weight",
            "rel_attn.attention_output.weight",
            "content_attention_bias",
        ),
        (HEADS,),
    ),
    rule("rel_attn.r_r_bias", "positional_attention_bias"),
    rule("rel_attn.r_s_bias", "segment_attention_bias"),
    rule("rel_attn.seg_embed", "segment_encoding"),
    *layer("rel_attn.layer_norm", "layer_norm_rel_attn"),
    *layer("ff.layer_1", "feedforward_intermediate_dense"),
    *layer("ff.layer_2", "feedforward_output_dense"),
    *layer("ff.layer_norm", "layer_norm_ff"),
)
XLNET = Table(
    model_types=("xlnet",),
    backbone=XLNetBackbone,
    architecture="XLNetModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("n_layer", "num_layers"),
        heads("n_head", "num_heads", "hidden_dim"),
        key("d_model", "hidden_dim"),
        key("d_inner", "intermediate_dim"),
        key("dropout", "dropout", 0.1),
        activation("ff_activation", "activation", "gelu", ACTIVATIONS),
        key("initializer_range", "kernel_initializer_range", 0.02),
        Key({"d_head": None, "d_model": REQUIRED, "n_head": REQUIRED}, (), check_head_size, tuple),
        assumed("layer_norm_eps", 1e-12),
        only("attn_type", "bi"),
        only("bi_data", False),
        only("clamp_len", -1, 0),
    ),
    ignored=(
        "end_n_top",
        "mem_len",
        "reuse_len",
        "same_length",
        "start_n_top",
        "summary_*",
        "tie_word_embeddings",
        "untie_r",
        "use_mems_*",
    ),
    weights=(
        rule("mask_emb", "encoder_block_attn_mask_layer.mask_emb"),
        rule("word_embedding.weight", "content_query_embedding.word_embedding.weight"),
        *under("layer.{}.", "transformer_layers.{}.", BLOCK),
    ),
    renames=(("transformer.*", "*"),),
    dropped=(
        "answer_class.*",
        "classifier.*",
        "end_logits.*",
        "lm_loss.*",
        "logits_proj.*",
        "qa_outputs.*",
        "sequence_summary.*",
        "start_logits.*",
    ),
)
TABLES = (XLNET,)
