"""Gemma 4's vision tower."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from .._inputs import Input
from .._model import Component
from ..layers.activations import gelu_approximate
from ..layers.attention import ATTENTION, attend, merge_heads, split_heads
from ..layers.core import Dense, Dropout, RMSNormalization
from ..layers.division import Whole
from ..layers.dtypes import DTypeLike
from ..layers.gemma import rms_normed
from ..layers.layer import Layer
from ..layers.layout import Layout, Stack
from ..layers.rotary import Tables, rotary_frequencies, rotary_tables, rotate
from .clipped import Gemma4ClippableEinsumDense

PixelValues = Annotated[torch.Tensor, Input("images", ("batch", "images", "patches", "pixels"))]
PixelPositions = Annotated[torch.Tensor, Input("ids", ("batch", "images", "patches", "axes"))]


class Gemma4VisionPatchEmbedder(Layer):
    def __init__(self, patch_size: int, hidden_dim: int, num_positions: int) -> None:
        super().__init__()
        self.input_proj = Dense(3 * patch_size**2, hidden_dim, use_bias=False)
        self.position_embedding_table = nn.Parameter(torch.ones(2, num_positions, hidden_dim))

    def forward(
        self, pixels: torch.Tensor, positions: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """`pixels` `[images, patches, 3 · patch_size²]` in 0 to 1 → `[images, patches, dim]`."""
        column, row = positions.clamp(min=0).long().unbind(-1)
        of_column, of_row = self.position_embedding_table.unbind(0)
        return self.input_proj(2 * (pixels - 0.5)) + (of_column[column] + of_row[row]) * real


class Gemma4VisionAttention(Layer):
    """Attention of all real patches; half of a head's dimensions turn with the column, half with
    the row.
    """

    layout = ATTENTION

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        dropout: float,
        epsilon: float,
        clipped: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.dropout = dropout
        self.epsilon = epsilon
        heads, key_value = (num_heads, head_dim), (num_key_value_heads, head_dim)
        self.query = Gemma4ClippableEinsumDense("bsd,qdh->bsqh", hidden_dim, heads, clipped)
        self.key = Gemma4ClippableEinsumDense("bsd,kdh->bskh", hidden_dim, key_value, clipped)
        self.value = Gemma4ClippableEinsumDense("bsd,kdh->bskh", hidden_dim, key_value, clipped)
        self.query_norm = RMSNormalization(head_dim, epsilon)
        self.key_norm = RMSNormalization(head_dim, epsilon)
        self.attention_output = Gemma4ClippableEinsumDense(
            "btnh,nhd->btd", heads, hidden_dim, clipped
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor, tables: Tables) -> torch.Tensor:
        q = self.query_norm(split_heads(self.query(x), self.num_heads))
        k = self.key_norm(split_heads(self.key(x), self.num_key_value_heads))
        v = rms_normed(split_heads(self.value(x), self.num_key_value_heads), self.epsilon)
        q, k = (rotate(one.unflatten(-1, (2, -1)), tables).flatten(-2) for one in (q, k))
        dropout = self.dropout if self.training else 0.0
        return self.attention_output(merge_heads(attend(q, k, v, mask, 1.0, dropout)))


class Gemma4VisionDecoderBlock(Layer):
    layout = Layout(attributes={"ffw_gating": "gating_ffw", "ffw_gating_2": "gating_ffw_2"})
    division = Whole()

    def __init__(
        self,
        attention: Gemma4VisionAttention,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float,
        epsilon: float,
        clipped: bool,
    ) -> None:
        super().__init__()

        def project(equation: str, inputs: int, outputs: int) -> Gemma4ClippableEinsumDense:
            return Gemma4ClippableEinsumDense(equation, inputs, outputs, clipped)

        self.pre_attention_norm = RMSNormalization(hidden_dim, epsilon)
        self.post_attention_norm = RMSNormalization(hidden_dim, epsilon)
        self.attention = attention
        self.attention_dropout = Dropout(dropout)
        self.feedforward_dropout = Dropout(dropout)
        self.pre_ffw_norm = RMSNormalization(hidden_dim, epsilon)
        self.post_ffw_norm = RMSNormalization(hidden_dim, epsilon)
        self.ffw_gating = project("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_gating_2 = project("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_linear = project("btf,fd->btd", intermediate_dim, hidden_dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, tables: Tables) -> torch.Tensor:
        y = self.attention(self.pre_attention_norm(x), mask, tables)
        x = x + self.attention_dropout(self.post_attention_norm(y))
        y = self.pre_ffw_norm(x)
        y = self.ffw_linear(gelu_approximate(self.ffw_gating(y)) * self.ffw_gating_2(y))
        return x + self.feedforward_dropout(self.post_ffw_norm(y))


class Gemma4VisionEncoderBlock(Layer):
    def __init__(
        self, embedder: Gemma4VisionPatchEmbedder, blocks: list[Gemma4VisionDecoderBlock]
    ) -> None:
        super().__init__()
        self.patch_embedder = embedder
        self.encoder_blocks = Stack("encoder_block_{}", blocks)

    def forward(
        self, pixels: torch.Tensor, positions: torch.Tensor, real: torch.Tensor, tables: Tables
    ) -> torch.Tensor:
        x = self.patch_embedder(pixels, positions, real)
        mask = (real > 0).squeeze(-1)[:, None, None]
        for block in self.encoder_blocks:
            x = block(x, mask, tables) * real
        return x


class Gemma4VisionOutput(Layer):
    """Into the text's width; perhaps with stored statistics taken out before."""

    std_bias: torch.Tensor
    std_scale: torch.Tensor

    def __init__(self, hidden_dim: int, output_dim: int, epsilon: float, standardize: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.standardize = standardize
        if standardize:
            self.register_buffer("std_bias", torch.zeros(hidden_dim))
            self.register_buffer("std_scale", torch.ones(hidden_dim))
        self.vision_input_projection = Dense(hidden_dim, output_dim, use_bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.standardize:
            x = (x - self.std_bias) * self.std_scale
        return self.vision_input_projection(rms_normed(x, self.epsilon))


class Gemma4VisionEncoder(Component):
    """Images of any shape, cut into patches → tokens, one for each square of `pool_size²` patches.

    Patches stand in any order, `pixel_position_ids` tells the column and the row of each, -1 and
    -1 for padding. In Gemma 4 the grid of the tokens is as wide as the widest image of the batch,
    as in KerasHub 0.32; in later families, and in transformers, as wide as the image itself. It
    always computes in float32.

    `pixel_values` `[batch, images, patches, 3 · patch_size²]`, numbers from 0 to 1, and
    `pixel_position_ids` `[batch, images, patches, 2]` →
    `[batch, images, patches / pool_size², output_dim]`.

    Args:
        image_size: side of the images in pixels. It has no effect but on
            `num_vision_tokens_per_image`.
        patch_size: side of a patch in pixels.
        num_heads: number of heads of the queries; times `head_dim` they are `hidden_dim`.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        intermediate_dim: width inside the feed-forward networks.
        head_dim: dimensions of a head, a multiple of 4.
        output_dim: width of the tokens: the text model's `hidden_dim`.
        num_key_value_heads: number of heads of the keys and values; `None` for `num_heads`.
        pool_size: side, in patches, of the square that becomes a token.
        position_embedding_size: columns and rows that patches may have.
        rope_max_wavelength: base of the rotary frequencies.
        layer_norm_epsilon: of the norms.
        dropout: rate on the attention weights, and on the output of attention and of the
            feed-forward networks.
        use_clipped_linears: whether what goes into projections and comes out of them has bounds.
        standardize: whether stored statistics are taken out of the pooled patches.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `num_heads` of `head_dim` are not `hidden_dim`, or a head that does not divide
            into four; patches or positions of other sizes.
    """

    keras_module = "keras_hub.src.models.gemma4.gemma4_vision_encoder"
    fixed_dtype = "float32"
    # Whether the images of a batch have grids of different widths.
    own_width = False

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        intermediate_dim: int,
        head_dim: int,
        output_dim: int,
        num_key_value_heads: int | None = None,
        pool_size: int = 3,
        position_embedding_size: int = 1024,
        rope_max_wavelength: float = 100.0,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        use_clipped_linears: bool = True,
        standardize: bool = False,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if num_heads * head_dim != hidden_dim or head_dim % 4:
            raise ValueError(
                f"num_heads={num_heads} of head_dim={head_dim}, a multiple of 4, must be "
                f"hidden_dim={hidden_dim}."
            )
        self.num_key_value_heads = num_key_value_heads = num_key_value_heads or num_heads
        self.patch_size = patch_size
        self.pool_size = pool_size
        self.position_embedding_size = position_embedding_size
        self.head_dim = head_dim
        self.rope_max_wavelength = rope_max_wavelength
        self.num_vision_tokens_per_image = (image_size // patch_size // pool_size) ** 2

        def block() -> Gemma4VisionDecoderBlock:
            attention = Gemma4VisionAttention(
                hidden_dim,
                num_heads,
                num_key_value_heads,
                head_dim,
                dropout,
                layer_norm_epsilon,
                use_clipped_linears,
            )
            return Gemma4VisionDecoderBlock(
                attention,
                hidden_dim,
                intermediate_dim,
                dropout,
                layer_norm_epsilon,
                use_clipped_linears,
            )

        self.image_encoder = Gemma4VisionEncoderBlock(
            Gemma4VisionPatchEmbedder(patch_size, hidden_dim, position_embedding_size),
            [block() for _ in range(num_layers)],
        )
        self.vision_output_encoder = Gemma4VisionOutput(
            hidden_dim, output_dim, layer_norm_epsilon, standardize
        )

    def get_config(self) -> dict[str, Any]:
        return self.arguments

    def forward(
        self, pixel_values: PixelValues, pixel_position_ids: PixelPositions
    ) -> torch.Tensor:
        self.check(pixel_values, pixel_position_ids)
        positions = pixel_position_ids.flatten(0, 1)
        real = (positions != -1).any(-1, keepdim=True).to(self.dtype)
        frequencies = rotary_frequencies(
            self.head_dim // 2, self.rope_max_wavelength, positions.device
        )
        tables = rotary_tables(positions, frequencies, self.dtype)
        x = self.image_encoder(pixel_values.flatten(0, 1), positions, real, tables)
        tokens = self.vision_output_encoder(self.pool(x, positions))
        return tokens.unflatten(0, pixel_values.shape[:2])

    def check(self, pixel_values: torch.Tensor, pixel_position_ids: torch.Tensor) -> None:
        """Raises ValueError: patches or positions that the tower does not take."""
        pixels = 3 * self.patch_size**2
        if pixel_values.shape[-1] != pixels or pixel_position_ids.shape[-1] != 2:
            raise ValueError(
                f"pixel_values must have {pixels} numbers a patch and pixel_position_ids 2, not "
                f"{pixel_values.shape[-1]} and {pixel_position_ids.shape[-1]}."
            )
        if torch.compiler.is_compiling() or pixel_position_ids.is_meta:
            return
        most = self.position_embedding_size
        if bool(((pixel_position_ids < -1) | (pixel_position_ids >= most)).any()):
            raise ValueError(f"pixel_position_ids must be from 0 to {most - 1}, or -1 for padding.")

    def count_tokens(self, patches: int) -> int:
        """Of an image of so many patches."""
        return patches // self.pool_size**2

    def pool(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The means of squares of patches, times √dim: `[images, tokens, dim]`."""
        column, row = positions.clamp(min=0).unbind(-1)
        widest = column.amax(-1, keepdim=True)
        if not self.own_width:
            widest = F.pad(widest, (0, 0, 0, 1)).max()  # of no images, too
        width = (widest + 1) // self.pool_size
        token = column // self.pool_size + width * (row // self.pool_size)
        every = torch.arange(self.count_tokens(x.shape[1]), device=x.device)
        weights = (token[:, None] == every[:, None]).to(x.dtype) / self.pool_size**2
        return weights @ x * x.shape[-1] ** 0.5
