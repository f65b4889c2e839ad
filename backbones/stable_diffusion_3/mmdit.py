"""MMDiT (arXiv:2403.03206): a diffusion transformer that reads latents and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .._backbone import Backbone
from .._inputs import Input
from ..layers.activations import Activation
from ..layers.attention import attend, merge_heads, split_qkv
from ..layers.convolution import Conv2D
from ..layers.core import Dense, RMSNormalization
from ..layers.diffusion import check_width, modulate, timestep_waves
from ..layers.dtypes import DTypeLike
from ..layers.initializers import glorot_uniform
from ..layers.layer import Layer
from ..layers.layout import GRAPH, Layout, Stack
from ..layers.vision import check_choice, embed_patches

EPSILON = 1e-6
WAVES = 256
# In the order of their graph.
EMBEDDINGS = (
    *("patch_embedding", "position_embedding", "timestep_embedding"),
    *("vector_embedding", "context_embedding"),
)

Latents = Annotated[
    torch.Tensor, Input("values", ("batch", "latent_height", "latent_width", "latent_channels"))
]
Context = Annotated[torch.Tensor, Input("values", ("batch", "context_length", "context_dim"))]
Pooled = Annotated[torch.Tensor, Input("values", ("batch", "pooled_dim"))]
Timesteps = Annotated[torch.Tensor, Input("values", ("batch", "one"))]
# Queries, keys and values, `[batch, heads, length, head_dim]`.
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# Shifts, scales and gates, `[batch, 1, hidden_dim]`.
Modulations = Sequence[torch.Tensor]


class MLP(Layer):
    def __init__(self, input_dim: int, inner_dim: int, output_dim: int, activation: str) -> None:
        super().__init__()
        self.dense1 = Dense(input_dim, inner_dim)
        self.activation = Activation(activation)
        self.dense2 = Dense(inner_dim, output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense2(self.activation(self.dense1(x)))


class PatchEmbedding(Layer):
    def __init__(self, channels: int, hidden_dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_embedding = Conv2D(channels, hidden_dim, patch_size, patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, patches, hidden_dim]`."""
        return embed_patches(x, self.patch_embedding, "channels_last", tuple(x.shape[1:3]))


class AdjustablePositionEmbedding(Layer):
    """Positions of a large square, of which images get the middle."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, side: int, hidden_dim: int) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.empty(side * side, hidden_dim))
        glorot_uniform(self.weight, side * side, hidden_dim)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """`[height · width, hidden_dim]`.

        Raises:
            ValueError: the square is smaller.
        """
        if height > self.side or width > self.side:
            raise ValueError(
                f"There are positions for {self.side} × {self.side} patches (position_size), not "
                f"for {height} × {width}."
            )
        top, left = (self.side - height) // 2, (self.side - width) // 2
        square = self.weight.unflatten(0, (self.side, self.side))
        middle = square[top : top + height, left : left + width].flatten(0, 1)
        return middle.to(self.compute_dtype or self.weight.dtype)


class TimestepEmbedding(Layer):
    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.mlp = MLP(WAVES, hidden_dim, hidden_dim, "silu")

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        """`[batch]` → `[batch, hidden_dim]`."""
        return self.mlp(timestep_waves(timesteps, WAVES))


class AdaptiveLayerNormalization(Layer):
    """A norm without weights, and what modulates it."""

    def __init__(self, hidden_dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.dense = Dense(hidden_dim, count * hidden_dim)
        self.norm = bare_norm(hidden_dim)

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, Modulations]:
        return self.norm(x), self.dense(F.silu(vector))[:, None].chunk(self.count, dim=-1)


class HeadNorm(RMSNormalization):
    """Of queries or keys, float32 whatever the model's dtype."""

    layout = Layout(class_name="RMSNormalization")
    fixed_dtype = "float32"


class LastContextBlock(Layer):
    """Of the last block the text's part: what follows it nobody reads."""

    layout = Layout(class_name="DismantledBlock")
    modulations = 2

    def __init__(self, num_heads: int, hidden_dim: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ada_layer_norm = AdaptiveLayerNormalization(hidden_dim, self.modulations)
        self.attention_qkv = Dense(hidden_dim, 3 * hidden_dim)
        self.q_norm, self.k_norm = head_norms(hidden_dim // num_heads, qk_norm)

    def before(self, x: torch.Tensor, vector: torch.Tensor) -> tuple[Heads, Modulations]:
        """What `x` gives to the attention, and what is wanted behind it."""
        normed, (shift, scale, *rest) = self.ada_layer_norm(x, vector)
        return self.heads(modulate(normed, shift, scale)), rest

    def heads(self, x: torch.Tensor) -> Heads:
        q, k, v = split_qkv(self.attention_qkv(x), self.num_heads)
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v

    def behind(
        self, x: torch.Tensor, attended: torch.Tensor, modulations: Modulations
    ) -> torch.Tensor:
        return x


class DismantledBlock(LastContextBlock):
    """The part of a block that image or text have for themselves."""

    modulations = 6

    def __init__(self, num_heads: int, hidden_dim: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__(num_heads, hidden_dim, mlp_ratio, qk_norm)
        self.attention_proj = Dense(hidden_dim, hidden_dim)
        self.norm2 = bare_norm(hidden_dim)
        self.mlp = MLP(hidden_dim, int(hidden_dim * mlp_ratio), hidden_dim, "gelu_approximate")

    def behind(
        self, x: torch.Tensor, attended: torch.Tensor, modulations: Modulations
    ) -> torch.Tensor:
        gate, *rest = modulations
        return self.feed_forward(x + gate * self.attention_proj(attended), *rest)

    def feed_forward(
        self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        return x + gate * self.mlp(modulate(self.norm2(x), shift, scale))


class DualAttentionBlock(DismantledBlock):
    """The image's part of a block where it attends to itself as well (MMDiT-X)."""

    modulations = 9

    def __init__(self, num_heads: int, hidden_dim: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__(num_heads, hidden_dim, mlp_ratio, qk_norm)
        self.attention_qkv2 = Dense(hidden_dim, 3 * hidden_dim)
        self.q_norm2, self.k_norm2 = head_norms(hidden_dim // num_heads, qk_norm)
        self.attention_proj2 = Dense(hidden_dim, hidden_dim)

    def before(self, x: torch.Tensor, vector: torch.Tensor) -> tuple[Heads, Modulations]:
        normed, modulations = self.ada_layer_norm(x, vector)
        shift, scale, *rest, shift2, scale2, gate2 = modulations
        q, k, v = split_qkv(self.attention_qkv2(modulate(normed, shift2, scale2)), self.num_heads)
        q, k = self.q_norm2(q).to(v.dtype), self.k_norm2(k).to(v.dtype)
        added = gate2 * self.attention_proj2(merge_heads(attend(q, k, v)))
        return self.heads(modulate(normed, shift, scale)), (*rest, added)

    def behind(
        self, x: torch.Tensor, attended: torch.Tensor, modulations: Modulations
    ) -> torch.Tensor:
        gate, *rest, added = modulations
        return self.feed_forward(x + gate * self.attention_proj(attended) + added, *rest)


class MMDiTBlock(Layer):
    """Image and text attend to both."""

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        mlp_ratio: float,
        qk_norm: bool,
        is_last: bool,
        is_dual: bool,
    ) -> None:
        super().__init__()
        sizes = (num_heads, hidden_dim, mlp_ratio, qk_norm)
        self.x_block = (DualAttentionBlock if is_dual else DismantledBlock)(*sizes)
        self.context_block = (LastContextBlock if is_last else DismantledBlock)(*sizes)

    def forward(
        self, x: torch.Tensor, context: torch.Tensor, vector: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads, modulations = self.x_block.before(x, vector)
        context_heads, context_modulations = self.context_block.before(context, vector)
        q, k, v = (torch.cat(both, dim=2) for both in zip(context_heads, heads))
        y = merge_heads(attend(q, k, v))
        context_y, y = y.tensor_split([context.shape[1]], dim=1)
        context = self.context_block.behind(context, context_y, context_modulations)
        return self.x_block.behind(x, y, modulations), context


def head_norms(dim: int, wanted: bool) -> tuple[nn.Module, nn.Module]:
    """Of queries and of keys."""
    if not wanted:
        return nn.Identity(), nn.Identity()
    return HeadNorm(dim, EPSILON), HeadNorm(dim, EPSILON)


def bare_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, EPSILON, elementwise_affine=False)


class MMDiT(Backbone):
    """Diffusion transformer whose blocks read latents and text.

    `latent` `[batch, height, width, channels]`, `context` `[batch, context_length, context_dim]`
    (the text), `pooled_projection` `[batch, pooled_dim]` and `timestep` `[batch, 1]` → the velocity
    of the latents, of their shape.

    Args:
        patch_size: side of a patch. What patches do not fill of the latents is left out.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        position_size: side of the square of positions, in patches.
        mlp_ratio: width inside the feed-forward networks as a multiple of `hidden_dim`.
        latent_shape: height, width and channels of the latents. Those of other heights and widths
            are taken, too, as far as positions reach. (KerasHub takes this one.)
        context_shape: length and width of the text; the length is free.
        pooled_projection_shape: its width alone.
        qk_norm: `rms_norm` to normalize queries and keys, or `None`.
        dual_attention_indices: the blocks whose image attends to itself as well; `None` for none.
        data_format: `channels_last`, as which `None` is read. As in KerasHub there is no other.
        dtype, trainable, name: as in `Model`. Norms of queries and keys are float32.

    Raises:
        ValueError: heads that do not divide `hidden_dim`, a `latent_shape` with an open size, an
            unknown `qk_norm`; inputs of other widths, latents beyond the positions.
        NotImplementedError: another data format.
    """

    keras_module = "keras_hub.src.models.stable_diffusion_3.mmdit"
    registered_name = "MMDiT"
    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    latent_shape: Sequence[int]
    patch_size: int

    def __init__(
        self,
        patch_size: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        position_size: int,
        mlp_ratio: float = 4.0,
        latent_shape: Sequence[int] = (64, 64, 16),
        context_shape: Sequence[int | None] = (None, 4096),
        pooled_projection_shape: Sequence[int] = (2048,),
        qk_norm: str | None = None,
        dual_attention_indices: Sequence[int] | None = None,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if data_format not in (None, "channels_last"):
            raise NotImplementedError(f"data_format={data_format!r} must be 'channels_last'.")
        if None in latent_shape or len(latent_shape) != 3:
            raise ValueError(
                f"latent_shape={tuple(latent_shape)} must be a height, a width and channels."
            )
        if num_heads < 1 or hidden_dim % num_heads:
            raise ValueError(f"hidden_dim={hidden_dim} is not divisible by num_heads={num_heads}.")
        check_choice((None, "rms_norm"), qk_norm=qk_norm)
        self.dual_attention_indices = dual_attention_indices or ()
        self.context_dim = int(context_shape[-1] or 0)
        self.pooled_dim = pooled_projection_shape[-1]
        channels = latent_shape[-1]
        self.patch_embedding = PatchEmbedding(channels, hidden_dim, patch_size)
        self.position_embedding = AdjustablePositionEmbedding(position_size, hidden_dim)
        self.context_embedding = Dense(self.context_dim, hidden_dim)
        self.vector_embedding = MLP(self.pooled_dim, hidden_dim, hidden_dim, "silu")
        self.timestep_embedding = TimestepEmbedding(hidden_dim)
        self.joint_blocks = Stack(
            "joint_block_{}",
            (
                MMDiTBlock(
                    num_heads,
                    hidden_dim,
                    mlp_ratio,
                    qk_norm is not None,
                    is_last=i == num_layers - 1,
                    is_dual=i in self.dual_attention_indices,
                )
                for i in range(num_layers)
            ),
        )
        self.output_ada_layer_norm = AdaptiveLayerNormalization(hidden_dim, 2)
        self.output_dense = Dense(hidden_dim, patch_size**2 * channels)

    @property
    def layout(self) -> Layout:
        blocks = self.joint_blocks.names()
        return replace(
            GRAPH,
            order=(*EMBEDDINGS, *blocks, "output_ada_layer_norm", "output_dense"),
            assigned=tuple(name for name, _ in self.named_children()),
        )

    def forward(
        self, latent: Latents, context: Context, pooled_projection: Pooled, timestep: Timesteps
    ) -> torch.Tensor:
        check_width("context", context, self.context_dim)
        check_width("pooled_projection", pooled_projection, self.pooled_dim)
        height, width = (side // self.patch_size for side in latent.shape[1:3])
        x = self.patch_embedding(latent) + self.position_embedding(height, width)
        context = self.context_embedding(context)
        vector = self.timestep_embedding(timestep[:, 0]) + self.vector_embedding(pooled_projection)
        for block in self.joint_blocks:
            x, context = block(x, context, vector)
        normed, (shift, scale) = self.output_ada_layer_norm(x, vector)
        x = self.output_dense(modulate(normed, shift, scale))
        # `[batch, rows, columns, patch, patch, channels]`
        x = x.unflatten(-1, (self.patch_size, self.patch_size, -1)).unflatten(1, (height, width))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
