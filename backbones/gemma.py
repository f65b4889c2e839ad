"""Gemma (arXiv:2403.08295) and Gemma 2 (arXiv:2408.00118)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.activations import gelu_approximate
from .layers.attention import attend, attend_soft_capped, merge_heads, split_heads
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dropout, EinsumDense, ReversibleEmbedding, UnitRMSNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import variance_scaling
from .layers.layout import Layout, Stack
from .layers.rotary import rotary_frequencies, rotary_tables, rotate


class CachedGemmaAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    layout = Layout(
        attributes={
            "query": "query_dense",
            "key": "key_dense",
            "value": "value_dense",
            "attention_output": "output_dense",
        },
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        logit_soft_cap: float | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.scale = head_dim**-0.5
        self.dropout = dropout
        self.attend: Callable[..., torch.Tensor] = (
            attend
            if logit_soft_cap is None
            else functools.partial(attend_soft_capped, soft_cap=logit_soft_cap)
        )
        key_value = (num_key_value_heads, head_dim)
        self.query = EinsumDense("btd,ndh->btnh", hidden_dim, (num_query_heads, head_dim))
        self.key = EinsumDense("bsd,kdh->bskh", hidden_dim, key_value)
        self.value = EinsumDense("bsd,kdh->bskh", hidden_dim, key_value)
        self.attention_output = EinsumDense(
            "btnh,nhd->btd", (num_query_heads, head_dim), hidden_dim
        )

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        tables: tuple[torch.Tensor, torch.Tensor],
        past: Past | None,
    ) -> torch.Tensor:
        q = rotate(split_heads(self.query(x), self.num_query_heads), tables)
        k = rotate(split_heads(self.key(x), self.num_key_value_heads), tables)
        v = split_heads(self.value(x), self.num_key_value_heads)
        if past is not None:
            k, v = past.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        causal = {"is_causal": True} if mask is None else {}
        x = self.attend(q, k, v, mask, scale=self.scale, dropout=dropout, **causal)
        return self.attention_output(merge_heads(x))


class GemmaDecoderBlock(nn.Module):
    layout = Layout(
        attributes={
            "ffw_gating": "gating_ffw",
            "ffw_gating_2": "gating_ffw_2",
        },
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        use_post_ffw_norm: bool,
        use_post_attention_norm: bool,
        logit_soft_cap: float | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pre_attention_norm = UnitRMSNormalization(hidden_dim)
        self.post_attention_norm = (
            UnitRMSNormalization(hidden_dim) if use_post_attention_norm else None
        )
        self.attention = CachedGemmaAttention(
            hidden_dim, num_query_heads, num_key_value_heads, head_dim, logit_soft_cap, dropout
        )
        self.attention_dropout = Dropout(dropout) if dropout > 0 else None
        # KerasHub makes this layer but never calls it.
        self.feedforward_dropout = Dropout(dropout) if dropout > 0 else None
        self.pre_ffw_norm = UnitRMSNormalization(hidden_dim)
        self.post_ffw_norm = UnitRMSNormalization(hidden_dim) if use_post_ffw_norm else None
        half = intermediate_dim // 2
        self.ffw_gating = EinsumDense("btd,df->btf", hidden_dim, half)
        self.ffw_gating_2 = EinsumDense("btd,df->btf", hidden_dim, half)
        self.ffw_linear = EinsumDense("btf,fd->btd", half, hidden_dim)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        tables: tuple[torch.Tensor, torch.Tensor],
        past: Past | None,
    ) -> torch.Tensor:
        residual = x
        x = self.attention(self.pre_attention_norm(x), mask, tables, past)
        if self.post_attention_norm is not None:
            x = self.post_attention_norm(x)
        if self.attention_dropout is not None:
            x = self.attention_dropout(x)
        x = residual = residual + x
        x = self.pre_ffw_norm(x)
        x = self.ffw_linear(gelu_approximate(self.ffw_gating(x)) * self.ffw_gating_2(x))
        if self.post_ffw_norm is not None:
            x = self.post_ffw_norm(x)
        return x + residual


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
        self.hidden_dim = hidden_dim
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
                    hidden_dim,
                    intermediate_dim,
                    head_dim,
                    num_query_heads,
                    num_key_value_heads,
                    use_post_ffw_norm,
                    use_post_attention_norm,
                    attention_logit_soft_cap,
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
        x = self.token_embedding(token_ids)
        # The factor is rounded to the dtype of the embeddings, as in the original weights' code.
        x = x * torch.tensor(self.hidden_dim**0.5, dtype=x.dtype, device=x.device)
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(self.head_dim, 1e4, x.device)
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        make_mask = step.full_mask if self.soft_capped else step.mask
        mask, local = make_mask(), make_mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, local if i % 2 == 0 else mask, tables, step.past(i))
        return self.final_normalization(x)
