"""Gemma (arXiv:2403.08295) and Gemma 2 (arXiv:2408.00118)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.cache import KeyValueShape, Step
from .layers.core import ReversibleEmbedding, UnitRMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import CachedGemmaAttention, GemmaDecoderBlock, scale_embeddings
from .layers.initializers import variance_scaling
from .layers.layout import Stack
from .layers.rotary import rotary_frequencies, rotary_tables


class GemmaBackbone(Backbone):
    """Decoder of Gemma 1 and, with soft caps, post-norms and sliding windows, of Gemma 2.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: twice the width inside the feed-forward networks: the gate and what it
            gates are counted together.
        head_dim: dimensions of a head.
        query_head_dim_normalize: has no effect, as in KerasHub: scores are divided by the root of
            `head_dim`.
        use_post_ffw_norm: whether the feed-forward network's output is normed, too.
        use_post_attention_norm: whether attention's output is normed, too.
        attention_logit_soft_cap: bound on the attention scores, by tanh; `None` for none.
        final_logit_soft_cap: bound on the logits of `token_embedding(x, reverse=True)`, by tanh;
            `None` for none.
        use_sliding_window_attention: whether the first, third, … block has a window.
        sliding_window_size: keys that a query sees there, itself included.
        layer_norm_epsilon: of the last norm; the others have 1e-6, as in KerasHub.
        dropout: rate on the attention weights and the output of attention.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        query_head_dim_normalize: bool = True,
        use_post_ffw_norm: bool = False,
        use_post_attention_norm: bool = False,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 4096,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_dim = head_dim
        self.soft_capped = attention_logit_soft_cap is not None
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, head_dim, self.window if i % 2 == 0 else None)
            for i in range(num_layers)
        ]
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=variance_scaling(1.0, "fan_in", "untruncated_normal"),
            logit_soft_cap=final_logit_soft_cap,
        )
        self.transformer_layers = Stack(
            "decoder_block_{}",
            (
                GemmaDecoderBlock(
                    CachedGemmaAttention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        head_dim,
                        attention_logit_soft_cap,
                        dropout,
                    ),
                    hidden_dim,
                    intermediate_dim // 2,
                    use_post_ffw_norm,
                    use_post_attention_norm,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.final_normalization = UnitRMSNormalization(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = scale_embeddings(self.token_embedding(token_ids))
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(self.head_dim, 1e4, x.device)
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        make_mask = step.full_mask if self.soft_capped else step.mask
        mask, local = make_mask(), make_mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, local if i % 2 == 0 else mask, tables, step.past(i))
        return self.final_normalization(x)
