"""ESM-1b (Rives et al., 2021, doi:10.1073/pnas.2016239118) and ESM-2 (Lin et al., 2023,
doi:10.1126/science.ade2574).
"""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import TokenIds
from .layers.activations import Activation, ActivationLike
from .layers.attention import attend_evenly, merge_heads, split_heads
from .layers.core import Dense, Dropout, Embedding, LayerNormalization, PositionEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack
from .layers.masks import padding_mask_of
from .layers.rotary import Tables, rotary_frequencies, rotary_tables, rotate


class EsmSelfAttention(Layer):
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

    def __init__(self, hidden_dim: int, num_heads: int, use_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner_dim = hidden_dim // num_heads * num_heads
        init = truncated_normal(0.02)
        self.q_dense_layer = Dense(hidden_dim, inner_dim, use_bias, init)
        self.k_dense_layer = Dense(hidden_dim, inner_dim, use_bias, init)
        self.v_dense_layer = Dense(hidden_dim, inner_dim, use_bias, init)
        self.o_dense_layer = Dense(inner_dim, inner_dim, use_bias, init)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, tables: Tables | None) -> torch.Tensor:
        q = split_heads(self.q_dense_layer(x), self.num_heads)
        k = split_heads(self.k_dense_layer(x), self.num_heads)
        v = split_heads(self.v_dense_layer(x), self.num_heads)
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        return self.o_dense_layer(merge_heads(attend_evenly(q, k, v, mask)))


class ESMEncoder(Layer):
    layout = Layout(
        attributes={"ffn_norm": "feedforward_norm"},
        built_on_call=True,
    )
    division = Division(("feedforward_intermediate_dense",), ("feedforward_output_dense",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        activation: ActivationLike,
        use_bias: bool,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        init = truncated_normal(0.02)
        self.attention_layer = EsmSelfAttention(hidden_dim, num_heads, use_bias)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_intermediate_dense = Dense(hidden_dim, intermediate_dim, use_bias, init)
        self.feedforward_activation = Activation(activation)
        self.feedforward_output_dense = Dense(intermediate_dim, hidden_dim, use_bias, init)
        self.attention_norm = LayerNormalization(hidden_dim, layer_norm_eps)
        self.ffn_norm = LayerNormalization(hidden_dim, layer_norm_eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, tables: Tables | None) -> torch.Tensor:
        # KerasHub drops the inputs of the sublayers and the output of the second one.
        y = self.attention_norm(self.self_attention_dropout(x))
        x = x + self.attention_layer(y, mask, tables)
        y = self.ffn_norm(self.self_attention_dropout(x))
        y = self.feedforward_activation(self.feedforward_intermediate_dense(y))
        y = self.feedforward_output_dense(y)
        return x + self.self_attention_dropout(y)


class ESMBackbone(Backbone):
    """Encoder of protein sequences with norms before the sublayers.

    `token_ids` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        use_bias: whether the projections have biases.
        activation: of the feed-forward networks, by its Keras name.
        dropout: rate on the input of each sublayer and the output of the second, as in KerasHub.
        max_sequence_length: rows of the table of `absolute` positions; without effect on rotary
            ones.
        max_wavelength: base of the rotary frequencies.
        layer_norm_eps: of the norms.
        use_pre_layer_norm: whether the embeddings are normed.
        position_embedding_type: `rotary`, or `absolute` for learned ones, which are counted from
            `pad_token_id`.
        pad_token_id: the token that is padding.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `position_embedding_type` is neither `rotary` nor `absolute`.
    """

    division = Division(tables=("token_embedding",))
    layout = Layout(
        Kind.GRAPH,
        assigned=(
            "token_embedding",
            "position_embedding",
            "output_layer_norm",
            "emb_layer_norm",
            "transformer_layers",
        ),
    )

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        use_bias: bool = True,
        activation: ActivationLike = "gelu",
        dropout: float = 0.1,
        dtype: DTypeLike = None,
        max_sequence_length: int = 1024,
        max_wavelength: float = 10000,
        layer_norm_eps: float = 1e-12,
        use_pre_layer_norm: bool = False,
        position_embedding_type: str = "rotary",
        pad_token_id: int = 0,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if position_embedding_type not in ("rotary", "absolute"):
            raise ValueError(
                "position_embedding_type must be 'rotary' or 'absolute', "
                f"not {position_embedding_type!r}."
            )
        use_rotary = position_embedding_type == "rotary"
        self.head_size = hidden_dim // num_heads
        self.max_wavelength = max_wavelength
        self.pad_token_id = pad_token_id
        init = truncated_normal(0.02)
        self.token_embedding = Embedding(vocabulary_size, hidden_dim, init)
        self.position_embedding = (
            None if use_rotary else PositionEmbedding(max_sequence_length, hidden_dim, init)
        )
        self.emb_layer_norm = (
            LayerNormalization(hidden_dim, layer_norm_eps) if use_pre_layer_norm else None
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                ESMEncoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    activation,
                    use_bias,
                    layer_norm_eps,
                )
                for _ in range(num_layers)
            ),
        )
        self.output_layer_norm = LayerNormalization(hidden_dim, layer_norm_eps)

    def forward(self, token_ids: TokenIds) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        tables = None
        if self.position_embedding is None:
            frequencies = rotary_frequencies(self.head_size, self.max_wavelength, x.device)
            tables = rotary_tables(x.shape[1], frequencies, x.dtype)
        else:
            x = x + self.position_embedding(x, start_index=self.pad_token_id)
        if self.emb_layer_norm is not None:
            x = self.emb_layer_norm(x)
        mask = padding_mask_of(token_ids != self.pad_token_id)
        for layer in self.transformer_layers:
            x = layer(x, mask, tables)
        return self.output_layer_norm(x)


ESM2Backbone = ESMBackbone
