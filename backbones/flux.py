"""FLUX.1 (Black Forest Labs, 2024): a transformer for rectified flows of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Input
from .layers.activations import Activation
from .layers.attention import attend, merge_heads, split_qkv
from .layers.core import Dense, LayerNormalization, RMSNormalization
from .layers.diffusion import check_width, modulate, timestep_waves
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import GRAPH, Graph, Kind, Layout, Sequential, Stack
from .layers.rotary import Tables, axis_pair_tables, rotate_pairs

EPSILON = 1e-6
WAVES = 256

ImageTokens = Annotated[torch.Tensor, Input("values", ("batch", "image_length", "image_channels"))]
ImagePlaces = Annotated[torch.Tensor, Input("values", ("batch", "image_length", "axes"))]
TextTokens = Annotated[torch.Tensor, Input("values", ("batch", "text_length", "text_channels"))]
TextPlaces = Annotated[torch.Tensor, Input("values", ("batch", "text_length", "axes"))]
Pooled = Annotated[torch.Tensor, Input("values", ("batch", "features"))]
Scalars = Annotated[torch.Tensor, Input("values", ("batch",))]
# Queries, keys and values, `[batch, heads, length, head_dim]`.
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class MLPEmbedder(Layer):
    layout = Layout(Kind.MODEL, unnamed=("input_layer", "output_layer"))

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input_layer = Dense(input_dim, hidden_dim)
        self.silu = nn.SiLU()
        self.output_layer = Dense(hidden_dim, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_layer(self.silu(self.input_layer(x)))


class QKNorm(Layer):
    layout = Layout(unnamed=("query_norm", "key_norm"))

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNormalization(dim, EPSILON)
        self.key_norm = RMSNormalization(dim, EPSILON)

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.query_norm(q), self.key_norm(k)


class SelfAttention(Layer):
    """What one stream asks and says; the block attends."""

    layout = Layout(Kind.MODEL, unnamed=("qkv", "norm", "proj"))

    def __init__(self, dim: int, num_heads: int, use_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Dense(dim, 3 * dim, use_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = Dense(dim, dim)

    def forward(self, x: torch.Tensor) -> Heads:
        q, k, v = split_qkv(self.qkv(x), self.num_heads)
        return *self.norm(q, k), v


class Modulation(Layer):
    """Shifts, scales and gates, `[batch, 1, dim]` each, `count` in all."""

    layout = Layout(Kind.MODEL, unnamed=("linear_projection",))

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.silu = nn.SiLU()
        self.linear_projection = Dense(dim, count * dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear_projection(self.silu(x))[:, None].chunk(self.count, dim=-1)


class DoubleStreamBlock(Layer):
    """Image and text, each with its own weights, attend to both."""

    layout = Layout(
        Kind.MODEL,
        unnamed=tuple(
            f"{stream}_{part}"
            for stream in ("image", "text")
            for part in ("mod", "norm1", "attn", "norm2", "mlp")
        ),
    )

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, use_bias: bool) -> None:
        super().__init__()
        self.image_mod = Modulation(dim, 6)
        self.image_norm1 = LayerNormalization(dim, EPSILON)
        self.image_attn = SelfAttention(dim, num_heads, use_bias)
        self.image_norm2 = LayerNormalization(dim, EPSILON)
        self.image_mlp = mlp(dim, mlp_dim)
        self.text_mod = Modulation(dim, 6)
        self.text_norm1 = LayerNormalization(dim, EPSILON)
        self.text_attn = SelfAttention(dim, num_heads, use_bias)
        self.text_norm2 = LayerNormalization(dim, EPSILON)
        self.text_mlp = mlp(dim, mlp_dim)

    def forward(
        self, image: torch.Tensor, text: torch.Tensor, modulation: torch.Tensor, tables: Tables
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.image_mod(modulation)
        image_heads = self.image_attn(modulate(self.image_norm1(image), shift1, scale1))
        text_shift1, text_scale1, text_gate1, *text_rest = self.text_mod(modulation)
        text_heads = self.text_attn(modulate(self.text_norm1(text), text_shift1, text_scale1))

        q, k, v = (torch.cat(pair, dim=2) for pair in zip(text_heads, image_heads))
        x = attend_rotated(q, k, v, tables)
        text_x, image_x = x.tensor_split([text.shape[1]], dim=1)

        image = image + gate1 * self.image_attn.proj(image_x)
        image = image + gate2 * self.image_mlp(modulate(self.image_norm2(image), shift2, scale2))

        text_shift2, text_scale2, text_gate2 = text_rest
        text = text + text_gate1 * self.text_attn.proj(text_x)
        y = modulate(self.text_norm2(text), text_shift2, text_scale2)
        return image, text + text_gate2 * self.text_mlp(y)


class SingleStreamBlock(Layer):
    """Attention and feed-forward network side by side (arXiv:2302.05442)."""

    layout = Layout(Kind.MODEL, unnamed=("linear1", "linear2", "norm", "pre_norm", "modulation"))

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.linear1 = Dense(dim, 3 * dim + mlp_dim)
        self.linear2 = Dense(dim + mlp_dim, dim)
        self.norm = QKNorm(dim // num_heads)
        self.pre_norm = LayerNormalization(dim, EPSILON)
        self.modulation = Modulation(dim, 3)
        self.activation = Activation("gelu_approximate")

    def forward(self, x: torch.Tensor, modulation: torch.Tensor, tables: Tables) -> torch.Tensor:
        shift, scale, gate = self.modulation(modulation)
        y = self.linear1(modulate(self.pre_norm(x), shift, scale))
        qkv, y = y.tensor_split([3 * self.dim], dim=-1)
        q, k, v = split_qkv(qkv, self.num_heads)
        q, k = self.norm(q, k)
        attended = attend_rotated(q, k, v, tables)
        return x + gate * self.linear2(torch.cat((attended, self.activation(y)), dim=-1))


class LastLayer(Layer):
    layout = Layout(Kind.MODEL, unnamed=("norm_final", "linear", "adaLN_modulation"))

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.norm_final = LayerNormalization(dim, EPSILON)
        self.linear = Dense(dim, channels)
        self.adaLN_modulation = Sequential(nn.SiLU(), Dense(dim, 2 * dim))

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        shift, scale = self.adaLN_modulation(modulation)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def mlp(dim: int, inner: int) -> Sequential:
    return Sequential(Dense(dim, inner), Activation("gelu"), Dense(inner, dim))


def attend_rotated(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tables: Tables
) -> torch.Tensor:
    """Attention between turned queries and keys, `[batch, length, heads · head_dim]`."""
    q, k = (rotate_pairs(x, tables).to(v.dtype) for x in (q, k))
    return merge_heads(attend(q, k, v))


class FluxBackbone(Backbone):
    """Diffusion transformer: blocks of two streams, image and text, then blocks of one.

    `image` `[batch, image_length, channels]` (patches of noisy latents), `text` `[batch,
    text_length, channels]`, the places of both, `image_ids` and `text_ids` `[batch, length, axes]`,
    `y` `[batch, features]` (the pooled text), `timesteps` and `guidance` `[batch]` → the velocity
    `[batch, image_length, input_channels]`.

    Args:
        input_channels: of the velocity.
        hidden_size: width of the hidden states.
        mlp_ratio: width inside the feed-forward networks as a multiple of `hidden_size`.
        num_heads: number of attention heads, a divisor of `hidden_size`.
        depth: number of blocks of two streams.
        depth_single_blocks: number of blocks of one stream.
        axes_dim: dimensions of a head that each axis of places turns, even numbers; those of the
            axes that there are make a head.
        theta: longest wavelength of places.
        use_bias: whether queries, keys and values of the two streams have a bias.
        guidance_embed: whether `guidance`, the scale that the model was distilled for, is used.
        image_shape, text_shape: shapes of the inputs without the batch. Of all five shapes the
            last size counts; lengths are free. (KerasHub needs them all.)
        image_ids_shape, text_ids_shape: of the places.
        y_shape: of the pooled text.
        dtype, trainable, name: as in `Model`. (In KerasHub the dtype does not reach the layers.)

    Raises:
        ValueError: heads that do not divide `hidden_size`; axes whose dimensions do not make a
            head; inputs of other widths; no `guidance` where it is used.
    """

    keras_module = "keras_hub.src.models.flux.flux_model"
    hidden_size: int
    num_heads: int
    axes_dim: Sequence[int]
    theta: float

    def __init__(
        self,
        input_channels: int,
        hidden_size: int,
        mlp_ratio: float,
        num_heads: int,
        depth: int,
        depth_single_blocks: int,
        axes_dim: Sequence[int],
        theta: float,
        use_bias: bool,
        guidance_embed: bool = False,
        image_shape: Sequence[int | None] = (None, 768, 3072),
        text_shape: Sequence[int | None] = (None, 768, 3072),
        image_ids_shape: Sequence[int | None] = (None, 768, 3072),
        text_ids_shape: Sequence[int | None] = (None, 768, 3072),
        y_shape: Sequence[int | None] = (None, 128),
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not divisible by num_heads={num_heads}."
            )
        if any(dim < 0 or dim % 2 for dim in axes_dim):
            raise ValueError(f"axes_dim={axes_dim} must be even numbers.")
        self.output_channels = input_channels
        shapes = {"image": image_shape, "text": text_shape, "y": y_shape}
        self.widths: Any = {name: shape[-1] for name, shape in shapes.items()}
        mlp_dim = int(hidden_size * mlp_ratio)
        self.image_input_embedder = Dense(self.widths["image"], hidden_size)
        self.time_input_embedder = MLPEmbedder(WAVES, hidden_size)
        self.vector_embedder = MLPEmbedder(self.widths["y"], hidden_size)
        self.guidance_input_embedder: nn.Module = nn.Identity()
        if guidance_embed:
            self.guidance_input_embedder = MLPEmbedder(WAVES, hidden_size)
        self.text_input_embedder = Dense(self.widths["text"], hidden_size)
        self.double_blocks = Stack(
            "double_block_{}",
            (DoubleStreamBlock(hidden_size, num_heads, mlp_dim, use_bias) for _ in range(depth)),
        )
        self.single_blocks = Stack(
            "single_block_{}",
            (
                SingleStreamBlock(hidden_size, num_heads, mlp_dim)
                for _ in range(depth_single_blocks)
            ),
            norm="",  # the one behind them takes the image alone
        )
        self.final_layer = LastLayer(hidden_size, input_channels)

    @property
    def layout(self) -> Layout:
        graph = Graph()
        modulation = graph("time_input_embedder", graph("waves", graph("timesteps")))
        if self.guidance_embed:
            guidance = graph("guidance_input_embedder", graph("waves", graph("guidance")))
            modulation = graph("add_guidance", modulation, guidance)
        modulation = graph("add_vector", modulation, graph("vector_embedder", graph("y")))
        image = graph("image_input_embedder", graph("image"))
        text = graph("text_input_embedder", graph("text"))
        ids = graph("concatenate_ids", graph("text_ids"), graph("image_ids"))
        tables = graph("positional_embedder", ids)
        for name in self.double_blocks.names():
            image = text = graph(name, image, modulation, tables, text)
        image = graph("concatenate", text, image)
        for name in self.single_blocks.names():
            image = graph(name, image, modulation, tables)
        output = graph("final_layer", graph("get_item", image), modulation)
        names = tuple(name for name, _ in self.named_children())
        unnamed = (*names, *self.double_blocks.names(), *self.single_blocks.names())
        return replace(GRAPH, order=graph.order(output), assigned=names, unnamed=unnamed)

    def forward(
        self,
        image: ImageTokens,
        image_ids: ImagePlaces,
        text: TextTokens,
        text_ids: TextPlaces,
        y: Pooled,
        timesteps: Scalars,
        guidance: Scalars | None = None,
    ) -> torch.Tensor:
        for name, tensor in (("image", image), ("text", text), ("y", y)):
            check_width(name, tensor, self.widths[name])
        modulation = self.time_input_embedder(timestep_waves(1000 * timesteps.float(), WAVES))
        if self.guidance_embed:
            if guidance is None:
                raise ValueError("This FluxBackbone has guidance_embed and needs guidance.")
            waves = timestep_waves(1000 * guidance.float(), WAVES)
            modulation = modulation + self.guidance_input_embedder(waves)
        modulation = modulation + self.vector_embedder(y)
        tables = self.turns(torch.cat((text_ids, image_ids), dim=1))

        image = self.image_input_embedder(image)
        text = self.text_input_embedder(text)
        for block in self.double_blocks:
            image, text = block(image, text, modulation, tables)
        x = torch.cat((text, image), dim=1)
        for block in self.single_blocks:
            x = block(x, modulation, tables)
        return self.final_layer(x[:, text.shape[1] :], modulation)

    def turns(self, ids: torch.Tensor) -> Tables:
        """Cosines and sines of places `[batch, length, axes]`."""
        dims = self.axes_dim[: ids.shape[-1]]
        head_dim = self.hidden_size // self.num_heads
        if len(dims) < ids.shape[-1] or sum(dims) != head_dim:
            raise ValueError(
                f"Places of {ids.shape[-1]} axes do not fit axes_dim={tuple(self.axes_dim)}, of "
                f"which they must make the {head_dim} dimensions of a head."
            )
        return axis_pair_tables(ids, dims, self.theta)
