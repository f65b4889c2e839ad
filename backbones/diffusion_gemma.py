"""DiffusionGemma: Gemma 4 that denoises blocks of tokens."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar

import torch

from ._block_diffusion import BlockDiffusion
from ._inputs import PaddingMask, TokenIds
from .gemma4.decoder import Gemma4Towers, PositionIds, Rotary, VisionIndices, placed
from .gemma4.text import (
    Gemma4MixtureBlock,
    Gemma4MoEBlock,
    Gemma4Router,
    Gemma4TextAttention,
    Gemma4TextDecoderBlock,
    OneProjectionAttention,
)
from .gemma4.vision import Gemma4VisionEncoder, PixelPositions, PixelValues
from .layers.activations import gelu_approximate
from .layers.cache import Cache, KeyValueShape, Step
from .layers.core import Dense, ReversibleEmbedding, RMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import rms_normed, scale_embeddings
from .layers.initializers import variance_scaling
from .layers.layer import Layer
from .layers.layout import Graph, Kind, Layout, Stack, flattened
from .layers.masks import FULL, SLIDING, Mask, check_layer_types
from .layers.multimodal import marked, same_image

# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "token_embedding",
    "vision_encoder",
    "transformer_layers",
    "final_normalization",
    "diffusion_self_conditioning",
)
BLOCK = replace(Gemma4TextDecoderBlock.layout, class_name="DiffusionGemmaTransformerLayer")


class DiffusionGemmaTransformerLayer(Gemma4TextDecoderBlock):
    """The block with a second scalar, in the place of `layer_scalar` where it encodes a prompt."""

    encoder_layer_scalar: torch.Tensor
    layout = BLOCK

    def __init__(
        self,
        attention: Gemma4TextAttention,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__(attention, hidden_dim, intermediate_dim, 0, dropout, epsilon)
        self.register_buffer("encoder_layer_scalar", torch.ones(()))


class DiffusionGemmaMixtureLayer(Gemma4MixtureBlock):
    """Likewise, with a mixture of experts."""

    encoder_layer_scalar: torch.Tensor
    layout = BLOCK

    def __init__(
        self,
        attention: Gemma4TextAttention,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float,
        epsilon: float,
        router: Gemma4Router,
        experts: Gemma4MoEBlock,
    ) -> None:
        super().__init__(
            attention, hidden_dim, intermediate_dim, 0, dropout, epsilon, router, experts
        )
        self.register_buffer("encoder_layer_scalar", torch.ones(()))


class DiffusionGemmaSelfConditioning(Layer):
    """What a step of denoising makes of the one before; no part of the backbone's pass."""

    def __init__(self, hidden_dim: int, intermediate_dim: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.pre_norm = RMSNormalization(hidden_dim, epsilon)
        self.gate_proj = Dense(hidden_dim, intermediate_dim, use_bias=False)
        self.up_proj = Dense(hidden_dim, intermediate_dim, use_bias=False)
        self.down_proj = Dense(intermediate_dim, hidden_dim, use_bias=False)

    def forward(self, x: torch.Tensor, expected: torch.Tensor | None) -> torch.Tensor:
        """Embeddings of a block, `[batch, length, dim]`, and what they were expected to be."""
        if expected is not None:
            y = self.pre_norm(expected)
            x = x + self.down_proj(gelu_approximate(self.gate_proj(y)) * self.up_proj(y))
        return rms_normed(x, self.epsilon)


class DiffusionGemmaBackbone(Gemma4Towers, BlockDiffusion):
    """Decoder in which, with sliding windows, every sixth layer sees all that was before.

    This is KerasHub's backbone as it is called: one causal pass over all tokens. The weights that
    denoising adds (`diffusion_self_conditioning` and each block's `encoder_layer_scalar`) have no
    effect on it. Text is found by `encode`, of a prompt or of blocks that are done, and by
    `denoise_step`s of the next block, as `generate` calls them.

    With a `vision_encoder` the tokens of images take the places `vision_indices` (padded with 0),
    in a row without those of padding.

    `token_ids`, `padding_mask` and `position_ids` (by default those from 0 on) `[batch, length]`;
    `pixel_values` `[batch, images, patches, pixels]`, `pixel_position_ids`
    `[batch, images, patches, 2]` and `vision_indices` `[batch, images · tokens]` →
    `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        image_size: side of the images in pixels, `None` without them. It has no effect: the
            tower takes images of any size.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        head_dim: dimensions of a head.
        query_head_dim_normalize: has no effect, as in KerasHub: queries are normed.
        attention_logit_soft_cap: bound on the attention scores, by tanh; `None` for none.
        final_logit_soft_cap: bound on the logits of `token_embedding(x, reverse=True)`, by tanh;
            `None` for none.
        use_sliding_window_attention: whether local layers have a window.
        sliding_window_size: keys that a query sees there, itself included.
        sliding_window_pattern: each so many-th layer is global, the others are local.
        layer_types: `sliding_attention` or `full_attention` for each layer instead.
        global_head_dim: dimensions of a head of the global layers; `None` for `head_dim`.
        local_rope_scaling_factor: divides the positions in local layers.
        global_rope_scaling_factor: divides the positions in global ones.
        vision_encoder: the tower of images; `None` for a model that has no inputs for them.
        layer_norm_epsilon: of the norms.
        use_bidirectional_attention: whether a query sees what comes after it, too; then there are
            no windows.
        use_vision_bidirectional_attention: whether `encode` lets the tokens of an image see each
            other both ways; without effect on the backbone's pass.
        dropout: rate on the attention weights, and on the output of attention and of the
            feed-forward networks.
        num_global_key_value_heads: number of heads of the keys and values of global layers, which
            then have one projection for both; `None` for two, of `num_key_value_heads`.
        global_rope_wavelength: base of the rotary frequencies in global layers; `None` for 1e6.
        local_rope_wavelength: base of the rotary frequencies in local layers; `None` for 1e4.
        global_rope_partial_rotary_factor: share of a head's dimensions that is rotated in global
            layers; the frequencies are those of the whole head.
        enable_moe_block: whether there is a mixture of experts beside each feed-forward network.
        num_experts: experts of a block; `None` without them.
        expert_intermediate_dim: width inside an expert; `None` without them.
        num_experts_per_token: experts of each token; their probabilities are made to sum to one.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: a mixture without `num_experts` and `expert_intermediate_dim`; unknown or too
            few `layer_types`; images without their other inputs, or that do not fit the places for
            them.
    """

    tower_inputs: ClassVar = {
        "vision_encoder": ("pixel_values", "pixel_position_ids", "vision_indices"),
    }

    def __init__(
        self,
        vocabulary_size: int,
        image_size: int | None,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        query_head_dim_normalize: bool = True,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = True,
        sliding_window_size: int = 512,
        sliding_window_pattern: int = 6,
        layer_types: list[str] | None = None,
        global_head_dim: int | None = None,
        local_rope_scaling_factor: float = 1.0,
        global_rope_scaling_factor: float = 1.0,
        vision_encoder: Gemma4VisionEncoder | None = None,
        layer_norm_epsilon: float = 1e-6,
        use_bidirectional_attention: bool = False,
        use_vision_bidirectional_attention: bool = False,
        dropout: float = 0,
        num_global_key_value_heads: int | None = None,
        global_rope_wavelength: float | None = None,
        local_rope_wavelength: float | None = None,
        global_rope_partial_rotary_factor: float = 1.0,
        enable_moe_block: bool = False,
        num_experts: int | None = None,
        expert_intermediate_dim: int | None = None,
        num_experts_per_token: int = 8,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if layer_types is None:
            period = sliding_window_pattern
            layer_types = [SLIDING if (i + 1) % period else FULL for i in range(num_layers)]
            self.layer_types = layer_types
        self.is_global = [kind == FULL for kind in check_layer_types(layer_types, num_layers)]
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.soft_capped = attention_logit_soft_cap is not None
        self.both_ways = use_bidirectional_attention
        self.images_both_ways = use_vision_bidirectional_attention
        local_dim, global_dim = head_dim, global_head_dim or head_dim
        self.rotary = (
            Rotary(local_dim, local_rope_wavelength or 1e4, local_rope_scaling_factor),
            Rotary(
                global_dim,
                global_rope_wavelength or 1e6,
                global_rope_scaling_factor,
                global_rope_partial_rotary_factor,
            ),
        )

        self.block_shapes = [
            KeyValueShape(num_global_key_value_heads or num_key_value_heads, global_dim)
            if kind
            else KeyValueShape(num_key_value_heads, local_dim)
            for kind in self.is_global
        ]

        def attention(kind: bool) -> Gemma4TextAttention:
            alone = kind and num_global_key_value_heads is not None
            attention_class = OneProjectionAttention if alone else Gemma4TextAttention
            heads = num_global_key_value_heads if kind else None
            return attention_class(
                hidden_dim,
                num_query_heads,
                heads or num_key_value_heads,
                global_dim if kind else local_dim,
                attention_logit_soft_cap,
                dropout,
                layer_norm_epsilon,
            )

        def block(kind: bool) -> Gemma4TextDecoderBlock:
            parts = (attention(kind), hidden_dim, intermediate_dim, dropout, layer_norm_epsilon)
            if not enable_moe_block:
                return DiffusionGemmaTransformerLayer(*parts)
            if num_experts is None or expert_intermediate_dim is None:
                raise ValueError("A mixture needs num_experts and expert_intermediate_dim.")
            return DiffusionGemmaMixtureLayer(
                *parts,
                Gemma4Router(hidden_dim, num_experts, num_experts_per_token, layer_norm_epsilon),
                Gemma4MoEBlock(num_experts, hidden_dim, expert_intermediate_dim),
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=variance_scaling(1.0, "fan_in", "untruncated_normal"),
            logit_soft_cap=final_logit_soft_cap,
        )
        self.vision_encoder = vision_encoder
        self.check_towers(hidden_dim)
        if vision_encoder is not None:
            vision_encoder.own_width = True
        self.transformer_layers = Stack("decoder_block_{}", map(block, self.is_global))
        self.final_normalization = RMSNormalization(hidden_dim, layer_norm_epsilon)
        self.diffusion_self_conditioning = DiffusionGemmaSelfConditioning(
            hidden_dim, intermediate_dim, layer_norm_epsilon
        )

    def default_lora_layer_names(self) -> list[str]:
        names = super().default_lora_layer_names()
        return names if self.vision_encoder is None else [*names, "query_proj", "value_proj"]

    @property
    def layout(self) -> Layout:
        call, numbers = Graph(), itertools.count()

        def op(*inputs: tuple[str, int]) -> tuple[str, int]:
            return call(f"op_{next(numbers)}", *inputs)

        x = call("token_embedding", call("token_ids"))
        if self.vision_encoder is not None:
            pixels = call("pixel_position_ids"), call("pixel_values")
            tokens = op(call(self.vision_encoder.name, *pixels))
            x = op(tokens, pixels[0], x, call("vision_indices"))
        x = op(x)
        padding, positions = call("padding_mask"), call("position_ids")
        for name in self.transformer_layers.names():
            x = call(name, x, padding, positions)
        nothing = op(op(x))
        normed = call("pre_norm", nothing)
        gated = op(op(call("gate_proj", normed)), call("up_proj", normed))
        x = op(x, op(op(op(x)), op(nothing, call("down_proj", gated))))
        return Layout(
            Kind.GRAPH,
            order=call.order(call("final_normalization", x)),
            assigned=ASSIGNED,
            inside={"diffusion_self_conditioning": flattened},
        )

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        position_ids: PositionIds | None = None,
        pixel_values: PixelValues | None = None,
        pixel_position_ids: PixelPositions | None = None,
        vision_indices: VisionIndices | None = None,
    ) -> torch.Tensor:
        x, _ = self._embed(token_ids, pixel_values, pixel_position_ids, vision_indices)
        step = Step(x, padding_mask, None, 0)
        masks = self._mask(step, self.window), self._mask(step)
        positions = step.positions if position_ids is None else position_ids
        tables = [rotary.tables(positions, x.dtype) for rotary in self.rotary]
        for layer, kind in zip(self.transformer_layers, self.is_global):
            x, _ = layer(x, masks[kind], tables[kind], None, None, None)
        return self.final_normalization(x)

    def encode(
        self,
        token_ids: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_position_ids: torch.Tensor | None = None,
        vision_indices: torch.Tensor | None = None,
        *,
        cache: Cache,
        cache_update_index: int | torch.Tensor = 0,
    ) -> torch.Tensor:
        x, places = self._embed(token_ids, pixel_values, pixel_position_ids, vision_indices)
        step = Step(x, padding_mask, cache, cache_update_index)
        masks: tuple[Mask, Mask] = self._mask(step, self.window), self._mask(step)
        if places is not None and self.images_both_ways:
            together = same_image(marked(token_ids, places).bool())[:, None]
            if padding_mask is not None:
                together = together & padding_mask.bool()[:, None, None]
            masks = step.full_mask(self.window) | together, step.full_mask() | together
        tables = [rotary.tables(step.positions, x.dtype) for rotary in self.rotary]
        for i, (layer, kind) in enumerate(zip(self.transformer_layers, self.is_global)):
            scalar = layer.encoder_layer_scalar
            x, _ = layer(x, masks[kind], tables[kind], step.past(i), None, None, scalar)
        return self.final_normalization(x)

    def denoise_step(
        self,
        canvas: torch.Tensor,
        cache: Cache,
        cache_update_index: torch.Tensor,
        previous_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        expected = None
        if previous_logits is not None:
            weight = self.token_embedding.weight
            expected = previous_logits.float().softmax(-1).to(weight.dtype) @ weight
            expected = scale_embeddings(expected)
        x = scale_embeddings(self.token_embedding(canvas))
        x = self.diffusion_self_conditioning(x, expected)
        step = Step(x, None, cache, cache_update_index)
        first, last = step.positions[:, :1], step.positions[:, -1:]
        seen = (step.key_positions <= last) & cache.visible
        near = seen
        if self.window is not None and not self.both_ways:
            near = seen & (step.key_positions > first - self.window)
        masks = near[:, None, None], seen[:, None, None]
        tables = [rotary.tables(step.positions, x.dtype) for rotary in self.rotary]
        for i, (layer, kind) in enumerate(zip(self.transformer_layers, self.is_global)):
            x, _ = layer(x, masks[kind], tables[kind], step.past(i), None, None)
        logits: torch.Tensor = self.token_embedding(self.final_normalization(x), reverse=True)
        return logits

    def _embed(
        self,
        token_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        pixel_position_ids: torch.Tensor | None,
        vision_indices: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings of tokens and images, and the places of these."""
        images = self.given_images(token_ids, pixel_values, pixel_position_ids, vision_indices)
        x = self.token_embedding(token_ids)
        places = None
        if images is not None and self.vision_encoder is not None:
            pixels, places_of_patches, places = images
            tokens = self.vision_encoder(pixels, places_of_patches)
            tokens = real_first(tokens, places_of_patches, self.vision_encoder.pool_size**2)
            x = placed(x, tokens, places)
        return scale_embeddings(x), places

    def _mask(self, step: Step, window: int | None = None) -> Mask:
        if not self.both_ways:
            return step.full_mask(window) if self.soft_capped else step.mask(window)
        padding = step.padding_mask
        if padding is None:
            shape = (1, 1, step.length, step.length)
            return torch.ones(shape, dtype=torch.bool, device=step.device)
        return (padding[:, None, :] & padding[:, :, None])[:, None]


def real_first(tokens: torch.Tensor, positions: torch.Tensor, patches: int) -> torch.Tensor:
    """Tokens `[batch, images, tokens, dim]` with those of all images before those of padding.

    Args:
        positions: of the patches, `[batch, images, patches, 2]`, -1 and -1 for padding.
        patches: of a token.
    """
    many = tokens.shape[2]
    real = (positions != -1).any(-1).sum(-1, keepdim=True) // patches
    hidden = (torch.arange(many, device=tokens.device) >= real).flatten(1)
    order = hidden.to(torch.uint8).argsort(dim=1, stable=True)[..., None]
    flat = tokens.flatten(1, 2)
    return flat.gather(1, order.expand_as(flat)).unflatten(1, (-1, many))
