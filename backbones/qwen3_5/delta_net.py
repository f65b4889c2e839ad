"""Gated DeltaNet (Yang et al., 2024, arXiv:2412.06464).

Shapes: B batch, L length, H heads, K and V sizes of a key and of a value, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.cache import Step, static
from ..layers.core import Dense, RMSNormalization
from ..layers.dtypes import in_float32
from ..layers.initializers import Initializer, glorot_uniform, ones, zeros
from ..layers.layer import Layer
from ..layers.layout import Layout
from ..layers.recurrence import accumulate

CHUNK = 64


class DeltaState:
    """What a layer keeps of a sequence.

    Attributes:
        matrix: `[B, H, V, K]`, float32.
        tail: the last inputs of the convolution, `[B, C, taps - 1]`.
        position: of the last token that was no padding, `[B]`.
    """

    def __init__(self, matrix: torch.Tensor, tail: torch.Tensor, position: torch.Tensor) -> None:
        self.matrix = matrix
        self.tail = tail
        self.position = position

    def recall(self, step: Step, idle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrix and tail before a step.

        Padding between the last token and the step has no input, but decays the matrix, by the
        logarithm `idle` `[H]` for each position. Without a cache the convolution sees the last
        tokens from there, too, for `taps - 1` positions; that is left out here, where each step
        would take as many more.
        """
        if step.fresh:
            return torch.zeros_like(self.matrix), torch.zeros_like(self.tail)
        first = step.positions[:, 0]
        # A position that is still to come was left by an earlier sequence.
        known = ((self.position >= 0) & (self.position < first))[:, None, None]
        gap = first - 1 - self.position
        decay = (idle * gap[:, None]).exp()[..., None, None]
        matrix = torch.where(known[..., None], self.matrix * decay, 0)
        taps = self.tail.shape[-1]
        index = torch.arange(taps, device=gap.device) + gap.clamp(0, taps)[:, None]
        tail = F.pad(self.tail, (0, taps)).gather(2, index[:, None].expand_as(self.tail))
        return matrix, torch.where(known, tail, 0)

    def keep(
        self, step: Step, last: torch.Tensor, matrix: torch.Tensor, inputs: torch.Tensor
    ) -> None:
        """Matrix, and of the convolution's `inputs` `[B, C, taps - 1 + L]` those up to the token
        that is the step's `last` `[B, 1]`, -1 where there is none.
        """
        index = last + 1 + torch.arange(self.tail.shape[-1], device=last.device)
        tail = inputs.detach().gather(2, index[:, None].expand_as(self.tail))
        seen = last[:, 0] >= 0
        kept = seen[:, None, None]
        self.matrix.copy_(torch.where(kept[..., None], matrix.detach(), self.matrix))
        self.tail.copy_(torch.where(kept, tail, self.tail))
        before = torch.full_like(self.position, -1) if step.fresh else self.position
        self.position.copy_(torch.where(seen, step.positions[:, 0] + last[:, 0], before))


@dataclass(frozen=True)
class DeltaStateShape:
    """The memory of a layer; its size does not depend on the length."""

    num_heads: int
    key_dim: int
    value_dim: int
    channels: int
    taps: int

    def allocate(
        self, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> DeltaState:
        shape = (batch_size, self.num_heads, self.value_dim, self.key_dim)
        tail = torch.zeros((batch_size, self.channels, self.taps - 1), dtype=dtype, device=device)
        position = torch.full((batch_size,), -1, device=device)
        return DeltaState(static(torch.zeros(shape, device=device)), static(tail), static(position))


@in_float32
def delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`S_t = e^g_t S_{t-1} (1 - β_t k_t k_tᵀ) + β_t v_t k_tᵀ`, `o_t = S_t q_t`.

    Within a chunk what each token adds solves a triangular system, so that all chunks are computed
    at once but for their first states, which follow from each other by one product each.

    Args:
        q, k: `[B, L, H, K]`.
        v: `[B, L, H, V]`.
        g, beta: `[B, L, H]`, g not above 0.
        state: `[B, H, V, K]`. All are float32.

    Returns:
        The outputs `[B, L, H, V]` and the last state.
    """
    length = q.shape[1]
    if length == 1:
        state = state * g[:, 0, :, None, None].exp()
        missing = v[:, 0] - (state @ k[:, 0, :, :, None])[..., 0]
        state = state + (beta[:, 0, :, None] * missing)[..., None] * k[:, 0, :, None]
        return (state @ q[:, 0, :, :, None])[..., 0].unsqueeze(1), state
    # Compilers take sizes of 1 for special ones: with one chunk more there is none.
    count = (length + CHUNK - 1) // CHUNK + int(torch.compiler.is_compiling())

    def chunks(x: torch.Tensor) -> torch.Tensor:
        """`[B, H, chunks, CHUNK, …]`; the zeros at the end change no state."""
        x = F.pad(x.flatten(3), (0, 0, 0, 0, 0, count * CHUNK - length))
        return x.unflatten(1, (count, CHUNK)).permute(0, 3, 1, 2, 4)

    q, k, v = chunks(q), chunks(k), chunks(v)
    total, beta = chunks(g[..., None]).cumsum(-2), chunks(beta[..., None])
    # From each token to each later one; what would grow is cut off before it can overflow.
    decay = (total - total.mT).tril().exp().tril()
    grown = k * beta
    system = ((grown @ k.mT) * decay).tril(-1)
    solved = torch.linalg.solve_triangular(
        system, torch.cat((grown * total.exp(), v * beta), dim=-1), upper=False, unitriangular=True
    )
    of_state, of_values = solved.split([k.shape[-1], v.shape[-1]], dim=-1)
    end = total[..., -1:, :]
    kept = k * (end - total).exp()
    factors = torch.eye(k.shape[-1], device=k.device) * end.exp() - of_state.mT @ kept
    states = accumulate(state, factors, of_values.mT @ kept)
    before = states[:, :, :-1].mT
    added = of_values - of_state @ before
    out = (q * total.exp()) @ before + ((q @ k.mT) * decay) @ added
    return out.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length], states[:, :, -1]


class Qwen3_5RMSNormGated(RMSNormalization):
    """The RMS norm under its Keras name."""


class Qwen3_5GatedDeltaNet(Layer):
    """Attention's place is taken by a state that each token decays and corrects."""

    compute_dtype: torch.dtype | None = None
    layout = Layout(built_on_call=True)

    def __init__(
        self,
        hidden_dim: int,
        num_key_heads: int,
        num_value_heads: int,
        key_dim: int,
        value_dim: int,
        taps: int,
        epsilon: float,
        init: Initializer,
    ) -> None:
        super().__init__()
        self.num_key_heads = num_key_heads
        self.num_value_heads = num_value_heads
        keys, values = num_key_heads * key_dim, num_value_heads * value_dim
        self.parts = [keys, keys, values]
        self.conv1d_kernel = nn.Parameter(torch.empty(sum(self.parts), taps))
        glorot_uniform(self.conv1d_kernel, sum(self.parts), taps)
        self.dt_bias = nn.Parameter(torch.empty(num_value_heads))
        ones(self.dt_bias)
        self.A_log = nn.Parameter(torch.empty(num_value_heads))
        zeros(self.A_log)

        def project(outputs: int) -> Dense:
            return Dense(hidden_dim, outputs, use_bias=False, kernel_initializer=init)

        self.in_proj_qkv = project(sum(self.parts))
        self.in_proj_z = project(values)
        self.in_proj_b = project(num_value_heads)
        self.in_proj_a = project(num_value_heads)
        self.norm = Qwen3_5RMSNormGated(value_dim, epsilon)
        self.out_proj = Dense(values, hidden_dim, use_bias=False, kernel_initializer=init)

    def state_shape(self) -> DeltaStateShape:
        key_dim, value_dim = self.parts[0] // self.num_key_heads, self.norm.weight.shape[0]
        channels, taps = self.conv1d_kernel.shape
        return DeltaStateShape(self.num_value_heads, key_dim, value_dim, channels, taps)

    def forward(self, x: torch.Tensor, step: Step, memory: DeltaState | None) -> torch.Tensor:
        if step.padding_mask is not None:
            x = x * step.padding_mask[..., None]
        rate = -self.A_log.float().exp()
        g = rate * F.softplus(self.in_proj_a(x).float() + self.dt_bias.float())
        beta = self.in_proj_b(x).float().sigmoid()

        # The projection of padding is zero, as what comes before the start.
        inputs = self.in_proj_qkv(x).mT
        channels, taps = self.conv1d_kernel.shape
        if memory is None:
            state = x.new_zeros((x.shape[0], *self._matrix_shape), dtype=torch.float32)
            inputs = F.pad(inputs, (taps - 1, 0))
        else:
            state, tail = memory.recall(step, rate * F.softplus(self.dt_bias.float()))
            inputs = torch.cat((tail.to(inputs.dtype), inputs), dim=-1)
            last = torch.arange(step.length, device=x.device).expand(x.shape[:2])
            if step.padding_mask is not None:
                last = last.masked_fill(~step.padding_mask, -1)
            last = last.amax(1, keepdim=True)
            # Padding at the end leaves the state alone: other tokens may come in its place.
            live = (torch.arange(step.length, device=x.device) <= last)[..., None]
            g, beta = g * live, beta * live
        kernel = self.conv1d_kernel[:, None].to(inputs.dtype)
        mixed = F.silu(F.conv1d(inputs, kernel, groups=channels)).mT
        q, k, v = mixed.float().split(self.parts, dim=-1)
        groups = self.num_value_heads // self.num_key_heads
        q, k = (
            unit(part.unflatten(-1, (self.num_key_heads, -1))).repeat_interleave(groups, dim=2)
            for part in (q, k)
        )
        v = v.unflatten(-1, (self.num_value_heads, -1))
        out, state = delta_rule(q * q.shape[-1] ** -0.5, k, v, g, beta, state)
        if memory is not None:
            memory.keep(step, last, state, inputs)
        gate = F.silu(self.in_proj_z(x)).unflatten(-1, (self.num_value_heads, -1))
        return self.out_proj((self.norm(out.to(x.dtype)) * gate).flatten(-2))

    @property
    def _matrix_shape(self) -> tuple[int, int, int]:
        shape = self.state_shape()
        return shape.num_heads, shape.value_dim, shape.key_dim


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, but for those near zero."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
