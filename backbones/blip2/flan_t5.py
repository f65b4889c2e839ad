"""Flan-T5 (arXiv:2210.11416) as BLIP-2 has it: its encoder reads the tokens of an image, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from .._inputs import (
    CacheIndex,
    CacheState,
    EncoderPaddingMask,
    EncoderTokenIds,
    PaddingMask,
    TokenIds,
)
from .._model import Component
from ..layers.cache import CrossKeyValueShape, Step
from ..layers.core import Dense, Dropout, ReversibleEmbedding
from ..layers.dtypes import DTypeLike
from ..layers.initializers import truncated_normal
from ..layers.layout import GRAPH, Graph, Layout, Stack, beside
from ..layers.masks import hiding_bias, padding_bias
from ..layers.multimodal import prepend
from ..layers.t5 import T5LayerNorm, T5TransformerLayer
from .opt import QFormerFeatures
from .projection import built, dense, name_of, serialized


class BLIP2FlanT5(Component):
    """Encoder-decoder with relative positions, whose encoder reads the Q-Former's tokens before
    those of the text.

    `token_ids` and `padding_mask` `[batch, encoder_length]`, `decoder_token_ids` and
    `decoder_padding_mask` `[batch, length]`, `qformer_features`
    `[batch, num_query_tokens, qformer_hidden_dim]` → the decoder's `[batch, length, hidden_dim]`.
    Logits are `lm_head` of these.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks of the encoder, and of the decoder.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_query_tokens: of an image; 0 for a model of text, which has no input for them.
        qformer_hidden_dim: width of the Q-Former's tokens.
        key_value_dim: dimensions of a head; `None` for `hidden_dim // num_heads`.
        dropout: rate on the embeddings, the attention weights, within the feed-forward networks, on
            the output of each sublayer and of each side.
        layer_norm_epsilon: of the norms.
        language_projection: of the Q-Former's tokens to `hidden_dim`, a serialized `Dense` or
            `EinsumDense` of Keras; `None` for a `Dense` with a bias.
        lm_head: of hidden states to logits, another one; `None` for a `Dense` without a bias. It
            has no part in `forward`, and weights only if a file has some, or after `build_head`.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: a projection or head that is another layer; another number of
            `qformer_features`.
    """

    keras_module = "keras_hub.src.models.blip2.blip2_flan_t5_lm"
    tower_inputs: ClassVar = {"num_query_tokens": ("qformer_features",)}

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_query_tokens: int,
        qformer_hidden_dim: int,
        key_value_dim: int | None = None,
        dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-6,
        language_projection: Mapping[str, Any] | None = None,
        lm_head: Mapping[str, Any] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.projection = language_projection or dense("language_projection", hidden_dim, True)
        self.head = lm_head or dense("lm_head", vocabulary_size, False)
        self.lm_head: Dense | None = None
        shape = CrossKeyValueShape(num_heads, key_value_dim or hidden_dim // num_heads)
        self.cache_shapes = [shape] * num_layers
        self.hidden_dim = hidden_dim
        self.vocabulary_size = vocabulary_size

        def layers(name: str, is_decoder: bool) -> Stack:
            return Stack(
                name,
                (
                    T5TransformerLayer(
                        hidden_dim,
                        intermediate_dim,
                        key_value_dim or hidden_dim // num_heads,
                        dropout,
                        "gelu",
                        layer_norm_epsilon,
                        num_heads,
                        use_gated_activation=True,
                        is_decoder=is_decoder,
                        use_relative_attention_bias=i == 0,
                    )
                    for i in range(num_layers)
                ),
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=truncated_normal(0.05, mean=1.0)
        )
        self.encoder_embedding_dropout = Dropout(dropout)
        self.encoder_transformer_layers = layers("transformer_encoder_layer_{}", False)
        self.encoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.encoder_output_dropout = Dropout(dropout)
        self.decoder_embedding_dropout = Dropout(dropout)
        self.decoder_transformer_layers = layers("transformer_decoder_layer_{}", True)
        self.decoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.decoder_output_dropout = Dropout(dropout)
        projected = built("language_projection", self.projection, qformer_hidden_dim, hidden_dim)
        self.language_projection = projected if num_query_tokens else None
        built("lm_head", self.head, 1, vocabulary_size)

    def build_head(self) -> None:
        """Draw the head's weights at random, if it has none."""
        if self.lm_head is None:
            self.lm_head = built("lm_head", self.head, self.hidden_dim, self.vocabulary_size)
            self.train(self.training)
            self.finish()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.lm_head is None:
            raise NotImplementedError(
                f"{self.class_name} has no logits: its lm_head has no weights, which a file would "
                "have, or build_head draw."
            )
        return self.lm_head(hidden)

    def get_config(self) -> dict[str, Any]:
        layers = {"language_projection": self.projection, "lm_head": self.head}
        return super().get_config() | {
            name: serialized(layer, self.dtype_policy, getattr(self, name))
            for name, layer in layers.items()
        }

    @property
    def layout(self) -> Layout:
        graph = Graph()
        name = name_of(self.projection)
        x = graph("token_embedding", graph("token_ids"))
        if self.num_query_tokens:
            x = graph("concatenate", graph(name, graph("qformer_features")), x)
        x = graph("encoder_embedding_dropout", x)
        for layer in self.encoder_transformer_layers.names():
            x = graph(layer, x)
        encoded = graph("encoder_output_dropout", graph("encoder_output_layer_norm", x))
        x = graph("token_embedding", graph("decoder_token_ids"))
        x = graph("decoder_embedding_dropout", x)
        for layer in self.decoder_transformer_layers.names():
            x = graph(layer, x, encoded)
        x = graph("decoder_output_dropout", graph("decoder_output_layer_norm", x))
        return replace(
            GRAPH,
            names={"language_projection": name, "lm_head": name_of(self.head)},
            inside={"lm_head": beside},
            order=graph.order(x),
        )

    def encode(
        self,
        token_ids: torch.Tensor,
        padding_mask: torch.Tensor | None,
        qformer_features: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[batch, tokens of image and text, hidden_dim]`, and the padding mask of these."""
        x = self.token_embedding(token_ids)
        if self.language_projection is not None and qformer_features is not None:
            if qformer_features.shape[1] != self.num_query_tokens:
                raise ValueError(
                    f"qformer_features are {qformer_features.shape[1]} tokens of an image, not "
                    f"num_query_tokens={self.num_query_tokens}."
                )
            x, padding_mask = prepend(x, self.language_projection(qformer_features), padding_mask)
        x = self.encoder_embedding_dropout(x)
        if padding_mask is None:
            padding_mask = x.new_ones(x.shape[:2])
        positions = torch.arange(x.shape[1], device=x.device)
        distance = (positions - positions[:, None])[None]
        bias = padding_bias(padding_mask)
        for layer in self.encoder_transformer_layers:
            x, bias = layer(x, bias, distance)
        return self.encoder_output_dropout(self.encoder_output_layer_norm(x)), padding_mask

    def forward(
        self,
        token_ids: EncoderTokenIds,
        decoder_token_ids: TokenIds,
        padding_mask: EncoderPaddingMask | None = None,
        decoder_padding_mask: PaddingMask | None = None,
        qformer_features: QFormerFeatures | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        encoded = None  # where an earlier call has seen the encoder's inputs
        if token_ids is not None:
            encoded, padding_mask = self.encode(token_ids, padding_mask, qformer_features)
        elif qformer_features is not None:
            raise ValueError("qformer_features belong to token_ids: give both or none.")
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        encoded_mask = step.encoded_mask(encoded, padding_mask)
        assert encoded_mask is not None
        encoder_bias = padding_bias(encoded_mask)
        x = self.decoder_embedding_dropout(self.token_embedding(decoder_token_ids))
        distance = step.key_positions[:, None] - step.positions[:, :, None]
        bias = hiding_bias(step.full_mask())
        for i, layer in enumerate(self.decoder_transformer_layers):
            x, bias = layer(x, bias, distance, encoded, encoder_bias, step.past(i), step.cross(i))
        return self.decoder_output_dropout(self.decoder_output_layer_norm(x))
