"""RoFormer V2 (Su et al., 2021, arXiv:2104.09864; the second version is Su's, 2022)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import TokenIds
from .layers.activations import Activation, ActivationLike
from .layers.attention import attend_evenly, merge_heads, split_heads
from .layers.core import Dense, Dropout, Embedding, ReversibleEmbedding, RMSNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import padding_mask_of
from .layers.rotary import Tables, pair_tables, rotary_frequencies, rotate_pairs


class RoformerNorm(RMSNormalization):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, 1e-7)


class RoformerAttention(Layer):
    layout = Layout(
        attributes={
            "q_dense_layer": "q_dense",
            "k_dense_layer": "k_dense",
            "v_dense_layer": "v_dense",
            "o_dense_layer": "o_dense",
        },
        built_on_call=True,
    )

    division = Division(
        ("q_dense_layer", "k_dense_layer", "v_dense_layer"),
        ("o_dense_layer",),
        heads=("num_heads",),
    )

    def __init__(self, hidden_dim: int, num_heads: int, head_size: int, use_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner_dim = num_heads * head_size
        init = truncated_normal(0.02)
        self.q_dense_layer = Dense(hidden_dim, inner_dim, use_bias, init)
        self.k_dense_layer = Dense(hidden_dim, inner_dim, use_bias, init)
        self.v_dense_layer = Dense(hidden_dim, inner_dim, use_bias, init)
        self.o_dense_layer = Dense(inner_dim, inner_dim, use_bias, init)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, tables: Tables) -> torch.Tensor:
        q = rotate_pairs(split_heads(self.q_dense_layer(x), self.num_heads), tables)
        k = rotate_pairs(split_heads(self.k_dense_layer(x), self.num_heads), tables)
        v = split_heads(self.v_dense_layer(x), self.num_heads)
        return self.o_dense_layer(merge_heads(attend_evenly(q, k, v, mask)))


class RoformerV2Encoder(Layer):
    layout = Layout(built_on_call=True)
    division = Division(("feedforward_intermediate_dense",), ("feedforward_output_dense",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        head_size: int,
        dropout: float,
        activation: ActivationLike,
        use_bias: bool,
    ) -> None:
        super().__init__()
        if num_heads * head_size != hidden_dim:
            raise ValueError(
                f"num_heads={num_heads} of head_size={head_size} must be hidden_dim={hidden_dim}."
            )
        init = truncated_normal(0.02)
        self.attention_layer = RoformerAttention(hidden_dim, num_heads, head_size, use_bias)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_intermediate_dense = Dense(hidden_dim, intermediate_dim, use_bias, init)
        self.feedforward_activation = Activation(activation)
        self.feedforward_output_dense = Dense(intermediate_dim, hidden_dim, use_bias, init)
        self.attention_norm = RoformerNorm(hidden_dim)
        self.feedforward_norm = RoformerNorm(hidden_dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, tables: Tables) -> torch.Tensor:
        y = self.attention_layer(x, mask, tables)
        x = self.attention_norm(x + self.self_attention_dropout(y))
        y = self.feedforward_activation(self.feedforward_intermediate_dense(x))
        y = self.feedforward_output_dense(y)
        return self.feedforward_norm(x + self.self_attention_dropout(y))


class RoformerV2Backbone(Backbone):
    """Encoder with rotary positions. Tokens with id 0 are padding.

    `token_ids` and `segment_ids` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        head_size: dimensions of a head; with `num_heads` they make `hidden_dim`.
        use_bias: whether the projections have biases.
        activation: of the feed-forward networks, by its Keras name.
        dropout: rate on the embeddings and the output of each sublayer.
        num_segments: number of segment ids.
        max_wavelength: base of the rotary frequencies.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `num_heads` of `head_size` are not `hidden_dim`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_size: int,
        use_bias: bool = False,
        activation: ActivationLike = "relu",
        dropout: float = 0.1,
        num_segments: int = 2,
        dtype: DTypeLike = None,
        max_wavelength: float = 10000,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_size = head_size
        self.max_wavelength = max_wavelength
        init = truncated_normal(0.02)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=init
        )
        self.segment_embedding = Embedding(num_segments, hidden_dim, init)
        self.embeddings_layer_norm = RoformerNorm(hidden_dim)
        self.embeddings_dropout = Dropout(dropout)
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                RoformerV2Encoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    head_size,
                    dropout,
                    activation,
                    use_bias,
                )
                for _ in range(num_layers)
            ),
        )

    def forward(self, token_ids: TokenIds, segment_ids: TokenIds | None = None) -> torch.Tensor:
        if segment_ids is None:
            segment_ids = torch.zeros_like(token_ids)
        x = self.token_embedding(token_ids) + self.segment_embedding(segment_ids)
        x = self.embeddings_dropout(self.embeddings_layer_norm(x))
        frequencies = rotary_frequencies(self.head_size, self.max_wavelength, x.device)
        tables = pair_tables(x.shape[1], frequencies, x.dtype)
        mask = padding_mask_of(token_ids)  # nonzero ids
        for layer in self.transformer_layers:
            x = layer(x, mask, tables)
        return x
