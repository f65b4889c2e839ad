"""OPT (arXiv:2205.01068) as BLIP-2 has it: behind the tokens of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch

from .._inputs import CacheIndex, CacheState, Input, PaddingMask, TokenIds
from .._model import Component
from ..layers.cache import KeyValueShape, Step, is_first
from ..layers.core import LayerNormalization, PositionEmbedding, ReversibleEmbedding
from ..layers.dtypes import DTypeLike
from ..layers.initializers import Initializer, truncated_normal
from ..layers.layer import Layer
from ..layers.layout import GRAPH, Graph, Layout, Stack
from ..layers.multimodal import prepend
from ..layers.quantized import QuantizedPositionEmbedding
from ..layers.transformer import TransformerDecoder, head_dim
from .projection import built, einsum_dense, name_of, serialized

QFormerFeatures = Annotated[torch.Tensor, Input("values", ("batch", "query_tokens", "qformer_dim"))]
# The first rows of its table of positions are for padding.
OFFSET = 2


class PositionsBehindOffset(PositionEmbedding):
    layout = Layout(class_name="Embedding")
    quantized_class: ClassVar[type[QuantizedPositionEmbedding]]

    def __init__(self, sequence_length: int, dim: int, initializer: Initializer) -> None:
        super().__init__(sequence_length + OFFSET, dim, initializer)
        self.sequence_length = sequence_length

    def at(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self(x, positions=positions + OFFSET)


class QuantizedPositionsBehindOffset(QuantizedPositionEmbedding, PositionsBehindOffset):
    pass


PositionsBehindOffset.quantized_class = QuantizedPositionsBehindOffset


class BLIP2OPTEmbeddings(Layer):
    def __init__(
        self, vocabulary_size: int, hidden_dim: int, sequence_length: int, initializer: Initializer
    ) -> None:
        super().__init__()
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=initializer
        )
        self.position_embedding = PositionsBehindOffset(sequence_length, hidden_dim, initializer)


class BLIP2CustomOPT(Component):
    """Decoder with absolute positions, which reads the Q-Former's tokens before those of the text.

    `token_ids` and `padding_mask` `[batch, length]`, `qformer_features`
    `[batch, num_query_tokens, qformer_hidden_dim]` → `[batch, num_query_tokens + length,
    hidden_dim]`. Without `qformer_features`, which belong to the first call with a cache, the text
    is all there is.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_query_tokens: of an image; 0 for a model of text, which has no input for them.
        dropout: rate on the attention weights and the output of each sublayer.
        max_sequence_length: the longest input, image and text together.
        qformer_hidden_dim: width of the Q-Former's tokens.
        language_projection: of these to `hidden_dim`, a serialized `Dense` or `EinsumDense` of
            Keras; `None` for the latter, with a bias.
        initializer_range: deviation of the initial values.
        layer_norm_epsilon: of the norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: a projection that is another layer; another number of `qformer_features`, or
            some that are not in the first call; an input that is too long.
    """

    keras_module = "keras_hub.src.models.blip2.blip2_custom_opt"
    tower_inputs: ClassVar = {"num_query_tokens": ("qformer_features",)}

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_query_tokens: int,
        dropout: float,
        max_sequence_length: int,
        qformer_hidden_dim: int,
        language_projection: Mapping[str, Any] | None = None,
        initializer_range: float = 0.02,
        layer_norm_epsilon: float = 1e-5,
        dtype: DTypeLike = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        init = truncated_normal(initializer_range)
        shape = KeyValueShape(
            num_heads, head_dim(hidden_dim, num_heads), positions=max_sequence_length
        )
        self.cache_shapes = [shape] * num_layers
        self.embeddings_layer = BLIP2OPTEmbeddings(
            vocabulary_size, hidden_dim, max_sequence_length, init
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                TransformerDecoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    layer_norm_epsilon=layer_norm_epsilon,
                    kernel_initializer=init,
                    normalize_first=True,
                )
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.projection = language_projection or einsum_dense("language_projection", hidden_dim)
        projected = built("language_projection", self.projection, qformer_hidden_dim, hidden_dim)
        self.language_projection = projected if num_query_tokens else None

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.embeddings_layer.token_embedding

    def get_config(self) -> dict[str, Any]:
        layer = serialized(self.projection, self.dtype_policy, self.language_projection)
        return {**super().get_config(), "language_projection": layer}

    @property
    def layout(self) -> Layout:
        graph = Graph()
        name = name_of(self.projection)
        x = graph("embeddings_layer", graph("token_ids"))
        if self.num_query_tokens:
            tokens = graph(name, graph("qformer_features"))
            x = graph("concatenate", graph("add", tokens, x), x)
        for layer in self.transformer_layers.names():
            x = graph(layer, x)
        return replace(
            GRAPH,
            names={"language_projection": name},
            order=graph.order(graph("layer_norm", x)),
        )

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        qformer_features: QFormerFeatures | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        if self.language_projection is not None and qformer_features is not None:
            if not is_first(cache, cache_update_index):
                raise ValueError("Images belong to the first call, with cache_update_index=0.")
            if qformer_features.shape[1] != self.num_query_tokens:
                raise ValueError(
                    f"qformer_features are {qformer_features.shape[1]} tokens of an image, not "
                    f"num_query_tokens={self.num_query_tokens}."
                )
            x, padding_mask = prepend(x, self.language_projection(qformer_features), padding_mask)
        step = Step(x, padding_mask, cache, cache_update_index)
        x = x + self.embeddings_layer.position_embedding.at(x, step.positions)
        mask = step.mask()
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, step.past(i))
        return self.layer_norm(x)
