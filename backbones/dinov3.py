"""DINOv3 (arXiv:2508.10104)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn

from ._backbone import FeaturePyramidBackbone
from ._configuration import snake_case
from ._inputs import Images
from .layers.activations import Activation, ActivationLike
from .layers.attention import attend, merge_heads, split_heads
from .layers.convolution import Conv2D, channels_first, check_data_format
from .layers.core import Dense, Dropout, LayerNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike, for_projections
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack
from .layers.pyramid import Level
from .layers.rotary import Tables, plane_tables, rotary_frequencies, rotate
from .layers.transformer import head_dim
from .layers.vision import DropPath, LayerScale, check_at_least, check_images, image_channels

initializer = truncated_normal(0.02)


class DINOV3PatchEmbedding(Layer):
    def __init__(self, channels: int, hidden_dim: int, patch_size: int) -> None:
        super().__init__()
        self.projection = Conv2D(
            channels, hidden_dim, patch_size, patch_size, kernel_initializer=initializer
        )


class DINOV3Embedding(Layer):
    """Class token, registers and patches, without positions."""

    compute_dtype: torch.dtype | None = None

    def __init__(
        self,
        hidden_dim: int,
        patch_size: int,
        channels: int,
        num_register_tokens: int,
        use_mask_token: bool,
        data_format: str,
    ) -> None:
        super().__init__()
        self.data_format = data_format
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_dim))
        initializer(self.cls_token, 1, 1)
        if use_mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        self.register_tokens: nn.Parameter | None = None
        if num_register_tokens > 0:
            self.register_tokens = nn.Parameter(torch.empty(1, num_register_tokens, hidden_dim))
            initializer(self.register_tokens, 1, 1)
        self.patch_embeddings = DINOV3PatchEmbedding(channels, hidden_dim, patch_size)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """The sequence, and how many patches there are in height and width."""
        conv = self.patch_embeddings.projection
        side = conv.kernel_size[0]
        check_images(images, self.data_format, conv.in_channels, at_least=side)
        patches = conv(channels_first(images, self.data_format))
        height, width = patches.shape[2:]
        parts = [self.cls_token, patches.flatten(2).mT]
        if self.register_tokens is not None:
            parts.insert(1, self.register_tokens)
        batch = patches.shape[0]
        x = torch.cat([part.to(patches.dtype).expand(batch, -1, -1) for part in parts], dim=1)
        return x, height, width


class DINOV3Attention(Layer):
    layout = Layout(
        attributes={
            "q_proj": "query_dense",
            "k_proj": "key_dense",
            "v_proj": "value_dense",
            "o_proj": "output_dense",
        }
    )
    division = Division(("q_proj", "k_proj", "v_proj"), ("o_proj",), heads=("num_heads",))

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        dropout_rate: float,
        use_query_bias: bool,
        use_key_bias: bool,
        use_value_bias: bool,
        use_proj_bias: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Dense(hidden_dim, hidden_dim, use_query_bias)
        self.k_proj = Dense(hidden_dim, hidden_dim, use_key_bias)
        self.v_proj = Dense(hidden_dim, hidden_dim, use_value_bias)
        self.o_proj = Dense(hidden_dim, hidden_dim, use_proj_bias)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        x = for_projections(x)
        query = turn_patches(split_heads(self.q_proj(x), self.num_heads), tables)
        key = turn_patches(split_heads(self.k_proj(x), self.num_heads), tables)
        value = split_heads(self.v_proj(x), self.num_heads)
        x = merge_heads(attend(query, key, value))
        return self.o_proj(self.dropout(x))


def turn_patches(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """`[batch, heads, positions, dim]`, of which only the last ones, the patches, have a place."""
    tokens = x.shape[2] - tables[0].shape[0]
    return torch.cat((x[:, :, :tokens], rotate(x[:, :, tokens:], tables)), dim=2)


class DINOV3MLP(Layer):
    division = Division(("up_proj",), ("down_proj",))

    def __init__(
        self, hidden_dim: int, intermediate_dim: int, activation: ActivationLike, use_bias: bool
    ) -> None:
        super().__init__()
        self.up_proj = Dense(hidden_dim, intermediate_dim, use_bias)
        self.down_proj = Dense(intermediate_dim, hidden_dim, use_bias)
        self.activation = Activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.activation(self.up_proj(x)))


class DINOV3GatedMLP(Layer):
    division = Division(("gate_proj", "up_proj"), ("down_proj",))

    def __init__(
        self, hidden_dim: int, intermediate_dim: int, activation: ActivationLike, use_bias: bool
    ) -> None:
        super().__init__()
        self.gate_proj = Dense(hidden_dim, intermediate_dim, use_bias)
        self.up_proj = Dense(hidden_dim, intermediate_dim, use_bias)
        self.down_proj = Dense(intermediate_dim, hidden_dim, use_bias)
        self.activation = Activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class DINOV3Layer(Layer):
    """A block; attention and feed-forward network are given."""

    def __init__(
        self,
        hidden_dim: int,
        attention: DINOV3Attention,
        mlp: DINOV3MLP | DINOV3GatedMLP,
        layer_scale_init_value: float,
        drop_path_rate: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNormalization(hidden_dim, layer_norm_eps)
        self.attention = attention
        self.layer_scale1 = LayerScale(hidden_dim, layer_scale_init_value)
        # KerasHub's own never drops a sample: it forgets to round.
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = LayerNormalization(hidden_dim, layer_norm_eps)
        self.mlp = mlp
        self.layer_scale2 = LayerScale(hidden_dim, layer_scale_init_value)

    def forward(self, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        x = x + self.drop_path(self.layer_scale1(self.attention(self.norm1(x), tables)))
        return x + self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))


class DINOV3Encoder(Layer):
    def __init__(self, num_layers: int, make: Callable[[int], DINOV3Layer]) -> None:
        super().__init__()
        self.layers = Stack("layers_{}", (make(i) for i in range(num_layers)))

    def forward(self, x: torch.Tensor, tables: Tables) -> list[torch.Tensor]:
        """What each block gives."""
        seen = []
        for layer in self.layers:
            x = layer(x, tables)
            seen.append(x)
        return seen


class DINOV3Backbone(FeaturePyramidBackbone):
    """Vision Transformer with registers and rotary positions in the plane.

    `pixel_values` `[batch, height, width, channels]` → `[batch, 1 + registers + patches,
    hidden_dim]`; `pyramid_outputs` has the same of the embeddings (`stem`) and behind each block
    (`stage1`, …).

    Args:
        patch_size: side of a patch in pixels.
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        num_heads: number of attention heads, each of a multiple of four dimensions.
        intermediate_dim: width inside the feed-forward networks.
        layer_scale_init_value: what the layer scales begin with.
        num_register_tokens: learned tokens between class token and patches.
        use_mask_token: whether there is a mask token, which training by masked patches uses.
        hidden_activation: of the feed-forward networks.
        use_gated_mlp: whether these have a gate.
        use_query_bias: whether the projection of queries has a bias.
        use_key_bias: likewise of keys.
        use_value_bias: likewise of values.
        use_proj_bias: likewise of what attention gives.
        use_mlp_bias: whether the feed-forward networks have biases.
        attention_dropout: of what the heads give, in training mode.
        drop_path_rate: of whole residual branches in the last block, in training mode; before it
            evenly less, down to none in the first.
        layer_norm_eps: of all norms.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3. Images may be of any size from a patch on;
            what patches do not fill is left out.
        rope_theta: longest wavelength of the rotary positions.
        apply_layernorm: whether the final norm goes over all `pyramid_outputs`.
        data_format: `channels_last` or `channels_first`, of images; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads of a width that is no multiple of four; images smaller than a patch, or
            of other channels.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}

    def __init__(
        self,
        patch_size: int,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        layer_scale_init_value: float = 1.0,
        num_register_tokens: int = 4,
        use_mask_token: bool = True,
        hidden_activation: ActivationLike = "gelu",
        use_gated_mlp: bool = False,
        use_query_bias: bool = True,
        use_key_bias: bool = True,
        use_value_bias: bool = True,
        use_proj_bias: bool = True,
        use_mlp_bias: bool = True,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_norm_eps: float = 1e-5,
        image_shape: Sequence[int | None] = (518, 518, 3),
        rope_theta: float = 100.0,
        apply_layernorm: bool = False,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        check_at_least(1, patch_size=patch_size)
        check_at_least(0, num_register_tokens=num_register_tokens)
        self.rope_theta = rope_theta
        self.head_dim = head_dim(hidden_dim, num_heads)
        if hidden_dim % num_heads or self.head_dim % 4:
            raise ValueError(
                f"hidden_dim={hidden_dim} must be num_heads={num_heads} times a multiple of 4: "
                "positions turn pairs of dimensions, as many for rows as for columns."
            )
        # Keras's layers have a name that the model is given before theirs. Where it is the one that
        # presets have of a model without a name, so it is here.
        self.named = self.name != snake_case(DINOV3Backbone.__name__)
        self.embeddings = DINOV3Embedding(
            hidden_dim,
            patch_size,
            image_channels(image_shape, self.data_format),
            num_register_tokens,
            use_mask_token,
            self.data_format,
        )

        def make(i: int) -> DINOV3Layer:
            feed_forward = DINOV3GatedMLP if use_gated_mlp else DINOV3MLP
            return DINOV3Layer(
                hidden_dim,
                DINOV3Attention(
                    hidden_dim,
                    num_heads,
                    attention_dropout,
                    use_query_bias,
                    use_key_bias,
                    use_value_bias,
                    use_proj_bias,
                ),
                feed_forward(hidden_dim, intermediate_dim, hidden_activation, use_mlp_bias),
                layer_scale_init_value,
                drop_path_rate * i / max(num_layers - 1, 1),
                layer_norm_eps,
            )

        self.encoder = DINOV3Encoder(num_layers, make)
        self.layernorm = LayerNormalization(hidden_dim, layer_norm_eps)
        names = ("stem", *(f"stage{i + 1}" for i in range(num_layers)))
        self.levels = [Level(name, hidden_dim, patch_size) for name in names]

    @property
    def layout(self) -> Layout:
        return Layout(Kind.GRAPH, prefix="{}_" if self.named else "")

    def tables(self, height: int, width: int, x: torch.Tensor) -> Tables:
        """Positions are centres of patches in ±1, and a unit is once around at the most."""
        rows, columns = (
            (torch.arange(n, device=x.device) + 0.5) / n * 2 - 1 for n in (height, width)
        )
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        frequencies = rotary_frequencies(self.head_dim // 2, self.rope_theta, x.device)
        return plane_tables(2 * math.pi * places, frequencies, x.dtype)

    def forward_pyramid(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        x, height, width = self.embeddings(pixel_values)
        seen = [x, *self.encoder(x, self.tables(height, width, x))]
        if self.apply_layernorm:
            seen = [self.layernorm(x) for x in seen]
        return {level.name: x for level, x in zip(self.levels, seen)}

    def forward(self, pixel_values: Images) -> torch.Tensor:
        x, height, width = self.embeddings(pixel_values)
        tables = self.tables(height, width, x)
        for layer in self.encoder.layers:
            x = layer(x, tables)
        return self.layernorm(x)
