"""The block of Gemma 3's text model."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from ..layers.activations import gelu_approximate
from ..layers.attention import attend, attend_soft_capped, merge_heads, split_heads
from ..layers.cache import Past
from ..layers.core import Dropout, EinsumDense, UnitRMSNormalization
from ..layers.layout import Layout
from ..layers.rotary import Tables, rotate


class CachedGemma3Attention(nn.Module):
    """Grouped-query attention with rotary positions and normed queries and keys."""

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
        use_query_key_norm: bool,
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
        self.query_norm = UnitRMSNormalization(head_dim) if use_query_key_norm else None
        self.key_norm = UnitRMSNormalization(head_dim) if use_query_key_norm else None
        self.attention_output = EinsumDense(
            "btnh,nhd->btd", (num_query_heads, head_dim), hidden_dim
        )

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        tables: Tables,
        past: Past | None,
        is_causal: bool,
    ) -> torch.Tensor:
        q = split_heads(self.query(x), self.num_query_heads)
        k = split_heads(self.key(x), self.num_key_value_heads)
        v = split_heads(self.value(x), self.num_key_value_heads)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = rotate(q, tables), rotate(k, tables)
        if past is not None:
            k, v = past.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        causal = {"is_causal": True} if is_causal and mask is None else {}
        x = self.attend(q, k, v, mask, scale=self.scale, dropout=dropout, **causal)
        return self.attention_output(merge_heads(x))


class Gemma3DecoderBlock(nn.Module):
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
        use_query_key_norm: bool,
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
        self.attention = CachedGemma3Attention(
            hidden_dim,
            num_query_heads,
            num_key_value_heads,
            head_dim,
            use_query_key_norm,
            logit_soft_cap,
            dropout,
        )
        self.attention_dropout = Dropout(dropout) if dropout > 0 else None
        # KerasHub makes this layer but never calls it.
        self.feedforward_dropout = Dropout(dropout) if dropout > 0 else None
        self.pre_ffw_norm = UnitRMSNormalization(hidden_dim)
        self.post_ffw_norm = UnitRMSNormalization(hidden_dim) if use_post_ffw_norm else None
        self.ffw_gating = EinsumDense("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_gating_2 = EinsumDense("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_linear = EinsumDense("btf,fd->btd", intermediate_dim, hidden_dim)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        tables: Tables,
        past: Past | None,
        is_causal: bool,
    ) -> torch.Tensor:
        residual = within_range(x)
        x = self.attention(self.pre_attention_norm(residual), mask, tables, past, is_causal)
        if self.post_attention_norm is not None:
            x = self.post_attention_norm(x)
        if self.attention_dropout is not None:
            x = self.attention_dropout(x)
        x = residual = within_range(residual + x)
        x = self.pre_ffw_norm(x)
        x = self.ffw_linear(gelu_approximate(self.ffw_gating(x)) * self.ffw_gating_2(x))
        if self.post_ffw_norm is not None:
            x = self.post_ffw_norm(x)
        return within_range(x + residual)


def within_range(x: torch.Tensor) -> torch.Tensor:
    """What overflows float16, as the sums of Gemma 3 do, stays at its limit."""
    return x.clamp(-65504, 65504) if x.dtype == torch.float16 else x
