"""Attention. For masks see `masks`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from .cache import Crossing, Past
from .core import EinsumDense
from .division import Division
from .dtypes import for_projections
from .initializers import Initializer, glorot_uniform, zeros
from .layer import Layer
from .layout import Layout
from .masks import Causal, Mask, hiding_bias

# How most attentions of KerasHub hold their projections, some of them in private attributes.
ATTENTION = Layout(
    attributes={
        "query": "query_dense",
        "key": "key_dense",
        "value": "value_dense",
        "attention_output": "output_dense",
    },
    built_on_call=True,
)
PRIVATE_ATTENTION = replace(
    ATTENTION, attributes={name: f"_{held}" for name, held in ATTENTION.attributes.items()}
)

# What processes have of it: heads.
DIVISION = Division(("query", "key", "value"), ("attention_output",))


def split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """`[batch, length, heads · dim]` → `[batch, heads, length, dim]`."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def split_qkv(x: torch.Tensor, num_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`[batch, length, 3 · heads · dim]` → queries, keys, values `[batch, heads, length, dim]`."""
    q, k, v = x.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """`[batch, heads, length, dim]` → `[batch, length, heads · dim]`."""
    return x.transpose(1, 2).flatten(-2)


def repeat_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Keys or values `[batch, heads, length, dim]`, each head repeated for its queries' heads."""
    groups = num_heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Mask = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention over `[batch, heads, length, dim]`; keys and values may have fewer heads.

    A query that sees no key gets zeros. A floating `mask` is added to the scores.

    Raises:
        ValueError: the heads of keys and values do not divide those of queries.
    """
    groups = query.shape[1] // key.shape[1]
    if groups * key.shape[1] != query.shape[1]:
        raise ValueError(
            f"{query.shape[1]} heads of queries cannot share {key.shape[1]} of keys and values."
        )
    if (
        groups > 1
        and query.shape[2] == 1
        and not isinstance(mask, Causal)
        and (mask is None or mask.shape[1] == 1)
    ):
        # One token at a time: the queries of a group stand where positions would, and nothing
        # repeats the keys and values.
        grouped = query.reshape(key.shape[0], key.shape[1], groups, query.shape[-1])
        x = attend(grouped, key, value, mask, scale=scale, dropout=dropout)
        return x.reshape(query.shape[0], query.shape[1], 1, value.shape[-1])
    if groups > 1 and isinstance(mask, torch.Tensor) and query.is_cuda:
        # Of the kernels there only the one that writes all scores out takes groups and a mask.
        key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
        groups = 1
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if isinstance(mask, Causal) else mask,
        dropout_p=dropout,
        is_causal=isinstance(mask, Causal),
        scale=scale,
        enable_gqa=True if groups > 1 else False,  # noqa: SIM210 (a bool in torch 2.6, too)
    )


def attend_biased(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As `attend`, with a float32 `bias` added to the scores, very negative where keys are hidden.

    A query that sees no key looks at all of them evenly.
    """
    if torch.is_grad_enabled() or query.dtype == torch.float16:
        # The backward pass of the fused kernels, and float16, lose the rest beside such a bias.
        key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
        weights = ((query @ key.mT).float() * scale + bias).softmax(-1)
        return F.dropout(weights.to(value.dtype), dropout) @ value
    return attend(query, key, value, bias.to(query.dtype), scale=scale, dropout=dropout)


def attend_biased_soft_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
    soft_cap: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As `attend_biased`, the scores squeezed into ±`soft_cap` by a tanh before the bias."""
    key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
    scores = torch.tanh((query * scale) @ key.mT / soft_cap) * soft_cap
    weights = (scores.float() + bias).softmax(-1).to(value.dtype)
    return F.dropout(weights, dropout) @ value


def attend_evenly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """As `attend`, but a query that sees no key looks at all of them evenly."""
    if query.dtype == torch.float16:  # too narrow for a bias beside which all scores vanish
        return attend_biased(query, key, value, hiding_bias(mask), query.shape[-1] ** -0.5)
    # Kernels on CUDA multiply it with log2(e), and must not reach infinity.
    hidden = torch.finfo(query.dtype).min * 0.5
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, hidden)
    return attend(query, key, value, bias)


def attend_or_average(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Mask,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As `attend`, but a query that sees no key gets the mean of all values."""
    x = attend(query, key, value, mask, scale, dropout)
    if not isinstance(mask, torch.Tensor):
        return x
    mean = repeat_heads(value.mean(2, keepdim=True), query.shape[1])
    return torch.where(mask.any(-1, keepdim=True), x, mean)


def attend_soft_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    soft_cap: float,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """As `attend`, the scores squeezed into ±`soft_cap` by a tanh."""
    heads, length = query.shape[1:3]
    # The queries of a group one after the other: `[batch, key heads, group · length, dim]`.
    rows = heads // key.shape[1] * length
    query = query.reshape(query.shape[0], key.shape[1], rows, query.shape[-1])
    scores = torch.tanh((query * scale) @ key.mT / soft_cap) * soft_cap
    scores = scores.float().unflatten(2, (-1, length))
    mask = mask[:, :, None]
    scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
    weights = scores.softmax(-1).masked_fill(~mask, 0).to(value.dtype).flatten(2, 3)
    return (F.dropout(weights, dropout) @ value).reshape(
        query.shape[0], heads, length, value.shape[-1]
    )


class MultiHeadAttention(Layer):
    """Keras's `MultiHeadAttention`.

    Where its configured dropout is zero, a query that sees no key gets the mean of all values,
    otherwise zeros: Keras takes different paths.

    Args:
        context_dim: width of what keys and values are made of; by default that of the queries.
    """

    layout = ATTENTION
    division = replace(DIVISION, heads=("num_heads",))

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        key_dim: int,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
        bias_initializer: Initializer = zeros,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        context_dim = context_dim or hidden_dim

        def project(equation: str, inputs: object, outputs: object) -> EinsumDense:
            return EinsumDense(
                equation,
                inputs,  # type: ignore[arg-type]
                outputs,  # type: ignore[arg-type]
                use_bias=use_bias,
                kernel_initializer=kernel_initializer,
                bias_initializer=bias_initializer,
            )

        heads = (num_heads, key_dim)
        self.query = project("abc,cde->abde", hidden_dim, heads)
        self.key = project("abc,cde->abde", context_dim, heads)
        self.value = project("abc,cde->abde", context_dim, heads)
        self.attention_output = project("abcd,cde->abe", heads, hidden_dim)

    def keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = for_projections(x)
        key = split_heads(self.key(x), self.num_heads)
        return key, split_heads(self.value(x), self.num_heads)

    def forward(
        self,
        query: torch.Tensor,
        value: torch.Tensor,
        mask: Mask = None,
        past: Past | Crossing | None = None,
    ) -> torch.Tensor:
        """Queries from `query` `[batch, length, dim]`, keys and values from `value` and before."""
        if query is value:
            query = value = for_projections(query)
        q = split_heads(self.query(query), self.num_heads)
        project = self.keys_values
        k, v = project(value) if past is None else past.keys_values(value, project)
        if isinstance(mask, torch.Tensor) and self.dropout == 0:
            x = attend_evenly(q, k, v, mask)
        else:
            dropout = self.dropout if self.training else 0.0
            x = attend(q, k, v, mask, dropout=dropout)
        return self.attention_output(merge_heads(x))


class CachedMultiHeadAttention(MultiHeadAttention):
    """KerasHub's `MultiHeadAttention` of decoders."""
