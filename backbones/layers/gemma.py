"""The decoder block of Gemma (arXiv:2403.08295) and of the families that follow it.

`tables` are the cosines and sines of rotary positions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from .activations import gelu_approximate
from .attention import ATTENTION, DIVISION, attend, attend_soft_capped, merge_heads, split_heads
from .cache import Past
from .core import Dropout, EinsumDense, UnitRMSNormalization
from .division import Division
from .dtypes import for_projections
from .layer import Layer
from .layout import Layout
from .masks import Mask
from .rotary import Tables, rotate


def times(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The factor is rounded to the dtype of `x`, as in the original weights' code."""
    return x * torch.tensor(factor, dtype=x.dtype, device=x.device)


def scale_embeddings(x: torch.Tensor) -> torch.Tensor:
    """`[..., dim]`, times the root of `dim`."""
    return times(x, x.shape[-1] ** 0.5)


def rms_normed(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """`x / rms(x)` over the last axis, computed in float32."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=epsilon).to(x.dtype)


def within_range(x: torch.Tensor) -> torch.Tensor:
    """What has overflowed float16 is its largest number."""
    return x.clamp(-65504, 65504) if x.dtype == torch.float16 else x


def mean_of_tokens(x: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor:
    """`[batch, length, dim]` → `[batch, dim]`."""
    if padding_mask is None:
        return x.mean(1)
    weights = padding_mask.float()
    total = torch.einsum("btd,bt->bd", x.float(), weights)
    return (total / weights.sum(1, keepdim=True).clamp(min=1e-9)).to(x.dtype)


class CachedGemmaAttention(Layer):
    """Grouped-query attention with rotary positions.

    Args:
        logit_soft_cap: of the scores; the mask must then be a tensor.
        query_norm, key_norm: of each head's queries and keys, if there are any.
    """

    layout = ATTENTION
    division = replace(
        DIVISION,
        shared=("query_norm", "key_norm"),
        heads=("num_query_heads", "num_key_value_heads"),
    )

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        logit_soft_cap: float | None,
        dropout: float,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
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
        query, key_value = (num_query_heads, head_dim), (num_key_value_heads, head_dim)
        self.query = EinsumDense("btd,ndh->btnh", hidden_dim, query)
        self.key = EinsumDense("bsd,kdh->bskh", hidden_dim, key_value)
        self.value = EinsumDense("bsd,kdh->bskh", hidden_dim, key_value)
        self.query_norm = query_norm or nn.Identity()
        self.key_norm = key_norm or nn.Identity()
        self.attention_output = EinsumDense("btnh,nhd->btd", query, hidden_dim)

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        x = for_projections(x)
        q = self.query_norm(split_heads(self.query(x), self.num_query_heads))
        k = self.key_norm(split_heads(self.key(x), self.num_key_value_heads))
        v = split_heads(self.value(x), self.num_key_value_heads)
        q, k = rotate(q, tables), rotate(k, tables)
        if past is not None:
            k, v = past.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        x = self.attend(q, k, v, mask, scale=self.scale, dropout=dropout)
        return self.attention_output(merge_heads(x))


class GemmaDecoderBlock(Layer):
    """Attention and a gated feed-forward network, with norms before and perhaps after each."""

    layout = Layout(attributes={"ffw_gating": "gating_ffw", "ffw_gating_2": "gating_ffw_2"})
    division = Division(("ffw_gating", "ffw_gating_2"), ("ffw_linear",))

    def __init__(
        self,
        attention: CachedGemmaAttention,
        hidden_dim: int,
        intermediate_dim: int,
        use_post_ffw_norm: bool,
        use_post_attention_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()

        def norm(used: bool = True) -> nn.Module:
            return UnitRMSNormalization(hidden_dim) if used else nn.Identity()

        self.pre_attention_norm = norm()
        self.post_attention_norm = norm(use_post_attention_norm)
        self.attention = attention
        self.attention_dropout = Dropout(dropout)
        self.pre_ffw_norm = norm()
        self.post_ffw_norm = norm(use_post_ffw_norm)
        self.ffw_gating = EinsumDense("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_gating_2 = EinsumDense("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_linear = EinsumDense("btf,fd->btd", intermediate_dim, hidden_dim)

    def attend(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        x = self.attention(self.pre_attention_norm(x), mask, tables, past)
        return self.attention_dropout(self.post_attention_norm(x))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        x = for_projections(self.pre_ffw_norm(x))
        x = self.ffw_linear(gelu_approximate(self.ffw_gating(x)) * self.ffw_gating_2(x))
        return self.post_ffw_norm(x)

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        x = x + self.attend(x, mask, tables, past)
        return x + self.feed_forward(x)
