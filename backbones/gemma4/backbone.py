"""Gemma 4: a decoder that may see images and hear."""

from __future__ import annotations

import itertools

from ..layers.cache import KeyValueShape
from ..layers.core import Dense, Embedding, ReversibleEmbedding, RMSNormalization
from ..layers.dtypes import DTypeLike
from ..layers.initializers import variance_scaling
from ..layers.layout import Graph, Kind, Layout, Stack
from ..layers.masks import FULL, SLIDING, check_layer_types
from .audio import Gemma4AudioEncoder
from .decoder import Gemma4Decoder, Rotary
from .text import (
    Gemma4MixtureBlock,
    Gemma4MoEBlock,
    Gemma4Router,
    Gemma4TextAttention,
    Gemma4TextDecoderBlock,
    OneProjectionAttention,
    SharedAttention,
    key_value_sources,
)
from .vision import Gemma4VisionEncoder

# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "token_embedding",
    "per_layer_token_embedding",
    "per_layer_model_projection",
    "per_layer_projection_norm",
    "vision_encoder",
    "audio_encoder",
    "transformer_layers",
    "final_normalization",
    "pooling_dense_1",
    "embedding_projection",
)


class Gemma4Backbone(Gemma4Decoder):
    """Decoder in which, with sliding windows, every sixth layer sees all that was before.

    With a `vision_encoder` or an `audio_encoder` the tokens of images or of sound take the places
    `vision_indices` and `audio_indices` (padded with 0), so many of each image as there are places
    for it. `vision_mask` and `audio_mask` are 1 at these places, and there by default.

    `token_ids`, `padding_mask` and `position_ids` (by default those from 0 on) `[batch, length]`;
    `pixel_values` `[batch, images, patches, pixels]`, `pixel_position_ids`
    `[batch, images, patches, 2]`, `vision_indices` `[batch, images · tokens]` and `vision_mask`
    `[batch, length]`; `audio_mel` `[batch, clips, frames, features]`, `audio_mel_mask`
    `[batch, clips, frames]`, `audio_indices` `[batch, clips · tokens]` and `audio_mask`
    `[batch, length]` → `[batch, length, hidden_dim]`; an embedding model gives this as
    `sequence_output`, and `pooled_output` `[batch, embedding_dim]` of length 1.

    Args:
        vocabulary_size: number of token ids.
        image_size: side of the images in pixels, `None` without them. It has no effect: the
            tower takes images of any size.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        head_dim: dimensions of a head.
        query_head_dim_normalize: has no effect, as in KerasHub: queries are normed.
        attention_logit_soft_cap: bound on the attention scores, by tanh; `None` for none.
        final_logit_soft_cap: bound on the logits of `token_embedding(x, reverse=True)`, by tanh;
            `None` for none.
        use_sliding_window_attention: whether local layers have a window.
        sliding_window_size: keys that a query sees there, itself included.
        sliding_window_pattern: each so many-th layer is global, the others are local.
        layer_types: `sliding_attention` or `full_attention` for each layer instead.
        global_head_dim: dimensions of a head of the global layers; `None` for `head_dim`.
        local_rope_scaling_factor: divides the positions in local layers.
        global_rope_scaling_factor: divides the positions in global ones.
        vision_encoder: the tower of images; `None` for a model that has no inputs for them.
        audio_encoder: the tower of sound; `None` for a model that has no inputs for it.
        num_audio_tokens_per_clip: has no effect; `None` is 750 where there is an `audio_encoder`.
        layer_norm_epsilon: of the norms.
        use_bidirectional_attention: whether a query sees what comes after it, too; then there are
            no windows.
        use_vision_bidirectional_attention: whether, in local layers, the tokens of an image, a run
            of ones in `vision_mask`, see each other both ways; with a cache as well, where
            KerasHub's see what was before. They belong to the first call with a cache.
        dropout: rate on the attention weights, and on the output of attention and of the
            feed-forward networks.
        is_embedding_model: whether the outputs are pooled.
        pooling_intermediate_dim: width between the two projections of the pooled output; `None`
            without one.
        embedding_dim: width of the pooled output; `None` without one.
        num_kv_shared_layers: how many layers at the end use the keys and values of the last one
            before them that is of their kind. If these are all, an assistant, they are another
            model's, and the model cannot be called.
        num_global_key_value_heads: number of heads of the keys and values of global layers, which
            then have one projection for both; `None` for two, of `num_key_value_heads`.
        hidden_size_per_layer_input: width of what each token says to each layer, 0 for nothing.
        vocab_size_per_layer_input: number of token ids that have something to say; `None` for
            `vocabulary_size`.
        global_rope_wavelength: base of the rotary frequencies in global layers; `None` for 1e6.
        local_rope_wavelength: base of the rotary frequencies in local layers; `None` for 1e4.
        global_rope_partial_rotary_factor: share of a head's dimensions that is rotated in global
            layers; the frequencies are those of the whole head.
        use_double_wide_mlp: whether layers with the keys and values of others have feed-forward
            networks of twice the width.
        enable_moe_block: whether there is a mixture of experts beside each feed-forward network.
        num_experts: experts of a block; `None` without them.
        expert_intermediate_dim: width inside an expert; `None` without them.
        num_experts_per_token: experts of each token; their probabilities are made to sum to one.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an embedding model without `pooling_intermediate_dim` and `embedding_dim`, or a
            mixture without `num_experts` and `expert_intermediate_dim`; unknown or too few
            `layer_types`; images or sound without their other inputs, or that do not fit the
            places for them; a call of an assistant.
    """

    def __init__(
        self,
        vocabulary_size: int,
        image_size: int | None,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        query_head_dim_normalize: bool = True,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = True,
        sliding_window_size: int = 512,
        sliding_window_pattern: int = 6,
        layer_types: list[str] | None = None,
        global_head_dim: int | None = None,
        local_rope_scaling_factor: float = 1.0,
        global_rope_scaling_factor: float = 1.0,
        vision_encoder: Gemma4VisionEncoder | None = None,
        audio_encoder: Gemma4AudioEncoder | None = None,
        num_audio_tokens_per_clip: int | None = None,
        layer_norm_epsilon: float = 1e-6,
        use_bidirectional_attention: bool = False,
        use_vision_bidirectional_attention: bool = False,
        dropout: float = 0,
        is_embedding_model: bool = False,
        pooling_intermediate_dim: int | None = None,
        embedding_dim: int | None = None,
        num_kv_shared_layers: int = 0,
        num_global_key_value_heads: int | None = None,
        hidden_size_per_layer_input: int = 0,
        vocab_size_per_layer_input: int | None = None,
        global_rope_wavelength: float | None = None,
        local_rope_wavelength: float | None = None,
        global_rope_partial_rotary_factor: float = 1.0,
        use_double_wide_mlp: bool = False,
        enable_moe_block: bool = False,
        num_experts: int | None = None,
        expert_intermediate_dim: int | None = None,
        num_experts_per_token: int = 8,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if layer_types is None:
            period = sliding_window_pattern
            layer_types = [SLIDING if (i + 1) % period else FULL for i in range(num_layers)]
            self.layer_types = layer_types
        self.is_global = [kind == FULL for kind in check_layer_types(layer_types, num_layers)]
        if audio_encoder is not None:
            self.num_audio_tokens_per_clip = num_audio_tokens_per_clip or 750
        self.sources = sources = key_value_sources(self.is_global, num_kv_shared_layers)
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.soft_capped = attention_logit_soft_cap is not None
        local_dim, global_dim = head_dim, global_head_dim or head_dim
        self.rotary = (
            Rotary(local_dim, local_rope_wavelength or 1e4, local_rope_scaling_factor),
            Rotary(
                global_dim,
                global_rope_wavelength or 1e6,
                global_rope_scaling_factor,
                global_rope_partial_rotary_factor,
            ),
        )
        shapes = [
            KeyValueShape(num_global_key_value_heads or num_key_value_heads, global_dim)
            if is_global
            else KeyValueShape(num_key_value_heads, local_dim, self.window)
            for is_global in self.is_global
        ]
        if not use_bidirectional_attention:
            self.cache_shapes = [shape for i, shape in enumerate(shapes) if i not in sources]

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=variance_scaling(1.0, "fan_in", "untruncated_normal"),
            logit_soft_cap=final_logit_soft_cap,
        )
        self.per_layer_dim = per_layer_dim = hidden_size_per_layer_input
        if per_layer_dim:
            self.per_layer_token_embedding = Embedding(
                vocab_size_per_layer_input or vocabulary_size, num_layers * per_layer_dim
            )
            self.per_layer_model_projection = Dense(
                hidden_dim, num_layers * per_layer_dim, use_bias=False
            )
            self.per_layer_projection_norm = RMSNormalization(per_layer_dim, layer_norm_epsilon)
        self.vision_encoder = vision_encoder
        self.audio_encoder = audio_encoder
        self.check_towers(hidden_dim)
        self.both_ways = use_bidirectional_attention
        self.images_both_ways = use_vision_bidirectional_attention

        def block(index: int, shape: KeyValueShape) -> Gemma4TextDecoderBlock:
            if num_query_heads % shape.num_heads:
                raise ValueError(
                    f"num_global_key_value_heads={shape.num_heads} must divide "
                    f"num_query_heads={num_query_heads}."
                )
            if index in sources:
                attention_class: type[Gemma4TextAttention] = SharedAttention
            elif self.is_global[index] and num_global_key_value_heads is not None:
                attention_class = OneProjectionAttention
            else:
                attention_class = Gemma4TextAttention
            attention = attention_class(
                hidden_dim,
                num_query_heads,
                shape.num_heads,
                shape.head_dim,
                attention_logit_soft_cap,
                dropout,
                layer_norm_epsilon,
            )
            width = intermediate_dim * (2 if use_double_wide_mlp and index in sources else 1)
            parts = (attention, hidden_dim, width, per_layer_dim, dropout, layer_norm_epsilon)
            if not enable_moe_block:
                return Gemma4TextDecoderBlock(*parts)
            if num_experts is None or expert_intermediate_dim is None:
                raise ValueError("A mixture needs num_experts and expert_intermediate_dim.")
            return Gemma4MixtureBlock(
                *parts,
                Gemma4Router(hidden_dim, num_experts, num_experts_per_token, layer_norm_epsilon),
                Gemma4MoEBlock(num_experts, hidden_dim, expert_intermediate_dim),
            )

        self.transformer_layers = Stack(
            "decoder_block_{}", (block(i, shape) for i, shape in enumerate(shapes))
        )
        self.final_normalization = RMSNormalization(hidden_dim, layer_norm_epsilon)
        self.is_embedding_model = is_embedding_model
        if is_embedding_model:
            if pooling_intermediate_dim is None or embedding_dim is None:
                raise ValueError(
                    "An embedding model needs pooling_intermediate_dim and embedding_dim."
                )
            self.pooling_dense_1 = Dense(hidden_dim, pooling_intermediate_dim, use_bias=False)
            self.embedding_projection = Dense(
                pooling_intermediate_dim, embedding_dim, use_bias=False
            )

    def default_lora_layer_names(self) -> list[str]:
        names = super().default_lora_layer_names()
        text = self.vision_encoder is None and self.audio_encoder is None
        return names if text else [*names, "query_proj", "value_proj"]

    @property
    def layout(self) -> Layout:
        call, numbers = Graph(), itertools.count()

        def op(*inputs: tuple[str, int]) -> tuple[str, int]:
            return call(f"op_{next(numbers)}", *inputs)

        ids, padding = call("token_ids"), call("padding_mask")
        x, said_by = call("token_embedding", ids), ids
        seen: tuple[tuple[str, int], ...] = ()
        if self.vision_encoder is not None:
            pixels = call("pixel_position_ids"), call("pixel_values")
            tokens = op(call(self.vision_encoder.name, *pixels))
            x = op(tokens, x, call("vision_indices"))
            seen = (call("vision_mask"),)
            if self.per_layer_dim:
                said_by = op(op(*seen), op(said_by), said_by)
        if self.audio_encoder is not None:
            mel = call("audio_mel"), op(call("audio_mel_mask"))
            tokens = op(call(self.audio_encoder.name, *mel))
            x = op(tokens, x, call("audio_indices"))
            mask = op(call("audio_mask"))
            if self.per_layer_dim:
                said_by = op(mask, op(said_by), said_by)
            else:
                x = op(x, op(op(mask)))
        if self.per_layer_dim:
            said_by = op(op(call("per_layer_token_embedding", said_by)))
        x = op(x)
        if self.per_layer_dim:
            projected = op(call("per_layer_model_projection", x))
        said: tuple[tuple[str, int], ...] = ()
        outputs: list[tuple[str, int]] = []
        for i, name in enumerate(self.transformer_layers.names()):
            if self.per_layer_dim:
                parts = op(projected), op(said_by)
                said = (op(op(call("per_layer_projection_norm", parts[0]), parts[1])),)
            source = self.sources.get(i, i)
            shared = (outputs[source],) if source < i and i in self.sources else ()
            x = call(name, x, padding, *said, call("position_ids"), *shared, *seen)
            outputs.append(x)
        x = call("final_normalization", x)
        if not self.is_embedding_model:
            return Layout(Kind.GRAPH, order=call.order(x), assigned=ASSIGNED)
        pooled = call("pooling_dense_1", op(x, padding))
        pooled = op(call("embedding_projection", pooled))
        return Layout(Kind.GRAPH, order=call.order(pooled, x), assigned=ASSIGNED)
