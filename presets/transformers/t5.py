"""T5, T5 1.1 and Flan-T5; and their encoder alone."""

from __future__ import annotations

from typing import Any

from ...backbones.layers.activations import activation_name
from ...backbones.layers.t5 import BUCKETS, MAX_DISTANCE
from ...backbones.stable_diffusion_3 import T5Encoder
from ...backbones.t5 import T5Backbone
from ..checkpoints.table import REQUIRED, TRANSPOSE, Key, Rule, Table, fixed, key, only, rule, under

ACTIVATIONS = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
}


def check_layers(layers: int, decoder_layers: int | None) -> tuple[int]:
    if decoder_layers not in (None, layers):
        raise ValueError(
            f"num_decoder_layers is {decoder_layers}; only {layers}, as num_layers, can be computed"
        )
    return (layers,)


def load_feed_forward(name: Any) -> tuple[str, bool]:
    gated = isinstance(name, str) and name.startswith("gated-")
    activation = str(name).removeprefix("gated-")
    if gated and activation == "gelu":  # there alone it means the tanh form
        activation = "gelu_new"
    if activation not in ACTIVATIONS:
        raise ValueError(f"feed_forward_proj is {name!r}, which is not known")
    return ACTIVATIONS[activation], gated


def save_feed_forward(activation: Any, gated: bool) -> tuple[str]:
    wanted = activation_name(activation)
    for name in ("relu", "silu", "gelu", "gelu_new"):
        name = f"gated-{name}" if gated else name
        if activation_name(load_feed_forward(name)[0]) == wanted:
            return (name,)
    raise ValueError(f"activation is {wanted!r}, which transformers does not have here")


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(
        rule(f"{theirs}.{letter}.weight", f"{ours}.{name}_projector.weight")
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output"))
    )


def feed_forward(theirs: str) -> tuple[Rule, ...]:
    dense = f"{theirs}.DenseReluDense"
    return (
        rule(f"{theirs}.layer_norm.weight", "layer_norm.weight"),
        rule(f"{dense}.wi.weight", "input_projector.weight", use_gated_activation=False),
        rule(f"{dense}.wi_0.weight", "input_projector.weight", use_gated_activation=True),
        rule(f"{dense}.wi_1.weight", "gate_projector.weight", use_gated_activation=True),
        rule(f"{dense}.wo.weight", "output_projector.weight"),
    )


SELF_ATTENTION = (
    *attention("layer.0.SelfAttention", "self_attention"),
    rule(
        "layer.0.SelfAttention.relative_attention_bias.weight",
        "self_attention.relative_attention_bias",
    ),
    rule("layer.0.layer_norm.weight", "self_attention_layer_norm.weight"),
)
CROSS_ATTENTION = (
    *attention("layer.1.EncDecAttention", "cross_attention"),
    rule("layer.1.layer_norm.weight", "cross_attention_layer_norm.weight"),
)
T5 = Table(
    model_types=("t5",),
    backbone=T5Backbone,
    architecture="T5ForConditionalGeneration",
    config=(
        key("vocab_size", "vocabulary_size"),
        Key(
            {"num_layers": REQUIRED, "num_decoder_layers": None},
            ("num_layers",),
            check_layers,
            lambda layers: (layers, layers),
        ),
        key("num_heads", "num_heads"),
        key("d_model", "hidden_dim"),
        key("d_ff", "intermediate_dim"),
        Key(
            {"d_kv": 64},
            ("key_value_dim", "hidden_dim", "num_heads"),
            lambda size: (size,),
            lambda size, width, heads: (size or width // heads,),
        ),
        key("dropout_rate", "dropout", 0.1),
        key("layer_norm_epsilon", "layer_norm_epsilon", 1e-6),
        Key(
            {"feed_forward_proj": "relu"},
            ("activation", "use_gated_activation"),
            load_feed_forward,
            save_feed_forward,
        ),
        # Since transformers 5 the second says what the first did: that the embedding is the head.
        Key(
            {"tie_word_embeddings": True, "scale_decoder_outputs": None},
            ("tie_embedding_weights",),
            lambda tied, scaled: (tied if scaled is None else scaled,),
            lambda tied: (tied,),
        ),
        fixed("relative_attention_num_buckets", BUCKETS),
        fixed("relative_attention_max_distance", MAX_DISTANCE),
        only("is_decoder", False),
    ),
    ignored=("classifier_dropout", "dense_act_fn", "is_gated_act", "n_positions"),
    weights=(
        rule("shared.weight", "token_embedding.weight"),
        rule("lm_head.weight", "token_embedding.reverse_embeddings", TRANSPOSE),
        *under(
            "encoder.block.{}.",
            "encoder_transformer_layers.{}.",
            (*SELF_ATTENTION, *feed_forward("layer.1")),
        ),
        rule("encoder.final_layer_norm.weight", "encoder_output_layer_norm.weight"),
        *under(
            "decoder.block.{}.",
            "decoder_transformer_layers.{}.",
            (*SELF_ATTENTION, *CROSS_ATTENTION, *feed_forward("layer.2")),
        ),
        rule("decoder.final_layer_norm.weight", "decoder_output_layer_norm.weight"),
    ),
    renames=(("transformer.*", "*"),),
    dropped=(
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "classification_head.*",
    ),
    tied={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    extra={"decoder_start_token_id": 0},
)


def check_untied(tied: bool) -> tuple[()]:
    if not tied:
        raise ValueError("tie_embedding_weights is False, for logits that there are not")
    return ()


ENCODER_WEIGHTS = tuple(
    one for one in T5.weights if one.theirs[0].startswith(("shared.", "encoder."))
)
ENCODER = Table(
    model_types=("t5+encoder",),
    backbone=T5Encoder,
    architecture="T5EncoderModel",
    config=(
        Key({"d_model": REQUIRED}, ("hidden_dim",), lambda dim: (dim,), lambda dim: (dim,)),
        *(one for one in T5.config if "tie_embedding_weights" not in one.ours),
        Key({}, ("tie_embedding_weights",), lambda: (True,), check_untied),
    ),
    ignored=(*T5.ignored, "tie_word_embeddings", "scale_decoder_outputs"),
    weights=ENCODER_WEIGHTS,
    tied={"encoder.embed_tokens.weight": "shared.weight"},
)
TABLES = (T5, ENCODER)
