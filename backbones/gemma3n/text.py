"""Gemma 3n's decoder.

AltUp (arXiv:2301.13310) keeps S streams of hidden states, of which a block computes one and
predicts the others; LAuReL (arXiv:2411.07501) is a residual connection of low rank; of the first
feed-forward networks few neurons are active (arXiv:2506.06644).

Shapes: B batch, T length, D `hidden_size`, P `hidden_size_per_layer_input`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.activations import Activation, ActivationLike
from ..layers.attention import attend_or_average, merge_heads, split_heads
from ..layers.cache import Past, Step
from ..layers.core import Dense, Embedding, ReversibleEmbedding
from ..layers.division import Division, Whole
from ..layers.layer import Layer
from ..layers.layout import Layout, Parts, Stack
from ..layers.masks import SLIDING, Mask
from ..layers.rotary import Tables, rotary_frequencies, rotary_tables, rotate
from .norms import Gemma3nRMSNorm, UnscaledRMSNorm

KeysValues: TypeAlias = tuple[torch.Tensor, torch.Tensor]
HALF = 2**-0.5


class Gemma3nTextScaledWordEmbedding(Layer):
    """An embedding times a factor, which maps hidden states back to logits without it."""

    division = Division(tables=("embedding",))

    def __init__(self, embedding: Embedding, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.embedding = embedding

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if reverse:
            return self.embedding(inputs, reverse=True)
        x = self.embedding(inputs)
        # The factor is rounded to the dtype of the embeddings, as Gemma's is.
        return x * torch.tensor(self.scale, dtype=x.dtype, device=x.device)


class TokenEmbedding(ReversibleEmbedding):
    layout = Layout(class_name="Embedding")


class Gemma3nTextAttention(Layer):
    """Grouped-query attention with rotary positions on normed queries and keys.

    Where keys and values are another layer's, this one's projections for them have no use.
    """

    division = Division(
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        shared=("q_norm", "k_norm"),
        heads=("num_heads", "num_key_value_heads"),
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        dropout: float,
        use_bias: bool,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.dropout = dropout
        self.q_proj = Dense(dim, num_heads * head_dim, use_bias)
        self.k_proj = Dense(dim, num_key_value_heads * head_dim, use_bias)
        self.v_proj = Dense(dim, num_key_value_heads * head_dim, use_bias)
        self.o_proj = Dense(num_heads * head_dim, dim, use_bias)
        self.q_norm = Gemma3nRMSNorm(head_dim, epsilon)
        self.k_norm = Gemma3nRMSNorm(head_dim, epsilon)
        self.v_norm = UnscaledRMSNorm(epsilon)

    def keys_values(self, x: torch.Tensor, tables: Tables, past: Past | None) -> KeysValues:
        k = rotate(self.k_norm(split_heads(self.k_proj(x), self.num_key_value_heads)), tables)
        v = self.v_norm(split_heads(self.v_proj(x), self.num_key_value_heads))
        return (k, v) if past is None else past.extend(k, v)

    def forward(
        self, x: torch.Tensor, keys_values: KeysValues, mask: Mask, tables: Tables
    ) -> torch.Tensor:
        q = rotate(self.q_norm(split_heads(self.q_proj(x), self.num_heads)), tables)
        dropout = self.dropout if self.training else 0.0
        x = attend_or_average(q, *keys_values, mask, scale=1.0, dropout=dropout)
        return self.o_proj(merge_heads(x))


class GaussianTopK(Layer):
    """What of normally distributed values is in the highest part, less the threshold."""

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self.deviations = NormalDist().inv_cdf(sparsity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deviation = x.std(-1, correction=0, keepdim=True)
        return F.relu(x - (x.mean(-1, keepdim=True) + deviation * self.deviations))


class Gemma3nTextMLP(Layer):
    division = Division(("gate_proj", "up_proj"), ("down_proj",), across=("sparse",))

    def __init__(
        self, dim: int, intermediate_dim: int, activation: ActivationLike, sparsity: float
    ) -> None:
        super().__init__()
        self.gate_proj = Dense(dim, intermediate_dim, use_bias=False)
        self.up_proj = Dense(dim, intermediate_dim, use_bias=False)
        self.down_proj = Dense(intermediate_dim, dim, use_bias=False)
        self.sparse = GaussianTopK(sparsity) if sparsity > 0 else nn.Identity()
        self.act = Activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.act(self.sparse(self.gate_proj(x).float()))
        return self.down_proj((gate * self.up_proj(x)).to(x.dtype))


class Gemma3nTextLaurelBlock(Layer):
    division = Whole()

    def __init__(self, dim: int, rank: int, epsilon: float) -> None:
        super().__init__()
        self.linear_left = Dense(dim, rank, use_bias=False)
        self.linear_right = Dense(rank, dim, use_bias=False)
        self.post_laurel_norm = Gemma3nRMSNorm(dim, epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.post_laurel_norm(self.linear_right(self.linear_left(x)))


class Gemma3nTextAltUp(Layer):
    """Predicts streams `[S, B, T, D]` from each other, and corrects them by what the block has
    made of the active one.
    """

    division = Whole()

    def __init__(
        self, dim: int, num_inputs: int, active: int, epsilon: float, correct_scale: bool
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.active = active
        self.correct_output_scale = nn.Parameter(torch.zeros(dim)) if correct_scale else None
        self.correction_coefs = Dense(num_inputs, num_inputs, use_bias=False)
        self.prediction_coefs = Dense(num_inputs, num_inputs**2, use_bias=False)
        self.modality_router = Dense(dim, num_inputs, use_bias=False)
        self.router_norm = Gemma3nRMSNorm(dim, epsilon)

    def modalities(self, x: torch.Tensor) -> torch.Tensor:
        routed = self.modality_router(self.router_norm(x) / x.shape[-1])
        return torch.tanh(routed.float()).to(x.dtype)

    def predict(self, streams: torch.Tensor) -> torch.Tensor:
        coefficients = self.prediction_coefs(self.modalities(streams[self.active]))
        coefficients = coefficients.unflatten(-1, (self.num_inputs, self.num_inputs))
        return streams + torch.einsum("sbtd,btps->pbtd", streams, coefficients)

    def correct(self, predictions: torch.Tensor, activated: torch.Tensor) -> torch.Tensor:
        coefficients = self.correction_coefs(self.modalities(activated)) + 1
        innovation = activated - predictions[self.active]
        return predictions + innovation * coefficients.permute(2, 0, 1)[..., None]

    def forward(self, streams: torch.Tensor) -> torch.Tensor:
        """The active stream, scaled, for what is added to the others."""
        x = streams[self.active]
        return x if self.correct_output_scale is None else x * self.correct_output_scale.to(x.dtype)


class Gemma3nTextDecoderBlock(Layer):
    division = Division(whole=("per_layer_input_gate", "per_layer_projection"))

    def __init__(
        self,
        attention: Gemma3nTextAttention,
        mlp: Gemma3nTextMLP,
        altup: Gemma3nTextAltUp,
        laurel: Gemma3nTextLaurelBlock,
        dim: int,
        per_layer_dim: int,
        activation: ActivationLike,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp
        self.input_layernorm = Gemma3nRMSNorm(dim, epsilon)
        self.post_attention_layernorm = Gemma3nRMSNorm(dim, epsilon)
        self.pre_feedforward_layernorm = Gemma3nRMSNorm(dim, epsilon)
        self.post_feedforward_layernorm = Gemma3nRMSNorm(dim, epsilon)
        self.altup = altup
        self.laurel = laurel
        self.per_layer_input_gate = Dense(dim, per_layer_dim, use_bias=False)
        self.per_layer_projection = Dense(per_layer_dim, dim, use_bias=False)
        self.post_per_layer_input_norm = Gemma3nRMSNorm(dim, epsilon)
        self.act = Activation(activation)

    def forward(
        self,
        streams: torch.Tensor,
        per_layer_input: torch.Tensor,
        mask: Mask,
        tables: Tables,
        past: Past | None,
        shared: KeysValues | None,
    ) -> tuple[torch.Tensor, KeysValues]:
        """`[S, B, T, D]` and `[B, T, P]` → `[S, B, T, D]`; keys and values are `shared` ones or
        its own.
        """
        predictions = self.altup.predict(streams)
        x = predictions[self.altup.active]
        y = self.input_layernorm(x)
        keys_values = shared or self.attention.keys_values(y, tables, past)
        attended = self.post_attention_layernorm(self.attention(y, keys_values, mask, tables))
        x = (x + attended + self.laurel(y)) * HALF
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        streams = self.altup.correct(predictions, x)
        gate = self.act(self.per_layer_input_gate(self.altup(streams)))
        x = self.post_per_layer_input_norm(self.per_layer_projection(gate * per_layer_input))
        return torch.cat((streams[:1], streams[1:] + x)), keys_values


class Gemma3nTextModel(Layer):
    """Embeddings of tokens and of tokens for each layer, and the blocks.

    Args:
        kinds: of the layers, `sliding_attention` or `full_attention`.
        own: how many layers have keys and values of their own.
        window: of those with sliding attention; `None` for none.
        wavelengths: of the rotary positions of each kind.
    """

    def __init__(
        self,
        blocks: Sequence[Gemma3nTextDecoderBlock],
        dim: int,
        per_layer_dim: int,
        head_dim: int,
        vocabulary_size: int,
        per_layer_vocabulary_size: int,
        num_streams: int,
        kinds: Sequence[str],
        own: int,
        window: int | None,
        wavelengths: dict[str, float],
        rope_scaling: float,
        logit_soft_cap: float | None,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.per_layer_shape = (len(blocks), per_layer_dim)
        self.head_dim = head_dim
        self.kinds = kinds
        self.own = own
        self.window = window
        self.wavelengths = wavelengths
        self.rope_scaling = rope_scaling
        width = len(blocks) * per_layer_dim

        def projections(name: str) -> Parts:
            projected = (Dense(dim, dim, use_bias=False) for _ in range(1, num_streams))
            return Parts(f"{name}_{{}}", projected, start=1)

        self.embed_tokens = Gemma3nTextScaledWordEmbedding(
            TokenEmbedding(vocabulary_size, dim, logit_soft_cap=logit_soft_cap), dim**0.5
        )
        self.embed_tokens_per_layer = Gemma3nTextScaledWordEmbedding(
            Embedding(per_layer_vocabulary_size, width), per_layer_dim**0.5
        )
        self.per_layer_model_projection = Dense(dim, width, use_bias=False)
        self.per_layer_projection_norm = Gemma3nRMSNorm(per_layer_dim, epsilon)
        self.altup_projections = projections("altup_projection")
        self.transformer_layers = Stack("decoder_block_{}", blocks)
        self.altup_unembed_projections = projections("altup_unembed_projection")
        self.final_normalization = Gemma3nRMSNorm(dim, epsilon)

    @property
    def layout(self) -> Layout:
        return Layout(
            names={"final_normalization": "norm"},
            order=("embed_tokens", *self.transformer_layers.names(), "norm"),
        )

    def per_layer_inputs(self, token_ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`[B, T]` and embeddings `[B, T, D]` → `[B, T, layers, P]`."""
        known = (token_ids >= 0) & (
            token_ids < self.embed_tokens_per_layer.embedding.num_embeddings
        )
        tokens = self.embed_tokens_per_layer(token_ids * known).unflatten(-1, self.per_layer_shape)
        projected = self.per_layer_model_projection(x) * x.shape[-1] ** -0.5
        projected = self.per_layer_projection_norm(projected.unflatten(-1, self.per_layer_shape))
        return (projected + tokens) * HALF

    def forward(self, x: torch.Tensor, per_layer_inputs: torch.Tensor, step: Step) -> torch.Tensor:
        masks = {kind: step.mask(self.window if kind == SLIDING else None) for kind in self.kinds}
        tables = {
            kind: rotary_tables(
                step.positions,
                rotary_frequencies(
                    self.head_dim, self.wavelengths[kind], x.device, self.rope_scaling
                ),
                x.dtype,
            )
            for kind in masks
        }
        streams = torch.stack([x, *(as_large(p(x), x) for p in self.altup_projections)])
        shared: dict[str, KeysValues] = {}
        for i, (layer, kind) in enumerate(zip(self.transformer_layers, self.kinds)):
            past, given = (step.past(i), None) if i < self.own else (None, shared[kind])
            streams, shared[kind] = layer(
                streams, per_layer_inputs[:, :, i], masks[kind], tables[kind], past, given
            )
        x = streams[0]
        others = zip(self.altup_unembed_projections, streams[1:])
        x = torch.stack([x, *(as_large(p(stream), x) for p, stream in others)]).mean(0)
        return self.final_normalization(x)


def as_large(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """With the root mean square of another one."""
    # Of a row of zeros the gradient is zero, too.
    wanted = torch.linalg.vector_norm(other.float(), dim=-1, keepdim=True) * x.shape[-1] ** -0.5
    given = x.float().square().mean(-1, keepdim=True).clamp(min=1e-5).sqrt()
    return (x * wanted / given).to(x.dtype)
