"""ModernBERT (Warner et al., 2024, arXiv:2412.13663)."""

from __future__ import annotations

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.attention import attend, attend_evenly, merge_heads, split_heads
from .layers.core import Dense, LayerNormalization, ReversibleEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike, for_projections
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import near_mask, padding_mask_of
from .layers.rotary import Tables, rotary_frequencies, rotary_part, rotary_tables, rotate


class ModernBertAttention(Layer):
    division = Division(("qkv",), ("output_dense",), {"qkv": 3}, heads=("num_heads",))

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Dense(hidden_dim, 3 * hidden_dim, use_bias=False)
        self.output_dense = Dense(hidden_dim, hidden_dim, use_bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, tables: Tables) -> torch.Tensor:
        q, k, v = (split_heads(one, self.num_heads) for one in self.qkv(x).chunk(3, dim=-1))
        q, k = rotate(q, tables), rotate(k, tables)
        x = attend(q, k, v) if mask is None else attend_evenly(q, k, v, mask)
        return self.output_dense(merge_heads(x))


class ModernBertMLP(Layer):
    division = Division(("wi_0", "wi_1"), ("wo",))

    def __init__(self, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.wi_0 = Dense(hidden_dim, intermediate_dim, use_bias=False)
        self.wi_1 = Dense(hidden_dim, intermediate_dim, use_bias=False)
        self.activation = Activation("gelu")
        self.wo = Dense(intermediate_dim, hidden_dim, use_bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = for_projections(x)
        return self.wo(self.activation(self.wi_0(x)) * self.wi_1(x))


class ModernBertEncoderLayer(Layer):
    layout = Layout(attributes={"attention_norm": "attn_norm", "attention": "attn"})

    def __init__(
        self,
        attention_norm: nn.Module,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = ModernBertAttention(hidden_dim, num_heads)
        self.mlp_norm = LayerNormalization(hidden_dim, epsilon, center=False)
        self.mlp = ModernBertMLP(hidden_dim, intermediate_dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, tables: Tables) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask, tables)
        return x + self.mlp(self.mlp_norm(x))


class ModernBertBackbone(Backbone):
    """Encoder with rotary positions in which most layers see what is near, and some see all.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks, after the gate.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        local_attention_window: a local layer sees half as many tokens on either side.
        global_attn_every_n_layers: each so many-th layer is global, from the first on.
        rotary_max_wavelength: base of the rotary frequencies in global layers.
        local_rotary_max_wavelength: base in local layers; `None` for that of the global ones.
        layer_norm_epsilon: of the norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `num_heads` does not divide `hidden_dim` into heads of even width, or
            `global_attn_every_n_layers` is 0.
    """

    def __init__(
        self,
        vocabulary_size: int = 50368,
        hidden_dim: int = 768,
        intermediate_dim: int = 1152,
        num_layers: int = 22,
        num_heads: int = 12,
        local_attention_window: int = 128,
        global_attn_every_n_layers: int = 3,
        rotary_max_wavelength: float = 160000,
        local_rotary_max_wavelength: float | None = 10000,
        layer_norm_epsilon: float = 1e-5,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim={hidden_dim} must be divisible by num_heads={num_heads}.")
        if global_attn_every_n_layers < 1:
            raise ValueError(
                f"global_attn_every_n_layers must be at least 1, not {global_attn_every_n_layers}."
            )
        if local_rotary_max_wavelength is None:
            local_rotary_max_wavelength = rotary_max_wavelength
        self.local_rotary_max_wavelength = local_rotary_max_wavelength
        self.head_size = rotary_part(hidden_dim // num_heads, 1)
        self.wavelengths = rotary_max_wavelength, local_rotary_max_wavelength
        self.reach = local_attention_window // 2
        self.is_global = [i % global_attn_every_n_layers == 0 for i in range(num_layers)]

        def norm() -> LayerNormalization:
            return LayerNormalization(hidden_dim, layer_norm_epsilon, center=False)

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=truncated_normal(0.02)
        )
        self.embedding_norm = norm()
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                ModernBertEncoderLayer(
                    norm() if i else nn.Identity(),  # what it sees has just been normed
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    layer_norm_epsilon,
                )
                for i in range(num_layers)
            ),
        )
        self.final_norm = norm()

    def forward(self, token_ids: TokenIds, padding_mask: PaddingMask | None = None) -> torch.Tensor:
        x = self.embedding_norm(self.token_embedding(token_ids))
        length = x.shape[1]
        global_tables, local_tables = (
            rotary_tables(length, rotary_frequencies(self.head_size, wavelength, x.device), x.dtype)
            for wavelength in self.wavelengths
        )
        mask = padding_mask_of(padding_mask)
        near = near_mask(length, self.reach, x.device)
        if mask is not None:
            near = near & mask
        for layer, is_global in zip(self.transformer_layers, self.is_global):
            x = layer(x, mask, global_tables) if is_global else layer(x, near, local_tables)
        return self.final_norm(x)
