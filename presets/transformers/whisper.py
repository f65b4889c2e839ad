"""Whisper."""

from __future__ import annotations

from ...backbones.whisper import WhisperBackbone
from ..checkpoints.table import Key, Rule, Table, fixed, heads, key, layer, rule, shared, under
from .bart import BLOCK, alike


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *layer(f"{theirs}.q_proj", f"{ours}.query"),
        rule(f"{theirs}.k_proj.weight", f"{ours}.key.weight"),
        *layer(f"{theirs}.v_proj", f"{ours}.value"),
        *layer(f"{theirs}.out_proj", f"{ours}.attention_output"),
    )


def tokens(size: int) -> tuple[int, ...]:
    """The vocabulary's size, and its tokens to start and end with: multilingual ones come later."""
    end = min(50257 if size >= 51865 else 50256, size - 1)
    return size, min(end + 1, size - 1), end, end, end


def check_width(size: int) -> tuple[()]:
    if size % 2:
        raise ValueError(f"hidden_dim {size} is odd, and has no sinusoids")
    return ()


WHISPER = Table(
    model_types=("whisper",),
    backbone=WhisperBackbone,
    architecture="WhisperForConditionalGeneration",
    config=(
        Key(
            {
                "vocab_size": 51865,
                "decoder_start_token_id": None,
                "bos_token_id": None,
                "eos_token_id": None,
                "pad_token_id": None,
            },
            ("vocabulary_size",),
            lambda size, *others: (size,),
            tokens,
        ),
        alike("layers", "num_layers"),
        alike("attention_heads", "num_heads"),
        heads("encoder_attention_heads", "num_heads", "hidden_dim"),
        key("d_model", "hidden_dim"),
        Key({}, ("hidden_dim",), tuple, check_width),
        alike("ffn_dim", "intermediate_dim"),
        key("num_mel_bins", "num_mels", 80),
        shared(("dropout", "attention_dropout"), "dropout", 0.0),
        # The second convolution halves the length.
        key(
            "max_source_positions",
            "max_encoder_sequence_length",
            1500,
            lambda positions: 2 * positions,
            lambda length: length // 2,
        ),
        key("max_target_positions", "max_decoder_sequence_length", 448),
        fixed("activation_function", "gelu"),
        fixed("scale_embedding", False),
    ),
    ignored=(
        "activation_dropout",
        "apply_spec_augment",
        "classifier_proj_size",
        "decoder_layerdrop",
        "encoder_layerdrop",
        "forced_decoder_ids",
        "init_std",
        "mask_feature_*",
        "mask_time_*",
        "median_filter_width",
        "num_hidden_layers",
        "tie_word_embeddings",
        "use_weighted_layer_sum",
    ),
    weights=under(
        "model.",
        "",
        (
            *layer("encoder.conv1", "encoder_token_embedding_conv_layer_1"),
            *layer("encoder.conv2", "encoder_token_embedding_conv_layer_2"),
            rule("encoder.embed_positions.weight", "encoder_position_embedding.weight"),
            *under(
                "encoder.layers.{}.",
                "encoder_transformer_layers.{}.",
                (*attention("self_attn", "self_attention_layer"), *BLOCK),
            ),
            *layer("encoder.layer_norm", "encoder_layer_norm"),
            *under(
                "decoder.embed_",
                "decoder_token_and_position_embedding.",
                (
                    rule("tokens.weight", "token_embedding.weight"),
                    rule("positions.weight", "position_embedding.weight"),
                ),
            ),
            *under(
                "decoder.layers.{}.",
                "decoder_transformer_layers.{}.",
                (
                    *attention("self_attn", "self_attention"),
                    *attention("encoder_attn", "cross_attention"),
                    *layer("encoder_attn_layer_norm", "cross_attention_layer_norm"),
                    *BLOCK,
                ),
            ),
            *layer("decoder.layer_norm", "decoder_layer_norm"),
        ),
    ),
    renames=tuple((name, f"model.{name}") for name in ("encoder.*", "decoder.*")),
    tied={"proj_out.weight": "model.decoder.embed_tokens.weight"},
)
TABLES = (WHISPER,)
