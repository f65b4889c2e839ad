"""RWKV-7 "Goose" (arXiv:2503.14456).

Shapes: B batch, L length, H heads, N head size, C channels = H · N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.cache import Step, static
from .layers.convolution import GroupNormalization
from .layers.core import Dense, Dropout, Embedding, LayerNormalization
from .layers.delta_rule import delta_rule
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack

INIT = truncated_normal(0.02)


# Memory between calls


class LastToken:
    """The last token that was no padding, `[B, C]`, and its position `[B]`, -2 where none is."""

    def __init__(self, token: torch.Tensor, position: torch.Tensor) -> None:
        self.token = token
        self.position = position

    def shift(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """`x` `[B, L, C]` one position later, and keep its last token."""
        first = step.positions[:, 0]
        # A position that is still to come was left by an earlier sequence.
        known = torch.full_like(self.position, -2) if step.fresh else self.position
        known = known.masked_fill(known >= first, -2)
        before = self.token.to(x.dtype).masked_fill((known != first - 1)[:, None], 0)
        offsets = torch.arange(step.length, device=x.device).expand(x.shape[:2])
        if step.padding_mask is not None:
            offsets = offsets.masked_fill(~step.padding_mask, -1)
        last = offsets.amax(1)
        index = last.clamp(min=0)[:, None, None].expand(-1, 1, x.shape[-1])
        seen = last >= 0
        token = torch.where(seen[:, None], x.detach().gather(1, index)[:, 0], self.token)
        self.token.copy_(token)
        self.position.copy_(torch.where(seen, first + last, known))
        return torch.cat((before[:, None], x[:, :-1]), dim=1)


class LayerState:
    """What a layer keeps: its matrix `[B, H, N, N]`, float32, and the last tokens of both mixes."""

    def __init__(self, matrix: torch.Tensor, time: LastToken, channel: LastToken) -> None:
        self.matrix = matrix
        self.time = time
        self.channel = channel

    def recall(self, step: Step) -> torch.Tensor:
        """The matrix before a step; zeros where a sequence starts."""
        starts = torch.ones_like(step.positions[:, 0], dtype=torch.bool)
        starts = starts if step.fresh else step.positions[:, 0] == 0
        return self.matrix.masked_fill(starts[:, None, None, None], 0)


@dataclass(frozen=True)
class StateShape:
    """The memory of a layer; its size does not depend on the length."""

    num_heads: int
    head_size: int

    def allocate(
        self, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> LayerState:
        heads, size = self.num_heads, self.head_size

        def last() -> LastToken:
            token = torch.zeros((batch_size, heads * size), dtype=dtype, device=device)
            position = torch.full((batch_size,), -2, device=device)
            return LastToken(static(token), static(position))

        matrix = torch.zeros((batch_size, heads, size, size), device=device)
        return LayerState(static(matrix), last(), last())


# Layers


def time_shift(x: torch.Tensor, step: Step, last: LastToken | None) -> torch.Tensor:
    """`x` `[B, L, C]` one position later."""
    return F.pad(x, (0, 0, 1, 0))[:, :-1] if last is None else last.shift(x, step)


class TokenEmbedding(Embedding):
    """Its reverse changes nothing: the model has a head, and its outputs are logits already."""

    layout = Layout(class_name="Embedding")

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        return inputs if reverse else super().forward(inputs)


def drawn(*shape: int) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(shape))
    INIT(parameter, 1, 1)
    return parameter


class RWKV7TimeMix(Layer):
    """Attention's place is taken by a state that every token decays and corrects."""

    compute_dtype: torch.dtype | None = None
    layout = Layout(
        unnamed=("ln_x",),
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        gate_lora: int,
        mv_lora: int,
        aaa_lora: int,
        decay_lora: int,
        first: bool,
    ) -> None:
        super().__init__()
        self.num_heads = hidden_size // head_size
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g"):
            self.register_parameter(name, drawn(hidden_size))
        ranks = {"w": decay_lora, "a": aaa_lora} | ({} if first else {"v": mv_lora})
        for name, rank in ranks.items():
            self.register_parameter(f"{name}0", drawn(hidden_size))
            self.register_parameter(f"{name}1", drawn(hidden_size, rank))
            self.register_parameter(f"{name}2", drawn(rank, hidden_size))
        self.g1 = drawn(hidden_size, gate_lora)
        self.g2 = drawn(gate_lora, hidden_size)
        self.k_k = drawn(hidden_size)
        self.k_a = drawn(hidden_size)
        self.r_k = drawn(self.num_heads, head_size)
        self.receptance = Dense(hidden_size, hidden_size, False, INIT)
        self.key = Dense(hidden_size, hidden_size, False, INIT)
        self.value = Dense(hidden_size, hidden_size, False, INIT)
        self.output_layer = Dense(hidden_size, hidden_size, False, INIT)
        self.ln_x = GroupNormalization(self.num_heads, hidden_size, 64e-5)

    def forward(
        self, x: torch.Tensor, v_first: torch.Tensor | None, step: Step, state: LayerState | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The output and the first layer's values, `[B, L, C]` both."""
        mask = None if step.padding_mask is None else step.padding_mask[..., None]
        if mask is not None:
            x = x * mask
        delta = time_shift(x, step, None if state is None else state.time) - x
        if mask is not None:
            delta = delta * mask
        p = {name: value.to(x.dtype) for name, value in self.named_parameters(recurse=False)}
        xr, xw, xk, xv, xa, xg = (x + delta * p[f"x_{letter}"] for letter in "rwkvag")

        r = self.receptance(xr)
        k = self.key(xk)
        v = self.value(xv)
        w = p["w0"] + torch.tanh(xw @ p["w1"]) @ p["w2"]
        log_w = -(-F.softplus(-w.float()) - 0.5).exp()
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(p["v0"] + xv @ p["v1"] @ p["v2"])
        rate = torch.sigmoid(p["a0"] + xa @ p["a1"] @ p["a2"])
        g = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
        kk = unit(self.heads(k * p["k_k"]))
        k = k * (1 + (rate - 1) * p["k_a"])
        if mask is not None:  # padding, whose key is zero, leaves the state as it is
            log_w = log_w.masked_fill(~mask, 0)

        r, k, v = self.heads(r), self.heads(k), self.heads(v)
        matrix = None if state is None else state.recall(step)
        out, matrix = delta_rule(
            r.float(),
            self.heads(log_w),
            k.float(),
            v.float(),
            -kk,
            kk * self.heads(rate).float(),
            matrix,
        )
        if state is not None:
            state.matrix.copy_(matrix.detach())
        out = self.ln_x(out.to(x.dtype).flatten(0, 1).flatten(1)).unflatten(0, x.shape[:2])
        out = out + ((r * k * p["r_k"]).sum(-1, keepdim=True) * v).flatten(2)
        return self.output_layer(out * g), v_first

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, L, C]` → `[B, L, H, N]`."""
        return x.unflatten(-1, (self.num_heads, -1))


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, in float32."""
    x = x.float()
    return x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt()


class RWKV7ChannelMix(Layer):
    compute_dtype: torch.dtype | None = None
    layout = Layout(
        attributes={"dense_k": "key", "dense_v": "value"},
        built_on_call=True,
    )

    def __init__(self, hidden_size: int, intermediate_dim: int) -> None:
        super().__init__()
        self.x_k = drawn(hidden_size)
        self.dense_k = Dense(hidden_size, intermediate_dim, False, INIT)
        self.dense_v = Dense(intermediate_dim, hidden_size, False, INIT)

    def forward(self, x: torch.Tensor, step: Step, state: LayerState | None) -> torch.Tensor:
        if step.padding_mask is not None:
            x = x * step.padding_mask[..., None]
        delta = time_shift(x, step, None if state is None else state.channel) - x
        k = self.dense_k(x + delta * self.x_k.to(x.dtype))
        return self.dense_v(F.relu(k).square())


class RWKV7Block(Layer):
    layout = Layout(
        class_name="RWKV7_Block",
        attributes={
            "init_norm": "ln0",
            "att_norm": "ln1",
            "ffn_norm": "ln2",
            "RWKV_TIME_MIX": "att",
            "RWKV_CMIX": "ffn",
        },
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        intermediate_dim: int,
        gate_lora: int,
        mv_lora: int,
        aaa_lora: int,
        decay_lora: int,
        first: bool,
    ) -> None:
        super().__init__()
        if first:
            self.init_norm = LayerNormalization(hidden_size, 1e-5)
        self.att_norm = LayerNormalization(hidden_size, 1e-5)
        self.ffn_norm = LayerNormalization(hidden_size, 1e-5)
        self.RWKV_TIME_MIX = RWKV7TimeMix(
            hidden_size, head_size, gate_lora, mv_lora, aaa_lora, decay_lora, first
        )
        self.RWKV_CMIX = RWKV7ChannelMix(hidden_size, intermediate_dim)

    def forward(
        self, x: torch.Tensor, v_first: torch.Tensor | None, step: Step, state: LayerState | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if v_first is None:
            x = self.init_norm(x)
        mixed, v_first = self.RWKV_TIME_MIX(self.att_norm(x), v_first, step, state)
        x = x + mixed
        return x + self.RWKV_CMIX(self.ffn_norm(x), step, state), v_first


class RWKV7Backbone(Backbone):
    """A recurrent model: what it remembers of the tokens before has one size at any length.

    Its cache holds that memory; positions must be given in their order, or from 0 again.

    `token_ids` and `padding_mask` `[batch, length]` → logits `[batch, length, vocabulary_size]`.

    Args:
        hidden_size: width of the hidden states.
        head_size: dimensions of a head; they divide `hidden_size`.
        num_layers: number of blocks.
        vocabulary_size: number of token ids.
        intermediate_dim: width inside the feed-forward networks.
        gate_lora: inner dimension of the low-rank map that gives the gates.
        mv_lora: of the one that mixes in the first block's values.
        aaa_lora: of the one that gives the rates at which the state is corrected.
        decay_lora: of the one that gives the decays.
        dropout_rate: rate on the output of each block.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `hidden_size` is no multiple of `head_size`.
    """

    layout = Layout(Kind.GRAPH, assigned=("token_embedding", "output_norm", "rwkv_layers", "head"))

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        num_layers: int,
        vocabulary_size: int,
        intermediate_dim: int,
        gate_lora: int = 128,
        mv_lora: int = 32,
        aaa_lora: int = 64,
        decay_lora: int = 64,
        dtype: DTypeLike = None,
        dropout_rate: float = 0,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_size % head_size:
            raise ValueError(f"hidden_size={hidden_size} is no multiple of head_size={head_size}.")
        self.cache_shapes = [StateShape(hidden_size // head_size, head_size)] * num_layers
        self.token_embedding = TokenEmbedding(vocabulary_size, hidden_size, INIT)
        self.rwkv_layers = Stack(
            "rwkv_layer_{}",
            (
                RWKV7Block(
                    hidden_size,
                    head_size,
                    intermediate_dim,
                    gate_lora,
                    mv_lora,
                    aaa_lora,
                    decay_lora,
                    first=i == 0,
                )
                for i in range(num_layers)
            ),
        )
        self.dropout = Dropout(dropout_rate)
        self.output_norm = LayerNormalization(hidden_size, 1e-5)
        self.head = Dense(hidden_size, vocabulary_size, False, INIT)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        v_first = None
        for i, layer in enumerate(self.rwkv_layers):
            x, v_first = layer(x, v_first, step, None if cache is None else cache.layers[i])
            x = self.dropout(x)
        return self.head(self.output_norm(x))
